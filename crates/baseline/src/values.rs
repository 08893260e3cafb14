//! The operand stack, and the values that instructions take from it.
//!
//! An operand is a constant, in a register, in its home in the frame, in a local that has not been written since, or the outcome of a
//! comparison that is still in the flags. Every `i32` in a register is zero-extended to 64 bits: whatever makes one sees to that, and
//! so addresses need no extension. In the frame the upper half of an `i32` means nothing.

use crate::compile::Compiler;
use crate::isa::machine::moves::Condition;
use crate::isa::machine::registers::{INTEGER, PREFERRED, VECTOR};
use crate::registers::{NO_OWNER, Reg};
use peregrine_wasm::ValType;
use wasmparser::AbstractHeapType;

/// The machine's view of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    /// 32 bits; also references that are handles.
    I32,
    /// 64 bits; also references that are pointers.
    I64,
    F32,
    F64,
    V128,
}

impl Ty {
    /// Whether its values are in vector registers.
    #[inline]
    pub(crate) const fn is_vector_class(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::V128)
    }

    /// Whether it is an integer of 64 bits.
    #[inline]
    pub(crate) const fn is_wide(self) -> bool {
        matches!(self, Self::I64)
    }
}

impl From<ValType> for Ty {
    fn from(ty: ValType) -> Self {
        match ty {
            ValType::I32 => Self::I32,
            ValType::I64 => Self::I64,
            ValType::F32 => Self::F32,
            ValType::F64 => Self::F64,
            ValType::V128 => Self::V128,
            ValType::Ref(ty) => {
                if ty.heap.is_func() {
                    Self::I64
                } else {
                    Self::I32
                }
            }
        }
    }
}

/// The machine type of a type as bodies write it.
pub(crate) fn parsed_type(ty: wasmparser::ValType) -> Ty {
    match ty {
        wasmparser::ValType::I32 => Ty::I32,
        wasmparser::ValType::I64 => Ty::I64,
        wasmparser::ValType::F32 => Ty::F32,
        wasmparser::ValType::F64 => Ty::F64,
        wasmparser::ValType::V128 => Ty::V128,
        wasmparser::ValType::Ref(ty) => match ty.heap_type() {
            wasmparser::HeapType::Abstract { ty: AbstractHeapType::Func | AbstractHeapType::NoFunc, .. }
            | wasmparser::HeapType::Concrete(_)
            | wasmparser::HeapType::Exact(_) => Ty::I64,
            wasmparser::HeapType::Abstract { .. } => Ty::I32,
        },
    }
}

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: its bits are known. Never of a vector.
    Const(u64),
    /// In a register that is its own.
    Reg(Reg),
    /// In a local; `below` is the operand next below that is in the same local, or [`NO_OWNER`].
    Local { index: u32, below: u32 },
    /// In its home.
    Home,
    /// In the flags. Only the topmost operand.
    Flags(Condition),
}

/// An operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub ty: Ty,
    pub place: Place,
}

/// A value taken from the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// These bits.
    Const(u64),
    /// In a register: of a local, not to be written, or a temporary one.
    Reg(Reg),
    /// So many bytes from the frame pointer.
    Slot(i32),
}

/// A local.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local {
    pub ty: Ty,
    /// The register that it always has.
    pub pin: Option<Reg>,
    /// The topmost operand that is in it, or [`NO_OWNER`].
    pub operands: u32,
    /// The number of its home.
    pub home: u32,
}

