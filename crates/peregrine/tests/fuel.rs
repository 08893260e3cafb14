//! Fuel: what `docs/fuel.md` says is counted, and every compiler counts the same.

mod counting_engines;

use counting_engines::engines;
use peregrine::{Engine, Instance, Module, Result, Store, Trap};

const PLENTY: u64 = 1 << 40;

/// The fuel that calling the export `run` of `text` with 3 takes on an engine, whether it traps or not.
fn consumed(engine: &Engine, text: &str) -> Result<u64> {
    let module = Module::new(engine, text)?;
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(1);
    store.set_fuel(PLENTY)?;
    let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
    let before = store.get_fuel()?;
    let _ = run.call(&mut store, 3);
    Ok(before - store.get_fuel()?)
}

#[track_caller]
fn check(body: &str, expected: u64) {
    let text = format!(
        r#"(module (memory 1) (table 2 funcref) (elem (i32.const 0) $leaf) (type $unary (func (param i32) (result i32)))
            (global $g (mut i32) (i32.const 2))
            (func $leaf (type $unary) (i32.mul (local.get 0) (i32.const 2)))
            (func $tail (type $unary) (return_call $leaf (local.get 0)))
            (func $bad (result i32) nop (i32.div_u (i32.const 1) (i32.const 0)))
            (func (export "run") (param i32) (local i32 v128) {body}))"#
    );
    for (position, engine) in engines().iter().enumerate() {
        let found = consumed(engine, &text).unwrap_or_else(|error| panic!("{body}: {error:#}"));
        assert_eq!(found, expected, "engine {position}: {body}");
    }
}

#[test]
fn operators_cost_one_and_structure_nothing() {
    check("", 0);
    check("nop (block) (block (loop)) nop", 0);
    check("(drop (i32.const 1))", 1);
    check("(local.set 1 (i32.add (local.get 0) (i32.const 1)))", 4);
    check("(i32.const 1) (return) nop drop", 1);
    check("(i32.store (i32.const 0) (i32.load (i32.const 4)))", 4);
    check("(memory.copy (i32.const 0) (i32.const 100) (i32.const 65000))", 4 + 65000);
    check("(memory.fill (i32.const 0) (i32.const 100) (i32.const 1000))", 4 + 1000);
    check("(drop (memory.grow (i32.const 1)))", 2);
    check("(local.set 2 (i32x4.splat (local.get 0)))", 3);
    check("(global.set $g (select (i32.const 1) (i32.const 2) (local.get 0)))", 5);
    check("(drop (ref.func $leaf))", 1);
}

#[test]
fn branches_and_calls_end_stretches() {
    check("(if (local.get 0) (then (nop) (drop (i32.const 1))) (else (drop (i32.const 1)) (drop (i32.const 2))))", 3);
    check("(if (i32.eqz (local.get 0)) (then nop) (else (drop (i32.const 1)) (drop (i32.const 2))))", 5);
    check("(block (br_if 0 (local.get 0)) (drop (i32.const 1)))", 2);
    check("(block (br 0) (drop (i32.const 1)))", 1);
    check("(block (block (br_table 0 1 (local.get 0))) (drop (i32.const 1)))", 2);
    check("(drop (call $leaf (local.get 0)))", 2 + 3);
    check("(drop (call $tail (local.get 0)))", 2 + 2 + 3);
    check("(drop (call_indirect (type $unary) (local.get 0) (i32.const 0)))", 3 + 3);
    check("(drop (call $leaf (call $leaf (local.get 0))))", 1 + 2 + 3 + 3);
    // Each time the last three; the branch is the fourth.
    check("(loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))", 3 * 6);
    check("(loop (drop (call $leaf (local.get 0))) (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))", 3 * (2 + 3 + 5));
}

#[test]
fn a_stretch_in_which_an_operator_traps_is_not_counted() {
    check("(drop (i32.const 1)) unreachable", 1);
    check("(drop (i32.load (i32.const -1)))", 0);
    check("(if (local.get 0) (then (drop (i32.load (i32.const -1)))))", 2);
    check("(drop (call $bad))", 1);
    check("(drop (call $leaf (local.get 0))) (drop (call_indirect (type $unary) (local.get 0) (i32.const 1)))", 2 + 3);
    check("(loop (i32.store (i32.mul (local.get 0) (i32.const 0x7000)) (local.tee 0 (i32.add (local.get 0) (i32.const 1)))) (br 0))", 0);
    check(
        "(loop (i32.store (i32.mul (local.get 0) (i32.const 0x1000)) (local.tee 0 (i32.add (local.get 0) (i32.const 1)))) (br 0))",
        13 * 9,
    );
}

