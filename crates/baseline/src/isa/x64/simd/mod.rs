//! Vector instructions.
//!
//! An operand in memory is aligned to 16 bytes, as these instructions want it: homes are in functions with vectors, and constants are. The
//! guest's memory is read with instructions that do not care.

mod convert;
mod float;
mod integer;
mod lanes;
mod memory;
mod relaxed;

use super::assembler::Sse;
use super::registers::VECTOR_SCRATCH;
use crate::compile::Compiler;
use crate::registers::Reg;
use crate::values::Ty::V128;
use crate::values::Value;
use wasmparser::Operator;

/// `66 0f opcode`.
pub(super) const fn p66(opcode: u8) -> Sse {
    Sse::new(0x66, opcode)
}

pub(super) const PXOR: Sse = p66(0xef);
pub(super) const PAND: Sse = p66(0xdb);
pub(super) const PANDN: Sse = p66(0xdf);
pub(super) const POR: Sse = p66(0xeb);
pub(super) const PSHUFB: Sse = Sse::map38(0x00);
pub(super) const PSHUFD: Sse = p66(0x70);

/// 16 times the same byte.
pub(super) const fn bytes(byte: u8) -> u128 {
    0x0101_0101_0101_0101_0101_0101_0101_0101 * byte as u128
}

/// 8 times the same 16 bits.
pub(super) const fn words(word: u16) -> u128 {
    0x0001_0001_0001_0001_0001_0001_0001_0001 * word as u128
}

/// 4 times the same 32 bits.
pub(super) const fn doubles(double: u32) -> u128 {
    0x0000_0001_0000_0001_0000_0001_0000_0001 * double as u128
}

/// Twice the same 64 bits.
pub(super) const fn quads(quad: u64) -> u128 {
    (quad as u128) << 64 | quad as u128
}

impl Compiler<'_> {
    /// Translates a vector instruction. False if `op` is none.
    pub(crate) fn simd(&mut self, op: &Operator<'_>) -> bool {
        self.simd_integer(op)
            || self.simd_float(op)
            || self.simd_lanes(op)
            || self.simd_memory(op)
            || self.simd_convert(op)
            || self.simd_relaxed(op)
    }

    /// Pops a vector to a register, which is not to be written.
    pub(super) fn pop_vector(&mut self) -> Reg {
        self.pop_reg(V128)
    }

    /// Pops a vector to a register that may be written, if it is not `other`.
    pub(super) fn pop_vector_result(&mut self, other: Value) -> Reg {
        let value = self.pop();
        self.in_result(V128, value, other)
    }

    /// An instruction that has its first operand for its target.
    pub(super) fn vector_binary(&mut self, op: Sse) {
        let right = self.pop();
        let target = self.pop_vector_result(right);
        let operand = self.vector_operand(V128, right);
        self.masm.sse(op, target, operand);
        self.release(right);
        self.push_reg(V128, target);
    }

    /// The same with the operands the other way round.
    pub(super) fn vector_binary_swapped(&mut self, op: Sse) {
        let right = self.pop();
        let left = self.pop();
        let target = self.in_result(V128, right, left);
        let operand = self.vector_operand(V128, left);
        self.masm.sse(op, target, operand);
        self.release(left);
        self.push_reg(V128, target);
    }

    /// An instruction of one operand.
    pub(super) fn vector_unary(&mut self, op: Sse) {
        let value = self.pop();
        let operand = self.vector_operand(V128, value);
        self.release(value);
        let target = self.result(true);
        self.masm.sse(op, target, operand);
        self.push_reg(V128, target);
    }

    /// An instruction of one vector and a constant, which is its second operand.
    pub(super) fn vector_with_constant(&mut self, op: Sse, constant: u128) {
        let target = self.pop_vector_result(Value::Const(0));
        let constant = self.vector_constant(constant);
        self.masm.sse(op, target, constant);
        self.push_reg(V128, target);
    }

    /// Pushes what was made in a scratch register.
    pub(super) fn push_vector_scratch(&mut self, scratch: Reg) {
        let target = self.result(true);
        self.masm.movaps(target, scratch);
        self.push_reg(V128, target);
    }

    /// Zeros a register.
    pub(super) fn zero_vector(&mut self, target: Reg) {
        self.masm.sse(PXOR, target, target);
    }

    /// The scratch register with a popped vector.
    pub(super) fn in_vector_scratch(&mut self, value: Value) -> Reg {
        self.load_value(V128, VECTOR_SCRATCH, value);
        self.release(value);
        VECTOR_SCRATCH
    }
}
