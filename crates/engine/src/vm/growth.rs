//! Growth that has to be allowed by a limiter which may wait: the guest is suspended until it has decided.

use super::fault::walk::backtrace;
use super::pending::Pending;
use super::shared_memory::InstanceMemory;
use super::store::VmStore;
use super::suspend::{Wait, WaitFuture};
use super::table::Table;
use peregrine_wasm::{MemoryType, TableType};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, ready};

/// A growth to be allowed: of a memory in bytes, or of a table in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Growth {
    pub(crate) is_memory: bool,
    pub(crate) current: usize,
    pub(crate) desired: usize,
    /// What the type allows.
    pub(crate) max: Option<usize>,
}

/// Whether a growth is allowed, as a future.
pub(crate) type Asking<'a> = Pin<Box<dyn Future<Output = anyhow::Result<bool>> + Send + 'a>>;

impl Growth {
    /// A new memory.
    pub(crate) fn of_memory(ty: &MemoryType) -> Self {
        let desired = ty.min_bytes().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        Self { is_memory: true, current: 0, desired, max: ty.max_pages.map(|_| ty.max_bytes() as usize) }
    }

    /// A new table.
    pub(crate) fn of_table(ty: &TableType) -> Self {
        Self { is_memory: false, current: 0, desired: ty.min as usize, max: ty.max.map(|max| max as usize) }
    }

    /// A memory that grows by `delta` pages.
    pub(crate) fn growing_memory(memory: &InstanceMemory, delta: u64) -> Self {
        let (ty, current) = (memory.ty(), memory.len_bytes());
        let desired = (current as u64).saturating_add(delta.saturating_mul(ty.page_size_bytes()));
        let max = ty.max_pages.map(|_| ty.max_bytes() as usize);
        Self { is_memory: true, current, desired: usize::try_from(desired).unwrap_or(usize::MAX), max }
    }

    /// A table that grows by `delta` elements.
    pub(crate) fn growing_table(table: &Table, delta: u64) -> Self {
        let desired = usize::try_from(table.len().saturating_add(delta)).unwrap_or(usize::MAX);
        Self { is_memory: false, current: table.len() as usize, desired, max: table.ty().max.map(|max| max as usize) }
    }
}

/// What is left to do once something has grown.
pub(super) enum Grown {
    /// Nothing: this is what the builtin returns.
    Done(u64),
    /// It is to be filled, which gives what the builtin returns.
    Filling(WaitFuture),
}

/// A builtin that waits for a limiter.
struct Growing<M, W> {
    store: NonNull<VmStore>,
    /// What was asked for.
    growth: Growth,
    measure: M,
    /// The limiter's future, which borrows the store's host.
    asking: Option<Asking<'static>>,
    grow: W,
    filling: Option<WaitFuture>,
}

// SAFETY: an address, used by whoever the store is lent to; the rest is `Send`.
unsafe impl<M: Send, W: Send> Send for Growing<M, W> {}

/// Begins to ask the store's limiter, if it is one that may wait.
///
/// # Safety
///
/// 1. The store is valid, and its host is not borrowed. The result is dropped before the host is used, and before the store is given back.
unsafe fn ask(store: NonNull<VmStore>, growth: Growth) -> Option<Asking<'static>> {
    if growth.desired == growth.current {
        return None;
    }
    // SAFETY: the host is the store's other part, and lives as long; the result is dropped in time (1).
    unsafe {
        let asking = (*store.as_ref().host()?.as_ptr()).ask_growth(growth)?;
        Some(std::mem::transmute::<Asking<'_>, Asking<'static>>(asking))
    }
}

