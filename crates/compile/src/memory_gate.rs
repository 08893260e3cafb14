//! How much memory the compilation of one module may take, shared by the functions that are compiled at the same time.
//!
//! [`crate::tier::ModuleEnv`] holds one. Tiers whose memory is many times the body ask it before they take much, and end without an answer
//! never: whoever waits, waits for compilations that go on without it. What code is made does not depend on who waited.
//!
//! Waiting is looking now and then: compilations that take so much take long, and a lock could be found locked for ever in a child process after a
//! fork, as forks do not wait for compilations. Neither do the children have them: [`MemoryGate::forget_taken`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that a module may take for each of its own.
const MAX_BYTES_PER_BYTE: u64 = 80;
/// Bytes that any module may take.
const MIN_BYTES: u64 = 36 << 20;
/// What takes less does not ask.
const MAX_UNASKED_BYTES: u64 = 1 << 20;

/// How long a thread sleeps until it looks again.
const PAUSE: Duration = Duration::from_micros(200);

/// The memory that compiling a module may take.
#[derive(Debug)]
pub struct MemoryGate {
    max_bytes: u64,
    /// A count that orders nothing.
    held_bytes: AtomicU64,
}

impl MemoryGate {
    /// For a module of so many bytes.
    pub fn new(module_bytes: usize) -> Self {
        let max_bytes = MIN_BYTES + MAX_BYTES_PER_BYTE * module_bytes as u64;
        Self { max_bytes, held_bytes: AtomicU64::new(0) }
    }

    /// The same, with at most `max_bytes`.
    #[must_use]
    pub fn at_most(self, max_bytes: u64) -> Self {
        Self { max_bytes: self.max_bytes.min(max_bytes), ..self }
    }

    /// The most bytes that one function may take. Depends on nothing but the module.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Waits until `bytes` more are there. One function at a time may take whatever it wants; a thread asks once at a time.
    pub fn take(&self, bytes: u64) -> Taken<'_> {
        if bytes <= MAX_UNASKED_BYTES {
            return Taken { gate: self, bytes: 0 };
        }
        let with = |held: u64| (held == 0 || held.saturating_add(bytes) <= self.max_bytes).then(|| held.saturating_add(bytes));
        while self.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).is_err() {
            std::thread::sleep(PAUSE);
        }
        Taken { gate: self, bytes }
    }

    /// In a child process after a fork, before it compiles anything: nobody there has what threads of its parent took.
    pub fn forget_taken(&self) {
        self.held_bytes.store(0, Ordering::Relaxed);
    }
}

/// Memory that somebody has; it is given back when this is dropped.
#[derive(Debug)]
pub struct Taken<'g> {
    gate: &'g MemoryGate,
    bytes: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let without = |held: u64| Some(held.saturating_sub(self.bytes));
            let _ = self.gate.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, without);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_at_once_is_bounded() {
        let gate = MemoryGate::new(0);
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        let part = MIN_BYTES / 2;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let taken = gate.take(part);
                        most.fetch_max(held.fetch_add(part, Ordering::SeqCst) + part, Ordering::SeqCst);
                        std::thread::yield_now();
                        held.fetch_sub(part, Ordering::SeqCst);
                        drop(taken);
                    }
                });
            }
        });
        assert!(most.into_inner() <= gate.max_bytes());
        assert_eq!(gate.held_bytes.into_inner(), 0);
    }

    #[test]
    fn what_threads_of_another_process_took_is_forgotten() {
        let gate = MemoryGate::new(0);
        // Dropped by nobody.
        std::mem::forget(gate.take(gate.max_bytes()));
        gate.forget_taken();
        let (first, second) = (gate.take(gate.max_bytes() / 2), gate.take(gate.max_bytes() / 2));
        drop((first, second));
        assert_eq!(gate.held_bytes.into_inner(), 0);
    }

    #[test]
    fn one_may_take_more_than_there_is() {
        let gate = MemoryGate::new(0);
        for bytes in [u64::MAX, MIN_BYTES + 1] {
            let taken = gate.take(bytes);
            assert!(gate.held_bytes.load(Ordering::Relaxed) > 0);
            drop(taken);
            assert_eq!(gate.held_bytes.load(Ordering::Relaxed), 0);
        }
    }
}
