//! Making, taking apart and permuting vectors, and the instructions that see all of their bits: constants, splats, lanes, shuffles,
//! `bitselect`, reductions to a scalar.
//!
//! A shuffle or swizzle whose lanes are not known to be cheap needs SSSE3 on x86-64. Without it they are taken apart here.

use super::V128;
use crate::translate::translator::Translator;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I16X8, I32, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Translates an instruction that makes, takes apart or permutes vectors, or sees only bits. False if `op` is none.
    pub(super) fn simd_lanes(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::V128Const { value } => {
                let value = self.vector_constant(V128, *value.bytes());
                self.push(value);
            }
            Operator::I8x16Shuffle { lanes } => {
                let (x, y) = self.pop2_lanes(I8X16);
                let value = self.shuffle(x, y, lanes);
                self.push(value);
            }
            Operator::I8x16Swizzle => {
                let (x, indices) = self.pop2_lanes(I8X16);
                let value = self.swizzle(x, indices);
                self.push(value);
            }

            Operator::I8x16Splat => self.splat(I8X16),
            Operator::I16x8Splat => self.splat(I16X8),
            Operator::I32x4Splat => self.splat(I32X4),
            Operator::I64x2Splat => self.splat(I64X2),
            Operator::F32x4Splat => self.splat(F32X4),
            Operator::F64x2Splat => self.splat(F64X2),
            Operator::I8x16ExtractLaneS { lane } => self.extract_narrow(I8X16, *lane, Opcode::Sextend),
            Operator::I8x16ExtractLaneU { lane } => self.extract_narrow(I8X16, *lane, Opcode::Uextend),
            Operator::I16x8ExtractLaneS { lane } => self.extract_narrow(I16X8, *lane, Opcode::Sextend),
            Operator::I16x8ExtractLaneU { lane } => self.extract_narrow(I16X8, *lane, Opcode::Uextend),
            Operator::I32x4ExtractLane { lane } => self.extract(I32X4, *lane),
            Operator::I64x2ExtractLane { lane } => self.extract(I64X2, *lane),
            Operator::F32x4ExtractLane { lane } => self.extract(F32X4, *lane),
            Operator::F64x2ExtractLane { lane } => self.extract(F64X2, *lane),
            Operator::I8x16ReplaceLane { lane } => self.replace(I8X16, *lane),
            Operator::I16x8ReplaceLane { lane } => self.replace(I16X8, *lane),
            Operator::I32x4ReplaceLane { lane } => self.replace(I32X4, *lane),
            Operator::I64x2ReplaceLane { lane } => self.replace(I64X2, *lane),
            Operator::F32x4ReplaceLane { lane } => self.replace(F32X4, *lane),
            Operator::F64x2ReplaceLane { lane } => self.replace(F64X2, *lane),

            Operator::V128Not => self.lanewise(V128, Opcode::Bnot),
            Operator::V128And => self.lanewise2(V128, Opcode::Band),
            Operator::V128Or => self.lanewise2(V128, Opcode::Bor),
            Operator::V128Xor => self.lanewise2(V128, Opcode::Bxor),
            Operator::V128AndNot => {
                let (x, y) = self.pop2_lanes(V128);
                let value = self.builder.ins().band_not(x, y);
                self.push(value);
            }
            Operator::V128Bitselect => {
                let (x, y, mask) = self.pop3_lanes(V128);
                let value = self.builder.ins().bitselect(mask, x, y);
                self.push(value);
            }
            Operator::V128AnyTrue => self.any_true(),
            Operator::I8x16AllTrue => self.all_true(I8X16),
            Operator::I16x8AllTrue => self.all_true(I16X8),
            Operator::I32x4AllTrue => self.all_true(I32X4),
            Operator::I64x2AllTrue => self.all_true(I64X2),
            Operator::I8x16Bitmask => self.bitmask(I8X16),
            Operator::I16x8Bitmask => self.bitmask(I16X8),
            Operator::I32x4Bitmask => self.bitmask(I32X4),
            Operator::I64x2Bitmask => self.bitmask(I64X2),
            _ => return false,
        }
        true
    }

    /// The lanes of `x` that `indices` names, 0 for indices of 16 and more.
    pub(super) fn swizzle(&mut self, x: Value, indices: Value) -> Value {
        if self.has_byte_shuffle() { self.builder.ins().swizzle(x, indices) } else { self.swizzle_by_comparison(x, indices) }
    }

    /// A swizzle made of comparisons: each byte of `x` in turn goes where its number stands in `indices`.
    fn swizzle_by_comparison(&mut self, x: Value, indices: Value) -> Value {
        let mut result = self.vector_constant(I8X16, [0; 16]);
        for lane in 0..16 {
            let number = self.vector_constant(I8X16, [lane; 16]);
            let here = self.builder.ins().icmp(IntCC::Equal, indices, number);
            let byte = self.builder.ins().extractlane(x, lane);
            let bytes = self.builder.ins().splat(I8X16, byte);
            let taken = self.builder.ins().band(here, bytes);
            result = self.builder.ins().bor(result, taken);
        }
        self.budget.operations(16 * 6);
        result
    }

    fn shuffle(&mut self, x: Value, y: Value, lanes: &[u8; 16]) -> Value {
        if self.has_byte_shuffle() {
            let mask = self.builder.func.dfg.immediates.push(lanes[..].into());
            return self.builder.ins().shuffle(x, y, mask);
        }
        let mut result = x;
        for (lane, &source) in (0..).zip(lanes) {
            let value = self.builder.ins().extractlane(if source < 16 { x } else { y }, source % 16);
            result = self.builder.ins().insertlane(result, value, lane);
        }
        self.budget.operations(16 * 2);
        result
    }

    fn splat(&mut self, ty: Type) {
        let x = self.pop();
        let narrow = ty.lane_type();
        let x = if narrow.is_int() && narrow.bits() < 32 { self.builder.ins().ireduce(narrow, x) } else { x };
        let value = self.builder.ins().splat(ty, x);
        self.push(value);
    }

    fn extract(&mut self, ty: Type, lane: u8) {
        let x = self.pop_lanes(ty);
        let value = self.builder.ins().extractlane(x, lane);
        self.push(value);
    }

    fn extract_narrow(&mut self, ty: Type, lane: u8, extend: Opcode) {
        let x = self.pop_lanes(ty);
        let value = self.builder.ins().extractlane(x, lane);
        let value = self.emit_unary(extend, I32, value);
        self.push(value);
    }

    fn replace(&mut self, ty: Type, lane: u8) {
        let (x, value) = self.pop2();
        let x = self.as_lanes(x, ty);
        let narrow = ty.lane_type();
        let value = if narrow.is_int() && narrow.bits() < 32 { self.builder.ins().ireduce(narrow, value) } else { value };
        let value = self.builder.ins().insertlane(x, value, lane);
        self.push(value);
    }

    fn any_true(&mut self) {
        let x = self.pop_lanes(V128);
        let truth = self.builder.ins().vany_true(x);
        self.push_truth(truth);
    }

    fn all_true(&mut self, ty: Type) {
        let x = self.pop_lanes(ty);
        let truth = self.builder.ins().vall_true(x);
        self.push_truth(truth);
    }

    fn bitmask(&mut self, ty: Type) {
        let x = self.pop_lanes(ty);
        let value = self.builder.ins().vhigh_bits(I32, x);
        self.push(value);
    }
}
