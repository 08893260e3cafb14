//! What calls and instances cost an embedder: the example `embedding_cost` of the facade, and the same source against the `wasmtime` crate.
//!
//! Building that crate takes many minutes, so it happens only with `--embedding-peer`; what was built before is used again.

use super::Bench;
use super::measure::Sample;
use super::report::Section;
use crate::failure::{Context, Failure, Result};
use crate::process::Job;
use crate::workspace;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLE: &str = "crates/peregrine/examples/embedding_cost.rs";
/// The crate that the source is compiled against for comparison.
const PEER: &str =
    "wasmtime = { version = \"=48.0.8\", default-features = false, features = [\"runtime\", \"cranelift\", \"wat\", \"std\"] }";

/// Measures both, in turns.
pub fn run(bench: &Bench) -> Result<Vec<Section>> {
    let mut section = Section::new("embedding", "Embedding in Rust", "ns");
    section.note = "typed calls unless it says dynamic; an instance is made and dropped together with its store.".to_owned();
    let mut programs = vec![("peregrine", build_own()?)];
    let peer = workspace::build_folder("embedding-peer")?;
    if bench.embedding_peer {
        build_peer(&peer)?;
    }
    let built = peer.join("target/release/embedding-peer");
    if built.is_file() {
        programs.push(("wasmtime", built));
    }
    let rounds = if bench.quick { "200000" } else { "2000000" };
    let mut values: Vec<(&str, String, Vec<f64>)> = Vec::new();
    for _ in 0..bench.runs(5, 3) {
        for (engine, program) in &programs {
            for (name, figure) in figures(program, rounds)? {
                match values.iter_mut().find(|(known, what, _)| known == engine && *what == name) {
                    Some((_, _, list)) => list.push(figure),
                    None => values.push((engine, name, vec![figure])),
                }
            }
        }
    }
    for (engine, name, list) in values {
        if let Some(sample) = Sample::of(list) {
            section.add(&name, engine, sample);
        }
    }
    Ok(vec![section])
}

/// The lines `ns NAME VALUE` that a program prints.
fn figures(program: &Path, rounds: &str) -> Result<Vec<(String, f64)>> {
    let finished = Job::new(program).arg(rounds).run_well()?;
    let mut figures = Vec::new();
    for line in finished.text().lines() {
        let mut words = line.split(' ');
        if let (Some("ns"), Some(name), Some(value)) = (words.next(), words.next(), words.next()) {
            figures.push((name.to_owned(), value.parse().context(name)?));
        }
    }
    if figures.is_empty() { Err(Failure::new(format!("{} printed no figures", program.display()))) } else { Ok(figures) }
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

/// Writes and builds a crate of the same source in which only the name of the runtime differs.
fn build_peer(folder: &Path) -> Result<()> {
    let source = std::fs::read_to_string(workspace::root()?.join(EXAMPLE)).context(EXAMPLE)?;
    let manifest =
        format!("[package]\nname = \"embedding-peer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{PEER}\n\n[workspace]\n");
    std::fs::create_dir_all(folder.join("src")).context(folder.display())?;
    std::fs::write(folder.join("Cargo.toml"), manifest).context(folder.display())?;
    std::fs::write(folder.join("src/main.rs"), source.replace("use peregrine::", "use wasmtime::")).context(folder.display())?;
    let target = folder.join("target");
    let job = Job::new("cargo").args(["build", "--quiet", "--release"]).env("CARGO_TARGET_DIR", &target).folder(folder);
    job.limit(Duration::from_secs(3600)).run_well().map(drop)
}
