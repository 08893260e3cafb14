//! A process that forks while the engine's threads are at work: the child, which has none of them, goes on calling guests, compiles what it
//! calls for the first time, and optimizes what is hot there with threads of its own. The parent goes on as well.

use peregrine::{Config, Engine, Error, Global, GlobalType, Instance, Linker, Module, Mutability, Store, Strategy, Trap, Val, ValType};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the process forks, at moments that differ.
const FORKS: u64 = 12;
/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Functions with a loop each; the later ones are called by the child only.
fn text(functions: u32) -> String {
    let function = |number: u32| {
        format!(
            r#"(func (export "f{number}") (param i32) (result i64) (local $sum i64)
                (loop $again
                    (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const {}))
                        (i64.extend_i32_u (local.get 0))))
                    (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                (local.get $sum))"#,
            number * 2 + 3
        )
    };
    format!(
        r#"(module (import "host" "fork" (func $fork)) (func (export "fork") (call $fork)) {})"#,
        (0..functions).map(function).collect::<String>()
    )
}

fn expected(number: u32, turns: i32) -> i64 {
    (1..=turns).rev().fold(0i64, |sum, turn| sum.wrapping_mul(i64::from(number) * 2 + 3).wrapping_add(i64::from(turn)))
}

fn call(store: &mut Store<i32>, instance: &Instance, number: u32, turns: i32) {
    let function = instance.get_typed_func::<i32, i64>(&mut *store, &format!("f{number}")).expect("it is exported");
    assert_eq!(function.call(store, turns).expect("it does not trap"), expected(number, turns), "function {number}");
}

/// What the child does. Panics are its failures.
fn in_child(engine: &Engine, module: &Module, store: &mut Store<i32>, instance: &Instance, functions: u32) {
    let before = module.tiering_metrics();
    // What the parent compiled, and what it did not.
    (0..functions).for_each(|number| call(store, instance, number, 10));
    // Loops until threads of the child optimized something.
    let start = Instant::now();
    while module.tiering_metrics().optimized_functions == before.optimized_functions {
        assert!(start.elapsed() < PATIENCE, "nothing is optimized in the child: {:?}", module.tiering_metrics());
        call(store, instance, functions - 1, 20_000);
    }
    let other = Module::new(engine, r#"(module (func (export "run") (result i32) (i32.const 42)))"#).expect("it is valid");
    let other = Instance::new(&mut *store, &other, &[]).expect("there are no imports");
    let run = other.get_typed_func::<(), i32>(&mut *store, "run").expect("it is exported");
    assert_eq!(run.call(store, ()).expect("it does not trap"), 42);
}

/// Forks; 0 in the child, whose number else.
fn fork() -> i32 {
    // SAFETY: the child has one thread; it uses what is in memory, whose locks nobody else holds.
    unsafe { libc::fork() }
}

/// Waits for the child and says whether it was well.
fn is_well(child: i32) -> bool {
    let start = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: the child is ours.
        match unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } {
            0 if start.elapsed() > 2 * PATIENCE => {
                // SAFETY: as above; it is waited for afterwards.
                unsafe { (libc::kill(child, libc::SIGKILL), libc::waitpid(child, &mut status, 0)) };
                return false;
            }
            0 => std::thread::sleep(Duration::from_millis(5)),
            _ => return libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        }
    }
}

