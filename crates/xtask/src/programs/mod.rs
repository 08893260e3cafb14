//! `cargo xtask programs`: real programs, made by the toolchains that people use, run and compared with what they must print.
//!
//! [`list`] holds the programs; this file runs them with the command under test. The quick ones take seconds and need only a
//! compiler; the others fetch large modules.

mod list;
mod runner;

use crate::arguments::Arguments;
use crate::failure::{Context, Failure, Result};
use crate::workspace;
use list::{PROGRAMS, Program};
use runner::Runner;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Fetches or builds a module; gives its place.
pub type Fetch = fn() -> Result<PathBuf>;

/// The modules that benchmarks measure with, and how each is fetched or built.
pub const LARGE: [(&str, Fetch); 3] =
    [("sqlite", crate::sources::build_sqlite), ("esbuild", list::fetch_esbuild), ("clang", list::fetch_clang)];

/// What a program did: its output and the files that it was to write.
struct Outcome {
    stdout: Vec<u8>,
    files: Vec<PathBuf>,
    wall: Duration,
    processor: Duration,
    peak_bytes: u64,
}

/// Runs the task. The exit status is 1 when any program fails or cannot be fetched.
///
/// # Errors
/// When there is no command to test, or an option is wrong.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let quick = arguments.flag("--quick");
    let only = arguments.values("--only")?;
    let runner = Runner::find(&mut arguments)?;
    arguments.finish()?;
    if let Some(unknown) = only.iter().find(|name| !PROGRAMS.iter().any(|program| program.name == **name)) {
        let names: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
        return Err(Failure::new(format!("no program `{unknown}`; there are {}", names.join(", "))));
    }
    println!("programs run by {runner}");
    let (mut passed, mut failed) = (0, 0);
    for program in PROGRAMS {
        let wanted = if only.is_empty() { !quick || program.quick } else { only.iter().any(|name| name == program.name) };
        if !wanted {
            continue;
        }
        match check(program, &runner) {
            Ok(outcome) => {
                passed += 1;
                println!(
                    "ok    {:<14} {:>8.2} s wall {:>8.2} s processor {:>6} MB",
                    program.name,
                    outcome.wall.as_secs_f64(),
                    outcome.processor.as_secs_f64(),
                    outcome.peak_bytes >> 20
                );
            }
            Err(failure) => {
                failed += 1;
                println!("FAIL  {:<14} {failure}", program.name);
            }
        }
    }
    println!("{passed} ok, {failed} failed");
    Ok(if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(program: &Program, runner: &Runner) -> Result<Outcome> {
    let module = (program.module)()?;
    let scratch = scratch_folder(program.name)?;
    let outcome = (program.run)(runner, &module, &scratch)?;
    let expected_folder = workspace::root()?.join("guests/programs/expected");
    let mut found = vec![(program.expected[0], outcome.stdout.clone())];
    for (name, path) in program.expected[1..].iter().zip(&outcome.files) {
        found.push((name, std::fs::read(path).context(path.display())?));
    }
    for (name, bytes) in found {
        let expected = std::fs::read(expected_folder.join(name)).context(name)?;
        if bytes != expected {
            let kept = scratch.join(name);
            std::fs::write(&kept, &bytes).context(kept.display())?;
            let place = difference(&expected, &bytes);
            return Err(Failure::new(format!("differs from guests/programs/expected/{name} {place}; found is kept as {}", kept.display())));
        }
    }
    Ok(outcome)
}

/// Where two outputs first differ, for a person.
fn difference(expected: &[u8], found: &[u8]) -> String {
    let (expected, found) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(found));
    for (at, (e, f)) in expected.lines().zip(found.lines()).enumerate() {
        if e != f {
            let (e, f): (String, String) = (e.chars().take(80).collect(), f.chars().take(80).collect());
            return format!("in line {}: expected `{e}`, found `{f}`", at + 1);
        }
    }
    format!("in length: expected {} lines, found {}", expected.lines().count(), found.lines().count())
}

/// An empty folder for what one program writes.
fn scratch_folder(name: &str) -> Result<PathBuf> {
    let folder = workspace::build_folder("programs")?.join(format!("{name}.scratch"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context(folder.display())?;
    }
    std::fs::create_dir_all(&folder).context(folder.display())?;
    Ok(folder)
}

/// Copies the files of one folder to another.
pub fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).context(from.display())? {
        let path = entry.context(from.display())?.path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap_or_default())).context(path.display())?;
        }
    }
    Ok(())
}

impl Outcome {
    /// The outcome of one or more runs, as one: the first run's output, the sum of the times, the largest of the peaks.
    fn of(start: Instant, runs: &[crate::process::Finished], files: Vec<PathBuf>) -> Self {
        Self {
            stdout: runs.iter().flat_map(|run| run.stdout.clone()).collect(),
            files,
            wall: start.elapsed(),
            processor: runs.iter().map(|run| run.processor).sum(),
            peak_bytes: runs.iter().map(|run| run.peak_bytes).max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(difference(b"a\nb\n", b"a\nc\n"), "in line 2: expected `b`, found `c`");
        assert_eq!(difference(b"a\n", b""), "in length: expected 1 lines, found 0");
    }

    #[test]
    fn every_program_names_what_it_expects() {
        for program in PROGRAMS {
            assert!(!program.expected.is_empty());
            for name in program.expected {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/programs/expected").join(name);
                assert!(path.is_file(), "{}", path.display());
            }
        }
    }
}
