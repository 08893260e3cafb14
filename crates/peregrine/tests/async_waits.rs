//! What a guest of a call that is a future waits for without holding up its thread: other guests at an address of a shared memory, a call hook
//! around a host function that is no future, and a limiter, whose table is then filled in slices.

use peregrine::*;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// A task that counts how often it was woken, and lets a thread wait for that.
#[derive(Default)]
struct Task {
    woken: Mutex<usize>,
    changed: Condvar,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

impl Task {
    fn woken(&self) -> usize {
        *self.woken.lock().unwrap()
    }

    fn until_woken(&self, more_than: usize) {
        let mut woken = self.woken.lock().unwrap();
        while *woken <= more_than {
            woken = self.changed.wait(woken).unwrap();
        }
    }
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>, task: &Arc<Task>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(task))))
}

/// Polls whenever it is woken, until it is ready.
fn drive<F: Future>(future: F) -> F::Output {
    let (task, mut future) = (Arc::new(Task::default()), pin!(future));
    loop {
        let woken = task.woken();
        if let Poll::Ready(output) = poll(future.as_mut(), &task) {
            return output;
        }
        task.until_woken(woken);
    }
}

fn engines() -> Vec<Engine> {
    let engine = |strategy| Engine::new(Config::new().strategy(strategy).epoch_interruption(true)).unwrap();
    vec![engine(Strategy::Ahead), engine(Strategy::Baseline), engine(Strategy::Tiered)]
}

const WAITS: &str = r#"(module
    (import "" "memory" (memory 1 1 shared))
    (func (export "wait32") (param i64) (result i32) (memory.atomic.wait32 (i32.const 8) (i32.const 0) (local.get 0)))
    (func (export "wait64") (param i64) (result i32) (memory.atomic.wait64 (i32.const 8) (i64.const 0) (local.get 0)))
    (func (export "notify") (param i32) (result i32) (memory.atomic.notify (i32.const 8) (local.get 0))))"#;

fn waiter(engine: &Engine, memory: &SharedMemory) -> (Store<()>, Instance) {
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(1_000_000);
    let instance = Instance::new(&mut store, &Module::new(engine, WAITS).unwrap(), &[memory.clone().into()]).unwrap();
    (store, instance)
}

#[test]
fn guests_of_one_thread_wait_for_each_other() -> Result<()> {
    for engine in engines() {
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
        let ((mut first, a), (mut second, b), (mut third, c)) =
            (waiter(&engine, &memory), waiter(&engine, &memory), waiter(&engine, &memory));
        let wait32 = a.get_typed_func::<i64, i32>(&mut first, "wait32")?;
        let wait64 = b.get_typed_func::<i64, i32>(&mut second, "wait64")?;
        let notify = c.get_typed_func::<i32, i32>(&mut third, "notify")?;
        for timeout in [-1, i64::MAX] {
            let (one, two) = (Arc::new(Task::default()), Arc::new(Task::default()));
            let mut first = pin!(wait32.call_async(&mut first, timeout));
            let mut second = pin!(wait64.call_async(&mut second, timeout));
            assert!(poll(first.as_mut(), &one).is_pending());
            assert!(poll(second.as_mut(), &two).is_pending());
            // Polled without a reason.
            assert!(poll(first.as_mut(), &one).is_pending());
            assert_eq!((one.woken(), two.woken()), (0, 0));
            // The oldest first.
            assert_eq!(drive(notify.call_async(&mut third, 1))?, 1);
            assert_eq!((one.woken(), two.woken()), (1, 0));
            assert!(poll(second.as_mut(), &two).is_pending());
            let Poll::Ready(result) = poll(first.as_mut(), &one) else { panic!("it was woken") };
            assert_eq!(result?, 0);
            assert_eq!(notify.call(&mut third, 9)?, 1, "by a call that is no future");
            assert_eq!(two.woken(), 1);
            let Poll::Ready(result) = poll(second.as_mut(), &two) else { panic!("it was woken") };
            assert_eq!(result?, 0);
        }
        // The host wakes too, and a call that was dropped waits no longer.
        {
            let task = Arc::new(Task::default());
            let mut call = pin!(wait32.call_async(&mut first, -1));
            assert!(poll(call.as_mut(), &task).is_pending());
            assert_eq!(memory.atomic_notify(8, 1)?, 1);
            assert_eq!(task.woken(), 1);
            let Poll::Ready(result) = poll(call.as_mut(), &task) else { panic!("it was woken") };
            assert_eq!(result?, 0);
        }
        {
            let mut call = pin!(wait32.call_async(&mut first, -1));
            assert!(poll(call.as_mut(), &Arc::new(Task::default())).is_pending());
        }
        assert_eq!(memory.atomic_notify(8, 1)?, 0);
        assert_eq!(wait32.call(&mut first, 0)?, 2);
    }
    Ok(())
}

