//! `cargo xtask`: the development tasks that are more than one command.
//!
//! This file holds the list of tasks and nothing else; each task is a module that takes its arguments and gives an exit
//! status. What a task fetches or builds goes to `build/`, which is not committed.

mod arguments;
mod bench;
mod dependencies;
mod engines;
mod failure;
mod fuzz;
mod layers;
mod process;
mod programs;
mod source_text;
mod sources;
mod stress;
mod tidy;
mod tiers;
mod tools;
mod workspace;

use crate::arguments::Arguments;
use crate::failure::Result;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK [OPTIONS]

  layers               check the arrows between the crates, the forbidden dependencies and where unsafe code lives
  tidy                 check the written rules that a program can check
  kernels [--check]    build benches/kernels (or check that the committed modules are what the sources give)
  guests [--check]     build guests likewise
  programs             fetch real programs, run them and compare their output
      --quick          the small ones only
      --peregrine PATH the command to test (default: what is found under the target folder)
      --runner 'CMD {dirs} {wasm} {args}'
                       any other command; {dirs} becomes --dir HOST::GUEST options
      --only NAME      one program
  bench                measure Peregrine beside the engines that are found
      --quick          fewer runs and smaller modules
      --only SECTION   compile, start, steady, calls, files, embedding, memory, growth, cold, whole, warm, rate or second; may be repeated
      --runs N         runs of each measurement
      --fetch          fetch the large modules too (SQLite, esbuild, clang)
      --embedding-peer  build the wasmtime crate too, to compare embedding (takes many minutes the first time)
      --peregrine PATH --wasmtime PATH --node PATH
      --json PATH      also write the figures
      --svg PATH       also draw them
      --plot PATH      also draw how the engines start and warm up
  stress               run the stress test under the address sanitizer (needs a nightly compiler)
      --rounds N       things done by each thread (default: 2000)
      --seed N         where the random choices begin (default: 1)
      --reuses N       instances that look for secrets of earlier ones (default: 1000000)
  tiers                run the tests with every other strategy as the default, and under the stress modes of tiering
      --only NAME      tiered, ahead, baseline, at-once, loops, one-instruction or random; may be repeated
      --test NAME      one test program; may be repeated
      --times          tell how long each took
  fuzz                 run random modules in every tier and in a reference interpreter; what diverges goes to build/fuzz
      --minutes N      for so long (default: 1)
      --modules N      as many as that instead
      --seed N         the seed of the first module (default: 0)
      --workers N      processes (default: one for each processor)
      --replay FILE    run one case that was found before
";

fn main() -> ExitCode {
    let mut given = std::env::args().skip(1);
    let task = given.next().unwrap_or_default();
    match run(&task, Arguments::new(given)) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &str, arguments: Arguments) -> Result<ExitCode> {
    match task {
        "layers" => layers::run(arguments),
        "tidy" => tidy::run(arguments),
        "kernels" => sources::run_kernels(arguments),
        "guests" => sources::run_guests(arguments),
        "programs" => programs::run(arguments),
        "bench" => bench::run(arguments),
        "stress" => stress::run(arguments),
        "tiers" => tiers::run(arguments),
        "fuzz" => fuzz::run(arguments),
        // Not for users: `bench` calls this in a process of its own, see `bench::growth`.
        "generate" => bench::growth::run_generate(arguments),
        "" | "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => {
            eprint!("unknown task `{other}`\n\n{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}
