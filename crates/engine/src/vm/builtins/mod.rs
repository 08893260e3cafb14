//! The builtins' code: what [`peregrine_artifact::builtins`] promises. Compiled code reaches each through a veneer that goes to the host's
//! stack and, if something is pending when it returns, unwinds.

mod float;
mod memory;
mod slices;
mod table;
mod tiering;
mod waiting;

pub(super) use tiering::first_call;

use super::entry::veneer;
use super::fault::walk::backtrace;
use super::pending::Pending;
use super::preempt::refuel;
use super::store::VmStore;
use super::{InstanceId, VmInstance};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::vmctx::VmContextHeader;
use peregrine_wasm::Trap;
use std::ptr::NonNull;

/// The address of the array of code pointers that contexts point to.
pub(super) fn array_address() -> u64 {
    ARRAY.as_ptr() as u64
}

type Veneer = unsafe extern "C" fn();

/// Makes the array, with a veneer for each row of the table.
macro_rules! array {
    ($($(#[$doc:meta])* $name:ident($($param:ident: $ty:ident),*) $(-> $result:ident)?;)*) => {
        static ARRAY: [Veneer; Builtin::ALL.len()] = [$(array!(@veneer $name)),*];
    };
    // The one builtin whose target is not fixed, and the one that keeps all registers.
    (@veneer host_call) => { veneer::host_call };
    (@veneer out_of_fuel) => { veneer::out_of_fuel };
    (@veneer $name:ident) => {{
        veneer::veneer!($name, code::$name);
        $name
    }};
}

peregrine_artifact::for_each_builtin!(array);

/// The code, by the names of the table.
mod code {
    pub(super) use super::float::{
        f32_ceil, f32_floor, f32_fma, f32_nearest, f32_trunc, f64_ceil, f64_floor, f64_fma, f64_nearest, f64_trunc,
    };
    pub(super) use super::memory::{data_drop, memory_copy, memory_fill, memory_grow, memory_init};
    pub(super) use super::raise;
    pub(super) use super::table::{element_drop, ref_func, table_copy, table_element_init, table_fill, table_grow, table_init};
    pub(super) use super::tiering::{hot_function, hot_loop};
    pub(super) use super::waiting::{memory_atomic_notify, memory_atomic_wait32, memory_atomic_wait64};
}

/// The context that a builtin was called with.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(in crate::vm) struct Caller(NonNull<VmContextHeader>);

// SAFETY: an address; what is there is used by whoever the store is lent to.
unsafe impl Send for Caller {}

impl Caller {
    /// The store of the call.
    fn store(self) -> NonNull<VmStore> {
        // SAFETY: compiled code passes its own context, whose store pointer never changes and is the address of a `VmStore`.
        unsafe { NonNull::new_unchecked(self.0.as_ref().store as *mut VmStore) }
    }

    /// The store, borrowed for the length of one builtin.
    ///
    /// # Safety
    ///
    /// 1. No other reference into the store is held, and none is made while this one lives.
    unsafe fn store_mut<'a>(self) -> &'a mut VmStore {
        // SAFETY: the guest is stopped and the host below it holds no references across the call into it (1).
        unsafe { self.store().as_mut() }
    }

    /// The number of the calling instance.
    fn id(self) -> InstanceId {
        // SAFETY: as in `store`.
        InstanceId::from_u32(unsafe { self.0.as_ref().instance })
    }

    /// The calling instance.
    ///
    /// # Safety
    ///
    /// 1. As for [`Caller::store_mut`].
    unsafe fn instance_mut<'a>(self) -> &'a mut VmInstance {
        // SAFETY: passed on (1).
        unsafe { self.store_mut() }.instance_mut(self.id())
    }

    /// Whether the store is to stop.
    ///
    /// # Safety
    ///
    /// 1. No mutable reference into the store is held.
    unsafe fn is_interrupted(self) -> bool {
        // SAFETY: the store is not borrowed mutably (1).
        unsafe { self.store().as_ref() }.is_interrupted()
    }

    /// Raises a trap if there is one.
    fn check<T: Default>(self, result: Result<T, Trap>) -> T {
        result.unwrap_or_else(|trap| {
            self.raise(Pending::Trap(trap, Vec::new()));
            T::default()
        })
    }

    /// Records `pending`, with the backtrace of the guest.
    fn raise(self, pending: Pending) {
        // SAFETY: builtins end with this call, or hold no reference across it.
        let store = unsafe { self.store_mut() };
        let pending = match pending {
            Pending::Trap(trap, _) => Pending::Trap(trap, backtrace(store)),
            Pending::Error(error, _) => Pending::Error(error, backtrace(store)),
            panic @ Pending::Panic(_) => panic,
        };
        store.raise(pending);
    }
}

/// Ends the call with a trap.
unsafe extern "C" fn raise(caller: Caller, trap: u32) {
    let trap = u8::try_from(trap).ok().and_then(Trap::from_code).unwrap_or(Trap::UnreachableCodeReached);
    caller.raise(Pending::Trap(trap, Vec::new()));
}

/// Asks the store for more fuel, or ends the call.
pub(super) unsafe extern "C" fn out_of_fuel(caller: Caller) {
    let store = caller.store();
    // SAFETY: no reference into the store is held. The task is that of the poll under way.
    let refueled = unsafe { refuel(store, store.as_ref().task().map(|task| &mut *task.as_ptr())) };
    // SAFETY: the only reference into the store.
    let store = unsafe { caller.store_mut() };
    match refueled {
        Ok(None) => {}
        Ok(Some(wait)) => store.suspend(wait),
        Err(pending) => store.raise(pending),
    }
}
