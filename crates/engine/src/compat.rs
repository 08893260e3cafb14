//! Whether an image can run in an engine: the same target, a processor with its features, and code that does what the engine's
//! configuration promises.

use crate::error::{Result, bail};
use crate::{Config, ModuleVersionStrategy};
use peregrine_artifact::settings::{MemoryStyle, Settings, Target};
use peregrine_sys::address_space::AddressSpace;
use peregrine_wasm::Module;

/// This machine, as far as it can be known without a compiler.
pub(crate) fn host_target() -> Target {
    let cpu_features = peregrine_sys::cpu::features().iter().map(|feature| format!("has_{feature}")).collect();
    Target { triple: format!("{}-unknown-linux-gnu", std::env::consts::ARCH), cpu_features }
}

/// Checks that code compiled with `image` runs in an engine with the settings `engine`. `known` are features that the compiler has found on
/// this machine, beyond those that can be found without it.
///
/// # Errors
///
/// Names the first setting that differs, or the feature that the processor lacks.
pub(crate) fn check(image: &Settings, engine: &Settings, known: &[String], config: &Config) -> Result<()> {
    let host = host_target().triple;
    if parts(&image.target.triple) != parts(&host) {
        bail!("the image was compiled for `{}`, and this machine is `{host}`; compile it for this machine", image.target.triple);
    }
    for feature in &image.target.cpu_features {
        let name = feature.strip_prefix("has_").unwrap_or(feature);
        let detected = config.detect_host_feature.and_then(|detect| detect(name));
        if !detected.unwrap_or_else(|| has_cpu_feature(feature) || known.contains(feature)) {
            bail!("the image needs the processor feature `{name}`, which this processor lacks; compile it for this machine");
        }
    }
    if config.module_version != ModuleVersionStrategy::None && image.module_version != engine.module_version {
        differs("module_version", &format!("{:?}", image.module_version), &format!("{:?}", engine.module_version))?;
    }
    // Code that checks every access runs wherever there is less to rely on, and what relies on more is told apart by its memories.
    if relies_on_guards(image) && relies_on_guards(engine) {
        let equal = [
            ("memory_reservation", image.memory_reservation_bytes, engine.memory_reservation_bytes),
            ("memory_guard_size", image.memory_guard_bytes, engine.memory_guard_bytes),
        ];
        for (name, found, expected) in equal {
            if found != expected {
                differs(name, &found.to_string(), &expected.to_string())?;
            }
        }
    }
    if image.memory_may_move && !engine.memory_may_move {
        differs("memory_may_move", "true", "false")?;
    }
    if image.stack_guard_bytes != engine.stack_guard_bytes {
        bail!(
            "the image was compiled for stacks with a guard of {} bytes, and this engine's have {}; compile it again with this release",
            image.stack_guard_bytes,
            engine.stack_guard_bytes
        );
    }
    if image.fuel != engine.fuel {
        differs("consume_fuel", &image.fuel.to_string(), &engine.fuel.to_string())?;
    }
    // What the engine promises, the code must do; more does no harm.
    let promised = [
        ("epoch_interruption", image.interrupt, engine.interrupt),
        ("cranelift_nan_canonicalization", image.nan_canonicalization, engine.nan_canonicalization),
        ("spectre_mitigations", image.spectre_mitigations, engine.spectre_mitigations),
        ("relaxed_simd_deterministic", image.features.relaxed_simd_deterministic, engine.features.relaxed_simd_deterministic),
    ];
    for (name, found, expected) in promised {
        if expected && !found {
            differs(name, "false", "true")?;
        }
    }
    for ((name, found), (_, expected)) in image.features.proposals().into_iter().zip(engine.features.proposals()) {
        if found && !expected {
            differs(&format!("wasm_{name}"), "true", "false")?;
        }
    }
    Ok(())
}

/// Whether any code compiled with `settings` leaves checks to guards.
fn relies_on_guards(settings: &Settings) -> bool {
    settings.memory_reservation_bytes >= 4 << 30
}

/// Checks that the memories of an image, compiled with `image`, are such as an engine with the settings `engine` makes or accepts.
///
/// # Errors
///
/// If its code needs guarded memories and the engine has none.
pub(crate) fn check_memories(module: &Module, image: &Settings, engine: &Settings, space: &AddressSpace) -> Result<()> {
    let needs_guard = |index| image.memory_style(module, index) == MemoryStyle::Guarded;
    if relies_on_guards(engine) || !module.memories.iter().any(|(index, _)| needs_guard(index)) {
        return Ok(());
    }
    bail!(
        "the image was compiled for memories that reserve {} GiB of address space each, and this engine reserves {} KiB ({space}); compile it with \
         `Config::memory_reservation(0)` (`-O memory-reservation=0`), or on this machine, so that its code checks every access, or raise the limit",
        image.memory_reservation_bytes >> 30,
        engine.memory_reservation_bytes >> 10
    );
}

fn differs(name: &str, found: &str, expected: &str) -> Result<()> {
    bail!(
        "the image was compiled with `{name}` = {found}, and this engine has {expected}; \
        compile it with `{name}` = {expected}, or set the engine's to {found}"
    )
}

/// Processor and system of a triple: what code depends on.
fn parts(triple: &str) -> (&str, bool) {
    (triple.split('-').next().unwrap_or(""), triple.contains("linux"))
}

/// Whether this processor has a feature, named as the compiler names it.
fn has_cpu_feature(name: &str) -> bool {
    peregrine_sys::cpu::has_feature(name.strip_prefix("has_").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(host_target())
    }

    fn refused(image: impl FnOnce(&mut Settings), engine: impl FnOnce(&mut Settings)) -> String {
        let (mut of_image, mut of_engine) = (settings(), settings());
        image(&mut of_image);
        engine(&mut of_engine);
        check(&of_image, &of_engine, &[], &Config::new()).unwrap_err().to_string()
    }

    #[test]
    fn what_differs_is_named() {
        check(&settings(), &settings(), &[], &Config::new()).unwrap();
        assert!(refused(|image| image.fuel = true, |_| ()).contains("`consume_fuel` = true"));
        assert!(refused(|_| (), |engine| engine.interrupt = true).contains("`epoch_interruption` = false"));
        assert!(refused(|image| image.memory_guard_bytes = 0, |_| ()).contains("`memory_guard_size` = 0"));
        assert!(refused(|_| (), |engine| engine.memory_may_move = false).contains("`memory_may_move` = true"));
        assert!(refused(|_| (), |engine| engine.features.threads = false).contains("`wasm_threads`"));
        assert!(refused(|image| image.target.cpu_features.push("has_teleport".into()), |_| ()).contains("`teleport`"));
        assert!(refused(|image| image.target.triple = "s390x-unknown-linux-gnu".into(), |_| ()).contains("`s390x-unknown-linux-gnu`"));
    }

    #[test]
    fn what_does_no_harm_is_accepted() {
        let mut image = settings();
        image.interrupt = true;
        image.nan_canonicalization = true;
        image.opt_level = peregrine_artifact::settings::OptLevel::None;
        image.features.simd = false;
        (image.memory_reservation_bytes, image.memory_guard_bytes, image.memory_may_move) = (0, 0, false);
        image.target.cpu_features.push("has_teleport".into());
        check(&image, &settings(), &["has_teleport".to_owned()], &Config::new()).unwrap();
    }
}
