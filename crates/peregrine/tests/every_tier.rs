//! What programs and their hosts can see is the same in every tier, however code comes to run there: canonical NaNs, stack overflow, growth of
//! memories under running code, suspension, interruption, core dumps, and what profilers and debuggers are told. Results, traps, backtraces
//! and fuel are compared at length in `tiering.rs`, `tiering_loops.rs` and by random programs.

use peregrine::{
    AsContext, Caller, Config, Engine, Error, GuestProfiler, Instance, Linker, Module, ProfilingStrategy, Store, Strategy, TieringStress,
    Trap, Val, WasmBacktrace, WasmCoreDump,
};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Every way to run, and what it is called; the first one is what the others are compared with.
fn engines(change: impl Fn(&mut Config)) -> Vec<(String, Engine)> {
    let tiered = [
        TieringStress::None,
        TieringStress::OptimizeAtOnce,
        TieringStress::LoopEntryEverywhere,
        TieringStress::OneInstructionBudget,
        TieringStress::Random(1),
        TieringStress::Random(2),
    ];
    let plain = [Strategy::Ahead, Strategy::Baseline].map(|strategy| (strategy, TieringStress::None));
    plain
        .into_iter()
        .chain(tiered.map(|stress| (Strategy::Tiered, stress)))
        .map(|(strategy, stress)| {
            let mut config = Config::new();
            config.strategy(strategy).tiering_stress(stress);
            change(&mut config);
            (format!("{strategy:?} {stress:?}"), Engine::new(&config).expect("the settings are fine"))
        })
        .collect()
}

