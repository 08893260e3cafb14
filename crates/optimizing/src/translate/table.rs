//! Tables: elements and their bounds, and the table instructions.

use super::flags::{Region, trap_code};
use super::translator::Translator;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value};
use peregrine_artifact::builtins::{Builtin, pack_indices};
use peregrine_artifact::vmctx::{FUNC_ELEMENT_INITIALIZED, FUNC_ELEMENT_SIZE_BYTES, HANDLE_ELEMENT_SIZE_BYTES, VmTable};
use peregrine_wasm::{ElementIndex, TableIndex, Trap};
use std::mem::offset_of;
use wasmparser::Operator;

impl Translator<'_, '_> {
    fn table_region(&self, table: TableIndex) -> Region {
        self.module.defined_table_index(table).map_or(Region::ImportedTables, |index| Region::Table(index.as_u32()))
    }

    /// The context field of a table: pointer and offset.
    fn table_place(&mut self, table: TableIndex) -> (Value, i32) {
        match self.module.defined_table_index(table) {
            Some(index) => (self.vmctx, self.layout.table(index) as i32),
            None => (self.load_context_pointer(self.layout.table_import(table) as usize), 0),
        }
    }

    /// How many elements there are, as 64 bits.
    fn table_len(&mut self, table: TableIndex) -> Value {
        let ty = self.module.tables[table].ty;
        if ty.max == Some(ty.min) {
            return self.builder.ins().iconst(I64, ty.min as i64);
        }
        let (pointer, offset) = self.table_place(table);
        let flags = Region::Lengths.trusted(self.builder.func);
        self.builder.ins().load(I64, flags, pointer, offset + offset_of!(VmTable, len) as i32)
    }

