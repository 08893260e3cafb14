//! What calls and instances cost an embedder: `embedding_cost WHAT ROUNDS [ALLOCATOR | KERNEL]` prints a line `UNIT NAME VALUE` for each
//! figure. `cargo xtask bench --only embedding` runs it, and builds the same source against the `wasmtime` crate for comparison: the one
//! file that differs is `runtime.rs`.
//!
//! | what | rounds |
//! |---|---|
//! | `calls` | calls, in each direction |
//! | `instances` | instances made and dropped, with their stores |
//! | `two-threads` | the same on each of two threads, by the time on one; and of a loop that uses nothing but the processor |
//! | `alive` | instances alive at once, of a module with one page: memory and address space of each |
//! | `alive-two-pages` | the same of a module with two pages |
//! | `leaks` | instances made and dropped before what the process holds is compared |
//! | `interruption` | iterations of the kernel whose file is the third argument |

mod interruption;
mod process;
mod runtime;
mod threads;

use process::Held;
use runtime::{ALLOCATORS, Caller, Config, Engine, Error, Func, Linker, Module, Result, Store, Val, config};
use std::future::Future;
use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

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
    let words: Vec<String> = std::env::args().skip(1).collect();
    let what = words.first().map_or("calls", String::as_str);
    let rounds: u32 = words.get(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(100_000);
    let third = words.get(2).map_or(ALLOCATORS[0], String::as_str);
    match what {
        "calls" => calls(rounds),
        "instances" => modules().into_iter().try_for_each(|(name, text)| instances(name, &text, rounds, third)),
        "two-threads" => modules().into_iter().try_for_each(|(name, text)| two_threads(name, &text, rounds, third)),
        "alive" => alive(&one_page_module(), rounds, third),
        "alive-two-pages" => alive(&memory_module(), rounds, third),
        "leaks" => leaks(rounds, third),
        "interruption" => interruption::run(Path::new(third), rounds),
        other => Err(Error::msg(format!("nothing is called `{other}`"))),
    }
}

/// The modules that are instantiated, by name.
fn modules() -> [(&'static str, String); 3] {
    let table = format!("(module (table 10000 funcref) (func $f) (elem (i32.const 0) {}))", "$f ".repeat(10_000));
    [("instance_empty", "(module)".to_owned()), ("instance_memory", memory_module()), ("instance_table", table)]
}

/// A memory with 64 KiB of data, and a function that uses one page of the host.
fn memory_module() -> String {
    let data = "x".repeat(64 << 10);
    format!(r#"(module (memory 2) (data (i32.const 1024) "{data}") (func (export "touch") (i32.store8 (i32.const 100000) (i32.const 1))))"#)
}

/// As [`memory_module`], with one page that is all data.
fn one_page_module() -> String {
    let data = "x".repeat(64 << 10);
    format!(r#"(module (memory 1) (data (i32.const 0) "{data}") (func (export "touch") (i32.store8 (i32.const 60000) (i32.const 1))))"#)
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
    report("async_host_to_guest_nop", rounds, || at_once(nop.call_async(&mut store, ())))?;

    let call_nop = instance.get_typed_func::<i32, ()>(&mut store, "call_nop")?;
    report_inside("guest_to_host_nop", rounds, || call_nop.call(&mut store, rounds as i32))?;
    let call_add = instance.get_typed_func::<i32, i32>(&mut store, "call_add")?;
    report_inside("guest_to_host_add", rounds, || call_add.call(&mut store, rounds as i32).map(discard))?;
    yields(rounds / 20)
}

/// What it costs that a running guest lets its task's others run when an epoch comes, and goes on.
fn yields(rounds: u32) -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, r#"(module (func (export "spin") (loop (br 0))))"#)?;
    let mut store = Store::new(&engine, ());
    // The next deadline counts from where the guest goes on, and has come at once: in every turn.
    store.set_epoch_deadline(0);
    store.epoch_deadline_async_yield_and_update(0);
    let instance = at_once(Linker::new(&engine).instantiate_async(&mut store, &module))?;
    let spin = instance.get_typed_func::<(), ()>(&mut store, "spin")?;
    let mut call = pin!(spin.call_async(&mut store, ()));
    report("async_epoch_yield", rounds, || match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ended) => ended,
        Poll::Pending => Ok(()),
    })
}

