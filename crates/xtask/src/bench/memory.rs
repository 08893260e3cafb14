//! Peak memory of a whole process that runs a module compiled before.
//!
//! The resident set as the system counts it: the engine, the part of the compiled file that was touched, the guest's memory.

use super::Bench;
use super::measure::in_turns;
use super::report::Section;
use crate::engines::Engine;
use crate::failure::Result;
use crate::{sources, workspace};
use std::path::PathBuf;

/// Measures hello, two kernels, and the programs that were fetched.
pub fn run(bench: &Bench) -> Result<Vec<Section>> {
    let mut section = Section::new("memory", "Peak memory of a run, compiled before", "MB");
    let kernels = workspace::root()?.join(sources::KERNELS);
    let folder = workspace::build_folder("scratch/memory")?;
    let mut cases: Vec<(&str, PathBuf, &[&str])> =
        vec![("kernel json", kernels.join("json.wasm"), &["10"]), ("kernel memory_walk", kernels.join("memory_walk.wasm"), &["2"])];
    let programs: [(&str, &str, &[&str]); 3] = [
        ("hello", "hello", &[]),
        ("esbuild", "esbuild --version", &["--version"]),
        ("sqlite", "sqlite, 20,000 rows", &["/data/memory.db", "20000"]),
    ];
    for (module, name, args) in programs {
        if let Some(module) = bench.module(module) {
            cases.push((name, module.path.clone(), args));
        }
    }
    let engines: Vec<&Engine> = bench.engines.iter().collect();
    for (name, module, args) in cases {
        let figures = in_turns(&engines, bench.runs(3, 1), |engine| {
            let job = engine.run(&engine.prepare(&module)?, &[(folder.as_path(), "/data")])?;
            Ok([job.args(args).run_well()?.peak_bytes as f64 / 1e6])
        });
        for (engine, figures) in engines.iter().zip(figures) {
            section.add_result(name, engine.kind.name(), figures.map(|[megabytes]| megabytes));
        }
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(vec![section])
}
