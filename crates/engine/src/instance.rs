//! Instances, and modules with their imports ready to become instances.

use crate::async_limits::Asked;
use crate::at_once::{Way, at_once};
use crate::context::{AsContextMut, StoreContextMut};
use crate::error::{Error, Result, bail};
use crate::externals::Export;
use crate::global::HOST_OBJECT_BYTES;
use crate::host_func::HostFunc;
use crate::store::{StoreId, StoreInner, StoreOpaque};
use crate::typed::{TypedFunc, WasmParams, WasmResults};
use crate::vm::boundary;
use crate::vm::{FuncId, InstanceId, VmImport};
use crate::{Engine, Extern, Func, Global, Memory, Module, ModuleExport, SharedMemory, Table, Tag, matching};
use peregrine_wasm::{EntityIndex, Index};
use std::marker::PhantomData;
use std::sync::Arc;

/// An instance of a module in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    store: StoreId,
    id: InstanceId,
}

/// A module whose imports are resolved and checked, to be instantiated any number of times in stores of `T`. Made by
/// [`Linker::instantiate_pre`](crate::Linker::instantiate_pre).
pub struct InstancePre<T> {
    module: Module,
    items: Arc<[Definition]>,
    stores_of: PhantomData<fn() -> T>,
}

/// What fills an import: something of one store, or a host function that any store can have.
#[derive(Clone)]
pub(crate) enum Definition {
    Extern(Extern),
    Host(Arc<HostFunc>),
}

impl Definition {
    /// As something of `store`.
    pub(crate) fn to_extern(&self, store: &mut StoreOpaque) -> Extern {
        match self {
            Self::Extern(item) => item.clone(),
            Self::Host(function) => {
                let id = store.shared_func(function);
                Func::from_id(store, id).into()
            }
        }
    }
}

/// An instance whose start function runs. If that fails, panics or is abandoned, the instance goes where nobody can have a handle of it or
/// of what it exports: where no host function was called, since there are no imports, and the error has no core dump.
pub(crate) struct Starting<'a, T: 'static> {
    pub(crate) store: &'a mut StoreInner<T>,
    instance: Instance,
    /// Whether it goes if nothing more happens.
    goes: bool,
}

impl<'a, T: 'static> Starting<'a, T> {
    pub(crate) fn new(store: &'a mut StoreInner<T>, instance: Instance, module: &Module) -> Self {
        let goes = module.imports().len() == 0 && !store.opaque.engine().config().coredump_on_trap;
        Self { store, instance, goes }
    }

    /// The start function has returned.
    pub(crate) fn end(mut self) {
        self.goes = false;
    }
}

impl<T: 'static> Drop for Starting<'_, T> {
    fn drop(&mut self) {
        if self.goes {
            self.instance.discard(&mut self.store.opaque);
        }
    }
}

impl Instance {
    /// Makes an instance of `module`, with one of `imports` for each of its imports, in order, and calls its start function.
    ///
    /// ```
    /// use peregrine::{Engine, Func, Instance, Module, Store};
    ///
    /// let engine = Engine::default();
    /// let module = Module::new(&engine, r#"(module (import "" "" (func $f)) (start $f))"#)?;
    /// let mut store = Store::new(&engine, 0);
    /// let count = Func::wrap(&mut store, |mut caller: peregrine::Caller<'_, i32>| *caller.data_mut() += 1);
    /// Instance::new(&mut store, &module, &[count.into()])?;
    /// assert_eq!(*store.data(), 1);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the number or types of the imports are wrong, one belongs to another store, a limit of the store is reached, an active segment
    /// does not fit, or the start function traps.
    ///
    /// What an instance holds that does not come about is given back at once if nothing refers to it and nobody can have a handle of it: a
    /// segment did not fit, or its start function failed and the module imports nothing. A module with imports may have called a host
    /// function that took its exports ([`Caller::get_export`](crate::Caller::get_export)); after its start function failed the instance
    /// stays, and counts, until the store is dropped. So it does where the error has a core dump
    /// ([`Config::coredump_on_trap`](crate::Config::coredump_on_trap)), which refers to it.
    pub fn new(mut store: impl AsContextMut, module: &Module, imports: &[Extern]) -> Result<Self> {
        at_once(Self::new_in(store.as_context_mut().0, module, imports, Way::AtOnce))
    }

