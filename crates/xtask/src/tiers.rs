//! `cargo xtask tiers`: the project's tests with the default strategy being another one, and under the stress modes of tiering.
//!
//! `PEREGRINE_STRATEGY` says what `Strategy::Auto` stands for in builds with debug assertions. The test programs are built once, and run under
//! each value; what a value cannot change is left out, by the lists below. Each program runs in the folder of its package, as under `cargo test`.

use crate::arguments::Arguments;
use crate::failure::{Context, Failure, Result};
use crate::process::{Finished, Job};
use crate::workspace;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What engines choose by the name: the values of the variable. `tiered` is what `cargo test` runs anyway, so it runs only when it is asked for.
const STRATEGIES: [&str; 7] = ["tiered", "ahead", "baseline", "at-once", "loops", "one-instruction", "random"];

/// The variable that tells the strategy.
const VARIABLE: &str = "PEREGRINE_STRATEGY";

/// The packages whose tests make engines. Those of crates below the engine have none: `wasm`, `artifact`, `frontend`, `compile`, `baseline`,
/// `optimizing` and `sys` run compilers alone, or no code of guests at all; neither does `xtask`.
const PACKAGES: [&str; 5] = ["peregrine-engine", "peregrine", "peregrine-wasi", "peregrine-cli", "peregrine-harness"];

/// Test programs of these packages that do the same under each value, and why. Examples in the documentation are left out too: each is a
/// program of its own that is built when it runs, and shows how the API is called rather than what code does.
const LEFT_OUT: [(&str, &str, &str); 7] = [
    ("peregrine", "interruption", "each test names three strategies"),
    ("peregrine", "every_tier", "its engines are of all strategies and stress modes already"),
    ("peregrine", "many_modules", "a hundred thousand modules, to count what is left of them: minutes where each is compiled ahead"),
    ("peregrine-harness", "spec", "runs each script of the specification in every tier and stress mode"),
    ("peregrine-harness", "differential", "`tiers` compares the same modules in every way to run with the same reference"),
    ("peregrine-harness", "tiers", "compares all tiers and stress modes"),
    ("peregrine-harness", "profiled", "counts in the baseline and compiles ahead, whatever the default is"),
];

/// A test program.
struct Program {
    package: String,
    name: String,
    path: PathBuf,
    folder: PathBuf,
}

/// What came of the tests under one strategy.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    programs: usize,
}

/// Runs the task.
///
/// # Errors
/// When the tests cannot be built or started, or an option is wrong. Tests that fail are told in the exit status.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let only = arguments.values("--only")?;
    let tests = arguments.values("--test")?;
    let times = arguments.flag("--times");
    arguments.finish()?;
    if let Some(unknown) = only.iter().find(|name| !STRATEGIES.contains(&name.as_str())) {
        return Err(Failure::new(format!("there is no strategy `{unknown}`; expected one of {}", STRATEGIES.join(", "))));
    }
    let all = programs()?;
    check_list(&all)?;
    let chosen = |program: &&Program| {
        let left_out = LEFT_OUT.iter().any(|(package, name, _)| program.package == *package && program.name == *name);
        if tests.is_empty() { !left_out } else { tests.contains(&program.name) }
    };
    let programs: Vec<&Program> = all.iter().filter(chosen).collect();
    if programs.is_empty() {
        return Err(Failure::new("there is no such test"));
    }
    let mut well = true;
    for strategy in STRATEGIES {
        if if only.is_empty() { strategy == "tiered" } else { !only.iter().any(|name| name == strategy) } {
            continue;
        }
        let start = Instant::now();
        let mut tally = Tally::default();
        for program in &programs {
            let finished = program.run(strategy)?;
            let (passed, failed) = counts(&finished);
            tally.passed += passed;
            tally.failed += failed;
            tally.programs += 1;
            if times {
                println!("{strategy:16} {:24} {:5} passed, {:.1} s", program.name, passed, finished.wall.as_secs_f64());
            }
            if finished.status != 0 {
                well = false;
                println!("-- {strategy}: {} of {} ended with status {}", program.name, program.package, finished.status);
                print!("{}", finished.text());
                print!("{}", String::from_utf8_lossy(&finished.stderr));
            }
        }
        println!(
            "{strategy:16} {} tests passed, {} failed, in {} programs and {:.0} s",
            tally.passed,
            tally.failed,
            tally.programs,
            start.elapsed().as_secs_f64()
        );
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Program {
    fn run(&self, strategy: &str) -> Result<Finished> {
        Job::new(&self.path).env(VARIABLE, strategy).folder(&self.folder).limit(Duration::from_secs(900)).run()
    }
}

/// Builds the tests, exactly as `cargo test --workspace` does, so that nothing is built twice; gives those of the packages.
fn programs() -> Result<Vec<Program>> {
    let job =
        Job::new("cargo").args(["test", "--workspace", "--locked", "--no-run", "--message-format", "json"]).folder(workspace::root()?);
    let finished = job.limit(Duration::from_secs(3600)).run_well().context("building the tests")?;
    let messages = finished.text();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs: Vec<Program> = messages.filter_map(|message| program(&message)).collect();
    programs.sort_by(|one, other| (&one.package, &one.name).cmp(&(&other.package, &other.name)));
    Ok(programs)
}

/// The test program that a message of cargo tells of, if it is one of the packages'. Its name is that of the file under `tests`, or of the library or
/// command whose unit tests it has.
fn program(message: &serde_json::Value) -> Option<Program> {
    let path = message["executable"].as_str()?;
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_owned();
    if message["profile"]["test"] != true {
        return None;
    }
    // The folders are named like the packages, without what all have in common.
    let package = folder.file_name()?.to_str()?;
    let package = PACKAGES.into_iter().find(|known| known.strip_prefix("peregrine-").unwrap_or(known) == package)?;
    let name = message["target"]["name"].as_str()?.to_owned();
    Some(Program { package: package.to_owned(), name, path: path.into(), folder })
}

/// Nothing is left out that is not there any more.
fn check_list(programs: &[Program]) -> Result<()> {
    for (package, name, _) in LEFT_OUT {
        if !programs.iter().any(|program| program.package == package && program.name == name) {
            return Err(Failure::new(format!(
                "`{name}` of {package} is left out, but there is no such test: take it off the list in tiers.rs"
            )));
        }
    }
    Ok(())
}

/// How many tests passed and failed, as the program says.
fn counts(finished: &Finished) -> (u64, u64) {
    let text = finished.text();
    let mut sums = (0, 0);
    for line in text.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        let number = |what: &str| {
            let words: Vec<&str> = line.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
            let place = words.iter().position(|word| *word == what)?;
            words.get(place.checked_sub(1)?)?.parse::<u64>().ok()
        };
        sums.0 += number("passed").unwrap_or(0);
        sums.1 += number("failed").unwrap_or(0);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let finished = Job::new("echo").arg("test result: ok. 12 passed; 3 failed; 0 ignored; 0 measured").run().unwrap();
        assert_eq!(counts(&finished), (12, 3));
    }

    #[test]
    fn programs_are_those_of_the_packages() {
        let message = |folder: &str, test: bool| serde_json::json!({"executable": "/t/a-1", "manifest_path": format!("/w/crates/{folder}/Cargo.toml"), "target": {"name": "a"}, "profile": {"test": test}});
        assert_eq!(program(&message("wasi", true)).unwrap().package, "peregrine-wasi");
        assert_eq!(program(&message("peregrine", true)).unwrap().package, "peregrine");
        assert!(program(&message("wasi", false)).is_none() && program(&message("optimizing", true)).is_none());
    }
}
