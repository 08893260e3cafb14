//! Cells of calls: where code of the baseline counts what its indirect and reference calls go to.
//!
//! They are in memory of the module, beside the budgets, as many as [`super::tiered`] made room for. The one at place 0 belongs to nobody: calls
//! that find no cell left share it, and what it counts is never read. From place 1 on come those of code in the image, in the order of its
//! sites, which that code refers to; then, as code of a function is added, the next ones for its calls.

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

struct Given {
    /// How many cells are taken, without that at place 0.
    used: usize,
    /// By function whose code was added: the place of its first cell, and where in the body the calls are.
    functions: HashMap<DefinedFuncIndex, (usize, Box<[u32]>)>,
}

/// Cells for one piece of code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    start: usize,
    /// The place of the first, 1 or more; `None` if all calls share the one at place 0.
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
    /// The cells in `len_bytes` of zeroed memory at `start`, which lives as long as this. The first ones are those of as many calls in the image.
    pub(super) fn new(start: *mut u8, len_bytes: usize, image_sites: usize) -> Self {
        let given = Given { used: image_sites, functions: HashMap::new() };
        Self { start: start as usize, count: len_bytes / CELL_SIZE_BYTES as usize, given: Mutex::new(given) }
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cells for code with so many calls that count.
    pub(super) fn take(&self, sites: usize) -> Taken {
        let mut given = self.given();
        let first = (given.used + 1 + sites <= self.count && sites > 0).then_some(given.used + 1);
        if first.is_some() {
            given.used += sites;
        }
        Taken { start: self.start, first }
    }

    /// Takes cells back that were taken last, as there is no code that counts in them.
    pub(super) fn take_back(&self, taken: Taken, sites: usize) {
        if taken.first.is_some() {
            self.given().used -= sites;
        }
    }

    /// Notes whose cells they are: those of the calls at offsets of the body of a function. Those of code that the function had before are not
    /// read any more.
    pub(super) fn give(&self, function: DefinedFuncIndex, taken: Taken, sites: &[u32]) {
        if let Some(first) = taken.first {
            self.given().functions.insert(function, (first, sites.into()));
        }
    }

    /// What the calls of a function have counted so far, by the offset of the operator. `in_image` gives the position of the first of them among
    /// all sites of the image, and their offsets, for a function whose code is from there.
    pub(crate) fn read(&self, function: DefinedFuncIndex, in_image: impl FnOnce() -> (usize, Box<[u32]>)) -> Vec<(u32, CellContent)> {
        let contents = |first: usize, sites: &[u32]| {
            let cells = sites.iter().enumerate().filter(|(position, _)| first + position < self.count);
            cells.map(|(position, offset)| (*offset, self.content(first + position))).collect()
        };
        if let Some((first, sites)) = self.given().functions.get(&function) {
            return contents(*first, sites);
        }
        let (first, sites) = in_image();
        contents(first + 1, &sites)
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
