//! Code of both tiers calls each other, traps at the same places and has the same backtraces.

mod two_tiers;

use peregrine::{Engine, Func, FuncType, Instance, Linker, Module, Store, Trap, V128, Val, ValType, WasmBacktrace};
use std::fmt::Write;
use two_tiers::{Which, load};

const EACH: [Which; 3] = [Which::Baseline, Which::Plain, Which::Optimizing];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }
}

const TYPES: [&str; 5] = ["i32", "i64", "f32", "f64", "v128"];

fn val_type(ty: usize) -> ValType {
    [ValType::I32, ValType::I64, ValType::F32, ValType::F64, ValType::V128][ty].clone()
}

fn value(random: &mut Random, ty: usize) -> Val {
    match ty {
        0 => Val::I32(random.next() as i32),
        1 => Val::I64(random.next() as i64),
        2 => Val::F32((random.next() as u32 & 0x7f7f_ffff) | 1),
        3 => Val::F64(random.next() & 0x7fef_ffff_ffff_ffff),
        _ => Val::V128(V128::from(u128::from(random.next()) << 64 | u128::from(random.next()))),
    }
}

fn bits(value: &Val) -> u128 {
    match value {
        Val::I32(value) => u128::from(*value as u32),
        Val::I64(value) => u128::from(*value as u64),
        Val::F32(bits) => u128::from(*bits),
        Val::F64(bits) => u128::from(*bits),
        Val::V128(value) => value.as_u128(),
        other => panic!("a value of another type: {other:?}"),
    }
}

fn list(keyword: &str, types: &[usize]) -> String {
    types.iter().fold(String::new(), |mut text, ty| {
        let _ = write!(text, "({keyword} {}) ", TYPES[*ty]);
        text
    })
}

/// A function that passes its parameters on by `call` and returns what comes back, with other values in registers around the call.
fn passing(params: &[usize], results: &[usize], call: &str) -> String {
    let gets: String = (0..params.len()).map(|index| format!("local.get {index} ")).collect();
    format!(
        r#"(module (import "m" "f" (func $f {0} {1}))
            (global $g (mut i32) (i32.const 5))
            (func (export "f") {0} {1} (local $kept i32) (local $float f64)
                (local.set $kept (i32.add (global.get $g) (i32.const 2))) (local.set $float (f64.const 1.5))
                {gets} {call}
                (if (i32.ne (local.get $kept) (i32.const 7)) (then unreachable))
                (if (f64.ne (local.get $float) (f64.const 1.5)) (then unreachable))))"#,
        list("param", params),
        list("result", results)
    )
}

/// A function that passes its parameters on in place of itself.
fn passing_in_place(params: &[usize], results: &[usize]) -> String {
    let gets: String = (0..params.len()).map(|index| format!("local.get {index} ")).collect();
    format!(
        r#"(module (import "m" "f" (func $f {0} {1}))
            (func $through (param i64 i64 i64) {0} {1} {2} return_call $f)
            (func (export "f") {0} {1} i64.const 1 i64.const 2 i64.const 3 {gets} return_call $through))"#,
        list("param", params),
        list("result", results),
        (0..params.len()).map(|index| format!("local.get {} ", index + 3)).collect::<String>(),
    )
}

