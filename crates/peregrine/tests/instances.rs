//! Instances that come and go: what one leaves behind the next must not see, and nothing may pile up.

use peregrine::{Config, Engine, Instance, Linker, Module, Result, Store, Val};

/// A module with a memory, a table and a global, whose functions write a secret to all of them and look for it.
const SECRETIVE: &str = r#"(module
    (type $nop (func))
    (memory (export "memory") 2 10)
    (data (i32.const 1000) "public")
    (table (export "table") 100 200 funcref)
    (table (export "hosts") 10 20 externref)
    (global $g (export "global") (mut i64) (i64.const 5))
    (func $f (type $nop))
    (elem (i32.const 3) $f)
    (elem $passive func $f)
    (data $segment "passive")
    (func (export "hide")
        (memory.fill (i32.const 0) (i32.const 0x5e) (i32.const 131072))
        (drop (memory.grow (i32.const 3)))
        (memory.fill (i32.const 131072) (i32.const 0x5e) (i32.const 196608))
        (table.fill (i32.const 0) (ref.func $f) (i32.const 100))
        (drop (table.grow (ref.func $f) (i32.const 50)))
        (data.drop $segment)
        (elem.drop $passive)
        (global.set $g (i64.const 0x5e5e)))
    (func (export "hide_and_trap")
        (memory.fill (i32.const 0) (i32.const 0x5e) (i32.const 131072))
        (global.set $g (i64.const 0x5e5e))
        unreachable)
    (func (export "use_segments")
        (memory.init $segment (i32.const 0) (i32.const 0) (i32.const 7))
        (table.init $passive (i32.const 0) (i32.const 0) (i32.const 1))))"#;

/// Fails if anything in the fresh instance is not as its module says.
fn look(store: &mut Store<()>, instance: Instance, round: usize) -> Result<()> {
    let memory = instance.get_memory(&mut *store, "memory").unwrap();
    let bytes = memory.data(&*store);
    assert_eq!(bytes.len(), 131_072, "round {round}");
    let expected = |offset: usize| b"public".get(offset.wrapping_sub(1000)).copied().unwrap_or(0);
    let wrong = (0..bytes.len()).find(|offset| bytes[*offset] != expected(*offset));
    assert_eq!(wrong, None, "round {round}");
    let table = instance.get_table(&mut *store, "table").unwrap();
    assert_eq!(table.size(&*store), 100, "round {round}");
    for index in 0..100 {
        let element = table.get(&mut *store, index).unwrap();
        assert_eq!(element.is_null(), index != 3, "round {round}, element {index}");
    }
    assert_eq!(instance.get_table(&mut *store, "hosts").unwrap().size(&*store), 10);
    let global = instance.get_global(&mut *store, "global").unwrap();
    assert_eq!(global.get(&mut *store).unwrap_i64(), 5, "round {round}");
    Ok(())
}

#[test]
fn no_secret_survives_a_reuse() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, SECRETIVE)?;
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    let rounds = 300;
    for round in 0..rounds {
        let mut store = Store::new(&engine, ());
        let instance = pre.instantiate(&mut store)?;
        look(&mut store, instance, round)?;
        match round % 5 {
            0 => instance.get_typed_func::<(), ()>(&mut store, "hide")?.call(&mut store, ())?,
            1 => assert!(instance.get_typed_func::<(), ()>(&mut store, "hide_and_trap")?.call(&mut store, ()).is_err()),
            // The host alone writes.
            2 => instance.get_memory(&mut store, "memory").unwrap().write(&mut store, 70_000, b"secret")?,
            3 => {
                let memory = instance.get_memory(&mut store, "memory").unwrap();
                memory.grow(&mut store, 1)?;
                memory.data_mut(&mut store)[131_072] = 0x5e;
                instance.get_global(&mut store, "global").unwrap().set(&mut store, Val::I64(9))?;
                let table = instance.get_table(&mut store, "table").unwrap();
                let element = table.get(&mut store, 3).unwrap();
                table.set(&mut store, 50, element)?;
                table.grow(&mut store, 10, element)?;
            }
            // Nobody writes; segments are still there in every life.
            _ => instance.get_typed_func::<(), ()>(&mut store, "use_segments")?.call(&mut store, ())?,
        }
    }
    let metrics = engine.metrics();
    assert_eq!((metrics.slots_cold, metrics.slots_warm), (1, rounds as u64 - 1));
    assert_eq!((metrics.instances_live, metrics.slots_idle, metrics.slots_quarantined), (0, 1, 0));
    Ok(())
}

