//! What a store may hold, and that what did not come about is not counted.

use peregrine::*;

fn store(change: impl FnOnce(&mut Budget)) -> Store<()> {
    let mut budget = Budget::untrusted();
    change(&mut budget);
    let mut store = Store::new(&Engine::new(Config::new().budget(budget)).unwrap(), ());
    assert_eq!(store.budget(), budget);
    store.set_budget(budget);
    store
}

fn instantiate(store: &mut Store<()>, text: &str) -> Result<Instance> {
    let module = Module::new(store.engine(), text)?;
    Instance::new(store, &module, &[])
}

#[test]
fn every_refusal_names_its_limit() -> Result<()> {
    let refused = |result: Result<Instance>, expected: &str| {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    let mut small = store(|budget| (budget.memory_bytes, budget.table_elements, budget.instances) = (3 << 16, 100, 3));
    refused(instantiate(&mut small, "(module (memory 4))"), "`Budget::memory_bytes` is 196608");
    refused(instantiate(&mut small, "(module (table 101 funcref))"), "`Budget::table_elements` is 100");
    refused(instantiate(&mut small, "(module (memory 2) (memory 2))"), "`Budget::memory_bytes` is 196608");
    instantiate(&mut small, "(module (memory 2) (table 60 externref))")?;
    refused(instantiate(&mut small, "(module (memory 2))"), "`Budget::memory_bytes`");
    refused(instantiate(&mut small, "(module (table 60 funcref))"), "`Budget::table_elements`");
    instantiate(&mut small, "(module (memory 1) (table 40 funcref))")?;
    instantiate(&mut small, "(module)")?;
    refused(instantiate(&mut small, "(module)"), "instance count too high at 4, the limit is 3");
    let table = Table::new(&mut small, TableType::new64(RefType::FUNCREF, 1 << 40, None), Ref::Func(None));
    assert!(format!("{:#}", table.unwrap_err()).contains("`Budget::table_elements` is 100"));
    let memory = Memory::new(&mut small, MemoryType::new(1, None));
    assert!(format!("{:#}", memory.unwrap_err()).contains("`Budget::memory_bytes` is 196608"));
    let engine = Engine::new(Config::new().budget({
        let mut budget = Budget::trusted();
        budget.module_bytes = 100;
        budget
    }))?;
    let error = Module::new(&engine, format!("(module (memory 1) (data \"{}\"))", "x".repeat(100))).unwrap_err();
    assert!(error.to_string().contains("`Budget::module_bytes` is 100"), "{error}");
    Module::new(&engine, "(module)").map(drop)
}

#[test]
fn what_is_empty_is_refused_growth_as_what_is_not() -> Result<()> {
    let mut store = store(|budget| (budget.memory_bytes, budget.table_elements) = (5 << 16, 10));
    let text = r#"(module (memory 0) (table 0 funcref)
        (func (export "memory") (result i32) (memory.grow (i32.const 6)))
        (func (export "table") (result i32) (table.grow (ref.null func) (i32.const 11))))"#;
    let instance = instantiate(&mut store, text)?;
    for name in ["memory", "table"] {
        assert_eq!(instance.get_typed_func::<(), i32>(&mut store, name)?.call(&mut store, ())?, -1, "{name}");
    }
    Ok(())
}

#[test]
fn growth_is_counted_over_all_memories() -> Result<()> {
    let mut store = store(|budget| (budget.memory_bytes, budget.table_elements) = (5 << 16, 10));
    let text = r#"(module (memory 1) (table 2 funcref)
        (func (export "memory") (result i32) (memory.grow (i32.const 1)))
        (func (export "table") (result i32) (table.grow (ref.null func) (i32.const 2))))"#;
    let first = instantiate(&mut store, text)?;
    let second = instantiate(&mut store, text)?;
    let mut grow = |instance: Instance, name: &str| instance.get_typed_func::<(), i32>(&mut store, name)?.call(&mut store, ());
    assert_eq!([grow(first, "memory")?, grow(second, "memory")?, grow(first, "memory")?], [1, 1, 2]);
    assert_eq!([grow(first, "memory")?, grow(second, "memory")?], [-1, -1]);
    assert_eq!([grow(first, "table")?, grow(second, "table")?, grow(second, "table")?, grow(second, "table")?], [2, 2, 4, -1]);
    Ok(())
}

#[test]
fn what_failed_is_not_counted() -> Result<()> {
    let mut store = store(|budget| (budget.memory_bytes, budget.instances, budget.memories, budget.tables) = (1 << 20, 2, 2, 2));
    for _ in 0..10 {
        assert!(instantiate(&mut store, "(module (memory 1) (memory 100) (table 1 funcref))").is_err());
        assert!(Memory::new(&mut store, MemoryType::new(17, None)).is_err());
    }
    // A growth that the maximum of the memory refuses, after the budget allowed it.
    let memory = Memory::new(&mut store, MemoryType::new(1, Some(2)))?;
    for _ in 0..20 {
        assert!(memory.grow(&mut store, 2).is_err());
    }
    instantiate(&mut store, "(module (memory 15))")?;
    instantiate(&mut store, "(module (table 1 funcref))").map(drop)
}

#[test]
fn a_memory_of_single_bytes_stays_below_4_gib() -> Result<()> {
    let engine = Engine::new(Config::new().wasm_custom_page_sizes(true))?;
    let mut store = Store::new(&engine, ());
    let grow = instantiate(
        &mut store,
        r#"(module (memory 1 (pagesize 1)) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#,
    )?;
    let grow = grow.get_typed_func::<i32, i32>(&mut store, "grow")?;
    assert_eq!(grow.call(&mut store, -1)?, -1, "2^32 bytes");
    assert_eq!(grow.call(&mut store, 10)?, 1);
    Ok(())
}

