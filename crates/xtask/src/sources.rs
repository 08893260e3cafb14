//! `cargo xtask kernels` and `cargo xtask guests`: how each committed module is built from the source beside it.
//!
//! The tables here are the only place that knows the flags. `--check` builds into `build/` and compares instead. The same
//! compilers build the programs that are too large to commit, see [`build_go_hello`] and [`build_sqlite`].

use crate::arguments::Arguments;
use crate::failure::{Context, Failure, Result};
use crate::process::Job;
use crate::{tools, workspace};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The folder of the kernels, from the root.
pub const KERNELS: &str = "benches/kernels";
/// The folder of the guests, from the root.
pub const GUESTS: &str = "guests";

const C: &[&str] = &["cc", "-O2", "-s", "-Wall", "-Wextra"];
const CPP: &[&str] = &["c++", "-O2", "-s", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra"];
/// No C library, so that the debug information is the guest's own; paths in it start at the root of the project.
const TRAP: &[&str] = &[
    "cc",
    "-O1",
    "-g",
    "-nostdlib",
    "-Wl,--no-entry",
    "-fno-sanitize=undefined",
    "-mno-nontrapping-fptoint",
    "-mbulk-memory",
    "-fdebug-compilation-dir=.",
    "-Wall",
    "-Wextra",
];

/// One module: its name without `.wasm`, its source, the command and flags.
struct Source {
    module: String,
    source: String,
    flags: Vec<&'static str>,
}

/// Runs `cargo xtask kernels`.
///
/// # Errors
/// When a compiler cannot be fetched or a source does not compile.
pub fn run_kernels(arguments: Arguments) -> Result<ExitCode> {
    let folder = workspace::root()?.join(KERNELS);
    let mut sources = Vec::new();
    for name in kernel_names(&folder)? {
        let mut flags = C.to_vec();
        if name.starts_with("simd_") {
            flags.push("-msimd128");
        }
        sources.push(Source { source: format!("{name}.c"), module: name, flags });
    }
    build_all(arguments, &folder, &sources)
}

/// Runs `cargo xtask guests`.
///
/// # Errors
/// When a compiler cannot be fetched or a source does not compile.
pub fn run_guests(arguments: Arguments) -> Result<ExitCode> {
    let folder = workspace::root()?.join(GUESTS);
    let plain = ["hello", "echo", "exit", "files", "clocks", "calls", "file_read", "file_write", "hot_loop"];
    let of = |module: &str, source: &str, flags: &[&'static str]| Source {
        module: module.to_owned(),
        source: source.to_owned(),
        flags: flags.to_vec(),
    };
    let mut sources: Vec<Source> = plain.iter().map(|name| of(name, &format!("{name}.c"), C)).collect();
    sources.push(of("hello-cpp", "hello.cpp", CPP));
    sources.push(of("hello-zig", "hello.zig", &["build-exe", "-O", "ReleaseSmall"]));
    sources.push(of("trap", "trap.c", TRAP));
    build_all(arguments, &folder, &sources)
}

/// The names of the kernels, sorted: every C file of the folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn kernel_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).context(folder.display())? {
        let path = entry.context(folder.display())?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn build_all(mut arguments: Arguments, folder: &Path, sources: &[Source]) -> Result<ExitCode> {
    let check = arguments.flag("--check");
    arguments.finish()?;
    let mut different = 0;
    for source in sources {
        let committed = folder.join(&source.module).with_extension("wasm");
        let out = if check { workspace::build_folder("check")?.join(&source.module).with_extension("wasm") } else { committed.clone() };
        build(&folder.join(&source.source), &out, &source.flags)?;
        let bytes = std::fs::read(&out).context(out.display())?;
        if check && std::fs::read(&committed).ok().as_ref() != Some(&bytes) {
            println!("{} is not what {} gives; run the task without --check", committed.display(), source.source);
            different += 1;
        } else {
            println!("{:>7} bytes  {}", bytes.len(), source.module);
        }
    }
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build(source: &Path, out: &Path, flags: &[&str]) -> Result<()> {
    let root = workspace::root()?;
    let source = source.strip_prefix(&root).unwrap_or(source);
    let mut job = tools::zig()?.folder(&root);
    if flags[0] == "build-exe" {
        let mut emit = std::ffi::OsString::from("-femit-bin=");
        emit.push(out);
        job = job.args(flags).args(["-target", "wasm32-wasi"]).arg(source).arg(emit);
    } else {
        // The root, and with it the place of the compiler's own headers, stays out of the debug information.
        let map = format!("-ffile-prefix-map={}=.", root.display());
        job = job.args(flags).arg("--target=wasm32-wasi").arg(map).arg(source).arg("-o").arg(out);
    }
    let finished = job.run_well()?;
    if !finished.stderr.is_empty() {
        eprintln!("{}", finished.complaint());
    }
    // The linker marks its output executable; for a committed module that says nothing.
    std::fs::set_permissions(out, std::fs::Permissions::from_mode(0o644)).context(out.display())
}

/// Builds the Go guest to `build/programs/hello-go.wasm`.
///
/// # Errors
/// When Go is missing and cannot be fetched, or the source does not compile.
pub fn build_go_hello() -> Result<PathBuf> {
    let out = workspace::build_folder("programs")?.join("hello-go.wasm");
    if !out.is_file() {
        let source = workspace::root()?.join(GUESTS).join("hello.go");
        let job = tools::go()?.env("GOOS", "wasip1").env("GOARCH", "wasm").env("GOFLAGS", "");
        job.args(["build", "-trimpath", "-o"]).arg(&out).arg(source).run_well()?;
    }
    Ok(out)
}

/// Builds SQLite with our program over it to `build/programs/sqlite.wasm`.
///
/// # Errors
/// When the sources or the compiler cannot be fetched.
pub fn build_sqlite() -> Result<PathBuf> {
    let out = workspace::build_folder("programs")?.join("sqlite.wasm");
    if out.is_file() {
        return Ok(out);
    }
    let sources = tools::sqlite_sources()?;
    let ours = workspace::root()?.join(GUESTS).join("programs/sqlite.c");
    let mut include = std::ffi::OsString::from("-I");
    include.push(&sources);
    // No threads, no shared memory, no temporary files: what preview 1 does not have.
    let options =
        ["-DSQLITE_THREADSAFE=0", "-DSQLITE_OS_OTHER=1", "-DSQLITE_TEMP_STORE=3", "-DSQLITE_OMIT_LOAD_EXTENSION", "-DSQLITE_OMIT_WAL"];
    eprintln!("building SQLite");
    tools::zig()?
        .args(["cc", "--target=wasm32-wasi", "-O2", "-s", "-w"])
        .args(options)
        .arg(include)
        .arg(sources.join("sqlite3.c"))
        .arg(sources.join("wasm32-wasi-vfs.c"))
        .arg(ours)
        .arg("-o")
        .arg(&out)
        .run_well()?;
    Ok(out)
}

/// Builds a guest with the C compiler of this machine, for the comparison with native code.
///
/// # Errors
/// When there is no `cc` or `gcc`, or the source does not compile.
pub fn build_native(name: &str) -> Result<PathBuf> {
    let Some(compiler) = workspace::find_on_path("gcc").or_else(|| workspace::find_on_path("cc")) else {
        return Err(Failure::new("a C compiler (gcc or cc) is needed for the native comparison"));
    };
    let out = workspace::build_folder("native")?.join(name);
    let source = workspace::root()?.join(GUESTS).join(name).with_extension("c");
    Job::new(compiler).arg("-O2").arg(source).arg("-o").arg(&out).run_well()?;
    Ok(out)
}
