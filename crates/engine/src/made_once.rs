//! What one thread of a process does at a time, and for long: makes a value that all share, writes a file. Forks go on meanwhile.
//!
//! A mutex that is held for long keeps forks waiting, or is locked for ever in a child process, whose thread that would unlock it is not
//! there. A [`Turn`] is known by the process that has it: in a child nobody has that of its parent. Waiting for one is looking at it now and
//! then. Called by [`crate::tiering`] and [`crate::kept`].

use peregrine_sys::forks;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a thread sleeps until it looks again.
const PAUSE: Duration = Duration::from_micros(100);
/// No process has this number.
const NOBODY: usize = 0;

/// Something that one thread of a process does at a time.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// The process whose thread has it: its [generation](forks::generation) and one. Numbers of the system are those of others in time, and
    /// of two processes in two namespaces.
    process: AtomicUsize,
}

/// Having a turn; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    turn: &'a Turn,
    process: usize,
}

impl Turn {
    /// Takes the turn; waits for the thread of this process that has it.
    pub(crate) fn take(&self) -> Taken<'_> {
        let process = forks::generation() + 1;
        loop {
            let found = self.process.load(Ordering::Relaxed);
            // Acquired from whoever ended its turn before.
            if found != process && self.process.compare_exchange(found, process, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Taken { turn: self, process };
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let _ = self.turn.process.compare_exchange(self.process, NOBODY, Ordering::Release, Ordering::Relaxed);
    }
}

/// A value that is made when it is first asked for.
#[derive(Debug)]
pub(crate) struct MadeOnce<T> {
    value: OnceLock<T>,
    turn: Turn,
}

impl<T> Default for MadeOnce<T> {
    fn default() -> Self {
        Self { value: OnceLock::new(), turn: Turn::default() }
    }
}

impl<T> MadeOnce<T> {
    /// The value, if it is there.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Sets the value, unless it is there.
    pub(crate) fn set(&self, value: T) {
        // No fork finds it half done.
        let _inside = forks::enter();
        let _ = self.value.set(value);
    }

    /// The value; makes it if that was not done, or waits for the thread that does. After an error it is made when it is asked for again.
    pub(crate) fn get_or_make<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let _turn = self.turn.take();
        if self.get().is_none() {
            self.set(make()?);
        }
        Ok(self.get().expect("it was set"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_value_is_made_once_by_many_threads() {
        let (made, value) = (AtomicUsize::new(0), MadeOnce::default());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let make = || {
                        std::thread::sleep(Duration::from_millis(5));
                        Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed) + 7)
                    };
                    assert_eq!(value.get_or_make(make), Ok(&7));
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
        let failed = MadeOnce::default();
        assert_eq!(failed.get_or_make(|| Err(1)), Err(1));
        assert_eq!(failed.get_or_make(|| Ok::<_, i32>(2)), Ok(&2));
    }

    #[test]
    fn a_turn_ends_with_a_panic() {
        let turn = Turn::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _turn = turn.take();
            panic!("expected");
        }));
        assert!(panicked.is_err());
        drop(turn.take());
    }
}
