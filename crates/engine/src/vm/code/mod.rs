//! Code in memory: images loaded, and the registry that finds them by program counter.

mod load;
pub(crate) mod registry;

pub(crate) use load::{LoadError, LoadedModule, NO_FUNCTION};
