//! What runs where a process may have little address space: each test runs its body again in a child process under `ulimit -v`.

use peregrine::*;
use std::process::Command;

/// Limits in KiB.
const LIMITS: [u64; 3] = [4_000_000, 1_500_000, 700_000];

/// In the child: the body. Otherwise runs this test in a child for each limit.
fn under_limits(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    const INSIDE: &str = "PEREGRINE_TEST_ADDRESS_SPACE";
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    for limit in LIMITS {
        let mut child = Command::new("sh");
        child.args(["-c", "ulimit -v \"$1\" && shift && exec \"$@\"", "sh", &limit.to_string()]);
        child.arg(std::env::current_exe()?).args(["--exact", test, "--test-threads=1"]).env(INSIDE, "1");
        let output = child.output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "under {limit} KiB: {}\n{text}", output.status);
    }
    Ok(())
}

fn engines() -> Result<Vec<Engine>> {
    [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered]
        .into_iter()
        .map(|strategy| Engine::new(Config::new().strategy(strategy)))
        .collect()
}

const GROWING: &str = r#"(module
    (memory (export "memory") 1) (data (i32.const 60000) "data")
    (table (export "table") 1 funcref)
    (func (export "table_grow") (param i32) (result i32) (table.grow (ref.null func) (local.get 0)))
    (func (export "grow") (param $to i32) (result i32)
        (loop $again
            (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (return (i32.const -1))))
            (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (memory.size))
            (br_if $again (i32.lt_u (memory.size) (local.get $to))))
        (i32.load (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4))))
    (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))"#;

#[test]
fn memories_and_tables_grow() -> Result<()> {
    under_limits("memories_and_tables_grow", || {
        for engine in engines()? {
            let module = Module::new(&engine, GROWING)?;
            // So many guarded ones would not fit.
            let mut stores = Vec::new();
            for _ in 0..40 {
                let mut store = Store::new(&engine, ());
                let instance = Instance::new(&mut store, &module, &[])?;
                let load = instance.get_typed_func::<i32, i32>(&mut store, "load")?;
                assert_eq!(load.call(&mut store, 60_000)?, i32::from_le_bytes(*b"data"));
                assert_eq!(load.call(&mut store, 65_533).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds));
                assert_eq!(instance.get_typed_func::<i32, i32>(&mut store, "table_grow")?.call(&mut store, 10_000)?, 1);
                stores.push((store, instance));
            }
            let (store, instance) = &mut stores[7];
            let grow = instance.get_typed_func::<i32, i32>(&mut *store, "grow")?;
            assert_eq!(grow.call(&mut *store, 800)?, 800);
            let load = instance.get_typed_func::<i32, i32>(&mut *store, "load")?;
            assert_eq!(load.call(&mut *store, 60_000)?, i32::from_le_bytes(*b"data"));
            for pages in 2..=800 {
                assert_eq!(load.call(&mut *store, (pages << 16) - 4)?, pages);
            }
            // Where there is no more, the guest is told so.
            let memory = instance.get_memory(&mut *store, "memory").expect("it is exported");
            assert!(memory.grow(&mut *store, 60_000).is_err());
            assert_eq!(load.call(&mut *store, (800 << 16) - 4)?, 800);
        }
        Ok(())
    })
}

