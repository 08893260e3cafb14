//! Host functions whose values are in registers: every count and kind of them, in every tier, and everything that can happen in such a call.

use peregrine::{
    CallHook, Caller, Config, Engine, Error, Extern, ExternRef, Func, Instance, Linker, Module, Result, Rooted, Store, Strategy,
    TieringStress, Trap, V128, WasmBacktrace,
};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// More calls than it takes until a function that does not come back by a jump is called in place of being jumped to.
const MANY: i32 = 200;

/// An engine for each way to run, and one that counts fuel, whose host functions have no such entry.
fn engines() -> Vec<Engine> {
    let engine = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::new();
        change(&mut config);
        Engine::new(&config).expect("the settings are fine")
    };
    vec![
        engine(&|config| _ = config.strategy(Strategy::Ahead)),
        engine(&|config| _ = config.strategy(Strategy::Baseline)),
        engine(&|config| _ = config.strategy(Strategy::Tiered)),
        engine(&|config| _ = config.strategy(Strategy::Tiered).tiering_stress(TieringStress::OptimizeAtOnce)),
        engine(&|config| _ = config.strategy(Strategy::Tiered).tiering_stress(TieringStress::LoopEntryEverywhere)),
        engine(&|config| _ = config.consume_fuel(true)),
    ]
}

fn store<T: 'static>(engine: &Engine, data: T) -> Store<T> {
    let mut store = Store::new(engine, data);
    // An error where it is not counted.
    let _ = store.set_fuel(u64::MAX / 2);
    store
}

