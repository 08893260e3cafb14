//! Deadlines by the clock: one thread for the process interrupts the stores whose time has come, and wakes tasks.
//!
//! The thread is there while there are deadlines, and a little longer. Setting and moving a deadline costs no system call unless it becomes
//! the next one.

use crate::error::{Context, Result};
use crate::vm::{Cause, InterruptPage};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

/// How long the thread stays when there is nothing to do.
const LINGER: Duration = Duration::from_millis(500);

struct Timer {
    /// Locked before the state of any page.
    state: Mutex<State>,
    /// There is a new first deadline.
    changed: Condvar,
}

struct State {
    /// By time and the number of the store or of the alarm.
    deadlines: BTreeMap<(Instant, u64), Due>,
    is_running: bool,
}

/// What is to be done at a time.
enum Due {
    Interrupt(Arc<InterruptPage>),
    Wake(Waker),
}

static TIMER: Timer = Timer { state: Mutex::new(State { deadlines: BTreeMap::new(), is_running: false }), changed: Condvar::new() };

fn lock() -> MutexGuard<'static, State> {
    TIMER.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Interrupts the store with number `store` at a time, which may have come already.
///
/// # Errors
///
/// If there is no thread to do it and the system does not give one.
pub(crate) fn set(at: Instant, store: u64, page: &Arc<InterruptPage>) -> Result<()> {
    if at <= Instant::now() {
        return Ok(page.raise(Cause::Time)?);
    }
    insert((at, store), Due::Interrupt(Arc::clone(page)))
}

fn insert(key: (Instant, u64), due: Due) -> Result<()> {
    let mut state = lock();
    if !state.is_running {
        thread::Builder::new().name("peregrine-timer".to_owned()).spawn(run).context("cannot start the thread that watches deadlines")?;
        state.is_running = true;
    }
    state.deadlines.insert(key, due);
    if state.deadlines.first_key_value().is_some_and(|(first, _)| *first == key) {
        TIMER.changed.notify_one();
    }
    Ok(())
}

/// A task to be woken at a time, unless this is dropped before.
pub(crate) struct Alarm((Instant, u64));

impl Alarm {
    /// Wakes `waker` at a time, which may have come already.
    ///
    /// # Errors
    ///
    /// As [`set`].
    pub(crate) fn set(at: Instant, waker: Waker) -> Result<Self> {
        // Numbers of stores are below.
        static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
        let key = (at, NEXT.fetch_add(1, Ordering::Relaxed));
        insert(key, Due::Wake(waker))?;
        Ok(Self(key))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        forget(self.0.0, self.0.1);
    }
}

/// Forgets a deadline. Afterwards the store is not interrupted for it any more; whether it was is for the caller to clear.
pub(crate) fn forget(at: Instant, store: u64) {
    // Dropped with the lock free: a waker may do anything.
    let due = lock().deadlines.remove(&(at, store));
    drop(due);
}

fn run() {
    let mut state = lock();
    loop {
        let now = Instant::now();
        let mut wakers = Vec::new();
        while let Some(first) = state.deadlines.first_entry().filter(|first| first.key().0 <= now) {
            // With the lock held, so that who forgets a deadline knows that it is over.
            match first.remove() {
                Due::Interrupt(page) => {
                    if let Err(error) = page.raise(Cause::Time) {
                        tracing::error!(%error, "a guest is not interrupted at its deadline");
                    }
                }
                Due::Wake(waker) => wakers.push(waker),
            }
        }
        if !wakers.is_empty() {
            // A waker may do anything.
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
            state = lock();
            continue;
        }
        let next = state.deadlines.first_key_value().map(|((at, _), _)| at.saturating_duration_since(now));
        let (unlocked, waited) = TIMER.changed.wait_timeout(state, next.unwrap_or(LINGER)).unwrap_or_else(PoisonError::into_inner);
        state = unlocked;
        if next.is_none() && waited.timed_out() && state.deadlines.is_empty() {
            state.is_running = false;
            return;
        }
    }
}
