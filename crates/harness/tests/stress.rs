//! Stores, instances and calls at random, on several threads: made, trapped, refused, panicked, re-entered, interrupted, suspended and
//! abandoned halfway, given to other threads and dropped in any order. Afterwards the process holds no more descriptors, threads, mappings and memory than before.
//!
//! One test, in a process of its own, for what is counted belongs to the process. The choices follow from a seed, so that a failure can be
//! run again. `cargo xtask stress` builds this under the address sanitizer and runs it for longer:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `PEREGRINE_STRESS_ROUNDS` | things done by each thread | 400 |
//! | `PEREGRINE_STRESS_SEED` | where the choices begin | 1 |
//! | `PEREGRINE_STRESS_SLACK_MIB` | memory that may have been kept | 64 |

use peregrine::{
    AsContextMut, Caller, Config, Engine, Error, Extern, ExternRef, Func, GrowthFuture, Instance, Linker, Memory, MemoryType, Module,
    ResourceLimiter, ResourceLimiterAsync, Result, SharedMemory, Store, StoreLimits, StoreLimitsBuilder, Trap, TypedFunc, UpdateDeadline,
    Val,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

const THREADS: u64 = 3;

/// Everything that a guest may do to itself and its host.
const GUEST: &str = r#"(module
    (import "host" "nop" (func $nop (param i32) (result i32)))
    (import "host" "fail" (func $fail))
    (import "host" "panic" (func $panic))
    (import "host" "enter" (func $enter (param i32) (result i32)))
    (import "host" "make" (func $make (param i32) (result externref)))
    (import "host" "pause" (func $pause (param i32) (result i32)))
    (import "host" "shared" (memory $shared 1 1 shared))
    (memory $own (export "memory") 1 40)
    (data (memory $own) (i32.const 1000) "initial content of the memory")
    (table $functions 4 400 funcref)
    (table $values 4 400 externref)
    (elem (table $functions) (i32.const 1) func $add $spin)
    (global $count (mut i64) (i64.const 0))
    (type $add (func (param i32 i32) (result i32)))
    (func $add (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "call_host") (param i32) (result i32)
        (loop $again (result i32)
            (drop (call $nop (local.get 0)))
            (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))
            (i32.const 7)))
    (func $recurse (export "recurse") (param i32) (result i32)
        (i32.add (i32.const 1) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
    (func (export "unreachable") unreachable)
    (func (export "divide") (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
    (func (export "load") (param i32) (result i32) (i32.load $own (local.get 0)))
    (func (export "store") (param i32 i32) (i32.store $own (local.get 0) (local.get 1)))
    (func (export "indirect") (param i32) (result i32)
        (call_indirect $functions (type $add) (i32.const 40) (i32.const 2) (local.get 0)))
    (func $spin (export "spin") (loop (global.set $count (i64.add (global.get $count) (i64.const 1))) (br 0)))
    (func (export "fail") (call $fail))
    (func (export "panic") (call $panic))
    (func (export "enter") (param i32) (result i32) (call $enter (local.get 0)))
    (func (export "pause") (param i32) (result i32)
        (drop (call $pause (local.get 0)))
        (memory.fill $own (i32.const 0) (local.get 0) (i32.const 5000))
        (i32.add (call $pause (local.get 0)) (i32.const 1)))
    (func (export "grow") (param i32) (result i32)
        (drop (table.grow $values (call $make (local.get 0)) (local.get 0)))
        (memory.grow $own (local.get 0)))
    (func (export "keep") (param i32) (table.set $values (i32.const 0) (call $make (local.get 0))))
    (func (export "fill") (param i32 i32) (memory.fill $own (local.get 0) (i32.const 255) (local.get 1)))
    (func (export "count") (result i32) (i32.atomic.rmw.add $shared (i32.const 0) (i32.const 1)))
    (func (export "wait") (param i64) (result i32) (memory.atomic.wait32 $shared (i32.const 64) (i32.const 0) (local.get 0)))
    (func (export "notify") (result i32) (memory.atomic.notify $shared (i32.const 64) (i32.const 2))))"#;

/// A module whose start function waits some turns.
const STARTING: &str = r#"(module
    (import "host" "pause" (func $pause (param i32) (result i32)))
    (import "host" "shared" (memory 1 1 shared))
    (memory 1) (table 3 externref)
    (func $start (drop (call $pause (i32.const 1)))) (start $start))"#;

/// A module that uses a shared memory which comes and goes.
const SHARING: &str = r#"(module
    (import "host" "brief" (memory 1 6 shared))
    (memory $own 1)
    (func (export "grow") (param i32) (result i32)
        (i32.atomic.store (i32.const 16) (local.get 0))
        (memory.grow (i32.const 1))))"#;

/// What stores hold for the host.
struct Host {
    limits: StoreLimits,
    random: Random,
    /// Calls of `enter` and `pause` that are under way.
    depth: u32,
    /// Whether the call under way is one that may wait.
    may_wait: bool,
}

impl Host {
    /// The limiter's answer after some turns, where the call may wait.
    fn slowly<'b>(&mut self, answer: Result<bool>) -> GrowthFuture<'b> {
        let count = if self.may_wait { self.random.below(3) } else { 0 };
        Box::pin(async move {
            turns(count).await;
            answer
        })
    }
}

impl ResourceLimiterAsync for Host {
    fn memory_growing<'a, 'b>(&'a mut self, current: usize, desired: usize, max: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let answer = self.limits.memory_growing(current, desired, max);
        self.slowly(answer)
    }

    fn table_growing<'a, 'b>(&'a mut self, current: usize, desired: usize, max: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let answer = self.limits.table_growing(current, desired, max);
        self.slowly(answer)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }
}

/// A generator of numbers that look random (splitmix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What one configuration has for all threads.
struct Shared {
    engine: Engine,
    linker: Linker<Host>,
    module: Module,
    starting: Module,
    sharing: Module,
    memory: SharedMemory,
    /// Shared memories that come and go, for whoever takes them.
    brief: Mutex<Vec<SharedMemory>>,
    /// Stores that go to whoever takes them.
    stores: Mutex<Vec<(Store<Host>, Instance)>>,
    counted: AtomicU64,
    /// Whether guests that do not end by themselves are stopped.
    is_metered: bool,
    /// Whether they look at epochs and deadlines.
    has_epochs: bool,
}

impl Shared {
    fn new(has_epochs: bool, change: impl FnOnce(&mut Config) -> &mut Config) -> Self {
        let mut config = Config::new();
        change(config.max_wasm_stack(128 << 10).epoch_interruption(has_epochs));
        let engine = Engine::new(&config).expect("the configuration works");
        let module = Module::new(&engine, GUEST).expect("the guest is valid");
        let [starting, sharing] = [STARTING, SHARING].map(|text| Module::new(&engine, text).expect("the guest is valid"));
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1)).expect("there is memory");
        let brief = Mutex::default();
        let linker = linker(&engine).expect("every name is defined once");
        let is_metered = Store::new(&engine, ()).set_fuel(1).is_ok();
        let (stores, counted) = (Mutex::default(), AtomicU64::new(0));
        Self { engine, linker, module, starting, sharing, memory, brief, stores, counted, is_metered, has_epochs }
    }

    fn store(&self, random: &mut Random) -> Store<Host> {
        let limits = StoreLimitsBuilder::new().memory_size(20 << 16).table_elements(200).instances(50).build();
        let mut store = Store::new(&self.engine, Host { limits, random: Random(random.next()), depth: 0, may_wait: false });
        if random.below(2) == 0 {
            store.limiter(|host| &mut host.limits);
        } else {
            store.limiter_async(|host| host);
        }
        if self.has_epochs && random.below(2) == 0 {
            store.epoch_deadline_callback(|mut context| {
                let host = context.data_mut();
                Ok(match host.random.below(4) {
                    0 => UpdateDeadline::Interrupt,
                    1 if host.may_wait => UpdateDeadline::Yield(1),
                    2 if host.may_wait => UpdateDeadline::YieldCustom(1, Box::pin(turns(host.random.below(3)))),
                    3 => return Err(Trap::Interrupt.into()),
                    _ => UpdateDeadline::Continue(1),
                })
            });
        }
        self.refuel(&mut store, 200_000);
        store
    }

    /// Gives a store fuel and time, if its engine counts them.
    fn refuel(&self, store: &mut Store<Host>, fuel: u64) {
        let _ = store.set_fuel(fuel);
        store.set_epoch_deadline(2);
    }

    fn instantiate(&self, store: &mut Store<Host>) -> Result<Instance> {
        let mut linker = self.linker.clone();
        linker.define(&*store, "host", "shared", self.memory.clone())?;
        linker.instantiate(store, &self.module)
    }
}

