//! Who waits at which address of a shared memory: `memory.atomic.wait` and `memory.atomic.notify` of the threads proposal.
//!
//! One table for each memory. An [`InterruptPage`] holds no lock while it wakes.

use super::interrupt::{Awake, InterruptPage};
use crate::deadline::Alarm;
use peregrine_sys::forks;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How waiting ended. The numbers are what guests get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WaitResult {
    /// Another thread woke this one.
    Ok = 0,
    /// The memory did not hold the expected value.
    Mismatch = 1,
    /// Nobody came in time.
    TimedOut = 2,
}

/// The queues of those that wait, by address.
#[derive(Default)]
pub(crate) struct Parking {
    queues: Mutex<HashMap<u64, VecDeque<Arc<Parked>>>>,
}

/// One thread or task that waits.
#[derive(Default)]
struct Parked {
    changed: Condvar,
    /// Of a task. Locked under the lock of the table, or alone.
    waker: Mutex<Option<Waker>>,
    /// Written under the lock of the table by whoever takes it out of its queue.
    woken: AtomicBool,
}

impl Parked {
    fn take_waker(&self) -> Option<Waker> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type Queues<'a> = MutexGuard<'a, HashMap<u64, VecDeque<Arc<Parked>>>>;

impl Parking {
    fn lock(&self) -> Queues<'_> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes at most `count` of those that wait at `address`, the oldest first. Returns how many.
    ///
    /// # Panics
    ///
    /// If a waker does, with what the first one said, when all are woken.
    pub(super) fn notify(&self, address: u64, count: u32) -> u32 {
        let mut queues = self.lock();
        let Some(queue) = queues.get_mut(&address) else { return 0 };
        let woken = queue.len().min(count as usize);
        let mut wakers = Vec::new();
        for parked in queue.drain(..woken) {
            parked.woken.store(true, Ordering::Relaxed);
            parked.changed.notify_one();
            wakers.extend(parked.take_waker());
        }
        if queue.is_empty() {
            queues.remove(&address);
        }
        // A waker may do anything.
        drop(queues);
        let told: Vec<_> = wakers.into_iter().map(|waker| catch_unwind(AssertUnwindSafe(|| waker.wake()))).collect();
        if let Some(payload) = told.into_iter().find_map(Result::err) {
            resume_unwind(payload);
        }
        woken as u32
    }

    /// How many wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.lock().values().map(VecDeque::len).sum()
    }
}

/// A wait that began: in its queue until it is dropped, so that nobody who notifies meanwhile is missed. `O` is a memory.
pub(super) struct Waiting<O> {
    owner: Arc<O>,
    parking: fn(&O) -> &Parking,
    address: u64,
    parked: Arc<Parked>,
    until: Option<Instant>,
    /// What wakes a task for other reasons.
    others: Option<(Option<Awake>, Option<Alarm>)>,
}

/// Why a thread that waits does not sleep any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awoken {
    /// The wait is over.
    Done(WaitResult),
    /// Its store is interrupted. It may sleep on.
    Interrupted,
}

