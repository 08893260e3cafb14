//! What the embedder is told while guests run: crossings, samples, and what was left when one trapped.

use peregrine::{
    AsContext, CallHook, Caller, Config, Context, Engine, Error, Func, GuestProfiler, Instance, Linker, Module, Result, Store, Table, Trap,
    UnknownImportError, Val, WasmBacktrace, WasmCoreDump, bail,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

const WAT: &str = r#"(module $app
    (import "host" "call" (func $call))
    (func $inner (call $call))
    (func (export "run") (call $inner))
    (func (export "fail") unreachable))"#;

/// A store whose data are the crossings, and the instance of `WAT` in it. The hook fails at the crossing `fail_at`.
fn hooked(fail_at: Option<CallHook>, host: impl Fn() -> Result<()> + Send + Sync + 'static) -> Result<(Store<Vec<CallHook>>, Instance)> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "call", host)?;
    let mut store = Store::new(&engine, Vec::new());
    let instance = linker.instantiate(&mut store, &Module::new(&engine, WAT)?)?;
    store.call_hook(move |mut context, kind| {
        context.data_mut().push(kind);
        if Some(kind) == fail_at { bail!("stopped at {kind:?}") } else { Ok(()) }
    });
    Ok((store, instance))
}

#[test]
fn every_crossing_is_told() -> Result<()> {
    use CallHook::*;
    let (mut store, instance) = hooked(None, || Ok(()))?;
    instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
    assert_eq!(store.data(), &[CallingWasm, CallingHost, ReturningFromHost, ReturningFromWasm]);
    store.data_mut().clear();
    // Also of calls with types known at run time only, and of those that fail.
    instance.get_func(&mut store, "fail").unwrap().call(&mut store, &[], &mut []).unwrap_err();
    assert_eq!(store.data(), &[CallingWasm, ReturningFromWasm]);
    store.data_mut().clear();
    let start = Module::new(store.engine(), "(module (func $start) (start $start))")?;
    Instance::new(&mut store, &start, &[])?;
    assert_eq!(store.data(), &[CallingWasm, ReturningFromWasm]);
    assert!(
        CallingHost.entering_host() && ReturningFromWasm.entering_host() && CallingWasm.exiting_host() && ReturningFromHost.exiting_host()
    );
    Ok(())
}

#[test]
fn an_error_of_the_hook_ends_the_call() -> Result<()> {
    use CallHook::*;
    for (at, told) in [(CallingWasm, 1), (CallingHost, 3), (ReturningFromHost, 4), (ReturningFromWasm, 4)] {
        let (mut store, instance) = hooked(Some(at), || Ok(()))?;
        let error = instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ()).unwrap_err();
        assert_eq!(error.root_cause().to_string(), format!("stopped at {at:?}"));
        assert_eq!(store.data().len(), told, "{:?}", store.data());
        let in_guest = matches!(at, CallingHost | ReturningFromHost);
        assert_eq!(error.downcast_ref::<WasmBacktrace>().is_some(), in_guest, "at {at:?}");
    }
    // The hook goes before the trap, and a panic before both.
    let (mut store, instance) = hooked(Some(ReturningFromWasm), || Ok(()))?;
    let error = instance.get_typed_func::<(), ()>(&mut store, "fail")?.call(&mut store, ()).unwrap_err();
    assert_eq!(error.downcast_ref::<Trap>(), None);
    let (mut store, instance) = hooked(Some(ReturningFromWasm), || panic!("in the host"))?;
    let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    let payload = catch_unwind(AssertUnwindSafe(|| run.call(&mut store, ()))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"in the host"));
    Ok(())
}

#[test]
fn a_hook_may_call_guests_itself() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (func (export "one") (result i32) (i32.const 1)))"#)?;
    let mut store = Store::new(&engine, 0);
    let one = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), i32>(&mut store, "one")?;
    let inner = one.clone();
    store.call_hook(move |mut context, _| {
        *context.data_mut() += inner.call(&mut context, ())?;
        Ok(())
    });
    one.call(&mut store, ())?;
    assert_eq!(*store.data(), 2);
    Ok(())
}

