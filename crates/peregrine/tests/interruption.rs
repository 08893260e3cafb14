//! Guests that are interrupted: they go on as if nothing had happened, let others run, or stop; by epochs, by the clock and by fuel.

mod patience;

use patience::wait_for;
use peregrine::{
    AsContextMut, Caller, Config, Engine, Error, Extern, Instance, Linker, Memory, Module, Result, Store, Strategy, Trap, TypedFunc,
    UpdateDeadline, WasmBacktrace,
};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// An engine for each compiler.
fn engines(configure: impl Fn(&mut Config) -> &mut Config) -> Vec<Engine> {
    let engine = |strategy| Engine::new(configure(Config::new().strategy(strategy))).unwrap();
    vec![engine(Strategy::Cranelift), engine(Strategy::Winch), engine(Strategy::Tiered)]
}

fn with_epochs() -> Vec<Engine> {
    engines(|config| config.epoch_interruption(true))
}

/// Polls until it is ready. Gives the number of polls too.
fn drive<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    for polls in 1.. {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return (output, polls);
        }
    }
    unreachable!()
}

fn start<T: Send>(store: &mut Store<T>, text: &str) -> Instance {
    let module = Module::new(&store.engine().clone(), text).unwrap();
    Instance::new(store, &module, &[]).unwrap()
}

/// A function `run(n) -> i64` with a loop of `n` turns over which more values are alive than there are registers of any kind. `inner` is code
/// in the loop.
fn crowded(inner: &str) -> String {
    let (mut locals, mut turn, mut sum) = (String::new(), String::new(), String::from("(i64.const 0)"));
    for n in 0..20 {
        write!(locals, "(local $i{n} i64)").unwrap();
        write!(turn, "(local.set $i{n} (i64.add (local.get $i{n}) (i64.xor (local.get $i{}) (i64.const {}))))", (n + 7) % 20, n * 77 + 1)
            .unwrap();
        sum = format!("(i64.add (i64.rotl {sum} (i64.const 3)) (local.get $i{n}))");
    }
    for n in 0..18 {
        write!(locals, "(local $f{n} f64)").unwrap();
        write!(turn, "(local.set $f{n} (f64.add (local.get $f{n}) (f64.const {}.5)))", n + 1).unwrap();
        sum = format!("(i64.add (i64.rotl {sum} (i64.const 3)) (i64.reinterpret_f64 (local.get $f{n})))");
    }
    for n in 0..18 {
        write!(locals, "(local $v{n} v128)").unwrap();
        write!(turn, "(local.set $v{n} (i32x4.add (local.get $v{n}) (v128.const i32x4 {} 2 3 {n})))", n + 1).unwrap();
        sum = format!("(i64.add (i64.rotl {sum} (i64.const 3)) (i64x2.extract_lane 0 (local.get $v{n})))");
        sum = format!("(i64.add (i64.rotl {sum} (i64.const 3)) (i64x2.extract_lane 1 (local.get $v{n})))");
    }
    format!(
        r#"(module (memory 1) (func (export "run") (param $n i32) (result i64) {locals}
            (loop $again {turn} {inner}
                (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            {sum}))"#
    )
}

fn run_of<T: Send>(store: &mut Store<T>, text: &str) -> TypedFunc<i32, i64> {
    start(store, text).get_typed_func(store, "run").unwrap()
}

#[test]
fn calls_in_short_loops_are_interrupted() {
    // Each call makes two more in a loop that nobody looks in, a thousand deep: it takes forever.
    let text = r#"(module (func $f (export "run") (param $depth i32) (result i64) (local $turn i32)
        (if (local.get $depth) (then
            (loop $again
                (drop (call $f (i32.sub (local.get $depth) (i32.const 1))))
                (br_if $again (i32.lt_u (local.tee $turn (i32.add (local.get $turn) (i32.const 1))) (i32.const 2))))))
        (i64.const 0)))"#;
    for engine in with_epochs() {
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let run = run_of(&mut store, text);
        engine.increment_epoch();
        let error = run.call(&mut store, 1000).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
    }
}

