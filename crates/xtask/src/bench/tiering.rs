//! What tiers are for: starting at once, and running at full speed soon after.
//!
//! Every program is started cold: nothing is compiled or cached before, each run is a process of its own. Columns of this project are
//! strategies: `peregrine` is what the command does by itself, `ahead` compiles everything before the first call, `baseline` never
//! compiles a second time. Node is given `run_wasi.mjs`, whose own start is part of its figures.

use super::Bench;
use super::measure::{Sample, in_turns};
use super::report::Section;
use crate::engines::{Engine, Kind};
use crate::failure::{Context, Failure, Result};
use crate::process::{Finished, Job};
use crate::{sources, workspace};
use std::ffi::OsString;
use std::path::Path;

/// What esbuild is told to bundle the project in `guests/programs/bundle`, which it sees as `/`.
pub(super) const BUNDLE: &[&str] = &[
    "main.ts",
    "--bundle",
    "--jsx-factory=h",
    "--log-level=error",
    "--outfile=out/main.js",
    "--format=esm",
    "--target=es2020,chrome80",
    "--supported:top-level-await=true",
];

/// A way to run modules: an engine and what it is told.
pub(super) struct Way {
    /// The heading of its column.
    pub(super) name: &'static str,
    engine: Engine,
    options: &'static [&'static str],
}

impl Way {
    /// The command that runs a module with nothing prepared.
    pub(super) fn job(&self, module: &Path) -> Result<Job> {
        self.job_with(&[], module)
    }

    /// The same, with options that all engines understand.
    pub(super) fn job_with(&self, options: &[OsString], module: &Path) -> Result<Job> {
        let mut job = Job::new(&self.engine.path);
        job = match self.engine.kind {
            Kind::Peregrine | Kind::Wasmtime => job.arg("run").args(self.options),
            Kind::Node => job.arg("--no-warnings").arg(workspace::root()?.join("benches/run_wasi.mjs")),
        };
        Ok(job.args(options).arg(module))
    }
}

