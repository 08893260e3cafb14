//! From a program counter to the module it is in, without locks, for signal handlers and backtraces.

use super::LoadedModule;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Clone)]
struct Entry {
    text: Range<usize>,
    module: *const LoadedModule,
}

/// All loaded text, sorted by address. Replaced as a whole; an old table is freed when no reader is left.
static TABLE: AtomicPtr<Vec<Entry>> = AtomicPtr::new(ptr::null_mut());
/// How many readers are between loading `TABLE` and being done with it.
static READERS: AtomicUsize = AtomicUsize::new(0);
/// Held while the table is replaced.
static WRITER: Mutex<()> = Mutex::new(());

/// Makes `text` known as code of `module`, which unregisters it before it is dropped.
pub(crate) fn register(text: Range<usize>, module: *const LoadedModule) {
    replace(|entries| {
        let position = entries.partition_point(|entry| entry.text.start < text.start);
        entries.insert(position, Entry { text, module });
    });
}

/// Forgets the text that begins at `text_start`.
pub(crate) fn unregister(text_start: usize) {
    replace(|entries| entries.retain(|entry| entry.text.start != text_start));
}

/// The module whose text contains `pc`. Signal-safe.
///
/// The pointer is valid as long as the module is: for code that is on the stack of a call under way, its store keeps the module.
pub(crate) fn lookup(pc: usize) -> Option<*const LoadedModule> {
    READERS.fetch_add(1, Ordering::SeqCst);
    let table = TABLE.load(Ordering::SeqCst);
    let found = if table.is_null() {
        None
    } else {
        // SAFETY: a table is freed only after it was replaced and READERS was seen at zero; this reader was counted before it
        // loaded the pointer, so the table it sees is either current or waited for.
        let entries = unsafe { &*table };
        let after = entries.partition_point(|entry| entry.text.start <= pc);
        after.checked_sub(1).map(|position| &entries[position]).filter(|entry| entry.text.contains(&pc)).map(|entry| entry.module)
    };
    READERS.fetch_sub(1, Ordering::SeqCst);
    found
}

fn replace(change: impl FnOnce(&mut Vec<Entry>)) {
    let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    let old = TABLE.load(Ordering::SeqCst);
    // SAFETY: only writers free tables, and this is the only writer.
    let mut entries = if old.is_null() { Vec::new() } else { unsafe { (*old).clone() } };
    change(&mut entries);
    TABLE.store(Box::into_raw(Box::new(entries)), Ordering::SeqCst);
    if old.is_null() {
        return;
    }
    while READERS.load(Ordering::SeqCst) != 0 {
        std::hint::spin_loop();
    }
    // SAFETY: the table came from `Box::into_raw`, is no longer reachable, and every reader that saw it is done.
    drop(unsafe { Box::from_raw(old) });
}
