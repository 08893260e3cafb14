//! Entering and leaving the guest.
//!
//! The guest runs on a stack of its own. Entering saves the host's registers on the host's stack, notes the host's stack pointer in the
//! store's context, and goes to the guest's stack; whenever the guest calls the host, a veneer goes back to the host's stack, and
//! returns to the guest's afterwards. So the host never runs on the guest's stack, and ending a call early is going back to the noted
//! stack pointer: no host frame is skipped.
//!
//! ```text
//! host stack                          guest stack
//! call() -> enter: saved registers    Enter stub -> wasm -> wasm -> veneer
//!           builtin <------------------------------------------------'
//! ```

#[cfg(target_arch = "x86_64")]
#[path = "x64.rs"]
pub(super) mod veneer;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("peregrine-engine runs code on x86_64 only so far: entry/ needs a file like x64.rs for this processor");

pub(in crate::vm) mod lazy;

use super::fault;
use super::pending::Pending;
use super::store::VmStore;
use super::value::ValRaw;
use peregrine_artifact::vmctx::VmFuncRef;
use peregrine_sys::threads;
use peregrine_wasm::Trap;
use std::cell::Cell;
use std::ptr::{self, NonNull};

thread_local! {
    /// The store whose guest runs on this thread, for the fault handler.
    static CURRENT: Cell<*mut VmStore> = const { Cell::new(ptr::null_mut()) };
}

/// What the host's stack must have left when a host function calls a guest, for the next host function, a backtrace and a panic.
const HOST_RESERVE_BYTES: usize = 256 << 10;

/// The store whose guest, or a host function called by it, runs on this thread. Null if none does. Signal-safe.
pub(super) fn current_store() -> *mut VmStore {
    CURRENT.get()
}

/// Calls a wasm function. `values` holds the parameters, and the results on success.
///
/// # Errors
///
/// What stopped the call.
///
/// # Safety
///
/// 1. `store` is valid, no reference into it is held, and nobody else uses it meanwhile.
/// 2. `func_ref` is a reference of this store to a wasm function (its `enter` is not null).
/// 3. `values` has room for the parameters and for the results of the function's type, and holds parameters of the right types.
pub(crate) unsafe fn call(store: NonNull<VmStore>, func_ref: NonNull<VmFuncRef>, values: *mut ValRaw) -> Result<(), Pending> {
    let pointer = store.as_ptr();
    // SAFETY: the store is ours for now (1).
    unsafe {
        if (*pointer).context.guest_stack_top == 0 {
            prepare(store).map_err(|error| Pending::Error(error, Vec::new()))?;
        }
    }
    if !CURRENT.get().is_null() && !host_can_go_deeper() {
        // SAFETY: as above.
        return Err(Pending::Trap(Trap::StackOverflow, unsafe { fault::walk::backtrace(&*pointer) }));
    }
    let outer = CURRENT.replace(pointer);
    if outer.is_null()
        && let Err(error) = fault::prepare_thread()
    {
        CURRENT.set(outer);
        return Err(Pending::Error(error.into(), Vec::new()));
    }
    // SAFETY: the reference is live (2).
    let VmFuncRef { code, vmctx, enter, .. } = unsafe { *func_ref.as_ptr() };
    // SAFETY: the Enter stub belongs to the function's type, and values are as it expects (2, 3); the guest stack is there.
    let unwound = unsafe { veneer::enter(pointer.cast(), enter, vmctx, code, values) };
    CURRENT.set(outer);
    if unwound == 0 {
        return Ok(());
    }
    // SAFETY: the store is ours again (1).
    let pending = unsafe { (*pointer).take_pending() };
    Err(pending.unwrap_or_else(|| Pending::Error(anyhow::anyhow!("a call ended without saying why"), Vec::new())))
}

/// Whether the host's stack has room for what a nested call may do. The guest's stack does not bound recursion that goes through the
/// host, as the host needs more per turn than the guest.
fn host_can_go_deeper() -> bool {
    threads::stack_left().is_none_or(|(left_bytes, all_bytes)| left_bytes >= HOST_RESERVE_BYTES.min(all_bytes / 4))
}

#[cold]
fn prepare(mut store: NonNull<VmStore>) -> anyhow::Result<()> {
    fault::install()?;
    // SAFETY: the caller of `call` lends the store.
    unsafe { store.as_mut() }.ensure_stack().map_err(|error| anyhow::Error::new(error).context("cannot make a stack for the guest"))
}
