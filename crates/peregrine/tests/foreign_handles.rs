//! Handles used with another store: every function of the API that takes both refuses, by an error or by the panic that its documentation
//! names. None reads or runs what belongs to the other store.

use peregrine::{
    Engine, Extern, ExternRef, Func, Global, GlobalType, Instance, Linker, Memory, MemoryType, Module, Mutability, Ref, RefType, Rooted,
    Store, Table, TableType, TypedFunc, Val, ValType,
};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Handles of one store.
struct Handles {
    func: Func,
    typed: TypedFunc<i32, i32>,
    memory: Memory,
    table: Table,
    global: Global,
    instance: Instance,
    reference: Rooted<ExternRef>,
}

const GUEST: &str = r#"(module
    (memory (export "memory") 1)
    (table (export "table") 2 funcref)
    (global (export "global") (mut i32) (i32.const 7))
    (func (export "same") (param i32) (result i32) (local.get 0))
    (func (export "take") (param funcref externref)))"#;

/// Two stores of one engine with the same things in them, so that nothing but the store tells their handles apart.
fn two_stores() -> (Module, Store<()>, Handles, Store<()>, Handles) {
    let engine = Engine::default();
    let module = Module::new(&engine, GUEST).unwrap();
    let make = || {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let func = instance.get_func(&mut store, "same").unwrap();
        let handles = Handles {
            func,
            typed: func.typed(&store).unwrap(),
            memory: instance.get_memory(&mut store, "memory").unwrap(),
            table: instance.get_table(&mut store, "table").unwrap(),
            global: instance.get_global(&mut store, "global").unwrap(),
            instance,
            reference: ExternRef::new(&mut store, 5u32).unwrap(),
        };
        (store, handles)
    };
    let ((store, own), (other, foreign)) = (make(), make());
    (module, store, own, other, foreign)
}

/// Checks that `work`, called `what`, refuses in one of the two ways.
fn refused<V>(what: &str, work: impl FnOnce() -> Result<V, peregrine::Error>) {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(_)) => panic!("{what} took a handle of another store"),
        Ok(Err(error)) => assert!(format!("{error:#}").contains("store"), "{what} refused for another reason: {error:#}"),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("a value that is no text");
            assert!(text.contains("wrong store") || text.contains("another store"), "{what} panicked for another reason: {text}");
        }
    }
}

fn at_once<V>(future: impl Future<Output = V>) -> V {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing is waited for"),
    }
}

#[test]
fn functions() {
    let (_, mut store, own, _, foreign) = two_stores();
    let mut results = [Val::I32(0)];
    refused("Func::ty", || Ok(foreign.func.ty(&store)));
    refused("Func::matches_ty", || Ok(foreign.func.matches_ty(&store, &own.func.ty(&store))));
    refused("Func::typed", || foreign.func.typed::<i32, i32>(&store));
    refused("Func::to_raw", || Ok(foreign.func.to_raw(&store)));
    refused("Func::call", || foreign.func.call(&mut store, &[Val::I32(1)], &mut results));
    refused("Func::call_async", || at_once(foreign.func.call_async(&mut store, &[Val::I32(1)], &mut results)));
    refused("TypedFunc::call", || foreign.typed.call(&mut store, 1));
    refused("TypedFunc::call_async", || at_once(foreign.typed.call_async(&mut store, 1)));
    let mut raw = [peregrine::ValRaw::i32(1)];
    // SAFETY: the parameter is of the type that the function takes.
    refused("Func::call_unchecked", || unsafe { foreign.func.call_unchecked(&mut store, &mut raw) });
    // The store is as good as before.
    assert_eq!(own.typed.call(&mut store, 3).unwrap(), 3);
}

