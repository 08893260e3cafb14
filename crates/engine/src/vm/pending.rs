//! Why a call ended without results.

use super::fault::walk::RawFrame;
use peregrine_wasm::Trap;
use std::any::Any;

/// What a builtin, a host function or the hardware raised; on its way to the host that made the call.
pub(crate) enum Pending {
    /// A trap, and the guest's frames at that moment, newest first.
    Trap(Trap, Vec<RawFrame>),
    /// An error of a host function, and the guest's frames.
    Error(anyhow::Error, Vec<RawFrame>),
    /// A host function panicked; goes on in the caller.
    Panic(Box<dyn Any + Send>),
}

impl Pending {
    /// An error of the host, which may be a trap, with the guest's frames.
    pub(crate) fn of_error(error: anyhow::Error, frames: Vec<RawFrame>) -> Self {
        match error.downcast::<Trap>() {
            Ok(trap) => Self::Trap(trap, frames),
            Err(error) => Self::Error(error, frames),
        }
    }
}
