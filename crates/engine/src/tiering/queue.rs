//! Modules with functions that wait for the optimizing tier, each in its turn.
//!
//! One queue for each engine. Which functions wait, and which of them is the hottest, is in the state of each module ([`super::jobs`]), so that
//! guests that ask for one meet those of their module only; here is known which modules have any, and one job of each is done in turn:
//! however much one of them asks for, the others wait for one job of its. The threads that do them are those of the process
//! ([`super::pool`]), which serve engines in the same way. Modules are held weakly: one that is dropped takes its jobs with it.
//!
//! After a fork the child begins with an empty queue and another pool; what is hot there is asked for again. What threads do with
//! locks that others want, they do inside of [`forks::enter`], so that the child finds none of them locked.

use super::install;
use super::pool::{Pool, tell};
use crate::vm::LoadedModule;
use peregrine_sys::forks;
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// With more modules, those that are gone are looked for when there are twice as many.
const FEW_MODULES: usize = 64;

/// The queue of an engine.
pub(crate) struct Queue {
    current: Mutex<Current>,
    /// How many threads may work for the engine at once, if not as many as there are.
    most_threads: Option<NonZeroUsize>,
}

/// What the threads of one process share.
struct Current {
    /// The [process](forks::generation).
    generation: usize,
    shared: Arc<Shared>,
}

/// What an engine and the threads of one process share.
pub(super) struct Shared {
    state: Mutex<State>,
    pool: Arc<Pool>,
    most_threads: usize,
}

#[derive(Default)]
struct State {
    /// Modules with jobs that wait, the next one first.
    modules: VecDeque<Weak<LoadedModule>>,
    /// How many jobs threads are at.
    running: usize,
    /// Whether the pool knows that a module waits.
    is_listed: bool,
    /// Whether the pool ever knew.
    is_known: bool,
    /// Modules of which something was compiled since it was last kept, if anything keeps it.
    to_keep: Vec<Weak<LoadedModule>>,
    closed: bool,
}

impl Queue {
    /// A queue that is served by as many threads as the pool has, or by at most `threads`.
    pub(crate) fn new(threads: Option<NonZeroUsize>) -> Self {
        let current = Current { generation: forks::generation(), shared: Shared::new(Pool::of_process(), threads) };
        Self { current: Mutex::new(current), most_threads: threads }
    }

    /// What the threads of this process share. What those of a parent process shared is never touched: one of them may have had its lock.
    fn shared(&self) -> Arc<Shared> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = forks::generation();
        if current.generation != generation {
            *current = Current { generation, shared: Shared::new(Pool::of_process(), self.most_threads) };
        }
        Arc::clone(&current.shared)
    }

    /// Adds a module that has jobs and is not here. Whether somebody will look at them.
    pub(super) fn list(&self, module: &Arc<LoadedModule>) -> bool {
        let shared = self.shared();
        let mut state = shared.lock();
        if state.modules.len() >= FEW_MODULES && state.modules.len().is_power_of_two() {
            state.modules.retain(|module| module.strong_count() > 0);
        }
        state.modules.push_back(Arc::downgrade(module));
        if let Err(error) = shared.ask_for_thread(&mut state) {
            state.modules.pop_back();
            drop(state);
            tracing::debug!(%error, "no thread for the optimizing tier");
            return false;
        }
        true
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let Current { generation, shared } = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Threads of a parent process are none here.
        if *generation == forks::generation() {
            shared.close();
        }
    }
}

impl State {
    /// Whether nothing waits or is under way.
    fn is_quiet(&self) -> bool {
        self.modules.is_empty() && self.running == 0
    }
}

impl Shared {
    fn new(pool: Arc<Pool>, threads: Option<NonZeroUsize>) -> Arc<Self> {
        let most_threads = threads.map_or_else(|| pool.max_threads(), NonZeroUsize::get);
        Arc::new(Self { state: Mutex::default(), pool, most_threads })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No thread does anything for the engine any more, but for the jobs that are under way.
    fn close(self: &Arc<Self>) {
        let mut state = self.lock();
        state.closed = true;
        state.modules.clear();
        state.to_keep.clear();
        let is_known = state.is_known;
        drop(state);
        // What is closed lists nothing, so it is forgotten for good.
        if is_known {
            self.pool.forget(self);
        }
    }

    /// Tells the pool that a module waits, if one does, unless it knows or as many threads as may be are at work.
    ///
    /// # Errors
    ///
    /// What the system said, where there is no thread at all.
    fn ask_for_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if !state.modules.is_empty() && !state.is_listed && state.running < self.most_threads {
            self.pool.list(self, !state.is_known)?;
            (state.is_listed, state.is_known) = (true, true);
        }
        Ok(())
    }

