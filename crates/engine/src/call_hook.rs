//! Call hooks: the embedder is told whenever a call crosses between host and guest.

use crate::error::{Error, Result};
use crate::store::{StoreInner, StoreOpaque};
use crate::vm::store::Unusual;
use crate::{Store, StoreContextMut};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A crossing between host and guest. See [`Store::call_hook`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallHook {
    /// The host calls a function, or a module's start function runs.
    CallingWasm,
    /// That call has ended, with results or without.
    ReturningFromWasm,
    /// A host function was called.
    CallingHost,
    /// That function has ended, with results or without.
    ReturningFromHost,
}

impl CallHook {
    /// Whether the host goes on from here.
    pub fn entering_host(&self) -> bool {
        matches!(self, Self::ReturningFromWasm | Self::CallingHost)
    }

    /// Whether the host is left here.
    pub fn exiting_host(&self) -> bool {
        matches!(self, Self::ReturningFromHost | Self::CallingWasm)
    }
}

/// An embedder's hook that may wait. See [`Store::call_hook_async`].
///
/// Its function is of the shape that the `async_trait` attribute gives to an `async fn`, so that an implementation can be written with it, or
/// by hand.
pub trait CallHookHandler<T>: Send {
    /// Called at each crossing. An error ends the call.
    fn handle_call_event<'life0, 'life1, 'async_trait>(
        &'life0 self,
        t: StoreContextMut<'life1, T>,
        ch: CallHook,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait;
}

/// What a store calls at each crossing.
pub(crate) enum Hook<T: 'static> {
    /// Nothing of the embedder's: time is measured.
    Clock,
    /// A function.
    Sync(SyncHook<T>),
    /// One that may wait.
    Async(Box<dyn CallHookHandler<T> + Sync>),
}

/// A hook that does not wait.
type SyncHook<T> = Box<dyn FnMut(StoreContextMut<'_, T>, CallHook) -> Result<()> + Send + Sync>;

/// How long guests of a store ran, as far as that was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GuestClock {
    is_on: bool,
    total: Duration,
    /// Since when a guest runs.
    since: Option<Instant>,
}

impl GuestClock {
    /// The time so far.
    pub(crate) fn total(&self) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn start(&mut self) {
        self.since = self.is_on.then(Instant::now);
    }
}

impl StoreOpaque {
    /// The guest does not run any more.
    pub(crate) fn stop_clock(&mut self) {
        if let Some(since) = self.guest_clock.since.take() {
            self.guest_clock.total += since.elapsed();
            let nanoseconds = u64::try_from(self.guest_clock.total.as_nanos()).unwrap_or(u64::MAX);
            self.vm.used().set_guest_nanoseconds(nanoseconds);
        }
    }
}

