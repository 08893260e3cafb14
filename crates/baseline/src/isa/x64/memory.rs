//! Addresses in linear memories and tables and their bounds; scalar loads and stores.

use super::assembler::{Alu, Cc, Mem, Shift};
use super::registers::SCRATCH;
use crate::body::MemArg;
use crate::compile::{Cold, Compiler};
use crate::operators::Load;
use crate::registers::Reg;
use crate::values::{Ty, Value};
use peregrine_artifact::settings::MemoryStyle;
use peregrine_artifact::vmctx::{
    FUNC_ELEMENT_INITIALIZED, FUNC_ELEMENT_SIZE_BYTES, HANDLE_ELEMENT_SIZE_BYTES, MemoryCell, VmMemory, VmTable,
};
use peregrine_wasm::{MemoryIndex, MemoryType, TableIndex, Trap};
use std::mem::offset_of;

/// Where an access goes. It is in bounds, or it faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    /// The operand of the instruction. It may be based on the scratch register.
    pub mem: Mem,
    /// A register to release afterwards.
    held: Value,
}

/// Bytes of a type in memory.
const fn size_bytes(ty: Ty) -> u32 {
    match ty {
        Ty::I32 | Ty::F32 => 4,
        Ty::I64 | Ty::F64 => 8,
        Ty::V128 => 16,
    }
}

