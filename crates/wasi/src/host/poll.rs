//! Waiting for several descriptors and a deadline at once, by one `ppoll`.

use super::clock::{Clock, Clocks, timespec};
use super::error::Error;
use rustix::event::PollFd;
use rustix::io::Errno;

/// Waits until one of `fds` is ready or the monotonic clock shows `deadline_ns`; the count of those ready, zero at the deadline.
///
/// # Errors
/// `Invalid` if there are more descriptors than the system polls at once.
pub fn wait(fds: &mut [PollFd<'_>], clocks: &Clocks, deadline_ns: Option<u64>) -> Result<usize, Error> {
    loop {
        let timeout = deadline_ns.map(|deadline| timespec(deadline.saturating_sub(clocks.now_ns(Clock::Monotonic))));
        match rustix::event::poll(fds, timeout.as_ref()) {
            Ok(ready) => return Ok(ready),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
