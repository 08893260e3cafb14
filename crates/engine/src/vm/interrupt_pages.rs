//! The pages that interrupts are told by, many in one mapping: a store takes one and gives it back, mostly without a system call.
//!
//! Closing one page splits a mapping, of which a process may have so many only. Where there are too many, all pages of the block are closed:
//! guests of other stores then look in vain, find that nobody asked them to stop, and go on.
//!
//! A page that is opened again is made readable only, which those that were never closed are not: so its mapping is not joined with theirs, and
//! need not be split again at the next interruption, which would cost three times as much. It is joined when its store gives it back.

use super::alloc::pool::{Apart, SHARDS, own_shard};
use peregrine_sys::forks;
use peregrine_sys::pages::{Reservation, page_size};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// Pages of a block: as many as a word has bits.
const PAGES: usize = u64::BITS as usize;
/// Open pages that a shard keeps for the next stores.
const MOST_FREE: usize = 4 * PAGES;

/// Unused pages, all open, by shard of the thread.
static FREE: [Apart<Mutex<Vec<Page>>>; SHARDS] = [const { Apart(Mutex::new(Vec::new())) }; SHARDS];

/// Pages of one mapping, between two inaccessible ones that keep it apart from others.
struct Block {
    space: Reservation,
    /// Locked inside of the gate for forks.
    state: Mutex<State>,
    /// The bits that are set in `state`, which need not be locked for a page of which none is.
    touched: AtomicU64,
}

/// By bits, which pages are to be closed, which are, and which have a mapping of their own when they are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    wanted: u64,
    closed: u64,
    apart: u64,
}

/// One page, open at first.
pub(super) struct Page {
    block: Arc<Block>,
    number: usize,
}

impl Block {
    fn new() -> io::Result<Self> {
        let space = Reservation::new((PAGES + 2) * page_size())?;
        space.commit(page_size()..(PAGES + 1) * page_size())?;
        Ok(Self { space, state: Mutex::default(), touched: AtomicU64::new(0) })
    }

    /// Changes the protection of pages from number `first` on.
    fn protect(&self, first: usize, count: usize, close: bool) -> io::Result<()> {
        let range = (first + 1) * page_size()..(first + 1 + count) * page_size();
        #[cfg(test)]
        tests::check_mappings(count)?;
        if close { self.space.protect_none(range) } else { self.space.commit(range) }
    }

    /// Closes or opens a page, or all, if the system has no mapping left for one alone.
    fn set(&self, number: usize, close: bool) -> io::Result<()> {
        self.with_state(|state| self.set_in(state, number, close))
    }

    /// Does something with the state. A child process finds it unlocked, whatever the threads of its parent were about.
    fn with_state<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let _inside = forks::enter();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        self.touched.store(state.wanted | state.closed | state.apart, Ordering::Release);
        result
    }

    fn is_touched(&self, number: usize) -> bool {
        self.touched.load(Ordering::Acquire) & (1 << number) != 0
    }

    fn set_in(&self, state: &mut State, number: usize, close: bool) -> io::Result<()> {
        let bit = 1 << number;
        if close {
            state.wanted |= bit;
            if state.closed & bit == 0 {
                match self.protect(number, 1, true) {
                    Ok(()) => state.closed |= bit,
                    Err(_) => {
                        self.protect(0, PAGES, true)?;
                        (state.closed, state.apart) = (u64::MAX, 0);
                    }
                }
            }
            return Ok(());
        }
        state.wanted &= !bit;
        if state.wanted == 0 && state.closed.count_ones() > 1 {
            self.protect(0, PAGES, false)?;
            (state.closed, state.apart) = (0, 0);
        }
        // With it, what was closed for want of mappings; what stays closed is looked at in vain.
        while state.closed & !state.wanted != 0 {
            let first = (state.closed & !state.wanted).trailing_zeros() as usize;
            if self.open_apart(first).is_err() {
                break;
            }
            state.closed &= !(1 << first);
            state.apart |= 1 << first;
        }
        Ok(())
    }

    /// Makes a page readable.
    fn open_apart(&self, number: usize) -> io::Result<()> {
        #[cfg(test)]
        tests::check_mappings(1)?;
        self.space.protect_read((number + 1) * page_size()..(number + 2) * page_size())
    }

    /// Joins an open page with the others.
    fn join(&self, number: usize) {
        self.with_state(|state| {
            let bit = 1 << number;
            if state.apart & !state.closed & bit != 0 && self.protect(number, 1, false).is_ok() {
                state.apart &= !bit;
            }
        });
    }

    fn is_open(&self, number: usize) -> bool {
        !self.is_touched(number) || self.with_state(|state| state.closed & (1 << number) == 0)
    }
}

impl Page {
    /// A page that is open.
    ///
    /// # Errors
    ///
    /// What the system said when it was asked for more pages.
    pub(super) fn new() -> io::Result<Self> {
        let taken = with_free(Vec::pop).flatten();
        // Its block may have been closed as a whole since it was put there.
        if let Some(page) = taken
            && (page.block.is_open(page.number) || page.set_closed(false).is_ok())
        {
            return Ok(page);
        }
        let block = Arc::new(Block::new()?);
        let mut pages = (1..PAGES).map(|number| Self { block: Arc::clone(&block), number });
        with_free(|free| free.extend(&mut pages));
        Ok(Self { block, number: 0 })
    }

