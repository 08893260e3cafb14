//! Deadlines and epochs reach guests that do not look themselves: functions that are short, and instantiation.

use peregrine::*;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const LEAVES: &str = r#"(module
    (func (export "nop"))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "many") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (local.get 7)))"#;

fn interrupted<R: std::fmt::Debug>(outcome: Result<R>) {
    assert_eq!(outcome.expect_err("its time is over").downcast_ref::<Trap>(), Some(&Trap::Interrupt));
}

fn start(engine: &Engine, store: &mut Store<()>, text: &str) -> Result<Instance> {
    Instance::new(store, &Module::new(engine, text)?, &[])
}

/// Calls every leaf in every way; each outcome.
fn all(store: &mut Store<()>, instance: Instance) -> Result<Vec<Result<()>>> {
    let nop = instance.get_typed_func::<(), ()>(&mut *store, "nop")?;
    let add = instance.get_typed_func::<(i32, i32), i32>(&mut *store, "add")?;
    type Eight = (i32, i32, i32, i32, i32, i32, i32, i32);
    let many = instance.get_typed_func::<Eight, i32>(&mut *store, "many")?;
    let dynamic = instance.get_func(&mut *store, "nop").expect("exported");
    let mut outcomes = vec![
        nop.call(&mut *store, ()),
        add.call(&mut *store, (1, 2)).map(drop),
        many.call(&mut *store, (1, 2, 3, 4, 5, 6, 7, 8)).map(drop),
        dynamic.call(&mut *store, &[], &mut []),
    ];
    let mut call = pin!(nop.call_async(&mut *store, ()));
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcomes.push(outcome),
        Poll::Pending => panic!("nothing waits"),
    }
    Ok(outcomes)
}

#[test]
fn a_deadline_that_is_over_stops_leaves() -> Result<()> {
    for strategy in [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered] {
        let engine = Engine::new(Config::new().deadlines(true).strategy(strategy))?;
        let mut store = Store::new(&engine, ());
        let instance = start(&engine, &mut store, LEAVES)?;
        for _ in 0..2 {
            all(&mut store, instance)?.into_iter().collect::<Result<Vec<_>>>()?;
            store.deadline(Duration::ZERO)?;
            all(&mut store, instance)?.into_iter().for_each(interrupted);
            store.set_deadline(None)?;
        }
        // Those that ended before they began are calls as well, in each way.
        let metrics = store.metrics();
        assert_eq!((metrics.calls, metrics.traps), (20, 10));
    }
    Ok(())
}

#[test]
fn a_new_store_traps_at_its_first_call() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let mut store = Store::new(&engine, ());
    let instance = start(&engine, &mut store, LEAVES)?;
    all(&mut store, instance)?.into_iter().for_each(interrupted);
    let started = "(module (global $g (mut i32) (i32.const 0)) (func $start (global.set $g (i32.const 1))) (start $start))";
    interrupted(start(&engine, &mut store, started));
    store.set_epoch_deadline(1);
    start(&engine, &mut store, started)?;
    all(&mut store, instance)?.into_iter().collect::<Result<Vec<_>>>()?;
    engine.increment_epoch();
    all(&mut store, instance)?.into_iter().for_each(interrupted);
    Ok(())
}

#[test]
fn a_host_that_calls_a_leaf_for_ever_is_stopped() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module =
        Module::new(&engine, r#"(module (import "" "host" (func $host)) (func (export "leaf")) (func (export "run") (call $host)))"#)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("", "host", |mut caller: Caller<'_, u32>| -> Result<()> {
        let leaf = caller.get_export("leaf").and_then(Extern::into_func).expect("exported").typed::<(), ()>(&caller)?;
        for turn in 0..1000 {
            *caller.data_mut() = turn;
            if turn == 500 {
                caller.engine().increment_epoch();
            }
            leaf.call(&mut caller, ())?;
        }
        Ok(())
    })?;
    let mut store = Store::new(&engine, 0);
    store.set_epoch_deadline(1);
    let run = linker.instantiate(&mut store, &module)?.get_typed_func::<(), ()>(&mut store, "run")?;
    interrupted(run.call(&mut store, ()));
    assert_eq!(*store.data(), 500);
    Ok(())
}

