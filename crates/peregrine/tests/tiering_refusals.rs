//! What the tiers do with functions that one of them does not take, and where there is little room for code.

mod patience;

use patience::{until_answered, wait_for};
use peregrine::{Config, Engine, Instance, Module, ProfilingStrategy, Store, Strategy, Trap};
use std::fmt::Write;

fn engine(strategy: Strategy, change: impl FnOnce(&mut Config)) -> Engine {
    let mut config = Config::new();
    config.strategy(strategy);
    change(&mut config);
    Engine::new(&config).unwrap()
}

/// Functions that return their numbers.
fn tiny_functions(count: usize) -> String {
    (0..count).fold(String::from("(module"), |mut text, number| {
        let _ = write!(text, r#" (func (export "{number}") (result i32) (i32.const {number}))"#);
        text
    }) + ")"
}

/// Each takes a page there.
#[test]
fn many_tiny_functions_fit_where_code_takes_whole_pages() {
    for strategy in [Strategy::Winch, Strategy::Tiered] {
        let engine = engine(strategy, |config| _ = config.profiler(ProfilingStrategy::PerfMap));
        let module = Module::new(&engine, tiny_functions(700)).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        for number in 0..700 {
            let function = instance.get_typed_func::<(), i32>(&mut store, &number.to_string()).unwrap();
            assert_eq!(function.call(&mut store, ()).unwrap(), number, "{:?}", module.tiering_metrics());
        }
    }
}

/// More than the optimizing tier takes, with many loops. What they do costs little time and counts as much work.
fn too_large_to_optimize(loops: usize) -> String {
    let nops = "nop ".repeat(2000);
    let one =
        format!("(local.set $i (local.get 0)) (loop $again {nops} (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))");
    format!(r#"(module (func (export "run") (param i32) (local $i i32) {} {}))"#, "nop ".repeat(400 << 10), one.repeat(loops))
}

#[test]
fn a_function_that_is_left_to_the_baseline_is_not_optimized_nor_are_its_loops() {
    let engine = engine(Strategy::Tiered, |_| {});
    let module = Module::new(&engine, too_large_to_optimize(20)).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let run = instance.get_typed_func::<i32, ()>(&mut store, "run").unwrap();
    wait_for("an answer", || {
        run.call(&mut store, 100_000).unwrap();
        let metrics = module.tiering_metrics();
        (metrics.optimized_functions + metrics.refused > 0).then_some(())
    });
    // More work than is counted until functions of which nothing more is expected are looked at again, many times.
    for _ in 0..3 {
        run.call(&mut store, 2_000_000).unwrap();
        until_answered(&module);
    }
    let metrics = module.tiering_metrics();
    assert_eq!((metrics.optimized_functions, metrics.loop_entries, metrics.refused), (0, 0, 1), "{metrics:?}");
    assert_eq!(metrics.optimized_code_bytes, 0, "{metrics:?}");
}

#[test]
fn a_function_that_cannot_be_compiled_is_not_tried_again() {
    // `i32.add` of nothing.
    let wasm = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x07\x01\x03bad\0\0\x0a\x05\x01\x03\0\x6a\x0b";
    let engine = engine(Strategy::Tiered, |config| _ = config.deferred_validation(true));
    let module = Module::new(&engine, wasm).unwrap();
    for _ in 0..3 {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let error = instance.get_typed_func::<(), ()>(&mut store, "bad").unwrap().call(&mut store, ()).unwrap_err();
        assert!(format!("{error:#}").contains("invalid module"), "{error:#}");
    }
    assert_eq!(module.tiering_metrics().failed_functions, 1);
}

/// Calls that move a thousand values, a byte or two each: more code for each byte than anything else.
#[test]
fn calls_that_move_many_values_in_a_row_are_compiled() {
    let values = "i32 ".repeat(1000);
    let text = |calls: usize| {
        format!(
            r#"(module
                (func $swap (param {values}) (result {values}) {})
                (func (export "run") (param i32) (result i32) (local i32)
                    {} {} (i32.add) {}))"#,
            (0..1000).rev().fold(String::new(), |mut text, local| {
                let _ = write!(text, "(local.get {local})");
                text
            }),
            (0..1000).fold(String::new(), |mut text, value| {
                let _ = write!(text, "(i32.add (local.get 0) (i32.const {value}))");
                text
            }),
            "(call $swap) ".repeat(calls),
            "(local.set 1) (drop) (local.get 1)".repeat(998),
        )
    };
    for strategy in [Strategy::Winch, Strategy::Tiered, Strategy::Cranelift] {
        for (calls, expected) in [(1, 10 + 10 + 1), (100, 10 + 998 + 10 + 999), (301, 10 + 10 + 1)] {
            let engine = engine(strategy, |_| {});
            let module = Module::new(&engine, text(calls)).unwrap_or_else(|error| panic!("{strategy:?}, {calls} calls: {error:#}"));
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[]).unwrap();
            let run = instance.get_typed_func::<i32, i32>(&mut store, "run").unwrap();
            let found = run.call(&mut store, 10).unwrap_or_else(|error| panic!("{strategy:?}, {calls} calls: {error:#}"));
            // After the sum, the values below it are dropped.
            assert_eq!(found, expected, "{strategy:?}, {calls} calls");
        }
    }
}

