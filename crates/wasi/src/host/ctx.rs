//! What one guest is granted, and how an embedder says so.

use super::clock::{ClockSource, Clocks};
use super::dir::Dir;
use super::error::Error;
use super::perms::{DirPerms, FilePerms, Perms};
use super::random::{Random, RandomSource};
use super::socket::{Role, Socket};
use super::stdio::{Input, Output};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// Open descriptors that a guest may hold unless the embedder says otherwise.
const DEFAULT_MAX_OPEN_FDS: u32 = 4096;

/// Everything that one guest is granted. Each version of WASI takes it apart.
#[derive(Default)]
pub struct WasiCtx {
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) env: Vec<Vec<u8>>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) preopens: Vec<(Dir, String)>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) clocks: Clocks,
    pub(crate) random: Random,
    pub(crate) max_open_fds: u32,
}

/// Why a directory could not be granted.
#[derive(Debug, thiserror::Error)]
#[error("cannot open directory '{}' for the guest's '{}': {}{}", .0.host_path.display(), .0.guest_path, .0.reason, .0.hint())]
pub struct PreopenError(Box<FailedPreopen>);

#[derive(Debug)]
struct FailedPreopen {
    host_path: PathBuf,
    guest_path: String,
    reason: Error,
}

impl FailedPreopen {
    fn hint(&self) -> &'static str {
        match self.reason {
            Error::NoSystemCall => " (the openat2 system call is needed: Linux 5.6 or newer, and no filter that forbids it)",
            _ => "",
        }
    }
}

impl PreopenError {
    /// The reason, as the system gave it.
    pub fn reason(&self) -> Error {
        self.0.reason
    }
}

/// Builds a [`WasiCtx`]. A new builder grants nothing: no arguments, no environment, empty input, discarded output, no directory, no
/// socket; only clocks and random numbers of the host.
pub struct WasiCtxBuilder {
    ctx: WasiCtx,
}

impl Default for WasiCtxBuilder {
    fn default() -> Self {
        WasiCtxBuilder::new()
    }
}

impl WasiCtxBuilder {
    /// A builder that grants nothing yet.
    pub fn new() -> Self {
        WasiCtxBuilder { ctx: WasiCtx { max_open_fds: DEFAULT_MAX_OPEN_FDS, ..WasiCtx::default() } }
    }

    /// Appends one argument. The first is the name of the program.
    pub fn arg(&mut self, arg: impl AsRef<str>) -> &mut Self {
        self.ctx.args.push(arg.as_ref().as_bytes().to_vec());
        self
    }

    /// Appends arguments.
    pub fn args(&mut self, args: &[impl AsRef<str>]) -> &mut Self {
        self.ctx.args.extend(args.iter().map(|arg| arg.as_ref().as_bytes().to_vec()));
        self
    }

    /// Appends the arguments of this process.
    pub fn inherit_args(&mut self) -> &mut Self {
        self.ctx.args.extend(std::env::args_os().map(|arg| arg.into_encoded_bytes()));
        self
    }

