//! The code of host functions whose values are in registers: what [`super::entry::veneer::registers`] goes to.

use super::boundary::failed;
use super::entry::direct::Arrived;
use super::entry::veneer::registers::{RegisterCode, give_back, give_back_float};
use super::hooked_call::{HookedCall, Values, hooked_call};
use super::host::HostCall;
use super::instance::InstanceId;
use super::store::VmStore;
use crate::Caller;
use crate::call_hook::CallHook;
use crate::error::Error;
use crate::host_func::RegisterBody;
use crate::store::StoreInner;
use peregrine_artifact::vmctx::{VmContextHeader, VmStoreContext};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

/// The code of host functions with the body `B`, whose data is an `Arc<B>`, in stores of `T`.
pub(crate) fn register_code<T: 'static, B: RegisterBody<T>>() -> *const u8 {
    match B::RESULTS {
        Some(results) if results.floats != 0 => float_entry::<T, B> as RegisterCode<f64> as *const u8,
        _ => int_entry::<T, B> as RegisterCode as *const u8,
    }
}

/// How the result of a host function is given back, and the ways that are not the ordinary one. These are functions of their own that are
/// jumped to as well, so that the ordinary way keeps nothing for them.
macro_rules! entry {
    ($entry:ident, $hooked:ident, $failed:ident, $panicked:ident, $ty:ty, $of_bits:expr, $give_back:path) => {
        /// The code, for results of one class.
        ///
        /// # Safety
        ///
        /// 1. Gone to by the veneer of such functions only, with the context of a host function that was made with an `Arc<B>` in a store of
        ///    `T`, and its parameters in their registers.
        unsafe extern "C" fn $entry<T: 'static, B: RegisterBody<T>>(
            context: *mut VmContextHeader,
            i0: u64,
            i1: u64,
            i2: u64,
            i3: u64,
            i4: u64,
            f0: f64,
            f1: f64,
            f2: f64,
            f3: f64,
        ) -> $ty {
            // SAFETY: the context is that of the host function under way (1), which this is the end of in any case. Nothing installs a hook
            // while the function runs: that takes the store itself.
            unsafe {
                let vm = NonNull::new_unchecked((*context).store as *mut VmStore);
                if (*vm.as_ptr()).is_told() {
                    return $hooked::<T, B>(context, i0, i1, i2, i3, i4, f0, f1, f2, f3);
                }
                match serve::<T, B>(vm, context, Arrived::new([i0, i1, i2, i3, i4], [f0, f1, f2, f3])) {
                    Ok(Ok(bits)) => $give_back($of_bits(bits), vm.as_ptr().cast::<VmStoreContext>()),
                    Ok(Err(error)) => $failed(vm, error),
                    Err(payload) => $panicked(vm, payload),
                }
            }
        }

        #[cold]
        #[inline(never)]
        unsafe extern "C" fn $hooked<T: 'static, B: RegisterBody<T>>(
            context: *mut VmContextHeader,
            i0: u64,
            i1: u64,
            i2: u64,
            i3: u64,
            i4: u64,
            f0: f64,
            f1: f64,
            f2: f64,
            f3: f64,
        ) -> $ty {
            // SAFETY: as for the entry.
            unsafe {
                let bits = hooked::<T, B>(context, Arrived::new([i0, i1, i2, i3, i4], [f0, f1, f2, f3]));
                $give_back($of_bits(bits), (*context).store as *mut VmStoreContext)
            }
        }

        #[cold]
        #[inline(never)]
        fn $failed(vm: NonNull<VmStore>, error: Error) -> $ty {
            failed(vm, Ok(Err(error)));
            // SAFETY: the end of a host function.
            unsafe { $give_back(Default::default(), vm.as_ptr().cast::<VmStoreContext>()) }
        }

        #[cold]
        #[inline(never)]
        fn $panicked(vm: NonNull<VmStore>, payload: Box<dyn Any + Send>) -> $ty {
            failed(vm, Err(payload));
            // SAFETY: as above.
            unsafe { $give_back(Default::default(), vm.as_ptr().cast::<VmStoreContext>()) }
        }
    };
}

entry!(int_entry, int_hooked, int_failed, int_panicked, u64, std::convert::identity, give_back);
entry!(float_entry, float_hooked, float_failed, float_panicked, f64, f64::from_bits, give_back_float);

/// The store, the body and the caller of a call.
///
/// # Safety
///
/// 1. As for the entries.
#[inline(always)]
unsafe fn parts<T: 'static, B: RegisterBody<T>>(
    vm: NonNull<VmStore>,
    context: *mut VmContextHeader,
) -> (NonNull<StoreInner<T>>, NonNull<B>, Option<InstanceId>) {
    // SAFETY: while the function runs, the store belongs to it: who let the guest run gave the machine the pointer to the whole store, and
    // everything outside waits. The data is what the function was made with (1).
    unsafe {
        let call = HostCall::from_context(context);
        let host = vm.as_ref().host();
        debug_assert!(host.is_some(), "the guest runs only in a store that was lent");
        let store = host.unwrap_unchecked().cast::<StoreInner<T>>();
        (store, NonNull::from(&**std::ptr::from_ref(call.function.as_ref().data()).cast::<Arc<B>>()), call.caller)
    }
}

/// Calls the body. Gives the bits of the result.
///
/// # Safety
///
/// 1. As for the entries; `vm` is the store of the context.
#[inline(always)]
unsafe fn serve<T: 'static, B: RegisterBody<T>>(
    vm: NonNull<VmStore>,
    context: *mut VmContextHeader,
    arrived: Arrived,
) -> std::thread::Result<anyhow::Result<u64>> {
    // SAFETY: as the caller says (1); the store is borrowed by the body alone.
    unsafe {
        let (store, body, caller) = parts::<T, B>(vm, context);
        catch_unwind(AssertUnwindSafe(|| body.as_ref().call_with_registers(Caller::new(&mut *store.as_ptr(), caller), arrived)))
    }
}

/// Calls the body, and the store's hook before and after. If this has to wait, the guest is suspended. Gives the bits of the result; a
/// failure is raised.
///
/// # Safety
///
/// 1. As for the entries.
unsafe fn hooked<T: 'static, B: RegisterBody<T>>(context: *mut VmContextHeader, arrived: Arrived) -> u64 {
    // SAFETY: as the caller says (1).
    let (vm, (mut store, body, caller)) = unsafe {
        let vm = NonNull::new_unchecked((*context).store as *mut VmStore);
        (vm, parts::<T, B>(vm, context))
    };
    // SAFETY: as above; every borrow of the store ends at once.
    let outcome = catch_unwind(AssertUnwindSafe(|| unsafe {
        if store.as_ref().hook_may_wait() && vm.as_ref().task().is_some() {
            let values = Values::Own(B::to_values(arrived).into_boxed_slice());
            return hooked_call(HookedCall::new(vm, body, store, caller, values));
        }
        store.as_mut().crossing(CallHook::CallingHost)?;
        let outcome = body.as_ref().call_with_registers(Caller::new(store.as_mut(), caller), arrived);
        store.as_mut().crossing(CallHook::ReturningFromHost)?;
        outcome
    }));
    match outcome {
        Ok(Ok(bits)) => bits,
        failure => {
            failed(vm, failure.map(|outcome| outcome.map(drop)));
            0
        }
    }
}