/// The ways that the names ask for, of the engines that are there.
pub(super) fn ways(bench: &Bench, names: &[&'static str]) -> Vec<Way> {
    let known: [(&'static str, Kind, &'static [&'static str]); 6] = [
        ("peregrine", Kind::Peregrine, &["-C", "cache=n"]),
        ("deferred", Kind::Peregrine, &["-C", "cache=n", "-C", "deferred-validation=y"]),
        ("baseline", Kind::Peregrine, &["-C", "cache=n", "-C", "strategy=baseline"]),
        ("ahead", Kind::Peregrine, &["-C", "cache=n", "-C", "strategy=ahead"]),
        ("wasmtime", Kind::Wasmtime, &["-C", "cache=n"]),
        ("node", Kind::Node, &[]),
    ];
    let find = |name: &&'static str| {
        let (name, kind, options) = known.into_iter().find(|(known, ..)| known == name)?;
        let engine = bench.engines.iter().find(|engine| engine.kind == kind)?.clone();
        Some(Way { name, engine, options })
    };
    names.iter().filter_map(find).collect()
}

/// Runs `measure` for each way, in turns, and adds the figures of one row to several sections at once.
pub(super) fn turns<const N: usize>(
    sections: &mut [Section; N],
    row: &str,
    ways: &[Way],
    runs: u32,
    mut measure: impl FnMut(&Way) -> Result<[f64; N]>,
) {
    for (way, result) in ways.iter().zip(in_turns(ways, runs, &mut measure)) {
        match result {
            Ok(samples) => {
                for (section, sample) in sections.iter_mut().zip(samples) {
                    section.add(row, way.name, sample);
                }
            }
            Err(failure) => sections[0].failures.push(format!("{row}, {}: {failure}", way.name)),
        }
    }
}

/// From nothing to the end of a program that does little: wall time, processor time and peak memory.
pub(super) fn cold(bench: &Bench) -> Result<Vec<Section>> {
    let mut sections = [
        Section::new("cold-wall", "Cold start to exit: wall time", "ms"),
        Section::new("cold-cpu", "Cold start to exit: processor time", "ms"),
        Section::new("cold-memory", "Cold start to exit: peak memory", "MB"),
    ];
    let cases: [(&str, &str, &[&str], &[&'static str]); 3] = [
        ("hello", "hello", &[], &["peregrine", "wasmtime", "node"]),
        ("esbuild", "esbuild --version", &["--version"], &["peregrine", "deferred", "wasmtime", "node"]),
        ("clang", "clang --version", &["--version"], &["peregrine", "deferred", "wasmtime", "node"]),
    ];
    for (module, name, args, columns) in cases {
        let Some(module) = bench.module(module) else { continue };
        let large = module.path.metadata().context(module.path.display())?.len() > 1 << 20;
        let ways = ways(bench, columns);
        let runs = if large { bench.runs(5, 2) } else { bench.runs(21, 7) };
        turns(&mut sections, name, &ways, runs, |way| {
            let finished = way.job(&module.path)?.args(args).run_well()?;
            Ok(figures(&finished))
        });
    }
    Ok(sections.into())
}

/// Time per iteration once 200 ms have passed, and of code that is never compiled again, against everything compiled ahead.
pub(super) fn warm(bench: &Bench) -> Result<Vec<Section>> {
    let mut section = [Section::new("warm", "Time per iteration after 200 ms, from a cold start", "us/iteration")];
    section[0].base = "ahead".to_owned();
    let folder = workspace::root()?.join(sources::KERNELS);
    let ways = ways(bench, &["peregrine", "baseline", "ahead"]);
    for name in sources::kernel_names(&folder)? {
        let module = folder.join(&name).with_extension("wasm");
        let iterations = 2 * super::steady::default_iterations(&folder.join(&name).with_extension("c"))?;
        turns(&mut section, &name, &ways, bench.runs(5, 2), |way| {
            let finished = way.job(&module)?.arg(iterations.to_string()).arg("curve").run_well()?;
            Ok([after(&points(&finished)?, 200e6)? / 1e3])
        });
    }
    let mut loops = [Section::new("loop", "One call with one hot loop", "ms")];
    loops[0].base = "ahead".to_owned();
    let module = workspace::root()?.join(sources::GUESTS).join("hot_loop.wasm");
    turns(&mut loops, "hot_loop", &ways, bench.runs(7, 3), |way| {
        let finished = way.job(&module)?.run_well()?;
        let nanos: f64 = finished.field("ns").ok_or_else(|| Failure::new("printed no ns"))?.parse().context("ns")?;
        Ok([nanos / 1e6])
    });
    let ([section], [loops]) = (section, loops);
    Ok(vec![section, loops])
}

/// How fast the compilers that make code at once are, whole modules with one thread.
pub(super) fn rate(bench: &Bench) -> Result<Vec<Section>> {
    let mut section = [Section::new("rate", "Compilers that make code at once: one core, per megabyte of code", "ms/MB")];
    let find = |kind| bench.engines.iter().find(|engine| engine.kind == kind).cloned();
    let own: &[&str] = &["-C", "cache=n", "-C", "compiler=baseline", "-C", "parallel-compilation=n"];
    let peer: &[&str] = &["-C", "compiler=winch", "-C", "parallel-compilation=n"];
    let ways: Vec<Way> = [("peregrine", Kind::Peregrine, own), ("wasmtime", Kind::Wasmtime, peer)]
        .into_iter()
        .filter_map(|(name, kind, options)| Some(Way { name, engine: find(kind)?, options }))
        .collect();
    let out = workspace::build_folder("scratch")?.join("rate.bin");
    for name in ["esbuild", "clang"] {
        let Some(module) = bench.module(name) else { continue };
        let code_bytes = code_section_len(&std::fs::read(&module.path).context(module.path.display())?);
        turns(&mut section, name, &ways, bench.runs(3, 1), |way| {
            let job = Job::new(&way.engine.path).arg("compile").args(way.options).arg(&module.path).arg("-o").arg(&out);
            Ok([job.run_well()?.processor.as_secs_f64() * 1e3 / (code_bytes as f64 / 1e6)])
        });
    }
    section[0].note = "processor time of the whole command, reading, validating and writing included.".to_owned();
    Ok(section.into())
}

/// The second start: a project bundled by esbuild, with what the first run left in the cache, against the module compiled ahead. Each turn
/// begins with an empty cache.
pub(super) fn second(bench: &Bench) -> Result<Vec<Section>> {
    let mut section = Section::new("second", "Second start: esbuild bundling a project", "ms");
    section.base = "compiled ahead".to_owned();
    let (Some(module), Some(engine)) = (bench.module("esbuild"), bench.engines.iter().find(|engine| engine.kind == Kind::Peregrine)) else {
        return Ok(Vec::new());
    };
    let folder = workspace::build_folder("scratch")?.join("bundle");
    let cache = workspace::build_folder("scratch")?.join("second-cache");
    fresh(&folder)?;
    crate::programs::copy_files(&workspace::root()?.join("guests/programs/bundle"), &folder)?;
    let image = engine.prepare(&module.path)?;
    let run = |path: &Path| -> Result<f64> {
        let mut dir = folder.as_os_str().to_owned();
        dir.push("::/");
        let job = Job::new(&engine.path).env("XDG_CACHE_HOME", &cache).args(["run", "--env", "PWD=/", "--dir"]).arg(dir).arg(path);
        Ok(job.args(BUNDLE).run_well()?.wall.as_secs_f64() * 1e3)
    };
    let names = ["first start", "second start", "third start", "compiled ahead"];
    let mut times: [Vec<f64>; 4] = Default::default();
    for turn in 0..bench.runs(9, 3) {
        fresh(&cache)?;
        let mut ahead = None;
        if turn % 2 == 0 {
            ahead = Some(run(&image)?);
        }
        for start in &mut times[..3] {
            start.push(run(&module.path)?);
        }
        times[3].push(ahead.map_or_else(|| run(&image), Ok)?);
    }
    for (name, values) in names.into_iter().zip(times) {
        section.add("bundle", name, Sample::of(values).ok_or_else(|| Failure::new("no figures"))?);
    }
    Ok(vec![section])
}

/// Makes an empty folder, of whatever was there.
pub(super) fn fresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).context(folder.display())?;
    }
    std::fs::create_dir_all(folder).context(folder.display())
}

fn figures(finished: &Finished) -> [f64; 3] {
    [finished.wall.as_secs_f64() * 1e3, finished.processor.as_secs_f64() * 1e3, finished.peak_bytes as f64 / 1e6]
}

/// The lines `point ITERATIONS NANOSECONDS` of a kernel.
pub(super) fn points(finished: &Finished) -> Result<Vec<(f64, f64)>> {
    let mut points = Vec::new();
    for line in finished.text().lines().filter_map(|line| line.strip_prefix("point ")) {
        let (done, nanos) = line.split_once(' ').ok_or_else(|| Failure::new(format!("a point without a time: `{line}`")))?;
        points.push((done.parse().context("point")?, nanos.parse().context("point")?));
    }
    if points.is_empty() { Err(Failure::new("printed no points")) } else { Ok(points) }
}

/// Nanoseconds per iteration of those that began after `start_ns`.
fn after(points: &[(f64, f64)], start_ns: f64) -> Result<f64> {
    let first = points.iter().find(|point| point.1 >= start_ns).ok_or_else(|| Failure::new("ended too early to be measured"))?;
    let last = points[points.len() - 1];
    if last.0 > first.0 { Ok((last.1 - first.1) / (last.0 - first.0)) } else { Err(Failure::new("ended too early to be measured")) }
}

/// Bytes of the code section of a binary module; 0 if there is none.
fn code_section_len(wasm: &[u8]) -> u64 {
    let mut rest = wasm.get(8..).unwrap_or_default();
    while let Some((id, after)) = rest.split_first() {
        let (mut len, mut shift, mut bytes) = (0u64, 0, after);
        while let Some((byte, more)) = bytes.split_first() {
            len |= u64::from(byte & 0x7f) << shift;
            (shift, bytes) = (shift + 7, more);
            if byte & 0x80 == 0 || shift > 28 {
                break;
            }
        }
        if *id == 10 {
            return len;
        }
        rest = bytes.get(len as usize..).unwrap_or_default();
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_section_is_found() {
        let wasm = [b"\0asm\x01\0\0\0".as_slice(), &[1, 2, 0, 0], &[10, 0x81, 0x01], &[0; 129]].concat();
        assert_eq!(code_section_len(&wasm), 129);
        assert_eq!(code_section_len(&wasm[..8]), 0);
    }

    #[test]
    fn iterations_before_the_start_do_not_count() {
        let points = [(1.0, 100.0), (2.0, 200.0), (3.0, 210.0), (4.0, 220.0)];
        assert_eq!(after(&points, 150.0).expect("enough"), 10.0);
        assert!(after(&points, 220.0).is_err());
        assert!(after(&points, 500.0).is_err());
    }
}