#[test]
fn a_child_process_goes_on() {
    const FUNCTIONS: u32 = 40;
    let engine = Engine::new(Config::new().strategy(Strategy::Tiered)).expect("an engine");
    let mut linker = Linker::new(&engine);
    // From within a call of a guest.
    linker.func_wrap("host", "fork", |mut caller: peregrine::Caller<'_, i32>| *caller.data_mut() = fork()).expect("it is new");
    for round in 0..FORKS {
        let module = Module::new(&engine, text(FUNCTIONS)).expect("it is valid");
        let mut store = Store::new(&engine, -1);
        let instance = linker.instantiate(&mut store, &module).expect("the import is there");
        // Enough to do for the threads in the background: they are in the middle of it now.
        for number in 0..FUNCTIONS / 2 {
            call(&mut store, &instance, number, 20_000);
        }
        std::thread::sleep(Duration::from_micros(round * 700));
        if round % 2 == 0 {
            let fork = instance.get_typed_func::<(), ()>(&mut store, "fork").expect("it is exported");
            fork.call(&mut store, ()).expect("it does not trap");
        } else {
            *store.data_mut() = fork();
        }
        match *store.data() {
            -1 => panic!("the process cannot fork: {}", std::io::Error::last_os_error()),
            0 => {
                let work = || in_child(&engine, &module, &mut store, &instance, FUNCTIONS);
                let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
                // SAFETY: ends the child, and nothing of the test with it.
                unsafe { libc::_exit(i32::from(!well)) };
            }
            child => {
                call(&mut store, &instance, FUNCTIONS - 2, 1000);
                assert!(is_well(child), "round {round}: the child hangs or failed");
                call(&mut store, &instance, FUNCTIONS - 3, 1000);
            }
        }
    }
}

#[test]
fn the_deadlines_of_a_child_process_hold() {
    let engine = Engine::new(Config::new().deadlines(true)).expect("an engine");
    let module = Module::new(&engine, r#"(module (func (export "spin") (loop (br 0))))"#).expect("it is valid");
    let spin_for = |store: &mut Store<()>, time: Option<Duration>| {
        let instance = Instance::new(&mut *store, &module, &[]).expect("there are no imports");
        let spin = instance.get_typed_func::<(), ()>(&mut *store, "spin").expect("it is exported");
        if let Some(time) = time {
            store.deadline(time).expect("there is a thread");
        }
        let error = spin.call(store, ()).expect_err("it never ends");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    };
    let (mut hour, mut second) = (Store::new(&engine, ()), Store::new(&engine, ()));
    hour.deadline(Duration::from_secs(3600)).expect("there is a thread");
    // While the process forks, deadlines come one after the other.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut store = Store::new(&engine, ());
            while !done.load(Ordering::Relaxed) {
                store.deadline(Duration::from_micros(20)).expect("there is a thread");
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        for round in 0..FORKS {
            second.deadline(Duration::from_secs(1)).expect("there is a thread");
            std::thread::sleep(Duration::from_micros(round * 70));
            let child = fork();
            if child == 0 {
                let work = || {
                    spin_for(&mut Store::new(&engine, ()), Some(Duration::from_millis(10)));
                    // Its deadline is the parent's.
                    if round == 0 {
                        spin_for(&mut second, None);
                    }
                };
                let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
                // SAFETY: ends the child, and nothing of the test with it.
                unsafe { libc::_exit(i32::from(!well)) };
            }
            let well = child > 0 && is_well(child);
            done.store(!well || round + 1 == FORKS, Ordering::Relaxed);
            assert!(well, "round {round}: the child hangs or failed");
        }
    });
}

#[test]
fn a_child_process_calls_a_module_that_its_parent_dropped() {
    let engine = Engine::new(Config::new().strategy(Strategy::Tiered)).expect("an engine");
    // The next rounds: rooms that were made after a fork.
    for round in 0..3 {
        let module = Module::new(&engine, text(8)).expect("it is valid");
        let mut store = Store::new(&engine, -1);
        let mut linker = Linker::new(&engine);
        linker.func_wrap("host", "fork", || {}).expect("it is new");
        let instance = linker.instantiate(&mut store, &module).expect("the import is there");
        (0..4).for_each(|number| call(&mut store, &instance, number, 10));
        let mut ends = [0; 2];
        // SAFETY: the descriptors are this test's.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        let child = fork();
        assert!(child >= 0, "the process cannot fork");
        if child == 0 {
            // SAFETY: waits until the parent closes its end, when it has dropped everything.
            unsafe {
                libc::close(ends[1]);
                libc::read(ends[0], [0u8; 1].as_mut_ptr().cast(), 1);
            }
            // What was compiled, what was not, and what only goes on after that.
            let work = || [3, 7, 0, 5, 1].into_iter().for_each(|number| call(&mut store, &instance, number, 10));
            let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
            // SAFETY: ends the child, and nothing of the test with it.
            unsafe { libc::_exit(i32::from(!well)) };
        }
        drop((store, module));
        // SAFETY: as above.
        unsafe { libc::close(ends[1]) };
        assert!(is_well(child), "round {round}: the child executes what is not there any more");
        // SAFETY: as above.
        unsafe { libc::close(ends[0]) };
    }
}

/// A store whose deadline comes when the process has forked, whose child sets none. `fork_and_run` says what it forked to, or what stopped the guest
/// in the child.
fn check_child(engine: &Engine, fork_and_run: impl Fn(&mut Store<i32>) -> Result<i32, Error>) {
    let parent = std::process::id();
    // On a machine that is busy with other things the deadline may come before the fork.
    for time in [1, 8, 64].map(|factor| factor * Duration::from_millis(500)) {
        let mut store = Store::new(engine, -1);
        store.deadline(time).expect("there is a thread");
        // An error is the child's; so is everything that is not a number.
        match fork_and_run(&mut store) {
            Ok(child) if child > 0 => {
                assert!(is_well(child), "the child hangs or failed");
                return;
            }
            outcome => {
                let stopped = outcome.is_err_and(|error| error.downcast_ref() == Some(&Trap::Interrupt));
                if std::process::id() != parent {
                    // SAFETY: ends the child, and nothing of the test with it.
                    unsafe { libc::_exit(i32::from(!stopped)) };
                }
                assert!(stopped, "the process did not fork");
            }
        }
    }
    panic!("the process never forked");
}

#[test]
fn the_deadlines_of_the_parent_hold_in_a_child_that_sets_none() {
    let engine = Engine::new(Config::new().deadlines(true)).expect("an engine");
    let text = r#"(module (import "host" "fork" (func $fork (result i32)))
        (func (export "spin") (loop (br 0)))
        (func (export "fork") (result i32) (call $fork))
        (func (export "fork and spin") (result i32) (local i32)
            (if (i32.eqz (local.tee 0 (call $fork))) (then (loop (br 0)))) (local.get 0)))"#;
    let module = Module::new(&engine, text).expect("it is valid");
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "fork", |_: peregrine::Caller<'_, i32>| fork()).expect("it is new");
    let call = |store: &mut Store<i32>, linker: &Linker<i32>, name: &str| {
        let instance = linker.instantiate(&mut *store, &module).expect("the import is there");
        instance.get_typed_func::<(), i32>(&mut *store, name).expect("it is exported").call(store, ())
    };
    let spin = |store: &mut Store<i32>| {
        let instance = linker.instantiate(&mut *store, &module).expect("the import is there");
        instance.get_typed_func::<(), ()>(&mut *store, "spin").expect("it is exported").call(store, ())
    };
    for _ in 0..2 {
        // Outside of guests: the child enters one.
        check_child(&engine, |store| match fork() {
            0 => spin(store).map(|()| -1),
            child => Ok(child),
        });
        // In a host function: the guest goes on in the child.
        check_child(&engine, |store| call(store, &linker, "fork and spin"));
        // In a host function of another store's guest, which returns: the child enters a guest of the store with the deadline.
        check_child(&engine, |store| match call(&mut Store::new(&engine, -1), &linker, "fork")? {
            0 => spin(store).map(|()| -1),
            child => Ok(child),
        });
        // The same, and the guest of the store with the deadline is below: it goes on.
        check_child(&engine, |store| {
            let mut through = Linker::new(&engine);
            let (engine, linker) = (engine.clone(), linker.clone());
            let nested = {
                let module = module.clone();
                move |_: peregrine::Caller<'_, i32>| {
                    let mut other = Store::new(&engine, -1);
                    let instance = linker.instantiate(&mut other, &module).expect("the import is there");
                    let fork = instance.get_typed_func::<(), i32>(&mut other, "fork").expect("it is exported");
                    fork.call(&mut other, ()).expect("it does not trap")
                }
            };
            through.func_wrap("host", "fork", nested).expect("it is new");
            call(store, &through, "fork and spin")
        });
        // In a host function that goes on in the child and asks.
        check_child(&engine, |store| {
            let mut asking = Linker::new(&engine);
            let ask = |caller: peregrine::Caller<'_, i32>| match fork() {
                0 => loop {
                    caller.check_interruption()?;
                    std::thread::sleep(Duration::from_millis(1));
                },
                child => Ok(child),
            };
            asking.func_wrap("host", "fork", ask).expect("it is new");
            call(store, &asking, "fork")
        });
    }
}