/// What `observe` tells is the same in every engine; returns it.
#[track_caller]
fn same(change: impl Fn(&mut Config), text: &str, mut observe: impl FnMut(&Engine, &Module) -> String) -> String {
    let mut expected: Option<String> = None;
    for (name, engine) in engines(change) {
        let module = Module::new(&engine, text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        // Twice: what was compiled meanwhile is there the second time.
        for round in 0..2 {
            let found = observe(&engine, &module);
            match &expected {
                None => expected = Some(found),
                Some(expected) => assert_eq!(&found, expected, "{name}, round {round}"),
            }
        }
    }
    expected.expect("there are engines")
}

fn call(store: &mut Store<()>, instance: &Instance, name: &str, params: &[Val]) -> String {
    let func = instance.get_func(&mut *store, name).expect("it is exported");
    let mut results = vec![Val::I32(0); func.ty(&*store).results().len()];
    match func.call(store, params, &mut results) {
        Ok(()) => format!("{name}: {results:x?}\n"),
        Err(error) => format!("{name}: {}\n", stop(&error)),
    }
}

/// The trap, and where.
fn stop(error: &Error) -> String {
    let frames = error.downcast_ref::<WasmBacktrace>().expect("a backtrace").frames();
    let frames: Vec<_> = frames.iter().map(|frame| (frame.func_index(), frame.func_offset())).collect();
    format!("{:?} {frames:?}", error.downcast_ref::<Trap>())
}

#[test]
fn nans_are_canonical() {
    let text = r#"(module
        (func (export "f32") (param i32) (result i32) (local $x f32)
            (loop $again
                (local.set $x (f32.div (f32.neg (local.get $x)) (f32.mul (local.get $x) (f32.const 0))))
                (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i32.reinterpret_f32 (f32.add (local.get $x) (f32.reinterpret_i32 (i32.const 0xffa00001)))))
        (func (export "f64") (param i32) (result i64) (local $x f64)
            (loop $again
                (local.set $x (f64.sqrt (f64.sub (local.get $x) (f64.const 1))))
                (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i64.reinterpret_f64 (f64.min (local.get $x) (f64.reinterpret_i64 (i64.const 0xfff4000000000001)))))
        (func (export "lanes") (param i32) (result i64) (local $x v128)
            (loop $again
                (local.set $x (f32x4.div (local.get $x) (local.get $x)))
                (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i64x2.extract_lane 1 (f32x4.mul (local.get $x) (v128.const i32x4 0 0 0xffc00001 0xff800001)))))"#;
    let seen = same(
        |config| _ = config.cranelift_nan_canonicalization(true),
        text,
        |engine, module| {
            let mut store = Store::new(engine, ());
            let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
            ["f32", "f64", "lanes"].map(|name| call(&mut store, &instance, name, &[Val::I32(9)])).concat()
        },
    );
    let expected = [0x7fc0_0000, 0x7ff8_0000_0000_0000, 0x7fc0_0000_7fc0_0000u64];
    assert!(expected.iter().all(|bits| seen.contains(&format!("{bits:x}"))), "{seen}");
}

#[test]
fn traps_name_their_place_whatever_is_computed_before_in_vain() {
    let text = r#"(module
        (func (export "run") (param i32)
            (if (local.get 0)
                (then (drop (i16x8.neg (i32x4.splat (local.get 0)))) (drop (f32.neg (f32.convert_i32_s (local.get 0)))) (unreachable)))))"#;
    let seen = same(
        |_| {},
        text,
        |engine, module| {
            let mut store = Store::new(engine, ());
            let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
            call(&mut store, &instance, "run", &[Val::I32(1)])
        },
    );
    assert!(seen.contains("UnreachableCodeReached"), "{seen}");
}

/// The processor reads memory in the instruction that computes; the place is that of the load all the same.
#[test]
fn accesses_out_of_bounds_name_the_load() {
    let use_of = |ty: &str, load: &str, then: &str| format!("(func (export \"{then} of {load}\") (param i32) (result {ty}) {load} {then})");
    let at = "(local.get 0)";
    let text = [
        use_of("i32", &format!("(i32.load {at})"), "(i32.const 5) (i32.add)"),
        use_of("i64", &format!("(i64.const 3) (i64.load {at})"), "(i64.add) (i64.clz)"),
        use_of("f32", &format!("(i64.load offset=4 {at})"), "(f32.convert_i64_s) (f32.nearest)"),
        use_of("f64", &format!("(f64.const 2) (f64.load {at})"), "(f64.mul) (f64.sqrt)"),
        use_of("i32", &format!("(i32.load {at})"), "(i32.const 77) (i32.lt_u) (if (then (unreachable))) (i32.const 1)"),
        use_of("i32", &format!("(i64.load {at})"), "(i64.eqz) (if (result i32) (then (i32.const 3)) (else (i32.const 4)))"),
        use_of("i32", &format!("(i32.load {at})"), "(i32.const 9) (i32.div_u)"),
        use_of("i32", &format!("(i32.const 9) (i32.load {at})"), "(i32.div_s)"),
        use_of("i32", &format!("(f32.load {at})"), "(i32.trunc_f32_s)"),
        use_of("v128", &format!("(v128.load {at}) (v128.load offset=8 {at})"), "(i32x4.add) (f32x4.sqrt)"),
        use_of("i32", &format!("(i32.load {at}) (i32.load offset=4 {at})"), "(i32.lt_s) (i32.eqz)"),
        format!("(func (export \"add to memory\") (param i32) (i32.store {at} (i32.add (i32.load {at}) (i32.const 1))))"),
        format!("(func (export \"copy\") (param i32) (i32.store offset=4 {at} (i32.add (i32.load {at}) (i32.const 1))))"),
        format!("(func (export \"widen\") (param i32) (i64.store {at} (i64.extend_i32_u (i32.load {at}))))"),
        format!("(func (export \"promote\") (param i32) (f64.store {at} (f64.promote_f32 (f32.load {at}))))"),
        format!("(func (export \"spread\") (param i32) (v128.store {at} (v128.load32_zero {at})))"),
        format!("(func (export \"pick\") (param i32) (result i64) (select (i64.load {at}) (i64.const 1) (i32.load offset=4 {at})))"),
    ];
    let text = format!("(module (memory 1 70) {})", text.concat());
    let observe = |engine: &Engine, module: &Module| {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
        let names: Vec<String> = module.exports().map(|export| export.name().to_owned()).collect();
        // The second access is out of bounds alone, or the first one as well.
        let calls = names
            .iter()
            .flat_map(|name| [0xffff - 7, 0xffff - 3, 0xffff, -9].map(|place| call(&mut store, &instance, name, &[Val::I32(place)])));
        calls.collect::<String>()
    };
    let seen = same(|_| {}, &text, observe);
    assert!(seen.matches("MemoryOutOfBounds").count() > 20, "{seen}");
    same(|config| _ = config.cranelift_opt_level(peregrine::OptLevel::None), &text, observe);
    same(|config| _ = config.memory_reservation(0).memory_guard_size(0), &text, observe);
}

#[test]
fn the_stack_overflows_and_is_there_again() {
    let text = r#"(module
        (global $depth (mut i32) (i32.const 0))
        (func $down (export "down") (param i32) (result i32)
            (global.set $depth (i32.add (global.get $depth) (i32.const 1)))
            (loop $again (br_if $again (i32.rem_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 3))))
            (i32.add (call $down (local.get 0)) (i32.const 1)))
        (func (export "deep_enough") (result i32) (i32.gt_u (global.get $depth) (i32.const 500)))
        (func (export "run") (param i32) (result i32) (local.get 0)))"#;
    same(
        |config| _ = config.max_wasm_stack(256 << 10).wasm_backtrace_max_frames(std::num::NonZeroUsize::new(3)),
        text,
        |engine, module| {
            let mut store = Store::new(engine, ());
            let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
            let down = instance.get_typed_func::<i32, i32>(&mut store, "down").expect("it is exported");
            let error = down.call(&mut store, 1).expect_err("it has no end");
            // How deep it went, and so the place in the innermost function, depends on the frames.
            let functions: Vec<_> = error.downcast_ref::<WasmBacktrace>().expect("one").frames().iter().map(|f| f.func_index()).collect();
            let rest = ["deep_enough", "run"].map(|name| {
                let params = if name == "run" { vec![Val::I32(5)] } else { Vec::new() };
                call(&mut store, &instance, name, &params)
            });
            format!("{:?} {functions:?} {}", error.downcast_ref::<Trap>(), rest.concat())
        },
    );
}

