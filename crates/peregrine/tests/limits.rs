//! Limits, fuel and epochs.

use peregrine::*;
use std::time::{Duration, Instant};

#[test]
fn limits_refuse_growth_and_creation() -> Result<()> {
    let engine = Engine::default();
    let limits = StoreLimitsBuilder::new().memory_size(2 << 16).table_elements(4).instances(2).memories(2).build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    let module = Module::new(
        &engine,
        r#"(module (memory 1) (table 2 funcref)
            (func (export "memory") (result i32) (memory.grow (i32.const 1)))
            (func (export "table") (result i32) (table.grow (ref.null func) (i32.const 2))))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let memory = instance.get_typed_func::<(), i32>(&mut store, "memory")?;
    let table = instance.get_typed_func::<(), i32>(&mut store, "table")?;
    assert_eq!([memory.call(&mut store, ())?, memory.call(&mut store, ())?], [1, -1]);
    assert_eq!([table.call(&mut store, ())?, table.call(&mut store, ())?], [2, -1]);
    let large = Module::new(&engine, "(module (memory 3))")?;
    let error = Instance::new(&mut store, &large, &[]).unwrap_err().to_string();
    assert!(error.contains("exceeds memory limits"), "{error}");
    let empty = Module::new(&engine, "(module)")?;
    Instance::new(&mut store, &empty, &[])?;
    let error = Instance::new(&mut store, &empty, &[]).unwrap_err().to_string();
    assert!(error.starts_with("resource limit exceeded: instance count too high at 3, the limit is 2"), "{error}");
    Ok(())
}

#[test]
fn a_refusal_can_be_an_error() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, StoreLimitsBuilder::new().memory_size(1 << 16).trap_on_grow_failure(true).build());
    store.limiter(|limits| limits);
    let module = Module::new(&engine, r#"(module (memory 1) (func (export "run") (drop (memory.grow (i32.const 1)))))"#)?;
    let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
    let error = run.call(&mut store, ()).unwrap_err();
    assert!(format!("{error:#}").contains("growing memory to 131072 bytes"), "{error:#}");
    assert!(error.downcast_ref::<WasmBacktrace>().is_some());
    Ok(())
}

const SPIN: &str = r#"(module
    (func (export "spin") (loop br 0))
    (func $recurse (export "recurse") (param i32) (if (local.get 0) (then (call $recurse (i32.sub (local.get 0) (i32.const 1))))))
    (func (export "some") (result i32) (i32.add (i32.const 1) (i32.const 2))))"#;

#[test]
fn fuel_is_counted() -> Result<()> {
    let engine = Engine::new(Config::new().consume_fuel(true))?;
    let module = Module::new(&engine, SPIN)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let spin = instance.get_typed_func::<(), ()>(&mut store, "spin")?;
    let some = instance.get_typed_func::<(), i32>(&mut store, "some")?;
    assert_eq!(spin.call(&mut store, ()).unwrap_err().downcast_ref(), Some(&Trap::OutOfFuel), "a new store has none");
    store.set_fuel(1000)?;
    assert_eq!(some.call(&mut store, ())?, 3);
    let used = 1000 - store.get_fuel()?;
    assert!((1..20).contains(&used), "{used}");
    some.call(&mut store, ())?;
    assert_eq!(store.get_fuel()?, 1000 - 2 * used, "the same each time");
    assert_eq!(spin.call(&mut store, ()).unwrap_err().downcast_ref(), Some(&Trap::OutOfFuel));
    assert_eq!(store.get_fuel()?, 0);
    store.set_fuel(u64::MAX)?;
    some.call(&mut store, ())?;
    assert_eq!(store.get_fuel()?, u64::MAX - used);
    let error = Store::new(&Engine::default(), ()).set_fuel(1).unwrap_err();
    assert!(error.to_string().contains("consume_fuel"));
    Ok(())
}

#[test]
fn epochs_interrupt() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, SPIN)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let spin = instance.get_typed_func::<(), ()>(&mut store, "spin")?;
    let some = instance.get_typed_func::<(), i32>(&mut store, "some")?;
    for _ in 0..3 {
        store.set_epoch_deadline(2);
        assert_eq!(some.call(&mut store, ())?, 3);
        engine.increment_epoch();
        assert_eq!(some.call(&mut store, ())?, 3);
        let ticker = engine.clone();
        let started = Instant::now();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            ticker.increment_epoch();
        });
        let error = spin.call(&mut store, ()).unwrap_err();
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
        assert_eq!(error.downcast_ref::<WasmBacktrace>().unwrap().frames().len(), 1);
        thread.join().unwrap();
        assert_eq!(spin.call(&mut store, ()).unwrap_err().downcast_ref(), Some(&Trap::Interrupt), "the deadline stays");
    }
    // Only the store whose deadline it is stops.
    let mut other = Store::new(&engine, ());
    other.set_epoch_deadline(100);
    let some = Instance::new(&mut other, &module, &[])?.get_typed_func::<(), i32>(&mut other, "some")?;
    engine.increment_epoch();
    assert_eq!(some.call(&mut other, ())?, 3);
    Ok(())
}

