//! Runs artifacts and embeds them: Engine, Module, Store, Instance, Linker.
pub(crate) mod vm;