#[test]
fn a_core_dump_is_a_module_of_what_was_there() -> Result<()> {
    let engine = Engine::new(Config::new().coredump_on_trap(true))?;
    let module = Module::new(
        &engine,
        r#"(module $app
            (memory (export "memory") 2 5)
            (data (i32.const 70000) "secret")
            (global (mut i64) (i64.const -7))
            (global externref (ref.null extern))
            (func $inner unreachable)
            (func (export "run") (i32.store8 (i32.const 0) (i32.const 33)) (call $inner)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let error = instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ()).unwrap_err();
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::UnreachableCodeReached));
    assert!(error.downcast_ref::<WasmBacktrace>().is_some());
    let dump = error.downcast_ref::<WasmCoreDump>().context("there is a core dump")?;
    assert_eq!(dump.frames().iter().map(|frame| frame.func_name()).collect::<Vec<_>>(), [Some("inner"), Some("run")]);
    assert_eq!((dump.instances(), dump.memories().len(), dump.globals().len()), (&[instance][..], 1, 2));
    assert!(Module::same(&dump.modules()[0], &module));

    let file = dump.serialize(&mut store, "app.wasm");
    let read = Module::new(&engine, &file)?;
    assert_eq!(read.resources_required().max_initial_memory_size, Some(2));
    let section = |name| read.custom_sections(name).next().map(<[u8]>::to_vec);
    assert_eq!(section("core").unwrap(), b"\0\x08app.wasm");
    assert_eq!(section("coremodules").unwrap(), b"\x01\0\x03app");
    assert_eq!(section("coreinstances").unwrap(), [1, 0, 0, 1, 0, 2, 0, 1]);
    let stack = section("corestack").unwrap();
    assert_eq!(stack[..7], *b"\0\x04main\x02");
    // Function 0 of instance 0, then function 1; neither locals nor operands.
    assert_eq!((&stack[7..10], &stack[11..13]), (&[0, 0, 0][..], &[0, 0][..]));
    assert_eq!((&stack[13..16], &stack[17..]), (&[0, 0, 1][..], &[0, 0][..]));
    // Only what is not zero is in there, and it is all there.
    assert!(file.len() < 9000, "{} bytes", file.len());
    assert!(file.windows(6).any(|bytes| bytes == b"secret"));

    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let fail = Module::new(&engine, r#"(module (func (export "run") unreachable))"#)?;
    let run = Instance::new(&mut store, &fail, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
    assert!(run.call(&mut store, ()).unwrap_err().downcast_ref::<WasmCoreDump>().is_none());
    Ok(())
}

#[test]
fn a_profile_shows_who_called_whom() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, WAT)?;
    let other = Module::new(&engine, r#"(module (import "" "run" (func $run)) (func (export "outer") (call $run)))"#)?;
    let profiler = GuestProfiler::new(&engine, "a \"test\"", Duration::from_millis(2), [("app".into(), module.clone())])?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "call", |mut caller: Caller<'_, Option<GuestProfiler>>| {
        let mut profiler = caller.data_mut().take().unwrap();
        profiler.sample(caller.as_context(), Duration::from_micros(5));
        *caller.data_mut() = Some(profiler);
    })?;
    let mut store = Store::new(&engine, Some(profiler));
    store.call_hook(|mut context, kind| {
        let mut profiler = context.data_mut().take().unwrap();
        profiler.call_hook(&context, kind);
        *context.data_mut() = Some(profiler);
        Ok(())
    });
    let instance = linker.instantiate(&mut store, &module)?;
    let run = instance.get_func(&mut store, "run").unwrap();
    let outer = Instance::new(&mut store, &other, &[run.into()])?.get_typed_func::<(), ()>(&mut store, "outer")?;
    outer.call(&mut store, ())?;
    outer.call(&mut store, ())?;
    let mut file = Vec::new();
    store.into_data().unwrap().finish(&mut file)?;

    let profile: serde_json::Value = serde_json::from_slice(&file)?;
    assert_eq!(profile["meta"]["preprocessedProfileVersion"], 48);
    assert_eq!(profile["meta"]["product"], "a \"test\"");
    let thread = &profile["threads"][0];
    let strings = thread["stringArray"].as_array().unwrap();
    let number = |value: &serde_json::Value| value.as_u64().map(|number| number as usize);
    assert_eq!(thread["samples"]["length"], 2);
    // The same stack twice: the second sample adds none. `outer` is of a module that is not profiled.
    assert_eq!(thread["samples"]["stack"][0], thread["samples"]["stack"][1]);
    assert_eq!(thread["samples"]["threadCPUDelta"][1], 5);
    let mut names = Vec::new();
    let mut stack = number(&thread["samples"]["stack"][0]);
    while let Some(position) = stack {
        let frame = number(&thread["stackTable"]["frame"][position]).unwrap();
        let function = number(&thread["frameTable"]["func"][frame]).unwrap();
        names.push(strings[number(&thread["funcTable"]["name"][function]).unwrap()].as_str().unwrap());
        stack = number(&thread["stackTable"]["prefix"][position]);
    }
    assert_eq!(names, ["inner", "run"]);
    // Every column of a table is as long as the table.
    for table in ["frameTable", "funcTable", "stackTable", "samples", "markers", "nativeSymbols", "resourceTable"] {
        let length = thread[table]["length"].as_u64().unwrap() as usize;
        for (name, column) in thread[table].as_object().unwrap() {
            assert!(column.as_array().is_none_or(|column| column.len() == length), "{table}.{name}");
        }
    }
    assert_eq!(thread["markers"]["length"], 4, "two calls, and a host call in each");
    Ok(())
}

#[test]
fn names_that_guests_choose_do_not_reach_terminals_raw() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (func $"\1b[2J" (export "run") unreachable))"#)?;
    let mut store = Store::new(&engine, ());
    let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
    let text = run.call(&mut store, ()).unwrap_err().to_string();
    assert!(text.contains(r"\u{1b}[2J") && !text.contains('\u{1b}'), "{text:?}");

    let module = Module::new(&engine, r#"(module (import "\1b[31m" "\u{202e}x" (func)))"#)?;
    let error = Linker::new(&engine).instantiate(&mut store, &module).unwrap_err();
    assert!(error.downcast_ref::<UnknownImportError>().is_some());
    assert!(!error.to_string().contains(['\u{1b}', '\u{202e}']), "{error:?}");
    Ok(())
}

