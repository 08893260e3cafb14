//! Counters of engines and stores.

use peregrine::*;
use std::task::Waker;

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
    assert_eq!(metrics.instances_created, 1);
    assert_eq!((metrics.slots_warm, metrics.slots_cold), (0, 1));
    store.drop_instance(instance)?;
    assert_eq!((store.metrics().instances_created, store.metrics().instances_live), (1, 0));
    Instance::new(&mut store, &module, &[])?;
    assert_eq!((store.metrics().instances_created, store.metrics().instances_live), (2, 1));
    // The first one's slot.
    assert_eq!((store.metrics().slots_warm, store.metrics().slots_cold), (1, 1));
    // Another store counts its own, and the engine those of all.
    let mut other = Store::new(&engine, ());
    Instance::new(&mut other, &module, &[])?;
    assert_eq!((other.metrics().slots_warm, other.metrics().slots_cold), (0, 1));
    drop(other);
    assert_eq!((engine.metrics().slots_warm, engine.metrics().slots_cold), (1, 2));
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

/// Polls a call once. `None` if it waits.
fn poll_once<R>(call: impl Future<Output = R>) -> Option<R> {
    match std::pin::pin!(call).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(result) => Some(result),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn many_idle_stores_keep_few_stacks_when_they_were_called_as_futures() -> Result<()> {
    const STORES: usize = 500;
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "" "wait" (func $wait)) (func (export "run") (result i32) (i32.const 1)) (func (export "wait") (call $wait))
            (func (export "fail") unreachable))"#,
    )?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap_async("", "wait", |_: Caller<'_, ()>, ()| Box::new(std::future::pending::<()>()))?;
    let pre = linker.instantiate_pre(&module)?;
    let mappings = || std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count());
    let before = mappings();
    let mut stores = Vec::new();
    for number in 0..STORES {
        let mut store = Store::new(&engine, ());
        let instance = poll_once(pre.instantiate_async(&mut store)).context("it does not wait")??;
        let run = instance.get_typed_func::<(), i32>(&mut store, "run")?;
        // Calls end by returning, by being dropped while they wait, and by a trap.
        match number % 3 {
            0 => assert_eq!(poll_once(run.call_async(&mut store, ())).context("it does not wait")??, 1),
            1 => {
                let wait = instance.get_typed_func::<(), ()>(&mut store, "wait")?;
                assert!(poll_once(wait.call_async(&mut store, ())).is_none());
            }
            _ => {
                let fail = instance.get_typed_func::<(), ()>(&mut store, "fail")?;
                assert!(poll_once(fail.call_async(&mut store, ())).context("it does not wait")?.is_err());
            }
        }
        stores.push((store, run));
    }
    assert!(mappings() < before + 250, "{before} {}", mappings());
    // Those of one thread keep a few.
    assert!(engine.metrics().stacks_returned as usize >= STORES - 20, "{:?}", engine.metrics());
    for (store, run) in &mut stores {
        assert_eq!(poll_once(run.call_async(&mut *store, ())).context("it does not wait")??, 1);
        assert_eq!(run.call(store, ())?, 1);
    }
    Ok(())
}

#[test]
fn instances_that_own_shared_memories_are_counted_when_they_come_and_go() -> Result<()> {
    let engine = Engine::new(Config::new().shared_memory(true))?;
    let module = Module::new(&engine, r#"(module (import "" "m" (memory 1 1 shared)))"#)?;
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
    for _ in 0..10 {
        let mut store = Store::new(&engine, ());
        Instance::new(&mut store, &module, &[memory.clone().into()])?;
        assert_eq!(engine.metrics().instances_live, store.metrics().instances_live);
    }
    let metrics = engine.metrics();
    assert_eq!((metrics.instances_created, metrics.instances_live), (20, 0));
    let mut store = Store::new(&engine, ());
    Instance::new(&mut store, &module, &[memory.into()])?;
    assert_eq!(engine.metrics().instances_live, 2);
    Ok(())
}

#[test]
fn time_in_guest_ends_with_a_call_that_is_dropped() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, r#"(module (func (export "spin") (loop br 0)))"#)?;
    let mut store = Store::new(&engine, ());
    store.measure_time_in_guest(true);
    store.epoch_deadline_async_yield_and_update(1);
    let spin = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "spin")?;
    {
        let mut call = std::pin::pin!(spin.call_async(&mut store, ()));
        let task = &mut std::task::Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(task).is_pending(), "it lets others run");
    }
    let time = store.metrics().time_in_guest;
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(store.metrics().time_in_guest, time);
    Ok(())
}

#[test]
fn engines_count_what_living_stores_do() -> Result<()> {
    const STORES: u64 = 40;
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (func (export "run")) (func (export "fail") unreachable))"#)?;
    let all = std::thread::scope(|scope| {
        let work = |number: u64| {
            let mut store = Store::new(&engine, ());
            store.measure_time_in_guest(number.is_multiple_of(2));
            let instance = Instance::new(&mut store, &module, &[])?;
            let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
            (0..number).try_for_each(|_| run.call(&mut store, ()))?;
            assert!(instance.get_typed_func::<(), ()>(&mut store, "fail")?.call(&mut store, ()).is_err());
            Ok::<_, Error>(store)
        };
        let threads: Vec<_> = (0..STORES).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>>>()
    });
    let mut stores = all?;
    // As many are dropped in between as are left.
    while !stores.is_empty() {
        let metrics = engine.metrics();
        assert_eq!((metrics.stores_created, metrics.stores_live), (STORES, stores.len() as u64));
        assert_eq!((metrics.calls, metrics.traps), (STORES * (STORES - 1) / 2 + STORES, STORES));
        let measured: std::time::Duration = stores.iter().map(|store| store.metrics().time_in_guest).sum();
        assert!(!metrics.time_in_guest.is_zero() && metrics.time_in_guest >= measured, "{metrics:?}");
        stores.swap_remove(stores.len() / 2);
        stores.truncate(stores.len() - stores.len() / 4);
    }
    assert_eq!((engine.metrics().stores_live, engine.metrics().traps), (0, STORES));
    Ok(())
}

#[test]
fn what_calls_that_wait_wrote_is_resident() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let engine = Engine::default();
    let text = r#"(module (import "host" "wait" (func $wait)) (memory 64)
        (func (export "run") (memory.fill (i32.const 0) (i32.const 1) (i32.const 1048576)) (call $wait)))"#;
    let mut linker = Linker::new(&engine);
    linker.func_wrap_async("host", "wait", |_: Caller<'_, ()>, (): ()| Box::new(std::future::pending::<()>()))?;
    let module = Module::new(&engine, text)?;
    let before = engine.resident_bytes()?;
    let mut stores = [(); 2].map(|()| Store::new(&engine, ()));
    let mut calls = Vec::new();
    for (store, count) in stores.iter_mut().zip(1..) {
        let run = linker.instantiate(&mut *store, &module)?.get_typed_func::<(), ()>(&mut *store, "run")?;
        let mut call = Box::pin(async move { run.call_async(store, ()).await });
        assert!(call.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())).is_pending());
        calls.push(call);
        // The stores are lent to their calls; the engine knows their memories.
        let resident = engine.resident_bytes()? - before;
        // The system may give a huge page where one page was asked for.
        assert!((count * MIB..=count * (4 * MIB)).contains(&resident), "{resident} bytes of {count} calls");
    }
    // A call that is dropped leaves the memory to its store.
    drop(calls);
    assert!(engine.resident_bytes()? - before >= 2 * MIB);
    drop(stores);
    drop((linker, module));
    assert!(engine.resident_bytes()? < before + MIB);
    Ok(())
}
