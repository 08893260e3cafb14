//! The code that entry slots point to while their functions are not compiled: one small thunk for each function number, shared by all
//! modules of the process.
//!
//! A thunk notes its own address and goes to the veneer that leaves the guest and has the function compiled. The number follows from the
//! address, so all thunks are alike, and the pages with them are one piece of memory that is mapped again and again.

use super::veneer;
use peregrine_sys::forks;
use peregrine_sys::room::RepeatedCode;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes of a piece of code with thunks; a multiple of every page size.
const UNIT_BYTES: usize = 64 << 10;
/// Thunks in one piece.
const THUNKS_PER_UNIT: usize = (UNIT_BYTES - veneer::THUNK_END_BYTES) / veneer::THUNK_BYTES;
/// More functions than any module has.
const MAX_FUNCTIONS: usize = 4 << 20;
const MAX_UNITS: usize = MAX_FUNCTIONS.div_ceil(THUNKS_PER_UNIT);

/// The thunks of functions with the context in the first argument, and of those with an area for results before it.
static THUNKS: [Thunks; 2] = [const { Thunks { units: Mutex::new(None), base: AtomicUsize::new(0) } }; 2];

struct Thunks {
    units: Mutex<Option<RepeatedCode>>,
    /// Where the first thunk is; 0 before there are any. Read by those who were called by a thunk, which they learned of later than this was
    /// stored.
    base: AtomicUsize,
}

/// The thunks that are there.
#[derive(Clone, Copy)]
pub(in crate::vm) struct LazyThunks {
    base: usize,
}

impl LazyThunks {
    /// Makes sure that there are thunks for functions `0..functions`.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(in crate::vm) fn ensure(functions: usize, results_in_area: bool) -> io::Result<Self> {
        let thunks = &THUNKS[usize::from(results_in_area)];
        // A forked child finds them free.
        let _inside = forks::enter();
        let mut units = thunks.units.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated = match &mut *units {
            Some(repeated) => repeated,
            none => {
                let unit = veneer::thunks(THUNKS_PER_UNIT, UNIT_BYTES, results_in_area);
                none.insert(RepeatedCode::new(unit, MAX_UNITS)?)
            }
        };
        repeated.ensure(functions.div_ceil(THUNKS_PER_UNIT))?;
        let base = repeated.ptr().addr();
        thunks.base.store(base, Ordering::Relaxed);
        Ok(Self { base })
    }

    /// The address of the thunk for a function.
    pub(in crate::vm) fn address(self, function: u32) -> usize {
        let function = function as usize;
        self.base + function / THUNKS_PER_UNIT * UNIT_BYTES + function % THUNKS_PER_UNIT * veneer::THUNK_BYTES
    }
}

/// The function whose thunk left `mark`.
pub(in crate::vm) fn function_of(mark: u64) -> u32 {
    let thunk = mark as usize - veneer::THUNK_BYTES;
    let offsets = THUNKS.each_ref().map(|thunks| thunk.wrapping_sub(thunks.base.load(Ordering::Relaxed)));
    let offset = if offsets[0] < MAX_UNITS * UNIT_BYTES { offsets[0] } else { offsets[1] };
    (offset / UNIT_BYTES * THUNKS_PER_UNIT + offset % UNIT_BYTES / veneer::THUNK_BYTES) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thunks_and_numbers_correspond() {
        let count = 3 * THUNKS_PER_UNIT;
        for results_in_area in [true, false] {
            let thunks = LazyThunks::ensure(count, results_in_area).unwrap();
            let mut last = 0;
            for function in 0..count as u32 {
                let address = thunks.address(function);
                assert!(address > last);
                last = address;
                assert_eq!(function_of((address + veneer::THUNK_BYTES) as u64), function);
            }
        }
    }
}