#[test]
fn memories() {
    let (_, mut store, own, _, foreign) = two_stores();
    let memory = foreign.memory;
    let mut byte = [0];
    refused("Memory::ty", || Ok(memory.ty(&store)));
    refused("Memory::read", || Ok(memory.read(&store, 0, &mut byte)?));
    refused("Memory::write", || Ok(memory.write(&mut store, 0, &[1])?));
    refused("Memory::data", || Ok(memory.data(&store).len()));
    refused("Memory::data_mut", || Ok(memory.data_mut(&mut store).len()));
    refused("Memory::data_and_store_mut", || Ok(memory.data_and_store_mut(&mut store).0.len()));
    refused("Memory::data_ptr", || Ok(memory.data_ptr(&store)));
    refused("Memory::data_size", || Ok(memory.data_size(&store)));
    refused("Memory::size", || Ok(memory.size(&store)));
    refused("Memory::page_size", || Ok(memory.page_size(&store)));
    refused("Memory::page_size_log2", || Ok(memory.page_size_log2(&store)));
    refused("Memory::grow", || memory.grow(&mut store, 1));
    assert_eq!(own.memory.size(&store), 1);
}

#[test]
fn tables() {
    let (_, mut store, own, _, foreign) = two_stores();
    let table = foreign.table;
    refused("Table::ty", || Ok(table.ty(&store)));
    refused("Table::size", || Ok(table.size(&store)));
    refused("Table::get", || Ok(table.get(&mut store, 0).is_some()));
    refused("Table::set", || table.set(&mut store, 0, Ref::Func(None)));
    refused("Table::set of a reference", || own.table.set(&mut store, 0, Ref::Func(Some(foreign.func))));
    refused("Table::fill", || table.fill(&mut store, 0, Ref::Func(None), 1));
    refused("Table::fill with a reference", || own.table.fill(&mut store, 0, Ref::Func(Some(foreign.func)), 1));
    refused("Table::grow", || table.grow(&mut store, 1, Ref::Func(None)));
    refused("Table::grow with a reference", || own.table.grow(&mut store, 1, Ref::Func(Some(foreign.func))));
    refused("Table::copy from", || Table::copy(&mut store, &own.table, 0, &table, 0, 1));
    refused("Table::copy to", || Table::copy(&mut store, &table, 0, &own.table, 0, 1));
    refused("Table::new", || {
        let ty = TableType::new(RefType::FUNCREF, 1, None);
        Table::new(&mut store, ty, Ref::Func(Some(foreign.func)))
    });
    assert_eq!(own.table.size(&store), 2);
    assert!(matches!(own.table.get(&mut store, 0), Some(Ref::Func(None))));
}

#[test]
fn globals() {
    let (_, mut store, own, _, foreign) = two_stores();
    refused("Global::ty", || Ok(foreign.global.ty(&store)));
    refused("Global::get", || Ok(foreign.global.get(&mut store)));
    refused("Global::set", || foreign.global.set(&mut store, Val::I32(1)));
    let ty = || GlobalType::new(ValType::FUNCREF, Mutability::Var);
    refused("Global::new", || Global::new(&mut store, ty(), Val::FuncRef(Some(foreign.func))));
    let mine = Global::new(&mut store, ty(), Val::FuncRef(None)).unwrap();
    refused("Global::set of a function", || mine.set(&mut store, Val::FuncRef(Some(foreign.func))));
    let externs = Global::new(&mut store, GlobalType::new(ValType::EXTERNREF, Mutability::Var), Val::ExternRef(None)).unwrap();
    refused("Global::set of a host value", || externs.set(&mut store, Val::ExternRef(Some(foreign.reference))));
    assert!(matches!(own.global.get(&mut store), Val::I32(7)));
}

