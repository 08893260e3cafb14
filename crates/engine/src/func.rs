//! Functions: of guests and of the host, with types known at run time.

use crate::context::{AsContext, AsContextMut};
use crate::error::Result;
use crate::host_func::{HostFunc, IntoFunc, check_counts};
use crate::store::{StoreId, StoreInner, StoreOpaque};
use crate::typed::{TypedFunc, WasmParams, WasmResults};
use crate::vm::boundary::{Callee, FuncBits};
use crate::vm::{FuncId, ValRaw};
use crate::{Caller, FuncType, Val};
use std::ffi::c_void;

/// A function of a store.
///
/// ```
/// use peregrine::{Engine, Func, Store, Val};
///
/// let mut store = Store::new(&Engine::default(), ());
/// let add = Func::wrap(&mut store, |a: i32, b: i32| a + b);
/// let mut results = [Val::I32(0)];
/// add.call(&mut store, &[Val::I32(1), Val::I32(2)], &mut results)?;
/// assert_eq!(results[0].unwrap_i32(), 3);
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Func {
    store: StoreId,
    bits: FuncBits,
}

/// Values that a call keeps on the stack; more go to the heap.
const STACK_VALUES: usize = 16;

/// The values of a dynamic call: its parameters, and its results afterwards.
pub(crate) struct Slots {
    few: [ValRaw; STACK_VALUES],
    many: Vec<ValRaw>,
    len: usize,
}

impl Slots {
    /// So many slots, all zero.
    #[inline]
    pub(crate) fn new(len: usize) -> Self {
        let many = if len > STACK_VALUES { vec![ValRaw::i32(0); len] } else { Vec::new() };
        Self { few: [ValRaw::i32(0); STACK_VALUES], many, len }
    }

    /// The slots.
    #[inline]
    pub(crate) fn as_mut(&mut self) -> &mut [ValRaw] {
        if self.len <= STACK_VALUES { &mut self.few[..self.len] } else { &mut self.many }
    }
}

/// Reads the results of a call of a function of type `ty`.
pub(crate) fn read_results(store: &StoreOpaque, ty: &FuncType, values: &[ValRaw], results: &mut [Val]) {
    for ((result, value), ty) in results.iter_mut().zip(values).zip(&ty.as_wasm().results) {
        *result = Val::from_slot(store, *value, *ty);
    }
}

