//! Whole runs from nothing: what a user waits for who starts a program that was never compiled before.
//!
//! Two sets: the kernels, each half a second of hot code, and real programs, each of which takes from a tenth of a second to some seconds in
//! some engine. Both geometric means are printed, and that of all rows. Every run is a process of its own, without any cache, and has an
//! empty folder to write to.

use super::Bench;
use super::measure::geometric_mean;
use super::report::{PEER, Section};
use super::tiering::{BUNDLE, Way, fresh, turns, ways};
use crate::failure::Result;
use crate::process::Job;
use crate::{sources, workspace};
use std::path::{Path, PathBuf};

/// A program of the set.
struct Program {
    row: &'static str,
    /// Its module, by the name that the benchmarks fetch it under.
    module: &'static str,
    /// What it takes to run it: folders that it may use, variables and arguments.
    prepare: fn(&Path, &Path) -> Result<Prepared>,
}

struct Prepared {
    /// Folders of the host, and their names for the guest.
    grants: Vec<(PathBuf, &'static str)>,
    env: &'static [&'static str],
    args: &'static [&'static str],
}

const PROGRAMS: [Program; 4] = [
    Program { row: "esbuild, bundling", module: "esbuild", prepare: bundle },
    Program { row: "clang -O2 -c", module: "clang", prepare: object },
    Program { row: "sqlite, 20,000 rows", module: "sqlite", prepare: |_, folder| Ok(database(folder, &["/data/whole.db", "20000"])) },
    Program { row: "sqlite, 200,000 rows", module: "sqlite", prepare: |_, folder| Ok(database(folder, &["/data/whole.db", "200000"])) },
];

/// The kernels, the programs, and the mean of both.
pub(super) fn run(bench: &Bench) -> Result<Vec<Section>> {
    let mut kernels = [Section::new("whole-wall", "Whole run, cold: wall time of the kernels", "ms")];
    let mut programs = [Section::new("whole-programs", "Whole run, cold: wall time of programs", "ms")];
    let ways = ways(bench, &["peregrine", "ahead", "wasmtime", "node"]);
    let folder = workspace::root()?.join(sources::KERNELS);
    for name in sources::kernel_names(&folder)? {
        let module = folder.join(&name).with_extension("wasm");
        turns(&mut kernels, &name, &ways, bench.runs(5, 2), |way| Ok([wall_ms(way.job(&module)?)?]));
    }
    let scratch = workspace::build_folder("scratch")?.join("whole");
    for program in &PROGRAMS {
        let Some(module) = bench.module(program.module) else { continue };
        turns(&mut programs, program.row, &ways, bench.runs(5, 2), |way| {
            fresh(&scratch)?;
            let prepared = (program.prepare)(&module.path, &scratch)?;
            Ok([wall_ms(job(way, &module.path, &prepared)?)?])
        });
    }
    let ([kernels], [mut programs]) = (kernels, programs);
    let ratios = [&kernels, &programs].into_iter().flat_map(|section| section.rows.iter()).filter_map(|row| row.ratio("peregrine", PEER));
    let ratios: Vec<f64> = ratios.collect();
    if let Some(mean) = geometric_mean(&ratios) {
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        programs.note = format!("peregrine/{PEER} of all kernels and programs: geometric mean {mean:.2}, highest {highest:.2}.");
    }
    Ok(vec![kernels, programs])
}

fn wall_ms(job: Job) -> Result<f64> {
    Ok(job.run_well()?.wall.as_secs_f64() * 1e3)
}

/// The command that runs a program; all engines understand the same options.
fn job(way: &Way, module: &Path, prepared: &Prepared) -> Result<Job> {
    let mut options = Vec::new();
    for env in prepared.env {
        options.extend(["--env".into(), (*env).to_owned().into()]);
    }
    for (host, guest) in &prepared.grants {
        let mut grant = host.clone().into_os_string();
        grant.push(format!("::{guest}"));
        options.extend(["--dir".into(), grant]);
    }
    Ok(way.job_with(&options, module)?.args(prepared.args))
}

fn bundle(_module: &Path, folder: &Path) -> Result<Prepared> {
    crate::programs::copy_files(&workspace::root()?.join("guests/programs/bundle"), folder)?;
    Ok(Prepared { grants: vec![(folder.to_owned(), "/")], env: &["PWD=/"], args: BUNDLE })
}

fn object(module: &Path, folder: &Path) -> Result<Prepared> {
    let sources = workspace::root()?.join("guests/programs");
    let grants = vec![(module.with_extension(""), "/usr"), (sources, "/src"), (folder.to_owned(), "/out")];
    Ok(Prepared { grants, env: &[], args: &["-O2", "-c", "/src/object.c", "-o", "/out/object.o"] })
}

fn database(folder: &Path, args: &'static [&'static str]) -> Prepared {
    Prepared { grants: vec![(folder.to_owned(), "/data")], env: &[], args }
}
