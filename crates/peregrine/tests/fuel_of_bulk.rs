//! Fuel of operations on many bytes or elements: `docs/fuel.md` says what they cost, the same in every compiler, and where it may run out.

mod counting_engines;

use counting_engines::engines;
use peregrine::*;
use std::pin::pin;
use std::task::{Context, Waker};

const PLENTY: u64 = 1 << 40;

fn store(engine: &Engine, fuel: u64) -> Result<Store<()>> {
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(1);
    store.set_fuel(fuel)?;
    Ok(store)
}

/// `body` with the length as `(local.get 0)`.
fn text(body: &str) -> String {
    format!(
        r#"(module (memory (export "memory") 16) (memory $other 16) (table $t 400000 funcref) (table $u 400000 externref)
            (table $g 10 1000000 funcref) (elem $e funcref (ref.func $f) (ref.null func) {nulls})
            (data $d "{data}") (func $f)
            (func (export "run") (param i32) (result i32) (local i32) {body} (local.get 1)))"#,
        nulls = "(ref.func $f)".repeat(100),
        data = "d".repeat(400),
    )
}

/// What calling `run` with `len` takes, and how it ends.
fn consumed(engine: &Engine, module: &Module, len: u32) -> Result<(u64, String)> {
    let mut store = store(engine, PLENTY)?;
    let run = Instance::new(&mut store, module, &[])?.get_typed_func::<u32, i32>(&mut store, "run")?;
    let outcome = match run.call(&mut store, len) {
        Ok(value) => value.to_string(),
        Err(error) => format!("{:?}", error.downcast_ref::<Trap>()),
    };
    Ok((PLENTY - store.get_fuel()?, outcome))
}

/// Each operation, with `LEN` for its length; how many operators there are; and the longest that is in bounds.
const OPERATIONS: [(&str, u64, u32); 11] = [
    ("(memory.fill (i32.const 5) (i32.const 7) LEN)", 5, 0x10_0000 - 5),
    ("(memory.copy (i32.const 5) (i32.const 9) LEN)", 5, 0x10_0000 - 9),
    ("(memory.copy (i32.const 9) (i32.const 5) LEN)", 5, 0x10_0000 - 9),
    ("(memory.copy $other 0 (i32.const 5) (i32.const 5) LEN)", 5, 0x10_0000 - 5),
    ("(memory.init $d (i32.const 5) (i32.const 1) LEN)", 5, 399),
    ("(table.fill $t (i32.const 1) (ref.func $f) LEN)", 5, 399_999),
    ("(table.fill $u (i32.const 1) (ref.null extern) LEN)", 5, 399_999),
    ("(table.copy $t $t (i32.const 1) (i32.const 5) LEN)", 5, 399_995),
    ("(table.init $t $e (i32.const 1) (i32.const 0) LEN)", 5, 102),
    ("(local.set 1 (table.grow $g (ref.null func) LEN))", 5, 999_990),
    ("(local.set 1 (table.grow $g (ref.func $f) LEN))", 5, 999_990),
];

