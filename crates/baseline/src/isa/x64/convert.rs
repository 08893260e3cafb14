//! Conversions between integers and floats.

use super::assembler::{Alu, Cc, Shift, Sse};
use super::float::{scalar, ucomis};
use super::registers::{SCRATCH, VECTOR_SCRATCH};
use crate::compile::{Cold, Compiler};
use crate::masm::Label;
use crate::registers::Reg;
use crate::values::{Ty, Value};
use peregrine_wasm::Trap;

/// 2^63 as a float.
const fn two_to_63(ty: Ty) -> u64 {
    match ty {
        Ty::F32 => 0x5f00_0000,
        _ => 0x43e0_0000_0000_0000,
    }
}

/// -2^31 or -2^63 as a float, the least that an integer of the width is.
const fn least_signed(ty: Ty, wide: bool) -> u64 {
    match (ty, wide) {
        (Ty::F32, false) => 0xcf00_0000,
        (Ty::F32, true) => 0xdf00_0000,
        (_, false) => 0xc1e0_0000_0000_0000,
        (_, true) => 0xc3e0_0000_0000_0000,
    }
}

/// -2^31 - 1 as a float of 64 bits: the greatest that is too small for 32 bits.
const BELOW_LEAST_I32: u64 = 0xc1e0_0000_0020_0000;

