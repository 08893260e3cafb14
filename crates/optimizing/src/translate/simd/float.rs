//! Arithmetic and comparisons on lanes of floats.
//!
//! `min` and `max` give NaN if either lane is one; `pmin` and `pmax` are a comparison and a choice, in the shape that the code generator
//! knows as single instructions.

use crate::translate::translator::Translator;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32X4, F64X2};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Translates an instruction on lanes of floats. False if `op` is none.
    pub(super) fn simd_float(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::F32x4Eq => self.compare_float_lanes(F32X4, FloatCC::Equal),
            Operator::F32x4Ne => self.compare_float_lanes(F32X4, FloatCC::NotEqual),
            Operator::F32x4Lt => self.compare_float_lanes(F32X4, FloatCC::LessThan),
            Operator::F32x4Gt => self.compare_float_lanes(F32X4, FloatCC::GreaterThan),
            Operator::F32x4Le => self.compare_float_lanes(F32X4, FloatCC::LessThanOrEqual),
            Operator::F32x4Ge => self.compare_float_lanes(F32X4, FloatCC::GreaterThanOrEqual),
            Operator::F64x2Eq => self.compare_float_lanes(F64X2, FloatCC::Equal),
            Operator::F64x2Ne => self.compare_float_lanes(F64X2, FloatCC::NotEqual),
            Operator::F64x2Lt => self.compare_float_lanes(F64X2, FloatCC::LessThan),
            Operator::F64x2Gt => self.compare_float_lanes(F64X2, FloatCC::GreaterThan),
            Operator::F64x2Le => self.compare_float_lanes(F64X2, FloatCC::LessThanOrEqual),
            Operator::F64x2Ge => self.compare_float_lanes(F64X2, FloatCC::GreaterThanOrEqual),

            Operator::F32x4Ceil => self.round_lanes(F32X4, Opcode::Ceil),
            Operator::F32x4Floor => self.round_lanes(F32X4, Opcode::Floor),
            Operator::F32x4Trunc => self.round_lanes(F32X4, Opcode::Trunc),
            Operator::F32x4Nearest => self.round_lanes(F32X4, Opcode::Nearest),
            Operator::F32x4Abs => self.lanewise(F32X4, Opcode::Fabs),
            Operator::F32x4Neg => self.lanewise(F32X4, Opcode::Fneg),
            Operator::F32x4Sqrt => self.lanewise(F32X4, Opcode::Sqrt),
            Operator::F32x4Add => self.lanewise2(F32X4, Opcode::Fadd),
            Operator::F32x4Sub => self.lanewise2(F32X4, Opcode::Fsub),
            Operator::F32x4Mul => self.lanewise2(F32X4, Opcode::Fmul),
            Operator::F32x4Div => self.lanewise2(F32X4, Opcode::Fdiv),
            Operator::F32x4Min => self.lanewise2(F32X4, Opcode::Fmin),
            Operator::F32x4Max => self.lanewise2(F32X4, Opcode::Fmax),
            Operator::F32x4PMin => self.pseudo_min(F32X4),
            Operator::F32x4PMax => self.pseudo_max(F32X4),

            Operator::F64x2Ceil => self.round_lanes(F64X2, Opcode::Ceil),
            Operator::F64x2Floor => self.round_lanes(F64X2, Opcode::Floor),
            Operator::F64x2Trunc => self.round_lanes(F64X2, Opcode::Trunc),
            Operator::F64x2Nearest => self.round_lanes(F64X2, Opcode::Nearest),
            Operator::F64x2Abs => self.lanewise(F64X2, Opcode::Fabs),
            Operator::F64x2Neg => self.lanewise(F64X2, Opcode::Fneg),
            Operator::F64x2Sqrt => self.lanewise(F64X2, Opcode::Sqrt),
            Operator::F64x2Add => self.lanewise2(F64X2, Opcode::Fadd),
            Operator::F64x2Sub => self.lanewise2(F64X2, Opcode::Fsub),
            Operator::F64x2Mul => self.lanewise2(F64X2, Opcode::Fmul),
            Operator::F64x2Div => self.lanewise2(F64X2, Opcode::Fdiv),
            Operator::F64x2Min => self.lanewise2(F64X2, Opcode::Fmin),
            Operator::F64x2Max => self.lanewise2(F64X2, Opcode::Fmax),
            Operator::F64x2PMin => self.pseudo_min(F64X2),
            Operator::F64x2PMax => self.pseudo_max(F64X2),
            _ => return false,
        }
        true
    }

    /// `pmin`: the second operand where it is less than the first, else the first.
    pub(super) fn pseudo_min(&mut self, ty: Type) {
        let (x, y) = self.pop2_lanes(ty);
        self.choose_second(ty, FloatCC::LessThan, (y, x), (x, y));
    }

    /// `pmax`: the second operand where the first is less than it, else the first.
    pub(super) fn pseudo_max(&mut self, ty: Type) {
        let (x, y) = self.pop2_lanes(ty);
        self.choose_second(ty, FloatCC::LessThan, (x, y), (x, y));
    }

    /// The second of `choices` where `condition` holds between `compared`, else the first.
    fn choose_second(&mut self, ty: Type, condition: FloatCC, compared: (Value, Value), choices: (Value, Value)) {
        let mask = self.builder.ins().fcmp(condition, compared.0, compared.1);
        let mask = self.as_lanes(mask, ty);
        let value = self.builder.ins().bitselect(mask, choices.1, choices.0);
        self.push(value);
    }

    fn compare_float_lanes(&mut self, ty: Type, condition: FloatCC) {
        let (x, y) = self.pop2_lanes(ty);
        let mask = self.builder.ins().fcmp(condition, x, y);
        self.push(mask);
    }

    /// Rounds each lane: at once, or one by one where the engine does it.
    fn round_lanes(&mut self, ty: Type, opcode: Opcode) {
        let x = self.pop_lanes(ty);
        let value = if self.has_round() {
            self.emit_unary(opcode, ty, x)
        } else {
            self.each_lane(ty, [x], |t, [lane]| t.round_scalar(opcode, lane))
        };
        self.push(value);
    }
}
