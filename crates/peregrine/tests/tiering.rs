//! Functions that are compiled one by one, and again when they are hot: calls of every kind, traps and backtraces, errors.

use peregrine::{Config, Engine, Func, Instance, Linker, Module, Store, Strategy, TieringMetrics, TieringStress, Trap, Val, WasmBacktrace};
use std::sync::Barrier;

/// An engine that compiles functions one by one.
fn engine(change: impl FnOnce(&mut Config)) -> Engine {
    let mut config = Config::new();
    config.strategy(Strategy::Tiered);
    change(&mut config);
    Engine::new(&config).unwrap()
}

/// Engines of every kind in which all of a program has to mean the same, and what they are called. The first is the one to compare with.
fn all_engines() -> Vec<(&'static str, Engine)> {
    let tiered = |stress| engine(|config| _ = config.tiering_stress(stress));
    vec![
        ("ahead", engine(|config| _ = config.strategy(Strategy::Ahead))),
        ("baseline", engine(|config| _ = config.strategy(Strategy::Baseline))),
        ("tiered", tiered(TieringStress::None)),
        ("at once", tiered(TieringStress::OptimizeAtOnce)),
        ("loop entries", tiered(TieringStress::LoopEntryEverywhere)),
        ("one instruction", tiered(TieringStress::OneInstructionBudget)),
        ("random", tiered(TieringStress::Random(7))),
    ]
}

const FIB: &str = r#"(module
    (func $fib (export "fib") (param i32) (result i32)
        local.get 0 i32.const 2 i32.lt_u if (result i32) local.get 0 else
        local.get 0 i32.const 1 i32.sub call $fib
        local.get 0 i32.const 2 i32.sub call $fib i32.add end)
    (func (export "unused")))"#;

#[test]
fn functions_are_compiled_when_they_are_called() {
    let engine = engine(|_| {});
    let module = Module::new(&engine, FIB).unwrap();
    assert_eq!(module.tiering_metrics().baseline_functions, 0);
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let fib = instance.get_typed_func::<i32, i32>(&mut store, "fib").unwrap();
    assert_eq!(fib.call(&mut store, 10).unwrap(), 55);
    let metrics = module.tiering_metrics();
    assert_eq!((metrics.functions, metrics.baseline_functions), (2, 1));
}

/// Calls of every kind: direct, mutual, indirect, in tail position, through references, with every register that holds arguments in use.
const CALLS: &str = r#"(module
    (type $unary (func (param i64) (result i64)))
    (table 4 funcref)
    (elem (i32.const 0) $even $odd $tail $many)
    (elem declare func $double)
    (func $even (export "even") (type $unary)
        (if (result i64) (i64.eqz (local.get 0)) (then (i64.const 1)) (else (call $odd (i64.sub (local.get 0) (i64.const 1))))))
    (func $odd (type $unary)
        (if (result i64) (i64.eqz (local.get 0)) (then (i64.const 0)) (else (call $even (i64.sub (local.get 0) (i64.const 1))))))
    (func $tail (type $unary)
        (if (i64.eqz (local.get 0)) (then (return (i64.const 77))))
        (return_call_indirect (type $unary) (i64.sub (local.get 0) (i64.const 1)) (i32.const 2)))
    (func $double (type $unary) (i64.mul (local.get 0) (i64.const 2)))
    (func $add (param i64 f64 i32 f32 i64 f64 i64 f64 i64 f64 i64 f64 f64 f64 f64 v128 v128 i64) (result i64 f64 i64)
        (i64.add (local.get 0) (i64.add (i64.extend_i32_u (local.get 2)) (i64.add (local.get 4) (i64.add (local.get 6)
            (i64.add (local.get 8) (i64.add (local.get 10) (local.get 17)))))))
        (f64.add (local.get 1) (f64.add (f64.promote_f32 (local.get 3)) (f64.add (local.get 5) (f64.add (local.get 7) (f64.add (local.get 9)
            (f64.add (local.get 11) (f64.add (local.get 12) (f64.add (local.get 13) (local.get 14)))))))))
        (i64x2.extract_lane 1 (i64x2.add (local.get 15) (local.get 16))))
    (func $many (type $unary) (local $sum i64)
        (call $add (local.get 0) (f64.const 1) (i32.const 2) (f32.const 3) (i64.const 4) (f64.const 5) (i64.const 6) (f64.const 7)
            (i64.const 8) (f64.const 9) (i64.const 10) (f64.const 11) (f64.const 12) (f64.const 13) (f64.const 14)
            (v128.const i64x2 1 1000) (v128.const i64x2 2 5000) (i64.const 100))
        (local.set $sum)
        (i64.trunc_f64_s) (local.set 0)
        (i64.add (i64.add (local.get $sum) (local.get 0))))
    (func (export "indirect") (param i32 i64) (result i64) (call_indirect (type $unary) (local.get 1) (local.get 0)))
    (func (export "double") (result funcref) (ref.func $double)))"#;

