//! Modules by the thousand: what they hold is given back, and what many of them hold at once is counted.

use peregrine::*;
use std::sync::{PoisonError, RwLock};

/// Held for writing by the test that counts what the process has, and for reading by the others.
static PROCESS: RwLock<()> = RwLock::new(());

/// A binary module with a function of no instructions and the parameters that the bits of `number` say: a type for each number.
fn module_of(number: usize) -> Vec<u8> {
    let mut types = vec![1, 0x60, 20];
    types.extend((0..20).map(|bit| if number >> bit & 1 == 0 { 0x7f } else { 0x7e }));
    types.push(0);
    let mut binary = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in [(1, &types[..]), (3, &[1, 0]), (7, &[1, 1, b'f', 0, 0]), (10, &[1, 2, 0, 0x0b])] {
        binary.push(id);
        binary.push(content.len() as u8);
        binary.extend(content);
    }
    binary
}

fn count_of(what: &str) -> usize {
    match what {
        "maps" => std::fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
        what => std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count(),
    }
}

#[test]
fn types_of_a_hundred_thousand_modules_leave_nothing() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::default();
    let kept = Module::from_binary(&engine, &module_of(0))?;
    let ty = FuncType::new(&engine, [ValType::F32], []);
    for number in 1..=100_000 {
        let module = Module::from_binary(&engine, &module_of(number))?;
        if number % 1000 == 0 {
            // References keep their types, whatever becomes of modules, until the store is gone.
            let mut store = Store::new(&engine, ());
            let func = Instance::new(&mut store, &module, &[])?.get_func(&mut store, "f").unwrap();
            let shorter = FuncType::new(&engine, func.ty(&store).params().skip(1), []);
            let own = Func::new(&mut store, shorter, |_, _, _| Ok(()));
            drop(module);
            assert_eq!((func.ty(&store).params().len(), own.ty(&store).params().len()), (20, 19));
            assert_eq!(engine.metrics().function_types, 4);
        }
    }
    assert_eq!(engine.metrics().function_types, 2);
    drop((kept, ty));
    assert_eq!(engine.metrics().function_types, 0);
    Ok(())
}

#[test]
fn a_number_that_is_used_again_does_not_match_what_had_it() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let table_type = |params: &[ValType]| {
        let ty = FuncType::new(&engine, params.to_vec(), []);
        TableType::new(RefType::new(true, HeapType::ConcreteFunc(ty)), 1, None)
    };
    // A table and a global of the host's hold the type of their contents.
    let table = Table::new(&mut store, table_type(&[ValType::I64]), Ref::Func(None))?;
    let content = ValType::Ref(table.ty(&store).element().clone());
    let global = Global::new(&mut store, GlobalType::new(content, Mutability::Var), Val::FuncRef(None))?;
    for params in [[ValType::I32], [ValType::F32], [ValType::F64]] {
        drop(FuncType::new(&engine, params.clone(), []));
        let wrong = Func::new(&mut store, FuncType::new(&engine, params, []), |_, _, _| Ok(()));
        assert!(table.set(&mut store, 0, wrong.into()).is_err());
        assert!(global.set(&mut store, wrong.into()).is_err());
    }
    let right = Func::wrap(&mut store, |_: i64| ());
    table.set(&mut store, 0, right.into())?;
    global.set(&mut store, right.into())?;
    // A call by a type that no reference has.
    let caller = r#"(module (type $t (func (param f64 f64))) (import "" "t" (table 1 funcref))
        (func (export "call") (call_indirect (type $t) (f64.const 0) (f64.const 0) (i32.const 0))))"#;
    let funcs = Table::new(&mut store, TableType::new(RefType::FUNCREF, 1, None), right.into())?;
    let caller = Module::new(&engine, caller)?;
    let call = Instance::new(&mut store, &caller, &[funcs.into()])?.get_typed_func::<(), ()>(&mut store, "call")?;
    assert_eq!(call.call(&mut store, ()).unwrap_err().downcast_ref(), Some(&Trap::BadSignature));
    Ok(())
}

#[test]
fn modules_of_many_types_are_alive_at_once() -> Result<()> {
    // `modules_at_once` has more of them, of few types.
    const MODULES: usize = 2_000;
    let _process = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::default();
    let (fds, maps) = (count_of("fd"), count_of("maps"));
    let mut store = Store::new(&engine, ());
    let mut modules = Vec::new();
    for number in 0..MODULES {
        let module = Module::from_binary(&engine, &module_of(number))?;
        if number % 20 == 0 {
            // Code of old and new modules is found by its address: the first call of each compiles it.
            let func = Instance::new(&mut store, &module, &[])?.get_func(&mut store, "f").unwrap();
            let params: Vec<Val> = func.ty(&store).params().map(|ty| Val::default_for_ty(&ty).unwrap()).collect();
            func.call(&mut store, &params, &mut [])?;
        }
        modules.push(module);
    }
    let (more_fds, more_maps) = (count_of("fd") - fds, count_of("maps") - maps);
    println!("{more_fds} descriptors and {more_maps} mappings");
    assert!(more_fds < 20, "{more_fds} descriptors");
    assert!(more_maps < MODULES * 5, "{more_maps} mappings");
    drop((store, modules));
    assert!(count_of("maps") < maps + 200);
    assert_eq!(engine.metrics().function_types, 0);
    Ok(())
}