/// One way back carries the counter around to where the other one is taken.
#[test]
fn a_loop_whose_counter_goes_around_is_interrupted() {
    let around = r#"(module (func (export "run") (param i32) (result i64) (local $i i32)
        (loop
            (local.set $i (i32.add (local.get $i) (i32.const 0x40000000)))
            (br_if 0 (i32.lt_u (local.get $i) (i32.const 0x40000001)))
            (br_if 0 (i32.lt_s (local.get $i) (i32.const 0xc0000001))))
        (i64.const 0)))"#;
    for engine in with_epochs() {
        let mut store = Store::new(&engine, 0);
        store.epoch_deadline_callback(|mut context| {
            *context.data_mut() += 1;
            // More often than at entries.
            Ok(if *context.data() > 100 { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(0) })
        });
        let run = run_of(&mut store, around);
        assert_eq!(run.call(&mut store, 1).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    }
}

/// Short loops in callees; long functions in a row.
#[test]
fn nothing_runs_for_long_without_being_interrupted() {
    let short = "(local.set $i (i32.const 0)) (loop (local.set $f (f64.div (local.get $f) (f64.const 1.1)))
        (br_if 0 (i32.ne (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4000))))";
    // The calls that came back are counted at address 0.
    let call = |call: &str| format!("(drop {call}) (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))");
    let callee = format!(
        r#"(module (memory (export "memory") 1 1 shared) (func $leaf (result f64) (local $i i32) (local $f f64) {} (local.get $f))
            (func (export "run") (param i32) (result i64) (loop $again {} (br $again)) (i64.const 0)))"#,
        short.repeat(50),
        call("(call $leaf)").repeat(1000)
    );
    let straight = format!(
        r#"(module (memory (export "memory") 1 1 shared) (func $leaf (param f64) (result f64) {} (local.get 0))
            (func (export "run") (param i32) (result i64) (loop $again {} (br $again)) (i64.const 0)))"#,
        "(local.set 0 (f64.sqrt (f64.div (local.get 0) (f64.const 1.1))))".repeat(20_000),
        call("(call $leaf (f64.const 2))").repeat(20_000)
    );
    for engine in engines(|config| config.epoch_interruption(true).shared_memory(true)) {
        for text in [&callee, &straight] {
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(1);
            let instance = start(&mut store, text);
            let memory = instance.get_shared_memory(&mut store, "memory").unwrap();
            let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
            // SAFETY: the word is aligned and inside, and the guest accesses it by atomic instructions.
            let calls = unsafe { AtomicU32::from_ptr(memory.data()[0].get().cast()) };
            let at_deadline = std::thread::scope(|scope| {
                let ticker = scope.spawn(|| {
                    wait_for("a call", || (calls.load(Ordering::SeqCst) != 0).then_some(()));
                    engine.increment_epoch();
                    calls.load(Ordering::SeqCst)
                });
                assert_eq!(run.call(&mut store, 1).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
                ticker.join().unwrap()
            });
            // At most the call that was under way came back after the deadline.
            let later = calls.load(Ordering::SeqCst) - at_deadline;
            assert!(later <= 1, "{later} calls after the deadline");
        }
    }
}

#[test]
fn a_guest_goes_on_with_all_its_values() {
    for engine in with_epochs() {
        let text = crowded("");
        let mut store = Store::new(&engine, 0);
        store.set_epoch_deadline(1);
        let run = run_of(&mut store, &text);
        let expected = run.call(&mut store, 5000).unwrap();
        // The deadline has come again each time that it is moved: before the call, at the entry, since the function is long, and in every turn.
        store.epoch_deadline_callback(|mut context| {
            *context.data_mut() += 1;
            Ok(UpdateDeadline::Continue(0))
        });
        store.set_epoch_deadline(0);
        assert_eq!(run.call(&mut store, 5000).unwrap(), expected);
        assert_eq!(*store.data(), 5002);
    }
}