#[test]
fn stores_move_between_threads() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, SPIN)?;
    let mut store = Store::new(&engine, ());
    let recurse = Instance::new(&mut store, &module, &[])?.get_typed_func::<u32, ()>(&mut store, "recurse")?;
    for _ in 0..4 {
        store = std::thread::scope(|scope| {
            let handle = scope.spawn(|| {
                let mut store = store;
                recurse.call(&mut store, 100).unwrap();
                let error = recurse.call(&mut store, u32::MAX).unwrap_err();
                assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow));
                store
            });
            handle.join().unwrap()
        });
    }
    Ok(())
}

struct Panicking;

impl ResourceLimiter for Panicking {
    fn memory_growing(&mut self, current: usize, _desired: usize, _maximum: Option<usize>) -> Result<bool> {
        if current > 0 { std::panic::panic_any("growing") } else { Ok(true) }
    }

    fn table_growing(&mut self, _current: usize, _desired: usize, _maximum: Option<usize>) -> Result<bool> {
        std::panic::panic_any("table")
    }
}

#[test]
fn panics_of_limiters_go_on_in_the_caller() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, Panicking);
    store.limiter(|limiter| limiter);
    let module = Module::new(&engine, r#"(module (memory (export "m") 1) (func (export "run") (drop (memory.grow (i32.const 1)))))"#)?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    let memory = instance.get_memory(&mut store, "m").unwrap();
    let mut panics = |work: &mut dyn FnMut(&mut Store<Panicking>)| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut store)));
        *caught.unwrap_err().downcast_ref::<&str>().unwrap()
    };
    assert_eq!(panics(&mut |store| _ = run.call(store, ())), "growing");
    assert_eq!(panics(&mut |store| _ = memory.grow(store, 1)), "growing");
    assert_eq!(panics(&mut |store| _ = Table::new(store, TableType::new(RefType::FUNCREF, 1, None), Ref::Func(None))), "table");
    Ok(())
}

#[test]
fn growth_that_fails_is_told_to_the_limiter() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory 1) (table 1 funcref)
            (func (export "memory") (drop (memory.grow (i32.const 65536))))
            (func (export "table") (drop (table.grow (ref.null func) (i32.const -1)))))"#,
    )?;
    for (trap, name) in [(true, "memory"), (true, "table"), (false, "memory"), (false, "table")] {
        let mut store = Store::new(&engine, StoreLimitsBuilder::new().trap_on_grow_failure(trap).build());
        store.limiter(|limits| limits);
        let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, name)?;
        let outcome = run.call(&mut store, ()).map_err(|error| format!("{error:#}"));
        match outcome {
            Ok(()) => assert!(!trap, "{name}"),
            Err(error) => assert!(trap && error.contains(&format!("forcing a {name} growth failure to be a trap")), "{error}"),
        }
    }
    Ok(())
}

#[test]
fn reservations_are_as_configured_or_refused() -> Result<()> {
    const GIB: u64 = 1 << 30;
    for (reservation, guard) in [(u64::MAX, 2 * GIB), (4 * GIB, u64::MAX), (u64::MAX - GIB, 2 * GIB), (1 << 45, 1)] {
        let error = Engine::new(Config::new().memory_reservation(reservation).memory_guard_size(guard)).unwrap_err().to_string();
        assert!(error.contains("memory_guard_size"), "{error}");
    }
    for (reservation, guard) in [(0, 0), (1, 1), (4 * GIB, 0), (4 * GIB, 1), (4 * GIB + 1, 4), (4 * GIB - 1, 2 * GIB), (9 * GIB, 5000)] {
        let engine = Engine::new(Config::new().memory_reservation(reservation).memory_guard_size(guard))?;
        let module = Module::new(
            &engine,
            r#"(module (memory (export "memory") 65536)
                (func (export "load") (param i32) (result i64) (i64.load (local.get 0)))
                (func (export "far") (param i32) (result i64) (i64.load offset=5000 (local.get 0))))"#,
        )?;
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let load = instance.get_typed_func::<u32, u64>(&mut store, "load")?;
        let far = instance.get_typed_func::<u32, u64>(&mut store, "far")?;
        assert_eq!(load.call(&mut store, u32::MAX - 7)?, 0, "{reservation} {guard}");
        for address in [u32::MAX - 6, u32::MAX] {
            assert_eq!(load.call(&mut store, address).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds), "{reservation} {guard}");
            assert_eq!(far.call(&mut store, address).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds), "{reservation} {guard}");
        }
    }
    Ok(())
}
