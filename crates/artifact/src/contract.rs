//! What code expects from the engine, in one number: the builtins and their types, the layouts of contexts and of what is beside images, and
//! the constants of the convention.
//!
//! It is part of the [format version](crate::image::FORMAT_VERSION), so that an image is refused by an engine of another contract, also where raising
//! the version was forgotten. What code expects beyond layouts, the meaning of builtins for example, is not in it.

use crate::abi;
use crate::builtins::{Builtin, BuiltinType};
use crate::image::{BUDGET_CALLS_OFFSET, BUDGET_SIZE_BYTES, CELL_SIZE_BYTES, SLOT_SIZE_BYTES};
use crate::vmctx::{
    CALL_CELL_MAX_OTHERS, CALL_CELL_TARGETS, FUNC_ELEMENT_INITIALIZED, FUNC_ELEMENT_SIZE_BYTES, HANDLE_ELEMENT_SIZE_BYTES, VmContextHeader,
    VmFuncRef, VmStoreContext,
};
use std::mem::{offset_of, size_of};

/// The number. FNV-1a over words.
pub const CONTRACT_HASH: u64 = {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut position = 0;
    while position < Builtin::ALL.len() {
        let builtin = Builtin::ALL[position];
        hash = add_bytes(hash, builtin.name().as_bytes());
        let params = builtin.params();
        let mut param = 0;
        while param < params.len() {
            hash = add_type(hash, params[param]);
            param += 1;
        }
        hash = match builtin.result() {
            Some(ty) => add_type(add(hash, 1), ty),
            None => add(hash, 0),
        };
        position += 1;
    }
    let words = [
        abi::VALUE_SIZE_BYTES as u64,
        abi::MOST_KEPT_LOCALS as u64,
        abi::MOST_HOMES_BY_INDEX as u64,
        abi::KEPT_LOCAL_BYTES as u64,
        abi::KEPT_MARK as u64,
        abi::KEPT_MARK_OFFSET as u64,
        abi::KEPT_HEADER_BYTES as u64,
        abi::UNCHECKED_BULK_LEN,
        SLOT_SIZE_BYTES,
        BUDGET_SIZE_BYTES,
        BUDGET_CALLS_OFFSET,
        CELL_SIZE_BYTES,
        CALL_CELL_MAX_OTHERS as u64,
        CALL_CELL_TARGETS as u64,
        FUNC_ELEMENT_INITIALIZED,
        FUNC_ELEMENT_SIZE_BYTES as u64,
        HANDLE_ELEMENT_SIZE_BYTES as u64,
        size_of::<VmContextHeader>() as u64,
        offset_of!(VmContextHeader, magic) as u64,
        offset_of!(VmContextHeader, instance) as u64,
        offset_of!(VmContextHeader, store) as u64,
        offset_of!(VmContextHeader, builtins) as u64,
        offset_of!(VmContextHeader, type_ids) as u64,
        offset_of!(VmContextHeader, owner) as u64,
        offset_of!(VmContextHeader, interrupt_page) as u64,
        size_of::<VmStoreContext>() as u64,
        offset_of!(VmStoreContext, exit_fp) as u64,
        offset_of!(VmStoreContext, host_sp) as u64,
        offset_of!(VmStoreContext, guest_stack_top) as u64,
        offset_of!(VmStoreContext, guest_stack_limit) as u64,
        offset_of!(VmStoreContext, pending) as u64,
        offset_of!(VmStoreContext, fuel_consumed) as u64,
        offset_of!(VmStoreContext, counts_fuel) as u64,
        size_of::<VmFuncRef>() as u64,
        offset_of!(VmFuncRef, code) as u64,
        offset_of!(VmFuncRef, vmctx) as u64,
        offset_of!(VmFuncRef, type_id) as u64,
        offset_of!(VmFuncRef, enter) as u64,
    ];
    let mut position = 0;
    while position < words.len() {
        hash = add(hash, words[position]);
        position += 1;
    }
    hash
};

const fn add(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3)
}

const fn add_type(hash: u64, ty: BuiltinType) -> u64 {
    add(hash, ty as u64 + 2)
}

const fn add_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut position = 0;
    while position < bytes.len() {
        hash = add(hash, bytes[position] as u64);
        position += 1;
    }
    add(hash, 0x100)
}