#[test]
fn a_guest_yields_in_every_turn_and_goes_on() {
    for engine in with_epochs() {
        let text = crowded("");
        let mut store = Store::new(&engine, ());
        let run = run_of(&mut store, &text);
        store.set_epoch_deadline(1);
        let expected = run.call(&mut store, 500).unwrap();
        store.epoch_deadline_async_yield_and_update(0);
        store.set_epoch_deadline(0);
        let (sum, polls) = drive(run.call_async(&mut store, 500));
        assert_eq!((sum.unwrap(), polls), (expected, 503));
        // Each poll on a thread of its own.
        let (sum, polls) = {
            let mut call = pin!(run.call_async(&mut store, 20));
            let mut polls = 1;
            let mut poll = || {
                std::thread::scope(|scope| {
                    let polled = scope.spawn(|| call.as_mut().poll(&mut Context::from_waker(Waker::noop())));
                    polled.join().unwrap()
                })
            };
            loop {
                match poll() {
                    Poll::Ready(sum) => break (sum.unwrap(), polls),
                    Poll::Pending => polls += 1,
                }
            }
        };
        store.set_epoch_deadline(1);
        assert_eq!((sum, polls), (run.call(&mut store, 20).unwrap(), 23));
    }
}

#[test]
fn a_ticking_epoch_interrupts_again_and_again() {
    for engine in with_epochs() {
        let mut store = Store::new(&engine, 0);
        let run = run_of(&mut store, &crowded(""));
        store.set_epoch_deadline(u64::MAX);
        let expected = run.call(&mut store, 20_000).unwrap();
        store.epoch_deadline_callback(|mut context| {
            *context.data_mut() += 1;
            Ok(UpdateDeadline::Continue(1))
        });
        store.set_epoch_deadline(1);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    engine.increment_epoch();
                    std::thread::yield_now();
                }
            });
            for _ in 0..5000 {
                assert_eq!(run.call(&mut store, 20_000).unwrap(), expected);
                if *store.data() > 300 {
                    break;
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(*store.data() > 10, "{} interruptions", store.data());
    }
}

