//! Memories, tables, globals, and the linking of instances.

use peregrine::*;

#[test]
fn memories_are_shared_with_guests() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, 5u8);
    let memory = Memory::new(&mut store, MemoryType::new(1, Some(3)))?;
    let module = Module::new(
        &engine,
        r#"(module (import "" "m" (memory 1 3)) (export "same" (memory 0))
            (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[memory.into()])?;
    assert_eq!(instance.get_memory(&mut store, "same"), Some(memory));
    memory.write(&mut store, 65535, &[7])?;
    assert_eq!(instance.get_typed_func::<u32, u32>(&mut store, "load")?.call(&mut store, 65535)?, 7);
    let base = memory.data_ptr(&store);
    assert_eq!(instance.get_typed_func::<u32, i32>(&mut store, "grow")?.call(&mut store, 1)?, 1);
    assert_eq!((memory.size(&store), memory.data_size(&store), memory.data_ptr(&store)), (2, 131072, base));
    assert_eq!(memory.grow(&mut store, 1)?, 2);
    assert!(memory.grow(&mut store, 1).unwrap_err().to_string().contains("failed to grow memory by `1`"));
    assert_eq!(instance.get_typed_func::<u32, i32>(&mut store, "grow")?.call(&mut store, 1)?, -1);

    let mut buffer = [0u8; 2];
    assert!(memory.read(&store, 3 * 65536 - 1, &mut buffer).is_err());
    assert!(memory.write(&mut store, usize::MAX, &buffer).is_err());
    let (bytes, data) = memory.data_and_store_mut(&mut store);
    bytes[0] = *data;
    memory.read(&store, 0, &mut buffer)?;
    assert_eq!(buffer, [5, 0]);
    assert_eq!(memory.ty(&store).maximum(), Some(3));
    Ok(())
}

#[test]
fn memories_of_impossible_types_are_refused() {
    let mut store = Store::new(&Engine::default(), ());
    for ty in [MemoryType::new(65537, None), MemoryType::new(2, Some(1)), MemoryType::new64(u64::MAX, None)] {
        assert!(Memory::new(&mut store, ty).is_err());
    }
}

#[test]
fn memories_of_other_kinds() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let small = Memory::new(&mut store, MemoryTypeBuilder::new().min(10).max(Some(20)).page_size_log2(0).build()?)?;
    assert_eq!((small.data_size(&store), small.page_size(&store), small.grow(&mut store, 10)?), (10, 1, 10));
    let large = Memory::new(&mut store, MemoryType::new64(1, None))?;
    assert_eq!((large.grow(&mut store, 2)?, large.data_size(&store)), (1, 3 * 65536));
    assert!(Memory::new(&mut store, MemoryType::shared(1, 1)).is_err());
    Ok(())
}

#[test]
fn tables_hold_functions_and_host_values() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let module = Module::new(
        &engine,
        r#"(module
            (table (export "f") 3 5 funcref) (table (export "x") 1 externref)
            (func $a (export "a") (result i32) (i32.const 1)) (func $b (result i32) (i32.const 2))
            (elem (i32.const 1) $a $b))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let table = instance.get_table(&mut store, "f").unwrap();
    assert!(table.get(&mut store, 0).unwrap().is_null());
    let call = |store: &mut Store<()>, index| -> Result<i32> {
        let func = *table.get(&mut *store, index).unwrap().unwrap_func().unwrap();
        func.typed::<(), i32>(&*store)?.call(store, ())
    };
    assert_eq!((call(&mut store, 1)?, call(&mut store, 2)?), (1, 2));
    let host = Func::wrap(&mut store, || 3);
    assert_eq!(table.grow(&mut store, 2, host.into())?, 3);
    assert_eq!((call(&mut store, 4)?, table.size(&store)), (3, 5));
    assert!(table.grow(&mut store, 1, host.into()).is_err());
    Table::copy(&mut store, &table, 0, &table, 2, 3)?;
    assert_eq!((call(&mut store, 0)?, call(&mut store, 1)?), (2, 3));
    table.fill(&mut store, 0, Ref::Func(None), 2)?;
    assert!(table.get(&mut store, 1).unwrap().is_null());
    assert!(table.set(&mut store, 5, Ref::Func(None)).unwrap_err().to_string().contains("table of 5"));
    assert!(table.set(&mut store, 0, Ref::Extern(None)).unwrap_err().to_string().contains("expected funcref"));

    let externs = instance.get_table(&mut store, "x").unwrap();
    let value = ExternRef::new(&mut store, String::from("x"))?;
    externs.set(&mut store, 0, value.into())?;
    let back = *externs.get(&mut store, 0).unwrap().unwrap_extern().unwrap();
    assert!(Rooted::ref_eq(&store, &value, &back)?);
    assert!(Table::copy(&mut store, &externs, 0, &table, 0, 1).is_err());
    Ok(())
}

