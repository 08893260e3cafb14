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
#[path = "x64/mod.rs"]
pub(crate) mod veneer;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("peregrine-engine runs code on x86_64 only so far: entry/ needs a folder like x64 for this processor");

mod depth;
pub(crate) mod direct;
pub(in crate::vm) mod lazy;
mod thread;

pub(in crate::vm) use depth::go_deeper;

use super::fault;
use super::interrupt::Cause;
use super::pending::Pending;
use super::references;
use super::store::VmStore;
use super::suspend::{Progress, Suspended, SuspendedFrame, first_stack_pointer};
use super::value::ValRaw;
use peregrine_artifact::vmctx::VmFuncRef;
use peregrine_sys::{forks, thread_main};
use std::ptr::{self, NonNull};
use thread::UNPREPARED;

/// The store whose guest, or a host function called by it, runs on this thread. Null if none does. Signal-safe.
pub(super) fn current_store() -> *mut VmStore {
    let store = thread::current();
    if store == UNPREPARED { ptr::null_mut() } else { store }
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
    // SAFETY: passed on.
    let ended = unsafe { enter(store, func_ref, values) }?;
    if ended == RETURNED {
        return Ok(());
    }
    // SAFETY: the store is ours again (1).
    Err(unsafe { why_ended(store) })
}

/// Takes what ended a call.
///
/// # Safety
///
/// 1. `store` is valid and no reference into it is held.
pub(in crate::vm) unsafe fn why_ended(store: NonNull<VmStore>) -> Pending {
    // SAFETY: as the caller says (1).
    let pending = unsafe { (*store.as_ptr()).take_pending() };
    pending.unwrap_or_else(|| Pending::Error(anyhow::anyhow!("a call ended without saying why"), Vec::new()))
}

/// What the veneers return when the guest returned, and when it was suspended.
const RETURNED: u64 = 0;
const SUSPENDED: u64 = 2;

/// Calls a wasm function that may be suspended, which takes that the task is noted.
///
/// # Safety
///
/// 1. As for [`call`]; and the values stay where they are until the call has ended.
pub(super) unsafe fn begin(store: NonNull<VmStore>, func_ref: NonNull<VmFuncRef>, values: *mut ValRaw) -> Progress {
    // SAFETY: the store is ours for now (1), and the rest is passed on.
    unsafe {
        let outer_exit_fp = (*store.as_ptr()).context.exit_fp;
        match enter(store, func_ref, values) {
            Ok(ended) => {
                let first_sp = first_stack_pointer(outer_exit_fp, (*store.as_ptr()).context.guest_stack_top);
                progress(store, ended, (first_sp - 16) as *mut u64)
            }
            Err(pending) => Progress::Ended(pending),
        }
    }
}

/// Lets a suspended activation go on, with `result` in the register where the host function returns its result.
///
/// # Safety
///
/// 1. `store` is valid, no reference into it is held, and nobody else uses it meanwhile.
/// 2. `frame` is that of the last activation on the guest's stack, and what it waited for has come.
pub(super) unsafe fn go_on(store: NonNull<VmStore>, frame: SuspendedFrame, result: u64) -> Progress {
    // SAFETY: as the caller says (1, 2); the guest's stack is there since the activation is.
    unsafe {
        let ended =
            on_this_thread(store, |pointer| veneer::resume((&raw mut (*pointer).context).cast(), frame.exit_fp, result, frame.enter_fp));
        match ended {
            Ok(ended) => progress(store, ended, frame.enter_fp),
            Err(pending) => Progress::Ended(pending),
        }
    }
}

/// What became of an activation, by what the veneer returned.
///
/// # Safety
///
/// 1. `store` is valid and no reference into it is held.
/// 2. `enter_fp` is where the Enter stub of the activation keeps the frame pointer of `enter`.
unsafe fn progress(store: NonNull<VmStore>, ended: u64, enter_fp: *mut u64) -> Progress {
    if ended == RETURNED {
        return Progress::Returned;
    }
    // SAFETY: the store is ours again (1).
    let store = unsafe {
        if ended != SUSPENDED {
            return Progress::Ended(why_ended(store));
        }
        &mut *store.as_ptr()
    };
    let (exit_fp, wait) = store.take_wait().expect("a veneer suspends when there is something to wait for");
    // The frame of `enter` is gone. Walks go on in the activation below, or end.
    // SAFETY: the activation is suspended, so its Enter stub's frame is intact (2).
    unsafe { enter_fp.write(store.context.exit_fp) };
    Progress::Suspended(Suspended { frame: Some(SuspendedFrame { exit_fp, enter_fp }), wait })
}

