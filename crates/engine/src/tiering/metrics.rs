//! Counts of what the tiers did for a module.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was compiled of a module so far, and what for. See [`Module::tiering_metrics`](crate::Module::tiering_metrics).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TieringMetrics {
    /// Functions that the module defines.
    pub functions: u64,
    /// Functions whose code was in the image that the module was loaded from.
    pub precompiled_functions: u64,
    /// Of these, how many the optimizing tier made the code of.
    pub precompiled_optimized_functions: u64,
    /// Functions that the baseline compiled.
    pub baseline_functions: u64,
    /// Functions that the optimizing tier compiled.
    pub optimized_functions: u64,
    /// Loops that the optimizing tier compiled an entry at.
    pub loop_entries: u64,
    /// How often such entries were taken.
    pub loop_entries_taken: u64,
    /// Requests for optimized code that wait for a thread, or that one is at.
    pub pending_requests: u64,
    /// Requests for optimized code that came to nothing: no tier takes the function or the loop, or there is no room.
    pub refused: u64,
    /// How often a function could not be compiled for its first call: the module is invalid there, a limit was met, or there is no room.
    pub failed_functions: u64,
    /// Bytes of code of the baseline.
    pub baseline_code_bytes: u64,
    /// Bytes of code of the optimizing tier.
    pub optimized_code_bytes: u64,
    /// Time spent in the baseline compiler.
    pub baseline_time: Duration,
    /// Time spent in the optimizing compiler, by threads in the background.
    pub optimizing_time: Duration,
    /// Bytes of address space for code that are used, and how many there are.
    pub room_used_bytes: u64,
    /// See `room_used_bytes`.
    pub room_bytes: u64,
    /// Bodies of functions that were read one by one from the file of the module, which is not held in memory: it was read in pieces, or
    /// the [cache](crate::Config::cache) recognized it.
    pub bodies_read: u64,
    /// Whether all of that file was read after all, 0 or 1.
    pub whole_reads: u64,
}

impl TieringMetrics {
    /// Adds those of another module.
    pub(crate) fn add(&mut self, other: &Self) {
        self.functions += other.functions;
        self.precompiled_functions += other.precompiled_functions;
        self.precompiled_optimized_functions += other.precompiled_optimized_functions;
        self.baseline_functions += other.baseline_functions;
        self.optimized_functions += other.optimized_functions;
        self.loop_entries += other.loop_entries;
        self.loop_entries_taken += other.loop_entries_taken;
        self.pending_requests += other.pending_requests;
        self.refused += other.refused;
        self.failed_functions += other.failed_functions;
        self.baseline_code_bytes += other.baseline_code_bytes;
        self.optimized_code_bytes += other.optimized_code_bytes;
        self.baseline_time += other.baseline_time;
        self.optimizing_time += other.optimizing_time;
        self.room_used_bytes += other.room_used_bytes;
        self.room_bytes += other.room_bytes;
        self.bodies_read += other.bodies_read;
        self.whole_reads += other.whole_reads;
    }
}

/// The counters behind it. They order nothing.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) baseline_functions: AtomicU64,
    pub(super) optimized_functions: AtomicU64,
    pub(super) loop_entries: AtomicU64,
    pub(super) loop_entries_taken: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed_functions: AtomicU64,
    pub(super) baseline_code_bytes: AtomicU64,
    pub(super) optimized_code_bytes: AtomicU64,
    pub(super) baseline_ns: AtomicU64,
    pub(super) optimizing_ns: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    /// The counts so far.
    pub(super) fn metrics(&self) -> TieringMetrics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TieringMetrics {
            baseline_functions: get(&self.baseline_functions),
            optimized_functions: get(&self.optimized_functions),
            loop_entries: get(&self.loop_entries),
            loop_entries_taken: get(&self.loop_entries_taken),
            refused: get(&self.refused),
            failed_functions: get(&self.failed_functions),
            baseline_code_bytes: get(&self.baseline_code_bytes),
            optimized_code_bytes: get(&self.optimized_code_bytes),
            baseline_time: Duration::from_nanos(get(&self.baseline_ns)),
            optimizing_time: Duration::from_nanos(get(&self.optimizing_ns)),
            ..TieringMetrics::default()
        }
    }
}
