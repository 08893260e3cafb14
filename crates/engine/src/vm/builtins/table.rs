//! Builtins for tables and function references. Long operations go in slices, and stop between two of them when the store is interrupted.

use super::Caller;
use crate::vm::InstanceId;
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
    let ((owner, defined), grown) = unsafe {
        let (owner, defined) = owner(caller, index);
        // New elements are null until they are filled below, in slices.
        ((owner, defined), table::grow(caller.store(), owner, defined, delta, 0))
    };
    match grown {
        Ok(Some(old)) if value == 0 => old,
        Ok(Some(old)) => {
            // SAFETY: as in `table_fill`.
            let result = unsafe { fill(caller, owner, defined, old, value, delta) };
            caller.check(result.map(|()| old))
        }
        Ok(None) => u64::MAX,
        Err(pending) => {
            caller.raise(pending);
            0
        }
    }
}

/// Writes elements in slices.
///
/// # Safety
///
/// 1. No reference into the store is held.
unsafe fn fill(caller: Caller, owner: InstanceId, table: DefinedTableIndex, target: u64, value: u64, len: u64) -> Result<(), Trap> {
    // SAFETY: the only reference into the store (1), gone at once.
    unsafe { caller.store().as_ref() }.instance(owner).table(table).check(target, len)?;
    caller.in_slices(SLICE_ELEMENTS, len, false, |offset, slice| {
        // SAFETY: the only reference into the store (1), gone when the slice is done.
        unsafe { caller.store_mut() }.instance_mut(owner).table_mut(table).fill(target + offset, value, slice)
    })
}

pub(super) unsafe extern "C" fn table_fill(caller: Caller, index: u32, target: u64, value: u64, len: u64) {
    // SAFETY: no reference into the store is held.
    let result = unsafe {
        let (owner, defined) = owner(caller, index);
        fill(caller, owner, defined, target, value, len)
    };
    caller.check(result);
}

pub(super) unsafe extern "C" fn table_copy(caller: Caller, tables: u64, target: u64, source: u64, len: u64) {
    let (target_table, source_table) = unpack_indices(tables);
    // SAFETY: no reference into the store is held.
    let (target_owner, source_owner) = unsafe { (owner(caller, target_table), owner(caller, source_table)) };
    // SAFETY: as above.
    let checked = unsafe { table::check_copy(caller.store(), (target_owner, target), (source_owner, source), len) };
    let result = checked.and_then(|()| {
        // Away from the overlap first.
        caller.in_slices(SLICE_ELEMENTS, len, target > source, |offset, slice| {
            let target = (target_owner.0, target_owner.1, target + offset);
            let source = (source_owner.0, source_owner.1, source + offset);
            // SAFETY: as above.
            unsafe { table::copy(caller.store(), target, source, slice) }
        })
    });
    caller.check(result);
}

pub(super) unsafe extern "C" fn table_init(caller: Caller, table_and_element: u64, target: u64, source: u32, len: u32) {
    let (table, element) = unpack_indices(table_and_element);
    let (table, element) = (TableIndex::from_u32(table), ElementIndex::from_u32(element));
    let (source, len) = (u64::from(source), u64::from(len));
    // SAFETY: the only reference into the store, gone at once.
    let checked = unsafe { caller.store().as_ref() }.check_table_init(caller.id(), (table, target), (element, source), len);
    let result = checked.and_then(|()| {
        caller.in_slices(SLICE_ELEMENTS, len, false, |offset, slice| {
            // SAFETY: the only reference into the store, gone when the slice is done.
            unsafe { caller.store_mut() }.table_init(caller.id(), table, element, target + offset, source + offset, slice)
        })
    });
    caller.check(result);
}

pub(super) unsafe extern "C" fn element_drop(caller: Caller, element: u32) {
    // SAFETY: the only reference into the store.
    unsafe { caller.instance_mut() }.drop_element(ElementIndex::from_u32(element));
}

pub(super) unsafe extern "C" fn ref_func(caller: Caller, function: u32) -> u64 {
    // SAFETY: the only reference into the store.
    unsafe { caller.store_mut() }.ref_func(caller.id(), FuncIndex::from_u32(function))
}
