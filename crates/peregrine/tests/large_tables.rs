//! Tables of millions of elements: how far they grow, and what they take before anybody writes to them.

mod process;

use peregrine::*;
use std::sync::Mutex;

/// What measures the process is alone in it.
static PROCESS: Mutex<()> = Mutex::new(());

fn engines() -> Result<Vec<Engine>> {
    [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered]
        .into_iter()
        .map(|strategy| Engine::new(Config::new().strategy(strategy)))
        .collect()
}

/// A table of some type that grows, whose last element is written and called then.
fn growing(ty: &str, index: &str) -> String {
    format!(
        r#"(module (table (export "table") {ty}) (func $f (result i32) (i32.const 5)) (elem declare func $f)
            (func (export "grow") (param {index}) (result {index}) (table.grow (ref.null func) (local.get 0)))
            (func (export "call") (param {index}) (result i32) (table.set (local.get 0) (ref.func $f)) (call_indirect (result i32) (local.get 0))))"#
    )
}

#[test]
fn tables_grow_as_far_as_their_type_and_the_budget_allow() -> Result<()> {
    let _process = PROCESS.lock();
    const BUDGET: i64 = 32 << 20;
    for engine in engines()? {
        // What there is at first, what is added, and whether that is too much.
        for (ty, first, delta, is_possible) in [
            ("0 20000000 funcref", 0, 17_000_000, true),
            ("0 20000000 funcref", 0, 20_000_000, true),
            ("0 20000000 funcref", 0, 20_000_001, false),
            ("16777216 funcref", 16_777_216, 1, true),
            ("1 funcref", 1, BUDGET - 1, true),
            ("1 funcref", 1, BUDGET, false),
            ("17000000 0xffffffff funcref", 17_000_000, BUDGET - 17_000_000, true),
        ] {
            let module = Module::new(&engine, growing(ty, "i32"))?;
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[])?;
            let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
            let expect = if is_possible { first } else { -1 };
            assert_eq!(i64::from(grow.call(&mut store, delta as i32)?), expect, "{ty} by {delta}");
            if is_possible {
                let call = instance.get_typed_func::<i32, i32>(&mut store, "call")?;
                assert_eq!(call.call(&mut store, (first + delta - 1) as i32)?, 5, "{ty} by {delta}");
            }
        }
        for (ty, first, delta, is_possible) in [
            ("i64 16777216 funcref", 16_777_216, 1, true),
            ("i64 0 0x100000000000 funcref", 0, BUDGET, true),
            ("i64 0 0x100000000000 funcref", 0, BUDGET + 1, false),
            ("i64 2 funcref", 2, i64::MAX, false),
        ] {
            let module = Module::new(&engine, growing(ty, "i64"))?;
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[])?;
            let grow = instance.get_typed_func::<i64, i64>(&mut store, "grow")?;
            assert_eq!(grow.call(&mut store, delta)?, if is_possible { first } else { -1 }, "{ty} by {delta}");
            if is_possible {
                let call = instance.get_typed_func::<i64, i32>(&mut store, "call")?;
                assert_eq!(call.call(&mut store, first + delta - 1)?, 5, "{ty} by {delta}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_larger_budget_of_the_engine_lets_tables_grow_further() -> Result<()> {
    let _process = PROCESS.lock();
    let mut budget = Budget::trusted();
    budget.table_elements = 100 << 20;
    let engine = Engine::new(Config::new().budget(budget))?;
    let mut store = Store::new(&engine, ());
    let table = Table::new(&mut store, TableType::new(RefType::EXTERNREF, 10, None), Ref::Extern(None))?;
    assert_eq!(table.grow(&mut store, 90 << 20, Ref::Extern(None))?, 10);
    assert!(table.get(&mut store, 90 << 20).is_some_and(|element| element.is_null()));
    let error = table.grow(&mut store, 10 << 20, Ref::Extern(None)).unwrap_err().to_string();
    assert!(error.contains("`Budget::table_elements` is 104857600"), "{error}");
    Ok(())
}

#[test]
fn tables_of_nulls_take_no_memory() -> Result<()> {
    let _process = PROCESS.lock();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let before = process::bytes()[1];
    let module = Module::new(&engine, r#"(module (import "host" "table" (table 15000000 funcref)))"#)?;
    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut store, &module)?;
    linker.instantiate(&mut store, &module)?;
    let own = Table::new(&mut store, TableType::new(RefType::EXTERNREF, 15_000_000, None), Ref::Extern(None))?;
    assert!(own.get(&mut store, 14_999_999).is_some_and(|element| element.is_null()));
    let taken = process::bytes()[1].saturating_sub(before);
    assert!(taken < 16 << 20, "{taken} bytes for nulls");
    // Nulls that were asked for are as null as others.
    let func = Func::wrap(&mut store, || 5);
    let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 3, None), Ref::Func(None))?;
    table.set(&mut store, 1, func.into())?;
    assert_eq!([0, 1, 2].map(|index| table.get(&mut store, index).is_some_and(|element| element.is_null())), [true, false, true]);
    Ok(())
}

#[test]
fn refusals_of_shared_memories_say_why() -> Result<()> {
    let engine = Engine::new(Config::new().shared_memory(true))?;
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 3))?;
    assert_eq!(memory.grow(1)?, 1);
    let error = memory.grow(2).unwrap_err().to_string();
    assert!(error.contains("by `2` pages") && error.contains("that makes 4, and the maximum of its type is 3"), "{error}");
    assert_eq!(memory.size(), 2);
    Ok(())
}
