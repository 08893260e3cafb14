//! Long operations in slices: between two of them the store may be interrupted or out of fuel, and the operation goes on, waits or ends as its host
//! says.

use super::Caller;
use crate::vm::fault::walk::backtrace;
use crate::vm::pending::Pending;
use crate::vm::preempt::{decide, refuel};
use crate::vm::suspend::{Wait, poll_interruption};
use peregrine_artifact::abi::UNCHECKED_BULK_LEN;
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
    /// How far fuel was counted: for what is done, and at most for one slice more.
    paid: u64,
    /// There was not enough fuel for that, and the host was not asked yet.
    is_short_of_fuel: bool,
    /// Whether the host was asked about an interruption before the next slice. Of several, nobody looks before the first.
    has_looked: bool,
    work: W,
    /// What the builtin returns in the end.
    result: u64,
    wait: Option<Wait>,
}

impl Caller {
    /// Does `work(offset, len)` for slices of `range`, until it fails or the store is interrupted and ended, or out of fuel, of which a unit is
    /// counted for each byte or element before its slice. `work` keeps no reference into the store, and fails only for what came about in an
    /// interruption: operations that are out of bounds cost nothing. Returns `result` for the builtin to return; the guest does not see it if
    /// something is pending then.
    #[inline]
    pub(super) fn in_slices<W>(self, range: Range, result: u64, mut work: W) -> u64
    where
        W: FnMut(u64, u64) -> Result<(), Trap> + Send + Unpin + 'static,
    {
        let (mut paid, mut is_short_of_fuel) = (0, false);
        // Most are short. What fails fails again below. Each looks, as a function may do nothing but many of them.
        // SAFETY: no reference into the store is held.
        if range.len <= range.slice_len && !unsafe { self.is_interrupted() } {
            (paid, is_short_of_fuel) = (range.len, !self.pay(range.len, range.len));
            if !is_short_of_fuel && work(0, range.len).is_ok() {
                return result;
            }
        }
        let mut slices = Slices { paid, is_short_of_fuel, ..self.slices(range, result, work) };
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

    /// [`in_slices`](Self::in_slices) as a future, none of which is done yet.
    pub(super) fn slices<W>(self, range: Range, result: u64, work: W) -> Slices<W> {
        Slices {
            caller: self,
            range,
            done: 0,
            paid: 0,
            is_short_of_fuel: false,
            has_looked: range.len > range.slice_len,
            work,
            result,
            wait: None,
        }
    }

    /// Whether the store counts fuel.
    pub(super) fn counts_fuel(self) -> bool {
        // SAFETY: builtins hold no reference into the store here.
        unsafe { (*self.store().as_ptr()).context.counts_fuel != 0 }
    }

    /// Counts fuel for `units` of an operation on `len` bytes or elements. Whether it may begin: there was enough, or it is so short that nobody
    /// looks.
    fn pay(self, units: u64, len: u64) -> bool {
        // SAFETY: as above.
        let context = unsafe { &mut (*self.store().as_ptr()).context };
        if context.counts_fuel == 0 {
            return true;
        }
        context.fuel_consumed += units as i64;
        len <= UNCHECKED_BULK_LEN || context.fuel_consumed <= 0
    }
}

impl<W: FnMut(u64, u64) -> Result<(), Trap>> Slices<W> {
    /// Goes on until everything is done, or there is something to wait for.
    fn advance(&mut self, mut task: Option<&mut Context<'_>>) -> Result<Option<Wait>, Pending> {
        let Range { slice_len, len, is_backward } = self.range;
        let store = self.caller.store();
        loop {
            if !std::mem::replace(&mut self.has_looked, true)
                // SAFETY: no reference into the store is held.
                && unsafe { self.caller.is_interrupted() }
                // SAFETY: as above.
                && let Some(wait) = unsafe { decide(store, task.as_deref_mut()) }?
            {
                return Ok(Some(wait));
            }
            let slice = slice_len.min(len - self.done);
            if self.paid < self.done + slice {
                self.paid = self.done + slice;
                self.is_short_of_fuel = !self.caller.pay(slice, len);
            }
            if std::mem::take(&mut self.is_short_of_fuel)
                // SAFETY: as above.
                && let Some(wait) = unsafe { refuel(store, task.as_deref_mut()) }?
            {
                return Ok(Some(wait));
            }
            let offset = if is_backward { len - self.done - slice } else { self.done };
            if let Err(trap) = (self.work)(offset, slice) {
                // SAFETY: the work is done with the store.
                return Err(Pending::Trap(trap, backtrace(unsafe { store.as_ref() })));
            }
            self.done += slice;
            self.has_looked = false;
            if self.done == len {
                return Ok(None);
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
