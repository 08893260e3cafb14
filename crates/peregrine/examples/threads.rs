//! A memory that several threads share: each runs an instance in a store of its own, and they meet in the memory.
//!
//! `cargo run --release --example threads`

use peregrine::{Config, Engine, Linker, MemoryType, Module, Result, SharedMemory, Store};
use std::thread;
use std::time::Duration;

/// Adds numbers to a sum under a lock, then tells the host, who waits.
const GUEST: &str = r#"(module
    (import "env" "memory" (memory 1 1 shared))
    (func $lock
        (loop $again
            (if (i32.atomic.rmw.cmpxchg (i32.const 0) (i32.const 0) (i32.const 1)) (then
                (drop (memory.atomic.wait32 (i32.const 0) (i32.const 1) (i64.const -1)))
                (br $again)))))
    (func $unlock
        (i32.atomic.store (i32.const 0) (i32.const 0))
        (drop (memory.atomic.notify (i32.const 0) (i32.const 1))))
    (func (export "add") (param $times i32)
        (loop $again
            (call $lock)
            ;; Not atomic: the lock is what makes it right.
            (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1)))
            (call $unlock)
            (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
        (drop (i32.atomic.rmw.add (i32.const 16) (i32.const 1)))
        (drop (memory.atomic.notify (i32.const 16) (i32.const 1)))))"#;

const THREADS: u32 = 4;
const TIMES: u32 = 1_000;

fn word(memory: &SharedMemory, address: usize) -> u64 {
    // Other threads may write meanwhile, so each byte is read as it is; the guests are done when it matters.
    let bytes = &memory.data()[address..address + 8];
    // SAFETY: the cells are in bounds and live as long as the memory; no guest writes them once all have said that they are done.
    u64::from_le_bytes(std::array::from_fn(|i| unsafe { *bytes[i].get() }))
}

/// Runs the example.
pub fn main() -> Result<()> {
    let engine = Engine::new(Config::new().wasm_threads(true))?;
    let module = Module::new(&engine, GUEST)?;
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| -> Result<()> {
                let mut store = Store::new(&engine, ());
                let mut linker = Linker::new(&engine);
                linker.define(&store, "env", "memory", memory.clone())?;
                let add = linker.instantiate(&mut store, &module)?.get_typed_func::<u32, ()>(&mut store, "add")?;
                add.call(&mut store, TIMES)
            });
        }
        // The host waits in the memory too, until the number of threads that are done is the number of threads.
        for done in 0..THREADS {
            while word(&memory, 16) as u32 == done {
                memory.atomic_wait32(16, done, Some(Duration::from_millis(100)))?;
            }
        }
        Ok::<(), peregrine::Error>(())
    })?;
    println!("{THREADS} threads added {TIMES} times each: {}", word(&memory, 8));
    assert_eq!(word(&memory, 8), u64::from(THREADS * TIMES));
    Ok(())
}
