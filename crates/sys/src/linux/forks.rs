//! Forks of the process while its threads hold locks: a gate that a fork waits at until nobody is inside.
//!
//! A child process has one thread, the one that forked, and the locks as they were: one that another thread held stays locked for ever.
//! Whoever takes locks on a thread of the engine's own does so inside of the gate ([`enter`]), for a short time.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};
use std::time::Duration;

/// Threads that are inside, each as often as it entered.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Threads that are about to fork: nobody enters. Stored before `INSIDE` is looked at, and loaded after it was added to.
static FORKING: AtomicUsize = AtomicUsize::new(0);
/// Forks between the first process and this one.
static GENERATION: AtomicUsize = AtomicUsize::new(0);
/// Forks so far that this process made, or one that it descends from, since the first time that anybody asked.
static FORKS: AtomicUsize = AtomicUsize::new(0);
static HANDLERS: Once = Once::new();
/// A count of threads that do something short outside of the gate.
static FORGOTTEN: OnceLock<&AtomicUsize> = OnceLock::new();

/// What a child process does first.
static IN_CHILD: OnceLock<fn()> = OnceLock::new();

thread_local! {
    /// How often this thread is inside.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// How long a thread sleeps until it looks again.
const PAUSE: Duration = Duration::from_micros(20);

/// Being inside; ends when it is dropped.
#[derive(Debug)]
pub struct Inside {
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

/// Makes `count`, of threads that do something short without holding off forks, zero in every child. There is one such count: another one
/// than the first is not taken.
pub fn forget_in_child(count: &'static AtomicUsize) {
    FORGOTTEN.get_or_init(|| count);
}

/// Calls `first` in every child, on its only thread, before the fork returns there. It may do what async-signal-safe functions may, and lock what
/// is locked inside of the gate alone. There is one such function: another one than the first is not taken.
pub fn call_in_child(first: fn()) {
    IN_CHILD.get_or_init(|| first);
}

/// Holds off forks until the result is dropped; waits for one that is under way.
pub fn enter() -> Inside {
    watch();
    let depth = DEPTH.get();
    INSIDE.fetch_add(1, Ordering::SeqCst);
    // A thread that is inside already is waited for.
    while depth == 0 && FORKING.load(Ordering::SeqCst) > 0 {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
        while FORKING.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(PAUSE);
        }
        INSIDE.fetch_add(1, Ordering::SeqCst);
    }
    DEPTH.set(depth + 1);
    Inside { _thread: PhantomData }
}

/// As [`enter`], for a thread that another one waits for which is inside: as no fork can get under way before that is out, none is waited for.
pub fn enter_for_another() -> Inside {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    DEPTH.set(DEPTH.get() + 1);
    Inside { _thread: PhantomData }
}

impl Inside {
    /// As the function [`generation`].
    pub fn generation(&self) -> usize {
        GENERATION.load(Ordering::SeqCst)
    }
}

/// A number of this process, other than those of all that it descends from. No system call.
pub fn generation() -> usize {
    watch();
    GENERATION.load(Ordering::SeqCst)
}

/// How many forks there were: between two equal counts nobody inherited anything.
pub(crate) fn count() -> usize {
    watch();
    FORKS.load(Ordering::SeqCst)
}

/// From now on forks are seen.
fn watch() {
    HANDLERS.call_once(|| {
        // SAFETY: the three functions do what such handlers may: they touch atomics and sleep.
        let failed = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after_in_child)) };
        debug_assert_eq!(failed, 0, "there is memory for three pointers");
    });
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

extern "C" fn before() {
    FORKING.fetch_add(1, Ordering::SeqCst);
    // A thread that forks inside of the gate knows what it does.
    while INSIDE.load(Ordering::SeqCst) > DEPTH.get() {
        std::thread::sleep(PAUSE);
    }
    // Before the child is there: whoever finds the count as it was has given nothing to it.
    FORKS.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn after() {
    FORKING.fetch_sub(1, Ordering::SeqCst);
}

extern "C" fn after_in_child() {
    INSIDE.store(DEPTH.get(), Ordering::SeqCst);
    FORKING.store(0, Ordering::SeqCst);
    GENERATION.fetch_add(1, Ordering::SeqCst);
    if let Some(count) = FORGOTTEN.get() {
        count.store(0, Ordering::SeqCst);
    }
    if let Some(first) = IN_CHILD.get() {
        first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Enters as a thread does that somebody inside waits for, once a fork waits for that one.
    fn let_another_enter_while_a_fork_waits() {
        while FORKING.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(PAUSE);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _inside = enter_for_another();
                drop(enter());
            });
        });
    }

    #[test]
    fn a_fork_waits_until_nobody_is_inside() {
        static BUSY: AtomicUsize = AtomicUsize::new(3);
        forget_in_child(&BUSY);
        let (entered, left) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let outer = enter();
                let inner = enter();
                entered.store(true, Ordering::SeqCst);
                let_another_enter_while_a_fork_waits();
                drop(inner);
                left.store(true, Ordering::SeqCst);
                drop(outer);
            });
            while !entered.load(Ordering::SeqCst) {
                std::thread::sleep(PAUSE);
            }
            // SAFETY: the child does nothing but look at atomics and end.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let counts = [&INSIDE, &FORKING, &BUSY];
                let fine = left.load(Ordering::SeqCst) && counts.iter().all(|count| count.load(Ordering::SeqCst) == 0);
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(if fine { 7 } else { 1 }) };
            }
            let mut status = 0;
            // SAFETY: the child is ours and waited for once.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
        });
        assert_eq!(BUSY.load(Ordering::SeqCst), 3, "the parent's threads are still at it");
        // It opened again.
        drop(enter());
    }
}
