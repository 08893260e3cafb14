//! Values, imports and modules that belong to another store or engine: errors, not panics.

use peregrine::{
    AsContextMut, Config, Engine, ExternRef, Func, FuncType, Global, GlobalType, Instance, Linker, Memory, MemoryType, Module, Mutability,
    Ref, RefType, Result, Rooted, SharedMemory, Store, Table, TableType, Val, ValType,
};

fn is_refused<T>(result: Result<T>) {
    let error = result.err().expect("something of another store was taken");
    assert!(format!("{error:?}").contains("cross-`Store`"), "{error:?}");
}

#[test]
fn values_of_another_store_are_errors() -> Result<()> {
    let engine = Engine::default();
    let (mut here, mut there) = (Store::new(&engine, ()), Store::new(&engine, ()));
    let own = Func::wrap(&mut here, || {});
    let foreign = Func::wrap(&mut there, || {});
    let text: Rooted<ExternRef> = ExternRef::new(&mut there, "text")?;

    let take = Func::wrap(&mut here, |_: Option<Func>, _: Option<Rooted<ExternRef>>| {});
    is_refused(take.call(&mut here, &[foreign.into(), Val::null_extern_ref()], &mut []));
    is_refused(take.call(&mut here, &[own.into(), text.into()], &mut []));
    let typed = take.typed::<(Option<Func>, Option<Rooted<ExternRef>>), ()>(&here)?;
    is_refused(typed.call(&mut here, (Some(foreign), None)));
    is_refused(typed.call(&mut here, (Some(own), Some(text))));
    typed.call(&mut here, (Some(own), None))?;

    let ty = GlobalType::new(ValType::FUNCREF, Mutability::Var);
    is_refused(Global::new(&mut here, ty.clone(), foreign.into()));
    let global = Global::new(&mut here, ty, own.into())?;
    is_refused(global.set(&mut here, foreign.into()));

    let ty = TableType::new(RefType::FUNCREF, 1, None);
    is_refused(Table::new(&mut here, ty.clone(), foreign.into()));
    let table = Table::new(&mut here, ty, Ref::Func(Some(own)))?;
    is_refused(table.set(&mut here, 0, foreign.into()));
    is_refused(table.fill(&mut here, 0, foreign.into(), 1));
    is_refused(table.grow(&mut here, 1, foreign.into()));
    assert_eq!(table.size(&here), 1);
    Ok(())
}

#[test]
fn what_host_functions_return_is_of_their_store() -> Result<()> {
    let engine = Engine::default();
    let (mut here, mut there) = (Store::new(&engine, ()), Store::new(&engine, ()));
    let foreign = Func::wrap(&mut there, || {});
    let module = Module::new(&engine, r#"(module (import "" "" (func (result funcref))) (func (export "run") (drop (call 0))))"#)?;
    let wrapped = Func::wrap(&mut here, move || Some(foreign));
    let several = Func::wrap(&mut here, move || (1, Some(foreign)));
    let dynamic = Func::new(&mut here, FuncType::new(&engine, [], [ValType::FUNCREF]), move |_, _, results| {
        results[0] = foreign.into();
        Ok(())
    });
    is_refused(several.call(&mut here, &[], &mut [Val::I32(0), Val::I32(0)]));
    for import in [wrapped, dynamic] {
        let instance = Instance::new(&mut here, &module, &[import.into()])?;
        is_refused(instance.get_typed_func::<(), ()>(&mut here, "run")?.call(&mut here, ()));
    }
    Ok(())
}

#[test]
fn imports_of_another_store_are_errors() -> Result<()> {
    let engine = Engine::default();
    let (mut here, mut there) = (Store::new(&engine, ()), Store::new(&engine, ()));
    let global = Global::new(&mut there, GlobalType::new(ValType::I32, Mutability::Const), Val::I32(0))?;
    let table = Table::new(&mut there, TableType::new(RefType::FUNCREF, 1, None), Ref::Func(None))?;
    let imports = [
        ("(func)", Func::wrap(&mut there, || {}).into()),
        ("(global i32)", global.into()),
        ("(table 1 funcref)", table.into()),
        ("(memory 1)", Memory::new(&mut there, MemoryType::new(1, None))?.into()),
    ];
    for (ty, import) in imports {
        let module = Module::new(&engine, format!(r#"(module (import "" "" {ty}))"#))?;
        let imports = [import];
        Instance::new(there.as_context_mut(), &module, &imports)?;
        is_refused(Instance::new(&mut here, &module, &imports));
        // A linker learns which store it serves when it does.
        let mut linker = Linker::new(&engine);
        let [import] = imports;
        linker.define(&there, "", "", import)?;
        let pre = linker.instantiate_pre(&module)?;
        linker.instantiate(&mut there, &module)?;
        pre.instantiate(&mut there)?;
        is_refused(linker.instantiate(&mut here, &module));
        is_refused(linker.module(&mut here, "other", &module));
        is_refused(pre.instantiate(&mut here));
    }
    Ok(())
}

#[test]
fn shared_memories_of_another_engine_are_errors() -> Result<()> {
    let engines = [(); 2].map(|()| Engine::new(Config::new().shared_memory(true)).expect("the settings are good"));
    let memory = SharedMemory::new(&engines[0], MemoryType::shared(1, 1))?;
    for (engine, fits) in engines.iter().zip([true, false]) {
        let module = Module::new(engine, r#"(module (import "" "" (memory 1 1 shared)))"#)?;
        let mut store = Store::new(engine, ());
        let made = Instance::new(&mut store, &module, &[memory.clone().into()]);
        assert_eq!(made.is_ok(), fits);
        assert!(made.is_ok() || made.unwrap_err().to_string().contains("cross-`Engine`"));
    }
    Ok(())
}

#[test]
fn a_linker_resolves_modules_of_its_engine_alone() -> Result<()> {
    let (own, other) = (Engine::default(), Engine::default());
    let linker: Linker<()> = Linker::new(&own);
    linker.instantiate_pre(&Module::new(&own, "(module)")?)?;
    let Err(error) = linker.instantiate_pre(&Module::new(&other, "(module)")?) else { panic!("a module of another engine was taken") };
    assert!(format!("{error:?}").contains("cross-`Engine`"), "{error:?}");
    Ok(())
}

#[test]
fn references_are_found_under_either_name() -> Result<()> {
    let mut store = Store::new(&Engine::default(), ());
    let func = Val::from(Func::wrap(&mut store, || {}));
    assert!(func.func_ref().is_some_and(|func| func.is_some()) && func.unwrap_funcref().is_some());
    assert!(func.extern_ref().is_none() && func.any_ref().is_none());
    assert!(Val::null_func_ref().unwrap_func_ref().is_none());
    let text = Val::from(ExternRef::new(&mut store, "text")?);
    assert!(text.unwrap_extern_ref().is_some());
    assert!(Val::null_any_ref().unwrap_any_ref().is_none());
    Ok(())
}
