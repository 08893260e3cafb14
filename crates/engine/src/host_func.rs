//! Host functions: closures with their types, ready to become functions of a store.

use crate::caller::Caller;
use crate::error::{Context, Result, ensure};
use crate::typed::{WasmParams, WasmRet, WasmTy};
use crate::vm::boundary::host_entry;
use crate::vm::entry::direct::{Arrived, Shape};
use crate::vm::entry::veneer::exit::exit_veneer;
use crate::vm::register_entry::register_code;
use crate::vm::{AsyncHostBody, HostCode, HostCodes, ValRaw, async_host_entry};
use crate::{Engine, FuncType, Val};
use peregrine_wasm::ValType;
use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

/// What a host function does, by values as the machine passes them.
pub(crate) trait HostBody<T: 'static>: Send + Sync + 'static {
    /// How many values a call has room for: the larger of the numbers of parameters and results.
    fn slots(&self) -> usize;

    /// Serves a call: `values` holds the parameters, and the results on success.
    fn call(&self, caller: Caller<'_, T>, values: &mut [ValRaw]) -> Result<()>;
}

/// What a host function does whose values have registers.
pub(crate) trait RegisterBody<T: 'static>: HostBody<T> {
    /// Whether all of them have, and what its results are.
    const RESULTS: Option<Shape>;

    /// The parameters that arrived, for [`HostBody::call`].
    fn to_values(arrived: Arrived) -> Vec<ValRaw>;

    /// Serves a call with the parameters that arrived. Gives the bits of the result, if there is one.
    fn call_with_registers(&self, caller: Caller<'_, T>, arrived: Arrived) -> Result<u64>;
}

/// A closure with its type; part of no store yet.
pub struct HostFunc {
    ty: FuncType,
    code: HostCode,
    registers: Option<fn() -> *const u8>,
    is_future: bool,
    body: Box<dyn SharedBody>,
}

/// An `Arc` of a body, without its type.
trait SharedBody: Send + Sync {
    /// One more handle of it, as the machine keeps it.
    fn share(&self) -> Box<dyn Any + Send + Sync>;
}

impl<B: Send + Sync + 'static> SharedBody for Arc<B> {
    fn share(&self) -> Box<dyn Any + Send + Sync> {
        Box::new(Arc::clone(self))
    }
}

impl HostFunc {
    pub(crate) fn with_body<T: 'static, B: HostBody<T>>(ty: FuncType, body: B) -> Self {
        Self { ty, code: host_entry::<T, B>, registers: None, is_future: false, body: Box::new(Arc::new(body)) }
    }

    /// A function that is a future.
    pub(crate) fn with_async_body<T: Send + 'static, B: AsyncHostBody<T>>(ty: FuncType, body: B) -> Self {
        Self { ty, code: async_host_entry::<T, B>, registers: None, is_future: true, body: Box::new(Arc::new(body)) }
    }

    /// A function whose types are known at run time only.
    pub(crate) fn dynamic<T: 'static>(
        ty: FuncType,
        func: impl Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::with_body::<T, _>(ty.clone(), Dynamic { ty, func })
    }

    /// A Rust function.
    pub(crate) fn wrap<T: 'static, Params, Results>(engine: &Engine, func: impl IntoFunc<T, Params, Results>) -> Self {
        func.into_func(engine)
    }

    pub(crate) fn ty(&self) -> &FuncType {
        &self.ty
    }

    /// Its code.
    pub(crate) fn codes(&self) -> HostCodes {
        HostCodes { array: self.code, veneer: self.veneer(), registers: self.registers.map(|registers| registers()) }
    }

    /// The veneer that guests call it by, if there is one for its type.
    fn veneer(&self) -> Option<*const u8> {
        let ty = self.ty.as_wasm();
        let is_int = |ty: &ValType| matches!(ty, ValType::I32 | ValType::I64 | ValType::Ref(_));
        let fits = !self.is_future && ty.results.len() <= 1 && ty.params.iter().chain(&ty.results).all(is_int);
        fits.then(|| exit_veneer(ty.params.len())).flatten()
    }

    pub(crate) fn data(&self) -> Box<dyn Any + Send + Sync> {
        self.body.share()
    }
}

struct Dynamic<F> {
    ty: FuncType,
    func: F,
}

impl<T: 'static, F> HostBody<T> for Dynamic<F>
where
    F: Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()> + Send + Sync + 'static,
{
    fn slots(&self) -> usize {
        let ty = self.ty.as_wasm();
        ty.params.len().max(ty.results.len())
    }

    fn call(&self, mut caller: Caller<'_, T>, values: &mut [ValRaw]) -> Result<()> {
        let ty = self.ty.as_wasm();
        let store = &mut caller.inner().opaque;
        let mut vals = std::mem::take(&mut store.scratch);
        vals.clear();
        vals.extend(ty.params.iter().zip(&*values).map(|(ty, raw)| Val::from_slot(store, *raw, *ty)));
        vals.resize(ty.params.len() + ty.results.len(), Val::I32(0));
        let (params, results) = vals.split_at_mut(ty.params.len());
        for (result, ty) in results.iter_mut().zip(self.ty.results()) {
            *result = Val::default_for_ty(&ty).unwrap_or(Val::FuncRef(None));
        }
        let outcome = (self.func)(caller.reborrow(), params, results);
        let store = &mut caller.inner().opaque;
        let stored = outcome.and_then(|()| {
            for ((value, result), ty) in values.iter_mut().zip(&*results).zip(&ty.results) {
                *value = result.to_slot(store, *ty, || "function attempted to return an incompatible value".to_owned())?;
            }
            Ok(())
        });
        vals.clear();
        store.scratch = vals;
        stored
    }
}

