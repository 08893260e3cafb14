//! Does batches of work on several threads and hands the results on in order, without letting them pile up.
//!
//! Threads take batches in order. So when a batch fails, every earlier one has been taken and is finished, and the error that
//! is reported is that of the earliest batch, whatever the number of threads.
//!
//! One lock guards the state; the sink has its own, taken by the one thread that set `State::sinking`, never together with the first.

use peregrine_artifact::compiler::CompileError;
use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Compilers may recurse deeply.
pub(crate) const STACK_BYTES: usize = 16 << 20;

/// Cost of the batches, for each thread, that may be taken and not handed on yet.
const MAX_COST_AHEAD_PER_THREAD: usize = 1 << 20;

/// Consecutive pieces of work that one thread does at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Which pieces.
    pub(crate) items: Range<usize>,
    /// How much memory their results take, in the measure of [`MAX_COST_AHEAD_PER_THREAD`]: roughly bytes of bodies.
    pub(crate) cost: usize,
}

/// Where to do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// On the thread that asks.
    Current,
    /// On so many new ones, with large stacks.
    New(usize),
}

/// Does all `batches`. Each thread makes itself a worker with `worker`, calls `work` with it, and results go to `sink` by rising batch.
///
/// # Errors
///
/// The error of the earliest batch that failed; a panic is an error too.
pub(crate) fn run_in_order<W, R: Send>(
    threads: Threads,
    batches: &[Batch],
    worker: impl Fn() -> Result<W, CompileError> + Sync,
    work: impl Fn(&mut W, &Batch) -> Result<R, CompileError> + Sync,
    sink: impl FnMut(R) -> Result<(), CompileError> + Send,
) -> Result<(), CompileError> {
    let count = match threads {
        Threads::Current => 1,
        Threads::New(count) => count.clamp(1, batches.len().max(1)),
    };
    let queue = Queue {
        batches,
        max_cost_ahead: MAX_COST_AHEAD_PER_THREAD * count,
        state: Mutex::new(State { next: 0, handed_on: 0, cost_ahead: 0, finished: BTreeMap::new(), sinking: false, error: None }),
        changed: Condvar::new(),
        sink: Mutex::new(sink),
    };
    let run = || queue.run(&worker, &work);
    match threads {
        Threads::Current => run(),
        Threads::New(_) => std::thread::scope(|scope| {
            for position in 0..count {
                let thread = std::thread::Builder::new().name("peregrine-compile".into()).stack_size(STACK_BYTES);
                if thread.spawn_scoped(scope, run).is_err() {
                    // The system gives no more threads: those that there are do the work.
                    if position == 0 {
                        run();
                    }
                    break;
                }
            }
        }),
    }
    let state = queue.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    state.error.map_or(Ok(()), |(_, error)| Err(error))
}

/// Does all `batches`, where there is nothing to hand on: each thread makes itself a worker with `worker` and calls `work` with it. The thread
/// that asks is one of them, so `work` must not take much stack.
///
/// # Errors
///
/// The error of the earliest batch that failed; a panic is an error too.
pub(crate) fn run_each<W>(
    threads: Threads,
    batches: &[Batch],
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, &Batch) -> Result<(), CompileError> + Sync,
) -> Result<(), CompileError> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let earliest: Mutex<Option<(usize, CompileError)>> = Mutex::new(None);
    let run = || {
        let mut worker = worker();
        // The order of the flag is that of nothing: who misses it does a batch too many. Whatever was taken is finished, and in order of
        // taking every batch before one that failed was.
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(batch) = batches.get(index) else { return };
            if let Err(error) = guarded(|| work(&mut worker, batch)) {
                failed.store(true, Ordering::Relaxed);
                let mut earliest = earliest.lock().unwrap_or_else(PoisonError::into_inner);
                if earliest.as_ref().is_none_or(|(before, _)| index < *before) {
                    *earliest = Some((index, error));
                }
            }
        }
    };
    let others = match threads {
        Threads::Current => 0,
        Threads::New(count) => count.clamp(1, batches.len().max(1)) - 1,
    };
    std::thread::scope(|scope| {
        for _ in 0..others {
            let thread = std::thread::Builder::new().name("peregrine-compile".into());
            if thread.spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
    earliest.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, error)| Err(error))
}