#[test]
fn memories_grow_under_running_code() {
    let text = r#"(module (memory (export "memory") 1 40) (memory $wide i64 0 30)
        (func $grow (result i32) (memory.grow (i32.const 1)))
        (func (export "run") (param $turns i32) (result i64) (local $sum i64) (local $last i32)
            (i64.add (i64.const 7)
                (loop $again (result i64)
                    (if (i32.and (local.get $turns) (i32.const 1))
                        (then (local.set $last (call $grow)))
                        (else (local.set $last (memory.grow (i32.const 1)))))
                    (drop (memory.grow $wide (i64.const 1)))
                    (local.set $last (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 8)))
                    (i64.store (local.get $last) (i64.add (local.get $sum) (i64.extend_i32_u (local.get $turns))))
                    (i64.store8 $wide (i64.sub (i64.shl (memory.size $wide) (i64.const 16)) (i64.const 1)) (local.get $sum))
                    (local.set $sum (i64.rotl (i64.add (local.get $sum) (i64.load (local.get $last))) (i64.const 5)))
                    (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1))))
                    (local.get $sum))))
        (func (export "beyond") (result i32) (i32.load (i32.shl (memory.size) (i32.const 16)))))"#;
    let observe = |engine: &Engine, module: &Module| {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
        let seen = call(&mut store, &instance, "run", &[Val::I32(25)]) + &call(&mut store, &instance, "beyond", &[]);
        let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
        format!("{seen} {} bytes, {}", memory.data_size(&store), memory.data(&store).iter().map(|byte| u64::from(*byte)).sum::<u64>())
    };
    let guarded = same(|_| {}, text, observe);
    assert!(guarded.contains("MemoryOutOfBounds") && guarded.contains(&format!("{} bytes", 26 << 16)), "{guarded}");
    assert_eq!(same(|config| _ = config.memory_reservation(0).memory_guard_size(0), text, observe), guarded);
}

