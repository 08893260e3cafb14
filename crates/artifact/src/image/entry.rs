//! What follows a mapped image in memory: the entry slots and budgets of its functions, and room for code that is made later.
//!
//! | from the end of the image, rounded up to [`PAGE_ALIGN_BYTES`] | what |
//! |---|---|
//! | 0 | entry slots: for each function, imports included, a code pointer |
//! | after them | budgets: for each defined function an `i32`, and a `u32` that counts how often it was entered |
//! | next multiple of [`CELL_SIZE_BYTES`] | [`VmCallCell`]s, which the engine gives to indirect calls |
//! | next multiple of [`PAGE_ALIGN_BYTES`] | code of functions that are compiled one by one |
//!
//! Code refers to slots, budgets and cells relative to itself, so all of it has to be within 2 GiB.

use super::header::PAGE_ALIGN_BYTES;
use crate::vmctx::VmCallCell;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex};

/// Bytes of an entry slot.
pub const SLOT_SIZE_BYTES: u64 = 8;
/// Bytes of a budget, with the count of entries.
pub const BUDGET_SIZE_BYTES: u64 = 8;
/// Where the count of entries is, from the budget on, in bytes.
pub const BUDGET_CALLS_OFFSET: u64 = 4;
/// Bytes of a cell.
pub const CELL_SIZE_BYTES: u64 = size_of::<VmCallCell>() as u64;

/// Where slots, budgets, cells and later code are. All offsets are bytes from the start of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryArea {
    /// The first slot.
    pub slots_start: u64,
    /// The first budget.
    pub budgets_start: u64,
    /// The first cell.
    pub cells_start: u64,
    /// Where later code may begin: a multiple of [`PAGE_ALIGN_BYTES`].
    pub code_start: u64,
}

impl EntryArea {
    /// The area behind an image of `image_len_bytes`, of a module with `functions` functions, imports included, and `cells` cells.
    pub fn new(image_len_bytes: u64, functions: u32, cells: u32) -> Self {
        let slots_start = image_len_bytes.next_multiple_of(PAGE_ALIGN_BYTES);
        let budgets_start = slots_start + u64::from(functions) * SLOT_SIZE_BYTES;
        let budgets_end = budgets_start + u64::from(functions) * BUDGET_SIZE_BYTES;
        let cells_start = budgets_end.next_multiple_of(CELL_SIZE_BYTES);
        let cells_end = cells_start + u64::from(cells) * CELL_SIZE_BYTES;
        Self { slots_start, budgets_start, cells_start, code_start: cells_end.next_multiple_of(PAGE_ALIGN_BYTES) }
    }

    /// The slot of a function.
    pub fn slot(&self, index: FuncIndex) -> u64 {
        self.slots_start + u64::from(index.as_u32()) * SLOT_SIZE_BYTES
    }

    /// The cell of the site at a position of [`Section::Sites`](super::Section::Sites). The cell before the first is shared by calls that have
    /// none of their own, and read by nobody.
    pub fn cell(&self, site: u32) -> u64 {
        self.cells_start + (u64::from(site) + 1) * CELL_SIZE_BYTES
    }

    /// The budget of a defined function.
    pub fn budget(&self, index: DefinedFuncIndex) -> u64 {
        self.budgets_start + u64::from(index.as_u32()) * BUDGET_SIZE_BYTES
    }
}
