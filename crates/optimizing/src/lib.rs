//! The optimizing tier: translation to Cranelift IR and passes over it.
//!
//! ```text
//! body --translate--> CLIF --Cranelift's passes--> CLIF --interrupts--> CLIF --lowering--> machine code --emit--> CompiledFunc
//! ```
//!
//! The driver sees [`Optimizing`] only, as a [`peregrine_compile::tier::Tier`].
#![forbid(unsafe_code)]

mod abi;
mod budget;
mod counted_loops;
mod emit;
mod fuel;
mod function;
mod inlining;
mod isa;
mod lines;
mod merged_loads;
mod places;
mod stubs;
mod tier;
mod translate;

#[cfg(test)]
mod tests;

pub use tier::{Optimizing, OptimizingOr};