#[test]
fn calls_are_suspended_in_loops() {
    let text = r#"(module (import "host" "next" (func $next (param i32) (result i32)))
        (func (export "run") (param $turns i32) (result f64) (local $sum f64) (local $vector v128)
            (f64.add (f64.convert_i32_s (local.get $turns))
                (loop $again (result f64)
                    (local.set $vector (i32x4.add (local.get $vector) (i32x4.splat (call $next (local.get $turns)))))
                    (local.set $sum (f64.add (local.get $sum) (f64.convert_i32_s (i32x4.extract_lane 3 (local.get $vector)))))
                    (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1))))
                    (local.get $sum)))))"#;
    let seen = same(
        |_| {},
        text,
        |engine, module| {
            let mut linker = Linker::new(engine);
            linker
                .func_wrap_async("host", "next", |_: Caller<'_, ()>, (x,): (i32,)| {
                    Box::new(async move {
                        let mut is_ready = x % 3 == 0;
                        poll_fn(|_| if std::mem::replace(&mut is_ready, true) { Poll::Ready(()) } else { Poll::Pending }).await;
                        x + 1
                    })
                })
                .expect("it is new");
            let mut store = Store::new(engine, ());
            let instance = linker.instantiate(&mut store, module).expect("the import is there");
            let run = instance.get_typed_func::<i32, f64>(&mut store, "run").expect("it is exported");
            let mut future = pin!(run.call_async(&mut store, 30));
            for polls in 1.. {
                if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    return format!("{:?} after {polls} polls", result.expect("it does not trap"));
                }
            }
            unreachable!("the loop ends by returning")
        },
    );
    assert!(seen.ends_with("after 21 polls"), "{seen}");
}

#[test]
fn loops_without_end_are_interrupted() {
    let text = r#"(module (func $inner (loop $again (br $again))) (func (export "run") (call $inner)))"#;
    let seen = same(
        |config| _ = config.epoch_interruption(true).compiler_inlining(false),
        text,
        |engine, module| {
            let mut store = Store::new(engine, ());
            store.set_epoch_deadline(1);
            let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(20));
                    engine.increment_epoch();
                });
                call(&mut store, &instance, "run", &[])
            })
        },
    );
    assert!(seen.contains("Interrupt"), "{seen}");
}

const TRAPS_IN_A_LOOP: &str = r#"(module $app (import "host" "look" (func $look)) (memory 1) (global (mut i64) (i64.const 5))
    (func $inner (param i32) (call $look)
        (loop $again
            (i32.store (local.get 0) (local.get 0))
            (drop (i32.div_u (i32.const 1) (i32.sub (local.get 0) (i32.const 3))))
            (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
            (call $look)
            (br $again)))
    (func (export "run") (global.set 0 (i64.const 9)) (call $inner (i32.const 12))))"#;

#[test]
fn core_dumps_are_the_same() {
    let seen = same(
        |config| _ = config.coredump_on_trap(true),
        TRAPS_IN_A_LOOP,
        |engine, module| {
            let mut linker = Linker::new(engine);
            linker.func_wrap("host", "look", || {}).expect("it is new");
            let mut store = Store::new(engine, ());
            let instance = linker.instantiate(&mut store, module).expect("the import is there");
            let run = instance.get_typed_func::<(), ()>(&mut store, "run").expect("it is exported");
            let error = run.call(&mut store, ()).expect_err("it divides by zero");
            let dump = error.downcast_ref::<WasmCoreDump>().expect("there is a core dump");
            let frames: Vec<_> = dump.frames().iter().map(|frame| (frame.func_index(), frame.module_offset())).collect();
            format!("{} {frames:?} {:?}", stop(&error), dump.serialize(&mut store, "app"))
        },
    );
    assert!(seen.starts_with("Some(IntegerDivisionByZero)"), "{seen}");
}

