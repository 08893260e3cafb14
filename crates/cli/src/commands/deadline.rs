//! The end of a guest's time, `-W timeout`.
//!
//! Compiled code looks at the engine's epoch, which goes on when the time is up. A guest that is in the host then (a read, a sleep, a fill of much
//! memory) does not look: after a short while the process ends without it.

use super::failure;
use crate::args::options::WasmOptions;
use peregrine::{Context, Engine, Error, Result, Store, Trap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a guest may take to see that its time is up.
const GRACE: Duration = Duration::from_millis(100);

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
    pub(super) fn start<T>(engine: &Engine, store: &mut Store<T>, wasm: &WasmOptions, what: &str) -> Result<Self> {
        let deadline = Self { claimed: Arc::new(AtomicBool::new(false)) };
        if !wasm.epoch_interruption.unwrap_or(wasm.timeout.is_some()) {
            return Ok(deadline);
        }
        store.set_epoch_deadline(1);
        let Some(timeout) = wasm.timeout else { return Ok(deadline) };
        let (engine, claimed, what) = (engine.clone(), Arc::clone(&deadline.claimed), what.to_string());
        let spawned = std::thread::Builder::new().name("timeout".to_string()).spawn(move || {
            std::thread::sleep(timeout.min(Duration::from_secs(u64::from(u32::MAX))));
            engine.increment_epoch();
            std::thread::sleep(GRACE);
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
