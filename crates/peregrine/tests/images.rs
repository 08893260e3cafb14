//! Images: compiled ahead of time, loaded, refused when damaged or foreign, and kept in the cache.

use peregrine::*;
use std::fs;

const WAT: &str = r#"(module $m (memory (export "memory") 1) (data (i32.const 100) "hello")
    (func (export "run") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 6))))"#;

fn run(module: &Module) -> Result<i32> {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[])?;
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    assert_eq!(&memory.data(&store)[100..105], b"hello");
    instance.get_typed_func::<i32, i32>(&mut store, "run")?.call(&mut store, 7)
}

/// Loads an image that this test made.
fn load(engine: &Engine, image: &[u8]) -> Result<Module> {
    // SAFETY: the bytes come from a compiler above, perhaps damaged by accident.
    unsafe { Module::deserialize(engine, image) }
}

#[test]
fn an_image_is_the_module() -> Result<()> {
    let engine = Engine::default();
    let image = engine.precompile_module(WAT.as_bytes())?;
    assert_eq!(engine.precompile_module(WAT.as_bytes())?, image, "the same bytes each time");
    let module = load(&engine, &image)?;
    assert_eq!(run(&module)?, 42);
    assert_eq!(module.serialize()?, image);
    assert_eq!(module.name(), Some("m"));
    // Another engine of the same configuration, in another process for example.
    assert_eq!(run(&load(&Engine::default(), &Module::new(&engine, WAT)?.serialize()?)?)?, 42);

    let dir = tempfile::tempdir()?;
    let path = dir.path().join("m.pgn");
    fs::write(&path, &image)?;
    assert_eq!(Engine::detect_precompiled_file(&path)?, Some(Precompiled::Module));
    // SAFETY: written above, and nobody else knows it.
    assert_eq!(run(&unsafe { Module::deserialize_file(&engine, &path)? })?, 42);
    assert_eq!(Engine::detect_precompiled(b"\0asm\x01\0\0\0"), None);
    Ok(())
}

#[test]
fn modules_and_images_are_not_mixed_up() -> Result<()> {
    let engine = Engine::default();
    let image = engine.precompile_module(WAT.as_bytes())?;
    for error in [Module::new(&engine, &image).unwrap_err(), Module::from_binary(&engine, &image).unwrap_err()] {
        assert!(error.to_string().contains("Module::deserialize"), "{error}");
    }
    assert!(load(&engine, b"\0asm\x01\0\0\0").unwrap_err().to_string().contains("Module::new"));
    assert!(load(&engine, b"something else").unwrap_err().to_string().contains("not a Peregrine image"));
    Ok(())
}

#[test]
fn damage_is_noticed() -> Result<()> {
    let engine = Engine::default();
    let image = engine.precompile_module(WAT.as_bytes())?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("damaged.pgn");
    let refused = |bytes: &[u8], what: &str| -> Result<()> {
        assert!(load(&engine, bytes).is_err(), "{what}");
        fs::write(&path, bytes)?;
        // SAFETY: written above, and nobody else knows it.
        assert!(unsafe { Module::deserialize_file(&engine, &path) }.is_err(), "{what}, mapped");
        Ok(())
    };
    for position in (0..image.len()).step_by(image.len() / 150 + 1) {
        refused(&image[..position], &format!("cut at {position}"))?;
        let mut flipped = image.clone();
        flipped[position] ^= 1 << (position % 8);
        refused(&flipped, &format!("flipped at {position}"))?;
    }
    Ok(())
}

#[test]
fn foreign_images_say_what_differs() -> Result<()> {
    let engine = Engine::default();
    let check = |change: &dyn Fn(&mut Config), expect: &str| -> Result<()> {
        let mut config = Config::new();
        change(&mut config);
        let image = Engine::new(&config)?.precompile_module(WAT.as_bytes())?;
        let error = format!("{:#}", load(&engine, &image).unwrap_err());
        assert!(error.contains(expect), "{error}");
        Ok(())
    };
    check(&|config| _ = config.consume_fuel(true), "`consume_fuel`")?;
    check(&|config| _ = config.memory_guard_size(1 << 20), "`memory_guard_size`")?;
    // The baseline has code for this machine alone.
    check(&|config| _ = config.strategy(Strategy::Ahead).target("aarch64-unknown-linux-gnu").unwrap(), "aarch64-unknown-linux-gnu")?;
    check(&|config| _ = config.strategy(Strategy::Ahead).target("s390x-unknown-linux-gnu").unwrap(), "s390x-unknown-linux-gnu")?;
    let epochs = Engine::new(Config::new().epoch_interruption(true))?;
    let error = load(&epochs, &engine.precompile_module(WAT.as_bytes())?).unwrap_err();
    assert!(error.to_string().contains("`epoch_interruption`"), "{error}");
    let error = load(&Engine::new(Config::new().wasm_simd(false).wasm_relaxed_simd(false))?, &engine.precompile_module(WAT.as_bytes())?)
        .unwrap_err();
    assert!(error.to_string().contains("`wasm_simd`"), "{error}");
    Ok(())
}

