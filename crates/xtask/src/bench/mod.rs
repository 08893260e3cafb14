//! `cargo xtask bench`: Peregrine beside the engines that are found on this machine.
//!
//! Each section measures one thing and gives a [`report::Section`]; this file runs the sections that are wanted, prints each as
//! soon as it is there, and writes the whole as JSON and SVG. All engines of a section are measured in turns within one
//! run, so that a ratio never compares two moments of the machine.

mod calls;
mod compile;
mod curves;
mod embedding;
mod files;
pub mod growth;
mod measure;
mod memory;
mod report;
mod start;
mod steady;
mod svg;
mod tiering;
mod whole;

use crate::arguments::Arguments;
use crate::engines::{self, Engine};
use crate::failure::{Context, Failure, Result};
use crate::programs;
use crate::{sources, workspace};
use report::{Report, Section};
use std::path::PathBuf;
use std::process::ExitCode;

/// What every section needs to know.
pub struct Bench {
    engines: Vec<Engine>,
    modules: Vec<Measured>,
    quick: bool,
    runs: Option<u32>,
    /// Whether to build the comparison for embedders, which takes long.
    embedding_peer: bool,
}

/// A module to measure with, as large programs are.
pub struct Measured {
    /// The name in the tables.
    pub name: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl Bench {
    /// How often to measure, unless the command line says.
    fn runs(&self, full: u32, quick: u32) -> u32 {
        self.runs.unwrap_or(if self.quick { quick } else { full }).max(1)
    }

    /// A module that was fetched or is committed.
    fn module(&self, name: &str) -> Option<&Measured> {
        self.modules.iter().find(|module| module.name == name)
    }
}

type Run = fn(&Bench) -> Result<Vec<Section>>;

const SECTIONS: [(&str, Run); 13] = [
    ("compile", compile::run),
    ("start", start::run),
    ("steady", steady::run),
    ("calls", calls::run),
    ("files", files::run),
    ("embedding", embedding::run),
    ("memory", memory::run),
    ("growth", growth::run),
    ("cold", tiering::cold),
    ("whole", whole::run),
    ("warm", tiering::warm),
    ("rate", tiering::rate),
    ("second", tiering::second),
];

/// Runs the task. The exit status is 1 when a section fails or when two engines disagree on a result.
///
/// # Errors
/// When no engine is found, or an option is wrong.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let quick = arguments.flag("--quick");
    let fetch = arguments.flag("--fetch");
    let embedding_peer = arguments.flag("--embedding-peer");
    let runs = arguments.number("--runs")?;
    let only = arguments.values("--only")?;
    let json = arguments.path("--json")?;
    let svg = arguments.path("--svg")?;
    let plot = arguments.path("--plot")?;
    let engines = engines::find_all(&mut arguments)?;
    arguments.finish()?;
    if let Some(unknown) = only.iter().find(|name| !SECTIONS.iter().any(|(section, _)| section == name)) {
        let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        return Err(Failure::new(format!("no section `{unknown}`; there are {}", names.join(", "))));
    }
    let bench = Bench { modules: modules(fetch)?, engines, quick, runs, embedding_peer };
    let mut report = Report::new(&bench.engines, format!("cargo xtask {command}"));
    print!("{}", report.heading());
    let mut failures = Vec::new();
    for (name, run) in SECTIONS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        match run(&bench) {
            Ok(sections) => {
                for section in sections {
                    print!("\n{}", section.table());
                    failures.extend(section.failures.iter().map(|failure| format!("{name}: {failure}")));
                    report.sections.push(section);
                }
            }
            Err(failure) => failures.push(format!("{name}: {failure}")),
        }
    }
    if let Some(path) = json {
        std::fs::write(&path, report.json()?).context(path.display())?;
    }
    if let Some(path) = svg {
        std::fs::write(&path, svg::draw(&report)).context(path.display())?;
    }
    if let Some(path) = plot {
        let drawn = curves::draw(&bench)?;
        std::fs::write(&path, drawn).context(path.display())?;
    }
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The modules that are there, and the large ones too when they are to be fetched.
fn modules(fetch: bool) -> Result<Vec<Measured>> {
    let root = workspace::root()?;
    let mut modules = vec![
        Measured { name: "hello", path: root.join(sources::GUESTS).join("hello.wasm") },
        Measured { name: "files", path: root.join(sources::GUESTS).join("files.wasm") },
        Measured { name: "json", path: root.join(sources::KERNELS).join("json.wasm") },
    ];
    for (name, fetch_it) in programs::LARGE {
        let path = workspace::build_folder("programs")?.join(name).with_extension("wasm");
        if path.is_file() {
            modules.push(Measured { name, path });
        } else if fetch {
            match fetch_it() {
                Ok(path) => modules.push(Measured { name, path }),
                Err(failure) => eprintln!("without {name}: {failure}"),
            }
        }
    }
    Ok(modules)
}