fn linker(engine: &Engine) -> Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("host", "nop", |mut caller: Caller<'_, Host>, value: i32| {
        caller.data_mut().random.next();
        value
    })?;
    linker.func_wrap("host", "fail", || -> Result<()> { Err(Error::msg("the host refuses")) })?;
    linker.func_wrap("host", "panic", || -> () { std::panic::panic_any("the host panics") })?;
    linker.func_wrap("host", "make", |mut caller: Caller<'_, Host>, value: i32| {
        let garbage = vec![value; 100];
        ExternRef::new(&mut caller, garbage).map(Some)
    })?;
    // Waits some turns, and calls the guest again as a future that may wait as well; whoever polls may give up at any of them.
    linker.func_wrap_async("host", "pause", |mut caller: Caller<'_, Host>, (value,): (i32,)| {
        Box::new(async move {
            let held = Arc::new(value);
            turns(caller.data_mut().random.below(4)).await;
            let deep = caller.data().depth;
            let again = caller.get_export("pause").filter(|_| deep < 3 && caller.data_mut().random.below(3) == 0);
            if let Some(function) = again.and_then(Extern::into_func) {
                caller.data_mut().depth += 1;
                let outcome = function.typed::<i32, i32>(&caller)?.call_async(&mut caller, value).await;
                caller.data_mut().depth = deep;
                outcome?;
            }
            if caller.data_mut().random.below(10) == 0 {
                return Err(Error::msg("the host refuses after a while"));
            }
            turns(caller.data_mut().random.below(3)).await;
            Ok(*held)
        })
    })?;
    linker.func_wrap("host", "enter", |mut caller: Caller<'_, Host>, value: i32| -> Result<i32> {
        let deep = caller.data().depth;
        let choice = caller.data_mut().random.below(12);
        let Some(function) = caller.get_export(if deep < 20 && choice < 8 { "enter" } else { "divide" }) else { return Ok(0) };
        let function: TypedFunc<i32, i32> = function.into_func().expect("a function").typed(&caller)?;
        caller.data_mut().depth += 1;
        let outcome = match choice {
            8 => Err(Error::msg("the host gives up")),
            9 => function.call(&mut caller, 0),
            10 => Func::wrap(&mut caller, |value: i32| value).typed::<i32, i32>(&caller)?.call(&mut caller, value),
            _ => function.call(&mut caller, value.max(1)),
        };
        caller.data_mut().depth = deep;
        // Sometimes the failure of what was called goes no further.
        if caller.data_mut().random.below(3) == 0 { Ok(outcome.unwrap_or(3)) } else { outcome }
    })?;
    Ok(linker)
}

