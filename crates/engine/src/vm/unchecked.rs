//! What relies on a promise of the caller's alone: functions on raw values, without conversion or check, for generators of bindings; and
//! images that are trusted.

use crate::caller::Caller;
use crate::context::AsContextMut;
use crate::error::{Context, Result};
use crate::host_func::{HostBody, HostFunc, IntoFunc};
use crate::{Engine, Func, FuncType, Linker, Module, Val, ValRaw};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::path::Path;
use std::ptr::NonNull;

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

    /// Calls the function with raw values: `params_and_results` holds the parameters, and the results on success.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), but for types, which are not checked; and if there are fewer slots than parameters or results.
    ///
    /// # Safety
    ///
    /// 1. The values are of the function's types; references among them belong to the same store.
    /// 2. `params_and_results` can be read and written until the call returns; nobody else does.
    pub unsafe fn call_unchecked(&self, mut store: impl AsContextMut, params_and_results: *mut [ValRaw]) -> Result<()> {
        // SAFETY: nobody else uses the slots meanwhile, as the caller promises (2).
        let params_and_results = unsafe { &mut *params_and_results };
        let store = store.as_context_mut().0;
        let ty = self.ty_in(&store.opaque);
        let slots = ty.as_wasm().params.len().max(ty.as_wasm().results.len());
        crate::error::ensure!(params_and_results.len() >= slots, "expected {slots} slots for values, got {}", params_and_results.len());
        self.call_values(store, params_and_results)
    }
}

impl<T: 'static> Linker<T> {
    /// Defines a host function for every store that works on raw values. See [`Func::new_unchecked`].
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define).
    ///
    /// # Panics
    ///
    /// If `ty` belongs to another engine.
    ///
    /// # Safety
    ///
    /// 1. As for [`Func::new_unchecked`].
    pub unsafe fn func_new_unchecked(
        &mut self,
        module: &str,
        name: &str,
        ty: FuncType,
        func: impl Fn(Caller<'_, T>, &mut [MaybeUninit<ValRaw>]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<&mut Self> {
        assert!(ty.comes_from(self.engine()), "function type used with the wrong engine");
        // SAFETY: as the caller promises.
        let function = unsafe { HostFunc::unchecked(ty, func) };
        self.define_host(module, name, function)
    }
}

impl Module {
    /// Loads a file that is an image, or compiles one that is a module in the binary or the text format.
    ///
    /// # Errors
    ///
    /// As [`deserialize_file`](Self::deserialize_file) and [`from_file`](Self::from_file).
    ///
    /// # Safety
    ///
    /// 1. As for [`deserialize_file`](Self::deserialize_file), if it is an image.
    pub unsafe fn from_trusted_file(engine: &Engine, file: impl AsRef<Path>) -> Result<Self> {
        let path = file.as_ref();
        let mut start = Vec::new();
        let opened = File::open(path).and_then(|file| file.take(16).read_to_end(&mut start));
        opened.with_context(|| format!("failed to read `{}`", path.display()))?;
        match Engine::detect_precompiled(&start) {
            // SAFETY: as the caller promises.
            Some(_) => unsafe { Self::deserialize_file(engine, path) },
            None => Self::from_file(engine, path),
        }
    }

    /// As [`deserialize`](Self::deserialize), for bytes at an address. They are copied.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// 1. As there.
    /// 2. The bytes can be read, and nobody changes them meanwhile.
    pub unsafe fn deserialize_raw(engine: &Engine, memory: NonNull<[u8]>) -> Result<Self> {
        // SAFETY: as the caller promises.
        unsafe { Self::deserialize(engine, memory.as_ref()) }
    }
}
