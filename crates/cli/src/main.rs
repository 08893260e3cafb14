//! The `peregrine` command: an embedder of the `peregrine` crate like any other.
//!
//! [`args`] turns words into values, [`commands`] does the work, one file for each command. A program that is compiled already starts
//! without anything else being set up: no logging, no threads, no cache, and no table of flags if there are none.
#![deny(unsafe_code)]

mod args;
mod commands;

use args::Command;
use commands::failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match args::read() {
        Command::Run(words) => commands::run::execute(words),
        Command::Compile(words) => commands::compile::execute(&words),
        Command::Validate(words) => commands::validate::execute(&words),
        Command::Inspect(words) => commands::inspect::execute(&words),
        Command::Wast(words) => commands::wast::execute(&words),
        Command::Profile(words) => commands::profile::execute(words),
        Command::Cache(words) => commands::cache::execute(&words),
        Command::Settings(words) => commands::settings::execute(&words),
        Command::Completion(words) => commands::completion::execute(&words),
    };
    outcome.unwrap_or_else(|error| failure::report(&error))
}
