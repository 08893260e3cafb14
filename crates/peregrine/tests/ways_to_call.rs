//! One function, called in every way that there is: what the hook is told, what is counted and how the call ends do not depend on the way. Calls of few
//! values go by registers where nothing unusual is under way, all others by an array.

mod executor;

use executor::ready;
use peregrine::*;
use std::sync::{Arc, Mutex};

const TEXT: &str = r#"(module
    (import "host" "twice" (func $twice (param i32) (result i32)))
    (import "host" "fail" (func $fail))
    (import "host" "back" (func $back (param i32) (result i32)))
    (func (export "plain") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
    (func (export "calls") (param i32) (result i32) (call $twice (call $twice (local.get 0))))
    (func (export "traps") (param i32) (result i32) unreachable)
    (func (export "faults") (param i32) (result i32) (i32.load (i32.const -1)))
    (func $deeper (export "overflows") (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))
    (func (export "fails") (param i32) (result i32) (call $fail) (i32.const 0))
    (func (export "nests") (param i32) (result i32) (call $back (local.get 0)))
    (memory 1))"#;
const NAMES: [&str; 7] = ["plain", "calls", "traps", "faults", "overflows", "fails", "nests"];

/// The ways.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Typed,
    TypedAsync,
    Dynamic,
    DynamicAsync,
    Unchecked,
}
const WAYS: [Way; 5] = [Way::Typed, Way::TypedAsync, Way::Dynamic, Way::DynamicAsync, Way::Unchecked];

/// What is to be seen of a call.
#[derive(Debug, PartialEq)]
struct Seen {
    told: Vec<CallHook>,
    calls: u64,
    traps: u64,
    engine_calls: u64,
    engine_traps: u64,
    outcome: String,
}

type Told = Arc<Mutex<Vec<CallHook>>>;

fn call(store: &mut Store<Told>, instance: Instance, name: &str, way: Way) -> Result<i32> {
    let typed = instance.get_typed_func::<i32, i32>(&mut *store, name)?;
    let func = instance.get_func(&mut *store, name).expect("it is exported");
    let (params, mut results) = ([Val::I32(20)], [Val::I32(0)]);
    match way {
        Way::Typed => typed.call(store, 20),
        Way::TypedAsync => ready(typed.call_async(store, 20)),
        Way::Dynamic | Way::DynamicAsync => {
            match way {
                Way::Dynamic => func.call(store, &params, &mut results),
                _ => ready(func.call_async(store, &params, &mut results)),
            }?;
            Ok(results[0].i32().expect("of that type"))
        }
        Way::Unchecked => {
            let mut values = [ValRaw::i32(20)];
            // SAFETY: one value of the type of the only parameter, and room for one result.
            unsafe { func.call_unchecked(store, &mut values) }?;
            Ok(values[0].get_i32())
        }
    }
}

fn seen(store: &mut Store<Told>, instance: Instance, name: &str, way: Way) -> Seen {
    let engine = store.engine().clone();
    let (before, all_before) = (store.metrics(), engine.metrics());
    let outcome = match call(store, instance, name, way) {
        Ok(value) => value.to_string(),
        Err(error) => {
            let frames = error.downcast_ref::<WasmBacktrace>().map_or(0, |trace| trace.frames().len());
            match error.downcast_ref::<Trap>() {
                // As many as are kept.
                Some(trap) => format!("{trap:?} in {frames} frames"),
                None => format!("{} in {frames} frames", error.root_cause()),
            }
        }
    };
    let (after, all) = (store.metrics(), engine.metrics());
    let told = std::mem::take(&mut *store.data().lock().expect("no panic"));
    Seen {
        told,
        calls: after.calls - before.calls,
        traps: after.traps - before.traps,
        engine_calls: all.calls - all_before.calls,
        engine_traps: all.traps - all_before.traps,
        outcome,
    }
}

