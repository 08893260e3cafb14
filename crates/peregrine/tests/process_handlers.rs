//! What the engine changed in the process can be taken back. In a process of its own, for handlers of signals belong to all of it.

use peregrine::{Engine, Instance, Module, Result, Store, Trap};

/// A trap that is found by a fault of the hardware.
fn fault(engine: &Engine) -> Result<()> {
    let module = Module::new(engine, r#"(module (memory 1) (func (export "run") (drop (i32.load (i32.const 0x7fffffff)))))"#)?;
    let mut store = Store::new(engine, ());
    let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
    assert_eq!(run.call(&mut store, ()).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds));
    Ok(())
}

/// Which signals have handlers: a bit for each.
fn caught() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn handlers_are_given_back_and_installed_again() -> Result<()> {
    let before = caught();
    for _ in 0..3 {
        let engine = Engine::default();
        fault(&engine)?;
        assert_ne!(caught(), before, "the test runner does not catch them all");
        // SAFETY: no guest runs.
        unsafe { engine.unload_process_handlers() };
        assert_eq!(caught(), before);
    }
    // Of an engine that others use it is a mistake.
    let engine = Engine::default();
    let module = Module::new(&engine, "(module)")?;
    // SAFETY: no guest runs.
    let unload = std::panic::AssertUnwindSafe(|| unsafe { engine.unload_process_handlers() });
    assert!(std::panic::catch_unwind(unload).is_err());
    drop(module);
    Ok(())
}
