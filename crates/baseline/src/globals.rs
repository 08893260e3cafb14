//! `global.get` and `global.set`.

use crate::compile::Compiler;
use crate::values::{Ty, Value};
use peregrine_wasm::{ConstExpr, ConstOp, GlobalIndex};

impl Compiler<'_> {
    /// `global.get`.
    pub(crate) fn global_get(&mut self, index: u32) {
        let index = GlobalIndex::from_u32(index);
        let global = &self.module.globals[index];
        let ty = Ty::from(global.ty.content);
        if !global.ty.mutable {
            match global.init {
                Some(ConstExpr::One(ConstOp::I32Const(value))) => return self.push_const(ty, u64::from(value as u32)),
                Some(ConstExpr::One(ConstOp::I64Const(value))) => return self.push_const(ty, value as u64),
                Some(ConstExpr::One(ConstOp::F32Const(bits))) => return self.push_const(ty, bits.into()),
                Some(ConstExpr::One(ConstOp::F64Const(bits))) => return self.push_const(ty, bits),
                _ => {}
            }
        }
        let target = self.result(ty.is_vector_class());
        let place = self.global_place(index);
        self.load_mem(ty, target, place);
        self.push_reg(ty, target);
    }

    /// `global.set`.
    pub(crate) fn global_set(&mut self, index: u32) {
        let index = GlobalIndex::from_u32(index);
        let ty = Ty::from(self.module.globals[index].ty.content);
        let value = match self.pop() {
            // Copies and wide constants would need the scratch register.
            value @ Value::Reg(_) => value,
            Value::Const(bits) if i32::try_from(bits as i64).is_ok() || matches!(ty, Ty::I32 | Ty::F32) => Value::Const(bits),
            value => Value::Reg(self.in_reg(ty, value)),
        };
        let place = self.global_place(index);
        self.store_value_mem(ty, place, value);
        self.release(value);
    }
}