/// A function that returns parameters.
fn returning(params: &[usize], results: &[usize], sources: &[usize]) -> String {
    let gets: String = sources.iter().map(|index| format!("local.get {index} ")).collect();
    format!(r#"(module (func (export "f") {} {} {gets}))"#, list("param", params), list("result", results))
}

fn import(engine: &Engine, store: &mut Store<()>, module: &Module, func: Func) -> Func {
    let mut linker = Linker::new(engine);
    linker.define(&mut *store, "m", "f", func).expect("a new name");
    let instance = linker.instantiate(&mut *store, module).expect("the import is there");
    instance.get_func(&mut *store, "f").expect("the export")
}

/// Random function types, parameters that come back in some order, on all ways between the tiers and the host.
#[test]
fn tiers_and_host_pass_values_to_each_other() {
    let engine = Engine::default();
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..60 {
        let params: Vec<usize> = (0..random.below(if round % 3 == 0 { 30 } else { 9 }) + 1).map(|_| random.below(5)).collect();
        let sources: Vec<usize> = (0..random.below(if round % 4 == 0 { 24 } else { 5 })).map(|_| random.below(params.len())).collect();
        let results: Vec<usize> = sources.iter().map(|source| params[*source]).collect();
        let arguments: Vec<Val> = params.iter().map(|ty| value(&mut random, *ty)).collect();
        let expect: Vec<u128> = sources.iter().map(|source| bits(&arguments[*source])).collect();
        let callee = returning(&params, &results, &sources);
        let callers = [passing(&params, &results, "call $f"), passing_in_place(&params, &results)];
        let callees = EACH.map(|which| load(&engine, which, callee.as_bytes()).expect("the callee compiles"));
        let callers: Vec<Module> =
            callers.iter().flat_map(|text| EACH.map(|which| load(&engine, which, text.as_bytes()).expect("the caller compiles"))).collect();
        let mut store = Store::new(&engine, ());
        let mut inner: Vec<Func> = callees
            .iter()
            .map(|module| Instance::new(&mut store, module, &[]).expect("no imports").get_func(&mut store, "f").expect("the export"))
            .collect();
        let ty = FuncType::new(&engine, params.iter().map(|ty| val_type(*ty)), results.iter().map(|ty| val_type(*ty)));
        let order = sources.clone();
        inner.push(Func::new(&mut store, ty, move |_, arguments, results| {
            for (result, source) in results.iter_mut().zip(&order) {
                *result = arguments[*source];
            }
            Ok(())
        }));
        for (callee, func) in inner.iter().enumerate() {
            for (caller, module) in callers.iter().enumerate() {
                let outer = import(&engine, &mut store, module, *func);
                let mut found = vec![Val::I32(0); results.len()];
                outer.call(&mut store, &arguments, &mut found).unwrap_or_else(|error| {
                    panic!("round {round}, callee {callee}, caller {caller}: {error:#}\n{params:?} -> {results:?}")
                });
                let found: Vec<u128> = found.iter().map(bits).collect();
                assert_eq!(found, expect, "round {round}, callee {callee}, caller {caller}: {params:?} -> {results:?}");
            }
        }
    }
}

/// The frames of the backtrace of an error, by function and offset.
fn frames(error: &peregrine::Error) -> Vec<(u32, Option<usize>)> {
    let backtrace = error.downcast_ref::<WasmBacktrace>().expect("a trap has a backtrace");
    backtrace.frames().iter().map(|frame| (frame.func_index(), frame.module_offset())).collect()
}

const TRAPS: &str = r#"(module
    (memory 1) (table 4 funcref) (type $t (func (param i32) (result i32))) (type $other (func))
    (elem (i32.const 1) $ok $wrong)
    (func $ok (type $t) local.get 0)
    (func $wrong (type $other))
    (func $inner (param $which i32) (param $x i32) (result i32)
        (block $f (block $e (block $d (block $c (block $b (block $a (block $9 (block $8 (block $7
        (block $6 (block $5 (block $4 (block $3 (block $2 (block $1 (block $0
            (br_table $0 $1 $2 $3 $4 $5 $6 $7 $8 $9 $a $b $c $d $e $f (local.get $which)))
            (return (i32.div_s (i32.const 7) (local.get $x))))
            (return (i32.rem_u (i32.const 7) (local.get $x))))
            (return (i32.div_s (i32.const 0x80000000) (i32.sub (local.get $x) (i32.const 1)))))
            (return (i32.load offset=65533 (local.get $x))))
            (i32.store8 (i32.const -1) (local.get $x)) (return (i32.const 0)))
            (unreachable))
            (return (call_indirect (type $t) (i32.const 5) (i32.const 0))))
            (return (call_indirect (type $t) (i32.const 5) (i32.const 2))))
            (return (call_indirect (type $t) (i32.const 5) (i32.const 9))))
            (return (i32.trunc_f64_s (f64.const 1e10))))
            (return (i32.trunc_f32_u (f32.const nan))))
            (memory.fill (i32.const 65530) (i32.const 1) (i32.const 20)) (return (i32.const 0)))
            (drop (table.get (i32.const 7))) (return (i32.const 0)))
            (return (i32.wrap_i64 (i64.trunc_f64_u (f64.const -1)))))
            (return (i32.wrap_i64 (i64.div_u (i64.const 1) (i64.extend_i32_u (local.get $x))))))
        (return (call_indirect (type $t) (i32.const 5) (i32.const 1))))
    (func $middle (param i32) (result i32) (local i32)
        (local.set 1 (i32.add (local.get 0) (i32.const 0)))
        (i32.add (call $inner (local.get 1) (i32.const 0)) (i32.const 1)))
    (func (export "f") (param i32) (result i32)
        (i32.mul (call_indirect $calls (type $t) (local.get 0) (i32.const 0)) (i32.const 2)))
    (table $calls 1 funcref) (elem (table $calls) (i32.const 0) func $middle))"#;

