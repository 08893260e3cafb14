//! Functions that wait for the optimizing tier, hottest first, and the threads that compile them.
//!
//! One queue for each engine. Threads are started when there is work, at low priority, as many as the machine can spare besides one that runs
//! guests, and end when there was none for a while. Jobs hold modules weakly: a module that is dropped takes its jobs with it.
//!
//! After a fork the child has none of the threads, and begins with an empty queue; what is hot there is asked for again. What threads do with
//! locks that others want, they do inside of [`forks::enter`], so that the child finds none of them locked.

use crate::vm::LoadedModule;
use peregrine_artifact::compiler::LoopEntry;
use peregrine_sys::threads;
use peregrine_wasm::DefinedFuncIndex;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Jobs that wait at most.
const MAX_JOBS: usize = 4096;
/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(5);
/// When there was no work for so long, what was compiled is kept for the next process.
const QUIET: Duration = Duration::from_millis(200);
/// Compilers recurse over what they compile.
const STACK_BYTES: usize = 16 << 20;

/// What to compile: a function, or a function from a loop on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) function: DefinedFuncIndex,
    pub(crate) loop_entry: Option<LoopEntry>,
}

struct Job {
    module: Weak<LoadedModule>,
    request: Request,
    /// How often its budget was used up.
    heat: u32,
}

/// The queue of an engine. Its threads end when it is dropped.
pub(crate) struct Queue {
    current: Mutex<Current>,
    max_threads: usize,
}

/// What the threads of one process share.
struct Current {
    process: u32,
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
    jobs: Vec<Job>,
    /// What threads compile now, with the addresses of modules, which are not given to others meanwhile.
    running: Vec<(usize, Request)>,
    /// Modules of which something was compiled since it was last kept.
    to_keep: Vec<Weak<LoadedModule>>,
    threads: usize,
    waiting_threads: usize,
    closed: bool,
}

impl Queue {
    /// A queue with as many threads as the machine can spare, or with `threads`.
    pub(crate) fn new(threads: Option<NonZeroUsize>) -> Self {
        let max_threads = threads.map_or_else(|| threads::available_parallelism().get() - 1, NonZeroUsize::get).max(1);
        let current = Current { process: std::process::id(), shared: Shared::new(max_threads) };
        Self { current: Mutex::new(current), max_threads }
    }

    /// What the threads of this process share. What those of a parent process shared is never touched: one of them may have had its lock.
    fn shared(&self) -> Arc<Shared> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if current.process != process {
            *current = Current { process, shared: Shared::new(self.max_threads) };
        }
        Arc::clone(&current.shared)
    }

    /// Adds a job, or makes one that waits hotter. Whether it is there afterwards: the queue may be full.
    pub(super) fn request(&self, module: &Arc<LoadedModule>, request: Request) -> bool {
        let shared = self.shared();
        let mut state = shared.lock();
        let same = |job: &&mut Job| job.request == request && std::ptr::eq(job.module.as_ptr(), Arc::as_ptr(module));
        if let Some(job) = state.jobs.iter_mut().find(same) {
            job.heat = job.heat.saturating_add(1);
            return true;
        }
        if state.running.contains(&(Arc::as_ptr(module).addr(), request)) {
            return true;
        }
        if state.jobs.len() >= MAX_JOBS {
            return false;
        }
        state.jobs.push(Job { module: Arc::downgrade(module), request, heat: 1 });
        if state.jobs.len() > state.waiting_threads && state.threads < shared.max_threads {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("peregrine-tier".into()).stack_size(STACK_BYTES);
            match thread.spawn(move || shared.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    tracing::debug!(%error, "no thread for the optimizing tier");
                    state.jobs.pop();
                    return false;
                }
                Err(_) => {}
            }
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
        state.jobs.clear();
        drop(state);
        shared.changed.notify_all();
    }
}

impl State {
    /// Whether nothing waits or is under way.
    fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && self.running.is_empty()
    }
}

impl Shared {
    fn new(max_threads: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), max_threads })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does.
    fn work(&self) {
        if let Err(error) = threads::set_low_priority() {
            tracing::debug!(%error, "the optimizing tier runs at the usual priority");
        }
        while let Some(job) = self.next() {
            let compiled = catch_unwind(AssertUnwindSafe(|| super::module::optimize(&job.module, job.request)));
            let done = (job.module.as_ptr().addr(), job.request);
            let mut state = self.lock();
            state.running.retain(|running| *running != done);
            if !state.to_keep.iter().any(|module| module.ptr_eq(&job.module)) {
                state.to_keep.push(job.module);
            }
            drop(state);
            if compiled.is_err() {
                tracing::error!(function = job.request.function.as_u32(), "the optimizing tier panicked");
            }
        }
    }

    /// The hottest job; `None` when the thread shall end.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                state.threads -= 1;
                return None;
            }
            let hottest = state.jobs.iter().enumerate().max_by_key(|(position, job)| (job.heat, usize::MAX - position));
            if let Some((position, _)) = hottest {
                let job = state.jobs.remove(position);
                state.running.push((job.module.as_ptr().addr(), job.request));
                return Some(job);
            }
            state.waiting_threads += 1;
            let patience = if state.to_keep.is_empty() { IDLE } else { QUIET };
            let (guard, timeout) = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.waiting_threads -= 1;
            if timeout.timed_out() && state.is_quiet() && !state.to_keep.is_empty() {
                let modules = std::mem::take(&mut state.to_keep);
                drop(state);
                // Outside of the gate: writing takes long.
                modules.iter().filter_map(Weak::upgrade).for_each(|module| {
                    let kept = catch_unwind(AssertUnwindSafe(|| module.tiering().map(|tiering| tiering.keep(&module))));
                    if kept.is_err() {
                        tracing::error!("keeping code panicked");
                    }
                });
                state = self.lock();
            } else if timeout.timed_out() && state.jobs.is_empty() && state.to_keep.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}
