//! Bindings that are generated: raw values, without checks.

use peregrine::{Engine, Func, FuncType, Instance, Linker, Module, Result, Store, TypedFunc, ValRaw, ValType};

#[test]
fn raw_values_go_both_ways() -> Result<()> {
    let engine = Engine::default();
    let mut linker: Linker<u32> = Linker::new(&engine);
    let ty = FuncType::new(&engine, [ValType::I32, ValType::I64], [ValType::I64]);
    unsafe {
        linker.func_new_unchecked("env", "mix", ty, |mut caller, space| {
            *caller.data_mut() += 1;
            let sum = i64::from(space[0].assume_init().get_i32()) + space[1].assume_init().get_i64();
            space[0].write(ValRaw::i64(sum));
            Ok(())
        })?;
    }
    let module = Module::new(
        &engine,
        r#"(module (import "env" "mix" (func $mix (param i32 i64) (result i64)))
            (func (export "run") (param i32) (result i64) (call $mix (local.get 0) (i64.const 100))))"#,
    )?;
    let mut store = Store::new(&engine, 0);
    let instance: Instance = linker.instantiate(&mut store, &module)?;
    let run: Func = instance.get_func(&mut store, "run").unwrap();
    let mut space = [ValRaw::i32(-1)];
    unsafe { run.call_unchecked(&mut store, &mut space)? };
    assert_eq!((space[0].get_i64(), *store.data()), (99, 1));
    let pointer = run.to_raw(&mut store);
    let again = unsafe { Func::from_raw(&mut store, pointer) }.unwrap();
    assert_eq!(again.typed::<i32, i64>(&store)?.call(&mut store, 1)?, 101);
    let unchecked = unsafe { TypedFunc::<i32, i64>::new_unchecked(&store, again) };
    assert_eq!(unchecked.call(&mut store, 2)?, 102);
    Ok(())
}
