//! Instances that are dropped before their store.

mod process;

use peregrine::*;
use process::mappings;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock};

const PLUGIN: &str = r#"(module $plugin
    (import "" "host" (func $host (param i32)))
    (memory (export "memory") 1) (data (i32.const 8) "\07")
    (table (export "table") 4 funcref) (elem (i32.const 0) $bump)
    (global (export "global") (mut i32) (i32.const 5))
    (func $bump (export "bump") (result i32)
        (call $host (i32.const 1))
        (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
        (i32.load (i32.const 8))))"#;

/// Held for writing by the test that measures the process, and for reading by the others.
static PROCESS: RwLock<()> = RwLock::new(());

fn engines() -> Result<Vec<Engine>> {
    [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered]
        .into_iter()
        .map(|strategy| Engine::new(Config::new().strategy(strategy)))
        .collect()
}

/// The message of the panic that `use_it` ends with.
fn panic_of<R>(use_it: impl FnOnce() -> R) -> String {
    let payload = catch_unwind(AssertUnwindSafe(use_it)).err().expect("it panics");
    payload.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned()).expect("a text")
}

#[test]
fn a_store_makes_and_drops_any_number_of_instances() -> Result<()> {
    let _process = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::default();
    let module = Module::new(&engine, PLUGIN)?;
    let mut store = Store::new(&engine, 0_u64);
    let host = Func::wrap(&mut store, |mut caller: Caller<'_, u64>, value: i32| *caller.data_mut() += value as u64);
    let stays = Instance::new(&mut store, &module, &[host.into()])?;
    let stays = stays.get_typed_func::<(), i32>(&mut store, "bump")?;
    let round = |store: &mut Store<u64>| -> Result<()> {
        let plugin = Instance::new(&mut *store, &module, &[host.into()])?;
        let bump = plugin.get_typed_func::<(), i32>(&mut *store, "bump")?;
        assert_eq!((bump.call(&mut *store, ())?, bump.call(&mut *store, ())?), (8, 9));
        store.drop_instance(plugin)
    };
    (0..1_000).try_for_each(|_| round(&mut store))?;
    let before = (mappings(), process::bytes()[1]);
    (0..99_000).try_for_each(|_| round(&mut store))?;
    let after = (mappings(), process::bytes()[1]);
    // Threads of the tiers that begin meanwhile have a few mappings and some memory; 99,000 instances would have more.
    assert!(after.0 <= before.0 + 32, "{before:?} {after:?}");
    assert!(after.1 <= before.1 + (8 << 20), "{before:?} {after:?}");
    assert_eq!(store.metrics().instances_live, 1);
    assert_eq!((stays.call(&mut store, ())?, *store.data()), (8, 200_001));
    let metrics = engine.metrics();
    assert_eq!((metrics.instances_live, metrics.slots_cold), (1, 2), "{metrics:?}");
    Ok(())
}

#[test]
fn handles_to_what_was_dropped_are_refused() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    for engine in engines()? {
        let module = Module::new(&engine, PLUGIN)?;
        let mut store = Store::new(&engine, ());
        let host = Func::wrap(&mut store, |_: i32| {});
        let stays = Instance::new(&mut store, &module, &[host.into()])?;
        let (stays_func, stays_memory) =
            (stays.get_typed_func::<(), i32>(&mut store, "bump")?, stays.get_memory(&mut store, "memory").unwrap());
        let plugin = Instance::new(&mut store, &module, &[host.into()])?;
        let (func, typed) = (plugin.get_func(&mut store, "bump").unwrap(), plugin.get_typed_func::<(), i32>(&mut store, "bump")?);
        let (memory, table) = (plugin.get_memory(&mut store, "memory").unwrap(), plugin.get_table(&mut store, "table").unwrap());
        let global = plugin.get_global(&mut store, "global").unwrap();
        assert_eq!(typed.call(&mut store, ())?, 8);
        store.drop_instance(plugin)?;
        // The next one has the same place, and often the same number.
        for _ in 0..2 {
            let text = panic_of(|| typed.call(&mut store, ()));
            assert_eq!(text, "function used after its instance was dropped");
            assert_eq!(panic_of(|| func.ty(&store)), text);
            assert_eq!(panic_of(|| func.call(&mut store, &[], &mut [Val::I32(0)])), text);
            let gone = "object used after its instance was dropped";
            assert_eq!(panic_of(|| memory.data(&store)[0]), gone);
            assert_eq!(panic_of(|| memory.grow(&mut store, 1)), gone);
            assert_eq!(panic_of(|| table.get(&mut store, 0)), gone);
            assert_eq!(panic_of(|| global.get(&mut store)), gone);
            assert_eq!(panic_of(|| plugin.get_func(&mut store, "bump")), gone);
            assert_eq!(panic_of(|| store.drop_instance(plugin)), gone);
            assert_eq!(panic_of(|| Table::new(&mut store, TableType::new(RefType::FUNCREF, 1, None), Ref::Func(Some(func)))), text);
            Instance::new(&mut store, &module, &[host.into()])?;
        }
        // What is older and was not dropped is as good as ever.
        assert!(stays_func.call(&mut store, ())? > 7);
        assert_eq!(stays_memory.data(&store)[8], 8);
        assert_eq!(stays.get_memory(&mut store, "memory"), Some(stays_memory));
        host.call(&mut store, &[Val::I32(1)], &mut [])?;
    }
    Ok(())
}

