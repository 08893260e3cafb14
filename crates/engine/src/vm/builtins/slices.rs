//! Long operations in slices: between two of them the store may be interrupted, and the operation goes on, waits or ends as its host says.

use super::Caller;
use crate::vm::fault::walk::backtrace;
use crate::vm::pending::Pending;
use crate::vm::preempt::decide;
use crate::vm::suspend::{Wait, poll_interruption};
use peregrine_wasm::Trap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// What a long operation goes over.
#[derive(Clone, Copy)]
pub(super) struct Range {
    /// The most that one slice does.
    pub(super) slice_len: u64,
    /// All there is to do. Nothing is one empty slice.
    pub(super) len: u64,
    /// Whether the last slice comes first.
    pub(super) is_backward: bool,
}

/// An operation under way.
pub(super) struct Slices<W> {
    caller: Caller,
    range: Range,
    done: u64,
    work: W,
    /// What the builtin returns in the end.
    result: u64,
    wait: Option<Wait>,
}

impl Caller {
    /// Does `work(offset, len)` for slices of `range`, until it fails or the store is interrupted and ended. `work` keeps no reference into
    /// the store. Returns `result` for the builtin to return; the guest does not see it if something is pending then.
    #[inline]
    pub(super) fn in_slices<W>(self, range: Range, result: u64, mut work: W) -> u64
    where
        W: FnMut(u64, u64) -> Result<(), Trap> + Send + Unpin + 'static,
    {
        // Most are short. What fails fails again below.
        if range.len <= range.slice_len && work(0, range.len).is_ok() {
            return result;
        }
        let mut slices = self.slices(range, result, work);
        // SAFETY: no reference into the store is held. The task is that of the poll under way.
        let task = unsafe { self.store().as_ref().task().map(|task| &mut *task.as_ptr()) };
        match slices.advance(task) {
            Ok(None) => result,
            Ok(wait) => {
                slices.wait = wait;
                // SAFETY: as above.
                unsafe { self.store_mut() }.suspend(Wait::for_future(Box::pin(slices)));
                0
            }
            Err(pending) => {
                // SAFETY: as above.
                unsafe { self.store_mut() }.raise(pending);
                0
            }
        }
    }
}

impl Caller {
    /// [`in_slices`](Self::in_slices) as a future, none of which is done yet.
    pub(super) fn slices<W>(self, range: Range, result: u64, work: W) -> Slices<W> {
        Slices { caller: self, range, done: 0, work, result, wait: None }
    }
}

impl<W: FnMut(u64, u64) -> Result<(), Trap>> Slices<W> {
    /// Goes on until everything is done, or there is something to wait for.
    fn advance(&mut self, mut task: Option<&mut Context<'_>>) -> Result<Option<Wait>, Pending> {
        let Range { slice_len, len, is_backward } = self.range;
        let store = self.caller.store();
        loop {
            let slice = slice_len.min(len - self.done);
            let offset = if is_backward { len - self.done - slice } else { self.done };
            if let Err(trap) = (self.work)(offset, slice) {
                // SAFETY: the work is done with the store.
                return Err(Pending::Trap(trap, backtrace(unsafe { store.as_ref() })));
            }
            self.done += slice;
            if self.done == len {
                return Ok(None);
            }
            // SAFETY: as above.
            if unsafe { self.caller.is_interrupted() }
                // SAFETY: as above.
                && let Some(wait) = unsafe { decide(store, task.as_deref_mut()) }?
            {
                return Ok(Some(wait));
            }
        }
    }
}

impl<W: FnMut(u64, u64) -> Result<(), Trap> + Unpin> Future for Slices<W> {
    type Output = Result<u64, Pending>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // SAFETY: the store is lent to the call that this is part of, and no reference into it is held.
        if let Err(pending) = ready!(unsafe { poll_interruption(&mut this.wait, this.caller.store(), task) }) {
            return Poll::Ready(Err(pending));
        }
        match this.advance(Some(task)) {
            Ok(None) => Poll::Ready(Ok(this.result)),
            Ok(wait) => {
                this.wait = wait;
                Poll::Pending
            }
            Err(pending) => Poll::Ready(Err(pending)),
        }
    }
}
