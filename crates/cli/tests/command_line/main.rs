//! The command line end to end: every test runs the built command.

mod address_space;
mod caching;
mod compiling;
mod inspecting;
mod limits;
mod peregrine;
mod profiling;
mod running;
mod scripts;
mod usage;
mod wasi;
