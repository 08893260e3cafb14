//! How much memory the compilation of one module may take, shared by the functions that are compiled at the same time.
//!
//! [`crate::tier::ModuleEnv`] holds one. Tiers whose memory is many times the body ask it before they take much, and end without an answer
//! never: whoever waits, waits for compilations that go on without it. What code is made does not depend on who waited.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that a module may take for each of its own.
const MAX_BYTES_PER_BYTE: u64 = 80;
/// Bytes that any module may take.
const MIN_BYTES: u64 = 36 << 20;
/// What takes less does not ask.
const MAX_UNASKED_BYTES: u64 = 1 << 20;

/// The memory that compiling a module may take.
#[derive(Debug)]
pub struct MemoryGate {
    max_bytes: u64,
    held_bytes: Mutex<u64>,
    /// Signalled when memory was given back.
    given_back: Condvar,
}

impl MemoryGate {
    /// For a module of so many bytes.
    pub fn new(module_bytes: usize) -> Self {
        let max_bytes = MIN_BYTES + MAX_BYTES_PER_BYTE * module_bytes as u64;
        Self { max_bytes, held_bytes: Mutex::new(0), given_back: Condvar::new() }
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
        let mut held = self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *held > 0 && held.saturating_add(bytes) > self.max_bytes {
            held = self.given_back.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        *held = held.saturating_add(bytes);
        Taken { gate: self, bytes }
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
            let mut held = self.gate.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
            *held = held.saturating_sub(self.bytes);
            drop(held);
            self.gate.given_back.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

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
        assert_eq!(*gate.held_bytes.lock().expect("no panic"), 0);
    }

    #[test]
    fn one_may_take_more_than_there_is() {
        let gate = MemoryGate::new(0);
        for bytes in [u64::MAX, MIN_BYTES + 1] {
            let taken = gate.take(bytes);
            assert!(*gate.held_bytes.lock().expect("no panic") > 0);
            drop(taken);
            assert_eq!(*gate.held_bytes.lock().expect("no panic"), 0);
        }
    }
}
