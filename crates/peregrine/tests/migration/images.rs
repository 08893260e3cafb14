//! Modules compiled beforehand.

use peregrine::{CodeBuilder, Config, Engine, Instance, Module, OptLevel, Precompiled, Result, Store, Strategy};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

const WAT: &str = r#"(module $answer (func (export "answer") (result i32) (i32.const 42)))"#;

fn answer(module: &Module) -> Result<i32> {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[])?;
    instance.get_typed_func::<(), i32>(&mut store, "answer")?.call(&mut store, ())
}

#[test]
fn precompiled_modules_are_loaded() -> Result<()> {
    let mut config = Config::new();
    config.strategy(Strategy::Cranelift).cranelift_opt_level(OptLevel::SpeedAndSize).parallel_compilation(false);
    let engine = Engine::new(&config)?;
    let bytes = engine.precompile_module(WAT.as_bytes())?;
    assert!(matches!(Engine::detect_precompiled(&bytes), Some(Precompiled::Module)));
    assert!(Engine::detect_precompiled(b"\0asm\x01\0\0\0").is_none());
    assert_eq!(answer(&unsafe { Module::deserialize(&engine, &bytes)? })?, 42);

    let file = std::env::temp_dir().join(format!("migration-{}.cwasm", std::process::id()));
    std::fs::write(&file, Module::new(&engine, WAT)?.serialize()?)?;
    assert!(Engine::detect_precompiled_file(&file)?.is_some());
    let module = unsafe { Module::deserialize_file(&engine, &file)? };
    assert_eq!(answer(&module)?, 42);
    assert_eq!(answer(&unsafe { Module::from_trusted_file(&engine, &file)? })?, 42);
    assert!(!module.text().is_empty());
    std::fs::remove_file(&file)?;

    let hash = |engine: &Engine| {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    };
    assert_eq!(hash(&engine), hash(&Engine::new(&config)?));
    assert_ne!(hash(&engine), hash(&Engine::new(config.consume_fuel(true))?));
    Ok(())
}

#[test]
fn a_builder_compiles_too() -> Result<()> {
    let engine = Engine::default();
    let module = CodeBuilder::new(&engine).wasm_binary_or_text(WAT.as_bytes(), None)?.compile_module()?;
    assert_eq!(answer(&module)?, 42);
    let names: Vec<_> = module.functions().map(|function| function.index.as_u32()).collect();
    assert_eq!(names, [0]);
    assert_eq!(module.resources_required().num_memories, 0);
    Ok(())
}

#[test]
fn modules_are_shared_between_threads() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, WAT)?;
    let threads: Vec<_> = (0..4).map(|_| module.clone()).map(|module| std::thread::spawn(move || answer(&module))).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap()?, 42);
    }
    Ok(())
}

#[test]
fn what_bytes_were_compiled_from_is_one_of_two() -> Result<()> {
    let image = Engine::default().precompile_module(b"(module)")?;
    let what = match Engine::detect_precompiled(&image) {
        Some(peregrine::Precompiled::Module) => "module",
        Some(peregrine::Precompiled::Component) => "component",
        None => "neither",
    };
    assert_eq!(what, "module");
    assert!(matches!(peregrine::Collector::default(), peregrine::Collector::Auto));
    Ok(())
}
