//! Code pointers in function references, which other threads change: where better code of a function is made, references to it in all
//! instances of the module go to that, without the jump through the function's slot.
//!
//! A reference is part of its instance's context. The module knows the contexts that are alive, so that a thread of the tiers finds them; the
//! pointer is read and written as a whole, in any order, since the code before stays good. Nobody else may hold a Rust reference to one.

use peregrine_artifact::vmctx::{VmContextHeader, VmFuncRef};
use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The code that a reference goes to; 0 if it is not made yet.
///
/// # Safety
///
/// 1. The reference is in a context that is alive.
pub(super) unsafe fn code(func_ref: NonNull<VmFuncRef>) -> u64 {
    // SAFETY: the field is there (1), aligned, and all who share it use it as an atomic.
    unsafe { AtomicU64::from_ptr(&raw mut (*func_ref.as_ptr()).code) }.load(Ordering::Acquire)
}

/// Makes a reference, whose place is zero.
///
/// # Safety
///
/// 1. The place is in a context that is alive, and its owner's thread alone makes references there.
pub(super) unsafe fn make(place: NonNull<VmFuncRef>, func_ref: VmFuncRef) {
    let VmFuncRef { code, vmctx, type_id, reserved, enter } = func_ref;
    let place = place.as_ptr();
    // SAFETY: the place is there (1); other threads touch nothing but the code, and that only where it is not zero.
    unsafe {
        (&raw mut (*place).vmctx).write(vmctx);
        (&raw mut (*place).type_id).write(type_id);
        (&raw mut (*place).reserved).write(reserved);
        (&raw mut (*place).enter).write(enter);
        AtomicU64::from_ptr(&raw mut (*place).code).store(code, Ordering::Release);
    }
}

/// The contexts of a module's instances, in parts, so that who makes or drops an instance waits for few of them at most.
#[derive(Default)]
pub(super) struct Contexts([Mutex<HashSet<usize>>; PARTS]);

const PARTS: usize = 32;

impl Contexts {
    fn part(&self, context: NonNull<VmContextHeader>) -> MutexGuard<'_, HashSet<usize>> {
        // Contexts are pages apart, or parts of pages.
        let address = context.as_ptr() as usize;
        self.0[(address >> 6 ^ address >> 12 ^ address >> 16) % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A context is there.
    pub(super) fn add(&self, context: NonNull<VmContextHeader>) {
        self.part(context).insert(context.as_ptr() as usize);
    }

    /// A context is about to be freed.
    pub(super) fn remove(&self, context: NonNull<VmContextHeader>) {
        self.part(context).remove(&(context.as_ptr() as usize));
    }

    /// Lets the references at an offset in all contexts go to `code`, where they are made; only those that go to `from`, if that is said.
    ///
    /// # Safety
    ///
    /// 1. `offset` is that of a reference in the contexts of the module, and `code` is code of its function.
    pub(super) unsafe fn redirect(&self, offset: u32, code: u64, from: Option<u64>) {
        for part in &self.0 {
            for context in &*part.lock().unwrap_or_else(PoisonError::into_inner) {
                let place = (context + offset as usize) as *mut VmFuncRef;
                // SAFETY: contexts are alive until they are removed, which waits for the lock; the field is there (1).
                let current = unsafe { AtomicU64::from_ptr(&raw mut (*place).code) };
                match from {
                    Some(from) => _ = current.compare_exchange(from, code, Ordering::Release, Ordering::Relaxed),
                    None if current.load(Ordering::Relaxed) != 0 => current.store(code, Ordering::Release),
                    None => {}
                }
            }
        }
    }
}