    /// [`new`](Self::new), in a way.
    pub(crate) async fn new_in<T: 'static>(store: &mut StoreInner<T>, module: &Module, imports: &[Extern], way: Way) -> Result<Self> {
        let imports = Self::check_imports(store, module, imports)?;
        Self::instantiate(store, module, &imports, way).await
    }

    /// Checks that `imports` fit the module, and the module the store.
    pub(crate) fn check_imports<T: 'static>(store: &mut StoreInner<T>, module: &Module, imports: &[Extern]) -> Result<Vec<VmImport>> {
        check_engine(module, &store.opaque)?;
        let expected = module.imports().len();
        if imports.len() != expected {
            bail!("expected {expected} imports, found {}", imports.len());
        }
        for (position, item) in imports.iter().enumerate() {
            check_store(module, position, item, &store.opaque)?;
            let same_func = matches!(item, Extern::Func(func) if matching::is_func(module, position, func.type_id(&store.opaque)));
            if !same_func {
                matching::check_import(module, position, &item.ty_in(&store.opaque))?;
            }
        }
        Ok(imports.iter().map(|item| item.to_import(&mut store.opaque)).collect())
    }

    /// `imports` are checked, and so is the engine.
    pub(crate) async fn instantiate<T: 'static>(
        store: &mut StoreInner<T>,
        module: &Module,
        imports: &[VmImport],
        way: Way,
    ) -> Result<Self> {
        let (instance, start) = {
            let mut asked = Asked::new(store);
            asked.ask_for_instance(module).await;
            Self::create(asked.store(), module, imports)?
        };
        if let Some(start) = start {
            let starting = Starting::new(store, instance, module);
            match way {
                Way::AtOnce => start.call_values(starting.store, &mut [])?,
                Way::Waiting => start.call_values_async(starting.store, &mut []).await?,
            }
            starting.end();
        }
        Ok(instance)
    }

    /// Makes an instance whose start function, if it has one, is still to be called. `imports` are checked, and so is the engine.
    pub(crate) fn create<T: 'static>(store: &mut StoreInner<T>, module: &Module, imports: &[VmImport]) -> Result<(Self, Option<Func>)> {
        let _span = tracing::debug_span!("instantiate", module = module.name()).entered();
        let loaded = module.loaded();
        let description = loaded.module();
        let tables = description.tables.len() - description.imported_tables as usize;
        let memories = description.memories.len() - description.imported_memories as usize;
        let (before, instances) = (store.opaque.counts, store.opaque.vm.live_instances_count());
        store.opaque.counts.add(1, tables, memories)?;
        let host_bytes = loaded.instance_bytes() + store.opaque.vm.count_new_shared(imports) * HOST_OBJECT_BYTES;
        if let Err(error) = store.opaque.counts.add_host_bytes(host_bytes) {
            store.opaque.counts = before;
            return Err(error);
        }
        let id = boundary::instantiate(store, module, imports).map_err(|pending| {
            // What a segment that did not fit left behind may be in use and counts; what never was does not.
            if store.opaque.vm.live_instances_count() == instances {
                store.opaque.counts = before;
            }
            store.opaque.note_drops();
            // What was written to tables of others before it failed may be called.
            store.opaque.make_missing_exits();
            store.opaque.error_of(pending)
        })?;
        // A start function may call them.
        store.opaque.make_missing_exits();
        let start = description.start.map(|start| {
            let function = store.opaque.vm.instance(id).func_origin(start);
            Func::from_id(&mut store.opaque, function)
        });
        Ok((Self::from_id(&store.opaque, id), start))
    }

    /// Drops it after its start function failed, unless something refers to it. Nobody has a handle of it.
    fn discard(self, store: &mut StoreOpaque) {
        let (held, adopted) = (store.vm.instance(self.id).held(), store.vm.adopted_count());
        if store.vm.discard_instance(self.id) {
            store.uncount(held, adopted);
        }
    }

    /// Drops it, unless a guest runs or something refers to it.
    pub(crate) fn drop_in(self, store: &mut StoreOpaque) -> Result<()> {
        store.check_instance(self.store, self.id);
        let (held, adopted) = (store.vm.instance(self.id).held(), store.vm.adopted_count());
        store.vm.drop_instance(self.id)?;
        store.uncount(held, adopted);
        Ok(())
    }

    pub(crate) fn from_id(store: &StoreOpaque, id: InstanceId) -> Self {
        Self { store: store.id(), id }
    }

    fn module_in<'a>(&self, store: &'a StoreOpaque) -> &'a Module {
        store.check_instance(self.store, self.id);
        store.module_of(self.id).expect("an instance has a module")
    }

    fn entity(&self, store: &mut StoreOpaque, entity: EntityIndex) -> Extern {
        let instance = store.vm.instance(self.id);
        match entity {
            EntityIndex::Function(index) => {
                // Of an import, the origin; it has a reference whether or not this module lets it escape.
                let function: FuncId = instance.func_origin(index);
                Func::from_id(store, function).into()
            }
            EntityIndex::Table(index) => Table::from_id(store, instance.table_origin(index)).into(),
            EntityIndex::Memory(index) => {
                let (owner, index) = instance.memory_origin(index);
                match store.vm.instance(owner).memory(index).shared() {
                    Some(memory) => SharedMemory::from_vm(store.engine(), memory).into(),
                    None => Memory::from_id(store, (owner, index)).into(),
                }
            }
            EntityIndex::Global(index) => Global::from_id(store, instance.global_origin(index)).into(),
            EntityIndex::Tag(index) => unreachable!("modules with tags are refused, tag {} is exported", index.as_usize()),
        }
    }

    /// The module.
    ///
    /// # Panics
    ///
    /// If the instance belongs to another store; so do all functions here.
    pub fn module<'a, T: 'static>(&self, store: impl Into<crate::StoreContext<'a, T>>) -> &'a Module {
        self.module_in(&store.into().0.opaque)
    }

    /// The exports, in order.
    pub fn exports<'a, T: 'static>(&'a self, store: impl Into<StoreContextMut<'a, T>>) -> impl ExactSizeIterator<Item = Export<'a>> + 'a {
        let store = &mut store.into().0.opaque;
        let module = self.module_in(store).clone();
        let exports = &module.loaded().module().exports;
        let items: Vec<Extern> = exports.iter().map(|export| self.entity(store, export.entity)).collect();
        let exports = &self.module_in(store).loaded().module().exports;
        exports.iter().zip(items).map(|(export, item)| Export::new(&export.name, item))
    }

    /// The export `name`, if there is one.
    pub fn get_export(&self, mut store: impl AsContextMut, name: &str) -> Option<Extern> {
        let store = &mut store.as_context_mut().0.opaque;
        let entity = self.module_in(store).export_entity(name)?;
        Some(self.entity(store, entity))
    }

    /// An export of the instance's module that was looked up before. `None` if `export` is of another module.
    pub fn get_module_export(&self, mut store: impl AsContextMut, export: &ModuleExport) -> Option<Extern> {
        let store = &mut store.as_context_mut().0.opaque;
        let same = export.module == self.module_in(store).loaded().number();
        same.then(|| self.entity(store, export.entity))
    }

    /// The exported function `name`, if there is one.
    pub fn get_func(&self, store: impl AsContextMut, name: &str) -> Option<Func> {
        self.get_export(store, name)?.into_func()
    }

    /// The exported function `name`, with Rust types.
    ///
    /// # Errors
    ///
    /// If there is no such function, or its types are others.
    pub fn get_typed_func<Params: WasmParams, Results: WasmResults>(
        &self,
        mut store: impl AsContextMut,
        name: &str,
    ) -> Result<TypedFunc<Params, Results>> {
        let Some(item) = self.get_export(&mut store, name) else { bail!("failed to find function export `{name}`") };
        let Extern::Func(func) = item else { bail!("export `{name}` is not a function, but a {}", item.ty(&store).kind()) };
        func.typed(&store).map_err(|error| error.context(format!("failed to convert function `{name}` to given type")))
    }

    /// The exported table `name`, if there is one.
    pub fn get_table(&self, store: impl AsContextMut, name: &str) -> Option<Table> {
        self.get_export(store, name)?.into_table()
    }

    /// The exported memory `name`, if there is one.
    pub fn get_memory(&self, store: impl AsContextMut, name: &str) -> Option<Memory> {
        self.get_export(store, name)?.into_memory()
    }

    /// The exported shared memory `name`, if there is one.
    pub fn get_shared_memory(&self, store: impl AsContextMut, name: &str) -> Option<SharedMemory> {
        self.get_export(store, name)?.into_shared_memory()
    }

    /// The exported global `name`, if there is one.
    pub fn get_global(&self, store: impl AsContextMut, name: &str) -> Option<Global> {
        self.get_export(store, name)?.into_global()
    }
}

