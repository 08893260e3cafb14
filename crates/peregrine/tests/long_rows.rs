//! Rows of short things: each alone is too short to be interrupted in, and there may be any number of them without a loop.

mod every_way;

use peregrine::{Caller, Config, Engine, Instance, Linker, Module, Result, Store, Strategy, Trap, UpdateDeadline};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The most calls of two bytes each between two looks.
const MOST_CALLS: u64 = 1024 / 2 + 1;

/// An engine for each compiler.
fn engines() -> Vec<Engine> {
    let engine = |strategy| Engine::new(Config::new().strategy(strategy).epoch_interruption(true)).unwrap();
    vec![engine(Strategy::Cranelift), engine(Strategy::Winch), engine(Strategy::Tiered)]
}

/// An instance of the module with these fields. Its `tick` makes the deadline come, its `count` counts into the store's data.
fn instance(engine: &Engine, fields: &str) -> Result<(Store<u64>, Instance)> {
    let text = format!(r#"(module (import "" "tick" (func $tick)) (import "" "count" (func $count)) {fields})"#);
    let module = Module::new(engine, text)?;
    let mut linker = Linker::new(engine);
    linker.func_wrap("", "tick", |caller: Caller<'_, u64>| caller.engine().increment_epoch())?;
    linker.func_wrap("", "count", |mut caller: Caller<'_, u64>| *caller.data_mut() += 1)?;
    let mut store = Store::new(engine, 0);
    store.set_epoch_deadline(1);
    let instance = linker.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

/// Calls `run`, which is interrupted.
fn interrupted(store: &mut Store<u64>, instance: Instance) {
    let run = instance.get_typed_func::<(), ()>(&mut *store, "run").unwrap();
    assert_eq!(run.call(store, ()).expect_err("it is too long").downcast_ref(), Some(&Trap::Interrupt));
}

#[test]
fn operations_on_memories_and_tables_look_each() -> Result<()> {
    let operations = [
        "(memory.fill (i32.const 0) (i32.const 1) (i32.const 16384))",
        "(memory.copy (i32.const 0) (i32.const 20000) (i32.const 1000))",
        "(memory.init $d (i32.const 0) (i32.const 0) (i32.const 500))",
        "(table.fill $t (i32.const 0) (ref.func $f) (i32.const 4096))",
        "(table.copy $t $t (i32.const 0) (i32.const 5000) (i32.const 4000))",
        "(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 100))",
    ];
    for engine in engines() {
        for operation in operations {
            let fields = format!(
                r#"(memory (export "memory") 1) (table $t (export "table") 10000 funcref) (func $f)
                (data $d "{}") (elem $e func {}) (data (i32.const 20000) "copied")
                (func (export "run") (table.set $t (i32.const 5000) (ref.func $f)) (call $tick) {operation})"#,
                "x".repeat(500),
                "$f ".repeat(100)
            );
            let (mut store, instance) = instance(&engine, &fields)?;
            interrupted(&mut store, instance);
            let memory = instance.get_memory(&mut store, "memory").unwrap();
            let table = instance.get_table(&mut store, "table").unwrap();
            assert_eq!(memory.data(&store)[0], 0, "{operation}: it was not done");
            assert!(table.get(&mut store, 0).unwrap().is_null(), "{operation}: it was not done");
        }
    }
    Ok(())
}

#[test]
fn rows_of_calls_look_now_and_then() -> Result<()> {
    let leaves = "(func $leaf (global.set $n (i64.add (global.get $n) (i64.const 1)))) (global $n (export \"n\") (mut i64) (i64.const 0))";
    let row = |call: &str| format!("(call $tick) {}", call.repeat(4000));
    // The looks in the blocks are jumped over.
    let around =
        format!("(call $tick) {}", format!("(block (br_if 0 (global.get $one)) {}) (call $leaf)", "(call $leaf)".repeat(600)).repeat(1500));
    // So are those of one way, and there is another look on the other.
    let ways = format!("(call $tick) {}", format!("(if (global.get $one) (then {0}) (else {0}))", "(call $leaf)".repeat(300)).repeat(8));
    let table = r#"(table $t funcref (elem $leaf)) (type $empty (func))"#;
    for engine in engines() {
        for body in
            [row("(call $leaf)"), row("(call $count)"), row("(call_indirect $t (type $empty) (i32.const 0))"), around.clone(), ways.clone()]
        {
            let fields = format!(r#"{leaves} {table} (global $one (mut i32) (i32.const 1)) (func (export "run") {body})"#);
            let (mut store, instance) = instance(&engine, &fields)?;
            interrupted(&mut store, instance);
            let called = *store.data() + instance.get_global(&mut store, "n").unwrap().get(&mut store).unwrap_i64() as u64;
            assert!(called <= MOST_CALLS, "{called} calls after the deadline");
        }
    }
    Ok(())
}

#[test]
fn what_is_under_way_goes_on_with_all_its_values() -> Result<()> {
    // Operands of every type are on the stack at each call, among them a comparison.
    let step = "(local.set $sum (i64.add (local.get $sum) (call $mix (i64.rotl (local.get $sum) (i64.const 7))
        (call $half (f64.convert_i64_s (local.get $sum))) (i32.lt_s (i32.wrap_i64 (local.get $sum)) (local.get $n)))))";
    let fields = |steps| {
        format!(
            r#"(func $half (param f64) (result f64) (f64.mul (local.get 0) (f64.const 0.5)))
        (func $mix (param i64 f64 i32) (result i64)
            (i64.add (i64.xor (local.get 0) (i64.trunc_sat_f64_s (local.get 1))) (i64.extend_i32_u (local.get 2))))
        (func (export "run") (param $n i32) (result i64) (local $sum i64) (local.set $sum (i64.const 12345)) {} (local.get $sum))"#,
            step.repeat(steps)
        )
    };
    goes_on(&fields(500))?;
    // So long that the optimizing compiler leaves it to the baseline.
    goes_on(&fields(40_000))
}

#[test]
fn whoever_is_asked_sees_the_fuel_in_rows_of_calls() -> Result<()> {
    // What is between two calls counts up to the look before the second one.
    let row = "(drop (call $leaf (i32.add (local.get $n) (i32.const 1))))".repeat(400);
    let blocks = format!("(block (br_if 0 (i32.eqz (local.get $n))) {row}) {row} (if (local.get $n) (then {row}))");
    let text = format!(
        r#"(module (func $leaf (param i32) (result i32) (local.get 0))
            (func (export "run") (param $n i32) {blocks} (loop {row} (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#
    );
    let mut seen = Vec::new();
    for (name, engine) in every_way::engines(|config| _ = config.epoch_interruption(true).consume_fuel(true)) {
        let module = Module::new(&engine, &text)?;
        let mut store = Store::new(&engine, Vec::new());
        store.set_fuel(1_000_000)?;
        store.epoch_deadline_callback(|mut context| {
            let fuel = context.get_fuel()?;
            context.data_mut().push(fuel);
            Ok(UpdateDeadline::Continue(0))
        });
        let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
        run.call(&mut store, 3)?;
        let mut fuel = store.data().clone();
        fuel.dedup();
        fuel.push(store.get_fuel()?);
        seen.push((name, fuel));
    }
    let (_, first) = &seen[0];
    assert!(first.len() > 20, "{seen:?}");
    // After the entry: three operators up to the branch, five for each call that is over, and four up to and with the one that is about to be made.
    assert_eq!((first[0], (first[0] - first[1] - 3) % 5), (1_000_000, 4));
    assert!(seen.iter().all(|(_, fuel)| fuel == first), "{seen:?}");
    Ok(())
}

/// Runs `run` of a module with and without looks that find something, in each tier.
fn goes_on(fields: &str) -> Result<()> {
    let mut looks = Vec::new();
    let mut results = Vec::new();
    for engine in engines() {
        let (mut store, instance) = instance(&engine, fields)?;
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run")?;
        let expected = run.call(&mut store, 5)?;
        results.push(expected);
        store.epoch_deadline_callback(|mut context| {
            *context.data_mut() += 1;
            Ok(UpdateDeadline::Continue(0))
        });
        store.set_epoch_deadline(0);
        assert_eq!(run.call(&mut store, 5)?, expected);
        looks.push(*store.data());
        store.epoch_deadline_async_yield_and_update(0);
        store.set_epoch_deadline(0);
        let mut call = pin!(run.call_async(&mut store, 5));
        let mut polls = 1;
        let outcome = loop {
            match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => break outcome,
                Poll::Pending => polls += 1,
            }
        };
        assert_eq!(outcome?, expected);
        looks.push(polls - 1);
    }
    assert!(looks[0] > 10, "{looks:?}");
    assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
    assert!(looks.iter().all(|count| *count == looks[0]), "as many in each tier: {looks:?}");
    Ok(())
}
