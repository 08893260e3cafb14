//! Atomic instructions (threads proposal): loads, stores, read-modify-write, `wait`, `notify` and `fence`.
//!
//! All are sequentially consistent. An access whose effective address is no multiple of its size traps, before its bounds are checked,
//! whatever keeps accesses to the memory inside of it. Waiting and waking is the engine's, which checks the bounds of those addresses
//! itself.

use super::flags::trap_code;
use super::memory::memory_index;
use super::translator::Translator;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{AtomicRmwOp, InstBuilder, MemFlagsData, Type, Value};
use peregrine_artifact::builtins::Builtin;
use peregrine_wasm::Trap;
use wasmparser::{MemArg, Operator};

impl Translator<'_, '_> {
    /// Translates an atomic instruction. False if `op` is none.
    pub(crate) fn atomics(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        match op {
            Op::AtomicFence { .. } => {
                self.builder.ins().fence();
            }
            Op::MemoryAtomicNotify { memarg } => self.notify(memarg),
            Op::MemoryAtomicWait32 { memarg } => self.wait(memarg, 4, Builtin::memory_atomic_wait32),
            Op::MemoryAtomicWait64 { memarg } => self.wait(memarg, 8, Builtin::memory_atomic_wait64),

            Op::I32AtomicLoad { memarg } => self.atomic_load(I32, I32, memarg),
            Op::I64AtomicLoad { memarg } => self.atomic_load(I64, I64, memarg),
            Op::I32AtomicLoad8U { memarg } => self.atomic_load(I8, I32, memarg),
            Op::I32AtomicLoad16U { memarg } => self.atomic_load(I16, I32, memarg),
            Op::I64AtomicLoad8U { memarg } => self.atomic_load(I8, I64, memarg),
            Op::I64AtomicLoad16U { memarg } => self.atomic_load(I16, I64, memarg),
            Op::I64AtomicLoad32U { memarg } => self.atomic_load(I32, I64, memarg),
            Op::I32AtomicStore { memarg } => self.atomic_store(I32, memarg),
            Op::I64AtomicStore { memarg } => self.atomic_store(I64, memarg),
            Op::I32AtomicStore8 { memarg } | Op::I64AtomicStore8 { memarg } => self.atomic_store(I8, memarg),
            Op::I32AtomicStore16 { memarg } | Op::I64AtomicStore16 { memarg } => self.atomic_store(I16, memarg),
            Op::I64AtomicStore32 { memarg } => self.atomic_store(I32, memarg),

            Op::I32AtomicRmwAdd { memarg } => self.atomic_rmw(AtomicRmwOp::Add, I32, memarg),
            Op::I64AtomicRmwAdd { memarg } => self.atomic_rmw(AtomicRmwOp::Add, I64, memarg),
            Op::I32AtomicRmw8AddU { memarg } | Op::I64AtomicRmw8AddU { memarg } => self.atomic_rmw(AtomicRmwOp::Add, I8, memarg),
            Op::I32AtomicRmw16AddU { memarg } | Op::I64AtomicRmw16AddU { memarg } => self.atomic_rmw(AtomicRmwOp::Add, I16, memarg),
            Op::I64AtomicRmw32AddU { memarg } => self.atomic_rmw(AtomicRmwOp::Add, I32, memarg),
            Op::I32AtomicRmwSub { memarg } => self.atomic_rmw(AtomicRmwOp::Sub, I32, memarg),
            Op::I64AtomicRmwSub { memarg } => self.atomic_rmw(AtomicRmwOp::Sub, I64, memarg),
            Op::I32AtomicRmw8SubU { memarg } | Op::I64AtomicRmw8SubU { memarg } => self.atomic_rmw(AtomicRmwOp::Sub, I8, memarg),
            Op::I32AtomicRmw16SubU { memarg } | Op::I64AtomicRmw16SubU { memarg } => self.atomic_rmw(AtomicRmwOp::Sub, I16, memarg),
            Op::I64AtomicRmw32SubU { memarg } => self.atomic_rmw(AtomicRmwOp::Sub, I32, memarg),
            Op::I32AtomicRmwAnd { memarg } => self.atomic_rmw(AtomicRmwOp::And, I32, memarg),
            Op::I64AtomicRmwAnd { memarg } => self.atomic_rmw(AtomicRmwOp::And, I64, memarg),
            Op::I32AtomicRmw8AndU { memarg } | Op::I64AtomicRmw8AndU { memarg } => self.atomic_rmw(AtomicRmwOp::And, I8, memarg),
            Op::I32AtomicRmw16AndU { memarg } | Op::I64AtomicRmw16AndU { memarg } => self.atomic_rmw(AtomicRmwOp::And, I16, memarg),
            Op::I64AtomicRmw32AndU { memarg } => self.atomic_rmw(AtomicRmwOp::And, I32, memarg),
            Op::I32AtomicRmwOr { memarg } => self.atomic_rmw(AtomicRmwOp::Or, I32, memarg),
            Op::I64AtomicRmwOr { memarg } => self.atomic_rmw(AtomicRmwOp::Or, I64, memarg),
            Op::I32AtomicRmw8OrU { memarg } | Op::I64AtomicRmw8OrU { memarg } => self.atomic_rmw(AtomicRmwOp::Or, I8, memarg),
            Op::I32AtomicRmw16OrU { memarg } | Op::I64AtomicRmw16OrU { memarg } => self.atomic_rmw(AtomicRmwOp::Or, I16, memarg),
            Op::I64AtomicRmw32OrU { memarg } => self.atomic_rmw(AtomicRmwOp::Or, I32, memarg),
            Op::I32AtomicRmwXor { memarg } => self.atomic_rmw(AtomicRmwOp::Xor, I32, memarg),
            Op::I64AtomicRmwXor { memarg } => self.atomic_rmw(AtomicRmwOp::Xor, I64, memarg),
            Op::I32AtomicRmw8XorU { memarg } | Op::I64AtomicRmw8XorU { memarg } => self.atomic_rmw(AtomicRmwOp::Xor, I8, memarg),
            Op::I32AtomicRmw16XorU { memarg } | Op::I64AtomicRmw16XorU { memarg } => self.atomic_rmw(AtomicRmwOp::Xor, I16, memarg),
            Op::I64AtomicRmw32XorU { memarg } => self.atomic_rmw(AtomicRmwOp::Xor, I32, memarg),
            Op::I32AtomicRmwXchg { memarg } => self.atomic_rmw(AtomicRmwOp::Xchg, I32, memarg),
            Op::I64AtomicRmwXchg { memarg } => self.atomic_rmw(AtomicRmwOp::Xchg, I64, memarg),
            Op::I32AtomicRmw8XchgU { memarg } | Op::I64AtomicRmw8XchgU { memarg } => self.atomic_rmw(AtomicRmwOp::Xchg, I8, memarg),
            Op::I32AtomicRmw16XchgU { memarg } | Op::I64AtomicRmw16XchgU { memarg } => self.atomic_rmw(AtomicRmwOp::Xchg, I16, memarg),
            Op::I64AtomicRmw32XchgU { memarg } => self.atomic_rmw(AtomicRmwOp::Xchg, I32, memarg),
            Op::I32AtomicRmwCmpxchg { memarg } => self.atomic_compare_exchange(I32, memarg),
            Op::I64AtomicRmwCmpxchg { memarg } => self.atomic_compare_exchange(I64, memarg),
            Op::I32AtomicRmw8CmpxchgU { memarg } | Op::I64AtomicRmw8CmpxchgU { memarg } => self.atomic_compare_exchange(I8, memarg),
            Op::I32AtomicRmw16CmpxchgU { memarg } | Op::I64AtomicRmw16CmpxchgU { memarg } => self.atomic_compare_exchange(I16, memarg),
            Op::I64AtomicRmw32CmpxchgU { memarg } => self.atomic_compare_exchange(I32, memarg),
            _ => return false,
        }
        true
    }

