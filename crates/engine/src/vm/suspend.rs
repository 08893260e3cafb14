//! Suspended activations: what a guest waits for, and where it goes on.
//!
//! A host function or builtin that has to wait during a call that can (an asynchronous one, whose task is noted in the store) leaves a
//! [`Wait`] in the store and returns. Its veneer keeps the guest's registers on the guest's stack and lets `enter` return: the guest's frames
//! stay where they are, and nothing of the host is left on either stack. [`super::async_call`] polls the wait, and goes on with the guest.
//!
//! ```text
//! host function --Wait--> VmStore::suspend --veneer--> enter returns 2 --> Progress::Suspended --poll--> resume
//! ```
//!
//! Activations on one guest stack are strictly last in, first out, because each is driven by a future that has borrowed the store.

use super::entry::veneer::VENEER_FRAME_BYTES;
use super::pending::Pending;
use super::store::VmStore;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

/// [`peregrine_artifact::vmctx::VmStoreContext::pending`] when the guest is to be suspended; any other value but 0 is to unwind.
pub(in crate::vm) const PENDING_SUSPENSION: u64 = 2;

/// What comes of a wait: what the host function returns in its result register.
pub(crate) type WaitFuture = Pin<Box<dyn Future<Output = Result<u64, Pending>> + Send>>;

/// What a suspended guest waits for.
pub(crate) struct Wait {
    /// `None` waits for the next poll only.
    future: Option<WaitFuture>,
    /// Ticks from the end of the wait to the store's next deadline.
    then_ticks: Option<u64>,
}

impl Wait {
    /// Waits for a future.
    pub(crate) fn for_future(future: WaitFuture) -> Self {
        Self { future: Some(future), then_ticks: None }
    }

    /// Waits for the next turn of the task, which is woken at once.
    ///
    /// # Errors
    ///
    /// The panic of a waker that does. It must not go on in the builtin that waits.
    pub(super) fn for_turn(task: &Context<'_>) -> Result<Self, Pending> {
        catch_unwind(AssertUnwindSafe(|| task.waker().wake_by_ref())).map_err(Pending::Panic)?;
        Ok(Self { future: None, then_ticks: None })
    }

    /// Sets the store's deadline when the wait is over, that many ticks ahead.
    pub(crate) fn then_ticks(self, ticks: u64) -> Self {
        Self { then_ticks: Some(ticks), ..self }
    }

    /// Goes on waiting. Gives what the host function returns, and the ticks to the next deadline.
    pub(super) fn poll(&mut self, task: &mut Context<'_>) -> Poll<Result<(u64, Option<u64>), Pending>> {
        let result = match &mut self.future {
            Some(future) => std::task::ready!(future.as_mut().poll(task)),
            None => Ok(0),
        };
        Poll::Ready(result.map(|value| (value, self.then_ticks)))
    }
}

/// Sets the store's next deadline.
///
/// # Safety
///
/// 1. `store` is valid and lent, and no reference into it or its host is held.
pub(super) unsafe fn extend_deadline(store: NonNull<VmStore>, ticks: u64) {
    // SAFETY: as the caller says (1).
    unsafe {
        if let Some(mut host) = store.as_ref().host() {
            host.as_mut().extend_deadline(ticks);
        }
    }
}

/// Goes on with what a builtin waits for since it was interrupted, if it does, and sets the deadline that comes after it.
///
/// # Safety
///
/// 1. As for [`extend_deadline`].
pub(super) unsafe fn poll_interruption(
    wait: &mut Option<Wait>,
    store: NonNull<VmStore>,
    task: &mut Context<'_>,
) -> Poll<Result<(), Pending>> {
    let Some(waiting) = wait else { return Poll::Ready(Ok(())) };
    let waited = std::task::ready!(waiting.poll(task));
    *wait = None;
    Poll::Ready(waited.map(|(_, ticks)| {
        if let Some(ticks) = ticks {
            // SAFETY: passed on (1).
            unsafe { extend_deadline(store, ticks) };
        }
    }))
}

/// Where a suspended activation is on the guest's stack.
#[derive(Clone, Copy)]
pub(crate) struct SuspendedFrame {
    /// The frame pointer of the veneer that it left by.
    pub(super) exit_fp: u64,
    /// Where its Enter stub keeps the frame pointer of `enter`.
    pub(super) enter_fp: *mut u64,
}

// SAFETY: an address on the guest's stack, followed only by who has the store borrowed.
unsafe impl Send for SuspendedFrame {}

/// A call that waits.
pub(crate) struct Suspended {
    /// `None` if a host function was called directly.
    pub(super) frame: Option<SuspendedFrame>,
    pub(super) wait: Wait,
}

impl Suspended {
    /// Polls what it waits for, as the host function that it is part of: the guest's frames are below.
    ///
    /// # Safety
    ///
    /// 1. The store is valid and lent to this call; no reference into it is held.
    pub(super) unsafe fn poll(&mut self, store: NonNull<VmStore>, task: &mut Context<'_>) -> Poll<Result<(u64, Option<u64>), Pending>> {
        // SAFETY: as the caller says (1).
        let _noted = unsafe { NotedFrame::new(store, self.frame) };
        self.wait.poll(task)
    }

    /// Drops what it waits for; the activation is forgotten.
    ///
    /// # Safety
    ///
    /// 1. As for [`Suspended::poll`].
    pub(super) unsafe fn cancel(self, store: NonNull<VmStore>) {
        // SAFETY: as the caller says (1).
        let _noted = unsafe { NotedFrame::new(store, self.frame) };
        drop(self.wait);
    }
}

/// While it lives, the host acts on behalf of a suspended guest: backtraces see its frames, and nested activations go below them.
struct NotedFrame {
    store: NonNull<VmStore>,
    outer_exit_fp: u64,
}

impl NotedFrame {
    /// # Safety
    ///
    /// 1. The store is valid as long as the result lives, and no reference into it is held now or when it is dropped.
    unsafe fn new(store: NonNull<VmStore>, frame: Option<SuspendedFrame>) -> Self {
        // SAFETY: as the caller says (1).
        unsafe {
            let outer_exit_fp = (*store.as_ptr()).context.exit_fp;
            if let Some(frame) = frame {
                (*store.as_ptr()).context.exit_fp = frame.exit_fp;
            }
            Self { store, outer_exit_fp }
        }
    }
}

impl Drop for NotedFrame {
    fn drop(&mut self) {
        // SAFETY: the store is valid and not borrowed, as was promised to `new`.
        unsafe { (*self.store.as_ptr()).context.exit_fp = self.outer_exit_fp };
    }
}

/// How far a call has come.
pub(crate) enum Progress {
    /// It returned; its results are in the values.
    Returned,
    /// It was ended.
    Ended(Pending),
    /// It waits.
    Suspended(Suspended),
}

/// The first stack pointer of an activation that is entered now: what `enter` computes.
pub(super) fn first_stack_pointer(exit_fp: u64, guest_stack_top: u64) -> u64 {
    let end = if exit_fp == 0 { guest_stack_top } else { exit_fp - VENEER_FRAME_BYTES as u64 };
    end & !15
}
