//! `cargo xtask fuzz`: random modules in every tier and in a reference interpreter, for some minutes.
//!
//! The program `fuzz` of the harness does it; this builds it, in the profile of the tests, whose parts are there already and whose checks
//! find more, and starts it. What diverged is in `build/fuzz`: the module as bytes and as text, the case to replay, and what differed.

use crate::arguments::Arguments;
use crate::failure::{Context, Result};
use crate::process::Job;
use crate::workspace;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Runs the task.
///
/// # Errors
/// When the program cannot be built or started.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let mut words = Vec::new();
    for name in ["--minutes", "--modules", "--seed", "--workers", "--replay"] {
        if let Some(value) = arguments.value(name)? {
            words.extend([name.to_owned(), value]);
        }
    }
    arguments.finish()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--locked", "--package", "peregrine-harness", "--features", "oracles", "--bin", "fuzz"];
    let job = Job::new(cargo).args(build).folder(workspace::root()?);
    job.limit(Duration::from_secs(3600)).run_well().context("building the fuzzer")?;
    let program = workspace::target_folder()?.join("debug/fuzz");
    let output = workspace::build_folder("fuzz")?;
    // Its output is to be seen while it runs.
    let status = Command::new(&program).args(words).arg("--output").arg(output).status().context(program.display())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
