//! `global.get` and `global.set`.

use super::flags::Region;
use super::translator::Translator;
use crate::abi;
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Value, types::I8X16};
use peregrine_wasm::{ConstExpr, ConstOp, GlobalIndex, ValType};
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Where a global is: pointer, offset and flags of accesses to it.
    fn global_place(&mut self, index: GlobalIndex) -> (Value, i32, MemFlagsData) {
        let ty = self.module.globals[index].ty;
        let (pointer, offset, region) = match self.module.defined_global_index(index) {
            Some(defined) => (self.vmctx, self.layout.global(defined) as i32, Region::Global(defined.as_u32())),
            None => (self.load_context_pointer(self.layout.global_import(index) as usize), 0, Region::ImportedGlobals),
        };
        let flags = if ty.mutable { region.trusted(self.builder.func) } else { Region::Constant.constant(self.builder.func) };
        (pointer, offset, flags.with_endianness(Endianness::Little))
    }

    /// The value of an immutable global that the module itself says.
    fn constant_global(&mut self, index: GlobalIndex) -> Option<Value> {
        let global = &self.module.globals[index];
        if global.ty.mutable {
            return None;
        }
        let Some(ConstExpr::One(op)) = global.init else { return None };
        let ins = self.builder.ins();
        Some(match op {
            ConstOp::I32Const(value) => ins.iconst(I32, i64::from(value as u32)),
            ConstOp::I64Const(value) => ins.iconst(I64, value),
            ConstOp::F32Const(bits) => ins.f32const(Ieee32::with_bits(bits)),
            ConstOp::F64Const(bits) => ins.f64const(Ieee64::with_bits(bits)),
            ConstOp::V128Const(bits) => {
                let constant = self.builder.func.dfg.constants.insert(bits.to_le_bytes().to_vec().into());
                self.builder.ins().vconst(I8X16, constant)
            }
            _ => return None,
        })
    }

    /// Translates `op` if it is of this family.
    pub(super) fn globals(&mut self, op: &Operator<'_>) -> bool {
        let (Operator::GlobalGet { global_index } | Operator::GlobalSet { global_index }) = *op else { return false };
        let index = GlobalIndex::from_u32(global_index);
        let ty = self.module.globals[index].ty.content;
        if ty == ValType::V128 {
            self.require_vectors();
        }
        if matches!(op, Operator::GlobalSet { .. }) {
            let value = self.pop();
            let (pointer, offset, flags) = self.global_place(index);
            self.builder.ins().store(flags, value, pointer, offset);
            return true;
        }
        let value = match self.constant_global(index) {
            Some(value) => value,
            None => {
                let (pointer, offset, flags) = self.global_place(index);
                self.builder.ins().load(abi::value_type(ty), flags, pointer, offset)
            }
        };
        self.push(value);
        true
    }
}
