//! Calls in both directions: typed, dynamic, raw; arities, references, errors.

use peregrine::*;

fn engine() -> Engine {
    Engine::default()
}

/// An instance of a module without imports.
fn instance(wat: &str) -> Result<(Store<()>, Instance)> {
    let engine = engine();
    let module = Module::new(&engine, wat)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    Ok((store, instance))
}

#[test]
fn typed_calls_pass_every_type() -> Result<()> {
    let (mut store, instance) = instance(
        r#"(module
            (func (export "all") (param i32 i64 f32 f64 v128) (result v128 f64 f32 i64 i32)
                local.get 4 local.get 3 local.get 2 local.get 1 local.get 0)
            (func (export "one") (param i32) (result i32) local.get 0)
            (func (export "none"))
            (func (export "refs") (param funcref externref) (result externref funcref) local.get 1 local.get 0))"#,
    )?;
    type In = (i32, u64, f32, f64, V128);
    type Out = (V128, f64, f32, u64, i32);
    let all = instance.get_typed_func::<In, Out>(&mut store, "all")?;
    let nan = f32::from_bits(0x7fa0_0001);
    let (lanes, double, single, long, int) = all.call(&mut store, (-1, u64::MAX - 1, nan, -0.0, V128::from(u128::MAX - 7)))?;
    assert_eq!((lanes.as_u128(), double.to_bits(), single.to_bits()), (u128::MAX - 7, (-0.0f64).to_bits(), 0x7fa0_0001));
    assert_eq!((long, int), (u64::MAX - 1, -1));

    assert_eq!(instance.get_typed_func::<i32, i32>(&mut store, "one")?.call(&mut store, 7)?, 7);
    assert_eq!(instance.get_typed_func::<(u32,), (u32,)>(&mut store, "one")?.call(&mut store, (u32::MAX,))?, (u32::MAX,));
    instance.get_typed_func::<(), ()>(&mut store, "none")?.call(&mut store, ())?;

    let refs = instance
        .get_typed_func::<(Option<Func>, Option<Rooted<ExternRef>>), (Option<Rooted<ExternRef>>, Option<Func>)>(&mut store, "refs")?;
    let value = ExternRef::new(&mut store, 5u8)?;
    let func = instance.get_func(&mut store, "one").unwrap();
    let (value, func) = refs.call(&mut store, (Some(func), Some(value)))?;
    assert_eq!(value.unwrap().data(&store)?.unwrap().downcast_ref(), Some(&5u8));
    assert_eq!(func.unwrap().typed::<i32, i32>(&store)?.call(&mut store, 9)?, 9);
    let nulls = refs.call(&mut store, (None, None))?;
    assert!(nulls.0.is_none() && nulls.1.is_none());
    Ok(())
}