#[test]
fn what_is_in_use_is_not_dropped() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    for engine in engines()? {
        let module = Module::new(&engine, PLUGIN)?;
        let mut store = Store::new(&engine, ());
        let host = Func::wrap(&mut store, |_: i32| {});
        let plugin = Instance::new(&mut store, &module, &[host.into()])?;
        let memory = plugin.get_memory(&mut store, "memory").unwrap();
        let bump = plugin.get_func(&mut store, "bump").unwrap();
        for (kind, ty) in [
            ("memory", "(memory 1)"),
            ("function", "(func (result i32))"),
            ("table", "(table 1 funcref)"),
            ("global", "(global (mut i32))"),
        ] {
            let user = Module::new(&engine, format!(r#"(module $user (import "" "" {ty}))"#))?;
            let import: Extern = match kind {
                "memory" => memory.into(),
                "function" => bump.into(),
                "table" => plugin.get_table(&mut store, "table").unwrap().into(),
                _ => plugin.get_global(&mut store, "global").unwrap().into(),
            };
            let user = Instance::new(&mut store, &user, &[import])?;
            let error = store.drop_instance(plugin).unwrap_err().to_string();
            assert!(error.contains("`user` imports a") && error.contains(kind), "{error}");
            store.drop_instance(user)?;
        }
        // References: in a table and a global of the host's, and in a guest that was given one.
        let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 3, None), Ref::Func(None))?;
        table.set(&mut store, 2, Ref::Func(Some(bump)))?;
        let error = store.drop_instance(plugin).unwrap_err().to_string();
        assert!(error.contains("an element of table 0 of something of the host's"), "{error}");
        table.set(&mut store, 2, Ref::Func(None))?;
        let global = Global::new(&mut store, GlobalType::new(ValType::FUNCREF, Mutability::Var), Val::FuncRef(Some(bump)))?;
        let error = store.drop_instance(plugin).unwrap_err().to_string();
        assert!(error.contains("a global of something of the host's"), "{error}");
        global.set(&mut store, Val::FuncRef(None))?;
        let keeper = Module::new(
            &engine,
            r#"(module $keeper (table 9 funcref)
                (func (export "keep") (param funcref) (table.set (i32.const 4) (local.get 0)))
                (func (export "call") (result i32) (call_indirect (result i32) (i32.const 4))))"#,
        )?;
        let keeper = Instance::new(&mut store, &keeper, &[])?;
        let keep = keeper.get_typed_func::<Option<Func>, ()>(&mut store, "keep")?;
        keep.call(&mut store, Some(bump))?;
        let error = store.drop_instance(plugin).unwrap_err().to_string();
        assert!(error.contains("an element of table 0 of an instance of `keeper`"), "{error}");
        assert_eq!(keeper.get_typed_func::<(), i32>(&mut store, "call")?.call(&mut store, ())?, 8);
        assert_eq!(memory.data(&store)[8], 8, "a refusal changes nothing");
        keep.call(&mut store, None)?;
        store.drop_instance(plugin)?;
        // A host function as an instance imports it is part of that instance.
        let lender = Module::new(
            &engine,
            r#"(module $lender (import "" "" (func $host (param i32))) (elem declare func $host) (func (export "lend") (result funcref) (ref.func $host)))"#,
        )?;
        let lender = Instance::new(&mut store, &lender, &[host.into()])?;
        let lent = lender.get_typed_func::<(), Option<Func>>(&mut store, "lend")?.call(&mut store, ())?;
        keep.call(&mut store, lent)?;
        assert!(store.drop_instance(lender).unwrap_err().to_string().contains("`keeper`"));
        keep.call(&mut store, None)?;
        store.drop_instance(lender)?;
        assert_eq!(panic_of(|| keep.call(&mut store, lent)), "function used after its instance was dropped");
    }
    Ok(())
}

