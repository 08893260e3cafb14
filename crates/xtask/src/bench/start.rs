//! From the start of the process to its end, for a module that was compiled before: wall time.
//!
//! Node has nothing to compile before, so its figure includes compiling the module as it runs.

use super::Bench;
use super::measure::in_turns;
use super::report::Section;
use crate::engines::Engine;
use crate::failure::Result;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Measures hello, and `esbuild --version` when it was fetched.
pub fn run(bench: &Bench) -> Result<Vec<Section>> {
    let mut section = Section::new("start", "Process start to exit, compiled before", "ms");
    let cases: [(&str, &str, &[&str]); 2] = [("hello", "hello", &[]), ("esbuild", "esbuild --version", &["--version"])];
    for (module, name, args) in cases {
        let Some(module) = bench.module(module) else {
            continue;
        };
        let mut prepared: BTreeMap<&str, PathBuf> = BTreeMap::new();
        let mut engines: Vec<&Engine> = Vec::new();
        for engine in &bench.engines {
            match engine.prepare(&module.path) {
                Ok(path) => {
                    prepared.insert(engine.kind.name(), path);
                    engines.push(engine);
                }
                Err(failure) => section.failures.push(format!("{name}, {}: {failure}", engine.kind.name())),
            }
        }
        let figures = in_turns(&engines, bench.runs(31, 9), |engine| {
            let job = engine.run(&prepared[engine.kind.name()], &[])?;
            Ok([job.args(args).run_well()?.wall.as_secs_f64() * 1e3])
        });
        for (engine, figures) in engines.iter().zip(figures) {
            section.add_result(name, engine.kind.name(), figures.map(|[wall]| wall));
        }
    }
    Ok(vec![section])
}