#[test]
fn wrong_types_are_named() -> Result<()> {
    let (mut store, instance) = instance(r#"(module (func (export "f") (param i32) (result i64) i64.const 0) (memory (export "m") 1))"#)?;
    let message = |error: Error| format!("{error:#}");
    let error = message(instance.get_typed_func::<i64, i64>(&mut store, "f").unwrap_err());
    assert!(error.contains("parameters") && error.contains("expected i64, found i32") && error.contains("`f`"), "{error}");
    let error = message(instance.get_typed_func::<i32, ()>(&mut store, "f").unwrap_err());
    assert!(error.contains("results") && error.contains("expected 0 types, found 1"), "{error}");
    assert!(message(instance.get_typed_func::<(), ()>(&mut store, "m").unwrap_err()).contains("not a function, but a memory"));
    assert!(message(instance.get_typed_func::<(), ()>(&mut store, "x").unwrap_err()).contains("failed to find function export `x`"));
    let func = instance.get_func(&mut store, "f").unwrap();
    assert!(message(func.call(&mut store, &[], &mut [Val::I32(0)]).unwrap_err()).contains("expected 1 arguments, got 0"));
    assert!(message(func.call(&mut store, &[Val::I32(0)], &mut []).unwrap_err()).contains("expected 1 results, got 0"));
    let error = message(func.call(&mut store, &[Val::F32(0)], &mut [Val::I32(0)]).unwrap_err());
    assert!(error.contains("expected i32, found f32"), "{error}");
    Ok(())
}

#[test]
fn host_functions_of_many_arities() -> Result<()> {
    let engine = engine();
    let mut linker: Linker<Vec<i64>> = Linker::new(&engine);
    linker.func_wrap("h", "f0", || 10i32)?;
    linker.func_wrap("h", "f3", |a: i32, b: i64, c: f64| (a as i64 + b + c as i64, 1.5f32))?;
    linker.func_wrap("h", "log", |mut caller: Caller<'_, Vec<i64>>, value: i64| caller.data_mut().push(value))?;
    linker.func_wrap(
        "h",
        "f17",
        #[allow(clippy::too_many_arguments)]
        |a: i32,
         b: i32,
         c: i32,
         d: i32,
         e: i32,
         f: i32,
         g: i32,
         h: i32,
         i: i32,
         j: i32,
         k: i32,
         l: i32,
         m: i32,
         n: i32,
         o: i32,
         p: i32,
         q: i64|
         -> Result<i64> {
            Ok(i64::from(
                a + 2 * b
                    + 3 * c
                    + 4 * d
                    + 5 * e
                    + 6 * f
                    + 7 * g
                    + 8 * h
                    + 9 * i
                    + 10 * j
                    + 11 * k
                    + 12 * l
                    + 13 * m
                    + 14 * n
                    + 15 * o
                    + 16 * p,
            ) + 17 * q)
        },
    )?;
    let ty = FuncType::new(&engine, [ValType::I32, ValType::F64], [ValType::F64, ValType::I32]);
    linker.func_new("h", "swap", ty, |_, params, results| {
        results.copy_from_slice(&[params[1], params[0]]);
        Ok(())
    })?;
    let ones = "(i32.const 1) ".repeat(16);
    let module = Module::new(
        &engine,
        format!(
            r#"(module
                (import "h" "f0" (func $f0 (result i32)))
                (import "h" "f3" (func $f3 (param i32 i64 f64) (result i64 f32)))
                (import "h" "log" (func $log (param i64)))
                (import "h" "f17" (func $f17 (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i64)))
                (import "h" "swap" (func $swap (param i32 f64) (result f64 i32)))
                (func (export "run") (result f32 f64)
                    (local $f f32)
                    (call $log (i64.extend_i32_s (call $f0)))
                    (call $f3 (i32.const 1) (i64.const 2) (f64.const 3))
                    local.set $f
                    call $log
                    (call $log (call $f17 {ones} (i64.const 1)))
                    local.get $f
                    (drop (call $swap (i32.const 1) (f64.const 6.25)))))"#
        ),
    )?;
    let mut store = Store::new(&engine, vec![]);
    let instance = linker.instantiate(&mut store, &module)?;
    let run = instance.get_typed_func::<(), (f32, f64)>(&mut store, "run")?;
    assert_eq!(run.call(&mut store, ())?, (1.5, 6.25));
    assert_eq!(store.data(), &[10, 6, 136 + 17]);
    Ok(())
}

#[test]
fn a_guest_calls_the_host_that_calls_the_guest() -> Result<()> {
    let engine = engine();
    let module = Module::new(
        &engine,
        r#"(module
            (import "h" "again" (func $again (param i32) (result i32)))
            (func (export "down") (param i32) (result i32)
                (if (result i32) (i32.eqz (local.get 0))
                    (then (i32.const 0))
                    (else (i32.add (i32.const 1) (call $again (i32.sub (local.get 0) (i32.const 1))))))))"#,
    )?;
    let mut linker: Linker<u32> = Linker::new(&engine);
    linker.func_wrap("h", "again", |mut caller: Caller<'_, u32>, n: i32| -> Result<i32> {
        *caller.data_mut() += 1;
        let down = caller.get_export("down").and_then(Extern::into_func).unwrap().typed::<i32, i32>(&caller)?;
        let result = down.call(&mut caller, n)?;
        *caller.data_mut() += 1;
        Ok(result)
    })?;
    let mut store = Store::new(&engine, 0);
    let instance = linker.instantiate(&mut store, &module)?;
    let down = instance.get_typed_func::<i32, i32>(&mut store, "down")?;
    assert_eq!(down.call(&mut store, 50)?, 50);
    assert_eq!(*store.data(), 100);
    Ok(())
}