#[test]
fn what_the_callback_says_is_done() {
    for engine in with_epochs() {
        let mut store = Store::new(&engine, 0);
        let run = run_of(&mut store, &crowded(""));
        // A new store's deadline has come, and ends the call.
        assert_eq!(run.call(&mut store, 5).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
        store.epoch_deadline_callback(|mut context| {
            *context.data_mut() += 1;
            match *context.data() {
                1 => Ok(UpdateDeadline::Continue(0)),
                2 => Err(Error::msg("enough")),
                3 => panic!("much"),
                4 => Ok(UpdateDeadline::Yield(0)),
                _ => Ok(UpdateDeadline::Interrupt),
            }
        });
        let error = run.call(&mut store, 5).unwrap_err();
        assert_eq!((error.root_cause().to_string().as_str(), *store.data()), ("enough", 2));
        assert_eq!(error.downcast_ref::<WasmBacktrace>().unwrap().frames().len(), 1, "1 was before the call");
        let caught = catch_unwind(AssertUnwindSafe(|| run.call(&mut store, 5))).unwrap_err();
        assert_eq!(caught.downcast_ref::<&str>(), Some(&"much"));
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(0)));
        assert!(run.call(&mut store, 5).unwrap_err().root_cause().to_string().contains("call_async"));
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Interrupt));
        assert_eq!(run.call(&mut store, 5).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
        store.epoch_deadline_callback(|_| {
            let mut turns = 3;
            let wait = std::future::poll_fn(move |_| {
                turns -= 1;
                if turns == 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            Ok(UpdateDeadline::YieldCustom(0, Box::pin(wait)))
        });
        assert_eq!(drive(run.call_async(&mut store, 5)).1, 15, "two waits before the call, at the entry and in each of five turns");
        store.epoch_deadline_trap();
        assert_eq!(run.call(&mut store, 5).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
        store.set_epoch_deadline(1);
        run.call(&mut store, 5).unwrap();
    }
}

/// `run` calls itself 3 deep and loops there; `fail` traps.
const NESTED: &str = r#"(module
    (func $run (export "run") (param $depth i32)
        (if (local.get $depth) (then (call $run (i32.sub (local.get $depth) (i32.const 1))) (return)))
        (loop $again (br $again)))
    (func $down (export "down") (result i32) (i32.add (i32.const 1) (call $down)))
    (func (export "fail") unreachable))"#;

#[test]
fn backtraces_are_exact_at_interruptions() {
    for engine in with_epochs() {
        let mut store = Store::new(&engine, (0, None::<Error>));
        let instance = start(&mut store, NESTED);
        let run = instance.get_typed_func::<i32, ()>(&mut store, "run").unwrap();
        let places = |error: &Error| {
            let frames = error.downcast_ref::<WasmBacktrace>().unwrap().frames();
            frames.iter().map(|frame| (frame.func_index(), frame.module_offset())).collect::<Vec<_>>()
        };
        // Each look asks: those at the four entries let the guest go on, and many in the loop.
        let is_late = |looks: &mut u32| {
            *looks += 1;
            *looks > 1000
        };
        store.epoch_deadline_callback(move |mut context| {
            Ok(if is_late(&mut context.data_mut().0) { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(0) })
        });
        let error = run.call(&mut store, 3).unwrap_err();
        let trapped = places(&error);
        assert_eq!(trapped.len(), 4, "{error:?}");
        // The three callers are at the same place, the loop elsewhere.
        assert!(trapped[1..].iter().all(|place| *place == trapped[1]) && trapped[0] != trapped[1], "{trapped:?}");
        assert!(trapped.iter().all(|place| place.1.is_some()));

        // From within the callback another guest function traps: its frame is above those of the one that was interrupted.
        *store.data_mut() = (0, None);
        store.epoch_deadline_callback(move |mut context| {
            if !is_late(&mut context.data_mut().0) {
                return Ok(UpdateDeadline::Continue(0));
            }
            context.as_context_mut().set_epoch_deadline(1_000_000);
            let fail = instance.get_typed_func::<(), ()>(&mut context, "fail")?;
            let error = fail.call(&mut context, ()).unwrap_err();
            context.data_mut().1 = Some(error);
            Ok(UpdateDeadline::Interrupt)
        });
        store.set_epoch_deadline(0);
        let error = run.call(&mut store, 3).unwrap_err();
        let (at_end, inside) = (places(&error), places(&store.data_mut().1.take().unwrap()));
        assert_eq!(at_end.len(), 4, "{error:?}");
        assert_eq!(at_end, inside[1..], "{error:?}");
        assert_eq!(inside[0].0, 2);
    }
}

#[test]
fn interruption_and_the_end_of_the_stack_get_along() {
    for engine in with_epochs() {
        let mut store = Store::new(&engine, ());
        let instance = start(&mut store, NESTED);
        let down = instance.get_typed_func::<(), i32>(&mut store, "down").unwrap();
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(0)));
        for _ in 0..3 {
            assert_eq!(down.call(&mut store, ()).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
        }
    }
}

#[test]
fn fuel_is_the_same_with_and_without_yields() {
    let text = crowded("(memory.fill (i32.const 0) (i32.const 7) (i32.const 100))");
    for engine in engines(|config| config.consume_fuel(true)) {
        let mut store = Store::new(&engine, ());
        assert!(store.fuel_async_yield_interval(Some(0)).is_err());
        let run = run_of(&mut store, &text);
        let mut outcome = |fuel: u64, interval: Option<u64>| {
            store.fuel_async_yield_interval(interval).unwrap();
            store.set_fuel(fuel).unwrap();
            assert_eq!(store.get_fuel().unwrap(), fuel);
            let (result, polls) = drive(run.call_async(&mut store, 100));
            let result = result.map_err(|error| *error.downcast_ref::<Trap>().unwrap());
            ((result, store.get_fuel().unwrap()), polls)
        };
        let (plain, _) = outcome(1_000_000, None);
        assert!(plain.0.is_ok());
        let used = 1_000_000 - plain.1;
        for interval in [1, 7, 1000, 10_000_000] {
            let (result, polls) = outcome(1_000_000, Some(interval));
            assert_eq!(result, plain, "with yields after {interval}");
            assert!(polls as u64 <= 1 + used / interval.max(1) + 1);
            assert!(interval > 1000 || polls > 20, "{polls} polls with {interval}");
        }
        for fuel in [0, 1, used / 3, used / 2 + 11, used - 1, used, used + 1] {
            let (plain, _) = outcome(fuel, None);
            for interval in [1, 7, 1000] {
                assert_eq!(outcome(fuel, Some(interval)).0, plain, "{fuel} units, yields after {interval}");
            }
        }
        // A call that is no future does not yield, and is as exact.
        store.set_fuel(1_000_000).unwrap();
        run.call(&mut store, 100).unwrap();
        assert_eq!(store.get_fuel().unwrap(), plain.1);
    }
}

