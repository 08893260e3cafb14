//! The command line end to end: every test runs the built command.

mod caching;
mod compiling;
mod inspecting;
mod limits;
mod peregrine;
mod running;
mod scripts;
mod usage;
mod wasi;
