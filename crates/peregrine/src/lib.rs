//! A fast, safe, embeddable WebAssembly runtime.
//!
//! ```
//! use peregrine::{Engine, Linker, Module, Store};
//!
//! let engine = Engine::default();
//! let module = Module::new(
//!     &engine,
//!     r#"(module
//!         (import "host" "name" (func $name (result i32)))
//!         (func (export "answer") (result i32) (i32.mul (call $name) (i32.const 6))))"#,
//! )?;
//! let mut linker = Linker::new(&engine);
//! linker.func_wrap("host", "name", || 7)?;
//! let mut store = Store::new(&engine, ());
//! let instance = linker.instantiate(&mut store, &module)?;
//! let answer = instance.get_typed_func::<(), i32>(&mut store, "answer")?;
//! assert_eq!(answer.call(&mut store, ())?, 42);
//! # Ok::<(), peregrine::Error>(())
//! ```
//!
//! | | |
//! |---|---|
//! | [`Config`], [`Engine`] | what is compiled how; one per process is usual |
//! | [`Module`] | compiled code, shared between threads and stores |
//! | [`Store`] | instances, the host's data, limits, fuel, deadlines |
//! | [`Linker`], [`Instance`] | imports resolved by name; a module brought to life |
//! | [`Func`], [`TypedFunc`], [`Caller`] | calls in both directions |
//! | [`Memory`], [`SharedMemory`], [`Table`], [`Global`], [`ExternRef`] | what guests and host share |
//! | [`ResourceLimiter`], [`StoreLimits`] | what guests may have |
//! | [`Trap`], [`WasmBacktrace`], [`Error`], [`WasmCoreDump`] | why a call ended, and where |
//! | [`CallHook`], [`GuestProfiler`] | what guests do meanwhile |
//!
//! The names are those of the `wasmtime` crate, version 48: programs written for it compile with the name changed. `docs/migrating.md` says
//! what differs. Each program in `examples/` of this crate runs by `cargo run --release --example NAME`.
//!
//! This crate is the engine with the compilers linked in; it holds no code of its own.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub use peregrine_engine::*;

use peregrine_artifact::compiler::{Compiler, CompilerEntry, CompilerKind, CompilerOptions};
use peregrine_baseline::{Baseline, PlainBaseline};
use peregrine_compile::ImageCompiler;
use peregrine_compile::tier::Tier;
use peregrine_optimizing::OptimizingOr;
use std::sync::Arc;

#[linkme::distributed_slice(COMPILERS)]
static OPTIMIZING: CompilerEntry = CompilerEntry {
    kind: CompilerKind::Optimizing,
    make: |options| compiler(ImageCompiler::new(optimizing()).with_fast_tier(baseline(options)), options),
};

#[linkme::distributed_slice(COMPILERS)]
static BASELINE: CompilerEntry =
    CompilerEntry { kind: CompilerKind::Baseline, make: |options| compiler(ImageCompiler::new(baseline(options)), options) };

fn baseline(options: &CompilerOptions) -> Arc<dyn Tier> {
    if options.plain { Arc::new(PlainBaseline) } else { Arc::new(Baseline) }
}

fn optimizing() -> Arc<dyn Tier> {
    Arc::new(OptimizingOr::new(Arc::new(Baseline)))
}

fn compiler(compiler: ImageCompiler, options: &CompilerOptions) -> Arc<dyn Compiler> {
    Arc::new(match options.threads {
        Some(threads) => compiler.with_threads(threads),
        None => compiler,
    })
}

/// What README shows is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
