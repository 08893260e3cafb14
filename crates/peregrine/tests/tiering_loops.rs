//! Functions that are entered in the middle of a loop compute, trap and count as if they had run in one tier from the start.

#[path = "../../baseline/tests/two_tiers/mod.rs"]
mod two_tiers;

use peregrine::{Config, Engine, Instance, Module, Store, Strategy, TieringStress, Trap, UpdateDeadline, Val, WasmBacktrace};

/// Engines that enter loops, and what they are called; after the one to compare with.
fn engines(change: impl Fn(&mut Config)) -> Vec<(String, Engine)> {
    let engine = |strategy, stress| {
        let mut config = Config::new();
        config.strategy(strategy).tiering_stress(stress);
        change(&mut config);
        Engine::new(&config).expect("the settings are fine")
    };
    let mut engines = vec![(String::from("ahead"), engine(Strategy::Ahead, TieringStress::None))];
    let random = (0..12).map(TieringStress::Random);
    for stress in
        [TieringStress::LoopEntryEverywhere, TieringStress::OptimizeAtOnce, TieringStress::OneInstructionBudget].into_iter().chain(random)
    {
        engines.push((format!("{stress:?}"), engine(Strategy::Tiered, stress)));
    }
    engines
}

/// What a call gives, as text: results, or the trap and where it was; and what it took.
fn outcome(engine: &Engine, module: &Module, argument: i32, calls: usize) -> String {
    let mut store = Store::new(engine, ());
    let fuel = 1 << 40;
    store.set_epoch_deadline(1);
    let counts = store.set_fuel(fuel).is_ok();
    let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
    let mut text = String::new();
    let exports: Vec<String> = module.exports().map(|export| export.name().to_owned()).collect();
    for name in exports.iter().cycle().take(exports.len() * calls) {
        let Some(run) = instance.get_func(&mut store, name) else { continue };
        let ty = run.ty(&store);
        let mut results = vec![Val::I32(0); ty.results().len()];
        match run.call(&mut store, &[Val::I32(argument)], &mut results) {
            Ok(()) => text += &format!("{name}: {results:?}\n"),
            Err(error) => {
                let backtrace = error.downcast_ref::<WasmBacktrace>().expect("a backtrace");
                text += &format!("{name}: {:?} {backtrace}\n", error.downcast_ref::<Trap>());
            }
        }
        if counts {
            text += &format!("fuel {}\n", fuel - store.get_fuel().expect("it is on"));
        }
    }
    text
}

/// Calls all exports of `text`, which take an `i32`, on all engines.
#[track_caller]
fn check(text: &str) {
    let changes: [fn(&mut Config); 4] = [
        |_| {},
        |config| _ = config.consume_fuel(true),
        |config| _ = config.epoch_interruption(true).memory_reservation(0).compiler_inlining(false),
        |config| _ = config.cranelift_opt_level(peregrine::OptLevel::None),
    ];
    for (position, change) in changes.iter().enumerate() {
        let mut expected: Vec<String> = Vec::new();
        for (name, engine) in engines(change) {
            let module = Module::new(&engine, text).unwrap_or_else(|error| panic!("{error:#}"));
            for (number, argument) in [1, 2, 7, 50].into_iter().enumerate() {
                let found = outcome(&engine, &module, argument, 3);
                match expected.get(number) {
                    None => expected.push(found),
                    Some(expected) => assert_eq!(&found, expected, "{name}, settings {position}, {argument}\n{text}"),
                }
            }
            if name.starts_with("LoopEntry") {
                let metrics = module.tiering_metrics();
                assert!(metrics.loop_entries > 0 && metrics.loop_entries_taken > 0, "{metrics:?}");
                assert_eq!(metrics.refused, 0, "{metrics:?}");
            }
        }
    }
}

