//! Loops that code of the baseline leaves for optimized code: whatever is in locals and operands at their heads, the program goes on as if
//! nothing had happened.
//!
//! Every program runs compiled ahead and in every way of forcing what the tiers do; results, traps with their backtraces, and fuel are the
//! same.

use peregrine::{
    Config, Engine, ExternRef, Func, Instance, Module, Store, Strategy, TieringStress, Trap, V128, Val, ValType, WasmBacktrace,
};

const STRESSES: [TieringStress; 6] = [
    TieringStress::None,
    TieringStress::LoopEntryEverywhere,
    TieringStress::OptimizeAtOnce,
    TieringStress::OneInstructionBudget,
    TieringStress::Random(1),
    TieringStress::Random(0x5eed),
];

fn engine(strategy: Strategy, stress: TieringStress, change: impl Fn(&mut Config)) -> Engine {
    let mut config = Config::new();
    config.strategy(strategy).tiering_stress(stress);
    change(&mut config);
    Engine::new(&config).expect("an engine")
}

/// A value that can be compared: its bits, or what a reference refers to.
#[derive(Clone, Debug, PartialEq)]
enum Bits {
    Number(Kind, u128),
    Extern(Option<u32>),
    /// A function, by what it returns.
    Func(Option<i32>),
}

/// The type of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    I32,
    I64,
    F32,
    F64,
    V128,
}

fn bits(store: &mut Store<()>, value: &Val) -> Bits {
    match value {
        Val::I32(value) => Bits::Number(Kind::I32, u128::from(*value as u32)),
        Val::I64(value) => Bits::Number(Kind::I64, u128::from(*value as u64)),
        Val::F32(value) => Bits::Number(Kind::F32, u128::from(*value)),
        Val::F64(value) => Bits::Number(Kind::F64, u128::from(*value)),
        Val::V128(value) => Bits::Number(Kind::V128, value.as_u128()),
        Val::ExternRef(None) => Bits::Extern(None),
        Val::ExternRef(Some(value)) => {
            Bits::Extern(value.data(&*store).expect("it is rooted").and_then(|data| data.downcast_ref::<u32>().copied()))
        }
        Val::FuncRef(None) => Bits::Func(None),
        Val::FuncRef(Some(func)) => {
            let mut results = [Val::I32(0)];
            func.call(&mut *store, &[], &mut results).expect("a function without parameters");
            Bits::Func(results[0].i32())
        }
        other => panic!("a value of another kind: {other:?}"),
    }
}

/// An argument that differs from others by its number.
fn argument(store: &mut Store<()>, ty: &ValType, number: usize, turns: i32) -> Val {
    match ty {
        // The first one says how often the loops turn.
        ValType::I32 if number == 0 => Val::I32(turns),
        ValType::I32 => Val::I32(number as i32 * -77),
        ValType::I64 => Val::I64(number as i64 * 0x1_2345_6789),
        ValType::F32 => Val::F32((number as f32 * 1.5).to_bits()),
        ValType::F64 => Val::F64((number as f64 * -0.75).to_bits()),
        ValType::V128 => Val::V128(V128::from(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10 * number as u128)),
        ValType::Ref(_) => Val::ExternRef(Some(ExternRef::new(&mut *store, number as u32).expect("there is room"))),
    }
}

/// What a call of the export `run` did: its results or trap with its backtrace, and what fuel is left.
type Outcome = (Result<Vec<Bits>, (Option<Trap>, String)>, Option<u64>);

/// Outcomes of calls with several numbers of turns, and how many loops were entered in their midst.
fn outcomes(engine: &Engine, text: &str, fuel: bool) -> (Vec<Outcome>, u64) {
    let module = Module::new(engine, text).expect("the module compiles");
    let mut outcomes = Vec::new();
    for turns in [1, 2, 7, 100] {
        let mut store = Store::new(engine, ());
        if fuel {
            store.set_fuel(1_000_000).expect("fuel is on");
            store.set_epoch_deadline(1 << 40);
        }
        let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
        let run: Func = instance.get_func(&mut store, "run").expect("the export");
        let ty = run.ty(&store);
        for _ in 0..3 {
            let arguments: Vec<Val> = ty.params().enumerate().map(|(number, ty)| argument(&mut store, &ty, number, turns)).collect();
            let mut results = vec![Val::I32(0); ty.results().len()];
            let result = run.call(&mut store, &arguments, &mut results);
            let left = fuel.then(|| store.get_fuel().expect("fuel is on"));
            let result = match result {
                Ok(()) => Ok(results.iter().map(|value| bits(&mut store, value)).collect()),
                Err(error) => {
                    let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string).unwrap_or_default();
                    Err((error.downcast_ref::<Trap>().copied(), backtrace))
                }
            };
            outcomes.push((result, left));
        }
    }
    (outcomes, module.tiering_metrics().loop_entries_taken)
}

