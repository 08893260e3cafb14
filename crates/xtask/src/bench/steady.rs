//! Steady run time: the kernels, compiled before, each timing itself.
//!
//! The kernels' own clock leaves out starting and compiling. Node compiles while it runs, so its figures include the time it
//! spends in slower code first. The engines' checksums must agree.

use super::Bench;
use super::measure::in_turns;
use super::report::Section;
use crate::engines::Engine;
use crate::failure::{Context, Failure, Result};
use crate::{sources, workspace};
use std::collections::BTreeMap;
use std::path::Path;

/// Measures every kernel.
pub fn run(bench: &Bench) -> Result<Vec<Section>> {
    let mut section = Section::new("steady", "Steady run time, compiled before", "us/iteration");
    let folder = workspace::root()?.join(sources::KERNELS);
    let engines: Vec<&Engine> = bench.engines.iter().collect();
    for name in sources::kernel_names(&folder)? {
        let module = folder.join(&name).with_extension("wasm");
        let iterations = default_iterations(&folder.join(&name).with_extension("c"))?;
        let iterations = if bench.quick { (iterations / 4).max(1) } else { iterations };
        let mut checksums: BTreeMap<String, &str> = BTreeMap::new();
        let figures = in_turns(&engines, bench.runs(7, 3), |engine| {
            let (micros, checksum) = measure(engine, &module, iterations)?;
            checksums.insert(checksum, engine.kind.name());
            Ok([micros])
        });
        if checksums.len() > 1 {
            section.failures.push(format!("{name}: the engines disagree on the result: {checksums:?}"));
        }
        for (engine, figures) in engines.iter().zip(figures) {
            section.add_result(&name, engine.kind.name(), figures.map(|[micros]| micros));
        }
    }
    Ok(vec![section])
}

fn measure(engine: &Engine, module: &Path, iterations: u32) -> Result<(f64, String)> {
    let prepared = engine.prepare(module)?;
    let finished = engine.run(&prepared, &[])?.arg(iterations.to_string()).run_well()?;
    let field = |name: &str| finished.field(name).ok_or_else(|| Failure::new(format!("printed no {name}")));
    let nanos: f64 = field("ns_per_iteration")?.parse().context("ns_per_iteration")?;
    Ok((nanos / 1e3, field("checksum")?))
}

/// The number of iterations that the source asks for.
pub(super) fn default_iterations(source: &Path) -> Result<u32> {
    let text = std::fs::read_to_string(source).context(source.display())?;
    let found = text.lines().find_map(|line| line.strip_prefix("#define DEFAULT_ITERATIONS ")?.trim().parse().ok());
    found.ok_or_else(|| Failure::new(format!("{}: no DEFAULT_ITERATIONS", source.display())))
}