#[test]
fn frames_can_be_limited() -> Result<()> {
    let deep = r#"(module (func $f (export "run") (param i32) (if (local.get 0) (then (call $f (i32.sub (local.get 0) (i32.const 1)))) (else unreachable))))"#;
    let mut config = Config::new();
    for (limit, expect) in
        [(Some(3), Some(3)), (Some(1000), Some(501)), (Some(400), Some(400)), (Some(usize::MAX), Some(501)), (None, None)]
    {
        config.wasm_backtrace_max_frames(limit.and_then(std::num::NonZeroUsize::new));
        let engine = Engine::new(&config)?;
        let mut store = Store::new(&engine, ());
        let run = Instance::new(&mut store, &Module::new(&engine, deep)?, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
        let error = run.call(&mut store, 500).unwrap_err();
        assert_eq!(error.downcast_ref::<WasmBacktrace>().map(|backtrace| backtrace.frames().len()), expect);
        // The most that there are.
        let frames = run.call(&mut store, 0).unwrap_err().downcast_ref::<WasmBacktrace>().map(|backtrace| backtrace.frames().len());
        assert_eq!(frames, expect.map(|_| 1));
    }
    let engine = Engine::new(config.max_wasm_stack(16 << 20).wasm_backtrace_max_frames(std::num::NonZeroUsize::new(usize::MAX)))?;
    let mut store = Store::new(&engine, ());
    let run = Instance::new(&mut store, &Module::new(&engine, deep)?, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
    let error = run.call(&mut store, 70_000).unwrap_err();
    assert_eq!(error.downcast_ref::<WasmBacktrace>().map(|backtrace| backtrace.frames().len()), Some(65_536));
    Ok(())
}

#[test]
fn a_call_of_a_function_without_code_has_its_caller_in_the_backtrace() -> Result<()> {
    // With more types than stubs are made for, a host function of a type that the module never meets has no code for guests, unless its values
    // have registers.
    let mut wat = "(module (import \"\" \"t\" (table 1 funcref)) (type $wanted (func (param i64 f32 i64 f64 i32 i64 i64 i64)))".to_owned();
    for number in 0..2100u32 {
        let params: String = (0..12).map(|bit| if number >> bit & 1 == 1 { " i64" } else { " i32" }).collect();
        wat += &format!("(type (func (param{params})))");
    }
    wat += r#"(func $caller (export "run")
        (call_indirect (type $wanted) (i64.const 1) (f32.const 2) (i64.const 3) (f64.const 4) (i32.const 5)
            (i64.const 6) (i64.const 7) (i64.const 8) (i32.const 0))))"#;
    let image = Engine::new(Config::new().compiler_inlining(false))?.precompile_module(wat.as_bytes())?;
    // Where there is a compiler, it makes what is missing.
    let engine = Engine::new(Config::new().enable_compiler(false))?;
    // SAFETY: the image was just made.
    let module = unsafe { Module::deserialize(&engine, image) }?;
    let mut store = Store::new(&engine, ());
    let table = Table::new(&mut store, peregrine::TableType::new(peregrine::RefType::FUNCREF, 1, None), peregrine::Ref::Func(None))?;
    let host = Func::wrap(&mut store, |_: i64, _: f32, _: i64, _: f64, _: i32, _: i64, _: i64, _: i64| ());
    table.set(&mut store, 0, host.into())?;
    let run = Instance::new(&mut store, &module, &[table.into()])?.get_typed_func::<(), ()>(&mut store, "run")?;
    let error = run.call(&mut store, ()).unwrap_err();
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::IndirectCallToNull));
    let backtrace = error.downcast_ref::<WasmBacktrace>().context("there is a backtrace")?;
    assert_eq!(backtrace.frames().iter().map(|frame| frame.func_name()).collect::<Vec<_>>(), [Some("caller")]);
    assert!(backtrace.frames()[0].module_offset().is_some());
    Ok(())
}

#[test]
fn values_can_be_handed_on_raw() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let func = Func::wrap(&mut store, || 1);
    let external = peregrine::ExternRef::new(&mut store, 7u8)?;
    for value in [Val::I32(-1), Val::I64(2), Val::F32(3), Val::F64(4), 5u128.into(), func.into(), external.into(), Val::null_extern_ref()] {
        let (raw, ty) = (value.to_raw(&mut store)?, value.ty(&store)?);
        // SAFETY: the raw value is of the type that the value said it has.
        let back = unsafe { Val::from_raw(&mut store, raw, ty.clone()) };
        assert_eq!(format!("{back:?}"), format!("{value:?}"));
        assert!(back.matches_ty(&store, &ty)?);
    }
    assert!(peregrine::ExternRef::from_raw(&store, 99).is_none());
    let _: Error = Error::msg("an error");
    Ok(())
}