#[test]
fn running_out_stops_all_compilers_at_the_same_place() -> Result<()> {
    let text = r#"(module (global $count (export "count") (mut i32) (i32.const 0))
        (func $leaf (global.set $count (i32.add (global.get $count) (i32.const 1))))
        (func (export "run") (param i32)
            (loop
                (call $leaf)
                (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                (local.set 0 (i32.const 3))
                (br 0))))"#;
    for fuel in [0, 1, 5, 6, 7, 20, 100, 101, 102, 103, 104, 105, 1000] {
        let mut found = Vec::new();
        for engine in engines() {
            let module = Module::new(&engine, text)?;
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(1);
            store.set_fuel(fuel)?;
            let instance = Instance::new(&mut store, &module, &[])?;
            let run = instance.get_typed_func::<i32, ()>(&mut store, "run")?;
            let error = run.call(&mut store, 3).expect_err("it never ends");
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
            let count = instance.get_global(&mut store, "count").expect("exported").get(&mut store).i32();
            found.push((count, store.get_fuel()?));
        }
        assert!(found.iter().all(|other| *other == found[0]), "{fuel}: {found:?}");
    }
    Ok(())
}

#[test]
fn functions_without_loops_and_calls_do_not_look_at_the_fuel() -> Result<()> {
    // The first call of each function uses up the fuel.
    let text = r#"(module (global $count (export "count") (mut i32) (i32.const 0))
        (func $leaf (global.set $count (i32.add (global.get $count) (i32.const 1))))
        (func $loops (loop) (global.set $count (i32.add (global.get $count) (i32.const 10))))
        (func $calls (global.set $count (i32.add (global.get $count) (i32.const 10))) (if (i32.const 0) (then (call $leaf))))
        (func (export "leaf") (param i32) (call $leaf) (call $leaf))
        (func (export "loops") (param i32) (call $leaf) (call $loops))
        (func (export "calls") (param i32) (call $leaf) (call $calls)))"#;
    for (position, engine) in engines().into_iter().enumerate() {
        let module = Module::new(&engine, text)?;
        for (name, ends, count) in [("leaf", true, 2), ("loops", false, 1), ("calls", false, 1)] {
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(1);
            store.set_fuel(2)?;
            let instance = Instance::new(&mut store, &module, &[])?;
            let run = instance.get_typed_func::<i32, ()>(&mut store, name)?;
            assert_eq!(run.call(&mut store, 0).is_ok(), ends, "engine {position}: {name}");
            assert_eq!(instance.get_global(&mut store, "count").expect("exported").get(&mut store).i32(), Some(count));
        }
    }
    Ok(())
}

#[test]
fn nested_calls_and_host_functions_share_the_counter() -> Result<()> {
    for (position, engine) in engines().into_iter().enumerate() {
        let module = Module::new(
            &engine,
            r#"(module (import "" "again" (func $again (param i32) (result i64))) (memory 1)
                (func (export "run") (param i32) (result i64)
                    (if (result i64) (local.get 0)
                        (then (call $again (i32.sub (local.get 0) (i32.const 1))))
                        (else (i64.const 0))))
                (func (export "fail") (drop (i32.const 1)) (i32.store (i32.const -1) (i32.const 0))))"#,
        )?;
        let mut linker = peregrine::Linker::new(&engine);
        linker.func_wrap("", "again", |mut caller: peregrine::Caller<'_, ()>, left: i32| -> Result<i64> {
            let before = caller.get_fuel()?;
            let fail = caller.get_export("fail").and_then(|export| export.into_func()).expect("exported");
            fail.typed::<(), ()>(&caller)?.call(&mut caller, ()).unwrap_err();
            // The stretch that traps does not count.
            assert_eq!(caller.get_fuel()?, before);
            let run = caller.get_export("run").and_then(|export| export.into_func()).expect("exported");
            run.typed::<i32, i64>(&caller)?.call(&mut caller, left)
        })?;
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        store.set_fuel(1000)?;
        let instance = linker.instantiate(&mut store, &module)?;
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run")?;
        run.call(&mut store, 9)?;
        // Nine times two for the `if` and four for the call; once two and one.
        assert_eq!(store.get_fuel()?, 1000 - 9 * 6 - 3, "engine {position}");
        run.call(&mut store, 0)?;
        assert_eq!(store.get_fuel()?, 1000 - 9 * 6 - 6, "engine {position}");
    }
    Ok(())
}