#[test]
fn backtraces_are_the_same_to_the_letter() {
    let engine = Engine::default();
    let modules = EACH.map(|which| load(&engine, which, TRAPS.as_bytes()).expect("the module compiles"));
    for which in 0..16 {
        let [baseline, plain, optimizing] = modules.each_ref().map(|module| {
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, module, &[]).expect("no imports");
            let func = instance.get_typed_func::<i32, i32>(&mut store, "f").expect("the export");
            func.call(&mut store, which).map_err(|error| (error.downcast_ref::<Trap>().copied(), frames(&error), format!("{error:?}")))
        });
        assert_eq!(baseline, optimizing, "trap number {which}");
        assert_eq!(plain, optimizing, "trap number {which}, plain");
        assert_eq!(baseline.is_err(), which < 15, "trap number {which}");
    }
}

#[test]
fn fuel_is_counted_the_same() {
    let text = r#"(module (func $g (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
        (func (export "f") (param i32) (result i32) (local i32)
            (loop $again (result i32)
                (local.set 1 (i32.add (local.get 1) (call $g (local.get 0))))
                (if (i32.and (local.get 0) (i32.const 1)) (then (local.set 1 (i32.add (local.get 1) (i32.const 3)))) (else nop))
                (block (br_if 0 (i32.eqz (local.get 0))) (local.set 1 (i32.xor (local.get 1) (i32.const 85))))
                (br_if $again (i32.const 7) (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))
                (drop) (local.get 1))))"#;
    let engine = Engine::new(peregrine::Config::new().consume_fuel(true)).expect("an engine");
    let text = text.replace("(br_if $again (i32.const 7)", "(br_if $again").replace("(drop) (local.get 1)", "(local.get 1)");
    let used = EACH.map(|which| {
        let module = two_tiers::load_with(&engine, which, text.as_bytes(), |settings| settings.fuel = true).expect("the module compiles");
        let mut store = Store::new(&engine, ());
        store.set_fuel(100_000).expect("fuel is on");
        let instance = Instance::new(&mut store, &module, &[]).expect("no imports");
        let func = instance.get_typed_func::<i32, i32>(&mut store, "f").expect("the export");
        let result = func.call(&mut store, 100).expect("enough fuel");
        let left = store.get_fuel().expect("fuel is on");
        store.set_fuel(50).expect("fuel is on");
        let error = func.call(&mut store, 100).expect_err("not enough fuel");
        (result, left, error.downcast_ref::<Trap>().copied())
    });
    assert_eq!((used[0], used[1]), (used[2], used[2]));
    assert_eq!(used[0].2, Some(Trap::OutOfFuel));
}

/// A frame of many pages, and recursion without end in it.
#[test]
fn large_frames_are_probed() {
    let locals = "v128 ".repeat(12_000);
    let uses: String =
        (0..12_000).step_by(100).map(|index| format!("(local.set {} (v128.const i32x4 {index} 0 0 0))", index + 1)).collect();
    let text = format!(
        r#"(module (func $f (export "f") (param i32) (result i32) (local {locals}) {uses}
            (if (result i32) (local.get 0)
                (then (i32.add (call $f (i32.sub (local.get 0) (i32.const 1))) (i32x4.extract_lane 0 (local.get 5001))))
                (else (i32x4.extract_lane 0 (local.get 6001))))))"#
    );
    let engine = Engine::default();
    let module = load(&engine, Which::Baseline, text.as_bytes()).expect("the module compiles");
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).expect("no imports");
    let func = instance.get_typed_func::<i32, i32>(&mut store, "f").expect("the export");
    assert_eq!(func.call(&mut store, 1).expect("the stack is large enough"), 11_000);
    let error = func.call(&mut store, 100_000).expect_err("the stack ends");
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
    assert_eq!(func.call(&mut store, 0).expect("the store is as before"), 6000);
}

#[test]
fn a_stack_overflow_is_at_the_beginning_of_the_function_whatever_the_size_of_its_frame() {
    // What traps otherwise is put at the end of the code, and so is what touches a large frame.
    let text = |locals: usize| {
        format!(
            r#"(module (func $f (export "f") (param i32) (result i32) (local {})
                (i32.div_u (call $f (i32.trunc_f32_s (f32.convert_i32_s (local.get 0)))) (local.get 1))))"#,
            "i32 ".repeat(locals)
        )
    };
    for locals in [1, 30_000] {
        let engine = Engine::default();
        let module = load(&engine, Which::Baseline, text(locals).as_bytes()).expect("the module compiles");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("no imports");
        let func = instance.get_typed_func::<i32, i32>(&mut store, "f").expect("the export");
        let error = func.call(&mut store, 1).expect_err("the stack ends");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
        let backtrace = error.downcast_ref::<WasmBacktrace>().expect("a backtrace");
        assert_eq!(backtrace.frames()[0].func_offset(), Some(0), "{locals} locals");
    }
}
