//! Integer instructions on scalars, and `select` of them.

use super::assembler::{Alu, Cc, Mem, Rm, Shift};
use super::moves::Condition;
use super::registers::{RAX, RCX, RDX, SCRATCH};
use crate::compile::Compiler;
use crate::operators::{IntegerCompare, IntegerOp, ShiftOp, WideOp};
use crate::registers::{NO_OWNER, Reg};
use crate::values::{Ty, Value};
use peregrine_wasm::Trap;

/// The immediate that a constant can be.
fn immediate(wide: bool, value: Value) -> Option<i32> {
    match value {
        Value::Const(bits) if !wide => Some(bits as u32 as i32),
        Value::Const(bits) => i32::try_from(bits as i64).ok(),
        _ => None,
    }
}

impl Compiler<'_> {
    /// Addition, subtraction and bitwise instructions.
    pub(crate) fn integer(&mut self, op: IntegerOp, ty: Ty) {
        let op = Alu::from(op);
        let wide = ty.is_wide();
        let mut right = self.pop();
        let mut left = self.pop();
        if op != Alu::Sub {
            let left_is_worse = match (left, right) {
                (Value::Const(_), Value::Reg(_) | Value::Slot(_)) | (Value::Slot(_), Value::Reg(_)) => true,
                // What is overwritten is better a temporary register, or the one that the result goes to.
                (Value::Reg(left), Value::Reg(right)) => {
                    self.hinted(false) == Some(right) || !self.regs.is_temporary(left) && self.regs.is_temporary(right)
                }
                _ => false,
            };
            if left_is_worse {
                std::mem::swap(&mut left, &mut right);
            }
        }
        let immediate = immediate(wide, right);
        if matches!(op, Alu::Add | Alu::Sub)
            && let Value::Reg(base) = left
            && self.add_by_lea(op, ty, base, right, immediate)
        {
            return;
        }
        let target = self.in_result(ty, left, right);
        match immediate {
            Some(immediate) => self.masm.alu_imm(op, wide, target, immediate),
            None => {
                let right = self.integer_operand(wide, right);
                self.masm.alu(op, wide, target, right);
            }
        }
        self.release(right);
        self.push_reg(ty, target);
    }

    /// Adds by `lea` where the first operand must stay and the result is elsewhere.
    fn add_by_lea(&mut self, op: Alu, ty: Ty, base: Reg, right: Value, immediate: Option<i32>) -> bool {
        let hinted = self.hinted(false);
        if self.regs.is_temporary(base) && hinted.is_none() || hinted == Some(base) {
            return false;
        }
        let source = match (right, immediate, op) {
            (_, Some(immediate), Alu::Add) => Mem::new(base, immediate),
            (_, Some(immediate), _) if immediate != i32::MIN => Mem::new(base, -immediate),
            (Value::Reg(index), None, Alu::Add) => Mem::indexed(base, index, 0, 0),
            _ => return false,
        };
        self.regs.release(base);
        self.release(right);
        let target = self.result(false);
        self.masm.lea(ty.is_wide(), target, source);
        self.push_reg(ty, target);
        true
    }

    /// Multiplication.
    pub(crate) fn multiply(&mut self, ty: Ty) {
        let wide = ty.is_wide();
        let mut right = self.pop();
        let mut left = self.pop();
        if matches!(left, Value::Const(_)) || matches!((left, right), (Value::Slot(_), Value::Reg(_))) {
            std::mem::swap(&mut left, &mut right);
        }
        if let Some(immediate) = immediate(wide, right) {
            let source = self.integer_operand(wide, left);
            self.release(left);
            let target = self.result(false);
            let power = immediate as u32;
            match source {
                Rm::Reg(source) if power.is_power_of_two() && immediate > 0 => {
                    self.move_reg(ty, target, source);
                    self.masm.shift_imm(Shift::Shl, wide, target, power.trailing_zeros() as u8);
                }
                _ => self.masm.imul_imm(wide, target, source, immediate),
            }
            return self.push_reg(ty, target);
        }
        let target = self.in_result(ty, left, right);
        let right_operand = self.integer_operand(wide, right);
        self.masm.imul(wide, target, right_operand);
        self.release(right);
        self.push_reg(ty, target);
    }

    /// Shifts and rotations. Counts are taken modulo the width, by the processor.
    pub(crate) fn shift(&mut self, op: ShiftOp, ty: Ty) {
        let op = Shift::from(op);
        let wide = ty.is_wide();
        let count = self.pop();
        let mut left = self.pop();
        if let Value::Const(bits) = count {
            let target = self.in_result(ty, left, count);
            let count = bits as u8 & if wide { 63 } else { 31 };
            if count > 0 {
                self.masm.shift_imm(op, wide, target, count);
            }
            return self.push_reg(ty, target);
        }
        if self.features.bmi2 && matches!(op, Shift::Shl | Shift::Shr | Shift::Sar) {
            let count = self.in_reg(Ty::I32, count);
            let source = self.integer_operand(wide, left);
            self.regs.release(count);
            self.release(left);
            let target = self.result(false);
            self.masm.shift_bmi2(op, wide, target, source, count);
            return self.push_reg(ty, target);
        }
        if left == Value::Reg(RCX) {
            let other = self.alloc(false);
            self.move_reg(ty, other, RCX);
            self.regs.release(RCX);
            left = Value::Reg(other);
        }
        self.in_fixed(Ty::I32, RCX, count);
        let target = self.in_result(ty, left, Value::Reg(RCX));
        self.masm.shift_cl(op, wide, target);
        self.regs.release(RCX);
        self.push_reg(ty, target);
    }

    /// Division and remainder.
    pub(crate) fn divide(&mut self, ty: Ty, signed: bool, remainder: bool) {
        let wide = ty.is_wide();
        let divisor = self.pop();
        let dividend = self.pop();
        if let Value::Const(bits) = divisor
            && self.divide_by_constant(ty, signed, remainder, dividend, bits)
        {
            return;
        }
        // The divisor must be in neither of the two registers that the instruction uses.
        let divisor_reg = match divisor {
            Value::Reg(reg) if reg != RAX && reg != RDX => reg,
            _ => {
                self.load_value(ty, SCRATCH, divisor);
                self.release(divisor);
                SCRATCH
            }
        };
        self.in_fixed(ty, RAX, dividend);
        self.take(RDX);
        if signed {
            self.divide_signed(wide, remainder, divisor_reg);
        } else {
            self.masm.zero(RDX);
            self.may_trap(Trap::IntegerDivisionByZero);
            self.masm.unary(6, wide, divisor_reg);
        }
        self.regs.release(divisor_reg);
        let (result, other) = if remainder { (RDX, RAX) } else { (RAX, RDX) };
        self.regs.release(other);
        self.push_reg(ty, result);
    }

    fn divide_signed(&mut self, wide: bool, remainder: bool, divisor: Reg) {
        if !remainder {
            self.masm.test(wide, divisor, divisor);
            self.trap_if(Cc::E, Trap::IntegerDivisionByZero);
            self.masm.sign_to_rdx(wide);
            // What is left to fault is the quotient that does not fit.
            self.may_trap(Trap::IntegerOverflow);
            return self.masm.unary(7, wide, divisor);
        }
        // The remainder by -1 is 0, also where the quotient does not fit.
        self.masm.zero(RDX);
        self.masm.alu_imm(Alu::Cmp, wide, divisor, -1);
        let over = self.masm.jcc_short(Cc::E);
        self.masm.sign_to_rdx(wide);
        self.may_trap(Trap::IntegerDivisionByZero);
        self.masm.unary(7, wide, divisor);
        self.masm.land(over);
    }

    /// Divides by what needs no division: powers of two, unsigned.
    fn divide_by_constant(&mut self, ty: Ty, signed: bool, remainder: bool, dividend: Value, bits: u64) -> bool {
        let divisor = if ty.is_wide() { bits } else { u64::from(bits as u32) };
        if signed || !divisor.is_power_of_two() {
            return false;
        }
        let power = divisor.trailing_zeros() as u8;
        if remainder {
            let Ok(mask) = i32::try_from(divisor - 1) else { return false };
            let target = self.in_result(ty, dividend, Value::Const(0));
            self.masm.alu_imm(Alu::And, ty.is_wide(), target, mask);
            self.push_reg(ty, target);
        } else {
            let target = self.in_result(ty, dividend, Value::Const(0));
            if power > 0 {
                self.masm.shift_imm(Shift::Shr, ty.is_wide(), target, power);
            }
            self.push_reg(ty, target);
        }
        true
    }

    /// Comparisons. The outcome stays in the flags.
    pub(crate) fn compare(&mut self, ty: Ty, compare: IntegerCompare) {
        let cc = Cc::from(compare);
        let wide = ty.is_wide();
        let right = self.pop();
        let left = self.pop();
        let left_operand = match left {
            Value::Const(_) => Rm::Reg(self.in_reg(ty, left)),
            Value::Slot(_) if matches!(right, Value::Slot(_)) => Rm::Reg(self.in_reg(ty, left)),
            _ => self.integer_operand(wide, left),
        };
        match (immediate(wide, right), left_operand) {
            (Some(0), Rm::Reg(left)) => self.masm.test(wide, left, left),
            (Some(immediate), _) => self.masm.alu_imm(Alu::Cmp, wide, left_operand, immediate),
            (None, Rm::Reg(left)) => {
                let right = self.integer_operand(wide, right);
                self.masm.alu(Alu::Cmp, wide, left, right);
            }
            (None, Rm::Mem(left)) => {
                let right = match right {
                    Value::Reg(right) => right,
                    _ => {
                        self.load_value(ty, SCRATCH, right);
                        SCRATCH
                    }
                };
                self.masm.alu_store(Alu::Cmp, wide, left, right);
            }
        }
        if let Rm::Reg(reg) = left_operand {
            self.regs.release(reg);
        }
        self.release(right);
        self.push_flags(Condition::Cc(cc));
    }

    /// `eqz`, also of a comparison that is in the flags.
    pub(crate) fn equal_to_zero(&mut self, ty: Ty) {
        if let Some(condition) = self.pop_flags() {
            return self.push_flags(condition.inverted());
        }
        let value = self.pop();
        match value {
            Value::Reg(reg) => self.masm.test(ty.is_wide(), reg, reg),
            Value::Slot(offset) => self.masm.alu_imm(Alu::Cmp, ty.is_wide(), Self::slot(offset), 0),
            Value::Const(bits) => {
                let bits = if ty.is_wide() { bits } else { u64::from(bits as u32) };
                return self.push_const(Ty::I32, u64::from(bits == 0));
            }
        }
        self.release(value);
        self.push_flags(Condition::Cc(Cc::E));
    }

    /// `select` of integers and references.
    pub(crate) fn select_integer(&mut self, ty: Ty, condition: Condition, then: Value, otherwise: Value) {
        let wide = ty.is_wide();
        // What is there if no move happens, and what is moved if one of the conditions holds.
        let (stays, moved, conditions) = match condition {
            Condition::Cc(cc) => (then, otherwise, [Some(cc.inverted()), None]),
            Condition::FloatEqual => (then, otherwise, [Some(Cc::P), Some(Cc::Ne)]),
            Condition::FloatNotEqual => (otherwise, then, [Some(Cc::P), Some(Cc::Ne)]),
        };
        let target = self.in_result(ty, stays, moved);
        let operand = self.integer_operand(wide, moved);
        for cc in conditions.into_iter().flatten() {
            self.masm.cmov(cc, wide, target, operand);
        }
        self.release(moved);
        self.push_reg(ty, target);
    }

    /// `clz`.
    pub(crate) fn count_leading_zeros(&mut self, ty: Ty) {
        let wide = ty.is_wide();
        let (source, target) = self.unary_operands(ty);
        if self.features.lzcnt {
            self.masm.count_bits(0xf3, wide, 0xbd, target, source);
        } else {
            let top = if wide { 63 } else { 31 };
            self.masm.count_bits(0, wide, 0xbd, target, source);
            // The number that gives the width.
            self.masm.mov_imm(SCRATCH, top * 2 + 1);
            self.masm.cmov(Cc::E, wide, target, SCRATCH);
            self.masm.alu_imm(Alu::Xor, wide, target, top as i32);
        }
        self.push_reg(ty, target);
    }

    /// `ctz`.
    pub(crate) fn count_trailing_zeros(&mut self, ty: Ty) {
        let wide = ty.is_wide();
        let (source, target) = self.unary_operands(ty);
        if self.features.bmi1 {
            self.masm.count_bits(0xf3, wide, 0xbc, target, source);
        } else {
            self.masm.count_bits(0, wide, 0xbc, target, source);
            self.masm.mov_imm(SCRATCH, if wide { 64 } else { 32 });
            self.masm.cmov(Cc::E, wide, target, SCRATCH);
        }
        self.push_reg(ty, target);
    }

    /// `popcnt`.
    pub(crate) fn count_ones(&mut self, ty: Ty) {
        let wide = ty.is_wide();
        if self.features.popcnt {
            let (source, target) = self.unary_operands(ty);
            self.masm.count_bits(0xf3, wide, 0xb8, target, source);
            return self.push_reg(ty, target);
        }
        // Sums of neighbours of 1, 2 and 4 bits, then of bytes by a multiplication.
        let value = self.pop();
        let sum = self.in_temporary(ty, value);
        let part = self.alloc(false);
        let mask = |bits: u64| if wide { bits } else { bits & 0xffff_ffff };
        for (shift, bits) in [(1, 0x5555_5555_5555_5555), (2, 0x3333_3333_3333_3333)] {
            self.masm.mov(true, part, sum);
            self.masm.shift_imm(Shift::Shr, true, part, shift);
            self.masm.mov_imm(SCRATCH, mask(bits));
            self.masm.alu(Alu::And, true, part, SCRATCH);
            if shift == 1 {
                self.masm.alu(Alu::Sub, true, sum, part);
            } else {
                self.masm.alu(Alu::And, true, sum, SCRATCH);
                self.masm.alu(Alu::Add, true, sum, part);
            }
        }
        self.masm.mov(true, part, sum);
        self.masm.shift_imm(Shift::Shr, true, part, 4);
        self.masm.alu(Alu::Add, true, sum, part);
        self.masm.mov_imm(SCRATCH, mask(0x0f0f_0f0f_0f0f_0f0f));
        self.masm.alu(Alu::And, true, sum, SCRATCH);
        self.masm.mov_imm(SCRATCH, mask(0x0101_0101_0101_0101));
        self.masm.imul(wide, sum, SCRATCH);
        self.masm.shift_imm(Shift::Shr, wide, sum, if wide { 56 } else { 24 });
        self.regs.release(part);
        self.push_reg(ty, sum);
    }

    /// Pops the operand of an instruction that overwrites its target and reads its operand at once.
    fn unary_operands(&mut self, ty: Ty) -> (Rm, Reg) {
        let value = self.pop();
        let source = self.integer_operand(ty.is_wide(), value);
        self.release(value);
        (source, self.result(false))
    }

    /// `extend8_s`, `extend16_s`, `extend32_s`.
    pub(crate) fn sign_extend(&mut self, ty: Ty, bits: u8) {
        let (source, target) = self.unary_operands(ty);
        match bits {
            8 => self.masm.movsx8(ty.is_wide(), target, source),
            16 => self.masm.movsx16(ty.is_wide(), target, source),
            _ => self.masm.movsx32(target, source),
        }
        self.push_reg(ty, target);
    }

    /// `i32.wrap_i64`.
    pub(crate) fn wrap(&mut self) {
        let value = self.pop();
        if let Value::Const(bits) = value {
            return self.push_const(Ty::I32, u64::from(bits as u32));
        }
        self.copy_low(value, Ty::I32);
    }

    /// `i64.extend_i32_u`: nothing is left to do for what is in a register.
    pub(crate) fn zero_extend(&mut self) {
        match self.pop() {
            Value::Const(bits) => self.push_const(Ty::I64, u64::from(bits as u32)),
            Value::Reg(reg) if self.regs.is_temporary(reg) => self.push_reg(Ty::I64, reg),
            value => self.copy_low(value, Ty::I64),
        }
    }

    fn copy_low(&mut self, value: Value, ty: Ty) {
        let source = self.integer_operand(false, value);
        self.release(value);
        let target = self.result(false);
        self.masm.mov(false, target, source);
        self.push_reg(ty, target);
    }

    // 128-bit arithmetic.

    /// `i64.add128`, `i64.sub128`.
    pub(crate) fn wide_arithmetic(&mut self, op: WideOp) {
        let (low_op, high_op) = match op {
            WideOp::Add => (Alu::Add, Alu::Adc),
            WideOp::Sub => (Alu::Sub, Alu::Sbb),
        };
        self.hint = None;
        let right_high = self.pop();
        let right_low = self.pop();
        let left_high = self.pop();
        let left_low = self.pop();
        let low = self.in_temporary(Ty::I64, left_low);
        let high = self.in_temporary(Ty::I64, left_high);
        for (op, target, right) in [(low_op, low, right_low), (high_op, high, right_high)] {
            let operand = self.integer_operand(true, right);
            self.masm.alu(op, true, target, operand);
        }
        self.release(right_low);
        self.release(right_high);
        self.push_reg(Ty::I64, low);
        self.push_reg(Ty::I64, high);
    }

    /// `i64.mul_wide_s`, `i64.mul_wide_u`.
    pub(crate) fn multiply_wide(&mut self, signed: bool) {
        self.hint = None;
        let right = self.pop();
        let left = self.pop();
        let operand = match right {
            Value::Reg(reg) if reg == RAX || reg == RDX => {
                self.masm.mov(true, SCRATCH, reg);
                self.release(right);
                Rm::Reg(SCRATCH)
            }
            _ => self.integer_operand(true, right),
        };
        self.in_fixed(Ty::I64, RAX, left);
        self.take(RDX);
        self.masm.unary(if signed { 5 } else { 4 }, true, operand);
        if let Rm::Reg(reg) = operand {
            self.regs.release(reg);
        }
        self.regs.hold(RAX, NO_OWNER);
        self.push_reg(Ty::I64, RAX);
        self.push_reg(Ty::I64, RDX);
    }
}