impl Compiler<'_> {
    /// The description of a memory. May be based on the scratch register.
    pub(crate) fn memory_place(&mut self, memory: MemoryIndex) -> Mem {
        match self.layout.memory_cell(self.module, memory) {
            MemoryCell::Inside(offset) => self.context_item(offset, false),
            MemoryCell::Behind(offset) => self.context_item(offset, true),
        }
    }

    fn memory_base(&mut self, memory: MemoryIndex) -> Reg {
        if memory.as_u32() == 0 {
            return self.memory_zero_base();
        }
        let place = self.memory_place(memory);
        self.masm.mov(true, SCRATCH, place.plus(offset_of!(VmMemory, base) as i32));
        SCRATCH
    }

    fn fixed_len(ty: &MemoryType) -> Option<u64> {
        if ty.max_pages == Some(ty.min_pages) { ty.min_bytes() } else { None }
    }

    /// Pops the address of an access of `size_bytes` and checks its bounds.
    pub(crate) fn address(&mut self, memarg: &MemArg, size_bytes: u32) -> Address {
        let index = self.pop();
        self.address_of(index, memarg, size_bytes)
    }

    /// The same with an address that was popped before.
    pub(super) fn address_of(&mut self, index: Value, memarg: &MemArg, size_bytes: u32) -> Address {
        let memory = MemoryIndex::from_u32(memarg.memory);
        let ty = &self.module.memories[memory];
        let index_ty = if ty.memory64 { Ty::I64 } else { Ty::I32 };
        let end = u128::from(memarg.offset) + u128::from(size_bytes);
        let reach = match self.settings.memory_style(self.module, memory) {
            MemoryStyle::Guarded => self.settings.memory_reservation_bytes - (4 << 30) + self.settings.memory_guard_bytes,
            MemoryStyle::Small | MemoryStyle::Exact => 0,
        };
        let constant = match index {
            Value::Const(bits) if ty.memory64 => Some(bits),
            Value::Const(bits) => Some(u64::from(bits as u32)),
            _ => None,
        };
        let always_in_bounds = constant.is_some_and(|index| u128::from(index) + end <= u128::from(ty.min_bytes().unwrap_or(u64::MAX)));
        if !always_in_bounds && end > u128::from(reach) {
            return self.checked_address(memory, index_ty, index, memarg.offset, end);
        }
        if let Some(constant) = constant
            && let Ok(offset) = i32::try_from(u128::from(constant) + u128::from(memarg.offset))
        {
            let base = self.memory_base(memory);
            return Address { mem: Mem::new(base, offset), held: Value::Const(0) };
        }
        let index = self.in_reg(index_ty, index);
        match i32::try_from(memarg.offset) {
            Ok(offset) => {
                let base = self.memory_base(memory);
                Address { mem: Mem::indexed(base, index, 0, offset), held: Value::Reg(index) }
            }
            Err(_) => {
                let sum = self.alloc(false);
                self.masm.mov_imm(sum, memarg.offset);
                self.masm.alu(Alu::Add, true, sum, index);
                self.regs.release(index);
                let base = self.memory_base(memory);
                Address { mem: Mem::indexed(base, sum, 0, 0), held: Value::Reg(sum) }
            }
        }
    }

    /// Compares `index + end` with the size.
    fn checked_address(&mut self, memory: MemoryIndex, index_ty: Ty, index: Value, offset: u64, end: u128) -> Address {
        let ty = &self.module.memories[memory];
        let index = self.in_reg(index_ty, index);
        let Ok(end) = u64::try_from(end) else {
            // Out of bounds whatever the index is.
            self.trap(Trap::MemoryOutOfBounds);
            return Address { mem: Mem::new(index, 0), held: Value::Reg(index) };
        };
        let address = self.alloc(false);
        if ty.min_bytes().is_some_and(|min_bytes| end <= min_bytes) {
            // The difference is not below zero, as a memory never shrinks.
            match Self::fixed_len(ty) {
                Some(len) => self.masm.mov_imm(address, len - end),
                None => {
                    let place = self.memory_place(memory);
                    self.masm.mov(true, address, place.plus(offset_of!(VmMemory, len_bytes) as i32));
                    match i32::try_from(end) {
                        Ok(end) => self.masm.alu_imm(Alu::Sub, true, address, end),
                        Err(_) => {
                            self.masm.mov_imm(SCRATCH, end);
                            self.masm.alu(Alu::Sub, true, address, SCRATCH);
                        }
                    }
                }
            }
            self.masm.alu(Alu::Cmp, true, index, address);
        } else {
            self.masm.mov_imm(address, end);
            self.masm.alu(Alu::Add, true, address, index);
            if ty.memory64 {
                self.trap_if(Cc::B, Trap::MemoryOutOfBounds);
            }
            match Self::fixed_len(ty) {
                Some(len) => {
                    self.masm.mov_imm(SCRATCH, len);
                    self.masm.alu(Alu::Cmp, true, address, SCRATCH);
                }
                None => {
                    let place = self.memory_place(memory);
                    self.masm.alu(Alu::Cmp, true, address, place.plus(offset_of!(VmMemory, len_bytes) as i32));
                }
            }
        }
        self.trap_if(Cc::A, Trap::MemoryOutOfBounds);
        // Nothing up to the `cmov` changes the flags.
        let base = self.memory_base(memory);
        match i32::try_from(offset) {
            Ok(offset) => self.masm.lea(true, address, Mem::indexed(base, index, 0, offset)),
            Err(_) => {
                self.masm.mov_imm(address, offset);
                self.masm.lea(true, address, Mem::indexed(address, index, 0, 0));
                self.masm.lea(true, address, Mem::indexed(address, base, 0, 0));
            }
        }
        if self.settings.spectre_mitigations {
            let null = self.vector_constant(0);
            self.masm.cmov(Cc::A, true, address, null);
        }
        self.regs.release(index);
        Address { mem: Mem::new(address, 0), held: Value::Reg(address) }
    }

    /// The access is done.
    pub(crate) fn release_address(&mut self, address: Address) {
        self.release(address.held);
    }

    /// The next instruction is the access.
    pub(crate) fn memory_may_trap(&mut self) {
        self.may_trap(Trap::MemoryOutOfBounds);
    }

    /// A scalar load.
    pub(crate) fn load(&mut self, ty: Ty, load: Load, memarg: &MemArg) {
        let size = match load {
            Load::Whole => size_bytes(ty),
            Load::U8 | Load::S8 => 1,
            Load::U16 | Load::S16 => 2,
            Load::U32 | Load::S32 => 4,
        };
        let address = self.address(memarg, size);
        self.release_address(address);
        let target = self.result(ty.is_vector_class());
        self.memory_may_trap();
        let wide = ty.is_wide();
        match load {
            Load::Whole => self.load_mem(ty, target, address.mem),
            Load::U8 => self.masm.movzx8(target, address.mem),
            Load::S8 => self.masm.movsx8(wide, target, address.mem),
            Load::U16 => self.masm.movzx16(target, address.mem),
            Load::S16 => self.masm.movsx16(wide, target, address.mem),
            Load::U32 => self.masm.mov(false, target, address.mem),
            Load::S32 => self.masm.movsx32(target, address.mem),
        }
        self.push_reg(ty, target);
    }

    /// A store of the low `size_bytes` of a scalar.
    pub(crate) fn store(&mut self, ty: Ty, size_bytes: u32, memarg: &MemArg) {
        let value = self.pop();
        if let Value::Const(bits) = value
            && self.store_const(bits, size_bytes, memarg)
        {
            return;
        }
        let value = self.in_reg(ty, value);
        let address = self.address(memarg, size_bytes);
        self.memory_may_trap();
        match size_bytes {
            1 => self.masm.mov_store8(address.mem, value),
            2 => self.masm.mov_store16(address.mem, value),
            4 if !ty.is_vector_class() => self.masm.mov_store(false, address.mem, value),
            _ => self.store_mem(ty, address.mem, value),
        }
        self.release_address(address);
        self.regs.release(value);
    }

    /// Stores a constant that fits in an instruction.
    fn store_const(&mut self, bits: u64, size_bytes: u32, memarg: &MemArg) -> bool {
        if size_bytes == 8 && i32::try_from(bits as i64).is_err() {
            return false;
        }
        let address = self.address(memarg, size_bytes);
        self.memory_may_trap();
        match size_bytes {
            1 => self.masm.mov_store8_imm(address.mem, bits as u8),
            2 => self.masm.mov_store16_imm(address.mem, bits as u16),
            _ => self.masm.mov_store_imm(size_bytes == 8, address.mem, bits as u32 as i32),
        }
        self.release_address(address);
        true
    }

    /// `memory.size`.
    pub(crate) fn memory_size(&mut self, memory: u32) {
        let memory = MemoryIndex::from_u32(memory);
        let ty = &self.module.memories[memory];
        let result_ty = if ty.memory64 { Ty::I64 } else { Ty::I32 };
        if let Some(len) = Self::fixed_len(ty) {
            return self.push_const(result_ty, len >> ty.page_size_log2);
        }
        let target = self.result(false);
        let place = self.memory_place(memory);
        self.masm.mov(true, target, place.plus(offset_of!(VmMemory, len_bytes) as i32));
        if ty.page_size_log2 > 0 {
            self.masm.shift_imm(Shift::Shr, true, target, ty.page_size_log2);
        }
        if !ty.memory64 {
            self.masm.mov(false, target, target);
        }
        self.push_reg(result_ty, target);
    }

    // Tables.

    fn table_place(&mut self, table: TableIndex) -> Mem {
        match self.module.defined_table_index(table) {
            Some(defined) => self.context_item(self.layout.table(defined), false),
            None => self.context_item(self.layout.table_import(table), true),
        }
    }

    /// Writes the address of an element to `target`, which is not the register of the index.
    fn element_address(&mut self, table: TableIndex, index: Reg, target: Reg) {
        let ty = self.module.tables[table].ty;
        if ty.max == Some(ty.min) {
            match i32::try_from(ty.min) {
                Ok(len) => self.masm.alu_imm(Alu::Cmp, true, index, len),
                Err(_) => {
                    self.masm.mov_imm(SCRATCH, ty.min);
                    self.masm.alu(Alu::Cmp, true, index, SCRATCH);
                }
            }
        } else {
            let place = self.table_place(table);
            self.masm.alu(Alu::Cmp, true, index, place.plus(offset_of!(VmTable, len) as i32));
        }
        self.trap_if(Cc::Ae, Trap::TableOutOfBounds);
        // Nothing up to the `cmov` changes the flags.
        let place = self.table_place(table);
        self.masm.mov(true, SCRATCH, place.plus(offset_of!(VmTable, base) as i32));
        let size_bytes = if ty.element.heap.is_func() { FUNC_ELEMENT_SIZE_BYTES } else { HANDLE_ELEMENT_SIZE_BYTES };
        self.masm.lea(true, target, Mem::indexed(SCRATCH, index, size_bytes.trailing_zeros() as u8, 0));
        if self.settings.spectre_mitigations {
            self.masm.cmov(Cc::Ae, true, target, SCRATCH);
        }
    }

    /// The register of an index, and one for what is found there: `wanted` if that is given.
    fn element_registers(&mut self, table: TableIndex, index: Value, wanted: Option<Reg>) -> (Reg, Reg) {
        let ty = if self.module.tables[table].ty.table64 { Ty::I64 } else { Ty::I32 };
        match wanted {
            Some(wanted) if index == Value::Reg(wanted) => {
                let other = self.alloc(false);
                self.move_reg(Ty::I64, other, wanted);
                (other, wanted)
            }
            Some(wanted) => {
                self.take(wanted);
                (self.in_reg(ty, index), wanted)
            }
            None => {
                let index = self.in_reg(ty, index);
                (index, self.alloc(false))
            }
        }
    }

    /// The reference at `index` of a table of functions, initialized if it was not yet; in `wanted` if that is given.
    pub(crate) fn function_element(&mut self, table: TableIndex, index: Value, wanted: Option<Reg>) -> Reg {
        let (index, target) = self.element_registers(table, index, wanted);
        self.element_address(table, index, target);
        self.masm.mov(true, target, Mem::new(target, 0));
        self.masm.test(true, target, target);
        let (label, back) = (self.masm.label(), self.masm.label());
        self.masm.jcc(Cc::E, label);
        self.masm.alu_imm(Alu::And, true, target, !(FUNC_ELEMENT_INITIALIZED as i32));
        self.masm.bind(back);
        let live = self.live_registers().without(target);
        self.cold.push(Cold::InitElement { label, back, table: table.as_u32(), index, result: target, live, offset: self.offset });
        self.regs.release(index);
        target
    }

    /// The handle at `index` of a table of anything else.
    pub(crate) fn handle_element(&mut self, table: TableIndex, index: Value) -> Reg {
        let (index, target) = self.element_registers(table, index, None);
        self.element_address(table, index, target);
        self.masm.mov(false, target, Mem::new(target, 0));
        self.regs.release(index);
        target
    }

    /// Writes an element of a table.
    pub(crate) fn set_element(&mut self, table: TableIndex, index: Value, value: Value) {
        let is_func = self.module.tables[table].ty.element.heap.is_func();
        let value = self.in_reg(if is_func { Ty::I64 } else { Ty::I32 }, value);
        let (index, target) = self.element_registers(table, index, None);
        self.element_address(table, index, target);
        if is_func {
            // References are aligned, so this sets the bit.
            self.masm.lea(true, SCRATCH, Mem::new(value, FUNC_ELEMENT_INITIALIZED as i32));
            self.masm.mov_store(true, Mem::new(target, 0), SCRATCH);
        } else {
            self.masm.mov_store(false, Mem::new(target, 0), value);
        }
        for reg in [index, target, value] {
            self.regs.release(reg);
        }
    }

    /// `table.size`.
    pub(crate) fn table_size(&mut self, table: u32) {
        let table = TableIndex::from_u32(table);
        let ty = self.module.tables[table].ty;
        let result_ty = if ty.table64 { Ty::I64 } else { Ty::I32 };
        if ty.max == Some(ty.min) {
            return self.push_const(result_ty, ty.min);
        }
        let target = self.result(false);
        let place = self.table_place(table);
        self.masm.mov(ty.table64, target, place.plus(offset_of!(VmTable, len) as i32));
        self.push_reg(result_ty, target);
    }
}