fn start(engine: &Engine, with_hook: bool) -> Result<(Store<Told>, Instance)> {
    let mut linker = Linker::<Told>::new(engine);
    linker.func_wrap("host", "twice", |value: i32| value * 2)?;
    linker.func_wrap("host", "fail", || -> Result<()> { bail!("the host does not want to") })?;
    linker.func_wrap("host", "back", |mut caller: Caller<'_, Told>, value: i32| -> Result<i32> {
        let plain = caller.get_export("plain").and_then(Extern::into_func).expect("it is exported").typed::<i32, i32>(&caller)?;
        let traps = caller.get_export("traps").and_then(Extern::into_func).expect("it is exported").typed::<i32, i32>(&caller)?;
        traps.call(&mut caller, value).expect_err("it traps");
        plain.call(&mut caller, value)
    })?;
    let mut store = Store::new(engine, Told::default());
    store.set_epoch_deadline(1);
    let instance = linker.instantiate(&mut store, &Module::new(engine, TEXT)?)?;
    if with_hook {
        store.call_hook(|context, kind| {
            context.data().lock().expect("no panic").push(kind);
            Ok(())
        });
    }
    Ok((store, instance))
}

#[test]
fn what_is_told_and_counted_does_not_depend_on_the_way() -> Result<()> {
    use CallHook::*;
    for strategy in [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered] {
        let engine = Engine::new(Config::new().strategy(strategy).epoch_interruption(true))?;
        for with_hook in [false, true] {
            let (mut store, instance) = start(&engine, with_hook)?;
            for name in NAMES {
                let typed = seen(&mut store, instance, name, Way::Typed);
                let told: &[CallHook] = match name {
                    _ if !with_hook => &[],
                    "calls" => &[CallingWasm, CallingHost, ReturningFromHost, CallingHost, ReturningFromHost, ReturningFromWasm],
                    "fails" => &[CallingWasm, CallingHost, ReturningFromHost, ReturningFromWasm],
                    "nests" => {
                        let [outer, inner] = [[CallingWasm, CallingHost], [CallingWasm, ReturningFromWasm]];
                        &[outer, inner, inner, [ReturningFromHost, ReturningFromWasm]].concat()
                    }
                    _ => &[CallingWasm, ReturningFromWasm],
                };
                let (calls, traps, outcome) = match name {
                    "plain" => (1, 0, "21"),
                    "calls" => (1, 0, "80"),
                    "traps" => (1, 1, "UnreachableCodeReached in 1 frames"),
                    "faults" => (1, 1, "MemoryOutOfBounds in 1 frames"),
                    "overflows" => (1, 1, "StackOverflow in 256 frames"),
                    "fails" => (1, 0, "the host does not want to in 1 frames"),
                    _ => (3, 1, "21"),
                };
                let expected =
                    Seen { told: told.to_vec(), calls, traps, engine_calls: calls, engine_traps: traps, outcome: outcome.to_string() };
                assert_eq!(typed, expected, "{name}");
                for way in WAYS {
                    assert_eq!(seen(&mut store, instance, name, way), typed, "{name} {way:?} with {strategy:?}, {with_hook}");
                }
            }
            // Nothing of these calls is left behind that makes the next one take another way.
            assert_eq!(seen(&mut store, instance, "plain", Way::Typed).outcome, "21");
        }
    }
    Ok(())
}

#[test]
fn every_way_looks_for_an_interruption_once() -> Result<()> {
    for strategy in [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered] {
        let engine = Engine::new(Config::new().strategy(strategy).epoch_interruption(true))?;
        for with_hook in [false, true] {
            let (mut store, instance) = start(&engine, with_hook)?;
            let asked = Arc::new(Mutex::new(0));
            let count = Arc::clone(&asked);
            store.epoch_deadline_callback(move |_| {
                *count.lock().expect("no panic") += 1;
                Ok(UpdateDeadline::Continue(1))
            });
            for way in WAYS {
                engine.increment_epoch();
                let first = seen(&mut store, instance, "plain", way);
                assert_eq!((first.calls, first.traps, &*first.outcome), (1, 0, "21"), "{way:?}");
                // The deadline is ahead again.
                let second = seen(&mut store, instance, "plain", way);
                assert_eq!(first, second, "{way:?}");
                assert_eq!(std::mem::take(&mut *asked.lock().expect("no panic")), 1, "{way:?} with {strategy:?}, {with_hook}");
            }
            store.epoch_deadline_trap();
            engine.increment_epoch();
            for way in WAYS {
                let stopped = seen(&mut store, instance, "plain", way);
                let told = if with_hook { vec![CallHook::CallingWasm, CallHook::ReturningFromWasm] } else { Vec::new() };
                let expected =
                    Seen { told, calls: 1, traps: 1, engine_calls: 1, engine_traps: 1, outcome: "Interrupt in 0 frames".to_string() };
                assert_eq!(stopped, expected, "{way:?} with {strategy:?}");
            }
        }
    }
    Ok(())
}