#[test]
fn profiles_show_the_same_stacks() {
    same(
        |_| {},
        TRAPS_IN_A_LOOP,
        |engine, module| {
            let modules = [("app".to_owned(), module.clone())];
            let profiler = GuestProfiler::new(engine, "test", Duration::from_millis(1), modules).expect("it is one of the engine");
            let mut linker = Linker::new(engine);
            let look = |mut caller: Caller<'_, Option<GuestProfiler>>| {
                let mut profiler = caller.data_mut().take().expect("it is put back");
                profiler.sample(caller.as_context(), Duration::ZERO);
                *caller.data_mut() = Some(profiler);
            };
            linker.func_wrap("host", "look", look).expect("it is new");
            let mut store = Store::new(engine, Some(profiler));
            let instance = linker.instantiate(&mut store, module).expect("the import is there");
            let run = instance.get_typed_func::<(), ()>(&mut store, "run").expect("it is exported");
            run.call(&mut store, ()).expect_err("it divides by zero");
            let mut file = Vec::new();
            store.into_data().expect("it was put back").finish(&mut file).expect("there is memory");
            let profile: serde_json::Value = serde_json::from_slice(&file).expect("it is JSON");
            let thread = &profile["threads"][0];
            ["samples", "stackTable", "frameTable", "funcTable", "stringArray"].map(|table| stable(&thread[table])).join("\n")
        },
    );
}

/// A table of a profile without the columns that tell the time.
fn stable(table: &serde_json::Value) -> String {
    let mut table = table.clone();
    if let Some(columns) = table.as_object_mut() {
        columns.retain(|name, _| !name.contains("time") && !name.contains("Delta"));
    }
    table.to_string()
}

#[test]
fn profilers_are_told_the_tier_of_later_code() {
    let mut config = Config::new();
    config.strategy(Strategy::Tiered).tiering_stress(TieringStress::LoopEntryEverywhere).profiler(ProfilingStrategy::PerfMap);
    let loops = Engine::new(&config).expect("the settings are fine");
    let at_once = Engine::new(config.tiering_stress(TieringStress::OptimizeAtOnce)).expect("the settings are fine");
    let text = r#"(module (func $name_to_find (export "run") (param i32)
        (loop $again (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    for engine in [&loops, &at_once] {
        let module = Module::new(engine, text).expect("it is valid");
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
        let run = instance.get_typed_func::<i32, ()>(&mut store, "run").expect("it is exported");
        (0..3).for_each(|_| run.call(&mut store, 5).expect("it does not trap"));
    }
    let path = format!("/tmp/perf-{}.map", std::process::id());
    let map = std::fs::read_to_string(&path).expect("it was written");
    for tier in ["baseline", "optimized", "optimized, from a loop on"] {
        assert!(map.contains(&format!("name_to_find [{tier}]")), "{tier}: {map}");
    }
    let _ = std::fs::remove_file(path);
}

#[test]
fn nothing_is_compiled_where_images_alone_run() {
    let engine = Engine::new(Config::new().strategy(Strategy::Precompiled)).expect("the settings are fine");
    let text = r#"(module (func (export "run") (result i32) (i32.const 42)))"#;
    let binary = wat::parse_str(text).expect("it is well-formed");
    for refused in [Module::new(&engine, text), Module::new(&engine, &binary), Module::from_binary(&engine, &binary)] {
        let error = refused.map(drop).expect_err("it is a module").to_string();
        assert!(error.contains("Strategy::Precompiled") && error.contains("precompile_module"), "{error}");
    }
    assert!(Module::validate(&engine, &binary).is_ok());
    let ahead = Engine::new(Config::new().strategy(Strategy::Ahead)).expect("the settings are fine");
    for image in [engine.precompile_module(&binary), ahead.precompile_module(&binary)] {
        // SAFETY: the image was just made.
        let module = unsafe { Module::deserialize(&engine, image.expect("it is valid")) }.expect("it is made for this machine");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
        assert_eq!(call(&mut store, &instance, "run", &[]), "run: [I32(2a)]\n");
    }
}

/// Without the environment saying otherwise; tests run under it with `PEREGRINE_STRATEGY`.
#[test]
fn engines_tell_what_the_best_strategy_came_to() {
    if std::env::var_os("PEREGRINE_STRATEGY").is_some() {
        return;
    }
    let strategy = |config: &Config| Engine::new(config).expect("the settings are fine").config().get_strategy();
    assert_eq!(strategy(&Config::new()), Some(Strategy::Tiered));
    assert_eq!(strategy(Config::new().debug_info(true)), Some(Strategy::Ahead));
    assert_eq!(strategy(Config::new().debug_info(true).strategy(Strategy::Tiered)), Some(Strategy::Tiered));
    assert_eq!(strategy(Config::new().strategy(Strategy::Baseline)), Some(Strategy::Baseline));
}