/// Asks the store's limiter if it is one that may wait, in a call that can, and then does `grow`, which asks again and is given the answer.
/// `measure` says what is asked for, and is asked again when the answer has come: if another thread made a shared memory larger meanwhile, so
/// is the limiter. Gives what the builtin is to return; the guest does not see it if it is suspended or something is pending. `None` if the limiter or the
/// call cannot wait, and nothing was done.
///
/// # Safety
///
/// 1. Called by a builtin, whose store is valid; no reference into it is held. `grow` gives the same result when it is called later.
pub(super) unsafe fn after_asking<M, W>(store: NonNull<VmStore>, measure: M, grow: W) -> Option<u64>
where
    M: Fn() -> Growth + Send + Unpin + 'static,
    W: FnMut(Growth) -> Result<Grown, Pending> + Send + Unpin + 'static,
{
    // Panics, of the limiter or of memory that the embedder made, must not go on in the guest.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the store is valid (1). The task is that of the poll under way.
        let Some(task) = (unsafe { store.as_ref().task().map(|task| &mut *task.as_ptr()) }) else { return Ok(None) };
        let growth = measure();
        // SAFETY: as above; nobody has borrowed the host. The future is dropped before the host is used, or before the store is given back by the
        // call that waits for it.
        let Some(asking) = (unsafe { ask(store, growth) }) else { return Ok(None) };
        let mut growing = Growing { store, growth, measure, asking: Some(asking), grow, filling: None };
        match Pin::new(&mut growing).poll(task) {
            Poll::Ready(outcome) => outcome.map(Some),
            Poll::Pending => {
                // SAFETY: what waits uses only what is its own.
                unsafe { (*store.as_ptr()).suspend(Wait::for_future(Box::pin(growing))) };
                Ok(Some(0))
            }
        }
    }));
    match outcome.unwrap_or_else(|payload| Err(Pending::Panic(payload))) {
        Ok(result) => result,
        Err(pending) => {
            raise(store, pending);
            Some(0)
        }
    }
}

/// What `work`, of a builtin that is under way, gives; a failure, or a panic of what is the embedder's, is raised.
pub(super) fn raising<R>(store: NonNull<VmStore>, work: impl FnOnce() -> Result<R, Pending>) -> Option<R> {
    let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Pending::Panic(payload)));
    outcome.map_err(|pending| raise(store, pending)).ok()
}

fn raise(store: NonNull<VmStore>, pending: Pending) {
    // SAFETY: the store is valid, since a builtin of it is under way, and nothing in it is borrowed.
    unsafe { (*store.as_ptr()).raise(with_frames(store, pending)) };
}

/// `pending` with the guest's frames.
fn with_frames(store: NonNull<VmStore>, pending: Pending) -> Pending {
    // SAFETY: those who raise something pending hold no reference into the store.
    let frames = || backtrace(unsafe { store.as_ref() });
    match pending {
        Pending::Trap(trap, _) => Pending::Trap(trap, frames()),
        Pending::Error(error, _) => Pending::Error(error, frames()),
        panic @ Pending::Panic(_) => panic,
    }
}

impl<M: Fn() -> Growth + Unpin, W: FnMut(Growth) -> Result<Grown, Pending> + Unpin> Future for Growing<M, W> {
    type Output = Result<u64, Pending>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some(asking) = &mut this.asking {
            let answer = ready!(asking.as_mut().poll(task));
            this.asking = None;
            let now = (this.measure)();
            // SAFETY: the store is lent to the call that this is part of, and the limiter is done with it.
            unsafe {
                let Some(mut host) = this.store.as_ref().host() else { break };
                if now == this.growth {
                    host.as_mut().growth_answered(now, answer);
                    break;
                }
                // It was an answer to another question.
                if let Err(error) = host.as_mut().growth_outdated(this.growth, answer) {
                    return Poll::Ready(Err(with_frames(this.store, Pending::Error(error, Vec::new()))));
                }
                this.growth = now;
                this.asking = ask(this.store, now);
            }
        }
        if this.filling.is_none() {
            let outcome = (this.grow)(this.growth);
            // SAFETY: as above.
            unsafe {
                if let Some(mut host) = this.store.as_ref().host() {
                    host.as_mut().forget_answers();
                }
            }
            match outcome {
                Ok(Grown::Done(result)) => return Poll::Ready(Ok(result)),
                Ok(Grown::Filling(filling)) => this.filling = Some(filling),
                Err(pending) => return Poll::Ready(Err(with_frames(this.store, pending))),
            }
        }
        match &mut this.filling {
            Some(filling) => filling.as_mut().poll(task),
            None => panic!("a growth was polled after it had ended"),
        }
    }
}
