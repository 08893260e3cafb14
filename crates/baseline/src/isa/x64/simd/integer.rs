//! Arithmetic, comparisons and shifts of lanes of integers.

use super::super::assembler::{Alu, Sse};
use super::super::registers::{SCRATCH, VECTOR_SCRATCH, VECTOR_SCRATCH_2};
use super::{PAND, PANDN, POR, PSHUFB, PSHUFD, PXOR, bytes, doubles, p66, quads, words};
use crate::compile::Compiler;
use crate::registers::Reg;
use crate::values::Ty::{I32, V128};
use crate::values::Value;
use wasmparser::Operator;

const fn m38(opcode: u8) -> Sse {
    Sse::map38(opcode)
}

/// The bits of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    I8,
    I16,
    I32,
    I64,
}

impl Lane {
    const fn equal(self) -> Sse {
        match self {
            Self::I8 => p66(0x74),
            Self::I16 => p66(0x75),
            Self::I32 => p66(0x76),
            Self::I64 => m38(0x29),
        }
    }

    const fn sub(self) -> Sse {
        match self {
            Self::I8 => p66(0xf8),
            Self::I16 => p66(0xf9),
            Self::I32 => p66(0xfa),
            Self::I64 => p66(0xfb),
        }
    }

    const fn greater(self) -> Sse {
        match self {
            Self::I8 => p66(0x64),
            Self::I16 => p66(0x65),
            _ => p66(0x66),
        }
    }

    const fn min_unsigned(self) -> Sse {
        match self {
            Self::I8 => p66(0xda),
            Self::I16 => m38(0x3a),
            _ => m38(0x3b),
        }
    }

    const fn max_unsigned(self) -> Sse {
        match self {
            Self::I8 => p66(0xde),
            Self::I16 => m38(0x3e),
            _ => m38(0x3f),
        }
    }
}

/// A shift: of which lanes, by a register and by a constant.
#[derive(Clone, Copy, Debug)]
struct VectorShift {
    op: Sse,
    opcode_imm: u8,
    digit: u8,
    mask: u8,
}

const fn vector_shift(opcode: u8, opcode_imm: u8, digit: u8, mask: u8) -> VectorShift {
    VectorShift { op: p66(opcode), opcode_imm, digit, mask }
}

const PSLLW: VectorShift = vector_shift(0xf1, 0x71, 6, 15);
const PSRLW: VectorShift = vector_shift(0xd1, 0x71, 2, 15);
const PSRAW: VectorShift = vector_shift(0xe1, 0x71, 4, 15);
const PSLLD: VectorShift = vector_shift(0xf2, 0x72, 6, 31);
const PSRLD: VectorShift = vector_shift(0xd2, 0x72, 2, 31);
const PSRAD: VectorShift = vector_shift(0xe2, 0x72, 4, 31);
const PSLLQ: VectorShift = vector_shift(0xf3, 0x73, 6, 63);
const PSRLQ: VectorShift = vector_shift(0xd3, 0x73, 2, 63);

