//! Capabilities of a guest, in terms of the operating system. Nothing here knows WebAssembly, file-descriptor numbers of a guest or any
//! version of WASI; those layers sit above and call in.

pub mod clock;
pub mod ctx;
pub mod dir;
pub mod error;
pub mod file;
pub(crate) mod path;
pub mod perms;
pub mod poll;
pub mod random;
pub mod socket;
pub mod stdio;

pub use error::Error;