impl<T: 'static> Store<T> {
    /// Installs what is called at each crossing between host and guest, in place of what was there. An error that it returns ends the call.
    ///
    /// A call that is a future and is dropped before it has ended leaves the guest, and host functions that wait, without a further crossing:
    /// the hook is not told, and what it keeps about calls that are under way is the embedder's to clean up. The time in the guest
    /// ([`measure_time_in_guest`](Self::measure_time_in_guest)) ends there.
    ///
    /// Without a hook a crossing costs one comparison more.
    ///
    /// ```
    /// use peregrine::{CallHook, Engine, Linker, Module, Store};
    ///
    /// let engine = Engine::default();
    /// let module = Module::new(&engine, r#"(module (import "" "log" (func $log)) (func (export "run") (call $log)))"#)?;
    /// let mut linker = Linker::new(&engine);
    /// linker.func_wrap("", "log", || ())?;
    /// let mut store = Store::new(&engine, Vec::new());
    /// store.call_hook(|mut context, kind| {
    ///     context.data_mut().push(kind);
    ///     Ok(())
    /// });
    /// let run = linker.instantiate(&mut store, &module)?.get_typed_func::<(), ()>(&mut store, "run")?;
    /// run.call(&mut store, ())?;
    /// use CallHook::*;
    /// assert_eq!(store.data(), &[CallingWasm, CallingHost, ReturningFromHost, ReturningFromWasm]);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn call_hook(&mut self, hook: impl FnMut(StoreContextMut<'_, T>, CallHook) -> Result<()> + Send + Sync + 'static) {
        self.set_call_hook(Hook::Sync(Box::new(hook)));
    }

    /// As [`call_hook`](Self::call_hook), with a hook that may wait.
    ///
    /// It can wait wherever a future is under way: when a guest is called as a future and when that call ends, and at the host functions that
    /// such a call comes to, whether they are futures or not. Anywhere else (in synchronous calls and what they come to) it must be ready at
    /// once, or the call fails with an error that says so.
    ///
    /// ```
    /// use peregrine::{CallHook, CallHookHandler, Engine, Instance, Module, Result, Store, StoreContextMut};
    /// use std::pin::{Pin, pin};
    /// use std::task::{Context, Poll, Waker};
    ///
    /// struct Count;
    ///
    /// impl CallHookHandler<u32> for Count {
    ///     fn handle_call_event<'a, 'b, 'c>(
    ///         &'a self,
    ///         mut store: StoreContextMut<'b, u32>,
    ///         _: CallHook,
    ///     ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'c>>
    ///     where
    ///         'a: 'c,
    ///         'b: 'c,
    ///         Self: 'c,
    ///     {
    ///         Box::pin(async move {
    ///             *store.data_mut() += 1;
    ///             Ok(())
    ///         })
    ///     }
    /// }
    ///
    /// let module = Module::new(&Engine::default(), r#"(module (func (export "run")))"#)?;
    /// let mut store = Store::new(module.engine(), 0);
    /// store.call_hook_async(Count);
    /// let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
    /// let Poll::Ready(result) = pin!(run.call_async(&mut store, ())).poll(&mut Context::from_waker(Waker::noop())) else { panic!() };
    /// result?;
    /// assert_eq!(*store.data(), 2);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn call_hook_async(&mut self, hook: impl CallHookHandler<T> + Sync + 'static) {
        self.set_call_hook(Hook::Async(Box::new(hook)));
    }

    /// Whether the time is measured for which guests run, host functions excluded: [`StoreMetrics::time_in_guest`](crate::StoreMetrics). A guest that
    /// was suspended by fuel or an epoch, to let others run, counts as running meanwhile.
    ///
    /// Other than the counters of [`StoreMetrics`](crate::StoreMetrics), off by default, and free then: while it is on, a call takes two looks at a
    /// clock, and so does each call of a host function, some 50 ns. A call that does nothing takes 5 ns without it, one of a host function less than 2.
    ///
    /// ```
    /// use peregrine::{Engine, Instance, Module, Store};
    ///
    /// let module = Module::new(&Engine::default(), r#"(module (func (export "run")))"#)?;
    /// let mut store = Store::new(module.engine(), ());
    /// store.measure_time_in_guest(true);
    /// let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
    /// run.call(&mut store, ())?;
    /// assert!(!store.metrics().time_in_guest.is_zero());
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn measure_time_in_guest(&mut self, enable: bool) {
        let inner = self.inner_mut();
        inner.opaque.stop_clock();
        inner.opaque.guest_clock.is_on = enable;
        match inner.call_hook {
            None if enable => inner.call_hook = Some(Hook::Clock),
            Some(Hook::Clock) if !enable => inner.call_hook = None,
            _ => {}
        }
        let is_told = inner.call_hook.is_some();
        inner.opaque.vm.set_unusual(Unusual::CallHook, is_told);
    }
}

impl<T: 'static> StoreInner<T> {
    /// Tells the hook, if there is one.
    #[inline]
    pub(crate) fn crossing(&mut self, kind: CallHook) -> Result<()> {
        if self.call_hook.is_none() { Ok(()) } else { self.run_hook(kind) }
    }

    /// Whether there is a hook that may wait: it is told by [`crossing_async`](Self::crossing_async) where that can be.
    #[inline]
    pub(crate) fn hook_may_wait(&self) -> bool {
        matches!(self.call_hook, Some(Hook::Async(_)))
    }

    #[cold]
    fn run_hook(&mut self, kind: CallHook) -> Result<()> {
        let Some(told) = Told::begin(self, kind) else { return Ok(()) };
        match std::pin::pin!(told.tell(kind)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(Error::msg(
                "the call hook has to wait, and the guest was not called as a future; use `call_async`, or a hook that is ready at once",
            )),
        }
    }

    /// Tells the hook, if there is one, and waits for it.
    #[cold]
    pub(crate) async fn crossing_async(&mut self, kind: CallHook) -> Result<()> {
        match Told::begin(self, kind) {
            Some(told) => told.tell(kind).await,
            None => Ok(()),
        }
    }
}

/// A hook that is told of a crossing. What it calls itself crosses without it; however this ends, the store has it back, unless it installed
/// another one.
struct Told<'a, T: 'static> {
    store: &'a mut StoreInner<T>,
    hook: Option<Hook<T>>,
}

impl<'a, T: 'static> Told<'a, T> {
    /// Takes the hook out of the store; time stops if the host goes on.
    fn begin(store: &'a mut StoreInner<T>, kind: CallHook) -> Option<Self> {
        if kind.entering_host() {
            store.opaque.stop_clock();
        }
        let hook = store.call_hook.take()?;
        Some(Self { store, hook: Some(hook) })
    }

    /// Tells it; time begins if the guest goes on.
    async fn tell(mut self, kind: CallHook) -> Result<()> {
        let this = &mut self;
        let outcome = match &mut this.hook {
            Some(Hook::Sync(hook)) => hook(StoreContextMut(&mut *this.store), kind),
            Some(Hook::Async(hook)) => hook.handle_call_event(StoreContextMut(&mut *this.store), kind).await,
            Some(Hook::Clock) | None => Ok(()),
        };
        if kind.exiting_host() && outcome.is_ok() {
            self.store.opaque.guest_clock.start();
        }
        outcome
    }
}

impl<T: 'static> Drop for Told<'_, T> {
    fn drop(&mut self) {
        if let Some(hook) = self.hook.take() {
            self.store.call_hook.get_or_insert(hook);
        }
    }
}
