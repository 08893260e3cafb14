//! Relaxed vector instructions. The results are those of the optimizing tier on the same processor.

use super::super::assembler::{Rm, Sse};
use super::super::registers::{VECTOR_SCRATCH, VECTOR_SCRATCH_2, xmm};
use super::float::FloatLane;
use super::{PSHUFB, PSHUFD, p66, words};
use crate::compile::Compiler;
use crate::values::Ty::{self, V128};
use crate::values::Value;
use peregrine_artifact::builtins::Builtin;
use wasmparser::Operator;

impl Compiler<'_> {
    /// Translates a relaxed vector instruction. False if `op` is none.
    pub(super) fn simd_relaxed(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        let relaxed = !self.settings.features.relaxed_simd_deterministic;
        match op {
            Op::I8x16RelaxedSwizzle if relaxed => self.vector_binary(PSHUFB),
            Op::I8x16RelaxedSwizzle => self.swizzle(),
            Op::I32x4RelaxedTruncF32x4S if relaxed => self.truncate_relaxed(false),
            Op::I32x4RelaxedTruncF32x4S => return self.simd_convert(&Op::I32x4TruncSatF32x4S),
            Op::I32x4RelaxedTruncF32x4U => self.truncate_f32x4_unsigned(),
            Op::I32x4RelaxedTruncF64x2SZero if relaxed => self.truncate_relaxed(true),
            Op::I32x4RelaxedTruncF64x2SZero => return self.simd_convert(&Op::I32x4TruncSatF64x2SZero),
            Op::I32x4RelaxedTruncF64x2UZero => self.truncate_f64x2_unsigned(),
            Op::F32x4RelaxedMadd => self.multiply_add(FloatLane::F32, false),
            Op::F32x4RelaxedNmadd => self.multiply_add(FloatLane::F32, true),
            Op::F64x2RelaxedMadd => self.multiply_add(FloatLane::F64, false),
            Op::F64x2RelaxedNmadd => self.multiply_add(FloatLane::F64, true),
            Op::I8x16RelaxedLaneselect if relaxed => self.blend(0x10),
            Op::I32x4RelaxedLaneselect if relaxed => self.blend(0x14),
            Op::I64x2RelaxedLaneselect if relaxed => self.blend(0x15),
            Op::I8x16RelaxedLaneselect | Op::I16x8RelaxedLaneselect | Op::I32x4RelaxedLaneselect | Op::I64x2RelaxedLaneselect => {
                self.bitselect()
            }
            Op::F32x4RelaxedMin if relaxed => self.pseudo_min(FloatLane::F32),
            Op::F32x4RelaxedMax if relaxed => self.pseudo_max(FloatLane::F32),
            Op::F64x2RelaxedMin if relaxed => self.pseudo_min(FloatLane::F64),
            Op::F64x2RelaxedMax if relaxed => self.pseudo_max(FloatLane::F64),
            Op::F32x4RelaxedMin => self.min_lanes(FloatLane::F32),
            Op::F32x4RelaxedMax => self.max_lanes(FloatLane::F32),
            Op::F64x2RelaxedMin => self.min_lanes(FloatLane::F64),
            Op::F64x2RelaxedMax => self.max_lanes(FloatLane::F64),
            Op::I16x8RelaxedQ15mulrS if relaxed => self.vector_binary(Sse::map38(0x0b)),
            Op::I16x8RelaxedQ15mulrS => return self.simd_integer(&Op::I16x8Q15MulrSatS),
            Op::I16x8RelaxedDotI8x16I7x16S => self.relaxed_dot(relaxed),
            Op::I32x4RelaxedDotI8x16I7x16AddS => self.relaxed_dot_add(relaxed),
            _ => return false,
        }
        true
    }

    /// `x * y + z`, or `-(x * y) + z` if `negate`.
    fn multiply_add(&mut self, lane: FloatLane, negate: bool) {
        if self.features.fma {
            let z = self.pop_vector();
            let y = self.pop_vector();
            let value = self.pop();
            let x = self.in_temporary(V128, value);
            // `vfmadd213`, `vfnmadd213`: x = x * y + z.
            let opcode = if negate { 0xac } else { 0xa8 };
            self.masm.vex(1, 2, lane == FloatLane::F64, opcode, x.number(), y.number(), Rm::Reg(z));
            self.regs.release(y);
            self.regs.release(z);
            self.canonicalize_lanes(lane, x);
            return self.push_reg(V128, x);
        }
        if self.settings.features.relaxed_simd_deterministic {
            return self.multiply_add_by_lane(lane, negate);
        }
        let z = self.pop_vector();
        let y = self.pop();
        let value = self.pop();
        let product = self.in_temporary(V128, value);
        let operand = self.vector_operand(V128, y);
        self.masm.sse(lane.packed(0x59), product, operand);
        self.canonicalize_lanes(lane, product);
        if negate {
            self.masm.movaps(VECTOR_SCRATCH, z);
            self.masm.sse(lane.packed(0x5c), VECTOR_SCRATCH, product);
            self.masm.movaps(product, VECTOR_SCRATCH);
        } else {
            self.masm.sse(lane.packed(0x58), product, z);
        }
        self.canonicalize_lanes(lane, product);
        self.release(y);
        self.regs.release(z);
        self.push_reg(V128, product);
    }

    /// Rounded once, by the engine, lane by lane: all three vectors are in their homes.
    fn multiply_add_by_lane(&mut self, lane: FloatLane, negate: bool) {
        self.hint = None;
        self.flush_top(3);
        let depth = self.depth() - 3;
        let (ty, size, lanes, builtin) = match lane {
            FloatLane::F32 => (Ty::F32, 4, 4, Builtin::f32_fma),
            FloatLane::F64 => (Ty::F64, 8, 2, Builtin::f64_fma),
        };
        for number in 0..lanes {
            let mut place = |operand: usize| self.operand_home(depth + operand) + number * size;
            let (x, y, z) = (place(0), place(1), place(2));
            if negate {
                let top = x + size - 1;
                self.masm.alu_imm_byte_xor(Self::slot(top), 0x80);
            }
            self.call_builtin(builtin, &[(ty, Value::Slot(x)), (ty, Value::Slot(y)), (ty, Value::Slot(z))]);
            self.canonicalize(ty, xmm(0));
            self.store_slot(ty, x, xmm(0));
        }
        self.truncate(depth);
        self.push_home(V128);
    }

    /// Lanes of the first operand where the top bit of the mask is set, else of the second. The mask is in a fixed register.
    fn blend(&mut self, opcode: u8) {
        let mask = self.pop();
        let otherwise = self.pop();
        let then = self.pop();
        // Neither may be in the way of the mask.
        let then = self.out_of_the_way(then);
        let otherwise = self.out_of_the_way(otherwise);
        self.in_fixed(V128, xmm(0), mask);
        let target = self.in_result(V128, otherwise, then);
        let operand = self.vector_operand(V128, then);
        self.masm.sse(Sse::map38(opcode), target, operand);
        self.release(then);
        self.regs.release(xmm(0));
        self.push_reg(V128, target);
    }

    fn out_of_the_way(&mut self, value: Value) -> Value {
        if value != Value::Reg(xmm(0)) {
            return value;
        }
        let other = self.alloc(true);
        self.masm.movaps(other, xmm(0));
        self.release(value);
        Value::Reg(other)
    }

    /// Products of signed by 7-bit lanes, added by pairs, to the scratch register.
    fn dot_pairs(&mut self, relaxed: bool, x: Value, y: Value) {
        if relaxed {
            // Unsigned by signed, saturating.
            self.load_value(V128, VECTOR_SCRATCH, y);
            let operand = self.vector_operand(V128, x);
            return self.masm.sse(Sse::map38(0x04), VECTOR_SCRATCH, operand);
        }
        // Signed by signed in full: both halves as words, added by pairs to 32 bits, of which the low 16 are kept.
        self.dot_in_full(Sse::map38(0x20), x, y);
    }

    /// Both vectors extended to words, `x` signed and `y` by `extend_y`; products added by pairs in 32 bits: the low half in the first
    /// scratch register, then all of them narrowed to words there.
    fn dot_in_full(&mut self, extend_y: Sse, x: Value, y: Value) {
        let high = self.alloc(true);
        self.dot_half(extend_y, x, y, true);
        self.masm.movaps(high, VECTOR_SCRATCH);
        self.dot_half(extend_y, x, y, false);
        // The sums fit in words: two times 128 by 128 does only as the least number, which wraps as it does in 16 bits.
        self.masm.sse_shift_imm(0x72, 6, VECTOR_SCRATCH, 16);
        self.masm.sse_shift_imm(0x72, 4, VECTOR_SCRATCH, 16);
        self.masm.sse_shift_imm(0x72, 6, high, 16);
        self.masm.sse_shift_imm(0x72, 4, high, 16);
        self.masm.sse(p66(0x6b), VECTOR_SCRATCH, high);
        self.regs.release(high);
    }

    /// One half of both vectors as words, multiplied and added by pairs.
    fn dot_half(&mut self, extend_y: Sse, x: Value, y: Value, high: bool) {
        for (target, extend, value) in [(VECTOR_SCRATCH, Sse::map38(0x20), x), (VECTOR_SCRATCH_2, extend_y, y)] {
            let operand = self.vector_operand(V128, value);
            self.masm.sse_imm(PSHUFD, target, operand, if high { 0xee } else { 0x44 });
            self.masm.sse(extend, target, target);
        }
        self.masm.sse(p66(0xf5), VECTOR_SCRATCH, VECTOR_SCRATCH_2);
    }

    fn relaxed_dot(&mut self, relaxed: bool) {
        let y = self.pop();
        let x = self.pop();
        self.dot_pairs(relaxed, x, y);
        self.release(x);
        self.release(y);
        self.push_vector_scratch(VECTOR_SCRATCH);
    }

    fn relaxed_dot_add(&mut self, relaxed: bool) {
        let z = self.pop();
        let y = self.pop();
        let x = self.pop();
        if relaxed && self.features.dot_of_four {
            // Signed by unsigned, four products in full.
            let high = self.alloc(true);
            self.dot_half(Sse::map38(0x30), x, y, true);
            self.masm.movaps(high, VECTOR_SCRATCH);
            self.dot_half(Sse::map38(0x30), x, y, false);
            // `phaddd`
            self.masm.sse(Sse::map38(0x02), VECTOR_SCRATCH, high);
            self.regs.release(high);
        } else {
            self.dot_pairs(relaxed, x, y);
            let ones = self.vector_constant(words(1));
            self.masm.sse(p66(0xf5), VECTOR_SCRATCH, ones);
        }
        let operand = self.vector_operand(V128, z);
        self.masm.sse(p66(0xfe), VECTOR_SCRATCH, operand);
        for value in [x, y, z] {
            self.release(value);
        }
        self.push_vector_scratch(VECTOR_SCRATCH);
    }
}
