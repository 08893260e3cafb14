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

/// Does `work` on a stack of its own, which the thread knows nothing of, as coroutines have.
fn on_a_foreign_stack(len_bytes: usize, work: &mut dyn FnMut()) {
    use std::cell::Cell;
    use std::mem::MaybeUninit;
    thread_local! {
        static WORK: Cell<*mut &'static mut dyn FnMut()> = const { Cell::new(std::ptr::null_mut()) };
    }
    extern "C" fn begin() {
        // SAFETY: the caller waits for this function, and the work with it.
        unsafe { (*WORK.get())() };
    }
    let mut work = work;
    WORK.set((&raw mut work).cast());
    let mut stack = vec![0u8; len_bytes];
    let (mut here, mut there) = (MaybeUninit::<libc::ucontext_t>::uninit(), MaybeUninit::<libc::ucontext_t>::uninit());
    // SAFETY: the contexts are filled in before they are used; the stack is there until the function on it has returned to here.
    unsafe {
        assert_eq!(libc::getcontext(there.as_mut_ptr()), 0);
        let context = there.assume_init_mut();
        context.uc_stack.ss_sp = stack.as_mut_ptr().cast();
        context.uc_stack.ss_size = stack.len();
        context.uc_link = here.as_mut_ptr();
        libc::makecontext(context, begin, 0);
        assert_eq!(libc::swapcontext(here.as_mut_ptr(), there.as_ptr()), 0);
    }
}

#[test]
fn recursion_through_the_host_ends_on_stacks_that_are_not_the_threads() {
    let engine = Engine::default();
    let text = r#"(module (import "host" "call" (func $call)) (func (export "back") (call $call)))"#;
    let module = Module::new(&engine, text).unwrap();
    let mut linker = Linker::new(&engine);
    let call = |mut caller: Caller<'_, u32>| -> Result<()> {
        *caller.data_mut() += 1;
        let back = caller.get_export("back").and_then(Extern::into_func).expect("an export");
        back.typed::<(), ()>(&caller)?.call(&mut caller, ())
    };
    linker.func_wrap("host", "call", call).unwrap();
    let mut store = Store::new(&engine, 0);
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let back = instance.get_typed_func::<(), ()>(&mut store, "back").unwrap();
    for _ in 0..3 {
        *store.data_mut() = 0;
        on_a_foreign_stack(256 << 10, &mut || {
            let error = back.call(&mut store, ()).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
        });
        assert_eq!(*store.data(), 65, "the outermost call and 64 others");
    }
    // Each turn in a store of its own is bounded as well.
    fn in_another(engine: &Engine, module: &Module, turn: u32) -> Result<u32> {
        let mut store = Store::new(engine, turn);
        let inner = module.clone();
        let again = move |mut caller: Caller<'_, u32>| -> Result<()> {
            let turn = *caller.data();
            *caller.data_mut() = in_another(inner.engine(), &inner, turn + 1)?;
            Ok(())
        };
        let again = peregrine::Func::wrap(&mut store, again);
        let back = Instance::new(&mut store, module, &[again.into()])?.get_typed_func::<(), ()>(&mut store, "back")?;
        match back.call(&mut store, ()) {
            Ok(()) => Ok(*store.data()),
            Err(error) if error.downcast_ref() == Some(&Trap::StackOverflow) => Ok(turn),
            Err(error) => Err(error),
        }
    }
    on_a_foreign_stack(4 << 20, &mut || assert_eq!(in_another(&engine, &module, 0).unwrap(), 65));
}