#[test]
fn globals_of_every_type() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let func = Func::wrap(&mut store, || {});
    let value = ExternRef::new(&mut store, 1)?;
    let values = [
        Val::I32(-1),
        Val::I64(i64::MIN),
        Val::F32(0x7fa0_0000),
        Val::F64(1),
        Val::V128(V128::from(u128::MAX / 3)),
        Val::FuncRef(Some(func)),
        Val::FuncRef(None),
        Val::ExternRef(Some(value)),
    ];
    for value in values {
        let ty = match value.ty(&store)? {
            ValType::Ref(ty) if ty.heap_type().matches(&HeapType::Func) => ValType::FUNCREF,
            ValType::Ref(_) => ValType::EXTERNREF,
            ty => ty,
        };
        let global = Global::new(&mut store, GlobalType::new(ty.clone(), Mutability::Var), Val::default_for_ty(&ty).unwrap())?;
        global.set(&mut store, value)?;
        assert_eq!(format!("{:?}", global.get(&mut store)), format!("{value:?}"));
    }
    let constant = Global::new(&mut store, GlobalType::new(ValType::I32, Mutability::Const), 1.into())?;
    assert_eq!(constant.set(&mut store, 2.into()).unwrap_err().to_string(), "immutable global cannot be set");
    let module = Module::new(
        &engine,
        r#"(module (import "" "" (global $g (mut i64))) (func (export "add") (global.set $g (i64.add (global.get $g) (i64.const 2)))))"#,
    )?;
    let global = Global::new(&mut store, GlobalType::new(ValType::I64, Mutability::Var), Val::I64(40))?;
    let instance = Instance::new(&mut store, &module, &[global.into()])?;
    instance.get_typed_func::<(), ()>(&mut store, "add")?.call(&mut store, ())?;
    assert_eq!(global.get(&mut store).unwrap_i64(), 42);
    Ok(())
}

#[test]
fn imports_are_checked() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let module = Module::new(&engine, r#"(module (import "env" "f" (func (param i32))))"#)?;
    let wrong = Func::wrap(&mut store, || {});
    let message = |result: Result<Instance>| format!("{:#}", result.unwrap_err());
    assert_eq!(message(Instance::new(&mut store, &module, &[])), "expected 1 imports, found 0");
    let error = message(Instance::new(&mut store, &module, &[wrong.into()]));
    assert!(error.contains("incompatible import type for `env::f`"), "{error}");
    assert!(error.contains("expected `(func (param i32))`, found `(func)`"), "{error}");
    let memory = Memory::new(&mut store, MemoryType::new(1, None))?;
    assert!(message(Instance::new(&mut store, &module, &[memory.into()])).contains("expected func, found memory"));
    let other = Engine::default();
    let empty = Module::new(&other, "(module)")?;
    assert!(message(Instance::new(&mut store, &empty, &[])).contains("different engines"));
    Ok(())
}

