//! `cargo xtask stress`: the stress test of the harness under the address sanitizer, for a bounded number of rounds.
//!
//! The sanitizer needs a nightly compiler, and a target folder of its own, `build/stress/target`: everything is built again with its
//! checks. The test counts what the process holds afterwards; leaks are what the sanitizer finds at the end.

use crate::arguments::Arguments;
use crate::failure::{Context, Failure, Result};
use crate::process::Job;
use crate::workspace;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Cargo puts the program below a folder of this name only if it is given as the target.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How the sanitizer gets along with the engine:
///
/// | option | why |
/// |---|---|
/// | `use_sigaltstack=0`, `handle_*=0` | the engine installs handlers and their stacks itself; faults of guests are no crashes |
/// | `detect_stack_use_after_return=0` | frames stay on the stacks that the engine measures |
/// | `quarantine_size_mb`, `allocator_may_return_null` | memory that was freed does not count as left behind |
const ASAN_OPTIONS: &str = "use_sigaltstack=0:handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:handle_abort=0:\
    detect_stack_use_after_return=0:quarantine_size_mb=16:thread_local_quarantine_size_kb=64:allocator_may_return_null=1:detect_leaks=1";

/// Runs the task.
///
/// # Errors
/// When there is no nightly compiler, the build fails, or the test does.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let rounds = arguments.number("--rounds")?.unwrap_or(2000);
    let seed = arguments.number("--seed")?.unwrap_or(1);
    arguments.finish()?;
    let program = build()?;
    let job = Job::new(program)
        .arg("--nocapture")
        .env("ASAN_OPTIONS", ASAN_OPTIONS)
        .env("PEREGRINE_STRESS_ROUNDS", rounds.to_string())
        .env("PEREGRINE_STRESS_SEED", seed.to_string())
        // Its shadow of memory that was touched stays.
        .env("PEREGRINE_STRESS_SLACK_MIB", "256");
    let finished = job.limit(Duration::from_secs(3600)).run_well()?;
    print!("{}", finished.text());
    println!("no error in {:.0} s", finished.wall.as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Builds the test; gives the program.
fn build() -> Result<PathBuf> {
    let root = workspace::root()?;
    let target = workspace::build_folder("stress")?.join("target");
    let job = Job::new("cargo")
        .args(["+nightly", "test", "--quiet", "--target", TARGET, "--package", "peregrine-harness", "--test", "stress", "--no-run"])
        .args(["--message-format", "json"])
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("CARGO_TARGET_DIR", &target)
        .folder(&root);
    let finished = job.limit(Duration::from_secs(3600)).run_well().context("building the stress test with a nightly compiler")?;
    for line in finished.text().lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if message["target"]["name"] == "stress"
            && let Some(program) = message["executable"].as_str()
        {
            return Ok(PathBuf::from(program));
        }
    }
    Err(Failure::new("cargo did not say where the stress test is"))
}