struct Queue<'b, R, S> {
    batches: &'b [Batch],
    max_cost_ahead: usize,
    state: Mutex<State<R>>,
    /// Signalled when a batch was handed on, or an error stops the work.
    changed: Condvar,
    sink: Mutex<S>,
}

struct State<R> {
    /// The batch that is taken next.
    next: usize,
    /// How many batches the sink has got.
    handed_on: usize,
    /// Cost of the batches that are taken and not handed on.
    cost_ahead: usize,
    /// Results that wait for earlier ones.
    finished: BTreeMap<usize, R>,
    /// Whether a thread is handing results on.
    sinking: bool,
    /// The error of the earliest batch that failed.
    error: Option<(usize, CompileError)>,
}

impl<R, S: FnMut(R) -> Result<(), CompileError>> Queue<'_, R, S> {
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works until there is no more to take.
    fn run<W>(&self, worker: &impl Fn() -> Result<W, CompileError>, work: &impl Fn(&mut W, &Batch) -> Result<R, CompileError>) {
        let mut worker = match guarded(worker) {
            Ok(worker) => worker,
            Err(error) => return self.fail(0, error),
        };
        while let Some(index) = self.take() {
            match guarded(|| work(&mut worker, &self.batches[index])) {
                Ok(result) => self.finish(index, result),
                // The worker may be in disorder after a panic; nothing is taken after an error.
                Err(error) => return self.fail(index, error),
            }
        }
    }

    /// The next batch, when there is room for its result. One that is taken alone always has room, and the earliest one that is not
    /// handed on is in the hands of a running thread; so somebody always goes on.
    fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            let index = state.next;
            if state.error.is_some() || index == self.batches.len() {
                return None;
            }
            let cost = self.batches[index].cost;
            if state.cost_ahead == 0 || state.cost_ahead + cost <= self.max_cost_ahead {
                state.next += 1;
                state.cost_ahead += cost;
                return Some(index);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Keeps a result, and hands on all that are due unless another thread is at it.
    fn finish(&self, index: usize, result: R) {
        let mut state = self.lock();
        state.finished.insert(index, result);
        if state.sinking {
            return;
        }
        state.sinking = true;
        loop {
            let due = state.handed_on;
            let Some(result) = state.finished.remove(&due) else { break };
            drop(state);
            let handed_on = guarded(|| (self.sink.lock().unwrap_or_else(PoisonError::into_inner))(result));
            if let Err(error) = handed_on {
                // Nothing is handed on any more: `sinking` stays set.
                return self.fail(due, error);
            }
            state = self.lock();
            state.handed_on += 1;
            state.cost_ahead -= self.batches[due].cost;
            self.changed.notify_all();
        }
        state.sinking = false;
    }

    fn fail(&self, index: usize, error: CompileError) {
        let mut state = self.lock();
        if state.error.as_ref().is_none_or(|(earliest, _)| index < *earliest) {
            state.error = Some((index, error));
        }
        self.changed.notify_all();
    }
}