impl Compiler<'_> {
    /// How many operands there are.
    #[inline]
    pub(crate) fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Pushes a constant.
    #[inline]
    pub(crate) fn push_const(&mut self, ty: Ty, bits: u64) {
        self.push_operand(Operand { ty, place: Place::Const(bits) });
    }

    /// Pushes what is in a register.
    #[inline]
    pub(crate) fn push_reg(&mut self, ty: Ty, reg: Reg) {
        self.regs.hold(reg, self.stack.len() as u32);
        self.push_operand(Operand { ty, place: Place::Reg(reg) });
    }

    /// Pushes what is in its home already.
    pub(crate) fn push_home(&mut self, ty: Ty) {
        let all_flushed = self.flushed == self.stack.len();
        self.push_operand(Operand { ty, place: Place::Home });
        if all_flushed {
            self.flushed = self.stack.len();
        }
    }

    /// Pushes the outcome of a comparison.
    #[inline]
    pub(crate) fn push_flags(&mut self, condition: Condition) {
        self.push_operand(Operand { ty: Ty::I32, place: Place::Flags(condition) });
        self.flags_pending = true;
    }

    #[inline]
    fn push_operand(&mut self, operand: Operand) {
        self.stack.push(operand);
    }

    /// Puts the outcome of a comparison, which is on top, in a register.
    #[cold]
    #[inline(never)]
    pub(crate) fn settle_flags(&mut self) {
        self.flags_pending = false;
        if let Some(Operand { place: Place::Flags(condition), .. }) = self.stack.last().copied() {
            self.stack.pop();
            let reg = self.alloc(false);
            self.set_to_condition(reg, condition);
            self.push_reg(Ty::I32, reg);
        }
    }

    /// Pops an operand. A temporary register it was in belongs to the instruction being translated, which releases it.
    #[inline]
    pub(crate) fn pop(&mut self) -> Value {
        let operand = self.stack.pop().expect("validated code has its operands");
        let position = self.stack.len();
        if self.flushed > position {
            self.flushed = position;
        }
        match operand.place {
            Place::Const(bits) => Value::Const(bits),
            Place::Reg(reg) => {
                self.regs.hold(reg, NO_OWNER);
                Value::Reg(reg)
            }
            Place::Local { index, below } => {
                self.locals[index as usize].operands = below;
                self.local_value(index)
            }
            Place::Home => Value::Slot(self.operand_home(position)),
            Place::Flags(_) => unreachable!("the outcome of a comparison is settled before it is popped"),
        }
    }

    /// The condition on top, if it is in the flags.
    pub(crate) fn pop_flags(&mut self) -> Option<Condition> {
        match self.stack.last() {
            Some(Operand { place: Place::Flags(condition), .. }) => {
                let condition = *condition;
                self.stack.pop();
                self.flags_pending = false;
                Some(condition)
            }
            _ => None,
        }
    }

    /// The value of a local.
    #[inline]
    fn local_value(&mut self, index: u32) -> Value {
        match self.locals[index as usize].pin {
            None => Value::Slot(self.local_home(index as usize)),
            Some(reg) => {
                if self.volatile.has(reg) && !self.valid.has(reg) {
                    self.reload_local(index, reg);
                }
                Value::Reg(reg)
            }
        }
    }

    #[cold]
    fn reload_local(&mut self, index: u32, reg: Reg) {
        let ty = self.locals[index as usize].ty;
        let home = self.local_home(index as usize);
        self.load_slot(ty, reg, home);
        self.valid = self.valid.with(reg);
    }

    /// Forgets all operands at `height` and above.
    pub(crate) fn truncate(&mut self, height: usize) {
        while self.stack.len() > height {
            match self.stack.pop() {
                Some(Operand { place: Place::Reg(reg), .. }) => self.regs.release(reg),
                Some(Operand { place: Place::Local { index, below }, .. }) => self.locals[index as usize].operands = below,
                _ => {}
            }
        }
        self.flushed = self.flushed.min(height);
        self.flags_pending = false;
    }

    /// Gives back the register of a popped value.
    #[inline]
    pub(crate) fn release(&mut self, value: Value) {
        if let Value::Reg(reg) = value {
            self.regs.release(reg);
        }
    }

    /// A free register, for a float or vector or not. If there is none, the deepest operand that has one goes to its home.
    #[inline]
    pub(crate) fn alloc(&mut self, vector: bool) -> Reg {
        let class = if vector { VECTOR } else { INTEGER };
        let free = self.regs.free.and(class);
        let preferred = free.and(PREFERRED);
        let Some(reg) = preferred.first().or(free.first()) else { return self.evict(class) };
        self.regs.hold(reg, NO_OWNER);
        reg
    }

    #[cold]
    #[inline(never)]
    fn evict(&mut self, class: crate::registers::RegSet) -> Reg {
        let reg = self.regs.deepest(class).expect("an instruction leaves a register");
        self.spill(reg);
        self.regs.hold(reg, NO_OWNER);
        reg
    }

    /// Moves the operand in `reg` to its home.
    fn spill(&mut self, reg: Reg) {
        let position = self.regs.owner(reg) as usize;
        let ty = self.stack[position].ty;
        let home = self.operand_home(position);
        self.store_slot(ty, home, reg);
        self.stack[position].place = Place::Home;
        self.regs.release(reg);
    }

    /// Makes a register free for the instruction being translated: an operand in it moves elsewhere.
    pub(crate) fn take(&mut self, reg: Reg) {
        if self.regs.free.has(reg) {
            self.regs.hold(reg, NO_OWNER);
            return;
        }
        let position = self.regs.owner(reg);
        assert!(position != NO_OWNER, "an instruction asks twice for one register");
        let class = if reg.is_vector() { VECTOR } else { INTEGER };
        if let Some(other) = self.regs.free.and(class).first() {
            let ty = self.stack[position as usize].ty;
            self.move_reg(ty, other, reg);
            self.stack[position as usize].place = Place::Reg(other);
            self.regs.hold(other, position);
        } else {
            self.spill(reg);
        }
        self.regs.hold(reg, NO_OWNER);
    }

    /// A register with the value, not to be written.
    #[inline]
    pub(crate) fn in_reg(&mut self, ty: Ty, value: Value) -> Reg {
        match value {
            Value::Reg(reg) => reg,
            _ => {
                let reg = self.alloc(ty.is_vector_class());
                self.load_value(ty, reg, value);
                reg
            }
        }
    }

    /// The register that the next instruction moves its operand to, if the one being translated may write it already.
    #[inline]
    pub(crate) fn hinted(&self, vector: bool) -> Option<Reg> {
        match self.hint {
            Some((reg, local)) if reg.is_vector() == vector && self.locals[local as usize].operands == NO_OWNER => Some(reg),
            _ => None,
        }
    }

    /// A register for a result. It may be one of a local that is written next, so it is only written after all operands are read.
    #[inline]
    pub(crate) fn result(&mut self, vector: bool) -> Reg {
        match self.hinted(vector) {
            Some(reg) => reg,
            None => self.alloc(vector),
        }
    }

    /// A register with the value, which may be written, and is not `other`.
    #[inline]
    pub(crate) fn in_result(&mut self, ty: Ty, value: Value, other: Value) -> Reg {
        if let Value::Reg(reg) = value
            && (self.regs.is_temporary(reg) || self.hinted(ty.is_vector_class()) == Some(reg))
            && other != value
        {
            return reg;
        }
        let reg = match self.hinted(ty.is_vector_class()) {
            Some(reg) if other != Value::Reg(reg) => reg,
            _ => self.alloc(ty.is_vector_class()),
        };
        self.load_value(ty, reg, value);
        self.release(value);
        reg
    }

    /// A temporary register with the value, which may be written.
    pub(crate) fn in_temporary(&mut self, ty: Ty, value: Value) -> Reg {
        if let Value::Reg(reg) = value
            && self.regs.is_temporary(reg)
        {
            return reg;
        }
        let reg = self.alloc(ty.is_vector_class());
        self.load_value(ty, reg, value);
        reg
    }

    /// The register `reg` with the value, which is released.
    pub(crate) fn in_fixed(&mut self, ty: Ty, reg: Reg, value: Value) {
        if value == Value::Reg(reg) {
            return;
        }
        self.take(reg);
        self.load_value(ty, reg, value);
        self.release(value);
    }

    /// Pops an operand to a register, which is not to be written.
    pub(crate) fn pop_reg(&mut self, ty: Ty) -> Reg {
        let value = self.pop();
        self.in_reg(ty, value)
    }

    /// Moves all operands to their homes, but constants only if a loop may be left from here for another tier: control may join here.
    /// Changes no flags.
    pub(crate) fn flush(&mut self) {
        for position in self.flushed..self.stack.len() {
            self.flush_operand(position);
        }
        self.flushed = self.stack.len();
    }

    fn flush_operand(&mut self, position: usize) {
        let Operand { ty, place } = self.stack[position];
        match place {
            Place::Const(bits) if self.counted && self.scan.loops => {
                let home = self.operand_home(position);
                self.store_value(ty, home, Value::Const(bits));
                self.stack[position].place = Place::Home;
            }
            Place::Const(_) | Place::Home => {}
            Place::Reg(_) | Place::Local { .. } => {
                let home = self.operand_home(position);
                match place {
                    Place::Reg(reg) => {
                        self.store_slot(ty, home, reg);
                        self.regs.release(reg);
                    }
                    Place::Local { index, .. } => {
                        let value = self.local_value(index);
                        self.store_value(ty, home, value);
                        // All operands in this local lose it, from the deepest up.
                        self.locals[index as usize].operands = NO_OWNER;
                    }
                    _ => {}
                }
                self.stack[position].place = Place::Home;
            }
            Place::Flags(_) => unreachable!("the outcome of a comparison is settled before control joins"),
        }
    }

    /// As [`flush`](Self::flush), for constants too.
    pub(crate) fn flush_top(&mut self, count: usize) {
        self.flush();
        for position in self.stack.len() - count..self.stack.len() {
            if let Operand { ty, place: Place::Const(bits) } = self.stack[position] {
                let home = self.operand_home(position);
                self.store_value(ty, home, Value::Const(bits));
                self.stack[position].place = Place::Home;
            }
        }
    }

    /// Moves operands below `height` out of all temporary registers: a call destroys these.
    pub(crate) fn spill_below(&mut self, height: usize) {
        for reg in self.regs.held() {
            let owner = self.regs.owner(reg);
            if owner != NO_OWNER && (owner as usize) < height {
                self.spill(reg);
            }
        }
    }

    /// `local.get`.
    #[inline]
    pub(crate) fn local_get(&mut self, index: u32) {
        let position = self.stack.len() as u32;
        let local = &mut self.locals[index as usize];
        let below = std::mem::replace(&mut local.operands, position);
        let ty = local.ty;
        self.push_operand(Operand { ty, place: Place::Local { index, below } });
    }

    /// `local.set` or `local.tee`.
    pub(crate) fn local_set(&mut self, index: u32, keep: bool) {
        let value = self.pop();
        if self.locals[index as usize].operands != NO_OWNER {
            self.detach_operands(index);
        }
        let Local { ty, pin, .. } = self.locals[index as usize];
        match pin {
            Some(reg) => {
                if value != Value::Reg(reg) {
                    self.load_value(ty, reg, value);
                }
                self.valid = self.valid.with(reg);
                self.dirty = self.dirty.with(reg);
            }
            None => {
                let home = self.local_home(index as usize);
                self.store_value(ty, home, value);
                if keep
                    && let Value::Reg(reg) = value
                    && self.regs.is_temporary(reg)
                {
                    return self.push_reg(ty, reg);
                }
            }
        }
        self.release(value);
        if keep {
            self.local_get(index);
        }
    }

    /// Copies a local, which is about to be written, to registers for the operands that are in it.
    #[cold]
    #[inline(never)]
    fn detach_operands(&mut self, index: u32) {
        let value = self.local_value(index);
        let ty = self.locals[index as usize].ty;
        let mut position = std::mem::replace(&mut self.locals[index as usize].operands, NO_OWNER);
        while position != NO_OWNER {
            let Place::Local { below, .. } = self.stack[position as usize].place else { unreachable!("the list has operands in locals") };
            let reg = self.alloc(ty.is_vector_class());
            self.load_value(ty, reg, value);
            self.regs.hold(reg, position);
            self.stack[position as usize].place = Place::Reg(reg);
            position = below;
        }
    }
}