#[test]
fn a_linker_links() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, 0);
    let mut linker: Linker<i32> = Linker::new(&engine);
    let library = Module::new(
        &engine,
        r#"(module (memory (export "memory") 1) (global (export "g") i32 (i32.const 3))
            (func (export "triple") (param i32) (result i32) (i32.mul (local.get 0) (global.get 0))))"#,
    )?;
    linker.module(&mut store, "lib", &library)?;
    linker.func_wrap("host", "count", |mut caller: Caller<'_, i32>| *caller.data_mut() += 1)?;
    linker.alias("lib", "triple", "lib", "thrice")?;
    linker.alias_module("lib", "alias")?;
    assert!(linker.alias("lib", "nothing", "a", "b").is_err());
    let error = linker.func_wrap("host", "count", || {}).unwrap_err();
    assert_eq!(error.to_string(), "import of `host::count` defined twice");
    linker.allow_shadowing(true);
    linker.func_wrap("host", "count", |mut caller: Caller<'_, i32>| *caller.data_mut() += 10)?;
    let user = Module::new(
        &engine,
        r#"(module (import "alias" "thrice" (func $t (param i32) (result i32))) (import "host" "count" (func $c)) (import "lib" "memory" (memory 1))
            (func (export "run") (result i32) (call $c) (call $t (i32.const 5))))"#,
    )?;
    let pre = linker.instantiate_pre(&user)?;
    for turn in 1..4 {
        let instance = pre.instantiate(&mut store)?;
        assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())?, 15);
        assert_eq!(*store.data(), 10 * turn);
    }
    let names: Vec<String> = linker.iter(&mut store).map(|(module, name, _)| format!("{module}::{name}")).collect();
    assert_eq!(
        names,
        [
            "alias::g",
            "alias::memory",
            "alias::thrice",
            "alias::triple",
            "host::count",
            "lib::g",
            "lib::memory",
            "lib::thrice",
            "lib::triple"
        ]
    );
    assert!(linker.get(&mut store, "lib", "g").unwrap().into_global().is_some());
    assert!(linker.get(&mut store, "lib", "x").unwrap_err().to_string().contains("`lib::x`"));
    linker.get_default(&mut store, "nothing")?.call(&mut store, &[], &mut [])?;
    Ok(())
}

#[test]
fn a_command_runs_in_a_fresh_instance_each_time() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, Vec::new());
    let mut linker: Linker<Vec<i32>> = Linker::new(&engine);
    linker.func_wrap("host", "log", |mut caller: Caller<'_, Vec<i32>>, value: i32| caller.data_mut().push(value))?;
    let command = Module::new(
        &engine,
        r#"(module (import "host" "log" (func $log (param i32))) (global $g (mut i32) (i32.const 1))
            (func (export "_start") (call $log (global.get $g)) (global.set $g (i32.const 2))))"#,
    )?;
    linker.module(&mut store, "command", &command)?;
    let run = linker.get_default(&mut store, "command")?;
    run.call(&mut store, &[], &mut [])?;
    run.call(&mut store, &[], &mut [])?;
    assert_eq!(store.data(), &[1, 1]);
    Ok(())
}

#[test]
fn unknown_imports() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "a" "f" (func $f (param i32) (result i64))) (import "a" "g" (global $g i32)) (import "a" "m" (memory 1)) (import "a" "t" (table 2 funcref))
            (func (export "run") (result i64) (call $f (global.get $g))))"#,
    )?;
    let functions = Module::new(
        &engine,
        r#"(module (import "a" "f" (func $f (param i32) (result i64))) (func (export "run") (result i64) (call $f (i32.const 1))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    let error = linker.instantiate(&mut store, &module).unwrap_err();
    assert_eq!(error.downcast_ref::<UnknownImportError>().unwrap().ty().to_string(), "(func (param i32) (result i64))");
    linker.define_unknown_imports_as_traps(&functions)?;
    let run = linker.instantiate(&mut store, &functions)?.get_typed_func::<(), i64>(&mut store, "run")?;
    let error = run.call(&mut store, ()).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Trap::UnknownImportCalled));
    assert!(format!("{error:#}").contains("unknown import: `a::f`"));
    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut store, &module)?;
    let run = linker.instantiate(&mut store, &module)?.get_typed_func::<(), i64>(&mut store, "run")?;
    assert_eq!(run.call(&mut store, ())?, 0);
    Ok(())
}

#[test]
#[should_panic(expected = "another engine")]
fn host_functions_of_a_linker_stay_in_its_engine() {
    let (engine, other) = (Engine::default(), Engine::default());
    // Types of the other engine have other identities.
    FuncType::new(&other, [ValType::I64, ValType::I64], []);
    let mut linker: Linker<()> = Linker::new(&engine);
    linker.func_wrap("host", "f", || {}).unwrap();
    let pre = linker.instantiate_pre(&Module::new(&engine, r#"(module (import "host" "f" (func)))"#).unwrap()).unwrap();
    let mut store = Store::new(&other, ());
    assert!(pre.instantiate(&mut store).unwrap_err().to_string().contains("different engines"));
    let _ = linker.get(&mut store, "host", "f");
}
