//! What each thread is doing: which store's guest runs there, and what the thread is afterwards.
//!
//! Two words that are found by one look, as every call writes one of them twice. For `entry` alone, and through [`super::current_store`] for the
//! fault handler: everything here is signal-safe.

use crate::vm::store::VmStore;
use std::cell::Cell;
use std::ptr;

thread_local! {
    static THREAD: Thread = const { Thread { current: Cell::new(UNPREPARED), idle: Cell::new(ptr::null_mut()) } };
}

struct Thread {
    current: Cell<*mut VmStore>,
    idle: Cell<*mut VmStore>,
}

/// Of a thread that is not prepared for the faults of guests.
pub(super) const UNPREPARED: *mut VmStore = ptr::without_provenance_mut(1);

/// The store whose guest, or a host function called by it, runs on this thread. Null if none does; [`UNPREPARED`] before the first.
#[inline(always)]
pub(super) fn current() -> *mut VmStore {
    THREAD.with(|thread| thread.current.get())
}

/// Says whose guest runs from now on, and gives what was said before.
#[inline(always)]
pub(super) fn set_current(store: *mut VmStore) -> *mut VmStore {
    THREAD.with(|thread| thread.current.replace(store))
}

/// Says that no guest runs any more.
#[inline(always)]
pub(super) fn set_idle() {
    THREAD.with(|thread| thread.current.set(thread.idle.get()));
}

/// Whether the thread has to be prepared again by when no guest runs.
#[inline(always)]
pub(super) fn is_to_be_prepared() -> bool {
    THREAD.with(|thread| thread.idle.get()) == UNPREPARED
}

/// The thread is prepared from now on.
pub(super) fn prepared() {
    THREAD.with(|thread| thread.idle.set(ptr::null_mut()));
}

/// The thread has to be prepared again by when no guest runs.
pub(super) fn to_be_prepared() {
    THREAD.with(|thread| thread.idle.set(UNPREPARED));
}
