//! `peregrine completion SHELL`.

use super::failure::Outcome;
use crate::args::{CommandLine, CompletionWords};
use clap::CommandFactory;
use std::process::ExitCode;

/// Prints the completion script.
///
/// # Errors
///
/// Never.
pub(crate) fn execute(words: &CompletionWords) -> Outcome {
    clap_complete::generate(words.shell, &mut CommandLine::command(), "peregrine", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
