//! The tables of the option groups: every key that `-C`, `-D`, `-O`, `-S` and `-W` take.

use super::group::{Bytes, Listeners, Value, group};
use peregrine::TieringStress;
use std::path::PathBuf;
use std::time::Duration;

group! {
    /// `-C`: how code is made and where it is kept.
    CodegenOptions, 'C', "Code generation";
    "strategy" for Strategy => strategy: Strategy, "When functions are compiled: tiered at the first call and again when hot, ahead all before the start, baseline at the first call only; precompiled runs images only. Default: auto, which is tiered, or ahead with -D debug-info.";
    "compiler" for Strategy => compiler: Compiler, "optimizing (or cranelift) is strategy=ahead, baseline (or winch) strategy=baseline.";
    "deferred-validation" for Tiers => deferred_validation: bool, "Validate bodies when they are first called, not before. Default: n.";
    "tiering-stress" for Tiers => tiering_stress: Stress, "For tests of the tiers: what otherwise depends on time happens at once.";
    "cache" for Program => cache: bool, "Keep compiled modules on disk and use them again. Default: y.";
    "cache-dir" for Cache => cache_dir: PathBuf, "Where compiled modules are kept.";
    "parallel-compilation" for Code => parallel_compilation: bool, "Compile on all processors. The code is the same with n. Default: y.";
    "inlining" for Code => inlining: bool, "Compile small functions into their callers. Default: y.";
    "nan-canonicalization" for Code => nan_canonicalization: bool, "Give every computed NaN the same bits. Default: n.";
}

group! {
    /// `-D`: what helps to find faults.
    DebugOptions, 'D', "Debugging";
    "debug-info" for Code => debug_info: bool, "Tell debuggers about compiled code, and keep source lines for backtraces.";
    "address-map" for Code => address_map: bool, "Accepted: the places in the module that code comes from are always kept.";
    "coredump" for Program => coredump: PathBuf, "Write a core dump to this file when the guest traps; %p in its name is the process.";
    "logging" for Log => logging: bool, "Log by the filter in PEREGRINE_LOG. Default: y if it is set.";
    "log-to-files" for Log => log_to_files: bool, "Write logs to the file peregrine.log.PROCESS instead of standard error.";
}

group! {
    /// `-O`: what trades one cost against another.
    OptimizeOptions, 'O', "Optimization";
    "opt-level" for Code => opt_level: OptLevel, "How much work is put into code: 0 is least, s prefers small code. Default: 2.";
    "memory-reservation" for Code => memory_reservation: Bytes, "Address space for a 32-bit memory that may grow large; 4G spares checks. Default: 4G if there is room.";
    "memory-guard-size" for Code => memory_guard_size: Bytes, "Inaccessible address space after each memory that is not checked. Default: 32M.";
}

group! {
    /// `-S`: what WASI gives to the guest.
    WasiOptions, 'S', "WASI";
    "cli" for Program => cli: bool, "Provide WASI to the guest. Default: y.";
    "inherit-env" for Program => inherit_env: bool, "Pass on all environment variables. Default: n.";
    "listenfd" for Program => listenfd: bool, "Pass on the listening sockets that the environment hands over (LISTEN_FDS). Default: n.";
    "tcplisten" for Program => tcplisten: Listeners, "Listen here and hand the socket to the guest. May be given several times.";
    "max-open-files" for Program => max_open_files: u64, "How many file descriptors the guest may have at a time.";
}