#[test]
fn a_fork_in_a_host_function_is_no_deadline_for_what_it_instantiates() {
    let engine = Engine::new(Config::new().epoch_interruption(true)).expect("an engine");
    let text = r#"(module (import "host" "fork" (func $fork)) (func (export "run") (call $fork)))"#;
    let module = Module::new(&engine, text).expect("it is valid");
    // Initializing it takes so long that it is looked for interruptions meanwhile.
    let large = format!(r#"(module (import "host" "at" (global $at i32)) (memory 32) (data (global.get $at) "{}"))"#, "x".repeat(1 << 20));
    let large = Module::new(&engine, large).expect("it is valid");
    let run = |ticks: u64| {
        let (engine_of_host, large) = (engine.clone(), large.clone());
        let mut linker = Linker::new(&engine);
        let host = move |mut caller: peregrine::Caller<'_, i32>| {
            if ticks == 1 {
                engine_of_host.increment_epoch();
            }
            let child = fork();
            *caller.data_mut() = child;
            let at = GlobalType::new(ValType::I32, Mutability::Const);
            let at = Global::new(&mut caller, at, Val::I32(8))?;
            Instance::new(&mut caller, &large, &[at.into()]).map(|_| ())
        };
        linker.func_wrap("host", "fork", host).expect("it is new");
        let mut store = Store::new(&engine, -1);
        store.set_epoch_deadline(ticks);
        let instance = linker.instantiate(&mut store, &module).expect("the import is there");
        let outcome = instance.get_typed_func::<(), ()>(&mut store, "run").expect("it is exported").call(&mut store, ());
        let interrupted = outcome.is_err_and(|error| error.downcast_ref() == Some(&Trap::Interrupt));
        let child = *store.data();
        let is_right = interrupted == (ticks == 1);
        if child == 0 {
            // SAFETY: ends the child, and nothing of the test with it.
            unsafe { libc::_exit(i32::from(!is_right)) };
        }
        assert!(is_right, "in the parent, with {ticks} ticks");
        assert!(is_well(child), "in the child, with {ticks} ticks");
    };
    run(1_000_000);
    // An epoch that is over is found there all the same.
    run(1);
}

