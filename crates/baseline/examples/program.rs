//! Runs a program of WASI preview 1 on code of this tier: `cargo run -p peregrine-baseline --example program -- MODULE [ARGUMENT]...`. Writes how
//! long compiling and running took to standard error. The current directory is preopened as `/`.

#[path = "../tests/two_tiers/mod.rs"]
mod two_tiers;

use peregrine::{Engine, Linker, Store};
use peregrine_wasi::{DirPerms, FilePerms, WasiCtxBuilder, WasiP1Ctx};
use std::time::Instant;
use two_tiers::{Which, load};

fn main() -> peregrine::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let which = if std::env::var_os("PEREGRINE_OPTIMIZING").is_some() { Which::Optimizing } else { Which::Baseline };
    let wasm = std::fs::read(&arguments[0])?;
    let engine = Engine::default();
    let start = Instant::now();
    let module = load(&engine, which, &wasm)?;
    let compiled = Instant::now();
    let mut context = WasiCtxBuilder::new();
    context.args(&arguments).inherit_stdio();
    context.preopened_dir(".", "/", DirPerms::all(), FilePerms::all())?;
    let mut store = Store::new(&engine, WasiP1Ctx::new(context.build()));
    let mut linker = Linker::new(&engine);
    peregrine_wasi::p1::add_to_linker_sync(&mut linker, |context| context)?;
    let instance = linker.instantiate(&mut store, &module)?;
    let result = instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ());
    eprintln!("{which:?}: compiled in {:?}, ran for {:?}", compiled - start, compiled.elapsed());
    match result {
        Err(error) if error.downcast_ref::<peregrine_wasi::p1::I32Exit>().is_none() => Err(error),
        _ => Ok(()),
    }
}
