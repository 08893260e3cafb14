//! Waiting for what happens on other threads, whenever they get the processor.

#![allow(dead_code, reason = "each test uses a part of it")]

use peregrine::Module;
use std::time::{Duration, Instant};

/// After this, what is waited for does not happen. It ends a test that would hang; no machine is expected to come near it.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a thread sleeps until it looks again: the threads of the tiers have low priority.
const PAUSE: Duration = Duration::from_millis(1);

/// What `find` finds, as soon as it does.
pub fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until nothing is asked of the optimizing tier that it has not answered.
pub fn until_answered(module: &Module) {
    wait_for("answers of the optimizing tier", || (module.tiering_metrics().pending_requests == 0).then_some(()));
}
