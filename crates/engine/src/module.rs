//! Modules: compiled, loaded and ready to be instantiated any number of times.

use crate::binary::Binary;
use crate::cache::{Cache, CacheKey, ContentHash};
use crate::engine::refuse_image;
use crate::error::{Context, Error, Result, bail};
use crate::exhausted;
use crate::gdb_elf;
use crate::kept::{Kept, Occasion};
use crate::tiering::{FirstTier, ModuleTiering, TieringMetrics, TieringSource};
use crate::verified::Identity;
use crate::vm::alloc::pool::Anchor;
use crate::vm::alloc::{Counting, Pool, Spares};
use crate::vm::boundary::{self, map_image};
use crate::vm::{LoadError, LoadOptions, LoadedModule, ModuleNumber, OwnedInstance};
use crate::{Engine, ExportType, ExternType, ImportType, ProfilingStrategy, Strategy};
use peregrine_artifact::compiler::{CompileError, Compiler, LazyFunctions, Prepared, Progress, Validation, WasmBytes};
use peregrine_artifact::image::{ImageError, ImageLayout, Section};
use peregrine_artifact::settings::Tiering;
use peregrine_artifact::tables;
use peregrine_sys::{gdb, unwind};
use peregrine_wasm::EntityIndex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Up to this many exports are compared one by one: faster than hashing.
const FEW_EXPORTS: usize = 12;

/// A compiled module. Cheap to clone, and shared between threads.
///
/// ```
/// use peregrine::{Engine, Module};
///
/// let engine = Engine::default();
/// let module = Module::new(&engine, r#"(module $calc (import "host" "log" (func (param i32))) (func (export "run")))"#)?;
/// assert_eq!(module.name(), Some("calc"));
/// let import = module.imports().next().unwrap();
/// assert_eq!((import.module(), import.name(), import.ty().to_string()), ("host", "log", "(func (param i32))".to_owned()));
/// assert_eq!(module.exports().map(|export| export.name()).collect::<Vec<_>>(), ["run"]);
/// # Ok::<(), peregrine::Error>(())
/// ```
pub struct Module {
    inner: Arc<ModuleInner>,
}

impl Clone for Module {
    fn clone(&self) -> Self {
        self.inner.pool.add_handle();
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let spare = self.inner.pool.remove_handle();
        for instance in &spare {
            self.inner.engine.shared().idle.remove(instance.idle_shard(), instance.reserved_bytes());
        }
    }
}

struct ModuleInner {
    /// Warm instances. Before the code that they are instances of.
    pool: Pool<OwnedInstance>,
    // Before the code that they are about.
    _gdb: Option<gdb::Registration>,
    _unwind: Option<unwind::UnwindRegistration>,
    loaded: Arc<LoadedModule>,
    engine: Engine,
    /// Exports by name, made by the first look-up.
    exports: OnceLock<HashMap<Box<str>, u32>>,
}

impl Spares for ModuleInner {
    fn take_spares(&self) -> Vec<OwnedInstance> {
        self.pool.take_all()
    }
}

impl Drop for ModuleInner {
    fn drop(&mut self) {
        self.engine.shared().warm.remove(self);
        // Here, and not on a thread of the optimizing tier that may be the last to have the code: the process may end when this returns.
        if let Some(tiering) = self.loaded.tiering() {
            tiering.keep(&self.loaded, Occasion::Dropped);
        }
    }
}

/// What an entry of the cache gave.
pub(crate) enum FoundKept {
    Module(Module),
    /// It is not there, or no more.
    Nothing(Box<Kept>),
}

/// An export of a module, looked up once. See [`Module::get_export_index`].
#[derive(Clone, Copy)]
pub struct ModuleExport {
    pub(crate) module: ModuleNumber,
    pub(crate) entity: EntityIndex,
}

impl Module {
    /// Compiles a module in the binary or the text format. With a [cache](crate::Config::cache), an earlier result is loaded instead.
    ///
    /// # Errors
    ///
    /// If the module is malformed (with the place), invalid or beyond a limit, if it is an image (which
    /// [`deserialize`](Self::deserialize) loads), or
    /// if no compiler is linked in.
    pub fn new(engine: &Engine, bytes: impl AsRef<[u8]>) -> Result<Self> {
        Self::new_with_progress(engine, bytes, &())
    }

