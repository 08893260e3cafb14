//! What compiled code tells the engine while it runs: that a function without code is called, that a function or a loop in it is hot.

use super::Caller;
use crate::tiering;
use crate::vm::code::LoadedModule;
use crate::vm::entry::lazy;
use crate::vm::growth::raising;
use crate::vm::pending::Pending;
use peregrine_artifact::builtins::unpack_indices;
use peregrine_artifact::compiler::LoopEntry;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex};
use std::sync::Arc;

/// The module of the calling instance.
///
/// # Safety
///
/// 1. No mutable reference into the store is held.
unsafe fn module_of(caller: Caller) -> Arc<LoadedModule> {
    // SAFETY: the store is not borrowed mutably (1).
    let module = unsafe { caller.store().as_ref() }.instance(caller.id()).module();
    module.to_arc().expect("a module is alive while an instance of it is")
}

/// Has the function compiled that was called through its slot; `mark` is that of its thunk, `callee` the context it is called with. Returns
/// the code to go on with; if there is none, something is pending.
///
/// # Safety
///
/// 1. Called by the veneer for such calls.
pub(in crate::vm) unsafe extern "C" fn first_call(callee: Caller, mark: u64) -> u64 {
    // SAFETY: no reference into the store is held.
    let module = unsafe { module_of(callee) };
    let index = FuncIndex::from_u32(lazy::function_of(mark));
    // A panic, of a collector of events for one, goes on in the host that called.
    let code = raising(callee.store(), || {
        let code = match module.module().defined_func_index(index) {
            Some(function) => tiering::first_call(&module, function),
            None => Err(anyhow::anyhow!("internal error: imported function {} was called through a slot", index.as_u32())),
        };
        code.map_err(|error| Pending::Error(error, Vec::new()))
    });
    code.map_or(0, |code| code as u64)
}

/// See the table.
///
/// # Safety
///
/// 1. Called by compiled code, through the veneer.
pub(super) unsafe extern "C" fn hot_function(caller: Caller, function: u32) {
    // SAFETY: no reference into the store is held.
    let module = unsafe { module_of(caller) };
    raising(caller.store(), || {
        tiering::hot_function(&module, DefinedFuncIndex::from_u32(function));
        Ok(())
    });
}

/// See the table.
///
/// # Safety
///
/// 1. Called by compiled code, through the veneer.
pub(super) unsafe extern "C" fn hot_loop(caller: Caller, function_and_loop: u64, _homes: *const u8, layout: u32) -> u64 {
    // SAFETY: no reference into the store is held.
    let module = unsafe { module_of(caller) };
    let (function, offset) = unpack_indices(function_and_loop);
    let entry = LoopEntry { offset, homes: layout };
    let code = raising(caller.store(), || Ok(tiering::hot_loop(&module, DefinedFuncIndex::from_u32(function), entry)));
    code.flatten().map_or(0, |code| code as u64)
}
