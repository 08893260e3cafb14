//! What is the same on all ways to a place where control joins.
//!
//! Operands below those that a branch carries are constants or in their homes from the beginning of the block on. What the branch carries
//! is in one fixed register if it is the one result of a block, otherwise in the homes where the target expects it. Locals with a
//! register are in it; whether their homes are up to date is not known.

use crate::compile::Compiler;
use crate::isa::machine::registers::{JOIN, VECTOR_JOIN};
use crate::registers::Reg;
use crate::values::Ty;

impl Compiler<'_> {
    /// The register of the one result of a block.
    pub(crate) fn join_register(ty: Ty) -> Reg {
        if ty.is_vector_class() { VECTOR_JOIN } else { JOIN }
    }

    /// Loads what a call destroyed of the locals with registers: control may join next. Changes no flags.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if self.valid != self.volatile {
            self.settle_all();
        }
    }

    #[cold]
    #[inline(never)]
    fn settle_all(&mut self) {
        for reg in self.volatile.minus(self.valid) {
            if self.context_pin == Some(reg) {
                self.context();
            } else if self.base_pin == Some(reg) {
                self.memory_zero_base();
            } else {
                let index = self.local_of[reg.0 as usize] as usize;
                let home = self.local_home(index);
                self.load_slot(self.locals[index].ty, reg, home);
            }
        }
        self.valid = self.volatile;
    }

    /// Control has joined here.
    pub(crate) fn joined(&mut self) {
        self.valid = self.volatile;
        self.dirty = self.volatile;
    }

    /// Before a call: brings the homes of locals up to date whose registers it destroys. Changes no flags.
    pub(crate) fn save_volatile(&mut self) {
        for reg in self.valid.and(self.dirty) {
            self.save_local(reg);
        }
        self.dirty = self.dirty.minus(self.valid);
    }

    /// Stores the local that has `reg` to its home; nothing if it is not a local that does.
    pub(crate) fn save_local(&mut self, reg: Reg) {
        let index = self.local_of[reg.0 as usize];
        if index != u32::MAX {
            let home = self.local_home(index as usize);
            self.store_slot(self.locals[index as usize].ty, home, reg);
        }
    }

    /// After a call: registers of locals that it destroyed.
    pub(crate) fn destroyed_by_call(&mut self) {
        self.valid = crate::registers::RegSet::EMPTY;
    }

    /// Moves the one operand that a branch carries to its register; it stays on the stack. Changes no flags.
    pub(crate) fn carry_one(&mut self, ty: Ty) {
        let value = self.pop();
        let reg = Self::join_register(ty);
        self.in_fixed(ty, reg, value);
        self.push_reg(ty, reg);
    }

    /// Moves the last `count` operands, all in their homes, to the homes from depth `height` on. Changes no flags.
    pub(crate) fn carry_homes(&mut self, height: usize, count: usize) {
        let first = self.stack.len() - count;
        if first == height {
            return;
        }
        self.move_homes(first, height, count);
    }
}
