//! What a WASI call costs, from the guest's side: the calls that programs make most, a million times each.

use super::Bench;
use super::measure::in_turns;
use super::report::Section;
use crate::engines::Engine;
use crate::failure::{Context, Failure, Result};
use crate::{sources, workspace};
use std::path::Path;

const CALLS: [&str; 4] = ["clock_time_get", "fd_fdstat_get", "fd_read", "path_filestat_get"];

/// Measures the four calls.
pub fn run(bench: &Bench) -> Result<Vec<Section>> {
    let mut section = Section::new("calls", "WASI calls", "ns/call");
    section.note = "fd_read reads one byte from a file; path_filestat_get names a file in a preopened folder.".to_owned();
    let module = workspace::root()?.join(sources::GUESTS).join("calls.wasm");
    let folder = workspace::build_folder("scratch/calls")?;
    let rounds = if bench.quick { "100000" } else { "1000000" };
    let engines: Vec<&Engine> = bench.engines.iter().collect();
    let results = in_turns(&engines, bench.runs(5, 3), |engine| measure(engine, &module, &folder, rounds));
    for (engine, figures) in engines.iter().zip(results) {
        match figures {
            Ok(figures) => {
                for (name, figure) in CALLS.iter().zip(figures) {
                    section.add(name, engine.kind.name(), figure);
                }
            }
            Err(failure) => section.failures.push(format!("{}: {failure}", engine.kind.name())),
        }
    }
    Ok(vec![section])
}

fn measure(engine: &Engine, module: &Path, folder: &Path, rounds: &str) -> Result<[f64; 4]> {
    let prepared = engine.prepare(module)?;
    let finished = engine.run(&prepared, &[(folder, "/data")])?.args(["/data", rounds]).run_well()?;
    let mut figures = [0.0; 4];
    for (figure, name) in figures.iter_mut().zip(CALLS) {
        let field = finished.field(&format!("ns_per_call {name}"));
        *figure = field.ok_or_else(|| Failure::new(format!("printed no {name}")))?.parse().context(name)?;
    }
    Ok(figures)
}
