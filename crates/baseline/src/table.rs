//! The table instructions, and the bulk instructions of memories: what is not a single access is done by the engine.

use crate::compile::Compiler;
use crate::values::{Ty, Value};
use peregrine_artifact::builtins::{Builtin, pack_indices};
use peregrine_wasm::{MemoryIndex, TableIndex};

/// A number that the code knows.
fn number(value: u32) -> (Ty, Value) {
    (Ty::I32, Value::Const(value.into()))
}

/// Two indices in one argument.
fn indices(low: u32, high: u32) -> (Ty, Value) {
    (Ty::I64, Value::Const(pack_indices(low, high)))
}

impl Compiler<'_> {
    fn table_index_type(&self, table: u32) -> Ty {
        if self.module.tables[TableIndex::from_u32(table)].ty.table64 { Ty::I64 } else { Ty::I32 }
    }

    fn memory_index_type(&self, memory: u32) -> Ty {
        if self.module.memories[MemoryIndex::from_u32(memory)].memory64 { Ty::I64 } else { Ty::I32 }
    }

    fn element_type(&self, table: u32) -> Ty {
        if self.module.tables[TableIndex::from_u32(table)].ty.element.heap.is_func() { Ty::I64 } else { Ty::I32 }
    }

    /// The smaller of two index types.
    fn narrower(a: Ty, b: Ty) -> Ty {
        if a == Ty::I32 { a } else { b }
    }

    /// Pops an operand as an argument; in a register an `i32` is zero-extended, and so is what is loaded as one.
    pub(crate) fn pop_argument(&mut self, ty: Ty) -> (Ty, Value) {
        match self.pop() {
            Value::Const(bits) if ty == Ty::I32 => (ty, Value::Const(u64::from(bits as u32))),
            value => (ty, value),
        }
    }

    /// `table.get`.
    pub(crate) fn table_get(&mut self, table: u32) {
        let index = self.pop();
        let ty = self.element_type(table);
        let table = TableIndex::from_u32(table);
        let reg = if ty == Ty::I64 { self.function_element(table, index, None) } else { self.handle_element(table, index) };
        self.push_reg(ty, reg);
    }

    /// `table.set`.
    pub(crate) fn table_set(&mut self, table: u32) {
        let value = self.pop();
        let index = self.pop();
        self.set_element(TableIndex::from_u32(table), index, value);
    }

    /// `table.grow`.
    pub(crate) fn table_grow(&mut self, table: u32) {
        let ty = self.table_index_type(table);
        let delta = self.pop_argument(ty);
        let value = self.pop_argument(self.element_type(table));
        self.call_builtin_pushing(Builtin::table_grow, &[number(table), delta, value], ty);
    }

    /// `table.fill`.
    pub(crate) fn table_fill(&mut self, table: u32) {
        let ty = self.table_index_type(table);
        let len = self.pop_argument(ty);
        let value = self.pop_argument(self.element_type(table));
        let target = self.pop_argument(ty);
        self.call_builtin(Builtin::table_fill, &[number(table), target, value, len]);
    }

    /// `table.copy`.
    pub(crate) fn table_copy(&mut self, target_table: u32, source_table: u32) {
        let (target_ty, source_ty) = (self.table_index_type(target_table), self.table_index_type(source_table));
        let len = self.pop_argument(Self::narrower(target_ty, source_ty));
        let source = self.pop_argument(source_ty);
        let target = self.pop_argument(target_ty);
        self.call_builtin(Builtin::table_copy, &[indices(target_table, source_table), target, source, len]);
    }

    /// `table.init`.
    pub(crate) fn table_init(&mut self, table: u32, element: u32) {
        let len = self.pop_argument(Ty::I32);
        let source = self.pop_argument(Ty::I32);
        let target = self.pop_argument(self.table_index_type(table));
        self.call_builtin(Builtin::table_init, &[indices(table, element), target, source, len]);
    }

    /// `elem.drop`.
    pub(crate) fn element_drop(&mut self, element: u32) {
        self.call_builtin(Builtin::element_drop, &[number(element)]);
    }

    /// `memory.grow`.
    pub(crate) fn memory_grow(&mut self, memory: u32) {
        let ty = self.memory_index_type(memory);
        let delta = self.pop_argument(ty);
        self.call_builtin_pushing(Builtin::memory_grow, &[number(memory), delta], ty);
    }

    /// `memory.copy`.
    pub(crate) fn memory_copy(&mut self, target_memory: u32, source_memory: u32) {
        let (target_ty, source_ty) = (self.memory_index_type(target_memory), self.memory_index_type(source_memory));
        let len = self.pop_argument(Self::narrower(target_ty, source_ty));
        let source = self.pop_argument(source_ty);
        let target = self.pop_argument(target_ty);
        self.call_builtin(Builtin::memory_copy, &[indices(target_memory, source_memory), target, source, len]);
    }

    /// `memory.fill`.
    pub(crate) fn memory_fill(&mut self, memory: u32) {
        let ty = self.memory_index_type(memory);
        let len = self.pop_argument(ty);
        let value = self.pop_argument(Ty::I32);
        let target = self.pop_argument(ty);
        self.call_builtin(Builtin::memory_fill, &[number(memory), target, value, len]);
    }

    /// `memory.init`.
    pub(crate) fn memory_init(&mut self, memory: u32, data: u32) {
        let len = self.pop_argument(Ty::I32);
        let source = self.pop_argument(Ty::I32);
        let target = self.pop_argument(self.memory_index_type(memory));
        self.call_builtin(Builtin::memory_init, &[indices(memory, data), target, source, len]);
    }

    /// `data.drop`.
    pub(crate) fn data_drop(&mut self, data: u32) {
        self.call_builtin(Builtin::data_drop, &[number(data)]);
    }
}
