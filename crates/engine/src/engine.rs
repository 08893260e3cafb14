//! The engine: a configuration put to work, shared by all modules and stores made with it.

use crate::cache::program_identity;
use crate::config::{Config, ProfilingStrategy};
use crate::error::{Context, Result, bail};
use crate::exit_stubs::ExitStubs;
use crate::profile::Profiler;
use crate::tiering::Queue;
use crate::vm::address_space::AddressRoom;
use crate::vm::alloc::pool::Anchor;
use crate::vm::alloc::{Counting, Pool};
use crate::vm::creators::lent_stacks;
use crate::vm::{Cause, InterruptPage, Raised, VmShared};
use crate::{COMPILERS, compat};
use peregrine_artifact::compiler::{Compiler, Progress, Validation};
use peregrine_artifact::image::ImageLayout;
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_sys::forks;
use peregrine_sys::stack::{StackPool, StackPoolConfig};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// Compiles modules and is what stores run in. Cheap to clone, and shared between threads: one per process is usual.
///
/// ```
/// use peregrine::{Config, Engine, Module};
///
/// let engine = Engine::new(Config::new().wasm_multi_memory(true))?;
/// let module = Module::new(&engine, "(module (memory 1) (memory 1))")?;
/// # Ok::<(), peregrine::Error>(())
/// ```
pub struct Engine {
    inner: Arc<EngineInner>,
}

impl Clone for Engine {
    fn clone(&self) -> Self {
        self.inner.pool.add_handle();
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.inner.pool.remove_handle();
    }
}

/// An [`Engine`] that does not keep it alive. Made by [`Engine::weak`]; the default is of no engine.
#[derive(Clone, Default)]
pub struct EngineWeak {
    inner: Weak<EngineInner>,
}

struct EngineInner {
    /// Keeps the engine alive for stores.
    pool: Pool<()>,
    config: Config,
    compiler: Option<Arc<dyn Compiler>>,
    shared: Arc<VmShared>,
    /// The settings for modules that are compiled as a whole.
    whole_settings: Settings,
    /// Where functions wait for the optimizing tier, if they are compiled one by one.
    queue: Option<Arc<Queue>>,
    profiler: Option<Arc<Profiler>>,
    epoch: AtomicU64,
    /// The pages of stores whose deadline is to come, by its epoch and the store's number. Locked before any page is changed, so that a
    /// store that moves its deadline and an increment see each other.
    deadlines: Mutex<BTreeMap<(u64, u64), Arc<InterruptPage>>>,
    exit_stubs: ExitStubs,
}

/// What bytes were compiled from. See [`Engine::detect_precompiled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precompiled {
    /// A module.
    Module,
    /// A component: never said, since components are not compiled. Here so that a `match` may name it.
    Component,
}

