//! The baseline tier: machine code in one forward pass over the operators of a body, in time and memory linear in it.
//!
//! ```text
//! body --scan--> weights of locals --plan--> which locals have registers
//!      --visit, operator by operator--> code with labels --finish--> CompiledFunc
//! ```
//!
//! Operands are constants, registers, locals or homes in the frame (`values`). A local that is used often has one register in all of the
//! function, every other its home. Where control joins, all operands are in their homes but the one result of a block, which has a fixed
//! register; so there is nothing to merge. What is rarely executed is put at the end of the function.
//!
//! The driver sees [`Baseline`] only, as a [`peregrine_compile::tier::Tier`].
#![forbid(unsafe_code)]

mod body;
mod calls;
mod compile;
mod control;
mod frame;
mod globals;
mod hotness;
mod isa;
mod joins;
mod masm;
mod metering;
mod operators;
mod plan;
mod references;
mod registers;
mod scan;
mod table;
mod tier;
mod values;
mod visit;

pub use tier::{Baseline, PlainBaseline};
