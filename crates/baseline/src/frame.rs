//! Where things are in the frame of a function.
//!
//! | from the frame pointer, bytes | what |
//! |---|---|
//! | -8 | the context |
//! | -16 to -48 | registers of the caller |
//! | -56 | where results are written that have no register |
//! | -64 | how many locals are kept, and the mark that they are: see "kept locals" in [`peregrine_artifact::abi`] |
//! | below -64 | homes of the locals, then of the operands by depth |
//!
//! A home has 8 bytes, or 16 in functions with vectors. Its place depends on nothing but the number of the local, or in functions with many on
//! which ones the body names, and on the depth of the operand, so that code of another tier can be entered with what it finds there: see "loop
//! entries" in [`peregrine_artifact::abi`], whose pointer to the homes is [`FIXED_BYTES`] below the frame pointer. At the head of a loop all operands
//! are in their homes if budgets are counted, constants too; locals that have registers go to theirs only when another tier is asked.

use crate::compile::Compiler;
use peregrine_artifact::abi::{KEPT_CONTEXT_OFFSET, KEPT_MARK_OFFSET};

/// The context.
pub(crate) const CONTEXT: i32 = KEPT_CONTEXT_OFFSET;
/// The place for results that have no register.
pub(crate) const RESULT_AREA: i32 = -56;
/// Bytes above all homes.
pub(crate) const FIXED_BYTES: u32 = KEPT_MARK_OFFSET.unsigned_abs();
/// Larger frames are no stack's: calls of functions that would have one find the stack to be exhausted. Operands that are constants count too, which the
/// optimizing tier needs no place for: where it is the only one, such a function may run.
pub(crate) const MAX_FRAME_BYTES: u64 = 1 << 26;

/// The place of a register of the caller, by its position among those that locals may have.
pub(crate) const fn saved_register(position: usize) -> i32 {
    -16 - 8 * position as i32
}

impl Compiler<'_> {
    /// The home of a local that the body names, or that is kept.
    #[inline]
    pub(crate) fn local_home(&self, index: usize) -> i32 {
        self.home(self.locals[index].home as usize)
    }

    /// A home by its number: those of locals come first, then those of operands by depth.
    #[inline]
    pub(crate) fn home(&self, number: usize) -> i32 {
        // Of functions whose frame is too large for this nothing is left.
        -((FIXED_BYTES as usize + ((number + 1) << self.home_log2)) as i64 as i32)
    }

    /// The home of the operand at a depth, which is used: the frame has room for it.
    #[inline]
    pub(crate) fn operand_home(&mut self, depth: usize) -> i32 {
        self.max_depth = self.max_depth.max(depth + 1);
        self.home(self.local_homes + depth)
    }

    /// Bytes of the frame below the frame pointer, once all is known.
    pub(crate) fn frame_bytes(&self) -> u64 {
        let homes = (self.local_homes as u64 + self.max_depth as u64) << self.home_log2;
        (u64::from(FIXED_BYTES) + homes).next_multiple_of(16)
    }
}
