//! Runs a program of WASI preview 1 under a strategy: `cargo run -p peregrine-baseline --example tiers -- STRATEGY MODULE [ARGUMENT]...`, where
//! `STRATEGY` is `ahead`, `baseline`, `tiered` or `deferred` (tiered, with validation deferred). Writes how long loading and running took, and
//! what the tiers did, to standard error. The current directory is preopened as `/`.

use peregrine::{Config, Engine, Linker, Module, Store, Strategy};
use peregrine_wasi::{DirPerms, FilePerms, WasiCtxBuilder, WasiP1Ctx};
use std::time::Instant;

fn main() -> peregrine::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut config = Config::new();
    config.deferred_validation(arguments[0] == "deferred").strategy(match &*arguments[0] {
        "ahead" => Strategy::Ahead,
        "baseline" => Strategy::Baseline,
        _ => Strategy::Tiered,
    });
    let start = Instant::now();
    let engine = Engine::new(&config)?;
    let module = Module::from_file(&engine, &arguments[1])?;
    let loaded = Instant::now();
    let mut context = WasiCtxBuilder::new();
    context.args(&arguments[1..]).inherit_stdio();
    context.preopened_dir(".", "/", DirPerms::all(), FilePerms::all())?;
    let mut store = Store::new(&engine, WasiP1Ctx::new(context.build()));
    let mut linker = Linker::new(&engine);
    peregrine_wasi::p1::add_to_linker_sync(&mut linker, |context| context)?;
    let instance = linker.instantiate(&mut store, &module)?;
    let instantiated = Instant::now();
    let result = instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ());
    eprintln!("loaded in {:?}, instantiated in {:?}, ran for {:?}", loaded - start, instantiated - loaded, instantiated.elapsed());
    eprintln!("{:?}", module.tiering_metrics());
    match result {
        Err(error) if error.downcast_ref::<peregrine_wasi::p1::I32Exit>().is_none() => Err(error),
        _ => Ok(()),
    }
}