    /// The address of the element at the 64-bit `index`, and the flags of an access there, which traps if it is out of bounds.
    fn element_place(&mut self, table: TableIndex, index: Value) -> (Value, MemFlagsData) {
        let len = self.table_len(table);
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, index, len);
        let access = self.table_region(table).trusted(self.builder.func);
        let is_guarded = self.settings().spectre_mitigations;
        if !is_guarded {
            self.builder.ins().trapnz(outside, trap_code(Trap::TableOutOfBounds));
        }
        let (pointer, offset) = self.table_place(table);
        let flags = Region::Constant.constant(self.builder.func);
        let base = self.builder.ins().load(I64, flags, pointer, offset + offset_of!(VmTable, base) as i32);
        let is_func = self.module.tables[table].ty.element.heap.is_func();
        let size_bytes = if is_func { FUNC_ELEMENT_SIZE_BYTES } else { HANDLE_ELEMENT_SIZE_BYTES };
        let distance = self.builder.ins().ishl_imm_u(index, i64::from(size_bytes.trailing_zeros()));
        let address = self.builder.ins().iadd(base, distance);
        if !is_guarded {
            return (address, access);
        }
        // What is outside is at address 0, where the access faults; so nothing has to be known before the address is.
        let nowhere = self.builder.ins().iconst(I64, 0);
        let address = self.builder.ins().select_spectre_guard(outside, nowhere, address);
        (address, access.with_trap_code(Some(trap_code(Trap::TableOutOfBounds))))
    }

    /// The reference at the 64-bit `index` of a table of functions, initialized if it was not yet, with the mark of that: it points
    /// [`FUNC_ELEMENT_INITIALIZED`] bytes too far.
    pub(super) fn function_element(&mut self, table: TableIndex, index: Value) -> Value {
        self.budget.element();
        let (address, flags) = self.element_place(table, index);
        let element = self.builder.ins().load(I64, flags, address, 0);
        let initialize = self.builder.create_block();
        self.builder.set_cold_block(initialize);
        let ready = self.builder.create_block();
        let reference = self.builder.append_block_param(ready, I64);
        self.builder.ins().brif(element, ready, &[element.into()], initialize, &[]);
        self.begin_sealed(initialize);
        let table = self.builder.ins().iconst(I32, i64::from(table.as_u32()));
        if let Some(made) = self.call_builtin(Builtin::table_element_init, &[table, index]) {
            let marked = self.builder.ins().bor_imm_s(made, FUNC_ELEMENT_INITIALIZED as i64);
            self.builder.ins().jump(ready, &[marked.into()]);
        }
        self.begin_sealed(ready);
        reference
    }

    fn is_function_table(&self, table: TableIndex) -> bool {
        self.module.tables[table].ty.element.heap.is_func()
    }

    fn table_get(&mut self, table: TableIndex) {
        let index = self.pop();
        let index = self.widen(index);
        let value = if self.is_function_table(table) {
            // The blocks in between must not be crossed by operands.
            self.flush();
            let element = self.function_element(table, index);
            self.builder.ins().band_imm_s(element, !(FUNC_ELEMENT_INITIALIZED as i64))
        } else {
            let (address, flags) = self.element_place(table, index);
            self.builder.ins().load(I32, flags, address, 0)
        };
        self.push(value);
    }

    fn table_set(&mut self, table: TableIndex) {
        let (index, value) = self.pop2();
        let index = self.widen(index);
        let (address, flags) = self.element_place(table, index);
        let value =
            if self.is_function_table(table) { self.builder.ins().bor_imm_s(value, FUNC_ELEMENT_INITIALIZED as i64) } else { value };
        self.builder.ins().store(flags, value, address, 0);
    }

    fn table_size(&mut self, table: TableIndex) {
        let len = self.table_len(table);
        let len = self.narrow(len, self.module.tables[table].ty.table64);
        self.push(len);
    }

    fn table_grow(&mut self, table: TableIndex) {
        let (value, delta) = self.pop2();
        let (value, delta) = (self.widen(value), self.widen(delta));
        let number = self.builder.ins().iconst(I32, i64::from(table.as_u32()));
        if let Some(old) = self.call_builtin(Builtin::table_grow, &[number, delta, value]) {
            let old = self.narrow(old, self.module.tables[table].ty.table64);
            self.push(old);
        }
    }

    fn table_fill(&mut self, table: TableIndex) {
        let (target, value, len) = self.pop3();
        let (target, value, len) = (self.widen(target), self.widen(value), self.widen(len));
        let table = self.builder.ins().iconst(I32, i64::from(table.as_u32()));
        self.call_builtin(Builtin::table_fill, &[table, target, value, len]);
    }

    fn table_copy(&mut self, target_table: TableIndex, source_table: TableIndex) {
        let (target, source, len) = self.pop3();
        let (target, source, len) = (self.widen(target), self.widen(source), self.widen(len));
        let tables = self.builder.ins().iconst(I64, pack_indices(target_table.as_u32(), source_table.as_u32()) as i64);
        self.call_builtin(Builtin::table_copy, &[tables, target, source, len]);
    }

    fn table_init(&mut self, table: TableIndex, element: ElementIndex) {
        let (target, source, len) = self.pop3();
        let target = self.widen(target);
        let indices = self.builder.ins().iconst(I64, pack_indices(table.as_u32(), element.as_u32()) as i64);
        self.call_builtin(Builtin::table_init, &[indices, target, source, len]);
    }

    fn element_drop(&mut self, element: ElementIndex) {
        let element = self.builder.ins().iconst(I32, i64::from(element.as_u32()));
        self.call_builtin(Builtin::element_drop, &[element]);
    }

    /// Translates `op` if it is of this family.
    pub(super) fn table(&mut self, op: &Operator<'_>) -> bool {
        match *op {
            Operator::TableGet { table } => self.table_get(TableIndex::from_u32(table)),
            Operator::TableSet { table } => self.table_set(TableIndex::from_u32(table)),
            Operator::TableSize { table } => self.table_size(TableIndex::from_u32(table)),
            Operator::TableGrow { table } => self.table_grow(TableIndex::from_u32(table)),
            Operator::TableFill { table } => self.table_fill(TableIndex::from_u32(table)),
            Operator::TableCopy { dst_table, src_table } => {
                self.table_copy(TableIndex::from_u32(dst_table), TableIndex::from_u32(src_table));
            }
            Operator::TableInit { elem_index, table } => self.table_init(TableIndex::from_u32(table), ElementIndex::from_u32(elem_index)),
            Operator::ElemDrop { elem_index } => self.element_drop(ElementIndex::from_u32(elem_index)),
            _ => return false,
        }
        true
    }
}
