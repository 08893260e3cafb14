//! Typed calls whose values are in registers: every count and kind of them, and everything that can end or interrupt such a call.

use peregrine::{Caller, Config, Engine, Error, Func, Instance, Linker, Module, Result, Store, Trap, TypedFunc, V128, WasmBacktrace};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

fn instance(text: &str) -> Result<(Store<u64>, Instance)> {
    let engine = Engine::default();
    let module = Module::new(&engine, text)?;
    let mut store = Store::new(&engine, 0);
    let instance = Instance::new(&mut store, &module, &[])?;
    Ok((store, instance))
}

#[test]
fn parameters_of_every_count_arrive() -> Result<()> {
    // Each parameter counts ten times as much as the one before.
    let mut text = String::from("(module");
    for count in 0..=8 {
        let params = " i64".repeat(count);
        let sum: String = (0..count).map(|index| format!("(i64.add (i64.mul (i64.const 10)) (local.get {index}))")).collect();
        text += &format!("(func (export \"f{count}\") (param{params}) (result i64) (i64.const 7) {sum})");
    }
    let (mut store, instance) = instance(&(text + ")"))?;
    let mut store = &mut store;
    macro_rules! check {
        ($name:literal, $expect:literal, $params:expr, $ty:ty) => {
            let func: TypedFunc<$ty, i64> = instance.get_typed_func(&mut store, $name)?;
            // More often than it takes for better code.
            for _ in 0..5000 {
                assert_eq!(func.call(&mut store, $params)?, $expect);
            }
        };
    }
    check!("f0", 7, (), ());
    check!("f1", 71, (1,), (i64,));
    check!("f1", 71, 1, i64);
    check!("f2", 712, (1, 2), (i64, i64));
    check!("f3", 7123, (1, 2, 3), (i64, i64, i64));
    check!("f4", 71234, (1, 2, 3, 4), (i64, i64, i64, i64));
    check!("f5", 712345, (1, 2, 3, 4, 5), (i64, i64, i64, i64, i64));
    check!("f6", 7123456, (1, 2, 3, 4, 5, 6), (i64, i64, i64, i64, i64, i64));
    check!("f7", 71234567, (1, 2, 3, 4, 5, 6, 7), (i64, i64, i64, i64, i64, i64, i64));
    check!("f8", 712345678, (1, 2, 3, 4, 5, 6, 7, 8), (i64, i64, i64, i64, i64, i64, i64, i64));
    Ok(())
}

#[test]
fn kinds_of_values_do_not_mix() -> Result<()> {
    let (mut store, instance) = instance(
        r#"(module
            (func (export "f32") (param f32) (result f32) (f32.mul (local.get 0) (f32.const 2)))
            (func (export "f64") (param f64 f64 f64 f64) (result f64)
                (f64.sub (f64.sub (local.get 0) (local.get 1)) (f64.sub (local.get 2) (local.get 3))))
            (func (export "five") (param f64 f64 f64 f64 f64) (result f64) (f64.add (local.get 0) (local.get 4)))
            (func (export "mixed") (param i32 f32 i64 f64 i32) (result f64)
                (f64.add (f64.add (f64.convert_i32_s (local.get 0)) (f64.promote_f32 (local.get 1)))
                    (f64.add (f64.convert_i64_s (local.get 2)) (f64.sub (local.get 3) (f64.convert_i32_s (local.get 4))))))
            (func (export "to_int") (param f32 i64) (result i32)
                (i32.add (i32.trunc_f32_s (local.get 0)) (i32.wrap_i64 (local.get 1))))
            (func (export "none") (param f64))
            (func (export "nan") (param i32) (result f32) (f32.reinterpret_i32 (local.get 0)))
            (func (export "vector") (param v128 i32) (result v128) (i32x4.add (local.get 0) (i32x4.splat (local.get 1))))
            (func (export "two") (param i32) (result i32 f64) (local.get 0) (f64.convert_i32_s (local.get 0)))
            (func (export "ref") (param funcref) (result funcref) (local.get 0)))"#,
    )?;
    let mut store = &mut store;
    let f32 = instance.get_typed_func::<f32, f32>(&mut store, "f32")?;
    assert_eq!(f32.call(&mut store, 1.25)?, 2.5);
    let f64 = instance.get_typed_func::<(f64, f64, f64, f64), f64>(&mut store, "f64")?;
    assert_eq!(f64.call(&mut store, (1000.0, 100.0, 10.0, 1.0))?, 891.0);
    let five = instance.get_typed_func::<(f64, f64, f64, f64, f64), f64>(&mut store, "five")?;
    assert_eq!(five.call(&mut store, (1.0, 0.0, 0.0, 0.0, 2.0))?, 3.0);
    let mixed = instance.get_typed_func::<(i32, f32, i64, f64, i32), f64>(&mut store, "mixed")?;
    assert_eq!(mixed.call(&mut store, (-1, 0.5, 1 << 40, 0.25, 3))?, (1u64 << 40) as f64 - 3.25);
    let to_int = instance.get_typed_func::<(f32, i64), i32>(&mut store, "to_int")?;
    assert_eq!(to_int.call(&mut store, (-3.5, -4))?, -7);
    instance.get_typed_func::<f64, ()>(&mut store, "none")?.call(&mut store, 1.0)?;
    // A signaling NaN stays what it is.
    let nan = instance.get_typed_func::<i32, f32>(&mut store, "nan")?;
    assert_eq!(nan.call(&mut store, 0x7f80_0001)?.to_bits(), 0x7f80_0001);
    let vector = instance.get_typed_func::<(V128, i32), V128>(&mut store, "vector")?;
    assert_eq!(vector.call(&mut store, (V128::from(1u128 << 96 | 2), 5))?.as_u128(), 6 << 96 | 5 << 64 | 5 << 32 | 7);
    let two = instance.get_typed_func::<i32, (i32, f64)>(&mut store, "two")?;
    assert_eq!(two.call(&mut store, 6)?, (6, 6.0));
    let reference = instance.get_typed_func::<Option<Func>, Option<Func>>(&mut store, "ref")?;
    assert!(reference.call(&mut store, None)?.is_none());
    let back = reference.call(&mut store, Some(*two.func()))?.expect("not null");
    assert_eq!(back.typed::<i32, (i32, f64)>(&store)?.call(&mut store, 1)?, (1, 1.0));
    Ok(())
}

