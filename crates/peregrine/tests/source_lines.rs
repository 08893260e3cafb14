//! Backtraces of a C program with DWARF sections name its functions, files and lines.

use peregrine::*;

/// The error of running `guests/trap.wasm KIND`.
fn failure(config: &Config, kind: &'static str) -> Result<Error> {
    let engine = Engine::new(config)?;
    let module = Module::from_file(&engine, concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests/trap.wasm"))?;
    let mut linker: Linker<()> = Linker::new(&engine);
    let wasi = "wasi_snapshot_preview1";
    linker.func_wrap(wasi, "args_sizes_get", |mut caller: Caller<'_, ()>, count: u32, bytes: u32| -> Result<i32> {
        let memory = memory(&mut caller)?;
        memory.write(&mut caller, count as usize, &2u32.to_le_bytes())?;
        memory.write(&mut caller, bytes as usize, &64u32.to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(wasi, "args_get", |mut caller: Caller<'_, ()>, pointers: u32, text: u32| -> Result<i32> {
        let memory = memory(&mut caller)?;
        for (position, argument) in ["trap\0", kind].into_iter().enumerate() {
            let place = text + 8 * position as u32;
            memory.write(&mut caller, place as usize, argument.as_bytes())?;
            memory.write(&mut caller, pointers as usize + 4 * position, &place.to_le_bytes())?;
        }
        Ok(0)
    })?;
    linker.define_unknown_imports_as_traps(&module)?;
    let mut store = Store::new(&engine, ());
    let start = linker.instantiate(&mut store, &module)?.get_typed_func::<(), ()>(&mut store, "_start")?;
    Ok(start.call(&mut store, ()).unwrap_err())
}

fn memory(caller: &mut Caller<'_, ()>) -> Result<Memory> {
    caller.get_export("memory").and_then(Extern::into_memory).context("the program exports its memory")
}

#[test]
fn frames_name_functions_files_and_lines() -> Result<()> {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests/trap.c"))?;
    let error = failure(Config::new().compiler_inlining(false), "load\0")?;
    assert_eq!(error.downcast_ref(), Some(&Trap::MemoryOutOfBounds));
    let backtrace = error.downcast_ref::<WasmBacktrace>().unwrap();
    let names: Vec<_> = backtrace.frames().iter().map(|frame| frame.func_name().unwrap()).collect();
    assert_eq!(names, ["trap_load", "inner", "outer", "_start"]);
    for frame in backtrace.frames() {
        let [symbol] = frame.symbols() else { panic!("one place for {frame:?}") };
        assert_eq!(symbol.name(), frame.func_name());
        assert!(symbol.file().unwrap().ends_with("guests/trap.c"));
        assert!(symbol.column().is_some());
        let line = source.lines().nth(symbol.line().unwrap() as usize - 1).unwrap();
        let expect = match frame.func_name().unwrap() {
            "trap_load" => "far_away",
            "inner" => "trap_load()",
            "outer" => "inner(",
            _ => "outer(",
        };
        assert!(line.contains(expect), "{line}");
    }
    let text = error.to_string();
    assert!(text.contains("!trap_load\n                    at ") && text.contains("trap.c:38:"), "{text}");
    Ok(())
}

#[test]
fn details_can_be_off() -> Result<()> {
    let error = failure(Config::new().wasm_backtrace_details(WasmBacktraceDetails::Disable), "divide\0")?;
    assert_eq!(error.downcast_ref(), Some(&Trap::IntegerDivisionByZero));
    let frames = error.downcast_ref::<WasmBacktrace>().unwrap().frames();
    assert!(!frames.is_empty() && frames.iter().all(|frame| frame.symbols().is_empty()));
    Ok(())
}
