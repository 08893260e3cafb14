//! What calls and instances cost an embedder: the example `embedding_cost` of the facade, and the same source against the `wasmtime` crate.
//!
//! Building that crate takes many minutes, so it happens only with `--embedding-peer`; what was built before is used again. The peer has
//! several ways to allocate instances, among which an embedder chooses: of a figure that depends on it the better one counts.

use super::Bench;
use super::measure::Sample;
use super::report::Section;
use crate::failure::{Context, Failure, Result};
use crate::process::Job;
use crate::{sources, workspace};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLE: &str = "benches/embedding";
/// The files of the example that both programs have.
const FILES: [&str; 4] = ["main.rs", "interruption.rs", "process.rs", "threads.rs"];
/// The crate that the source is compiled against for comparison.
const PEER: &str = "wasmtime = { version = \"=48.0.8\", default-features = false, features = [\"runtime\", \"cranelift\", \"wat\", \"std\", \
    \"async\", \"pooling-allocator\", \"threads\"] }\nrustix = { version = \"1\", features = [\"time\"] }";
/// How it is built: as the workspace's `dist` profile builds ours.
const PEER_PROFILE: &str = "[profile.dist]\ninherits = \"release\"\noverflow-checks = false\nlto = \"thin\"\ncodegen-units = 4\n";
/// What stands in the place of the example's `runtime.rs`.
const PEER_RUNTIME: &str = r#"//! The runtime that is measured.

pub use wasmtime::{Caller, Config, Engine, Error, Func, Linker, Memory, Module, Result, Store, Strategy, Val};
use wasmtime::{InstanceAllocationStrategy, PoolingAllocationConfig};

/// Names of the ways to allocate instances that an embedder must choose from.
pub const ALLOCATORS: &[&str] = &["on-demand", "pooling"];

/// A configuration that allocates in one of these ways.
pub fn config(allocator: &str) -> Config {
    let mut config = Config::new();
    if allocator == "pooling" {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(10_100).total_memories(10_100).total_tables(10_100).table_elements(10_000).max_memory_size(1 << 20);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}
"#;

/// One program to measure.
struct Program {
    engine: &'static str,
    path: PathBuf,
    allocators: &'static [&'static str],
}

