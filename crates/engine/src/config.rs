//! What an engine does and how: the choices of an embedder, before any [`Engine`](crate::Engine) is made of them.

use crate::Budget;
use crate::Cache;
use crate::PoolingAllocationConfig;
use crate::TieringStress;
use crate::accepted::Accepted;
pub use crate::choices::{
    CacheStore, CustomCodeMemory, Inlining, ModuleVersionStrategy, OptLevel, ProfilingStrategy, Strategy, WasmBacktraceDetails,
};
use crate::error::{Result, bail};
use crate::vm::DEFAULT_FRAMES;
use crate::vm::creators::{Creator, MemoryCreator, StackCreator};
use peregrine_artifact::compiler::{CompilerKind, CompilerOptions};
use peregrine_artifact::settings::{self, Settings, Target, Tiering};
use peregrine_wasm::Features;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

/// The configuration of an [`Engine`](crate::Engine).
///
/// Setters return the configuration, so that they can be chained. A combination that cannot work is reported by
/// [`Engine::new`](crate::Engine::new).
///
/// ```
/// use peregrine::{Config, Engine, OptLevel};
///
/// let mut config = Config::new();
/// config.cranelift_opt_level(OptLevel::Speed).consume_fuel(true).wasm_multi_memory(true);
/// let engine = Engine::new(&config)?;
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) features: Features,
    /// What was asked for and is not implemented.
    refused: Vec<Refusal>,
    pub(crate) accepted: Accepted,
    pub(crate) target: Option<String>,
    strategy: Strategy,
    pub(crate) deferred_validation: bool,
    pub(crate) tiering_stress: TieringStress,
    pub(crate) gather_profile: bool,
    opt_level: OptLevel,
    nan_canonicalization: bool,
    spectre_mitigations: bool,
    inlining: Inlining,
    pub(crate) compiler_enabled: bool,
    pub(crate) backtrace_max_frames: Option<NonZeroUsize>,
    pub(crate) coredump_on_trap: bool,
    pub(crate) module_version: ModuleVersionStrategy,
    pub(crate) memory_creator: Option<Creator<dyn MemoryCreator>>,
    pub(crate) stack_creator: Option<Creator<dyn StackCreator>>,
    pub(crate) detect_host_feature: Option<fn(&str) -> Option<bool>>,
    pub(crate) fuel: bool,
    pub(crate) epochs: bool,
    deadlines: bool,
    pub(crate) max_wasm_stack_bytes: usize,
    pub(crate) budget: Budget,
    pub(crate) pooling: Option<PoolingAllocationConfig>,
    memory_reservation_bytes: Option<u64>,
    memory_guard_bytes: u64,
    memory_may_move: bool,
    pub(crate) memory_growth_bytes: Option<u64>,
    pub(crate) cache: Option<Cache>,
    pub(crate) debug_info: bool,
    pub(crate) native_unwind_info: bool,
    pub(crate) profiler: ProfilingStrategy,
    pub(crate) wasm_backtrace: bool,
    parallel_compilation: bool,
    backtrace_details: WasmBacktraceDetails,
}

/// What [`Config::memory_reservation`] is unless it is set, where there is enough.
const DEFAULT_RESERVATION_BYTES: u64 = 4 << 30;
/// What [`Config::memory_reservation_for_growth`] says it is unless it is set.
const DEFAULT_GROWTH_BYTES: u64 = 2 << 30;

/// The most frames that backtraces can be given.
const MOST_FRAMES: usize = 65_536;

/// The smallest stack of guests.
const LEAST_STACK_BYTES: usize = 16 << 10;

/// The longest module version.
const LONGEST_VERSION_BYTES: usize = 255;

/// What may stand for a triple.
const BARE_ARCHITECTURES: [&str; 5] = ["x86_64", "aarch64", "riscv64", "riscv64gc", "s390x"];

/// What was asked for that there is not.
#[derive(Clone, Debug)]
struct Refusal {
    what: String,
    /// What to do.
    instead: &'static str,
}

const TAKE_OUT: &str = "take the setting out";