#[test]
fn waiting_tasks_are_woken_by_time_and_by_epochs() -> Result<()> {
    for engine in engines() {
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
        let (mut store, instance) = waiter(&engine, &memory);
        let wait = instance.get_typed_func::<i64, i32>(&mut store, "wait32")?;
        // No time, a little, and longer.
        for timeout in [Duration::ZERO, Duration::from_micros(1), Duration::from_millis(30)] {
            let start = Instant::now();
            assert_eq!(drive(wait.call_async(&mut store, timeout.as_nanos() as i64))?, 2);
            assert!(start.elapsed() >= timeout);
        }
        // The guest yields at the epoch, and waits on; then it ends.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let task = Arc::new(Task::default());
        {
            let mut call = pin!(wait.call_async(&mut store, -1));
            assert!(poll(call.as_mut(), &task).is_pending());
            for round in 1..5 {
                assert_eq!(task.woken(), 2 * (round - 1));
                engine.increment_epoch();
                assert_eq!(task.woken(), 2 * round - 1, "for the epoch");
                assert!(poll(call.as_mut(), &task).is_pending());
                assert_eq!(task.woken(), 2 * round, "for its next turn");
                assert!(poll(call.as_mut(), &task).is_pending());
            }
            assert_eq!(memory.atomic_notify(8, 1)?, 1);
            assert!(poll(call.as_mut(), &task).is_ready());
        }
        store.set_epoch_deadline(1);
        store.epoch_deadline_trap();
        let mut call = pin!(wait.call_async(&mut store, -1));
        let woken = task.woken();
        assert!(poll(call.as_mut(), &task).is_pending());
        engine.increment_epoch();
        assert_eq!(task.woken(), woken + 1);
        let Poll::Ready(Err(error)) = poll(call.as_mut(), &task) else { panic!("its deadline has come") };
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
        assert_eq!(memory.atomic_notify(8, 1)?, 0);
    }
    Ok(())
}

/// Is pending once.
fn turn() -> impl Future<Output = ()> + Send {
    let mut is_done = false;
    std::future::poll_fn(move |task| {
        task.waker().wake_by_ref();
        if std::mem::replace(&mut is_done, true) { Poll::Ready(()) } else { Poll::Pending }
    })
}

/// Waits before it allows anything.
struct Slow;

impl ResourceLimiterAsync for Slow {
    fn memory_growing<'a, 'b>(&'a mut self, _: usize, _: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async { Ok(true) })
    }

    fn table_growing<'a, 'b>(&'a mut self, _: usize, _: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async {
            turn().await;
            Ok(true)
        })
    }
}

#[test]
fn a_table_that_may_grow_is_filled_in_slices() -> Result<()> {
    const MORE: u64 = 4_000_000;
    let text = r#"(module (import "" "tick" (func $tick)) (table (export "table") 1 funcref) (func $f) (elem declare func $f)
        (func (export "grow") (param i32) (result i32) (call $tick) (table.grow (ref.func $f) (local.get 0))))"#;
    for engine in engines() {
        let mut linker = Linker::new(&engine);
        linker.func_wrap("", "tick", |caller: Caller<'_, Slow>| caller.engine().increment_epoch())?;
        let module = Module::new(&engine, text)?;
        for yields in [false, true] {
            let mut store = Store::new(&engine, Slow);
            store.set_epoch_deadline(1_000_000);
            store.limiter_async(|limiter| limiter);
            let instance = drive(linker.instantiate_async(&mut store, &module))?;
            let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
            let table = instance.get_table(&mut store, "table").expect("it is exported");
            store.set_epoch_deadline(1);
            if yields {
                store.epoch_deadline_async_yield_and_update(1_000_000);
            }
            let outcome = drive(grow.call_async(&mut store, MORE as i32));
            assert_eq!(table.size(&store), MORE + 1);
            assert!(matches!(table.get(&mut store, 1), Some(Ref::Func(Some(_)))), "the first slice was filled");
            let is_filled = matches!(table.get(&mut store, MORE), Some(Ref::Func(Some(_))));
            if yields {
                assert_eq!(outcome?, 1);
                assert!(is_filled);
            } else {
                assert_eq!(outcome.unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
                assert!(!is_filled, "the deadline has come before the last slice");
            }
        }
    }
    Ok(())
}

/// A hook that waits at each crossing, and counts.
struct SlowHook(Arc<AtomicUsize>);

impl CallHookHandler<u32> for SlowHook {
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
            turn().await;
            self.0.fetch_add(1, Ordering::SeqCst);
            if *store.data_mut() == 1000 && kind == CallHook::CallingHost { Err(Error::msg("unlucky")) } else { Ok(()) }
        })
    }
}