#[test]
fn memories_are_imported_and_shared() -> Result<()> {
    under_limits("memories_are_imported_and_shared", || {
        for strategy in [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered] {
            let engine = Engine::new(Config::new().strategy(strategy).wasm_threads(true))?;
            let user = Module::new(
                &engine,
                r#"(module (import "" "" (memory 1 65536 shared)) (memory $own (export "own") 2)
                    (func (export "add") (result i32) (i32.atomic.rmw.add (i32.const 100000) (i32.const 1)))
                    (func (export "grow") (result i32) (memory.grow (i32.const 1))))"#,
            );
            // With two memories in one module the proposal is needed; without it, one module for each.
            let user = match user {
                Ok(user) => user,
                Err(_) => Module::new(
                    &engine,
                    r#"(module (import "" "" (memory 1 65536 shared))
                        (func (export "add") (result i32) (i32.atomic.rmw.add (i32.const 100000) (i32.const 1)))
                        (func (export "grow") (result i32) (memory.grow (i32.const 1))))"#,
                )?,
            };
            let memory = SharedMemory::new(&engine, MemoryType::shared(1, 4_000))?;
            memory.grow(1)?;
            let run = |count: i32| -> Result<()> {
                let mut store = Store::new(&engine, ());
                let instance = Instance::new(&mut store, &user, &[memory.clone().into()])?;
                let add = instance.get_typed_func::<(), i32>(&mut store, "add")?;
                (0..count).try_for_each(|_| add.call(&mut store, ()).map(drop))?;
                assert!(instance.get_typed_func::<(), i32>(&mut store, "grow")?.call(&mut store, ())? >= 2);
                Ok(())
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(|| run(1_000));
                run(1_000)?;
                other.join().expect("no panic")
            })?;
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &user, &[memory.clone().into()])?;
            assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "add")?.call(&mut store, ())?, 2_000);

            // A memory of the host's, and of another instance, in code of a third.
            let host = Memory::new(&mut store, MemoryType::new(1, None))?;
            let importer = Module::new(
                &engine,
                r#"(module (import "" "" (memory 1)) (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
                    (func (export "grow") (result i32) (memory.grow (i32.const 300))))"#,
            )?;
            let definer = Module::new(&engine, r#"(module (memory (export "memory") 1))"#)?;
            let definer = Instance::new(&mut store, &definer, &[])?.get_memory(&mut store, "memory").expect("it is exported");
            for memory in [host, definer] {
                memory.write(&mut store, 65_532, &7_i32.to_le_bytes())?;
                let importer = Instance::new(&mut store, &importer, &[memory.into()])?;
                let load = importer.get_typed_func::<i32, i32>(&mut store, "load")?;
                assert_eq!(load.call(&mut store, 65_532)?, 7);
                assert_eq!(importer.get_typed_func::<(), i32>(&mut store, "grow")?.call(&mut store, ())?, 1);
                assert_eq!((load.call(&mut store, 65_532)?, load.call(&mut store, 300 << 16)?), (7, 0));
                assert_eq!(load.call(&mut store, 301 << 16).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds));
            }
        }
        Ok(())
    })
}

#[test]
fn warm_instances_make_room_for_others() -> Result<()> {
    under_limits("warm_instances_make_room_for_others", || {
        let engine = Engine::default();
        let fills = |text: &str| -> Result<usize> {
            let module = Module::new(&engine, text)?;
            let mut stores = Vec::new();
            let error = loop {
                let mut store = Store::new(&engine, ());
                match Instance::new(&mut store, &module, &[]) {
                    Ok(_) => stores.push(store),
                    Err(error) => break error,
                }
            };
            assert!(format!("{error:#}").contains("RLIMIT_AS"), "{error:#}");
            Ok(stores.len())
        };
        let small = Module::new(&engine, "(module (memory 40))")?;
        let stores: Vec<_> = (0..10)
            .map(|_| {
                let mut store = Store::new(&engine, ());
                Instance::new(&mut store, &small, &[]).map(|_| store)
            })
            .collect::<Result<_>>()?;
        drop(stores);
        assert!(engine.metrics().slots_idle > 0, "{:?}", engine.metrics());
        assert!(fills("(module (memory 100))")? > 3);
        assert!(engine.metrics().slots_idle == 0, "{:?}", engine.metrics());
        // The module whose instances were given up is as good as before.
        Instance::new(&mut Store::new(&engine, ()), &small, &[])?;
        Ok(())
    })
}

