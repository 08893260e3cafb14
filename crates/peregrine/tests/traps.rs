//! Traps of every kind that code of this release can raise, with their backtraces.

use peregrine::*;

/// The error of calling `run` in a module.
fn failure(wat: &str) -> Error {
    // A function that is compiled into its caller is not in backtraces.
    let engine = Engine::new(Config::new().compiler_inlining(false)).unwrap();
    let module = Module::new(&engine, wat).unwrap();
    let mut store = Store::new(&engine, ());
    let run = Instance::new(&mut store, &module, &[]).unwrap().get_typed_func::<(), ()>(&mut store, "run").unwrap();
    let error = run.call(&mut store, ()).unwrap_err();
    // The store is as good as before.
    assert_eq!(run.call(&mut store, ()).unwrap_err().downcast_ref::<Trap>(), error.downcast_ref());
    error
}

#[test]
fn every_trap_has_its_reason_and_place() {
    let cases = [
        ("unreachable", Trap::UnreachableCodeReached),
        ("(drop (i32.load (i32.const -1)))", Trap::MemoryOutOfBounds),
        ("(i64.store offset=4294967295 (i32.const -1) (i64.const 0))", Trap::MemoryOutOfBounds),
        ("(memory.fill (i32.const 65535) (i32.const 0) (i32.const 2))", Trap::MemoryOutOfBounds),
        ("(drop (i32.div_s (i32.const 1) (global.get $zero)))", Trap::IntegerDivisionByZero),
        ("(drop (i64.rem_u (i64.const 1) (i64.extend_i32_s (global.get $zero))))", Trap::IntegerDivisionByZero),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.sub (global.get $zero) (i32.const 1))))", Trap::IntegerOverflow),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", Trap::BadConversionToInteger),
        ("(drop (i32.trunc_f64_u (f64.const 1e20)))", Trap::IntegerOverflow),
        ("(call_indirect (type $t) (i32.const 99))", Trap::TableOutOfBounds),
        ("(call_indirect (type $t) (i32.const 0))", Trap::IndirectCallToNull),
        ("(call_indirect (type $t) (i32.const 1))", Trap::BadSignature),
        ("(drop (table.get (i32.const 3)))", Trap::TableOutOfBounds),
        ("(table.fill (i32.const 1) (ref.null func) (i32.const 2))", Trap::TableOutOfBounds),
        ("(call $deep)", Trap::StackOverflow),
    ];
    for (body, expect) in cases {
        let error = failure(&format!(
            r#"(module $m
                (type $t (func)) (memory 1) (table 2 funcref) (elem (i32.const 1) $other)
                (global $zero (mut i32) (i32.const 0))
                (func $other (result i32) i32.const 0)
                (func $deep (call $deep) (global.set $zero (i32.const 1)))
                (func $failing {body})
                (func (export "run") (global.set $zero (i32.const 0)) call $failing))"#
        ));
        assert_eq!(error.downcast_ref(), Some(&expect), "{body}");
        let frames = error.downcast_ref::<WasmBacktrace>().unwrap().frames();
        if expect == Trap::StackOverflow {
            assert!(frames.len() > 100);
            assert!(frames.iter().all(|frame| frame.func_name() == Some("deep")));
        } else {
            assert_eq!(frames.iter().map(FrameInfo::func_index).collect::<Vec<_>>(), [2, 3], "{body}");
            assert_eq!(frames[0].func_name(), Some("failing"));
            let (inner, outer) = (frames[0].module_offset().unwrap(), frames[1].module_offset().unwrap());
            assert!(inner < outer && frames[0].func_offset().unwrap() < inner, "{body}");
        }
    }
}

#[test]
fn the_place_is_that_of_the_instruction() -> Result<()> {
    let engine = Engine::default();
    // nop nop unreachable: the body's third instruction.
    let module = Module::new(&engine, r#"(module (func (export "run") nop nop unreachable))"#)?;
    let mut store = Store::new(&engine, ());
    let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
    let error = run.call(&mut store, ()).unwrap_err();
    let frame = &error.downcast_ref::<WasmBacktrace>().unwrap().frames()[0];
    // One byte says that there are no locals.
    assert_eq!(frame.func_offset(), Some(3));
    assert!(frame.symbols().is_empty());
    Ok(())
}

#[test]
fn errors_read_as_users_know_them() {
    let error = failure(r#"(module $app (func $inner unreachable) (func $outer (export "run") call $inner))"#);
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "error while executing at wasm backtrace:");
    assert!(lines[1].starts_with("    0:") && lines[1].ends_with(" - app!inner") && lines[1].contains("0x"), "{text}");
    assert!(lines[2].starts_with("    1:") && lines[2].ends_with(" - app!outer"), "{text}");
    assert!(error.root_cause().to_string().contains("`unreachable` instruction executed"));
    assert!(format!("{error:?}").contains("Caused by"));
}

#[test]
fn a_function_without_a_name_has_its_index() {
    let text = failure(r#"(module (func unreachable) (func (export "run") call 0))"#).to_string();
    assert!(text.contains("<unknown>!<wasm function 0>"), "{text}");
}

#[test]
fn backtraces_can_be_off() -> Result<()> {
    let engine = Engine::new(Config::new().wasm_backtrace(false))?;
    let module = Module::new(&engine, r#"(module (func (export "run") unreachable))"#)?;
    let mut store = Store::new(&engine, ());
    let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
    let error = run.call(&mut store, ()).unwrap_err();
    assert!(error.downcast_ref::<WasmBacktrace>().is_none());
    assert_eq!(error.downcast_ref(), Some(&Trap::UnreachableCodeReached));
    Ok(())
}

#[test]
fn host_functions_can_capture_one() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (import "" "" (func $h)) (func $a call $h) (func (export "run") call $a))"#)?;
    let mut store = Store::new(&engine, Vec::new());
    let host = Func::wrap(&mut store, |mut caller: Caller<'_, Vec<u32>>| {
        let indices = WasmBacktrace::capture(&caller).frames().iter().map(FrameInfo::func_index).collect();
        *caller.data_mut() = indices;
    });
    let run = Instance::new(&mut store, &module, &[host.into()])?.get_typed_func::<(), ()>(&mut store, "run")?;
    run.call(&mut store, ())?;
    assert_eq!(store.data(), &[1, 2]);
    assert!(WasmBacktrace::capture(&store).frames().is_empty());
    Ok(())
}

#[test]
fn a_start_function_that_traps_fails_the_instantiation() {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (func $start unreachable) (start $start))"#).unwrap();
    let error = Instance::new(&mut Store::new(&engine, ()), &module, &[]).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Trap::UnreachableCodeReached));
}

#[test]
fn segments_that_do_not_fit_fail_the_instantiation() {
    let engine = Engine::default();
    for (wat, expect) in [
        (r#"(module (memory 1) (data (i32.const 65535) "ab"))"#, Trap::MemoryOutOfBounds),
        (r#"(module (table 1 funcref) (func $f) (elem (i32.const 1) $f))"#, Trap::TableOutOfBounds),
    ] {
        let module = Module::new(&engine, wat).unwrap();
        let error = Instance::new(&mut Store::new(&engine, ()), &module, &[]).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&expect), "{wat}");
    }
}