#[test]
fn instances_that_fail_do_not_stay() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    for engine in engines()? {
        let mut store = Store::new(&engine, ());
        let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 3, None), Ref::Func(None))?;
        let before = store.metrics().instances_live;
        let failing = [
            "(module (memory 1) (func $start unreachable) (start $start))",
            "(module (memory 1) (data (i32.const 65536) \"x\"))",
            "(module (memory 1) (table 3 funcref) (func $f) (elem (i32.const 2) $f $f))",
        ];
        let mut modules = failing.iter().map(|text| Module::new(&engine, text)).collect::<Result<Vec<_>>>()?;
        for module in &modules {
            for _ in 0..200 {
                assert!(Instance::new(&mut store, module, &[]).is_err());
            }
        }
        assert_eq!(store.metrics().instances_live, before);
        // What wrote to a table of others stays: what it wrote is to be used.
        let text = r#"(module (import "" "" (table 3 funcref)) (memory 1) (global $g i32 (i32.const 44))
            (func $f (result i32) (i32.add (global.get $g) (i32.load (i32.const 0)))) (elem (i32.const 1) $f) (data (i32.const 0) "\01") (data (i32.const 65536) "x"))"#;
        modules.push(Module::new(&engine, text)?);
        for turn in 1..4 {
            assert!(Instance::new(&mut store, &modules[3], &[table.into()]).is_err());
            assert_eq!(store.metrics().instances_live, before + turn);
            let Some(Ref::Func(Some(func))) = table.get(&mut store, 1) else { panic!("a function was written") };
            assert_eq!(func.typed::<(), i32>(&store)?.call(&mut store, ())?, 45);
        }
    }
    Ok(())
}

/// What a host function took while a start function ran.
#[derive(Default)]
struct Taken {
    memory: Option<Memory>,
    func: Option<Func>,
}

#[test]
fn handles_that_were_taken_during_a_failed_start_work() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let text = r#"(module (import "" "take" (func $take (param funcref))) (memory (export "memory") 1)
        (func $f (export "f") (result i32) (i32.load (i32.const 4))) (elem declare func $f)
        (func $start (i32.store (i32.const 4) (i32.const 77)) (call $take (ref.func $f)) unreachable) (start $start))"#;
    for engine in engines()? {
        let module = Module::new(&engine, text)?;
        let mut store = Store::new(&engine, Taken::default());
        let take = |mut caller: Caller<'_, Taken>, func: Option<Func>| {
            let memory = caller.get_export("memory").and_then(Extern::into_memory);
            assert!(caller.get_export("f").is_some());
            *caller.data_mut() = Taken { memory, func };
        };
        let take = Func::wrap(&mut store, take);
        let error = Instance::new(&mut store, &module, &[take.into()]).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::UnreachableCodeReached));
        let (memory, func) = (store.data().memory.unwrap(), store.data().func.unwrap());
        assert_eq!(memory.data(&store)[4], 77);
        memory.write(&mut store, 4, &[78])?;
        assert_eq!(func.typed::<(), i32>(&store)?.call(&mut store, ())?, 78);
        // Also where the host function panics, and where another instance took its place meanwhile.
        let panics = Func::wrap(&mut store, |mut caller: Caller<'_, Taken>, func: Option<Func>| -> () {
            *caller.data_mut() = Taken { memory: caller.get_export("memory").and_then(Extern::into_memory), func };
            panic!("the host panics");
        });
        assert_eq!(panic_of(|| Instance::new(&mut store, &module, &[panics.into()])), "the host panics");
        let later = (store.data().memory.unwrap(), store.data().func.unwrap());
        assert!(Instance::new(&mut store, &module, &[take.into()]).is_err());
        assert_eq!((later.0.data(&store)[4], memory.data(&store)[4]), (77, 78));
        assert_eq!(later.1.typed::<(), i32>(&store)?.call(&mut store, ())?, 77);
    }
    Ok(())
}