    /// Loads `from`, zero-extended to `to`.
    fn atomic_load(&mut self, from: Type, to: Type, memarg: &MemArg) {
        let (address, flags) = self.atomic_address(memarg, from.bytes());
        let value = self.builder.ins().atomic_load(from, flags, address);
        self.push_extended(value, to);
    }

    /// Stores the low bits of type `to`.
    fn atomic_store(&mut self, to: Type, memarg: &MemArg) {
        let value = self.pop();
        let value = self.reduced(value, to);
        let (address, flags) = self.atomic_address(memarg, to.bytes());
        self.builder.ins().atomic_store(flags, value, address);
    }

    /// Reads and writes `width` bits; the result is extended to the type of the operand.
    fn atomic_rmw(&mut self, op: AtomicRmwOp, width: Type, memarg: &MemArg) {
        let operand = self.pop();
        let to = self.builder.func.dfg.value_type(operand);
        let operand = self.reduced(operand, width);
        let (address, flags) = self.atomic_address(memarg, width.bytes());
        let old = self.builder.ins().atomic_rmw(width, flags, op, address, operand);
        self.push_extended(old, to);
    }

    /// Compares and replaces `width` bits: of the expected value, too, no others count.
    fn atomic_compare_exchange(&mut self, width: Type, memarg: &MemArg) {
        let (expected, replacement) = self.pop2();
        let to = self.builder.func.dfg.value_type(expected);
        let expected = self.reduced(expected, width);
        let replacement = self.reduced(replacement, width);
        let (address, flags) = self.atomic_address(memarg, width.bytes());
        let old = self.builder.ins().atomic_cas(flags, address, expected, replacement);
        self.push_extended(old, to);
    }

