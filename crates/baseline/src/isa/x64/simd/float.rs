//! Arithmetic and comparisons of lanes of floats.

use super::super::assembler::Sse;
use super::super::registers::{VECTOR_SCRATCH, VECTOR_SCRATCH_2};
use super::{PAND, PXOR, doubles, quads};
use crate::compile::Compiler;
use crate::registers::Reg;
use crate::values::Ty::V128;
use crate::values::Value;
use wasmparser::Operator;

/// Lanes of 32 or of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatLane {
    F32,
    F64,
}

use FloatLane::{F32, F64};

impl FloatLane {
    /// `ps` or `pd` of an instruction.
    pub(super) const fn packed(self, opcode: u8) -> Sse {
        Sse::new(if matches!(self, F32) { 0 } else { 0x66 }, opcode)
    }

    const fn sign_bits(self) -> u128 {
        match self {
            F32 => doubles(0x8000_0000),
            F64 => quads(0x8000_0000_0000_0000),
        }
    }

    const fn canonical_nans(self) -> u128 {
        match self {
            F32 => doubles(0x7fc0_0000),
            F64 => quads(0x7ff8_0000_0000_0000),
        }
    }
}

/// Predicates of `cmpps` and `cmppd`.
const EQUAL: u8 = 0;
const LESS: u8 = 1;
const LESS_OR_EQUAL: u8 = 2;
const UNORDERED: u8 = 3;
const NOT_EQUAL: u8 = 4;

