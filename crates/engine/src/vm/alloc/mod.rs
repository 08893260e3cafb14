//! Where instances come from and go to: warm ones are kept per module, and reused without a system call.
//!
//! ```text
//! Module --lease--> (shard of its Pool) --take--> VmInstance, reset | made new
//! store dropped --reset--> VmInstance --give--> shard | full, or reset failed: unmapped
//! ```
//!
//! What is kept is the whole instance: its context, and its memories and tables with their address space and the initial content that is
//! mapped into them. `pool` holds what is spare and keeps modules and engines alive without a counter that threads share; `lease` is how
//! stores hold on to them; `backing` is the address space of a memory or table,
//! which can be made what it was at first; `mappings` lists where these are, and `used` what guests of the stores did; `idle` bounds what is spare; `warm` finds all of it where there is no room; `counters` counts what
//! happened.

pub(crate) mod backing;
pub(crate) mod counters;
mod huge_pages;
pub(crate) mod idle;
pub(crate) mod lease;
pub(crate) mod mappings;
pub(crate) mod pool;
pub(crate) mod used;
pub(crate) mod warm;

pub(crate) use backing::Backing;
pub(crate) use counters::{Counters, Counting};
pub(crate) use lease::{EngineLease, KeptShared};
pub(crate) use pool::Pool;
pub(crate) use warm::{Spares, WarmModules};
