//! Guests that are not trusted: how much memory they may have, how long they may run, and what stops them.
//!
//! `cargo run --release --example limits`

use peregrine::{Budget, Config, Engine, Instance, Module, Result, Store, StoreLimits, StoreLimitsBuilder, Trap};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const GUEST: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "spin") (loop (br 0)))
    (func $deep (export "recurse") (call $deep)))"#;

/// Memory: a limiter decides over each growth. The guest sees that `memory.grow` failed and may go on.
fn memory(engine: &Engine, module: &Module) -> Result<()> {
    let limits = StoreLimitsBuilder::new().memory_size(1 << 20).instances(1).build();
    let mut store = Store::new(engine, limits);
    store.limiter(|limits: &mut StoreLimits| limits);
    store.set_epoch_deadline(u64::MAX);
    let grow = Instance::new(&mut store, module, &[])?.get_typed_func::<i32, i32>(&mut store, "grow")?;
    let (within, beyond) = (grow.call(&mut store, 15)?, grow.call(&mut store, 1)?);
    println!("memory: grew from {within} page to 16, and one more was refused: {beyond}");
    assert_eq!((within, beyond), (1, -1));
    let second = Instance::new(&mut store, module, &[]).unwrap_err();
    println!("instances: {second:#}");
    assert!(format!("{second:#}").contains("instance"));
    Ok(())
}

/// Stack: a guest that recurses for ever traps; the host's stack is another one.
fn stack(engine: &Engine, module: &Module) -> Result<()> {
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(u64::MAX);
    let recurse = Instance::new(&mut store, module, &[])?.get_typed_func::<(), ()>(&mut store, "recurse")?;
    let error = recurse.call(&mut store, ()).unwrap_err();
    println!("stack: {}", error.root_cause());
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
    Ok(())
}

/// Time: a thread advances the epoch, and each store says how many epochs its guests may run. Costs running guests next to nothing.
fn time(engine: &Engine, module: &Module) -> Result<()> {
    let (stop, stopped) = mpsc::channel::<()>();
    let ticker = engine.weak();
    let thread = thread::spawn(move || {
        // Until `stop` is dropped, or the engine.
        while stopped.recv_timeout(Duration::from_millis(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
            let Some(engine) = ticker.upgrade() else { break };
            engine.increment_epoch();
        }
    });
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(20);
    let spin = Instance::new(&mut store, module, &[])?.get_typed_func::<(), ()>(&mut store, "spin")?;
    let start = Instant::now();
    let error = spin.call(&mut store, ()).unwrap_err();
    println!("time: {} after {:?}", error.root_cause(), start.elapsed());
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    drop(stop);
    thread.join().expect("the ticker does not panic");
    Ok(())
}

/// Time again, without a thread: the store's guests stop at a point in time.
fn deadline() -> Result<()> {
    let engine = Engine::new(Config::new().deadlines(true))?;
    let module = Module::new(&engine, GUEST)?;
    let mut store = Store::new(&engine, ());
    let spin = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "spin")?;
    store.deadline(Duration::from_millis(20))?;
    let start = Instant::now();
    let error = spin.call(&mut store, ()).unwrap_err();
    println!("deadline: {} after {:?}", error.root_cause(), start.elapsed());
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    Ok(())
}

/// Fuel: what the guest executes is counted, so that it stops at the same place on every machine.
fn fuel() -> Result<()> {
    let engine = Engine::new(Config::new().consume_fuel(true))?;
    let module = Module::new(&engine, GUEST)?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(1_000_000)?;
    let spin = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "spin")?;
    let error = spin.call(&mut store, ()).unwrap_err();
    println!("fuel: {}", error.root_cause());
    assert_eq!((error.downcast_ref::<Trap>(), store.get_fuel()?), (Some(&Trap::OutOfFuel), 0));
    Ok(())
}

/// Everything else: a preset of limits for the guests of strangers, on compiling too.
fn budget() -> Result<()> {
    let mut budget = Budget::untrusted();
    budget.functions = 3;
    let engine = Engine::new(Config::new().budget(budget))?;
    let refused = Module::new(&engine, GUEST).map(drop);
    assert!(refused.is_ok(), "three functions are within the budget");
    let error = Module::new(&engine, "(module (func) (func) (func) (func))").unwrap_err();
    println!("budget: {error:#}");
    assert!(format!("{error:#}").contains("Budget::functions"));
    Ok(())
}

/// Runs the example.
pub fn main() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true).max_wasm_stack(256 << 10))?;
    let module = Module::new(&engine, GUEST)?;
    memory(&engine, &module)?;
    stack(&engine, &module)?;
    time(&engine, &module)?;
    deadline()?;
    fuel()?;
    budget()
}
