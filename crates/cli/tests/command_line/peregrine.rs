//! Runs the command and looks at what comes of it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A command to run, with a cache directory and a working directory of its own.
pub struct Peregrine {
    command: Command,
    /// Where it runs and keeps its files.
    pub dir: TempDir,
}

/// What came of a run.
pub struct Finished {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Where it ran, with the files it made.
    pub dir: TempDir,
}

/// The path of a guest.
pub fn guest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name)
}

/// A command with these words. What `PEREGRINE_STRATEGY` says of the tests is what the command goes by too.
pub fn peregrine(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Peregrine {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_peregrine"));
    command.args(words).current_dir(dir.path()).stdin(Stdio::null());
    for variable in ["PEREGRINE_LOG", "RUST_BACKTRACE", "LISTEN_FDS", "LISTEN_PID"] {
        command.env_remove(variable);
    }
    command.env("XDG_CACHE_HOME", dir.path().join("cache")).env("HOME", dir.path());
    Peregrine { command, dir }
}

/// `peregrine FLAGS... GUEST ARGS...`.
pub fn run(flags: &[&str], name: &str, args: &[&str]) -> Peregrine {
    let guest = guest(name);
    let words = flags.iter().map(OsStr::new).chain([guest.as_os_str()]).chain(args.iter().map(OsStr::new));
    peregrine(words)
}

impl Peregrine {
    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes an environment variable away.
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Puts a file into the working directory.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.dir.path().join(name), content).expect("the file is written");
        self
    }

    /// Runs another command first, in the same directories.
    pub fn after(mut self, first: Peregrine) -> Self {
        let mut command = first.command;
        command.current_dir(self.dir.path()).env("XDG_CACHE_HOME", self.dir.path().join("cache")).env("HOME", self.dir.path());
        let output = command.output().expect("the command runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.command.current_dir(self.dir.path());
        self
    }

    /// Sends standard output to a file that is there.
    pub fn stdout_to(mut self, path: &str) -> Self {
        let file = std::fs::File::options().write(true).open(self.dir.path().join(path)).expect("the file is there");
        self.command.stdout(file);
        self
    }

    /// Runs it.
    pub fn finish(mut self) -> Finished {
        let Output { status, stdout, stderr } = self.command.output().expect("the command runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Finished { stdout: text(stdout), stderr: text(stderr), code: status.code(), dir: self.dir }
    }

    /// Runs it with this on standard input.
    pub fn finish_with_input(mut self, input: &[u8]) -> Finished {
        let path = self.dir.path().join("standard-input");
        std::fs::write(&path, input).expect("the file is written");
        self.command.stdin(std::fs::File::open(path).expect("the file is there"));
        self.finish()
    }
}

impl Finished {
    /// The exit code must be this.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "standard output:\n{}\nstandard error:\n{}", self.stdout, self.stderr);
        self
    }

    /// Whether there is a file with such a name in the working directory.
    pub fn left(&self, start: &str) -> bool {
        let entries = std::fs::read_dir(self.dir.path()).expect("the directory");
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(start))
    }

    /// Standard output must be this.
    #[track_caller]
    pub fn stdout(self, text: &str) -> Self {
        assert_eq!(self.stdout, text, "standard error:\n{}", self.stderr);
        self
    }

    /// Standard output must contain this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "expected `{text}` in standard output:\n{}\nstandard error:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard error must contain this.
    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "expected `{text}` in standard error:\n{}", self.stderr);
        self
    }
}
