//! Recursion that goes through the host. The guest's stack does not bound it, as the host needs more per turn than the guest: the host's stack
//! does, and where it is not known, a count.
//!
//! Called wherever a guest is entered or what it waits for is polled.

use super::current_store;
use crate::vm::fault;
use crate::vm::pending::Pending;
use crate::vm::store::VmStore;
use peregrine_sys::threads;
use peregrine_wasm::Trap;
use std::ptr::NonNull;

/// What the host's stack must have left when a host function calls a guest, for the next host function, a backtrace and a panic.
const HOST_RESERVE_BYTES: usize = 256 << 10;

/// How many activations of guests may be on the way to here, beside the outermost one, on a stack that is not the thread's own, such as a
/// coroutine's: nobody says how long that is. With the host functions between them they take some 2 KiB each.
pub(in crate::vm) const MOST_ON_UNKNOWN_STACKS: u32 = 64;

/// Having gone deeper; what was counted for it is taken back when it is dropped.
#[must_use]
pub(in crate::vm) struct Deeper(Option<(NonNull<VmStore>, u32)>);

impl Drop for Deeper {
    fn drop(&mut self) {
        if let Some((store, depth)) = self.0 {
            // SAFETY: the store is lent to who went deeper, which is over now.
            unsafe { (*store.as_ptr()).unknown_depth = depth };
        }
    }
}

/// Refuses to go deeper for want of room on the host's stack, if there is a guest on the way to here.
///
/// # Errors
///
/// [`Trap::StackOverflow`].
///
/// # Safety
///
/// 1. `store` is valid, and no mutable reference into it is held. It stays valid until the result is dropped.
#[inline]
pub(in crate::vm) unsafe fn go_deeper(store: NonNull<VmStore>) -> Result<Deeper, Pending> {
    let outer = current_store();
    // SAFETY: as the caller says (1).
    let is_nested = unsafe { (*store.as_ptr()).context.exit_fp != 0 } || !outer.is_null();
    if !is_nested {
        return Ok(Deeper(None));
    }
    let deeper = match threads::stack_left() {
        Some((left_bytes, all_bytes)) => (left_bytes >= HOST_RESERVE_BYTES.min(all_bytes / 4)).then_some(Deeper(None)),
        // SAFETY: as above.
        None => unsafe { count(store, outer) },
    };
    // SAFETY: as above.
    deeper.ok_or_else(|| Pending::Trap(Trap::StackOverflow, unsafe { fault::walk::backtrace(&*store.as_ptr()) }))
}

/// Counts one activation more; `None` if there are too many.
///
/// # Safety
///
/// 1. As for [`go_deeper`]; `outer` is null or the store whose guest is on the way to here.
#[cold]
unsafe fn count(store: NonNull<VmStore>, outer: *mut VmStore) -> Option<Deeper> {
    // SAFETY: a store whose guest is on the way to here is lent to that call, and only this field is read (1).
    let below = if outer.is_null() { 0 } else { unsafe { (*outer).unknown_depth } };
    // SAFETY: as the caller says (1).
    let own = unsafe { &mut (*store.as_ptr()).unknown_depth };
    let depth = below.max(*own) + 1;
    if depth > MOST_ON_UNKNOWN_STACKS {
        return None;
    }
    Some(Deeper(Some((store, std::mem::replace(own, depth)))))
}
