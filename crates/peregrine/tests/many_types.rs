//! Modules with thousands of function types: functions of the host that they find in tables can be called, whatever their type.

use peregrine::*;
use std::pin::pin;
use std::task::Waker;

/// More than a module has all stubs for.
const TYPES: usize = 2_100;

/// Calls what is in an imported table, by types that no function of the module has.
fn text() -> String {
    let others = (0..TYPES).map(|number| {
        let params = (0..12).map(|bit| if number >> bit & 1 == 1 { " i64" } else { " i32" });
        format!("(type (func (param{})))", params.collect::<String>())
    });
    format!(
        r#"(module
            (type $float (func (param f64)))
            (type $many (func (param i32 f32 i64) (result i64 f32 i32)))
            (type $refs (func (param externref funcref) (result funcref externref)))
            (type $nothing (func))
            {}
            (import "host" "table" (table $table 8 funcref))
            (func (export "float") (call_indirect $table (type $float) (f64.const 2.5) (i32.const 0)))
            (func (export "many") (result i64 f32 i32)
                (call_indirect $table (type $many) (i32.const 1) (f32.const 2) (i64.const 3) (i32.const 1)))
            (func (export "refs") (param externref funcref) (result funcref externref)
                (call_indirect $table (type $refs) (local.get 0) (local.get 1) (i32.const 2)))
            (func (export "nothing") (call_indirect $table (type $nothing) (i32.const 3))))"#,
        others.collect::<String>()
    )
}

fn with_each(mut check: impl FnMut(&str, &Engine, &Module) -> Result<()>) -> Result<()> {
    for strategy in [Strategy::Tiered, Strategy::Baseline, Strategy::Ahead] {
        for fuel in [false, true] {
            let engine = Engine::new(Config::new().strategy(strategy).consume_fuel(fuel))?;
            let module = Module::new(&engine, text())?;
            check(&format!("{strategy:?}, fuel {fuel}"), &engine, &module)?;
        }
    }
    Ok(())
}

fn new_store(engine: &Engine) -> Store<f64> {
    let mut store = Store::new(engine, 0.0);
    // Refused where fuel is not counted.
    let _ = store.set_fuel(1 << 30);
    store
}

/// What is put into the table.
fn functions(store: &mut Store<f64>) -> [Func; 4] {
    let engine = store.engine().clone();
    let float = FuncType::new(&engine, [ValType::F64], []);
    let float = Func::new(&mut *store, float, |mut caller, params, _| {
        *caller.data_mut() += params[0].unwrap_f64();
        Ok(())
    });
    let many = Func::wrap(&mut *store, |a: i32, b: f32, c: i64| (c + 1, b + 1.0, a + 1));
    let refs = FuncType::new(&engine, [ValType::EXTERNREF, ValType::FUNCREF], [ValType::FUNCREF, ValType::EXTERNREF]);
    let refs = Func::new(&mut *store, refs, |_, params, results| {
        (results[0], results[1]) = (params[1], params[0]);
        Ok(())
    });
    let nothing = Func::wrap_async(&mut *store, |mut caller: Caller<'_, f64>, ()| {
        *caller.data_mut() += 1.0;
        Box::new(std::future::ready(()))
    });
    [float, many, refs, nothing]
}