/// Compares all ways of running a module.
fn check_with(text: &str, fuel: bool, change: impl Fn(&mut Config) + Copy) {
    let (expected, _) = outcomes(&engine(Strategy::Ahead, TieringStress::None, change), text, fuel);
    let (baseline, _) = outcomes(&engine(Strategy::Baseline, TieringStress::None, change), text, fuel);
    assert_eq!(baseline, expected, "in the baseline");
    for stress in STRESSES {
        let (found, entered) = outcomes(&engine(Strategy::Tiered, stress, change), text, fuel);
        assert_eq!(found, expected, "{stress:?}");
        if stress == TieringStress::LoopEntryEverywhere {
            assert!(entered > 0, "no loop was entered");
        }
    }
}

fn check(text: &str) {
    check_with(text, false, |_| ());
    check_with(text, true, |config| {
        config.consume_fuel(true).epoch_interruption(true);
    });
    check_with(text, false, |config| {
        config.memory_reservation(0).memory_guard_size(0);
    });
}

#[test]
fn nested_loops_keep_their_locals() {
    check(
        r#"(module (memory 1) (func (export "run") (param $n i32) (result i32 i64) (local $i i32) (local $j i32) (local $sum i64) (local $late i64)
            (loop $outer
                (local.set $j (i32.const 0))
                (loop $middle
                    (local.set $sum (i64.add (local.get $sum) (i64.extend_i32_u (i32.mul (local.get $i) (local.get $j)))))
                    (local.set $late (local.get $sum))
                    (loop $inner
                        (local.set $late (i64.rotl (local.get $late) (i64.const 7)))
                        (i32.store (i32.and (i32.mul (local.get $j) (i32.const 4)) (i32.const 0xffc)) (local.get $i))
                        (br_if $inner (i32.and (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 3))))
                    (local.set $sum (i64.xor (local.get $sum) (local.get $late)))
                    (br_if $middle (i32.lt_u (local.get $j) (i32.const 12))))
                (br_if $outer (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
            (i32.load (i32.const 8)) (local.get $sum)))"#,
    );
}

#[test]
fn operands_below_loops_of_every_type_and_place() {
    // Constants, locals that are written later, what is computed, and what is in a home already.
    check(
        r#"(module (func $give (param i32) (result i32) (i32.add (local.get 0) (i32.const 1000)))
          (func (export "run") (param $n i32) (param $l i64) (param $f f32) (param $d f64) (param $v v128) (param $p i32)
            (result i32 i64 f32 f64 v128 i32 i64 f64 i32 i32 f32) (local $i i32)
            (i32.const -5) (i64.const 0x123456789abcdef) (f32.const 1.25) (f64.const -0)
            (v128.const i64x2 1 -2) (local.get $n) (i64.mul (local.get $l) (i64.const 3)) (f64.add (local.get $d) (f64.const 1))
            (call $give (local.get $p)) (local.get $p) (f32.mul (local.get $f) (f32.const 3))
            (loop
                (i32.const 99) (i64.const 5)
                (block (br_if 0 (i32.and (local.get $i) (i32.const 1)))
                    (local.set $n (i32.add (local.get $n) (i32.const 0)))
                    (loop (local.set $p (i32.add (local.get $p) (i32.const 3))) (br_if 0 (i32.and (local.get $p) (i32.const 7)))))
                (drop) (drop)
                (local.set $l (i64.add (local.get $l) (i64.const 1)))
                (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
            (drop) (f32.add (local.get $f) (f32.convert_i32_s (local.get $p)))))"#,
    );
}

#[test]
fn parameters_of_loops() {
    check(
        r#"(module (func (export "run") (param $n i32) (param $v v128) (result i64 f64 v128 f32 i32) (local $w v128) (local $s i32)
            (i64.const 77)
            (i64.const 1) (f64.const 2) (local.get $v) (f32.const 0.5) (local.get $n)
            (loop $l (param i64 f64 v128 f32 i32) (result i64 f64 v128 f32 i32)
                (local.set $s)
                (f32.mul (f32.const 1.5))
                (loop (param f32) (result f32) (f32.add (f32.const 1)) (br_if 0 (i32.rem_u (local.tee $s (i32.add (local.get $s) (i32.const 1))) (i32.const 3))))
                (local.set $w (v128.const i32x4 1 2 3 4))
                (i32.sub (local.get $n) (i32.const 1)) (local.tee $n)
                (br_if $l (i32.gt_s (local.get $n) (i32.const 0))))
            (local.set $s) (drop) (local.set $w) (drop) (local.set 0 (i32.wrap_i64)) (drop)
            (i64.extend_i32_s (local.get $n)) (f64.convert_i32_s (local.get $s)) (local.get $w) (f32.convert_i32_s (local.get $s)) (local.get $s)))"#,
    );
}

