//! Conversions between lanes of integers and of floats, and between floats of both widths.

use super::super::assembler::Sse;
use super::super::registers::{VECTOR_SCRATCH, VECTOR_SCRATCH_2};
use super::float::FloatLane;
use super::{PAND, PXOR, doubles, p66, quads};
use crate::compile::Compiler;
use crate::values::Ty::V128;
use crate::values::Value;
use wasmparser::Operator;

const CVTTPS2DQ: Sse = Sse::new(0xf3, 0x5b);
const CVTDQ2PS: Sse = Sse::new(0, 0x5b);
const CVTTPD2DQ: Sse = p66(0xe6);

impl Compiler<'_> {
    /// Translates a conversion of lanes. False if `op` is none.
    pub(super) fn simd_convert(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        match op {
            Op::F32x4ConvertI32x4S => self.vector_unary(CVTDQ2PS),
            Op::F32x4ConvertI32x4U => self.convert_u32x4(),
            Op::F64x2ConvertLowI32x4S => self.vector_unary(Sse::new(0xf3, 0xe6)),
            Op::F64x2ConvertLowI32x4U => self.convert_low_u32x4(),
            Op::I32x4TruncSatF32x4S => self.truncate_f32x4(),
            Op::I32x4TruncSatF32x4U => self.truncate_f32x4_unsigned(),
            Op::I32x4TruncSatF64x2SZero => self.truncate_f64x2(),
            Op::I32x4TruncSatF64x2UZero => self.truncate_f64x2_unsigned(),
            Op::F32x4DemoteF64x2Zero => self.float_lanes(FloatLane::F32, |this| this.vector_unary(p66(0x5a))),
            Op::F64x2PromoteLowF32x4 => self.float_lanes(FloatLane::F64, |this| this.vector_unary(Sse::new(0, 0x5a))),
            _ => return false,
        }
        true
    }

    fn convert_u32x4(&mut self) {
        // Both halves are exact, and so is the product: the sum is what is rounded.
        let target = self.pop_vector_result(Value::Const(0));
        let low = self.vector_constant(doubles(0xffff));
        self.masm.movaps(VECTOR_SCRATCH, target);
        self.masm.sse(PAND, VECTOR_SCRATCH, low);
        self.masm.sse_shift_imm(0x72, 2, target, 16);
        self.masm.sse(CVTDQ2PS, VECTOR_SCRATCH, VECTOR_SCRATCH);
        self.masm.sse(CVTDQ2PS, target, target);
        let two_to_16 = self.vector_constant(doubles(0x4780_0000));
        self.masm.sse(Sse::new(0, 0x59), target, two_to_16);
        self.masm.sse(Sse::new(0, 0x58), target, VECTOR_SCRATCH);
        self.push_reg(V128, target);
    }

    fn convert_low_u32x4(&mut self) {
        // The low half of the bits of 2^52 plus the number.
        let target = self.pop_vector_result(Value::Const(0));
        let high = self.vector_constant(doubles(0x4330_0000));
        self.masm.sse(p66(0x62), target, high);
        let two_to_52 = self.vector_constant(quads(0x4330_0000_0000_0000));
        self.masm.sse(p66(0x5c), target, two_to_52);
        self.push_reg(V128, target);
    }

    /// Signed, saturating. NaN gives 0.
    fn truncate_f32x4(&mut self) {
        let target = self.pop_vector_result(Value::Const(0));
        self.masm.movaps(VECTOR_SCRATCH, target);
        self.masm.sse_imm(Sse::new(0, 0xc2), VECTOR_SCRATCH, VECTOR_SCRATCH, 0);
        self.masm.sse(PAND, target, VECTOR_SCRATCH);
        // The sign of this is that of a positive number; together with that of the result it tells what is too great.
        self.masm.sse(PXOR, VECTOR_SCRATCH, target);
        self.masm.sse(CVTTPS2DQ, target, target);
        self.masm.sse(PAND, VECTOR_SCRATCH, target);
        self.masm.sse_shift_imm(0x72, 4, VECTOR_SCRATCH, 31);
        self.masm.sse(PXOR, target, VECTOR_SCRATCH);
        self.push_reg(V128, target);
    }

    /// Unsigned, saturating. NaN gives 0.
    pub(super) fn truncate_f32x4_unsigned(&mut self) {
        let target = self.pop_vector_result(Value::Const(0));
        self.zero_vector(VECTOR_SCRATCH);
        self.masm.sse(Sse::new(0, 0x5f), target, VECTOR_SCRATCH);
        // What is beyond 2^31, itself saturated, is added to what the conversion gives for it.
        let two_to_31 = self.vector_constant(doubles(0x4f00_0000));
        self.load_mem(V128, VECTOR_SCRATCH, two_to_31);
        self.masm.movaps(VECTOR_SCRATCH_2, target);
        self.masm.sse(Sse::new(0, 0x5c), VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.masm.sse_imm(Sse::new(0, 0xc2), VECTOR_SCRATCH, VECTOR_SCRATCH_2, 2);
        self.masm.sse(CVTTPS2DQ, VECTOR_SCRATCH_2, VECTOR_SCRATCH_2);
        self.masm.sse(PXOR, VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.zero_vector(VECTOR_SCRATCH);
        self.masm.sse(Sse::map38(0x3d), VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.masm.sse(CVTTPS2DQ, target, target);
        self.masm.sse(p66(0xfe), target, VECTOR_SCRATCH_2);
        self.push_reg(V128, target);
    }

    fn truncate_f64x2(&mut self) {
        let target = self.pop_vector_result(Value::Const(0));
        self.masm.movaps(VECTOR_SCRATCH, target);
        self.masm.sse_imm(p66(0xc2), VECTOR_SCRATCH, VECTOR_SCRATCH, 0);
        let greatest = self.vector_constant(quads(0x41df_ffff_ffc0_0000));
        self.masm.sse(PAND, VECTOR_SCRATCH, greatest);
        // Gives its second operand for NaN, which is 0 there.
        self.masm.sse(p66(0x5d), target, VECTOR_SCRATCH);
        self.masm.sse(CVTTPD2DQ, target, target);
        self.push_reg(V128, target);
    }

    /// Unsigned, saturating, to the low lanes. NaN gives 0.
    pub(super) fn truncate_f64x2_unsigned(&mut self) {
        let target = self.pop_vector_result(Value::Const(0));
        self.zero_vector(VECTOR_SCRATCH);
        self.masm.sse(p66(0x5f), target, VECTOR_SCRATCH);
        let greatest = self.vector_constant(quads(0x41ef_ffff_ffe0_0000));
        self.masm.sse(p66(0x5d), target, greatest);
        self.masm.sse_imm(Sse::map3a(0x09), target, target, 3 | 8);
        // Adding 2^52 makes the number the low bits of the fraction.
        let two_to_52 = self.vector_constant(quads(0x4330_0000_0000_0000));
        self.masm.sse(p66(0x58), target, two_to_52);
        self.masm.sse_imm(Sse::new(0, 0xc6), target, VECTOR_SCRATCH, 0x88);
        self.push_reg(V128, target);
    }

    /// Signed conversions that say nothing of what is out of range.
    pub(super) fn truncate_relaxed(&mut self, is_f64x2: bool) {
        self.vector_unary(if is_f64x2 { CVTTPD2DQ } else { CVTTPS2DQ });
    }
}
