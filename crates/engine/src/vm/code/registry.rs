//! From a program counter to the module it is in, without locks, for signal handlers and backtraces.

use super::LoadedModule;
use peregrine_sys::forks;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone)]
struct Entry {
    text: Range<usize>,
    /// The address of a [`LoadedModule`].
    module: usize,
}

/// Loaded text, sorted by address, in chunks of bounded size, none of them empty: a change copies one chunk and the list of chunks.
#[derive(Clone, Default)]
struct Table {
    chunks: Vec<Arc<Vec<Entry>>>,
}

/// A chunk that grows beyond this is split.
const MAX_CHUNK: usize = 256;

impl Table {
    fn insert(&mut self, entry: Entry) {
        // The last chunk that begins before it, or the first one.
        let after = self.chunks.partition_point(|chunk| chunk[0].text.start <= entry.text.start);
        let position = after.saturating_sub(1);
        let Some(chunk) = self.chunks.get_mut(position) else { return self.chunks.push(Arc::new(vec![entry])) };
        let mut changed = Vec::with_capacity(chunk.len() + 1);
        changed.extend_from_slice(chunk);
        changed.insert(changed.partition_point(|other| other.text.start < entry.text.start), entry);
        let rest = (changed.len() > MAX_CHUNK).then(|| changed.split_off(changed.len() / 2));
        *chunk = Arc::new(changed);
        if let Some(rest) = rest {
            self.chunks.insert(position + 1, Arc::new(rest));
        }
    }

    fn remove(&mut self, text_start: usize) {
        let after = self.chunks.partition_point(|chunk| chunk[0].text.start <= text_start);
        let Some(position) = after.checked_sub(1) else { return };
        let others = self.chunks[position].iter().filter(|entry| entry.text.start != text_start);
        let changed: Vec<Entry> = others.cloned().collect();
        // Chunks that became small are joined, so that there are never many more than are needed.
        match self.chunks.get(position + 1) {
            Some(next) if changed.len() + next.len() <= MAX_CHUNK / 2 => {
                let joined = changed.iter().chain(&**next).cloned().collect();
                self.chunks[position] = Arc::new(joined);
                self.chunks.remove(position + 1);
            }
            _ if changed.is_empty() => drop(self.chunks.remove(position)),
            _ => self.chunks[position] = Arc::new(changed),
        }
    }

    fn find(&self, pc: usize) -> Option<*const LoadedModule> {
        let after = self.chunks.partition_point(|chunk| chunk[0].text.start <= pc);
        let chunk = &self.chunks[after.checked_sub(1)?];
        let after = chunk.partition_point(|entry| entry.text.start <= pc);
        let entry = &chunk[after.checked_sub(1)?];
        entry.text.contains(&pc).then_some(entry.module as *const LoadedModule)
    }
}

/// All loaded text. Replaced as a whole, chunks that do not change excepted; an old table is freed when no reader is left.
static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());
/// How many readers are between loading `TABLE` and being done with it.
static READERS: AtomicUsize = AtomicUsize::new(0);
/// Held while the table is replaced.
static WRITER: Mutex<()> = Mutex::new(());

/// Makes `text` known as code of `module`, which unregisters it before it is dropped.
pub(crate) fn register(text: Range<usize>, module: *const LoadedModule) {
    replace(|table| table.insert(Entry { text, module: module as usize }));
}

/// Forgets the text that begins at `text_start`.
pub(crate) fn unregister(text_start: usize) {
    replace(|table| table.remove(text_start));
}

/// The module whose text contains `pc`. Signal-safe.
///
/// The pointer is valid as long as the module is: for code that is on the stack of a call under way, its store keeps the module.
pub(crate) fn lookup(pc: usize) -> Option<*const LoadedModule> {
    READERS.fetch_add(1, Ordering::SeqCst);
    let table = TABLE.load(Ordering::SeqCst);
    // SAFETY: null, or from `Box::into_raw`. A table is freed only after it was replaced and READERS was seen at zero; this reader was
    // counted before it loaded the pointer, so the table it sees is either current or waited for. The chunks live as long as a table has them.
    let found = unsafe { table.as_ref() }.and_then(|table| table.find(pc));
    READERS.fetch_sub(1, Ordering::SeqCst);
    found
}

/// How often a writer looks for readers before it lets other threads run.
const TURNS: u32 = 64;

fn replace(change: impl FnOnce(&mut Table)) {
    // A child of the process would wait for ever for a writer or a reader that it does not have.
    forks::forget_in_child(&READERS);
    let _inside = forks::enter();
    let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    let old = TABLE.load(Ordering::SeqCst);
    // SAFETY: null, or from `Box::into_raw`; only writers free tables, and this is the only writer.
    let mut table = unsafe { old.as_ref() }.cloned().unwrap_or_default();
    change(&mut table);
    TABLE.store(Box::into_raw(Box::new(table)), Ordering::SeqCst);
    if old.is_null() {
        return;
    }
    let mut turns = 0;
    while READERS.load(Ordering::SeqCst) != 0 {
        match turns < TURNS {
            true => std::hint::spin_loop(),
            // A reader that was interrupted needs the processor.
            false => std::thread::yield_now(),
        }
        turns += 1;
    }
    // SAFETY: the table came from `Box::into_raw`, is no longer reachable, and every reader that saw it is done.
    drop(unsafe { Box::from_raw(old) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_table_of_chunks_finds_what_a_map_does() {
        let (mut table, mut map) = (Table::default(), BTreeMap::new());
        let mut state = 1u64;
        for step in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let start = (state >> 33) as usize % 4000 * 16;
            // First it grows, then it shrinks to nothing.
            let grows = (state >> 60) as usize % 16 < if step < 10_000 { 12 } else { 2 };
            if grows && !map.contains_key(&start) {
                map.insert(start, start as *const LoadedModule);
                table.insert(Entry { text: start..start + 8, module: start });
            } else if !grows {
                map.remove(&start);
                table.remove(start);
            }
            for pc in [start, start + 7, start + 8, start.wrapping_sub(9)] {
                let expected = map.range(..=pc).next_back().filter(|(start, _)| pc < *start + 8).map(|(_, module)| *module);
                assert_eq!(table.find(pc), expected, "step {step}, {pc:#x}");
            }
            assert!(table.chunks.iter().all(|chunk| (1..=MAX_CHUNK).contains(&chunk.len())));
        }
        for start in map.into_keys().collect::<Vec<_>>() {
            table.remove(start);
        }
        assert!(table.chunks.is_empty());
    }
}