    /// [`new`](Self::new), telling `progress` how it goes on.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn new_with_progress(engine: &Engine, bytes: impl AsRef<[u8]>, progress: &dyn Progress) -> Result<Self> {
        let bytes = bytes.as_ref();
        may_compile(engine, bytes)?;
        engine.config().budget.check_bytes(bytes)?;
        let compiler = engine.compiler_from_now()?;
        let wasm = compiler.to_binary(bytes)?;
        Self::compile(engine, &*compiler, wasm, None, progress)
    }

    /// As [`new_with_progress`](Self::new_with_progress), without a copy of the bytes, which the module keeps if its functions are compiled
    /// when they are called.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_vec_with_progress(engine: &Engine, bytes: Vec<u8>, progress: &dyn Progress) -> Result<Self> {
        Self::from_content(engine, bytes, None, progress)
    }

    /// The module of `bytes`, which were read from a file in the state `identity`, if they were.
    pub(crate) fn from_content(engine: &Engine, bytes: Vec<u8>, identity: Option<Identity>, progress: &dyn Progress) -> Result<Self> {
        may_compile(engine, &bytes)?;
        engine.config().budget.check_bytes(&bytes)?;
        let compiler = engine.compiler_from_now()?;
        let text = match compiler.to_binary(&bytes)? {
            Cow::Borrowed(_) => None,
            Cow::Owned(binary) => Some(binary),
        };
        match text {
            None => Self::compile(engine, &*compiler, Cow::Owned(bytes), identity, progress),
            Some(binary) => Self::compile(engine, &*compiler, Cow::Owned(binary), None, progress),
        }
    }

    /// Compiles a module in the binary format.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); text is malformed here.
    pub fn from_binary(engine: &Engine, binary: &[u8]) -> Result<Self> {
        may_compile(engine, binary)?;
        Self::compile(engine, &*engine.compiler_from_now()?, Cow::Borrowed(binary), None, &())
    }

    /// Checks a module in the binary format without compiling it.
    ///
    /// # Errors
    ///
    /// If the module is malformed, invalid or beyond a limit, with the place.
    pub fn validate(engine: &Engine, binary: &[u8]) -> Result<()> {
        refuse_image(binary)?;
        engine.config().budget.check_module(binary.len())?;
        Ok(engine.compiler_from_now()?.validate(binary, engine.settings())?)
    }

    fn compile(
        engine: &Engine,
        compiler: &dyn Compiler,
        wasm: Cow<'_, [u8]>,
        identity: Option<Identity>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        engine.config().budget.check_module(wasm.len())?;
        let content = engine.config().cache.as_ref().map(|cache| {
            let content = ContentHash::of(&wasm);
            if let Some(identity) = identity {
                cache.remember_content(&identity, &content);
            }
            content
        });
        match engine.settings().tiering {
            Tiering::Whole => Self::compile_whole(engine, compiler, &wasm, content, progress),
            Tiering::Slots | Tiering::Counted => Self::prepare(engine, compiler, wasm, content, progress),
        }
    }

    /// Makes a module whose functions are compiled one by one.
    fn prepare(
        engine: &Engine,
        compiler: &dyn Compiler,
        wasm: Cow<'_, [u8]>,
        content: Option<ContentHash>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let _span = tracing::info_span!("compile", wasm_bytes = wasm.len(), one_by_one = true).entered();
        let counters = &engine.shared().counters;
        let wasm: WasmBytes = Arc::new(wasm.into_owned());
        let mut kept = None;
        if let Some(found) = content.and_then(|content| Self::kept(engine, &content)) {
            match Self::from_kept(engine, found, || Ok(Binary::Held(Arc::clone(&wasm))))? {
                FoundKept::Module(module) => return Ok(module),
                FoundKept::Nothing(entry) => {
                    engine.count_cached(false);
                    kept = Some(*entry);
                }
            }
        }
        let validation = engine.validation();
        let start = Instant::now();
        let Prepared { image, functions } = match compiler.prepare_functions(Arc::clone(&wasm), engine.settings(), validation) {
            Err(CompileError::Unsupported { message }) => {
                tracing::debug!(message, "a module is compiled as a whole");
                return Self::compile_whole(engine, compiler, (*wasm).as_ref(), content, progress);
            }
            prepared => prepared?,
        };
        counters.add(Counting::CompileNanoseconds, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        check_settings(engine, &image)?;
        let loaded = match Self::load_bytes(engine, &image) {
            Err(LoadError::TooLarge) => {
                counters.add(Counting::ModulesTooLarge, 1);
                tracing::info!(
                    len_bytes = (*wasm).as_ref().len(),
                    "a module is too large for functions one by one and compiled as a whole"
                );
                return Self::compile_whole(engine, compiler, (*wasm).as_ref(), content, progress);
            }
            loaded => loaded.map_err(load_error)?,
        };
        counters.add(Counting::ModulesCompiled, 1);
        Self::set_tiering(engine, &loaded, Binary::Held(wasm), validation, Some(functions), kept)?;
        Self::from_loaded(engine, loaded)
    }

    /// The module that the cache keeps of the bytes with the hash `content`, if it does: `binary` is asked for them then, or for a way to them.
    ///
    /// # Errors
    ///
    /// What `binary` says, or the system, of an image that is good.
    pub(crate) fn find_cached(
        engine: &Engine,
        content: &ContentHash,
        binary: impl FnOnce() -> std::io::Result<Binary>,
    ) -> Result<Option<Self>> {
        if engine.settings().tiering == Tiering::Whole {
            let key = CacheKey::new(content, engine.whole_settings(), engine.config().compiler_kind());
            return engine.config().cache.as_ref().map_or(Ok(None), |cache| Self::find_whole(engine, cache, &key));
        }
        let Some(found) = Self::kept(engine, content) else { return Ok(None) };
        Ok(match Self::from_kept(engine, found, binary)? {
            FoundKept::Module(module) => Some(module),
            FoundKept::Nothing(_) => None,
        })
    }

    /// What an entry of the cache has of a module.
    pub(crate) fn from_kept(engine: &Engine, mut kept: Kept, binary: impl FnOnce() -> std::io::Result<Binary>) -> Result<FoundKept> {
        let Some(file) = kept.open() else { return Ok(FoundKept::Nothing(Box::new(kept))) };
        match Self::load_file(engine, &file) {
            Ok(loaded) if loaded.settings() == Some(engine.settings()) => {
                engine.config().budget.check_sizes(&loaded.meta().sizes)?;
                // The name of the file says that these bytes were validated, unless that was deferred.
                let validation = engine.validation();
                let validation = if validation == Validation::Deferred { validation } else { Validation::Trusted };
                engine.count_cached(true);
                Self::set_tiering(engine, &loaded, binary()?, validation, None, Some(kept))?;
                Self::from_loaded(engine, loaded).map(FoundKept::Module)
            }
            found => {
                tracing::debug!(error = found.err().map(|error| format!("{error:#}")), "what was kept of a module is of no use");
                kept.remove();
                Ok(FoundKept::Nothing(Box::new(kept)))
            }
        }
    }

    /// The entry of the cache for a module whose functions are compiled one by one.
    pub(crate) fn kept(engine: &Engine, content: &ContentHash) -> Option<Kept> {
        let cache = engine.config().cache.as_ref().filter(|_| engine.config().tiering_stress.keeps_code())?;
        let validated = engine.validation() == Validation::Complete;
        let key = CacheKey::of_validated(content, engine.settings(), engine.config().compiler_kind(), validated);
        Some(Kept::new(cache.clone(), key))
    }

    /// Keeps the functions that were compiled so far in the [cache](crate::Config::cache), for the next process that makes a module of the
    /// same bytes. This happens by itself, when there was nothing to compile for a moment and when the module is dropped; so this is for
    /// programs that end without dropping it. Does nothing for modules that are compiled as a whole.
    pub fn keep_compiled(&self) {
        if let Some(tiering) = self.inner.loaded.tiering() {
            tiering.keep(&self.inner.loaded, Occasion::Asked);
        }
    }

    /// Lets the functions of a module that have no code be compiled from its binary, and hot ones again.
    pub(crate) fn set_tiering(
        engine: &Engine,
        loaded: &LoadedModule,
        binary: Binary,
        validation: Validation,
        functions: Option<Arc<dyn LazyFunctions>>,
        kept: Option<Kept>,
    ) -> Result<()> {
        let source = TieringSource {
            compiler: Arc::clone(engine.compiler()?),
            binary,
            settings: engine.settings().clone(),
            validation,
            shared: Arc::clone(engine.shared()),
            profiler: engine.profiler().cloned(),
            debugged: engine.config().debug_info,
        };
        let first = match engine.queue() {
            Some(queue) => FirstTier::BaselineThen(Arc::clone(queue)),
            None => FirstTier::Baseline,
        };
        let tiering = ModuleTiering::new(loaded, source, first, engine.config().tiering_stress, kept);
        if let Some(functions) = functions {
            tiering.set_functions(functions);
        }
        loaded.set_tiering(tiering);
        Ok(())
    }

    fn compile_whole(
        engine: &Engine,
        compiler: &dyn Compiler,
        wasm: &[u8],
        content: Option<ContentHash>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let module = Self::find_or_compile_whole(engine, compiler, wasm, content, progress)?;
        module.keep_for_dumps(wasm);
        Ok(module)
    }

    /// Keeps the binary of a module that is compiled as a whole, if core dumps are to have the types of its locals.
    pub(crate) fn keep_for_dumps(&self, wasm: &[u8]) {
        if self.engine().config().coredump_on_trap {
            self.loaded().keep_binary(wasm.into());
        }
    }

    fn find_or_compile_whole(
        engine: &Engine,
        compiler: &dyn Compiler,
        wasm: &[u8],
        content: Option<ContentHash>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let (Some(cache), Some(content)) = (&engine.config().cache, content) else {
            let image = engine.compile_whole(compiler, wasm, progress)?;
            return Self::from_image(engine, &image);
        };
        let key = CacheKey::new(&content, engine.whole_settings(), engine.config().compiler_kind());
        if let Some(module) = Self::find_whole(engine, cache, &key)? {
            return Ok(module);
        }
        engine.count_cached(false);
        let image = engine.compile_whole(compiler, wasm, progress)?;
        if let Err(error) = cache.put(&key, &image) {
            // A cache that cannot be written, on a full disk for example, must not keep programs from running.
            tracing::warn!("the cache cannot be written: {error:#}");
        }
        Self::from_image(engine, &image)
    }

    /// The module in the entry of `key`, if there is one and it is undamaged.
    ///
    /// # Errors
    ///
    /// If the module is beyond the engine's budget: whoever kept it may have had a larger one.
    fn find_whole(engine: &Engine, cache: &Cache, key: &CacheKey) -> Result<Option<Self>> {
        let Some(file) = cache.open(key) else { return Ok(None) };
        match Self::from_mapped(engine, &file) {
            Ok(module) => {
                engine.config().budget.check_sizes(&module.inner.loaded.meta().sizes)?;
                engine.count_cached(true);
                Ok(Some(module))
            }
            Err(error) => {
                tracing::debug!(%error, "a cached module is damaged and compiled again");
                cache.remove(key);
                Ok(None)
            }
        }
    }

    /// Loads an image: what [`serialize`](Self::serialize) or [`Engine::precompile_module`] gave.
    ///
    /// Version, length, checksum, target, settings and the features of the processor are verified; damage by accident is an error.
    ///
    /// # Errors
    ///
    /// If the image is damaged or cannot run here, naming what is wrong.
    ///
    /// # Safety
    ///
    /// 1. The bytes come from `serialize` or `precompile_module`, by way of people and places that are trusted as with any program:
    ///    an image is machine code, and made on purpose it can do whatever this process can.
    #[expect(unsafe_code, reason = "the caller vouches for the machine code")]
    pub unsafe fn deserialize(engine: &Engine, bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        refuse_wasm(bytes)?;
        Self::from_image(engine, bytes)
    }

    /// As [`deserialize`](Self::deserialize), for the content of a file, which is mapped: starts faster, and shares memory with other
    /// processes that do it.
    ///
    /// # Errors
    ///
    /// As there, and if the file cannot be opened.
    ///
    /// # Safety
    ///
    /// 1. As for `deserialize`.
    /// 2. While the module lives nobody changes or shortens the file. Replacing it by renaming another one is fine.
    #[expect(unsafe_code, reason = "the caller vouches for the machine code")]
    pub unsafe fn deserialize_file(engine: &Engine, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).with_context(|| format!("failed to open `{}`", path.display()))?;
        Self::from_mapped(engine, &file).with_context(|| format!("failed to load `{}`", path.display()))
    }

    /// As [`deserialize_file`](Self::deserialize_file), for a file that is open.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    #[expect(unsafe_code, reason = "the caller vouches for the machine code")]
    pub unsafe fn deserialize_open_file(engine: &Engine, file: File) -> Result<Self> {
        Self::from_mapped(engine, &file)
    }

    /// Loads an image that was made here.
    pub(crate) fn from_image(engine: &Engine, image: &[u8]) -> Result<Self> {
        check_settings(engine, image)?;
        let loaded = Self::load_bytes(engine, image).map_err(load_error)?;
        refuse_partial(&loaded)?;
        Self::from_loaded(engine, loaded)
    }

    pub(crate) fn load_bytes(engine: &Engine, image: &[u8]) -> Result<Arc<LoadedModule>, LoadError> {
        let for_profiler = engine.config().profiler == ProfilingStrategy::PerfMap;
        let options = LoadOptions { for_profiler, verified: false, allowance: engine.config().budget.allowance() };
        let shared = engine.shared();
        shared.make_where_room_is(LoadError::is_no_room, || LoadedModule::from_bytes(image, &shared.types, options))
    }

    fn from_mapped(engine: &Engine, file: &File) -> Result<Self> {
        let loaded = Self::load_file(engine, file)?;
        refuse_partial(&loaded)?;
        Self::from_loaded(engine, loaded)
    }

    /// Maps the image in `file` and checks that it can run here.
    fn load_file(engine: &Engine, file: &File) -> Result<Arc<LoadedModule>> {
        if engine.config().profiler == ProfilingStrategy::PerfMap {
            let mut image = Vec::new();
            let mut reader = file;
            // Who opened the file may have read its first bytes, to see what it is.
            reader.rewind()?;
            reader.read_to_end(&mut image)?;
            check_settings(engine, &image)?;
            return Self::load_bytes(engine, &image).map_err(load_error);
        }
        let cache = engine.config().cache.as_ref();
        let identity = cache.and_then(|_| Identity::of(file));
        let verified = cache.zip(identity).is_some_and(|(cache, identity)| cache.is_verified(&identity));
        let options = LoadOptions { for_profiler: false, verified, allowance: engine.config().budget.allowance() };
        let loaded = map_image(file, engine.shared(), options).map_err(load_error)?;
        if let (Some(cache), Some(identity), false) = (cache, identity, verified) {
            cache.remember_verified(&identity);
        }
        if let Some(settings) = loaded.settings() {
            engine.check_image(settings)?;
        }
        Ok(loaded)
    }

    pub(crate) fn from_loaded(engine: &Engine, loaded: Arc<LoadedModule>) -> Result<Self> {
        if let Some(settings) = loaded.settings() {
            engine.check_memories(loaded.module(), settings)?;
        }
        let text = loaded.text();
        let gdb = (engine.config().debug_info && !text.is_empty()).then(|| gdb::register(gdb_elf::object(&loaded)));
        let all_code = loaded.code_range();
        let unwind = match gdb_elf::eh_frame(&all_code) {
            Some(eh_frame) if engine.config().native_unwind_info && !all_code.is_empty() => Some(boundary::register_unwind(&eh_frame)?),
            _ => None,
        };
        if let Some(profiler) = engine.profiler() {
            profiler.loaded(&loaded).context("cannot write for the profiler")?;
        }
        let exports = OnceLock::new();
        Ok(Self::of_inner(ModuleInner { pool: Pool::new(), _gdb: gdb, _unwind: unwind, loaded, engine: engine.clone(), exports }))
    }

    /// Another handle of a module that is loaded.
    pub(crate) fn of_loaded(engine: &Engine, loaded: Arc<LoadedModule>) -> Self {
        let exports = OnceLock::new();
        Self::of_inner(ModuleInner { pool: Pool::new(), _gdb: None, _unwind: None, loaded, engine: engine.clone(), exports })
    }

    fn of_inner(inner: ModuleInner) -> Self {
        let inner = Arc::new(inner);
        inner.engine.shared().warm.add(&inner);
        Self { inner }
    }

    /// Warm instances, and what keeps the module alive for stores.
    pub(crate) fn pool(&self) -> &Pool<OwnedInstance> {
        &self.inner.pool
    }

    /// A reference that is not a handle.
    pub(crate) fn anchor(&self) -> Anchor {
        Arc::clone(&self.inner) as Anchor
    }

    pub(crate) fn loaded(&self) -> &Arc<LoadedModule> {
        &self.inner.loaded
    }

    /// Whether both are handles of the same loaded code.
    pub fn same(a: &Self, b: &Self) -> bool {
        Arc::ptr_eq(&a.inner.loaded, &b.inner.loaded)
    }

    /// The bytes that [`deserialize`](Self::deserialize) takes. Where functions are compiled one by one, the whole module is compiled for it.
    ///
    /// # Errors
    ///
    /// If the module has to be compiled for it and cannot be: a body is invalid, and validation was deferred, or a limit is exceeded.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        let loaded = &self.inner.loaded;
        let Some(tiering) = loaded.tiering() else { return Ok(loaded.image_bytes().to_vec()) };
        let TieringSource { compiler, binary, .. } = tiering.source();
        Ok(compiler.compile((*binary.bytes()?).as_ref(), self.inner.engine.whole_settings(), &())?)
    }

    /// What was compiled so far, and by which tier. All zero for a module that was compiled as a whole.
    pub fn tiering_metrics(&self) -> TieringMetrics {
        let loaded = &self.inner.loaded;
        loaded.tiering().map_or_else(TieringMetrics::default, |tiering| tiering.metrics(loaded))
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The module's own name, from its name section.
    pub fn name(&self) -> Option<&str> {
        self.inner.loaded.module().name.as_deref()
    }

    /// The imports, in order.
    pub fn imports(&self) -> impl ExactSizeIterator<Item = ImportType<'_>> + '_ {
        self.inner.loaded.module().imports.iter().map(|import| ImportType {
            module: &import.module,
            name: &import.name,
            ty: self.extern_type(import.entity),
        })
    }

    /// The exports, in order.
    pub fn exports(&self) -> impl ExactSizeIterator<Item = ExportType<'_>> + '_ {
        self.inner.loaded.module().exports.iter().map(|export| ExportType { name: &export.name, ty: self.extern_type(export.entity) })
    }

    /// The type of the export `name`, if there is one.
    pub fn get_export(&self, name: &str) -> Option<ExternType> {
        self.export_entity(name).map(|entity| self.extern_type(entity))
    }

    /// The export `name`, looked up once for any number of instances: see
    /// [`Instance::get_module_export`](crate::Instance::get_module_export).
    pub fn get_export_index(&self, name: &str) -> Option<ModuleExport> {
        Some(ModuleExport { module: self.inner.loaded.number(), entity: self.export_entity(name)? })
    }

    pub(crate) fn export_entity(&self, name: &str) -> Option<EntityIndex> {
        let exports = &self.inner.loaded.module().exports;
        if exports.len() <= FEW_EXPORTS {
            return exports.iter().find(|export| &*export.name == name).map(|export| export.entity);
        }
        let index = self.inner.exports.get_or_init(|| {
            let positions = exports.iter().enumerate();
            positions.map(|(position, export)| (export.name.clone(), position as u32)).collect()
        });
        Some(exports[*index.get(name)? as usize].entity)
    }

    /// The type of something that the module names. Tags, which only modules with a proposal that is not implemented have, do not occur.
    pub(crate) fn extern_type(&self, entity: EntityIndex) -> ExternType {
        let loaded = &self.inner.loaded;
        ExternType::of_entity(loaded.module(), entity, loaded.type_ids(), self.inner.engine.shared())
            .expect("modules with tags are refused")
    }

    /// Custom sections, in order: name and content. Name and debugging sections are not among them.
    pub fn custom_sections<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        let loaded = &self.inner.loaded;
        let content = loaded.section(Section::Custom);
        let named = loaded.module().custom_sections.iter().filter(move |section| &*section.name == name);
        named.map(|section| &content[section.start as usize..][..section.len_bytes as usize])
    }

    /// The machine code that was compiled with the whole module: by [`Strategy::Cranelift`] or [`Strategy::Winch`], or into an image. Where
    /// functions are compiled one by one, as by default, it holds the stubs that every module has, and no function.
    pub fn text(&self) -> &[u8] {
        self.inner.loaded.section(Section::Text)
    }

    /// The addresses in this process of the image: of [`text`](Self::text) and what describes it. What is compiled one by one is elsewhere.
    pub fn image_range(&self) -> Range<*const u8> {
        let bytes = self.inner.loaded.image_bytes();
        bytes.as_ptr_range()
    }

    /// Where the machine code comes from, nothing of what is compiled one by one: offsets in [`text`](Self::text), rising, with the offset in the binary that the code comes
    /// from, if
    /// it is known.
    pub fn address_map(&self) -> Option<impl Iterator<Item = (usize, Option<u32>)> + '_> {
        let loaded = &self.inner.loaded;
        let (layout, bytes) = (loaded.image_layout()?, loaded.image_bytes());
        let streams = layout.section(bytes, Section::Tables);
        Some(layout.functions_by_code(bytes).flat_map(move |(_, function)| {
            let start = function.tables_start.get() as usize + function.traps_len.get() as usize;
            let stream = streams.get(start..).and_then(|stream| stream.get(..function.addresses_len.get() as usize)).unwrap_or(&[]);
            // Code of a function that was compiled into this one counts as the call.
            let mut last = None;
            tables::addresses::entries(stream)
                .filter(move |(code, wasm)| last.replace(*code) != Some(*code) && wasm & tables::addresses::INLINED == 0)
                .map(move |(code, wasm)| (function.code_start.get() as usize + code as usize, function.body_start.get().checked_add(wasm)))
        }))
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ModuleExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModuleExport").field(&self.entity).finish()
    }
}

