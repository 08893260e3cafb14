//! How many threads are worth starting, threads that stay out of the way, and the stack that a thread has left.
//!
//! Called by whoever starts workers: the compile driver's owner and the tier policy of the engine; and by the machine before the
//! host goes deeper on behalf of a guest.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::Duration;

/// How many threads can run at once here: processors, less what affinity masks and control groups take away; one where the system
/// does not tell.
pub fn available_parallelism() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// What a quiet thread adds to its nice value.
const NICE_STEP: i32 = 10;
const NICEST: i32 = 19;

/// Lets the calling thread give way to the others of the machine, for work that nobody waits for. It cannot be taken back without
/// privileges.
///
/// # Errors
/// What the system said.
pub fn set_low_priority() -> io::Result<()> {
    // On Linux the nice value belongs to the thread, and "this process" means the calling thread.
    let current = rustix::process::getpriority_process(None)?;
    rustix::process::setpriority_process(None, (current + NICE_STEP).min(NICEST))?;
    Ok(())
}

/// Lets the calling thread use the processors that the first thread of this process may use, beside its own: for work of the whole
/// process on a thread that one with few processors started.
///
/// # Errors
/// What the system said; the thread uses what it did before.
pub fn use_processors_of_first_thread() -> io::Result<()> {
    let mut all = sched_getaffinity(None)?;
    let own = all.count();
    let of_first = sched_getaffinity(Some(rustix::process::getpid()))?;
    (0..CpuSet::MAX_CPU).filter(|cpu| of_first.is_set(*cpu)).for_each(|cpu| all.set(cpu));
    if all.count() > own {
        sched_setaffinity(None, &all)?;
    }
    Ok(())
}

/// The processor time that all threads of this process have used.
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// How many bytes the calling thread's own stack has left, and how many it has in all. `None` where the system does not tell, and on
/// a stack that is not the one the thread was started with.
pub fn stack_left() -> Option<(usize, usize)> {
    thread_local! {
        /// The stack; not asked for yet, or unknown.
        static STACK: Cell<Option<Option<(usize, usize)>>> = const { Cell::new(None) };
    }
    let bounds = STACK.get().unwrap_or_else(|| {
        let bounds = thread_stack().map(|stack| (stack.start, stack.end));
        STACK.set(Some(bounds));
        bounds
    });
    let (start, end) = bounds?;
    let here = std::ptr::from_ref(&bounds).addr();
    (start..end).contains(&here).then(|| (here - start, end - start))
}

/// The usable addresses of the calling thread's stack.
pub(super) fn thread_stack() -> Option<Range<usize>> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: the thread is this one; the call fills in the attributes.
    if unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let (mut start, mut len_bytes, mut guard_len_bytes) = (std::ptr::null_mut(), 0, 0);
    // SAFETY: the attributes were filled in, are read, and are destroyed once.
    let failed = unsafe {
        let failed = libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut len_bytes)
            | libc::pthread_attr_getguardsize(attributes.as_ptr(), &mut guard_len_bytes);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        failed
    };
    // Older C libraries count the guard as part of the stack.
    let start = start.addr();
    (failed == 0).then(|| start.saturating_add(guard_len_bytes)..start.saturating_add(len_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_shrinks_as_calls_go_deeper() {
        #[inline(never)]
        fn deeper() -> usize {
            let frame = std::hint::black_box([0u8; 100_000]);
            let (left, _) = stack_left().unwrap();
            left + usize::from(frame[left % frame.len()])
        }
        let check = || {
            let (left, all) = stack_left().unwrap();
            // At least what was asked for: the C library may hand out the larger stack of a thread that ended.
            assert!(all >= 400_000 && left < all, "{left} of {all}");
            let below = deeper();
            assert!((100_000..110_000).contains(&(left - below)), "{left} {below}");
        };
        std::thread::Builder::new().stack_size(512 << 10).spawn(check).unwrap().join().unwrap();
    }

    #[test]
    fn one_thread_becomes_quiet_and_the_others_do_not() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let inside = std::thread::spawn(|| {
            set_low_priority().unwrap();
            rustix::process::getpriority_process(None).unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(inside, (before + NICE_STEP).min(NICEST));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }

    #[test]
    fn a_thread_uses_processors_that_the_first_one_may_use() {
        let all = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
        let inside = std::thread::spawn(move || {
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).unwrap();
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
            use_processors_of_first_thread().unwrap();
            sched_getaffinity(None).unwrap()
        })
        .join()
        .unwrap();
        assert!(inside == all);
        assert!(sched_getaffinity(None).unwrap() == all);
    }

    #[test]
    fn there_is_at_least_one_processor() {
        assert!(available_parallelism().get() >= 1);
    }
}
