//! From options to an engine, and from a file to bytes.

use super::failure::Usage;
use super::log;
use crate::args::options::{CodegenOptions, Compiler, OptLevel, Preset, Strategy, Stress, WasmOptions};
use crate::args::{Options, Profile};
use peregrine::{Budget, Cache, Config, Context, Engine, Error, ProfilingStrategy, Result, WasmFeatures};
use peregrine_artifact::image::ImageLayout;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What the binary format begins with.
const WASM: &[u8] = b"\0asm";

/// A file as it was found.
pub(super) enum Input {
    /// A file that begins as an image does.
    Image(File),
    /// A regular file that begins as WebAssembly in binary does, at its beginning.
    Binary(File),
    /// Anything else, read: WebAssembly in binary or text, or what is neither.
    Module(Vec<u8>),
}

impl Input {
    /// Looks at the beginning of a file; reads it unless it is an image. `-` is standard input.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let reading = || format!("cannot read `{}`", path.display());
        let mut bytes = Vec::new();
        if path.as_os_str() == "-" {
            std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
            return Ok(Self::Module(bytes));
        }
        let mut file = File::open(path).with_context(reading)?;
        (&mut file).take(8).read_to_end(&mut bytes).with_context(reading)?;
        if ImageLayout::is_image(&bytes) {
            return Ok(Self::Image(file));
        }
        if bytes.starts_with(WASM) && file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(Self::Binary(file));
        }
        file.read_to_end(&mut bytes).with_context(reading)?;
        Ok(Self::Module(bytes))
    }

    /// The bytes of a module in binary or text, read if they were not.
    ///
    /// # Errors
    ///
    /// If `path`, which the file was found by, cannot be read, or is an image.
    pub(super) fn into_bytes(self, path: &Path) -> Result<Vec<u8>> {
        match self {
            Self::Module(bytes) => to_binary(bytes, path),
            Self::Binary(mut file) => {
                let mut bytes = Vec::new();
                let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
                read.with_context(|| format!("cannot read `{}`", path.display()))?;
                Ok(bytes)
            }
            Self::Image(_) => Err(Error::msg(format!("`{}` is compiled already; give the module that it was made from", path.display()))),
        }
    }
}

/// How `options` configure an engine, without the cache.
///
/// # Errors
///
/// If there is no such target.
pub(super) fn config(options: &Options) -> Result<Config> {
    log::start(&options.debug)?;
    let mut config = Config::new();
    if let Some(target) = &options.target {
        config.target(target)?;
    }
    set_features(&mut config, &options.wasm);
    let wasm = &options.wasm;
    if wasm.fuel.is_some() {
        config.consume_fuel(true);
    }
    if wasm.epoch_interruption == Some(false) && wasm.timeout.is_some() {
        return Err(contradiction(
            "-W timeout needs code that looks at the deadline, and -W epoch-interruption=n asks for code that does not",
        ));
    }
    if wasm.epoch_interruption.unwrap_or(wasm.timeout.is_some()) {
        config.epoch_interruption(true);
    }
    if let Some(size) = wasm.max_wasm_stack {
        config.max_wasm_stack(addressable(size.0));
    }
    config.budget(budget(wasm));
    if let Some(on) = options.codegen.inlining {
        config.compiler_inlining(on);
    }
    if let Some(on) = options.codegen.nan_canonicalization {
        config.cranelift_nan_canonicalization(on);
    }
    if let Some(on) = options.codegen.parallel_compilation {
        config.parallel_compilation(on);
    }
    config.strategy(strategy(&options.codegen)?);
    if let Some(on) = options.codegen.deferred_validation {
        config.deferred_validation(on);
    }
    if let Some(Stress(stress)) = options.codegen.tiering_stress {
        config.tiering_stress(stress);
    }
    if let Some(level) = options.optimize.opt_level {
        config.cranelift_opt_level(match level {
            OptLevel::None => peregrine::OptLevel::None,
            OptLevel::Speed => peregrine::OptLevel::Speed,
            OptLevel::SpeedAndSize => peregrine::OptLevel::SpeedAndSize,
        });
    }
    if let Some(size) = options.optimize.memory_reservation {
        config.memory_reservation(size.0);
    }
    if let Some(size) = options.optimize.memory_guard_size {
        config.memory_guard_size(size.0);
    }
    if options.debug.coredump.is_some() {
        config.coredump_on_trap(true);
    }
    if let Some(on) = options.debug.debug_info {
        config.debug_info(on);
    }
    match &options.profile {
        None | Some(Profile::File(_)) => {}
        Some(Profile::Perfmap) => {
            config.profiler(ProfilingStrategy::PerfMap);
        }
        Some(Profile::Jitdump) => {
            config.profiler(ProfilingStrategy::JitDump);
        }
    }
    Ok(config)
}

