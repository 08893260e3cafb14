//! The engines that are measured or tested, and how each is told to do a thing.

use crate::arguments::Arguments;
use crate::failure::{Failure, Result};
use crate::process::Job;
use crate::workspace;
use std::path::{Path, PathBuf};

/// Which engine; the order is the order of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The command of this project.
    Peregrine,
    /// A peer with the same command line; the base of all ratios.
    Wasmtime,
    /// A peer with its own WASI; it compiles as it runs.
    Node,
}

/// An engine that was found.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Which one.
    pub kind: Kind,
    /// Its command.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: String,
}

/// A folder that a guest is given: the place on the host, the name in the guest.
pub type Grant<'a> = (&'a Path, &'a str);

impl Kind {
    /// The name of the command, also the heading of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peregrine => "peregrine",
            Self::Wasmtime => "wasmtime",
            Self::Node => "node",
        }
    }
}

impl Engine {
    /// Finds an engine: at the path given with `--NAME`, else where it usually is.
    ///
    /// # Errors
    /// When a path was given and there is no command that answers to `--version`.
    pub fn find(kind: Kind, arguments: &mut Arguments) -> Result<Option<Self>> {
        let given = arguments.path(&format!("--{}", kind.name()))?;
        let usual = match kind {
            Kind::Peregrine => {
                let target = workspace::target_folder()?;
                let profiles = ["dist", "release", "debug"].map(|profile| target.join(profile).join(kind.name()));
                profiles.into_iter().find(|path| path.is_file())
            }
            Kind::Wasmtime | Kind::Node => None,
        };
        let Some(path) = given.clone().or(usual).or_else(|| workspace::find_on_path(kind.name())) else {
            return Ok(None);
        };
        let path = std::path::absolute(&path).unwrap_or(path);
        match Job::new(&path).arg("--version").run_well() {
            Ok(finished) => {
                let text = finished.text();
                let version = text.lines().next().unwrap_or_default().trim();
                let version = version.strip_prefix(kind.name()).unwrap_or(version).trim().trim_start_matches('v').to_owned();
                Ok(Some(Self { kind, path, version }))
            }
            Err(failure) if given.is_some() => Err(failure),
            Err(_) => Ok(None),
        }
    }

    /// The command that compiles a module to a file, when the engine has one.
    pub fn compile(&self, module: &Path, out: &Path) -> Option<Job> {
        match self.kind {
            Kind::Peregrine | Kind::Wasmtime => Some(Job::new(&self.path).arg("compile").arg(module).arg("-o").arg(out)),
            Kind::Node => None,
        }
    }

    /// The usual ending of a compiled module.
    pub fn compiled_extension(&self) -> &'static str {
        match self.kind {
            Kind::Peregrine => "pgn",
            Kind::Wasmtime => "cwasm",
            Kind::Node => "wasm",
        }
    }

    /// Compiles ahead of time into `build/bench` when the engine can, and gives the file to run. A file that is already
    /// there is taken when it is newer than both the module and the engine.
    ///
    /// # Errors
    /// When the compiler fails.
    pub fn prepare(&self, module: &Path) -> Result<PathBuf> {
        let stem = module.file_stem().unwrap_or_default();
        let out = workspace::build_folder("bench")?.join(stem).with_extension(self.compiled_extension());
        let Some(job) = self.compile(module, &out) else {
            return Ok(module.to_owned());
        };
        let time = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
        if time(&out).is_none() || time(&out) < time(module) || time(&out) < time(&self.path) {
            job.run_well()?;
        }
        Ok(out)
    }

    /// The command that runs a module, or what [`Engine::prepare`] made of it.
    ///
    /// # Errors
    /// When the task was started outside the workspace.
    pub fn run(&self, module: &Path, grants: &[Grant<'_>]) -> Result<Job> {
        let mut job = Job::new(&self.path);
        job = match self.kind {
            Kind::Peregrine => job.arg("run"),
            Kind::Wasmtime if module.extension().is_some_and(|extension| extension == "cwasm") => job.args(["run", "--allow-precompiled"]),
            Kind::Wasmtime => job.arg("run"),
            Kind::Node => job.arg("--no-warnings").arg(workspace::root()?.join("benches/run_wasi.mjs")),
        };
        for (host, guest) in grants {
            job = job.arg("--dir").arg(format!("{}::{guest}", host.display()));
        }
        Ok(job.arg(module))
    }
}

/// Every engine that is found, in the order of columns.
///
/// # Errors
/// When a path that was given does not work, or when there is no engine at all.
pub fn find_all(arguments: &mut Arguments) -> Result<Vec<Engine>> {
    let mut found = Vec::new();
    for kind in [Kind::Peregrine, Kind::Wasmtime, Kind::Node] {
        found.extend(Engine::find(kind, arguments)?);
    }
    if found.is_empty() {
        return Err(Failure::new("no engine found; build one with `cargo build --profile dist -p peregrine-cli`"));
    }
    Ok(found)
}