#[test]
fn each_byte_or_element_costs_one() -> Result<()> {
    let engines = engines();
    for (operation, operators, longest) in OPERATIONS {
        let dynamic: Vec<_> =
            engines.iter().map(|engine| Module::new(engine, text(&operation.replace("LEN", "(local.get 0)")))).collect::<Result<_>>()?;
        for len in [0, 1, 2, 3, 7, 16, 31, 32, 33, 63, 64, 65, 100, 300, 5000, 70_000, 399_990, longest, longest + 1, u32::MAX] {
            let is_inside = len <= longest;
            for (position, engine) in engines.iter().enumerate() {
                let constant = Module::new(engine, text(&operation.replace("LEN", &format!("(i32.const {len})"))))?;
                for module in [&dynamic[position], &constant] {
                    let (fuel, outcome) = consumed(engine, module, len)?;
                    let name = format!("engine {position}, {operation}, {len}: {outcome}");
                    if is_inside {
                        let value = if operation.contains("grow") { "10" } else { "0" };
                        assert_eq!((fuel, &*outcome), (operators + u64::from(len), value), "{name}");
                    } else if operation.contains("grow") {
                        assert_eq!((fuel, &*outcome), (operators, "-1"), "{name}");
                    } else {
                        assert_eq!(fuel, 0, "{name}");
                        assert!(outcome.contains("OutOfBounds"), "{name}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn long_operations_are_bounded_by_fuel() -> Result<()> {
    let wat = r#"(module (memory (export "memory") 65536)
        (func (export "run") (loop $l (memory.fill (i32.const 0) (i32.const 7) (i32.const -1)) (br $l))))"#;
    for (position, engine) in engines().iter().enumerate() {
        let module = Module::new(engine, wat)?;
        let mut store = store(engine, 10_000)?;
        let instance = Instance::new(&mut store, &module, &[])?;
        let error = instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ()).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::OutOfFuel), "engine {position}");
        assert_eq!(error.downcast_ref::<WasmBacktrace>().expect("it has one").frames().len(), 1);
        assert_eq!(store.get_fuel()?, 0);
        let memory = instance.get_memory(&mut store, "memory").expect("exported");
        assert_eq!(memory.data(&store)[..8], [0; 8], "engine {position}: it ended before anything was written");
    }
    Ok(())
}

#[test]
fn fuel_runs_out_at_the_same_place_in_every_compiler() -> Result<()> {
    let text = r#"(module (memory (export "memory") 1) (table 0 5000 funcref) (data $d "0123456789")
        (func $short (param i32) (memory.fill (local.get 0) (i32.const 1) (i32.const 64)))
        (func $leaf (param i32 i32) (memory.copy (local.get 0) (i32.const 500) (local.get 1)))
        (func (export "run") (result i32) (local $i i32)
            (loop $again
                (memory.fill (local.get $i) (local.get $i) (i32.const 65))
                (call $short (local.get $i))
                (memory.copy (i32.const 3) (i32.const 1) (local.get $i))
                (call $leaf (i32.const 900) (i32.mul (local.get $i) (i32.const 9)))
                (memory.init $d (i32.const 77) (i32.const 1) (i32.rem_u (local.get $i) (i32.const 8)))
                (drop (table.grow (ref.null func) (i32.mul (local.get $i) (i32.const 8))))
                (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 5))) (i32.const 20))))
            (memory.fill (i32.const 70000) (i32.const 0) (i32.const 1))
            (i32.load (i32.const 3))))"#;
    let setups: Vec<_> =
        engines().into_iter().map(|engine| Module::new(&engine, text).map(|module| (engine, module))).collect::<Result<_>>()?;
    let run = |(engine, module): &(Engine, Module), fuel: u64| -> Result<String> {
        let mut store = store(engine, fuel)?;
        let instance = Instance::new(&mut store, module, &[])?;
        let outcome = instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ());
        let outcome = outcome.map_err(|error| error.downcast_ref::<Trap>().copied());
        let memory = instance.get_memory(&mut store, "memory").expect("exported");
        let sum = memory.data(&store).iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        Ok(format!("{outcome:?} {sum} {}", store.get_fuel()?))
    };
    let mut ends = std::collections::BTreeSet::new();
    for fuel in (0..1800).chain([PLENTY]) {
        let expected = run(&setups[0], fuel)?;
        assert_eq!(expected.contains("OutOfBounds"), fuel > 1_000_000 || !expected.contains("OutOfFuel"), "{fuel}: {expected}");
        ends.insert(expected.clone());
        for (position, setup) in setups.iter().enumerate().skip(1) {
            assert_eq!(run(setup, fuel)?, expected, "engine {position}, fuel {fuel}");
        }
    }
    assert!(ends.len() > 10, "it ends in many places: {ends:?}");
    Ok(())
}

/// A task that has fuel for one operation yields in it as in a loop.
#[test]
fn long_operations_yield() -> Result<()> {
    for (body, least) in [
        ("(memory.fill (i32.const 0) (i32.const 7) (i32.const 0x800000))", 32),
        ("(drop (table.grow (ref.func $run) (i32.const 5000000)))", 76),
        ("(drop (table.grow (ref.null func) (i32.const 5000000)))", 76),
        ("(memory.fill (i32.const 0) (i32.const 7) (i32.const 10000))", 1),
        ("(memory.fill (i32.const 0) (i32.const 7) (i32.const 64))", 0),
    ] {
        let text =
            format!(r#"(module (memory 128) (table 0 10000000 funcref) (elem declare func $run) (func $run (export "run") {body}))"#);
        let mut found = Vec::new();
        for engine in engines() {
            let module = Module::new(&engine, &text)?;
            let mut store = store(&engine, PLENTY)?;
            store.fuel_async_yield_interval(Some(1000))?;
            let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
            let mut yields = 0;
            {
                let mut call = pin!(run.call_async(&mut store, ()));
                while call.as_mut().poll(&mut Context::from_waker(Waker::noop())).map(Result::unwrap).is_pending() {
                    yields += 1;
                }
            }
            found.push((yields, PLENTY - store.get_fuel()?));
        }
        assert!(found[0].0 >= least && (least > 0 || found[0].0 == 0), "{body}: {found:?}");
        assert!(found.iter().all(|other| *other == found[0]), "{body}: {found:?}");
    }
    Ok(())
}
