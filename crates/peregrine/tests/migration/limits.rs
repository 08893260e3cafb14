//! Guests that are not trusted: memory, fuel and time are limited.

use peregrine::{Config, Engine, Instance, Linker, Module, ResourceLimiter, Result, Store, StoreLimits, StoreLimitsBuilder, Trap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

struct State {
    limits: StoreLimits,
}

const GREEDY: &str = r#"
(module
    (memory (export "memory") 1)
    (table (export "table") 1 funcref)
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "grow_table") (param i32) (result i32) (table.grow (ref.null func) (local.get 0)))
    (func (export "spin") (loop (br 0)))
    (func $deep (export "deep") (call $deep)))
"#;

#[test]
fn store_limits() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, GREEDY)?;
    let limits = StoreLimitsBuilder::new().memory_size(3 << 16).table_elements(10).instances(2).build();
    let mut store = Store::new(&engine, State { limits });
    store.limiter(|state| &mut state.limits);
    let instance = Instance::new(&mut store, &module, &[])?;
    let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
    assert_eq!(grow.call(&mut store, 2)?, 1);
    assert_eq!(grow.call(&mut store, 1)?, -1);
    let grow_table = instance.get_typed_func::<i32, i32>(&mut store, "grow_table")?;
    assert_eq!(grow_table.call(&mut store, 9)?, 1);
    assert_eq!(grow_table.call(&mut store, 1)?, -1);
    Instance::new(&mut store, &module, &[])?;
    assert!(Instance::new(&mut store, &module, &[]).is_err());

    let limits = StoreLimitsBuilder::new().memory_size(1 << 16).trap_on_grow_failure(true).build();
    let mut store = Store::new(&engine, State { limits });
    store.limiter(|state| &mut state.limits);
    let instance = Instance::new(&mut store, &module, &[])?;
    let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
    assert!(grow.call(&mut store, 1).is_err());
    Ok(())
}

struct Accounting {
    bytes: usize,
    refused: usize,
}

impl ResourceLimiter for Accounting {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let fits = self.bytes + (desired - current) <= 4 << 16;
        if fits {
            self.bytes += desired - current;
        } else {
            self.refused += 1;
        }
        Ok(fits)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(desired < 100)
    }
}

#[test]
fn a_limiter_of_the_embedder() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, GREEDY)?;
    let mut store = Store::new(&engine, Accounting { bytes: 0, refused: 0 });
    store.limiter(|state| state as &mut dyn ResourceLimiter);
    for _ in 0..2 {
        let instance = Instance::new(&mut store, &module, &[])?;
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        memory.grow(&mut store, 1)?;
        assert!(memory.grow(&mut store, 3).is_err());
    }
    assert!(Instance::new(&mut store, &module, &[]).is_err());
    assert_eq!((store.data().bytes, store.data().refused), (4 << 16, 3));
    Ok(())
}

#[test]
fn fuel() -> Result<()> {
    let mut config = Config::new();
    config.consume_fuel(true);
    let engine = Engine::new(&config)?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(10_000)?;
    let instance = Linker::new(&engine).instantiate(&mut store, &Module::new(&engine, GREEDY)?)?;
    let spin = instance.get_typed_func::<(), ()>(&mut store, "spin")?;
    let error = spin.call(&mut store, ()).unwrap_err();
    assert_eq!(error.downcast::<Trap>()?, Trap::OutOfFuel);
    assert_eq!(store.get_fuel()?, 0);
    store.set_fuel(1_000)?;
    let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
    grow.call(&mut store, 0)?;
    let left = store.get_fuel()?;
    assert!(left < 1_000 && left > 900, "{left}");
    Ok(())
}

#[test]
fn epochs() -> Result<()> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    let engine = Engine::new(&config)?;
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(1);
    store.epoch_deadline_trap();
    let instance = Instance::new(&mut store, &Module::new(&engine, GREEDY)?, &[])?;
    let spin = instance.get_typed_func::<(), ()>(&mut store, "spin")?;
    let done = Arc::new(AtomicBool::new(false));
    let ticker = std::thread::spawn({
        let (engine, done) = (engine.clone(), done.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
                engine.increment_epoch();
            }
        }
    });
    let error = spin.call(&mut store, ()).unwrap_err();
    done.store(true, Ordering::Relaxed);
    ticker.join().unwrap();
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    Ok(())
}

#[test]
fn stack() -> Result<()> {
    let mut config = Config::new();
    config.max_wasm_stack(256 << 10);
    let engine = Engine::new(&config)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &Module::new(&engine, GREEDY)?, &[])?;
    let deep = instance.get_typed_func::<(), ()>(&mut store, "deep")?;
    let error = deep.call(&mut store, ()).unwrap_err();
    assert!(matches!(error.downcast_ref::<Trap>(), Some(Trap::StackOverflow)));
    Ok(())
}
