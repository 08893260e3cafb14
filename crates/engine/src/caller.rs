//! What a host function learns about the call it serves.

use crate::context::{AsContext, AsContextMut, StoreContext, StoreContextMut};
use crate::error::Result;
use crate::store::{StoreInner, StoreOpaque};
use crate::vm::InstanceId;
use crate::{Engine, Extern, GcHeapOutOfMemory, Instance, ModuleExport};

/// The store of a call, and the instance that calls.
///
/// ```
/// use peregrine::{Caller, Engine, Extern, Linker, Module, Store};
///
/// let engine = Engine::default();
/// let module = Module::new(
///     &engine,
///     r#"(module
///         (import "host" "print" (func $print (param i32 i32)))
///         (memory (export "memory") 1)
///         (data (i32.const 8) "hello")
///         (func (export "run") (call $print (i32.const 8) (i32.const 5))))"#,
/// )?;
/// let mut linker = Linker::new(&engine);
/// linker.func_wrap("host", "print", |mut caller: Caller<'_, String>, start: u32, len: u32| {
///     let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return };
///     let (bytes, output) = memory.data_and_store_mut(&mut caller);
///     output.push_str(&String::from_utf8_lossy(&bytes[start as usize..][..len as usize]));
/// })?;
/// let mut store = Store::new(&engine, String::new());
/// let instance = linker.instantiate(&mut store, &module)?;
/// instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
/// assert_eq!(store.data(), "hello");
/// # Ok::<(), peregrine::Error>(())
/// ```
pub struct Caller<'a, T: 'static> {
    store: StoreContextMut<'a, T>,
    /// The number of the instance, or [`NO_INSTANCE`]: so that a caller is passed in two registers.
    instance: u32,
}

/// The number of no instance.
const NO_INSTANCE: u32 = u32::MAX;

impl<'a, T: 'static> Caller<'a, T> {
    #[inline]
    pub(crate) fn new(store: &'a mut StoreInner<T>, instance: Option<InstanceId>) -> Self {
        Self { store: StoreContextMut(store), instance: instance.map_or(NO_INSTANCE, InstanceId::as_u32) }
    }

    /// The same, for a shorter time.
    #[inline]
    pub(crate) fn reborrow(&mut self) -> Caller<'_, T> {
        Caller { store: StoreContextMut(self.store.0), instance: self.instance }
    }

    /// The store.
    #[inline]
    pub(crate) fn inner(&mut self) -> &mut StoreInner<T> {
        self.store.0
    }

    /// What of the store knows no type of the embedder's.
    pub(crate) fn opaque(&self) -> &StoreOpaque {
        &self.store.0.opaque
    }

    fn instance(&self) -> Option<Instance> {
        let id = (self.instance != NO_INSTANCE).then_some(InstanceId::from_u32(self.instance))?;
        self.store.0.opaque.module_of(id)?;
        Some(Instance::from_id(&self.store.0.opaque, id))
    }

    /// An export of the calling instance: the one whose import the function fills. A guest that calls through a reference, of a table for
    /// example, calls as the instance that made the reference of its import. `None` also if the host called, or the host made the reference:
    /// with [`Func::wrap`](crate::Func::wrap), put into a table or a global or passed as an argument.
    pub fn get_export(&mut self, name: &str) -> Option<Extern> {
        self.instance()?.get_export(&mut self.store, name)
    }

    /// An export of the calling instance, looked up before. See [`Module::get_export_index`](crate::Module::get_export_index).
    pub fn get_module_export(&mut self, export: &ModuleExport) -> Option<Extern> {
        self.instance()?.get_module_export(&mut self.store, export)
    }

    /// The embedder's data.
    pub fn data(&self) -> &T {
        self.store.data()
    }

    /// The embedder's data, to change it.
    pub fn data_mut(&mut self) -> &mut T {
        self.store.data_mut()
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        self.store.engine()
    }

    /// See [`Store::get_fuel`](crate::Store::get_fuel).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn get_fuel(&self) -> Result<u64> {
        self.store.get_fuel()
    }

    /// See [`Store::set_fuel`](crate::Store::set_fuel).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_fuel(&mut self, fuel: u64) -> Result<()> {
        self.store.set_fuel(fuel)
    }

    /// See [`Store::gc`](crate::Store::gc).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn gc(&mut self, why: Option<&GcHeapOutOfMemory<()>>) -> Result<()> {
        let _ = why;
        Ok(())
    }
}

impl<T: 'static> AsContext for Caller<'_, T> {
    type Data = T;

    fn as_context(&self) -> StoreContext<'_, T> {
        self.store.as_context()
    }
}

impl<T: 'static> AsContextMut for Caller<'_, T> {
    fn as_context_mut(&mut self) -> StoreContextMut<'_, T> {
        self.store.as_context_mut()
    }
}

impl<'a, T: 'static> From<Caller<'a, T>> for StoreContextMut<'a, T> {
    fn from(caller: Caller<'a, T>) -> Self {
        caller.store
    }
}