const ENDINGS: &str = r#"(module
    (import "" "host" (func $host (param i32) (result i32)))
    (memory 1)
    (func (export "host") (param i32) (result i32) (i32.add (call $host (local.get 0)) (i32.const 1)))
    (func $load (export "load") (param i32) (result i32) (i32.load (local.get 0)))
    (func $deep (export "deep") (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))
    (func (export "unreachable") unreachable))"#;

/// What the host function of [`ENDINGS`] does, by its parameter.
fn ending(mut caller: Caller<'_, u64>, what: i32) -> Result<i32> {
    match what {
        0 => Err(Error::msg("refused")),
        1 => panic!("out of the host"),
        2 => {
            // A call that is not the outermost one.
            let load = caller.get_export("load").and_then(|export| export.into_func()).expect("it is exported");
            let load = load.typed::<i32, i32>(&caller)?;
            assert_eq!(load.call(&mut caller, 0)?, 0);
            let error = load.call(&mut caller, -1).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
            let other = caller.get_export("host").and_then(|export| export.into_func()).expect("it is exported");
            other.typed::<i32, i32>(&caller)?.call(&mut caller, 10)
        }
        other => Ok(other),
    }
}

#[test]
fn calls_end_in_every_way_and_the_next_ones_work() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, ENDINGS)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("", "host", ending)?;
    let mut store = Store::new(&engine, 0);
    let instance = linker.instantiate(&mut store, &module)?;
    let host = instance.get_typed_func::<i32, i32>(&mut store, "host")?;
    let load = instance.get_typed_func::<i32, i32>(&mut store, "load")?;
    let deep = instance.get_typed_func::<i32, i32>(&mut store, "deep")?;
    let unreachable = instance.get_typed_func::<(), ()>(&mut store, "unreachable")?;
    for round in 0..50 {
        // What the caller keeps in registers is the same after each.
        let kept: [u64; 6] = std::array::from_fn(|index| round * 10 + index as u64);
        let kept = std::hint::black_box(kept);
        assert_eq!(host.call(&mut store, 40)?, 41);
        assert_eq!(host.call(&mut store, 2)?, 12);
        assert_eq!(host.call(&mut store, 0).unwrap_err().root_cause().to_string(), "refused");
        let panicked = catch_unwind(AssertUnwindSafe(|| host.call(&mut store, 1).map(drop)));
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"out of the host"));
        let error = load.call(&mut store, -1).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
        assert_eq!(error.downcast_ref::<WasmBacktrace>().map(|trace| trace.frames().len()), Some(1));
        let error = deep.call(&mut store, 0).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
        assert!(error.downcast_ref::<WasmBacktrace>().is_some_and(|trace| trace.frames().len() > 100));
        let error = unreachable.call(&mut store, ()).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::UnreachableCodeReached));
        assert!((0..6).all(|index| kept[index] == round * 10 + index as u64));
    }
    let metrics = store.metrics();
    assert_eq!(metrics.traps, 50 * 4);
    assert_eq!(metrics.calls, 50 * 10);
    Ok(())
}

