//! Arithmetic, comparisons and shifts on lanes of integers, and the instructions between lanes of one width and of twice it.
//!
//! Shift counts are taken modulo the width of a lane by the code generator's instructions, as the specification does. The pairs of widening
//! and multiplication, or widening and pairwise addition, are patterns that the code generator knows as single instructions.

use crate::translate::translator::Translator;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8X16, I16X8, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Translates an instruction on lanes of integers. False if `op` is none.
    pub(super) fn simd_integer(&mut self, op: &Operator<'_>) -> bool {
        self.simd_compare_integers(op) || self.simd_integer_arithmetic(op) || self.simd_widening(op)
    }

    fn simd_compare_integers(&mut self, op: &Operator<'_>) -> bool {
        let (ty, condition) = match op {
            Operator::I8x16Eq => (I8X16, IntCC::Equal),
            Operator::I8x16Ne => (I8X16, IntCC::NotEqual),
            Operator::I8x16LtS => (I8X16, IntCC::SignedLessThan),
            Operator::I8x16LtU => (I8X16, IntCC::UnsignedLessThan),
            Operator::I8x16GtS => (I8X16, IntCC::SignedGreaterThan),
            Operator::I8x16GtU => (I8X16, IntCC::UnsignedGreaterThan),
            Operator::I8x16LeS => (I8X16, IntCC::SignedLessThanOrEqual),
            Operator::I8x16LeU => (I8X16, IntCC::UnsignedLessThanOrEqual),
            Operator::I8x16GeS => (I8X16, IntCC::SignedGreaterThanOrEqual),
            Operator::I8x16GeU => (I8X16, IntCC::UnsignedGreaterThanOrEqual),
            Operator::I16x8Eq => (I16X8, IntCC::Equal),
            Operator::I16x8Ne => (I16X8, IntCC::NotEqual),
            Operator::I16x8LtS => (I16X8, IntCC::SignedLessThan),
            Operator::I16x8LtU => (I16X8, IntCC::UnsignedLessThan),
            Operator::I16x8GtS => (I16X8, IntCC::SignedGreaterThan),
            Operator::I16x8GtU => (I16X8, IntCC::UnsignedGreaterThan),
            Operator::I16x8LeS => (I16X8, IntCC::SignedLessThanOrEqual),
            Operator::I16x8LeU => (I16X8, IntCC::UnsignedLessThanOrEqual),
            Operator::I16x8GeS => (I16X8, IntCC::SignedGreaterThanOrEqual),
            Operator::I16x8GeU => (I16X8, IntCC::UnsignedGreaterThanOrEqual),
            Operator::I32x4Eq => (I32X4, IntCC::Equal),
            Operator::I32x4Ne => (I32X4, IntCC::NotEqual),
            Operator::I32x4LtS => (I32X4, IntCC::SignedLessThan),
            Operator::I32x4LtU => (I32X4, IntCC::UnsignedLessThan),
            Operator::I32x4GtS => (I32X4, IntCC::SignedGreaterThan),
            Operator::I32x4GtU => (I32X4, IntCC::UnsignedGreaterThan),
            Operator::I32x4LeS => (I32X4, IntCC::SignedLessThanOrEqual),
            Operator::I32x4LeU => (I32X4, IntCC::UnsignedLessThanOrEqual),
            Operator::I32x4GeS => (I32X4, IntCC::SignedGreaterThanOrEqual),
            Operator::I32x4GeU => (I32X4, IntCC::UnsignedGreaterThanOrEqual),
            Operator::I64x2Eq => (I64X2, IntCC::Equal),
            Operator::I64x2Ne => (I64X2, IntCC::NotEqual),
            Operator::I64x2LtS => (I64X2, IntCC::SignedLessThan),
            Operator::I64x2GtS => (I64X2, IntCC::SignedGreaterThan),
            Operator::I64x2LeS => (I64X2, IntCC::SignedLessThanOrEqual),
            Operator::I64x2GeS => (I64X2, IntCC::SignedGreaterThanOrEqual),
            _ => return false,
        };
        let (x, y) = self.pop2_lanes(ty);
        let mask = self.builder.ins().icmp(condition, x, y);
        self.push(mask);
        true
    }

    fn simd_integer_arithmetic(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::I8x16Abs => self.lanewise(I8X16, Opcode::Iabs),
            Operator::I8x16Neg => self.lanewise(I8X16, Opcode::Ineg),
            Operator::I8x16Popcnt => self.lanewise(I8X16, Opcode::Popcnt),
            Operator::I8x16Shl => self.shift(I8X16, Opcode::Ishl),
            Operator::I8x16ShrS => self.shift(I8X16, Opcode::Sshr),
            Operator::I8x16ShrU => self.shift(I8X16, Opcode::Ushr),
            Operator::I8x16Add => self.lanewise2(I8X16, Opcode::Iadd),
            Operator::I8x16AddSatS => self.lanewise2(I8X16, Opcode::SaddSat),
            Operator::I8x16AddSatU => self.lanewise2(I8X16, Opcode::UaddSat),
            Operator::I8x16Sub => self.lanewise2(I8X16, Opcode::Isub),
            Operator::I8x16SubSatS => self.lanewise2(I8X16, Opcode::SsubSat),
            Operator::I8x16SubSatU => self.lanewise2(I8X16, Opcode::UsubSat),
            Operator::I8x16MinS => self.lanewise2(I8X16, Opcode::Smin),
            Operator::I8x16MinU => self.lanewise2(I8X16, Opcode::Umin),
            Operator::I8x16MaxS => self.lanewise2(I8X16, Opcode::Smax),
            Operator::I8x16MaxU => self.lanewise2(I8X16, Opcode::Umax),
            Operator::I8x16AvgrU => self.lanewise2(I8X16, Opcode::AvgRound),

            Operator::I16x8Abs => self.lanewise(I16X8, Opcode::Iabs),
            Operator::I16x8Neg => self.lanewise(I16X8, Opcode::Ineg),
            Operator::I16x8Shl => self.shift(I16X8, Opcode::Ishl),
            Operator::I16x8ShrS => self.shift(I16X8, Opcode::Sshr),
            Operator::I16x8ShrU => self.shift(I16X8, Opcode::Ushr),
            Operator::I16x8Add => self.lanewise2(I16X8, Opcode::Iadd),
            Operator::I16x8AddSatS => self.lanewise2(I16X8, Opcode::SaddSat),
            Operator::I16x8AddSatU => self.lanewise2(I16X8, Opcode::UaddSat),
            Operator::I16x8Sub => self.lanewise2(I16X8, Opcode::Isub),
            Operator::I16x8SubSatS => self.lanewise2(I16X8, Opcode::SsubSat),
            Operator::I16x8SubSatU => self.lanewise2(I16X8, Opcode::UsubSat),
            Operator::I16x8Mul => self.lanewise2(I16X8, Opcode::Imul),
            Operator::I16x8MinS => self.lanewise2(I16X8, Opcode::Smin),
            Operator::I16x8MinU => self.lanewise2(I16X8, Opcode::Umin),
            Operator::I16x8MaxS => self.lanewise2(I16X8, Opcode::Smax),
            Operator::I16x8MaxU => self.lanewise2(I16X8, Opcode::Umax),
            Operator::I16x8AvgrU => self.lanewise2(I16X8, Opcode::AvgRound),
            Operator::I16x8Q15MulrSatS => self.lanewise2(I16X8, Opcode::SqmulRoundSat),

            Operator::I32x4Abs => self.lanewise(I32X4, Opcode::Iabs),
            Operator::I32x4Neg => self.lanewise(I32X4, Opcode::Ineg),
            Operator::I32x4Shl => self.shift(I32X4, Opcode::Ishl),
            Operator::I32x4ShrS => self.shift(I32X4, Opcode::Sshr),
            Operator::I32x4ShrU => self.shift(I32X4, Opcode::Ushr),
            Operator::I32x4Add => self.lanewise2(I32X4, Opcode::Iadd),
            Operator::I32x4Sub => self.lanewise2(I32X4, Opcode::Isub),
            Operator::I32x4Mul => self.lanewise2(I32X4, Opcode::Imul),
            Operator::I32x4MinS => self.lanewise2(I32X4, Opcode::Smin),
            Operator::I32x4MinU => self.lanewise2(I32X4, Opcode::Umin),
            Operator::I32x4MaxS => self.lanewise2(I32X4, Opcode::Smax),
            Operator::I32x4MaxU => self.lanewise2(I32X4, Opcode::Umax),
            Operator::I32x4DotI16x8S => self.dot(),

            Operator::I64x2Abs => self.lanewise(I64X2, Opcode::Iabs),
            Operator::I64x2Neg => self.lanewise(I64X2, Opcode::Ineg),
            Operator::I64x2Shl => self.shift(I64X2, Opcode::Ishl),
            Operator::I64x2ShrS => self.shift(I64X2, Opcode::Sshr),
            Operator::I64x2ShrU => self.shift(I64X2, Opcode::Ushr),
            Operator::I64x2Add => self.lanewise2(I64X2, Opcode::Iadd),
            Operator::I64x2Sub => self.lanewise2(I64X2, Opcode::Isub),
            Operator::I64x2Mul => self.lanewise2(I64X2, Opcode::Imul),
            _ => return false,
        }
        true
    }

    /// Instructions whose operands and results differ in the width of lanes. The types are those of the operands.
    fn simd_widening(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::I8x16NarrowI16x8S => self.lanewise2(I16X8, Opcode::Snarrow),
            Operator::I8x16NarrowI16x8U => self.lanewise2(I16X8, Opcode::Unarrow),
            Operator::I16x8NarrowI32x4S => self.lanewise2(I32X4, Opcode::Snarrow),
            Operator::I16x8NarrowI32x4U => self.lanewise2(I32X4, Opcode::Unarrow),

            Operator::I16x8ExtendLowI8x16S => self.lanewise(I8X16, Opcode::SwidenLow),
            Operator::I16x8ExtendHighI8x16S => self.lanewise(I8X16, Opcode::SwidenHigh),
            Operator::I16x8ExtendLowI8x16U => self.lanewise(I8X16, Opcode::UwidenLow),
            Operator::I16x8ExtendHighI8x16U => self.lanewise(I8X16, Opcode::UwidenHigh),
            Operator::I32x4ExtendLowI16x8S => self.lanewise(I16X8, Opcode::SwidenLow),
            Operator::I32x4ExtendHighI16x8S => self.lanewise(I16X8, Opcode::SwidenHigh),
            Operator::I32x4ExtendLowI16x8U => self.lanewise(I16X8, Opcode::UwidenLow),
            Operator::I32x4ExtendHighI16x8U => self.lanewise(I16X8, Opcode::UwidenHigh),
            Operator::I64x2ExtendLowI32x4S => self.lanewise(I32X4, Opcode::SwidenLow),
            Operator::I64x2ExtendHighI32x4S => self.lanewise(I32X4, Opcode::SwidenHigh),
            Operator::I64x2ExtendLowI32x4U => self.lanewise(I32X4, Opcode::UwidenLow),
            Operator::I64x2ExtendHighI32x4U => self.lanewise(I32X4, Opcode::UwidenHigh),

            Operator::I16x8ExtMulLowI8x16S => self.multiply_widened(I8X16, Opcode::SwidenLow),
            Operator::I16x8ExtMulHighI8x16S => self.multiply_widened(I8X16, Opcode::SwidenHigh),
            Operator::I16x8ExtMulLowI8x16U => self.multiply_widened(I8X16, Opcode::UwidenLow),
            Operator::I16x8ExtMulHighI8x16U => self.multiply_widened(I8X16, Opcode::UwidenHigh),
            Operator::I32x4ExtMulLowI16x8S => self.multiply_widened(I16X8, Opcode::SwidenLow),
            Operator::I32x4ExtMulHighI16x8S => self.multiply_widened(I16X8, Opcode::SwidenHigh),
            Operator::I32x4ExtMulLowI16x8U => self.multiply_widened(I16X8, Opcode::UwidenLow),
            Operator::I32x4ExtMulHighI16x8U => self.multiply_widened(I16X8, Opcode::UwidenHigh),
            Operator::I64x2ExtMulLowI32x4S => self.multiply_widened(I32X4, Opcode::SwidenLow),
            Operator::I64x2ExtMulHighI32x4S => self.multiply_widened(I32X4, Opcode::SwidenHigh),
            Operator::I64x2ExtMulLowI32x4U => self.multiply_widened(I32X4, Opcode::UwidenLow),
            Operator::I64x2ExtMulHighI32x4U => self.multiply_widened(I32X4, Opcode::UwidenHigh),

            Operator::I16x8ExtAddPairwiseI8x16S => self.add_pairwise_widened(I8X16, Opcode::SwidenLow, Opcode::SwidenHigh),
            Operator::I16x8ExtAddPairwiseI8x16U => self.add_pairwise_widened(I8X16, Opcode::UwidenLow, Opcode::UwidenHigh),
            Operator::I32x4ExtAddPairwiseI16x8S => self.add_pairwise_widened(I16X8, Opcode::SwidenLow, Opcode::SwidenHigh),
            Operator::I32x4ExtAddPairwiseI16x8U => self.add_pairwise_widened(I16X8, Opcode::UwidenLow, Opcode::UwidenHigh),
            _ => return false,
        }
        true
    }

    /// Shifts each lane by the same count.
    fn shift(&mut self, ty: Type, opcode: Opcode) {
        let (x, count) = self.pop2();
        let x = self.as_lanes(x, ty);
        let value = self.emit_binary(opcode, ty, x, count);
        self.push(value);
    }

    fn multiply_widened(&mut self, ty: Type, widen: Opcode) {
        let (x, y) = self.pop2_lanes(ty);
        let x = self.emit_unary(widen, ty, x);
        let y = self.emit_unary(widen, ty, y);
        let value = self.builder.ins().imul(x, y);
        self.push(value);
    }

    fn add_pairwise_widened(&mut self, ty: Type, widen_low: Opcode, widen_high: Opcode) {
        let x = self.pop_lanes(ty);
        let low = self.emit_unary(widen_low, ty, x);
        let high = self.emit_unary(widen_high, ty, x);
        let value = self.builder.ins().iadd_pairwise(low, high);
        self.push(value);
    }

    /// `i32x4.dot_i16x8_s`.
    fn dot(&mut self) {
        let (x, y) = self.pop2_lanes(I16X8);
        let value = self.dot_signed(x, y);
        self.push(value);
    }

    /// The products of the lanes of `x` and `y`, as signed numbers of twice the width, added by pairs.
    pub(super) fn dot_signed(&mut self, x: Value, y: Value) -> Value {
        let x_low = self.builder.ins().swiden_low(x);
        let y_low = self.builder.ins().swiden_low(y);
        let low = self.builder.ins().imul(x_low, y_low);
        let x_high = self.builder.ins().swiden_high(x);
        let y_high = self.builder.ins().swiden_high(y);
        let high = self.builder.ins().imul(x_high, y_high);
        self.builder.ins().iadd_pairwise(low, high)
    }
}
