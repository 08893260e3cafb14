//! What work costs of the processor, to be compared with other work of the same run. A time by itself says more about the machine, the build,
//! and what else runs than about the work.

use std::time::Duration;

/// What this thread has used of the processor so far.
pub fn of_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// What `work` uses of the processor on this thread, in seconds, at the least of `tries`: what else the machine does adds to it.
///
/// # Panics
/// When there are no tries.
pub fn least_seconds(tries: u32, mut work: impl FnMut()) -> f64 {
    let seconds = (0..tries).map(|_| {
        let start = of_thread();
        work();
        (of_thread() - start).as_secs_f64()
    });
    seconds.min_by(f64::total_cmp).expect("it is tried")
}
