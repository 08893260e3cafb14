//! The threads of the optimizing tier: those of the process, which serve the queues of all engines in turn.
//!
//! There are as many as the machine can spare besides one that runs guests, however many engines there are; so a process with an engine for each
//! tenant has no more of them than one with a single engine, and whoever waits, waits for one job of each of the others. Threads are started
//! when there is work, at low priority and on the processors of the process's first thread beside those of whoever asked. They end when there was
//! none for a while, or when no engine is left that ever asked for one. What was compiled is kept for the next process when its engine was
//! quiet for a moment, by another thread, so that no job waits for it: one engine's at a time.
//!
//! After a fork the child has none of the threads, and another pool ([`Pool::of_process`]): that of its parent is never touched there, as one of the
//! threads may have had its lock. Lock order: a queue's state before that of the pool.

use super::queue::Shared;
use crate::kept::Occasion;
use crate::vm::LoadedModule;
use peregrine_sys::{forks, threads};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(5);
/// When an engine had no work for so long, what was compiled is kept for the next process.
const QUIET: Duration = Duration::from_millis(200);
/// Compilers recurse over what they compile.
const STACK_BYTES: usize = 16 << 20;

/// The threads of one process.
pub(super) struct Pool {
    state: Mutex<State>,
    /// Told when an engine waits for a thread, when one has something to keep, and when there are no engines any more.
    changed: Condvar,
    /// How many threads there are at most: never fewer than there were to be.
    max_threads: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// Engines with jobs that wait for a thread, each once, the next one first.
    engines: VecDeque<Arc<Shared>>,
    /// Engines that have something to keep and nothing else to do, each once, and when that will have been so for long enough.
    quiet: Vec<(Instant, Arc<Shared>)>,
    /// Whether a thread keeps something now.
    is_keeping: bool,
    threads: usize,
    waiting_threads: usize,
    /// Engines that asked for a thread and are there still.
    users: usize,
}

/// What a thread does next.
enum Turn {
    /// A job of an engine.
    Job(Arc<Shared>),
    /// Keeping what an engine has to keep. `State::is_keeping` is set for it.
    Keep(Arc<Shared>),
}

impl Pool {
    /// The pool of this process, with as many threads as the machine can spare: the most that any thread which made an engine may use.
    pub(super) fn of_process() -> Arc<Self> {
        /// With the [process](forks::generation) that it is for.
        static CURRENT: Mutex<Option<(usize, Arc<Pool>)>> = Mutex::new(None);
        // A child finds it free.
        let inside = forks::enter();
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = inside.generation();
        let spare = (threads::available_parallelism().get() - 1).max(1);
        match &*current {
            Some((process, pool)) if *process == generation => {
                pool.max_threads.fetch_max(spare, Ordering::Relaxed);
                Arc::clone(pool)
            }
            _ => {
                let pool = Self::new(spare);
                *current = Some((generation, Arc::clone(&pool)));
                pool
            }
        }
    }

