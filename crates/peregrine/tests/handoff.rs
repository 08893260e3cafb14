//! Stores that are made on one thread and dropped on another keep the warm instances and the guest stacks that others have.

use peregrine::*;
use std::sync::mpsc;
use std::thread;

/// More than a shard keeps warm.
const ROUNDS: u64 = 3_000;

type Prepared = (Store<()>, TypedFunc<(), i32>);

fn prepared(engine: &Engine, module: &Module) -> Result<Prepared> {
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, module, &[])?;
    let run = instance.get_typed_func::<(), i32>(&mut store, "run")?;
    assert_eq!(run.call(&mut store, ())?, 1);
    Ok((store, run))
}

#[test]
fn what_another_thread_drops_is_warm_again() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (memory 1) (func (export "run") (result i32) (i32.const 1)))"#)?;
    let (give, taken) = mpsc::channel::<Prepared>();
    let (said, hear) = mpsc::channel();
    let dropper = thread::spawn(move || {
        for store in taken {
            drop(store);
            said.send(()).expect("the other thread waits");
        }
    });
    for _ in 0..ROUNDS {
        give.send(prepared(&engine, &module)?).expect("the other thread is there");
        hear.recv()?;
    }
    drop(give);
    dropper.join().expect("it does not panic");
    let metrics = engine.metrics();
    assert_eq!((metrics.slots_cold, metrics.slots_warm, metrics.slots_surplus), (1, ROUNDS - 1, 0), "{metrics:?}");
    assert_eq!(metrics.slots_idle, 1);
    // One store at a time keeps its stack whatever thread dropped those before it.
    let (mut store, run) = prepared(&engine, &module)?;
    (0..100).try_for_each(|_| run.call(&mut store, ()).map(drop))?;
    assert_eq!(engine.metrics().stacks_returned, 0);
    Ok(())
}

#[test]
fn stores_beyond_those_that_keep_a_stack_share_some() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (func (export "run") (result i32) (i32.const 1)))"#)?;
    let mut stores = (0..100).map(|_| prepared(&engine, &module)).collect::<Result<Vec<_>>>()?;
    let before = engine.metrics();
    assert!((80..=100).contains(&before.stacks_returned), "{before:?}");
    for (store, run) in &mut stores {
        assert_eq!(run.call(store, ())?, 1);
    }
    let after = engine.metrics();
    // Most of them had returned theirs and do so again; one stack is enough for all of those.
    assert_eq!(after.stacks_returned, 2 * before.stacks_returned);
    assert!(after.stacks_idle <= 1, "{after:?}");
    Ok(())
}