/// A number of things that are in memory. What is more than can be is as much as can be.
pub(super) fn addressable(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// What guests may make the host hold and do. What the limiter of a store decides is left to it.
fn budget(wasm: &WasmOptions) -> Budget {
    let mut budget = match wasm.budget {
        Some(Preset::Untrusted) => Budget::untrusted(),
        Some(Preset::Trusted) | None => Budget::trusted(),
    };
    if let Some(size) = wasm.max_module_size {
        budget.module_bytes = addressable(size.0);
    }
    if let Some(functions) = wasm.max_functions {
        budget.functions = addressable(functions);
    }
    if let Some(size) = wasm.max_compile_memory {
        budget.compile_memory_bytes = addressable(size.0);
    }
    if let Some(time) = wasm.compile_timeout {
        budget.compile_time = time;
    }
    if let Some(size) = wasm.max_host_memory {
        budget.host_bytes = addressable(size.0);
    }
    budget
}

/// The strategy that the options ask for.
///
/// # Errors
///
/// If they ask for a strategy and for a compiler that it does without.
fn strategy(codegen: &CodegenOptions) -> Result<peregrine::Strategy> {
    Ok(match (codegen.strategy, codegen.compiler) {
        (Some(Strategy::Ahead), Some(Compiler::Baseline)) => {
            return Err(contradiction("-C strategy=ahead compiles with the optimizing compiler, and -C compiler asks for the baseline"));
        }
        (Some(Strategy::Baseline), Some(Compiler::Optimizing)) => {
            return Err(contradiction("-C strategy=baseline compiles with the baseline, and -C compiler asks for the optimizing compiler"));
        }
        (Some(Strategy::Tiered), _) => peregrine::Strategy::Tiered,
        (Some(Strategy::Ahead), _) | (None | Some(Strategy::Auto), Some(Compiler::Optimizing)) => peregrine::Strategy::Ahead,
        (Some(Strategy::Baseline), _) | (None | Some(Strategy::Auto), Some(Compiler::Baseline)) => peregrine::Strategy::Baseline,
        (Some(Strategy::Precompiled), _) => peregrine::Strategy::Precompiled,
        (None | Some(Strategy::Auto), None | Some(Compiler::Auto)) => peregrine::Strategy::Auto,
    })
}

/// What is said of two options, one of which has to go.
fn contradiction(what: &str) -> Error {
    Error::from(Usage(format!("{what}; leave one out")))
}

/// Refuses to compile `name` if only images are to be run.
///
/// # Errors
///
/// If the strategy says so.
pub(super) fn may_compile(options: &Options, name: &str) -> Result<()> {
    if options.codegen.strategy != Some(Strategy::Precompiled) {
        return Ok(());
    }
    Err(Error::msg(format!("`{name}` is a module, and -C strategy=precompiled runs images only; make one with `peregrine compile`")))
}

/// An engine that keeps what it compiles, unless the options or the machine forbid it.
///
/// # Errors
///
/// If the options do not fit together, or the cache directory that they name cannot be used.
pub(super) fn engine_with_cache(options: &Options) -> Result<Engine> {
    let mut config = config(options)?;
    if options.codegen.cache != Some(false) {
        match cache(options) {
            Ok(cache) => {
                config.cache(Some(cache));
            }
            // A directory that was asked for must work; without the default one, modules are compiled each time.
            Err(error) if options.codegen.cache_dir.is_some() || options.codegen.cache == Some(true) => return Err(error),
            Err(error) => tracing::warn!("there is no cache: {error:#}"),
        }
    }
    Engine::new(&config)
}

/// An engine whose modules count what they do.
///
/// # Errors
///
/// If the options do not fit together.
pub(super) fn counting_engine(options: &Options) -> Result<Engine> {
    Engine::new(config(options)?.gather_profile(true))
}

/// The profile that the options name, if they do.
///
/// # Errors
///
/// If the file cannot be read or is none.
pub(super) fn profile(options: &Options) -> Result<Option<peregrine::Profile>> {
    match &options.profile {
        Some(Profile::File(path)) => super::profile::read(path).map(Some),
        _ => Ok(None),
    }
}

/// An engine without a cache.
///
/// # Errors
///
/// If the options do not fit together.
pub(super) fn engine(options: &Options) -> Result<Engine> {
    Engine::new(&config(options)?)
}

/// The cache that the options name, or the default one.
///
/// # Errors
///
/// If the directory cannot be made or used.
pub(super) fn cache(options: &Options) -> Result<Cache> {
    match &options.codegen.cache_dir {
        Some(path) => Cache::new(path).with_context(|| format!("cannot use the cache directory `{}`", path.display())),
        None => Cache::from_default_dir().context("cannot use the default cache directory"),
    }
}

/// The bytes of a module in the binary format.
///
/// # Errors
///
/// If the file cannot be read, is an image, or is text with errors.
pub(super) fn module_bytes(path: &Path) -> Result<Vec<u8>> {
    Input::open(path)?.into_bytes(path)
}

/// Translates text; bytes that are neither text nor binary stay as they are, for the validator to judge.
///
/// # Errors
///
/// If it is text with errors.
pub(super) fn to_binary(bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
    if bytes.starts_with(WASM) {
        return Ok(bytes);
    }
    let mut translated = wat::parse_bytes(&bytes);
    if let Err(error) = &mut translated {
        error.set_path(path);
    }
    Ok(translated?.into_owned())
}

fn set_features(config: &mut Config, wasm: &WasmOptions) {
    type Setter = fn(&mut Config, bool) -> &mut Config;
    if let Some(on) = wasm.all_proposals {
        config.wasm_features(WasmFeatures::choosable(), on);
    }
    let features: [(Option<bool>, Setter); 12] = [
        (wasm.bulk_memory, Config::wasm_bulk_memory),
        (wasm.reference_types, Config::wasm_reference_types),
        (wasm.custom_page_sizes, Config::wasm_custom_page_sizes),
        (wasm.extended_const, Config::wasm_extended_const),
        (wasm.memory64, Config::wasm_memory64),
        (wasm.multi_memory, Config::wasm_multi_memory),
        (wasm.multi_value, Config::wasm_multi_value),
        (wasm.relaxed_simd, Config::wasm_relaxed_simd),
        (wasm.simd, Config::wasm_simd),
        (wasm.tail_call, Config::wasm_tail_call),
        (wasm.threads, Config::wasm_threads),
        (wasm.wide_arithmetic, Config::wasm_wide_arithmetic),
    ];
    for (feature, set) in features {
        if let Some(on) = feature {
            set(config, on);
        }
    }
    // Relaxed vector instructions are vector instructions.
    if wasm.simd == Some(false) && wasm.relaxed_simd.is_none() {
        config.wasm_relaxed_simd(false);
    }
    if let Some(on) = wasm.relaxed_simd_deterministic {
        config.relaxed_simd_deterministic(on);
    }
}