    /// Makes it inaccessible or accessible.
    ///
    /// # Errors
    ///
    /// What the system said: that it has no memory for itself.
    pub(super) fn set_closed(&self, close: bool) -> io::Result<()> {
        self.block.set(self.number, close)
    }

    /// Its address.
    pub(super) fn address(&self) -> usize {
        self.block.space.ptr() as usize + (self.number + 1) * page_size()
    }

    /// Gives it to the next store, unless there are many.
    pub(super) fn give_back(self) {
        if self.block.is_touched(self.number) {
            if self.set_closed(false).is_err() {
                return;
            }
            self.block.join(self.number);
        }
        let mut page = Some(self);
        with_free(|free| {
            if free.len() < MOST_FREE {
                free.extend(page.take());
            }
        });
        // The block is unmapped with the last of its pages.
        drop(page);
    }
}

/// Does something with the unused pages of this thread's shard, unless another thread does. Never waits: in a child process that thread is none.
fn with_free<R>(work: impl FnOnce(&mut Vec<Page>) -> R) -> Option<R> {
    match FREE[own_shard()].0.try_lock() {
        Ok(mut free) => Some(work(&mut free)),
        Err(TryLockError::Poisoned(poisoned)) => Some(work(&mut poisoned.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static NO_MAPPINGS: Cell<bool> = const { Cell::new(false) };
        static NO_MEMORY: Cell<bool> = const { Cell::new(false) };
    }

    /// Fails where a mapping would be split, if there are to be no more.
    pub(super) fn check_mappings(count: usize) -> io::Result<()> {
        let is_refused = NO_MEMORY.get() || NO_MAPPINGS.get() && count < PAGES;
        if is_refused { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }

    /// Does something on this thread as if there were no mapping left, or no memory either.
    pub(in crate::vm) fn without_mappings<R>(no_memory: bool, work: impl FnOnce() -> R) -> R {
        NO_MAPPINGS.set(true);
        NO_MEMORY.set(no_memory);
        let result = work();
        NO_MAPPINGS.set(false);
        NO_MEMORY.set(false);
        result
    }

    fn pages(block: &Arc<Block>) -> [Page; 3] {
        [3, 4, 63].map(|number| Page { block: Arc::clone(block), number })
    }

    fn open(pages: &[Page; 3]) -> [bool; 3] {
        [0, 1, 2].map(|at| pages[at].block.is_open(pages[at].number))
    }

    /// How the pages are protected, as the system tells.
    fn protections(pages: &[Page; 3]) -> [bool; 3] {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_open = |address: usize| {
            maps.lines().any(|line| {
                let (range, rest) = line.split_once(' ').unwrap();
                let (start, end) = range.split_once('-').unwrap();
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                (number(start)..number(end)).contains(&address) && rest.starts_with('r')
            })
        };
        [0, 1, 2].map(|at| is_open(pages[at].address()))
    }

    fn check(pages: &[Page; 3], expected: [bool; 3]) {
        assert_eq!((open(pages), protections(pages)), (expected, expected));
    }

    #[test]
    fn pages_close_one_by_one() {
        let pages = pages(&Arc::new(Block::new().unwrap()));
        check(&pages, [true; 3]);
        pages[0].set_closed(true).unwrap();
        pages[2].set_closed(true).unwrap();
        check(&pages, [false, true, false]);
        pages[0].set_closed(false).unwrap();
        check(&pages, [true, true, false]);
        pages[2].set_closed(false).unwrap();
        check(&pages, [true; 3]);
    }

    #[test]
    fn without_mappings_all_pages_of_a_block_close() {
        let pages = pages(&Arc::new(Block::new().unwrap()));
        pages[2].set_closed(true).unwrap();
        NO_MAPPINGS.set(true);
        pages[0].set_closed(true).unwrap();
        check(&pages, [false; 3]);
        pages[1].set_closed(true).unwrap();
        pages[0].set_closed(false).unwrap();
        check(&pages, [false; 3]);
        NO_MAPPINGS.set(false);
        pages[2].set_closed(false).unwrap();
        check(&pages, [true, false, true]);
        NO_MAPPINGS.set(true);
        pages[0].set_closed(true).unwrap();
        pages[1].set_closed(false).unwrap();
        check(&pages, [false; 3]);
        pages[0].set_closed(false).unwrap();
        check(&pages, [true; 3]);
        NO_MAPPINGS.set(false);
    }

    #[test]
    fn pages_are_used_again() {
        let first = Page::new().unwrap();
        let address = first.address();
        first.set_closed(true).unwrap();
        first.give_back();
        let second = Page::new().unwrap();
        assert_eq!(second.address(), address);
        assert!(second.block.is_open(second.number));
        second.give_back();
    }

    #[test]
    fn a_page_that_was_closed_keeps_its_mapping_until_it_is_given_back() {
        let block = Arc::new(Block::new().unwrap());
        let mappings = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let start = |line: &str| usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
            // Those beside it may be joined with what is there.
            let first = block.space.ptr() as usize + page_size();
            maps.lines().map(start).filter(|start| (first..first + PAGES * page_size()).contains(start)).count()
        };
        let page = Page { block: Arc::clone(&block), number: 5 };
        let before = mappings();
        for _ in 0..3 {
            page.set_closed(true).unwrap();
            assert_eq!(mappings(), before + 2);
            page.set_closed(false).unwrap();
            assert_eq!(mappings(), before + 2);
        }
        page.give_back();
        assert_eq!(mappings(), before);
    }
}
