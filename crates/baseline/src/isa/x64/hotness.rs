//! Counting budgets down, and what is done when one is used up: see [`crate::hotness`].

use super::abi::{Location, Locations};
use super::assembler::{Alu, Cc, Mem};
use super::calls::has_result_area;
use super::registers::{RAX, RCX, RDI, RDX, RSI, RSP};
use crate::compile::Compiler;
use crate::frame::{FIXED_BYTES, RESULT_AREA};
use crate::masm::Label;
use crate::values::{Ty, Value};
use peregrine_artifact::builtins::{Builtin, pack_homes, pack_indices};
use peregrine_artifact::tables::addresses::LOOP_ENTRY_CALL;
use peregrine_artifact::vmctx::VmContextHeader;
use std::mem::offset_of;

impl Compiler<'_> {
    /// Takes something off the budget, and goes to `label` if nothing is left, which comes back to `back`. Gives where the cost has to be
    /// written. Changes flags.
    pub(crate) fn count_down(&mut self, label: Label, back: Label) -> u32 {
        let cost_place = self.masm.sub_budget(self.function);
        self.masm.jcc(Cc::S, label);
        self.masm.bind(back);
        cost_place
    }

    /// Tells the engine that the function is hot. Nothing is in registers but locals, the context and the base of memory 0.
    pub(crate) fn cold_hot_function(&mut self) {
        self.offset = 0;
        self.joined();
        self.save_volatile();
        self.emit_builtin_call(Builtin::hot_function, &[(Ty::I32, Value::Const(self.function.as_u32().into()))]);
        self.destroyed_by_call();
        self.settle();
    }

    /// At the head of a loop: what is different for each, then what is the same for all, [`enter_loop`](Self::enter_loop).
    pub(crate) fn cold_hot_loop(&mut self, offset: u32) {
        let Some(common) = self.loop_entry else { unreachable!("there is a loop") };
        self.masm.mov_imm(RSI, pack_indices(self.function.as_u32(), offset));
        self.masm.call_label(common);
    }

    /// Called at the head of a loop, with the function and the loop in `rsi`: brings locals to their homes and asks the engine for a loop
    /// entry. If there is none, returns with all locals in their registers. Otherwise calls it and returns from the function.
    pub(crate) fn enter_loop(&mut self) {
        let homes = Self::slot(-(FIXED_BYTES as i32));
        self.joined();
        // The return address takes 8 bytes.
        self.masm.alu_imm(Alu::Sub, true, RSP, 8);
        for reg in self.volatile.or(self.saved) {
            self.save_local(reg);
        }
        self.masm.lea(true, RDX, homes);
        self.masm.mov_imm(RCX, pack_homes(self.local_homes as u32, self.home_log2).into());
        let context = self.context_value();
        self.load_value(Ty::I64, RDI, context);
        self.masm.mov(true, RAX, Mem::new(RDI, offset_of!(VmContextHeader, builtins) as i32));
        self.masm.address_here(0);
        self.masm.call_rm(Mem::new(RAX, Builtin::hot_loop.offset_bytes()));
        self.masm.test(true, RAX, RAX);
        let enter = self.masm.label();
        self.masm.jcc(Cc::Ne, enter);
        self.destroyed_by_call();
        self.settle();
        self.masm.alu_imm(Alu::Add, true, RSP, 8);
        self.masm.ret(0);

        self.masm.bind(enter);
        self.destroyed_by_call();
        let (mut locations, area, context) = Locations::arguments(has_result_area(&self.module.types[self.ty]));
        let Location::Reg(pointer) = locations.next(Ty::I64) else { unreachable!("the first arguments have registers") };
        // The results are those of this function.
        if let Some(area) = area {
            self.load_slot(Ty::I64, area, RESULT_AREA);
        }
        let value = self.context_value();
        self.load_value(Ty::I64, context, value);
        self.masm.lea(true, pointer, homes);
        // The return address and what is below it stay: the epilogue does not need the stack pointer.
        self.masm.address_here(LOOP_ENTRY_CALL);
        self.masm.call_rm(RAX);
        self.epilogue();
    }
}
