//! The programs: where the module of each comes from, how it is run, and which files hold what it must give.

use super::runner::Runner;
use super::{Fetch, Outcome, copy_files};
use crate::failure::{Context, Failure, Result};
use crate::process::{Job, copy_if_newer};
use crate::{sources, tools, workspace};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One program.
pub struct Program {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// Whether it belongs to the quick ones.
    pub quick: bool,
    /// Fetches or builds the module.
    pub module: Fetch,
    /// Runs the module with an empty folder to write to.
    pub run: fn(&Runner, &Path, &Path) -> Result<Outcome>,
    /// Files under `guests/programs/expected`: the standard output, then each file that the program writes.
    pub expected: &'static [&'static str],
}

/// All programs, the quick ones first.
pub const PROGRAMS: &[Program] = &[
    Program { name: "hello-c", quick: true, module: || guest("hello"), run: run_plain, expected: &["hello-c.txt"] },
    Program { name: "hello-cpp", quick: true, module: || guest("hello-cpp"), run: run_plain, expected: &["hello-cpp.txt"] },
    Program { name: "hello-zig", quick: true, module: || guest("hello-zig"), run: run_plain, expected: &["hello-zig.txt"] },
    Program { name: "hello-go", quick: true, module: sources::build_go_hello, run: run_plain, expected: &["hello-go.txt"] },
    Program {
        name: "sqlite-small",
        quick: true,
        module: sources::build_sqlite,
        run: |runner, module, folder| run_sqlite(runner, module, folder, "2000"),
        expected: &["sqlite-2000.txt"],
    },
    Program {
        name: "sqlite",
        quick: false,
        module: sources::build_sqlite,
        run: |runner, module, folder| run_sqlite(runner, module, folder, "200000"),
        expected: &["sqlite-200000.txt"],
    },
    Program {
        name: "esbuild",
        quick: false,
        module: fetch_esbuild,
        run: run_esbuild,
        expected: &["esbuild.txt", "bundle.js.txt", "bundle.css.txt"],
    },
    Program { name: "clang", quick: false, module: fetch_clang, run: run_clang, expected: &["clang.txt", "object.o.bin"] },
];

fn guest(name: &str) -> Result<PathBuf> {
    Ok(workspace::root()?.join(sources::GUESTS).join(name).with_extension("wasm"))
}

fn run_plain(runner: &Runner, module: &Path, _folder: &Path) -> Result<Outcome> {
    let start = Instant::now();
    let run = runner.job(module, &[], &[], &[])?.run_well()?;
    Ok(Outcome::of(start, &[run], Vec::new()))
}

fn run_sqlite(runner: &Runner, module: &Path, folder: &Path, rows: &str) -> Result<Outcome> {
    let start = Instant::now();
    let run = runner.job(module, &[(folder, "/data")], &[], &["/data/test.db", rows])?.run_well()?;
    let database = folder.join("test.db");
    let header = std::fs::read(&database).context(database.display())?;
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(Failure::new("the database on disk is not one of SQLite"));
    }
    Ok(Outcome::of(start, &[run], Vec::new()))
}

/// Fetches esbuild to `build/programs/esbuild.wasm`.
///
/// # Errors
/// When npm is missing or fails.
pub fn fetch_esbuild() -> Result<PathBuf> {
    let out = workspace::build_folder("programs")?.join("esbuild.wasm");
    if !out.is_file() {
        copy_if_newer(&tools::npm(tools::ESBUILD)?.join("esbuild.wasm"), &out)?;
    }
    Ok(out)
}

fn run_esbuild(runner: &Runner, module: &Path, folder: &Path) -> Result<Outcome> {
    copy_files(&workspace::root()?.join("guests/programs/bundle"), folder)?;
    let start = Instant::now();
    let grants = [(folder, "/")];
    // The working folder of a Go program under WASI is what PWD says.
    let env = [("PWD", "/")];
    let version = runner.job(module, &grants, &env, &["--version"])?.run_well()?;
    let args = [
        "main.ts",
        "--bundle",
        "--format=esm",
        "--jsx-factory=h",
        "--target=es2020,chrome80",
        "--supported:top-level-await=true",
        "--sourcemap",
        "--log-level=warning",
        "--outfile=out/main.js",
    ];
    let bundle = runner.job(module, &grants, &env, &args)?.run_well()?;
    Ok(Outcome::of(start, &[version, bundle], vec![folder.join("out/main.js"), folder.join("out/main.css")]))
}

/// Fetches clang to `build/programs/clang.wasm`, and its headers to `build/programs/clang`.
///
/// # Errors
/// When npm or tar are missing or fail.
pub fn fetch_clang() -> Result<PathBuf> {
    let folder = workspace::build_folder("programs/clang")?;
    let out = folder.with_extension("wasm");
    if !out.is_file() {
        let package = tools::npm(tools::CLANG)?;
        Job::new("tar").arg("xf").arg(package.join("gen/llvm-resources.tar")).arg("-C").arg(&folder).run_well()?;
        copy_if_newer(&package.join("gen/llvm.core.wasm"), &out)?;
    }
    Ok(out)
}

fn run_clang(runner: &Runner, module: &Path, folder: &Path) -> Result<Outcome> {
    let headers = module.with_extension("");
    let source = workspace::root()?.join("guests/programs");
    let start = Instant::now();
    // The file is named clang.wasm, and the driver goes by the name that it was started under.
    let grants = [(headers.as_path(), "/usr"), (source.as_path(), "/src"), (folder, "/out")];
    let args = ["-O2", "-c", "/src/object.c", "-o", "/out/object.o"];
    let run = runner.job(module, &grants, &[], &args)?.limit(Duration::from_secs(1800)).run_well()?;
    Ok(Outcome::of(start, &[run], vec![folder.join("object.o")]))
}