#[test]
fn a_hook_may_wait_around_host_functions_that_are_no_futures() -> Result<()> {
    let text = r#"(module
        (import "" "ints" (func $ints (param i32 i64) (result i64)))
        (import "" "floats" (func $floats (param f64 f32) (result f64)))
        (import "" "dynamic" (func $dynamic (param i32) (result i32)))
        (import "" "many" (func $many (param i32) (result i32 i32)))
        (import "" "fails" (func $fails (result i32)))
        (import "" "panics" (func $panics))
        (func (export "run") (param i64) (result i64) (local $kept i64)
            (local.set $kept (i64.mul (local.get 0) (i64.const 1000000)))
            (call $many (i32.wrap_i64 (local.get 0)))
            (i64.add (i64.extend_i32_s) (i64.const 0)) (local.set 0)
            (local.set 0 (i64.add (i64.extend_i32_s) (local.get 0)))
            (local.set 0 (call $ints (i32.const 1) (local.get 0)))
            (local.set 0 (i64.extend_i32_s (call $dynamic (i32.wrap_i64 (local.get 0)))))
            (i64.add (local.get $kept) (i64.trunc_f64_s (call $floats (f64.convert_i64_s (local.get 0)) (f32.const 0.5)))))
        (func (export "fails") (result i32) (call $fails))
        (func (export "panics") (call $panics)))"#;
    for fuel in [false, true] {
        for strategy in [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered] {
            let engine = Engine::new(Config::new().strategy(strategy).consume_fuel(fuel))?;
            let mut linker = Linker::<u32>::new(&engine);
            linker.func_wrap("", "ints", |a: i32, b: i64| i64::from(a) + b)?;
            linker.func_wrap("", "floats", |a: f64, b: f32| a * f64::from(b))?;
            let ty = FuncType::new(&engine, [ValType::I32], [ValType::I32]);
            linker.func_new("", "dynamic", ty, |_, params, results| {
                results[0] = Val::I32(params[0].unwrap_i32() * 2);
                Ok(())
            })?;
            linker.func_wrap("", "many", |mut caller: Caller<'_, u32>, a: i32| {
                *caller.data_mut() += 1;
                (a, a + 1)
            })?;
            linker.func_wrap("", "fails", || -> Result<i32> { Err(Error::msg("it fails")) })?;
            linker.func_wrap("", "panics", || -> () { panic!("it panics") })?;
            let mut store = Store::new(&engine, 0);
            if fuel {
                store.set_fuel(1 << 40)?;
            }
            let instance = drive(linker.instantiate_async(&mut store, &Module::new(&engine, text)?))?;
            let count = Arc::new(AtomicUsize::new(0));
            store.call_hook_async(SlowHook(Arc::clone(&count)));
            let run = instance.get_typed_func::<i64, i64>(&mut store, "run")?;
            // 20 and 21, 1 more, twice, half of it.
            for _ in 0..5 {
                assert_eq!(drive(run.call_async(&mut store, 20))?, 20_000_042);
                assert_eq!(count.swap(0, Ordering::SeqCst), 10);
            }
            assert_eq!(*store.data(), 5);
            let fails = instance.get_typed_func::<(), i32>(&mut store, "fails")?;
            let error = drive(fails.call_async(&mut store, ())).unwrap_err();
            assert_eq!(error.root_cause().to_string(), "it fails");
            assert!(error.downcast_ref::<WasmBacktrace>().is_some());
            // A host function that the host calls.
            let direct = Func::wrap(&mut store, |a: i32| a + 1).typed::<i32, i32>(&store)?;
            assert_eq!(drive(direct.call_async(&mut store, 1))?, 2);
            let panics = instance.get_typed_func::<(), ()>(&mut store, "panics")?;
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drive(panics.call_async(&mut store, ()))));
            assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"it panics"));
            // Abandoned at each of its waits.
            for polls in 1..10 {
                let mut call = pin!(run.call_async(&mut store, 20));
                for _ in 0..polls {
                    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                }
            }
            assert_eq!(drive(run.call_async(&mut store, 20))?, 20_000_042);
            *store.data_mut() = 1000;
            assert_eq!(drive(run.call_async(&mut store, 20)).unwrap_err().root_cause().to_string(), "unlucky");
            // Where nothing can wait the error says so.
            let error = run.call(&mut store, 20).unwrap_err();
            assert!(error.root_cause().to_string().contains("the call hook has to wait"), "{error:#}");
        }
    }
    Ok(())
}
