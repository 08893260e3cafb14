//! From the operators of a body to CLIF, one file for each family of instructions.

mod atomics;
mod bulk;
mod calls;
mod control;
mod entry;
mod flags;
mod globals;
mod guesses;
mod locals;
mod memory;
mod metering;
mod numeric;
mod references;
mod short;
mod simd;
mod stack;
mod table;
mod translator;

pub(crate) use calls::FUNCTION_NAMESPACE;
pub(crate) use flags::trap_code;
pub(crate) use translator::{FunctionInput, Stopped, Translated, translate};
