//! Calls as futures: suspended and gone on with at every kind of place, on executors of any kind, cancelled, nested, and moved between threads.

mod executor;

use executor::poll_once;
use peregrine::{
    Caller, Config, Engine, Error, Extern, Func, FuncType, GrowthFuture, Instance, Linker, Memory, MemoryType, Module, Ref, RefType,
    ResourceLimiterAsync, Result, Store, Strategy, Table, TableType, Trap, TypedFunc, Val, ValType, WasmBacktrace,
};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// An engine for each compiler.
fn engines() -> Vec<Engine> {
    let engine = |strategy| Engine::new(Config::new().strategy(strategy)).unwrap();
    vec![engine(Strategy::Cranelift), engine(Strategy::Winch), engine(Strategy::Tiered)]
}

/// Is not ready when it is first polled `turns` times; wakes at once.
async fn wait(mut turns: u32) {
    poll_fn(|task| {
        if turns == 0 {
            return Poll::Ready(());
        }
        turns -= 1;
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls until it is ready, as long as it asks to be. Gives the number of polls too.
fn drive<F: Future>(future: F) -> (F::Output, usize) {
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counter));
    let mut future = pin!(future);
    for polls in 1.. {
        let woken = counter.0.load(Ordering::SeqCst);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (output, polls);
        }
        assert!(counter.0.load(Ordering::SeqCst) > woken, "nobody will wake the task");
    }
    unreachable!()
}

/// Adds to its argument after waiting as many times as the store's data says.
fn linker(engine: &Engine) -> Linker<u32> {
    let mut linker = Linker::new(engine);
    linker
        .func_wrap_async("host", "next", |caller: Caller<'_, u32>, (x,): (i32,)| {
            Box::new(async move {
                wait(*caller.data()).await;
                x + 1
            })
        })
        .unwrap();
    linker
}

/// Keeps values of all types alive over calls in a loop.
const LOOP: &str = r#"(module
    (import "host" "next" (func $next (param i32) (result i32)))
    (func (export "run") (param $n i32) (result i64)
        (local $a i64) (local $b i64) (local $c i64) (local $d i64) (local $e i64) (local $f i64) (local $x f64) (local $v v128) (local $i i32)
        (local.set $a (i64.const 1)) (local.set $b (i64.const 10)) (local.set $c (i64.const 100))
        (local.set $d (i64.const 1000)) (local.set $e (i64.const 10000)) (local.set $f (i64.const 100000))
        (loop $again
            (local.set $i (call $next (local.get $i)))
            (local.set $a (i64.add (local.get $a) (i64.const 1)))
            (local.set $b (i64.add (local.get $b) (i64.const 1)))
            (local.set $c (i64.add (local.get $c) (i64.const 1)))
            (local.set $d (i64.add (local.get $d) (i64.const 1)))
            (local.set $e (i64.add (local.get $e) (i64.const 1)))
            (local.set $f (i64.add (local.get $f) (i64.const 1)))
            (local.set $x (f64.add (local.get $x) (f64.const 0.5)))
            (local.set $v (i32x4.add (local.get $v) (v128.const i32x4 1 2 3 4)))
            (br_if $again (i32.lt_u (local.get $i) (local.get $n))))
        (i64.add
            (i64.add (i64.add (local.get $a) (local.get $b)) (i64.add (local.get $c) (local.get $d)))
            (i64.add
                (i64.add (local.get $e) (local.get $f))
                (i64.add
                    (i64.trunc_f64_s (f64.mul (local.get $x) (f64.const 2)))
                    (i64.extend_i32_u (i32x4.extract_lane 3 (local.get $v))))))))"#;

/// What `run` of [`LOOP`] gives.
fn expected(n: i64) -> i64 {
    111_111 + 6 * n + n + 4 * n
}

