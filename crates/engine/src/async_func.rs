//! Calls as futures, and host functions that are futures.
//!
//! A call runs on the thread that polls it, until it returns or a host function waits; nothing is spawned and nobody is blocked. How
//! the guest is suspended is the machine's business: [`crate::vm`].

use crate::at_once::Way;
use crate::call_hook::CallHook;
use crate::context::AsContextMut;
use crate::error::{Result, ensure};
use crate::func::{Slots, read_results};
use crate::host_func::HostFunc;
use crate::linker::CommandFunction;
use crate::store::StoreInner;
use crate::typed::{FOREIGN_PARAMETER, TypedFunc, WasmParams, WasmResults, WasmRet, WasmTyList};
use crate::vm::boundary::Callee;
use crate::vm::{AsyncHostBody, GuestCall, Pending, ValRaw};
use crate::{Caller, Engine, Extern, Func, FuncType, Instance, InstancePre, Linker, Module, Val};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

impl Func {
    /// A host function of type `ty` that is a future. `func` gets the arguments and fills in the results, which are zero or null before.
    ///
    /// Guests that call it have to be called as futures, by [`call_async`](Self::call_async) and the like; unless the future is ready when
    /// it is first polled.
    ///
    /// # Panics
    ///
    /// If `ty` belongs to another engine.
    pub fn new_async<T, F>(mut store: impl AsContextMut<Data = T>, ty: FuncType, func: F) -> Self
    where
        T: Send + 'static,
        F: for<'a> Fn(Caller<'a, T>, &'a [Val], &'a mut [Val]) -> Box<dyn Future<Output = Result<()>> + Send + 'a> + Send + Sync + 'static,
    {
        let store = &mut store.as_context_mut().0.opaque;
        assert!(ty.comes_from(store.engine()), "function type used with the wrong engine");
        Self::of_host(store, &HostFunc::dynamic_async(ty, func))
    }

    /// A Rust function whose result is a future as a host function. `func` takes a [`Caller`] and a tuple of up to 17 [`WasmTy`]s, and
    /// returns a boxed future of a [`WasmRet`].
    ///
    /// ```
    /// use peregrine::{Caller, Engine, Func, Store};
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    ///
    /// let mut store = Store::new(&Engine::default(), 20);
    /// let add = Func::wrap_async(&mut store, |caller: Caller<'_, i32>, (a, b): (i32, i32)| {
    ///     Box::new(async move { *caller.data() + a + b })
    /// });
    /// let add = add.typed::<(i32, i32), i32>(&store)?;
    /// // Any executor can run it. This future is ready at once.
    /// let call = pin!(add.call_async(&mut store, (10, 12)));
    /// let Poll::Ready(sum) = call.poll(&mut Context::from_waker(Waker::noop())) else { panic!("it does not wait") };
    /// assert_eq!(sum?, 42);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// [`WasmTy`]: crate::WasmTy
    pub fn wrap_async<T, F, P, R>(mut store: impl AsContextMut<Data = T>, func: F) -> Self
    where
        T: Send + 'static,
        F: for<'a> Fn(Caller<'a, T>, P) -> Box<dyn Future<Output = R> + Send + 'a> + Send + Sync + 'static,
        P: WasmTyList,
        R: WasmRet,
    {
        let store = &mut store.as_context_mut().0.opaque;
        let function = HostFunc::wrap_async(store.engine(), func);
        Self::of_host(store, &function)
    }

    /// [`call`](Self::call) as a future. Host functions that it calls can wait.
    ///
    /// Dropping the future ends the call: what a host function waits for is dropped, and the guest does not go on.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    ///
    /// # Panics
    ///
    /// As [`call`](Self::call).
    pub async fn call_async(&self, mut store: impl AsContextMut<Data: Send>, params: &[Val], results: &mut [Val]) -> Result<()> {
        self.call_waiting(store.as_context_mut().0, params, results).await
    }

    /// [`call_async`](Self::call_async).
    pub(crate) async fn call_waiting<T: 'static>(&self, store: &mut StoreInner<T>, params: &[Val], results: &mut [Val]) -> Result<()> {
        let mut slots = Slots::new(params.len().max(results.len()));
        let ty = self.begin_call(&mut store.opaque, params, results.len(), slots.as_mut())?;
        self.call_values_async(store, slots.as_mut()).await?;
        read_results(&store.opaque, &ty, slots.as_mut(), results);
        Ok(())
    }

    /// Calls the function with values of the right types, with slots for parameters and results.
    pub(crate) async fn call_values_async<T: 'static>(&self, store: &mut StoreInner<T>, values: &mut [ValRaw]) -> Result<()> {
        let callee = Callee::new(&store.opaque, self.checked(&store.opaque), values.len());
        call(store, callee, values).await
    }
}

