//! Host functions that wait: the guest calls them as any other function, and its thread serves others meanwhile.
//!
//! `cargo run --release --example async_host`

use peregrine::{Caller, Engine, Error, Linker, Module, Result, Store};
use std::time::{Duration, Instant};

const GUEST: &str = r#"(module
    (import "host" "fetch" (func $fetch (param i32) (result i32)))
    ;; One after the other: the guest knows nothing of futures.
    (func (export "run") (param $first i32) (result i32)
        (i32.add (call $fetch (local.get $first)) (call $fetch (i32.add (local.get $first) (i32.const 1))))))"#;

const GUESTS: i32 = 50;
const DELAY: Duration = Duration::from_millis(20);

async fn guest(linker: Linker<u32>, module: Module, first: i32) -> Result<i32> {
    let mut store = Store::new(module.engine(), 0);
    let instance = linker.instantiate_async(&mut store, &module).await?;
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
    let sum = run.call_async(&mut store, first).await?;
    assert_eq!(*store.data(), 2);
    Ok(sum)
}

async fn all() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, GUEST)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap_async("host", "fetch", |mut caller: Caller<'_, u32>, (key,): (i32,)| {
        Box::new(async move {
            // A request to somewhere; the store can be used before and after.
            tokio::time::sleep(DELAY).await;
            *caller.data_mut() += 1;
            key * key
        })
    })?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..GUESTS).map(|first| tokio::spawn(guest(linker.clone(), module.clone(), first))).collect();
    for (first, task) in (0..).zip(tasks) {
        let sum = task.await.map_err(Error::new)??;
        assert_eq!(sum, first * first + (first + 1) * (first + 1));
    }
    let took = start.elapsed();
    println!("{GUESTS} guests waited for {:?} each, together {took:?}", DELAY * 2);
    assert!(took < DELAY * 2 * GUESTS as u32, "they waited at the same time");
    Ok(())
}

/// Runs the example, on one thread.
pub fn main() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(all())
}
