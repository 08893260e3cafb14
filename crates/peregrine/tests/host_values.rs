//! Host functions that guests call by a veneer of their own: few values, all of them integers or references. By import, through tables,
//! with errors, and beside functions with values of another count or kind.

use peregrine::{Caller, Engine, Error, ExternRef, Func, Instance, Linker, Module, Ref, Result, Rooted, Store, Strategy, WasmBacktrace};

fn engines() -> Vec<Engine> {
    [Strategy::Cranelift, Strategy::Winch, Strategy::Tiered]
        .map(|strategy| Engine::new(peregrine::Config::new().strategy(strategy)).expect("the settings are fine"))
        .into()
}

#[test]
fn parameters_of_every_count_arrive() -> Result<()> {
    // Each parameter counts ten times as much as the one before.
    let (mut imports, mut bodies) = (String::new(), String::new());
    for count in 0..=7usize {
        let ty = format!("(param{}) (result i64)", " i64".repeat(count));
        let values: String = (1..=count).map(|value| format!("(i64.const {value})")).collect();
        imports += &format!("(type $t{count} (func {ty})) (import \"\" \"f{count}\" (func $f{count} {ty}))");
        bodies += &format!("(func (export \"by_import{count}\") (result i64) (call $f{count} {values}))");
        bodies +=
            &format!("(func (export \"by_table{count}\") (result i64) (call_indirect (type $t{count}) {values} (i32.const {count})))");
    }
    let text = format!("(module {imports} (table (export \"table\") 8 funcref) {bodies})");
    for engine in engines() {
        let module = Module::new(&engine, &text)?;
        let mut store = Store::new(&engine, 0u64);
        let mut linker = Linker::new(&engine);
        linker.func_wrap("", "f0", || 7i64)?;
        linker.func_wrap("", "f1", |a: i64| 70 + a)?;
        linker.func_wrap("", "f2", |a: i64, b: i64| 700 + 10 * a + b)?;
        linker.func_wrap("", "f3", |a: i64, b: i64, c: i64| 7000 + 100 * a + 10 * b + c)?;
        linker.func_wrap("", "f4", |a: i64, b: i64, c: i64, d: i64| 70_000 + 1000 * a + 100 * b + 10 * c + d)?;
        let fold = |values: &[i64]| values.iter().fold(7, |sum, value| 10 * sum + value);
        linker.func_wrap("", "f5", move |a: i64, b: i64, c: i64, d: i64, e: i64| fold(&[a, b, c, d, e]))?;
        linker.func_wrap("", "f6", move |a: i64, b: i64, c: i64, d: i64, e: i64, f: i64| fold(&[a, b, c, d, e, f]))?;
        linker.func_wrap("", "f7", move |a: i64, b: i64, c: i64, d: i64, e: i64, f: i64, g: i64| fold(&[a, b, c, d, e, f, g]))?;
        let instance = linker.instantiate(&mut store, &module)?;
        let table = instance.get_table(&mut store, "table").expect("exported");
        let expect = [7i64, 71, 712, 7123, 71234, 712_345, 7_123_456, 71_234_567];
        for (count, expect) in expect.into_iter().enumerate() {
            let function = linker.get(&mut store, "", &format!("f{count}"))?.into_func().expect("defined");
            table.set(&mut store, count as u64, function.into())?;
            for name in ["by_import", "by_table"] {
                let run = instance.get_typed_func::<(), i64>(&mut store, &format!("{name}{count}"))?;
                for _ in 0..3000 {
                    assert_eq!(run.call(&mut store, ())?, expect, "{name}{count}");
                }
            }
        }
    }
    Ok(())
}

const KINDS: &str = r#"(module
    (import "" "nothing" (func $nothing (param i32)))
    (import "" "narrow" (func $narrow (param i32 i64 i32) (result i32)))
    (import "" "float" (func $float (param f64 i32) (result f64)))
    (import "" "two" (func $two (param i32) (result i32 i32)))
    (import "" "reference" (func $reference (param externref funcref) (result externref)))
    (import "" "function" (func $function (param i32) (result funcref)))
    (table 1 funcref)
    (type $unary (func (param i32) (result i32)))
    (func $triple (export "triple") (type $unary) (i32.mul (local.get 0) (i32.const 3)))
    (func (export "run") (param i32 externref) (result i32) (local i32 i32)
        (call $nothing (local.get 0))
        (local.set 2 (call $narrow (local.get 0) (i64.const -1) (i32.const -2)))
        (local.set 2 (i32.add (local.get 2) (i32.trunc_f64_s (call $float (f64.const 2.5) (local.get 0)))))
        (call $two (local.get 0))
        (local.set 3)
        (local.set 2 (i32.add (local.get 2)))
        (local.set 2 (i32.sub (local.get 2) (local.get 3)))
        (if (ref.is_null (call $reference (local.get 1) (ref.func $triple))) (then unreachable))
        (table.set (i32.const 0) (call $function (i32.const 0)))
        (i32.add (local.get 2) (call_indirect (type $unary) (local.get 0) (i32.const 0)))))"#;

