//! Builtins for tables and function references.

use super::Caller;
use crate::vm::InstanceId;
use crate::vm::table;
use peregrine_artifact::builtins::unpack_indices;
use peregrine_wasm::{DefinedTableIndex, ElementIndex, FuncIndex, TableIndex};

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
    let grown = unsafe {
        let (owner, defined) = owner(caller, index);
        table::grow(caller.store(), owner, defined, delta, value)
    };
    match grown {
        Ok(old) => old.unwrap_or(u64::MAX),
        Err(pending) => {
            caller.raise(pending);
            0
        }
    }
}

pub(super) unsafe extern "C" fn table_fill(caller: Caller, index: u32, target: u64, value: u64, len: u64) {
    // SAFETY: the reference into the store is gone before `check`.
    let result = unsafe {
        let (owner, defined) = owner(caller, index);
        caller.store_mut().instance_mut(owner).table_mut(defined).fill(target, value, len)
    };
    caller.check(result);
}

pub(super) unsafe extern "C" fn table_copy(caller: Caller, tables: u64, target: u64, source: u64, len: u64) {
    let (target_table, source_table) = unpack_indices(tables);
    // SAFETY: no reference into the store is held.
    let result = unsafe {
        let (target_owner, target_defined) = owner(caller, target_table);
        let (source_owner, source_defined) = owner(caller, source_table);
        table::copy(caller.store(), (target_owner, target_defined, target), (source_owner, source_defined, source), len)
    };
    caller.check(result);
}

pub(super) unsafe extern "C" fn table_init(caller: Caller, table_and_element: u64, target: u64, source: u32, len: u32) {
    let (table, element) = unpack_indices(table_and_element);
    let (table, element) = (TableIndex::from_u32(table), ElementIndex::from_u32(element));
    // SAFETY: the reference into the store is gone before `check`.
    let result = unsafe { caller.store_mut() }.table_init(caller.id(), table, element, target, u64::from(source), u64::from(len));
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
