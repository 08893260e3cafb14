//! A hundred thousand instances, made and dropped in every way, leave memory, mappings, descriptors and threads where they were: exactly, but for
//! what the allocator does. Alone in its process, as it looks at all of it.

mod patience;

use patience::wait_for;
use peregrine::*;
use std::pin::pin;
use std::task::{Context as TaskContext, Poll, Waker};

const ROUNDS: usize = 100_000;

/// What the process has.
#[derive(Clone, Copy, Debug)]
struct Held {
    mappings: usize,
    descriptors: usize,
    threads: usize,
    resident_bytes: usize,
}

fn held() -> Held {
    let entries = |folder: &str| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let pages = std::fs::read_to_string("/proc/self/statm").expect("there is such a file");
    Held {
        mappings: std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count()),
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        resident_bytes: pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096,
    }
}

const GUEST: &str = r#"(module
    (import "host" "nop" (func $nop)) (import "host" "wait" (func $wait (param i32)))
    (memory (export "memory") 3) (data (i32.const 8) "content") (table 10 20 funcref) (elem (i32.const 1) func $run)
    (func $run (export "run") (param i32) (result i32)
        (call $nop) (call $wait (local.get 0)) (i32.store (i32.const 70000) (i32.const 1)) (memory.grow (local.get 0)))
    (func (export "fail") unreachable))"#;

const START: &str = r#"(module (memory 1) (table 5 externref) (func $start unreachable) (start $start))"#;
const SHARING: &str =
    r#"(module (import "" "" (memory 1 2 shared)) (func (export "run") (result i32) (i32.atomic.rmw.add (i32.const 0) (i32.const 1))))"#;

/// One of everything.
struct Ways {
    pre: InstancePre<()>,
    start: Module,
    sharing: Module,
    /// A store that stays.
    store: Store<()>,
}

fn ways(engine: &Engine) -> Result<Ways> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("host", "nop", || ())?;
    // 0 does not wait, and everything else waits for ever.
    linker.func_wrap_async("host", "wait", |_: Caller<'_, ()>, (turns,): (i32,)| {
        Box::new(async move { if turns == 0 { Ok(()) } else { std::future::pending().await } })
    })?;
    Ok(Ways {
        pre: linker.instantiate_pre(&Module::new(engine, GUEST)?)?,
        start: Module::new(engine, START)?,
        sharing: Module::new(engine, SHARING)?,
        store: Store::new(engine, ()),
    })
}

/// Polls a call once, and drops it.
fn poll_once<R>(call: impl Future<Output = R>) -> Option<R> {
    match pin!(call).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn round(engine: &Engine, ways: &mut Ways, number: usize) -> Result<()> {
    let mut fresh = Store::new(engine, ());
    fresh.set_epoch_deadline(100);
    match number % 8 {
        0 => {
            ways.pre.instantiate(&mut fresh)?;
        }
        1 => {
            let run = ways.pre.instantiate(&mut fresh)?.get_typed_func::<i32, i32>(&mut fresh, "run")?;
            assert_eq!(run.call(&mut fresh, 0)?, 3);
        }
        2 => {
            let run = ways.pre.instantiate(&mut fresh)?.get_typed_func::<i32, i32>(&mut fresh, "run")?;
            assert_eq!(poll_once(run.call_async(&mut fresh, 0)).context("it does not wait")??, 3);
        }
        // Abandoned.
        3 => {
            let run = ways.pre.instantiate(&mut fresh)?.get_typed_func::<i32, i32>(&mut fresh, "run")?;
            assert!(poll_once(run.call_async(&mut fresh, 1)).is_none());
        }
        4 => {
            let fail = ways.pre.instantiate(&mut fresh)?.get_typed_func::<(), ()>(&mut fresh, "fail")?;
            assert!(fail.call(&mut fresh, ()).is_err());
        }
        5 => assert!(Instance::new(&mut fresh, &ways.start, &[]).is_err()),
        // In the store that stays.
        6 => {
            let memory = SharedMemory::new(engine, MemoryType::shared(1, 2))?;
            let instance = Instance::new(&mut ways.store, &ways.sharing, &[memory.clone().into()])?;
            let run = instance.get_typed_func::<(), i32>(&mut ways.store, "run")?;
            assert_eq!(run.call(&mut ways.store, ())?, 0);
            ways.store.drop_instance(instance)?;
        }
        _ => {
            let memory = Memory::new(&mut fresh, MemoryType::new(1, Some(3)))?;
            memory.grow(&mut fresh, 1)?;
            let table = Table::new(&mut fresh, TableType::new(RefType::EXTERNREF, 3, None), Ref::Extern(None))?;
            let value = ExternRef::new(&mut fresh, vec![7; 100])?;
            table.set(&mut fresh, 1, value.into())?;
            fresh.deadline(std::time::Duration::from_secs(1000))?;
        }
    }
    Ok(())
}

#[test]
fn nothing_is_left_of_a_hundred_thousand_instances() -> Result<()> {
    let engine = Engine::new(Config::new().shared_memory(true).epoch_interruption(true))?;
    let mut ways = ways(&engine)?;
    ways.store.set_epoch_deadline(1 << 40);
    let mut rounds = |from: usize, to: usize| (from..to).try_for_each(|number| round(&engine, &mut ways, number));
    rounds(0, ROUNDS / 10)?;
    let before = held();
    rounds(0, ROUNDS)?;
    let after = held();
    assert!(after.mappings <= before.mappings + 8, "{before:?} {after:?}");
    assert_eq!(after.descriptors, before.descriptors);
    // Those that optimize end by themselves when there was nothing to do for some seconds.
    wait_for("the threads that there were", || (held().threads <= before.threads).then_some(()));
    assert!(after.resident_bytes <= before.resident_bytes + (1 << 20), "{before:?} {after:?}");
    Ok(())
}
