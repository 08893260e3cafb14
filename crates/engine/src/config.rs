//! What an engine does and how: the choices of an embedder, before any [`Engine`](crate::Engine) is made of them.

use crate::Cache;
use crate::error::{Result, bail};
use peregrine_artifact::compiler::{CompilerKind, CompilerOptions};
use peregrine_artifact::settings::{self, Settings, Target};
use peregrine_wasm::Features;
use std::num::NonZeroUsize;

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
    /// Proposals that were asked for and are not implemented.
    missing_features: Vec<&'static str>,
    pub(crate) target: Option<String>,
    strategy: Strategy,
    opt_level: OptLevel,
    nan_canonicalization: bool,
    spectre_mitigations: bool,
    inlining: bool,
    pub(crate) fuel: bool,
    pub(crate) epochs: bool,
    pub(crate) max_wasm_stack_bytes: usize,
    memory_reservation_bytes: u64,
    memory_guard_bytes: u64,
    pub(crate) cache: Option<Cache>,
    pub(crate) debug_info: bool,
    pub(crate) native_unwind_info: bool,
    pub(crate) profiler: ProfilingStrategy,
    pub(crate) wasm_backtrace: bool,
    parallel_compilation: bool,
    backtrace_details: WasmBacktraceDetails,
}

/// Address space that one memory may take: a part of what processors have, so that sums of sizes do not overflow.
const MAX_RESERVED_BYTES: u64 = 1 << 45;

/// Which compiler makes the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// The best there is for the module.
    #[default]
    Auto,
    /// The optimizing compiler, for everything, before the first call.
    Cranelift,
    /// The baseline compiler, for everything, before the first call: compiles many times faster, and the code is slower. x86-64 only.
    Winch,
}

/// How much work the compiler does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptLevel {
    /// Compile fast.
    None,
    /// Run fast.
    #[default]
    Speed,
    /// Run fast, and prefer small code where it costs little.
    SpeedAndSize,
}

/// What profilers are told about compiled code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProfilingStrategy {
    /// Nothing.
    #[default]
    None,
    /// Names of functions, in the text file `/tmp/perf-PID.map` that `perf report` reads.
    PerfMap,
    /// Names, code and source lines, in the file `jit-PID.dump` in the working directory, for `perf record -k mono` and
    /// `perf inject --jit`.
    JitDump,
}

/// Whether backtraces name source files and lines, for modules with DWARF sections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WasmBacktraceDetails {
    /// They do. DWARF sections are kept in images and decoded when a backtrace is printed.
    #[default]
    Enable,
    /// They do not, and DWARF sections are dropped when compiling.
    Disable,
    /// They do if the environment variable `PEREGRINE_BACKTRACE_DETAILS` is not 0.
    Environment,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            features: Features::default(),
            missing_features: Vec::new(),
            target: None,
            strategy: Strategy::Auto,
            opt_level: OptLevel::Speed,
            nan_canonicalization: false,
            spectre_mitigations: true,
            inlining: true,
            fuel: false,
            epochs: false,
            max_wasm_stack_bytes: 1 << 20,
            memory_reservation_bytes: 4 << 30,
            memory_guard_bytes: 2 << 30,
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

