//! Long operations on memories and tables go in slices: they stop between two of them once the deadline is reached, and what came before
//! is done.

use peregrine::{Caller, Config, Engine, Instance, Linker, Module, Ref, Result, Store, Trap};

const TABLES: &str = r#"(module
    (import "" "tick" (func $tick))
    (table $a (export "a") 4000000 funcref)
    (table $b (export "b") 4000000 funcref)
    (memory (export "memory") 512)
    (func $f)
    (elem declare func $f)
    (func (export "prepare") (table.fill $a (i32.const 0) (ref.func $f) (i32.const 4000000)))
    (func (export "fill") (call $tick) (table.fill $b (i32.const 0) (ref.func $f) (i32.const 4000000)))
    (func (export "copy") (call $tick) (table.copy $b $a (i32.const 0) (i32.const 0) (i32.const 4000000)))
    (func (export "copy_up") (call $tick) (table.copy $a $a (i32.const 1) (i32.const 0) (i32.const 3999999)))
    (func (export "fill_memory") (call $tick) (memory.fill (i32.const 0) (i32.const 1) (i32.const 33554432)))
    (func (export "copy_memory") (call $tick) (memory.copy (i32.const 16777216) (i32.const 0) (i32.const 16777216)))
    (func (export "prepare_memory") (memory.fill (i32.const 0) (i32.const 2) (i32.const 16777216))))"#;

/// An instance whose `tick` makes the deadline come while the guest runs.
fn instance() -> Result<(Store<()>, Instance)> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, TABLES)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("", "tick", |caller: Caller<'_, ()>| caller.engine().increment_epoch())?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    store.set_epoch_deadline(1);
    Ok((store, instance))
}

fn call(store: &mut Store<()>, instance: Instance, name: &str) -> Result<()> {
    store.set_epoch_deadline(1);
    instance.get_typed_func::<(), ()>(&mut *store, name)?.call(store, ())
}

fn is_null(store: &mut Store<()>, instance: Instance, table: &str, index: u64) -> bool {
    let table = instance.get_table(&mut *store, table).expect("it is exported");
    matches!(table.get(store, index), Some(Ref::Func(None)))
}

fn interrupted(outcome: Result<()>) {
    assert_eq!(outcome.expect_err("it is too long").downcast_ref(), Some(&Trap::Interrupt));
}

#[test]
fn a_long_fill_of_a_table_stops_at_the_deadline() -> Result<()> {
    let (mut store, instance) = instance()?;
    interrupted(call(&mut store, instance, "fill"));
    assert!(!is_null(&mut store, instance, "b", 0), "the first slice was done");
    assert!(is_null(&mut store, instance, "b", 3_999_999), "the last slice was not");
    Ok(())
}

#[test]
fn a_long_copy_between_tables_stops_at_the_deadline() -> Result<()> {
    let (mut store, instance) = instance()?;
    call(&mut store, instance, "prepare")?;
    interrupted(call(&mut store, instance, "copy"));
    assert!(!is_null(&mut store, instance, "b", 0));
    assert!(is_null(&mut store, instance, "b", 3_999_999));
    Ok(())
}

#[test]
fn a_copy_onto_itself_begins_at_the_far_end() -> Result<()> {
    let (mut store, instance) = instance()?;
    // One function at the end moves up with the first slice; the null before it comes after.
    let function = {
        call(&mut store, instance, "prepare")?;
        let table = instance.get_table(&mut store, "a").expect("it is exported");
        let function = table.get(&mut store, 0).expect("it is in bounds");
        table.fill(&mut store, 0, Ref::Func(None), 4_000_000)?;
        function
    };
    let table = instance.get_table(&mut store, "a").expect("it is exported");
    table.set(&mut store, 3_999_998, function)?;
    table.set(&mut store, 0, function)?;
    interrupted(call(&mut store, instance, "copy_up"));
    assert!(!is_null(&mut store, instance, "a", 3_999_999), "the slice at the end was done");
    assert!(is_null(&mut store, instance, "a", 1), "the slice at the start was not");
    Ok(())
}

#[test]
fn long_operations_on_memories_stop_at_the_deadline() -> Result<()> {
    let (mut store, instance) = instance()?;
    let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
    interrupted(call(&mut store, instance, "fill_memory"));
    assert_eq!((memory.data(&store)[0], memory.data(&store)[33_554_431]), (1, 0));
    call(&mut store, instance, "prepare_memory")?;
    interrupted(call(&mut store, instance, "copy_memory"));
    // Upwards it begins at the far end, as bytes would if the ranges overlapped.
    assert_eq!((memory.data(&store)[16_777_216], memory.data(&store)[33_554_431]), (0, 2));
    Ok(())
}

#[test]
fn the_whole_is_done_when_there_is_time() -> Result<()> {
    let (mut store, instance) = instance()?;
    call(&mut store, instance, "prepare")?;
    for index in [0, 1, 999_999, 2_000_000, 3_999_999] {
        assert!(!is_null(&mut store, instance, "a", index), "{index}");
    }
    Ok(())
}