/// Long operations: on 64 MiB of memory, and on tables of a million elements.
const LONG: &str = r#"(module
    (memory (export "memory") 1024)
    (table $a 1000000 funcref) (table $b 1000000 funcref) (table $c 10 2000000 funcref)
    (func $f (result i32) (i32.const 42))
    (elem declare func $f)
    (func (export "fill") (memory.fill (i32.const 1) (i32.const 7) (i32.const 67000000)))
    (func (export "copy") (memory.copy (i32.const 1000) (i32.const 0) (i32.const 60000000)))
    (func (export "table") (result i32)
        (table.fill $a (i32.const 1) (ref.func $f) (i32.const 999999))
        (table.copy $b $a (i32.const 0) (i32.const 1) (i32.const 999999))
        (table.copy $a $a (i32.const 0) (i32.const 1) (i32.const 999999))
        (i32.add
            (i32.mul (i32.const 1000) (table.grow $c (ref.func $f) (i32.const 1000000)))
            (i32.add (call_indirect $b (result i32) (i32.const 999998)) (call_indirect $c (result i32) (i32.const 1000009))))))"#;

#[test]
fn long_operations_let_others_run_and_go_on() {
    for engine in with_epochs() {
        let mut store = Store::new(&engine, ());
        let instance = start(&mut store, LONG);
        let memory: Memory = instance.get_memory(&mut store, "memory").unwrap();
        store.epoch_deadline_async_yield_and_update(0);
        let fill = instance.get_typed_func::<(), ()>(&mut store, "fill").unwrap();
        let (result, polls) = drive(fill.call_async(&mut store, ()));
        result.unwrap();
        assert!(polls > 60, "{polls} polls");
        let bytes = memory.data(&store);
        assert!(bytes[0] == 0 && bytes[1..=67_000_000].iter().all(|byte| *byte == 7) && bytes[67_000_001] == 0);
        // Overlapping, towards higher addresses.
        memory.data_mut(&mut store)[..60_000_000]
            .chunks_mut(4)
            .enumerate()
            .for_each(|(n, chunk)| chunk.copy_from_slice(&(n as u32).to_le_bytes()));
        let copy = instance.get_typed_func::<(), ()>(&mut store, "copy").unwrap();
        let (result, polls) = drive(copy.call_async(&mut store, ()));
        result.unwrap();
        assert!(polls > 50, "{polls} polls");
        let mut chunks = memory.data(&store)[1000..60_001_000].chunks(4).enumerate();
        assert!(chunks.all(|(n, chunk)| chunk == (n as u32).to_le_bytes()));
        // Dropped in the middle.
        memory.data_mut(&mut store).fill(0);
        {
            let mut call = pin!(fill.call_async(&mut store, ()));
            for _ in 0..5 {
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
        }
        let bytes = memory.data(&store);
        assert!(bytes[1] == 7 && bytes[40 << 20] == 0);
        let table = instance.get_typed_func::<(), i32>(&mut store, "table").unwrap();
        let (result, polls) = drive(table.call_async(&mut store, ()));
        assert_eq!(result.unwrap(), 10_084);
        assert!(polls > 40, "{polls} polls");
        // Asked between slices too.
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(0)));
        fill.call(&mut store, ()).unwrap();
        assert_eq!(memory.data(&store)[67_000_000], 7);
        store.epoch_deadline_trap();
        assert_eq!(fill.call(&mut store, ()).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    }
}

