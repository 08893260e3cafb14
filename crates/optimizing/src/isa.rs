//! Targets and flags: from the settings of the project to Cranelift's.

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable, SetError, SettingKind};
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::settings::{OptLevel, Settings, Target, Tiering};
use target_lexicon::{Architecture, OperatingSystem, Triple};

/// What one function may be compiled with.
#[derive(Clone)]
pub(crate) struct Isas {
    /// As the settings say.
    pub optimized: OwnedTargetIsa,
    /// In time that is linear in the function.
    pub plain: OwnedTargetIsa,
}

/// The features of `builder` that are on, sorted.
fn features(builder: &isa::Builder) -> Result<Vec<String>, CompileError> {
    let isa = builder.finish(settings::Flags::new(settings::builder())).map_err(unsupported)?;
    let flags = isa.isa_flags().into_iter();
    let mut names: Vec<String> = flags.filter(|flag| flag.as_bool() == Some(true)).map(|flag| flag.name.to_string()).collect();
    names.sort();
    Ok(names)
}

fn unsupported(error: impl std::fmt::Display) -> CompileError {
    CompileError::Unsupported { message: error.to_string() }
}

fn lookup(triple: &str) -> Result<isa::Builder, CompileError> {
    let parsed: Triple =
        triple.parse().map_err(|error| CompileError::Unsupported { message: format!("the target `{triple}`: {error}") })?;
    let known =
        matches!(parsed.architecture, Architecture::X86_64 | Architecture::Aarch64(_) | Architecture::Riscv64(_) | Architecture::S390x);
    if !known || parsed.operating_system != OperatingSystem::Linux {
        let message = format!("the target `{triple}`; there is code for x86_64, aarch64, riscv64 and s390x on linux");
        return Err(CompileError::Unsupported { message });
    }
    isa::lookup(parsed).map_err(unsupported)
}

/// The target for a triple with its baseline features, or for this machine with all of its features.
///
/// # Errors
///
/// [`CompileError::Unsupported`].
pub(crate) fn target(triple: Option<&str>) -> Result<Target, CompileError> {
    let builder = match triple {
        Some(triple) => lookup(triple)?,
        None => {
            let mut builder = lookup(&Triple::host().to_string())?;
            cranelift_native::infer_native_flags(&mut builder).map_err(unsupported)?;
            builder
        }
    };
    Ok(Target { triple: builder.triple().to_string(), cpu_features: features(&builder)? })
}

/// Both compilers for `settings`: exactly the features that they list are used.
///
/// # Errors
///
/// [`CompileError::Unsupported`] if the target is unknown, or one of its features.
pub(crate) fn isas(settings: &Settings) -> Result<Isas, CompileError> {
    build(settings, cfg!(debug_assertions))
}

/// The same, without the verifier.
#[cfg(test)]
pub(crate) fn unverified(settings: &Settings) -> Result<Isas, CompileError> {
    build(settings, false)
}

fn build(settings: &Settings, verify: bool) -> Result<Isas, CompileError> {
    let mut builder = lookup(&settings.target.triple)?;
    if settings.tiering != Tiering::Whole && builder.triple().architecture != Architecture::X86_64 {
        let message = format!("functions that are compiled one by one on {}; there are entry slots on x86_64", settings.target.triple);
        return Err(CompileError::Unsupported { message });
    }
    let known: Vec<&str> = builder.iter().filter(|setting| setting.kind == SettingKind::Bool).map(|setting| setting.name).collect();
    for &name in &known {
        let on = settings.target.cpu_features.iter().any(|feature| feature == name);
        builder.set(name, if on { "true" } else { "false" }).map_err(unsupported)?;
    }
    if let Some(name) = settings.target.cpu_features.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(CompileError::Unsupported { message: format!("the processor feature `{name}` of {}", settings.target.triple) });
    }
    let opt_level = match settings.opt_level {
        OptLevel::None => "none",
        OptLevel::Speed => "speed",
        OptLevel::SpeedAndSize => "speed_and_size",
    };
    let architecture = builder.triple().architecture;
    let optimized = flags(settings, architecture, opt_level, "backtracking", verify).map_err(unsupported)?;
    let plain = flags(settings, architecture, "none", "single_pass", verify).map_err(unsupported)?;
    Ok(Isas { optimized: builder.finish(optimized).map_err(unsupported)?, plain: builder.finish(plain).map_err(unsupported)? })
}

/// Whether the fuel counter has a register where fuel is counted: r15 on x86-64.
pub(crate) fn has_fuel_register(architecture: Architecture) -> bool {
    architecture == Architecture::X86_64
}

fn flags(
    settings: &Settings,
    architecture: Architecture,
    opt_level: &str,
    allocator: &str,
    verify: bool,
) -> Result<settings::Flags, SetError> {
    let mut flags = settings::builder();
    let on = |on: bool| if on { "true" } else { "false" };
    // A frame that is not larger than half of the guard cannot step over it, nor can a small one below it that touches nothing.
    let probe_log2 = (settings.stack_guard_bytes / 2).max(1 << 12).ilog2().to_string();
    for (name, value) in [
        ("opt_level", opt_level),
        ("regalloc_algorithm", allocator),
        ("enable_verifier", on(verify)),
        ("preserve_frame_pointers", "true"),
        // Results that no register is left for go to an area of the caller.
        ("enable_multi_ret_implicit_sret", "true"),
        ("unwind_info", "false"),
        ("enable_probestack", "true"),
        ("probestack_strategy", "inline"),
        ("probestack_size_log2", &probe_log2),
        ("enable_heap_access_spectre_mitigation", on(settings.spectre_mitigations)),
        ("enable_table_access_spectre_mitigation", on(settings.spectre_mitigations)),
        ("enable_nan_canonicalization", on(settings.nan_canonicalization)),
        // Code of functions that are not near is loaded from a slot, relative to the instruction: one of ours, not of a dynamic linker.
        ("is_pic", on(settings.tiering != Tiering::Whole)),
        // Where the blocks are, for the place of loops in lines.
        ("machine_code_cfg_info", on(allocator == "backtracking")),
        ("enable_pinned_reg", on(settings.fuel && has_fuel_register(architecture))),
    ] {
        flags.set(name, value)?;
    }
    Ok(settings::Flags::new(flags))
}