#[test]
fn a_call_that_does_not_wait_is_ready_at_once() {
    for engine in engines() {
        let module = Module::new(&engine, LOOP).unwrap();
        let mut store = Store::new(&engine, 0);
        let instance = linker(&engine).instantiate(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
        let (sum, polls) = drive(run.call_async(&mut store, 50));
        assert_eq!((sum.unwrap(), polls), (expected(50), 1));
        // The same code without futures: the host function is polled once and is ready.
        assert_eq!(run.call(&mut store, 50).unwrap(), expected(50));
    }
}

#[test]
fn a_guest_keeps_its_values_while_it_waits() {
    for engine in engines() {
        let module = Module::new(&engine, LOOP).unwrap();
        let mut store = Store::new(&engine, 3);
        let instance = linker(&engine).instantiate(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
        let (sum, polls) = drive(run.call_async(&mut store, 100));
        assert_eq!((sum.unwrap(), polls), (expected(100), 301));
        // Again, dynamically.
        let mut results = [Val::I64(0)];
        let (outcome, polls) = drive(run.func().call_async(&mut store, &[Val::I32(7)], &mut results));
        outcome.unwrap();
        assert_eq!((results[0].unwrap_i64(), polls), (expected(7), 22));
    }
}

#[test]
fn a_call_that_is_no_future_cannot_wait() {
    for engine in engines() {
        let module = Module::new(&engine, LOOP).unwrap();
        let mut store = Store::new(&engine, 1);
        let instance = linker(&engine).instantiate(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
        let error = run.call(&mut store, 1).unwrap_err();
        assert!(error.root_cause().to_string().contains("use `call_async`"), "{error:?}");
        let backtrace = error.downcast_ref::<WasmBacktrace>().unwrap();
        assert_eq!(backtrace.frames().len(), 1);
        *store.data_mut() = 0;
        assert_eq!(run.call(&mut store, 1).unwrap(), expected(1));
    }
}

#[test]
fn functions_of_the_host_are_called_as_futures_directly() {
    let engine = Engine::default();
    let mut store = Store::new(&engine, 2u32);
    let double = Func::wrap_async(&mut store, |caller: Caller<'_, u32>, (x,): (i64,)| {
        Box::new(async move {
            wait(*caller.data()).await;
            if x < 0 { Err(Error::msg("negative")) } else { Ok(x * 2) }
        })
    });
    let typed = double.typed::<i64, i64>(&store).unwrap();
    let (result, polls) = drive(typed.call_async(&mut store, 21));
    assert_eq!((result.unwrap(), polls), (42, 3));
    assert_eq!(drive(typed.call_async(&mut store, -1)).0.unwrap_err().to_string(), "negative");
    assert!(typed.call(&mut store, 21).unwrap_err().to_string().contains("call_async"));

    let ty = FuncType::new(&engine, [ValType::I32, ValType::F64], [ValType::F64, ValType::I32]);
    let swap = Func::new_async(&mut store, ty, |caller: Caller<'_, u32>, params, results| {
        Box::new(async move {
            wait(*caller.data()).await;
            (results[0], results[1]) = (params[1], params[0]);
            Ok(())
        })
    });
    let swap = swap.typed::<(i32, f64), (f64, i32)>(&store).unwrap();
    assert_eq!(drive(swap.call_async(&mut store, (7, 1.5))).0.unwrap(), (1.5, 7));
    let sync = Func::wrap(&mut store, |x: i32| x + 1).typed::<i32, i32>(&store).unwrap();
    assert_eq!(drive(sync.call_async(&mut store, 1)).0.unwrap(), 2);
}

/// Calls itself through the host: `host.again(depth)` waits, then calls `down(depth - 1)`.
const DOWN: &str = r#"(module
    (import "host" "again" (func $again (param i32) (result i32)))
    (func $down (export "down") (param $depth i32) (result i32) (local $kept i32)
        (local.set $kept (i32.mul (local.get $depth) (i32.const 3)))
        (if (i32.eqz (local.get $depth)) (then (return (i32.const 0))))
        (i32.add (call $again (local.get $depth)) (i32.sub (local.get $kept) (i32.mul (local.get $depth) (i32.const 2)))))
    (func (export "trap") (param $depth i32) (result i32)
        (if (i32.eqz (local.get $depth)) (then unreachable))
        (call $again (local.get $depth))))"#;

