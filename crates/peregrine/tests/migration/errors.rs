//! What went wrong is found by type, and shown with where.

use peregrine::error::Context as _;
use peregrine::{Caller, Config, Engine, Instance, Linker, Module, Result, Store, Trap, WasmBacktrace, WasmBacktraceDetails, bail, ensure};
use std::fmt;

#[derive(Debug, PartialEq)]
struct Exit(i32);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit with status {}", self.0)
    }
}

impl std::error::Error for Exit {}

const WAT: &str = r#"
(module $program
    (import "sys" "exit" (func $exit (param i32)))
    (import "sys" "check" (func $check (param i32)))
    (memory 1)
    (table 1 funcref)
    (func (export "exit") (call $exit (i32.const 3)))
    (func (export "check") (param i32) (call $check (local.get 0)))
    (func $div (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
    (func $divide (export "divide") (param i32) (result i32) (call $div (local.get 0)))
    (func (export "overflow") (drop (i32.div_s (i32.const 0x80000000) (i32.const -1))))
    (func (export "convert") (drop (i32.trunc_f32_s (f32.const nan))))
    (func (export "load") (drop (i32.load (i32.const 65533))))
    (func (export "table") (drop (table.get (i32.const 7))))
    (func (export "null") (call_indirect (i32.const 0)))
    (func (export "unreachable") unreachable))
"#;

fn program(config: &Config) -> Result<(Store<()>, Instance)> {
    let engine = Engine::new(config)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("sys", "exit", |status: i32| -> Result<()> { Err(Exit(status).into()) })?;
    linker.func_wrap("sys", "check", |_: Caller<'_, ()>, value: i32| {
        ensure!(value >= 0, "{value} is negative");
        if value > 100 {
            bail!(Trap::MemoryOutOfBounds);
        }
        Ok(())
    })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &Module::new(&engine, WAT)?)?;
    Ok((store, instance))
}

#[test]
fn errors_are_found_by_type() -> Result<()> {
    let (mut store, instance) = program(&Config::new())?;
    let exit = instance.get_typed_func::<(), ()>(&mut store, "exit")?;
    let error = exit.call(&mut store, ()).context("running the program").unwrap_err();
    assert_eq!(error.to_string(), "running the program");
    assert_eq!(error.downcast_ref::<Exit>(), Some(&Exit(3)));
    assert!(error.is::<Exit>() && error.downcast_ref::<Trap>().is_none());
    assert!(error.chain().any(|cause| cause.to_string() == "exit with status 3"));

    let check = instance.get_typed_func::<i32, ()>(&mut store, "check")?;
    check.call(&mut store, 5)?;
    assert_eq!(check.call(&mut store, -1).unwrap_err().root_cause().to_string(), "-1 is negative");
    assert_eq!(check.call(&mut store, 101).unwrap_err().downcast::<Trap>()?, Trap::MemoryOutOfBounds);
    Ok(())
}

#[test]
fn each_trap_has_its_code() -> Result<()> {
    let (mut store, instance) = program(&Config::new())?;
    let expect = [
        ("overflow", Trap::IntegerOverflow),
        ("convert", Trap::BadConversionToInteger),
        ("load", Trap::MemoryOutOfBounds),
        ("table", Trap::TableOutOfBounds),
        ("null", Trap::IndirectCallToNull),
        ("unreachable", Trap::UnreachableCodeReached),
    ];
    for (name, trap) in expect {
        let func = instance.get_func(&mut store, name).unwrap();
        let error = func.call(&mut store, &[], &mut []).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&trap), "{name}: {error:?}");
    }
    let divide = instance.get_typed_func::<i32, i32>(&mut store, "divide")?;
    match divide.call(&mut store, 0).map_err(|error| error.downcast::<Trap>()) {
        Err(Ok(Trap::IntegerDivisionByZero)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(divide.call(&mut store, 1)?, 1);
    assert_eq!(Trap::IntegerDivisionByZero.to_string(), "wasm trap: integer divide by zero");
    Ok(())
}

#[test]
fn backtraces_name_functions() -> Result<()> {
    let mut config = Config::new();
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    let (mut store, instance) = program(&config)?;
    let divide = instance.get_typed_func::<i32, i32>(&mut store, "divide")?;
    let error = divide.call(&mut store, 0).unwrap_err();
    let backtrace = error.downcast_ref::<WasmBacktrace>().expect("a backtrace");
    let frames: Vec<_> = backtrace.frames().iter().map(|frame| (frame.func_index(), frame.func_name())).collect();
    assert_eq!(frames, [(4, Some("div")), (5, Some("divide"))]);
    assert_eq!(backtrace.frames()[0].module().name(), Some("program"));
    assert!(backtrace.frames()[0].module_offset() > backtrace.frames()[0].func_offset());
    let text = format!("{error:?}");
    assert!(text.contains("program!div") && text.contains("integer divide by zero"), "{text}");

    let mut config = Config::new();
    config.wasm_backtrace_max_frames(None);
    let (mut store, instance) = program(&config)?;
    let divide = instance.get_typed_func::<i32, i32>(&mut store, "divide")?;
    assert!(divide.call(&mut store, 0).unwrap_err().downcast_ref::<WasmBacktrace>().is_none());
    Ok(())
}

#[test]
fn modules_that_are_wrong_are_refused() {
    let engine = Engine::default();
    assert!(Module::new(&engine, "(module (func (i32.add)))").is_err());
    assert!(Module::new(&engine, "(module").is_err());
    assert!(Module::new(&engine, b"\0asm\x02\0\0\0").is_err());
    assert!(Module::from_binary(&engine, b"(module)").is_err());
    assert!(Module::validate(&engine, b"\0asm\x01\0\0\0").is_ok());
    let mut store = Store::new(&engine, ());
    let module = Module::new(&engine, r#"(module (import "a" "b" (func)))"#).unwrap();
    assert!(Instance::new(&mut store, &module, &[]).is_err());
    let error = Linker::new(&engine).instantiate(&mut store, &module).unwrap_err();
    let unknown = error.downcast_ref::<peregrine::UnknownImportError>().unwrap();
    assert_eq!((unknown.module(), unknown.name()), ("a", "b"));
}

#[test]
fn embedders_make_errors_of_their_own_allocations() {
    let error = peregrine::Error::from(peregrine::OutOfMemory::new(5));
    assert_eq!(error.downcast_ref::<peregrine::OutOfMemory>().unwrap().requested_allocation_size(), 5);
}
