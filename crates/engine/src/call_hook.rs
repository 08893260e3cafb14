//! Call hooks: the embedder is told whenever a call crosses between host and guest.

use crate::error::Result;
use crate::store::StoreInner;
use crate::{Store, StoreContextMut};

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

/// What a store calls at each crossing.
pub(crate) type Hook<T> = Box<dyn FnMut(StoreContextMut<'_, T>, CallHook) -> Result<()> + Send + Sync>;

impl<T: 'static> Store<T> {
    /// Installs what is called at each crossing between host and guest, in place of what was there. An error that it returns ends the call.
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
        self.set_call_hook(Box::new(hook));
    }
}

impl<T: 'static> StoreInner<T> {
    /// Tells the hook, if there is one.
    #[inline]
    pub(crate) fn crossing(&mut self, kind: CallHook) -> Result<()> {
        if self.call_hook.is_none() { Ok(()) } else { self.run_hook(kind) }
    }

    #[cold]
    fn run_hook(&mut self, kind: CallHook) -> Result<()> {
        // What the hook itself calls crosses without it.
        let Some(mut hook) = self.call_hook.take() else { return Ok(()) };
        let outcome = hook(StoreContextMut(self), kind);
        self.call_hook.get_or_insert(hook);
        outcome
    }
}
