//! How much an engine keeps warm: counted per shard, so that threads do not meet.
//!
//! What is counted says which shard it was counted in, and is taken off there, by whatever thread: stores move between threads, and a count
//! that only ever rose would say before long that there is no more room.

use super::pool::{Apart, SHARDS, own_shard};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Warm instances that are kept per shard. Each has a few mappings, of which a process may have some 65,000.
const MOST_SLOTS: usize = 1_024;
/// Address space is counted in pieces of this size.
const PIECE_BYTES: usize = 4 << 10;
/// One slot in a [`Idle`] count; below it are the pieces.
const SLOT: u64 = 1 << 44;

/// Warm instances of one engine.
pub(crate) struct IdleSlots {
    shards: [Apart<Idle>; SHARDS],
    /// Address space that warm instances of a shard may take.
    most_bytes: usize,
}

/// How many slots a shard counts, in the upper bits, and their pieces of address space below: one addition counts both.
#[derive(Default)]
struct Idle(AtomicU64);

/// What one slot of `bytes` counts.
fn slot_of(bytes: usize) -> u64 {
    SLOT + bytes.div_ceil(PIECE_BYTES) as u64
}

impl Idle {
    /// Slots, and bytes of address space.
    fn get(&self) -> (usize, usize) {
        let count = self.0.load(Ordering::Relaxed);
        ((count / SLOT) as usize, (count % SLOT) as usize * PIECE_BYTES)
    }
}

impl IdleSlots {
    /// None yet. `most_bytes` is the address space that those of all shards may take.
    pub(crate) fn new(most_bytes: u64) -> Self {
        Self { shards: Default::default(), most_bytes: usize::try_from(most_bytes).unwrap_or(usize::MAX) / SHARDS }
    }

    /// Counts an instance with `bytes` of address space. Returns where, for [`remove`](Self::remove).
    pub(crate) fn add(&self, bytes: usize) -> usize {
        let shard = own_shard();
        self.shards[shard].0.0.fetch_add(slot_of(bytes), Ordering::Relaxed);
        shard
    }

    /// Whether this shard has more than its share.
    pub(crate) fn is_full(&self) -> bool {
        let (slots, bytes) = self.shards[own_shard()].0.get();
        slots > MOST_SLOTS || bytes > self.most_bytes
    }

    /// Counts one less, where it was counted, with the `bytes` that it was counted with.
    pub(crate) fn remove(&self, shard: usize, bytes: usize) {
        self.shards[shard].0.0.fetch_sub(slot_of(bytes), Ordering::Relaxed);
    }

    /// How many warm instances there are.
    pub(crate) fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.get().0).sum()
    }

    /// Bytes of address space that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.get().1).sum()
    }
}

/// Stores of a shard that keep a guest stack between calls; further ones give it back after each call.
const MOST_STACKS: usize = 16;

/// How many stores have a guest stack.
#[derive(Default)]
pub(crate) struct HeldStacks([Apart<AtomicUsize>; SHARDS]);

impl HeldStacks {
    /// Counts a stack. Returns where, for [`remove`](Self::remove), and `true` if there are so many that it is to be given back when it is
    /// not in use.
    pub(crate) fn add(&self) -> (usize, bool) {
        let shard = own_shard();
        (shard, self.0[shard].0.fetch_add(1, Ordering::Relaxed) >= MOST_STACKS)
    }

    /// Counts one less, where it was counted.
    pub(crate) fn remove(&self, shard: usize) {
        self.0[shard].0.fetch_sub(1, Ordering::Relaxed);
    }
}
