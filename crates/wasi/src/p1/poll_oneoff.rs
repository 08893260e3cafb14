//! `poll_oneoff`: waits until at least one of several subscriptions has come true.
//!
//! ```text
//! subscriptions -> Subscription (clock: deadline; descriptor: ready at once, or a place in the ppoll) -> one wait -> events in order
//! ```

use super::WasiP1Ctx;
use super::fd_table::{FdTable, Object};
use super::memory::GuestMemory;
use super::types::{
    self, EVENT_FD_READWRITE_HANGUP, EVENT_SIZE_BYTES, Errno, EventType, Rights, SUBSCRIPTION_CLOCK_ABSTIME, SUBSCRIPTION_SIZE_BYTES,
};
use crate::host::clock::{Clock, Clocks};
use crate::host::file::FileKind;
use crate::host::poll;
use crate::host::socket::Role;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::BorrowedFd;
use smallvec::SmallVec;

/// Subscriptions of one call; more are refused, so that a guest cannot make the host hold much memory.
const SUBSCRIPTIONS_MAX: u32 = 4096;
/// Subscriptions that fit on the stack.
const SUBSCRIPTIONS_INLINE: usize = 8;
/// What is told of room for writing where the system tells only that there is some.
const WRITABLE_BYTES: u64 = 1;

/// What a subscription waits for.
enum Awaited {
    /// The monotonic clock at this time.
    Deadline(u64),
    /// The descriptor at this place of the poll list.
    Polled(usize),
    /// Nothing: it has come true, with this outcome.
    Done(Errno),
}

/// One subscription.
struct Subscription {
    userdata: u64,
    kind: EventType,
    fd: u32,
    awaited: Awaited,
}

impl WasiP1Ctx {
    /// Waits for subscriptions and writes the events of those that have come true, in the order of the subscriptions. A subscription that
    /// cannot be waited for is an event with an error.
    pub fn poll_oneoff(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: u32,
        events: u32,
        nsubscriptions: u32,
        nevents: u32,
    ) -> Result<(), Errno> {
        if nsubscriptions == 0 || nsubscriptions > SUBSCRIPTIONS_MAX {
            return Err(Errno::Inval);
        }
        memory.check(subscriptions, nsubscriptions * SUBSCRIPTION_SIZE_BYTES)?;
        memory.check(events, nsubscriptions * EVENT_SIZE_BYTES)?;
        memory.check(nevents, 4)?;

        let mut polled: SmallVec<[PollFd<'_>; SUBSCRIPTIONS_INLINE]> = SmallVec::new();
        let mut list: SmallVec<[Subscription; SUBSCRIPTIONS_INLINE]> = SmallVec::new();
        for at in 0..nsubscriptions {
            let layout = memory.load(subscriptions + at * SUBSCRIPTION_SIZE_BYTES)?;
            list.push(subscription(&self.fds, &self.ctx.clocks, &layout, &mut polled)?);
        }

        let done = list.iter().any(|subscription| matches!(subscription.awaited, Awaited::Done(_)));
        let deadline = list.iter().filter_map(|subscription| match subscription.awaited {
            Awaited::Deadline(at) => Some(at),
            _ => None,
        });
        let deadline = if done { Some(0) } else { deadline.min() };
        match deadline {
            Some(at) if polled.is_empty() && !done => self.ctx.clocks.sleep_until(at),
            _ if polled.is_empty() => {}
            _ => {
                poll::wait(&mut polled, &self.ctx.clocks, deadline)?;
            }
        }

        let now = self.ctx.clocks.now_ns(Clock::Monotonic);
        // A clock of the embedder's need not move while the thread sleeps: what was waited for has come true.
        let slept = polled.is_empty() && !done;
        let reached = |at: u64| at <= now || slept && Some(at) == deadline;
        let mut count = 0;
        for subscription in &list {
            let event = match subscription.awaited {
                Awaited::Deadline(at) if reached(at) => types::event(subscription.userdata, Errno::Success, EventType::Clock, 0, 0),
                Awaited::Deadline(_) => continue,
                Awaited::Done(errno) => {
                    let nbytes = if errno == Errno::Success { available(&self.fds, subscription) } else { 0 };
                    types::event(subscription.userdata, errno, subscription.kind, nbytes, 0)
                }
                Awaited::Polled(place) => {
                    let ready = polled[place].revents();
                    if ready.is_empty() {
                        continue;
                    }
                    ready_event(&self.fds, subscription, ready)
                }
            };
            memory.store(events + count * EVENT_SIZE_BYTES, event)?;
            count += 1;
        }
        memory.store_u32(nevents, count)
    }
}

/// Takes a subscription from its layout: | 0 userdata u64 | 8 tag u8 | then for a clock 16 id u32 | 24 timeout u64 | 32 precision u64 |
/// 40 flags u16 |, for a descriptor 16 fd u32 |.
fn subscription<'t>(
    fds: &'t FdTable,
    clocks: &Clocks,
    layout: &[u8; SUBSCRIPTION_SIZE_BYTES as usize],
    polled: &mut SmallVec<[PollFd<'t>; SUBSCRIPTIONS_INLINE]>,
) -> Result<Subscription, Errno> {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| layout[at + byte]));
    let (userdata, fd) = (word(0), word(16) as u32);
    let (kind, interest) = match layout[8] {
        0 => {
            let awaited = match deadline(clocks, fd, word(24), word(40) as u16) {
                Ok(at) => Awaited::Deadline(at),
                Err(errno) => Awaited::Done(errno),
            };
            return Ok(Subscription { userdata, kind: EventType::Clock, fd, awaited });
        }
        1 => (EventType::FdRead, PollFlags::IN | PollFlags::RDHUP),
        2 => (EventType::FdWrite, PollFlags::OUT),
        _ => return Err(Errno::Inval),
    };
    let awaited = match source(fds, fd, kind) {
        Ok(Some(fd)) => {
            polled.push(PollFd::from_borrowed_fd(fd, interest));
            Awaited::Polled(polled.len() - 1)
        }
        Ok(None) => Awaited::Done(Errno::Success),
        Err(errno) => Awaited::Done(errno),
    };
    Ok(Subscription { userdata, kind, fd, awaited })
}

