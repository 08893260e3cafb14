//! `peregrine settings`: what compilation uses here.

use super::failure::Outcome;
use super::{output, setup};
use crate::args::SettingsWords;
use crate::args::group::Use;
use peregrine::Error;
use peregrine_artifact::image::ImageLayout;
use peregrine_artifact::settings::Settings;
use std::process::ExitCode;

/// The smallest module: its image carries the settings.
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Prints the settings.
///
/// # Errors
///
/// If the options do not fit together, or the settings cannot be written.
pub(crate) fn execute(words: &SettingsWords) -> Outcome {
    let engine = setup::engine(&words.groups.read_or_exit("settings", &[Use::Code, Use::Strategy, Use::Log]))?;
    let image = engine.precompile_module(EMPTY_MODULE)?;
    let settings = ImageLayout::check(&image).map_err(Error::from)?.settings(&image)?;
    let strategy = engine.config().get_strategy().map(|strategy| format!("{strategy:?}").to_lowercase()).unwrap_or_default();
    if words.json {
        let mut value = serde_json::to_value(&settings)?;
        value["strategy"] = strategy.into();
        output::print(format!("{value:#}\n"))?;
    } else {
        output::print(text(&settings, &strategy))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(settings: &Settings, strategy: &str) -> String {
    let switch = |on: bool| if on { "y" } else { "n" };
    let lines = [
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("target", settings.target.triple.clone()),
        ("processor features", settings.target.cpu_features.join(" ")),
        ("strategy", strategy.to_string()),
        ("optimization", format!("{:?}", settings.opt_level)),
        ("inlining", switch(settings.inlining).to_string()),
        ("memory reservation", format!("{} bytes", settings.memory_reservation_bytes)),
        ("memory guard", format!("{} bytes", settings.memory_guard_bytes)),
        ("stack guard", format!("{} bytes", settings.stack_guard_bytes)),
        ("interruption", switch(settings.interrupt).to_string()),
        ("fuel", switch(settings.fuel).to_string()),
        ("NaN canonicalization", switch(settings.nan_canonicalization).to_string()),
        ("Spectre mitigations", switch(settings.spectre_mitigations).to_string()),
        ("source lines", switch(settings.debug_info).to_string()),
        ("proposals", proposals(settings)),
    ];
    lines.iter().map(|(name, value)| format!("{name:<22}{value}\n")).collect()
}

/// Names of the accepted proposals.
fn proposals(settings: &Settings) -> String {
    let value = serde_json::to_value(settings.features).unwrap_or_default();
    let names = value.as_object().into_iter().flatten().filter(|(_, on)| on.as_bool() == Some(true));
    names.map(|(name, _)| name.replace('_', "-")).collect::<Vec<_>>().join(" ")
}
