//! From a validated module to an image: stubs, batches, linking.
//!
//! ```text
//! wasm -frontend-> Translation -plan-> batches of bodies and stubs -Tier, on several threads-> CompiledFunc
//!      -link, in order-> text, tables -sections, memory images-> image
//! ```
//!
//! The same module and settings give the same bytes, however many threads there are. What is held at once is bounded: finished
//! functions are linked in order while others are still compiled, and threads wait when they are too far ahead.
//! No code generator lives here: tiers are above, behind [`tier::Tier`]. No I/O, no unsafe code.
#![forbid(unsafe_code)]

pub mod driver;
pub mod memory_gate;
pub mod tier;

mod account;
mod added;
mod budget;
mod duplicates;
mod lazy;
mod link;
mod memory_image;
mod parallel;
mod pieces;
mod plan;
mod relocate;
mod sections;

pub use budget::Budget;
pub use driver::ImageCompiler;

#[cfg(test)]
mod tests;