/// A call that goes from one loop on to another one; the host says when.
const TWO_LOOPS: &str = r#"(module
    (import "host" "leave" (func $leave (param i32) (result i32)))
    (func (export "run") (result i32) (local $turns i32)
        (loop $first
            (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
            (br_if $first (i32.and (local.get $turns) (i32.const 0xffff)))
            (br_if $first (i32.eqz (call $leave (i32.const 0)))))
        (loop $second
            (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
            (br_if $second (i32.and (local.get $turns) (i32.const 0xffff)))
            (br_if $second (i32.eqz (call $leave (i32.const 1)))))
        (local.get $turns)))"#;

/// What stands for no process.
const NOT_FORKED: i32 = i32::MAX;

/// What the parent's threads are at is nobody's business in the child: another loop of the same call is entered there.
#[test]
fn a_child_process_leaves_another_loop_than_its_parent() {
    const ATTEMPTS: usize = 20;
    // A thread that is quick is done with the first loop before the fork.
    assert!((0..ATTEMPTS).any(|_| forks_while_a_loop_waits()), "the first loop never waits");
}

/// Whether the process forked while a loop waited. If so, the child was well.
fn forks_while_a_loop_waits() -> bool {
    // Keeps the one thread of the optimizing tier busy.
    let slow = format!(
        r#"(module (memory 1) (func (export "slow") (param i32) (result i32) (loop $again {}
            (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (local.get 0)))"#,
        "(i32.store (i32.const 8) (i32.mul (i32.load (i32.const 4)) (i32.load (i32.const 8))))".repeat(3000)
    );
    let engine = Engine::new(Config::new().strategy(Strategy::Tiered).parallel_compilation(false)).expect("an engine");
    let module = Module::new(&engine, TWO_LOOPS).expect("it is valid");
    let slow_module = Module::new(&engine, slow).expect("it is valid");
    let mut store = Store::new(&engine, -1);
    let (metrics, start) = (module.clone(), Instant::now());
    let mut linker = Linker::new(&engine);
    let slow_engine = engine.clone();
    // How often the host was asked since the function was optimized, and how many loops were when it forked.
    let state = std::sync::Mutex::new((0, 0));
    linker
        .func_wrap("host", "leave", move |mut caller: peregrine::Caller<'_, i32>, which: i32| {
            let state = &mut *state.lock().expect("one thread");
            assert!(start.elapsed() < PATIENCE, "{:?}", metrics.tiering_metrics());
            let now = metrics.tiering_metrics();
            if which == 1 {
                return i32::from(*caller.data() > 0 || now.loop_entries > state.1);
            }
            if now.optimized_functions == 0 {
                return 0;
            }
            state.0 += 1;
            if state.0 == 1 {
                let mut store = Store::new(&slow_engine, ());
                let instance = Instance::new(&mut store, &slow_module, &[]).expect("it can be made");
                let slow = instance.get_typed_func::<i32, i32>(&mut store, "slow").expect("it is exported");
                slow.call(&mut store, 600).expect("it does not trap");
            }
            // Meanwhile the first loop is asked for, and waits.
            if state.0 < 40 {
                return 0;
            }
            state.1 = now.loop_entries;
            *caller.data_mut() = if state.1 > 0 { NOT_FORKED } else { fork() };
            1
        })
        .expect("it is new");
    let instance = linker.instantiate(&mut store, &module).expect("the import is there");
    let run = instance.get_typed_func::<(), i32>(&mut store, "run").expect("it is exported");
    let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.call(&mut store, ()).is_ok())).unwrap_or(false);
    match *store.data() {
        NOT_FORKED => false,
        // SAFETY: ends the child, and nothing of the test with it.
        0 => unsafe { libc::_exit(i32::from(!well)) },
        child => {
            assert!(well && child > 0 && is_well(child), "the child stays in the baseline: {child}");
            true
        }
    }
}