#[test]
fn nested_loops_with_operands_below() {
    check(
        r#"(module (func (export "run") (param i32) (result i64) (local $a f64) (local $b i32) (local $c i32) (local $sum i64)
            (i64.add (i64.extend_i32_u (i32.mul (local.get 0) (i32.const 3)))
                (loop $outer (result i64)
                    (local.set $b (i32.const 4))
                    (local.set $sum (i64.add (local.get $sum) (i64.mul (i64.extend_i32_s (local.get $b))
                        (loop $middle (result i64)
                            (local.set $c (local.get $b))
                            (i64.sub (i64.add (i64.extend_i32_u (local.get $b)) (local.get $sum))
                                (loop $inner (result i64)
                                    (local.set $a (f64.add (local.get $a) (f64.convert_i32_s (local.get $c))))
                                    (br_if $inner (local.tee $c (i32.sub (local.get $c) (i32.const 1))))
                                    (i64.trunc_f64_s (local.get $a))))
                            (br_if $middle (local.tee $b (i32.sub (local.get $b) (i32.const 1))))))))
                    (local.get $sum)
                    (br_if $outer (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))))"#,
    );
}

#[test]
fn parameters_and_results_of_loops() {
    check(
        r#"(module
            (func (export "sum") (param i32) (result i32 i64 f32)
                (i32.const 5) (i64.const 1) (f32.const 0.5)
                (loop $again (param i64 f32) (result i64 f32)
                    (f32.add (f32.convert_i32_u (local.get 0)))
                    (block $out (param i64 f32) (result i64 f32)
                        (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                        (br_table $out $again $again (i32.ne (local.get 0) (i32.const 0))))))
            (func (export "swap") (param i32) (result i64 i64) (local $x i64) (local $y i64)
                (i64.const 10) (i64.const 20)
                (loop $again (param i64 i64) (result i64 i64)
                    (local.set $y) (local.set $x)
                    (local.get $y) (i64.add (local.get $x) (i64.extend_i32_u (local.get 0)))
                    (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
            (func (export "deep") (param i32) (result i32 i32 i32 i32 i32)
                (i32.const 1) (local.get 0) (i32.const 3) (local.get 0) (i32.const 5)
                (loop $a
                    (i32.const 9)
                    (loop $b (param i32) (result i32)
                        (i32.add (i32.const 1))
                        (loop $c (br_if $c (i32.eqz (i32.rem_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 5)))))
                        (br_if $b (i32.rem_u (local.get 0) (i32.const 3))))
                    (br_if $a (i32.gt_u (i32.const 20)))
                    (br_if $a (i32.lt_u (local.get 0) (i32.const 60))))))"#,
    );
}

#[test]
fn vectors_and_many_locals() {
    let locals: String = (0..60).map(|number| format!("(local $v{number} v128) (local $i{number} i32) (local $d{number} f64)")).collect();
    let sets: String = (0..60)
        .map(|number| {
            format!(
                "(local.set $v{number} (i32x4.add (local.get $v{number}) (i32x4.splat (i32.add (local.get 0) (i32.const {number})))))
                (local.set $i{number} (i32.add (local.get $i{number}) (i32x4.extract_lane 2 (local.get $v{number}))))
                (local.set $d{number} (f64.add (local.get $d{number}) (f64.convert_i32_s (local.get $i{number}))))"
            )
        })
        .collect();
    let gets: String = (0..60).map(|number| format!("(i64.trunc_f64_s (local.get $d{number})) i64.add (i64.rotl (i64.const 3))")).collect();
    check(&format!(
        r#"(module (func (export "run") (param i32) (result i64 v128) {locals}
            (v128.const i64x2 5 6)
            (loop $outer
                (loop $inner {sets} (br_if $inner (i32.and (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 1))))
                (br_if $outer (i32.gt_s (local.get 0) (i32.const 0))))
            (i64x2.add (local.get $v7))
            (local.set $v0)
            (i64.const 0) {gets}
            (local.get $v0)))"#
    ));
}