/// `again`, which waits before and after it calls the export `name`.
fn nesting(engine: &Engine, name: &'static str) -> Linker<u32> {
    let mut linker = Linker::new(engine);
    linker
        .func_wrap_async("host", "again", move |mut caller: Caller<'_, u32>, (depth,): (i32,)| {
            Box::new(async move {
                let turns = *caller.data();
                wait(turns).await;
                let function = caller.get_export(name).and_then(Extern::into_func).unwrap().typed::<i32, i32>(&caller)?;
                let result = function.call_async(&mut caller, depth - 1).await?;
                wait(turns).await;
                Ok(result)
            })
        })
        .unwrap();
    linker
}

#[test]
fn calls_nest_and_each_level_waits() {
    for engine in engines() {
        let module = Module::new(&engine, DOWN).unwrap();
        for turns in [0, 1, 2] {
            let mut store = Store::new(&engine, turns);
            let instance = nesting(&engine, "down").instantiate(&mut store, &module).unwrap();
            let down = instance.get_typed_func::<i32, i32>(&mut store, "down").unwrap();
            let (sum, polls) = drive(down.call_async(&mut store, 20));
            assert_eq!((sum.unwrap(), polls), (210, 1 + 40 * turns as usize));
        }
    }
}

#[test]
fn backtraces_go_over_everything_that_waits() {
    for engine in engines() {
        let module = Module::new(&engine, DOWN).unwrap();
        let frames = |turns| {
            let mut store = Store::new(&engine, turns);
            let instance = nesting(&engine, "trap").instantiate(&mut store, &module).unwrap();
            let trap = instance.get_typed_func::<i32, i32>(&mut store, "trap").unwrap();
            let (result, _) = drive(trap.call_async(&mut store, 5));
            let error = result.unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::UnreachableCodeReached));
            let frames = error.downcast_ref::<WasmBacktrace>().unwrap().frames();
            // The store can still be used.
            let down = instance.get_typed_func::<i32, i32>(&mut store, "down").unwrap();
            assert_eq!(drive(down.call_async(&mut store, 0)).0.unwrap(), 0);
            frames.iter().map(|frame| (frame.func_index(), frame.module_offset())).collect::<Vec<_>>()
        };
        let expected = frames(0);
        assert_eq!(expected.len(), 6);
        assert!(expected[1..].iter().all(|frame| frame.1.is_some() && *frame == expected[1]), "{expected:?}");
        assert_eq!(frames(1), expected);
        assert_eq!(frames(3), expected);
    }
}

#[test]
fn recursion_through_the_host_ends_in_a_trap() {
    for engine in engines() {
        let module = Module::new(&engine, DOWN).unwrap();
        for turns in [0, 1] {
            let mut store = Store::new(&engine, turns);
            let instance = nesting(&engine, "down").instantiate(&mut store, &module).unwrap();
            let down = instance.get_typed_func::<i32, i32>(&mut store, "down").unwrap();
            // Once it waits, each poll goes through all levels.
            let depth = if turns == 0 { 1_000_000 } else { 3_000 };
            match drive(down.call_async(&mut store, depth)).0 {
                Ok(sum) => assert_eq!(sum, depth * (depth + 1) / 2),
                Err(error) => assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow), "{error:?}"),
            }
            assert_eq!(drive(down.call_async(&mut store, 3)).0.unwrap(), 6);
        }
    }
}