/// Is pending so many times.
fn turns(mut count: u64) -> impl Future<Output = ()> + Send {
    std::future::poll_fn(move |task| {
        let is_done = count == 0;
        count = count.saturating_sub(1);
        task.waker().wake_by_ref();
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
}

/// Calls an export as a future, which is polled `polls` times and then dropped, wherever it is. Gives the result if it came to that.
fn call_and_abandon(store: &mut Store<Host>, instance: Instance, name: &str, value: i32, polls: u64) -> Option<i32> {
    let function = instance.get_typed_func::<i32, i32>(&mut *store, name).expect("the guest exports it");
    store.data_mut().may_wait = true;
    let outcome = poll_and_abandon(function.call_async(&mut *store, value), polls);
    (store.data_mut().depth, store.data_mut().may_wait) = (0, false);
    outcome
}

/// Polls a future some times, and then drops it, wherever it is. Gives the result if it came to that.
fn poll_and_abandon<R>(future: impl Future<Output = Result<R>>, polls: u64) -> Option<R> {
    let mut future = std::pin::pin!(future);
    let mut task = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut task))) {
            Ok(Poll::Ready(result)) => return result.inspect_err(|error| assert!(!format!("{error:?}").is_empty())).ok(),
            Ok(Poll::Pending) => {}
            Err(payload) => {
                assert_eq!(payload.downcast_ref::<&str>(), Some(&"the host panics"), "a panic that is not the host function's");
                return None;
            }
        }
    }
    None
}

/// A module with a start function that waits is instantiated, and given up somewhere on the way.
fn start_and_abandon(shared: &Shared, store: &mut Store<Host>, polls: u64) {
    let mut linker = shared.linker.clone();
    linker.define(&*store, "host", "shared", shared.memory.clone()).expect("it is defined once");
    let pre = linker.instantiate_pre(&shared.starting).expect("everything is defined");
    store.data_mut().may_wait = true;
    if let Some(instance) = poll_and_abandon(pre.instantiate_async(&mut *store), polls) {
        // Nothing refers to it.
        store.drop_instance(instance).expect("no guest runs");
    }
    (store.data_mut().depth, store.data_mut().may_wait) = (0, false);
}

