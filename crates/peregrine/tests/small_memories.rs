//! Memories that take little address space, and move when they grow or when other code needs more.

mod process;

use peregrine::*;

/// Engines of every strategy, each configured by `change`.
fn engines(change: impl Fn(&mut Config)) -> Vec<Engine> {
    let strategies = [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered];
    let engine = |strategy| {
        let mut config = Config::new();
        config.strategy(strategy);
        change(&mut config);
        Engine::new(&config).expect("the configuration is good")
    };
    strategies.into_iter().map(engine).collect()
}

/// A memory of one page with content, which its module does not grow. `work` uses it in a loop, with a call of the host in each turn.
const SMALL: &str = r#"(module
    (import "" "call" (func $call))
    (memory (export "memory") 1)
    (data (i32.const 0) "\01\02\03\04")
    (data (i32.const 20000) "\05")
    (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
    (func (export "store") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
    (func (export "work") (param $turns i32) (result i32)
        (local $sum i32)
        (loop $again
            (i32.store offset=100 (local.get $turns) (i32.load offset=20000 (i32.const 0)))
            (call $call)
            (i32.store offset=200 (local.get $turns) (local.get $turns))
            (local.set $sum (i32.add (local.get $sum) (i32.add (i32.load offset=100 (local.get $turns)) (i32.load offset=200 (local.get $turns)))))
            (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
        (local.get $sum)))"#;

/// What `work` gives.
fn worked(turns: i32) -> i32 {
    turns * 5 + turns * (turns + 1) / 2
}

#[test]
fn many_instances_take_little_address_space() -> Result<()> {
    const COUNT: u64 = 10_000;
    for engine in engines(|_| ()) {
        let module = Module::new(
            &engine,
            r#"(module (memory (export "memory") 1) (data (i32.const 0) "x") (func (export "f") (result i32) (i32.load8_u (i32.const 0))))"#,
        )?;
        let mut store = Store::new(&engine, ());
        let before = process::bytes()[0];
        let mut instances = Vec::new();
        for _ in 0..COUNT {
            instances.push(Instance::new(&mut store, &module, &[])?);
        }
        let each = (process::bytes()[0] - before) / COUNT;
        assert!(each < (4 << 30) / 1000, "{each} bytes of address space for each instance");
        let last = instances[instances.len() - 1].get_typed_func::<(), i32>(&mut store, "f")?;
        assert_eq!(last.call(&mut store, ())?, i32::from(b'x'));
    }
    Ok(())
}

#[test]
fn a_memory_moves_while_its_code_is_in_a_call() -> Result<()> {
    for engine in engines(|_| ()) {
        let module = Module::new(&engine, SMALL)?;
        let mut store = Store::new(&engine, (0_u64, None::<Memory>));
        let call = Func::wrap(&mut store, |mut caller: Caller<'_, (u64, Option<Memory>)>| {
            let (grow, memory) = *caller.data();
            if let Some(memory) = memory {
                let before = memory.data_ptr(&caller);
                let pages = memory.grow(&mut caller, grow)?;
                assert_eq!(memory.size(&caller), pages + grow);
                // Where it was something else is mapped, so that code which goes there is found out.
                assert!(grow == 0 || pages > 20 || memory.data_ptr(&caller) != before || memory.data_size(&caller) > 65_536);
            }
            Ok(())
        });
        for round in 0..3 {
            let instance = Instance::new(&mut store, &module, &[call.into()])?;
            let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
            *store.data_mut() = (round, Some(memory));
            let work = instance.get_typed_func::<i32, i32>(&mut store, "work")?;
            assert_eq!(work.call(&mut store, 50)?, worked(50));
            assert_eq!(memory.size(&store), 1 + 50 * round);
            assert_eq!(&memory.data(&store)[..4], [1, 2, 3, 4]);
            let load = instance.get_typed_func::<i32, i32>(&mut store, "load")?;
            let end = memory.data_size(&store) as i32;
            assert_eq!(load.call(&mut store, end - 4)?, 0);
            for address in [end - 3, end, -1, i32::MIN] {
                assert_eq!(load.call(&mut store, address).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds));
            }
        }
    }
    Ok(())
}

#[test]
fn a_memory_moves_for_code_that_relies_on_the_guard() -> Result<()> {
    const IMPORTER: &str = r#"(module
        (import "" "memory" (memory 1))
        (func (export "load") (param i32) (result i32) (i32.load offset=16 (local.get 0)))
        (func (export "store") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#;
    for engine in engines(|_| ()) {
        let (module, importer) = (Module::new(&engine, SMALL)?, Module::new(&engine, IMPORTER)?);
        for _ in 0..3 {
            // The second store reuses the instance of the first.
            let mut store = Store::new(&engine, (None::<Memory>, None::<Instance>, importer.clone()));
            let call = Func::wrap(&mut store, |mut caller: Caller<'_, (Option<Memory>, Option<Instance>, Module)>| {
                let (memory, other, importer) = caller.data().clone();
                if let (Some(memory), None) = (memory, other) {
                    let instance = Instance::new(&mut caller, &importer, &[memory.into()])?;
                    caller.data_mut().1 = Some(instance);
                }
                Ok(())
            });
            let instance = Instance::new(&mut store, &module, &[call.into()])?;
            let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
            assert_eq!(&memory.data(&store)[..5], [1, 2, 3, 4, 0]);
            assert_eq!(memory.data(&store)[300], 0);
            store.data_mut().0 = Some(memory);
            assert_eq!(instance.get_typed_func::<i32, i32>(&mut store, "work")?.call(&mut store, 50)?, worked(50));
            let other = store.data().1.expect("the host made it");
            let (load, set) =
                (instance.get_typed_func::<i32, i32>(&mut store, "load")?, instance.get_typed_func::<(i32, i32), ()>(&mut store, "store")?);
            let other_load = other.get_typed_func::<i32, i32>(&mut store, "load")?;
            let grow = other.get_typed_func::<i32, i32>(&mut store, "grow")?;
            set.call(&mut store, (4016, 77))?;
            assert_eq!(other_load.call(&mut store, 4000)?, 77);
            for address in [65_533 - 16, 65_536, -1, i32::MIN] {
                assert_eq!(other_load.call(&mut store, address).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds));
                let address = if address == -1 { -17 } else { address };
                assert_eq!(load.call(&mut store, address + 16).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds));
            }
            let base = memory.data_ptr(&store);
            assert_eq!(grow.call(&mut store, 100)?, 1);
            assert_eq!(memory.data_ptr(&store), base, "it is guarded now, and stays");
            assert_eq!((load.call(&mut store, 65_536)?, other_load.call(&mut store, 65_536)?), (0, 0));
            assert_eq!(load.call(&mut store, 4016)?, 77);
        }
    }
    Ok(())
}

