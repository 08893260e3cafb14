//! Conversions between lanes of integers and of floats, and between floats of both widths.
//!
//! The code generator converts between lanes of one width, so a conversion that changes the width is two instructions: it knows the pairs
//! made here as one.

use crate::translate::translator::Translator;
use cranelift_codegen::ir::types::{F32X4, F64X2, I32, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Translates a conversion of lanes. False if `op` is none.
    pub(super) fn simd_convert(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::F32x4ConvertI32x4S => self.convert_lanes(I32X4, Opcode::FcvtFromSint, F32X4),
            Operator::F32x4ConvertI32x4U => self.convert_lanes(I32X4, Opcode::FcvtFromUint, F32X4),
            Operator::F64x2ConvertLowI32x4S => self.convert_low(Opcode::SwidenLow, Opcode::FcvtFromSint),
            Operator::F64x2ConvertLowI32x4U => self.convert_low(Opcode::UwidenLow, Opcode::FcvtFromUint),
            Operator::I32x4TruncSatF32x4S => self.convert_lanes(F32X4, Opcode::FcvtToSintSat, I32X4),
            Operator::I32x4TruncSatF32x4U => self.convert_lanes(F32X4, Opcode::FcvtToUintSat, I32X4),
            Operator::I32x4TruncSatF64x2SZero => self.truncate_narrowing(Opcode::FcvtToSintSat, Opcode::Snarrow),
            Operator::I32x4TruncSatF64x2UZero => self.truncate_narrowing(Opcode::FcvtToUintSat, Opcode::Uunarrow),
            Operator::F32x4DemoteF64x2Zero => self.convert_lanes(F64X2, Opcode::Fvdemote, F32X4),
            Operator::F64x2PromoteLowF32x4 => self.convert_lanes(F32X4, Opcode::FvpromoteLow, F64X2),
            _ => return false,
        }
        true
    }

    /// Converts lanes of `from` to lanes of `to`.
    pub(super) fn convert_lanes(&mut self, from: Type, opcode: Opcode, to: Type) {
        let x = self.pop_lanes(from);
        let value = self.emit_unary(opcode, to, x);
        self.push(value);
    }

    /// Both lanes of `f64x2` truncated to 64-bit integers, and those saturated to the low lanes of `i32x4`; the high lanes are 0.
    pub(super) fn truncate_narrowing(&mut self, truncate: Opcode, narrow: Opcode) {
        let x = self.pop_lanes(F64X2);
        // The code generator's way to unsigned lanes begins with rounding.
        if truncate == Opcode::FcvtToUintSat && !self.has_round() {
            return self.truncate_by_lane(x);
        }
        let wide = self.emit_unary(truncate, I64X2, x);
        let zero = self.vector_constant(I64X2, [0; 16]);
        let value = self.emit_binary(narrow, I64X2, wide, zero);
        self.push(value);
    }

    fn truncate_by_lane(&mut self, x: Value) {
        let mut result = self.vector_constant(I32X4, [0; 16]);
        for lane in 0..2 {
            let value = self.builder.ins().extractlane(x, lane);
            let value = self.builder.ins().fcvt_to_uint_sat(I32, value);
            result = self.builder.ins().insertlane(result, value, lane);
        }
        self.push(result);
    }

    /// The low lanes of `i32x4` as `f64x2`.
    fn convert_low(&mut self, widen: Opcode, convert: Opcode) {
        let x = self.pop_lanes(I32X4);
        let wide = self.emit_unary(widen, I32X4, x);
        let value = self.emit_unary(convert, F64X2, wide);
        self.push(value);
    }
}
