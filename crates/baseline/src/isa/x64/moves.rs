//! Values between registers, the frame, contexts and constants; conditions, jumps and traps.
//!
//! Nothing here changes the flags unless it says so: a comparison may be waiting in them.

use super::assembler::{Alu, Cc, Mem, Rm, Sse};
use super::registers::{RBP, SCRATCH, VECTOR_SCRATCH};
use crate::compile::{Cold, Compiler};
use crate::masm::Label;
use crate::registers::Reg;
use crate::values::{Ty, Value};
use peregrine_artifact::vmctx::{VmContextHeader, VmMemory};
use peregrine_wasm::{GlobalIndex, Trap};
use std::mem::offset_of;

/// What flags say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// One condition of the processor.
    Cc(Cc),
    /// Two floats are equal: `e` and `np`.
    FloatEqual,
    /// Two floats are not equal, or unordered: `ne` or `p`.
    FloatNotEqual,
}

impl Condition {
    /// The condition that holds when this one does not. For floats too: whatever is unordered is the other way round as well.
    pub(crate) const fn inverted(self) -> Self {
        match self {
            Self::Cc(cc) => Self::Cc(cc.inverted()),
            Self::FloatEqual => Self::FloatNotEqual,
            Self::FloatNotEqual => Self::FloatEqual,
        }
    }
}

/// `movss`, `movsd` or `movups` from memory.
const fn load_op(ty: Ty) -> Sse {
    match ty {
        Ty::F32 => Sse::new(0xf3, 0x10),
        Ty::F64 => Sse::new(0xf2, 0x10),
        _ => Sse::new(0, 0x10),
    }
}

/// The same to memory.
const fn store_op(ty: Ty) -> Sse {
    Sse { opcode: 0x11, ..load_op(ty) }
}