#[test]
fn loops_in_arms_and_cases() {
    check(
        r#"(module (memory 1)
            (func (export "arms") (param i32) (result i32) (local $n i32)
                (i32.const 100)
                (loop $outer (result i32)
                    (local.set $n (i32.add (local.get $n) (i32.const 1)))
                    (i32.mul (local.get $n) (i32.const 3))
                    (local.get $n)
                    (if (param i32) (result i32) (i32.and (local.get 0) (i32.const 1))
                        (then (loop $then (param i32) (result i32) (i32.add (i32.const 7))
                            (br_if $then (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 9)))))
                        (else (i32.add (loop $else (result i32)
                            (br_if $else (i32.rem_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 4)))
                            (local.get $n)))))
                    (i32.add)
                    (br_if $outer (i32.gt_s (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 0))))
                (i32.add))
            (func (export "around") (param i32) (result i32) (local $n i32) (local $sum i32)
                (loop $outer
                    (local.set $n (i32.const 3))
                    (i32.mul (local.get 0) (i32.const 5))
                    (i32.add (local.get 0) (i32.const 1))
                    (block $skip (param i32) (result i32)
                        (br_if $skip (i32.rem_u (local.get 0) (i32.const 3)))
                        (block
                            (br_if 0 (i32.eq (local.get 0) (i32.const 6)))
                            (loop $inner (br_if $inner (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
                    (local.set $sum (i32.add (i32.mul) (local.get $sum)))
                    (br_if $outer (i32.gt_s (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 0))))
                (local.get $sum))
            (func (export "cases") (param i32) (result i32) (local $state i32) (local $steps i32)
                (loop $next
                    (local.set $steps (i32.add (local.get $steps) (i32.const 1)))
                    (block $done
                        (block $c (block $b (block $a (br_table $a $b $c $done (local.get $state)))
                            (loop $fill
                                (i32.store8 (local.get 0) (i32.add (local.get 0) (local.get $steps)))
                                (br_if $fill (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                            (local.set $state (i32.const 1)) (br $next))
                            (loop $sum
                                (local.set $state (i32.add (local.get $state) (i32.load8_u (local.get 0))))
                                (br_if $sum (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 40))))
                            (local.set $state (i32.const 2)) (br $next))
                        (local.set $state (select (i32.const 3) (i32.const 0) (i32.gt_u (local.get $steps) (i32.const 20))))
                        (br $next)))
                (i32.add (i32.mul (local.get $steps) (i32.const 1000)) (i32.load8_u (i32.const 1))))
            (func (export "returns") (param i32) (result i32)
                (loop $again (result i32)
                    (if (i32.gt_u (local.get 0) (i32.const 30)) (then (return (i32.const -1))))
                    (block (br_if 0 (i32.rem_u (local.get 0) (i32.const 11))) (return (local.get 0)))
                    (local.set 0 (i32.add (local.get 0) (i32.const 2)))
                    (br $again))))"#,
    );
}

#[test]
fn calls_memory_and_tables_in_loops() {
    check(
        r#"(module (memory (export "memory") 1 100) (table $t 3 funcref) (elem (i32.const 0) $leaf $sum $leaf)
            (type $unary (func (param i32) (result i32)))
            (global $g (mut i64) (i64.const 3))
            (func $leaf (type $unary) (i32.add (i32.load (i32.and (local.get 0) (i32.const 0xfff))) (local.get 0)))
            (func $sum (type $unary) (local $s i32)
                (loop (local.set $s (i32.add (local.get $s) (call $leaf (local.get 0))))
                    (br_if 0 (i32.gt_s (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 0))))
                (local.get $s))
            (func $tail (export "tail") (type $unary) (local $n i32)
                (if (i32.le_s (local.get 0) (i32.const 0)) (then (return (i32.const 11))))
                (loop (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3))))
                (return_call $tail (i32.sub (local.get 0) (local.get $n))))
            (func $self (export "self") (type $unary)
                (if (i32.le_s (local.get 0) (i32.const 1)) (then (return (i32.const 1))))
                (loop $again (result i32)
                    (local.set 0 (i32.sub (local.get 0) (i32.const 5)))
                    (br_if $again (i32.gt_s (local.get 0) (i32.const 12)))
                    (i32.add (call $self (i32.sub (local.get 0) (i32.const 1))) (call $self (i32.sub (local.get 0) (i32.const 2))))))
            (func (export "indirect") (type $unary) (local $s i32) (local $f funcref)
                (local.set $f (ref.func $leaf))
                (loop
                    (local.set $s (i32.xor (local.get $s)
                        (call_indirect $t (type $unary) (local.get 0) (i32.rem_u (local.get 0) (i32.const 3)))))
                    (table.set $t (i32.const 2) (local.get $f))
                    (local.set $f (table.get $t (i32.rem_u (local.get 0) (i32.const 2))))
                    (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                (i32.add (local.get $s) (ref.is_null (local.get $f))))
            (func (export "grows") (type $unary) (local $s i32)
                (loop
                    (local.set $s (i32.add (local.get $s) (memory.grow (i32.rem_u (local.get 0) (i32.const 2)))))
                    (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (local.get 0))
                    (global.set $g (i64.mul (global.get $g) (i64.extend_i32_u (local.get $s))))
                    (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                (i32.add (local.get $s) (i32.wrap_i64 (global.get $g)))))"#,
    );
}

#[test]
fn traps_in_loops_have_the_same_places() {
    check(
        r#"(module (memory 1) (table 1 funcref) (type $none (func))
            (func $load (param i32) (result i32) (i32.load (local.get 0)))
            (func $walk (export "walk") (param i32) (result i32) (local $s i32)
                (loop
                    (local.set $s (i32.add (local.get $s) (call $load (local.get 0))))
                    (local.set 0 (i32.mul (local.get 0) (i32.const 3)))
                    (br 0))
                unreachable)
            (func (export "outer") (param i32) (result i32)
                (loop (result i32)
                    (drop (i32.div_u (i32.const 1) (local.get 0)))
                    (loop (br_if 0 (i32.gt_u (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 3))))
                    (br_if 0 (i32.ne (local.get 0) (i32.const 2)))
                    (call $walk (local.get 0))))
            (func (export "divides") (param i32) (result i32)
                (loop (drop (i32.rem_u (i32.const 5) (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (br 0)) unreachable)
            (func $tail (param i32) (result i32) (if (local.get 0) (then unreachable)) (i32.const 1))
            (func (export "tail") (param i32) (result i32) (local $n i32)
                (loop (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 4))))
                (return_call $tail (local.get $n)))
            (func (export "null") (param i32) (result i32)
                (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))) (call_indirect (type $none) (local.get 0)) (br 0))
                unreachable))"#,
    );
}

#[test]
fn interruptions_are_at_the_same_places() {
    let text = r#"(module
        (func $calls (export "calls") (param i32) (result i32) (i32.add (local.get 0) (call $calls (i32.const 1))))
        (func (export "loops") (param i32) (result i32)
            (i32.const 5) (local.set 0) (loop nop (local.set 0 (i32.add (local.get 0) (i32.const 1))) (br 0)) unreachable))"#;
    for (name, engine) in engines(|config| _ = config.epoch_interruption(true)) {
        let module = Module::new(&engine, text).expect("it is valid");
        for export in ["calls", "loops"] {
            let mut store = Store::new(&engine, 0_u32);
            // It is past at once. Asked before the call, and then where the guest looks first.
            store.epoch_deadline_callback(|mut context| {
                *context.data_mut() += 1;
                Ok(if *context.data() == 1 { UpdateDeadline::Continue(0) } else { UpdateDeadline::Interrupt })
            });
            let run = Instance::new(&mut store, &module, &[]).unwrap().get_typed_func::<i32, i32>(&mut store, export).unwrap();
            let error = run.call(&mut store, 1).expect_err("it is interrupted");
            let backtrace = error.downcast_ref::<WasmBacktrace>().expect("a backtrace");
            let offset = backtrace.frames()[0].func_offset().expect("it is known");
            assert_eq!((backtrace.frames().len(), error.downcast_ref::<Trap>()), (1, Some(&Trap::Interrupt)), "{name}");
            // At its start, and at the loop: the length of the locals, a constant and a `local.set` come before it.
            assert_eq!(offset, if export == "calls" { 0 } else { 5 }, "{name}");
        }
    }
}

#[test]
fn kernels_compute_the_same_when_loops_are_entered() {
    let checksum = |output: &str| output.lines().find(|line| line.starts_with("checksum")).map(str::to_owned);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/kernels");
    let engines = engines(|_| {});
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("the kernels are there") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        let wasm = std::fs::read(&path).expect("the kernel can be read");
        let mut expected = None;
        for (name, engine) in &engines[..3] {
            let module = Module::new(engine, &wasm).expect("the kernel is valid");
            let (output, _) = two_tiers::run_program(engine, &module, "1").unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
            let checksum = checksum(&output).expect("it writes one");
            assert_eq!(&checksum, expected.get_or_insert(checksum.clone()), "{name}: {}", path.display());
            if name.starts_with("LoopEntry") {
                assert!(module.tiering_metrics().loop_entries_taken > 0);
            }
        }
        found += 1;
    }
    assert!(found >= 20, "{found} kernels");
}
