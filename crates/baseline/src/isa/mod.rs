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
//! The rest of the crate names three things of `crate::isa::machine`, and not which processor that is: what [`moves`](machine::moves) has as a
//! `Condition`, which registers have which role, and the `target`. What operators do is said by `operators.rs`, and each folder extends
//! [`Compiler`](crate::compile::Compiler) and [`Masm`](crate::masm::Masm) by methods of the same names. `cargo xtask layers` proves the first.

pub(crate) mod x64;

pub(crate) use x64 as machine;