/// A shared memory comes into a store, which may be one that others use too, is grown by guests and the host, and leaves it again.
fn share_briefly(shared: &Shared, random: &mut Random, store: &mut Store<Host>) {
    let lock = || shared.brief.lock().expect("nobody panics with the lock");
    let taken = lock().pop().filter(|memory| memory.size() < 6);
    let memory = taken.unwrap_or_else(|| SharedMemory::new(&shared.engine, MemoryType::shared(1, 6)).expect("there is memory"));
    if random.below(2) == 0 {
        lock().push(memory.clone());
    }
    let mut linker = Linker::new(&shared.engine);
    linker.define(&*store, "host", "brief", memory.clone()).expect("it is defined once");
    // Beyond the limit of the store it is refused.
    let Ok(instance) = linker.instantiate(&mut *store, &shared.sharing) else { return };
    let number = random.below(1000) as i32;
    if random.below(2) == 0 {
        let _ = call_and_abandon(store, instance, "grow", number, random.below(6));
    } else {
        drop(call(store, instance, "grow", &[Val::I32(number)]));
    }
    let _ = memory.grow(1);
    if random.below(4) != 0 {
        store.drop_instance(instance).expect("nothing refers to it");
    }
    assert!(memory.size() >= 1);
}

/// Calls an export, which may fail in any way that is not the engine's fault.
fn call(store: &mut Store<Host>, instance: Instance, name: &str, params: &[Val]) -> Option<Vec<Val>> {
    let function = instance.get_func(&mut *store, name).unwrap_or_else(|| panic!("the guest exports {name}"));
    let mut results = vec![Val::I32(0); function.ty(&*store).results().len()];
    let outcome = catch_unwind(AssertUnwindSafe(|| function.call(&mut *store, params, &mut results)));
    store.data_mut().depth = 0;
    match outcome {
        Ok(Ok(())) => Some(results),
        Ok(Err(error)) => {
            // The message is made, and so is the backtrace.
            assert!(!format!("{error:?}").is_empty());
            None
        }
        Err(payload) => {
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"the host panics"), "a panic that is not the host function's");
            None
        }
    }
}

fn trapped(store: &mut Store<Host>, instance: Instance, name: &str, params: &[Val], expect: Trap) {
    let function = instance.get_func(&mut *store, name).unwrap_or_else(|| panic!("the guest exports {name}"));
    let mut results = vec![Val::I32(0); function.ty(&*store).results().len()];
    let error = function.call(&mut *store, params, &mut results).expect_err("it traps");
    let found = error.downcast_ref::<Trap>().copied();
    assert!(
        matches!(found, Some(Trap::OutOfFuel | Trap::Interrupt)) || found == Some(expect),
        "{name}: expected {expect}, found {error:?}"
    );
}

