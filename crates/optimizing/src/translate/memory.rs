//! Linear memory: addresses and their bounds, scalar loads and stores, `memory.size` and `memory.grow`.

use super::flags::{Region, trap_code};
use super::translator::Translator;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64, I8, I16, I32, I64};
use cranelift_codegen::ir::{InstBuilder, InstructionData, MemFlagsData, Opcode, Type, Value, ValueDef};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::settings::MemoryStyle;
use peregrine_artifact::vmctx::{MemoryCell, VmMemory};
use peregrine_wasm::{MemoryIndex, MemoryType, Trap};
use std::mem::offset_of;
use wasmparser::{MemArg, MemArgTarget, Operator};

/// Where an access to memory goes. It is in bounds, or it faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryAddress {
    /// The host address.
    pub base: Value,
    /// What the instruction adds to it.
    pub offset: i32,
    /// Flags of the access.
    pub flags: MemFlagsData,
}

/// The memory that an instruction names.
pub(super) fn memory_index(memarg: &MemArg) -> MemoryIndex {
    match memarg.target {
        MemArgTarget::Memory(index) | MemArgTarget::Array(index) => MemoryIndex::from_u32(index),
    }
}

impl Translator<'_, '_> {
    /// Pops the address and checks its bounds for an access of `size_bytes`.
    pub(crate) fn memory_address(&mut self, memarg: &MemArg, size_bytes: u32) -> MemoryAddress {
        let memory = memory_index(memarg);
        let ty = self.module.memories[memory];
        let index = self.pop();
        let constant = self.constant(index);
        let index = self.widen(index);
        let base = self.memory_base(memory);
        let flags = self.memory_region(memory).guest(self.builder.func);
        let end = u128::from(memarg.offset) + u128::from(size_bytes);

        let settings = self.settings();
        let reach = match settings.memory_style(self.module, memory) {
            MemoryStyle::Guarded => settings.memory_reservation_bytes - (4 << 30) + settings.memory_guard_bytes,
            MemoryStyle::Small | MemoryStyle::Exact => 0,
        };
        let always_in_bounds = constant.is_some_and(|index| u128::from(index) + end <= u128::from(ty.min_bytes().unwrap_or(u64::MAX)));
        if always_in_bounds || end <= u128::from(reach) {
            let base = self.builder.ins().iadd(base, index);
            return self.offset_address(base, memarg.offset, flags);
        }
        let outside = self.out_of_bounds(memory, &ty, index, end);
        self.builder.ins().trapnz(outside, trap_code(Trap::MemoryOutOfBounds));
        let address = self.builder.ins().iadd(base, index);
        let mut address = self.offset_address(address, memarg.offset, flags);
        if settings.spectre_mitigations {
            let null = self.builder.ins().iconst(I64, 0);
            if address.offset != 0 {
                address.base = self.builder.ins().iadd_imm_s(address.base, i64::from(address.offset));
                address.offset = 0;
            }
            address.base = self.builder.ins().select_spectre_guard(outside, null, address.base);
        }
        address
    }

    /// Splits an offset into what the instruction can add and what must be added before.
    fn offset_address(&mut self, base: Value, offset: u64, flags: MemFlagsData) -> MemoryAddress {
        match i32::try_from(offset) {
            Ok(offset) => MemoryAddress { base, offset, flags },
            Err(_) => MemoryAddress { base: self.builder.ins().iadd_imm_s(base, offset as i64), offset: 0, flags },
        }
    }

    /// Whether `index + end` is beyond the size of the memory, as a truth value.
    fn out_of_bounds(&mut self, memory: MemoryIndex, ty: &MemoryType, index: Value, end: u128) -> Value {
        let Ok(end) = u64::try_from(end) else {
            return self.builder.ins().iconst(I8, 1);
        };
        let len = self.memory_len(memory);
        if ty.min_bytes().is_some_and(|min_bytes| end <= min_bytes) {
            // The difference is not below zero, as a memory never shrinks.
            let last = self.builder.ins().iadd_imm_s(len, (end as i64).wrapping_neg());
            return self.builder.ins().icmp(IntCC::UnsignedGreaterThan, index, last);
        }
        let end_value = self.builder.ins().iconst(I64, end as i64);
        let end = if ty.memory64 {
            self.builder.ins().uadd_overflow_trap(index, end_value, trap_code(Trap::MemoryOutOfBounds))
        } else {
            self.builder.ins().iadd(index, end_value)
        };
        self.builder.ins().icmp(IntCC::UnsignedGreaterThan, end, len)
    }