/// Address space that one memory may take: a part of what processors have, so that sums of sizes do not overflow.
const MAX_RESERVED_BYTES: u64 = 1 << 45;

/// What [`Strategy::Auto`] stands for, for tests: a name of [`Config::named_strategy`]. Read by builds with debug assertions only: what ships goes by
/// its configuration alone.
const STRATEGY_VARIABLE: &str = "PEREGRINE_STRATEGY";

impl Default for Config {
    fn default() -> Self {
        Self {
            features: Features::default(),
            refused: Vec::new(),
            accepted: Accepted::default(),
            target: None,
            strategy: Strategy::Auto,
            deferred_validation: false,
            tiering_stress: TieringStress::None,
            gather_profile: false,
            opt_level: OptLevel::Speed,
            nan_canonicalization: false,
            spectre_mitigations: true,
            inlining: Inlining::Yes,
            compiler_enabled: true,
            backtrace_max_frames: NonZeroUsize::new(DEFAULT_FRAMES),
            coredump_on_trap: false,
            module_version: ModuleVersionStrategy::WasmtimeVersion,
            memory_creator: None,
            stack_creator: None,
            detect_host_feature: None,
            fuel: false,
            epochs: false,
            deadlines: false,
            max_wasm_stack_bytes: 1 << 20,
            budget: Budget::trusted(),
            pooling: None,
            memory_reservation_bytes: None,
            memory_guard_bytes: 32 << 20,
            memory_may_move: true,
            memory_growth_bytes: None,
            cache: None,
            debug_info: false,
            native_unwind_info: true,
            profiler: ProfilingStrategy::None,
            parallel_compilation: true,
            wasm_backtrace: true,
            backtrace_details: WasmBacktraceDetails::Enable,
        }
    }
}