#[test]
fn parameters_of_every_count_and_kind_arrive() -> Result<()> {
    let kinds = ["i64", "f64", "i32", "f32"];
    for engine in engines() {
        let mut linker = Linker::<()>::new(&engine);
        // Each parameter counts ten times as much as the one before.
        macro_rules! define {
            ($name:literal, $ty:ty $(, $param:ident)*) => {
                linker.func_wrap("", $name, |$($param: $ty),*| -> $ty {
                    let sum: f64 = 7.0;
                    $(let sum = sum * 10.0 + $param as f64;)*
                    sum as $ty
                })?;
            };
        }
        macro_rules! define_all {
            ($ty:ty, $($name:literal)*) => { define_all!(@ $ty, $($name)*) };
            (@ $ty:ty, $n0:literal $n1:literal $n2:literal $n3:literal $n4:literal $n5:literal $n6:literal $n7:literal) => {
                define!($n0, $ty);
                define!($n1, $ty, a);
                define!($n2, $ty, a, b);
                define!($n3, $ty, a, b, c);
                define!($n4, $ty, a, b, c, d);
                define!($n5, $ty, a, b, c, d, e);
                define!($n6, $ty, a, b, c, d, e, f);
                define!($n7, $ty, a, b, c, d, e, f, g);
            };
        }
        define_all!(i64, "i64_0" "i64_1" "i64_2" "i64_3" "i64_4" "i64_5" "i64_6" "i64_7");
        define_all!(f64, "f64_0" "f64_1" "f64_2" "f64_3" "f64_4" "f64_5" "f64_6" "f64_7");
        define_all!(i32, "i32_0" "i32_1" "i32_2" "i32_3" "i32_4" "i32_5" "i32_6" "i32_7");
        define_all!(f32, "f32_0" "f32_1" "f32_2" "f32_3" "f32_4" "f32_5" "f32_6" "f32_7");
        let mut imports = String::new();
        let mut functions = String::new();
        for kind in kinds {
            for count in 0..8 {
                let name = format!("{kind}_{count}");
                let params = format!(" {kind}").repeat(count);
                imports += &format!("(import \"\" \"{name}\" (func ${name} (param{params}) (result {kind})))");
                let values: String = (1..=count).map(|value| format!("({kind}.const {value})")).collect();
                functions += &format!(
                    "(func (export \"{name}\") (param i32) (result {kind}) (local $sum {kind})
                        (loop (local.set $sum (call ${name} {values}))
                            (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                        (local.get $sum))"
                );
            }
        }
        let module = Module::new(&engine, format!("(module {imports} {functions})"))?;
        let mut store = store(&engine, ());
        let instance = linker.instantiate(&mut store, &module)?;
        let mut expect = 7;
        for count in 0..8 {
            if count > 0 {
                expect = expect * 10 + count;
            }
            macro_rules! check {
                ($ty:ident) => {
                    let name = format!("{}_{count}", stringify!($ty));
                    let func = instance.get_typed_func::<i32, $ty>(&mut store, &name)?;
                    assert_eq!(func.call(&mut store, MANY)?, expect as $ty, "{name}");
                };
            }
            check!(i64);
            check!(f64);
            check!(i32);
            check!(f32);
        }
    }
    Ok(())
}

#[test]
fn kinds_of_values_do_not_mix() -> Result<()> {
    for engine in engines() {
        let mut linker = Linker::<u64>::new(&engine);
        let scale = black_box(3.0);
        linker.func_wrap("", "mixed", move |mut caller: Caller<'_, u64>, a: i32, b: f32, c: u64, d: f64, e: u32| -> f64 {
            *caller.data_mut() += 1;
            f64::from(a) + f64::from(b) * scale + c as f64 + d - f64::from(e)
        })?;
        linker.func_wrap("", "nan", |value: f32| -> Result<f32> { Ok(f32::from_bits(value.to_bits() ^ 1)) })?;
        linker.func_wrap("", "vector", |value: V128, add: i32| V128::from(value.as_u128() + add as u128))?;
        linker.func_wrap("", "two", |value: i32| (value, f64::from(value)))?;
        linker.func_wrap("", "ref", |value: Option<Func>| value)?;
        linker.func_wrap("", "extern", |mut caller: Caller<'_, u64>, value: Option<Rooted<ExternRef>>| -> Result<_> {
            let number = match value {
                Some(value) => *value.data(&caller)?.and_then(|data| data.downcast_ref::<u32>()).expect("a number"),
                None => 0,
            };
            ExternRef::new(&mut caller, number + 1).map(Some)
        })?;
        let module = Module::new(
            &engine,
            r#"(module
                (import "" "mixed" (func $mixed (param i32 f32 i64 f64 i32) (result f64)))
                (import "" "nan" (func $nan (param f32) (result f32)))
                (import "" "vector" (func $vector (param v128 i32) (result v128)))
                (import "" "two" (func $two (param i32) (result i32 f64)))
                (import "" "ref" (func $ref (param funcref) (result funcref)))
                (import "" "extern" (func $extern (param externref) (result externref)))
                (func (export "mixed") (param i32 f32 i64 f64 i32) (result f64)
                    (call $mixed (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
                (func (export "nan") (param i32) (result i32)
                    (i32.reinterpret_f32 (call $nan (f32.reinterpret_i32 (local.get 0)))))
                (func (export "vector") (param v128 i32) (result v128) (call $vector (local.get 0) (local.get 1)))
                (func (export "two") (param i32) (result i32 f64) (call $two (local.get 0)))
                (func $ref2 (export "ref") (result i32)
                    (ref.is_null (call $ref (ref.null func))) (ref.is_null (call $ref (ref.func $ref2))) (i32.sub))
                (func (export "extern") (result externref) (call $extern (call $extern (call $extern (ref.null extern))))))"#,
        )?;
        let mut store = store(&engine, 0);
        let instance = linker.instantiate(&mut store, &module)?;
        let mixed = instance.get_typed_func::<(i32, f32, i64, f64, i32), f64>(&mut store, "mixed")?;
        let nan = instance.get_typed_func::<i32, i32>(&mut store, "nan")?;
        let vector = instance.get_typed_func::<(V128, i32), V128>(&mut store, "vector")?;
        let two = instance.get_typed_func::<i32, (i32, f64)>(&mut store, "two")?;
        let reference = instance.get_typed_func::<(), i32>(&mut store, "ref")?;
        let external = instance.get_typed_func::<(), Option<Rooted<ExternRef>>>(&mut store, "extern")?;
        for round in 1..=MANY as u64 {
            assert_eq!(mixed.call(&mut store, (-1, 0.5, 1 << 40, 0.25, 3))?, (1u64 << 40) as f64 - 2.25);
            assert_eq!(*store.data(), round);
            // A signaling NaN stays what it is.
            assert_eq!(nan.call(&mut store, 0x7f80_0002)?, 0x7f80_0003);
            assert_eq!(vector.call(&mut store, (V128::from(1u128 << 96 | 2), 5))?.as_u128(), 1 << 96 | 7);
            assert_eq!(two.call(&mut store, 6)?, (6, 6.0));
            assert_eq!(reference.call(&mut store, ())?, 1);
        }
        let value = external.call(&mut store, ())?.expect("not null");
        assert_eq!(value.data(&store)?.and_then(|data| data.downcast_ref::<u32>()), Some(&3));
    }
    Ok(())
}

/// What a caller keeps in registers is the same after a call, also of a function that uses many itself, or has a frame that is still there
/// at its end.
#[test]
fn the_guest_keeps_its_values() -> Result<()> {
    for engine in engines() {
        let mut linker = Linker::<u64>::new(&engine);
        linker.func_wrap("", "quick", |value: i64| value + 1)?;
        linker.func_wrap("", "busy", |mut caller: Caller<'_, u64>, value: i64| {
            let mut many: [u64; 24] = std::array::from_fn(|index| index as u64);
            // The array's address is known to others, so it is a place in memory to the end.
            for _ in 0..3 {
                black_box(&mut many).rotate_left(5);
            }
            *caller.data_mut() += many.iter().sum::<u64>();
            let data = *caller.data();
            black_box(&many);
            value + i64::from(data != 0)
        })?;
        linker.func_wrap("", "text", |value: i64| -> Result<i64> { Ok(format!("{value}").parse::<i64>()? + 1) })?;
        for name in ["quick", "busy", "text"] {
            let locals: String = (0..14).map(|index| format!("(local $v{index} i64)")).collect();
            let set: String =
                (0..14).map(|index| format!("(local.set $v{index} (i64.mul (local.get $n) (i64.const {})))", index + 3)).collect();
            let sum: String = (0..14).map(|index| format!("(local.set $sum (i64.add (local.get $sum) (local.get $v{index})))")).collect();
            let text = format!(
                r#"(module (import "" "{name}" (func $host (param i64) (result i64)))
                    (func (export "run") (param $n i64) (result i64) (local $sum i64) {locals}
                        (loop $again
                            {set}
                            (local.set $sum (call $host (local.get $sum)))
                            {sum}
                            (br_if $again (i64.ne (i64.const 0) (local.tee $n (i64.sub (local.get $n) (i64.const 1))))))
                        (local.get $sum)))"#
            );
            let mut store = store(&engine, 0);
            let instance = linker.instantiate(&mut store, &Module::new(&engine, text)?)?;
            let run = instance.get_typed_func::<i64, i64>(&mut store, "run")?;
            let n = i64::from(MANY) * 10;
            let weights: i64 = (3..17).sum();
            assert_eq!(run.call(&mut store, n)?, n + weights * n * (n + 1) / 2, "{name}");
        }
    }
    Ok(())
}

