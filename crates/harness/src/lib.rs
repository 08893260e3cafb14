//! Development only: the .wast runner and the oracles.
//!
//! [`wast`] is also what `peregrine wast` runs; the oracles (feature `oracles`) bring other engines with them and serve tests and
//! fuzzing alone.
#![forbid(unsafe_code)]

pub mod bombs;
pub mod processor_time;
pub mod wast;

#[cfg(feature = "oracles")]
pub mod cases;
#[cfg(feature = "oracles")]
pub mod differential;
#[cfg(feature = "oracles")]
pub mod modules;
#[cfg(feature = "oracles")]
pub mod programs;
#[cfg(feature = "oracles")]
pub mod tiers;