/// When a clock subscription comes true, on the monotonic clock.
fn deadline(clocks: &Clocks, id: u32, timeout: u64, flags: u16) -> Result<u64, Errno> {
    let clock = types::clock(id)?;
    if flags & !SUBSCRIPTION_CLOCK_ABSTIME != 0 {
        return Err(Errno::Inval);
    }
    let wait = match clock {
        Clock::Monotonic if flags != 0 => return Ok(timeout),
        Clock::Realtime if flags != 0 => timeout.saturating_sub(clocks.now_ns(Clock::Realtime)),
        Clock::Monotonic | Clock::Realtime => timeout,
        Clock::ProcessCpu | Clock::ThreadCpu => return Err(Errno::Notsup),
    };
    Ok(clocks.now_ns(Clock::Monotonic).saturating_add(wait))
}

/// The descriptor to poll, or none for what is always ready.
fn source(fds: &FdTable, fd: u32, kind: EventType) -> Result<Option<BorrowedFd<'_>>, Errno> {
    let entry = fds.get(fd)?;
    entry.require(Rights::POLL_FD_READWRITE)?;
    // Whether a listener has a connection is asked as readability.
    let listens = matches!(&entry.object, Object::Socket(socket) if socket.role() == Role::Listener);
    if !(listens && kind == EventType::FdRead) {
        entry.require(if kind == EventType::FdRead { Rights::FD_READ } else { Rights::FD_WRITE })?;
    }
    Ok(match &entry.object {
        Object::File(file) if file.kind() == FileKind::RegularFile => None,
        Object::File(file) => Some(file.fd()),
        Object::Socket(socket) => Some(socket.fd()),
        Object::Input(_) | Object::Output(_) => None,
        Object::Dir(_) => return Err(Errno::Badf),
    })
}

/// Bytes that a ready descriptor can move.
fn available(fds: &FdTable, subscription: &Subscription) -> u64 {
    if subscription.kind == EventType::FdWrite {
        return WRITABLE_BYTES;
    }
    match fds.get(subscription.fd).map(|entry| &entry.object) {
        Ok(Object::File(file)) => file.available(),
        Ok(Object::Socket(socket)) if socket.role() == Role::Connection => socket.available(),
        _ => 1,
    }
}

/// The event of a descriptor that `ppoll` found ready.
fn ready_event(fds: &FdTable, subscription: &Subscription, ready: PollFlags) -> [u8; EVENT_SIZE_BYTES as usize] {
    let error = if ready.contains(PollFlags::NVAL) { Errno::Badf } else { Errno::Success };
    let hangup = ready.intersects(PollFlags::HUP | PollFlags::RDHUP);
    let flags = if hangup { EVENT_FD_READWRITE_HANGUP } else { 0 };
    let nbytes = if error == Errno::Success { available(fds, subscription) } else { 0 };
    types::event(subscription.userdata, error, subscription.kind, nbytes, flags)
}