/// Counts what lives.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_call_can_be_dropped_at_every_point() {
    for engine in engines() {
        let module = Module::new(&engine, DOWN).unwrap();
        let alive = Arc::new(AtomicUsize::new(0));
        let mut linker = Linker::new(&engine);
        let count = Arc::clone(&alive);
        linker
            .func_wrap_async("host", "again", move |mut caller: Caller<'_, ()>, (depth,): (i32,)| {
                let kept = Alive::new(&count);
                Box::new(async move {
                    wait(1).await;
                    let down = caller.get_export("down").and_then(Extern::into_func).unwrap().typed::<i32, i32>(&caller)?;
                    let result = down.call_async(&mut caller, depth - 1).await?;
                    wait(1).await;
                    drop(kept);
                    Ok(result)
                })
            })
            .unwrap();
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let down = instance.get_typed_func::<i32, i32>(&mut store, "down").unwrap();
        for polls in 0..=12 {
            let mut most = 0;
            {
                let mut call = pin!(down.call_async(&mut store, 6));
                for _ in 0..polls {
                    assert!(poll_once(call.as_mut()).is_pending());
                    most = most.max(alive.load(Ordering::SeqCst));
                }
            }
            assert_eq!(alive.load(Ordering::SeqCst), 0, "after {polls} polls");
            assert_eq!(most, polls.min(6));
            // The guest's stack is as it was.
            assert_eq!(drive(down.call_async(&mut store, 3)).0.unwrap(), 6);
        }
    }
}

#[test]
fn a_call_that_is_forgotten_leaves_the_store_usable() {
    for engine in engines() {
        let module = Module::new(&engine, LOOP).unwrap();
        let mut store = Store::new(&engine, 1);
        let instance = linker(&engine).instantiate(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
        for _ in 0..3 {
            let mut call = Box::pin(run.call_async(&mut store, 10));
            assert!(poll_once(call.as_mut()).is_pending());
            std::mem::forget(call);
            assert_eq!(drive(run.call_async(&mut store, 10)).0.unwrap(), expected(10));
        }
    }
}

#[test]
fn inner_calls_can_be_dropped_while_outer_ones_go_on() {
    for engine in engines() {
        let module = Module::new(&engine, DOWN).unwrap();
        let mut linker = Linker::new(&engine);
        linker
            .func_wrap_async("host", "again", |mut caller: Caller<'_, ()>, (depth,): (i32,)| {
                Box::new(async move {
                    let down = caller.get_export("down").and_then(Extern::into_func).unwrap().typed::<i32, i32>(&caller)?;
                    wait(1).await;
                    {
                        let mut dropped = pin!(down.call_async(&mut caller, depth - 1));
                        poll_fn(|task| {
                            let _ = dropped.as_mut().poll(task);
                            Poll::Ready(())
                        })
                        .await;
                    }
                    down.call_async(&mut caller, depth - 1).await
                })
            })
            .unwrap();
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let down = instance.get_typed_func::<i32, i32>(&mut store, "down").unwrap();
        assert_eq!(drive(down.call_async(&mut store, 8)).0.unwrap(), 36);
    }
}

#[test]
fn errors_and_panics_after_waiting_end_the_call() {
    for engine in engines() {
        let module = Module::new(&engine, LOOP).unwrap();
        let mut linker = Linker::new(&engine);
        linker
            .func_wrap_async("host", "next", |_: Caller<'_, ()>, (x,): (i32,)| {
                Box::new(async move {
                    wait(2).await;
                    match x {
                        3 => Err(Error::msg("three")),
                        5 => panic!("five"),
                        _ => Ok(x + 1),
                    }
                })
            })
            .unwrap();
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
        let error = drive(run.call_async(&mut store, 10)).0.unwrap_err();
        assert_eq!(error.root_cause().to_string(), "three");
        assert_eq!(error.downcast_ref::<WasmBacktrace>().unwrap().frames().len(), 1);
        assert_eq!(drive(run.call_async(&mut store, 3)).0.unwrap(), expected(3));
    }
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let panics = Func::wrap_async(&mut store, |_: Caller<'_, ()>, ()| {
        Box::new(async {
            wait(1).await;
            assert!(std::hint::black_box(false), "five");
        }) as Box<dyn Future<Output = ()> + Send>
    });
    let module = Module::new(&engine, r#"(module (import "" "" (func $f)) (func (export "run") (call $f)))"#).unwrap();
    let instance = Instance::new(&mut store, &module, &[panics.into()]).unwrap();
    let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
    for _ in 0..2 {
        let caught = catch_unwind(AssertUnwindSafe(|| drive(run.call_async(&mut store, ())))).unwrap_err();
        assert_eq!(caught.downcast_ref::<&str>(), Some(&"five"));
    }
}