    /// Lists a module that a thread took a job of and that has others, behind all others. Another thread may take it at once.
    fn list_again(self: &Arc<Self>, module: Weak<LoadedModule>) {
        let mut state = self.lock();
        if !state.closed {
            state.modules.push_back(module);
            // Whoever calls this is a thread of the pool, so this does not fail.
            let _ = self.ask_for_thread(&mut state);
        }
    }

    /// Does one job of the module whose turn it is. The pool has taken the engine off its list for that.
    pub(super) fn do_job(self: &Arc<Self>) {
        let mut state = self.lock();
        state.is_listed = false;
        let Some(module) = state.modules.pop_front() else { return };
        state.running += 1;
        // So that other threads do other jobs meanwhile.
        let _ = self.ask_for_thread(&mut state);
        drop(state);
        let _running = Running(self);
        let (job, has_others) = install::take_job(&module);
        if has_others {
            self.list_again(Weak::clone(&module));
        }
        let Some(request) = job else { return };
        let compiled = catch_unwind(AssertUnwindSafe(|| install::optimize(&module, request)));
        if compiled.is_err() {
            install::give_up(&module, request);
            tell(|| tracing::error!(function = request.function.as_u32(), "the optimizing tier panicked"));
        }
        // Nobody has to become busy to keep nothing.
        if !install::keeps(&module) {
            return;
        }
        let mut state = self.lock();
        if !state.closed && !state.to_keep.iter().any(|other| other.ptr_eq(&module)) {
            state.to_keep.push(module);
        }
    }

    /// The modules of which something is to be kept, if the engine is quiet still; whoever takes them keeps it. If it is not, it will be.
    pub(super) fn take_to_keep(&self) -> Vec<Weak<LoadedModule>> {
        let mut state = self.lock();
        if state.is_quiet() { std::mem::take(&mut state.to_keep) } else { Vec::new() }
    }
}

/// Being at a job; ends when it is dropped.
struct Running<'a>(&'a Arc<Shared>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        let mut state = shared.lock();
        state.running -= 1;
        // There may have been as many threads as may be.
        let _ = shared.ask_for_thread(&mut state);
        if state.is_quiet() && !state.to_keep.is_empty() {
            shared.pool.is_quiet(shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn wait_for(what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_module_that_is_listed_again_brings_about_more_threads() {
        const THREADS: usize = 3;
        let pool = Pool::new(THREADS);
        let shared = Shared::new(Arc::clone(&pool), None);
        let start = Instant::now();
        while pool.threads() < THREADS {
            // Whoever takes it finds nothing to do in a module that is gone.
            shared.list_again(Weak::new());
            shared.list_again(Weak::new());
            assert!(start.elapsed() < PATIENCE, "{} threads", pool.threads());
        }
        (0..100).for_each(|_| shared.list_again(Weak::new()));
        assert_eq!(pool.threads(), THREADS);
        wait_for("they come to an end", || shared.lock().is_quiet());
        shared.close();
        wait_for("threads end with the last engine", || pool.threads() == 0);
        shared.list_again(Weak::new());
        assert!(shared.lock().modules.is_empty() && pool.threads() == 0);
    }

    #[test]
    fn an_engine_has_no_more_threads_than_it_may() {
        let pool = Pool::new(4);
        let shared = Shared::new(Arc::clone(&pool), Some(NonZeroUsize::MIN));
        // As if a thread were at a job: what waits does so until that is done.
        shared.lock().running = 1;
        (0..100).for_each(|_| shared.list_again(Weak::new()));
        assert_eq!((pool.threads(), shared.lock().modules.len()), (0, 100));
        drop(Running(&shared));
        wait_for("the others have their turns", || shared.lock().is_quiet());
        shared.close();
    }

    #[test]
    fn engines_come_and_go_while_others_have_work() {
        let pool = Pool::new(1);
        let lasting = Shared::new(Arc::clone(&pool), None);
        for _ in 0..200 {
            let shared = Shared::new(Arc::clone(&pool), None);
            (0..3).for_each(|_| [&shared, &lasting].into_iter().for_each(|shared| shared.list_again(Weak::new())));
            assert_eq!(pool.threads(), 1);
            shared.close();
        }
        wait_for("nobody is forgotten", || lasting.lock().is_quiet());
        assert_eq!(pool.threads(), 1);
        lasting.close();
        wait_for("threads end with the last engine", || pool.threads() == 0);
    }
}
