//! References: host objects that guests hold, and tables of callbacks.

use peregrine::{
    AsContextMut, Engine, ExternRef, Func, Global, GlobalType, HeapType, Instance, Linker, Module, Mutability, OwnedRooted, Ref, RefType,
    Result, RootScope, Rooted, Store, Table, TableType, Val, ValType,
};

struct Document {
    title: String,
}

#[test]
fn guests_hold_host_objects() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "doc" "title_len" (func $len (param externref) (result i32)))
            (table (export "open") 4 externref)
            (global (export "current") (mut externref) (ref.null extern))
            (func (export "open_at") (param i32 externref) (table.set (local.get 0) (local.get 1)) (global.set 0 (local.get 1)))
            (func (export "total") (result i32)
                (i32.add (call $len (table.get (i32.const 0))) (call $len (table.get (i32.const 1))))))"#,
    )?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("doc", "title_len", |caller: peregrine::Caller<'_, ()>, document: Option<Rooted<ExternRef>>| -> Result<i32> {
        let Some(document) = document else { return Ok(-1) };
        let document = document.data(&caller)?.and_then(|data| data.downcast_ref::<Document>()).expect("a document");
        Ok(document.title.len() as i32)
    })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let open_at = instance.get_typed_func::<(i32, Option<Rooted<ExternRef>>), ()>(&mut store, "open_at")?;
    let kept: OwnedRooted<ExternRef> = {
        let mut scope = RootScope::new(&mut store);
        let first = ExternRef::new(&mut scope, Document { title: "one".to_string() })?;
        open_at.call(&mut scope, (0, Some(first)))?;
        first.to_owned_rooted(&mut scope)?
    };
    let total = instance.get_typed_func::<(), i32>(&mut store, "total")?;
    assert_eq!(total.call(&mut store, ())?, 2);
    let second = ExternRef::new(&mut store, Document { title: "second".to_string() })?;
    open_at.call(&mut store, (1, Some(second)))?;
    assert_eq!(total.call(&mut store, ())?, 9);
    store.gc(None)?;
    let current = instance.get_global(&mut store, "current").unwrap().get(&mut store);
    let current = current.unwrap_externref().unwrap();
    let first = kept.to_rooted(&mut store);
    assert!(Rooted::ref_eq(&store, current, &second)? && !Rooted::ref_eq(&store, &first, &second)?);
    if let Some(document) = second.data_mut(&mut store)?.and_then(|data| data.downcast_mut::<Document>()) {
        document.title.push('!');
    }
    assert_eq!(total.call(&mut store, ())?, 10);
    Ok(())
}

#[test]
fn tables_of_callbacks() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, Vec::<i32>::new());
    let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 2, Some(8)), Ref::Func(None))?;
    let note = Func::wrap(&mut store, |mut caller: peregrine::Caller<'_, Vec<i32>>, value: i32| caller.data_mut().push(value));
    table.set(&mut store, 0, Ref::Func(Some(note)))?;
    assert_eq!(table.grow(&mut store, 2, Ref::null(&HeapType::Func))?, 2);
    table.set(&mut store, 3, note.into())?;
    let module = Module::new(
        &engine,
        r#"(module
            (import "" "table" (table 4 funcref))
            (type $callback (func (param i32)))
            (elem declare func $own)
            (func $own (param i32) (table.set (i32.const 1) (ref.null func)))
            (func (export "install") (table.set (i32.const 1) (ref.func $own)))
            (func (export "fire") (param i32 i32) (call_indirect (type $callback) (local.get 1) (local.get 0))))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[table.into()])?;
    let fire = instance.get_typed_func::<(i32, i32), ()>(&mut store, "fire")?;
    fire.call(&mut store, (0, 10))?;
    fire.call(&mut store, (3, 30))?;
    assert!(fire.call(&mut store, (1, 0)).is_err());
    instance.get_typed_func::<(), ()>(&mut store, "install")?.call(&mut store, ())?;
    let own = table.get(&mut store, 1).unwrap();
    assert!(own.is_non_null() && own.as_func().is_some());
    own.unwrap_func().unwrap().typed::<i32, ()>(&store)?.call(&mut store, 1)?;
    assert!(table.get(&mut store, 1).unwrap().is_null() && table.get(&mut store, 4).is_none());
    assert_eq!((store.data().as_slice(), table.size(&store)), (&[10, 30][..], 4));
    Ok(())
}

/// Helpers that are generic over whatever gives access to a store.
fn bump(mut store: impl AsContextMut, global: &Global) -> Result<i64> {
    let value = global.get(&mut store).i64().unwrap() + 1;
    global.set(store.as_context_mut(), Val::I64(value))?;
    Ok(value)
}

#[test]
fn globals_are_shared_between_instances() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let counter = Global::new(&mut store, GlobalType::new(ValType::I64, Mutability::Var), Val::I64(0))?;
    let module = Module::new(
        &engine,
        r#"(module (import "" "counter" (global $c (mut i64))) (func (export "add") (global.set $c (i64.add (global.get $c) (i64.const 10)))))"#,
    )?;
    let instances = [Instance::new(&mut store, &module, &[counter.into()])?, Instance::new(&mut store, &module, &[counter.into()])?];
    for instance in instances {
        instance.get_typed_func::<(), ()>(&mut store, "add")?.call(&mut store, ())?;
        bump(&mut store, &counter)?;
    }
    assert_eq!(counter.get(&mut store).unwrap_i64(), 22);
    assert!(counter.set(&mut store, Val::I32(0)).is_err());
    Ok(())
}
