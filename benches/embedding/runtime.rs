//! The runtime that is measured. `cargo xtask bench` writes another file in the place of this one to compile the same program against the
//! `wasmtime` crate; nothing else differs.

pub use peregrine::{Caller, Config, Engine, Error, Func, Linker, Memory, Module, Result, Store, Strategy, Val};

/// Names of the ways to allocate instances that an embedder must choose from.
pub const ALLOCATORS: &[&str] = &["own"];

/// A configuration that allocates in one of these ways.
pub fn config(allocator: &str) -> Config {
    let _ = allocator;
    Config::new()
}
