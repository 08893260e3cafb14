//! What calls and instances cost an embedder: prints `ns NAME VALUE` for each. `cargo xtask bench --only embedding` runs it, and builds the
//! same source against the `wasmtime` crate for comparison: the one line that differs is the name of the crate.

use peregrine::{Caller, Config, Engine, Func, Linker, Module, Result, Store, Val};
use std::hint::black_box;
use std::time::Instant;

const CALLS: &str = r#"(module
    (import "host" "nop" (func $host_nop))
    (import "host" "add" (func $host_add (param i32 i32) (result i32)))
    (func (export "nop"))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "call_nop") (param $n i32)
        (loop $again (call $host_nop) (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
    (func (export "call_add") (param $n i32) (result i32) (local $sum i32)
        (loop $again
            (local.set $sum (call $host_add (local.get $sum) (local.get $n)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $sum)))"#;

fn main() -> Result<()> {
    let rounds: u32 = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(2_000_000);
    calls(rounds)?;
    let memory = format!(r#"(module (memory 2) (data (i32.const 1024) "{}"))"#, "x".repeat(60_000));
    let table = format!("(module (table 10000 funcref) (func $f) (elem (i32.const 0) {}))", "$f ".repeat(10_000));
    instances("instance_empty", "(module)", rounds / 20)?;
    instances("instance_memory", &memory, rounds / 40)?;
    instances("instance_table", &table, rounds / 40)
}

/// Calls between host and guest, in both directions.
fn calls(rounds: u32) -> Result<()> {
    let engine = Engine::new(&Config::new())?;
    let module = Module::new(&engine, CALLS)?;
    let mut store = Store::new(&engine, 0u64);
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "nop", |_: Caller<'_, u64>| {})?;
    linker.func_wrap("host", "add", |_: Caller<'_, u64>, a: i32, b: i32| a.wrapping_add(b))?;
    let instance = linker.instantiate(&mut store, &module)?;

    let nop = instance.get_typed_func::<(), ()>(&mut store, "nop")?;
    report("host_to_guest_nop", rounds, || nop.call(&mut store, ()))?;
    let add = instance.get_typed_func::<(i32, i32), i32>(&mut store, "add")?;
    report("host_to_guest_add", rounds, || add.call(&mut store, black_box((1, 2))).map(discard))?;
    let dynamic: Func = *add.func();
    let mut results = [Val::I32(0)];
    report("host_to_guest_add_dynamic", rounds, || dynamic.call(&mut store, &[Val::I32(1), Val::I32(2)], &mut results))?;

    let call_nop = instance.get_typed_func::<i32, ()>(&mut store, "call_nop")?;
    report_inside("guest_to_host_nop", rounds, || call_nop.call(&mut store, rounds as i32))?;
    let call_add = instance.get_typed_func::<i32, i32>(&mut store, "call_add")?;
    report_inside("guest_to_host_add", rounds, || call_add.call(&mut store, rounds as i32).map(discard))
}

/// Making and dropping a store with one instance of the module `text`.
fn instances(name: &str, text: &str, rounds: u32) -> Result<()> {
    let engine = Engine::new(&Config::new())?;
    let module = Module::new(&engine, text)?;
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    report(name, rounds, || {
        let mut store = Store::new(&engine, ());
        pre.instantiate(&mut store).map(discard)
    })
}

/// Keeps the compiler from leaving out what nobody looks at.
fn discard<V>(value: V) {
    black_box(value);
}

/// Prints the best of five measurements of `work`, called `rounds` times in each.
fn report(name: &str, rounds: u32, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    report_inside(name, rounds, || (0..rounds).try_for_each(|_| work()))
}

/// Prints the best of five measurements of `work`, which does `rounds` things itself.
fn report_inside(name: &str, rounds: u32, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let mut best_ns = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        work()?;
        best_ns = best_ns.min(start.elapsed().as_nanos() as f64 / f64::from(rounds.max(1)));
    }
    println!("ns {name} {best_ns:.2}");
    Ok(())
}