/// Calls `f`; a panic in it becomes an error.
fn guarded<T>(f: impl FnOnce() -> Result<T, CompileError>) -> Result<T, CompileError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(CompileError::Internal { message: panic_message(&*panic) }))
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(count: usize, cost: usize) -> Vec<Batch> {
        (0..count).map(|index| Batch { items: index..index + 1, cost }).collect()
    }

    fn all_threads() -> [Threads; 4] {
        [Threads::Current, Threads::New(1), Threads::New(2), Threads::New(8)]
    }

    #[test]
    fn results_come_in_order_on_any_number_of_threads() {
        for threads in all_threads() {
            for cost in [0, 1, MAX_COST_AHEAD_PER_THREAD / 2, usize::MAX / 1000] {
                let mut seen = Vec::new();
                let work = |_: &mut (), batch: &Batch| {
                    if batch.items.start.is_multiple_of(7) {
                        std::thread::yield_now();
                    }
                    Ok(batch.items.start)
                };
                let sink = |item| {
                    seen.push(item);
                    Ok(())
                };
                run_in_order(threads, &batches(300, cost), || Ok(()), work, sink).expect("no batch fails");
                assert_eq!(seen, (0..300).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_earliest_error_is_reported() {
        for threads in all_threads() {
            let work = |_: &mut (), batch: &Batch| match batch.items.start {
                item @ (40 | 41 | 42 | 90) => {
                    // Later failures come first.
                    std::thread::sleep(std::time::Duration::from_millis(if item == 40 { 20 } else { 0 }));
                    Err(CompileError::invalid("bad", item))
                }
                _ => Ok(()),
            };
            let result = run_in_order(threads, &batches(100, 1), || Ok(()), work, |()| Ok(()));
            assert_eq!(result, Err(CompileError::invalid("bad", 40)));
        }
    }

    #[test]
    fn errors_of_the_sink_and_of_the_worker_end_the_work() {
        for threads in all_threads() {
            let bad = || CompileError::invalid("bad", 1);
            let result = run_in_order(
                threads,
                &batches(50, 1 << 19),
                || Ok(()),
                |_, batch| Ok(batch.items.start),
                |item| {
                    if item == 10 { Err(bad()) } else { Ok(()) }
                },
            );
            assert_eq!(result, Err(bad()));
            assert_eq!(run_in_order(threads, &batches(5, 1), || Err::<(), _>(bad()), |_, _| Ok(()), |()| Ok(())), Err(bad()));
        }
    }

    #[test]
    fn each_batch_is_done_once_and_the_earliest_error_is_reported() {
        for threads in all_threads() {
            let done: Vec<AtomicUsize> = (0..300).map(|_| AtomicUsize::new(0)).collect();
            let count = |batch: &Batch| done[batch.items.start].fetch_add(1, Ordering::Relaxed);
            let counted = |(): &mut (), batch: &Batch| {
                count(batch);
                Ok(())
            };
            let all = run_each(threads, &batches(300, 1), || (), counted);
            assert_eq!(all, Ok(()));
            assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            let failing = |_: &mut (), batch: &Batch| match batch.items.start {
                item @ (40 | 41 | 90) => {
                    // The later one fails first.
                    std::thread::sleep(std::time::Duration::from_millis(if item == 40 { 20 } else { 0 }));
                    Err(CompileError::invalid("bad", item))
                }
                30 if threads == Threads::New(8) => {
                    std::thread::yield_now();
                    Ok(())
                }
                _ => Ok(()),
            };
            assert_eq!(run_each(threads, &batches(100, 1), || (), failing), Err(CompileError::invalid("bad", 40)));
            assert_eq!(run_each(threads, &[], || (), |(), _| Err(CompileError::invalid("bad", 0))), Ok(()));
        }
    }

    #[test]
    fn a_panic_is_an_error() {
        let work = |_: &mut (), batch: &Batch| if batch.items.start == 3 { panic!("at {}", 3) } else { Ok(()) };
        let result = run_in_order(Threads::New(2), &batches(5, 1), || Ok(()), work, |()| Ok(()));
        assert_eq!(result, Err(CompileError::Internal { message: "panic: at 3".into() }));
        let work = |_: &mut (), batch: &Batch| if batch.items.start == 3 { panic!("at {}", 3) } else { Ok(()) };
        let result = run_each(Threads::New(2), &batches(5, 1), || (), work);
        assert_eq!(result, Err(CompileError::Internal { message: "panic: at 3".into() }));
    }
}