const ENDINGS: &str = r#"(module
    (import "" "host" (func $host (param i32) (result i32)))
    (memory 1)
    (func $inner (param i32) (result i32) (i32.add (call $host (local.get 0)) (i32.const 1)))
    (func (export "host") (param i32) (result i32) (call $inner (local.get 0)))
    (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))"#;

fn exported(caller: &mut Caller<'_, u64>, name: &str) -> Func {
    caller.get_export(name).and_then(Extern::into_func).expect("it is exported by the caller")
}

/// What the host function of [`ENDINGS`] does, by its parameter.
fn ending(mut caller: Caller<'_, u64>, what: i32) -> Result<i32> {
    match what {
        0 => Err(Error::msg("refused")),
        1 => panic!("out of the host"),
        2 => {
            let load = exported(&mut caller, "load").typed::<i32, i32>(&caller)?;
            assert_eq!(load.call(&mut caller, 0)?, 0);
            let error = load.call(&mut caller, -1).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
            let host = exported(&mut caller, "host").typed::<i32, i32>(&caller)?;
            host.call(&mut caller, 10)
        }
        3 => Err(Trap::UnreachableCodeReached.into()),
        // Over the guest's stack, or the host's.
        4 => exported(&mut caller, "host").typed::<i32, i32>(&caller)?.call(&mut caller, 4),
        other => Ok(other),
    }
}

