//! Builtins for tables and function references. Long operations go in slices, and stop between two of them when the store is interrupted.

use super::Caller;
use super::slices::Range;
use crate::vm::InstanceId;
use crate::vm::growth::{Grown, Growth, after_asking, raising};
use crate::vm::table;
use peregrine_artifact::builtins::unpack_indices;
use peregrine_wasm::{DefinedTableIndex, ElementIndex, FuncIndex, TableIndex, Trap};

/// How many elements a long operation writes before it looks whether it shall stop.
const SLICE_ELEMENTS: u64 = 1 << 16;

/// The owner of a table of the calling instance.
///
/// # Safety
///
/// 1. No mutable reference into the store is held.
unsafe fn owner(caller: Caller, index: u32) -> (InstanceId, DefinedTableIndex) {
    // SAFETY: the store is not borrowed mutably (1).
    unsafe { caller.store().as_ref() }.instance(caller.id()).table_origin(TableIndex::from_u32(index))
}

pub(super) unsafe extern "C" fn table_element_init(caller: Caller, index: u32, element: u64) -> u64 {
    // SAFETY: no reference into the store is held but this one, gone at the end.
    let (owner, defined) = unsafe { owner(caller, index) };
    // SAFETY: as above.
    unsafe { caller.store_mut() }.instance_mut(owner).table_get(defined, element).unwrap_or(0)
}

pub(super) unsafe extern "C" fn table_grow(caller: Caller, index: u32, delta: u64, value: u64) -> u64 {
    // SAFETY: no reference into the store is held.
    let (owner, defined) = unsafe { owner(caller, index) };
    // SAFETY: as above.
    let measure = move || Growth::growing_table(unsafe { caller.store().as_ref() }.instance(owner).table(defined), delta);
    // New elements are null until they are filled below, in slices.
    // SAFETY: as above.
    let grow = move || unsafe { table::grow(caller.store(), owner, defined, delta, 0) };
    // What has grown is paid for in slices too, null or not.
    let is_long = move || value != 0 || caller.counts_fuel();
    let answered = move |_| {
        Ok(match grow()? {
            Some(old) if is_long() => {
                // SAFETY: as above.
                let work = unsafe { filling_new(caller, (owner, defined), old, value) };
                Grown::Filling(Box::pin(caller.slices(range(delta), old, work)))
            }
            grown => Grown::Done(grown.unwrap_or(u64::MAX)),
        })
    };
    // SAFETY: as above.
    if let Some(result) = unsafe { after_asking(caller.store(), measure, answered) } {
        return result;
    }
    match raising(caller.store(), grow) {
        // SAFETY: as above.
        Some(Some(old)) if is_long() => caller.in_slices(range(delta), old, unsafe { filling_new(caller, (owner, defined), old, value) }),
        Some(grown) => grown.unwrap_or(u64::MAX),
        None => 0,
    }
}

/// So many elements, first to last.
fn range(len: u64) -> Range {
    Range { slice_len: SLICE_ELEMENTS, len, is_backward: false }
}

/// What writes `value` to a slice of the elements from `target` on.
///
/// # Safety
///
/// 1. When it is called, no reference into the store is held.
unsafe fn filling(
    caller: Caller,
    (owner, table): (InstanceId, DefinedTableIndex),
    target: u64,
    value: u64,
) -> impl FnMut(u64, u64) -> Result<(), Trap> + Send + Unpin + 'static {
    move |offset, slice| {
        // SAFETY: the only reference into the store (1), gone when the slice is done.
        unsafe { caller.store_mut() }.instance_mut(owner).table_mut(table).fill(target + offset, value, slice)
    }
}

/// [`filling`] of elements that are null so far.
///
/// # Safety
///
/// 1. As for [`filling`].
unsafe fn filling_new(
    caller: Caller,
    place: (InstanceId, DefinedTableIndex),
    target: u64,
    value: u64,
) -> impl FnMut(u64, u64) -> Result<(), Trap> + Send + Unpin + 'static {
    // SAFETY: passed on (1).
    let mut fill = unsafe { filling(caller, place, target, value) };
    move |offset, slice| if value == 0 { Ok(()) } else { fill(offset, slice) }
}

pub(super) unsafe extern "C" fn table_fill(caller: Caller, index: u32, target: u64, value: u64, len: u64) {
    // SAFETY: no reference into the store is held.
    let (owner, table) = unsafe { owner(caller, index) };
    // SAFETY: as above.
    let checked = unsafe { caller.store().as_ref() }.instance(owner).table(table).check(target, len);
    if let Err(trap) = checked {
        return caller.check(Err(trap));
    }
    // SAFETY: as above.
    caller.in_slices(range(len), 0, unsafe { filling(caller, (owner, table), target, value) });
}

pub(super) unsafe extern "C" fn table_copy(caller: Caller, tables: u64, target: u64, source: u64, len: u64) {
    let (target_table, source_table) = unpack_indices(tables);
    // SAFETY: no reference into the store is held.
    let (target_owner, source_owner) = unsafe { (owner(caller, target_table), owner(caller, source_table)) };
    // SAFETY: as above.
    let checked = unsafe { table::check_copy(caller.store(), (target_owner, target), (source_owner, source), len) };
    if let Err(trap) = checked {
        return caller.check(Err(trap));
    }
    // Away from the overlap first.
    caller.in_slices(Range { slice_len: SLICE_ELEMENTS, len, is_backward: target > source }, 0, move |offset, slice| {
        let target = (target_owner.0, target_owner.1, target + offset);
        let source = (source_owner.0, source_owner.1, source + offset);
        // SAFETY: as above.
        unsafe { table::copy(caller.store(), target, source, slice) }
    });
}

pub(super) unsafe extern "C" fn table_init(caller: Caller, table_and_element: u64, target: u64, source: u32, len: u32) {
    let (table, element) = unpack_indices(table_and_element);
    let (table, element) = (TableIndex::from_u32(table), ElementIndex::from_u32(element));
    let (source, len) = (u64::from(source), u64::from(len));
    // SAFETY: the only reference into the store, gone at once.
    let checked = unsafe { caller.store().as_ref() }.check_table_init(caller.id(), (table, target), (element, source), len);
    if let Err(trap) = checked {
        return caller.check(Err(trap));
    }
    caller.in_slices(Range { slice_len: SLICE_ELEMENTS, len, is_backward: false }, 0, move |offset, slice| {
        // SAFETY: the only reference into the store, gone when the slice is done.
        unsafe { caller.store_mut() }.table_init(caller.id(), table, element, target + offset, source + offset, slice)
    });
}

pub(super) unsafe extern "C" fn element_drop(caller: Caller, element: u32) {
    // SAFETY: the only reference into the store.
    unsafe { caller.instance_mut() }.drop_element(ElementIndex::from_u32(element));
}

pub(super) unsafe extern "C" fn ref_func(caller: Caller, function: u32) -> u64 {
    // SAFETY: the only reference into the store.
    unsafe { caller.store_mut() }.ref_func(caller.id(), FuncIndex::from_u32(function))
}