#[test]
fn host_functions_are_called_by_the_host_and_through_tables() -> Result<()> {
    let engine = engine();
    let mut store = Store::new(&engine, ());
    let add = Func::wrap(&mut store, |a: i32, b: i32| a + b);
    assert_eq!(add.typed::<(i32, i32), i32>(&store)?.call(&mut store, (2, 3))?, 5);
    let module = Module::new(
        &engine,
        r#"(module
            (import "" "t" (table 1 funcref))
            (type $add (func (param i32 i32) (result i32)))
            (func (export "run") (param i32 i32) (result i32)
                (call_indirect (type $add) (local.get 0) (local.get 1) (i32.const 0))))"#,
    )?;
    let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 1, None), add.into())?;
    let instance = Instance::new(&mut store, &module, &[table.into()])?;
    let run = instance.get_typed_func::<(i32, i32), i32>(&mut store, "run")?;
    assert_eq!(run.call(&mut store, (20, 22))?, 42);
    let other = Func::wrap(&mut store, |a: i64| a);
    table.set(&mut store, 0, other.into())?;
    assert_eq!(run.call(&mut store, (1, 2)).unwrap_err().downcast_ref(), Some(&Trap::BadSignature));
    table.set(&mut store, 0, Ref::Func(None))?;
    assert_eq!(run.call(&mut store, (1, 2)).unwrap_err().downcast_ref(), Some(&Trap::IndirectCallToNull));
    Ok(())
}

#[test]
fn errors_of_host_functions_come_out_with_a_backtrace() -> Result<()> {
    #[derive(Debug, PartialEq)]
    struct Mine(i32);
    impl std::fmt::Display for Mine {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "mine {}", self.0)
        }
    }
    impl std::error::Error for Mine {}

    let engine = engine();
    let module =
        Module::new(&engine, r#"(module $m (import "h" "fail" (func $fail)) (func $inner call $fail) (func (export "run") call $inner))"#)?;
    let mut linker: Linker<()> = Linker::new(&engine);
    linker.func_wrap("h", "fail", || -> Result<()> { Err(Mine(3).into()) })?;
    let mut store = Store::new(&engine, ());
    let run = linker.instantiate(&mut store, &module)?.get_typed_func::<(), ()>(&mut store, "run")?;
    for _ in 0..3 {
        let error = run.call(&mut store, ()).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Mine(3)));
        let frames = error.downcast_ref::<WasmBacktrace>().unwrap().frames();
        assert_eq!(frames.iter().map(FrameInfo::func_index).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(frames[0].func_name(), Some("inner"));
        assert_eq!(frames[0].module().name(), Some("m"));
    }
    Ok(())
}

#[test]
fn panics_of_host_functions_go_on_in_the_caller() -> Result<()> {
    let engine = engine();
    let module = Module::new(
        &engine,
        r#"(module (import "h" "panic" (func $p (result i32))) (func (export "run") call $p drop) (func (export "ok")))"#,
    )?;
    let mut linker: Linker<()> = Linker::new(&engine);
    linker.func_wrap("h", "panic", || -> i32 { std::panic::panic_any(17u8) })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.call(&mut store, ())));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&17u8));
    instance.get_typed_func::<(), ()>(&mut store, "ok")?.call(&mut store, ())?;
    Ok(())
}

#[test]
fn handles_of_another_store_are_refused() -> Result<()> {
    let (mut store, instance) = instance(r#"(module (func (export "f")) (memory (export "m") 1))"#)?;
    let f = instance.get_typed_func::<(), ()>(&mut store, "f")?;
    let memory = instance.get_memory(&mut store, "m").unwrap();
    let mut other = Store::new(store.engine(), ());
    let refused = |use_it: &mut dyn FnMut(&mut Store<()>)| {
        let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| use_it(&mut other))).unwrap_err();
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned());
        assert_eq!(text.as_deref(), Some("object used with the wrong store"));
    };
    let mut refused = refused;
    refused(&mut |other| _ = f.call(other, ()));
    refused(&mut |other| _ = memory.data(&*other).len());
    refused(&mut |other| _ = instance.get_func(other, "f"));
    Ok(())
}

#[test]
fn raw_calls() -> Result<()> {
    let (mut store, instance) =
        instance(r#"(module (func (export "f") (param i32 i64) (result i64) (i64.add (local.get 1) (i64.extend_i32_s (local.get 0)))))"#)?;
    let f = instance.get_func(&mut store, "f").unwrap();
    let mut values = [ValRaw::i32(-2), ValRaw::i64(44)];
    // SAFETY: the values are of the function's types.
    unsafe { f.call_unchecked(&mut store, &mut values)? };
    assert_eq!(values[0].get_i64(), 42);
    let raw = f.to_raw(&store);
    // SAFETY: the pointer comes from the line above.
    let same = unsafe { Func::from_raw(&store, raw) }.unwrap();
    assert_eq!(same.typed::<(i32, i64), i64>(&store)?.call(&mut store, (1, 2))?, 3);
    Ok(())
}
