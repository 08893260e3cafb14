//! From bytes to validated descriptions of modules.
#![forbid(unsafe_code)]

mod translation;

pub use translation::Translation;
