//! Float instructions on scalars, and `select` of floats and vectors.

use super::assembler::{Cc, Rm, Sse};
use super::moves::Condition;
use super::registers::{VECTOR_SCRATCH, VECTOR_SCRATCH_2};
use crate::compile::Compiler;
use crate::operators::{FloatCompare, FloatOp, Rounding};
use crate::registers::Reg;
use crate::values::{Ty, Value};

/// The bits of a canonical NaN.
const fn canonical_nan(ty: Ty) -> u64 {
    match ty {
        Ty::F32 => 0x7fc0_0000,
        _ => 0x7ff8_0000_0000_0000,
    }
}

const fn sign_bit(ty: Ty) -> u64 {
    match ty {
        Ty::F32 => 0x8000_0000,
        _ => 0x8000_0000_0000_0000,
    }
}

/// `ss` or `sd` of an instruction.
pub(crate) const fn scalar(ty: Ty, opcode: u8) -> Sse {
    Sse::new(if matches!(ty, Ty::F32) { 0xf3 } else { 0xf2 }, opcode)
}

/// `ucomiss` or `ucomisd`.
pub(crate) const fn ucomis(ty: Ty) -> Sse {
    Sse::new(if matches!(ty, Ty::F32) { 0 } else { 0x66 }, 0x2e)
}

const ANDPS: Sse = Sse::new(0, 0x54);
const ANDNPS: Sse = Sse::new(0, 0x55);
const ORPS: Sse = Sse::new(0, 0x56);
const XORPS: Sse = Sse::new(0, 0x57);