impl Engine {
    /// An engine with a configuration.
    ///
    /// # Errors
    ///
    /// If the configuration asks for what there is not, or contradicts itself.
    pub fn new(config: &Config) -> Result<Self> {
        let mut config = config.resolved()?;
        if config.cache.is_some() && program_identity().is_none() {
            tracing::warn!("there is no cache: nothing tells this build of the program from others");
            config.cache = None;
        }
        let kind = config.compiler_kind();
        let linked_in = if config.compiler_enabled { &COMPILERS[..] } else { &[] };
        let entry = linked_in.iter().find(|entry| entry.kind == kind);
        if entry.is_none() && !linked_in.is_empty() {
            bail!("the {kind:?} compiler is not linked in");
        }
        let compiler = entry.map(|entry| (entry.make)(&config.compiler_options()));
        let target = match (&compiler, &config.target) {
            (Some(compiler), target) => compiler.target(target.as_deref())?,
            (None, None) => compat::host_target(),
            (None, Some(target)) => bail!("cannot compile for `{target}`: {NO_COMPILER}"),
        };
        let room = AddressRoom::measure(config.memory_growth_bytes, config.budget.table_elements);
        // What other machines have is not known here.
        let reservation_bytes = if config.target.is_none() { room.memory_reservation_bytes() } else { 4 << 30 };
        let settings = config.settings(target, reservation_bytes)?;
        config.budget.check_stack(config.max_wasm_stack_bytes)?;
        // Functions that are compiled at their first call have no time of their own.
        let compiler = compiler.map(|compiler| compiler.within(&config.budget.allowance()).unwrap_or(compiler));
        let stack_config = StackPoolConfig {
            usable_len_bytes: config.max_wasm_stack_bytes,
            guard_len_bytes: settings.stack_guard_bytes as usize,
            ..StackPoolConfig::default()
        };
        let stacks = match &config.stack_creator {
            Some(creator) => lent_stacks(stack_config, Arc::clone(&creator.0)),
            None => StackPool::new(stack_config),
        };
        let profiler = match config.profiler {
            ProfilingStrategy::None => None,
            strategy => Some(Arc::new(Profiler::new(strategy).context("cannot write for the profiler")?)),
        };
        let whole_settings = Settings { tiering: Tiering::Whole, ..settings.clone() };
        let tiers_up = settings.tiering == Tiering::Counted && !config.gather_profile;
        let queue = tiers_up.then(|| Arc::new(Queue::new(config.compiler_options().threads)));
        let mut shared = VmShared::new(settings, room, stacks);
        shared.most_frames = config.most_frames();
        let shared = Arc::new(shared);
        let (epoch, deadlines) = (AtomicU64::new(0), Mutex::default());
        let inner = EngineInner {
            pool: Pool::new(),
            config,
            compiler,
            shared,
            whole_settings,
            queue,
            profiler,
            epoch,
            deadlines,
            exit_stubs: ExitStubs::default(),
        };
        let engine = Self { inner: Arc::new(inner) };
        engine.shared().types.set_engine(engine.weak());
        if let Some(creator) = &engine.config().memory_creator {
            engine.shared().memory_creator.get_or_init(|| Arc::clone(&creator.0));
        }
        Ok(engine)
    }

