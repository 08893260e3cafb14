//! Calls, tail calls, returns and branches that carry more values than there are registers do the same in every tier.

use peregrine::{Config, Engine, Instance, Module, Store, Strategy, TieringStress, Trap};
use std::fmt::Write;

fn engines() -> Vec<(&'static str, Engine)> {
    let engine = |strategy, stress, fuel| {
        let mut config = Config::new();
        config.coredump_on_trap(fuel);
        Engine::new(config.strategy(strategy).tiering_stress(stress).consume_fuel(fuel)).unwrap()
    };
    vec![
        ("ahead", engine(Strategy::Ahead, TieringStress::None, false)),
        ("baseline", engine(Strategy::Baseline, TieringStress::None, false)),
        ("baseline with fuel and kept locals", engine(Strategy::Baseline, TieringStress::None, true)),
        ("tiered", engine(Strategy::Tiered, TieringStress::None, false)),
        ("loops entered", engine(Strategy::Tiered, TieringStress::LoopEntryEverywhere, false)),
        ("random", engine(Strategy::Tiered, TieringStress::Random(3), false)),
    ]
}

/// `count` types in turn.
fn types(kinds: &[&'static str], count: usize) -> Vec<&'static str> {
    (0..count).map(|position| kinds[position * kinds.len() / count]).collect()
}

/// `count` types, one after the other.
fn types_in_turn(kinds: &[&'static str], count: usize) -> Vec<&'static str> {
    (0..count).map(|position| kinds[position % kinds.len()]).collect()
}

/// A constant of a type.
fn value(ty: &str, number: usize) -> String {
    match ty {
        "v128" => format!("(v128.const i64x2 {number} {})", number * 3),
        ty => format!("({ty}.const {number})"),
    }
}

/// Drops the values of `types` that are on the stack into a sum, the last first, by a rotation each so that their order counts.
fn sum(types: &[&str]) -> String {
    types.iter().rev().fold(String::new(), |mut text, ty| {
        let bits = match *ty {
            "i32" => "(i64.extend_i32_u)",
            "i64" => "",
            "f32" => "(i32.reinterpret_f32) (i64.extend_i32_u)",
            "f64" => "(i64.reinterpret_f64)",
            _ => "(local.set $v) (i64.add (i64x2.extract_lane 0 (local.get $v)) (i64x2.extract_lane 1 (local.get $v)))",
        };
        let _ = write!(text, "{bits} (local.set $x) (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 5)) (local.get $x))) ");
        text
    })
}

fn program(types: &[&str], vectors: bool) -> String {
    let list = types.join(" ");
    let v128 = if vectors { "v128" } else { "i64" };
    let constants: String = types.iter().enumerate().map(|(number, ty)| value(ty, number + 7)).collect();
    let parameters: String = (0..types.len()).map(|number| format!("(local.get {number}) ")).collect();
    let locals = format!("(local $x i64) (local $sum i64) (local $v {v128})");
    let sum = sum(types);
    format!(
        r#"(module
            (type $same (func (param {list}) (result {list})))
            (table 1 funcref) (elem (i32.const 0) $same)
            (func $make (result {list}) {constants})
            (func $same (type $same) {parameters})
            (func $tail (type $same) (return_call $same {parameters}))
            (func $few_to_many (result {list}) (return_call $tail {constants}))
            (func $sum (param {list}) (result i64) {locals} {parameters} {sum} (local.get $sum))
            (func $many_to_few (param {list}) (result i64) (return_call $sum {parameters}))
            (func $early (param {list}) (param $how i32) (result {list})
                {constants} (br_if 0 (local.get $how))
                (block (param {list}) (result {list}) (br_table 1 0 (local.get $how)))
                return)
            (func (export "calls") (param $n i32) (result i64) {locals}
                (i64.const 99) (call $make) (call $same) (call $tail) {sum}
                (call $few_to_many) (call_indirect (type $same) (i32.const 0)) {sum} drop
                (call $many_to_few {constants}) (local.get $sum) i64.add)
            (func (export "returns") (param $n i32) (result i64) {locals}
                (call $early {constants} (i32.const 0)) {sum}
                (call $early {constants} (local.get $n)) {sum} (local.get $sum))
            (func (export "branches") (param $n i32) (result i64) {locals}
                (i64.const 1) (i64.const 2)
                (block $out (result {list})
                    (i32.const 5) (f64.const 1)
                    {constants}
                    (loop $again (param {list}) (result {list})
                        (br_if $out (i32.eq (local.get $n) (i32.const 60)))
                        (call $same)
                        (br_if $again (i32.gt_s (local.tee $n (i32.sub (local.get $n) (i32.const 1))) (i32.const 0))))
                    (br_if $out (i32.lt_s (local.get $n) (i32.const 7)))
                    (br $out))
                {sum} i64.add (local.get $sum) i64.add)
            (func (export "deep") (param $n i32) (result i64) {locals}
                (call $early {constants} (i32.const 1)) {sum} (call $again (local.get $n)) (local.get $sum) i64.add)
            (func $again (param $n i32) (result i64) {locals}
                (if (local.get $n) (then (call $make) (call $tail) {sum} (return (call $again (i32.sub (local.get $n) (i32.const 1))))))
                (local.get $sum)))"#
    )
}

#[test]
fn many_values_of_all_types_go_where_they_belong() {
    let kinds: [&[&str]; 5] = [&["i32"], &["i64", "f64"], &["i32", "i64", "f32", "f64"], &["v128"], &["i64", "v128", "f32", "v128", "i32"]];
    for kinds in kinds {
        let programs = [20, 23, 30, 47, 150].into_iter().flat_map(|count| [types(kinds, count), types_in_turn(kinds, count)]);
        for types in programs {
            let count = types.len();
            let vectors = kinds.contains(&"v128");
            let text = program(&types, vectors);
            let mut expected = Vec::new();
            for (name, engine) in engines() {
                let module = Module::new(&engine, &text).unwrap_or_else(|error| panic!("{error:#}\n{text}"));
                let mut store = Store::new(&engine, ());
                let _ = store.set_fuel(1 << 40);
                let instance = Instance::new(&mut store, &module, &[]).unwrap();
                let mut found = Vec::new();
                for export in ["calls", "returns", "branches", "deep"] {
                    let run = instance.get_typed_func::<i32, i64>(&mut store, export).unwrap();
                    found.extend([0, 1, 5, 60].map(|n| run.call(&mut store, n).map_err(|error| error.downcast_ref::<Trap>().copied())));
                }
                if expected.is_empty() {
                    assert!(found.iter().all(Result::is_ok), "{found:?}");
                    expected = found;
                } else {
                    assert_eq!(found, expected, "{name}: {count} of {kinds:?}");
                }
            }
        }
    }
}