    /// The number that `value` always is, zero-extended.
    pub(super) fn constant(&self, value: Value) -> Option<u64> {
        let dfg = &self.builder.func.dfg;
        let ValueDef::Result(inst, _) = dfg.value_def(value) else { return None };
        match dfg.insts[inst] {
            InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } if dfg.value_type(value) == I32 => Some(u64::from(imm.bits() as u32)),
            InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => Some(imm.bits() as u64),
            _ => None,
        }
    }

    /// `value` with 64 bits, zero-extended.
    pub(super) fn widen(&mut self, value: Value) -> Value {
        match self.builder.func.dfg.value_type(value) {
            I64 => value,
            _ => self.builder.ins().uextend(I64, value),
        }
    }

    /// The low bits of the 64-bit `value` that an index type has.
    pub(super) fn narrow(&mut self, value: Value, is64: bool) -> Value {
        if is64 { value } else { self.builder.ins().ireduce(I32, value) }
    }

    pub(super) fn memory_region(&self, memory: MemoryIndex) -> Region {
        self.module.defined_memory_index(memory).map_or(Region::ImportedMemories, |index| Region::Memory(index.as_u32()))
    }

    /// The context field of a memory: pointer and offset.
    fn memory_place(&mut self, memory: MemoryIndex) -> (Value, i32) {
        match self.layout.memory_cell(self.module, memory) {
            MemoryCell::Inside(offset) => (self.vmctx, offset as i32),
            MemoryCell::Behind(offset) => (self.load_context_pointer(offset as usize), 0),
        }
    }

    /// The address of the first byte. It changes in calls, if at all.
    pub(super) fn memory_base(&mut self, memory: MemoryIndex) -> Value {
        let (pointer, offset) = self.memory_place(memory);
        let flags = match self.settings().memory_style(self.module, memory).has_constant_base() {
            true => Region::Constant.constant(self.builder.func),
            false => Region::Lengths.trusted(self.builder.func),
        };
        self.builder.ins().load(I64, flags, pointer, offset + offset_of!(VmMemory, base) as i32)
    }

    /// The size in bytes.
    pub(super) fn memory_len(&mut self, memory: MemoryIndex) -> Value {
        let ty = self.module.memories[memory];
        if ty.max_pages == Some(ty.min_pages)
            && let Some(bytes) = ty.min_bytes()
        {
            return self.builder.ins().iconst(I64, bytes as i64);
        }
        let (pointer, offset) = self.memory_place(memory);
        let flags = Region::Lengths.trusted(self.builder.func);
        self.builder.ins().load(I64, flags, pointer, offset + offset_of!(VmMemory, len_bytes) as i32)
    }

    /// The size in bytes of a memory that other threads grow, read in the order of the atomic instructions.
    fn shared_memory_len(&mut self, memory: MemoryIndex) -> Value {
        let (pointer, offset) = self.memory_place(memory);
        let flags = Region::Lengths.trusted(self.builder.func);
        let place = self.builder.ins().iadd_imm_s(pointer, i64::from(offset) + offset_of!(VmMemory, len_bytes) as i64);
        self.builder.ins().atomic_load(I64, flags, place)
    }

    fn load(&mut self, ty: Type, memarg: &MemArg) {
        let address = self.memory_address(memarg, ty.bytes());
        let value = self.builder.ins().load(ty, address.flags, address.base, address.offset);
        self.push(value);
    }

    fn load_extended(&mut self, from: Type, signed: bool, to: Type, memarg: &MemArg) {
        let address = self.memory_address(memarg, from.bytes());
        let (flags, base, offset) = (address.flags, address.base, address.offset);
        let ins = self.builder.ins();
        let value = match (from, signed) {
            (I8, false) => ins.uload8(to, flags, base, offset),
            (I8, true) => ins.sload8(to, flags, base, offset),
            (I16, false) => ins.uload16(to, flags, base, offset),
            (I16, true) => ins.sload16(to, flags, base, offset),
            (_, false) => ins.uload32(flags, base, offset),
            (_, true) => ins.sload32(flags, base, offset),
        };
        self.push(value);
    }

    fn store(&mut self, to: Type, memarg: &MemArg) {
        let value = self.pop();
        let address = self.memory_address(memarg, to.bytes());
        let (flags, base, offset) = (address.flags, address.base, address.offset);
        let same = self.builder.func.dfg.value_type(value) == to;
        let ins = self.builder.ins();
        match to {
            _ if same => ins.store(flags, value, base, offset),
            I8 => ins.istore8(flags, value, base, offset),
            I16 => ins.istore16(flags, value, base, offset),
            _ => ins.istore32(flags, value, base, offset),
        };
    }

    fn memory_size(&mut self, memory: MemoryIndex) {
        let ty = self.module.memories[memory];
        let len = if ty.shared { self.shared_memory_len(memory) } else { self.memory_len(memory) };
        let pages = self.builder.ins().ushr_imm_u(len, i64::from(ty.page_size_log2));
        let pages = self.narrow(pages, ty.memory64);
        self.push(pages);
    }

    fn memory_grow(&mut self, memory: MemoryIndex) {
        let ty = self.module.memories[memory];
        let delta = self.pop();
        let delta = self.widen(delta);
        let memory = self.builder.ins().iconst(I32, i64::from(memory.as_u32()));
        if let Some(old) = self.call_builtin(Builtin::memory_grow, &[memory, delta]) {
            let old = self.narrow(old, ty.memory64);
            self.push(old);
        }
    }

    /// Translates `op` if it is of this family.
    pub(super) fn memory(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        match op {
            Op::I32Load { memarg } => self.load(I32, memarg),
            Op::I64Load { memarg } => self.load(I64, memarg),
            Op::F32Load { memarg } => self.load(F32, memarg),
            Op::F64Load { memarg } => self.load(F64, memarg),
            Op::I32Load8S { memarg } => self.load_extended(I8, true, I32, memarg),
            Op::I32Load8U { memarg } => self.load_extended(I8, false, I32, memarg),
            Op::I32Load16S { memarg } => self.load_extended(I16, true, I32, memarg),
            Op::I32Load16U { memarg } => self.load_extended(I16, false, I32, memarg),
            Op::I64Load8S { memarg } => self.load_extended(I8, true, I64, memarg),
            Op::I64Load8U { memarg } => self.load_extended(I8, false, I64, memarg),
            Op::I64Load16S { memarg } => self.load_extended(I16, true, I64, memarg),
            Op::I64Load16U { memarg } => self.load_extended(I16, false, I64, memarg),
            Op::I64Load32S { memarg } => self.load_extended(I32, true, I64, memarg),
            Op::I64Load32U { memarg } => self.load_extended(I32, false, I64, memarg),
            Op::I32Store { memarg } => self.store(I32, memarg),
            Op::I64Store { memarg } => self.store(I64, memarg),
            Op::F32Store { memarg } => self.store(F32, memarg),
            Op::F64Store { memarg } => self.store(F64, memarg),
            Op::I32Store8 { memarg } | Op::I64Store8 { memarg } => self.store(I8, memarg),
            Op::I32Store16 { memarg } | Op::I64Store16 { memarg } => self.store(I16, memarg),
            Op::I64Store32 { memarg } => self.store(I32, memarg),
            Op::MemorySize { mem } => self.memory_size(MemoryIndex::from_u32(*mem)),
            Op::MemoryGrow { mem } => self.memory_grow(MemoryIndex::from_u32(*mem)),
            _ => return false,
        }
        true
    }
}