    /// The engine that `shared` belongs to.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub(crate) fn of_shared(shared: &VmShared) -> Self {
        shared.types.engine().expect("the engine is alive while something of it is used")
    }

    /// The configuration, with the strategy that [`Strategy::Auto`](crate::Strategy::Auto) came to.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// A handle that does not keep the engine alive.
    pub fn weak(&self) -> EngineWeak {
        EngineWeak { inner: Arc::downgrade(&self.inner) }
    }

    /// Whether both are handles of one engine.
    pub fn same(a: &Self, b: &Self) -> bool {
        Arc::ptr_eq(&a.inner, &b.inner)
    }

    /// Begins the next epoch: guests whose deadline it is stop with [`Trap::Interrupt`](crate::Trap::Interrupt) where they look next: at a call
    /// or turn of a loop, but for what is over in a moment, as [`Store::deadline`](crate::Store::deadline) says. From any thread; not from a signal handler, since it takes a lock.
    ///
    /// Costs the running guests nothing, and this call one system call for each store whose deadline is reached. Wakes the tasks whose
    /// guests wait.
    ///
    /// # Panics
    ///
    /// If the waker of such a task panics, when all are woken.
    pub fn increment_epoch(&self) {
        let inside = forks::enter();
        let mut deadlines = self.inner.deadlines.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.inner.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let mut raised = Vec::new();
        while let Some(first) = deadlines.first_entry().filter(|first| first.key().0 <= now) {
            raised.push(first.remove().raise(Cause::Epoch));
        }
        drop(deadlines);
        drop(inside);
        let mut panicked = None;
        for raised in raised {
            // A task's waker may do anything; the others are woken all the same.
            let told = catch_unwind(AssertUnwindSafe(|| {
                if let Err(error) = raised.tell() {
                    tracing::error!(%error, "a guest is not interrupted at its epoch");
                }
            }));
            panicked = panicked.or(told.err());
        }
        if let Some(payload) = panicked {
            resume_unwind(payload);
        }
    }

    /// Interrupts the store with number `store` `ticks` epochs from now, and not at the epoch `old` that was said before. Returns the epoch.
    pub(crate) fn set_deadline(&self, store: u64, page: &Arc<InterruptPage>, old: u64, ticks: u64) -> u64 {
        let inside = forks::enter();
        let mut deadlines = self.inner.deadlines.lock().unwrap_or_else(PoisonError::into_inner);
        deadlines.remove(&(old, store));
        let epoch = self.inner.epoch.load(Ordering::SeqCst).saturating_add(ticks);
        let (raised, cleared) = match ticks {
            0 => (Some(page.raise(Cause::Epoch)), Ok(())),
            _ => (None, page.clear(Cause::Epoch)),
        };
        if ticks != 0 {
            deadlines.insert((epoch, store), Arc::clone(page));
        }
        drop(deadlines);
        drop(inside);
        if let Err(error) = raised.map_or(cleared, Raised::tell) {
            tracing::error!(%error, "the epoch of a guest's interruption is not set");
        }
        epoch
    }

    /// Forgets the deadline of a store.
    pub(crate) fn remove_deadline(&self, store: u64, epoch: u64) {
        let _inside = forks::enter();
        self.inner.deadlines.lock().unwrap_or_else(PoisonError::into_inner).remove(&(epoch, store));
    }

    /// Compiles a module, in the binary or text format, to the bytes of an image: what
    /// [`Module::deserialize`](crate::Module::deserialize) takes, in this process
    /// or another one.
    ///
    /// ```
    /// use peregrine::{Engine, Module, Precompiled};
    ///
    /// let engine = Engine::default();
    /// let image = engine.precompile_module(b"(module (func (export \"run\")))")?;
    /// assert_eq!(Engine::detect_precompiled(&image), Some(Precompiled::Module));
    /// // The bytes come from the line above.
    /// let module = unsafe { Module::deserialize(&engine, &image)? };
    /// assert_eq!(module.exports().count(), 1);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the module is malformed, invalid or beyond a limit, or no compiler is linked in.
    pub fn precompile_module(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.compile(bytes, &())
    }

    /// [`precompile_module`](Self::precompile_module), telling `progress` how it goes on.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn precompile_module_with_progress(&self, bytes: &[u8], progress: &dyn Progress) -> Result<Vec<u8>> {
        self.compile(bytes, progress)
    }

    pub(crate) fn compile(&self, bytes: &[u8], progress: &dyn Progress) -> Result<Vec<u8>> {
        refuse_image(bytes)?;
        self.config().budget.check_bytes(bytes)?;
        let compiler = self.compiler_from_now()?;
        let wasm = compiler.to_binary(bytes)?;
        self.compile_whole(&*compiler, &wasm, progress)
    }

    /// Compiles a module in the binary format as a whole.
    pub(crate) fn compile_whole(&self, compiler: &dyn Compiler, wasm: &[u8], progress: &dyn Progress) -> Result<Vec<u8>> {
        self.config().budget.check_module(wasm.len())?;
        let _span = tracing::info_span!("compile", wasm_bytes = wasm.len()).entered();
        let start = Instant::now();
        let image = compiler.compile(wasm, self.whole_settings(), progress)?;
        let counters = &self.shared().counters;
        counters.add(Counting::ModulesCompiled, 1);
        counters.add(Counting::CompileNanoseconds, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Ok(image)
    }

    /// A number that is the same for engines that can load each other's images.
    pub fn precompile_compatibility_hash(&self) -> impl Hash {
        CompatibilityHash(self.whole_settings().hash())
    }

    /// What `bytes` were compiled from, if they begin as an image does. They are not checked any further.
    pub fn detect_precompiled(bytes: &[u8]) -> Option<Precompiled> {
        ImageLayout::is_image(bytes).then_some(Precompiled::Module)
    }

    /// As [`detect_precompiled`](Self::detect_precompiled), for a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn detect_precompiled_file(path: impl AsRef<Path>) -> Result<Option<Precompiled>> {
        let path = path.as_ref();
        let read = || {
            let mut start = Vec::new();
            std::fs::File::open(path)?.take(16).read_to_end(&mut start)?;
            std::io::Result::Ok(start)
        };
        let start = read().with_context(|| format!("failed to read `{}`", path.display()))?;
        Ok(Self::detect_precompiled(&start))
    }

    /// Checks that code compiled with `settings` can run here.
    pub(crate) fn check_image(&self, settings: &Settings) -> Result<()> {
        // What the compiler found on this machine, unless it was asked for another one.
        let known = if self.inner.config.target.is_none() { &self.settings().target.cpu_features[..] } else { &[] };
        compat::check(settings, self.settings(), known, self.config())
    }

    /// Checks that memories which code of `module`, compiled with `settings`, relies on can be had here.
    pub(crate) fn check_memories(&self, module: &peregrine_wasm::Module, settings: &Settings) -> Result<()> {
        compat::check_memories(module, settings, self.settings(), self.shared().room.space())
    }

    pub(crate) fn compiler(&self) -> Result<&Arc<dyn Compiler>> {
        self.inner.compiler.as_ref().context(NO_COMPILER)
    }

    /// Exit stubs that were made for host functions.
    pub(crate) fn exit_stubs(&self) -> &ExitStubs {
        &self.inner.exit_stubs
    }

    /// The compiler, with the time that one module may take running from now.
    pub(crate) fn compiler_from_now(&self) -> Result<Arc<dyn Compiler>> {
        let compiler = self.compiler()?;
        let allowance = self.inner.config.budget.allowance().begin();
        Ok(compiler.within(&allowance).unwrap_or_else(|| Arc::clone(compiler)))
    }

    /// What modules that are compiled as a whole are compiled with; [`settings`](Self::settings) may ask for functions one by one.
    pub(crate) fn whole_settings(&self) -> &Settings {
        &self.inner.whole_settings
    }

    /// When bodies of modules whose functions are compiled one by one are validated.
    pub(crate) fn validation(&self) -> Validation {
        if self.config().deferred_validation { Validation::Deferred } else { Validation::Complete }
    }

    /// Where functions wait for the optimizing tier, if they are compiled one by one and by it.
    pub(crate) fn queue(&self) -> Option<&Arc<Queue>> {
        self.inner.queue.as_ref()
    }

    /// Whether nothing else keeps the engine: neither handles, nor modules, nor stores.
    pub(crate) fn is_only_handle(&self) -> bool {
        self.inner.pool.is_held_once()
    }

    /// What keeps the engine alive for stores.
    pub(crate) fn pool(&self) -> &Pool<()> {
        &self.inner.pool
    }

    /// A reference that is not a handle.
    pub(crate) fn anchor(&self) -> Anchor {
        Arc::clone(&self.inner) as Anchor
    }

    pub(crate) fn shared(&self) -> &Arc<VmShared> {
        &self.inner.shared
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.shared.settings
    }

    pub(crate) fn profiler(&self) -> Option<&Arc<Profiler>> {
        self.inner.profiler.as_ref()
    }
}

