//! `wasi_snapshot_preview1`: the 46 functions over the capabilities in [`crate::host`].
//!
//! Each function is a method of [`WasiP1Ctx`] that takes the guest's memory and the operands as the guest gave them, and gives the error
//! number that the guest shall see. [`table`] lists them all once, for the linker and for callers that dispatch by name.

pub mod table;

mod args;
mod clock;
mod environ;
mod fd;
mod fd_table;
mod linker;
mod memory;
mod path;
mod poll_oneoff;
mod proc;
mod random;
mod sched_yield;
mod sock;
pub mod types;

pub use linker::{I32Exit, add_to_linker_sync};
pub use memory::GuestMemory;
pub use types::Errno;

use crate::host::ctx::{WasiCtx, WasiCtxBuilder};
use fd_table::{Entry, FdTable, Object};

/// The guest ended itself by `proc_exit`. It is neither an error nor a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The guest's exit code.
    pub code: u32,
}

/// One guest of preview 1: what it was granted, and its descriptors.
pub struct WasiP1Ctx {
    /// Grants; the streams, directories and sockets are moved to `fds`.
    ctx: WasiCtx,
    fds: FdTable,
}

impl WasiP1Ctx {
    /// Numbers the grants: standard streams 0 to 2, then directories, then sockets.
    ///
    /// A standard stream of this process that is not open becomes an empty one.
    pub fn new(mut ctx: WasiCtx) -> Self {
        use crate::host::stdio::{Input, Output};
        let mut fds = FdTable::new(ctx.max_open_fds);
        let stdin = std::mem::take(&mut ctx.stdin).open().or_else(|_| Input::Empty.open());
        let stdout = std::mem::take(&mut ctx.stdout).open(rustix::stdio::stdout());
        let stderr = std::mem::take(&mut ctx.stderr).open(rustix::stdio::stderr());
        let discard = |_| Output::Discard.open(rustix::stdio::stdout());
        let streams = [
            (stdin, types::Rights::FD_READ),
            (stdout.or_else(discard), types::Rights::FD_WRITE),
            (stderr.or_else(discard), types::Rights::FD_WRITE),
        ];
        for (stream, right) in streams {
            if let Ok(stream) = stream {
                fds.grant(Entry::stream(stream, right));
            }
        }
        for (dir, name) in ctx.preopens.drain(..) {
            fds.grant(Entry::preopen(dir, name));
        }
        for socket in ctx.sockets.drain(..) {
            fds.grant(Entry::new(Object::Socket(socket)));
        }
        WasiP1Ctx { ctx, fds }
    }
}

impl WasiCtxBuilder {
    /// A context of preview 1; the builder is left as new.
    pub fn build_p1(&mut self) -> WasiP1Ctx {
        WasiP1Ctx::new(self.build())
    }
}

/// Contexts can be sent to another thread.
const _: () = {
    const fn sendable<T: Send>() {}
    sendable::<WasiP1Ctx>();
    sendable::<WasiCtx>();
    sendable::<WasiCtxBuilder>();
};
