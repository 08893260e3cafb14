//! Where a guest spends its time: samples taken while it runs, written for <https://profiler.firefox.com>.
//!
//! `cargo run --release --example profile_guest`

use peregrine::{AsContext, Caller, Engine, GuestProfiler, Linker, Module, Result, Store};
use std::time::{Duration, Instant};

const GUEST: &str = r#"(module $shop
    (import "host" "yield" (func $yield))
    (func $busy (param $n i32) (loop $again (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) (call $yield))
    (func $sort (call $busy (i32.const 30000)))
    (func $search (call $busy (i32.const 10000)))
    (func $request (call $sort) (call $search) (call $search))
    (func (export "serve") (param $requests i32)
        (loop $again
            (call $request)
            (br_if $again (local.tee $requests (i32.sub (local.get $requests) (i32.const 1)))))))"#;

/// The profiler lives in the store that it looks at.
struct State {
    profiler: Option<GuestProfiler>,
    last: Instant,
}

/// Runs the example.
pub fn main() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, GUEST)?;
    let interval = Duration::from_millis(1);
    let profiler = GuestProfiler::new(&engine, "shop", interval, [("shop".to_owned(), module.clone())])?;

    // Here the guest calls now and then. Without such calls an epoch deadline with a callback, or a call hook, does the same.
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "yield", |mut caller: Caller<'_, State>| {
        let mut profiler = caller.data_mut().profiler.take().expect("nobody else takes it");
        let spent = caller.data().last.elapsed();
        profiler.sample(caller.as_context(), spent);
        *caller.data_mut() = State { profiler: Some(profiler), last: Instant::now() };
    })?;
    let mut store = Store::new(&engine, State { profiler: Some(profiler), last: Instant::now() });
    let instance = linker.instantiate(&mut store, &module)?;
    instance.get_typed_func::<i32, ()>(&mut store, "serve")?.call(&mut store, 100)?;

    let file = std::env::temp_dir().join("peregrine-profile-example.json");
    let mut profile = Vec::new();
    store.into_data().profiler.expect("it was put back").finish(&mut profile)?;
    std::fs::write(&file, &profile)?;
    println!("{} bytes of samples in {}; drop the file on https://profiler.firefox.com", profile.len(), file.display());
    let text = String::from_utf8(profile)?;
    assert!(["busy", "sort", "search", "request"].iter().all(|name| text.contains(&format!("\"{name}\""))));
    Ok(())
}