const NO_COMPILER: &str = "no compiler is linked in; only images can be loaded";

/// Refuses an image where a module is expected.
pub(crate) fn refuse_image(bytes: &[u8]) -> Result<()> {
    if ImageLayout::is_image(bytes) {
        bail!("expected a WebAssembly module, found a compiled image; load it with `Module::deserialize` or `Module::deserialize_file`");
    }
    Ok(())
}

#[derive(Hash)]
struct CompatibilityHash([u8; 32]);

impl Default for Engine {
    /// An engine with the default configuration.
    ///
    /// # Panics
    ///
    /// If the compiler that is linked in does not know this machine.
    fn default() -> Self {
        Self::new(&Config::default()).expect("the default configuration works")
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("target", &self.settings().target.triple).finish_non_exhaustive()
    }
}

impl EngineWeak {
    /// The engine, if it is still alive.
    pub fn upgrade(&self) -> Option<Engine> {
        let inner = self.inner.upgrade()?;
        inner.pool.add_handle();
        Some(Engine { inner })
    }
}

impl fmt::Debug for EngineWeak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineWeak")
    }
}

impl Hash for EngineWeak {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.as_ptr().hash(state);
    }
}

impl PartialEq for EngineWeak {
    fn eq(&self, other: &Self) -> bool {
        self.inner.ptr_eq(&other.inner)
    }
}

impl Eq for EngineWeak {}