fn check_settings(engine: &Engine, image: &[u8]) -> Result<()> {
    let settings = ImageLayout::check(image).and_then(|layout| layout.settings(image));
    engine.check_image(&settings.map_err(image_error)?)
}

/// Refuses images, which are loaded in another way, and modules if the strategy is to load images only.
pub(crate) fn may_compile(engine: &Engine, bytes: &[u8]) -> Result<()> {
    refuse_image(bytes)?;
    if engine.config().get_strategy() == Some(Strategy::Precompiled) {
        bail!(
            "expected a compiled image, found a module: `Strategy::Precompiled` compiles nothing; make an image with \
            `Engine::precompile_module` or `peregrine compile` and load it with `Module::deserialize`, or choose another strategy"
        );
    }
    Ok(())
}

/// Refuses a module where an image is expected.
fn refuse_wasm(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(b"\0asm") {
        bail!("expected a compiled image, found a WebAssembly module; compile it with `Module::new` or `Engine::precompile_module`");
    }
    Ok(())
}

/// Refuses an image that lacks the code of functions, where nothing can compile them.
fn refuse_partial(loaded: &LoadedModule) -> Result<()> {
    if loaded.is_partial() {
        bail!("the image lacks the code of functions; make it with `Module::serialize` or `Engine::precompile_module`");
    }
    Ok(())
}

fn load_error(error: LoadError) -> Error {
    match error {
        LoadError::TooLarge => Error::msg("the image is too large for functions that are compiled one by one; compile it as a whole"),
        LoadError::Image(error) => image_error(error),
        LoadError::Io(error) => exhausted::explain(Error::new(error).context("the system refused to load the image")),
    }
}

fn image_error(error: ImageError) -> Error {
    Error::new(error)
}