#[test]
fn a_core_dump_of_a_failed_start_can_be_written() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::new(Config::new().coredump_on_trap(true))?;
    let module = Module::new(&engine, "(module (memory 1) (func $start unreachable) (start $start))")?;
    let mut store = Store::new(&engine, ());
    let error = Instance::new(&mut store, &module, &[]).unwrap_err();
    let dump = error.downcast_ref::<WasmCoreDump>().expect("there is one");
    assert!(!dump.serialize(&mut store, "start").is_empty());
    Ok(())
}

#[test]
fn what_is_abandoned_in_its_start_does_not_stay() -> Result<()> {
    use std::pin::pin;
    use std::task::{Context, Waker};
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::new(Config::new().consume_fuel(true))?;
    let module = Module::new(&engine, "(module (memory 1) (func $start (loop (br 0))) (start $start))")?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(1_000_000_000)?;
    store.fuel_async_yield_interval(Some(1_000))?;
    for _ in 0..200 {
        let mut start = pin!(Instance::new_async(&mut store, &module, &[]));
        assert!(start.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert_eq!(store.metrics().instances_live, 0);
    Ok(())
}

#[test]
fn what_is_dropped_does_not_count() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let mut config = Config::new();
    config.budget(Budget::untrusted());
    let engine = Engine::new(&config)?;
    let module =
        Module::new(&engine, r#"(module (memory 500) (table 1000 funcref) (func (export "grow") (drop (memory.grow (i32.const 500)))))"#)?;
    let mut store = Store::new(&engine, ());
    for _ in 0..1_000 {
        let instance = Instance::new(&mut store, &module, &[])?;
        instance.get_typed_func::<(), ()>(&mut store, "grow")?.call(&mut store, ())?;
        store.drop_instance(instance)?;
    }
    Ok(())
}

#[test]
fn a_shared_memory_counts_for_those_who_grew_it() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    const PAGE: usize = 65_536;
    let mut config = Config::new();
    let mut budget = Budget::untrusted();
    budget.memory_bytes = 10 * PAGE;
    config.wasm_threads(true).budget(budget);
    let engine = Engine::new(&config)?;
    let shared = Module::new(
        &engine,
        r#"(module (memory (export "memory") 2 100 shared)
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#,
    )?;
    let own = Module::new(&engine, r#"(module (memory 5) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#)?;
    let user = Module::new(
        &engine,
        r#"(module (import "" "" (memory 1 100 shared)) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let stays = Instance::new(&mut store, &own, &[])?;
    let instance = Instance::new(&mut store, &shared, &[])?;
    let memory = instance.get_shared_memory(&mut store, "memory").unwrap();
    // The store holds 5 and 2 pages, and grows the shared memory by one. Another store grows it by as many as it may.
    assert_eq!(instance.get_typed_func::<i32, i32>(&mut store, "grow")?.call(&mut store, 1)?, 2);
    let mut other = Store::new(&engine, ());
    let user = Instance::new(&mut other, &user, &[memory.clone().into()])?;
    let grow = user.get_typed_func::<i32, i32>(&mut other, "grow")?;
    assert_eq!((grow.call(&mut other, 10)?, grow.call(&mut other, 1)?), (3, -1));
    store.drop_instance(instance)?;
    // 5 pages are held, no fewer and no more.
    let grow = stays.get_typed_func::<i32, i32>(&mut store, "grow")?;
    assert_eq!((grow.call(&mut store, 6)?, grow.call(&mut store, 5)?, grow.call(&mut store, 1)?), (-1, 5, -1));
    assert_eq!(memory.size(), 13);
    Ok(())
}

/// A module that imports a shared memory, and one that fails after its imports were there.
const USERS: [&str; 2] = [
    r#"(module (import "" "" (memory 1 3 shared)) (func (export "grow") (result i32) (i32.store8 (i32.const 0) (i32.const 7)) (memory.grow (i32.const 1))))"#,
    r#"(module (import "" "" (memory 1 3 shared)) (data (i32.const 200000) "x"))"#,
];

#[test]
fn shared_memories_leave_a_store_with_those_who_import_them() -> Result<()> {
    let _process = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    const PAGE: usize = 65_536;
    let mut config = Config::new();
    let mut budget = Budget::untrusted();
    // Of all rounds together it would be too much.
    (budget.memory_bytes, budget.host_bytes) = (4 * PAGE, 20 << 10);
    config.wasm_threads(true).shared_memory(true).budget(budget);
    let engine = Engine::new(&config)?;
    let [user, failing] = [Module::new(&engine, USERS[0])?, Module::new(&engine, USERS[1])?];
    let mut linker = Linker::new(&engine);
    let mut store = Store::new(&engine, ());
    let mut round = |store: &mut Store<()>| -> Result<()> {
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 3))?;
        let first = Instance::new(&mut *store, &user, &[memory.clone().into()])?;
        assert_eq!(first.get_typed_func::<(), i32>(&mut *store, "grow")?.call(&mut *store, ())?, 1);
        linker.allow_shadowing(true).define(&*store, "", "", memory.clone())?;
        let second = linker.instantiate_pre(&user)?.instantiate(&mut *store)?;
        assert_eq!(store.metrics().instances_live, 3);
        assert!(Instance::new(&mut *store, &failing, &[memory.clone().into()]).is_err());
        store.drop_instance(first)?;
        // Somebody has it yet: it is charged.
        assert_eq!(second.get_typed_func::<(), i32>(&mut *store, "grow")?.call(&mut *store, ())?, 2);
        store.drop_instance(second)?;
        let other = SharedMemory::new(&engine, MemoryType::shared(1, 3))?;
        assert!(Instance::new(&mut *store, &failing, &[other.into()]).is_err());
        // It goes on where somebody else has it.
        // SAFETY: nothing else runs.
        assert_eq!(unsafe { *memory.data()[0].get() }, 7);
        assert_eq!((store.metrics().instances_live, store.metrics().host_bytes, memory.size()), (0, 0, 3));
        Ok(())
    };
    process::maps_nothing_for_threads();
    (0..100).try_for_each(|_| round(&mut store))?;
    let before = (mappings(), process::bytes());
    (0..2_000).try_for_each(|_| round(&mut store))?;
    let after = (mappings(), process::bytes());
    assert!(after.0 <= before.0 + 8, "{before:?} {after:?}");
    assert!(after.1[0] <= before.1[0] + (64 << 20) && after.1[1] <= before.1[1] + (4 << 20), "{before:?} {after:?}");
    Ok(())
}

#[test]
fn shared_memories_count_for_the_hosts_bytes() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    let mut config = Config::new();
    let mut budget = Budget::untrusted();
    budget.host_bytes = 100 << 10;
    config.wasm_threads(true).shared_memory(true).budget(budget);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, USERS[0])?;
    let mut store = Store::new(&engine, ());
    let mut count = 0;
    let error = loop {
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 3))?;
        match Instance::new(&mut store, &module, &[memory.into()]) {
            Ok(_) => count += 1,
            Err(error) => break error.to_string(),
        }
        assert!(count < 100, "nobody counts them");
    };
    assert!(error.contains("`Budget::host_bytes` is 102400"), "{error}");
    // The refused one left nothing.
    assert_eq!(store.metrics().instances_live, 2 * count);
    Ok(())
}

