//! Spare things by thread, and what keeps their owner alive.
//!
//! Threads that make and drop stores of one module at once must not meet at one counter or lock. So a [`Pool`] has shards, a thread always
//! goes to the same one, and each shard holds one reference to the owner (the anchor) for all leases taken there. The anchor stays when the
//! last lease ends, so that the next one does not touch the owner's counter; what drops it is the last handle of the embedder.
//!
//! Lock order: a shard's lock is taken last, and nothing is dropped while it is held.

use std::any::Any;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many shards there are; threads beyond that many share.
pub(crate) const SHARDS: usize = 8;

/// Gives between two looks at how much of what is spare was needed.
const WINDOW: u32 = 256;
/// The most that one look frees, to bound what the thread that happens to look has to wait.
const FREED_AT_ONCE: usize = 16;

/// What keeps the owner of a pool alive.
pub(crate) type Anchor = Arc<dyn Any + Send + Sync>;

/// A value on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Apart<T>(pub(crate) T);

/// The shard of this thread.
#[inline]
pub(crate) fn own_shard() -> usize {
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    #[cold]
    fn assign() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        OWN.set(shard);
        shard
    }
    let own = OWN.get();
    if own < SHARDS { own } else { assign() }
}

/// Spare things of type `S`, and references to their owner.
pub(crate) struct Pool<S> {
    /// Handles of the embedder to the owner. At zero nothing is kept.
    handles: AtomicUsize,
    shards: [Apart<Mutex<Shard<S>>>; SHARDS],
}

struct Shard<S> {
    /// Leases that were taken here and not ended.
    leases: usize,
    /// Leases that were ever taken here.
    leased: u64,
    anchor: Option<Anchor>,
    /// The warmest last.
    spare: Vec<S>,
    /// Things that came from here and have not been given back.
    out: usize,
    /// The most that were out since the last look.
    most_out: usize,
    gives: u32,
}

impl<S> Default for Shard<S> {
    fn default() -> Self {
        Self { leases: 0, leased: 0, anchor: None, spare: Vec::new(), out: 0, most_out: 0, gives: 0 }
    }
}

impl<S> Shard<S> {
    fn lease(&mut self, owner: impl FnOnce() -> Anchor) {
        self.leases += 1;
        self.leased += 1;
        if self.anchor.is_none() {
            self.anchor = Some(owner());
        }
    }

    fn take(&mut self) -> Option<S> {
        self.out += 1;
        self.most_out = self.most_out.max(self.out);
        self.spare.pop()
    }
}

