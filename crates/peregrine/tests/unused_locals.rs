//! Functions that declare tens of thousands of locals and name a few: frames of the size of those few, in every tier and between them.

use peregrine::*;

/// Engines of all kinds.
fn engines(change: impl Fn(&mut Config)) -> Vec<(String, Engine)> {
    let mut engines = Vec::new();
    let mut add = |strategy, stress| {
        let mut config = Config::new();
        config.strategy(strategy).tiering_stress(stress).max_wasm_stack(1 << 20);
        change(&mut config);
        engines.push((format!("{strategy:?} {stress:?}"), Engine::new(&config).expect("a good configuration")));
    };
    add(Strategy::Ahead, TieringStress::None);
    add(Strategy::Baseline, TieringStress::None);
    add(Strategy::Baseline, TieringStress::Plain);
    for stress in [
        TieringStress::None,
        TieringStress::Plain,
        TieringStress::OptimizeAtOnce,
        TieringStress::LoopEntryEverywhere,
        TieringStress::OneInstructionBudget,
        TieringStress::Random(5),
    ] {
        add(Strategy::Tiered, stress);
    }
    // Where nothing is optimized, locals are in the frame.
    for (strategy, stress) in [(Strategy::Ahead, TieringStress::None), (Strategy::Tiered, TieringStress::LoopEntryEverywhere)] {
        let mut config = Config::new();
        config.strategy(strategy).tiering_stress(stress).cranelift_opt_level(OptLevel::None).max_wasm_stack(1 << 20);
        change(&mut config);
        engines.push((format!("{strategy:?} {stress:?}, unoptimized"), Engine::new(&config).expect("a good configuration")));
    }
    engines
}

/// 40,000 locals, three of which have names in the body.
fn many_locals() -> String {
    let (integers, doubles) = ("i32 ".repeat(20_000), "f64 ".repeat(20_000));
    format!(
        r#"(module
            (global $depth (export "depth") (mut i32) (i32.const 0))
            (func $deep (export "deep") (param i32) (result i32) (local {integers}) (local {doubles})
                (global.set $depth (i32.add (global.get $depth) (i32.const 1)))
                (local.set 15000 (i32.mul (local.get 0) (i32.const 3)))
                (local.set 30000 (f64.convert_i32_s (local.get 0)))
                (i32.add
                    (i32.add (local.get 15000) (i32.trunc_f64_s (local.get 30000)))
                    (if (result i32) (local.get 0)
                        (then (call $deep (i32.sub (local.get 0) (i32.const 1))))
                        (else (i32.const 0))))))"#
    )
}

#[test]
fn frames_are_as_large_as_what_is_used() -> Result<()> {
    let mut depths = Vec::new();
    for (name, engine) in engines(|_| {}) {
        let module = Module::new(&engine, many_locals())?;
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let deep = instance.get_typed_func::<i32, i32>(&mut store, "deep")?;
        // 4 for each number up to this one.
        assert_eq!(deep.call(&mut store, 1000)?, 4 * 1000 * 1001 / 2, "{name}");
        let depth = instance.get_global(&mut store, "depth").expect("it is exported");
        depth.set(&mut store, Val::I32(0))?;
        let error = deep.call(&mut store, -1).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow), "{name}");
        depths.push((name, depth.get(&mut store).unwrap_i32()));
    }
    let (least, most) = (depths.iter().map(|depth| depth.1).min(), depths.iter().map(|depth| depth.1).max());
    assert!(least > Some(4_000) && most < least.map(|least| 8 * least), "{depths:?}");
    Ok(())
}

/// Loops that are entered with values of locals that are far apart, of all types, in functions whose locals have homes by index and by rank.
#[test]
fn loops_are_entered_with_the_locals_that_there_are() -> Result<()> {
    for unused in [0, 10, 20, 21, 300, 3_000, 16_000] {
        let blank = |ty: &str| format!("{ty} ").repeat(unused);
        let text = format!(
            r#"(module (func (export "f") (param $unused i64) (param $n i32) (param f64) (result f64)
                (local {}) (local $a i32) (local {}) (local $v v128) (local $never v128) (local {}) (local $x f64) (local $zero i64) (local $f funcref)
                (local $late i32)
                (local.set $a (i32.const 5))
                (local.set $v (i32x4.splat (local.get $n)))
                (local.set $x (local.get 2))
                (i32.const 1000)
                (loop
                    (local.set $a (i32.add (local.get $a) (i32.const 2)))
                    (local.set $v (i32x4.add (local.get $v) (i32x4.splat (local.get $a))))
                    (local.set $x (f64.add (local.get $x) (f64.convert_i64_s (local.get $zero))))
                    (block (br_if 0 (i32.ne (local.get $n) (i32.const 3)))
                        (local.set $late (i32.add (local.get $late) (i32.const 100))))
                    (if (i32.eqz (ref.is_null (local.get $f))) (then unreachable))
                    (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.set $a (i32.add (local.get $a)))
                (f64.convert_i32_s (i32.add (local.get $late) (i32.add (local.get $a) (i32x4.extract_lane 2 (local.get $v)))))
                (f64.add (local.get $x))))"#,
            blank("i32"),
            blank("f32"),
            blank("i64"),
        );
        let (mut a, mut v) = (5, 20);
        for _ in 0..20 {
            a += 2;
            v += a;
        }
        let expected = f64::from(100 + a + 1000 + v) + 0.5;
        for (name, engine) in engines(|_| {}).into_iter().chain(engines(|config| _ = config.coredump_on_trap(true))) {
            let module = Module::new(&engine, &text)?;
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[])?;
            let f = instance.get_typed_func::<(i64, i32, f64), f64>(&mut store, "f")?;
            for _ in 0..3 {
                assert_eq!(f.call(&mut store, (-1, 20, 0.5))?, expected, "{name}, {unused} locals that are not used, three times");
            }
            if name.contains("LoopEntryEverywhere") {
                assert!(module.tiering_metrics().loop_entries_taken > 0);
            }
        }
    }
    Ok(())
}

/// Where locals are kept, all of them are, also those that nothing names.
#[test]
fn dumps_have_locals_that_nothing_names() -> Result<()> {
    let text = format!(
        r#"(module (func (export "f") (param i64 f32) (param $n i32) (local {}) (local $last i32)
            (loop
                (local.set $last (i32.add (local.get $last) (local.get $n)))
                (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            unreachable))"#,
        "i64 ".repeat(500)
    );
    for (name, engine) in engines(|config| _ = config.coredump_on_trap(true)) {
        let module = Module::new(&engine, &text)?;
        let mut store = Store::new(&engine, ());
        let f = Instance::new(&mut store, &module, &[])?.get_typed_func::<(i64, f32, i32), ()>(&mut store, "f")?;
        for _ in 0..3 {
            let error = f.call(&mut store, (-7, 1.5, 10)).unwrap_err();
            let locals = error.downcast_ref::<WasmCoreDump>().expect("there is a dump").locals(0);
            let bits: Vec<u64> = locals
                .iter()
                .map(|local| match local {
                    Some(Val::I32(value)) => u64::from(value.cast_unsigned()),
                    Some(Val::I64(value)) => value.cast_unsigned(),
                    Some(Val::F32(bits)) => u64::from(*bits),
                    other => panic!("{name}: {other:?}"),
                })
                .collect();
            let expected = [&[(-7i64).cast_unsigned(), u64::from(1.5f32.to_bits()), 0], &[0; 500][..], &[55]].concat();
            assert_eq!(bits, expected, "{name}");
        }
    }
    Ok(())
}
