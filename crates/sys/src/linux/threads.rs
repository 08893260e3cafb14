//! How many threads are worth starting, and threads that stay out of the way.
//!
//! Called by whoever starts workers: the compile driver's owner and the tier policy of the engine.

use std::io;
use std::num::NonZeroUsize;

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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn there_is_at_least_one_processor() {
        assert!(available_parallelism().get() >= 1);
    }
}