macro_rules! missing {
    ($($setter:ident $name:literal;)*) => {$(
        #[doc = concat!("The ", $name, " proposal, which is not implemented: [`Engine::new`](crate::Engine::new) refuses it if it is on.")]
        pub fn $setter(&mut self, enable: bool) -> &mut Self {
            self.missing(enable, $name)
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
        /// Memories with pages of one byte. On by default.
        wasm_custom_page_sizes custom_page_sizes;
    }

    missing! {
        wasm_threads "threads";
        wasm_shared_everything_threads "shared-everything-threads";
        wasm_gc "garbage collection";
        wasm_exceptions "exception handling";
        wasm_function_references "function references";
        wasm_component_model "component model";
        wasm_stack_switching "stack switching";
    }

    fn missing(&mut self, enable: bool, name: &'static str) -> &mut Self {
        self.missing_features.retain(|missing| *missing != name);
        if enable {
            self.missing_features.push(name);
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

    /// The target triple that code is made for, `aarch64-unknown-linux-gnu` for example. The default is this machine with all the
    /// features of its
    /// processor; a triple stands for its baseline features. An engine for another machine can compile, not run.
    ///
    /// # Errors
    ///
    /// If `target` is not of the shape of a triple. A well-formed one that the compiler does not know is reported by
    /// [`Engine::new`](crate::Engine::new).
    pub fn target(&mut self, target: &str) -> Result<&mut Self> {
        let well_formed =
            target.split('-').count() >= 2 && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !well_formed {
            bail!("`{target}` is not a target triple; expected for example `x86_64-unknown-linux-gnu`");
        }
        self.target = Some(target.to_owned());
        Ok(self)
    }

    /// Which compiler makes the code. [`Strategy::Auto`] by default.
    pub fn strategy(&mut self, strategy: Strategy) -> &mut Self {
        self.strategy = strategy;
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

    /// Whether small functions of a module are compiled into their callers. On by default.
    pub fn compiler_inlining(&mut self, enable: bool) -> &mut Self {
        self.inlining = enable;
        self
    }

    /// Whether executed instructions are counted and guests stop when what [`Store::set_fuel`](crate::Store::set_fuel) gave is used up.
    /// Off by
    /// default.
    pub fn consume_fuel(&mut self, enable: bool) -> &mut Self {
        self.fuel = enable;
        self
    }

    /// Whether guests stop at the deadline of [`Store::set_epoch_deadline`](crate::Store::set_epoch_deadline). Off by default.
    pub fn epoch_interruption(&mut self, enable: bool) -> &mut Self {
        self.epochs = enable;
        self
    }

    /// The bytes of stack that guest code may use before it traps with [`Trap::StackOverflow`](crate::Trap::StackOverflow). 1 MiB by
    /// default. Guests run
    /// on a stack of their own, so the size of the host's threads does not matter.
    pub fn max_wasm_stack(&mut self, size_bytes: usize) -> &mut Self {
        self.max_wasm_stack_bytes = size_bytes;
        self
    }

    /// Address space behind each linear memory with 32-bit addresses, in bytes, without the guard. From 4 GiB on, which is the default,
    /// accesses need no bounds checks. Together with the guard at most 32 TiB.
    pub fn memory_reservation(&mut self, bytes: u64) -> &mut Self {
        self.memory_reservation_bytes = bytes;
        self
    }

    /// Inaccessible address space after each reservation, in bytes. 2 GiB by default.
    pub fn memory_guard_size(&mut self, bytes: u64) -> &mut Self {
        self.memory_guard_bytes = bytes;
        self
    }

    /// Accepted for compatibility and without meaning: memories never move, so there is no room for growth to set aside.
    pub fn memory_reservation_for_growth(&mut self, bytes: u64) -> &mut Self {
        let _ = bytes;
        self
    }

    /// Accepted for compatibility and without meaning: initial memory content is always mapped copy-on-write where it can be.
    pub fn memory_init_cow(&mut self, enable: bool) -> &mut Self {
        let _ = enable;
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

    /// The compiler that the strategy asks for.
    pub(crate) fn compiler_kind(&self) -> CompilerKind {
        match self.strategy {
            Strategy::Auto | Strategy::Cranelift => CompilerKind::Optimizing,
            Strategy::Winch => CompilerKind::Baseline,
        }
    }

    pub(crate) fn compiler_options(&self) -> CompilerOptions {
        CompilerOptions { threads: if self.parallel_compilation { None } else { Some(NonZeroUsize::MIN) } }
    }

    /// Accepted for compatibility and without meaning: address maps are always there.
    pub fn generate_address_map(&mut self, generate: bool) -> &mut Self {
        let _ = generate;
        self
    }

    /// What code is compiled with, for `target`.
    pub(crate) fn settings(&self, target: Target) -> Result<Settings> {
        if let Some(name) = self.missing_features.first() {
            bail!("the {name} proposal is not implemented; leave it off");
        }
        if self.max_wasm_stack_bytes < 16 << 10 {
            bail!("max_wasm_stack is {} bytes; at least 16384 are needed", self.max_wasm_stack_bytes);
        }
        let reserved = self.memory_reservation_bytes.checked_add(self.memory_guard_bytes);
        if reserved.is_none_or(|bytes| bytes > MAX_RESERVED_BYTES) {
            let (reservation, guard) = (self.memory_reservation_bytes, self.memory_guard_bytes);
            bail!("memory_reservation is {reservation} bytes and memory_guard_size {guard}; together they may be {MAX_RESERVED_BYTES}");
        }
        let mut settings = Settings::new(target);
        settings.features = self.features;
        settings.opt_level = match self.opt_level {
            OptLevel::None => settings::OptLevel::None,
            OptLevel::Speed => settings::OptLevel::Speed,
            OptLevel::SpeedAndSize => settings::OptLevel::SpeedAndSize,
        };
        settings.memory_reservation_bytes = self.memory_reservation_bytes;
        settings.memory_guard_bytes = self.memory_guard_bytes;
        settings.interrupt = self.epochs;
        settings.fuel = self.fuel;
        settings.nan_canonicalization = self.nan_canonicalization;
        settings.spectre_mitigations = self.spectre_mitigations;
        settings.inlining = self.inlining;
        settings.debug_info = match self.backtrace_details {
            WasmBacktraceDetails::Enable => true,
            WasmBacktraceDetails::Disable => false,
            WasmBacktraceDetails::Environment => std::env::var_os("PEREGRINE_BACKTRACE_DETAILS").is_none_or(|value| value != "0"),
        };
        Ok(settings)
    }
}
