//! The debugger's registry of generated code: the JIT compilation interface of GDB, which LLDB reads too.
//!
//! The debugger sets a breakpoint on `__jit_debug_register_code` and reads the list that `__jit_debug_descriptor` starts. The engine
//! makes the object file (ELF with symbols and unwind information) and registers it here.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// `jit_actions_t` of the interface.
const NO_ACTION: u32 = 0;
const REGISTER: u32 = 1;
const UNREGISTER: u32 = 2;

/// `struct jit_code_entry` of the interface.
#[repr(C)]
struct CodeEntry {
    next: *mut CodeEntry,
    previous: *mut CodeEntry,
    object: *const u8,
    object_len_bytes: u64,
}

/// `struct jit_descriptor` of the interface.
#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut CodeEntry,
    first: *mut CodeEntry,
}

const _: () = assert!(size_of::<Descriptor>() == 24 && size_of::<CodeEntry>() == 32);

// Both symbols are weak: a process may hold another generator of code with its own definition, and then all share one list.
std::arch::global_asm!(
    ".pushsection .text.__jit_debug_register_code, \"ax\", %progbits",
    ".weak __jit_debug_register_code",
    ".type __jit_debug_register_code, %function",
    "__jit_debug_register_code:",
    "ret",
    ".size __jit_debug_register_code, . - __jit_debug_register_code",
    ".popsection",
    ".pushsection .data.__jit_debug_descriptor, \"aw\", %progbits",
    ".balign 8",
    ".weak __jit_debug_descriptor",
    ".type __jit_debug_descriptor, %object",
    "__jit_debug_descriptor:",
    ".4byte 1",
    ".4byte 0",
    ".8byte 0",
    ".8byte 0",
    ".size __jit_debug_descriptor, 24",
    ".popsection",
);

unsafe extern "C" {
    fn __jit_debug_register_code();
    static mut __jit_debug_descriptor: Descriptor;
}

/// Guards the list and the descriptor.
static LIST: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An object file that the debugger knows; dropping it makes the debugger forget it.
#[derive(Debug)]
pub struct Registration {
    entry: *mut CodeEntry,
    /// What the entry points to.
    _object: Vec<u8>,
}

// SAFETY: the entry is used under `LIST` only, whichever thread drops it.
unsafe impl Send for Registration {}
// SAFETY: a shared registration offers nothing.
unsafe impl Sync for Registration {}

/// Shows an object file (ELF, with the code's addresses as they are in memory) to the debugger.
pub fn register(object: Vec<u8>) -> Registration {
    let _guard = lock();
    let entry = Box::into_raw(Box::new(CodeEntry {
        next: std::ptr::null_mut(),
        previous: std::ptr::null_mut(),
        object: object.as_ptr(),
        object_len_bytes: object.len() as u64,
    }));
    let descriptor = &raw mut __jit_debug_descriptor;
    // SAFETY: the lock makes this the only user of the list; the entries in it live until they are unlinked.
    unsafe {
        (*entry).next = (*descriptor).first;
        if !(*entry).next.is_null() {
            (*(*entry).next).previous = entry;
        }
        (*descriptor).first = entry;
        tell(entry, REGISTER);
    }
    Registration { entry, _object: object }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _guard = lock();
        let descriptor = &raw mut __jit_debug_descriptor;
        // SAFETY: the lock makes this the only user of the list; the entry is in it, and its neighbours are alive.
        unsafe {
            let (previous, next) = ((*self.entry).previous, (*self.entry).next);
            if previous.is_null() {
                (*descriptor).first = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
            tell(self.entry, UNREGISTER);
            drop(Box::from_raw(self.entry));
        }
    }
}

/// Stops at the debugger's breakpoint with an action to read.
///
/// # Safety
/// 1. The list is locked and `entry` is alive.
unsafe fn tell(entry: *mut CodeEntry, action: u32) {
    let descriptor = &raw mut __jit_debug_descriptor;
    // SAFETY: the list is locked (1); the function does nothing but be there.
    unsafe {
        (*descriptor).relevant = entry;
        (*descriptor).action = action;
        __jit_debug_register_code();
        (*descriptor).relevant = std::ptr::null_mut();
        (*descriptor).action = NO_ACTION;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The objects in the list, newest first.
    fn listed() -> Vec<Vec<u8>> {
        let _guard = lock();
        let mut objects = Vec::new();
        // SAFETY: the list is locked, so its entries and their objects are alive.
        unsafe {
            let descriptor = &raw const __jit_debug_descriptor;
            assert_eq!((*descriptor).version, 1);
            let mut entry = (*descriptor).first;
            let mut previous = std::ptr::null_mut();
            while !entry.is_null() {
                assert_eq!((*entry).previous, previous);
                objects.push(std::slice::from_raw_parts((*entry).object, (*entry).object_len_bytes as usize).to_vec());
                (previous, entry) = (entry, (*entry).next);
            }
        }
        objects
    }

    #[test]
    fn the_list_follows_the_registrations() {
        let mut registrations: Vec<_> = (1..=3u8).map(|id| register(vec![id; id as usize])).collect();
        assert_eq!(listed(), [vec![3; 3], vec![2; 2], vec![1; 1]]);
        drop(registrations.remove(1));
        assert_eq!(listed(), [vec![3; 3], vec![1; 1]]);
        drop(registrations.remove(1));
        assert_eq!(listed(), [vec![1; 1]]);
        std::thread::spawn(move || drop(registrations)).join().unwrap();
        assert!(listed().is_empty());
    }
}
