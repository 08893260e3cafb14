//! x86-64. SSE4.1 and what came before it are taken for granted; everything later is used if the settings say that it is there.

pub(crate) mod abi;
pub(crate) mod assembler;
pub(crate) mod atomics;
pub(crate) mod calls;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod hotness;
pub(crate) mod memory;
pub(crate) mod moves;
pub(crate) mod numeric;
mod operands;
pub(crate) mod registers;
mod runs;
pub(crate) mod simd;
mod stubs;
pub(crate) mod target;
pub(crate) mod targets;
