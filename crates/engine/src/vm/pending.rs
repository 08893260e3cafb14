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