    /// A pool of so many threads, of which none is there yet.
    pub(super) fn new(max_threads: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), max_threads: AtomicUsize::new(max_threads) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many threads there are.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.lock().threads
    }

    /// How many threads there are at most.
    pub(super) fn max_threads(&self) -> usize {
        self.max_threads.load(Ordering::Relaxed)
    }

    /// Lists an engine behind all others, for the first time or not; it is not listed now. A thread will do one job of it.
    ///
    /// # Errors
    ///
    /// What the system said, where there is no thread at all. It is not listed then.
    pub(super) fn list(self: &Arc<Self>, engine: &Arc<Shared>, is_first: bool) -> io::Result<()> {
        let mut state = self.lock();
        if state.engines.len() >= state.waiting_threads && state.threads < self.max_threads() {
            let pool = Arc::clone(self);
            match start("peregrine-tier", move || pool.work()) {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        state.users += usize::from(is_first);
        state.engines.push_back(Arc::clone(engine));
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// An engine has nothing to do from now on, and something to keep if that stays so.
    pub(super) fn is_quiet(&self, engine: &Arc<Shared>) {
        let mut state = self.lock();
        state.quiet.retain(|(_, other)| !Arc::ptr_eq(other, engine));
        state.quiet.push((Instant::now() + QUIET, Arc::clone(engine)));
        drop(state);
        self.changed.notify_one();
    }

    /// An engine that [`list`](Self::list) knows is dropped. It lists nothing any more.
    pub(super) fn forget(&self, engine: &Arc<Shared>) {
        let mut state = self.lock();
        state.engines.retain(|other| !Arc::ptr_eq(other, engine));
        state.quiet.retain(|(_, other)| !Arc::ptr_eq(other, engine));
        state.users -= 1;
        let is_last = state.users == 0;
        drop(state);
        if is_last {
            self.changed.notify_all();
        }
    }

    /// What a thread does.
    fn work(self: &Arc<Self>) {
        while let Some(turn) = self.next() {
            match turn {
                Turn::Job(engine) => {
                    // Others depend on this thread too.
                    if catch_unwind(AssertUnwindSafe(|| engine.do_job())).is_err() {
                        tell(|| tracing::error!("a thread of the optimizing tier panicked"));
                    }
                }
                Turn::Keep(engine) => self.start_keeping(engine.take_to_keep()),
            }
        }
    }

    /// What to do next; `None` when the thread shall end.
    fn next(&self) -> Option<Turn> {
        let mut state = self.lock();
        let mut timed_out = false;
        loop {
            // However busy the others are, an engine that is quiet has its turn.
            if let Some(engine) = state.take_quiet() {
                return Some(Turn::Keep(engine));
            }
            if let Some(engine) = state.engines.pop_front() {
                return Some(Turn::Job(engine));
            }
            if state.users == 0 || (timed_out && state.quiet.is_empty()) {
                state.threads -= 1;
                return None;
            }
            let due = state.quiet.iter().map(|(due, _)| *due).min().filter(|_| !state.is_keeping);
            let patience = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
            state.waiting_threads += 1;
            let (guard, timeout) = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.waiting_threads -= 1;
            timed_out = timeout.timed_out();
        }
    }

    /// Keeps what was compiled of modules, on another thread if there can be one: writing takes long.
    fn start_keeping(self: &Arc<Self>, modules: Vec<Weak<LoadedModule>>) {
        let modules = Arc::new(modules);
        let (pool, others) = (Arc::clone(self), Arc::clone(&modules));
        if modules.is_empty() || start("peregrine-keep", move || pool.keep(&others)).is_err() {
            self.keep(&modules);
        }
    }

    /// Keeps what was compiled of modules. Outside of the gate.
    fn keep(&self, modules: &[Weak<LoadedModule>]) {
        for module in modules {
            // Nobody else may have it any more; it is dropped here then, which keeps it too.
            let keep = || module.upgrade().map(|module| module.tiering().map(|tiering| tiering.keep(&module, Occasion::Quiet)));
            if catch_unwind(AssertUnwindSafe(keep)).is_err() {
                tell(|| tracing::error!("keeping code panicked"));
            }
        }
        self.lock().is_keeping = false;
        // Another engine may have waited for this.
        self.changed.notify_one();
    }
}

impl State {
    /// An engine that was quiet for long enough, if nothing else is being kept.
    fn take_quiet(&mut self) -> Option<Arc<Shared>> {
        if self.is_keeping || self.quiet.is_empty() {
            return None;
        }
        let now = Instant::now();
        let position = self.quiet.iter().position(|(due, _)| *due <= now)?;
        self.is_keeping = true;
        Some(self.quiet.remove(position).1)
    }
}

/// Tells something. Whoever collects it may panic, which is nothing to a thread that all engines depend on.
pub(super) fn tell(event: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(event));
}

/// Starts a quiet thread.
fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let run = move || {
        if let Err(error) = threads::set_low_priority() {
            tell(|| tracing::debug!(%error, "the optimizing tier runs at the usual priority"));
        }
        // Whoever asked first may be one of many that have a processor each, and it serves all.
        if let Err(error) = threads::use_processors_of_first_thread() {
            tell(|| tracing::debug!(%error, "the optimizing tier uses the processors of the thread that asked for it"));
        }
        work();
    };
    std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run).map(|_| ())
}
