//! Calls of functions, of references, through tables, and of the engine's builtins.

use crate::compile::Compiler;
use crate::isa::machine::registers::JOIN;
use crate::values::{Ty, Value};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::vmctx::VmFuncRef;
use peregrine_wasm::{FuncIndex, HeapType, TableIndex, Trap, TypeIndex};
use std::mem::offset_of;

/// What is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callee {
    /// A function of the module.
    Function(FuncIndex),
    /// What the reference in [`JOIN`] points to, which is not null unless the trap says what happens then.
    Reference(Option<Trap>),
}

impl Compiler<'_> {
    /// `call` and `return_call`.
    pub(crate) fn call(&mut self, function: u32, is_return: bool) {
        self.look_before_call();
        let index = FuncIndex::from_u32(function);
        let ty = self.module.functions[index].ty;
        self.call_or_return(Callee::Function(index), ty, is_return);
    }

    /// `call_indirect` and `return_call_indirect`.
    pub(crate) fn call_indirect(&mut self, ty: u32, table: u32, is_return: bool) {
        self.look_before_call();
        let ty = TypeIndex::from_u32(ty);
        let index = self.pop();
        let table_index = TableIndex::from_u32(table);
        let callee = self.function_element(table_index, index, Some(JOIN));
        debug_assert_eq!(callee, JOIN);
        let element = self.module.tables[table_index].ty.element;
        let types = &self.module.types;
        let trap = match element.heap {
            HeapType::Concrete(known) if types[known] == types[ty] => element.nullable.then_some(Trap::IndirectCallToNull),
            _ => {
                self.check_signature(JOIN, offset_of!(VmFuncRef, type_id) as i32, ty);
                None
            }
        };
        self.count_target(JOIN);
        self.call_or_return(Callee::Reference(trap), ty, is_return);
    }

    /// `call_ref` and `return_call_ref`.
    pub(crate) fn call_ref(&mut self, ty: u32, is_return: bool) {
        self.look_before_call();
        let value = self.pop();
        self.in_fixed(Ty::I64, JOIN, value);
        self.count_target(JOIN);
        self.call_or_return(Callee::Reference(Some(Trap::NullReference)), TypeIndex::from_u32(ty), is_return);
    }

    fn call_or_return(&mut self, callee: Callee, ty: TypeIndex, is_return: bool) {
        if is_return {
            self.emit_return_call(callee, ty);
            self.reachable = false;
            self.skipped_blocks = 0;
        } else {
            self.emit_call(callee, ty);
        }
    }

    /// Calls a builtin with the context and `args`, which are popped already; its result is in the first register for results.
    pub(crate) fn call_builtin(&mut self, builtin: Builtin, args: &[(Ty, Value)]) {
        self.spill_below(self.depth());
        self.save_volatile();
        self.emit_builtin_call(builtin, args);
        for (_, value) in args {
            self.release(*value);
        }
        self.destroyed_by_call();
    }

    /// Calls a builtin and pushes its integer result as `ty`.
    pub(crate) fn call_builtin_pushing(&mut self, builtin: Builtin, args: &[(Ty, Value)], ty: Ty) {
        self.call_builtin(builtin, args);
        self.push_call_result(ty);
    }
}