#[test]
fn start_functions_and_commands_wait() {
    for engine in engines() {
        let start = r#"(module
            (import "host" "next" (func $next (param i32) (result i32)))
            (global $got (export "got") (mut i32) (i32.const 0))
            (func $start (global.set $got (call $next (i32.const 4))))
            (start $start)
            (func (export "_initialize") (global.set $got (call $next (global.get $got)))))"#;
        let module = Module::new(&engine, start).unwrap();
        let mut linker = linker(&engine);
        let mut store = Store::new(&engine, 2);
        assert!(linker.instantiate(&mut store, &module).is_err(), "its start function waits");
        let (instance, polls) = drive(linker.instantiate_async(&mut store, &module));
        let got = |instance: Instance, store: &mut Store<u32>| instance.get_global(&mut *store, "got").unwrap().get(store).unwrap_i32();
        assert_eq!((got(instance.unwrap(), &mut store), polls), (5, 3));
        let pre = linker.instantiate_pre(&module).unwrap();
        let (instance, _) = drive(pre.instantiate_async(&mut store));
        assert_eq!(got(instance.unwrap(), &mut store), 5);
        let next = linker.get(&mut store, "host", "next").unwrap();
        let (instance, _) = drive(Instance::new_async(&mut store, &module, &[next]));
        assert_eq!(got(instance.unwrap(), &mut store), 5);

        drive(linker.module_async(&mut store, "reactor", &module)).0.unwrap();
        let global = linker.get(&mut store, "reactor", "got").unwrap().into_global().unwrap();
        assert_eq!(global.get(&mut store).unwrap_i32(), 6);
        let command = r#"(module
            (import "host" "next" (func $next (param i32) (result i32)))
            (func (export "_start") (drop (call $next (i32.const 1))))
            (func (export "twice") (param i32) (result i32) (call $next (call $next (local.get 0)))))"#;
        let command = Module::new(&engine, command).unwrap();
        drive(linker.module_async(&mut store, "command", &command)).0.unwrap();
        let twice = linker.get(&mut store, "command", "twice").unwrap().into_func().unwrap();
        let twice = twice.typed::<i32, i32>(&store).unwrap();
        let (result, polls) = drive(twice.call_async(&mut store, 1));
        assert_eq!((result.unwrap(), polls), (3, 5));
        let default = linker.get_default(&mut store, "command").unwrap().typed::<(), ()>(&store).unwrap();
        drive(default.call_async(&mut store, ())).0.unwrap();
    }
}

type BoxedCall = Pin<Box<dyn Future<Output = (Result<i64>, Store<u32>)> + Send>>;

fn boxed(engine: &Engine, linker: &Linker<u32>, module: &Module, turns: u32, n: i32) -> BoxedCall {
    let mut store = Store::new(engine, turns);
    let instance = linker.instantiate(&mut store, module).unwrap();
    let run: TypedFunc<i32, i64> = instance.get_typed_func(&mut store, "run").unwrap();
    Box::pin(async move { (run.call_async(&mut store, n).await, store) })
}