impl<S> Pool<S> {
    /// A pool without anything, with one handle to its owner.
    pub(crate) fn new() -> Self {
        Self { handles: AtomicUsize::new(1), shards: Default::default() }
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, Shard<S>> {
        self.shards[number].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One handle more.
    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one handle is all that there is: no other one, and no lease.
    pub(crate) fn is_held_once(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 1 && (0..SHARDS).all(|number| self.shard(number).leases == 0)
    }

    /// One handle less. With the last one everything spare is returned, to be dropped by the caller, who still holds a reference to the
    /// owner.
    pub(crate) fn remove_handle(&self) -> Vec<S> {
        // Paired with the load in `is_open`: whoever gives back after the shard was emptied here sees no handle.
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 { self.close() } else { Vec::new() }
    }

    fn is_open(&self) -> bool {
        self.handles.load(Ordering::Acquire) != 0
    }

    #[cold]
    fn close(&self) -> Vec<S> {
        let mut all = Vec::new();
        for number in 0..SHARDS {
            let anchor = {
                let mut shard = self.shard(number);
                all.append(&mut shard.spare);
                if shard.leases == 0 { shard.anchor.take() } else { None }
            };
            drop(anchor);
        }
        all
    }

    /// Everything spare, to be dropped by the caller, who holds a reference to the owner.
    #[cold]
    pub(crate) fn take_all(&self) -> Vec<S> {
        (0..SHARDS).flat_map(|number| std::mem::take(&mut self.shard(number).spare)).collect()
    }

    /// Begins a lease: the owner lives until it is ended. Returns the shard to end it with.
    pub(crate) fn lease(&self, owner: impl FnOnce() -> Anchor) -> usize {
        let number = own_shard();
        self.shard(number).lease(owner);
        number
    }

    /// Ends a lease. The caller drops the result after its last use of the pool.
    #[must_use = "dropping it may drop the pool"]
    pub(crate) fn end_lease(&self, number: usize) -> Option<Anchor> {
        let mut shard = self.shard(number);
        shard.leases -= 1;
        if shard.leases == 0 && !self.is_open() { shard.anchor.take() } else { None }
    }

    /// How many leases were ever begun, and how many have not ended.
    pub(crate) fn leases(&self) -> (u64, u64) {
        let _inside = peregrine_sys::forks::enter();
        (0..SHARDS).map(|number| self.shard(number)).fold((0, 0), |(begun, open), shard| (begun + shard.leased, open + shard.leases as u64))
    }

    /// Something spare, of this shard or of another one that has some. Counts as out of this shard in either case.
    pub(crate) fn take(&self, number: usize) -> Option<S> {
        let spare = self.shard(number).take();
        spare.or_else(|| self.take_of_others(number))
    }

    /// [`lease`](Self::lease), then [`take`](Self::take), under one lock.
    pub(crate) fn lease_and_take(&self, owner: impl FnOnce() -> Anchor) -> (usize, Option<S>) {
        let number = own_shard();
        let spare = {
            let mut shard = self.shard(number);
            shard.lease(owner);
            shard.take()
        };
        (number, spare.or_else(|| self.take_of_others(number)))
    }

    #[cold]
    fn take_of_others(&self, number: usize) -> Option<S> {
        let others = (1..SHARDS).map(|distance| (number + distance) % SHARDS);
        let mut found = others.filter_map(|other| self.shards[other].0.try_lock().ok()?.spare.pop());
        found.next()
    }

    /// Gives back what `take` gave, or what was made because it gave nothing. Returns what is not kept, to be dropped by the caller: it,
    /// if it is `None` or there are `most` already or no handle is left; and what turned out not to be needed.
    #[must_use = "dropping it takes time that the caller should choose"]
    pub(crate) fn give(&self, number: usize, spare: Option<S>, most: usize) -> Vec<S> {
        let mut shard = self.shard(number);
        shard.out = shard.out.saturating_sub(1);
        shard.gives += 1;
        match spare {
            Some(spare) if shard.spare.len() < most && self.is_open() => shard.spare.push(spare),
            Some(spare) => return vec![spare],
            None => {}
        }
        if shard.gives < WINDOW {
            return Vec::new();
        }
        // At any moment of the window at most `most_out` were out; what is there beyond that was not needed.
        let surplus = (shard.out + shard.spare.len()).saturating_sub(shard.most_out).min(FREED_AT_ONCE).min(shard.spare.len());
        (shard.gives, shard.most_out) = (0, shard.out);
        shard.spare.drain(..surplus).collect()
    }

    /// How many things are spare.
    #[cfg(test)]
    pub(crate) fn spare_count(&self) -> usize {
        (0..SHARDS).map(|number| self.shard(number).spare.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_lives_as_long_as_leases_and_handles() {
        let owner = Arc::new(Pool::<u32>::new());
        let watch = Arc::downgrade(&owner);
        let first = owner.lease(|| owner.clone());
        let pool = Arc::clone(&owner);
        assert_eq!(pool.leases(), (1, 1));
        assert!(pool.end_lease(first).is_none(), "the anchor stays while there is a handle");
        assert_eq!(pool.leases(), (1, 0));
        drop(owner);
        let second = pool.lease(|| unreachable!("the anchor is there"));
        assert!(pool.give(second, Some(7), 10).is_empty());
        assert_eq!(pool.remove_handle(), [7]);
        assert!(pool.give(second, Some(8), 10) == [8], "nothing is kept without a handle");
        let anchor = pool.end_lease(second);
        drop(pool);
        assert!(watch.upgrade().is_some());
        drop(anchor);
        assert!(watch.upgrade().is_none());
    }

    #[test]
    fn what_was_not_needed_is_freed() {
        let pool = Pool::<u32>::new();
        let shard = own_shard();
        (0..100).for_each(|_| assert!(pool.take(shard).is_none()));
        (0..100).for_each(|number| assert!(pool.give(shard, Some(number), 100).is_empty()));
        assert_eq!(pool.give(shard, Some(100), 100), [100], "the pool is full");
        let mut freed = 0;
        for _ in 0..100 * WINDOW {
            let taken = pool.take(shard);
            assert!(taken.is_some());
            freed += pool.give(shard, taken, 100).len();
        }
        assert_eq!((freed, pool.spare_count()), (99, 1));
    }

    #[test]
    fn one_thread_uses_what_another_gave() {
        let pool = Pool::<u32>::new();
        let shard = own_shard();
        assert!(pool.take(shard).is_none());
        assert!(pool.give(shard, Some(5), 1).is_empty());
        assert_eq!(pool.take((shard + 3) % SHARDS), Some(5));
    }
}
