//! Cells of calls: where code of the baseline counts what its indirect and reference calls go to.
//!
//! They are in memory of the module, beside the budgets, as many as [`super::tiered`] made room for. A function takes the next ones when its code
//! is added. When none are left its calls share the first cell, which nobody reads.

use peregrine_artifact::image::CELL_SIZE_BYTES;
use peregrine_artifact::vmctx::{CALL_CELL_TARGETS, VmCallCell};
use peregrine_wasm::DefinedFuncIndex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The cells of one module.
pub(crate) struct CallCells {
    /// The address of the first.
    start: usize,
    count: usize,
    given: Mutex<Given>,
}

#[derive(Default)]
struct Given {
    used: usize,
    /// By function: the number of its first cell, and where in the body the calls are.
    functions: HashMap<DefinedFuncIndex, (usize, Box<[u32]>)>,
}

/// Cells for one piece of code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    start: usize,
    /// The number of the first; `None` if all calls share one cell.
    first: Option<usize>,
}

impl Taken {
    /// The address of one of them.
    pub(super) fn address(&self, site: usize) -> usize {
        self.start + self.first.map_or(0, |first| first + site) * CELL_SIZE_BYTES as usize
    }
}

/// What one cell has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CellContent {
    /// Distance of the reference from the context of the caller, and calls; 0 for none.
    pub(crate) targets: [(u32, u32); CALL_CELL_TARGETS],
    /// Calls of others.
    pub(crate) others: u32,
}

impl CallCells {
    /// The cells in `len_bytes` of zeroed memory at `start`, which lives as long as this.
    pub(super) fn new(start: *mut u8, len_bytes: usize) -> Self {
        Self { start: start as usize, count: len_bytes / CELL_SIZE_BYTES as usize, given: Mutex::default() }
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cells for code with so many calls that count.
    pub(super) fn take(&self, sites: usize) -> Taken {
        let mut given = self.given();
        // The first is the one that is shared.
        let first = (given.used + 1 + sites <= self.count && sites > 0).then_some(given.used + 1);
        if first.is_some() {
            given.used += sites;
        }
        Taken { start: self.start, first }
    }

    /// Notes whose cells they are: those of the calls at offsets of the body of a function. Those of code that the function had before are not
    /// read any more.
    pub(super) fn give(&self, function: DefinedFuncIndex, taken: Taken, sites: &[u32]) {
        if let Some(first) = taken.first {
            self.given().functions.insert(function, (first, sites.into()));
        }
    }

    /// What the calls of a function have counted so far, by the offset of the operator.
    pub(crate) fn read(&self, function: DefinedFuncIndex) -> Vec<(u32, CellContent)> {
        let given = self.given();
        let Some((first, sites)) = given.functions.get(&function) else { return Vec::new() };
        sites.iter().enumerate().map(|(position, offset)| (*offset, self.content(first + position))).collect()
    }

    fn content(&self, cell: usize) -> CellContent {
        debug_assert!(cell < self.count);
        let fields = (self.start + cell * CELL_SIZE_BYTES as usize) as *const AtomicU32;
        let read = |offset: usize| {
            // SAFETY: the cell is in memory that is there as long as this, aligned, and read and written as numbers of 32 bits only.
            unsafe { &*fields.add(offset / 4) }.load(Ordering::Relaxed)
        };
        let targets = std::mem::offset_of!(VmCallCell, targets);
        // Where counting has ended, the first is elsewhere.
        let first = read(std::mem::offset_of!(VmCallCell, first_distance));
        let distance = |position| match read(targets + position * 8) {
            0 if position == 0 => first,
            distance => distance,
        };
        CellContent {
            targets: std::array::from_fn(|position| (distance(position), read(targets + position * 8 + 4))),
            others: read(std::mem::offset_of!(VmCallCell, others)),
        }
    }
}