#[test]
fn grown_memory_is_out_of_bounds_again() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory 1) (func (export "grow") (drop (memory.grow (i32.const 1))))
            (func (export "load") (result i32) (i32.load (i32.const 70000))))"#,
    )?;
    for _ in 0..20 {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let load = instance.get_typed_func::<(), i32>(&mut store, "load")?;
        assert!(load.call(&mut store, ()).is_err());
        instance.get_typed_func::<(), ()>(&mut store, "grow")?.call(&mut store, ())?;
        assert_eq!(load.call(&mut store, ())?, 0);
    }
    Ok(())
}

#[test]
fn references_to_functions_are_right_in_every_life() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (type $int (func (result i32)))
            (import "" "number" (func $number (result i32)))
            (table 4 funcref)
            (func $own (result i32) (i32.const 7))
            (elem (i32.const 0) $own $number)
            (func (export "own") (result i32) (call_indirect (type $int) (i32.const 0)))
            (func (export "imported") (result i32) (call_indirect (type $int) (i32.const 1))))"#,
    )?;
    let mut linker = Linker::<i32>::new(&engine);
    linker.func_wrap("", "number", |caller: peregrine::Caller<'_, i32>| *caller.data())?;
    let pre = linker.instantiate_pre(&module)?;
    for number in 0..50 {
        let mut store = Store::new(&engine, number);
        let instance = pre.instantiate(&mut store)?;
        assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "own")?.call(&mut store, ())?, 7);
        assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "imported")?.call(&mut store, ())?, number);
    }
    Ok(())
}

#[test]
fn warm_instances_go_with_their_module_and_engine() -> Result<()> {
    let engine = Engine::default();
    let modules: Vec<Module> = (0..3).map(|_| Module::new(&engine, "(module (memory 1) (table 10 funcref))")).collect::<Result<_>>()?;
    let mut stores = Vec::new();
    for module in &modules {
        let mut store = Store::new(&engine, ());
        Instance::new(&mut store, module, &[])?;
        stores.push(store);
        Instance::new(Store::new(&engine, ()), module, &[])?;
    }
    assert_eq!(engine.metrics().slots_idle, 3);
    drop(modules);
    assert_eq!((engine.metrics().slots_idle, engine.metrics().slots_idle_reserved_bytes), (0, 0));
    // Stores keep modules that nobody else has, and what is left of them is not kept warm.
    drop(stores);
    assert_eq!(engine.metrics().slots_idle, 0);
    let weak = engine.weak();
    let store = Store::new(&engine, ());
    drop(engine);
    assert!(weak.upgrade().is_some(), "a store keeps its engine");
    drop(store);
    assert!(weak.upgrade().is_none());
    Ok(())
}

#[test]
fn a_store_outlives_the_handles_of_its_module() -> Result<()> {
    let mut store = Store::new(&Engine::default(), ());
    let instance = {
        let module = Module::new(store.engine(), r#"(module (func (export "run") (result i32) (i32.const 3)))"#)?;
        Instance::new(&mut store, &module, &[])?
    };
    assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())?, 3);
    let module = instance.module(&store).clone();
    drop(store);
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, &module, &[])?;
    assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())?, 3);
    Ok(())
}

#[test]
fn threads_make_and_drop_at_once() -> Result<()> {
    let engine = Engine::new(Config::new().wasm_multi_memory(true))?;
    let module = Module::new(&engine, SECRETIVE)?;
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            for round in 0..60 {
                let mut store = Store::new(&engine, ());
                let instance = pre.instantiate(&mut store)?;
                look(&mut store, instance, round)?;
                instance.get_typed_func::<(), ()>(&mut store, "hide")?.call(&mut store, ())?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let metrics = engine.metrics();
    assert_eq!((metrics.instances_created, metrics.instances_live), (240, 0));
    assert!(metrics.slots_cold <= 4 && metrics.slots_idle == metrics.slots_cold - metrics.slots_surplus);
    Ok(())
}
