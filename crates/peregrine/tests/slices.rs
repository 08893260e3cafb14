//! Long operations on memories and tables go in slices: they stop between two of them once the deadline is reached, and what came before
//! is done.

use peregrine::{Caller, Config, Engine, Instance, Linker, Module, Ref, Result, Store, Strategy, Trap, UpdateDeadline};

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

/// Each operation that can be long asks its host in between, on memories and tables of every kind, and what is copied is right in the end.
#[test]
fn every_long_operation_asks_in_between() -> Result<()> {
    const LEN: usize = 3 << 20;
    let data = "x".repeat(LEN);
    let text = format!(
        r#"(module
            (memory $m 128) (memory $other 128) (memory $wide i64 128) (memory $shared 128 128 shared)
            (table $t 3000000 funcref) (table $u 3000000 externref) (table $g 0 3000000 funcref) (table $wide i64 300000 funcref)
            (func $f) (data $d "{data}") (elem $e func {functions})
            (func (export "fill") (memory.fill $m (i32.const 5) (i32.const 1) (i32.const {LEN})))
            (func (export "fill 64") (memory.fill $wide (i64.const 5) (i32.const 1) (i64.const {LEN})))
            (func (export "fill shared") (memory.fill $shared (i32.const 5) (i32.const 1) (i32.const {LEN})))
            (func (export "copy") (memory.copy $m $m (i32.const {LEN}) (i32.const 5) (i32.const {LEN})))
            (func (export "copy down") (memory.copy $m $m (i32.const 5) (i32.const 100) (i32.const {LEN})))
            (func (export "copy up") (memory.copy $m $m (i32.const 100) (i32.const 5) (i32.const {LEN})))
            (func (export "copy to other") (memory.copy $other $m (i32.const 100) (i32.const 5) (i32.const {LEN})))
            (func (export "copy to 64") (memory.copy $wide $m (i64.const 100) (i32.const 5) (i32.const {LEN})))
            (func (export "copy from shared") (memory.copy $m $shared (i32.const 100) (i32.const 5) (i32.const {LEN})))
            (func (export "init") (memory.init $m $d (i32.const 3) (i32.const 1) (i32.const {less})))
            (func (export "init 64") (memory.init $wide $d (i64.const 3) (i32.const 1) (i32.const {less})))
            (func (export "init shared") (memory.init $shared $d (i32.const 3) (i32.const 1) (i32.const {less})))
            (func (export "table fill") (table.fill $t (i32.const 0) (ref.func $f) (i32.const 2000000)))
            (func (export "table fill null") (table.fill $u (i32.const 0) (ref.null extern) (i32.const 2000000)))
            (func (export "table fill 64") (table.fill $wide (i64.const 0) (ref.func $f) (i64.const 300000)))
            (func (export "table copy") (table.copy $t $t (i32.const 7) (i32.const 0) (i32.const 2000000)))
            (func (export "table copy extern") (table.copy $u $u (i32.const 7) (i32.const 0) (i32.const 2000000)))
            (func (export "table init") (table.init $t $e (i32.const 0) (i32.const 0) (i32.const 200000)))
            (func (export "table grow") (drop (table.grow $g (ref.func $f) (i32.const 1000000))))
            (elem declare func $f))"#,
        less = LEN - 1,
        functions = "$f ".repeat(200_000),
    );
    for strategy in [Strategy::Ahead, Strategy::Baseline] {
        let engine = Engine::new(Config::new().epoch_interruption(true).strategy(strategy))?;
        let module = Module::new(&engine, &text)?;
        let mut store = Store::new(&engine, (0_u32, u32::MAX));
        store.epoch_deadline_callback(|mut context| {
            let (asked, most) = context.data_mut();
            *asked += 1;
            if asked > most { Ok(UpdateDeadline::Interrupt) } else { Ok(UpdateDeadline::Continue(0)) }
        });
        let instance = Instance::new(&mut store, &module, &[])?;
        let names: Vec<String> = module.exports().map(|export| export.name().to_owned()).collect();
        for name in names {
            let run = instance.get_typed_func::<(), ()>(&mut store, &name)?;
            for most in [2, u32::MAX] {
                *store.data_mut() = (0, most);
                let outcome = run.call(&mut store, ());
                let asked = store.data().0;
                if most == 2 {
                    assert_eq!((outcome.unwrap_err().downcast_ref(), asked), (Some(&Trap::Interrupt), 3), "{name}");
                } else {
                    outcome?;
                    assert!(asked >= 3, "{name}: {asked}");
                }
            }
        }
    }
    Ok(())
}

/// A function that is nothing but many operations of a slice each looks in them: nobody else does.
#[test]
fn operations_of_one_slice_are_interrupted() -> Result<()> {
    let text = r#"(module (import "" "tick" (func $tick)) (memory 4) (table $t 60000 externref)
        (func (export "memory") (call $tick) (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x40000)))
        (func (export "table") (call $tick) (table.fill $t (i32.const 0) (ref.null extern) (i32.const 60000)))
        (func (export "few") (call $tick) (memory.fill (i32.const 0) (i32.const 1) (i32.const 1000))))"#;
    for strategy in [Strategy::Ahead, Strategy::Baseline] {
        let engine = Engine::new(Config::new().epoch_interruption(true).strategy(strategy))?;
        let module = Module::new(&engine, text)?;
        let mut linker = Linker::new(&engine);
        linker.func_wrap("", "tick", |caller: Caller<'_, ()>| caller.engine().increment_epoch())?;
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let instance = linker.instantiate(&mut store, &module)?;
        for name in ["memory", "table"] {
            interrupted(call(&mut store, instance, name));
        }
        interrupted(call(&mut store, instance, "few"));
    }
    Ok(())
}