/// What a future gives that does not suspend.
fn at_once<V>(future: impl Future<Output = V>) -> V {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the call suspends, though its guest does not wait"),
    }
}

/// Making and dropping a store with one instance of the module `text`.
fn instances(name: &str, text: &str, rounds: u32, allocator: &str) -> Result<()> {
    let engine = Engine::new(&config(allocator))?;
    let module = Module::new(&engine, text)?;
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    report(&format!("{name}@{allocator}"), rounds, || {
        let mut store = Store::new(&engine, ());
        pre.instantiate(&mut store).map(discard)
    })
}

/// How many times more two threads instantiate than one, where the machine gives them two whole processors.
fn two_threads(name: &str, text: &str, rounds: u32, allocator: &str) -> Result<()> {
    let engine = Engine::new(&config(allocator))?;
    let module = Module::new(&engine, text)?;
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    let instantiate = || {
        for _ in 0..rounds {
            pre.instantiate(&mut Store::new(&engine, ())).expect("one instance is no more than there is room for");
        }
    };
    let found = threads::by_one_thread(&instantiate);
    println!("ratio {name}@{allocator} {:.3}", found.ratio);
    println!("ratio {name}_machine@{allocator} {:.3}", found.machine);
    Ok(())
}

/// What each of many instances of the module `text` holds, before and after it was called. Each has a store of its own.
fn alive(text: &str, count: u32, allocator: &str) -> Result<()> {
    let before = Held::now();
    let engine = Engine::new(&config(allocator))?;
    let module = Module::new(&engine, text)?;
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    let mut stores = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut store = Store::new(&engine, ());
        let instance = pre.instantiate(&mut store)?;
        stores.push((store, instance));
    }
    let idle = Held::now();
    println!("bytes resident_idle@{allocator} {:.0}", (idle.resident_bytes - before.resident_bytes) / f64::from(count));
    println!("bytes address_space_idle@{allocator} {:.0}", (idle.address_bytes - before.address_bytes) / f64::from(count));
    for (store, instance) in &mut stores {
        instance.get_typed_func::<(), ()>(&mut *store, "touch")?.call(store, ())?;
    }
    let called = Held::now();
    println!("bytes resident_called@{allocator} {:.0}", (called.resident_bytes - before.resident_bytes) / f64::from(count));
    println!("bytes address_space_called@{allocator} {:.0}", (called.address_bytes - before.address_bytes) / f64::from(count));
    Ok(())
}

/// What the process holds more after many instances than after a tenth of them, when what they call often has long been compiled.
fn leaks(rounds: u32, allocator: &str) -> Result<()> {
    let engine = Engine::new(&config(allocator))?;
    let module = Module::new(&engine, memory_module())?;
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    let once = || {
        let mut store = Store::new(&engine, ());
        let instance = pre.instantiate(&mut store)?;
        instance.get_typed_func::<(), ()>(&mut store, "touch")?.call(&mut store, ())
    };
    (0..rounds / 10).try_for_each(|_| once())?;
    std::thread::sleep(Duration::from_millis(200));
    let before = Held::now();
    (0..rounds).try_for_each(|_| once())?;
    let after = Held::now();
    println!("bytes left_resident@{allocator} {:.0}", after.resident_bytes - before.resident_bytes);
    println!("bytes left_address_space@{allocator} {:.0}", after.address_bytes - before.address_bytes);
    println!("count left_mappings@{allocator} {:.0}", after.mappings - before.mappings);
    println!("count left_descriptors@{allocator} {:.0}", after.descriptors - before.descriptors);
    Ok(())
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
