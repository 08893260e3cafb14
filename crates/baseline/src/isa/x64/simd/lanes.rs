//! Making, taking apart and permuting vectors, and their reductions to a scalar.

use super::super::assembler::{Cc, Sse};
use super::super::moves::Condition;
use super::super::registers::VECTOR_SCRATCH;
use super::{POR, PSHUFB, PSHUFD, bytes, p66};
use crate::compile::Compiler;
use crate::values::Ty::{self, F32, F64, I32, I64, V128};
use crate::values::Value;
use wasmparser::Operator;

const PTEST: Sse = Sse::map38(0x17);

impl Compiler<'_> {
    /// Translates an instruction that makes, takes apart or permutes vectors, or reduces them. False if `op` is none.
    pub(super) fn simd_lanes(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        match op {
            Op::V128Const { value } => {
                let target = self.result(true);
                let bits = u128::from_le_bytes(*value.bytes());
                if bits == 0 {
                    self.zero_vector(target);
                } else {
                    let constant = self.vector_constant(bits);
                    self.load_mem(V128, target, constant);
                }
                self.push_reg(V128, target);
            }
            Op::I8x16Shuffle { lanes } => self.shuffle(lanes),
            Op::I8x16Swizzle => self.swizzle(),
            Op::I8x16Splat => self.splat_small(true),
            Op::I16x8Splat => self.splat_small(false),
            Op::I32x4Splat => self.splat_integer(I32),
            Op::I64x2Splat => self.splat_integer(I64),
            Op::F32x4Splat => self.splat_float(F32, 0x00),
            Op::F64x2Splat => self.splat_float(F64, 0x44),
            Op::I8x16ExtractLaneS { lane } => self.extract_small(Sse::map3a(0x14), *lane, Some(8)),
            Op::I8x16ExtractLaneU { lane } => self.extract_small(Sse::map3a(0x14), *lane, None),
            Op::I16x8ExtractLaneS { lane } => self.extract_small(Sse::map3a(0x15), *lane, Some(16)),
            Op::I16x8ExtractLaneU { lane } => self.extract_small(Sse::map3a(0x15), *lane, None),
            Op::I32x4ExtractLane { lane } => self.extract_integer(I32, *lane),
            Op::I64x2ExtractLane { lane } => self.extract_integer(I64, *lane),
            Op::F32x4ExtractLane { lane } => self.extract_float(F32, *lane),
            Op::F64x2ExtractLane { lane } => self.extract_float(F64, *lane * 0x0e),
            Op::I8x16ReplaceLane { lane } => self.replace(I32, false, Sse::map3a(0x20), *lane),
            Op::I16x8ReplaceLane { lane } => self.replace(I32, false, p66(0xc4), *lane),
            Op::I32x4ReplaceLane { lane } => self.replace(I32, false, Sse::map3a(0x22), *lane),
            Op::I64x2ReplaceLane { lane } => self.replace(I64, true, Sse::map3a(0x22), *lane),
            Op::F32x4ReplaceLane { lane } => self.replace(F32, false, Sse::map3a(0x21), *lane << 4),
            Op::F64x2ReplaceLane { lane } => self.replace_f64(*lane),
            Op::V128AnyTrue => self.any_true(),
            Op::I8x16AllTrue => self.all_true(p66(0x74)),
            Op::I16x8AllTrue => self.all_true(p66(0x75)),
            Op::I32x4AllTrue => self.all_true(p66(0x76)),
            Op::I64x2AllTrue => self.all_true(Sse::map38(0x29)),
            Op::I8x16Bitmask => self.bitmask(p66(0xd7)),
            Op::I16x8Bitmask => self.bitmask_i16x8(),
            Op::I32x4Bitmask => self.bitmask(Sse::new(0, 0x50)),
            Op::I64x2Bitmask => self.bitmask(p66(0x50)),
            _ => return false,
        }
        true
    }

    fn shuffle(&mut self, lanes: &[u8; 16]) {
        let right = self.pop();
        let left = self.pop();
        let mask = |of: u8| u128::from_le_bytes(lanes.map(|lane| if lane & 16 == of { lane & 15 } else { 0x80 }));
        let (uses_left, uses_right) = (lanes.iter().any(|lane| *lane < 16), lanes.iter().any(|lane| *lane >= 16));
        if uses_left && uses_right {
            let right_mask = self.vector_constant(mask(16));
            self.in_vector_scratch(right);
            self.masm.sse(PSHUFB, VECTOR_SCRATCH, right_mask);
            let target = self.in_result(V128, left, Value::Const(0));
            let left_mask = self.vector_constant(mask(0));
            self.masm.sse(PSHUFB, target, left_mask);
            self.masm.sse(POR, target, VECTOR_SCRATCH);
            return self.push_reg(V128, target);
        }
        let (used, unused, mask) = if uses_left { (left, right, mask(0)) } else { (right, left, mask(16)) };
        self.release(unused);
        let target = self.in_result(V128, used, Value::Const(0));
        let mask = self.vector_constant(mask);
        self.masm.sse(PSHUFB, target, mask);
        self.push_reg(V128, target);
    }

    /// `i8x16.swizzle`: indices of 16 and more get their top bit set, which gives 0.
    pub(super) fn swizzle(&mut self) {
        let indices = self.pop();
        self.in_vector_scratch(indices);
        let limit = self.vector_constant(bytes(0x70));
        self.masm.sse(p66(0xdc), VECTOR_SCRATCH, limit);
        let target = self.pop_vector_result(Value::Const(0));
        self.masm.sse(PSHUFB, target, VECTOR_SCRATCH);
        self.push_reg(V128, target);
    }

    fn splat_small(&mut self, is_byte: bool) {
        let source = self.pop_reg(I32);
        let target = self.result(true);
        self.masm.sse(p66(0x6e), target, source);
        self.regs.release(source);
        self.splat_low(target, is_byte);
        self.push_reg(V128, target);
    }

    /// Copies the lowest byte or word to all.
    pub(super) fn splat_low(&mut self, target: crate::registers::Reg, is_byte: bool) {
        if is_byte {
            self.zero_vector(VECTOR_SCRATCH);
            self.masm.sse(PSHUFB, target, VECTOR_SCRATCH);
        } else {
            self.masm.sse_imm(Sse::new(0xf2, 0x70), target, target, 0);
            self.masm.sse_imm(PSHUFD, target, target, 0);
        }
    }

    fn splat_integer(&mut self, ty: Ty) {
        let source = self.pop_reg(ty);
        let target = self.result(true);
        self.masm.sse_wide(p66(0x6e), ty.is_wide(), target, source);
        self.masm.sse_imm(PSHUFD, target, target, if ty.is_wide() { 0x44 } else { 0 });
        self.regs.release(source);
        self.push_reg(V128, target);
    }

    fn splat_float(&mut self, ty: Ty, order: u8) {
        let source = self.pop_reg(ty);
        self.regs.release(source);
        let target = self.result(true);
        self.masm.sse_imm(PSHUFD, target, source, order);
        self.push_reg(V128, target);
    }

    fn extract_small(&mut self, op: Sse, lane: u8, signed_bits: Option<u8>) {
        let source = self.pop_vector();
        let target = self.result(false);
        self.masm.sse_imm(op, source, target, lane);
        match signed_bits {
            Some(8) => self.masm.movsx8(false, target, target),
            Some(_) => self.masm.movsx16(false, target, target),
            None => {}
        }
        self.regs.release(source);
        self.push_reg(I32, target);
    }

    fn extract_integer(&mut self, ty: Ty, lane: u8) {
        let source = self.pop_vector();
        let target = self.result(false);
        if lane == 0 {
            self.masm.sse_wide(p66(0x7e), ty.is_wide(), source, target);
        } else {
            self.masm.sse_wide_imm(Sse::map3a(0x16), ty.is_wide(), source, target, lane);
        }
        self.regs.release(source);
        self.push_reg(ty, target);
    }

    fn extract_float(&mut self, ty: Ty, order: u8) {
        let source = self.pop_vector();
        self.regs.release(source);
        let target = self.result(true);
        if order == 0 {
            self.masm.movaps(target, source);
        } else {
            self.masm.sse_imm(PSHUFD, target, source, order);
        }
        self.push_reg(ty, target);
    }

    fn replace(&mut self, ty: Ty, wide: bool, op: Sse, lane: u8) {
        let value = self.pop_reg(ty);
        let target = self.pop_vector_result(Value::Reg(value));
        self.masm.sse_wide_imm(op, wide, target, value, lane);
        self.regs.release(value);
        self.push_reg(V128, target);
    }

    fn replace_f64(&mut self, lane: u8) {
        let value = self.pop_reg(F64);
        let target = self.pop_vector_result(Value::Reg(value));
        // `movsd` writes the low lane of a register, `movlhps` the high one.
        self.masm.sse(if lane == 0 { Sse::new(0xf2, 0x10) } else { Sse::new(0, 0x16) }, target, value);
        self.regs.release(value);
        self.push_reg(V128, target);
    }

    fn any_true(&mut self) {
        let source = self.pop_vector();
        self.masm.sse(PTEST, source, source);
        self.regs.release(source);
        self.push_flags(Condition::Cc(Cc::Ne));
    }

    fn all_true(&mut self, equal: Sse) {
        let source = self.pop();
        let operand = self.vector_operand(V128, source);
        self.zero_vector(VECTOR_SCRATCH);
        self.masm.sse(equal, VECTOR_SCRATCH, operand);
        self.masm.sse(PTEST, VECTOR_SCRATCH, VECTOR_SCRATCH);
        self.release(source);
        self.push_flags(Condition::Cc(Cc::E));
    }

    fn bitmask(&mut self, op: Sse) {
        let source = self.pop_vector();
        let target = self.result(false);
        self.masm.sse(op, target, source);
        self.regs.release(source);
        self.push_reg(I32, target);
    }

    fn bitmask_i16x8(&mut self) {
        let source = self.pop();
        self.in_vector_scratch(source);
        self.masm.sse(p66(0x63), VECTOR_SCRATCH, VECTOR_SCRATCH);
        let target = self.result(false);
        self.masm.sse(p66(0xd7), target, VECTOR_SCRATCH);
        self.masm.movzx8(target, target);
        self.push_reg(I32, target);
    }
}
