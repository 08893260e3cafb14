//! What instances cost an embedder: prints `UNIT NAME VALUE` lines. The same source is built against the `wasmtime` crate for comparison:
//! the one line that differs is the name of the crate.
//!
//! `instance_cost ROUNDS [on-demand|pooling] [million]`

use peregrine::{
    Config, Engine, Instance, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig, Result, Store,
};
use std::hint::black_box;
use std::time::Instant;

/// How many instances are alive at once where memory is measured.
const ALIVE: usize = 10_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds: u32 = arguments.get(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(100_000);
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let mut config = Config::new();
    if has("pooling") {
        let mut pooling = PoolingAllocationConfig::default();
        let alive = ALIVE as u32 + 100;
        pooling.total_core_instances(alive).total_memories(alive).total_tables(alive).table_elements(10_000);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    }
    let engine = Engine::new(&config)?;
    let memory = format!(r#"(module (memory (export "m") 2) (data (i32.const 1024) "{}"))"#, "x".repeat(60_000));
    let touching = format!(
        r#"(module (memory 2) (data (i32.const 1024) "{}")
            (func (export "touch") (i32.store (i32.const 2000) (i32.const 1)) (i32.store (i32.const 70000) (i32.const 1))))"#,
        "x".repeat(60_000)
    );
    let table = format!("(module (table 10000 funcref) (func $f) (elem (i32.const 0) {}))", "$f ".repeat(10_000));
    let idle = format!(
        r#"(module (memory 1) (data (i32.const 0) "{}") (func (export "touch") (i32.store (i32.const 2000) (i32.const 1))))"#,
        "x".repeat(65_536)
    );
    speed(&engine, "empty", "(module)", rounds)?;
    speed(&engine, "memory", &memory, rounds)?;
    speed(&engine, "table", &table, rounds)?;
    speed(&engine, "touching", &touching, rounds)?;
    alive(&engine, "idle", &idle, false)?;
    alive(&engine, "called", &idle, true)?;
    alive(&engine, "one_page", r#"(module (memory 1 1) (func (export "touch") (i32.store (i32.const 0) (i32.const 1))))"#, true)?;
    if has("million") {
        let pre = prepare(&engine, &idle)?;
        (0..1_000).try_for_each(|_| make(&engine, &pre))?;
        let before = process();
        (0..1_000_000).try_for_each(|_| make(&engine, &pre))?;
        let after = process();
        for (name, before, after) in [("kib", before.0, after.0), ("mappings", before.2, after.2), ("fds", before.3, after.3)] {
            println!("{name} million_left {}", after as i64 - before as i64);
        }
    }
    Ok(())
}

fn prepare(engine: &Engine, text: &str) -> Result<InstancePre<()>> {
    Linker::<()>::new(engine).instantiate_pre(&Module::new(engine, text)?)
}

/// A store with an instance whose function `touch`, if there is one, is called.
fn make(engine: &Engine, pre: &InstancePre<()>) -> Result<()> {
    let mut store = Store::new(engine, ());
    let instance = pre.instantiate(&mut store)?;
    touch(&mut store, instance)
}

fn touch(store: &mut Store<()>, instance: Instance) -> Result<()> {
    match instance.get_typed_func::<(), ()>(&mut *store, "touch") {
        Ok(touch) => touch.call(store, ()),
        Err(_) => Ok(()),
    }
}

/// Nanoseconds to make and drop a store with an instance, and how much more two threads do than one.
fn speed(engine: &Engine, name: &str, text: &str, rounds: u32) -> Result<()> {
    let pre = prepare(engine, text)?;
    let calls = text.contains("touch");
    let run = |rounds: u32| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..rounds {
            if calls {
                make(engine, &pre)?;
            } else {
                let mut store = Store::new(engine, ());
                black_box(pre.instantiate(&mut store)?);
            }
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(rounds.max(1)))
    };
    let mut best = f64::MAX;
    let mut best_of_two = f64::MAX;
    for _ in 0..5 {
        best = best.min(run(rounds)?);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| run(rounds).map(drop))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        best_of_two = best_of_two.min(start.elapsed().as_nanos() as f64 / f64::from(rounds.max(1)));
    }
    println!("ns {name} {best:.1}");
    println!("ratio {name}_two_threads {:.2}", 2.0 * best / best_of_two);
    Ok(())
}

/// Resident memory and address space of each of many instances.
fn alive(engine: &Engine, name: &str, text: &str, call: bool) -> Result<()> {
    let pre = prepare(engine, text)?;
    drop(make(engine, &pre));
    let mut stores = Vec::with_capacity(ALIVE);
    let before = process();
    for _ in 0..ALIVE {
        let mut store = Store::new(engine, ());
        let instance = pre.instantiate(&mut store)?;
        if call {
            touch(&mut store, instance)?;
        }
        stores.push(store);
    }
    let after = process();
    println!("bytes {name}_resident {}", (after.0.saturating_sub(before.0)) * 1024 / ALIVE);
    println!("kib {name}_address_space {}", (after.1.saturating_sub(before.1)) / ALIVE);
    println!("mappings {name} {:.2}", (after.2 as f64 - before.2 as f64) / ALIVE as f64);
    Ok(())
}

/// Resident KiB, KiB of address space, mappings and file descriptors of this process.
fn process() -> (usize, usize, usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    let mappings = std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count());
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |folder| folder.count());
    (field("VmRSS:"), field("VmSize:"), mappings, descriptors)
}