impl Compiler<'_> {
    /// A place in the frame.
    pub(crate) fn slot(offset: i32) -> Mem {
        Mem::new(RBP, offset)
    }

    /// Copies between registers.
    #[inline]
    pub(crate) fn move_reg(&mut self, ty: Ty, target: Reg, source: Reg) {
        if target == source {
            return;
        }
        if ty.is_vector_class() { self.masm.movaps(target, source) } else { self.masm.mov(ty.is_wide(), target, source) }
    }

    /// Loads from memory.
    #[inline]
    pub(crate) fn load_mem(&mut self, ty: Ty, target: Reg, source: Mem) {
        if ty.is_vector_class() { self.masm.sse(load_op(ty), target, source) } else { self.masm.mov(ty.is_wide(), target, source) }
    }

    /// Stores to memory.
    #[inline]
    pub(crate) fn store_mem(&mut self, ty: Ty, target: Mem, source: Reg) {
        if ty.is_vector_class() { self.masm.sse(store_op(ty), source, target) } else { self.masm.mov_store(ty.is_wide(), target, source) }
    }

    /// Loads from the frame.
    #[inline]
    pub(crate) fn load_slot(&mut self, ty: Ty, target: Reg, offset: i32) {
        self.load_mem(ty, target, Self::slot(offset));
    }

    /// Stores to the frame.
    #[inline]
    pub(crate) fn store_slot(&mut self, ty: Ty, offset: i32, source: Reg) {
        self.store_mem(ty, Self::slot(offset), source);
    }

    /// The constant of 16 bytes that begins with `bits`, or for floats repeats them.
    pub(crate) fn float_constant(&mut self, ty: Ty, bits: u64) -> Mem {
        let value = match ty {
            Ty::F32 => u128::from(bits as u32) * 0x0000_0001_0000_0001_0000_0001_0000_0001,
            _ => u128::from(bits) << 64 | u128::from(bits),
        };
        self.vector_constant(value)
    }

    /// A constant of 16 bytes.
    pub(crate) fn vector_constant(&mut self, value: u128) -> Mem {
        Mem::constant(self.masm.constant(value))
    }

    /// Writes a value to a register.
    #[inline]
    pub(crate) fn load_value(&mut self, ty: Ty, target: Reg, value: Value) {
        match value {
            Value::Reg(source) => self.move_reg(ty, target, source),
            Value::Slot(offset) => self.load_slot(ty, target, offset),
            Value::Const(bits) => self.load_const(ty, target, bits),
        }
    }

    /// Writes a constant to a register.
    pub(crate) fn load_const(&mut self, ty: Ty, target: Reg, bits: u64) {
        match ty {
            Ty::I32 => self.masm.mov_imm(target, u64::from(bits as u32)),
            Ty::I64 => self.masm.mov_imm(target, bits),
            // `xorps`
            _ if bits == 0 => self.masm.sse(Sse::new(0, 0x57), target, target),
            _ => {
                let constant = self.float_constant(ty, bits);
                self.load_mem(ty, target, constant);
            }
        }
    }

    /// Writes a value to memory. Uses scratch registers.
    pub(crate) fn store_value_mem(&mut self, ty: Ty, target: Mem, value: Value) {
        match value {
            Value::Reg(source) => self.store_mem(ty, target, source),
            Value::Slot(offset) => {
                let scratch = if ty == Ty::V128 { VECTOR_SCRATCH } else { SCRATCH };
                let ty = match ty {
                    Ty::F32 => Ty::I32,
                    Ty::F64 => Ty::I64,
                    ty => ty,
                };
                self.load_slot(ty, scratch, offset);
                self.store_mem(ty, target, scratch);
            }
            Value::Const(bits) => match ty {
                Ty::I32 | Ty::F32 => self.masm.mov_store_imm(false, target, bits as u32 as i32),
                _ => match i32::try_from(bits as i64) {
                    Ok(immediate) => self.masm.mov_store_imm(true, target, immediate),
                    Err(_) => {
                        self.masm.mov_imm(SCRATCH, bits);
                        self.masm.mov_store(true, target, SCRATCH);
                    }
                },
            },
        }
    }

    /// Writes a value to the frame. Uses scratch registers.
    #[inline]
    pub(crate) fn store_value(&mut self, ty: Ty, offset: i32, value: Value) {
        self.store_value_mem(ty, Self::slot(offset), value);
    }

    /// A value of an integer as an operand of an instruction; constants go to the scratch register.
    pub(crate) fn integer_operand(&mut self, wide: bool, value: Value) -> Rm {
        match value {
            Value::Reg(reg) => Rm::Reg(reg),
            Value::Slot(offset) => Rm::Mem(Self::slot(offset)),
            Value::Const(bits) => {
                self.masm.mov_imm(SCRATCH, if wide { bits } else { u64::from(bits as u32) });
                Rm::Reg(SCRATCH)
            }
        }
    }

    /// A value of a float or vector as an operand of an instruction.
    pub(crate) fn vector_operand(&mut self, ty: Ty, value: Value) -> Rm {
        match value {
            Value::Reg(reg) => Rm::Reg(reg),
            Value::Slot(offset) => Rm::Mem(Self::slot(offset)),
            Value::Const(bits) => Rm::Mem(self.float_constant(ty, bits)),
        }
    }

    // The context.

    /// The register with the context: its own, or the scratch register.
    pub(crate) fn context(&mut self) -> Reg {
        match self.context_pin {
            Some(reg) if !self.volatile.has(reg) || self.valid.has(reg) => reg,
            Some(reg) => {
                self.load_slot(Ty::I64, reg, crate::frame::CONTEXT);
                self.valid = self.valid.with(reg);
                reg
            }
            None => {
                self.load_slot(Ty::I64, SCRATCH, crate::frame::CONTEXT);
                SCRATCH
            }
        }
    }

    /// A field of the context. May use the scratch register, until the field is used.
    pub(crate) fn context_field(&mut self, offset: u32) -> Mem {
        Mem::new(self.context(), offset as i32)
    }

    /// Loads a pointer of the context.
    pub(crate) fn load_context_field(&mut self, target: Reg, offset: u32) {
        let field = self.context_field(offset);
        self.masm.mov(true, target, field);
    }

    /// Something that is in the context at `offset`, or that a pointer there points to if it is imported. May use the scratch register.
    pub(crate) fn context_item(&mut self, offset: u32, imported: bool) -> Mem {
        let field = self.context_field(offset);
        if !imported {
            return field;
        }
        self.masm.mov(true, SCRATCH, field);
        Mem::new(SCRATCH, 0)
    }

    /// Where a global is. May be based on the scratch register.
    pub(crate) fn global_place(&mut self, index: GlobalIndex) -> Mem {
        match self.module.defined_global_index(index) {
            Some(defined) => self.context_item(self.layout.global(defined), false),
            None => self.context_item(self.layout.global_import(index), true),
        }
    }

    /// The register with the base of memory 0: its own, or the scratch register.
    pub(crate) fn memory_zero_base(&mut self) -> Reg {
        match self.base_pin {
            Some(reg) => {
                if self.volatile.has(reg) && !self.valid.has(reg) {
                    self.load_memory_zero_base(reg);
                    self.valid = self.valid.with(reg);
                }
                reg
            }
            None => {
                self.load_memory_zero_base(SCRATCH);
                SCRATCH
            }
        }
    }

    /// Loads the base of memory 0.
    pub(crate) fn load_memory_zero_base(&mut self, target: Reg) {
        let place = self.memory_place(peregrine_wasm::MemoryIndex::from_u32(0));
        self.masm.mov(true, target, place.plus(offset_of!(VmMemory, base) as i32));
    }

    // Conditions. These read flags.

    /// Makes 1 or 0 of a condition.
    pub(crate) fn set_to_condition(&mut self, target: Reg, condition: Condition) {
        match condition {
            Condition::Cc(cc) => self.masm.setcc(cc, target),
            Condition::FloatEqual => {
                self.masm.setcc(Cc::Np, SCRATCH);
                self.masm.setcc(Cc::E, target);
                self.masm.alu(Alu::And, false, target, SCRATCH);
            }
            Condition::FloatNotEqual => {
                self.masm.setcc(Cc::P, SCRATCH);
                self.masm.setcc(Cc::Ne, target);
                self.masm.alu(Alu::Or, false, target, SCRATCH);
            }
        }
        self.masm.movzx8(target, target);
    }

    /// Jumps if a condition holds.
    pub(crate) fn jump_if(&mut self, condition: Condition, label: Label) {
        match condition {
            Condition::Cc(cc) => self.masm.jcc(cc, label),
            Condition::FloatEqual => {
                let over = self.masm.jcc_short(Cc::P);
                self.masm.jcc(Cc::E, label);
                self.masm.land(over);
            }
            Condition::FloatNotEqual => {
                self.masm.jcc(Cc::P, label);
                self.masm.jcc(Cc::Ne, label);
            }
        }
    }

    /// Pops a condition to the flags.
    pub(crate) fn pop_condition(&mut self) -> Condition {
        if let Some(condition) = self.pop_flags() {
            return condition;
        }
        match self.pop() {
            Value::Reg(reg) => {
                self.masm.test(false, reg, reg);
                self.regs.release(reg);
            }
            Value::Slot(offset) => self.masm.alu_imm(Alu::Cmp, false, Self::slot(offset), 0),
            Value::Const(bits) => {
                self.masm.mov_imm(SCRATCH, u64::from(bits as u32));
                self.masm.test(false, SCRATCH, SCRATCH);
            }
        }
        Condition::Cc(Cc::Ne)
    }

    /// Tests a reference: the conditions that it is null, and that it is not.
    pub(crate) fn test_reference(&mut self, ty: Ty, reference: Reg) -> (Condition, Condition) {
        self.masm.test(ty.is_wide(), reference, reference);
        (Condition::Cc(Cc::E), Condition::Cc(Cc::Ne))
    }

    // Traps.

    /// The next instruction belongs to the operator being translated and traps, if it does, for this reason.
    #[inline]
    pub(crate) fn may_trap(&mut self, trap: Trap) {
        self.masm.address_here(self.offset);
        self.masm.trap_here(trap);
    }

    /// Traps if a reference is null.
    pub(crate) fn trap_if_null(&mut self, ty: Ty, reference: Reg, trap: Trap) {
        self.masm.test(ty.is_wide(), reference, reference);
        self.trap_if(Cc::E, trap);
    }

    /// Traps if a condition holds.
    pub(crate) fn trap_if(&mut self, cc: Cc, trap: Trap) {
        let label = self.masm.label();
        self.masm.jcc(cc, label);
        self.cold.push(Cold::Trap { label, trap, offset: self.offset });
    }

    /// Traps.
    pub(crate) fn trap(&mut self, trap: Trap) {
        self.may_trap(trap);
        self.masm.ud2();
    }

    /// Looks at the page that an interruption makes inaccessible.
    pub(crate) fn check_interrupt(&mut self) {
        self.load_context_field(SCRATCH, offset_of!(VmContextHeader, interrupt_page) as u32);
        self.may_trap(Trap::Interrupt);
        // `cmp`, whatever it finds: the flags are free at the places that look.
        self.masm.alu(Alu::Cmp, false, SCRATCH, Mem::new(SCRATCH, 0));
    }
}
