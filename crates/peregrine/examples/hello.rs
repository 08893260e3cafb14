//! The smallest host: compiles a module, gives it a function, calls one of its.
//!
//! `cargo run --release --example hello`

use peregrine::{Caller, Engine, Linker, Module, Result, Store};

const GUEST: &str = r#"(module
    (import "host" "hello" (func $hello (param i32)))
    (func (export "run") (param $times i32)
        (loop $again
            (call $hello (local.get $times))
            (local.set $times (i32.sub (local.get $times) (i32.const 1)))
            (br_if $again (local.get $times)))))"#;

/// Runs the example.
pub fn main() -> Result<()> {
    // One engine per process compiles modules; they are shared by all threads.
    let engine = Engine::default();
    let module = Module::new(&engine, GUEST)?;

    // What guests may call, by two names. Nothing else of the host is within their reach.
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "hello", |mut caller: Caller<'_, Vec<String>>, left: i32| {
        caller.data_mut().push(format!("Hello from the guest! {left} to go."));
    })?;

    // A store holds instances and the host's data about them; dropping it frees them all.
    let mut store = Store::new(&engine, Vec::new());
    let instance = linker.instantiate(&mut store, &module)?;
    let run = instance.get_typed_func::<i32, ()>(&mut store, "run")?;
    run.call(&mut store, 3)?;

    let lines = store.into_data();
    lines.iter().for_each(|line| println!("{line}"));
    assert_eq!(lines.len(), 3);
    Ok(())
}
