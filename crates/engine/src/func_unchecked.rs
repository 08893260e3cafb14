//! Host functions on raw values: no conversion and no check between the guest and the closure. For generators of bindings.

use crate::caller::Caller;
use crate::context::AsContextMut;
use crate::error::Result;
use crate::host_func::{HostBody, HostFunc, IntoFunc};
use crate::{Func, FuncType, Val, ValRaw};
use std::mem::MaybeUninit;

struct Unchecked<F> {
    slots: usize,
    func: F,
}

impl<T: 'static, F> HostBody<T> for Unchecked<F>
where
    F: Fn(Caller<'_, T>, &mut [MaybeUninit<ValRaw>]) -> Result<()> + Send + Sync + 'static,
{
    fn slots(&self) -> usize {
        self.slots
    }

    #[expect(unsafe_code, reason = "the closure was given by an unsafe function, whose caller promised what it does")]
    fn call(&self, caller: Caller<'_, T>, values: &mut [ValRaw]) -> Result<()> {
        let (start, len) = (values.as_mut_ptr().cast::<MaybeUninit<ValRaw>>(), values.len());
        // SAFETY: the same slots, borrowed as long. The closure leaves no slot uninitialized that held a value, as was promised with it.
        let slots = unsafe { std::slice::from_raw_parts_mut(start, len) };
        (self.func)(caller, slots)
    }
}

impl HostFunc {
    /// A function on raw values.
    ///
    /// # Safety
    ///
    /// 1. As for [`Func::new_unchecked`].
    #[expect(unsafe_code, reason = "the caller promises what the types of the values are")]
    pub(crate) unsafe fn unchecked<T: 'static>(
        ty: FuncType,
        func: impl Fn(Caller<'_, T>, &mut [MaybeUninit<ValRaw>]) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let slots = ty.as_wasm().params.len().max(ty.as_wasm().results.len());
        Self::with_body::<T, _>(ty, Unchecked { slots, func })
    }
}

impl Func {
    /// A host function of type `ty` that works on raw values: `func` gets slots for the larger of the numbers of parameters and results, the
    /// arguments first in them, and writes the results there.
    ///
    /// ```
    /// use peregrine::{Engine, Func, FuncType, Store, ValRaw, ValType};
    ///
    /// let engine = Engine::default();
    /// let mut store = Store::new(&engine, ());
    /// let ty = FuncType::new(&engine, [ValType::I32], [ValType::I64]);
    /// // The slot holds an `i32` and is given an `i64`, as the type says.
    /// let widen = unsafe {
    ///     Func::new_unchecked(&mut store, ty, |_, slots| {
    ///         let value = slots[0].assume_init().get_i32();
    ///         slots[0].write(ValRaw::i64(value.into()));
    ///         Ok(())
    ///     })
    /// };
    /// assert_eq!(widen.typed::<i32, i64>(&store)?.call(&mut store, -3)?, -3);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If `ty` belongs to another engine.
    ///
    /// # Safety
    ///
    /// 1. On success `func` leaves values of the result types in the slots, references among them of the same store.
    /// 2. `func` makes no slot uninitialized.
    #[expect(unsafe_code, reason = "the caller promises what the types of the values are")]
    pub unsafe fn new_unchecked<T: 'static>(
        mut store: impl AsContextMut<Data = T>,
        ty: FuncType,
        func: impl Fn(Caller<'_, T>, &mut [MaybeUninit<ValRaw>]) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let store = &mut store.as_context_mut().0.opaque;
        assert!(ty.comes_from(store.engine()), "function type used with the wrong engine");
        // SAFETY: as the caller promises.
        Self::of_host(store, &unsafe { HostFunc::unchecked(ty, func) })
    }

    /// As [`new`](Self::new). Memory for functions is never refused.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn try_new<T: 'static>(
        store: impl AsContextMut<Data = T>,
        ty: FuncType,
        func: impl Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self::new(store, ty, func))
    }

    /// As [`wrap`](Self::wrap). Memory for functions is never refused.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn try_wrap<T: 'static, Params, Results>(
        store: impl AsContextMut<Data = T>,
        func: impl IntoFunc<T, Params, Results>,
    ) -> Result<Self> {
        Ok(Self::wrap(store, func))
    }
}
