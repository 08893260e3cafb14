//! Whether memories and tables of a store may grow: its budget is asked first, then its limiter; and panics of limiters on their way through
//! the machine. [`async_limits`](crate::async_limits) asks limiters that may wait.

use crate::error::{Error, Result};
use crate::store::{Limiter, StoreInner};
use crate::vm::Growth;
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

impl<T: 'static> StoreInner<T> {
    /// Installs a limiter that allows so many instances, tables and memories.
    pub(crate) fn set_limiter(&mut self, limiter: Limiter<T>, most: (usize, usize, usize)) {
        self.opaque.counts.set_limiter(most);
        self.limiter = limiter;
    }

    /// Whether a growth is allowed. It counts then, until it is said to have [failed](Self::growth_failed).
    pub(crate) fn growing(&mut self, growth: Growth) -> Result<bool> {
        let Growth { is_memory, current, desired, max } = growth;
        if !self.opaque.counts.grow(is_memory, current, desired) {
            let refusal = Error::msg(self.opaque.counts.refusal().unwrap_or_default());
            self.tell_failure(is_memory, refusal)?;
            return Ok(false);
        }
        let allowed = match &mut self.limiter {
            Limiter::Sync(limiter) => EmbedderPanic::catch(|| {
                let limiter = limiter(&mut self.data);
                if is_memory { limiter.memory_growing(current, desired, max) } else { limiter.table_growing(current, desired, max) }
            }),
            Limiter::Async(_) => EmbedderPanic::catch(|| self.answer(growth)),
            Limiter::None => Ok(true),
        };
        if !matches!(allowed, Ok(true)) {
            self.opaque.counts.take_back(is_memory);
            self.opaque.counts.limiter_refused();
        }
        allowed
    }

    /// Told that a growth which was allowed did not come about.
    pub(crate) fn growth_failed(&mut self, is_memory: bool, error: Error) -> Result<()> {
        self.opaque.counts.take_back(is_memory);
        self.tell_failure(is_memory, error)
    }

    /// Tells the limiter that what it allowed did not come about.
    pub(crate) fn tell_failure(&mut self, is_memory: bool, error: Error) -> Result<()> {
        match &mut self.limiter {
            Limiter::Sync(limiter) => EmbedderPanic::catch(|| {
                let limiter = limiter(&mut self.data);
                if is_memory { limiter.memory_grow_failed(error) } else { limiter.table_grow_failed(error) }
            }),
            Limiter::Async(limiter) => EmbedderPanic::catch(|| {
                let limiter = limiter(&mut self.data);
                if is_memory { limiter.memory_grow_failed(error) } else { limiter.table_grow_failed(error) }
            }),
            Limiter::None => Ok(()),
        }
    }
}

/// A panic of a limiter, a creator of memories or a callback on its way through the machine, whose frames cannot be unwound: an error until it is back at the caller.
pub(crate) struct EmbedderPanic(Mutex<Option<Box<dyn Any + Send>>>);

impl EmbedderPanic {
    /// What `ask` gives, or its panic as an error.
    pub(crate) fn catch<R>(ask: impl FnOnce() -> Result<R>) -> Result<R> {
        let caught = catch_unwind(AssertUnwindSafe(ask));
        caught.unwrap_or_else(|payload| Err(Error::new(Self(Mutex::new(Some(payload))))))
    }

    /// `error`, unless it is a panic, which goes on.
    pub(crate) fn resume(error: Error) -> Error {
        let caught = error.downcast_ref::<Self>();
        match caught.and_then(|panic| panic.0.lock().unwrap_or_else(PoisonError::into_inner).take()) {
            Some(payload) => resume_unwind(payload),
            None => error,
        }
    }
}

impl fmt::Debug for EmbedderPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EmbedderPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a resource limiter, a creator of memories or a callback panicked")
    }
}

impl std::error::Error for EmbedderPanic {}