#[test]
fn the_host_can_change_the_counter_in_a_call() -> Result<()> {
    for engine in engines() {
        let module = Module::new(
            &engine,
            r#"(module (import "" "refuel" (func $refuel))
                (func (export "run") (param i32)
                    (loop (call $refuel) (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                    (drop (i32.const 1))))"#,
        )?;
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        store.set_fuel(10)?;
        let refuel = peregrine::Func::wrap(&mut store, |mut caller: peregrine::Caller<'_, ()>| caller.set_fuel(100));
        let run = Instance::new(&mut store, &module, &[refuel.into()])?.get_typed_func::<i32, ()>(&mut store, "run")?;
        run.call(&mut store, 1000)?;
        // After the last call: five operators of the loop, and one more.
        assert_eq!(store.get_fuel()?, 100 - 5 - 1);
    }
    Ok(())
}

#[test]
fn running_out_in_between_changes_no_value() -> Result<()> {
    // More values live through the loop than there are registers of any kind.
    let locals: String = (0..20).map(|index| format!("(local $i{index} i64) (local $f{index} f64) (local $v{index} v128)")).collect();
    let turn: String = (0..20)
        .map(|index| {
            let next = (index + 1) % 20;
            format!(
                "(local.set $i{index} (i64.add (i64.mul (local.get $i{next}) (i64.const 31)) (i64.const {index})))
                (local.set $f{index} (f64.add (f64.mul (local.get $f{next}) (f64.const 0.5)) (f64.const {index})))
                (local.set $v{index} (i64x2.add (local.get $v{next}) (i64x2.splat (local.get $i{index}))))"
            )
        })
        .collect();
    let sum: String = (0..20)
        .map(|index| {
            format!(
                "(i64.xor (local.get $i{index})) (i64.xor (i64.reinterpret_f64 (local.get $f{index})))
                (i64.xor (i64x2.extract_lane 1 (local.get $v{index})))"
            )
        })
        .collect();
    let text = format!(
        r#"(module (func (export "run") (param $n i32) (result i64) {locals}
            (loop $again {turn} (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            (i64.const 0) {sum}))"#
    );
    let run = |engine: &Engine, interval: Option<u64>| -> Result<i64> {
        let module = Module::new(engine, &text)?;
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(1);
        if interval.is_some() {
            store.set_fuel(PLENTY)?;
            store.fuel_async_yield_interval(interval)?;
        }
        let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, i64>(&mut store, "run")?;
        run.call(&mut store, 500)
    };
    let expected = run(&Engine::default(), None)?;
    for (position, engine) in engines().iter().enumerate() {
        for interval in [1, 200, 1000] {
            assert_eq!(run(engine, Some(interval))?, expected, "engine {position}, every {interval}");
        }
    }
    Ok(())
}

/// Whatever the amount, the guest stops at the same place with the same things done.
#[test]
fn each_amount_of_fuel_ends_at_the_same_place() -> Result<()> {
    const TEXT: &str = r#"(module
        (import "" "host" (func $host (param i32) (result i32)))
        (memory (export "memory") 1) (global $g (export "g") (mut i64) (i64.const 1))
        (table $t 4 funcref) (elem (table $t) (i32.const 0) func $leaf $host $loops)
        (type $unary (func (param i32) (result i32)))
        (data $d "some content")
        (func $leaf (type $unary) (global.set $g (i64.mul (global.get $g) (i64.const 3))) (i32.add (local.get 0) (i32.const 1)))
        (func $loops (type $unary) (local i32)
            (loop $again
                (local.set 1 (i32.add (local.get 1) (local.get 0)))
                (i32.store8 (local.get 0) (i32.add (i32.load8_u (local.get 0)) (local.get 1)))
                (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (local.get 1))
        (func $tail (type $unary)
            (if (result i32) (local.get 0)
                (then (return_call $tail (i32.sub (local.get 0) (i32.const 1))))
                (else (return_call_indirect $t (type $unary) (i32.const 4) (i32.const 2)))))
        (func (export "run") (result i32) (local $n i32) (local $sum i32)
            (loop $again
                (block $c (block $b (block $a (br_table $a $b $c (i32.rem_u (local.get $n) (i32.const 3))))
                    (local.set $sum (i32.add (local.get $sum) (call_indirect $t (type $unary) (local.get $n) (i32.const 0))))
                    (br $c))
                    (local.set $sum (i32.sub (local.get $sum) (call $host (local.get $n)))))
                (memory.fill (i32.const 200) (local.get $n) (i32.const 40))
                (memory.init $d (i32.add (i32.const 300) (local.get $n)) (i32.const 0) (i32.const 5))
                (local.set $sum (i32.add (local.get $sum) (call_indirect $t (type $unary) (i32.const 3) (i32.const 2))))
                (if (i32.eq (local.get $n) (i32.const 2)) (then (drop (memory.grow (i32.const 1)))) (else (drop (call $tail (i32.const 2)))))
                (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 4))))
            (i32.store (i32.const 1000) (local.get $sum))
            (i32.load (i32.const 1000))))"#;
    let setups: Vec<_> =
        engines().into_iter().map(|engine| Module::new(&engine, TEXT).map(|module| (engine, module))).collect::<Result<_>>()?;
    let run = |engine: &Engine, module: &Module, fuel: u64| -> Result<String> {
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(1);
        store.set_fuel(fuel)?;
        let host = peregrine::Func::wrap(&mut store, |value: i32| value * 5);
        let instance = Instance::new(&mut store, module, &[host.into()])?;
        let run = instance.get_typed_func::<(), i32>(&mut store, "run")?;
        let outcome = match run.call(&mut store, ()) {
            Ok(result) => format!("{result}"),
            Err(error) => {
                let frames = error.downcast_ref::<peregrine::WasmBacktrace>().expect("it has one").frames();
                let frames: Vec<_> = frames.iter().map(|frame| (frame.func_index(), frame.func_offset())).collect();
                format!("{:?} {frames:?}", error.downcast_ref::<Trap>())
            }
        };
        let memory = instance.get_memory(&mut store, "memory").expect("exported");
        let sum = memory.data(&store).iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        let global = instance.get_global(&mut store, "g").expect("exported").get(&mut store).i64();
        Ok(format!("{outcome} {sum} {global:?} {}", store.get_fuel()?))
    };
    let all = {
        let mut store = Store::new(&setups[0].0, ());
        store.set_epoch_deadline(1);
        store.set_fuel(PLENTY)?;
        let host = peregrine::Func::wrap(&mut store, |value: i32| value * 5);
        let instance = Instance::new(&mut store, &setups[0].1, &[host.into()])?;
        instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())?;
        PLENTY - store.get_fuel()?
    };
    assert!(all > 300, "the guest takes {all}");
    for fuel in 0..=all {
        let expected = run(&setups[0].0, &setups[0].1, fuel)?;
        // What comes behind the last place where fuel is looked at runs with less.
        let ends = !expected.starts_with("Some(OutOfFuel)");
        assert!(if fuel < all - 30 { !ends } else { ends || fuel < all }, "{fuel} of {all}: {expected}");
        for (position, (engine, module)) in setups.iter().enumerate() {
            assert_eq!(run(engine, module, fuel)?, expected, "engine {position}, fuel {fuel} of {all}");
        }
    }
    Ok(())
}

/// What a guest has written before its fuel ends is there, though it would write there again.
#[test]
fn what_was_written_before_the_fuel_ends_is_there() -> Result<()> {
    let text = r#"(module (global $g (export "g") (mut i64) (i64.const 5))
        (func (export "run") (param i32)
            (global.set $g (i64.const 6))
            (loop $again (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (global.set $g (i64.const 7))))"#;
    for (position, engine) in engines().iter().enumerate() {
        let module = Module::new(engine, text)?;
        for turns in [10, 100_000] {
            let mut store = Store::new(engine, ());
            store.set_epoch_deadline(1);
            store.set_fuel(20)?;
            let instance = Instance::new(&mut store, &module, &[])?;
            let run = instance.get_typed_func::<i32, ()>(&mut store, "run")?;
            assert_eq!(run.call(&mut store, turns).expect_err("it takes more").downcast_ref(), Some(&Trap::OutOfFuel));
            let global = instance.get_global(&mut store, "g").expect("exported").get(&mut store).i64();
            assert_eq!(global, Some(6), "engine {position}");
        }
    }
    Ok(())
}
