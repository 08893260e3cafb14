//! A linker: definitions by name, from which the imports of modules are resolved.

use crate::at_once::{Way, at_once};
use crate::context::{AsContext, AsContextMut, StoreContextMut};
use crate::error::{Context, Result, bail, ensure};
use crate::host_func::{HostFunc, IntoFunc};
use crate::instance::{Definition, check_store};
use crate::store::{StoreInner, StoreOpaque};
use crate::{
    Caller, Engine, Extern, ExternType, Func, FuncType, ImportType, Instance, InstancePre, Module, ModuleExport, Trap, UnknownImportError,
    Val, matching,
};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Definitions by two names, module and name, for stores with data `T`.
///
/// ```
/// use peregrine::{Engine, Linker, Module, Store};
///
/// let engine = Engine::default();
/// let mut linker = Linker::new(&engine);
/// linker.func_wrap("math", "double", |x: i32| x * 2)?;
/// let module = Module::new(
///     &engine,
///     r#"(module
///         (import "math" "double" (func $double (param i32) (result i32)))
///         (func (export "run") (result i32) (call $double (i32.const 21))))"#,
/// )?;
/// let mut store = Store::new(&engine, ());
/// let instance = linker.instantiate(&mut store, &module)?;
/// assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())?, 42);
/// # Ok::<(), peregrine::Error>(())
/// ```
pub struct Linker<T> {
    engine: Engine,
    modules: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Item>>,
    allow_shadowing: bool,
    allow_unknown_exports: bool,
    stores_of: PhantomData<fn() -> T>,
}

/// A definition with its type when it was defined. Memories and tables may have grown since.
#[derive(Clone)]
struct Item {
    definition: Definition,
    ty: ExternType,
}

/// A function of a command: each call makes an instance and runs there.
pub(crate) struct CommandFunction<T: 'static> {
    pre: InstancePre<T>,
    export: ModuleExport,
}

impl<T: 'static> CommandFunction<T> {
    /// Calls it.
    pub(crate) async fn run(&self, mut caller: Caller<'_, T>, params: &[Val], results: &mut [Val], way: Way) -> Result<()> {
        let instance = self.pre.instantiate_in(caller.inner(), way).await?;
        let function = instance.get_module_export(&mut caller, &self.export).and_then(Extern::into_func);
        let function = function.expect("an instance exports what its module does");
        match way {
            Way::AtOnce => function.call(&mut caller, params, results),
            Way::Waiting => function.call_waiting(caller.inner(), params, results).await,
        }
    }
}

impl<T> Linker<T> {
    /// A linker without definitions.
    pub fn new(engine: &Engine) -> Self {
        Self {
            engine: engine.clone(),
            modules: BTreeMap::new(),
            allow_shadowing: false,
            allow_unknown_exports: false,
            stores_of: PhantomData,
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether a name may be defined again, which replaces the definition. Off at first: a second definition is an error.
    pub fn allow_shadowing(&mut self, allow: bool) -> &mut Self {
        self.allow_shadowing = allow;
        self
    }

    /// Whether [`module`](Self::module) passes over what a command exports that is neither a function nor known to be exported by toolchains. Off at
    /// first: such an export is an error, since it could not be used.
    pub fn allow_unknown_exports(&mut self, allow: bool) -> &mut Self {
        self.allow_unknown_exports = allow;
        self
    }
}

impl<T: 'static> Linker<T> {
    fn insert(&mut self, module: &str, name: &str, item: Item) -> Result<()> {
        if !self.allow_shadowing && self.item(module, name).is_some() {
            bail!("import of `{module}::{name}` defined twice");
        }
        let names = match self.modules.get_mut(module) {
            Some(names) => names,
            None => self.modules.entry(module.into()).or_default(),
        };
        names.insert(name.into(), item);
        Ok(())
    }

    fn item(&self, module: &str, name: &str) -> Option<&Item> {
        self.modules.get(module)?.get(name)
    }

    /// Defines something that exists in a store.
    ///
    /// # Errors
    ///
    /// If the name is defined already and [shadowing](Self::allow_shadowing) is off; so do all definitions here.
    ///
    /// # Panics
    ///
    /// If `item` belongs to another store.
    pub fn define(&mut self, store: impl AsContext<Data = T>, module: &str, name: &str, item: impl Into<Extern>) -> Result<&mut Self> {
        let item = item.into();
        let ty = item.ty_in(&store.as_context().0.opaque);
        self.insert(module, name, Item { definition: Definition::Extern(item), ty })?;
        Ok(self)
    }

    pub(crate) fn define_host(&mut self, module: &str, name: &str, function: HostFunc) -> Result<&mut Self> {
        let ty = function.ty().clone().into();
        self.insert(module, name, Item { definition: Definition::Host(Arc::new(function)), ty })?;
        Ok(self)
    }

    /// Defines a host function for every store. See [`Func::wrap`].
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define).
    pub fn func_wrap<Params, Results>(&mut self, module: &str, name: &str, func: impl IntoFunc<T, Params, Results>) -> Result<&mut Self> {
        let function = HostFunc::wrap(&self.engine, func);
        self.define_host(module, name, function)
    }