#[test]
fn a_memory_does_not_move_under_a_guest_that_was_interrupted() -> Result<()> {
    const LOOP: &str = r#"(module
        (memory (export "memory") 1)
        (global $sum (mut i32) (i32.const 0))
        (func (export "spin") (param $turns i32) (result i32)
            (loop $again
                (i32.store (local.get $turns) (i32.const 3))
                (global.set $sum (i32.add (global.get $sum) (i32.load (local.get $turns))))
                (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
            (global.get $sum)))"#;
    for engine in engines(|config| _ = config.epoch_interruption(true)) {
        let module = Module::new(&engine, LOOP)?;
        let mut store = Store::new(&engine, (None::<Memory>, 0));
        store.set_epoch_deadline(0);
        store.epoch_deadline_callback(|mut store| {
            let memory = store.data().0.expect("it is noted");
            let base = memory.data_ptr(&store);
            assert!(memory.grow(&mut store, 1000).is_err(), "it would have to move");
            assert_eq!(memory.data_ptr(&store), base);
            store.data_mut().1 += 1;
            let often = store.data().1 < 20;
            Ok(UpdateDeadline::Continue(if often { 0 } else { 1 }))
        });
        let instance = Instance::new(&mut store, &module, &[])?;
        let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
        store.data_mut().0 = Some(memory);
        let spin = instance.get_typed_func::<i32, i32>(&mut store, "spin")?;
        assert_eq!(spin.call(&mut store, 10_000)?, 30_000);
        assert_eq!(store.data().1, 20);
        assert_eq!(memory.grow(&mut store, 1000)?, 1, "it may move again");
    }
    Ok(())
}

#[test]
fn a_reservation_below_4_gib_is_where_a_memory_begins() -> Result<()> {
    const GROWING: &str = r#"(module
        (memory (export "memory") 1)
        (data (i32.const 0) "begin") (data (i32.const 60000) "end")
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "fill") (param $from i32)
            (local $at i32)
            (local.set $at (local.get $from))
            (loop $again
                (i32.store (local.get $at) (local.get $at))
                (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (i32.mul (memory.size) (i32.const 65536))))))
        (func (export "grow_and_fill") (param $turns i32) (result i32)
            (local $at i32)
            (loop $again
                (local.set $at (i32.mul (memory.size) (i32.const 65536)))
                (if (i32.eq (memory.grow (i32.const 3)) (i32.const -1)) (then (return (i32.const -1))))
                (i32.store (local.get $at) (local.get $at))
                (if (i32.ne (i32.load (local.get $at)) (local.get $at)) (then (return (i32.const -2))))
                (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
            (i32.load8_u (i32.const 60000))))"#;
    for (reservation, growth) in [(0, None), (200_000, Some(0)), (5 << 20, Some(1 << 20))] {
        let configure = |config: &mut Config| {
            config.memory_reservation(reservation);
            growth.map(|bytes| config.memory_reservation_for_growth(bytes));
        };
        for engine in engines(configure) {
            let module = Module::new(&engine, GROWING)?;
            for _ in 0..3 {
                let mut store = Store::new(&engine, ());
                let instance = Instance::new(&mut store, &module, &[])?;
                let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
                assert_eq!(memory.data_size(&store), 65_536);
                assert_eq!((&memory.data(&store)[..6], &memory.data(&store)[60_000..60_004]), (&b"begin\0"[..], &b"end\0"[..]));
                assert!(memory.data(&store)[60_004..].iter().all(|byte| *byte == 0));
                let reserved = store.metrics().reserved_bytes;
                assert_eq!(reserved, reservation.max(65_536).next_multiple_of(4096), "{reservation}");
                memory.write(&mut store, 5, b"ning")?;
                let work = instance.get_typed_func::<i32, i32>(&mut store, "grow_and_fill")?;
                assert_eq!(work.call(&mut store, 60)?, i32::from(b'e'));
                assert_eq!(memory.data_size(&store), 181 << 16);
                assert_eq!(&memory.data(&store)[..9], b"beginning");
                let most = growth.unwrap_or(181 << 16);
                assert!(store.metrics().reserved_bytes <= (181 << 16) + most, "{:?}", store.metrics());
                let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
                assert_eq!(grow.call(&mut store, 1_000)?, 181);
                let fill = instance.get_typed_func::<i32, ()>(&mut store, "fill")?;
                fill.call(&mut store, 181 << 16)?;
                assert_eq!(grow.call(&mut store, 65_536)?, -1);
            }
        }
    }
    Ok(())
}

