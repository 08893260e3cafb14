//! Atomic instructions (threads proposal): loads, stores, read-modify-write, `wait`, `notify` and `fence`.
//!
//! All are sequentially consistent, which loads are on this processor, and whatever is locked. An access whose effective address is no
//! multiple of its size traps, before its bounds are checked, whatever keeps accesses to the memory inside of it. Waiting and waking is
//! the engine's, which checks the bounds of those addresses itself.

use super::assembler::{Alu, Cc, Mem};
use super::memory::Address;
use super::registers::{RAX, SCRATCH};
use crate::body::MemArg;
use crate::compile::Compiler;
use crate::operators::IntegerOp;
use crate::registers::Reg;
use crate::values::{Ty, Value};
use peregrine_artifact::builtins::Builtin;
use peregrine_wasm::{MemoryIndex, Trap};

impl Compiler<'_> {
    /// `atomic.fence`.
    pub(crate) fn atomic_fence(&mut self) {
        self.masm.mfence();
    }

    /// A load of `size_bytes`, zero-extended.
    pub(crate) fn atomic_load(&mut self, ty: Ty, size_bytes: u32, memarg: &MemArg) {
        let address = self.atomic_address(memarg, size_bytes);
        self.release_address(address);
        let target = self.result(false);
        self.memory_may_trap();
        self.load_zero_extended(size_bytes, target, address.mem);
        self.push_reg(ty, target);
    }

    /// A store of the low `size_bytes`.
    pub(crate) fn atomic_store(&mut self, ty: Ty, size_bytes: u32, memarg: &MemArg) {
        let value = self.pop();
        let value = self.in_temporary(ty, value);
        let address = self.atomic_address(memarg, size_bytes);
        self.memory_may_trap();
        self.masm.xchg(size_bytes, address.mem, value);
        self.release_address(address);
        self.regs.release(value);
    }

    /// `xchg`.
    pub(crate) fn atomic_exchange(&mut self, ty: Ty, size_bytes: u32, memarg: &MemArg) {
        let value = self.pop();
        let value = self.in_temporary(ty, value);
        let address = self.atomic_address(memarg, size_bytes);
        self.memory_may_trap();
        self.masm.xchg(size_bytes, address.mem, value);
        self.release_address(address);
        self.push_zero_extended(ty, size_bytes, value);
    }

    /// `add`, or `sub` if `negated`.
    pub(crate) fn atomic_add(&mut self, ty: Ty, size_bytes: u32, memarg: &MemArg, negated: bool) {
        let value = self.pop();
        let value = self.in_temporary(ty, value);
        if negated {
            // `neg`
            self.masm.unary(3, ty.is_wide(), value);
        }
        let address = self.atomic_address(memarg, size_bytes);
        self.memory_may_trap();
        self.masm.lock_xadd(size_bytes, address.mem, value);
        self.release_address(address);
        self.push_zero_extended(ty, size_bytes, value);
    }

    /// `and`, `or`, `xor`: computed until nothing was written in between.
    pub(crate) fn atomic_logic(&mut self, op: IntegerOp, ty: Ty, size_bytes: u32, memarg: &MemArg) {
        let operand = self.pop_beside_rax(ty);
        self.take(RAX);
        let address = self.atomic_address(memarg, size_bytes);
        let replacement = self.alloc(false);
        self.memory_may_trap();
        self.load_zero_extended(size_bytes, RAX, address.mem);
        let again = self.masm.label();
        self.masm.bind(again);
        self.masm.mov(ty.is_wide(), replacement, RAX);
        self.masm.alu(Alu::from(op), ty.is_wide(), replacement, operand);
        self.memory_may_trap();
        self.masm.lock_cmpxchg(size_bytes, address.mem, replacement);
        self.masm.jcc(Cc::Ne, again);
        self.release_address(address);
        self.regs.release(replacement);
        self.regs.release(operand);
        self.push_zero_extended(ty, size_bytes, RAX);
    }

    /// `cmpxchg`: only the low `size_bytes` of what is expected count.
    pub(crate) fn atomic_compare_exchange(&mut self, ty: Ty, size_bytes: u32, memarg: &MemArg) {
        let replacement = self.pop_beside_rax(ty);
        let expected = self.pop();
        // What is expected is overwritten.
        self.in_fixed(ty, RAX, expected);
        let address = self.atomic_address(memarg, size_bytes);
        self.memory_may_trap();
        self.masm.lock_cmpxchg(size_bytes, address.mem, replacement);
        self.release_address(address);
        self.regs.release(replacement);
        self.push_zero_extended(ty, size_bytes, RAX);
    }

    /// `memory.atomic.notify`: `[address, count] -> [woken]`.
    pub(crate) fn atomic_notify(&mut self, memarg: &MemArg) {
        let count = self.pop_argument(Ty::I32);
        let address = self.effective_address(memarg, 4);
        let args = [(Ty::I32, Value::Const(memarg.memory.into())), address, count];
        self.call_builtin_pushing(Builtin::memory_atomic_notify, &args, Ty::I32);
    }

    /// `memory.atomic.wait32`, `memory.atomic.wait64`: `[address, expected, timeout] -> [outcome]`.
    pub(crate) fn atomic_wait(&mut self, ty: Ty, memarg: &MemArg) {
        let (builtin, size_bytes) = if ty.is_wide() { (Builtin::memory_atomic_wait64, 8) } else { (Builtin::memory_atomic_wait32, 4) };
        let timeout = self.pop_argument(Ty::I64);
        let expected = self.pop_argument(ty);
        let address = self.effective_address(memarg, size_bytes);
        let args = [(Ty::I32, Value::Const(memarg.memory.into())), address, expected, timeout];
        self.call_builtin_pushing(builtin, &args, Ty::I32);
    }

    fn atomic_index_type(&self, memarg: &MemArg) -> Ty {
        if self.module.memories[MemoryIndex::from_u32(memarg.memory)].memory64 { Ty::I64 } else { Ty::I32 }
    }

    /// Pops the address of an aligned access; it is in bounds, or it faults.
    fn atomic_address(&mut self, memarg: &MemArg, size_bytes: u32) -> Address {
        let index = self.pop();
        let index = match index {
            Value::Const(_) => index,
            _ => Value::Reg(self.in_reg(self.atomic_index_type(memarg), index)),
        };
        self.check_alignment(index, memarg, size_bytes);
        self.address_of(index, memarg, size_bytes)
    }

    /// Pops the address; gives the aligned address within the memory, whose bounds are not checked, as an argument.
    fn effective_address(&mut self, memarg: &MemArg, size_bytes: u32) -> (Ty, Value) {
        let index_ty = self.atomic_index_type(memarg);
        let index = self.pop();
        let address = self.in_temporary(index_ty, index);
        self.check_alignment(Value::Reg(address), memarg, size_bytes);
        if memarg.offset > 0 {
            self.masm.mov_imm(SCRATCH, memarg.offset);
            self.masm.alu(Alu::Add, true, address, SCRATCH);
            if index_ty == Ty::I64 {
                self.trap_if(Cc::B, Trap::MemoryOutOfBounds);
            }
        }
        (Ty::I64, Value::Reg(address))
    }

    /// Traps if the sum of the index, a constant or in a register, and the offset is no multiple of the size, a power of two.
    fn check_alignment(&mut self, index: Value, memarg: &MemArg, size_bytes: u32) {
        let mask = size_bytes as u8 - 1;
        let offset = memarg.offset as u8 & mask;
        match index {
            _ if mask == 0 => {}
            Value::Const(bits) if (bits as u8).wrapping_add(offset) & mask == 0 => {}
            Value::Reg(reg) => {
                let mut sum = reg;
                if offset > 0 {
                    self.masm.lea(false, SCRATCH, Mem::new(reg, offset.into()));
                    sum = SCRATCH;
                }
                self.masm.test8_imm(sum, mask);
                self.trap_if(Cc::Ne, Trap::HeapMisaligned);
            }
            _ => self.trap(Trap::HeapMisaligned),
        }
    }

    /// Pops an integer to a register that is not `rax`, and not to be written.
    fn pop_beside_rax(&mut self, ty: Ty) -> Reg {
        let reg = self.pop_reg(ty);
        if reg != RAX {
            return reg;
        }
        let other = self.alloc(false);
        self.move_reg(ty, other, reg);
        self.regs.release(reg);
        other
    }

    fn load_zero_extended(&mut self, size_bytes: u32, target: Reg, source: Mem) {
        match size_bytes {
            1 => self.masm.movzx8(target, source),
            2 => self.masm.movzx16(target, source),
            _ => self.masm.mov(size_bytes == 8, target, source),
        }
    }

    /// Pushes the low `size_bytes` of a temporary register.
    fn push_zero_extended(&mut self, ty: Ty, size_bytes: u32, reg: Reg) {
        match size_bytes {
            1 => self.masm.movzx8(reg, reg),
            2 => self.masm.movzx16(reg, reg),
            4 => self.masm.mov(false, reg, reg),
            _ => {}
        }
        self.push_reg(ty, reg);
    }
}