#[test]
fn kinds_of_values_arrive() -> Result<()> {
    for engine in engines() {
        let module = Module::new(&engine, KINDS)?;
        let mut store = Store::new(&engine, 0u64);
        let mut linker = Linker::<u64>::new(&engine);
        linker.func_wrap("", "nothing", |mut caller: Caller<'_, u64>, value: i32| *caller.data_mut() += value as u64)?;
        linker.func_wrap("", "narrow", |a: i32, b: i64, c: i32| i64::from(a) as i32 + b as i32 + c)?;
        linker.func_wrap("", "float", |a: f64, b: i32| a * 2.0 + f64::from(b))?;
        linker.func_wrap("", "two", |a: i32| (a, a + 1))?;
        linker.func_wrap("", "reference", |value: Option<Rooted<ExternRef>>, function: Option<Func>| {
            assert!(function.is_some());
            value
        })?;
        linker.func_wrap("", "function", |mut caller: Caller<'_, u64>, _: i32| {
            caller.get_export("triple").and_then(|export| export.into_func())
        })?;
        let instance = linker.instantiate(&mut store, &module)?;
        let run = instance.get_typed_func::<(i32, Option<Rooted<ExternRef>>), i32>(&mut store, "run")?;
        let value = ExternRef::new(&mut store, 5u8)?;
        for _ in 0..100 {
            // (10 - 1 - 2) + 15 + 10 - 11 + 30
            assert_eq!(run.call(&mut store, (10, Some(value)))?, 51);
        }
        assert_eq!(*store.data(), 1000);
    }
    Ok(())
}

#[test]
fn errors_and_nested_calls_leave_the_guest_as_it_should_be() -> Result<()> {
    let text = r#"(module
        (import "" "again" (func $again (param i32) (result i32)))
        (func $run (export "run") (param i32) (result i32) (local i64 f64)
            (local.set 1 (i64.extend_i32_s (local.get 0)))
            (local.set 2 (f64.convert_i32_s (local.get 0)))
            (i32.add (call $again (local.get 0)) (i32.add (i32.wrap_i64 (local.get 1)) (i32.trunc_f64_s (local.get 2))))))"#;
    for engine in engines() {
        let module = Module::new(&engine, text)?;
        let mut store = Store::new(&engine, 0u64);
        let mut linker = Linker::<u64>::new(&engine);
        linker.func_wrap("", "again", |mut caller: Caller<'_, u64>, left: i32| -> Result<i32> {
            match left {
                0 => Ok(0),
                -1 => Err(Error::msg("refused")),
                _ => {
                    let run =
                        caller.get_export("run").and_then(|export| export.into_func()).expect("exported").typed::<i32, i32>(&caller)?;
                    assert!(run.call(&mut caller, -1).is_err());
                    run.call(&mut caller, left - 1)
                }
            }
        })?;
        let instance = linker.instantiate(&mut store, &module)?;
        let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
        for _ in 0..50 {
            assert_eq!(run.call(&mut store, 20)?, 20 * 21);
            let error = run.call(&mut store, -1).unwrap_err();
            assert_eq!(error.root_cause().to_string(), "refused");
            assert_eq!(error.downcast_ref::<WasmBacktrace>().map(|trace| trace.frames().len()), Some(1));
        }
    }
    Ok(())
}

#[test]
fn the_caller_is_whose_import_the_function_fills() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let names = |mut caller: Caller<'_, ()>| {
        let has = ["a", "b"].map(|name| caller.get_export(name).is_some());
        i32::from(has[0]) + 2 * i32::from(has[1])
    };
    let function = Func::wrap(&mut store, names);
    let first = r#"(module (import "" "f" (func $f (result i32))) (memory (export "a") 1) (export "f" (func $f))
        (func (export "direct") (result i32) (call $f))
        (table (export "t") 1 funcref) (elem (i32.const 0) $f)
        (func (export "indirect") (result i32) (call_indirect (result i32) (i32.const 0))))"#;
    let first = Instance::new(&mut store, &Module::new(&engine, first)?, &[function.into()])?;
    let exported = first.get_func(&mut store, "f").expect("a function");
    let table = first.get_table(&mut store, "t").expect("a table");
    let second = r#"(module (import "" "f" (func $f (result i32))) (import "" "t" (table 1 funcref)) (memory (export "b") 1)
        (func (export "direct") (result i32) (call $f))
        (func (export "indirect") (result i32) (call_indirect (result i32) (i32.const 0))))"#;
    let second = Instance::new(&mut store, &Module::new(&engine, second)?, &[exported.into(), table.into()])?;
    let mut call = |instance: Instance, name: &str| instance.get_typed_func::<(), i32>(&mut store, name)?.call(&mut store, ());
    assert_eq!([call(first, "direct")?, call(first, "indirect")?, call(second, "direct")?], [1, 1, 2]);
    assert_eq!(call(second, "indirect")?, 1, "the first one made the reference");
    table.set(&mut store, 0, Ref::Func(Some(function)))?;
    let mut call = |instance: Instance, name: &str| instance.get_typed_func::<(), i32>(&mut store, name)?.call(&mut store, ());
    assert_eq!([call(first, "indirect")?, call(second, "indirect")?], [0, 0], "the host made it");
    Ok(())
}