/// Who asks for metrics walks over all stores, which takes its time.
#[test]
fn a_child_process_finds_no_list_of_stores_locked() {
    const STORES: usize = 2000;
    let engine = Engine::new(&Config::new()).expect("an engine");
    let text = r#"(module (memory 1) (table 10 funcref) (func (export "run") (result i32) (i32.load (i32.const 0))))"#;
    let module = Module::new(&engine, text).expect("it is valid");
    // It is listed as one whose guest ran, and its memory and table are too.
    let run = || {
        let mut store = Store::new(&engine, 0);
        let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
        let run = instance.get_typed_func::<(), i32>(&mut store, "run").expect("it is exported");
        assert_eq!(run.call(&mut store, ()).expect("it does not trap"), 0);
        store
    };
    let stores: Vec<Store<i32>> = (0..STORES).map(|_| run()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(engine.metrics().calls >= STORES as u64);
            }
        });
        for round in 0..3 * FORKS {
            std::thread::sleep(Duration::from_micros(200 + round * 7));
            let child = fork();
            if child == 0 {
                let work = || {
                    let kept = [run(), run()];
                    assert_eq!(engine.metrics().calls, STORES as u64 + 2);
                    drop(kept);
                };
                let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
                // SAFETY: ends the child, and nothing of the test with it.
                unsafe { libc::_exit(i32::from(!well)) };
            }
            let well = child > 0 && is_well(child);
            done.store(!well || round + 1 == 3 * FORKS, Ordering::Relaxed);
            assert!(well, "round {round}: the child hangs or failed");
        }
    });
    drop(stores);
}

