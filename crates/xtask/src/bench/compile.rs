//! The cost of compiling a whole module ahead of time: processor time and peak memory of the `compile` command.
//!
//! Left out: how far the work spreads over processors (wall time depends on how many there are), and the size of the result.

use super::Bench;
use super::measure::in_turns;
use super::report::Section;
use crate::engines::Engine;
use crate::failure::{Context, Failure, Result};
use crate::workspace;
use std::path::Path;

/// Measures every module that is there. In a quick run, none above ten megabytes.
pub fn run(bench: &Bench) -> Result<Vec<Section>> {
    let mut time = Section::new("compile-time", "Compile: processor time", "s");
    let mut memory = Section::new("compile-memory", "Compile: peak memory", "MB");
    let engines: Vec<&Engine> = bench.engines.iter().filter(|engine| compiles(engine)).collect();
    for module in &bench.modules {
        let bytes = module.path.metadata().context(module.path.display())?.len();
        if bench.quick && bytes > 10 << 20 {
            continue;
        }
        let runs = match bytes {
            0..1_000_000 => bench.runs(7, 3),
            1_000_000..30_000_000 => bench.runs(3, 2),
            _ => 1,
        };
        let name = format!("{} ({})", module.name, size(bytes));
        for (engine, figures) in engines.iter().zip(in_turns(&engines, runs, |engine| measure(engine, &module.path))) {
            let (seconds, megabytes) = figures.map_or_else(|failure| (Err(failure), None), |[a, b]| (Ok(a), Some(b)));
            time.add_result(&name, engine.kind.name(), seconds);
            if let Some(megabytes) = megabytes {
                memory.add(&name, engine.kind.name(), megabytes);
            }
        }
    }
    Ok(vec![time, memory])
}

/// Whether an engine has a command that compiles.
pub fn compiles(engine: &Engine) -> bool {
    engine.compile(Path::new(""), Path::new("")).is_some()
}

/// Compiles once; gives seconds of processor time and megabytes of peak memory.
///
/// # Errors
/// When the compiler fails.
pub fn measure(engine: &Engine, module: &Path) -> Result<[f64; 2]> {
    let out = workspace::build_folder("scratch")?.join("compiled").with_extension(engine.compiled_extension());
    // An empty cache, so that nobody takes a result from an earlier run.
    let cache = workspace::build_folder("scratch")?.join("cache");
    let Some(job) = engine.compile(module, &out) else {
        return Err(Failure::new("has no compile command"));
    };
    let finished = job.env("XDG_CACHE_HOME", &cache).run_well();
    if cache.exists() {
        std::fs::remove_dir_all(&cache).context(cache.display())?;
    }
    let finished = finished?;
    std::fs::remove_file(&out).context(out.display())?;
    Ok([finished.processor.as_secs_f64(), finished.peak_bytes as f64 / 1e6])
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} KB", bytes.div_ceil(1000)),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
