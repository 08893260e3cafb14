//! The end of a guest's time, `-W timeout`.
//!
//! Compiled code looks at the deadline of its store. A guest that is in the host then (a read, a sleep) does not look: after a short while the
//! process ends without it.

use super::failure;
use crate::args::options::WasmOptions;
use peregrine::{Context, Error, Result, Store, Trap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a guest may take to see that its time is up.
const GRACE: Duration = Duration::from_millis(100);

/// The epochs that a guest has whose code looks at them: nothing counts them on.
const EPOCHS: u64 = 1 << 40;

/// Gives the guests of `store` their time, where the engine was configured by the same options.
///
/// # Errors
///
/// If the system gives no thread.
pub(super) fn set<T>(store: &mut Store<T>, wasm: &WasmOptions) -> Result<()> {
    if wasm.epoch_interruption.unwrap_or(wasm.timeout.is_some()) {
        store.set_epoch_deadline(EPOCHS);
    }
    match wasm.timeout {
        Some(timeout) => store.deadline(timeout).context("-W timeout"),
        None => Ok(()),
    }
}

/// Says who ends the process: the guest, or the clock.
pub(super) struct Deadline {
    claimed: Arc<AtomicBool>,
}

impl Deadline {
    /// Starts the clock if there is one. `what` names the program in the message.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub(super) fn start<T>(store: &mut Store<T>, wasm: &WasmOptions, what: &str) -> Result<Self> {
        let deadline = Self { claimed: Arc::new(AtomicBool::new(false)) };
        set(store, wasm)?;
        let Some(timeout) = wasm.timeout else { return Ok(deadline) };
        let (claimed, what) = (Arc::clone(&deadline.claimed), what.to_string());
        let spawned = std::thread::Builder::new().name("timeout".to_string()).spawn(move || {
            std::thread::sleep(timeout.min(Duration::from_secs(u64::from(u32::MAX))) + GRACE);
            if !claimed.swap(true, Ordering::AcqRel) {
                let error = Error::from(Trap::Interrupt).context("the guest was waiting for the host").context(format!("`{what}` failed"));
                failure::report(&error);
                std::process::exit(i32::from(failure::TRAP));
            }
        });
        spawned.context("-W timeout needs a thread")?;
        Ok(deadline)
    }

    /// The guest has ended: its outcome is that of the process, unless the clock was first.
    pub(super) fn guest_ended(&self) {
        if self.claimed.swap(true, Ordering::AcqRel) {
            // The clock is ending the process.
            loop {
                std::thread::park();
            }
        }
    }
}