#[test]
fn calls_end_in_every_way_and_the_next_ones_work() -> Result<()> {
    for engine in engines() {
        let module = Module::new(&engine, ENDINGS)?;
        let mut linker = Linker::new(&engine);
        linker.func_wrap("", "host", ending)?;
        let mut store = store(&engine, 0);
        let instance = linker.instantiate(&mut store, &module)?;
        let host = instance.get_typed_func::<i32, i32>(&mut store, "host")?;
        for round in 0..MANY {
            assert_eq!(host.call(&mut store, 40)?, 41);
            assert_eq!(host.call(&mut store, 2)?, 12);
            let error = host.call(&mut store, 0).unwrap_err();
            assert_eq!(error.root_cause().to_string(), "refused");
            let frames = error.downcast_ref::<WasmBacktrace>().expect("a backtrace").frames();
            assert_eq!(frames.iter().map(|frame| frame.func_index()).collect::<Vec<_>>(), [1, 2]);
            let panicked = catch_unwind(AssertUnwindSafe(|| host.call(&mut store, 1).map(drop)));
            assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"out of the host"));
            let error = host.call(&mut store, 3).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::UnreachableCodeReached));
            if round % 64 == 0 {
                let error = host.call(&mut store, 4).unwrap_err();
                assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow), "{error:#}");
            }
        }
    }
    Ok(())
}

#[test]
fn references_to_host_functions_are_called_the_same_way() -> Result<()> {
    for engine in engines() {
        let text = r#"(module
            (import "" "table" (table $t 4 funcref))
            (import "" "add" (func $add (param f64) (result f64)))
            (type $f (func (param f64) (result f64)))
            (elem (i32.const 1) func $add)
            (func (export "run") (param i32 f64) (result f64) (call_indirect $t (type $f) (local.get 1) (local.get 0)))
            (func (export "tail") (param f64) (result f64) (return_call $add (local.get 0)))
            (memory (export "memory") 1))"#;
        let module = Module::new(&engine, text)?;
        let mut store = store(&engine, ());
        // It says whether it has a caller.
        let add = Func::wrap(&mut store, |mut caller: Caller<'_, ()>, value: f64| {
            value + if caller.get_export("memory").is_some() { 100.0 } else { 1.0 }
        });
        let ty = peregrine::TableType::new(peregrine::RefType::FUNCREF, 4, None);
        let table = peregrine::Table::new(&mut store, ty, peregrine::Ref::Func(None))?;
        table.set(&mut store, 0, peregrine::Ref::Func(Some(add)))?;
        let instance = Instance::new(&mut store, &module, &[table.into(), add.into()])?;
        let run = instance.get_typed_func::<(i32, f64), f64>(&mut store, "run")?;
        let tail = instance.get_typed_func::<f64, f64>(&mut store, "tail")?;
        for _ in 0..MANY {
            assert_eq!(run.call(&mut store, (0, 1.5))?, 2.5);
            assert_eq!(run.call(&mut store, (1, 1.5))?, 101.5);
            assert_eq!(tail.call(&mut store, 1.5)?, 101.5);
            let error = run.call(&mut store, (2, 1.5)).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::IndirectCallToNull));
            assert_eq!(add.typed::<f64, f64>(&store)?.call(&mut store, 1.5)?, 2.5);
        }
    }
    Ok(())
}