#[test]
fn a_callback_is_asked_before_a_leaf_too() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, LEAVES)?;
    let mut store = Store::new(&engine, 0_u32);
    store.epoch_deadline_callback(|mut context| {
        *context.data_mut() += 1;
        Ok(UpdateDeadline::Continue(1))
    });
    let nop = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "nop")?;
    for expected in 1..4 {
        for _ in 0..3 {
            nop.call(&mut store, ())?;
            assert_eq!(*store.data(), expected);
        }
        engine.increment_epoch();
    }
    Ok(())
}

#[test]
fn what_a_callback_chooses_for_the_next_epochs_holds() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, LEAVES)?;
    let mut store = Store::new(&engine, 0_u32);
    store.epoch_deadline_callback(|mut context| {
        *context.data_mut() += 1;
        context.epoch_deadline_trap();
        Ok(UpdateDeadline::Continue(1))
    });
    let nop = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "nop")?;
    nop.call(&mut store, ())?;
    engine.increment_epoch();
    interrupted(nop.call(&mut store, ()));
    assert_eq!(*store.data(), 1, "the callback is gone");
    Ok(())
}

/// Polls a call until it ends; how often it was polled.
fn polls<R>(call: impl Future<Output = Result<R>>) -> Result<u32> {
    let mut call = pin!(call);
    for polls in 1..10 {
        if let Poll::Ready(outcome) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return outcome.map(|_| polls);
        }
    }
    panic!("it never ends")
}

#[test]
fn a_task_yields_before_a_leaf() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, LEAVES)?;
    let mut store = Store::new(&engine, ());
    let add = Instance::new(&mut store, &module, &[])?.get_typed_func::<(i32, i32), i32>(&mut store, "add")?;
    store.epoch_deadline_async_yield_and_update(1);
    assert_eq!(polls(add.call_async(&mut store, (1, 2)))?, 2);
    assert_eq!(polls(add.call_async(&mut store, (1, 2)))?, 1, "the next deadline is to come");
    // A future of the embedder's own, which is ready at its third poll.
    let turns = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&turns);
    store.epoch_deadline_callback(move |_| {
        let counter = Arc::clone(&counter);
        let until = std::future::poll_fn(move |_| match counter.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Poll::Pending,
            _ => Poll::Ready(()),
        });
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(until)))
    });
    engine.increment_epoch();
    assert_eq!(polls(add.call_async(&mut store, (1, 2)))?, 3);
    assert_eq!(polls(add.call_async(&mut store, (1, 2)))?, 1);
    // Dropped while it waits.
    turns.store(0, Ordering::Relaxed);
    engine.increment_epoch();
    {
        let mut call = pin!(add.call_async(&mut store, (1, 2)));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    store.set_epoch_deadline(1);
    assert_eq!(add.call(&mut store, (1, 2))?, 3);
    // A call that is no future cannot yield.
    engine.increment_epoch();
    turns.store(0, Ordering::Relaxed);
    assert!(add.call(&mut store, (1, 2)).unwrap_err().to_string().contains("call_async"));
    Ok(())
}

/// A store whose guest `run` calls a host function, and turns in a loop afterwards. The host function increments the epoch and calls a leaf, without
/// being a future.
fn nested(engine: &Engine) -> Result<(Store<u32>, TypedFunc<(), ()>)> {
    let text = r#"(module (import "" "host" (func $host)) (func (export "leaf"))
        (func (export "run") (local i32) (call $host)
            (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 100000))))))"#;
    let module = Module::new(engine, text)?;
    let mut linker = Linker::new(engine);
    linker.func_wrap("", "host", |mut caller: Caller<'_, u32>| -> Result<()> {
        let leaf = caller.get_export("leaf").and_then(Extern::into_func).expect("exported");
        caller.engine().increment_epoch();
        let typed = leaf.typed::<(), ()>(&caller)?;
        typed.call(&mut caller, ())?;
        leaf.call(&mut caller, &[], &mut [])
    })?;
    let mut store = Store::new(engine, 0);
    store.set_epoch_deadline(1);
    let run = linker.instantiate(&mut store, &module)?.get_typed_func::<(), ()>(&mut store, "run")?;
    Ok((store, run))
}