/// Makes a call, and tells the hook.
#[inline]
async fn call<T: 'static>(store: &mut StoreInner<T>, callee: Callee, values: &mut [ValRaw]) -> Result<()> {
    match store.hook_may_wait() {
        true => store.crossing_async(CallHook::CallingWasm).await?,
        false => store.crossing(CallHook::CallingWasm)?,
    }
    let ended = GuestCall::new(store, callee, values).await;
    let told = match store.hook_may_wait() {
        true => store.crossing_async(CallHook::ReturningFromWasm).await,
        false => store.crossing(CallHook::ReturningFromWasm),
    };
    match (told, ended) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), ended) if !matches!(ended, Err(Pending::Panic(_))) => Err(error),
        (_, ended) => ended.map_err(|pending| store.opaque.error_of(pending)),
    }
}

impl<Params: WasmParams, Results: WasmResults> TypedFunc<Params, Results> {
    /// [`call`](Self::call) as a future. Host functions that it calls can wait. Allocates nothing unless one does.
    ///
    /// Dropping the future ends the call: what a host function waits for is dropped, and the guest does not go on.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    ///
    /// # Panics
    ///
    /// As [`call`](Self::call).
    pub async fn call_async(&self, mut store: impl AsContextMut<Data: Send>, params: Params) -> Result<Results>
    where
        Params: Sync,
        Results: Sync,
    {
        let store = store.as_context_mut().0;
        ensure!(params.are_of(&store.opaque), FOREIGN_PARAMETER);
        if Params::COUNT >= <Results as WasmParams>::COUNT {
            let mut values = Params::array();
            self.call_async_in(store, values.as_mut(), params).await
        } else {
            let mut values = <Results as WasmParams>::array();
            self.call_async_in(store, values.as_mut(), params).await
        }
    }

    async fn call_async_in<T: 'static>(&self, store: &mut StoreInner<T>, values: &mut [ValRaw], params: Params) -> Result<Results> {
        params.into_slots(&store.opaque, values);
        call(store, self.callee(), values).await?;
        Ok(Results::from_slots(&store.opaque, values))
    }
}

impl HostFunc {
    /// A function whose types are known at run time only, and whose result is a future.
    fn dynamic_async<T, F>(ty: FuncType, func: F) -> Self
    where
        T: Send + 'static,
        F: for<'a> Fn(Caller<'a, T>, &'a [Val], &'a mut [Val]) -> Box<dyn Future<Output = Result<()>> + Send + 'a> + Send + Sync + 'static,
    {
        Self::with_async_body::<T, _>(ty.clone(), DynamicAsync { ty, func })
    }

    /// A Rust function whose result is a future.
    fn wrap_async<T, F, P, R>(engine: &Engine, func: F) -> Self
    where
        T: Send + 'static,
        F: for<'a> Fn(Caller<'a, T>, P) -> Box<dyn Future<Output = R> + Send + 'a> + Send + Sync + 'static,
        P: WasmTyList,
        R: WasmRet,
    {
        let ty = FuncType::new(engine, <P as WasmParams>::types(), R::types());
        Self::with_async_body::<T, _>(ty, TypedAsync { func, types: PhantomData })
    }
}

