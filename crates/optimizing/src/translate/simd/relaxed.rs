//! Relaxed vector instructions (3.0): the fastest of the results that the specification allows, or, if the settings ask for it, the one that
//! every processor gives.
//!
//! | instruction | deterministic | else |
//! |---|---|---|
//! | `relaxed_swizzle` | 0 for indices of 16 and more | x86-64: `pshufb` |
//! | `relaxed_trunc` | saturating | x86-64, signed: 0x8000_0000 if out of range or NaN |
//! | `relaxed_madd`, `relaxed_nmadd` | rounded once | rounded twice if there is no instruction |
//! | `relaxed_laneselect` | bit by bit | x86-64: by the top bit of the lane where there is an instruction |
//! | `relaxed_min`, `relaxed_max` | as `min`, `max` | x86-64: as `pmin`, `pmax` |
//! | `relaxed_q15mulr` | saturating | x86-64: `pmulhrsw` |
//! | `relaxed_dot` | signed by signed | x86-64: signed by unsigned, saturating (`pmaddubsw`) or in full (`vpdpbusd`) |

use crate::translate::translator::Translator;
use cranelift_codegen::ir::types::{F32, F32X4, F64X2, I8X16, I16X8, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};
use peregrine_artifact::builtins::Builtin;
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Translates a relaxed vector instruction. False if `op` is none.
    pub(super) fn simd_relaxed(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::I8x16RelaxedSwizzle => self.relaxed_swizzle(),
            Operator::I32x4RelaxedTruncF32x4S => {
                let opcode = if self.is_relaxed_x64() { Opcode::X86Cvtt2dq } else { Opcode::FcvtToSintSat };
                self.convert_lanes(F32X4, opcode, I32X4);
            }
            Operator::I32x4RelaxedTruncF32x4U => self.convert_lanes(F32X4, Opcode::FcvtToUintSat, I32X4),
            Operator::I32x4RelaxedTruncF64x2SZero => {
                let opcode = if self.is_relaxed_x64() { Opcode::X86Cvtt2dq } else { Opcode::FcvtToSintSat };
                self.truncate_narrowing(opcode, Opcode::Snarrow);
            }
            Operator::I32x4RelaxedTruncF64x2UZero => self.truncate_narrowing(Opcode::FcvtToUintSat, Opcode::Uunarrow),
            Operator::F32x4RelaxedMadd => self.multiply_add(F32X4, false),
            Operator::F32x4RelaxedNmadd => self.multiply_add(F32X4, true),
            Operator::F64x2RelaxedMadd => self.multiply_add(F64X2, false),
            Operator::F64x2RelaxedNmadd => self.multiply_add(F64X2, true),
            Operator::I8x16RelaxedLaneselect => self.lane_select(I8X16),
            Operator::I16x8RelaxedLaneselect => self.lane_select(I16X8),
            Operator::I32x4RelaxedLaneselect => self.lane_select(I32X4),
            Operator::I64x2RelaxedLaneselect => self.lane_select(I64X2),
            Operator::F32x4RelaxedMin => self.relaxed_min(F32X4),
            Operator::F32x4RelaxedMax => self.relaxed_max(F32X4),
            Operator::F64x2RelaxedMin => self.relaxed_min(F64X2),
            Operator::F64x2RelaxedMax => self.relaxed_max(F64X2),
            Operator::I16x8RelaxedQ15mulrS => {
                let relaxed = self.is_relaxed() && self.isa.has_x86_pmulhrsw_lowering();
                self.lanewise2(I16X8, if relaxed { Opcode::X86Pmulhrsw } else { Opcode::SqmulRoundSat });
            }
            Operator::I16x8RelaxedDotI8x16I7x16S => {
                let (x, y) = self.pop2_lanes(I8X16);
                let value = self.relaxed_dot(x, y);
                self.push(value);
            }
            Operator::I32x4RelaxedDotI8x16I7x16AddS => self.relaxed_dot_add(),
            _ => return false,
        }
        true
    }

    /// Whether results may depend on the processor.
    fn is_relaxed(&self) -> bool {
        !self.settings().features.relaxed_simd_deterministic
    }

    fn is_relaxed_x64(&self) -> bool {
        self.is_relaxed() && self.is_x64()
    }

    fn relaxed_swizzle(&mut self) {
        let (x, indices) = self.pop2_lanes(I8X16);
        let value = if self.is_relaxed() && self.isa.has_x86_pshufb_lowering() {
            self.builder.ins().x86_pshufb(x, indices)
        } else {
            self.swizzle(x, indices)
        };
        self.push(value);
    }

    /// `x * y + z`, or `-(x * y) + z` if `negate`.
    fn multiply_add(&mut self, ty: Type, negate: bool) {
        let (x, y, z) = self.pop3_lanes(ty);
        let fused = self.isa.has_native_fma();
        let value = if !fused && self.is_relaxed() {
            let product = self.builder.ins().fmul(x, y);
            if negate { self.builder.ins().fsub(z, product) } else { self.builder.ins().fadd(product, z) }
        } else {
            let x = if negate { self.builder.ins().fneg(x) } else { x };
            if fused { self.builder.ins().fma(x, y, z) } else { self.fuse_by_lane(ty, x, y, z) }
        };
        self.push(value);
    }

    /// `x * y + z` rounded once, by the engine.
    fn fuse_by_lane(&mut self, ty: Type, x: Value, y: Value, z: Value) -> Value {
        let builtin = if ty.lane_type() == F32 { Builtin::f32_fma } else { Builtin::f64_fma };
        self.each_lane(ty, [x, y, z], |t, lanes| t.call_builtin(builtin, &lanes).expect("the builtins that multiply have a result"))
    }

    fn lane_select(&mut self, ty: Type) {
        let (x, y, mask) = self.pop3_lanes(ty);
        let value = if self.is_relaxed() && self.isa.has_blendv_lowering(ty) {
            self.builder.ins().blendv(mask, x, y)
        } else {
            self.builder.ins().bitselect(mask, x, y)
        };
        self.push(value);
    }

    fn relaxed_min(&mut self, ty: Type) {
        if self.is_relaxed_x64() { self.pseudo_min(ty) } else { self.lanewise2(ty, Opcode::Fmin) }
    }

    fn relaxed_max(&mut self, ty: Type) {
        if self.is_relaxed_x64() { self.pseudo_max(ty) } else { self.lanewise2(ty, Opcode::Fmax) }
    }

    /// The products of the lanes of `x` and of `y`, which have 7 bits, added by pairs.
    fn relaxed_dot(&mut self, x: Value, y: Value) -> Value {
        if self.is_relaxed() && self.isa.has_x86_pmaddubsw_lowering() {
            return self.builder.ins().x86_pmaddubsw(x, y);
        }
        self.dot_signed(x, y)
    }

    /// The products of the lanes of `x` and of `y`, which have 7 bits, added by fours, and to a third vector.
    fn relaxed_dot_add(&mut self) {
        let (x, y, z) = self.pop3();
        let (x, y, z) = (self.as_lanes(x, I8X16), self.as_lanes(y, I8X16), self.as_lanes(z, I32X4));
        let sums = if self.is_relaxed() && self.has_dot_of_four() { self.dot_of_four(x, y) } else { self.dot_twice(x, y) };
        let value = self.builder.ins().iadd(sums, z);
        self.push(value);
    }

    /// [`relaxed_dot`](Self::relaxed_dot), its lanes added by pairs again.
    fn dot_twice(&mut self, x: Value, y: Value) -> Value {
        let dot = self.relaxed_dot(x, y);
        let low = self.builder.ins().swiden_low(dot);
        let high = self.builder.ins().swiden_high(dot);
        self.builder.ins().iadd_pairwise(low, high)
    }

    /// Whether four products, their sum and a third vector are one instruction.
    fn has_dot_of_four(&self) -> bool {
        let has = |names: [&str; 2]| names.iter().all(|name| self.has_cpu_feature(name));
        if self.is_x64() {
            has(["has_avx", "has_avx_vnni"]) || has(["has_avx512vl", "has_avx512vnni"])
        } else {
            self.has_cpu_feature("has_dotprod")
        }
    }

    /// The four products in full, in the shape that the code generator knows. `y` is unsigned where the processor's instruction has it so.
    fn dot_of_four(&mut self, x: Value, y: Value) -> Value {
        let unsigned = self.is_x64();
        let (widen_low, widen_high) =
            if unsigned { (Opcode::UwidenLow, Opcode::UwidenHigh) } else { (Opcode::SwidenLow, Opcode::SwidenHigh) };
        let halves = [(Opcode::SwidenLow, widen_low), (Opcode::SwidenHigh, widen_high)].map(|(widen_x, widen_y)| {
            let x = self.emit_unary(widen_x, I8X16, x);
            let y = self.emit_unary(widen_y, I8X16, y);
            let products = self.builder.ins().imul(x, y);
            let low = self.builder.ins().swiden_low(products);
            let high = self.builder.ins().swiden_high(products);
            self.builder.ins().iadd_pairwise(low, high)
        });
        self.builder.ins().iadd_pairwise(halves[0], halves[1])
    }
}
