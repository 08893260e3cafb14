//! What becomes of a guest that was interrupted: it goes on, waits, or is ended, as the store's host says.
//!
//! ```text
//! load of the interrupt page --fault--> veneer::interrupt_landing --leave--> interrupted --host--> go on | Wait | Pending
//! long builtin, between two slices ----------------------------------------> decide ------'
//! ```

use super::fault::walk::backtrace;
use super::pending::Pending;
use super::store::VmStore;
use super::suspend::Wait;
use peregrine_artifact::vmctx::VmContextHeader;
use peregrine_wasm::Trap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::Context;

/// What the host says about a guest that was interrupted.
pub(crate) enum Interruption {
    /// It goes on.
    GoOn,
    /// It lets other tasks run.
    Yield {
        /// For how long; until the task's next turn if there is nothing to wait for.
        until: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        /// Ticks from then to the next deadline.
        then_ticks: u64,
    },
}

/// What the host answers.
///
/// # Safety
///
/// 1. `store` is valid and no reference into it is held.
unsafe fn ask(store: NonNull<VmStore>) -> Result<Interruption, Pending> {
    // SAFETY: the store is valid (1).
    let frames = || backtrace(unsafe { store.as_ref() });
    // SAFETY: as above.
    let Some(mut host) = (unsafe { store.as_ref() }).host() else { return Err(Pending::Trap(Trap::Interrupt, frames())) };
    // SAFETY: the host's part of the store is another object that lives as long, and nothing of it is borrowed.
    let interruption = unsafe {
        // Of two slices or two turns of a loop the code does not expect that a memory moves between them.
        (*store.as_ptr()).held_still += 1;
        let interruption = catch_unwind(AssertUnwindSafe(|| host.as_mut().interrupted()));
        (*store.as_ptr()).held_still -= 1;
        interruption
    };
    match interruption {
        Ok(interruption) => interruption.map_err(|error| Pending::of_error(error, frames())),
        Err(payload) => Err(Pending::Panic(payload)),
    }
}

/// Asks the host. `Ok(None)` is to go on. `task` is that of the call, if it can wait.
///
/// # Safety
///
/// 1. `store` is valid and no reference into it is held.
pub(super) unsafe fn decide(store: NonNull<VmStore>, task: Option<&mut Context<'_>>) -> Result<Option<Wait>, Pending> {
    // SAFETY: as the caller says (1).
    let Interruption::Yield { until, then_ticks } = (unsafe { ask(store) })? else { return Ok(None) };
    let Some(task) = task else {
        // SAFETY: as above.
        return Err(Pending::Error(anyhow::anyhow!("{CANNOT_YIELD}"), backtrace(unsafe { store.as_ref() })));
    };
    let Some(mut until) = until else { return Ok(Some(Wait::for_turn(task)?.then_ticks(then_ticks))) };
    // It may panic when it is dropped, too.
    let still_waits = catch_unwind(AssertUnwindSafe(|| until.as_mut().poll(task).is_pending().then_some(until)));
    match still_waits.map_err(Pending::Panic)? {
        None => {
            // SAFETY: the host's part of the store is another object that lives as long, and nothing of it is borrowed.
            if let Some(mut host) = unsafe { store.as_ref() }.host() {
                // SAFETY: as above.
                unsafe { host.as_mut() }.extend_deadline(then_ticks);
            }
            Ok(None)
        }
        Some(until) => {
            let wait = Wait::for_future(Box::pin(async move {
                until.await;
                Ok(0)
            }));
            Ok(Some(wait.then_ticks(then_ticks)))
        }
    }
}

/// Asks the host before a call begins that cannot wait, and that a host function makes which a guest of the store called. Where the answer is to
/// yield, the call begins, and the store stays interrupted: the guest that called the host function yields where it looks next.
///
/// # Safety
///
/// 1. As for [`decide`].
pub(super) unsafe fn decide_nested(store: NonNull<VmStore>) -> Result<(), Pending> {
    // SAFETY: as the caller says (1).
    let interruption = unsafe { ask(store) }?;
    // A future may panic when it is dropped.
    catch_unwind(AssertUnwindSafe(|| drop(interruption))).map_err(Pending::Panic)
}

/// Asks the host for more fuel. `Ok(None)` is to go on. `task` is that of the call, if it can wait.
///
/// # Safety
///
/// 1. As for [`decide`].
pub(super) unsafe fn refuel(store: NonNull<VmStore>, task: Option<&mut Context<'_>>) -> Result<Option<Wait>, Pending> {
    // SAFETY: as the caller says (1); the host's part of the store is another object that lives as long.
    let may_yield = match unsafe { store.as_ref() }.host() {
        // SAFETY: as above.
        Some(mut host) => unsafe { host.as_mut() }.out_of_fuel(),
        None => Err(Trap::OutOfFuel.into()),
    };
    match (may_yield, task) {
        (Ok(true), Some(task)) => Wait::for_turn(task).map(Some),
        (Ok(_), _) => Ok(None),
        // SAFETY: as above.
        (Err(error), _) => Err(Pending::of_error(error, backtrace(unsafe { store.as_ref() }))),
    }
}

const CANNOT_YIELD: &str = "a guest was interrupted and is to yield, but it was not called as a future; use `call_async`";

/// What the landing of an interruption calls, through a veneer.
///
/// # Safety
///
/// 1. The word of `context` where a context has its store is that of the interrupted guest's store. There need be nothing else.
pub(super) unsafe extern "C" fn interrupted(context: *mut VmContextHeader) {
    // SAFETY: the word is there (1).
    let store = unsafe { NonNull::new_unchecked((&raw const (*context).store).read() as *mut VmStore) };
    // SAFETY: the guest is stopped, and the host below it holds no reference into the store. The task is that of the poll under way.
    unsafe {
        let task = (*store.as_ptr()).task().map(|task| &mut *task.as_ptr());
        match decide(store, task) {
            Ok(None) => {}
            Ok(Some(wait)) => (*store.as_ptr()).suspend(wait),
            Err(pending) => (*store.as_ptr()).raise(pending),
        }
    }
}