struct TypedAsync<F, P, R> {
    func: F,
    types: PhantomData<fn(P) -> R>,
}

impl<T, F, P, R> AsyncHostBody<T> for TypedAsync<F, P, R>
where
    T: Send + 'static,
    F: for<'a> Fn(Caller<'a, T>, P) -> Box<dyn Future<Output = R> + Send + 'a> + Send + Sync + 'static,
    P: WasmTyList,
    R: WasmRet,
{
    type Output = R;

    fn slots(&self) -> usize {
        const { if <P as WasmParams>::COUNT > R::COUNT { <P as WasmParams>::COUNT } else { R::COUNT } }
    }

    fn begin<'a>(&'a self, mut caller: Caller<'a, T>, values: &[ValRaw]) -> Pin<Box<dyn Future<Output = R> + Send + 'a>> {
        let params = P::from_slots(&caller.inner().opaque, values);
        Box::into_pin((self.func)(caller, params))
    }

    fn end(&self, store: &mut StoreInner<T>, output: R, values: &mut [ValRaw]) -> Result<()> {
        output.return_slots(&mut store.opaque, values)
    }
}

struct DynamicAsync<F> {
    ty: FuncType,
    func: F,
}

impl<T, F> AsyncHostBody<T> for DynamicAsync<F>
where
    T: Send + 'static,
    F: for<'a> Fn(Caller<'a, T>, &'a [Val], &'a mut [Val]) -> Box<dyn Future<Output = Result<()>> + Send + 'a> + Send + Sync + 'static,
{
    type Output = Result<Vec<Val>>;

    fn slots(&self) -> usize {
        let ty = self.ty.as_wasm();
        ty.params.len().max(ty.results.len())
    }

    fn begin<'a>(&'a self, mut caller: Caller<'a, T>, values: &[ValRaw]) -> Pin<Box<dyn Future<Output = Result<Vec<Val>>> + Send + 'a>> {
        let ty = self.ty.as_wasm();
        let store = &caller.inner().opaque;
        let params: Vec<Val> = ty.params.iter().zip(values).map(|(ty, raw)| Val::from_slot(store, *raw, *ty)).collect();
        let mut results: Vec<Val> = self.ty.results().map(|ty| Val::default_for_ty(&ty).unwrap_or(Val::FuncRef(None))).collect();
        Box::pin(async move {
            Box::into_pin((self.func)(caller, &params, &mut results)).await?;
            Ok(results)
        })
    }

    fn end(&self, store: &mut StoreInner<T>, output: Result<Vec<Val>>, values: &mut [ValRaw]) -> Result<()> {
        for ((value, result), ty) in values.iter_mut().zip(output?).zip(&self.ty.as_wasm().results) {
            *value = result.to_slot(&store.opaque, *ty, || "function attempted to return an incompatible value".to_owned())?;
        }
        Ok(())
    }
}

impl Instance {
    /// [`new`](Self::new) as a future: a start function that calls host functions that wait can be run.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub async fn new_async(mut store: impl AsContextMut, module: &Module, imports: &[Extern]) -> Result<Self> {
        Self::new_in(store.as_context_mut().0, module, imports, Way::Waiting).await
    }
}

impl<T: 'static> InstancePre<T> {
    /// [`instantiate`](Self::instantiate) as a future: a start function that calls host functions that wait can be run.
    ///
    /// # Errors
    ///
    /// As [`instantiate`](Self::instantiate).
    pub async fn instantiate_async(&self, mut store: impl AsContextMut<Data = T>) -> Result<Instance> {
        self.instantiate_in(store.as_context_mut().0, Way::Waiting).await
    }
}