/// Functions whose few bytes become as much code as they can, in different ways.
fn dense_functions(count: usize, times: usize) -> String {
    let mixed = "i32 v128 ".repeat(500);
    let mut text = format!(
        "(module (table $t 10 funcref) (func $make (result {mixed}) unreachable) (func $wide (param {mixed}) (result {mixed}) unreachable)"
    );
    for number in 0..count {
        let operators = ["call $wide ", "i32.const 0 br_if 0 "][number % 2].repeat(times);
        let _ = write!(text, r#"(func $f{number} (result {mixed}) call $make {operators})"#);
        let elements = "(drop (table.get $t (local.get 0))) (loop) ".repeat(times);
        let _ = write!(
            text,
            r#"(func (export "{number}") (param i32) (result i32)
                (if (local.get 0) (then {elements} (drop (ref.is_null (table.get $t (call $count (call $f{number})))))))
                (i32.const {number}))"#
        );
    }
    let _ = write!(text, "(func $count (param {mixed}) (result i32) (i32.const 1)))");
    text
}

#[test]
fn rooms_have_place_for_whatever_functions_become() {
    let count = 40;
    let text = dense_functions(count, 500);
    for (strategy, kept) in [(Strategy::Winch, false), (Strategy::Tiered, false), (Strategy::Winch, true)] {
        let engine = engine(strategy, |config| _ = config.consume_fuel(true).coredump_on_trap(kept));
        let module = Module::new(&engine, &text).unwrap();
        let mut store = Store::new(&engine, ());
        store.set_fuel(u64::MAX).unwrap();
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        for number in 0..count {
            let function = instance.get_typed_func::<i32, i32>(&mut store, &number.to_string()).unwrap();
            assert_eq!(function.call(&mut store, 0).unwrap(), number as i32, "{:?}", module.tiering_metrics());
            // Compiles the other function too, whose first call traps.
            let error = function.call(&mut store, 1).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::UnreachableCodeReached), "{error:#} {:?}", module.tiering_metrics());
        }
        let metrics = module.tiering_metrics();
        assert_eq!(metrics.failed_functions, 0);
        // More than programs have.
        assert!(metrics.baseline_code_bytes > 100 * text.len() as u64 / 20, "{metrics:?}");
    }
}

/// A frame that no stack has room for is found when the function is called, as any other that the stack has no room for.
#[test]
fn frames_larger_than_any_stack_overflow_it() {
    let values = "i64 ".repeat(1000);
    let text = format!(
        r#"(module (func $values (result {values}) unreachable)
            (func (export "run") (param i32) (result i32)
                (if (local.get 0) (then {} unreachable)) (i32.const 7)))"#,
        "call $values ".repeat(9000)
    );
    for strategy in [Strategy::Winch, Strategy::Tiered, Strategy::Cranelift] {
        let engine = engine(strategy, |_| {});
        let module = Module::new(&engine, &text).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let run = instance.get_typed_func::<i32, i32>(&mut store, "run").unwrap();
        let error = run.call(&mut store, 0).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow), "{strategy:?}: {error:#}");
    }
}