#[test]
fn memories_that_must_not_move_do_not() -> Result<()> {
    for engine in engines(|config| _ = config.memory_may_move(false)) {
        let module = Module::new(&engine, SMALL)?;
        let mut store = Store::new(&engine, ());
        let call = Func::wrap(&mut store, || {});
        let instance = Instance::new(&mut store, &module, &[call.into()])?;
        let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
        let base = memory.data_ptr(&store);
        memory.grow(&mut store, 1000)?;
        assert_eq!(memory.data_ptr(&store), base);
        assert!(store.metrics().reserved_bytes >= 4 << 30);
        assert_eq!(instance.get_typed_func::<i32, i32>(&mut store, "work")?.call(&mut store, 50)?, worked(50));
    }
    Ok(())
}

#[test]
fn images_say_what_their_code_relies_on() -> Result<()> {
    let (usual, checked) = (Engine::default(), Engine::new(Config::new().memory_reservation(0))?);
    let guarded = "(module (memory 1) (func (drop (memory.grow (i32.const 1)))))";
    let image = usual.precompile_module(guarded.as_bytes())?;
    // SAFETY: the image was just made.
    let error = unsafe { Module::deserialize(&checked, &image) }.unwrap_err().to_string();
    assert!(error.contains("reserve 4 GiB of address space each") && error.contains("memory-reservation=0"), "{error}");
    // What checks its accesses runs everywhere, together with what does not.
    let image = checked.precompile_module(
        r#"(module (memory (export "memory") 1) (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))"#.as_bytes(),
    )?;
    // SAFETY: as above.
    let module = unsafe { Module::deserialize(&usual, &image) }?;
    let mut store = Store::new(&usual, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
    let importer =
        Module::new(&usual, r#"(module (import "" "" (memory 1)) (func (export "store") (i32.store (i32.const 8) (i32.const 9))))"#)?;
    let importer = Instance::new(&mut store, &importer, &[memory.into()])?;
    importer.get_typed_func::<(), ()>(&mut store, "store")?.call(&mut store, ())?;
    let load = instance.get_typed_func::<i32, i32>(&mut store, "load")?;
    assert_eq!(load.call(&mut store, 8)?, 9);
    assert_eq!(load.call(&mut store, -8).unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds));
    // SAFETY: as above.
    let small = unsafe { Module::deserialize(&checked, usual.precompile_module(b"(module (memory 1))")?) };
    small.map(drop)
}

#[test]
fn memories_that_no_guard_helps_take_what_they_hold() -> Result<()> {
    const COUNT: u64 = 1_000;
    const PAGE: u64 = 65_536;
    for engine in engines(|_| ()) {
        // Of either: the type, the type of addresses, and pages by bytes.
        for (memory, address, page) in [("i64 2", "i64", PAGE), ("131072 (pagesize 1)", "i32", 1), ("i64 131072 (pagesize 1)", "i64", 1)] {
            let module = Module::new(
                &engine,
                format!(
                    r#"(module (memory (export "memory") {memory}) (data ({address}.const 70000) "x")
                        (func (export "grow") (param {address}) (result {address}) (memory.grow (local.get 0)))
                        (func (export "load") (param {address}) (result i32) (i32.load8_u (local.get 0)))
                        (func (export "store") (param {address}) (i32.store8 (local.get 0) (i32.const 7))))"#
                ),
            )?;
            let mut store = Store::new(&engine, ());
            let value = |bytes: u64| if address == "i64" { Val::I64(bytes as i64) } else { Val::I32(bytes as i32) };
            let before = process::bytes()[0];
            let mut instances = Vec::new();
            for _ in 0..COUNT {
                instances.push(Instance::new(&mut store, &module, &[])?);
            }
            let each = process::bytes()[0].saturating_sub(before) / COUNT;
            assert!(each < 1 << 20, "{each} bytes of address space for each instance with a memory `{memory}`");
            // It grows by the hand of either as far as anybody wants, with what it holds.
            let instance = instances[instances.len() - 1];
            let [grow, load, write] = ["grow", "load", "store"].map(|name| instance.get_func(&mut store, name).expect("it is exported"));
            let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
            let mut result = [Val::I32(0)];
            let (mut len, step) = (2 * PAGE, 37 * PAGE);
            while len < 100 << 20 {
                if (len / step) % 2 == 0 {
                    grow.call(&mut store, &[value(step / page)], &mut result)?;
                    assert_eq!(result[0].i64().unwrap_or_else(|| i64::from(result[0].unwrap_i32())), (len / page) as i64);
                } else {
                    assert_eq!(memory.grow(&mut store, step / page)?, len / page);
                }
                write.call(&mut store, &[value(len - 1)], &mut [])?;
                len += step;
                assert_eq!(memory.data_size(&store) as u64, len);
            }
            load.call(&mut store, &[value(70_000)], &mut result)?;
            assert_eq!(result[0].unwrap_i32(), i32::from(b'x'));
            let mut end = 2 * PAGE;
            while end < len {
                load.call(&mut store, &[value(end - 1)], &mut result)?;
                assert_eq!(result[0].unwrap_i32(), 7);
                end += step;
            }
            let error = load.call(&mut store, &[value(len)], &mut result).unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&Trap::MemoryOutOfBounds));
        }
    }
    Ok(())
}