impl Compiler<'_> {
    /// Translates an instruction on lanes of integers. False if `op` is none.
    pub(super) fn simd_integer(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        match op {
            Op::V128And => self.vector_binary(PAND),
            Op::V128Or => self.vector_binary(POR),
            Op::V128Xor => self.vector_binary(PXOR),
            Op::V128AndNot => self.vector_binary_swapped(PANDN),
            Op::V128Not => self.vector_with_constant(PXOR, u128::MAX),
            Op::V128Bitselect => self.bitselect(),

            Op::I8x16Add => self.vector_binary(p66(0xfc)),
            Op::I8x16AddSatS => self.vector_binary(p66(0xec)),
            Op::I8x16AddSatU => self.vector_binary(p66(0xdc)),
            Op::I8x16Sub => self.vector_binary(p66(0xf8)),
            Op::I8x16SubSatS => self.vector_binary(p66(0xe8)),
            Op::I8x16SubSatU => self.vector_binary(p66(0xd8)),
            Op::I8x16MinS => self.vector_binary(m38(0x38)),
            Op::I8x16MinU => self.vector_binary(p66(0xda)),
            Op::I8x16MaxS => self.vector_binary(m38(0x3c)),
            Op::I8x16MaxU => self.vector_binary(p66(0xde)),
            Op::I8x16AvgrU => self.vector_binary(p66(0xe0)),
            Op::I8x16Abs => self.vector_unary(m38(0x1c)),
            Op::I8x16NarrowI16x8S => self.vector_binary(p66(0x63)),
            Op::I8x16NarrowI16x8U => self.vector_binary(p66(0x67)),
            Op::I16x8Add => self.vector_binary(p66(0xfd)),
            Op::I16x8AddSatS => self.vector_binary(p66(0xed)),
            Op::I16x8AddSatU => self.vector_binary(p66(0xdd)),
            Op::I16x8Sub => self.vector_binary(p66(0xf9)),
            Op::I16x8SubSatS => self.vector_binary(p66(0xe9)),
            Op::I16x8SubSatU => self.vector_binary(p66(0xd9)),
            Op::I16x8Mul => self.vector_binary(p66(0xd5)),
            Op::I16x8MinS => self.vector_binary(p66(0xea)),
            Op::I16x8MinU => self.vector_binary(m38(0x3a)),
            Op::I16x8MaxS => self.vector_binary(p66(0xee)),
            Op::I16x8MaxU => self.vector_binary(m38(0x3e)),
            Op::I16x8AvgrU => self.vector_binary(p66(0xe3)),
            Op::I16x8Abs => self.vector_unary(m38(0x1d)),
            Op::I16x8NarrowI32x4S => self.vector_binary(p66(0x6b)),
            Op::I16x8NarrowI32x4U => self.vector_binary(m38(0x2b)),
            Op::I16x8Q15MulrSatS => self.multiply_q15(),
            Op::I32x4Add => self.vector_binary(p66(0xfe)),
            Op::I32x4Sub => self.vector_binary(p66(0xfa)),
            Op::I32x4Mul => self.vector_binary(m38(0x40)),
            Op::I32x4MinS => self.vector_binary(m38(0x39)),
            Op::I32x4MinU => self.vector_binary(m38(0x3b)),
            Op::I32x4MaxS => self.vector_binary(m38(0x3d)),
            Op::I32x4MaxU => self.vector_binary(m38(0x3f)),
            Op::I32x4Abs => self.vector_unary(m38(0x1e)),
            Op::I32x4DotI16x8S => self.vector_binary(p66(0xf5)),
            Op::I64x2Add => self.vector_binary(p66(0xd4)),
            Op::I64x2Sub => self.vector_binary(p66(0xfb)),
            Op::I64x2Mul => self.multiply_i64x2(),
            Op::I64x2Abs => self.abs_i64x2(),
            Op::I8x16Neg => self.negate_lanes(Lane::I8),
            Op::I16x8Neg => self.negate_lanes(Lane::I16),
            Op::I32x4Neg => self.negate_lanes(Lane::I32),
            Op::I64x2Neg => self.negate_lanes(Lane::I64),
            Op::I8x16Popcnt => self.count_ones_i8x16(),

            Op::I8x16Shl => self.shift_left_i8x16(),
            Op::I8x16ShrU => self.shift_right_unsigned_i8x16(),
            Op::I8x16ShrS => self.shift_right_signed_i8x16(),
            Op::I16x8Shl => self.shift_lanes(PSLLW),
            Op::I16x8ShrS => self.shift_lanes(PSRAW),
            Op::I16x8ShrU => self.shift_lanes(PSRLW),
            Op::I32x4Shl => self.shift_lanes(PSLLD),
            Op::I32x4ShrS => self.shift_lanes(PSRAD),
            Op::I32x4ShrU => self.shift_lanes(PSRLD),
            Op::I64x2Shl => self.shift_lanes(PSLLQ),
            Op::I64x2ShrU => self.shift_lanes(PSRLQ),
            Op::I64x2ShrS => self.shift_right_signed_i64x2(),

            Op::I16x8ExtendLowI8x16S => self.vector_unary(m38(0x20)),
            Op::I16x8ExtendLowI8x16U => self.vector_unary(m38(0x30)),
            Op::I32x4ExtendLowI16x8S => self.vector_unary(m38(0x23)),
            Op::I32x4ExtendLowI16x8U => self.vector_unary(m38(0x33)),
            Op::I64x2ExtendLowI32x4S => self.vector_unary(m38(0x25)),
            Op::I64x2ExtendLowI32x4U => self.vector_unary(m38(0x35)),
            Op::I16x8ExtendHighI8x16S => self.extend_high(m38(0x20)),
            Op::I16x8ExtendHighI8x16U => self.extend_high(m38(0x30)),
            Op::I32x4ExtendHighI16x8S => self.extend_high(m38(0x23)),
            Op::I32x4ExtendHighI16x8U => self.extend_high(m38(0x33)),
            Op::I64x2ExtendHighI32x4S => self.extend_high(m38(0x25)),
            Op::I64x2ExtendHighI32x4U => self.extend_high(m38(0x35)),
            Op::I16x8ExtMulLowI8x16S => self.extended_multiply(m38(0x20), p66(0xd5), false),
            Op::I16x8ExtMulHighI8x16S => self.extended_multiply(m38(0x20), p66(0xd5), true),
            Op::I16x8ExtMulLowI8x16U => self.extended_multiply(m38(0x30), p66(0xd5), false),
            Op::I16x8ExtMulHighI8x16U => self.extended_multiply(m38(0x30), p66(0xd5), true),
            Op::I32x4ExtMulLowI16x8S => self.extended_multiply(m38(0x23), m38(0x40), false),
            Op::I32x4ExtMulHighI16x8S => self.extended_multiply(m38(0x23), m38(0x40), true),
            Op::I32x4ExtMulLowI16x8U => self.extended_multiply(m38(0x33), m38(0x40), false),
            Op::I32x4ExtMulHighI16x8U => self.extended_multiply(m38(0x33), m38(0x40), true),
            Op::I64x2ExtMulLowI32x4S => self.extended_multiply(m38(0x25), m38(0x28), false),
            Op::I64x2ExtMulHighI32x4S => self.extended_multiply(m38(0x25), m38(0x28), true),
            Op::I64x2ExtMulLowI32x4U => self.extended_multiply(m38(0x35), p66(0xf4), false),
            Op::I64x2ExtMulHighI32x4U => self.extended_multiply(m38(0x35), p66(0xf4), true),
            Op::I16x8ExtAddPairwiseI8x16S => self.add_pairs_of_signed_bytes(),
            Op::I16x8ExtAddPairwiseI8x16U => self.vector_with_constant(m38(0x04), bytes(1)),
            Op::I32x4ExtAddPairwiseI16x8S => self.vector_with_constant(p66(0xf5), words(1)),
            Op::I32x4ExtAddPairwiseI16x8U => self.add_pairs_of_unsigned_words(),
            _ => return self.simd_compare(op),
        }
        true
    }

    fn simd_compare(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        match op {
            Op::I8x16Eq => self.vector_binary(Lane::I8.equal()),
            Op::I16x8Eq => self.vector_binary(Lane::I16.equal()),
            Op::I32x4Eq => self.vector_binary(Lane::I32.equal()),
            Op::I64x2Eq => self.vector_binary(Lane::I64.equal()),
            Op::I8x16Ne => self.inverted(|this| this.vector_binary(Lane::I8.equal())),
            Op::I16x8Ne => self.inverted(|this| this.vector_binary(Lane::I16.equal())),
            Op::I32x4Ne => self.inverted(|this| this.vector_binary(Lane::I32.equal())),
            Op::I64x2Ne => self.inverted(|this| this.vector_binary(Lane::I64.equal())),
            Op::I8x16GtS => self.vector_binary(Lane::I8.greater()),
            Op::I16x8GtS => self.vector_binary(Lane::I16.greater()),
            Op::I32x4GtS => self.vector_binary(Lane::I32.greater()),
            Op::I8x16LtS => self.vector_binary_swapped(Lane::I8.greater()),
            Op::I16x8LtS => self.vector_binary_swapped(Lane::I16.greater()),
            Op::I32x4LtS => self.vector_binary_swapped(Lane::I32.greater()),
            Op::I8x16LeS => self.inverted(|this| this.vector_binary(Lane::I8.greater())),
            Op::I16x8LeS => self.inverted(|this| this.vector_binary(Lane::I16.greater())),
            Op::I32x4LeS => self.inverted(|this| this.vector_binary(Lane::I32.greater())),
            Op::I8x16GeS => self.inverted(|this| this.vector_binary_swapped(Lane::I8.greater())),
            Op::I16x8GeS => self.inverted(|this| this.vector_binary_swapped(Lane::I16.greater())),
            Op::I32x4GeS => self.inverted(|this| this.vector_binary_swapped(Lane::I32.greater())),
            Op::I64x2GtS => self.greater_i64x2(false),
            Op::I64x2LtS => self.greater_i64x2(true),
            Op::I64x2LeS => self.inverted(|this| this.greater_i64x2(false)),
            Op::I64x2GeS => self.inverted(|this| this.greater_i64x2(true)),
            // Not above what it is compared with: it is the smaller, or not below: the greater of both.
            Op::I8x16LeU => self.compare_unsigned(Lane::I8, Lane::I8.min_unsigned()),
            Op::I16x8LeU => self.compare_unsigned(Lane::I16, Lane::I16.min_unsigned()),
            Op::I32x4LeU => self.compare_unsigned(Lane::I32, Lane::I32.min_unsigned()),
            Op::I8x16GeU => self.compare_unsigned(Lane::I8, Lane::I8.max_unsigned()),
            Op::I16x8GeU => self.compare_unsigned(Lane::I16, Lane::I16.max_unsigned()),
            Op::I32x4GeU => self.compare_unsigned(Lane::I32, Lane::I32.max_unsigned()),
            Op::I8x16GtU => self.inverted(|this| this.compare_unsigned(Lane::I8, Lane::I8.min_unsigned())),
            Op::I16x8GtU => self.inverted(|this| this.compare_unsigned(Lane::I16, Lane::I16.min_unsigned())),
            Op::I32x4GtU => self.inverted(|this| this.compare_unsigned(Lane::I32, Lane::I32.min_unsigned())),
            Op::I8x16LtU => self.inverted(|this| this.compare_unsigned(Lane::I8, Lane::I8.max_unsigned())),
            Op::I16x8LtU => self.inverted(|this| this.compare_unsigned(Lane::I16, Lane::I16.max_unsigned())),
            Op::I32x4LtU => self.inverted(|this| this.compare_unsigned(Lane::I32, Lane::I32.max_unsigned())),
            _ => return false,
        }
        true
    }

    /// The opposite of what `compare` pushes.
    pub(super) fn inverted(&mut self, compare: impl FnOnce(&mut Self)) {
        compare(self);
        self.vector_with_constant(PXOR, u128::MAX);
    }

    /// Lanes of the first operand that are what `extreme` gives of both.
    fn compare_unsigned(&mut self, lane: Lane, extreme: Sse) {
        let right = self.pop();
        let left = self.pop_vector();
        let operand = self.vector_operand(V128, right);
        self.masm.movaps(VECTOR_SCRATCH, left);
        self.masm.sse(extreme, VECTOR_SCRATCH, operand);
        self.masm.sse(lane.equal(), VECTOR_SCRATCH, left);
        self.regs.release(left);
        self.release(right);
        self.push_vector_scratch(VECTOR_SCRATCH);
    }

    fn greater_i64x2(&mut self, swapped: bool) {
        let right = self.pop();
        let left = self.pop();
        let (first, second) = if swapped { (right, left) } else { (left, right) };
        let first = self.in_reg(V128, first);
        let second = self.in_reg(V128, second);
        // Where the high halves are equal the sign of the difference decides, else they do.
        self.masm.movaps(VECTOR_SCRATCH, first);
        self.masm.sse(Lane::I32.equal(), VECTOR_SCRATCH, second);
        self.masm.movaps(VECTOR_SCRATCH_2, second);
        self.masm.sse(Lane::I64.sub(), VECTOR_SCRATCH_2, first);
        self.masm.sse(PAND, VECTOR_SCRATCH, VECTOR_SCRATCH_2);
        self.masm.movaps(VECTOR_SCRATCH_2, first);
        self.masm.sse(Lane::I32.greater(), VECTOR_SCRATCH_2, second);
        self.masm.sse(POR, VECTOR_SCRATCH, VECTOR_SCRATCH_2);
        self.regs.release(first);
        self.regs.release(second);
        let target = self.result(true);
        self.masm.sse_imm(PSHUFD, target, VECTOR_SCRATCH, 0xf5);
        self.push_reg(V128, target);
    }

    /// `v128.bitselect`.
    pub(super) fn bitselect(&mut self) {
        let mask = self.pop_vector();
        let otherwise = self.pop();
        let otherwise_operand = self.vector_operand(V128, otherwise);
        self.masm.movaps(VECTOR_SCRATCH, mask);
        self.masm.sse(PANDN, VECTOR_SCRATCH, otherwise_operand);
        self.release(otherwise);
        let target = self.pop_vector_result(Value::Reg(mask));
        self.masm.sse(PAND, target, mask);
        self.masm.sse(POR, target, VECTOR_SCRATCH);
        self.regs.release(mask);
        self.push_reg(V128, target);
    }

    fn multiply_q15(&mut self) {
        let right = self.pop();
        let target = self.pop_vector_result(right);
        let operand = self.vector_operand(V128, right);
        self.masm.sse(m38(0x0b), target, operand);
        // The one product that does not fit comes out as the least number: all of its bits are inverted.
        let least = self.vector_constant(words(0x8000));
        self.masm.movaps(VECTOR_SCRATCH, target);
        self.masm.sse(Lane::I16.equal(), VECTOR_SCRATCH, least);
        self.masm.sse(PXOR, target, VECTOR_SCRATCH);
        self.release(right);
        self.push_reg(V128, target);
    }

    fn multiply_i64x2(&mut self) {
        let right = self.pop_vector();
        let target = self.pop_vector_result(Value::Reg(right));
        let pmuludq = p66(0xf4);
        self.masm.movaps(VECTOR_SCRATCH, target);
        self.masm.sse_shift_imm(0x73, 2, VECTOR_SCRATCH, 32);
        self.masm.sse(pmuludq, VECTOR_SCRATCH, right);
        self.masm.movaps(VECTOR_SCRATCH_2, right);
        self.masm.sse_shift_imm(0x73, 2, VECTOR_SCRATCH_2, 32);
        self.masm.sse(pmuludq, VECTOR_SCRATCH_2, target);
        self.masm.sse(p66(0xd4), VECTOR_SCRATCH, VECTOR_SCRATCH_2);
        self.masm.sse_shift_imm(0x73, 6, VECTOR_SCRATCH, 32);
        self.masm.sse(pmuludq, target, right);
        self.masm.sse(p66(0xd4), target, VECTOR_SCRATCH);
        self.regs.release(right);
        self.push_reg(V128, target);
    }

    fn abs_i64x2(&mut self) {
        let target = self.pop_vector_result(Value::Const(0));
        self.masm.sse_imm(PSHUFD, VECTOR_SCRATCH, target, 0xf5);
        self.masm.sse_shift_imm(0x72, 4, VECTOR_SCRATCH, 31);
        self.masm.sse(PXOR, target, VECTOR_SCRATCH);
        self.masm.sse(Lane::I64.sub(), target, VECTOR_SCRATCH);
        self.push_reg(V128, target);
    }

    fn negate_lanes(&mut self, lane: Lane) {
        let value = self.pop();
        let operand = self.vector_operand(V128, value);
        self.zero_vector(VECTOR_SCRATCH);
        self.masm.sse(lane.sub(), VECTOR_SCRATCH, operand);
        self.release(value);
        self.push_vector_scratch(VECTOR_SCRATCH);
    }

    fn count_ones_i8x16(&mut self) {
        let source = self.pop_vector();
        let low_bits = self.vector_constant(bytes(0x0f));
        let counts = self.vector_constant(0x0403_0302_0302_0201_0302_0201_0201_0100);
        self.masm.movaps(VECTOR_SCRATCH, source);
        self.masm.sse(PAND, VECTOR_SCRATCH, low_bits);
        self.masm.movaps(VECTOR_SCRATCH_2, source);
        self.masm.sse_shift_imm(0x71, 2, VECTOR_SCRATCH_2, 4);
        self.masm.sse(PAND, VECTOR_SCRATCH_2, low_bits);
        self.regs.release(source);
        let target = self.result(true);
        self.load_mem(V128, target, counts);
        self.masm.sse(PSHUFB, target, VECTOR_SCRATCH);
        self.load_mem(V128, VECTOR_SCRATCH, counts);
        self.masm.sse(PSHUFB, VECTOR_SCRATCH, VECTOR_SCRATCH_2);
        self.masm.sse(p66(0xfc), target, VECTOR_SCRATCH);
        self.push_reg(V128, target);
    }

    /// A count, modulo the width of a lane and plus `add`, in the scratch register for vectors.
    fn count_to_vector(&mut self, count: Value, mask: u8, add: i32) {
        self.load_value(I32, SCRATCH, count);
        self.release(count);
        self.masm.alu_imm(Alu::And, false, SCRATCH, mask.into());
        if add > 0 {
            self.masm.alu_imm(Alu::Add, false, SCRATCH, add);
        }
        self.masm.sse(p66(0x6e), VECTOR_SCRATCH, SCRATCH);
    }

    fn shift_lanes(&mut self, shift: VectorShift) {
        let count = self.pop();
        let target = self.pop_vector_result(Value::Const(0));
        if let Value::Const(bits) = count {
            self.masm.sse_shift_imm(shift.opcode_imm, shift.digit, target, bits as u8 & shift.mask);
        } else {
            self.count_to_vector(count, shift.mask, 0);
            self.masm.sse(shift.op, target, VECTOR_SCRATCH);
        }
        self.push_reg(V128, target);
    }

    fn shift_left_i8x16(&mut self) {
        self.shift_bytes(PSLLW, |count| 0xff << count);
    }

    fn shift_right_unsigned_i8x16(&mut self) {
        self.shift_bytes(PSRLW, |count| 0xff >> count);
    }

    /// Shifts words, and clears the bits that came from the neighbour: those that `kept` has not.
    fn shift_bytes(&mut self, shift: VectorShift, kept: impl Fn(u8) -> u8) {
        let count = self.pop();
        let target = self.pop_vector_result(Value::Const(0));
        if let Value::Const(bits) = count {
            let count = bits as u8 & 7;
            self.masm.sse_shift_imm(shift.opcode_imm, shift.digit, target, count);
            let kept = self.vector_constant(bytes(kept(count)));
            self.masm.sse(PAND, target, kept);
            return self.push_reg(V128, target);
        }
        self.count_to_vector(count, 7, 0);
        self.masm.sse(shift.op, target, VECTOR_SCRATCH);
        // The same shift of one byte of ones says what is kept; that byte goes everywhere.
        let ones = self.vector_constant(words(0x00ff));
        self.load_mem(V128, VECTOR_SCRATCH_2, ones);
        self.masm.sse(shift.op, VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.zero_vector(VECTOR_SCRATCH);
        self.masm.sse(PSHUFB, VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.masm.sse(PAND, target, VECTOR_SCRATCH_2);
        self.push_reg(V128, target);
    }

    fn shift_right_signed_i8x16(&mut self) {
        let count = self.pop();
        let target = self.pop_vector_result(Value::Const(0));
        let count = match count {
            Value::Const(bits) => Value::Const(bits & 7),
            count => count,
        };
        self.count_to_vector(count, 7, 8);
        // Bytes as the high halves of words, and back.
        self.masm.movaps(VECTOR_SCRATCH_2, target);
        self.masm.sse(p66(0x68), VECTOR_SCRATCH_2, VECTOR_SCRATCH_2);
        self.masm.sse(PSRAW.op, VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.masm.sse(p66(0x60), target, target);
        self.masm.sse(PSRAW.op, target, VECTOR_SCRATCH);
        self.masm.sse(p66(0x63), target, VECTOR_SCRATCH_2);
        self.push_reg(V128, target);
    }

    fn shift_right_signed_i64x2(&mut self) {
        let count = self.pop();
        let target = self.pop_vector_result(Value::Const(0));
        self.count_to_vector(count, 63, 0);
        let signs = self.vector_constant(quads(1 << 63));
        self.masm.sse(PSRLQ.op, target, VECTOR_SCRATCH);
        self.load_mem(V128, VECTOR_SCRATCH_2, signs);
        self.masm.sse(PSRLQ.op, VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.masm.sse(PXOR, target, VECTOR_SCRATCH_2);
        self.masm.sse(Lane::I64.sub(), target, VECTOR_SCRATCH_2);
        self.push_reg(V128, target);
    }

    fn extend_high(&mut self, extend: Sse) {
        let value = self.pop();
        let operand = self.vector_operand(V128, value);
        self.masm.sse_imm(PSHUFD, VECTOR_SCRATCH, operand, 0xee);
        self.release(value);
        let target = self.result(true);
        self.masm.sse(extend, target, VECTOR_SCRATCH);
        self.push_reg(V128, target);
    }

    fn extend_half(&mut self, extend: Sse, high: bool, target: Reg, value: Value) {
        let mut operand = self.vector_operand(V128, value);
        if high {
            self.masm.sse_imm(PSHUFD, target, operand, 0xee);
            operand = target.into();
        }
        self.masm.sse(extend, target, operand);
        self.release(value);
    }

    fn extended_multiply(&mut self, extend: Sse, multiply: Sse, high: bool) {
        let right = self.pop();
        let left = self.pop();
        self.extend_half(extend, high, VECTOR_SCRATCH, left);
        self.extend_half(extend, high, VECTOR_SCRATCH_2, right);
        self.masm.sse(multiply, VECTOR_SCRATCH, VECTOR_SCRATCH_2);
        self.push_vector_scratch(VECTOR_SCRATCH);
    }

    fn add_pairs_of_signed_bytes(&mut self) {
        // The instruction has the unsigned factors in its first operand.
        let value = self.pop();
        let operand = self.vector_operand(V128, value);
        let ones = self.vector_constant(bytes(1));
        self.load_mem(V128, VECTOR_SCRATCH, ones);
        self.masm.sse(m38(0x04), VECTOR_SCRATCH, operand);
        self.release(value);
        self.push_vector_scratch(VECTOR_SCRATCH);
    }

    fn add_pairs_of_unsigned_words(&mut self) {
        // As signed words that are 2^15 less, twice.
        let target = self.pop_vector_result(Value::Const(0));
        for (op, constant) in [(PXOR, words(0x8000)), (p66(0xf5), words(1)), (p66(0xfe), doubles(0x1_0000))] {
            let constant = self.vector_constant(constant);
            self.masm.sse(op, target, constant);
        }
        self.push_reg(V128, target);
    }
}
