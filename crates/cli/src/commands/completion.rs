//! `peregrine completion SHELL`.

use super::failure::Outcome;
use super::output;
use crate::args::{CommandLine, CompletionWords};
use clap::CommandFactory;
use std::process::ExitCode;

/// Prints the completion script.
///
/// # Errors
///
/// If it cannot be written.
pub(crate) fn execute(words: &CompletionWords) -> Outcome {
    // The generator panics where it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(words.shell, &mut CommandLine::command(), "peregrine", &mut script);
    output::print(script)?;
    Ok(ExitCode::SUCCESS)
}