#[test]
fn a_leaf_below_a_guest_that_is_to_yield_is_called() -> Result<()> {
    for strategy in [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered] {
        let engine = Engine::new(Config::new().epoch_interruption(true).strategy(strategy))?;
        let (mut store, run) = nested(&engine)?;
        store.epoch_deadline_async_yield_and_update(1);
        // The guest that called the host function is the one that yields, once.
        assert_eq!(polls(run.call_async(&mut store, ()))?, 2);
        store.set_epoch_deadline(1);
        // As before, a guest that was not called as a future cannot.
        let error = run.call(&mut store, ()).unwrap_err();
        assert!(format!("{error:#}").contains("call_async"), "{error:#}");

        // A callback that answers so.
        let (mut store, run) = nested(&engine)?;
        store.epoch_deadline_callback(|mut context| {
            *context.data_mut() += 1;
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(std::future::ready(()))))
        });
        polls(run.call_async(&mut store, ()))?;
        assert_eq!(*store.data(), 3, "before either leaf, and in the loop");
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        store.set_epoch_deadline(1);
        assert_eq!(polls(run.call_async(&mut store, ()))?, 2);
    }
    Ok(())
}

#[test]
fn a_leaf_below_a_guest_that_is_to_stop_is_not_called() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let (mut store, run) = nested(&engine)?;
    interrupted(polls(run.call_async(&mut store, ())));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Interrupt));
    interrupted(polls(run.call_async(&mut store, ())));
    assert_eq!(store.metrics().calls, 4, "neither got to the second leaf");
    Ok(())
}

/// Modules whose instantiation writes a million elements to an imported table, and megabytes to an imported memory.
fn large() -> [String; 2] {
    let elements = "$f ".repeat(60_000);
    let data = "x".repeat(200_000);
    let segments = |segment: &str| segment.repeat(20);
    [
        format!(
            r#"(module (import "" "table" (table 1000000 funcref)) (func $f) {} (elem (i32.const 999999) $f))"#,
            segments(&format!("(elem (i32.const 0) {elements})"))
        ),
        format!(
            r#"(module (import "" "memory" (memory 16)) {} (data (i32.const 1000000) "y"))"#,
            segments(&format!("(data (i32.const 0) \"{data}\")"))
        ),
    ]
}

#[test]
fn instantiation_stops_at_the_deadline() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    for (position, text) in large().iter().enumerate() {
        let module = Module::new(&engine, text)?;
        // How a store is prepared, and whether it stops.
        type Prepare = fn(&mut Store<()>) -> Result<()>;
        let cases: [(Prepare, bool); 6] = [
            (|_| Ok(()), false),
            (|store| store.deadline(Duration::from_secs(3600)), false),
            (|store| store.deadline(Duration::ZERO), true),
            (
                |store| {
                    store.set_epoch_deadline(1);
                    store.engine().increment_epoch();
                    Ok(())
                },
                true,
            ),
            (
                |store| {
                    store.set_epoch_deadline(0);
                    store.epoch_deadline_async_yield_and_update(1);
                    Ok(())
                },
                false,
            ),
            (
                |store| {
                    store.set_epoch_deadline(1);
                    Ok(())
                },
                false,
            ),
        ];
        for (case, (prepare, stops)) in cases.into_iter().enumerate() {
            let mut store = Store::new(&engine, ());
            let ty = TableType::new(RefType::FUNCREF, 1_000_000, None);
            let table = Table::new(&mut store, ty, Ref::Func(None))?;
            let memory = Memory::new(&mut store, MemoryType::new(16, None))?;
            prepare(&mut store)?;
            let import: Extern = if position == 0 { table.into() } else { memory.into() };
            let made = Instance::new(&mut store, &module, &[import]);
            assert_eq!(made.is_err(), stops, "module {position}, case {case}: {made:?}");
            if stops {
                interrupted(made);
            }
            let is_null = |store: &mut Store<()>, at: u64| matches!(table.get(store, at), Some(Ref::Func(None)));
            if position == 0 {
                assert_eq!((is_null(&mut store, 0), is_null(&mut store, 999_999)), (false, stops));
            } else {
                assert_eq!((memory.data(&store)[0], memory.data(&store)[1_000_000] == b'y'), (b'x', !stops));
            }
        }
    }
    Ok(())
}