macro_rules! features {
    ($($(#[$doc:meta])* $setter:ident $field:ident;)*) => {$(
        $(#[$doc])*
        pub fn $setter(&mut self, enable: bool) -> &mut Self {
            self.features.$field = enable;
            self
        }
    )*};
}

macro_rules! getters {
    ($($get:ident of $setter:ident -> $ty:ty, $config:ident => $value:expr;)*) => {$(
        #[doc = concat!("What [`", stringify!($setter), "`](Self::", stringify!($setter), ") set, or its default.")]
        pub fn $get(&self) -> $ty {
            let $config = self;
            $value
        }
    )*};
}

macro_rules! missing {
    ($($setter:ident $name:literal;)*) => {$(
        #[doc = concat!("The ", $name, " proposal, which is not implemented: [`Engine::new`](crate::Engine::new) refuses it if it is on.")]
        pub fn $setter(&mut self, enable: bool) -> &mut Self {
            self.refuse(enable, concat!("the ", $name, " proposal"), "leave it off")
        }
    )*};
}

/// Proposals. A module that uses one that is off is refused as invalid.
impl Config {
    features! {
        /// Several results, and parameters of blocks. On by default.
        wasm_multi_value multi_value;
        /// `memory.copy`, `memory.fill`, passive segments and their like. On by default.
        wasm_bulk_memory bulk_memory;
        /// `externref`, `funcref` values, table instructions. On by default.
        wasm_reference_types reference_types;
        /// 128-bit vectors. On by default.
        wasm_simd simd;
        /// Vector instructions whose results depend on the processor. On by default.
        wasm_relaxed_simd relaxed_simd;
        /// Whether relaxed vector instructions have one fixed result on every processor. Off by default.
        relaxed_simd_deterministic relaxed_simd_deterministic;
        /// `return_call` and `return_call_indirect`. On by default.
        wasm_tail_call tail_call;
        /// More than one linear memory. On by default.
        wasm_multi_memory multi_memory;
        /// 64-bit addresses and table indices. On by default.
        wasm_memory64 memory64;
        /// Arithmetic in constant expressions. On by default.
        wasm_extended_const extended_const;
        /// 128-bit addition, subtraction and multiplication. On by default.
        wasm_wide_arithmetic wide_arithmetic;
        /// Atomic instructions and memories that several threads use at once. On by default.
        wasm_threads threads;
        /// Memories with pages of one byte. On by default.
        wasm_custom_page_sizes custom_page_sizes;
    }

    missing! {
        wasm_shared_everything_threads "shared-everything-threads";
        wasm_gc "garbage collection";
        wasm_exceptions "exception handling";
        wasm_function_references "function references";
        wasm_component_model "component model";
        wasm_stack_switching "stack switching";
        wasm_legacy_exceptions "legacy exception handling";
        wasm_component_model_async "component model async";
        wasm_component_model_more_async_builtins "component model async builtins";
        wasm_component_model_async_stackful "component model async stackful";
        wasm_component_model_threading "component model threading";
        wasm_component_model_error_context "component model error context";
        wasm_component_model_gc "component model gc";
        wasm_component_model_map "component model map";
        wasm_component_model_memory64 "component model memory64";
        wasm_component_model_fixed_length_lists "component model fixed-length lists";
        wasm_component_model_implements "component model implements";
    }

    /// Function references, as far as there are any: for tests of the compilers, which have all of them. Embedders cannot switch them on yet.
    #[doc(hidden)]
    pub fn unfinished_function_references(&mut self, enable: bool) -> &mut Self {
        self.features.function_references = enable;
        self
    }

    /// Notes that something was asked for that there is not, or no longer.
    pub(crate) fn refuse(&mut self, asked: bool, what: &str, instead: &'static str) -> &mut Self {
        self.refused.retain(|refused| refused.what != what);
        if asked {
            self.refused.push(Refusal { what: what.to_owned(), instead });
        }
        self
    }
}

/// Everything else.
impl Config {
    /// The default configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// The target triple that code is made for, `aarch64-unknown-linux-gnu` for example. The default is this machine with all the features
    /// of its processor; a triple stands for its baseline features. An engine for another machine can compile, not run. The name of an
    /// architecture that there is code for, `x86_64` for example, stands for its triple with Linux.
    ///
    /// # Errors
    ///
    /// If `target` is not of the shape of a triple. A well-formed one that the compiler does not know is reported by
    /// [`Engine::new`](crate::Engine::new).
    pub fn target(&mut self, target: &str) -> Result<&mut Self> {
        let is_bare = BARE_ARCHITECTURES.contains(&target);
        let well_formed =
            is_bare || target.split('-').count() >= 2 && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !well_formed {
            bail!("`{target}` is not a target triple; expected for example `x86_64-unknown-linux-gnu`");
        }
        self.target = Some(if is_bare { format!("{target}-unknown-linux-gnu") } else { target.to_owned() });
        Ok(self)
    }

    /// When functions are compiled, and by which compiler. [`Strategy::Auto`] by default.
    pub fn strategy(&mut self, strategy: Strategy) -> &mut Self {
        self.strategy = strategy;
        self
    }

    /// Whether the body of a function is validated only when it is first called, where functions are compiled one by one
    /// ([`Strategy::Tiered`], [`Strategy::Baseline`]). Off by default: all of a module is validated, in parallel, before
    /// [`Module::new`](crate::Module::new) returns.
    ///
    /// What is given up: a module with an invalid body is accepted, and each call of that function fails with an error that is not a trap. What
    /// runs is always valid.
    pub fn deferred_validation(&mut self, enable: bool) -> &mut Self {
        self.deferred_validation = enable;
        self
    }

    /// Forces what usually depends on time, for tests of the tiers themselves.
    #[doc(hidden)]
    pub fn tiering_stress(&mut self, stress: TieringStress) -> &mut Self {
        self.tiering_stress = stress;
        self
    }

    /// Whether functions stay in the baseline and count all that they do, for [`Module::profile`](crate::Module::profile). Off by default.
    /// With it the strategy is [`Strategy::Baseline`], and the [cache](Self::cache) must be off: code that it kept would not count.
    pub fn gather_profile(&mut self, enable: bool) -> &mut Self {
        self.gather_profile = enable;
        self
    }

    /// How much work the compiler does. [`OptLevel::Speed`] by default.
    pub fn cranelift_opt_level(&mut self, level: OptLevel) -> &mut Self {
        self.opt_level = level;
        self
    }

    /// Whether every computed NaN has the one canonical bit pattern, so that results do not depend on the processor. Off by default.
    pub fn cranelift_nan_canonicalization(&mut self, enable: bool) -> &mut Self {
        self.nan_canonicalization = enable;
        self
    }

    /// Whether bounds checks and indirect calls resist speculation. On by default.
    pub fn spectre_mitigations(&mut self, enable: bool) -> &mut Self {
        self.spectre_mitigations = enable;
        self
    }

    /// Whether small functions of a module are compiled into their callers: a `bool` or an [`Inlining`]. On by default.
    pub fn compiler_inlining(&mut self, inlining: impl Into<Inlining>) -> &mut Self {
        self.inlining = inlining.into();
        self
    }

    /// Whether executed instructions are counted and guests stop when what [`Store::set_fuel`](crate::Store::set_fuel) gave is used up. Off
    /// by default.
    pub fn consume_fuel(&mut self, enable: bool) -> &mut Self {
        self.fuel = enable;
        self
    }

    /// Whether guests can be stopped by [`Store::deadline`](crate::Store::deadline). Off by default; [`epoch_interruption`]
    /// turns it on too. It costs a load that nobody waits for in each turn of a loop, but for short loops of a known number of turns, and at
    /// the entry of functions that call others, have such loops, or are long.
    ///
    /// [`epoch_interruption`]: Self::epoch_interruption
    pub fn deadlines(&mut self, enable: bool) -> &mut Self {
        self.deadlines = enable;
        self
    }

    /// Whether guests stop at the deadline of [`Store::set_epoch_deadline`](crate::Store::set_epoch_deadline). Off by default.
    pub fn epoch_interruption(&mut self, enable: bool) -> &mut Self {
        self.epochs = enable;
        self
    }

    /// The bytes of stack that guest code may use before it traps with [`Trap::StackOverflow`](crate::Trap::StackOverflow). 1 MiB by
    /// default. Guests run on a stack of their own, so the size of the host's threads does not matter.
    pub fn max_wasm_stack(&mut self, size_bytes: usize) -> &mut Self {
        self.max_wasm_stack_bytes = size_bytes;
        self
    }

    /// Address space behind each linear memory with 32-bit addresses, in bytes, without the guard. Together with the guard at most 32 TiB.
    ///
    /// From 4 GiB on, which is the default, accesses need no bounds checks, and memories never move. With less, every access is checked,
    /// a memory reserves so much at first, or its minimum or maximum if those are more or less, and [moves](Self::memory_may_move) when it
    /// grows beyond that.
    ///
    /// Memories that are small, of at most 1 MiB, and that their own module never grows are checked and reserve no more than they hold in
    /// either case, unless memories must not move. So are memories with 64-bit addresses or pages of one byte, of any size: as no reservation
    /// would spare their checks, they begin with their minimum and move when they grow. Where a process may have less than 1 TiB of address space, because of `ulimit -v` or of the
    /// processor, and this is not set, it is 1 MiB.
    pub fn memory_reservation(&mut self, bytes: u64) -> &mut Self {
        self.memory_reservation_bytes = Some(bytes);
        self
    }

    /// Inaccessible address space after each reservation of at least 4 GiB, in bytes. 32 MiB by default. Memories whose accesses are all
    /// checked have none, as nothing reaches beyond them.
    pub fn memory_guard_size(&mut self, bytes: u64) -> &mut Self {
        self.memory_guard_bytes = bytes;
        self
    }

    /// Whether memories may move, when they grow beyond their [reservation](Self::memory_reservation) or are imported by code that needs a
    /// larger one. On by default. Without, no memory is small: each gets the whole reservation at once; one with a reservation of less than
    /// 4 GiB, with 64-bit addresses or with pages of one byte gets all that it may grow to, up to 16 GiB and as far as there is address space,
    /// and does not grow beyond that.
    pub fn memory_may_move(&mut self, enable: bool) -> &mut Self {
        self.memory_may_move = enable;
        self
    }

    /// Address space for growth that a memory gets when it [moves](Self::memory_may_move), beyond what it needs then, in bytes. Unless it is
    /// set, as much as the memory needs, but between 1 MiB and 1 GiB; 2 GiB is what reading it back gives then. Where there is not so much,
    /// none.
    pub fn memory_reservation_for_growth(&mut self, bytes: u64) -> &mut Self {
        self.memory_growth_bytes = Some(bytes);
        self
    }

    /// Where compiled modules are kept from one process to the next. `None`, the default, keeps nothing.
    pub fn cache(&mut self, cache: Option<Cache>) -> &mut Self {
        self.cache = cache;
        self
    }

    /// Whether debuggers (GDB and LLDB) are told the names and frames of compiled functions, so that they show and step out of them. Off
    /// by default.
    pub fn debug_info(&mut self, enable: bool) -> &mut Self {
        self.debug_info = enable;
        self
    }

    /// Whether the unwinder of the process is told how to walk through compiled functions, for native profilers and panic backtraces. On
    /// by default.
    pub fn native_unwind_info(&mut self, enable: bool) -> &mut Self {
        self.native_unwind_info = enable;
        self
    }

    /// What profilers are told about compiled code. Nothing by default.
    pub fn profiler(&mut self, profile: ProfilingStrategy) -> &mut Self {
        self.profiler = profile;
        self
    }

    /// Whether errors of calls carry a [`WasmBacktrace`](crate::WasmBacktrace). On by default.
    pub fn wasm_backtrace(&mut self, enable: bool) -> &mut Self {
        self.wasm_backtrace = enable;
        self
    }

    /// Whether backtraces name source files and lines. On by default.
    pub fn wasm_backtrace_details(&mut self, enable: WasmBacktraceDetails) -> &mut Self {
        self.backtrace_details = enable;
        self
    }

    /// Whether a module is compiled on all processors. On by default. It changes no byte of what is made.
    pub fn parallel_compilation(&mut self, parallel: bool) -> &mut Self {
        self.parallel_compilation = parallel;
        self
    }

    getters! {
        get_strategy of strategy -> Option<Strategy>, config => Some(config.strategy);
        get_cranelift_opt_level of cranelift_opt_level -> Option<OptLevel>, config => Some(config.opt_level);
        get_cranelift_nan_canonicalization of cranelift_nan_canonicalization -> Option<bool>, config => Some(config.nan_canonicalization);
        get_compiler_inlining of compiler_inlining -> Inlining, config => config.inlining;
        get_native_unwind_info of native_unwind_info -> Option<bool>, config => Some(config.native_unwind_info);
        get_parallel_compilation of parallel_compilation -> bool, config => config.parallel_compilation;
        get_memory_reservation of memory_reservation -> u64, config => config.memory_reservation_bytes.unwrap_or(DEFAULT_RESERVATION_BYTES);
        get_memory_may_move of memory_may_move -> bool, config => config.memory_may_move;
        get_memory_reservation_for_growth of memory_reservation_for_growth -> u64, config => config.memory_growth_bytes.unwrap_or(DEFAULT_GROWTH_BYTES);
        get_memory_guard_size of memory_guard_size -> u64, config => config.memory_guard_bytes;
        get_max_wasm_stack of max_wasm_stack -> usize, config => config.max_wasm_stack_bytes;
        get_epoch_interruption of epoch_interruption -> bool, config => config.epochs;
        get_consume_fuel of consume_fuel -> bool, config => config.fuel;
        get_relaxed_simd_deterministic of relaxed_simd_deterministic -> bool, config => config.features.relaxed_simd_deterministic;
        get_debug_info of debug_info -> bool, config => config.debug_info;
        get_wasm_backtrace of wasm_backtrace -> bool, config => config.wasm_backtrace;
        get_wasm_backtrace_max_frames of wasm_backtrace_max_frames -> usize, config => config.backtrace_max_frames.map_or(0, NonZeroUsize::get);
        get_target of target -> Option<String>, config => config.target.clone();
        get_coredump_on_trap of coredump_on_trap -> bool, config => config.coredump_on_trap;
    }

    /// Whether modules can be compiled. Without a compiler an engine loads and runs images. On by default, if one is linked in.
    pub fn enable_compiler(&mut self, enable: bool) -> &mut Self {
        self.compiler_enabled = enable;
        self
    }

    /// The most frames of a [`WasmBacktrace`](crate::WasmBacktrace): 256 by default, and 65,536 where more are asked for. The newest are kept. Each
    /// takes some 100 bytes and a fraction of a microsecond of each trap. `None` is as [`wasm_backtrace`](Self::wasm_backtrace) switched off.
    pub fn wasm_backtrace_max_frames(&mut self, limit: Option<NonZeroUsize>) -> &mut Self {
        self.wasm_backtrace = limit.is_some();
        self.backtrace_max_frames = limit;
        self
    }

    /// Whether errors of calls that trapped carry a [`WasmCoreDump`](crate::WasmCoreDump). Off by default.
    ///
    /// With it, code keeps the values of locals in its frames, so that dumps have them, and modules keep their binaries, which say what types
    /// they have: code is slower, and images are others. Images that were made without run as well, and their locals are missing in dumps.
    pub fn coredump_on_trap(&mut self, enable: bool) -> &mut Self {
        self.coredump_on_trap = enable;
        self
    }

    /// What images are marked with, and must be marked with to be loaded: the version of this crate by default.
    ///
    /// ```
    /// use peregrine::{Config, Engine, Module, ModuleVersionStrategy};
    ///
    /// let version = |text: &str| Engine::new(Config::new().module_version(ModuleVersionStrategy::Custom(text.into()))?);
    /// let image = version("1")?.precompile_module(b"(module)")?;
    /// // The bytes come from the line above.
    /// assert!(unsafe { Module::deserialize(&version("1")?, &image) }.is_ok());
    /// let error = unsafe { Module::deserialize(&version("2")?, &image) }.unwrap_err();
    /// assert!(error.to_string().contains("`module_version`"));
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the text is longer than 255 bytes.
    pub fn module_version(&mut self, strategy: ModuleVersionStrategy) -> Result<&mut Self> {
        let len_bytes = strategy.as_str().len();
        if len_bytes > LONGEST_VERSION_BYTES {
            bail!("the module version is {len_bytes} bytes long, expected at most {LONGEST_VERSION_BYTES}; give a shorter one");
        }
        self.module_version = strategy;
        Ok(self)
    }

    /// How to find out whether this processor has a feature, for images that need it: by the name that the compiler gives it, without
    /// `has_` before. `None` of the function means that it does not know, and the processor is asked.
    ///
    /// # Safety
    ///
    /// 1. `detect` says `Some(true)` only for what the processor has.
    #[expect(unsafe_code, reason = "the caller promises what the processor has")]
    pub unsafe fn detect_host_feature(&mut self, detect: fn(&str) -> Option<bool>) -> &mut Self {
        self.detect_host_feature = Some(detect);
        self
    }

    /// Whether traps of guests are found by faults of the hardware, which is the only way there is: [`Engine::new`](crate::Engine::new)
    /// refuses `false`.
    pub fn signals_based_traps(&mut self, enable: bool) -> &mut Self {
        self.refuse(!enable, "code that traps without signals (`signals_based_traps` off)", "leave it on")
    }

    /// What [`signals_based_traps`](Self::signals_based_traps) must be.
    pub fn get_signals_based_traps(&self) -> bool {
        true
    }

    /// A debugger of guests inside of the embedder, which there is not: [`Engine::new`](crate::Engine::new) refuses it.
    /// [`debug_info`](Self::debug_info) is for debuggers outside.
    pub fn guest_debug(&mut self, enable: bool) -> &mut Self {
        self.refuse(enable, "debugging guests from the embedder (`guest_debug`)", "debug them from outside, with `debug_info`")
    }

    /// What [`guest_debug`](Self::guest_debug) must be.
    pub fn get_guest_debug(&self) -> bool {
        false
    }

    /// A checker of accesses to memory, which there is not: [`Engine::new`](crate::Engine::new) refuses it.
    pub fn wmemcheck(&mut self, enable: bool) -> &mut Self {
        self.refuse(enable, "checking accesses to memory (`wmemcheck`)", TAKE_OUT)
    }

    /// Where to write the compiler's intermediate code, which is not done: [`Engine::new`](crate::Engine::new) refuses it.
    pub fn emit_clif(&mut self, path: &Path) -> &mut Self {
        self.refuse(true, &format!("writing intermediate code to `{}` (`emit_clif`)", path.display()), TAKE_OUT)
    }

    /// A flag of the compiler. None can be set from outside but `preserve_frame_pointers`, which is always on:
    /// [`Engine::new`](crate::Engine::new) refuses the others.
    ///
    /// # Safety
    ///
    /// There is nothing to promise: a flag is not handed on.
    #[expect(unsafe_code, reason = "so that programs that write `unsafe` compile")]
    pub unsafe fn cranelift_flag_enable(&mut self, flag: &str) -> &mut Self {
        self.refuse(flag != "preserve_frame_pointers", &format!("the compiler flag `{flag}`"), TAKE_OUT)
    }

    /// A flag of the compiler, as [`cranelift_flag_enable`](Self::cranelift_flag_enable).
    ///
    /// # Safety
    ///
    /// There is nothing to promise: a flag is not handed on.
    #[expect(unsafe_code, reason = "so that programs that write `unsafe` compile")]
    pub unsafe fn cranelift_flag_set(&mut self, name: &str, value: &str) -> &mut Self {
        self.refuse((name, value) != ("preserve_frame_pointers", "true"), &format!("the compiler flag `{name}={value}`"), TAKE_OUT)
    }

    /// A cache of compiled functions, which there is not: nothing is asked of `cache_store`. [`cache`](Self::cache) keeps compiled modules.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn enable_incremental_compilation(&mut self, cache_store: Arc<dyn CacheStore>) -> Result<&mut Self> {
        let _ = cache_store;
        Ok(self)
    }

    /// The embedder's way to make code executable, which there is not: [`Engine::new`](crate::Engine::new) refuses it.
    pub fn with_custom_code_memory(&mut self, custom_code_memory: Option<Arc<dyn CustomCodeMemory>>) -> &mut Self {
        self.refuse(custom_code_memory.is_some(), "making code executable by the embedder (`with_custom_code_memory`)", "give `None`")
    }

    /// This configuration, with a strategy other than [`Strategy::Auto`].
    ///
    /// # Errors
    ///
    /// If the environment names a strategy that there is not.
    pub(crate) fn resolved(&self) -> Result<Self> {
        let mut config = self.clone();
        if self.strategy != Strategy::Auto {
            return Ok(config);
        }
        let named = cfg!(debug_assertions).then(|| std::env::var(STRATEGY_VARIABLE).ok()).flatten();
        config.strategy = match named {
            Some(name) => {
                let (strategy, stress) = Self::named_strategy(&name)?;
                // What counts stays in the baseline.
                if config.tiering_stress == TieringStress::None && !config.gather_profile {
                    config.tiering_stress = stress;
                }
                strategy
            }
            // Few who debug want to see functions change under their hands.
            None if self.debug_info => Strategy::Ahead,
            None => Strategy::Tiered,
        };
        Ok(config)
    }

    fn named_strategy(name: &str) -> Result<(Strategy, TieringStress)> {
        Ok(match name {
            "ahead" => (Strategy::Ahead, TieringStress::None),
            "baseline" => (Strategy::Baseline, TieringStress::None),
            "tiered" => (Strategy::Tiered, TieringStress::None),
            "at-once" => (Strategy::Tiered, TieringStress::OptimizeAtOnce),
            "loops" => (Strategy::Tiered, TieringStress::LoopEntryEverywhere),
            "one-instruction" => (Strategy::Tiered, TieringStress::OneInstructionBudget),
            "random" => (Strategy::Tiered, TieringStress::Random(1)),
            _ => bail!(
                "{STRATEGY_VARIABLE} is `{name}`; expected `ahead`, `baseline`, `tiered`, `at-once`, `loops`, `one-instruction` or `random`"
            ),
        })
    }

    /// The compiler that the strategy asks for.
    pub(crate) fn compiler_kind(&self) -> CompilerKind {
        match self.strategy {
            Strategy::Auto | Strategy::Tiered | Strategy::Ahead | Strategy::Precompiled => CompilerKind::Optimizing,
            Strategy::Baseline => CompilerKind::Baseline,
        }
    }

    /// How many frames backtraces have at most. Where none are wanted, core dumps have them all the same.
    pub(crate) fn most_frames(&self) -> usize {
        self.backtrace_max_frames.map_or(DEFAULT_FRAMES, NonZeroUsize::get).min(MOST_FRAMES)
    }

    /// How functions reach each other.
    pub(crate) fn tiering(&self) -> Tiering {
        match self.strategy {
            _ if self.gather_profile => Tiering::Counted,
            Strategy::Ahead | Strategy::Precompiled => Tiering::Whole,
            // Engines are made of resolved configurations.
            Strategy::Auto | Strategy::Tiered => Tiering::Counted,
            Strategy::Baseline => Tiering::Slots,
        }
    }

    pub(crate) fn compiler_options(&self) -> CompilerOptions {
        CompilerOptions {
            threads: if self.parallel_compilation { None } else { Some(NonZeroUsize::MIN) },
            plain: self.tiering_stress == TieringStress::Plain,
        }
    }

    /// What code is compiled with, for `target`, where 32-bit memories reserve `default_reservation_bytes` unless the embedder says otherwise.
    pub(crate) fn settings(&self, target: Target, default_reservation_bytes: u64) -> Result<Settings> {
        if let Some(Refusal { what, instead }) = self.refused.first() {
            bail!("not implemented: {what}; {instead}");
        }
        if self.gather_profile && self.cache.is_some() {
            bail!("a profile cannot be gathered with a cache, whose code does not count; set `cache(None)`");
        }
        if self.max_wasm_stack_bytes < LEAST_STACK_BYTES {
            bail!("max_wasm_stack is {} bytes, expected at least {LEAST_STACK_BYTES}; set a larger one", self.max_wasm_stack_bytes);
        }
        if matches!(self.profiler, ProfilingStrategy::VTune | ProfilingStrategy::Pulley) {
            bail!("the profiler {:?} is not supported; use `PerfMap` or `JitDump`", self.profiler);
        }
        let reservation = self.memory_reservation_bytes.unwrap_or(default_reservation_bytes);
        let reserved = reservation.checked_add(self.memory_guard_bytes);
        if reserved.is_none_or(|bytes| bytes > MAX_RESERVED_BYTES) {
            let guard = self.memory_guard_bytes;
            bail!(
                "memory_reservation is {reservation} bytes and memory_guard_size {guard}, expected at most {MAX_RESERVED_BYTES} together; \
                set one of them lower"
            );
        }
        let mut settings = Settings::new(target);
        settings.features = self.features;
        settings.opt_level = match self.opt_level {
            OptLevel::None => settings::OptLevel::None,
            OptLevel::Speed => settings::OptLevel::Speed,
            OptLevel::SpeedAndSize => settings::OptLevel::SpeedAndSize,
        };
        settings.memory_reservation_bytes = reservation;
        settings.memory_may_move = self.memory_may_move;
        settings.memory_guard_bytes = self.memory_guard_bytes;
        settings.tiering = self.tiering();
        settings.interrupt = self.epochs || self.deadlines;
        settings.fuel = self.fuel;
        settings.nan_canonicalization = self.nan_canonicalization;
        settings.spectre_mitigations = self.spectre_mitigations;
        settings.inlining = self.inlining != Inlining::No;
        settings.keeps_locals = self.coredump_on_trap;
        settings.module_version = self.module_version.as_str().to_owned();
        settings.debug_info = match self.backtrace_details {
            WasmBacktraceDetails::Enable => true,
            WasmBacktraceDetails::Disable => false,
            WasmBacktraceDetails::Environment => std::env::var_os("PEREGRINE_BACKTRACE_DETAILS").is_none_or(|value| value != "0"),
        };
        Ok(settings)
    }
}