#[test]
fn calls_of_every_kind_reach_functions_that_are_not_compiled_yet() {
    for (name, engine) in all_engines() {
        let module = Module::new(&engine, CALLS).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let even = instance.get_typed_func::<i64, i64>(&mut store, "even").unwrap();
        let indirect = instance.get_typed_func::<(i32, i64), i64>(&mut store, "indirect").unwrap();
        for _ in 0..20 {
            assert_eq!(even.call(&mut store, 7).unwrap(), 0, "{name}");
            let results: Vec<_> = (0..4).map(|number| indirect.call(&mut store, (number, 1000)).unwrap()).collect();
            assert_eq!(results, [1, 0, 77, 1000 + 2 + 4 + 6 + 8 + 10 + 100 + 75 + 6000], "{name}");
        }
    }
}

#[test]
fn references_and_imports_made_before_go_to_better_code() {
    for (name, engine) in all_engines() {
        let module = Module::new(&engine, CALLS).unwrap();
        let importing = Module::new(
            &engine,
            r#"(module (import "m" "even" (func $even (param i64) (result i64)))
                (func (export "run") (param i64) (result i64) (local $sum i64)
                    (loop (local.set $sum (i64.add (local.get $sum) (call $even (local.get 0))))
                        (br_if 0 (i64.ne (local.tee 0 (i64.sub (local.get 0) (i64.const 1))) (i64.const -1))))
                    (local.get $sum)))"#,
        )
        .unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let mut linker = Linker::new(&engine);
        linker.instance(&mut store, "m", instance).unwrap();
        let run = linker.instantiate(&mut store, &importing).unwrap().get_typed_func::<i64, i64>(&mut store, "run").unwrap();
        let even = instance.get_func(&mut store, "even").unwrap();
        let double = instance.get_typed_func::<(), Option<Func>>(&mut store, "double").unwrap().call(&mut store, ()).unwrap().unwrap();
        for _ in 0..50 {
            assert_eq!(run.call(&mut store, 100).unwrap(), 51, "{name}");
            let mut results = [Val::I64(0)];
            even.call(&mut store, &[Val::I64(31)], &mut results).unwrap();
            assert_eq!(results[0].unwrap_i64(), 0, "{name}");
            double.call(&mut store, &[Val::I64(21)], &mut results).unwrap();
            assert_eq!(results[0].unwrap_i64(), 42, "{name}");
        }
    }
}

#[test]
fn concurrent_first_calls_compile_each_function_once() {
    const THREADS: usize = 8;
    let functions: String = (0..200)
        .map(|number| {
            format!(r#"(func $f{number} (export "f{number}") (param i32) (result i32) (i32.add (local.get 0) (i32.const {number})))"#)
        })
        .collect();
    let engine = engine(|_| {});
    let module = Module::new(&engine, format!("(module {functions})")).unwrap();
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut store = Store::new(&engine, ());
                let instance = Instance::new(&mut store, &module, &[]).unwrap();
                barrier.wait();
                for number in 0..200 {
                    let function = instance.get_typed_func::<i32, i32>(&mut store, &format!("f{number}")).unwrap();
                    assert_eq!(function.call(&mut store, 1).unwrap(), number + 1);
                }
            });
        }
    });
    assert_eq!(module.tiering_metrics().baseline_functions, 200);
}

