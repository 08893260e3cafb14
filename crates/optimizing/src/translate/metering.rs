//! Fuel: counting operators, and asking the engine when the counter is above zero.
//!
//! One unit for each operator but those that only structure the code, and one for each byte or element of a bulk operation, which the engine adds
//! unless it is done in place. What a stretch of straight code costs is added at its end, so the
//! count is exact at every call and branch. Looking for interruptions is not here: that is inserted after the passes.
//!
//! The counter is in a register that nothing else uses, in all compiled code of a store that counts fuel: veneers bring it there and back.
//! Where there is no such register, it stays in the store's context.

use super::flags::Region;
use super::translator::Translator;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::vmctx::{VmContextHeader, VmStoreContext};
use peregrine_wasm::DefinedFuncIndex;
use std::mem::offset_of;
use wasmparser::{BinaryReaderError, Operator};

/// What has been counted and not been added yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metering {
    on: bool,
    in_register: bool,
    pending: i64,
}

impl Metering {
    /// Nothing is counted yet, and nothing ever if not `on`.
    pub(crate) fn new(on: bool, in_register: bool) -> Self {
        Self { on, in_register, pending: 0 }
    }
}

/// The units of fuel for one operator.
fn cost(op: &Operator<'_>) -> i64 {
    match op {
        Operator::Nop
        | Operator::Drop
        | Operator::Block { .. }
        | Operator::Loop { .. }
        | Operator::Else
        | Operator::End
        | Operator::Unreachable
        | Operator::Return => 0,
        _ => 1,
    }
}

impl Translator<'_, '_> {
    /// Counts `op`, which comes next.
    pub(super) fn meter(&mut self, op: &Operator<'_>) {
        if self.metering.on {
            self.metering.pending += cost(op);
        }
    }

    /// Adds what was counted to the counter: the straight code ends here.
    pub(super) fn meter_flush(&mut self) {
        if self.metering.pending == 0 {
            return;
        }
        let pending = std::mem::take(&mut self.metering.pending);
        self.change_fuel(|this, fuel| this.builder.ins().iadd_imm_s(fuel, pending));
    }

    /// Adds a unit for each byte of an operation that is done in place, which has so many: once it is certain that it does not trap.
    pub(super) fn meter_bytes(&mut self, len: u64) {
        if self.metering.on && len != 0 {
            self.change_fuel(|this, fuel| this.builder.ins().iadd_imm_s(fuel, len as i64));
        }
    }

    /// [`meter_bytes`](Self::meter_bytes) of an operation whose length, of 64 bits, is known at run time.
    pub(super) fn meter_bytes_of(&mut self, len: Value) {
        if self.metering.on {
            self.change_fuel(|this, fuel| this.builder.ins().iadd(fuel, len));
        }
    }

    /// Makes the counter what `change` makes of it.
    fn change_fuel(&mut self, change: impl FnOnce(&mut Self, Value) -> Value) {
        if self.metering.in_register {
            let fuel = self.builder.ins().get_pinned_reg(I64);
            let fuel = change(self, fuel);
            self.builder.ins().set_pinned_reg(fuel);
        } else {
            let store = self.load_context_pointer(offset_of!(VmContextHeader, store));
            let fuel = self.load_fuel(store);
            let fuel = change(self, fuel);
            let flags = Region::Fuel.trusted(self.builder.func);
            self.builder.ins().store(flags, fuel, store, offset_of!(VmStoreContext, fuel_consumed) as i32);
        }
    }

    /// At the entry of the function: asks the engine if the counter is above zero, where that is looked at.
    ///
    /// # Errors
    ///
    /// If the body is malformed.
    pub(super) fn meter_entry(&mut self, index: DefinedFuncIndex) -> Result<(), BinaryReaderError> {
        if self.metering.on && self.env.translation.looks_at_fuel_at_entry(index)? {
            self.meter_check();
        }
        Ok(())
    }

    /// At the header of a loop, and at the entry: asks the engine if the counter is above zero.
    pub(super) fn meter_check(&mut self) {
        if !self.metering.on {
            return;
        }
        let fuel = if self.metering.in_register {
            self.builder.ins().get_pinned_reg(I64)
        } else {
            let store = self.load_context_pointer(offset_of!(VmContextHeader, store));
            self.load_fuel(store)
        };
        let zero = self.builder.ins().iconst(I64, 0);
        let above = self.builder.ins().icmp(IntCC::SignedGreaterThan, fuel, zero);
        let out = self.builder.create_block();
        let on = self.builder.create_block();
        self.builder.set_cold_block(out);
        self.flush();
        self.builder.ins().brif(above, out, &[], on, &[]);
        self.begin_sealed(out);
        self.call_builtin(Builtin::out_of_fuel, &[]);
        self.builder.ins().jump(on, &[]);
        self.begin_sealed(on);
    }

    fn load_fuel(&mut self, store: Value) -> Value {
        let flags = Region::Fuel.trusted(self.builder.func);
        self.builder.ins().load(I64, flags, store, offset_of!(VmStoreContext, fuel_consumed) as i32)
    }
}
