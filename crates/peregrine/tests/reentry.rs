//! Guests that call the host, which calls guests again: nested activations and the ends of both stacks.

use peregrine::{Caller, Config, Engine, Extern, Instance, Linker, Module, Result, Store, Trap};

/// A linker whose `host.call` calls the caller's export `back`.
fn calling_back(engine: &Engine) -> Linker<()> {
    let mut linker = Linker::new(engine);
    let call = |mut caller: Caller<'_, ()>| -> Result<()> {
        let back = caller.get_export("back").and_then(Extern::into_func).expect("an export");
        back.typed::<(), ()>(&caller)?.call(&mut caller, ())
    };
    linker.func_wrap("host", "call", call).unwrap();
    linker
}

#[test]
fn the_guest_stack_ends_wherever_an_activation_begins() {
    let engine = Engine::new(Config::new().max_wasm_stack(32 << 10)).unwrap();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "call" (func $call))
            (func (export "back"))
            (func $deeper (result i32) (call $call) (i32.add (call $deeper) (i32.const 1)))
            (func $pad (export "pad") (param i32 i64 i64) (result i32)
                (i32.add (i32.wrap_i64 (i64.add (local.get 1) (local.get 2)))
                    (if (result i32) (local.get 0)
                        (then (call $pad (i32.sub (local.get 0) (i32.const 1)) (local.get 1) (local.get 2)))
                        (else (call $deeper))))))"#,
    )
    .unwrap();
    let mut store = Store::new(&engine, ());
    let instance: Instance = calling_back(&engine).instantiate(&mut store, &module).unwrap();
    let pad = instance.get_typed_func::<(u32, u64, u64), u32>(&mut store, "pad").unwrap();
    for levels in 0..8 {
        let error = pad.call(&mut store, (levels, 1, 2)).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
    }
}

#[test]
fn recursion_through_the_host_ends_before_the_stack_of_the_host_does() {
    let engine = Engine::new(Config::new().max_wasm_stack(64 << 20)).unwrap();
    let module = Module::new(&engine, r#"(module (import "host" "call" (func $call)) (func (export "back") (call $call)))"#).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = calling_back(&engine).instantiate(&mut store, &module).unwrap();
    let back = instance.get_typed_func::<(), ()>(&mut store, "back").unwrap();
    for _ in 0..2 {
        let error = back.call(&mut store, ()).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
    }
}
