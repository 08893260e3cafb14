//! Code in memory: images loaded, code that is added to them while they run, and the registry that finds both by program counter.

mod blobs;
mod cells;
mod load;
pub(crate) mod registry;
mod tiered;

pub(crate) use blobs::BlobKind;
pub(crate) use cells::CellContent;
pub(crate) use load::{LoadError, LoadOptions, LoadedModule, ModuleNumber, NO_FUNCTION};
pub(crate) use tiered::{InstallError, TieredCode};