impl<T: 'static> Linker<T> {
    /// Defines a host function that is a future for every store. See [`Func::wrap_async`].
    ///
    /// ```
    /// use peregrine::{Caller, Engine, Linker, Module, Store};
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    ///
    /// let engine = Engine::default();
    /// let module = Module::new(
    ///     &engine,
    ///     r#"(module
    ///         (import "host" "next" (func $next (result i32)))
    ///         (func (export "run") (result i32) (i32.add (call $next) (call $next))))"#,
    /// )?;
    /// let mut linker = Linker::new(&engine);
    /// linker.func_wrap_async("host", "next", |_: Caller<'_, ()>, ()| {
    ///     Box::new(async {
    ///         // Waits, so that the guest is suspended.
    ///         let mut polled = false;
    ///         std::future::poll_fn(|task| {
    ///             task.waker().wake_by_ref();
    ///             if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }
    ///         })
    ///         .await;
    ///         21
    ///     })
    /// })?;
    /// let mut store = Store::new(&engine, ());
    /// let mut run = pin!(async {
    ///     let instance = linker.instantiate_async(&mut store, &module).await?;
    ///     let run = instance.get_typed_func::<(), i32>(&mut store, "run")?;
    ///     run.call_async(&mut store, ()).await
    /// });
    /// let mut task = Context::from_waker(Waker::noop());
    /// assert!(run.as_mut().poll(&mut task).is_pending());
    /// assert!(run.as_mut().poll(&mut task).is_pending());
    /// let Poll::Ready(result) = run.as_mut().poll(&mut task) else { panic!("it waits twice") };
    /// assert_eq!(result?, 42);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define).
    pub fn func_wrap_async<F, Params, Args>(&mut self, module: &str, name: &str, func: F) -> Result<&mut Self>
    where
        T: Send + 'static,
        F: for<'a> Fn(Caller<'a, T>, Params) -> Box<dyn Future<Output = Args> + Send + 'a> + Send + Sync + 'static,
        Params: WasmTyList,
        Args: WasmRet,
    {
        let function = HostFunc::wrap_async(self.engine(), func);
        self.define_host(module, name, function)
    }

    /// Defines a host function that is a future for every store, of a type known at run time. See [`Func::new_async`].
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define).
    ///
    /// # Panics
    ///
    /// If `ty` belongs to another engine.
    pub fn func_new_async<F>(&mut self, module: &str, name: &str, ty: FuncType, func: F) -> Result<&mut Self>
    where
        T: Send + 'static,
        F: for<'a> Fn(Caller<'a, T>, &'a [Val], &'a mut [Val]) -> Box<dyn Future<Output = Result<()>> + Send + 'a> + Send + Sync + 'static,
    {
        assert!(ty.comes_from(self.engine()), "function type used with the wrong engine");
        self.define_host(module, name, HostFunc::dynamic_async(ty, func))
    }

    /// [`instantiate`](Self::instantiate) as a future.
    ///
    /// # Errors
    ///
    /// As [`instantiate`](Self::instantiate).
    pub async fn instantiate_async(&self, mut store: impl AsContextMut<Data = T>, module: &Module) -> Result<Instance>
    where
        T: Send + 'static,
    {
        let pre = self.resolve(module, Some(&store.as_context_mut().0.opaque))?;
        pre.instantiate_async(store).await
    }

    /// [`module`](Self::module) as a future; functions of a command are defined as futures.
    ///
    /// # Errors
    ///
    /// As [`module`](Self::module).
    pub async fn module_async(&mut self, mut store: impl AsContextMut<Data = T>, module_name: &str, module: &Module) -> Result<&mut Self>
    where
        T: Send + 'static,
    {
        let define = |ty, command: CommandFunction<T>| {
            let command = Arc::new(command);
            HostFunc::dynamic_async(ty, move |caller, params, results| {
                let command = Arc::clone(&command);
                Box::new(async move { command.run(caller, params, results, Way::Waiting).await })
            })
        };
        self.module_in(store.as_context_mut().0, module_name, module, Way::Waiting, define).await?;
        Ok(self)
    }
}
