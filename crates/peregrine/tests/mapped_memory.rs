//! What an engine says of its memory, against what the system says of the process. Alone in it, as it looks at all of it.

mod process;

use peregrine::*;
use std::sync::Mutex;

/// What the engine and the process have: address space, and resident bytes.
fn figures(engine: &Engine) -> Result<[[u64; 2]; 2]> {
    Ok([[engine.metrics().reserved_bytes, engine.resident_bytes()?], process::bytes()])
}

/// Checks that the engine says of its address space and its resident bytes what the system says, but for some bytes that others took.
fn compare(engine: &Engine, before: [[u64; 2]; 2], what: &str, slack: [u64; 2]) -> Result<[u64; 2]> {
    let after = figures(engine)?;
    let mut grown = [0; 2];
    for at in 0..2 {
        let [own, process] = [0, 1].map(|whose| after[whose][at] as i64 - before[whose][at] as i64);
        assert!(own.abs_diff(process) <= slack[at], "{what}: {own} bytes, the process {process}");
        grown[at] = own.unsigned_abs();
    }
    Ok(grown)
}

const MIB: u64 = 1 << 20;

static PROCESS: Mutex<()> = Mutex::new(());

#[test]
fn an_engine_says_what_the_system_says() -> Result<()> {
    let _process = PROCESS.lock();
    process::maps_nothing_for_threads();
    for strategy in [Strategy::Ahead, Strategy::Tiered] {
        let engine = Engine::new(Config::new().strategy(strategy).shared_memory(true))?;
        let text = r#"(module (memory (export "memory") 16) (table (export "table") 1000 funcref) (data (i32.const 70000) "abc")
            (func (export "touch") (param $from i32) (param $to i32)
                (loop (i32.store8 (local.get $from) (i32.const 1))
                    (br_if 0 (i32.lt_u (local.tee $from (i32.add (local.get $from) (i32.const 4096))) (local.get $to)))))
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#;
        let module = Module::new(&engine, text)?;
        let slack = [8 * MIB, 4 * MIB];
        // Whatever the first of its kind allocates.
        let mut warm_up = Store::new(&engine, ());
        Instance::new(&mut warm_up, &module, &[])?.get_typed_func::<(i32, i32), ()>(&mut warm_up, "touch")?.call(&mut warm_up, (0, 1))?;
        assert_eq!(engine.metrics().mapped_bytes, 16 * 65_536 + 8_192);
        let start = figures(&engine)?;
        // Instances of several stores, on several threads.
        let make = || {
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[])?;
            instance.get_typed_func::<(i32, i32), ()>(&mut store, "touch")?.call(&mut store, (0, 8 << 16))?;
            Ok::<_, Error>((store, instance))
        };
        let stores: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| (0..16).map(|_| make()).collect::<Result<Vec<_>>>())).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>>>()
        })?;
        // Stacks of the threads that are gone stay mapped.
        let grown = compare(&engine, start, "instances", [400 * MIB, 4 * MIB])?;
        assert!(grown[0] >= 32 * (4 << 30) && grown[1] >= 32 * (8 << 16), "{grown:?}");
        assert_eq!(engine.metrics().mapped_bytes, 33 * (16 * 65_536 + 8_192));
        // One grows, and is used.
        let before = figures(&engine)?;
        let (mut store, instance) = stores.into_iter().flatten().next().context("there is one")?;
        assert_eq!(instance.get_typed_func::<i32, i32>(&mut store, "grow")?.call(&mut store, 1_000)?, 16);
        instance.get_typed_func::<(i32, i32), ()>(&mut store, "touch")?.call(&mut store, (0, 1_000 << 16))?;
        // The others became warm slots: mapped, and empty.
        let [address, resident] = figures(&engine)?[0];
        assert_eq!(engine.metrics().mapped_bytes, 33 * (16 * 65_536 + 8_192) + 1_000 * 65_536);
        assert_eq!(address, before[0][0]);
        assert!((1_000 << 16..1_100 << 16).contains(&resident), "{resident}");
        compare(&engine, start, "growth", [400 * MIB, 4 * MIB])?;
        // Dropped, it is what it was.
        drop(store);
        assert_eq!(engine.metrics().mapped_bytes, 33 * (16 * 65_536 + 8_192));
        assert!(engine.resident_bytes()? < MIB, "{}", engine.resident_bytes()?);
        // A shared memory of the host's, and a table that grows.
        let before = figures(&engine)?;
        let shared = SharedMemory::new(&engine, MemoryType::shared(100, 200))?;
        // SAFETY: nobody else has the memory.
        (0..100 << 16).step_by(4096).for_each(|at| unsafe { *shared.data()[at].get() = 1 });
        shared.grow(50)?;
        let table = Table::new(&mut warm_up, TableType::new(RefType::FUNCREF, 10, None), Ref::Func(None))?;
        table.grow(&mut warm_up, 1 << 20, Ref::Func(None))?;
        table.fill(&mut warm_up, 0, Ref::Func(None), 1 << 20)?;
        let grown = compare(&engine, before, "a shared memory and a table", slack)?;
        assert!(grown[1] >= (100 << 16) + (8 << 20), "{grown:?}");
        drop((shared, warm_up, module));
        let metrics = engine.metrics();
        assert_eq!((metrics.mapped_bytes, metrics.reserved_bytes, engine.resident_bytes()?), (0, 0, 0));
    }
    Ok(())
}

#[test]
fn memories_that_move_are_found() -> Result<()> {
    let _process = PROCESS.lock();
    let mut config = Config::new();
    config.memory_reservation(0).memory_guard_size(0).memory_reservation_for_growth(1 << 20);
    let engine = Engine::new(&config)?;
    let module = Module::new(
        &engine,
        r#"(module (memory (export "memory") 1) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let memory = instance.get_memory(&mut store, "memory").context("it is exported")?;
    let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
    for _ in 0..20 {
        grow.call(&mut store, 30)?;
        memory.data_mut(&mut store).fill(1);
        let (len, resident) = (memory.data_size(&store) as u64, engine.resident_bytes()?);
        assert!((len..len + (2 << 20)).contains(&resident), "{len} {resident}");
        assert!((len..=len + (2 << 20)).contains(&engine.metrics().mapped_bytes), "{len} {:?}", engine.metrics());
        assert_eq!(engine.metrics().reserved_bytes, store.metrics().reserved_bytes);
        assert_eq!(engine.metrics().mapped_bytes, store.metrics().mapped_bytes);
    }
    Ok(())
}