#[test]
fn a_baseline_image_of_this_target_runs_here() -> Result<()> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    for target in [triple.as_str(), std::env::consts::ARCH] {
        let mut config = Config::new();
        config.target(target)?;
        assert_eq!(config.get_target().as_deref(), Some(triple.as_str()));
        let image = Engine::new(&config)?.precompile_module(WAT.as_bytes())?;
        assert_eq!(run(&load(&Engine::default(), &image)?)?, 42);
    }
    Ok(())
}

#[test]
fn an_architecture_stands_for_its_triple() -> Result<()> {
    for architecture in ["x86_64", "aarch64", "riscv64", "riscv64gc", "s390x"] {
        Engine::new(Config::new().strategy(Strategy::Ahead).target(architecture)?)?.precompile_module(WAT.as_bytes())?;
    }
    Ok(())
}

#[test]
fn malformed_modules_are_errors_with_places() {
    let engine = Engine::default();
    let error = format!("{:#}", Module::new(&engine, b"\0asm\x01\0\0\0\x01\xff").unwrap_err());
    assert!(error.contains("offset"), "{error}");
    let error = format!("{:#}", Module::new(&engine, "(module (func i32.add))").unwrap_err());
    assert!(error.contains("type mismatch"), "{error}");
    let error = format!("{:#}", Module::new(&engine, "(module\n  (fun))").unwrap_err());
    assert!(error.contains("fun"), "{error}");
    assert!(Module::validate(&engine, b"\0asm\x01\0\0\0").is_ok());
    assert!(Module::validate(&engine, b"\0asm\x02\0\0\0").is_err());
    assert!(Engine::new(Config::new().wasm_gc(true)).unwrap_err().to_string().contains("garbage collection"));
    assert!(Config::new().target("nonsense").is_err());
}

#[test]
fn what_is_in_a_module() -> Result<()> {
    let engine = Engine::new(Config::new().strategy(Strategy::Ahead))?;
    let module = Module::new(
        &engine,
        r#"(module (import "a" "b" (func $imported)) (func $one (export "one")) (func $two nop unreachable) (memory (export "m") 1 2)
            (@custom "notes" "content"))"#,
    )?;
    assert_eq!(module.get_export("m").unwrap().to_string(), "(memory 1 2)");
    assert_eq!(module.custom_sections("notes").collect::<Vec<_>>(), [b"content"]);
    assert_eq!(module.custom_sections("none").count(), 0);
    let functions: Vec<_> = module.functions().collect();
    let names: Vec<_> = functions.iter().map(|function| (function.index.as_u32(), function.name.as_deref())).collect();
    assert_eq!(names, [(1, Some("one")), (2, Some("two"))]);
    assert!(functions.iter().all(|function| function.len > 0 && function.offset + function.len <= module.text().len()));
    assert!(module.address_map().unwrap().any(|(_, offset)| offset.is_some()));
    let export = module.get_export_index("one").unwrap();
    let mut store = Store::new(&engine, ());
    let import = Func::wrap(&mut store, || {});
    let instance = Instance::new(&mut store, &module, &[import.into()])?;
    assert!(instance.get_module_export(&mut store, &export).unwrap().into_func().is_some());
    assert!(Module::same(instance.module(&store), &module));
    assert_eq!(instance.exports(&mut store).map(|export| export.name().to_owned()).collect::<Vec<_>>(), ["one", "m"]);
    Ok(())
}

/// Under stress nothing is kept, so the strategies are named.
#[test]
fn the_cache_keeps_modules() -> Result<()> {
    [Strategy::Tiered, Strategy::Ahead, Strategy::Baseline].into_iter().try_for_each(the_cache_keeps_modules_of)
}