/// Who makes modules, instantiates them and asks for what was compiled locks what code is put into.
#[test]
fn a_child_process_finds_no_room_for_code_locked() {
    const FUNCTIONS: u32 = 300;
    let engine = Engine::new(Config::new().strategy(Strategy::Baseline)).expect("an engine");
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "fork", || {}).expect("it is new");
    let module = Module::new(&engine, text(FUNCTIONS)).expect("it is valid");
    let mut store = Store::new(&engine, 0);
    let instance = linker.instantiate(&mut store, &module).expect("the import is there");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The room of the module that the child calls, and what rooms of all modules have together.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(module.tiering_metrics().room_bytes > 0);
            }
        });
        scope.spawn(|| {
            let small = text(2);
            while !done.load(Ordering::Relaxed) {
                let module = Module::new(&engine, &small).expect("it is valid");
                let mut store = Store::new(&engine, 0);
                let instance = linker.instantiate(&mut store, &module).expect("the import is there");
                assert!(instance.get_func(&mut store, "f1").is_some());
            }
        });
        for round in 0..3 * FORKS {
            std::thread::sleep(Duration::from_micros(200 + round * 7));
            let child = fork();
            if child == 0 {
                let work = || {
                    // What was never called goes into the room that was asked about; another module gets a room of its own.
                    (0..8).for_each(|number| call(&mut store, &instance, number, 10));
                    let other = Module::new(&engine, text(8)).expect("it is valid");
                    let mut store = Store::new(&engine, 0);
                    let instance = linker.instantiate(&mut store, &other).expect("the import is there");
                    (0..8).for_each(|number| call(&mut store, &instance, number, 10));
                };
                let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
                // SAFETY: ends the child, and nothing of the test with it.
                unsafe { libc::_exit(i32::from(!well)) };
            }
            let well = child > 0 && is_well(child);
            done.store(!well || round + 1 == 3 * FORKS, Ordering::Relaxed);
            assert!(well, "round {round}: the child hangs or failed");
        }
    });
}

/// Lets a child process have no thread, or as many as it may have.
fn limit_threads(is_none: bool) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the child is alone in its process; who may do everything is not limited, so it is nobody from now on.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NPROC, &mut limit), 0);
        limit.rlim_cur = if is_none { 0 } else { limit.rlim_max };
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &limit), 0);
        if is_none && libc::geteuid() == 0 {
            assert_eq!(libc::setresuid(65534, 65534, 65534), 0);
        }
    }
}

/// A call that ended in a child in which no guest can go on says why it ended, and leaves nothing to the next call.
#[test]
fn what_ended_a_call_is_told_where_the_guest_below_cannot_be_prepared() {
    let engine = Engine::new(Config::new().deadlines(true)).expect("an engine");
    let text = r#"(module (import "host" "inner" (func $inner (param i32) (result i32)))
        (func (export "run") (param i32) (result i32) (call $inner (local.get 0))))"#;
    let module = Module::new(&engine, text).expect("it is valid");
    let mut linker = Linker::<i32>::new(&engine);
    linker
        .func_wrap("host", "inner", |number: i32| match number {
            0 => match fork() {
                0 => {
                    limit_threads(true);
                    Err(Error::msg("this is the child"))
                }
                child => Ok(child),
            },
            number => Ok(number),
        })
        .expect("it is new");
    let mut outer_linker = Linker::<i32>::new(&engine);
    let (inner_engine, inner_module) = (engine.clone(), module.clone());
    outer_linker
        .func_wrap("host", "inner", move |number: i32| {
            let mut store = Store::new(&inner_engine, 0);
            store.deadline(Duration::from_secs(3600)).expect("there is a thread");
            let instance = linker.instantiate(&mut store, &inner_module).expect("the import is there");
            let run = instance.get_typed_func::<i32, i32>(&mut store, "run").expect("it is exported");
            let error = match run.call(&mut store, number) {
                Ok(child) => return child,
                Err(error) => format!("{error:#}"),
            };
            limit_threads(false);
            let next = run.call(&mut store, 3).map_err(|error| format!("{error:#}"));
            let well = error.contains("this is the child") && next == Ok(3);
            if !well {
                eprintln!("{error}; {next:?}");
            }
            // SAFETY: ends the child, and nothing of the test with it.
            unsafe { libc::_exit(i32::from(!well)) }
        })
        .expect("it is new");
    let mut store = Store::new(&engine, 0);
    let instance = outer_linker.instantiate(&mut store, &module).expect("the import is there");
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run").expect("it is exported");
    let child = run.call(&mut store, 0).expect("it does not trap");
    assert!(child > 0 && is_well(child), "the child hangs or failed");
}
