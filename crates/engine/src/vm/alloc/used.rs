//! What guests of an engine's stores did: counted by each store alone, and summed up when somebody asks.
//!
//! A store's own numbers are written by whoever has the store, with plain instructions, and read by any thread. A store is listed when its guest is
//! about to run for the first time. Its numbers stay readable as long as it is in the list; when it leaves, they are added to what those did that
//! are gone.
//!
//! A part of the list is locked for moments, except by who sums up, which is done inside of the gate for forks.

use super::pool::{Apart, SHARDS, own_shard};
use peregrine_sys::forks;
use std::marker::PhantomPinned;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What guests of a store used. Part of the store.
///
/// Other threads read it through the list at any time, also while somebody has a mutable reference to the store. What is not `Unpin` may be shared
/// that way: a mutable reference to it, or to what it is part of, does not promise that nobody else looks (RFC 3467; for the time until
/// `UnsafePinned` is stable, that is what compilers and Miri go by). In an allocation of its own it would cost each call a load more.
#[derive(Debug)]
pub(crate) struct Used {
    calls: AtomicU64,
    traps: AtomicU64,
    guest_nanoseconds: AtomicU64,
    /// Where the store is listed, [`SHARDS`] if it is not. Written under the lock of that part of the list.
    shard: AtomicUsize,
    position: AtomicUsize,
    _shared: PhantomPinned,
}

impl Default for Used {
    fn default() -> Self {
        let [calls, traps, guest_nanoseconds] = [(); 3].map(|()| AtomicU64::new(0));
        Self { calls, traps, guest_nanoseconds, shard: AtomicUsize::new(SHARDS), position: AtomicUsize::new(0), _shared: PhantomPinned }
    }
}

/// The numbers, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsedSoFar {
    /// Calls from the host, calls by host functions that guests called included.
    pub(crate) calls: u64,
    /// Calls that ended with a trap.
    pub(crate) traps: u64,
    /// Nanoseconds that guests ran, where that is measured, up to when they left off last.
    pub(crate) guest_nanoseconds: u64,
}

/// Adds to a number that one thread writes at a time.
#[inline(always)]
fn add(number: &AtomicU64, amount: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl Used {
    /// Counts a call. The caller has the store.
    #[inline(always)]
    pub(crate) fn count_call(&self) {
        add(&self.calls, 1);
    }

    /// Counts a trap. The caller has the store.
    pub(crate) fn count_trap(&self) {
        add(&self.traps, 1);
    }

    /// Says how long guests ran in all. The caller has the store.
    pub(crate) fn set_guest_nanoseconds(&self, nanoseconds: u64) {
        self.guest_nanoseconds.store(nanoseconds, Ordering::Relaxed);
    }

    /// The numbers now.
    pub(crate) fn so_far(&self) -> UsedSoFar {
        UsedSoFar {
            calls: self.calls.load(Ordering::Relaxed),
            traps: self.traps.load(Ordering::Relaxed),
            guest_nanoseconds: self.guest_nanoseconds.load(Ordering::Relaxed),
        }
    }
}

impl UsedSoFar {
    fn add(&mut self, other: Self) {
        self.calls = self.calls.wrapping_add(other.calls);
        self.traps = self.traps.wrapping_add(other.traps);
        self.guest_nanoseconds = self.guest_nanoseconds.wrapping_add(other.guest_nanoseconds);
    }
}

/// The list of an engine, in parts that threads use each on its own.
#[derive(Default)]
pub(crate) struct StoresUsed([Apart<Mutex<Part>>; SHARDS]);

#[derive(Default)]
struct Part {
    live: Vec<NonNull<Used>>,
    /// What those used that are gone.
    gone: UsedSoFar,
}

// SAFETY: what it points to is read atomically, on any thread, and is there while it is listed.
unsafe impl Send for Part {}

impl StoresUsed {
    fn part(&self, number: usize) -> MutexGuard<'_, Part> {
        self.0[number].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a store, which is not listed yet.
    ///
    /// # Safety
    ///
    /// 1. What `listed` points to stays where it is, and may be read by any thread, until it was [removed](Self::remove).
    pub(crate) unsafe fn add(&self, listed: NonNull<Used>) {
        let shard = own_shard();
        let mut part = self.part(shard);
        // SAFETY: it is valid (1).
        let used = unsafe { listed.as_ref() };
        used.shard.store(shard, Ordering::Relaxed);
        used.position.store(part.live.len(), Ordering::Relaxed);
        part.live.push(listed);
    }

    /// Takes a store off the list, if it is on it.
    pub(crate) fn remove(&self, used: &Used) {
        let shard = used.shard.load(Ordering::Relaxed);
        if shard >= SHARDS {
            return;
        }
        let mut part = self.part(shard);
        let position = used.position.load(Ordering::Relaxed);
        debug_assert!(part.live.get(position).is_some_and(|listed| std::ptr::eq(listed.as_ptr(), used)));
        part.live.swap_remove(position);
        if let Some(moved) = part.live.get(position) {
            // SAFETY: what is listed is valid, as was promised to `add`.
            unsafe { moved.as_ref() }.position.store(position, Ordering::Relaxed);
        }
        part.gone.add(used.so_far());
    }

    /// What guests of all stores did, those of stores that are gone included.
    pub(crate) fn all(&self) -> UsedSoFar {
        let mut all = UsedSoFar::default();
        for shard in 0..SHARDS {
            // As long as there are many stores: a fork waits, so that the part is not locked for ever in the child.
            let _inside = forks::enter();
            let part = self.part(shard);
            all.add(part.gone);
            for used in &part.live {
                // SAFETY: as in `remove`; what is listed stays while the part is locked.
                all.add(unsafe { used.as_ref() }.so_far());
            }
        }
        all
    }
}

/// A store is [shared](Used) as its numbers are. Neither compiles if it is `Unpin`: there are two answers to what is asked then.
const _: () = {
    trait IsNotUnpin<Answer> {
        const IS: bool = true;
    }
    struct Unpinned;
    impl<V: ?Sized> IsNotUnpin<()> for V {}
    impl<V: ?Sized + Unpin> IsNotUnpin<Unpinned> for V {}
    assert!(<Used as IsNotUnpin<_>>::IS && <crate::vm::VmStore as IsNotUnpin<_>>::IS);
};