/// One thing, at random.
fn act(shared: &Shared, random: &mut Random, (store, instance): (&mut Store<Host>, Instance)) {
    let number = random.below(1 << 20) as i32;
    shared.refuel(store, 200_000);
    match random.below(32) {
        24 => start_and_abandon(shared, store, random.below(8)),
        25 | 26 => share_briefly(shared, random, store),
        27 => drop(call_and_abandon(store, instance, "grow", number % 4, random.below(8))),
        28 if shared.is_metered => {
            // A deadline that comes soon, at any moment of what follows, or is taken back.
            let deadline = store.deadline(Duration::from_micros(number as u64 % 2000));
            assert_eq!(deadline.is_ok(), shared.has_epochs, "{deadline:?}");
            if shared.has_epochs {
                assert!(call(store, instance, "spin", &[]).is_none());
                let _ = call_and_abandon(store, instance, "pause", number, random.below(6));
                store.set_deadline(None).expect("there was one");
            }
        }
        20 | 21 => {
            let result = call_and_abandon(store, instance, "pause", number, random.below(12));
            assert!(result.is_none_or(|result| result == number + 1));
        }
        22 => {
            let _ = call_and_abandon(store, instance, "call_host", number % 50 + 1, random.below(3));
        }
        23 if shared.is_metered => {
            // Lets others run again and again; given up after some turns, or out of fuel.
            let _ = store.fuel_async_yield_interval(Some(10_000));
            let _ = call_and_abandon(store, instance, "recurse", number, random.below(8));
            let _ = store.fuel_async_yield_interval(None);
        }
        0 => {
            let sum = call(store, instance, "add", &[Val::I32(number), Val::I32(1)]);
            assert!(sum.is_none_or(|sum| sum[0].unwrap_i32() == number + 1));
        }
        1 => drop(call(store, instance, "call_host", &[Val::I32(number % 50 + 1)])),
        2 => trapped(store, instance, "recurse", &[Val::I32(0)], Trap::StackOverflow),
        3 => trapped(store, instance, "unreachable", &[], Trap::UnreachableCodeReached),
        4 => trapped(store, instance, "divide", &[Val::I32(0)], Trap::IntegerDivisionByZero),
        5 => trapped(store, instance, "load", &[Val::I32(-number - 1)], Trap::MemoryOutOfBounds),
        6 => trapped(store, instance, "indirect", &[Val::I32(0)], Trap::IndirectCallToNull),
        7 => trapped(store, instance, "indirect", &[Val::I32(2)], Trap::BadSignature),
        8 => {
            let sum = call(store, instance, "indirect", &[Val::I32(1)]);
            assert!(sum.is_none_or(|sum| sum[0].unwrap_i32() == 42));
        }
        9 => drop(call(store, instance, "fail", &[])),
        10 => drop(call(store, instance, "panic", &[])),
        11 => drop(call(store, instance, "enter", &[Val::I32(number)])),
        12 => drop(call(store, instance, "grow", &[Val::I32(number % 4)])),
        13 => drop(call(store, instance, "keep", &[Val::I32(number)])),
        14 => drop(call(store, instance, "fill", &[Val::I32(number % 70_000), Val::I32(number % 3000)])),
        15 => {
            if call(store, instance, "count", &[]).is_some() {
                shared.counted.fetch_add(1, Ordering::Relaxed);
            }
        }
        16 => drop(call(store, instance, "wait", &[Val::I64(i64::from(number % 50_000))])),
        17 => drop(call(store, instance, "notify", &[])),
        18 if shared.is_metered => {
            // Ends with the fuel, or with the deadline.
            assert!(call(store, instance, "spin", &[]).is_none());
        }
        _ => {
            let memory = Memory::new(store.as_context_mut(), MemoryType::new(1, Some(2)));
            if let Ok(memory) = memory {
                memory.write(&mut *store, 5, b"host").expect("it fits");
                let _ = memory.grow(&mut *store, 1);
            }
        }
    }
}

/// Modules come and go as well, through every way of loading.
fn modules(shared: &Shared, random: &mut Random) {
    let constant = random.below(1000) as i32;
    let text =
        format!(r#"(module (memory 1) (data (i32.const 0) "{constant}") (func (export "run") (result i32) (i32.const {constant})))"#);
    let module = Module::new(&shared.engine, text).expect("the module is valid");
    let module = if random.below(2) == 0 {
        let image = module.serialize().expect("it was compiled");
        // SAFETY: the line above made the image.
        unsafe { Module::deserialize(&shared.engine, image) }.expect("the image is good")
    } else {
        module
    };
    let mut store = Store::new(&shared.engine, ());
    let _ = store.set_fuel(1000);
    store.set_epoch_deadline(1 << 40);
    let instance = Instance::new(&mut store, &module, &[]).expect("it has no imports");
    drop(module);
    let run = instance.get_typed_func::<(), i32>(&mut store, "run").expect("it is exported");
    assert_eq!(run.call(&mut store, ()).expect("it does not trap"), constant);
    assert!(Module::new(&shared.engine, "(module (func (result i32)))").is_err());
}

fn work(shared: &[Shared], mut random: Random, rounds: u64) {
    let mut mine: Vec<Vec<(Store<Host>, Instance)>> = shared.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        let at = random.below(shared.len() as u64) as usize;
        let (shared, mine) = (&shared[at], &mut mine[at]);
        match random.below(12) {
            0 | 1 => {
                let mut store = shared.store(&mut random);
                let instance = shared.instantiate(&mut store).expect("nothing is refused to a new store");
                mine.push((store, instance));
            }
            2 if !mine.is_empty() => {
                let at = random.below(mine.len() as u64) as usize;
                drop(mine.swap_remove(at));
            }
            3 if !mine.is_empty() => {
                let at = random.below(mine.len() as u64) as usize;
                shared.stores.lock().expect("nobody panics with the lock").push(mine.swap_remove(at));
            }
            4 => mine.extend(shared.stores.lock().expect("nobody panics with the lock").pop()),
            5 if !mine.is_empty() => {
                let at = random.below(mine.len() as u64) as usize;
                let (store, instance) = &mut mine[at];
                shared.refuel(store, 200_000);
                // Beyond the limit of the store it is refused.
                if let Ok(new) = shared.instantiate(store) {
                    let old = std::mem::replace(instance, new);
                    if random.below(2) == 0 {
                        store.drop_instance(old).expect("nothing refers to it, and no guest runs");
                    }
                }
            }
            6 => modules(shared, &mut random),
            _ if !mine.is_empty() => {
                let at = random.below(mine.len() as u64) as usize;
                let (store, instance) = &mut mine[at];
                act(shared, &mut random, (store, *instance));
            }
            _ => {}
        }
    }
}

