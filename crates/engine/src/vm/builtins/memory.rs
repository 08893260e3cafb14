//! Builtins for memories. Long operations go in slices, and stop between two of them when the store is interrupted.

use super::Caller;
use super::slices::Range;
use crate::vm::growth::{Grown, after_asking, raising};
use crate::vm::memory::{self, check_range};
use peregrine_artifact::builtins::unpack_indices;
use peregrine_wasm::{DataIndex, MemoryIndex};

/// What a slice of a long operation copies at most.
const SLICE_BYTES: u64 = 256 << 10;

/// The first byte and the length of a memory of the calling instance.
///
/// # Safety
///
/// 1. No mutable reference into the store is held.
unsafe fn span(caller: Caller, index: u32) -> (*mut u8, usize) {
    // SAFETY: the store is not borrowed mutably (1).
    let store = unsafe { caller.store().as_ref() };
    let (owner, defined) = store.instance(caller.id()).memory_origin(MemoryIndex::from_u32(index));
    let memory = store.instance(owner).memory(defined);
    (memory.base(), memory.len_bytes())
}

pub(super) unsafe extern "C" fn memory_grow(caller: Caller, index: u32, delta: u64) -> u64 {
    // SAFETY: no reference into the store is held.
    let (owner, defined) = unsafe { caller.store().as_ref() }.instance(caller.id()).memory_origin(MemoryIndex::from_u32(index));
    // SAFETY: as above.
    let measure = move || unsafe { memory::measure(caller.store(), (owner, defined), delta) };
    // SAFETY: as above.
    let grow = move |growth| unsafe { memory::grow(caller.store(), (owner, defined), delta, growth) }.map(|old| old.unwrap_or(u64::MAX));
    // SAFETY: as above.
    let answered = unsafe { after_asking(caller.store(), measure, move |growth| grow(growth).map(Grown::Done)) };
    answered.unwrap_or_else(|| raising(caller.store(), || grow(measure())).unwrap_or(0))
}

pub(super) unsafe extern "C" fn memory_copy(caller: Caller, memories: u64, target: u64, source: u64, len: u64) {
    let (target_memory, source_memory) = unpack_indices(memories);
    // SAFETY: no reference into the store is held.
    let (target_base, target_len) = unsafe { span(caller, target_memory) };
    let (source_base, source_len) = match source_memory == target_memory {
        true => (target_base, target_len),
        // SAFETY: as above.
        false => unsafe { span(caller, source_memory) },
    };
    let ranges = check_range(target, len, target_len).and_then(|target| Ok((target, check_range(source, len, source_len)?)));
    let (target, source) = match ranges {
        Ok(ranges) => ranges,
        Err(trap) => return caller.check(Err(trap)),
    };
    // Slices go away from the overlap, as bytes would.
    let is_backward = (target_base as usize + target.start) > (source_base as usize + source.start);
    let (target, source) = (target_base as usize + target.start, source_base as usize + source.start);
    caller.in_slices(Range { slice_len: SLICE_BYTES, len, is_backward }, 0, move |offset, slice| {
        let offset = offset as usize;
        // SAFETY: both ranges were checked before; memories do not shrink, and do not move while the guest is in this builtin. `copy` allows overlap.
        unsafe { std::ptr::copy((source + offset) as *const u8, (target + offset) as *mut u8, slice as usize) };
        Ok(())
    });
}

pub(super) unsafe extern "C" fn memory_fill(caller: Caller, index: u32, target: u64, value: u32, len: u64) {
    // SAFETY: no reference into the store is held.
    let (base, memory_len) = unsafe { span(caller, index) };
    let range = match check_range(target, len, memory_len) {
        Ok(range) => range,
        Err(trap) => return caller.check(Err(trap)),
    };
    let start = base as usize + range.start;
    caller.in_slices(Range { slice_len: SLICE_BYTES, len, is_backward: false }, 0, move |offset, slice| {
        // SAFETY: the range was checked before; memories do not shrink, and do not move while the guest is in this builtin.
        unsafe { std::ptr::write_bytes((start + offset as usize) as *mut u8, value as u8, slice as usize) };
        Ok(())
    });
}

pub(super) unsafe extern "C" fn memory_init(caller: Caller, memory_and_data: u64, target: u64, source: u32, len: u32) {
    let (memory, data) = unpack_indices(memory_and_data);
    let (memory, data) = (MemoryIndex::from_u32(memory), DataIndex::from_u32(data));
    // SAFETY: no reference into the store is held.
    let (_, memory_len) = unsafe { span(caller, memory.as_u32()) };
    let (source, len) = (u64::from(source), u64::from(len));
    // SAFETY: as above.
    let in_segment = unsafe { caller.store().as_ref() }.check_data(caller.id(), data, source, len);
    if let Err(trap) = check_range(target, len, memory_len).and(in_segment) {
        return caller.check(Err(trap));
    }
    caller.in_slices(Range { slice_len: SLICE_BYTES, len, is_backward: false }, 0, move |offset, slice| {
        // SAFETY: the only reference into the store, gone when the slice is done.
        let store = unsafe { caller.store_mut() };
        // The segment may have been dropped in an interruption.
        store.check_data(caller.id(), data, source + offset, len - offset)?;
        store.memory_init(caller.id(), memory, data, target + offset, source + offset, slice)
    });
}

pub(super) unsafe extern "C" fn data_drop(caller: Caller, data: u32) {
    // SAFETY: the only reference into the store.
    unsafe { caller.instance_mut() }.drop_data(DataIndex::from_u32(data));
}