    /// `memory.atomic.notify`: `[address, count] -> [woken]`.
    fn notify(&mut self, memarg: &MemArg) {
        let count = self.pop();
        let address = self.effective_address(memarg, 4);
        let memory = self.builder.ins().iconst(I32, i64::from(memory_index(memarg).as_u32()));
        if let Some(woken) = self.call_builtin(Builtin::memory_atomic_notify, &[memory, address, count]) {
            self.push(woken);
        }
    }

    /// `memory.atomic.wait32`, `memory.atomic.wait64`: `[address, expected, timeout] -> [outcome]`.
    fn wait(&mut self, memarg: &MemArg, size_bytes: u32, builtin: Builtin) {
        let (expected, timeout) = self.pop2();
        let address = self.effective_address(memarg, size_bytes);
        let memory = self.builder.ins().iconst(I32, i64::from(memory_index(memarg).as_u32()));
        if let Some(outcome) = self.call_builtin(builtin, &[memory, address, expected, timeout]) {
            self.push(outcome);
        }
    }

    /// Pops the address; gives the host address of an aligned access within bounds.
    fn atomic_address(&mut self, memarg: &MemArg, size_bytes: u32) -> (Value, MemFlagsData) {
        let index = self.pop();
        let wide = self.widen(index);
        self.check_alignment(wide, memarg, size_bytes);
        self.push(index);
        let address = self.memory_address(memarg, size_bytes);
        let host = match address.offset {
            0 => address.base,
            offset => self.builder.ins().iadd_imm_s(address.base, i64::from(offset)),
        };
        (host, address.flags)
    }

    /// Pops the address; gives the aligned address within the memory, whose bounds are not checked.
    fn effective_address(&mut self, memarg: &MemArg, size_bytes: u32) -> Value {
        let index = self.pop();
        let index = self.widen(index);
        self.check_alignment(index, memarg, size_bytes);
        if memarg.offset == 0 {
            return index;
        }
        let offset = self.builder.ins().iconst(I64, memarg.offset.cast_signed());
        self.builder.ins().uadd_overflow_trap(index, offset, trap_code(Trap::MemoryOutOfBounds))
    }

    /// Traps if the sum of `index` and the offset is no multiple of the size, a power of two.
    fn check_alignment(&mut self, index: Value, memarg: &MemArg, size_bytes: u32) {
        let mask = u64::from(size_bytes) - 1;
        if mask == 0 {
            return;
        }
        let sum = match memarg.offset & mask {
            0 => index,
            offset => self.builder.ins().iadd_imm_s(index, offset.cast_signed()),
        };
        let misaligned = self.builder.ins().band_imm_u(sum, mask.cast_signed());
        self.builder.ins().trapnz(misaligned, trap_code(Trap::HeapMisaligned));
    }

    /// The low bits of `value` that `to` has.
    fn reduced(&mut self, value: Value, to: Type) -> Value {
        if self.builder.func.dfg.value_type(value) == to { value } else { self.builder.ins().ireduce(to, value) }
    }

    /// Pushes `value`, zero-extended to `to`.
    fn push_extended(&mut self, value: Value, to: Type) {
        let value = if self.builder.func.dfg.value_type(value) == to { value } else { self.builder.ins().uextend(to, value) };
        self.push(value);
    }
}