impl<O: Send + Sync + 'static> Waiting<O> {
    /// Begins to wait at `address` of the memory `owner`, whose table `parking` gives, for `timeout` at most. `None` if it does not match.
    pub(super) fn begin(
        owner: &Arc<O>,
        parking: fn(&O) -> &Parking,
        address: u64,
        matches: impl FnOnce() -> bool,
        timeout: Option<Duration>,
    ) -> Option<Self> {
        // A time beyond what the clock can say is for ever.
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // From the comparison until this is in the queue nobody can notify.
        let mut queues = parking(owner).lock();
        if !matches() {
            return None;
        }
        let parked = Arc::new(Parked::default());
        queues.entry(address).or_default().push_back(Arc::clone(&parked));
        drop(queues);
        Some(Self { owner: Arc::clone(owner), parking, address, parked, until, others: None })
    }

    /// Sleeps until woken, or the time is over, or `interrupt` is requested.
    pub(super) fn sleep(&self, interrupt: Option<&Arc<InterruptPage>>) -> Awoken {
        let parking = self.parking;
        let _awake = interrupt.map(|page| {
            let (owner, parked) = (Arc::clone(&self.owner), Arc::clone(&self.parked));
            page.wake_with(Arc::new(move || {
                // With the lock, so that the request is not missed between the look at it and the sleep.
                let _inside = forks::enter();
                let _queues = parking(&owner).lock();
                parked.changed.notify_one();
            }))
        });
        let mut queues = parking(&self.owner).lock();
        loop {
            let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            if let Some(awoken) = self.look(&mut queues, left, interrupt) {
                return awoken;
            }
            queues = match left {
                None => self.parked.changed.wait(queues).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.parked.changed.wait_timeout(queues, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// [`sleep`](Self::sleep) of a task, which is woken for the same reasons.
    ///
    /// # Errors
    ///
    /// If the system gives no thread to watch the clock.
    pub(super) fn poll(&mut self, task: &Context<'_>, interrupt: Option<&Arc<InterruptPage>>) -> anyhow::Result<Poll<Awoken>> {
        // First, so that nothing that happens after the look is missed.
        self.others = None;
        // What wakers do when they are cloned or dropped, they do with nothing locked.
        let [waker, other] = [(); 2].map(|()| task.waker().clone());
        let awake = interrupt.map(|page| page.wake_with(Arc::new(move || waker.wake_by_ref())));
        let old = self.parked.waker.lock().unwrap_or_else(PoisonError::into_inner).replace(other);
        drop(old);
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(awoken) = self.look(&mut (self.parking)(&self.owner).lock(), left, interrupt) {
            return Ok(Poll::Ready(awoken));
        }
        let alarm = self.until.map(|until| Alarm::set(until, task.waker().clone())).transpose()?;
        self.others = Some((awake, alarm));
        Ok(Poll::Pending)
    }

    /// Whether there is a reason not to sleep, with the table locked, when so much time is left.
    fn look(&self, queues: &mut Queues<'_>, left: Option<Duration>, interrupt: Option<&Arc<InterruptPage>>) -> Option<Awoken> {
        if self.parked.woken.load(Ordering::Relaxed) {
            return Some(Awoken::Done(WaitResult::Ok));
        }
        if interrupt.is_some_and(|page| page.is_requested()) {
            return Some(Awoken::Interrupted);
        }
        if left.is_some_and(|left| left.is_zero()) {
            // Nobody can wake what is about to say that nobody did.
            self.leave(queues);
            return Some(Awoken::Done(WaitResult::TimedOut));
        }
        None
    }
}

impl<O> Waiting<O> {
    fn leave(&self, queues: &mut Queues<'_>) {
        if let Some(queue) = queues.get_mut(&self.address) {
            queue.retain(|other| !Arc::ptr_eq(other, &self.parked));
            if queue.is_empty() {
                queues.remove(&self.address);
            }
        }
    }
}

impl<O> Drop for Waiting<O> {
    fn drop(&mut self) {
        self.leave(&mut (self.parking)(&self.owner).lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Cause;
    use std::thread;

    fn wait(parking: &Arc<Parking>, address: u64, timeout: Option<Duration>, page: Option<&Arc<InterruptPage>>) -> Awoken {
        Waiting::begin(parking, |parking| parking, address, || true, timeout).expect("it matches").sleep(page)
    }

    fn until_waiting(parking: &Parking, count: usize) {
        while parking.waiting() != count {
            thread::yield_now();
        }
    }

    #[test]
    fn a_mismatch_and_a_timeout_leave_nobody_behind() {
        let parking = Arc::new(Parking::default());
        assert!(Waiting::begin(&parking, |parking| parking, 8, || false, None).is_none());
        assert_eq!(wait(&parking, 8, Some(Duration::from_millis(1)), None), Awoken::Done(WaitResult::TimedOut));
        assert_eq!(wait(&parking, 8, Some(Duration::ZERO), None), Awoken::Done(WaitResult::TimedOut));
        assert_eq!(parking.waiting(), 0);
        assert_eq!(parking.notify(8, u32::MAX), 0);
    }

    #[test]
    fn as_many_are_woken_as_is_asked_for_and_only_at_that_address() {
        let parking = Arc::new(Parking::default());
        let waiters: Vec<_> = [8, 8, 8, 16]
            .into_iter()
            .map(|address| {
                let parking = Arc::clone(&parking);
                thread::spawn(move || wait(&parking, address, Some(Duration::MAX), None))
            })
            .collect();
        until_waiting(&parking, 4);
        assert_eq!(parking.notify(24, 1), 0);
        assert_eq!(parking.notify(8, 2), 2);
        until_waiting(&parking, 2);
        assert_eq!(parking.notify(8, 7), 1);
        assert_eq!(parking.notify(16, 0), 0);
        assert_eq!(parking.notify(16, u32::MAX), 1);
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Awoken::Done(WaitResult::Ok));
        }
        assert_eq!(parking.waiting(), 0);
    }

    #[test]
    fn an_interruption_ends_the_wait_whenever_it_comes() {
        let parking = Arc::new(Parking::default());
        for _ in 0..200 {
            let page = Arc::new(InterruptPage::new(None).unwrap());
            let interrupter = {
                let page = Arc::clone(&page);
                thread::spawn(move || page.raise(Cause::Time).tell().unwrap())
            };
            assert_eq!(wait(&parking, 8, None, Some(&page)), Awoken::Interrupted);
            interrupter.join().unwrap();
        }
        assert_eq!(parking.waiting(), 0);
    }
}