#[test]
fn a_function_of_another_store_is_refused() -> Result<()> {
    let (mut first, instance) = instance(r#"(module (func (export "run")))"#)?;
    let run = instance.get_typed_func::<(), ()>(&mut first, "run")?;
    run.call(&mut first, ())?;
    let mut second = Store::new(&Engine::default(), 0);
    let refused = catch_unwind(AssertUnwindSafe(|| run.call(&mut second, ()).map(drop)));
    assert!(refused.unwrap_err().downcast_ref::<&str>().is_some_and(|text| text.contains("wrong store")));
    run.call(&mut first, ())
}

#[test]
fn hooks_that_come_later_see_the_next_call() -> Result<()> {
    let (mut store, instance) = instance(r#"(module (func (export "run") (param i32) (result i32) (local.get 0)))"#)?;
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
    assert_eq!(run.call(&mut store, 1)?, 1);
    store.call_hook(|mut context, _| {
        *context.data_mut() += 1;
        Ok(())
    });
    assert_eq!(run.call(&mut store, 2)?, 2);
    assert_eq!(*store.data(), 2);
    Ok(())
}

#[test]
fn a_host_function_that_the_host_calls_may_call_a_guest() -> Result<()> {
    let (mut store, instance) =
        instance(r#"(module (func (export "run") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3))))"#)?;
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
    assert_eq!(run.call(&mut store, 1)?, 3);
    let inner = run.clone();
    let host = Func::wrap(&mut store, move |mut caller: Caller<'_, u64>, value: i32| -> Result<i32> {
        *caller.data_mut() += 1;
        let result = inner.call(&mut caller, value)?;
        *caller.data_mut() += 1;
        Ok(result + 1)
    });
    let host = host.typed::<i32, i32>(&store)?;
    assert_eq!(host.call(&mut store, 5)?, 16);
    assert_eq!(run.call(&mut store, 2)?, 6);
    assert_eq!(*store.data(), 2);
    Ok(())
}

#[test]
fn guests_of_two_stores_nest_on_one_thread() -> Result<()> {
    let (mut inner, instance) =
        instance(r#"(module (func (export "divide") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1))))"#)?;
    let divide = instance.get_typed_func::<(i32, i32), i32>(&mut inner, "divide")?;
    assert_eq!(divide.call(&mut inner, (9, 3))?, 3);
    let shared = Arc::new(Mutex::new(inner));
    let engine = Engine::default();
    let module = Module::new(&engine, ENDINGS)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("", "host", move |value: i32| -> Result<i32> {
        let mut inner = shared.lock().expect("nobody panics with it");
        let error = divide.call(&mut *inner, (1, 0)).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::IntegerDivisionByZero));
        divide.call(&mut *inner, (value, 2))
    })?;
    let mut store = Store::new(&engine, 0u64);
    let outer = linker.instantiate(&mut store, &module)?;
    let host = outer.get_typed_func::<i32, i32>(&mut store, "host")?;
    let load = outer.get_typed_func::<i32, i32>(&mut store, "load")?;
    for _ in 0..3 {
        assert_eq!(host.call(&mut store, 20)?, 11);
        assert!(load.call(&mut store, -1).is_err());
    }
    Ok(())
}

#[test]
fn each_thread_is_prepared_for_faults() -> Result<()> {
    let (mut store, instance) =
        instance(r#"(module (memory 1) (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))"#)?;
    let load = instance.get_typed_func::<i32, i32>(&mut store, "load")?;
    assert_eq!(load.call(&mut store, 0)?, 0);
    for _ in 0..4 {
        store = std::thread::spawn({
            let load = load.clone();
            move || {
                assert_eq!(load.call(&mut store, 0).ok(), Some(0));
                assert_eq!(load.call(&mut store, -4).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
                store
            }
        })
        .join()
        .expect("it does not panic");
    }
    Ok(())
}

#[test]
fn interruptions_reach_direct_calls() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, r#"(module (func (export "spin") (param i64) (result i64) (loop (br 0)) unreachable))"#)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let spin = instance.get_typed_func::<i64, i64>(&mut store, "spin")?;
    for _ in 0..3 {
        store.set_epoch_deadline(1);
        engine.increment_epoch();
        let error = spin.call(&mut store, 1).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    }
    Ok(())
}