impl Compiler<'_> {
    /// An operator on two floats.
    pub(crate) fn float(&mut self, ty: Ty, op: FloatOp) {
        let opcode = match op {
            FloatOp::Add => 0x58,
            FloatOp::Mul => 0x59,
            FloatOp::Sub => 0x5c,
            FloatOp::Div => 0x5e,
        };
        let mut right = self.pop();
        let mut left = self.pop();
        let commutes = matches!(op, FloatOp::Add | FloatOp::Mul) && self.settings.nan_canonicalization;
        if commutes && matches!((left, right), (Value::Slot(_) | Value::Const(_), Value::Reg(_))) {
            std::mem::swap(&mut left, &mut right);
        }
        let target = self.in_result(ty, left, right);
        let operand = self.vector_operand(ty, right);
        self.masm.sse(scalar(ty, opcode), target, operand);
        self.release(right);
        self.canonicalize(ty, target);
        self.push_reg(ty, target);
    }

    /// Makes the one canonical NaN of any, if the settings ask for it.
    pub(crate) fn canonicalize(&mut self, ty: Ty, target: Reg) {
        if !self.settings.nan_canonicalization {
            return;
        }
        self.masm.sse(ucomis(ty), target, target);
        let over = self.masm.jcc_short(Cc::Np);
        self.load_const(ty, target, canonical_nan(ty));
        self.masm.land(over);
    }

    /// `min` and `max`.
    pub(crate) fn float_min_max(&mut self, ty: Ty, is_max: bool) {
        let right = self.pop();
        let left = self.pop();
        let right = self.in_reg(ty, right);
        let target = self.in_result(ty, left, Value::Reg(right));
        self.masm.sse(ucomis(ty), target, right);
        let different = self.masm.jcc_short(Cc::Ne);
        let unordered = self.masm.jcc_short(Cc::P);
        // Equal: zeros may differ in sign.
        self.masm.sse(if is_max { ANDPS } else { ORPS }, target, right);
        let done = self.masm.jmp_short();
        self.masm.land(unordered);
        self.masm.sse(scalar(ty, 0x58), target, right);
        let done_too = self.masm.jmp_short();
        self.masm.land(different);
        self.masm.sse(scalar(ty, if is_max { 0x5f } else { 0x5d }), target, right);
        self.masm.land(done);
        self.masm.land(done_too);
        self.regs.release(right);
        self.canonicalize(ty, target);
        self.push_reg(ty, target);
    }

    /// `copysign`.
    pub(crate) fn float_copysign(&mut self, ty: Ty) {
        let right = self.pop();
        let left = self.pop();
        let sign = self.float_constant(ty, sign_bit(ty));
        self.load_value(ty, VECTOR_SCRATCH, right);
        self.release(right);
        self.masm.sse(ANDPS, VECTOR_SCRATCH, sign);
        let value = self.in_reg(ty, left);
        let target = if self.regs.is_temporary(value) { value } else { self.result(true) };
        // All bits of the value but the sign, over the mask.
        self.masm.sse(Sse::new(0, 0x28), VECTOR_SCRATCH_2, sign);
        self.masm.sse(ANDNPS, VECTOR_SCRATCH_2, value);
        self.masm.sse(ORPS, VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.masm.movaps(target, VECTOR_SCRATCH_2);
        self.push_reg(ty, target);
    }

    /// `abs`.
    pub(crate) fn float_abs(&mut self, ty: Ty) {
        let value = self.pop();
        let target = self.in_result(ty, value, Value::Const(0));
        let mask = match ty {
            Ty::F32 => u64::from(!(sign_bit(ty) as u32)),
            _ => !sign_bit(ty),
        };
        let mask = self.float_constant(ty, mask);
        self.masm.sse(ANDPS, target, mask);
        self.push_reg(ty, target);
    }

    /// `neg`.
    pub(crate) fn float_neg(&mut self, ty: Ty) {
        let value = self.pop();
        let target = self.in_result(ty, value, Value::Const(0));
        let sign = self.float_constant(ty, sign_bit(ty));
        self.masm.sse(XORPS, target, sign);
        self.push_reg(ty, target);
    }

    /// `sqrt`.
    pub(crate) fn float_sqrt(&mut self, ty: Ty) {
        let (source, target) = self.float_unary_operands(ty);
        self.masm.sse(scalar(ty, 0x51), target, source);
        self.canonicalize(ty, target);
        self.push_reg(ty, target);
    }

    /// Rounding to an integer that is a float.
    pub(crate) fn float_round(&mut self, ty: Ty, rounding: Rounding) {
        let mode = match rounding {
            Rounding::Nearest => 0,
            Rounding::Floor => 1,
            Rounding::Ceil => 2,
            Rounding::Trunc => 3,
        };
        let (source, target) = self.float_unary_operands(ty);
        // Bit 3: inexact results are nothing special.
        self.masm.sse_imm(Sse::map3a(if ty == Ty::F32 { 0x0a } else { 0x0b }), target, source, mode | 8);
        self.canonicalize(ty, target);
        self.push_reg(ty, target);
    }

    pub(crate) fn float_unary_operands(&mut self, ty: Ty) -> (Rm, Reg) {
        let value = self.pop();
        let source = self.vector_operand(ty, value);
        self.release(value);
        (source, self.result(true))
    }

    /// Comparisons. The outcome stays in the flags, as of unsigned integers; unordered sets all of them.
    pub(crate) fn float_compare(&mut self, ty: Ty, compare: FloatCompare) {
        let right = self.pop();
        let left = self.pop();
        let swapped = matches!(compare, FloatCompare::Less | FloatCompare::LessOrEqual);
        let (first, second) = if swapped { (right, left) } else { (left, right) };
        let first = self.in_reg(ty, first);
        let operand = self.vector_operand(ty, second);
        self.masm.sse(ucomis(ty), first, operand);
        self.regs.release(first);
        self.release(second);
        self.push_flags(match compare {
            FloatCompare::Equal => Condition::FloatEqual,
            FloatCompare::NotEqual => Condition::FloatNotEqual,
            FloatCompare::Less | FloatCompare::Greater => Condition::Cc(Cc::A),
            FloatCompare::LessOrEqual | FloatCompare::GreaterOrEqual => Condition::Cc(Cc::Ae),
        });
    }

    /// `select` of floats and vectors: a jump over a move.
    pub(crate) fn select_vector(&mut self, ty: Ty, condition: Condition, then: Value, otherwise: Value) {
        let target = self.in_result(ty, then, otherwise);
        let over = self.masm.label();
        self.jump_if(condition, over);
        self.load_value(ty, target, otherwise);
        self.masm.bind(over);
        self.release(otherwise);
        self.push_reg(ty, target);
    }
}
