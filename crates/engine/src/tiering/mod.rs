//! When functions are compiled, and by which tier: the policy of modules whose functions are compiled one by one.
//!
//! ```text
//! first call of a function -first_call-> baseline code, at once, by the calling thread
//! budget used up at an entry -hot_function-> Queue -> a worker: optimized code -> the entry slot
//! budget used up in a loop   -hot_loop---> Queue -> a worker: optimized code from that loop on, which the next turn goes on with
//! ```
//!
//! The machine calls the three functions here from its builtins; where code lies and how it is reached is its business
//! ([`crate::vm`]). Lock order: the state of a module before that of the queue, and that before the pool's.

mod budget;
mod failure;
mod feedback;
mod heat;
mod install;
mod jobs;
mod metrics;
mod module;
mod pool;
mod queue;
mod stress;

pub(crate) use heat::{hot_function, hot_loop};
pub use metrics::TieringMetrics;
pub(crate) use module::{FirstTier, ModuleTiering, TieringSource, first_call};
pub(crate) use queue::Queue;
pub use stress::TieringStress;
