//! Clocks: the host's own, read through the vDSO, or a source that the embedder gives.

use rustix::thread::nanosleep;
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// Which clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Wall time, nanoseconds since 1970-01-01T00:00:00Z.
    Realtime,
    /// Never goes back; its epoch is undefined.
    Monotonic,
    /// Processor time of the process.
    ProcessCpu,
    /// Processor time of the calling thread.
    ThreadCpu,
}

/// A source of time in place of the host's clocks.
pub trait ClockSource: Send {
    /// Nanoseconds shown by `clock`.
    fn now_ns(&self, clock: Clock) -> u64;
    /// Resolution of `clock` in nanoseconds; never zero.
    fn resolution_ns(&self, clock: Clock) -> u64;
}

/// The clocks of one context.
#[derive(Default)]
pub enum Clocks {
    /// The host's clocks.
    #[default]
    Host,
    /// The embedder's.
    Custom(Box<dyn ClockSource>),
}

impl Clocks {
    /// Nanoseconds shown by `clock`; times before its epoch read as zero.
    #[inline]
    pub fn now_ns(&self, clock: Clock) -> u64 {
        match self {
            Clocks::Host => nanoseconds(clock_gettime(clock.id())),
            Clocks::Custom(source) => source.now_ns(clock),
        }
    }

    /// Resolution of `clock` in nanoseconds; never zero.
    pub fn resolution_ns(&self, clock: Clock) -> u64 {
        match self {
            Clocks::Host => nanoseconds(clock_getres(clock.id())).max(1),
            Clocks::Custom(source) => source.resolution_ns(clock).max(1),
        }
    }

    /// Blocks the thread until the monotonic clock shows `deadline_ns`.
    pub fn sleep_until(&self, deadline_ns: u64) {
        if let Clocks::Host = self {
            let deadline = timespec(deadline_ns);
            while rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &deadline) == Err(rustix::io::Errno::INTR) {}
            return;
        }
        let mut rest = timespec(deadline_ns.saturating_sub(self.now_ns(Clock::Monotonic)));
        while let rustix::thread::NanosleepRelativeResult::Interrupted(left) = nanosleep(&rest) {
            rest = left;
        }
    }
}

impl Clock {
    fn id(self) -> ClockId {
        match self {
            Clock::Realtime => ClockId::Realtime,
            Clock::Monotonic => ClockId::Monotonic,
            Clock::ProcessCpu => ClockId::ProcessCPUTime,
            Clock::ThreadCpu => ClockId::ThreadCPUTime,
        }
    }
}

/// Nanoseconds of a time, zero if it is negative, saturating in the year 2554.
#[inline]
pub(crate) fn nanoseconds(time: Timespec) -> u64 {
    let Ok(seconds) = u64::try_from(time.tv_sec) else { return 0 };
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time `ns` nanoseconds after the epoch.
pub(crate) fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_saturate() {
        assert_eq!(nanoseconds(Timespec { tv_sec: -1, tv_nsec: 5 }), 0);
        assert_eq!(nanoseconds(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }), u64::MAX);
        let longest = timespec(u64::MAX);
        assert_eq!(nanoseconds(longest), u64::MAX);
    }
}