impl Func {
    /// A host function of type `ty`. `func` gets the arguments and fills in the results, which are zero or null before.
    ///
    /// # Panics
    ///
    /// If `ty` belongs to another engine.
    pub fn new<T: 'static>(
        store: impl AsContextMut<Data = T>,
        ty: FuncType,
        func: impl Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let mut store = store;
        let store = &mut store.as_context_mut().0.opaque;
        assert!(ty.comes_from(store.engine()), "function type used with the wrong engine");
        Self::of_host(store, &HostFunc::dynamic(ty, func))
    }

    /// A Rust function as a host function. See [`IntoFunc`] for what it may look like.
    pub fn wrap<T: 'static, Params, Results>(mut store: impl AsContextMut<Data = T>, func: impl IntoFunc<T, Params, Results>) -> Self {
        let store = &mut store.as_context_mut().0.opaque;
        let function = HostFunc::wrap(store.engine(), func);
        Self::of_host(store, &function)
    }

    pub(crate) fn of_host(store: &mut StoreOpaque, function: &HostFunc) -> Self {
        store.keep_type(function.ty());
        let number = store.add_host_func(function);
        Self::from_id(store, FuncId::Host(number))
    }

    pub(crate) fn from_id(store: &mut StoreOpaque, id: FuncId) -> Self {
        let bits = FuncBits::of(store, id);
        store.make_missing_exits();
        Self { store: store.id(), bits }
    }

    /// The function that bits of the machine stand for; `None` for null.
    #[inline]
    pub(crate) fn from_bits(store: &StoreOpaque, bits: u64) -> Option<Self> {
        FuncBits::new(bits).map(|bits| Self { store: store.id(), bits })
    }

    /// Whether it is of `store`.
    #[inline]
    pub(crate) fn is_of(&self, store: &StoreOpaque) -> bool {
        store.owns(self.store)
    }

    /// Which function of `store` it is.
    pub(crate) fn id(&self, store: &StoreOpaque) -> FuncId {
        self.checked(store).id(store)
    }

    /// What stands for it in the machine.
    #[inline]
    pub(crate) fn checked(&self, store: &StoreOpaque) -> FuncBits {
        store.check_func(self.store, self.bits.get());
        self.bits
    }

    /// The identity of its type.
    pub(crate) fn type_id(&self, store: &StoreOpaque) -> u32 {
        self.checked(store).type_id(store)
    }

    pub(crate) fn ty_in(&self, store: &StoreOpaque) -> FuncType {
        FuncType::from_id(self.type_id(store), store.engine().shared())
    }

    /// The type.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn ty(&self, store: impl AsContext) -> FuncType {
        self.ty_in(&store.as_context().0.opaque)
    }

    /// Whether it can be used where a function of type `ty` is expected.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn matches_ty(&self, store: impl AsContext, ty: &FuncType) -> bool {
        self.ty(store).matches(ty)
    }

    /// Calls the function with `params` and overwrites `results`.
    ///
    /// # Errors
    ///
    /// If the number or types of `params` or the number of `results` are not those of the function, or a reference among them belongs to
    /// another store; and the [`Trap`](crate::Trap) or the error of a host function that ended the call, with a
    /// [`WasmBacktrace`](crate::WasmBacktrace).
    ///
    /// # Panics
    ///
    /// If it belongs to another store; or with the panic of a host function.
    pub fn call(&self, mut store: impl AsContextMut, params: &[Val], results: &mut [Val]) -> Result<()> {
        let store = store.as_context_mut().0;
        let mut slots = Slots::new(params.len().max(results.len()));
        let ty = self.begin_call(&mut store.opaque, params, results.len(), slots.as_mut())?;
        self.call_values(store, slots.as_mut())?;
        read_results(&store.opaque, &ty, slots.as_mut(), results);
        Ok(())
    }

    /// Checks what a dynamic call gives and takes, and writes its parameters to `values`. Returns the type of the function.
    pub(crate) fn begin_call(&self, store: &mut StoreOpaque, params: &[Val], results: usize, values: &mut [ValRaw]) -> Result<FuncType> {
        let type_id = self.type_id(store);
        let ty = store.func_type(type_id);
        check_counts(&ty, params.len(), results)?;
        self.write_params(store, &ty, params, values)?;
        Ok(ty)
    }

    /// Writes the parameters of a call, whose number is checked, to `values`.
    fn write_params(&self, store: &StoreOpaque, ty: &FuncType, params: &[Val], values: &mut [ValRaw]) -> Result<()> {
        for (position, ((value, param), ty)) in values.iter_mut().zip(params).zip(&ty.as_wasm().params).enumerate() {
            *value = param.to_slot(store, *ty, || format!("argument type mismatch at position {position}"))?;
        }
        Ok(())
    }

    /// Calls the function with values of the right types, with slots for parameters and results.
    pub(crate) fn call_values<T: 'static>(&self, store: &mut StoreInner<T>, values: &mut [ValRaw]) -> Result<()> {
        let callee = Callee::new(&store.opaque, self.checked(&store.opaque), values.len());
        callee.call(store, values).map_err(|pending| store.opaque.error_of(pending))
    }

    /// The function with Rust types, if they fit.
    ///
    /// # Errors
    ///
    /// If the types of the function are others, naming the first that differs.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn typed<Params: WasmParams, Results: WasmResults>(&self, store: impl AsContext) -> Result<TypedFunc<Params, Results>> {
        TypedFunc::new(&store.as_context().0.opaque, *self)
    }

    /// The pointer that guests see, for [`ValRaw::funcref`].
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn to_raw(&self, store: impl AsContext) -> *mut c_void {
        self.checked(&store.as_context().0.opaque).get() as *mut c_void
    }

    /// The function that a guest's pointer stands for; `None` for null.
    ///
    /// # Safety
    ///
    /// 1. `raw` comes from [`to_raw`](Self::to_raw) or [`ValRaw::get_funcref`] in the same store.
    #[expect(unsafe_code, reason = "the caller promises where the pointer comes from")]
    pub unsafe fn from_raw(store: impl AsContext, raw: *mut c_void) -> Option<Self> {
        Self::from_bits(&store.as_context().0.opaque, raw as u64)
    }
}