/// Traps in a function, in a loop of it, and in what it calls, each after some turns.
const TRAPS: &str = r#"(module $app
    (type $none (func))
    (memory 1)
    (table 2 funcref)
    (func $load (export "load") (param $turns i32) (local $address i32)
        (loop $outer
            (local.set $address (i32.const 0))
            (loop $inner
                (drop (i32.load (i32.mul (local.get $address) (i32.const 4096))))
                (br_if $inner (i32.lt_u (local.tee $address (i32.add (local.get $address) (i32.const 1))) (i32.const 10))))
            (br_if $outer (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
        (drop (i32.load (i32.const 70000))))
    (func $divide (param $number i32) (result i32) (i32.div_u (i32.const 100) (local.get $number)))
    (func $in_loop (export "in_loop") (param $turns i32)
        (loop
            (drop (call $divide (local.get $turns)))
            (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
            (br 0)))
    (func $fail unreachable)
    (func $nested (export "nested") (param $turns i32) (local $inner i32)
        (loop $outer
            (local.set $inner (i32.const 3))
            (loop $loop (br_if $loop (local.tee $inner (i32.sub (local.get $inner) (i32.const 1)))))
            (if (i32.eqz (local.get $turns)) (then (call $fail)))
            (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
            (br $outer)))
    (func $null (export "null") (param $turns i32)
        (loop (br_if 0 (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
        (call_indirect (type $none) (i32.const 1)))
    (func $leaf (param i32) (drop (i32.load offset=65536 (local.get 0))))
    (func $tail (export "tail") (param $turns i32)
        (loop (br_if 0 (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
        (return_call $leaf (local.get $turns)))
    (func (export "through") (param i32) (call $in_loop (local.get 0)) (call $tail (local.get 0))))"#;

#[test]
fn traps_and_backtraces_are_the_same_in_every_tier() {
    let outcome = |engine: &Engine, function: &str, turns: i32, calls: usize| {
        let module = Module::new(engine, TRAPS).unwrap();
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let function = instance.get_typed_func::<i32, ()>(&mut store, function).unwrap();
        let errors: Vec<String> = (0..calls)
            .map(|_| {
                let error = function.call(&mut store, turns).unwrap_err();
                format!("{:?} {}", error.downcast_ref::<Trap>().unwrap(), error.downcast_ref::<WasmBacktrace>().unwrap())
            })
            .collect();
        (errors, module.tiering_metrics())
    };
    let engines = all_engines();
    let mut entries_taken = 0;
    for function in ["load", "in_loop", "nested", "null", "tail", "through"] {
        for turns in [1, 5, 20_000] {
            let (expected, _) = outcome(&engines[0].1, function, turns, 1);
            for (name, engine) in &engines[1..] {
                let (found, metrics) = outcome(engine, function, turns, 5);
                assert!(found.iter().all(|found| *found == expected[0]), "{name}, {function}, {turns} turns: {found:#?}\n{}", expected[0]);
                entries_taken += metrics.loop_entries_taken;
            }
        }
    }
    assert!(entries_taken > 100, "{entries_taken}");
}

#[test]
fn endless_recursion_overflows_the_stack_in_every_tier() {
    for (name, engine) in all_engines() {
        let module = Module::new(
            &engine,
            r#"(module (func $down (export "down") (param i64) (result i64)
                (i64.add (call $up (i64.add (local.get 0) (i64.const 1))) (i64.const 1)))
                (func $up (param i64) (result i64) (i64.sub (call $down (local.get 0)) (i64.const 1))))"#,
        )
        .unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let down = instance.get_typed_func::<i64, i64>(&mut store, "down").unwrap();
        for _ in 0..3 {
            let error = down.call(&mut store, 0).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow), "{name}");
            assert_eq!(error.downcast_ref::<WasmBacktrace>().unwrap().frames().len(), 256, "{name}");
        }
    }
}

#[test]
fn a_first_call_at_the_end_of_the_stack_overflows_it() {
    // Each turn leaves less of the stack, and calls a function that nobody called before.
    let functions: String = (0..500).map(|number| format!("(func $f{number} (param i64 f64) (result i64) local.get 0)")).collect();
    let elements: String = (0..500).map(|number| format!(" $f{number}")).collect();
    let text = format!(
        r#"(module (type $leaf (func (param i64 f64) (result i64))) (table 500 funcref) (elem (i32.const 0) {elements}) {functions}
        (global $called (mut i32) (i32.const 0))
        (func $down (export "down") (param i32)
            (global.set $called (local.get 0))
            (drop (call_indirect (type $leaf) (i64.const 1) (f64.const 2) (i32.rem_u (local.get 0) (i32.const 500))))
            (call $down (i32.add (local.get 0) (i32.const 1)))
            (global.set $called (i32.const 0))))"#
    );
    let engine = engine(|config| _ = config.max_wasm_stack(16 << 10));
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let down = instance.get_typed_func::<i32, ()>(&mut store, "down").unwrap();
    for start in 0..50 {
        let error = down.call(&mut store, start * 7).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
    }
}

#[test]
fn an_invalid_body_is_found_at_once_or_at_its_call() {
    // `i32.add` of nothing, in the second function.
    let wasm =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x03\x02\0\0\x07\x0e\x02\x04good\0\0\x03bad\0\x01\x0a\x08\x02\x02\0\x0b\x03\0\x6a\x0b";
    let error = format!("{:#}", Module::new(&engine(|_| {}), wasm).unwrap_err());
    assert!(error.contains("invalid module") && error.contains("offset 0x"), "{error}");

    let engine = engine(|config| _ = config.deferred_validation(true));
    let module = Module::new(&engine, wasm).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let call = |store: &mut Store<()>, name| instance.get_typed_func::<(), ()>(&mut *store, name).unwrap().call(store, ());
    for _ in 0..2 {
        call(&mut store, "good").unwrap();
        let error = format!("{:#}", call(&mut store, "bad").unwrap_err());
        assert!(error.contains("invalid module") && error.contains("offset 0x"), "{error}");
    }
    assert!(module.serialize().is_err());
}

#[test]
fn a_module_can_be_dropped_while_it_is_compiled() {
    let engine = engine(|config| _ = config.tiering_stress(TieringStress::OneInstructionBudget));
    for _ in 0..20 {
        let module = Module::new(&engine, TRAPS).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let function = instance.get_typed_func::<i32, ()>(&mut store, "nested").unwrap();
        function.call(&mut store, 100).unwrap_err();
    }
}

#[test]
fn serialized_modules_have_all_of_their_code() {
    let tiered = engine(|_| {});
    let module = Module::new(&tiered, FIB).unwrap();
    let image = module.serialize().unwrap();
    for engine in [&tiered, &engine(|config| _ = config.strategy(Strategy::Ahead))] {
        // SAFETY: the bytes are those from above.
        let module = unsafe { Module::deserialize(engine, &image) }.unwrap();
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let fib = instance.get_typed_func::<i32, i32>(&mut store, "fib").unwrap();
        assert_eq!(fib.call(&mut store, 10).unwrap(), 55);
        assert_eq!(module.tiering_metrics(), TieringMetrics::default());
    }
}

#[test]
fn many_modules_need_few_descriptors_and_mappings() {
    let count = |path: &str| match path {
        "/proc/self/fd" => std::fs::read_dir(path).unwrap().count(),
        _ => std::fs::read_to_string(path).unwrap().lines().count(),
    };
    let engine = engine(|_| {});
    let before = (count("/proc/self/fd"), count("/proc/self/maps"));
    let modules: Vec<_> = (0..1000)
        .map(|_| {
            let module = Module::new(&engine, FIB).unwrap();
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[]).unwrap();
            let fib = instance.get_typed_func::<i32, i32>(&mut store, "fib").unwrap();
            assert_eq!(fib.call(&mut store, 5).unwrap(), 5);
            module
        })
        .collect();
    let after = (count("/proc/self/fd"), count("/proc/self/maps"));
    // Other tests run at the same time.
    assert!(after.0 < before.0 + 200, "{before:?} {after:?}");
    // The system allows 65530.
    assert!(after.1 < before.1 + 5 * modules.len() + 300, "{before:?} {after:?}");
}

#[test]
fn results_without_registers_reach_their_place_from_the_first_call_on() {
    let types: Vec<&str> = [["i32"; 9].as_slice(), &["f64"; 9], &["i64", "f32", "i32"].repeat(5)].concat();
    for (name, engine) in all_engines() {
        let results = types.join(" ");
        let constants: String = types.iter().enumerate().map(|(number, ty)| format!("({ty}.const {number})")).collect();
        let text = format!(
            r#"(module (func $many (param i32 f64) (result {results}) {constants})
                (func (export "run") (result {results}) (call $many (i32.const 1) (f64.const 2))))"#
        );
        let module = Module::new(&engine, text).unwrap();
        let mut store = Store::new(&engine, ());
        let run = Instance::new(&mut store, &module, &[]).unwrap().get_func(&mut store, "run").unwrap();
        for _ in 0..5 {
            let mut found = vec![Val::I32(0); types.len()];
            run.call(&mut store, &[], &mut found).unwrap();
            for (number, value) in found.iter().enumerate() {
                let number = number as i32;
                let good = match value {
                    Val::I32(value) => *value == number,
                    Val::I64(value) => *value == i64::from(number),
                    Val::F32(bits) => f32::from_bits(*bits) == number as f32,
                    Val::F64(bits) => f64::from_bits(*bits) == f64::from(number),
                    _ => false,
                };
                assert!(good, "{name}: result {number} is {value:?}");
            }
        }
    }
}
#[test]
fn hot_functions_are_optimized_in_the_background() {
    let engine = engine(|_| {});
    let module = Module::new(&engine, FIB).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let fib = instance.get_typed_func::<i32, i32>(&mut store, "fib").unwrap();
    for _ in 0..10_000 {
        assert_eq!(fib.call(&mut store, 15).unwrap(), 610);
        if module.tiering_metrics().optimized_functions == 1 {
            return;
        }
    }
    panic!("{:?}", module.tiering_metrics());
}

/// What follows the last body in the binary is no part of it: neither of the work it has to do, nor of the room for what it becomes.
#[test]
fn the_last_function_is_not_thought_to_be_as_large_as_the_data_behind_it() {
    let engine = engine(|_| {});
    let text = format!(
        r#"(module (memory 64) (data (i32.const 0) "{}")
            (func (export "spin") (param i32) (result i32) (local i32)
                (loop
                    (local.set 1 (i32.add (local.get 1) (local.get 0)))
                    (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                (local.get 1)))"#,
        "abcdefgh".repeat(400_000)
    );
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, ());
    let spin = Instance::new(&mut store, &module, &[]).unwrap().get_typed_func::<i32, i32>(&mut store, "spin").unwrap();
    // Work of some ten million bytes: a hundred times what is enough for a body of this size, and a hundredth of it for 3 MB.
    for _ in 0..500 {
        assert_eq!(spin.call(&mut store, 1000).unwrap(), 500_500);
    }
    let start = std::time::Instant::now();
    while module.tiering_metrics().optimized_functions == 0 {
        assert!(start.elapsed().as_secs() < 60, "{:?}", module.tiering_metrics());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(module.tiering_metrics().room_bytes < 4 << 20, "{:?}", module.tiering_metrics());
}
