//! References: `ref.null`, `ref.is_null`, `ref.func` and `ref.as_non_null`.

use crate::compile::Compiler;
use crate::values::{Ty, Value};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::vmctx::VmFunctionImport;
use peregrine_wasm::{FuncIndex, Trap};
use std::mem::offset_of;

impl Compiler<'_> {
    /// `ref.null`.
    pub(crate) fn ref_null(&mut self, ty: Ty) {
        self.push_const(ty, 0);
    }

    /// `ref.is_null`.
    pub(crate) fn ref_is_null(&mut self) {
        let ty = self.stack.last().map_or(Ty::I64, |operand| operand.ty);
        self.equal_to_zero(ty);
    }

    /// `ref.func`.
    pub(crate) fn ref_func(&mut self, function: u32) {
        let index = FuncIndex::from_u32(function);
        if self.module.defined_func_index(index).is_some() {
            let args = [(Ty::I32, Value::Const(function.into()))];
            return self.call_builtin_pushing(Builtin::ref_func, &args, Ty::I64);
        }
        let target = self.result(false);
        self.load_context_field(target, self.layout.function_import(index) + offset_of!(VmFunctionImport, func_ref) as u32);
        self.push_reg(Ty::I64, target);
    }

    /// `ref.as_non_null`.
    pub(crate) fn ref_as_non_null(&mut self) {
        let ty = self.stack.last().map_or(Ty::I64, |operand| operand.ty);
        let reg = self.pop_reg(ty);
        self.trap_if_null(ty, reg, Trap::NullReference);
        if self.regs.is_temporary(reg) {
            return self.push_reg(ty, reg);
        }
        let copy = self.in_temporary(ty, Value::Reg(reg));
        self.push_reg(ty, copy);
    }
}