/// A Rust function that can be a host function: up to 17 parameters, which a [`Caller`] may precede, each a [`WasmTy`], and a [`WasmRet`].
///
/// `Params` and `Results` only tell the implementations apart.
#[diagnostic::on_unimplemented(message = "`{Self}` is not a function that guests can call with a store of this data")]
pub trait IntoFunc<T: 'static, Params, Results>: Send + Sync + 'static {
    #[doc(hidden)]
    fn into_func(self, engine: &Engine) -> HostFunc;
}

/// A Rust function, with its types.
struct Typed<F, P, R> {
    func: F,
    types: PhantomData<fn(P) -> R>,
}

impl<F, P: WasmParams + 'static, R: WasmRet + 'static> Typed<F, P, R> {
    const SLOTS: usize = if P::COUNT > R::COUNT { P::COUNT } else { R::COUNT };

    fn host_func<T: 'static>(engine: &Engine, func: F) -> HostFunc
    where
        Self: RegisterBody<T>,
    {
        let ty = FuncType::new(engine, P::types(), R::types());
        let has_registers = const { <Self as RegisterBody<T>>::RESULTS.is_some() };
        let function = HostFunc::with_body::<T, _>(ty, Self { func, types: PhantomData });
        HostFunc { registers: has_registers.then_some(register_code::<T, Self>), ..function }
    }
}

macro_rules! functions {
    ($($param:ident)*) => {
        impl<T: 'static, F, $($param,)* R> IntoFunc<T, ($($param,)*), R> for F
        where
            F: Fn($($param),*) -> R + Send + Sync + 'static,
            $($param: WasmTy + 'static,)*
            R: WasmRet + 'static,
        {
            fn into_func(self, engine: &Engine) -> HostFunc {
                #[allow(non_snake_case, reason = "one name for the type and its value")]
                let call = move |_: Caller<'_, T>, $($param: $param),*| self($($param),*);
                IntoFunc::<T, (Caller<'_, T>, $($param,)*), R>::into_func(call, engine)
            }
        }

        impl<T: 'static, F, $($param,)* R> IntoFunc<T, (Caller<'_, T>, $($param,)*), R> for F
        where
            F: Fn(Caller<'_, T>, $($param),*) -> R + Send + Sync + 'static,
            $($param: WasmTy + 'static,)*
            R: WasmRet + 'static,
        {
            fn into_func(self, engine: &Engine) -> HostFunc {
                Typed::<F, ($($param,)*), R>::host_func::<T>(engine, self)
            }
        }

        #[allow(non_snake_case, unused_mut, unused_variables, reason = "one name for the type and its value; there may be none")]
        impl<T: 'static, F, $($param,)* R> HostBody<T> for Typed<F, ($($param,)*), R>
        where
            F: Fn(Caller<'_, T>, $($param),*) -> R + Send + Sync + 'static,
            $($param: WasmTy + 'static,)*
            R: WasmRet + 'static,
        {
            fn slots(&self) -> usize {
                Self::SLOTS
            }

            fn call(&self, mut caller: Caller<'_, T>, values: &mut [ValRaw]) -> Result<()> {
                let store = &mut caller.inner().opaque;
                let mut raw = values.iter();
                $(let $param = $param::from_slot(store, *raw.next().context("a value is missing")?);)*
                let result = (self.func)(caller.reborrow(), $($param),*);
                result.return_slots(&mut caller.inner().opaque, values)
            }
        }

        #[allow(non_snake_case, unused_mut, unused_variables, reason = "one name for the type and its value; there may be none")]
        impl<T: 'static, F, $($param,)* R> RegisterBody<T> for Typed<F, ($($param,)*), R>
        where
            F: Fn(Caller<'_, T>, $($param),*) -> R + Send + Sync + 'static,
            $($param: WasmTy + 'static,)*
            R: WasmRet + 'static,
        {
            const RESULTS: Option<Shape> = if <($($param,)*) as WasmParams>::SHAPE.is_direct(R::SHAPE) { Some(R::SHAPE) } else { None };

            fn to_values(mut arrived: Arrived) -> Vec<ValRaw> {
                let mut values = vec![$(arrived.take($param::CLASS)),*];
                values.resize(Self::SLOTS, ValRaw::u64(0));
                values
            }

            #[inline(always)]
            fn call_with_registers(&self, mut caller: Caller<'_, T>, mut arrived: Arrived) -> Result<u64> {
                let store = &mut caller.inner().opaque;
                $(let $param = $param::from_slot(store, arrived.take($param::CLASS));)*
                let result = (self.func)(caller.reborrow(), $($param),*);
                // More than one result has no registers.
                let mut values = [ValRaw::u64(0)];
                result.return_slots(&mut caller.inner().opaque, &mut values)?;
                Ok(values[0].get_u64())
            }
        }
    };
}

crate::typed::for_each_arity!(functions);

/// Checks the number of values of a dynamic call.
pub(crate) fn check_counts(ty: &FuncType, params: usize, results: usize) -> Result<()> {
    let ty = ty.as_wasm();
    ensure!(ty.params.len() == params, "expected {} arguments, got {params}", ty.params.len());
    ensure!(ty.results.len() == results, "expected {} results, got {results}", ty.results.len());
    Ok(())
}