#[test]
fn suspended_calls_move_between_threads() {
    for engine in engines() {
        let module = Module::new(&engine, LOOP).unwrap();
        let linker = linker(&engine);
        let calls: Vec<BoxedCall> = (0..8).map(|n| boxed(&engine, &linker, &module, 1, 20 + n)).collect();
        let queue = Mutex::new(calls);
        let sums = Mutex::new(Vec::new());
        // Each thread takes any call, polls it once and puts it back.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let call = queue.lock().unwrap().pop();
                        let Some(mut call) = call else {
                            if sums.lock().unwrap().len() == 8 {
                                return;
                            }
                            std::thread::yield_now();
                            continue;
                        };
                        match poll_once(call.as_mut()) {
                            Poll::Pending => queue.lock().unwrap().insert(0, call),
                            Poll::Ready((sum, _)) => sums.lock().unwrap().push(sum.unwrap()),
                        }
                    }
                });
            }
        });
        let mut sums = sums.into_inner().unwrap();
        sums.sort();
        assert_eq!(sums, (0..8).map(|n| expected(20 + n)).collect::<Vec<_>>());
    }
}

#[test]
fn a_thousand_stores_wait_at_once() {
    let engine = Engine::default();
    let module = Module::new(&engine, LOOP).unwrap();
    let linker = linker(&engine);
    let mut calls: Vec<BoxedCall> = (0..1000).map(|n| boxed(&engine, &linker, &module, 1, 5 + n % 3)).collect();
    for _ in 0..5 {
        calls.iter_mut().for_each(|call| assert!(poll_once(call.as_mut()).is_pending()));
    }
    // Half of them are never gone on with.
    calls.truncate(500);
    for (n, mut call) in calls.into_iter().enumerate() {
        let n = 5 + n as i64 % 3;
        let sum = loop {
            if let Poll::Ready((sum, _)) = poll_once(call.as_mut()) {
                break sum.unwrap();
            }
        };
        assert_eq!(sum, expected(n));
    }
}

#[test]
fn a_sync_call_inside_of_one_that_waits_cannot_wait() {
    for engine in engines() {
        let module = Module::new(&engine, DOWN).unwrap();
        let mut linker = Linker::new(&engine);
        linker
            .func_wrap_async("host", "again", |mut caller: Caller<'_, u32>, (depth,): (i32,)| {
                Box::new(async move {
                    let down = caller.get_export("down").and_then(Extern::into_func).unwrap().typed::<i32, i32>(&caller)?;
                    if depth == 1 {
                        wait(*caller.data()).await;
                    }
                    down.call(&mut caller, depth - 1)
                })
            })
            .unwrap();
        let mut store = Store::new(&engine, 1);
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let down = instance.get_typed_func::<i32, i32>(&mut store, "down").unwrap();
        let error = drive(down.call_async(&mut store, 3)).0.unwrap_err();
        assert!(format!("{error:?}").contains("use `call_async`"), "{error:?}");
        assert_eq!(drive(down.call_async(&mut store, 1)).0.unwrap(), 1);
        *store.data_mut() = 0;
        assert_eq!(drive(down.call_async(&mut store, 3)).0.unwrap(), 6);
    }
}

#[test]
fn guests_wait_on_tokio() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
    for engine in engines() {
        let module = Module::new(&engine, LOOP).unwrap();
        let mut linker = Linker::new(&engine);
        linker
            .func_wrap_async("host", "next", |_: Caller<'_, u32>, (x,): (i32,)| {
                Box::new(async move {
                    if x % 2 == 0 {
                        tokio::time::sleep(std::time::Duration::from_micros(50)).await;
                    } else {
                        tokio::task::yield_now().await;
                    }
                    x + 1
                })
            })
            .unwrap();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..50).map(|n| tokio::spawn(boxed(&engine, &linker, &module, 0, n + 1))).collect();
            for (n, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.await.unwrap().0.unwrap(), expected(n as i64 + 1));
            }
            // A time limit from outside: the call is dropped.
            let endless = boxed(&engine, &linker, &module, 0, i32::MAX);
            assert!(tokio::time::timeout(std::time::Duration::from_millis(5), endless).await.is_err());
        });
    }
}