#[test]
fn values() {
    let (_, mut store, own, _, foreign) = two_stores();
    refused("ExternRef::data", || foreign.reference.data(&store).map(|data| data.is_some()));
    refused("ExternRef::data_mut", || foreign.reference.data_mut(&mut store).map(|data| data.is_some()));
    refused("ExternRef::to_raw", || foreign.reference.to_raw(&store));
    refused("Val::to_raw of a function", || Val::FuncRef(Some(foreign.func)).to_raw(&mut store));
    refused("Val::to_raw of a host value", || Val::ExternRef(Some(foreign.reference)).to_raw(&mut store));
    let take = own.instance.get_func(&mut store, "take").unwrap();
    let mine = Val::ExternRef(Some(own.reference));
    refused("a parameter that is a function", || take.call(&mut store, &[Val::FuncRef(Some(foreign.func)), mine], &mut []));
    let theirs = Val::ExternRef(Some(foreign.reference));
    refused("a parameter that is a host value", || take.call(&mut store, &[Val::FuncRef(None), theirs], &mut []));
    let typed = take.typed::<(Option<Func>, Option<Rooted<ExternRef>>), ()>(&store).unwrap();
    refused("a typed parameter that is a function", || typed.call(&mut store, (Some(foreign.func), None)));
    refused("a typed parameter that is a host value", || typed.call(&mut store, (None, Some(foreign.reference))));
    let returns = Func::wrap(&mut store, move || Some(foreign.func));
    refused("a function that a host function returns", || returns.call(&mut store, &[], &mut [Val::FuncRef(None)]));
    typed.call(&mut store, (Some(own.func), Some(own.reference))).unwrap();
}

#[test]
fn instances_and_linkers() {
    let (module, mut store, _, other, foreign) = two_stores();
    let instance = foreign.instance;
    let export = module.get_export_index("memory").unwrap();
    refused("Instance::module", || Ok(instance.module(&store).name().is_some()));
    refused("Instance::exports", || Ok(instance.exports(&mut store).count()));
    refused("Instance::get_export", || Ok(instance.get_export(&mut store, "memory").is_some()));
    refused("Instance::get_module_export", || Ok(instance.get_module_export(&mut store, &export).is_some()));
    refused("Instance::get_func", || Ok(instance.get_func(&mut store, "same").is_some()));
    refused("Instance::get_typed_func", || instance.get_typed_func::<i32, i32>(&mut store, "same"));
    refused("Instance::get_table", || Ok(instance.get_table(&mut store, "table").is_some()));
    refused("Instance::get_memory", || Ok(instance.get_memory(&mut store, "memory").is_some()));
    refused("Instance::get_shared_memory", || Ok(instance.get_shared_memory(&mut store, "memory").is_some()));
    refused("Instance::get_global", || Ok(instance.get_global(&mut store, "global").is_some()));

    let imports: [(&str, Extern); 4] = [
        ("(func (param i32) (result i32))", foreign.func.into()),
        ("(memory 1)", foreign.memory.into()),
        ("(table 2 funcref)", foreign.table.into()),
        ("(global (mut i32))", foreign.global.into()),
    ];
    for (ty, item) in imports {
        let importer = Module::new(store.engine(), format!(r#"(module (import "" "" {ty}))"#)).unwrap();
        refused("Extern::ty", || Ok(item.ty(&store)));
        refused("Instance::new", || Instance::new(&mut store, &importer, std::slice::from_ref(&item)));
        let mut linker = Linker::new(store.engine());
        refused("Linker::define", || linker.define(&store, "", "", item.clone()).map(drop));
        linker.define(&other, "", "", item.clone()).unwrap();
        refused("Linker::instantiate", || linker.instantiate(&mut store, &importer));
        let pre = linker.instantiate_pre(&importer).unwrap();
        refused("InstancePre::instantiate", || pre.instantiate(&mut store));
    }
    let mut linker = Linker::new(store.engine());
    refused("Linker::instance", || linker.instance(&mut store, "m", instance).map(drop));
}

#[test]
fn what_belongs_to_another_engine() {
    let (module, _, _, _, _) = two_stores();
    let elsewhere = Engine::default();
    let mut store = Store::new(&elsewhere, ());
    let error = Instance::new(&mut store, &module, &[]).unwrap_err();
    assert!(error.to_string().contains("different engines"), "{error:#}");
    let pre = Linker::new(module.engine()).instantiate_pre(&module).unwrap();
    assert!(pre.instantiate(&mut store).is_err());
    // What has no types of an engine goes anywhere.
    Memory::new(&mut store, MemoryType::new(1, None)).unwrap();
}
