//! Running a command and measuring it: wall time, processor time, peak memory, output.
//!
//! The one place in the tasks that calls the operating system directly: the resource usage of exactly one child needs
//! `wait4`, which the standard library does not offer.

use crate::failure::{Context, Failure, Result};
use crate::workspace;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A command to run.
#[derive(Clone, Debug)]
pub struct Job {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    limit: Duration,
}

/// How a command ended and what it used.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit status; 128 plus the number of the signal that ended the command.
    pub status: i32,
    /// From just before the process was created until it was gone.
    pub wall: Duration,
    /// User and system time of the process and of the children it waited for.
    pub processor: Duration,
    /// The largest resident set. The resident set of this process, a few megabytes, is its lower bound.
    pub peak_bytes: u64,
    /// What the command wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What the command wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Job {
    /// A command without arguments; it is killed after ten minutes.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), folder: None, limit: Duration::from_secs(600) }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the folder that the command runs in.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets the wall time after which the command is killed.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the command to its end, with an empty standard input.
    ///
    /// # Errors
    /// When the command cannot be started; a status other than zero is no error here.
    pub fn run(&self) -> Result<Finished> {
        let mut stdout = scratch_file()?;
        let mut stderr = scratch_file()?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        // A backtrace of a peer costs time and says nothing about the guest.
        command.env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null());
        command.stdout(stdout.try_clone().context("scratch file")?);
        command.stderr(stderr.try_clone().context("scratch file")?);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let start = Instant::now();
        let child = command.spawn().context(self.program.display())?;
        let pid = libc::pid_t::try_from(child.id()).context("process id")?;
        let watch = Watch::start(pid, self.limit);
        let (status, usage) = wait(pid)?;
        let wall = start.elapsed();
        watch.stop();
        Ok(Finished {
            status: if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) },
            wall,
            processor: duration(usage.ru_utime) + duration(usage.ru_stime),
            peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
            stdout: read_back(&mut stdout)?,
            stderr: read_back(&mut stderr)?,
        })
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// When the command cannot be started or does not end with status zero; the message has the end of what it wrote.
    pub fn run_well(&self) -> Result<Finished> {
        let finished = self.run()?;
        if finished.status == 0 {
            return Ok(finished);
        }
        Err(Failure::new(format!("{self} ended with status {}\n{}", finished.status, finished.complaint())))
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str());
        write!(f, "`{}", name.display())?;
        for arg in &self.args {
            write!(f, " {}", arg.display())?;
        }
        write!(f, "`")
    }
}

impl Finished {
    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The last lines of the standard error, or of the standard output when that is empty.
    pub fn complaint(&self) -> String {
        let bytes = if self.stderr.is_empty() { &self.stdout } else { &self.stderr };
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// The rest of the first line of output that starts with this word.
    pub fn field(&self, word: &str) -> Option<String> {
        self.text().lines().find_map(|line| Some(line.strip_prefix(word)?.strip_prefix(' ')?.trim().to_owned()))
    }
}

/// Kills a process that takes too long, from a thread of its own so that waiting for the process is one blocking call.
struct Watch {
    done: mpsc::Sender<()>,
}

impl Watch {
    fn start(pid: libc::pid_t, limit: Duration) -> Self {
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                // SAFETY: `kill` takes plain numbers. The process has not been waited for, so the number is still its own.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        });
        Self { done }
    }

    fn stop(self) {
        // The thread may be gone after a kill; there is nothing left to tell it then.
        let _ = self.done.send(());
    }
}

fn wait(pid: libc::pid_t) -> Result<(libc::c_int, libc::rusage)> {
    let mut status = 0;
    // SAFETY: `rusage` is a structure of integers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `status` and `usage` are valid for writes during the call and are not used otherwise until it returns.
        let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
        if waited == pid {
            return Ok((status, usage));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(Failure::new(format!("wait4: {error}")));
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// A file without a name: a pipe could fill up while nobody reads it.
fn scratch_file() -> Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = workspace::build_folder("scratch")?.join(format!("output-{}-{number}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).context(path.display())?;
    std::fs::remove_file(&path).context(path.display())?;
    Ok(file)
}

fn read_back(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).context("scratch file")?;
    file.read_to_end(&mut bytes).context("scratch file")?;
    Ok(bytes)
}

/// Copies a file when the target is missing or older.
///
/// # Errors
/// When the copy fails.
pub fn copy_if_newer(from: &Path, to: &Path) -> Result<()> {
    let time = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    if time(to).is_none() || time(to) < time(from) {
        std::fs::copy(from, to).context(from.display())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_measured_and_its_output_kept() {
        let finished = Job::new("sh").arg("-c").arg("echo value 42; echo bad >&2; exit 3").run().unwrap();
        assert_eq!(finished.status, 3);
        assert_eq!(finished.field("value").as_deref(), Some("42"));
        assert_eq!(finished.complaint(), "bad");
        assert!(finished.wall > Duration::ZERO && finished.peak_bytes > 100_000);
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let finished = Job::new("sleep").arg("3600").limit(Duration::from_millis(100)).run().unwrap();
        assert_eq!(finished.status, 128 + libc::SIGKILL);
    }

    #[test]
    fn processor_time_is_the_childs_own() {
        let busy = Job::new("sh").arg("-c").arg("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").run().unwrap();
        let idle = Job::new("sleep").arg("0.2").run().unwrap();
        assert!(busy.processor > idle.processor, "{:?} {:?}", busy.processor, idle.processor);
        assert!(idle.wall >= Duration::from_millis(200));
    }
}
