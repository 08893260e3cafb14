//! Several modules, linked by name.

use peregrine::*;

#[test]
fn modules_use_each_other() -> Result<()> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    let mut store = Store::new(&engine, ());
    let math = Module::new(&engine, r#"(module (func (export "double") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2))))"#)?;
    let main = Module::new(
        &engine,
        r#"(module (import "math" "double" (func $d (param i32) (result i32))) (func (export "run") (result i32) (call $d (i32.const 21))))"#,
    )?;
    let instance = linker.instantiate(&mut store, &math)?;
    linker.instance(&mut store, "math", instance)?;
    linker.alias_module("math", "arithmetic")?;
    linker.alias("math", "double", "math", "twice")?;
    let pre = linker.instantiate_pre(&main)?;
    assert!(Module::same(pre.module(), &main));
    for _ in 0..3 {
        let instance = pre.instantiate(&mut store)?;
        assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())?, 42);
    }
    let names: Vec<_> = linker.iter(&mut store).map(|(module, name, _)| format!("{module}.{name}")).collect();
    assert_eq!(names.len(), 3);
    let import = main.imports().next().unwrap();
    assert!(matches!(linker.get_by_import(&mut store, &import), Some(Extern::Func(_))));
    assert!(linker.get(&mut store, "math", "triple").is_err());

    assert!(linker.func_wrap("math", "double", |x: i32| x * 20).is_err());
    linker.allow_shadowing(true).func_wrap("math", "double", |x: i32| x * 20)?;
    let instance = linker.instantiate(&mut store, &main)?;
    assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())?, 420);
    Ok(())
}

#[test]
fn commands_and_reactors() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, 0);
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "count", |mut caller: Caller<'_, i32>| *caller.data_mut() += 1)?;
    let command = Module::new(&engine, r#"(module (import "host" "count" (func $c)) (func (export "_start") (call $c)))"#)?;
    linker.module(&mut store, "command", &command)?;
    let start = linker.get_default(&mut store, "command")?.typed::<(), ()>(&store)?;
    start.call(&mut store, ())?;
    start.call(&mut store, ())?;
    let reactor = Module::new(
        &engine,
        r#"(module (import "host" "count" (func $c)) (global $n (mut i32) (i32.const 0))
            (func (export "_initialize") (call $c))
            (func (export "next") (result i32) (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n)))"#,
    )?;
    linker.module(&mut store, "reactor", &reactor)?;
    assert_eq!(*store.data(), 3);
    let next = linker.get(&mut store, "reactor", "next")?.into_func().unwrap().typed::<(), i32>(&store)?;
    assert_eq!((next.call(&mut store, ())?, next.call(&mut store, ())?), (1, 2));
    Ok(())
}

#[test]
fn what_is_unknown_can_be_made_up() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "a" "f" (func $f (result i64))) (import "a" "m" (memory 1))
            (func (export "run") (result i64) (call $f)) (func (export "safe") (result i32) (i32.const 1)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    let memory = Memory::new(&mut store, MemoryType::new(1, None))?;
    linker.define(&store, "a", "m", memory)?;
    linker.define_unknown_imports_as_traps(&module)?;
    let instance = linker.instantiate(&mut store, &module)?;
    assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "safe")?.call(&mut store, ())?, 1);
    let error = instance.get_typed_func::<(), i64>(&mut store, "run")?.call(&mut store, ()).unwrap_err();
    assert!(error.downcast_ref::<UnknownImportError>().is_some());

    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut store, &module)?;
    let instance = linker.instantiate(&mut store, &module)?;
    assert_eq!(instance.get_typed_func::<(), i64>(&mut store, "run")?.call(&mut store, ())?, 0);
    Ok(())
}

#[test]
fn functions_of_types_known_at_run_time() -> Result<()> {
    let engine = Engine::default();
    let mut linker: Linker<()> = Linker::new(&engine);
    let ty = FuncType::new(&engine, [ValType::I32, ValType::I32], [ValType::I32]);
    linker.func_new("env", "max", ty, |_caller, params, results| {
        results[0] = Val::I32(params[0].unwrap_i32().max(params[1].unwrap_i32()));
        Ok(())
    })?;
    let module =
        Module::new(&engine, r#"(module (import "env" "max" (func $max (param i32 i32) (result i32))) (export "max" (func $max)))"#)?;
    let mut store = Store::new(&engine, ());
    let max = linker.instantiate(&mut store, &module)?.get_typed_func::<(i32, i32), i32>(&mut store, "max")?;
    assert_eq!(max.call(&mut store, (3, -4))?, 3);
    Ok(())
}

/// A module is a command or a reactor, and what makes it one is a function.
#[test]
fn a_module_that_is_neither_command_nor_reactor_is_refused() -> Result<()> {
    let engine = Engine::default();
    let cases = [
        (r#"(func (export "_start")) (func (export "_initialize"))"#, "a command, or `_initialize`, as a reactor, found both"),
        (r#"(memory (export "_start") 1)"#, "expected the export `_start` to be a function, found a memory"),
        (r#"(global (export "_initialize") i32 (i32.const 1))"#, "expected the export `_initialize` to be a function, found a global"),
    ];
    for (fields, expected) in cases {
        let module = Module::new(&engine, format!("(module {fields})"))?;
        let mut linker = Linker::new(&engine);
        let mut store = Store::new(&engine, ());
        let error = linker.module(&mut store, "x", &module).expect_err("it is refused");
        assert!(format!("{error:#}").contains(expected), "{error:#}");
        let error = {
            let mut defined = std::pin::pin!(linker.module_async(&mut store, "x", &module));
            let polled = defined.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
            let std::task::Poll::Ready(outcome) = polled else { panic!("it does not wait") };
            outcome.expect_err("it is refused")
        };
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
    Ok(())
}

/// The hook may keep what no other thread may have.
#[test]
fn hooks_that_wait_are_for_stores_of_any_data() -> Result<()> {
    struct Nothing;
    impl CallHookHandler<std::rc::Rc<()>> for Nothing {
        fn handle_call_event<'a, 'b, 'c>(
            &'a self,
            _: StoreContextMut<'b, std::rc::Rc<()>>,
            _: CallHook,
        ) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send + 'c>>
        where
            'a: 'c,
            'b: 'c,
            Self: 'c,
        {
            Box::pin(std::future::ready(Ok(())))
        }
    }
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (func (export "run")))"#)?;
    let mut store = Store::new(&engine, std::rc::Rc::new(()));
    store.call_hook_async(Nothing);
    Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())
}
