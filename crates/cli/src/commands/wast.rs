//! `peregrine wast FILE...`: scripts of the WebAssembly test suite.

use super::failure::{FAILED, Outcome};
use super::{deadline, setup};
use crate::args::WastWords;
use crate::args::group::Use;
use crate::args::options::WasmOptions;
use peregrine::{Context, Store};
use peregrine_harness::wast::{self, WastOptions};
use std::process::ExitCode;

/// Runs all scripts; the place of each failed directive goes to standard error.
///
/// # Errors
///
/// If a script cannot be read, or the options do not fit together.
pub(crate) fn execute(words: &WastWords) -> Outcome {
    // The stores of scripts have no limiter, so that what one would do is not among it.
    let options = words.groups.read_or_exit("wast", &[Use::Code, Use::Strategy, Use::Tiers, Use::Log]);
    let engine = setup::engine(&options)?;
    let prepare = |store: &mut Store<()>| prepare(store, &options.wasm);
    let wast_options =
        WastOptions { ignore_error_messages: words.ignore_error_messages, print: true, prepare_store: Some(&prepare), make_module: None };
    let mut failed = false;
    for file in &words.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let outcome = wast::run(&engine, &file.display().to_string(), &text, &wast_options);
        for failure in &outcome.failures {
            eprintln!("{failure}");
        }
        if !outcome.passed() {
            eprintln!("{}: {} of {} directives failed", file.display(), outcome.failures.len(), outcome.directives);
            failed = true;
        }
    }
    Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Each script has a store and its time.
///
/// # Panics
///
/// If the options of the engine are others.
fn prepare(store: &mut Store<()>, wasm: &WasmOptions) {
    if let Some(fuel) = wasm.fuel {
        store.set_fuel(fuel).expect("fuel is on because the option is given");
    }
    deadline::set(store, wasm).expect("deadlines are on because the option is given, and there is a thread");
}
