//! From bytes to validated descriptions of modules.
#![forbid(unsafe_code)]
