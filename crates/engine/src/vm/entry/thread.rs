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

/// What is said of this thread. The look for it is all that has to be inlined from elsewhere: calls cannot afford one of their own for it.
#[inline(always)]
fn this() -> &'static Thread {
    let thread = THREAD.with(ptr::from_ref);
    // SAFETY: it is there as long as the thread, having no destructor; nobody keeps the reference, or sends it, as cells are not shared.
    unsafe { &*thread }
}

/// Of a thread that is not prepared for the faults of guests.
pub(super) const UNPREPARED: *mut VmStore = ptr::without_provenance_mut(1);

/// The store whose guest, or a host function called by it, runs on this thread. Null if none does; [`UNPREPARED`] before the first.
#[inline(always)]
pub(super) fn current() -> *mut VmStore {
    this().current.get()
}

/// Says whose guest runs from now on, and gives what was said before.
#[inline(always)]
pub(super) fn set_current(store: *mut VmStore) -> *mut VmStore {
    this().current.replace(store)
}

/// Says that no guest runs any more.
#[inline(always)]
pub(super) fn set_idle() {
    let thread = this();
    thread.current.set(thread.idle.get());
}

/// Whether the thread has to be prepared again by when no guest runs.
#[inline(always)]
pub(super) fn is_to_be_prepared() -> bool {
    this().idle.get() == UNPREPARED
}

/// The thread is prepared from now on.
pub(super) fn prepared() {
    this().idle.set(ptr::null_mut());
}

/// The thread has to be prepared again by when no guest runs.
pub(super) fn to_be_prepared() {
    this().idle.set(UNPREPARED);
}
