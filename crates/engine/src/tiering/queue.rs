//! Modules with functions that wait for the optimizing tier, each in its turn, and the threads that compile them.
//!
//! One queue for each engine. Which functions wait, and which of them is the hottest, is in the state of each module ([`super::jobs`]), so that
//! guests that ask for one meet those of their module only; here is known which modules have any, and one job of each is done in turn:
//! however much one of them asks for, the others wait for one job of its. Threads are started when there is work, at low priority, as many as the
//! machine can spare besides one that runs guests, and end when there was none for a while. What was compiled is kept for the next process by
//! another thread, so that nothing waits for it. Modules are held weakly: one that is dropped takes its jobs with it.
//!
//! After a fork the child has none of the threads, and begins with an empty queue; what is hot there is asked for again. What threads do with
//! locks that others want, they do inside of [`forks::enter`], so that the child finds none of them locked.

use super::install;
use crate::kept::Occasion;
use crate::vm::LoadedModule;
use peregrine_sys::{forks, threads};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(5);
/// When there was no work for so long, what was compiled is kept for the next process.
const QUIET: Duration = Duration::from_millis(200);
/// Compilers recurse over what they compile.
const STACK_BYTES: usize = 16 << 20;
/// With more modules, those that are gone are looked for when there are twice as many.
const FEW_MODULES: usize = 64;

/// The queue of an engine. Its threads end when it is dropped.
pub(crate) struct Queue {
    current: Mutex<Current>,
    max_threads: usize,
}

/// What the threads of one process share.
struct Current {
    /// The [process](forks::generation).
    generation: usize,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Told when there is a job, or no more will come.
    changed: Condvar,
    max_threads: usize,
}

#[derive(Default)]
struct State {
    /// Modules with jobs that wait, the next one first.
    modules: VecDeque<Weak<LoadedModule>>,
    /// How many jobs threads are at.
    running: usize,
    /// Modules of which something was compiled since it was last kept.
    to_keep: Vec<Weak<LoadedModule>>,
    /// Whether a thread keeps something now.
    is_keeping: bool,
    threads: usize,
    waiting_threads: usize,
    closed: bool,
}

impl Queue {
    /// A queue with as many threads as the machine can spare, or with `threads`.
    pub(crate) fn new(threads: Option<NonZeroUsize>) -> Self {
        let max_threads = threads.map_or_else(|| threads::available_parallelism().get() - 1, NonZeroUsize::get).max(1);
        let current = Current { generation: forks::generation(), shared: Shared::new(max_threads) };
        Self { current: Mutex::new(current), max_threads }
    }

    /// What the threads of this process share. What those of a parent process shared is never touched: one of them may have had its lock.
    fn shared(&self) -> Arc<Shared> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = forks::generation();
        if current.generation != generation {
            *current = Current { generation, shared: Shared::new(self.max_threads) };
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
        if let Err(error) = shared.ensure_thread(&mut state) {
            tracing::debug!(%error, "no thread for the optimizing tier");
            state.modules.pop_back();
            return false;
        }
        drop(state);
        shared.changed.notify_one();
        true
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let shared = self.shared();
        let mut state = shared.lock();
        state.closed = true;
        state.modules.clear();
        drop(state);
        shared.changed.notify_all();
    }
}

impl State {
    /// Whether nothing waits or is under way.
    fn is_quiet(&self) -> bool {
        self.modules.is_empty() && self.running == 0
    }
}

