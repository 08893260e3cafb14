//! `peregrine wast FILE...`: scripts of the WebAssembly test suite.

use super::failure::{FAILED, Outcome};
use super::setup;
use crate::args::WastWords;
use crate::args::options::WasmOptions;
use peregrine::{Context, Error, Result, Store};
use peregrine_harness::wast::{self, WastOptions};
use std::process::ExitCode;

/// The epochs that a script gets when code looks at them: nothing counts them on.
const EPOCHS: u64 = 1 << 40;

/// Runs all scripts; the place of each failed directive goes to standard error.
///
/// # Errors
///
/// If a script cannot be read, or the options do not fit together.
pub(crate) fn execute(words: &WastWords) -> Outcome {
    let options = words.groups.read_or_exit();
    refuse_limits(&options.wasm)?;
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

/// The stores of scripts have no limiter: what one would do is refused.
///
/// # Errors
///
/// If the options ask for it.
fn refuse_limits(wasm: &WasmOptions) -> Result<()> {
    let asked = [
        ("max-memory-size", wasm.max_memory_size.is_some()),
        ("max-table-elements", wasm.max_table_elements.is_some()),
        ("max-instances", wasm.max_instances.is_some()),
        ("max-tables", wasm.max_tables.is_some()),
        ("max-memories", wasm.max_memories.is_some()),
        ("trap-on-grow-failure", wasm.trap_on_grow_failure.is_some()),
        ("unknown-imports-trap", wasm.unknown_imports_trap.is_some()),
        ("unknown-imports-default", wasm.unknown_imports_default.is_some()),
    ];
    match asked.iter().find(|(_, is_given)| *is_given) {
        Some((key, _)) => {
            Err(Error::msg(format!("-W {key} is for programs, not for scripts; -W budget=untrusted limits what scripts may take")))
        }
        None => Ok(()),
    }
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
    if wasm.epoch_interruption.unwrap_or(wasm.timeout.is_some()) {
        store.set_epoch_deadline(EPOCHS);
    }
    if let Some(timeout) = wasm.timeout {
        store.deadline(timeout).expect("deadlines are on because the option is given, and there is a thread");
    }
}