#[test]
fn results_and_arguments_that_have_no_registers() {
    let params = "i32 i64 f64 i64 f32 i64 i64 i64 v128 i64 f64 f64 f64 f64 f64 f64 f64 v128 f32 i64 i32";
    let results = "i64 i64 i32 i64 i64 i64 i64 i64 i64 v128 i32 f64 f64 f64 f64 f64 f64 f64 f64 v128 f32 f64";
    let text = format!(
        r#"(module
            (func $inner (param {params}) (result {results}) (local $i i32) (local $s i64)
                (loop (local.set $s (i64.add (local.get $s) (i64.mul (local.get 9) (local.get 19))))
                    (local.set 13 (f64.add (local.get 13) (local.get 16)))
                    (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get 0))))
                (local.get $s) (local.get 1) (local.get 20) (local.get 3) (local.get 5) (local.get 6) (local.get 7) (local.get 9) (local.get 19)
                (local.get 8) (local.get $i) (local.get 2) (local.get 10) (local.get 11) (local.get 12) (local.get 13) (local.get 14)
                (local.get 15) (local.get 16) (local.get 17) (local.get 4) (f64.promote_f32 (local.get 18)))
            (func (export "run") (param {params}) (result {results}) (local $keep i64)
                (local.set $keep (i64.const 7))
                (loop {gets} (call $inner) {drops}
                    (br_if 0 (i32.ne (i32.const 0) (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
                (local.set 0 (i32.const 3)) {gets} (call $inner)))"#,
        gets = (0..21).map(|index| format!("(local.get {index})")).collect::<String>(),
        drops = "(drop)".repeat(22),
    );
    check(&text);
}

#[test]
fn references() {
    check(
        r#"(module (table 2 funcref) (elem (i32.const 0) $one $two) (table $e 1 externref)
          (func $one (result i32) (i32.const 1)) (func $two (result i32) (i32.const 2))
          (func (export "run") (param $n i32) (param $e externref) (param $o externref)
            (result externref funcref externref externref funcref i32) (local $f funcref) (local $null externref) (local $t externref) (local $i i32)
            (local.get $e) (table.get (i32.const 0)) (ref.null extern)
            (local.set $f (table.get (i32.const 1)))
            (table.set $e (i32.const 0) (local.get $o))
            (loop
                (local.set $t (local.get $e)) (local.set $e (table.get $e (i32.const 0))) (table.set $e (i32.const 0) (local.get $t))
                (local.set $i (i32.add (local.get $i) (call_indirect (result i32) (i32.and (local.get $n) (i32.const 1)))))
                (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            (local.get $e) (local.get $f) (i32.add (local.get $i) (ref.is_null (local.get $null)))))"#,
    );
}

#[test]
fn loops_of_state_machines_and_in_branches() {
    check(
        r#"(module (func (export "run") (param $n i32) (result i32 i64) (local $state i32) (local $sum i64) (local $i i32)
            (loop $next
                (block $done (block $c (block $b (block $a
                    (br_table $a $b $c $done (local.get $state)))
                    (local.set $sum (i64.add (local.get $sum) (i64.const 3)))
                    (local.set $state (i32.add (i32.rem_u (local.get $i) (i32.const 2)) (i32.const 1))) (br $next))
                    (if (i32.and (local.get $i) (i32.const 4))
                        (then (loop (local.set $sum (i64.mul (local.get $sum) (i64.const 5)))
                            (br_if 0 (i32.and (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3)))))
                        (else (local.set $sum (i64.add (local.get $sum)
                            (if (result i64) (i32.and (local.get $i) (i32.const 2))
                                (then (i64.const 40) (loop (result i64) (i64.const 2)
                                    (br_if 0 (i32.and (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1)))) (i64.add))
                                (else (i64.const 9)))))))
                    (local.set $state (i32.const 2)) (br $next))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (local.set $state (select (i32.const 0) (i32.const 3) (i32.lt_u (local.get $i) (local.get $n)))) (br $next)))
            (local.get $i) (local.get $sum)))"#,
    );
}

