//! Counters of engines and stores.

use peregrine::*;

#[test]
fn stores_count_what_they_do_and_hold() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory 2 2) (table 10 funcref)
            (func (export "touch") (i32.store (i32.const 0) (i32.const 1)))
            (func (export "trap") unreachable))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    assert_eq!(store.resident_bytes()?, 0);
    let touch = instance.get_typed_func::<(), ()>(&mut store, "touch")?;
    (0..5).try_for_each(|_| touch.call(&mut store, ()))?;
    assert!(instance.get_typed_func::<(), ()>(&mut store, "trap")?.call(&mut store, ()).is_err());
    let metrics = store.metrics();
    assert_eq!((metrics.calls, metrics.traps), (6, 1));
    assert_eq!((metrics.instances_live, metrics.memories, metrics.tables, metrics.memory_bytes), (1, 1, 1, 131_072));
    assert!(metrics.mapped_bytes >= 131_072 && metrics.reserved_bytes < 1 << 30, "{metrics:?}");
    assert!((4_096..131_072).contains(&store.resident_bytes()?));
    let engine_metrics = engine.metrics();
    assert_eq!((engine_metrics.stores_live, engine_metrics.instances_live), (1, 1));
    drop(store);
    let metrics = engine.metrics();
    assert_eq!((metrics.stores_live, metrics.instances_live, metrics.calls, metrics.traps), (0, 0, 6, 1));
    Ok(())
}

#[test]
fn many_idle_stores_keep_few_stacks() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (func (export "run") (result i32) (i32.const 1)))"#)?;
    let mappings = || std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count());
    let before = mappings();
    let mut stores = Vec::new();
    for _ in 0..500 {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let run = instance.get_typed_func::<(), i32>(&mut store, "run")?;
        assert_eq!(run.call(&mut store, ())?, 1);
        stores.push((store, run));
    }
    assert!(mappings() < before + 250, "{before} {}", mappings());
    for (store, run) in &mut stores {
        assert_eq!(run.call(store, ())?, 1);
    }
    Ok(())
}