#[test]
fn what_needs_more_says_what_limits_it() -> Result<()> {
    under_limits("what_needs_more_says_what_limits_it", || {
        let guarded = Engine::new(Config::new().memory_reservation(4 << 30))?;
        let module = Module::new(&guarded, GROWING)?;
        let mut store = Store::new(&guarded, ());
        let error = format!("{:#}", Instance::new(&mut store, &module, &[]).unwrap_err());
        assert!(error.contains("`ulimit -v` (RLIMIT_AS) is") && error.contains("memory_reservation(0)"), "{error}");
        let engine = Engine::default();
        // SAFETY: the image was just made.
        let error = unsafe { Module::deserialize(&engine, module.serialize()?) }.unwrap_err().to_string();
        assert!(error.contains("`ulimit -v` (RLIMIT_AS) is") && error.contains("memory-reservation=0"), "{error}");
        let large = Module::new(&engine, "(module (memory 65000))")?;
        let error = format!("{:#}", Instance::new(&mut Store::new(&engine, ()), &large, &[]).unwrap_err());
        assert!(error.contains("`ulimit -v` (RLIMIT_AS) is"), "{error}");
        // Instances until there is no room: an error, and then there is room again.
        let large = Module::new(&engine, "(module (memory 1000))")?;
        let mut stores = Vec::new();
        let error = loop {
            let mut store = Store::new(&engine, ());
            match Instance::new(&mut store, &large, &[]) {
                Ok(_) => stores.push(store),
                Err(error) => break error,
            }
        };
        assert!(stores.len() > 3, "{}", stores.len());
        assert!(format!("{error:#}").contains("RLIMIT_AS"), "{error:#}");
        drop(stores);
        Instance::new(&mut Store::new(&engine, ()), &large, &[])?;
        Ok(())
    })
}

/// Instances of a module that were dropped and are warm.
fn leave_warm(engine: &Engine, count: usize) -> Result<Module> {
    let small = Module::new(engine, "(module (memory 40))")?;
    let mut stores = Vec::new();
    for _ in 0..count {
        let mut store = Store::new(engine, ());
        Instance::new(&mut store, &small, &[])?;
        stores.push(store);
    }
    drop(stores);
    assert!(engine.metrics().slots_idle > 0, "{:?}", engine.metrics());
    Ok(small)
}

/// Takes all address space, by memories of so many pages.
fn fill(store: &mut Store<()>, pages: u32) {
    while Memory::new(&mut *store, MemoryType::new(pages, None)).is_ok() {}
}

#[test]
fn warm_instances_make_room_for_growth() -> Result<()> {
    under_limits("warm_instances_make_room_for_growth", || {
        let engine = Engine::default();
        let module = Module::new(&engine, GROWING)?;
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let small = leave_warm(&engine, 8)?;
        let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
        assert_eq!(grow.call(&mut store, 60_000)?, -1);
        assert!(engine.metrics().slots_idle == 0, "{:?}", engine.metrics());
        drop((store, instance));

        // And by the hand of the host.
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        drop(small);
        let small = leave_warm(&engine, 8)?;
        let grow = instance.get_typed_func::<i32, i32>(&mut store, "table_grow")?;
        assert_eq!(grow.call(&mut store, 1)?, 1);
        fill(&mut store, 16);
        assert!(engine.metrics().slots_idle == 0, "{:?}", engine.metrics());
        assert_eq!(grow.call(&mut store, 1_000)?, 2);
        drop(store);
        Instance::new(&mut Store::new(&engine, ()), &small, &[])?;
        Ok(())
    })
}

#[test]
fn warm_instances_make_room_for_modules() -> Result<()> {
    under_limits("warm_instances_make_room_for_modules", || {
        let engine = Engine::default();
        let small = Module::new(&engine, "(module (memory 40))")?;
        let large = Module::new(&engine, format!(r#"(module (data "{}"))"#, "x".repeat(18 << 20)))?;
        let file = std::env::temp_dir().join(format!("peregrine-address-space-{}", std::process::id()));
        std::fs::write(&file, large.serialize()?)?;
        drop(large);
        let mut warm = Vec::new();
        for _ in 0..8 {
            let mut store = Store::new(&engine, ());
            Instance::new(&mut store, &small, &[])?;
            warm.push(store);
        }
        let mut store = Store::new(&engine, ());
        // 4 MiB at a time, so that there are fewer left, and the heap finds what it needs.
        fill(&mut store, 64);
        drop(warm);
        assert_eq!(engine.metrics().slots_idle, 8);
        // SAFETY: the image was just made, and nobody changes the file.
        let loaded = unsafe { Module::deserialize_file(&engine, &file) };
        std::fs::remove_file(&file)?;
        loaded?;
        assert!(engine.metrics().slots_idle == 0, "{:?}", engine.metrics());
        Ok(())
    })
}