#[test]
fn hooks_are_told_and_may_refuse() -> Result<()> {
    use CallHook::*;
    for engine in engines() {
        let module = Module::new(&engine, ENDINGS)?;
        let mut linker = Linker::new(&engine);
        linker.func_wrap("", "host", |mut caller: Caller<'_, u64>, value: i32| {
            *caller.data_mut() += 1;
            value
        })?;
        let mut store = store(&engine, 0);
        let instance = linker.instantiate(&mut store, &module)?;
        let host = instance.get_typed_func::<i32, i32>(&mut store, "host")?;
        assert_eq!(host.call(&mut store, 1)?, 2);
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let told = std::sync::Arc::clone(&seen);
        store.call_hook(move |context, kind| {
            told.lock().unwrap().push(kind);
            if *context.data() == 3 && kind == CallingHost { Err(Error::msg("no more")) } else { Ok(()) }
        });
        assert_eq!(host.call(&mut store, 1)?, 2);
        assert_eq!(host.call(&mut store, 1)?, 2);
        assert_eq!(seen.lock().unwrap()[..4], [CallingWasm, CallingHost, ReturningFromHost, ReturningFromWasm]);
        assert_eq!(host.call(&mut store, 1).unwrap_err().root_cause().to_string(), "no more");
        assert_eq!(*store.data(), 3);
    }
    Ok(())
}

/// Walks of the host's own, over several activations, come to an end.
#[test]
fn native_backtraces_end() -> Result<()> {
    for unwind_info in [true, false] {
        let engine = Engine::new(Config::new().native_unwind_info(unwind_info))?;
        let module = Module::new(&engine, ENDINGS)?;
        let mut linker = Linker::new(&engine);
        linker.func_wrap("", "host", |mut caller: Caller<'_, u64>, depth: i32| -> Result<i32> {
            let trace = std::backtrace::Backtrace::force_capture().to_string();
            assert!(trace.lines().count() < 2000, "{trace}");
            *caller.data_mut() = trace.matches("host_registers").count() as u64;
            let host = exported(&mut caller, "host").typed::<i32, i32>(&caller)?;
            if depth == 0 { Ok(0) } else { host.call(&mut caller, depth - 1) }
        })?;
        let mut store = Store::new(&engine, 0);
        let instance = linker.instantiate(&mut store, &module)?;
        let host = instance.get_typed_func::<i32, i32>(&mut store, "host")?;
        assert_eq!(host.call(&mut store, 5)?, 6);
        assert!(*store.data() > 0);
    }
    Ok(())
}

/// Wherever on the page before the guard the guest is when it calls, the overflow is the trap, and the frame that called is known.
#[test]
fn the_guest_may_run_out_of_stack_at_the_call() -> Result<()> {
    for strategy in [Strategy::Ahead, Strategy::Baseline] {
        for frame in 0..24 {
            let engine = Engine::new(Config::new().strategy(strategy).max_wasm_stack(64 << 10))?;
            // Values that are alive across the calls make the frame larger.
            let values: String = (0..frame).map(|index| format!("(local $v{index} i64)")).collect();
            let set: String = (0..frame).map(|index| format!("(local.set $v{index} (i64.load (i32.const {})))", index * 8)).collect();
            let sum: String =
                (0..frame).map(|index| format!("(local.set $sum (i64.add (local.get $sum) (local.get $v{index})))")).collect();
            let text = format!(
                r#"(module (import "" "host" (func $host)) (memory 1)
                    (func $run (export "run") (result i64) (local $sum i64) {values}
                        {set} (call $host) (local.set $sum (call $run)) {sum} (local.get $sum)))"#
            );
            let mut linker = Linker::new(&engine);
            linker.func_wrap("", "host", |mut caller: Caller<'_, u64>| *caller.data_mut() += 1)?;
            let mut store = Store::new(&engine, 0);
            let instance = linker.instantiate(&mut store, &Module::new(&engine, text)?)?;
            let error = instance.get_typed_func::<(), i64>(&mut store, "run")?.call(&mut store, ()).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
            let frames = error.downcast_ref::<WasmBacktrace>().expect("a backtrace").frames();
            assert!(frames.iter().all(|frame| frame.func_index() == 1));
            assert!(frames.len() as u64 >= (*store.data()).min(250), "{} frames, {} calls", frames.len(), store.data());
        }
    }
    Ok(())
}
