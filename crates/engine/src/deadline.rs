//! Deadlines by the clock: one thread for the process interrupts the stores whose time has come, and wakes tasks.
//!
//! The thread is there while there are deadlines, and a little longer. Setting and moving a deadline costs no system call unless it becomes
//! the next one.
//!
//! A child process has no such thread until it enters a guest or sets a deadline; then those that it has from its parent hold as well.

use crate::error::{Context, Result};
use crate::vm::{Cause, InterruptPage, Raised};
use peregrine_sys::forks::{self, Inside};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long the thread stays when there is nothing to do.
const LINGER: Duration = Duration::from_millis(500);

struct State {
    /// By time and the number of the store or of the alarm.
    deadlines: BTreeMap<(Instant, u64), Due>,
    /// The thread that watches, if there is one, and of which [process](Inside::generation): a child has none of its parent's. It parks, and
    /// is unparked when there is a new first deadline.
    watcher: Option<(usize, Thread)>,
}

/// What is to be done at a time.
enum Due {
    Interrupt(Arc<InterruptPage>),
    Wake(Waker),
}

/// What happened at its time, and is to be told with nothing locked: wakers and subscribers of the embedder's may do anything.
enum Over {
    Interrupted(Raised),
    Awake(Waker),
}

/// Locked before the state of any page.
static TIMER: Mutex<State> = Mutex::new(State { deadlines: BTreeMap::new(), watcher: None });

/// The state, locked, and inside of the gate for forks: a child process finds it unlocked and whole.
struct Locked {
    /// Unlocked before the gate is left.
    state: MutexGuard<'static, State>,
    inside: Inside,
}

impl Deref for Locked {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

fn lock() -> Locked {
    let inside = forks::enter();
    Locked { state: TIMER.lock().unwrap_or_else(PoisonError::into_inner), inside }
}

/// Interrupts the store with number `store` at a time, which may have come already.
///
/// # Errors
///
/// If there is no thread to do it and the system does not give one.
pub(crate) fn set(at: Instant, store: u64, page: &Arc<InterruptPage>) -> Result<()> {
    if at <= Instant::now() {
        return Ok(page.raise(Cause::Time).tell()?);
    }
    insert((at, store), Due::Interrupt(Arc::clone(page)))
}

fn insert(key: (Instant, u64), due: Due) -> Result<()> {
    let mut state = lock();
    state.ensure_watcher()?;
    state.deadlines.insert(key, due);
    if let Some((_, watcher)) = &state.watcher
        && state.deadlines.first_key_value().is_some_and(|(first, _)| *first == key)
    {
        watcher.unpark();
    }
    Ok(())
}

impl Locked {
    /// Starts the thread of this process, if there is none.
    fn ensure_watcher(&mut self) -> Result<()> {
        let process = self.inside.generation();
        if self.watcher.as_ref().is_none_or(|(of, _)| *of != process) {
            let thread = thread::Builder::new().name("peregrine-timer".to_owned());
            let started = thread.spawn(run).context("cannot start the thread that watches deadlines")?;
            self.watcher = Some((process, started.thread().clone()));
        }
        Ok(())
    }
}

/// Watches the deadlines that this process has from its parent, if there are any.
///
/// # Errors
///
/// If the system gives no thread for it.
pub(crate) fn resume() -> Result<()> {
    let mut state = lock();
    if state.deadlines.is_empty() { Ok(()) } else { state.ensure_watcher() }
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

/// The thread's work.
fn run() {
    let _ending = Ending;
    let mut is_idle = false;
    loop {
        let mut state = lock();
        let now = Instant::now();
        let mut over = Vec::new();
        while let Some(first) = state.deadlines.first_entry().filter(|first| first.key().0 <= now) {
            // With the lock held, so that who forgets a deadline knows that it is over.
            over.push(match first.remove() {
                Due::Interrupt(page) => Over::Interrupted(page.raise(Cause::Time)),
                Due::Wake(waker) => Over::Awake(waker),
            });
        }
        let next = state.deadlines.first_key_value().map(|((at, _), _)| at.saturating_duration_since(now));
        if is_idle && over.is_empty() && next.is_none() {
            state.watcher = None;
            return;
        }
        drop(state);
        is_idle = false;
        if over.is_empty() {
            thread::park_timeout(next.unwrap_or(LINGER));
            // Nobody had anything to do for it meanwhile.
            is_idle = next.is_none() && now.elapsed() >= LINGER;
        } else {
            over.into_iter().for_each(tell);
        }
    }
}

/// Tells what happened. A panic is that task's alone: the hook has said what there is to say.
fn tell(over: Over) {
    let told = catch_unwind(AssertUnwindSafe(|| match over {
        Over::Awake(waker) => waker.wake(),
        Over::Interrupted(raised) => {
            if let Err(error) = raised.tell() {
                tracing::error!(%error, "a guest is not interrupted at its deadline");
            }
        }
    }));
    if let Err(payload) = told
        && let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload)))
    {
        // What panics when it is dropped is not dropped.
        std::mem::forget(again);
    }
}

/// Should the thread panic, the next deadline starts another one.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        if thread::panicking() {
            lock().watcher = None;
        }
    }
}