#[test]
fn large_tables_are_looked_at_where_they_were_touched() -> Result<()> {
    let _process = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    const LAST: u64 = 7_999_999;
    for engine in engines()? {
        let keeper = Module::new(
            &engine,
            r#"(module $keeper (table (export "table") 8000000 funcref) (func (export "f") (param funcref)) (func $g (export "g")) (elem declare func $g)
                (func (export "touch") (table.set (i32.const 4000000) (ref.func $g))))"#,
        )?;
        let plugin = Module::new(&engine, r#"(module (func (export "run")))"#)?;
        let mut store = Store::new(&engine, ());
        let keeper = Instance::new(&mut store, &keeper, &[])?;
        keeper.get_typed_func::<(), ()>(&mut store, "touch")?.call(&mut store, ())?;
        let table = keeper.get_table(&mut store, "table").context("it is exported")?;
        // Each would look at 64 MB.
        for _ in 0..500 {
            let instance = Instance::new(&mut store, &plugin, &[])?;
            instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
            store.drop_instance(instance)?;
        }
        let instance = Instance::new(&mut store, &plugin, &[])?;
        let run = instance.get_func(&mut store, "run");
        for index in [LAST, 0, 511, 512] {
            table.set(&mut store, index, Ref::Func(run))?;
            let error = store.drop_instance(instance).unwrap_err().to_string();
            assert!(error.contains("an element of table 0 of an instance of `keeper`"), "{error}");
            table.set(&mut store, index, Ref::Func(None))?;
        }
        store.drop_instance(instance)?;
    }
    Ok(())
}
