//! Questions to an engine that have one answer here, and what it can be told early.

use crate::Engine;

impl Engine {
    /// Whether code is interpreted: it is not.
    pub fn is_pulley(&self) -> bool {
        false
    }

    /// Whether what happens is recorded to be replayed: it is not.
    pub fn is_recording(&self) -> bool {
        false
    }

    /// Whether what happens was recorded: it was not.
    pub fn is_replaying(&self) -> bool {
        false
    }

    /// Makes what the first call of a guest on this thread would make: the stack on which faults are handled. For threads whose first call
    /// must not be slower than the others.
    ///
    /// # Panics
    ///
    /// If the system has no memory left for it.
    pub fn tls_eager_initialize() {
        crate::vm::prepare_thread().expect("the system has memory for a thread's signal stack");
    }
}