impl Compiler<'_> {
    fn convert_source(&mut self, from: Ty) -> Reg {
        let value = self.pop();
        self.in_reg(from, value)
    }

    /// `cvttss2si` or `cvttsd2si`.
    fn truncate_float(&mut self, from: Ty, wide: bool, target: Reg, source: Reg) {
        self.masm.sse_wide(scalar(from, 0x2c), wide, target, source);
    }

    /// Trapping conversions to integers.
    pub(crate) fn convert_to_integer(&mut self, from: Ty, to: Ty, signed: bool) {
        let source = self.convert_source(from);
        let target = self.alloc(false);
        let wide = to.is_wide();
        match (signed, wide) {
            (true, _) => {
                self.truncate_float(from, wide, target, source);
                // Overflows for the least number only, which also stands for "no result".
                self.masm.alu_imm(Alu::Cmp, wide, target, 1);
                let (label, back) = (self.masm.label(), self.masm.label());
                self.masm.jcc(Cc::O, label);
                self.masm.bind(back);
                self.cold.push(Cold::Convert { label, back: Some(back), source, from, to_wide: wide, offset: self.offset });
            }
            (false, false) => {
                self.truncate_float(from, true, target, source);
                self.masm.mov(false, SCRATCH, target);
                self.masm.alu(Alu::Cmp, true, SCRATCH, target);
                self.convert_trap_if(Cc::Ne, source, from);
            }
            (false, true) => {
                let limit = self.float_constant(from, two_to_63(from));
                self.masm.sse(ucomis(from), source, limit);
                // Unordered sets the carry as well.
                let large = self.masm.jcc_short(Cc::Ae);
                self.truncate_float(from, true, target, source);
                self.masm.test(true, target, target);
                self.convert_trap_if(Cc::S, source, from);
                let done = self.masm.jmp_short();
                self.masm.land(large);
                self.masm.movaps(VECTOR_SCRATCH, source);
                self.masm.sse(scalar(from, 0x5c), VECTOR_SCRATCH, limit);
                self.truncate_float(from, true, target, VECTOR_SCRATCH);
                self.masm.test(true, target, target);
                self.convert_trap_if(Cc::S, source, from);
                self.masm.btc(target, 63);
                self.masm.land(done);
            }
        }
        self.regs.release(source);
        self.push_reg(to, target);
    }

    fn convert_trap_if(&mut self, cc: Cc, source: Reg, from: Ty) {
        let label = self.masm.label();
        self.masm.jcc(cc, label);
        self.cold.push(Cold::Convert { label, back: None, source, from, to_wide: false, offset: self.offset });
    }

    /// Decides which trap it is, or that there is none: the result is right if it is the least integer of its width.
    pub(crate) fn cold_convert(&mut self, source: Reg, from: Ty, to_wide: bool, back: Option<Label>) {
        self.masm.sse(ucomis(from), source, source);
        let nan = self.masm.jcc_short(Cc::P);
        if let Some(back) = back {
            self.convert_check_least(source, from, to_wide, back);
        }
        self.trap(Trap::IntegerOverflow);
        self.masm.land(nan);
        self.trap(Trap::BadConversionToInteger);
    }

    fn convert_check_least(&mut self, source: Reg, from: Ty, to_wide: bool, back: Label) {
        // In range, and not positive.
        let exclusive = from == Ty::F64 && !to_wide;
        let least = if exclusive { BELOW_LEAST_I32 } else { least_signed(from, to_wide) };
        let least = self.float_constant(from, least);
        self.masm.sse(ucomis(from), source, least);
        let too_small = self.masm.jcc_short(if exclusive { Cc::Be } else { Cc::B });
        self.masm.sse(Sse::new(0, 0x57), VECTOR_SCRATCH, VECTOR_SCRATCH);
        self.masm.sse(ucomis(from), source, VECTOR_SCRATCH);
        self.masm.jcc(Cc::B, back);
        self.masm.land(too_small);
    }

    /// Saturating conversions to integers.
    pub(crate) fn convert_to_integer_saturating(&mut self, from: Ty, to: Ty, signed: bool) {
        let source = self.convert_source(from);
        let target = self.alloc(false);
        let wide = to.is_wide();
        self.masm.sse(Sse::new(0, 0x57), VECTOR_SCRATCH, VECTOR_SCRATCH);
        match (signed, wide) {
            (true, _) => {
                self.truncate_float(from, wide, target, source);
                self.masm.alu_imm(Alu::Cmp, wide, target, 1);
                let fits = self.masm.jcc_short(Cc::No);
                // No result, or the least: NaN gives 0, what is above zero the greatest.
                self.masm.sse(ucomis(from), source, VECTOR_SCRATCH);
                let is_number = self.masm.jcc_short(Cc::Np);
                self.masm.zero(target);
                let done = self.masm.jmp_short();
                self.masm.land(is_number);
                let negative = self.masm.jcc_short(Cc::B);
                // The least and 1 less is the greatest.
                self.masm.alu_imm(Alu::Sub, wide, target, 1);
                self.masm.land(negative);
                self.masm.land(done);
                self.masm.land(fits);
            }
            (false, false) => {
                // What is below zero, or NaN, is 0.
                self.masm.sse(ucomis(from), source, VECTOR_SCRATCH);
                let positive = self.masm.jcc_short(Cc::A);
                self.masm.zero(target);
                let done = self.masm.jmp_short();
                self.masm.land(positive);
                self.truncate_float(from, true, target, source);
                self.masm.mov(true, SCRATCH, target);
                self.masm.shift_imm(Shift::Shr, true, SCRATCH, 32);
                let fits = self.masm.jcc_short(Cc::E);
                self.masm.mov_imm(target, 0xffff_ffff);
                self.masm.land(fits);
                self.masm.land(done);
            }
            (false, true) => self.saturate_u64(from, target, source),
        }
        self.regs.release(source);
        self.push_reg(to, target);
    }

    fn saturate_u64(&mut self, from: Ty, target: Reg, source: Reg) {
        let limit = self.float_constant(from, two_to_63(from));
        self.masm.sse(ucomis(from), source, VECTOR_SCRATCH);
        let positive = self.masm.jcc_short(Cc::A);
        self.masm.zero(target);
        let done = self.masm.jmp_short();
        self.masm.land(positive);
        self.masm.sse(ucomis(from), source, limit);
        let large = self.masm.jcc_short(Cc::Ae);
        self.truncate_float(from, true, target, source);
        let done_too = self.masm.jmp_short();
        self.masm.land(large);
        self.masm.movaps(VECTOR_SCRATCH, source);
        self.masm.sse(scalar(from, 0x5c), VECTOR_SCRATCH, limit);
        self.truncate_float(from, true, target, VECTOR_SCRATCH);
        self.masm.test(true, target, target);
        let fits = self.masm.jcc_short(Cc::Ns);
        self.masm.mov_imm(target, u64::MAX);
        let done_three = self.masm.jmp_short();
        self.masm.land(fits);
        self.masm.btc(target, 63);
        for jump in [done, done_too, done_three] {
            self.masm.land(jump);
        }
    }

    /// Conversions of integers to floats.
    pub(crate) fn convert_from_integer(&mut self, from: Ty, to: Ty, signed: bool) {
        let value = self.pop();
        if !signed && from == Ty::I64 {
            return self.convert_from_u64(value, to);
        }
        // An unsigned number of 32 bits is a signed one of 64, for it is zero-extended in a register.
        let wide = from == Ty::I64 || !signed;
        let source = self.in_reg(from, value);
        let target = self.result(true);
        // So that the instruction does not wait for what was in the register.
        self.masm.sse(Sse::new(0, 0x57), target, target);
        self.masm.sse_wide(scalar(to, 0x2a), wide, target, source);
        self.regs.release(source);
        self.push_reg(to, target);
    }

    fn convert_from_u64(&mut self, value: Value, to: Ty) {
        let source = self.in_reg(Ty::I64, value);
        let half = self.alloc(false);
        let target = self.result(true);
        self.masm.sse(Sse::new(0, 0x57), target, target);
        self.masm.test(true, source, source);
        let large = self.masm.jcc_short(Cc::S);
        self.masm.sse_wide(scalar(to, 0x2a), true, target, source);
        let done = self.masm.jmp_short();
        self.masm.land(large);
        // Half of it, with the lost bit kept for rounding, twice.
        self.masm.mov(true, half, source);
        self.masm.mov(false, SCRATCH, source);
        self.masm.shift_imm(Shift::Shr, true, half, 1);
        self.masm.alu_imm(Alu::And, false, SCRATCH, 1);
        self.masm.alu(Alu::Or, true, half, SCRATCH);
        self.masm.sse_wide(scalar(to, 0x2a), true, target, half);
        self.masm.sse(scalar(to, 0x58), target, target);
        self.masm.land(done);
        self.regs.release(half);
        self.regs.release(source);
        self.push_reg(to, target);
    }

    /// `f32.demote_f64`, `f64.promote_f32`.
    pub(crate) fn convert_float(&mut self, from: Ty, to: Ty) {
        let (source, target) = self.float_unary_operands(from);
        self.masm.sse(scalar(from, 0x5a), target, source);
        self.canonicalize(to, target);
        self.push_reg(to, target);
    }

    /// Bits of a float as an integer, or the other way round.
    pub(crate) fn reinterpret(&mut self, from: Ty, to: Ty) {
        let value = self.pop();
        match value {
            Value::Const(bits) => self.push_const(to, bits),
            Value::Slot(offset) => {
                let target = self.result(to.is_vector_class());
                self.load_slot(to, target, offset);
                self.push_reg(to, target);
            }
            Value::Reg(source) => {
                let target = self.result(to.is_vector_class());
                let wide = matches!(from, Ty::I64 | Ty::F64);
                if to.is_vector_class() {
                    self.masm.sse_wide(Sse::new(0x66, 0x6e), wide, target, source);
                } else {
                    self.masm.sse_wide(Sse::new(0x66, 0x7e), wide, source, target);
                }
                self.regs.release(source);
                self.push_reg(to, target);
            }
        }
    }
}