impl Compiler<'_> {
    /// Translates an instruction on lanes of floats. False if `op` is none.
    pub(super) fn simd_float(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        match op {
            Op::F32x4Eq => self.compare_float_lanes(F32, EQUAL, false),
            Op::F32x4Ne => self.compare_float_lanes(F32, NOT_EQUAL, false),
            Op::F32x4Lt => self.compare_float_lanes(F32, LESS, false),
            Op::F32x4Gt => self.compare_float_lanes(F32, LESS, true),
            Op::F32x4Le => self.compare_float_lanes(F32, LESS_OR_EQUAL, false),
            Op::F32x4Ge => self.compare_float_lanes(F32, LESS_OR_EQUAL, true),
            Op::F64x2Eq => self.compare_float_lanes(F64, EQUAL, false),
            Op::F64x2Ne => self.compare_float_lanes(F64, NOT_EQUAL, false),
            Op::F64x2Lt => self.compare_float_lanes(F64, LESS, false),
            Op::F64x2Gt => self.compare_float_lanes(F64, LESS, true),
            Op::F64x2Le => self.compare_float_lanes(F64, LESS_OR_EQUAL, false),
            Op::F64x2Ge => self.compare_float_lanes(F64, LESS_OR_EQUAL, true),

            Op::F32x4Nearest => self.round_lanes(F32, 0),
            Op::F32x4Floor => self.round_lanes(F32, 1),
            Op::F32x4Ceil => self.round_lanes(F32, 2),
            Op::F32x4Trunc => self.round_lanes(F32, 3),
            Op::F64x2Nearest => self.round_lanes(F64, 0),
            Op::F64x2Floor => self.round_lanes(F64, 1),
            Op::F64x2Ceil => self.round_lanes(F64, 2),
            Op::F64x2Trunc => self.round_lanes(F64, 3),
            Op::F32x4Abs => self.vector_with_constant(PAND, !F32.sign_bits()),
            Op::F64x2Abs => self.vector_with_constant(PAND, !F64.sign_bits()),
            Op::F32x4Neg => self.vector_with_constant(PXOR, F32.sign_bits()),
            Op::F64x2Neg => self.vector_with_constant(PXOR, F64.sign_bits()),
            Op::F32x4Sqrt => self.float_lanes(F32, |this| this.vector_unary(F32.packed(0x51))),
            Op::F64x2Sqrt => self.float_lanes(F64, |this| this.vector_unary(F64.packed(0x51))),
            Op::F32x4Add => self.float_lanes(F32, |this| this.vector_binary(F32.packed(0x58))),
            Op::F32x4Sub => self.float_lanes(F32, |this| this.vector_binary(F32.packed(0x5c))),
            Op::F32x4Mul => self.float_lanes(F32, |this| this.vector_binary(F32.packed(0x59))),
            Op::F32x4Div => self.float_lanes(F32, |this| this.vector_binary(F32.packed(0x5e))),
            Op::F64x2Add => self.float_lanes(F64, |this| this.vector_binary(F64.packed(0x58))),
            Op::F64x2Sub => self.float_lanes(F64, |this| this.vector_binary(F64.packed(0x5c))),
            Op::F64x2Mul => self.float_lanes(F64, |this| this.vector_binary(F64.packed(0x59))),
            Op::F64x2Div => self.float_lanes(F64, |this| this.vector_binary(F64.packed(0x5e))),
            Op::F32x4Min => self.min_lanes(F32),
            Op::F64x2Min => self.min_lanes(F64),
            Op::F32x4Max => self.max_lanes(F32),
            Op::F64x2Max => self.max_lanes(F64),
            Op::F32x4PMin => self.pseudo_min(F32),
            Op::F64x2PMin => self.pseudo_min(F64),
            Op::F32x4PMax => self.pseudo_max(F32),
            Op::F64x2PMax => self.pseudo_max(F64),
            _ => return false,
        }
        true
    }

    /// Makes canonical what `make` pushes, if the settings ask for it.
    pub(super) fn float_lanes(&mut self, lane: FloatLane, make: impl FnOnce(&mut Self)) {
        if !self.settings.nan_canonicalization {
            return make(self);
        }
        let hint = self.hint.take();
        make(self);
        let target = self.pop_vector_result(Value::Const(0));
        self.hint = hint;
        self.canonicalize_lanes(lane, target);
        self.push_reg(V128, target);
    }

    /// Makes the one canonical NaN of any, if the settings ask for it.
    pub(super) fn canonicalize_lanes(&mut self, lane: FloatLane, target: Reg) {
        if !self.settings.nan_canonicalization {
            return;
        }
        let nans = self.vector_constant(lane.canonical_nans());
        self.masm.movaps(VECTOR_SCRATCH, target);
        self.masm.sse_imm(lane.packed(0xc2), VECTOR_SCRATCH, VECTOR_SCRATCH, UNORDERED);
        self.load_mem(V128, VECTOR_SCRATCH_2, nans);
        self.masm.sse(PAND, VECTOR_SCRATCH_2, VECTOR_SCRATCH);
        self.masm.sse(super::PANDN, VECTOR_SCRATCH, target);
        self.masm.sse(super::POR, VECTOR_SCRATCH, VECTOR_SCRATCH_2);
        self.masm.movaps(target, VECTOR_SCRATCH);
    }

    /// `pmin`: the second operand where it is less than the first, else the first. The instruction has its operands the other way round.
    pub(super) fn pseudo_min(&mut self, lane: FloatLane) {
        self.vector_binary_swapped(lane.packed(0x5d));
    }

    /// `pmax`: the second operand where the first is less than it, else the first.
    pub(super) fn pseudo_max(&mut self, lane: FloatLane) {
        self.vector_binary_swapped(lane.packed(0x5f));
    }

    fn compare_float_lanes(&mut self, lane: FloatLane, predicate: u8, swapped: bool) {
        let right = self.pop();
        let left = self.pop();
        let (first, second) = if swapped { (right, left) } else { (left, right) };
        let target = self.in_result(V128, first, second);
        let operand = self.vector_operand(V128, second);
        self.masm.sse_imm(lane.packed(0xc2), target, operand, predicate);
        self.release(second);
        self.push_reg(V128, target);
    }

    fn round_lanes(&mut self, lane: FloatLane, mode: u8) {
        let value = self.pop();
        let operand = self.vector_operand(V128, value);
        self.release(value);
        let target = self.result(true);
        self.masm.sse_imm(Sse::map3a(if lane == F32 { 0x08 } else { 0x09 }), target, operand, mode | 8);
        self.canonicalize_lanes(lane, target);
        self.push_reg(V128, target);
    }

    /// What is left of a NaN has the bits below the quiet one cleared.
    fn quiet_nans(&mut self, lane: FloatLane, target: Reg) {
        // The scratch register has the results, with all bits of both operands where one is NaN.
        self.masm.sse_imm(lane.packed(0xc2), target, VECTOR_SCRATCH, UNORDERED);
        self.masm.sse(super::POR, VECTOR_SCRATCH, target);
        match lane {
            F32 => self.masm.sse_shift_imm(0x72, 2, target, 10),
            F64 => self.masm.sse_shift_imm(0x73, 2, target, 13),
        }
        self.masm.sse(super::PANDN, target, VECTOR_SCRATCH);
    }

    /// `min`: of both orders, as the instruction gives its second operand for NaN and for zeros.
    pub(super) fn min_lanes(&mut self, lane: FloatLane) {
        let right = self.pop_vector();
        let target = self.pop_vector_result(Value::Reg(right));
        self.masm.movaps(VECTOR_SCRATCH, right);
        self.masm.sse(lane.packed(0x5d), VECTOR_SCRATCH, target);
        self.masm.sse(lane.packed(0x5d), target, right);
        self.masm.sse(super::POR, VECTOR_SCRATCH, target);
        self.quiet_nans(lane, target);
        self.regs.release(right);
        self.canonicalize_lanes(lane, target);
        self.push_reg(V128, target);
    }

    /// `max`, likewise.
    pub(super) fn max_lanes(&mut self, lane: FloatLane) {
        let right = self.pop_vector();
        let target = self.pop_vector_result(Value::Reg(right));
        self.masm.movaps(VECTOR_SCRATCH, right);
        self.masm.sse(lane.packed(0x5f), VECTOR_SCRATCH, target);
        self.masm.sse(lane.packed(0x5f), target, right);
        // Where both orders differ only in the sign of a zero, the subtraction makes it positive.
        self.masm.sse(PXOR, target, VECTOR_SCRATCH);
        self.masm.sse(super::POR, VECTOR_SCRATCH, target);
        self.masm.sse(lane.packed(0x5c), VECTOR_SCRATCH, target);
        self.quiet_nans(lane, target);
        self.regs.release(right);
        self.canonicalize_lanes(lane, target);
        self.push_reg(V128, target);
    }
}