#[test]
fn a_small_memory_is_safe_in_other_hands() -> Result<()> {
    let mut store = Store::new(&Engine::default(), ());
    // The importer does not know how small the memory can only be, and relies on the address space behind it.
    let text = r#"(module (import "" "m" (memory 1)) (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))"#;
    let module = Module::new(store.engine(), text)?;
    let exporter = instantiate(&mut store, r#"(module (memory (export "m") 1 2))"#)?;
    let exported = exporter.get_memory(&mut store, "m").unwrap();
    let own = Memory::new(&mut store, MemoryType::new(1, Some(1)))?;
    for memory in [exported, own] {
        let load = Instance::new(&mut store, &module, &[memory.into()])?.get_typed_func::<i32, i32>(&mut store, "load")?;
        assert_eq!(load.call(&mut store, 65_532)?, 0);
        for address in [65_533, 1 << 20, i32::MAX, -4, -1] {
            let error = load.call(&mut store, address).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds), "{address}");
        }
    }
    let hidden =
        instantiate(&mut store, r#"(module (memory 1 1) (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))"#)?;
    let load = hidden.get_typed_func::<i32, i32>(&mut store, "load")?;
    assert_eq!(load.call(&mut store, 65_532)?, 0);
    assert!([65_533, 70_000, -1].into_iter().all(|address| load.call(&mut store, address).is_err()));
    Ok(())
}

#[test]
fn every_refusal_of_growth_names_its_limit() -> Result<()> {
    let refused = |result: Result<u64>, expected: &str| {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    let mut small = store(|budget| (budget.memory_bytes, budget.table_elements) = (3 << 16, 100));
    let memory = Memory::new(&mut small, MemoryType::new(1, None))?;
    let table = Table::new(&mut small, TableType::new(RefType::FUNCREF, 1, None), Ref::Func(None))?;
    refused(memory.grow(&mut small, 3), "`Budget::memory_bytes` is 196608");
    refused(table.grow(&mut small, 100, Ref::Func(None)), "`Budget::table_elements` is 100");
    let memory = Memory::new(&mut small, MemoryType::new(0, Some(1)))?;
    let table = Table::new(&mut small, TableType::new(RefType::FUNCREF, 0, Some(5)), Ref::Func(None))?;
    refused(memory.grow(&mut small, 2), "the maximum of its type is 1");
    refused(table.grow(&mut small, 6, Ref::Func(None)), "the maximum of its type is 5");

    let limits = StoreLimitsBuilder::new().memory_size(1 << 16).table_elements(1).build();
    let mut limited = Store::new(&Engine::default(), limits);
    limited.limiter(|limits| limits);
    let memory = Memory::new(&mut limited, MemoryType::new(1, None))?;
    let table = Table::new(&mut limited, TableType::new(RefType::FUNCREF, 1, None), Ref::Func(None))?;
    refused(memory.grow(&mut limited, 1), "the store's limiter refused it");
    refused(table.grow(&mut limited, 1, Ref::Func(None)), "the store's limiter refused it");
    Ok(())
}

#[test]
fn a_limiter_does_not_lift_the_budget() -> Result<()> {
    let make = |budget: Budget, limits: StoreLimits, count: usize| {
        let mut store = Store::new(&Engine::new(Config::new().budget(budget))?, limits);
        store.limiter(|limits| limits);
        assert_eq!(store.budget(), budget, "it stays as it was set");
        (0..count).try_for_each(|_| Memory::new(&mut store, MemoryType::new(0, None)).map(drop))
    };
    let limiter = || StoreLimitsBuilder::new().memory_size(1 << 20);
    assert!(make(Budget::untrusted(), limiter().build(), 100).is_ok());
    assert!(make(Budget::untrusted(), limiter().build(), 101).is_err(), "the default of the limiter is no wish");
    assert!(make(Budget::untrusted(), limiter().memories(5).build(), 6).is_err());
    assert!(make(Budget::trusted(), limiter().memories(5).build(), 6).is_err());
    // Where the budget was left alone a limiter raises the count.
    assert!(make(Budget::trusted(), limiter().memories(10_001).build(), 10_001).is_ok());
    // A budget that comes after the limiter.
    let mut store = Store::new(&Engine::default(), limiter().memories(3).build());
    store.limiter(|limits| limits);
    store.set_budget(Budget::untrusted());
    assert!((0..4).any(|_| Memory::new(&mut store, MemoryType::new(0, None)).is_err()));
    Ok(())
}

#[test]
fn what_is_built_step_by_step_is_within_the_budget() -> Result<()> {
    let mut budget = Budget::trusted();
    budget.module_bytes = 1000;
    let engine = Engine::new(Config::new().budget(budget))?;
    let refused = |result: Result<()>| {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains("`Budget::module_bytes` is 1000") || error.contains("`Budget::module_bytes`, which is 1000"), "{error}");
    };
    // Malformed beyond the limit: who reads it first says something else.
    let text = format!("(module {}", " ".repeat(8000));
    refused(CodeBuilder::new(&engine).wasm_binary_or_text(text.as_bytes(), None).map(drop));
    let path = std::env::temp_dir().join(format!("peregrine-budget-{}.wat", std::process::id()));
    std::fs::write(&path, &text)?;
    let results =
        [CodeBuilder::new(&engine).wasm_binary_or_text_file(&path).map(drop), CodeBuilder::new(&engine).wasm_binary_file(&path).map(drop)];
    std::fs::remove_file(&path)?;
    results.into_iter().for_each(refused);
    // What has no length is not read to its end, which does not come.
    refused(CodeBuilder::new(&engine).wasm_binary_or_text_file("/dev/zero".as_ref()).map(drop));
    Ok(())
}
