//! `peregrine wast FILE...`: scripts of the WebAssembly test suite.

use super::failure::{FAILED, Outcome};
use super::setup;
use crate::args::WastWords;
use crate::args::options::WasmOptions;
use peregrine::{Context, Store};
use peregrine_harness::wast::{self, WastOptions};
use std::process::ExitCode;

/// The epochs that a script gets when code looks at the deadline: it is never reached.
const EPOCHS: u64 = 1 << 40;

/// Runs all scripts; the place of each failed directive goes to standard error.
///
/// # Errors
///
/// If a script cannot be read, or the options do not fit together.
pub(crate) fn execute(words: &WastWords) -> Outcome {
    let options = words.groups.read_or_exit();
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

fn prepare(store: &mut Store<()>, wasm: &WasmOptions) {
    if let Some(fuel) = wasm.fuel {
        store.set_fuel(fuel).expect("fuel is on because the option is given");
    }
    if wasm.epoch_interruption.unwrap_or(wasm.timeout.is_some()) {
        store.set_epoch_deadline(EPOCHS);
    }
}
