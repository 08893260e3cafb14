//! Backtraces show calls of functions that were compiled into their callers, as if they had not been.

use peregrine::{Config, Engine, Instance, Module, OptLevel, Result, Store, Strategy, Trap, WasmBacktrace};

/// Leaves that trap in every way, called in every way.
const TEXT: &str = r#"(module $app
    (memory 1)
    (func $load (param i32) (result i32) (i32.load offset=4 (local.get 0)))
    (func $store (param i32) nop nop (i32.store8 (local.get 0) (i32.const 1)))
    (func $divide (param i32 i32) (result i32) (i32.add (i32.const 1) (i32.div_s (local.get 0) (local.get 1))))
    (func $convert (param f64) (result i32) (i32.trunc_f64_u (local.get 0)))
    (func $stop (param i32) (if (local.get 0) (then unreachable)))
    (func $middle (param i32) (result i32) (i32.add (call $load (local.get 0)) (i32.const 7)))
    (func $last (param i32) (result i32) (return_call $load (local.get 0)))
    (func (export "first") (param i32) (result i32) (i32.add (call $load (i32.const 0)) (call $load (local.get 0))))
    (func (export "second") (param i32) (result i32) (call $store (local.get 0)) (call $load (i32.const 0)))
    (func (export "zero") (param i32) (result i32) (call $divide (i32.const 6) (i32.xor (local.get 0) (i32.const -1))))
    (func (export "overflow") (param i32) (result i32) (call $divide (i32.const 0x80000000) (local.get 0)))
    (func (export "number") (param i32) (result i32) (call $convert (f64.convert_i32_s (i32.sub (local.get 0) (i32.const 5)))))
    (func (export "stop") (param i32) (result i32) (call $stop (local.get 0)) (i32.const 0))
    (func (export "middle") (param i32) (result i32) (i32.mul (call $middle (local.get 0)) (i32.const 3)))
    (func (export "last") (param i32) (result i32) (i32.mul (call $last (local.get 0)) (i32.const 3)))
    (func (export "loop") (param i32) (result i32) (local i32)
        (loop
            (local.set 1 (i32.add (local.get 1) (call $load (i32.mul (local.get 0) (i32.shr_s (local.get 0) (i32.const 31))))))
            (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
        (local.get 1)))"#;

const NAMES: [&str; 9] = ["first", "second", "zero", "overflow", "number", "stop", "middle", "last", "loop"];

/// For every export: what it traps with, and the text of its backtrace.
fn traps(config: &Config) -> Result<Vec<(Trap, String)>> {
    let engine = Engine::new(config)?;
    let module = Module::new(&engine, TEXT)?;
    let trap = |name: &&str| {
        let mut store = Store::new(&engine, ());
        let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, i32>(&mut store, name)?;
        let error = run.call(&mut store, -1).expect_err("it traps");
        let trap = *error.downcast_ref::<Trap>().expect("a trap");
        Ok((trap, error.downcast_ref::<WasmBacktrace>().expect("a backtrace").to_string()))
    };
    NAMES.iter().map(trap).collect()
}

fn config(strategy: Strategy, inlining: bool) -> Config {
    let mut config = Config::new();
    config.strategy(strategy).compiler_inlining(inlining);
    config
}

#[test]
fn inlined_calls_have_frames() -> Result<()> {
    let expected = traps(&config(Strategy::Cranelift, false))?;
    assert_eq!(expected[0].1.lines().count(), 3, "{}", expected[0].1);
    assert_eq!(traps(&config(Strategy::Cranelift, true))?, expected);
    assert_eq!(traps(&config(Strategy::Winch, true))?, expected);
    assert_eq!(traps(config(Strategy::Cranelift, true).cranelift_opt_level(OptLevel::None))?, expected);
    Ok(())
}

/// The function and the offset in the binary of each frame.
type Places = Vec<(u32, Option<usize>)>;

#[test]
fn places_of_traps_are_the_same_in_both_tiers() -> Result<()> {
    let places = |config: &Config| -> Result<Vec<Places>> {
        let engine = Engine::new(config)?;
        let module = Module::new(
            &engine,
            r#"(module
                (func $then (param i32) (if (local.get 0) (then nop unreachable) (else nop)))
                (func $otherwise (param i32) (if (i32.eqz (local.get 0)) (then nop) (else nop nop unreachable)))
                (func $both (param i32) (if (local.get 0) (then nop nop nop unreachable) (else unreachable)))
                (func $branch (param i32) (block (br_if 0 (local.get 0)) (return)) nop unreachable)
                (func (export "0") (call $then (i32.const 1)))
                (func (export "1") (param i32) (call $otherwise (local.get 0)))
                (func (export "2") (param i32) (call $both (local.get 0)))
                (func (export "3") (param i32) (call $branch (local.get 0)))
                (export "4" (func $then)) (export "5" (func $otherwise)) (export "6" (func $both)) (export "7" (func $branch))
                (func (export "8") (param i32) (if (local.get 0) (then (drop (i32.const 4)) unreachable))))"#,
        )?;
        let mut all = Vec::new();
        for export in module.exports() {
            let mut store = Store::new(&engine, ());
            let run = Instance::new(&mut store, &module, &[])?.get_func(&mut store, export.name()).expect("a function");
            let params = vec![peregrine::Val::I32(1); run.ty(&store).params().len()];
            let error = run.call(&mut store, &params, &mut []).expect_err("it traps");
            let backtrace = error.downcast_ref::<WasmBacktrace>().expect("a backtrace");
            all.push(backtrace.frames().iter().map(|frame| (frame.func_index(), frame.func_offset())).collect());
        }
        Ok(all)
    };
    let expected = places(&config(Strategy::Winch, false))?;
    assert!(expected.len() > 7);
    assert_eq!(places(&config(Strategy::Cranelift, false))?, expected);
    assert_eq!(places(&config(Strategy::Cranelift, true))?, expected);
    Ok(())
}
