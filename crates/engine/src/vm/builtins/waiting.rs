//! Builtins for waiting at addresses of shared memories. The thread sleeps; in a call that is a future the guest is suspended instead, and
//! its task is woken. A store that is interrupted while its guest waits goes on, yields or ends as its host says, and the guest keeps its
//! place in the queue meanwhile.

use super::Caller;
use crate::vm::SharedMemory;
use crate::vm::fault::walk::backtrace;
use crate::vm::growth::raising;
use crate::vm::memory::check_range;
use crate::vm::parking::{Awoken, WaitResult, Waiting};
use crate::vm::pending::Pending;
use crate::vm::preempt::decide;
use crate::vm::shared_memory::Expected;
use crate::vm::suspend::{Wait, poll_interruption};
use peregrine_wasm::{MemoryIndex, Trap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// The shared memory that an atomic builtin is for. `Ok(None)`: the address, of an access of `size` bytes, is fine, but the memory is not
/// shared.
///
/// # Safety
///
/// 1. No mutable reference into the store is held.
unsafe fn shared_memory(caller: Caller, index: u32, address: u64, size: u64) -> Result<Option<Arc<SharedMemory>>, Trap> {
    // SAFETY: the store is not borrowed mutably (1).
    let store = unsafe { caller.store().as_ref() };
    let (owner, defined) = store.instance(caller.id()).memory_origin(MemoryIndex::from_u32(index));
    let memory = store.instance(owner).memory(defined);
    if let Some(shared) = memory.shared() {
        return Ok(Some(Arc::clone(shared)));
    }
    if !address.is_multiple_of(size) {
        return Err(Trap::HeapMisaligned);
    }
    check_range(address, size, memory.len_bytes()).map(|_| None)
}

pub(super) unsafe extern "C" fn memory_atomic_notify(caller: Caller, memory: u32, address: u64, count: u32) -> u32 {
    // SAFETY: no reference into the store is held.
    let memory = unsafe { shared_memory(caller, memory, address, 4) };
    let notify = || match memory? {
        Some(memory) => memory.notify(address, count),
        // Nobody can wait there.
        None => Ok(0),
    };
    // Wakers may panic.
    raising(caller.store(), || notify().map_err(|trap| Pending::Trap(trap, Vec::new()))).unwrap_or(0)
}

pub(super) unsafe extern "C" fn memory_atomic_wait32(caller: Caller, memory: u32, address: u64, expected: u32, timeout_ns: i64) -> u32 {
    // SAFETY: no reference into the store is held.
    unsafe { wait(caller, (memory, address), Expected::I32(expected), timeout_ns) }
}

pub(super) unsafe extern "C" fn memory_atomic_wait64(caller: Caller, memory: u32, address: u64, expected: u64, timeout_ns: i64) -> u32 {
    // SAFETY: no reference into the store is held.
    unsafe { wait(caller, (memory, address), Expected::I64(expected), timeout_ns) }
}

/// Waits; a time below zero is for ever.
///
/// # Safety
///
/// 1. No reference into the store is held.
unsafe fn wait(caller: Caller, (memory, address): (u32, u64), expected: Expected, timeout_ns: i64) -> u32 {
    // SAFETY: passed on (1).
    let memory = match unsafe { shared_memory(caller, memory, address, expected.size_bytes()) } {
        Ok(Some(memory)) => memory,
        Ok(None) => return caller.check(Err(Trap::AtomicWaitNonSharedMemory)),
        Err(trap) => return caller.check(Err(trap)),
    };
    let timeout = u64::try_from(timeout_ns).ok().map(Duration::from_nanos);
    let waiting = match memory.begin_wait(address, expected, timeout) {
        Ok(Some(waiting)) => waiting,
        Ok(None) => return WaitResult::Mismatch as u32,
        Err(trap) => return caller.check(Err(trap)),
    };
    // Wakers may panic when they are cloned or dropped.
    let begin = move || {
        let mut sleeper = Sleeper { caller, waiting, wait: None };
        // SAFETY: no reference into the store is held (1). The task is that of the poll under way.
        let task = unsafe { caller.store().as_ref().task().map(|task| &mut *task.as_ptr()) };
        let slept = sleeper.sleep(task)?;
        if slept.is_none() {
            // SAFETY: as above.
            unsafe { caller.store_mut() }.suspend(Wait::for_future(Box::pin(sleeper)));
        }
        Ok(slept.map_or(0, |result| result as u32))
    };
    raising(caller.store(), begin).unwrap_or(0)
}

/// A guest that waits.
struct Sleeper {
    caller: Caller,
    waiting: Waiting<SharedMemory>,
    /// What its task waits for, when it yields.
    wait: Option<Wait>,
}

impl Sleeper {
    /// Sleeps until the wait is over. A task does not sleep: `None` is to poll it again when it is woken.
    fn sleep(&mut self, mut task: Option<&mut Context<'_>>) -> Result<Option<WaitResult>, Pending> {
        let store = self.caller.store();
        // SAFETY: no reference into the store is held.
        let page = unsafe { store.as_ref() }.interrupt_page().cloned();
        loop {
            let awoken = match &task {
                None => self.waiting.sleep(page.as_ref()),
                Some(task) => match self.waiting.poll(task, page.as_ref()) {
                    Ok(Poll::Ready(awoken)) => awoken,
                    Ok(Poll::Pending) => return Ok(None),
                    // SAFETY: as above.
                    Err(error) => return Err(Pending::Error(error, backtrace(unsafe { store.as_ref() }))),
                },
            };
            if let Awoken::Done(result) = awoken {
                return Ok(Some(result));
            }
            // SAFETY: as above.
            if let Some(wait) = unsafe { decide(store, task.as_deref_mut()) }? {
                self.wait = Some(wait);
                return Ok(None);
            }
        }
    }
}

impl Future for Sleeper {
    type Output = Result<u64, Pending>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // SAFETY: the store is lent to the call that this is part of, and no reference into it is held.
        if let Err(pending) = ready!(unsafe { poll_interruption(&mut this.wait, this.caller.store(), task) }) {
            return Poll::Ready(Err(pending));
        }
        match this.sleep(Some(task)) {
            Ok(Some(result)) => Poll::Ready(Ok(result as u64)),
            Ok(None) => Poll::Pending,
            Err(pending) => Poll::Ready(Err(pending)),
        }
    }
}