group! {
    /// `-W`: what modules may use and what they may do.
    WasmOptions, 'W', "WebAssembly";
    "fuel" for Code => fuel: u64, "Trap after so many units of fuel: one for most instructions.";
    "timeout" for Code => timeout: Duration, "Trap after this time.";
    "epoch-interruption" for Code => epoch_interruption: bool, "Let code look at the deadline, as what `compile` makes for `run -W timeout` must. Default: y if there is a timeout.";
    "max-wasm-stack" for Code => max_wasm_stack: Bytes, "Size of the guest's call stack.";
    "budget" for Code => budget: Preset, "The limits that no other key sets, those on compiling included. Default: trusted.";
    "max-module-size" for Code => max_module_size: Bytes, "How large a module may be that is compiled.";
    "max-functions" for Code => max_functions: u64, "How many functions a module may have that is compiled.";
    "max-compile-memory" for Code => max_compile_memory: Bytes, "How much memory compiling a module may take.";
    "compile-timeout" for Code => compile_timeout: Duration, "How long compiling a module may take.";
    "max-host-memory" for Code => max_host_memory: Bytes, "How much memory of the host may be held for the guest: instances, host values and functions.";
    "max-memory-size" for Program => max_memory_size: Bytes, "How large each memory may grow.";
    "max-table-elements" for Program => max_table_elements: u64, "How large each table may grow.";
    "max-instances" for Program => max_instances: u64, "How many instances there may be.";
    "max-tables" for Program => max_tables: u64, "How many tables there may be.";
    "max-memories" for Program => max_memories: u64, "How many memories there may be.";
    "trap-on-grow-failure" for Program => trap_on_grow_failure: bool, "Fail when a memory or table may not grow, instead of telling the guest. Default: n.";
    "unknown-imports-trap" for Program => unknown_imports_trap: bool, "Imports that nothing defines trap when they are called.";
    "unknown-imports-default" for Program => unknown_imports_default: bool, "Imported functions that nothing defines return zeros and nulls.";
    "all-proposals" for Code => all_proposals: bool, "Accept (n: refuse) all of the proposals below, unless their own keys say otherwise.";
    "bulk-memory" for Code => bulk_memory: bool, "Accept bulk memory and table instructions. Default: y.";
    "custom-page-sizes" for Code => custom_page_sizes: bool, "Accept memories with pages of one byte. Default: y.";
    "extended-const" for Code => extended_const: bool, "Accept arithmetic in constant expressions. Default: y.";
    "memory64" for Code => memory64: bool, "Accept 64-bit memories and tables. Default: y.";
    "multi-memory" for Code => multi_memory: bool, "Accept several memories. Default: y.";
    "multi-value" for Code => multi_value: bool, "Accept several results. Default: y.";
    "reference-types" for Code => reference_types: bool, "Accept references as values. Default: y.";
    "relaxed-simd" for Code => relaxed_simd: bool, "Accept vector instructions that depend on the processor. Default: y.";
    "relaxed-simd-deterministic" for Code => relaxed_simd_deterministic: bool, "Give those the same results on every processor. Default: n.";
    "simd" for Code => simd: bool, "Accept vectors. Default: y.";
    "tail-call" for Code => tail_call: bool, "Accept tail calls. Default: y.";
    "threads" for Code => threads: bool, "Accept shared memories and atomic instructions. Default: y.";
    "wide-arithmetic" for Code => wide_arithmetic: bool, "Accept 128-bit arithmetic. Default: y.";
}

/// Which limits hold that are not set one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preset {
    /// For guests that the user chose.
    Trusted,
    /// For guests of strangers.
    Untrusted,
}

impl Value for Preset {
    const SHAPE: &'static str = "trusted|untrusted";

    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            Some("trusted") => Ok(Self::Trusted),
            Some("untrusted") => Ok(Self::Untrusted),
            _ => Err("`trusted` or `untrusted`".to_string()),
        }
    }
}

/// How much work is put into code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptLevel {
    /// As little as possible.
    None,
    /// For speed.
    Speed,
    /// For speed and small size.
    SpeedAndSize,
}

/// When functions are compiled, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// What the engine takes by default.
    Auto,
    /// At the first call, fast; hot ones again, in the background.
    Tiered,
    /// All of them before the first call, optimized.
    Ahead,
    /// At the first call, fast.
    Baseline,
    /// Never: images only.
    Precompiled,
}

impl Value for Strategy {
    const SHAPE: &'static str = "auto|tiered|ahead|baseline|precompiled";

    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            Some("auto") => Ok(Self::Auto),
            Some("tiered") => Ok(Self::Tiered),
            Some("ahead") => Ok(Self::Ahead),
            Some("baseline") => Ok(Self::Baseline),
            Some("precompiled") => Ok(Self::Precompiled),
            _ => Err("`auto`, `tiered`, `ahead`, `baseline` or `precompiled`".to_string()),
        }
    }
}

/// What tests of the tiers force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stress(pub(crate) TieringStress);

impl Value for Stress {
    const SHAPE: &'static str = "none|optimize|loops|budget|SEED";

    fn read(text: Option<&str>) -> Result<Self, String> {
        let seed = |text: &str| text.parse().ok().map(TieringStress::Random);
        let stress = match text {
            Some("none") => Some(TieringStress::None),
            Some("optimize") => Some(TieringStress::OptimizeAtOnce),
            Some("loops") => Some(TieringStress::LoopEntryEverywhere),
            Some("budget") => Some(TieringStress::OneInstructionBudget),
            _ => text.and_then(seed),
        };
        stress.map(Self).ok_or_else(|| "`none`, `optimize`, `loops`, `budget` or a number".to_string())
    }
}

/// Which compiler makes code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// What the strategy takes.
    Auto,
    /// Makes fast code.
    Optimizing,
    /// Makes code fast.
    Baseline,
}

impl Value for Compiler {
    const SHAPE: &'static str = "auto|optimizing|baseline";

    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            Some("auto") => Ok(Self::Auto),
            // The second name is what users of other commands know the nearest thing by.
            Some("optimizing" | "cranelift") => Ok(Self::Optimizing),
            Some("baseline" | "winch") => Ok(Self::Baseline),
            _ => Err("`auto`, `optimizing` (or `cranelift`) or `baseline` (or `winch`)".to_string()),
        }
    }
}

impl Value for OptLevel {
    const SHAPE: &'static str = "0|1|2|s";

    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            Some("0") => Ok(Self::None),
            Some("1" | "2") => Ok(Self::Speed),
            Some("s") => Ok(Self::SpeedAndSize),
            _ => Err("`0`, `1`, `2` or `s`".to_string()),
        }
    }
}