#[test]
fn a_fill_stops_at_the_slice_after_that_in_which_it_is_told() {
    // What is done between two looks, and as much again for where the other thread sees less than was written.
    const MOST_BYTES: usize = 2 << 20;
    const LEN: usize = 1 << 30;
    let text = format!(
        r#"(module (memory (export "memory") 16384 16384 shared)
            (func (export "run") (param i32) (result i64) (memory.fill (i32.const 0) (i32.const 7) (i32.const {LEN})) (i64.const 0)))"#
    );
    // How many bytes were written after it was told; nothing if it was done before.
    let later = |engine: &Engine| {
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(1);
        let instance = start(&mut store, &text);
        let memory = instance.get_shared_memory(&mut store, "memory").unwrap();
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
        // SAFETY: bytes inside of the memory; nobody writes anything else than 7.
        let is_written = |at: usize| unsafe { AtomicU8::from_ptr(memory.data()[at].get()) }.load(Ordering::SeqCst) == 7;
        // It is filled from its start on.
        let written = || {
            let (mut from, mut to) = (0, LEN);
            while from < to {
                let middle = from.midpoint(to);
                (from, to) = if is_written(middle) { (middle + 1, to) } else { (from, middle) };
            }
            from
        };
        std::thread::scope(|scope| {
            let ticker = scope.spawn(|| {
                wait_for("the first page", || is_written(65_536).then_some(()));
                engine.increment_epoch();
                written()
            });
            let result = run.call(&mut store, 1);
            let told = ticker.join().unwrap();
            let error = result.err()?;
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
            Some(written() - told)
        })
    };
    for engine in engines(|config| config.epoch_interruption(true).shared_memory(true)) {
        let later = (0..20).find_map(|_| later(&engine)).expect("one of many fills takes longer than to begin to look");
        assert!(later <= MOST_BYTES, "{later} bytes after it was told");
    }
}

#[test]
fn a_deadline_by_the_clock_stops_everything() {
    const HUGE: &str = r#"(module
        (memory (export "memory") 65536) (table $a 10000000 funcref) (table $b 10000000 funcref) (table $c 0 10000000 funcref)
        (data (i32.const 0) "\01")
        (func $f) (elem declare func $f)
        (func (export "spin") (loop (br 0)))
        (func (export "fill") (memory.fill (i32.const 65536) (i32.const 7) (i32.const 0xf0000000)) (loop (br 0)))
        (func (export "copy") (memory.copy (i32.const 65536) (i32.const 0) (i32.const 0xf0000000)) (loop (br 0)))
        (func (export "tables") (loop $again
            (table.fill $a (i32.const 0) (ref.func $f) (i32.const 10000000))
            (table.copy $b $a (i32.const 0) (i32.const 0) (i32.const 10000000))
            (br $again)))
        (func (export "grow") (drop (table.grow $c (ref.func $f) (i32.const 10000000))) (loop (br 0))))"#;
    // What is written last: the copy is to higher addresses, where it begins.
    let written_last = [("fill", 0xf000_ffff), ("copy", 65536)];
    for engine in engines(|config| config.deadlines(true)) {
        let module = Module::new(&engine, HUGE).unwrap();
        for name in ["spin", "fill", "copy", "tables", "grow"] {
            let is_stopped_within = || {
                let mut store = Store::new(&engine, ());
                let instance = Instance::new(&mut store, &module, &[]).unwrap();
                let memory = instance.get_memory(&mut store, "memory").unwrap();
                let function = instance.get_typed_func::<(), ()>(&mut store, name).unwrap();
                let after = Duration::from_millis(15);
                let start = Instant::now();
                store.deadline(after).unwrap();
                let error = function.call(&mut store, ()).unwrap_err();
                assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
                assert!(start.elapsed() >= after, "{name} stopped early");
                written_last.iter().all(|(operation, at)| *operation != name || memory.data(&store)[*at] == 0)
            };
            // On a machine that is busy with other things, the thread that tells the time may come late.
            assert!((0..20).any(|_| is_stopped_within()), "{name} is not stopped before it is done");
        }
        let mut store = Store::new(&engine, ());
        let instance = start(&mut store, &crowded(""));
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
        run.call(&mut store, 5).unwrap();
        store.deadline(Duration::ZERO).unwrap();
        for _ in 0..2 {
            assert_eq!(run.call(&mut store, 5).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
        }
        store.set_deadline(None).unwrap();
        run.call(&mut store, 5).unwrap();
        store.deadline(Duration::from_secs(3600)).unwrap();
        run.call(&mut store, 5).unwrap();
    }
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    assert!(store.deadline(Duration::ZERO).unwrap_err().to_string().contains("Config::deadlines"));
    store.set_deadline(None).unwrap();
}

