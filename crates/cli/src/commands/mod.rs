//! One file per command, and what several of them share: [`setup`] makes engines of options, [`failure`] ends the process.

pub(crate) mod cache;
pub(crate) mod compile;
pub(crate) mod completion;
pub(crate) mod inspect;
pub(crate) mod profile;
pub(crate) mod run;
pub(crate) mod settings;
pub(crate) mod validate;
pub(crate) mod wast;

pub(crate) mod failure;
pub(crate) mod output;

mod deadline;
mod imports;
mod invoke;
mod log;
mod progress;
mod setup;