/// Runs the guest from the beginning.
///
/// # Safety
///
/// 1. As for [`call`].
#[inline]
unsafe fn enter(store: NonNull<VmStore>, func_ref: NonNull<VmFuncRef>, values: *mut ValRaw) -> Result<u64, Pending> {
    // SAFETY: the store is ours for now, and the reference is live (1).
    let (code, vmctx, enter) = unsafe {
        if (*store.as_ptr()).context.guest_stack_top == 0 {
            prepare(store).map_err(|error| Pending::Error(error, Vec::new()))?;
        }
        let place = func_ref.as_ptr();
        (references::code(func_ref), (*place).vmctx, (*place).enter)
    };
    // SAFETY: the Enter stub belongs to the function's type, and values are as it expects (1); the guest stack is there.
    unsafe { on_this_thread(store, |pointer| veneer::enter(pointer.cast(), enter, vmctx, code, values)) }
}

/// Does `run`, which enters a guest, with this thread prepared for its faults.
///
/// # Safety
///
/// 1. `store` is valid, no reference into it is held, and nobody else uses it meanwhile.
#[inline]
unsafe fn on_this_thread(store: NonNull<VmStore>, run: impl FnOnce(*mut VmStore) -> u64) -> Result<u64, Pending> {
    let pointer = store.as_ptr();
    // SAFETY: as the caller says (1).
    let _deeper = unsafe { go_deeper(store)? };
    let outer = thread::set_current(pointer);
    // In destructors of the thread it has to be prepared again.
    if (outer == UNPREPARED || thread::is_to_be_prepared() || thread_main::has_ended())
        && let Err(error) = prepare_for_guests()
    {
        thread::set_current(outer);
        return Err(Pending::Error(error, Vec::new()));
    }
    let ended = run(pointer);
    if outer.is_null() || outer == UNPREPARED {
        thread::set_idle();
        return Ok(ended);
    }
    thread::set_current(outer);
    if thread::is_to_be_prepared() {
        // The guest below goes on without being entered.
        let prepared = prepare_for_guests();
        if ended == RETURNED {
            prepared.map_err(|error| Pending::Error(error, Vec::new()))?;
        }
        // Else the store holds what ended the call or what it waits for, which is told first. A thread that is not prepared finds it out when the
        // next guest is entered.
    }
    Ok(ended)
}

/// Prepares this thread for guests, and the process if it is a child that has none of its parent's threads.
#[cold]
fn prepare_for_guests() -> anyhow::Result<()> {
    prepare_thread()?;
    crate::deadline::resume()?;
    thread::prepared();
    Ok(())
}

/// Gives this thread a stack for the fault handler.
///
/// # Errors
///
/// What the system said, or that the thread is at its very end.
pub(crate) fn prepare_thread() -> std::io::Result<()> {
    forks::call_in_child(forked);
    // If a guest is on the way to here, the process exits inside of a host function, and the guest will never go on.
    fault::prepare_thread(|| {
        thread::to_be_prepared();
        thread::set_current(UNPREPARED);
    })
}

/// In a child process, on the thread that forked: the next guest that is entered finds that nobody watches its deadline, and so does one that is
/// on the way to here when it looks.
fn forked() {
    thread::to_be_prepared();
    let current = thread::current();
    if current.is_null() || current == UNPREPARED {
        thread::set_current(UNPREPARED);
        return;
    }
    // SAFETY: a store whose guest is on the way to here lives as long; its page is shared with whoever may interrupt it.
    if let Some(page) = unsafe { (*current).interrupt_page() } {
        // Nobody sleeps who would have to be told. If the page cannot be closed, the guest goes on until it is entered again.
        let _ = page.raise(Cause::Fork);
    }
}

#[cold]
fn prepare(mut store: NonNull<VmStore>) -> anyhow::Result<()> {
    fault::install()?;
    // SAFETY: the caller of `call` lends the store.
    let store = unsafe { store.as_mut() };
    if let Some(page) = store.interrupt_page() {
        page.watch()?;
    }
    let stack = match store.ensure_stack() {
        Err(_) if store.shared().give_up_warm() => store.ensure_stack(),
        stack => stack,
    };
    stack.map_err(|error| anyhow::Error::new(error).context("cannot make a stack for the guest"))
}
