//! Processors: one folder each, with the same files.
//!
//! | file | holds |
//! |---|---|
//! | `registers` | which registers there are, and what each is for |
//! | `assembler` | encodings |
//! | `abi` | where arguments and results are |
//! | `target` | names and features of the processor |
//! | `moves` | values between registers, frame, contexts and constants; jumps and traps |
//! | `calls` | prologue, epilogue, calls, returns, tail calls, stubs |
//! | `hotness` | budgets, and going on with other code at the head of a loop |
//! | `numeric`, `float`, `convert` | scalar instructions |
//! | `memory` | addresses, loads and stores |
//! | `atomics` | atomic instructions |
//! | `simd/…` | vector instructions |
//!
//! The rest of the crate says `crate::isa::target` and not which processor that is.

pub(crate) mod x64;

pub(crate) use x64 as machine;