/// Waits, then refuses what is above its limits in bytes and elements.
struct Waiting {
    bytes: usize,
    elements: usize,
    asked: usize,
}

impl ResourceLimiterAsync for Waiting {
    fn memory_growing<'a, 'b>(&'a mut self, _: usize, desired: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            wait(2).await;
            self.asked += 1;
            if desired == 7 << 16 { Err(Error::msg("seven")) } else { Ok(desired <= self.bytes) }
        })
    }

    fn table_growing<'a, 'b>(&'a mut self, _: usize, desired: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            wait(1).await;
            self.asked += 1;
            Ok(desired <= self.elements)
        })
    }
}

#[test]
fn limits_wait() {
    for engine in engines() {
        let text = r#"(module
            (memory (export "memory") 2) (table (export "table") 5 funcref) (func $f (result i32) (i32.const 5)) (elem declare func $f)
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
            (func (export "grow_table") (param i32) (result i32) (table.grow (ref.func $f) (local.get 0)))
            (func (export "last") (result i32) (call_indirect (result i32) (i32.sub (table.size) (i32.const 1)))))"#;
        let module = Module::new(&engine, text).unwrap();
        let mut store = Store::new(&engine, Waiting { bytes: 9 << 16, elements: 10, asked: 0 });
        store.limiter_async(|limiter| limiter);
        let error = Instance::new(&mut store, &module, &[]).unwrap_err();
        assert!(format!("{error:?}").contains("instantiate_async"), "{error:?}");
        let (instance, polls) = drive(Instance::new_async(&mut store, &module, &[]));
        let instance = instance.unwrap();
        assert_eq!((polls, store.data().asked), (4, 2));

        let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow").unwrap();
        let (old, polls) = drive(grow.call_async(&mut store, 2));
        assert_eq!((old.unwrap(), polls), (2, 3));
        assert_eq!(drive(grow.call_async(&mut store, 6)).0.unwrap(), -1);
        let error = drive(grow.call_async(&mut store, 3)).0.unwrap_err();
        assert_eq!(error.root_cause().to_string(), "seven");
        assert_eq!(error.downcast_ref::<WasmBacktrace>().unwrap().frames().len(), 1);
        assert!(format!("{:?}", grow.call(&mut store, 1).unwrap_err()).contains("_async"));
        // Dropped while the limiter decides.
        {
            let mut call = pin!(grow.call_async(&mut store, 1));
            assert!(poll_once(call.as_mut()).is_pending());
        }
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        assert_eq!(memory.size(&store), 4);
        let (old, polls) = drive(memory.grow_async(&mut store, 1));
        assert_eq!((old.unwrap(), polls, memory.size(&store)), (4, 3, 5));
        assert!(drive(memory.grow_async(&mut store, 5)).0.is_err());

        let grow_table = instance.get_typed_func::<i32, i32>(&mut store, "grow_table").unwrap();
        let (old, polls) = drive(grow_table.call_async(&mut store, 3));
        assert_eq!((old.unwrap(), polls), (5, 2));
        let last = instance.get_typed_func::<(), i32>(&mut store, "last").unwrap();
        assert_eq!(last.call(&mut store, ()).unwrap(), 5);
        assert_eq!(drive(grow_table.call_async(&mut store, 3)).0.unwrap(), -1);
        let table = instance.get_table(&mut store, "table").unwrap();
        assert_eq!(drive(table.grow_async(&mut store, 2, Ref::Func(None))).0.unwrap(), 8);
        assert!(drive(table.grow_async(&mut store, 1, Ref::Func(None))).0.is_err());
        assert!(drive(Memory::new_async(&mut store, MemoryType::new(9, None))).0.is_ok());
        assert!(drive(Memory::new_async(&mut store, MemoryType::new(10, None))).0.is_err());
        let ty = TableType::new(RefType::FUNCREF, 11, None);
        assert!(drive(Table::new_async(&mut store, ty, Ref::Func(None))).0.is_err());
    }
}