impl Shared {
    fn new(max_threads: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), max_threads })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a module that a thread took a job of and that has others, behind all others. Another thread may take it at once: as a module is
    /// listed once however many jobs it has, that thread is started here where there is none.
    fn list_again(self: &Arc<Self>, module: Weak<LoadedModule>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.modules.push_back(module);
        // Whoever calls this is a thread that works on, so this does not fail.
        let _ = self.ensure_thread(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// Starts another thread to work where more modules are listed than threads wait for one, if there may be more threads.
    ///
    /// # Errors
    /// What the system said, where there is no thread at all.
    fn ensure_thread(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        if state.modules.len() > state.waiting_threads && state.threads < self.max_threads {
            match self.start("peregrine-tier", Self::work) {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Starts a quiet thread.
    fn start(self: &Arc<Self>, name: &str, work: impl FnOnce(&Arc<Self>) + Send + 'static) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let run = move || {
            if let Err(error) = threads::set_low_priority() {
                tracing::debug!(%error, "the optimizing tier runs at the usual priority");
            }
            work(&shared);
        };
        std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run).map(|_| ())
    }

    /// What a thread does.
    fn work(self: &Arc<Self>) {
        while let Some(module) = self.next() {
            let (job, has_others) = install::take_job(&module);
            if has_others {
                self.list_again(Weak::clone(&module));
            }
            let Some(request) = job else {
                self.lock().running -= 1;
                continue;
            };
            let compiled = catch_unwind(AssertUnwindSafe(|| install::optimize(&module, request)));
            if compiled.is_err() {
                tracing::error!(function = request.function.as_u32(), "the optimizing tier panicked");
                install::give_up(&module, request);
            }
            let mut state = self.lock();
            state.running -= 1;
            if !state.to_keep.iter().any(|other| other.ptr_eq(&module)) {
                state.to_keep.push(module);
            }
        }
    }

    /// The module whose turn it is; `None` when the thread shall end.
    fn next(self: &Arc<Self>) -> Option<Weak<LoadedModule>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                state.threads -= 1;
                return None;
            }
            if let Some(module) = state.modules.pop_front() {
                state.running += 1;
                return Some(module);
            }
            state.waiting_threads += 1;
            let patience = if state.to_keep.is_empty() { IDLE } else { QUIET };
            let (guard, timeout) = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.waiting_threads -= 1;
            if timeout.timed_out() && state.is_quiet() && !state.to_keep.is_empty() && !state.is_keeping {
                let modules = std::mem::take(&mut state.to_keep);
                state.is_keeping = true;
                drop(state);
                self.start_keeping(modules);
                state = self.lock();
            } else if timeout.timed_out() && state.modules.is_empty() && state.to_keep.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }

    /// Keeps what was compiled of modules, on another thread if there can be one: writing takes long.
    fn start_keeping(self: &Arc<Self>, modules: Vec<Weak<LoadedModule>>) {
        let modules = Arc::new(modules);
        let others = Arc::clone(&modules);
        if self.start("peregrine-keep", move |shared| shared.keep(&others)).is_err() {
            self.keep(&modules);
        }
    }

    /// Keeps what was compiled of modules. Outside of the gate.
    fn keep(&self, modules: &[Weak<LoadedModule>]) {
        for module in modules.iter().filter_map(Weak::upgrade) {
            // Nobody else may have it any more; it is dropped here then, which keeps it too.
            let keep = move || module.tiering().map(|tiering| tiering.keep(&module, Occasion::Quiet));
            if catch_unwind(AssertUnwindSafe(keep)).is_err() {
                tracing::error!("keeping code panicked");
            }
        }
        self.lock().is_keeping = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_module_that_is_listed_again_brings_about_more_threads() {
        const THREADS: usize = 3;
        let shared = Shared::new(THREADS);
        // This thread is the first one: it takes one job after the other of a module that always has more.
        shared.lock().threads = 1;
        let start = Instant::now();
        while shared.lock().threads < THREADS {
            // Whoever takes it finds nothing to do in a module that is gone; those that are started are not told to end.
            shared.list_again(Weak::new());
            shared.list_again(Weak::new());
            assert!(start.elapsed() < Duration::from_secs(60), "{} threads", shared.lock().threads);
        }
        (0..100).for_each(|_| shared.list_again(Weak::new()));
        assert_eq!(shared.lock().threads, THREADS);
        while shared.lock().waiting_threads < THREADS - 1 {
            assert!(start.elapsed() < Duration::from_secs(60), "they do not come to an end");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(shared.lock().is_quiet());
        shared.lock().closed = true;
        shared.changed.notify_all();
        shared.list_again(Weak::new());
        assert!(shared.lock().modules.is_empty());
    }
}