fn check_calls(name: &str, store: &mut Store<f64>, instance: Instance) -> Result<()> {
    *store.data_mut() = 0.0;
    instance.get_typed_func::<(), ()>(&mut *store, "float")?.call(&mut *store, ())?;
    assert_eq!(*store.data(), 2.5, "{name}");
    let many = instance.get_typed_func::<(), (i64, f32, i32)>(&mut *store, "many")?;
    assert_eq!(many.call(&mut *store, ())?, (4, 3.0, 2), "{name}");
    let refs = instance.get_func(&mut *store, "refs").expect("it is exported");
    let extern_ref = ExternRef::new(&mut *store, 7u32)?;
    let mut results = [Val::null_extern_ref(), Val::null_extern_ref()];
    refs.call(&mut *store, &[Val::ExternRef(Some(extern_ref)), Val::FuncRef(Some(refs))], &mut results)?;
    assert!(matches!(results, [Val::FuncRef(Some(_)), Val::ExternRef(Some(_))]), "{name}: {results:?}");
    let nothing = instance.get_typed_func::<(), ()>(&mut *store, "nothing")?;
    {
        let mut call = pin!(nothing.call_async(&mut *store, ()));
        assert!(call.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())).is_ready(), "{name}");
    }
    assert_eq!(*store.data(), 3.5, "{name}");
    Ok(())
}

#[test]
fn functions_of_the_host_are_called_through_tables() -> Result<()> {
    with_each(|name, engine, module| {
        for is_first in [true, false] {
            let mut store = new_store(engine);
            let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 8, None), Ref::Func(None))?;
            // Before there is a module that lacks their stubs, or afterwards.
            let made = is_first.then(|| functions(&mut store));
            let instance = Instance::new(&mut store, module, &[table.into()])?;
            let made = made.unwrap_or_else(|| functions(&mut store));
            for (position, function) in (0..).zip(made) {
                table.set(&mut store, position, Ref::Func(Some(function)))?;
            }
            check_calls(&format!("{name}, functions first: {is_first}"), &mut store, instance)?;
        }
        Ok(())
    })
}

/// Stubs are kept by each store that uses them.
#[test]
fn stubs_serve_all_stores_and_outlive_modules() -> Result<()> {
    let engine = Engine::new(Config::new().strategy(Strategy::Ahead))?;
    let module = Module::new(&engine, text())?;
    let mut stores = Vec::new();
    for _ in 0..3 {
        let mut store = new_store(&engine);
        let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 8, None), Ref::Func(None))?;
        let instance = Instance::new(&mut store, &module, &[table.into()])?;
        for (position, function) in (0..).zip(functions(&mut store)) {
            table.set(&mut store, position, Ref::Func(Some(function)))?;
        }
        stores.push((store, instance));
    }
    drop(module);
    for (mut store, instance) in stores {
        check_calls("again", &mut store, instance)?;
    }
    Ok(())
}

#[test]
fn what_an_instantiation_that_failed_left_behind_calls_functions_of_the_host() -> Result<()> {
    let begin = text().replace("(module", "").replace("(table $table 8 funcref)", "(table $table 2 funcref)");
    let types = &begin[..begin.find("(import").expect("there is one")];
    let text = format!(
        r#"(module {types} (type $double (func (param f64) (result f64))) (import "host" "table" (table $table 2 funcref)) (memory 1)
            (func $left (result f64) (call_indirect $table (type $double) (f64.const 1.5) (i32.const 0)))
            (elem (table $table) (i32.const 1) func $left) (data (i32.const 65536) "beyond"))"#
    );
    for strategy in [Strategy::Tiered, Strategy::Ahead] {
        let engine = Engine::new(Config::new().strategy(strategy))?;
        let module = Module::new(&engine, &text)?;
        let mut store = Store::new(&engine, ());
        let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 2, None), Ref::Func(None))?;
        let double = Func::new(&mut store, FuncType::new(&engine, [ValType::F64], [ValType::F64]), |_, params, results| {
            results[0] = Val::from(params[0].unwrap_f64() * 2.0);
            Ok(())
        });
        table.set(&mut store, 0, Ref::Func(Some(double)))?;
        Instance::new(&mut store, &module, &[table.into()]).expect_err("the data do not fit");
        let Some(Ref::Func(Some(left))) = table.get(&mut store, 1) else { panic!("it was written before") };
        let mut results = [Val::F64(0)];
        left.call(&mut store, &[], &mut results)?;
        assert_eq!(results[0].unwrap_f64(), 3.0, "{strategy:?}");
    }
    Ok(())
}
