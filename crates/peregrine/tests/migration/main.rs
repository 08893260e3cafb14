//! Programs as embedders of the `wasmtime` crate (version 48) write them. Each compiles and behaves the same with that name in place of
//! `peregrine`: that is what these tests are for, so nothing in here is special to this crate.
#![allow(clippy::undocumented_unsafe_blocks, reason = "programs are as embedders write them")]

mod asynchronous;
mod callbacks;
mod errors;
mod foreign;
mod holders;
mod images;
mod limits;
mod linking;
mod plugins;
mod raw;
mod reflection;
mod settings;
mod threads;
