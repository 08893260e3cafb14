//! Counters of an engine that threads add to without meeting each other.

use super::pool::{Apart, SHARDS, own_shard};
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted. Sums wrap only after centuries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Counting {
            $($(#[$doc])* $name,)*
        }

        const COUNTED: usize = [$(Counting::$name),*].len();
    };
}

counters! {
    /// Instances for what the host itself made: its memories, tables, globals.
    InstancesOfHost,
    /// Instances dropped.
    InstancesDropped,
    /// Instances that were made of a warm slot.
    SlotsWarm,
    /// Instances for which everything was mapped anew.
    SlotsCold,
    /// Slots that were unmapped on their way back because enough were kept.
    SlotsSurplus,
    /// Slots that were unmapped because resetting them failed.
    SlotsQuarantined,
    /// Guest stacks that stores gave back after a call.
    StacksReturned,
    /// Faults of guests at an interrupt page that was closed for others.
    LooksInVain,
    /// Modules compiled.
    ModulesCompiled,
    /// Modules compiled as a whole because they are too large for functions one by one.
    ModulesTooLarge,
    /// Nanoseconds spent compiling.
    CompileNanoseconds,
    /// Functions that the baseline compiled at their first call.
    BaselineFunctions,
    /// Nanoseconds that took.
    BaselineNanoseconds,
    /// Functions and loops that were optimized while they ran.
    OptimizedFunctions,
    /// Nanoseconds that took, on other threads.
    OptimizingNanoseconds,
    /// Modules found in the cache.
    CacheHits,
    /// Modules not found in the cache.
    CacheMisses,
}

/// The counters of one engine.
#[derive(Default)]
pub(crate) struct Counters([Apart<[AtomicU64; COUNTED]>; SHARDS]);

impl Counters {
    /// Adds `amount`.
    #[inline]
    pub(crate) fn add(&self, what: Counting, amount: u64) {
        self.0[own_shard()].0[what as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// What was counted so far. Counts of other threads under way may be missing.
    pub(crate) fn get(&self, what: Counting) -> u64 {
        self.0.iter().map(|shard| shard.0[what as usize].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}
