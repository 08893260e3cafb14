//! Call hooks that wait, and the time that guests run.

mod executor;

use executor::drive;
use peregrine::*;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Is pending once.
fn turn() -> impl Future<Output = ()> + Send {
    let mut is_done = false;
    std::future::poll_fn(move |task| {
        task.waker().wake_by_ref();
        if std::mem::replace(&mut is_done, true) { Poll::Ready(()) } else { Poll::Pending }
    })
}

/// Waits at each crossing, and refuses one of them.
#[derive(Clone, Default)]
struct Slow {
    seen: Arc<Mutex<Vec<CallHook>>>,
    refused: Arc<Mutex<Option<CallHook>>>,
}

impl CallHookHandler<u32> for Slow {
    fn handle_call_event<'a, 'b, 'c>(
        &'a self,
        mut store: StoreContextMut<'b, u32>,
        kind: CallHook,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            *store.data_mut() += 1;
            turn().await;
            self.seen.lock().unwrap().push(kind);
            *store.data_mut() += 100;
            if *self.refused.lock().unwrap() == Some(kind) { Err(Error::msg("the hook refuses")) } else { Ok(()) }
        })
    }
}

fn setup() -> Result<(Store<u32>, Slow, Instance)> {
    let engine = Engine::default();
    let text = r#"(module (import "" "slow" (func $slow (param i32) (result i32))) (import "" "quick" (func $quick))
        (func (export "slow") (param i32) (result i32) (i32.add (call $slow (local.get 0)) (i32.const 1)))
        (func (export "quick") (call $quick)) (func (export "alone")))"#;
    let mut linker = Linker::new(&engine);
    linker.func_wrap_async("", "slow", |_: Caller<'_, u32>, (value,): (i32,)| {
        Box::new(async move {
            turn().await;
            value * 2
        })
    })?;
    linker.func_wrap("", "quick", || ())?;
    let mut store = Store::new(&engine, 0);
    let instance = linker.instantiate(&mut store, &Module::new(&engine, text)?)?;
    let hook = Slow::default();
    store.call_hook_async(hook.clone());
    Ok((store, hook, instance))
}

#[test]
fn hooks_wait_at_futures() -> Result<()> {
    use CallHook::*;
    let (mut store, hook, instance) = setup()?;
    let slow = instance.get_typed_func::<i32, i32>(&mut store, "slow")?;
    for round in 1..=3 {
        let (result, polls) = drive(slow.call_async(&mut store, 20));
        assert_eq!((result?, polls), (41, 6), "four crossings and the function itself wait");
        assert_eq!(*store.data(), 404 * round);
        assert_eq!(std::mem::take(&mut *hook.seen.lock().unwrap()), [CallingWasm, CallingHost, ReturningFromHost, ReturningFromWasm]);
    }
    Ok(())
}

#[test]
fn a_hook_may_refuse_and_may_be_abandoned() -> Result<()> {
    use CallHook::*;
    let (mut store, hook, instance) = setup()?;
    let slow = instance.get_typed_func::<i32, i32>(&mut store, "slow")?;
    for kind in [CallingWasm, CallingHost, ReturningFromHost, ReturningFromWasm] {
        *hook.refused.lock().unwrap() = Some(kind);
        let error = drive(slow.call_async(&mut store, 1)).0.unwrap_err();
        assert_eq!(error.root_cause().to_string(), "the hook refuses", "{kind:?}");
    }
    *hook.refused.lock().unwrap() = None;
    for polls in 0..6 {
        {
            let mut call = pin!(slow.call_async(&mut store, 1));
            for _ in 0..polls {
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
        }
        // The hook is there again, and so is the store.
        hook.seen.lock().unwrap().clear();
        assert_eq!(drive(slow.call_async(&mut store, 1)).0?, 3, "after {polls} polls");
        assert_eq!(hook.seen.lock().unwrap().len(), 4);
    }
    Ok(())
}

#[test]
fn where_nothing_can_wait_the_error_says_so() -> Result<()> {
    let (mut store, _, instance) = setup()?;
    let alone = instance.get_typed_func::<(), ()>(&mut store, "alone")?;
    let quick = instance.get_typed_func::<(), ()>(&mut store, "quick")?;
    for error in [alone.call(&mut store, ()).unwrap_err(), quick.call(&mut store, ()).unwrap_err()] {
        assert!(error.root_cause().to_string().contains("the call hook has to wait"), "{error:#}");
    }
    drive(alone.call_async(&mut store, ())).0
}

#[test]
fn time_in_guest_leaves_out_the_host() -> Result<()> {
    const SLEEP: Duration = Duration::from_millis(100);
    let engine = Engine::default();
    let text = r#"(module (import "" "sleep" (func $sleep)) (func (export "sleep") (call $sleep))
        (func (export "spin") (param i32) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("", "sleep", || std::thread::sleep(SLEEP))?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &Module::new(&engine, text)?)?;
    let sleep = instance.get_typed_func::<(), ()>(&mut store, "sleep")?;
    let spin = instance.get_typed_func::<i32, ()>(&mut store, "spin")?;
    spin.call(&mut store, 1000)?;
    assert_eq!(store.metrics().time_in_guest, Duration::ZERO, "it is not measured by itself");
    store.measure_time_in_guest(true);
    let start = std::time::Instant::now();
    sleep.call(&mut store, ())?;
    let (slept, all) = (store.metrics().time_in_guest, start.elapsed());
    // However long the rest of the call took, what the host slept is not in it.
    assert!(!slept.is_zero() && slept + SLEEP <= all, "{slept:?} of {all:?}");
    let start = std::time::Instant::now();
    spin.call(&mut store, 50_000_000)?;
    let (spun, all) = (store.metrics().time_in_guest - slept, start.elapsed());
    assert!(!spun.is_zero() && spun <= all, "{spun:?} of {all:?}");
    let start = std::time::Instant::now();
    spin.call(&mut store, 1)?;
    let (short, all) = (store.metrics().time_in_guest - slept - spun, start.elapsed());
    assert!(short <= all, "{short:?} of {all:?}");
    // A hook of the embedder's sees the same crossings beside.
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    store.call_hook(move |_, _| {
        seen.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    spin.call(&mut store, 5_000_000)?;
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let total = store.metrics().time_in_guest;
    assert!(total > slept + spun + short);
    store.measure_time_in_guest(false);
    spin.call(&mut store, 1000)?;
    assert_eq!(store.metrics().time_in_guest, total);
    drop(store);
    assert_eq!(engine.metrics().time_in_guest, total);
    Ok(())
}

#[test]
fn tiers_are_counted_by_the_engine() -> Result<()> {
    let engine = Engine::new(Config::new().strategy(Strategy::Baseline))?;
    let module = Module::new(&engine, r#"(module (func (export "a") (call 1)) (func) (func (export "never")))"#)?;
    let metrics = engine.metrics();
    assert_eq!((metrics.modules_compiled, metrics.baseline_functions), (1, 0));
    assert!(!metrics.compile_time.is_zero());
    let mut store = Store::new(&engine, ());
    Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "a")?.call(&mut store, ())?;
    let metrics = engine.metrics();
    assert_eq!((metrics.baseline_functions, metrics.optimized_functions), (2, 0));
    assert!(!metrics.baseline_time.is_zero());
    Ok(())
}
