//! Futures without an executor, for tests that look at each poll.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

/// Polls a future, which nobody wakes.
pub fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The output of a future that does not wait.
pub fn ready<F: Future>(future: F) -> F::Output {
    match poll_once(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// The output of a future that goes on whenever it is polled, and how many polls it took.
pub fn drive<F: Future>(future: F) -> (F::Output, u32) {
    let mut future = pin!(future);
    for polls in 1.. {
        if let Poll::Ready(output) = poll_once(future.as_mut()) {
            return (output, polls);
        }
    }
    unreachable!("it waits for ever")
}
