//! What is known of code that was made while the module ran: a list by rising address that only grows, and is read without locks, from
//! signal handlers too.

use peregrine_artifact::tables;
use peregrine_artifact::tables::addresses::Frame;
use peregrine_wasm::{DefinedFuncIndex, Trap};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// What a piece of code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BlobKind {
    /// A function, of the baseline.
    Baseline,
    /// A function, of the optimizing tier.
    Optimized,
    /// A function from a loop on, of the optimizing tier.
    LoopEntry,
}

/// One piece of code.
pub(crate) struct Blob {
    /// The address of the code.
    pub(crate) start: usize,
    /// Bytes of code.
    pub(crate) len: u32,
    /// The function.
    pub(crate) function: DefinedFuncIndex,
    /// What of the function.
    pub(crate) kind: BlobKind,
    /// The trap stream, then the address stream.
    tables: Box<[u8]>,
    traps_len: u32,
}

impl Blob {
    /// The description of code at `start`.
    pub(crate) fn new(
        start: usize,
        len: u32,
        function: DefinedFuncIndex,
        kind: BlobKind,
        traps: &[(u32, Trap)],
        addresses: &[(u32, u32)],
    ) -> Self {
        let mut streams = Vec::with_capacity(traps.len() * 2 + addresses.len() * 3);
        tables::traps::encode(traps, &mut streams);
        let traps_len = streams.len() as u32;
        tables::addresses::encode(addresses, &mut streams);
        Self { start, len, function, kind, tables: streams.into(), traps_len }
    }

    /// Why the instruction at `pc` traps, if it does. Signal-safe.
    pub(crate) fn trap_at(&self, pc: usize) -> Option<Trap> {
        tables::traps::lookup(self.tables.get(..self.traps_len as usize)?, (pc - self.start) as u32)
    }

    /// The calls that the code at `pc` belongs to, newest first.
    pub(crate) fn frames_at(&self, pc: usize) -> Vec<Frame> {
        let stream = self.tables.get(self.traps_len as usize..).unwrap_or_default();
        tables::addresses::frames(stream, (pc - self.start) as u32)
    }
}

/// The list. Items never move.
pub(crate) struct Blobs {
    chunks: [AtomicPtr<Blob>; CHUNKS],
    /// How many items there are. Stored after the item is written; loaded before items are read.
    len: AtomicUsize,
}

/// Chunk `n` has `FIRST_CHUNK << n` items.
const FIRST_CHUNK: usize = 32;
const CHUNKS: usize = 28;

impl Blobs {
    /// No code.
    pub(crate) fn new() -> Self {
        Self { chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS], len: AtomicUsize::new(0) }
    }

    /// The chunk of an item, and its position there.
    fn place(position: usize) -> (usize, usize) {
        let chunk = (position / FIRST_CHUNK + 1).ilog2() as usize;
        (chunk, position - FIRST_CHUNK * ((1 << chunk) - 1))
    }

    /// Adds an item.
    ///
    /// # Safety
    ///
    /// 1. One caller at a time.
    ///
    /// # Panics
    ///
    /// If its code is not beyond that of all others.
    pub(crate) unsafe fn push(&self, blob: Blob) {
        let len = self.len.load(Ordering::Relaxed);
        if let Some(last) = len.checked_sub(1).map(|last| self.get(last)) {
            assert!(last.start + last.len as usize <= blob.start, "code is added by rising address");
        }
        let (chunk, position) = Self::place(len);
        let mut items = self.chunks[chunk].load(Ordering::Relaxed);
        if items.is_null() {
            let fresh: Vec<Blob> = Vec::with_capacity(FIRST_CHUNK << chunk);
            items = std::mem::ManuallyDrop::new(fresh).as_mut_ptr();
            self.chunks[chunk].store(items, Ordering::Relaxed);
        }
        // SAFETY: the chunk has room for its items, and nobody reads or writes this one before `len` says that it is there (1).
        unsafe { items.add(position).write(blob) };
        self.len.store(len + 1, Ordering::Release);
    }

    /// How many items there are.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    fn get(&self, position: usize) -> &Blob {
        let (chunk, position) = Self::place(position);
        // SAFETY: callers ask for items below a length that they loaded, and those are written and never change. Their chunk was stored before.
        unsafe { &*self.chunks[chunk].load(Ordering::Relaxed).add(position) }
    }

    /// The code that contains `pc`. Signal-safe.
    pub(crate) fn find(&self, pc: usize) -> Option<&Blob> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).start <= pc { low = middle + 1 } else { high = middle }
        }
        let blob = self.get(low.checked_sub(1)?);
        (pc - blob.start < blob.len as usize).then_some(blob)
    }

    /// All items so far.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Blob> {
        (0..self.len()).map(|position| self.get(position))
    }
}

impl Drop for Blobs {
    fn drop(&mut self) {
        let len = *self.len.get_mut();
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            let items = *chunk.get_mut();
            if items.is_null() {
                break;
            }
            let capacity = FIRST_CHUNK << number;
            let before = FIRST_CHUNK * ((1 << number) - 1);
            // SAFETY: the chunk came from a vector of this capacity, and so many of its items were written.
            drop(unsafe { Vec::from_raw_parts(items, (len - before).min(capacity), capacity) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peregrine_wasm::Index;

    fn blob(number: usize) -> Blob {
        let function = DefinedFuncIndex::from_usize(number);
        Blob::new(number * 100, 50, function, BlobKind::Baseline, &[(7, Trap::IntegerOverflow)], &[(4, 1), (9, 5)])
    }

    #[test]
    fn code_is_found_by_address_while_more_is_added() {
        const COUNT: usize = 5000;
        let blobs = Blobs::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while blobs.len() < COUNT {
                    for (position, blob) in blobs.iter().enumerate() {
                        assert_eq!(blob.start, position * 100);
                    }
                    std::thread::yield_now();
                }
            });
            for number in 0..COUNT {
                // SAFETY: this thread alone adds.
                unsafe { blobs.push(blob(number)) };
                let found = blobs.find(number * 100 + 49).unwrap();
                assert_eq!(found.function.as_usize(), number);
                assert!(blobs.find(number * 100 + 50).is_none());
            }
        });
        for number in 0..COUNT {
            let found = blobs.find(number * 100 + 7).unwrap();
            assert_eq!((found.function.as_usize(), found.trap_at(number * 100 + 7)), (number, Some(Trap::IntegerOverflow)));
            assert_eq!([3, 8, 9].map(|offset| found.frames_at(number * 100 + offset)[0].offset), [1, 1, 5]);
        }
    }
}
