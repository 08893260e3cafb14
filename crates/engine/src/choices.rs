//! What can be chosen in a [`Config`](crate::Config): strategies, levels, ways to tell profilers, and what hosts provide.

use crate::error::Result;
use std::borrow::Cow;
use std::fmt;

/// When functions are compiled, and by which compiler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// The best there is: [`Strategy::Tiered`], or [`Strategy::Ahead`] for [debuggers](crate::Config::debug_info).
    #[default]
    Auto,
    /// Each function is compiled by the baseline when it is first called, and again by the optimizing compiler, in the background, when it
    /// turns out to be hot: starts at once, and runs at full speed soon. As `Ahead` where the baseline has no code for the processor, and for
    /// modules with more than some 170 MB of code, whose machine code could not reach itself
    /// ([`EngineMetrics::modules_too_large`](crate::EngineMetrics::modules_too_large)).
    ///
    /// There is room for whatever functions may become in modules with up to 14 MB of code (3 MB, with function types of 128 values), and in
    /// larger ones for twelve times the code and more, up to 2 GiB; programs need three times theirs for both tiers. Where the room is full all the
    /// same, functions stay in the baseline ([`TieringMetrics::refused`](crate::TieringMetrics::refused)), and one that was never called
    /// fails at its first call ([`TieringMetrics::failed_functions`](crate::TieringMetrics::failed_functions)).
    Tiered,
    /// The optimizing compiler, for everything, before the first call.
    Ahead,
    /// The baseline compiler alone, for each function when it is first called: compiles many times faster, and the code is slower. x86-64
    /// only. For large modules as [`Tiered`](Self::Tiered).
    Baseline,
    /// Nothing is compiled: images are loaded ([`Module::deserialize`](crate::Module::deserialize)), and a module in the binary or text format
    /// is refused. [`Engine::precompile_module`](crate::Engine::precompile_module) makes images, as with `Ahead`.
    Precompiled,
}

impl Strategy {
    /// Another name of [`Strategy::Ahead`].
    #[expect(non_upper_case_globals, reason = "embedders know the name")]
    pub const Cranelift: Self = Self::Ahead;
    /// Another name of [`Strategy::Baseline`].
    #[expect(non_upper_case_globals, reason = "embedders know the name")]
    pub const Winch: Self = Self::Baseline;
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
pub enum ProfilingStrategy {
    /// Nothing.
    #[default]
    None,
    /// Names of functions, in the text file `/tmp/perf-PID.map` that `perf report` reads.
    PerfMap,
    /// Names, code and source lines, in the file `jit-PID.dump` in the working directory, for `perf record -k mono` and
    /// `perf inject --jit`.
    JitDump,
    /// For VTune, which is not implemented: [`Engine::new`](crate::Engine::new) refuses it.
    VTune,
    /// For an interpreter that there is not: [`Engine::new`](crate::Engine::new) refuses it.
    Pulley,
}

/// Which functions are compiled into their callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inlining {
    /// Small functions of the same module.
    Yes,
    /// As [`Yes`](Self::Yes): there are no functions of other modules, and no collector.
    InterModuleAndIntraGc,
    /// As [`Yes`](Self::Yes): there are no functions of other modules.
    InterModule,
    /// As [`No`](Self::No).
    Intrinsics,
    /// None.
    No,
}

impl From<bool> for Inlining {
    fn from(enable: bool) -> Self {
        if enable { Self::Yes } else { Self::No }
    }
}

/// What images are marked with, and must be marked with to be loaded. See [`Config::module_version`](crate::Config::module_version).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModuleVersionStrategy {
    /// The version of this crate, which the name does not say for the sake of compatibility.
    #[default]
    WasmtimeVersion,
    /// A text of at most 255 bytes.
    Custom(String),
    /// Nothing, and images with any mark are loaded. The format of images has a version of its own, which is always checked.
    None,
}

impl ModuleVersionStrategy {
    /// The mark.
    pub fn as_str(&self) -> &str {
        match self {
            Self::WasmtimeVersion => env!("CARGO_PKG_VERSION"),
            Self::Custom(text) => text,
            Self::None => "",
        }
    }
}

/// A cache of compiled functions. See [`Config::enable_incremental_compilation`](crate::Config::enable_incremental_compilation).
pub trait CacheStore: Send + Sync + fmt::Debug {
    /// The value of `key`, if there is one.
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>>;

    /// Keeps `value` for `key`. Whether it did.
    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool;
}

/// A way to make code executable. See [`Config::with_custom_code_memory`](crate::Config::with_custom_code_memory).
pub trait CustomCodeMemory: Send + Sync {
    /// What regions of code must be aligned to, in bytes.
    fn required_alignment(&self) -> usize;

    /// Makes `len` bytes at `ptr` executable.
    ///
    /// # Errors
    ///
    /// If that cannot be.
    fn publish_executable(&self, ptr: *const u8, len: usize) -> Result<()>;

    /// Makes `len` bytes at `ptr` writable again.
    ///
    /// # Errors
    ///
    /// If that cannot be.
    fn unpublish_executable(&self, ptr: *const u8, len: usize) -> Result<()>;
}

/// Whether backtraces name source files and lines, for modules with DWARF sections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WasmBacktraceDetails {
    /// They do. DWARF sections are kept in images and decoded when a backtrace is printed.
    #[default]
    Enable,
    /// They do not, and DWARF sections are dropped when compiling.
    Disable,
    /// They do if the environment variable `PEREGRINE_BACKTRACE_DETAILS` is not 0.
    Environment,
}