    /// Sets one variable of the environment, in place of one of the same name.
    pub fn env(&mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> &mut Self {
        self.set_env(name.as_ref().as_bytes(), value.as_ref().as_bytes());
        self
    }

    /// Sets variables of the environment.
    pub fn envs(&mut self, env: &[(impl AsRef<str>, impl AsRef<str>)]) -> &mut Self {
        for (name, value) in env {
            self.env(name, value);
        }
        self
    }

    /// Sets the variables of this process.
    pub fn inherit_env(&mut self) -> &mut Self {
        for (name, value) in std::env::vars_os() {
            self.set_env(&name.into_encoded_bytes(), &value.into_encoded_bytes());
        }
        self
    }

    fn set_env(&mut self, name: &[u8], value: &[u8]) {
        let mut prefix = name.to_vec();
        prefix.push(b'=');
        self.ctx.env.retain(|entry| !entry.starts_with(&prefix));
        prefix.extend_from_slice(value);
        self.ctx.env.push(prefix);
    }

    /// Standard input from a pipe in memory, a file, a descriptor or a stream of the embedder's.
    pub fn stdin(&mut self, stdin: impl Into<Input>) -> &mut Self {
        self.ctx.stdin = stdin.into();
        self
    }

    /// Standard output to a pipe in memory, a file, a descriptor or a stream of the embedder's.
    pub fn stdout(&mut self, stdout: impl Into<Output>) -> &mut Self {
        self.ctx.stdout = stdout.into();
        self
    }

    /// Standard error, like [`Self::stdout`].
    pub fn stderr(&mut self, stderr: impl Into<Output>) -> &mut Self {
        self.ctx.stderr = stderr.into();
        self
    }

    /// Standard input from that of this process.
    pub fn inherit_stdin(&mut self) -> &mut Self {
        self.stdin(Input::Inherit)
    }

    /// Standard output to that of this process.
    pub fn inherit_stdout(&mut self) -> &mut Self {
        self.stdout(Output::Inherit)
    }

    /// Standard error to that of this process.
    pub fn inherit_stderr(&mut self) -> &mut Self {
        self.stderr(Output::Inherit)
    }

    /// All three standard streams from those of this process.
    pub fn inherit_stdio(&mut self) -> &mut Self {
        self.inherit_stdin().inherit_stdout().inherit_stderr()
    }

    /// Grants the directory `host_path` under the name `guest_path`. Grants are numbered in the order they are given.
    ///
    /// # Errors
    /// If the directory cannot be opened, or the system cannot keep a guest beneath it.
    pub fn preopened_dir(
        &mut self,
        host_path: impl AsRef<Path>,
        guest_path: impl AsRef<str>,
        dir_perms: DirPerms,
        file_perms: FilePerms,
    ) -> Result<&mut Self, PreopenError> {
        let (host_path, guest_path) = (host_path.as_ref(), guest_path.as_ref().to_owned());
        match Dir::open_root(host_path, Perms { dir: dir_perms, file: file_perms }) {
            Ok(dir) => self.ctx.preopens.push((dir, guest_path)),
            Err(reason) => {
                return Err(PreopenError(Box::new(FailedPreopen { host_path: host_path.to_owned(), guest_path, reason })));
            }
        }
        Ok(self)
    }

    /// Grants a listening socket. Sockets are numbered after all directories, in the order they are given.
    ///
    /// # Errors
    /// What the system reports of the socket.
    pub fn preopened_socket(&mut self, listener: TcpListener) -> Result<&mut Self, Error> {
        self.ctx.sockets.push(Socket::granted(listener.into(), Role::Listener)?);
        Ok(self)
    }

    /// Grants a connected socket, numbered like listening ones.
    ///
    /// # Errors
    /// What the system reports of the socket.
    pub fn preopened_connection(&mut self, connection: TcpStream) -> Result<&mut Self, Error> {
        self.ctx.sockets.push(Socket::granted(connection.into(), Role::Connection)?);
        Ok(self)
    }

    /// Replaces the clocks of the host.
    pub fn clocks(&mut self, source: impl ClockSource + 'static) -> &mut Self {
        self.ctx.clocks = Clocks::Custom(Box::new(source));
        self
    }

    /// Replaces the random numbers of the host.
    pub fn secure_random(&mut self, source: impl RandomSource + 'static) -> &mut Self {
        self.ctx.random = Random::Custom(Box::new(source));
        self
    }

    /// Limits the descriptors that the guest may hold open at once, its standard streams and grants among them.
    pub fn max_open_fds(&mut self, count: u32) -> &mut Self {
        self.ctx.max_open_fds = count;
        self
    }

    /// What was granted; the builder is left as new.
    pub fn build(&mut self) -> WasiCtx {
        std::mem::take(self).ctx
    }
}