    /// Defines a host function for every store, of a type known at run time. See [`Func::new`].
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define).
    ///
    /// # Panics
    ///
    /// If `ty` belongs to another engine.
    pub fn func_new(
        &mut self,
        module: &str,
        name: &str,
        ty: FuncType,
        func: impl Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<&mut Self> {
        assert!(ty.comes_from(&self.engine), "function type used with the wrong engine");
        self.define_host(module, name, HostFunc::dynamic(ty, func))
    }

    /// Defines all exports of an instance, under the name `module_name`.
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define).
    ///
    /// # Panics
    ///
    /// If `instance` belongs to another store.
    pub fn instance(&mut self, mut store: impl AsContextMut<Data = T>, module_name: &str, instance: Instance) -> Result<&mut Self> {
        let mut store = store.as_context_mut();
        let exports: Vec<(String, Extern)> =
            instance.exports(&mut store).map(|export| (export.name().to_owned(), export.into_extern())).collect();
        for (name, item) in exports {
            self.define(&store, module_name, &name, item)?;
        }
        Ok(self)
    }

    /// Defines the exports of a module, under the name `module_name`.
    ///
    /// A module that exports `_start` is a command: each call of one of its functions makes a fresh instance and runs in it, so that only
    /// functions are defined; anything else that it exports is an error unless [`allow_unknown_exports`](Self::allow_unknown_exports) is on, but for
    /// what toolchains export: a memory `memory`, a table `table` or `__indirect_function_table`, and globals `__heap_base`, `__data_end`,
    /// `__dso_handle` and `__rtti_base`. Any other module is instantiated now; `_initialize` is called if it is exported.
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define) and [`instantiate`](Self::instantiate); if the module exports both `_start` and `_initialize`, or one of them is
    /// not a function.
    pub fn module(&mut self, mut store: impl AsContextMut<Data = T>, module_name: &str, module: &Module) -> Result<&mut Self> {
        let define = |ty, command: CommandFunction<T>| {
            HostFunc::dynamic(ty, move |caller, params, results| at_once(command.run(caller, params, results, Way::AtOnce)))
        };
        at_once(self.module_in(store.as_context_mut().0, module_name, module, Way::AtOnce, define))?;
        Ok(self)
    }

    /// [`module`](Self::module), in a way, with host functions for the functions of a command as `define` makes them.
    pub(crate) async fn module_in(
        &mut self,
        store: &mut StoreInner<T>,
        module_name: &str,
        module: &Module,
        way: Way,
        define: impl Fn(FuncType, CommandFunction<T>) -> HostFunc,
    ) -> Result<()> {
        let function = |name: &str| match module.get_export(name) {
            None => Ok(false),
            Some(ExternType::Func(_)) => Ok(true),
            Some(other) => {
                bail!("expected the export `{name}` to be a function, found a {}; export what it is under another name", other.kind())
            }
        };
        let (is_command, is_reactor) = (function("_start")?, function("_initialize")?);
        if is_command && is_reactor {
            bail!(
                "expected a module to export `_start`, as a command, or `_initialize`, as a reactor, found both; \
                link it as one of them, or define its exports by `Linker::instance`"
            );
        }
        if !is_command {
            let instance = self.resolve(module, Some(&store.opaque))?.instantiate_in(store, way).await?;
            if is_reactor {
                let initialize = instance.get_typed_func::<(), ()>(StoreContextMut(store), "_initialize")?;
                let called = match way {
                    Way::AtOnce => initialize.func().call_values(store, &mut []),
                    Way::Waiting => initialize.func().call_values_async(store, &mut []).await,
                };
                called.context("calling the `_initialize` function")?;
            }
            self.instance(StoreContextMut(store), module_name, instance)?;
            return Ok(());
        }
        let pre = self.instantiate_pre(module)?;
        for (name, ty) in self.command_functions(module)? {
            let export = module.get_export_index(name).with_context(|| format!("no export is named `{name}`"))?;
            let function = define(ty, CommandFunction { pre: pre.clone(), export });
            self.define_host(module_name, name, function)?;
        }
        if self.item(module_name, "").is_none() {
            self.alias(module_name, "_start", module_name, "")?;
        }
        Ok(())
    }

    /// The functions that a command exports. What else it exports is passed over where toolchains are known to export it, and refused otherwise.
    fn command_functions<'a>(&self, module: &'a Module) -> Result<Vec<(&'a str, FuncType)>> {
        let mut functions = Vec::new();
        for export in module.exports() {
            match (export.name(), export.ty()) {
                (name, ExternType::Func(ty)) => functions.push((name, ty)),
                ("memory", ExternType::Memory(_))
                | ("table" | "__indirect_function_table", ExternType::Table(_))
                | ("__heap_base" | "__data_end" | "__dso_handle" | "__rtti_base", ExternType::Global(_)) => {}
                _ if self.allow_unknown_exports => {}
                (name, ty) => bail!(
                    "command export `{name}` is not a function, but a {}, which could not be used; `Linker::allow_unknown_exports` passes over it",
                    ty.kind()
                ),
            }
        }
        Ok(functions)
    }

    /// Defines what is known by one pair of names by another one too.
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define), and if the first pair is not defined.
    pub fn alias(&mut self, module: &str, name: &str, as_module: &str, as_name: &str) -> Result<&mut Self> {
        let item = self.item(module, name).with_context(|| format!("no item named `{module}::{name}` defined"))?.clone();
        self.insert(as_module, as_name, item)?;
        Ok(self)
    }

    /// Defines everything of one module name under another one too.
    ///
    /// # Errors
    ///
    /// As [`define`](Self::define).
    pub fn alias_module(&mut self, module: &str, as_module: &str) -> Result<()> {
        for (name, item) in self.modules.get(module).cloned().unwrap_or_default() {
            self.insert(as_module, &name, item)?;
        }
        Ok(())
    }

    /// Defines each import of `module` that is a function and not defined yet, as a function that traps with [`Trap::UnknownImportCalled`].
    ///
    /// # Errors
    ///
    /// None so far: imports that are no functions stay undefined.
    pub fn define_unknown_imports_as_traps(&mut self, module: &Module) -> Result<()> {
        for import in module.imports() {
            let ExternType::Func(ty) = import.ty() else { continue };
            if self.item(import.module(), import.name()).is_some() {
                continue;
            }
            let unknown = UnknownImportError::new(&import);
            let function = HostFunc::dynamic(ty, move |_: Caller<'_, T>, _, _| {
                Err(crate::Error::from(Trap::UnknownImportCalled).context(unknown.clone()))
            });
            self.define_host(import.module(), import.name(), function)?;
        }
        Ok(())
    }

    /// Defines each import of `module` that is not defined yet: functions that return zeroes and nulls, globals that are zero or null,
    /// memories of zeroes, tables of nulls.
    ///
    /// # Errors
    ///
    /// If a type has no default value, or a limit of the store refuses a memory or table.
    pub fn define_unknown_imports_as_default_values(&mut self, mut store: impl AsContextMut<Data = T>, module: &Module) -> Result<()> {
        for import in module.imports() {
            if self.item(import.module(), import.name()).is_some() {
                continue;
            }
            let what = || format!("`{}::{}` cannot be given a default value", import.module(), import.name());
            let item = match import.ty() {
                ExternType::Func(ty) => {
                    let defaults = ty.default_results().with_context(what)?;
                    self.func_new(import.module(), import.name(), ty, move |_, _, results| {
                        results.copy_from_slice(&defaults);
                        Ok(())
                    })?;
                    continue;
                }
                other => other.default_value(&mut store).with_context(what)?,
            };
            self.define(&store, import.module(), import.name(), item)?;
        }
        Ok(())
    }

    /// Resolves the imports of `module`, to make any number of instances.
    ///
    /// # Errors
    ///
    /// [`UnknownImportError`] for the first import that is not defined, or what is wrong with the type of a definition. If the module
    /// belongs to another engine.
    pub fn instantiate_pre(&self, module: &Module) -> Result<InstancePre<T>> {
        self.resolve(module, None)
    }

    /// Resolves the imports of `module`. With a store, memories and tables are taken as large as they are now.
    pub(crate) fn resolve(&self, module: &Module, store: Option<&StoreOpaque>) -> Result<InstancePre<T>> {
        ensure!(
            Engine::same(&self.engine, module.engine()),
            "the module belongs to another engine than the linker; cross-`Engine` instantiation is not possible"
        );
        let resolve = |(position, import): (usize, &peregrine_wasm::Import)| {
            let item = self.item(&import.module, &import.name);
            let item = item.ok_or_else(|| UnknownImportError::new(&matching::import(module, position)))?;
            if let (Definition::Extern(definition), Some(store)) = (&item.definition, store) {
                check_store(module, position, definition, store)?;
            }
            match (&item.definition, store) {
                (Definition::Extern(definition @ (Extern::Memory(_) | Extern::SharedMemory(_) | Extern::Table(_))), Some(store)) => {
                    matching::check_import(module, position, &definition.ty_in(store))?;
                }
                _ => matching::check_import(module, position, &item.ty)?,
            }
            Ok(item.definition.clone())
        };
        let items = module.loaded().module().imports.iter().enumerate().map(resolve);
        Ok(InstancePre::new(module, items.collect::<Result<_>>()?))
    }

    /// Resolves the imports of `module`, makes an instance and calls its start function.
    ///
    /// # Errors
    ///
    /// As [`instantiate_pre`](Self::instantiate_pre) and [`InstancePre::instantiate`].
    pub fn instantiate(&self, mut store: impl AsContextMut<Data = T>, module: &Module) -> Result<Instance> {
        let pre = self.resolve(module, Some(&store.as_context_mut().0.opaque))?;
        pre.instantiate(store)
    }

    /// What is defined by a pair of names.
    ///
    /// # Errors
    ///
    /// If nothing is.
    ///
    /// # Panics
    ///
    /// If it is a host function and the store belongs to another engine than the linker.
    pub fn get(&self, store: impl AsContextMut<Data = T>, module: &str, name: &str) -> Result<Extern> {
        self.find(store, module, name).with_context(|| format!("no item named `{module}::{name}` defined"))
    }

    fn find(&self, mut store: impl AsContextMut<Data = T>, module: &str, name: &str) -> Option<Extern> {
        let item = self.item(module, name)?;
        Some(item.definition.to_extern(&mut store.as_context_mut().0.opaque))
    }

    /// What is defined by the names of an import.
    pub fn get_by_import(&self, store: impl AsContextMut<Data = T>, import: &ImportType<'_>) -> Option<Extern> {
        self.find(store, import.module(), import.name())
    }

    /// As [`get_by_import`](Self::get_by_import).
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn try_get_by_import(&self, store: impl AsContextMut<Data = T>, import: &ImportType<'_>) -> Result<Option<Extern>> {
        Ok(self.get_by_import(store, import))
    }

    /// The function that stands for the whole of `module`: the one without a name, or `_start`, or one that does nothing.
    ///
    /// # Errors
    ///
    /// If the definition without a name or `_start` is not a function.
    pub fn get_default(&self, mut store: impl AsContextMut<Data = T>, module: &str) -> Result<Func> {
        for name in ["", "_start"] {
            if let Some(item) = self.find(&mut store, module, name) {
                return item.into_func().with_context(|| format!("default export in `{module}` is not a function"));
            }
        }
        Ok(Func::wrap(store, || {}))
    }

    /// All definitions, by rising names: module, name, item.
    pub fn iter<'a: 'p, 'p>(
        &'a self,
        mut store: impl AsContextMut<Data = T> + 'p,
    ) -> impl Iterator<Item = (&'a str, &'a str, Extern)> + 'p {
        self.modules
            .iter()
            .flat_map(|(module, names)| names.iter().map(move |(name, item)| (&**module, &**name, item)))
            .map(move |(module, name, item)| (module, name, item.definition.to_extern(&mut store.as_context_mut().0.opaque)))
    }
}

impl<T> Clone for Linker<T> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            modules: self.modules.clone(),
            allow_shadowing: self.allow_shadowing,
            allow_unknown_exports: self.allow_unknown_exports,
            stores_of: PhantomData,
        }
    }
}

impl<T> Default for Linker<T> {
    /// A linker of an engine of its own, with the default configuration.
    fn default() -> Self {
        Self::new(&Engine::default())
    }
}

impl<T> fmt::Debug for Linker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.modules.iter().flat_map(|(module, names)| names.keys().map(move |name| format!("{module}::{name}")));
        f.debug_list().entries(names).finish()
    }
}