/// One table: what the program is asked for, and how much of it.
struct Part {
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    note: &'static str,
    /// The argument, and rounds for a full and for a quick run.
    asked: (&'static str, u32, u32),
    /// Only lines of this unit.
    lines: &'static str,
    /// Whether more is better.
    more: bool,
}

const PARTS: [Part; 7] = [
    Part {
        key: "embedding-calls",
        title: "Calls from and to Rust",
        unit: "ns",
        note: "typed calls unless it says dynamic; the async call does not suspend.",
        asked: ("calls", 2_000_000, 200_000),
        lines: "ns",
        more: false,
    },
    Part {
        key: "embedding-instances",
        title: "Making and dropping an instance and its store",
        unit: "ns",
        note: "empty; 2 pages with 64 KiB of data; a table of 10,000 functions. Of the peer the better of its two allocators.",
        asked: ("instances", 20_000, 4_000),
        lines: "ns",
        more: false,
    },
    Part {
        key: "embedding-threads",
        title: "Throughput of the same on two threads, by one thread",
        unit: "times",
        note: "more is better. `machine` is a loop that uses nothing but the processor, in turns with the instances: where it has less than two, two \
            processors were one core of the host. Of the instances only turns count in which it has two (1.95 to 2.1), unless those are under ten.",
        asked: ("two-threads", 3_000, 1_000),
        lines: "ratio",
        more: true,
    },
    Part {
        key: "embedding-memory",
        title: "Memory and address space of each instance that is alive",
        unit: "bytes",
        note: "1 page, all of it data, each in a store of its own, before and after a call that writes one byte; 10,000 at once.",
        asked: ("alive", 10_000, 10_000),
        lines: "bytes",
        more: false,
    },
    Part {
        key: "embedding-memory-two-pages",
        title: "The same of a module with two pages",
        unit: "bytes",
        note: "2 pages with 64 KiB of data: such memories are guarded, as their code may be more than a small program's.",
        asked: ("alive-two-pages", 10_000, 10_000),
        lines: "bytes",
        more: false,
    },
    Part {
        key: "embedding-leaks",
        title: "What is left after many instances",
        unit: "bytes",
        note: "made, called and dropped one after the other; against what there was after a tenth. 1,000,000 of them; 100,000 in a quick run.",
        asked: ("leaks", 1_000_000, 100_000),
        lines: "bytes",
        more: false,
    },
    Part {
        key: "embedding-left",
        title: "Mappings and descriptors that are left after as many",
        unit: "count",
        note: "",
        asked: ("leaks", 1_000_000, 100_000),
        lines: "count",
        more: false,
    },
];

/// Measures both, in turns.
pub fn run(bench: &Bench) -> Result<Vec<Section>> {
    let mut programs = vec![Program { engine: "peregrine", path: build_own()?, allocators: &["own"] }];
    let peer = workspace::build_folder("embedding-peer")?;
    if bench.embedding_peer {
        build_peer(&peer)?;
    }
    let built = peer.join("target/dist/embedding-peer");
    if built.is_file() {
        programs.push(Program { engine: super::report::PEER, path: built, allocators: &["on-demand", "pooling"] });
    }
    let mut sections = Vec::new();
    for part in &PARTS {
        sections.push(part.measure(bench, &programs));
    }
    sections.extend(interruption(bench, &programs)?);
    Ok(sections)
}

impl Part {
    fn measure(&self, bench: &Bench, programs: &[Program]) -> Section {
        let mut section = Section::new(self.key, self.title, self.unit);
        section.note = self.note.to_owned();
        let (what, full, quick) = self.asked;
        let rounds = if bench.quick { quick } else { full };
        // What is counted is the same in every run.
        let runs = if what == "leaks" || what.starts_with("alive") { 1 } else { bench.runs(5, 3) };
        let mut values = Values::default();
        for _ in 0..runs {
            for program in programs {
                let allocators = if what == "calls" { &program.allocators[..1] } else { program.allocators };
                for allocator in allocators {
                    match figures(program, &[what, &rounds.to_string(), allocator], self.lines) {
                        Ok(figures) => figures.into_iter().for_each(|(name, figure)| values.add(program.engine, name, figure)),
                        Err(failure) => section.failures.push(failure.to_string()),
                    }
                }
            }
        }
        values.fill(&mut section, self.more);
        section
    }
}

/// Run time of the kernels with epochs and with fuel, by the run time without.
fn interruption(bench: &Bench, programs: &[Program]) -> Result<[Section; 2]> {
    let folder = workspace::root()?.join(sources::KERNELS);
    let mut sections = [("epochs", "Steady run time with epochs on, by off"), ("fuel", "Steady run time with fuel on, by off")]
        .map(|(key, title)| Section::new(&format!("embedding-{key}"), title, "times"));
    let mut values = [Values::default(), Values::default()];
    let names = sources::kernel_names(&folder)?;
    let names = if bench.quick { &names[..names.len().min(4)] } else { &names[..] };
    for name in names {
        let iterations = super::steady::default_iterations(&folder.join(name).with_extension("c"))?;
        // Some ten milliseconds.
        let iterations = (iterations / 48).max(1);
        let kernel = folder.join(name).with_extension("wasm");
        for program in programs {
            let kernel = kernel.to_string_lossy();
            match figures(program, &["interruption", &iterations.to_string(), &kernel], "ratio") {
                Ok(figures) => {
                    for (row, figure) in figures {
                        let at = usize::from(row.starts_with("fuel:"));
                        values[at].add(program.engine, name.to_string(), figure);
                    }
                }
                Err(failure) => sections[0].failures.push(failure.to_string()),
            }
        }
    }
    for (values, section) in values.into_iter().zip(&mut sections) {
        values.fill(section, false);
    }
    Ok(sections)
}

/// Figures by engine and row, in the order in which they were first seen.
#[derive(Default)]
struct Values(Vec<(&'static str, String, Vec<f64>)>);

impl Values {
    fn add(&mut self, engine: &'static str, name: String, figure: f64) {
        match self.0.iter_mut().find(|(known, what, _)| *known == engine && *what == name) {
            Some((_, _, list)) => list.push(figure),
            None => self.0.push((engine, name, vec![figure])),
        }
    }

    /// Adds what was measured to a table. Of rows that differ in what follows `@`, the allocator, the best counts.
    fn fill(self, section: &mut Section, more: bool) {
        let mut best: Vec<(&str, String, Sample)> = Vec::new();
        for (engine, name, list) in self.0 {
            let Some(sample) = Sample::of(list) else { continue };
            let row = name.split('@').next().unwrap_or_default().to_owned();
            match best.iter_mut().find(|(known, what, _)| *known == engine && *what == row) {
                Some((_, _, known)) if (sample.median > known.median) == more => *known = sample,
                Some(_) => {}
                None => best.push((engine, row, sample)),
            }
        }
        for (engine, row, sample) in best {
            section.add(&row, engine, sample);
        }
    }
}

/// The lines `UNIT NAME VALUE` of one unit that a program prints.
fn figures(program: &Program, arguments: &[&str], unit: &str) -> Result<Vec<(String, f64)>> {
    let finished = Job::new(&program.path).args(arguments).limit(Duration::from_secs(1800)).run_well()?;
    let mut figures = Vec::new();
    for line in finished.text().lines() {
        let mut words = line.split(' ');
        if let (Some(found), Some(name), Some(value)) = (words.next(), words.next(), words.next())
            && found == unit
        {
            figures.push((name.to_owned(), value.parse().context(name)?));
        }
    }
    if figures.is_empty() { Err(Failure::new(format!("{} printed no figures", program.path.display()))) } else { Ok(figures) }
}

fn build_own() -> Result<PathBuf> {
    let root = workspace::root()?;
    Job::new("cargo")
        .args(["build", "--quiet", "--profile", "dist", "--package", "peregrine", "--example", "embedding_cost"])
        .folder(&root)
        .limit(Duration::from_secs(1800))
        .run_well()?;
    Ok(workspace::target_folder()?.join("dist/examples/embedding_cost"))
}

/// Writes and builds a crate of the same source with another runtime.
fn build_peer(folder: &Path) -> Result<()> {
    let example = workspace::root()?.join(EXAMPLE);
    let source = folder.join("src");
    std::fs::create_dir_all(&source).context(source.display())?;
    for file in FILES {
        let text = std::fs::read_to_string(example.join(file)).context(file)?;
        write_changed(&source.join(file), &text)?;
    }
    write_changed(&source.join("runtime.rs"), PEER_RUNTIME)?;
    let manifest = format!(
        "[package]\nname = \"embedding-peer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{PEER}\n\n{PEER_PROFILE}\n[workspace]\n"
    );
    write_changed(&folder.join("Cargo.toml"), &manifest)?;
    let target = folder.join("target");
    let job = Job::new("cargo").args(["build", "--quiet", "--profile", "dist"]).env("CARGO_TARGET_DIR", &target).folder(folder);
    job.limit(Duration::from_secs(3600)).run_well().map(drop)
}

/// Writes a file, unless it is as it should be: what was built of it is used again.
fn write_changed(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(path, text).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_allocator_counts() {
        for (more, expect) in [(false, 2.0), (true, 3.0)] {
            let mut values = Values::default();
            values.add("wasmtime", "row@on-demand".to_owned(), 3.0);
            values.add("wasmtime", "row@pooling".to_owned(), 2.0);
            values.add("peregrine", "row@own".to_owned(), 1.0);
            let mut section = Section::new("k", "t", "u");
            values.fill(&mut section, more);
            assert_eq!(section.rows.len(), 1);
            assert_eq!(section.rows[0].samples["wasmtime"].median, expect);
            assert_eq!(section.rows[0].samples["peregrine"].median, 1.0);
        }
    }
}
