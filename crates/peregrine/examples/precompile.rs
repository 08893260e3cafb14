//! Compile once, load anywhere: a module becomes an image, a file that other processes map and run without a compiler.
//!
//! `cargo run --release --example precompile`

use peregrine::{Config, Engine, Instance, Module, ModuleVersionStrategy, Precompiled, Result, Store, ensure};
use std::time::Instant;

const GUEST: &str = r#"(module (func $fib (export "fib") (param i32) (result i32)
    (if (result i32) (i32.lt_u (local.get 0) (i32.const 2))
        (then (local.get 0))
        (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1))) (call $fib (i32.sub (local.get 0) (i32.const 2))))))))"#;

fn config() -> Result<Config> {
    let mut config = Config::new();
    // Images of another release of this program are refused, not run.
    config.module_version(ModuleVersionStrategy::Custom("example 1".to_owned()))?;
    Ok(config)
}

/// Runs the example.
pub fn main() -> Result<()> {
    let file = std::env::temp_dir().join(format!("precompile-example-{}.pgn", std::process::id()));

    // At build time, or on another machine.
    let compiling = Engine::new(&config()?)?;
    let start = Instant::now();
    let image = compiling.precompile_module(GUEST.as_bytes())?;
    println!("compiled to {} bytes in {:?}", image.len(), start.elapsed());
    std::fs::write(&file, &image)?;

    // Where it runs: no compiler is needed, nor used.
    let running = Engine::new(config()?.enable_compiler(false))?;
    ensure!(Engine::detect_precompiled_file(&file)? == Some(Precompiled::Module), "`{}` is not an image", file.display());
    let start = Instant::now();
    // SAFETY: the file was written above, by this program, and nobody changes it.
    let module = unsafe { Module::deserialize_file(&running, &file)? };
    println!("loaded in {:?}", start.elapsed());
    let mut store = Store::new(&running, ());
    let fib = Instance::new(&mut store, &module, &[])?.get_typed_func::<u32, u32>(&mut store, "fib")?;
    println!("fib(20) = {}", fib.call(&mut store, 20)?);
    assert_eq!(fib.call(&mut store, 20)?, 6765);

    // What cannot run here is refused, with what differs.
    let other = Engine::new(Config::new().module_version(ModuleVersionStrategy::Custom("example 2".to_owned()))?)?;
    // SAFETY: as above.
    let error = unsafe { Module::deserialize(&other, &image) }.unwrap_err();
    println!("another release: {error}");
    std::fs::remove_file(&file)?;
    Ok(())
}
