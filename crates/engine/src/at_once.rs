//! Operations that are futures and functions as well: one body for both forms, which the function polls once.
//!
//! What the body calls in a guest is called in the [way](Way) that the form has: as a future it may be suspended, at once it may not.

use crate::error::{Result, bail};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// How an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a function: nothing may wait.
    AtOnce,
    /// By a future.
    Waiting,
}

/// What `operation`, done in the way [`Way::AtOnce`], comes to.
///
/// # Errors
///
/// Its own, and that a limiter waits: nothing else can.
#[inline]
pub(crate) fn at_once<R>(operation: impl Future<Output = Result<R>>) -> Result<R> {
    match pin!(operation).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => bail!("{CANNOT_WAIT}"),
    }
}

pub(crate) const CANNOT_WAIT: &str = "a resource limiter has to wait, but was not asked by a future; \
    use `instantiate_async`, `grow_async`, `call_async` or another function whose name ends in `_async`";