impl Instance {
    /// The exported tag `name`: modules that have tags are refused, so there is none.
    pub fn get_tag(&self, store: impl AsContextMut, name: &str) -> Option<Tag> {
        self.get_export(store, name)?.into_tag()
    }
}

fn check_engine(module: &Module, store: &StoreOpaque) -> Result<()> {
    if !Engine::same(module.engine(), store.engine()) {
        bail!("cross-`Engine` instantiation is not possible: the module and the store belong to different engines");
    }
    Ok(())
}

/// Checks that what fills an import of `module` can be used in `store`.
#[inline]
pub(crate) fn check_store(module: &Module, position: usize, item: &Extern, store: &StoreOpaque) -> Result<()> {
    if item.is_of(store) { Ok(()) } else { Err(foreign_import(module, position, item)) }
}

#[cold]
fn foreign_import(module: &Module, position: usize, item: &Extern) -> Error {
    let import = &module.loaded().module().imports[position];
    let (from, name) = (&import.module, &import.name);
    // Shared memories are of no store.
    let is_shared = matches!(item, Extern::SharedMemory(_));
    let (owner, kind) = if is_shared { ("engine", "Engine") } else { ("store", "Store") };
    Error::msg(format!(
        "what fills import {position} of the module, `{from}::{name}`, belongs to another {owner}; cross-`{kind}` instantiation is not possible"
    ))
}