#[test]
fn many_stores_have_deadlines_at_once() {
    let engine = Engine::new(Config::new().deadlines(true)).unwrap();
    let module = Module::new(&engine, r#"(module (func (export "spin") (loop (br 0))) (func (export "run")))"#).unwrap();
    let mut stores: Vec<Store<()>> = (0..200).map(|_| Store::new(&engine, ())).collect();
    let mut rest = stores.split_off(100);
    // Half of them never come to theirs.
    rest.iter_mut().for_each(|store| store.deadline(Duration::from_millis(1)).unwrap());
    drop(rest);
    for (n, store) in stores.iter_mut().enumerate() {
        store.deadline(Duration::from_millis(1 + n as u64 % 7)).unwrap();
    }
    for mut store in stores {
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let spin = instance.get_typed_func::<(), ()>(&mut store, "spin").unwrap();
        assert_eq!(spin.call(&mut store, ()).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    }
}

#[test]
fn epochs_and_the_clock_are_told_apart() {
    for engine in with_epochs() {
        let mut store = Store::new(&engine, ());
        let run = run_of(&mut store, &crowded(""));
        // The epoch would go on; the clock ends it.
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(0)));
        run.call(&mut store, 10).unwrap();
        store.deadline(Duration::ZERO).unwrap();
        assert_eq!(run.call(&mut store, 10).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
        store.set_deadline(None).unwrap();
        run.call(&mut store, 10).unwrap();
        // Clearing the one leaves the other.
        store.epoch_deadline_trap();
        store.set_deadline(None).unwrap();
        assert!(run.call(&mut store, 10).is_err());
    }
}

#[test]
fn guests_that_wait_and_guests_that_are_interrupted_mix() {
    for engine in with_epochs() {
        let text = r#"(module
            (import "host" "next" (func $next (param i32) (result i32)))
            (func (export "run") (param $n i32) (result i32) (local $i i32) (local $turns i32)
                (loop $again
                    (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
                    (local.set $i (call $next (local.get $i)))
                    (br_if $again (i32.lt_u (local.get $i) (local.get $n))))
                (i32.add (local.get $turns) (local.get $i))))"#;
        let module = Module::new(&engine, text).unwrap();
        let mut linker = Linker::new(&engine);
        linker
            .func_wrap_async("host", "next", |mut caller: Caller<'_, u32>, (x,): (i32,)| {
                Box::new(async move {
                    let mut polled = false;
                    std::future::poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
                    // Another guest, which is interrupted as well.
                    if x == 5 {
                        let run = caller.get_export("run").and_then(Extern::into_func).unwrap().typed::<i32, i32>(&caller)?;
                        *caller.data_mut() = run.call_async(&mut caller, 2).await? as u32;
                    }
                    Result::Ok(x + 1)
                })
            })
            .unwrap();
        let mut store = Store::new(&engine, 0);
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, i32>(&mut store, "run").unwrap();
        store.epoch_deadline_async_yield_and_update(0);
        let (result, polls) = drive(run.call_async(&mut store, 10));
        // A turn each for the loops and the calls of the host, and the first; one before each call. Functions that call only in loops do not look at their entry.
        assert_eq!((result.unwrap(), *store.data(), polls), (20, 4, 1 + 10 + 10 + 2 + 2 + 2));
    }
}