#[test]
fn more_locals_than_registers_and_some_that_nothing_reads() {
    let count = 40;
    let locals = "i64 f64 f32 i32 v128 ".repeat(count / 5);
    let sets: String = (0..count)
        .filter(|index| index % 7 != 3)
        .map(|index| match index % 5 {
            0 => format!("(local.set {0} (i64.add (local.get {0}) (i64.const {index})))", index + 1),
            1 => format!("(local.set {0} (f64.add (local.get {0}) (f64.const {index})))", index + 1),
            2 => format!("(local.set {0} (f32.add (local.get {0}) (f32.const {index})))", index + 1),
            3 => format!("(local.set {0} (i32.add (local.get {0}) (i32.const {index})))", index + 1),
            _ => format!("(local.set {0} (i32x4.add (local.get {0}) (v128.const i32x4 {index} 1 2 3)))", index + 1),
        })
        .collect();
    let gets: String = (0..count).filter(|index| index % 7 != 3).map(|index| format!("(local.get {})", index + 1)).collect();
    let types: Vec<&str> = (0..count).filter(|index| index % 7 != 3).map(|index| ["i64", "f64", "f32", "i32", "v128"][index % 5]).collect();
    check(&format!(
        r#"(module (func $g (param i64) (result i64) (local.get 0))
            (func (export "run") (param $n i32) (result {}) (local {locals})
            (loop {sets} (local.set 1 (call $g (local.get 1)))
                (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            (local.set 4 (i32.const 1)) (drop (local.get 4)) {gets}))"#,
        types.join(" ")
    ));
}

#[test]
fn traps_in_loops_have_the_same_backtraces() {
    check(
        r#"(module $m (memory 1) (func $div (param i32 i32) (result i32) (i32.div_u (local.get 0) (local.get 1)))
          (func $work (param $n i32) (result i32) (local $i i32)
            (loop (result i32)
                (i32.const 5)
                (loop (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (drop (call $div (i32.const 100) (i32.sub (i32.const 20) (local.get $i))))
                    (br_if 0 (i32.and (local.get $i) (i32.const 3))))
                (drop)
                (if (i32.ge_s (local.get $i) (i32.const 12)) (then (drop (i32.load (i32.mul (local.get $i) (i32.const 5000))))))
                (br_if 1 (local.get $i) (i32.eq (local.get $i) (i32.mul (local.get $n) (i32.const 4)))) (drop)
                (br 0)))
          (func (export "run") (param i32) (result i32) (i32.add (call $work (local.get 0)) (i32.const 1))))"#,
    );
}

#[test]
fn the_baseline_alone_compiles_what_is_called_and_nothing_twice() {
    let engine = engine(Strategy::Baseline, TieringStress::None, |_| ());
    let module = Module::new(
        &engine,
        r#"(module (func) (func (export "run") (param i32) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#,
    );
    let module = module.expect("the module compiles");
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
    let run = instance.get_typed_func::<i32, ()>(&mut store, "run").expect("the export");
    for _ in 0..100 {
        run.call(&mut store, 10_000).expect("it does not trap");
    }
    let metrics = module.tiering_metrics();
    assert_eq!((metrics.baseline_functions, metrics.optimized_functions, metrics.loop_entries), (1, 0, 0));
}