fn the_cache_keeps_modules_of(strategy: Strategy) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::new(dir.path().join("cache"))?;
    let mut config = Config::new();
    config.strategy(strategy).cache(Some(cache.clone()));
    let engine = || Engine::new(&config);
    assert_eq!(run(&Module::new(&engine()?, WAT)?)?, 42);
    let entries = || -> Vec<_> {
        let all = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|extension| extension == "pgn")).collect()
    };
    let [entry] = &entries()[..] else { panic!("one entry: {:?}", entries()) };
    let image = fs::read(entry)?;
    let all = fs::read_dir(cache.path())?.map(|entry| entry?.metadata()).collect::<std::io::Result<Vec<_>>>()?;
    assert_eq!(cache.size_bytes()?, all.iter().map(fs::Metadata::len).sum::<u64>());
    let modified = fs::metadata(entry)?.modified()?;
    assert_eq!(run(&Module::new(&engine()?, WAT)?)?, 42);
    assert_eq!(fs::metadata(entry)?.modified()?, modified, "read, not written again");

    // Whatever is wrong with an entry, the module runs and the entry is replaced.
    let mut flipped = image.clone();
    flipped[image.len() / 2] ^= 1;
    for damaged in [&image[..image.len() / 2], &flipped, b"", b"nonsense"] {
        fs::write(entry, damaged)?;
        assert_eq!(run(&Module::new(&engine()?, WAT)?)?, 42);
        assert_eq!(fs::read(entry)?, image);
    }

    // Another setting is another entry.
    config.consume_fuel(true);
    Module::new(&Engine::new(&config)?, WAT)?;
    assert_eq!(entries().len(), 2);
    cache.clear()?;
    assert_eq!(entries().len(), 0);
    Ok(())
}

#[test]
fn many_writers_share_a_cache() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = Config::new();
    config.cache(Some(Cache::new(dir.path().join("cache"))?));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    for number in 0..5 {
                        let engine = Engine::new(&config).unwrap();
                        let module = Module::new(&engine, WAT.replace("const 6", &format!("const {number}"))).unwrap();
                        assert_eq!(run(&module).unwrap(), 7 * number);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    Ok(())
}

#[test]
fn debuggers_and_profilers_are_told() -> Result<()> {
    let mut config = Config::new();
    config.strategy(Strategy::Ahead).debug_info(true).native_unwind_info(true).profiler(ProfilingStrategy::PerfMap);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, r#"(module (func $a_name_for_the_profiler (export "run")))"#)?;
    let path = format!("/tmp/perf-{}.map", std::process::id());
    let map = fs::read_to_string(&path)?;
    assert!(map.contains("a_name_for_the_profiler [optimized]"), "{map}");
    drop(module);
    fs::remove_file(path)?;
    Ok(())
}

/// A small function that is inlined is looked at before its turn: what is wrong with it is still reported as what it is.
#[test]
fn an_invalid_callee_is_an_invalid_module() {
    let text = r#"(module
        (func (export "f") (result i32) (call $callee))
        (func $callee (result i32) (i32.const 1) (i32.const 2) (i32.add)))"#;
    let mut wasm = wat::parse_str(text).expect("good text");
    // Take the body's second constant for a local that is not there.
    let place = wasm.windows(4).rposition(|bytes| bytes == [0x41, 1, 0x41, 2]).expect("both constants") + 2;
    wasm[place..place + 2].copy_from_slice(&[0x20, 9]);
    let error = Module::new(&Engine::default(), &wasm).map(drop).expect_err("there is no local 9");
    assert!(format!("{error:#}").contains("unknown local 9"), "{error:#}");
}

#[test]
fn code_that_is_compiled_one_by_one_is_not_in_the_text() -> Result<()> {
    let text = r#"(module (func (export "f") (result i32) (i32.const 1)) (func (export "g") (result i32) (i32.const 2)))"#;
    let lens = |module: &Module| module.functions().map(|function| function.len).collect::<Vec<_>>();
    let whole = Module::new(&Engine::new(Config::new().strategy(Strategy::Cranelift))?, text)?;
    assert!(lens(&whole).iter().all(|len| *len > 0));
    assert!(whole.address_map().is_some_and(|map| map.count() > 0));
    let tiered = Module::new(&Engine::new(Config::new().strategy(Strategy::Tiered))?, text)?;
    assert_eq!(lens(&tiered), [0, 0]);
    assert_eq!(tiered.address_map().map_or(0, Iterator::count), 0);
    let bytes = tiered.serialize()?;
    // SAFETY: the bytes of an image.
    let loaded = unsafe { Module::deserialize(tiered.engine(), bytes)? };
    assert!(lens(&loaded).iter().all(|len| *len > 0));
    Ok(())
}
