//! What compiled code and the engine agree on, and nothing else.
//!
//! Compilers write artifacts and the engine reads them; they share no other code. The same bytes are an in-memory module, a
//! file compiled ahead of time and a cache entry:
//!
//! ```text
//! compile, tiers --CompiledFunc--> link --ImageWriter--> bytes --ImageLayout--> engine
//! ```
//!
//! No I/O, no unsafe code.
#![forbid(unsafe_code)]

pub mod abi;
pub mod allowance;
pub mod builtins;
pub mod code_bounds;
pub mod compiler;
pub mod contract;
pub mod func;
pub mod image;
pub mod profile;
pub mod settings;
pub mod tables;
pub mod vmctx;