/// All threads at once, until each has done its rounds. Everything is dropped afterwards.
fn run(seed: u64, rounds: u64) {
    let shared = Arc::new([
        Shared::new(false, |config| config),
        Shared::new(false, |config| config.memory_reservation(0).memory_guard_size(0).consume_fuel(true)),
        Shared::new(true, |config| config.consume_fuel(true)),
    ]);
    let done = Arc::new(AtomicBool::new(false));
    let ticker = {
        let (shared, done) = (Arc::clone(&shared), Arc::clone(&done));
        thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                shared.iter().for_each(|shared| shared.engine.increment_epoch());
                thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let workers: Vec<_> = (0..THREADS)
        .map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&*shared, Random(seed.wrapping_mul(1000) + number), rounds))
        })
        .collect();
    for worker in workers {
        worker.join().expect("no thread of the test panics");
    }
    done.store(true, Ordering::Relaxed);
    ticker.join().expect("the ticker does not panic");
    for shared in &*shared {
        let counter = u32::from_le_bytes(std::array::from_fn(|at| {
            // SAFETY: all guests are done.
            unsafe { *shared.memory.data()[at].get() }
        }));
        // A count may have been interrupted after it was made.
        assert!(u64::from(counter) >= shared.counted.load(Ordering::Relaxed), "atomic additions got lost");
    }
}

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    mappings: usize,
    resident_bytes: usize,
}

fn held() -> Held {
    let entries = |folder: &str| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the process has mappings");
    let pages = std::fs::read_to_string("/proc/self/statm").expect("the process has memory");
    let pages: usize = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("the second number is the resident pages");
    Held {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        mappings: maps.lines().count(),
        resident_bytes: pages * rustix::param::page_size(),
    }
}

/// What the process holds once threads that are on their way out are gone: the system still counts a thread for a moment after it was
/// joined, and those of the optimizing tier finish what they compile when their engine is dropped.
fn held_at_rest(threads: usize) -> Held {
    let patience = Instant::now();
    loop {
        let now = held();
        if now.threads <= threads || patience.elapsed() > Duration::from_secs(20) {
            return now;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, which is no number")))
}

#[test]
fn nothing_is_left_behind() {
    let rounds = number("PEREGRINE_STRESS_ROUNDS", 400);
    let seed = number("PEREGRINE_STRESS_SEED", 1);
    let slack_bytes = number("PEREGRINE_STRESS_SLACK_MIB", 64) as usize * (1 << 20);
    // Host functions panic on purpose: thousands of messages tell nothing.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"the host panics") {
            usual(info);
        }
    }));

    // What is made once and kept, pools and the allocator's arenas above all, is there after the first run.
    run(seed, rounds.min(300));
    // The test's own thread, and the one that waits for it.
    let before = held_at_rest(2);
    run(seed + 1, rounds);
    run(seed + 2, rounds);
    let after = held_at_rest(before.threads);
    println!("{rounds} rounds from seed {seed}: before {before:?}, after {after:?}");
    assert_eq!(after.descriptors, before.descriptors, "file descriptors were left open");
    assert_eq!(after.threads, before.threads, "threads were left running");
    assert!(after.mappings <= before.mappings + 60, "mappings were left: {} before, {} after", before.mappings, after.mappings);
    let kept_bytes = after.resident_bytes.saturating_sub(before.resident_bytes);
    assert!(kept_bytes <= slack_bytes, "{kept_bytes} bytes of memory were left: before {before:?}, after {after:?}");
}