impl<T> InstancePre<T> {
    pub(crate) fn new(module: &Module, items: Vec<Definition>) -> Self {
        Self { module: module.clone(), items: items.into(), stores_of: PhantomData }
    }

    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }
}

impl<T: 'static> InstancePre<T> {
    /// Makes an instance and calls its start function.
    ///
    /// # Errors
    ///
    /// As [`Instance::new`], also if something that was defined in the linker belongs to another store.
    pub fn instantiate(&self, mut store: impl AsContextMut<Data = T>) -> Result<Instance> {
        at_once(self.instantiate_in(store.as_context_mut().0, Way::AtOnce))
    }

    /// [`instantiate`](Self::instantiate), in a way.
    pub(crate) async fn instantiate_in(&self, store: &mut StoreInner<T>, way: Way) -> Result<Instance> {
        let imports = self.imports(store)?;
        Instance::instantiate(store, &self.module, &imports, way).await
    }

    /// What fills the imports in `store`, which is of the right engine.
    fn imports(&self, store: &mut StoreInner<T>) -> Result<Vec<VmImport>> {
        check_engine(&self.module, &store.opaque)?;
        let mut imports = Vec::with_capacity(self.items.len());
        for (position, item) in self.items.iter().enumerate() {
            imports.push(match item {
                Definition::Host(function) => VmImport::Func(store.opaque.shared_func(function)),
                Definition::Extern(item) => {
                    check_store(&self.module, position, item, &store.opaque)?;
                    item.to_import(&mut store.opaque)
                }
            });
        }
        Ok(imports)
    }
}

impl<T> Clone for InstancePre<T> {
    fn clone(&self) -> Self {
        Self { module: self.module.clone(), items: Arc::clone(&self.items), stores_of: PhantomData }
    }
}

impl<T> std::fmt::Debug for InstancePre<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InstancePre").field("module", &self.module).finish_non_exhaustive()
    }
}
