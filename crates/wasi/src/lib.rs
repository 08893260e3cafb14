//! WASI by explicit capabilities.
//!
//! [`host`] holds what a program may reach (files, directories, clocks, random numbers, standard streams, sockets) and knows no
//! WebAssembly. [`p1`] speaks `wasi_snapshot_preview1` over it: guest memory, file descriptors, rights and error numbers. The glue that
//! binds p1 to the engine is generated from the one table in [`p1::table`].
//!
//! ```text
//! import -> p1 function (&mut WasiP1Ctx, &mut GuestMemory, u32/u64 ...) -> host operation -> system call
//! ```

#![forbid(unsafe_code)]

pub mod host;
pub mod p1;

pub use host::ctx::{WasiCtx, WasiCtxBuilder};
pub use host::perms::{DirPerms, FilePerms};
pub use host::stdio::{MemoryInputPipe, MemoryOutputPipe};
pub use p1::{Exit, GuestMemory, WasiP1Ctx};
