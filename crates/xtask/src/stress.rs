//! `cargo xtask stress`: the stress test of the harness, and the test of reused instances, under the address sanitizer, for a bounded number
//! of rounds.
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
    let reuses = arguments.number("--reuses")?.unwrap_or(1_000_000);
    arguments.finish()?;
    let [program, reuse] = build()?;
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
    let job = Job::new(reuse).arg("--nocapture").env("ASAN_OPTIONS", ASAN_OPTIONS).env("PEREGRINE_REUSES", reuses.to_string());
    let finished = job.limit(Duration::from_secs(3600)).run_well()?;
    print!("{}", finished.text());
    println!("no error in {:.0} s", finished.wall.as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Builds the tests; gives the programs.
fn build() -> Result<[PathBuf; 2]> {
    let root = workspace::root()?;
    let target = workspace::build_folder("stress")?.join("target");
    let job = Job::new("cargo")
        .args(["+nightly", "test", "--quiet", "--target", TARGET, "--package", "peregrine-harness", "--test", "stress", "--test", "reuses"])
        .arg("--no-run")
        .args(["--message-format", "json"])
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("CARGO_TARGET_DIR", &target)
        .folder(&root);
    let finished = job.limit(Duration::from_secs(3600)).run_well().context("building the stress test with a nightly compiler")?;
    let messages: Vec<serde_json::Value> = finished.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = |name: &str| {
        let of_test = messages.iter().filter(|message| message["target"]["name"] == name);
        let program = of_test.filter_map(|message| message["executable"].as_str()).next();
        program.map(PathBuf::from).ok_or_else(|| Failure::new(format!("cargo did not say where the test {name} is")))
    };
    Ok([program("stress")?, program("reuses")?])
}
