//! Wakers of tasks that panic, or end other stores, when a deadline wakes them: the deadlines of everybody else hold.

use peregrine::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(10);

/// Panics at each wake.
struct Panics(Mutex<mpsc::Sender<()>>);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let _ = self.0.lock().unwrap().send(());
        panic!("this waker panics");
    }
}

/// Ends a store at its first wake, as a task that is aborted does.
struct Ends(Mutex<Option<Store<()>>>, Mutex<mpsc::Sender<()>>);

impl Wake for Ends {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let store = self.0.lock().unwrap().take();
        drop(store);
        let _ = self.1.lock().unwrap().send(());
    }
}

/// Counts.
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn engine() -> Engine {
    Engine::new(Config::new().deadlines(true).epoch_interruption(true)).unwrap()
}

/// A store of which no epoch's deadline comes.
fn store(engine: &Engine) -> Store<()> {
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(1_000_000);
    store
}

/// Does something that may hang, and fails if it does.
fn in_time<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(PATIENCE).expect("it neither hangs nor panics")
}

/// Checks that a guest which never ends is stopped by its deadline.
fn check_deadlines() {
    in_time(|| {
        let engine = engine();
        let module = Module::new(&engine, r#"(module (func (export "spin") (loop (br 0))))"#).unwrap();
        let mut store = store(&engine);
        let spin = Instance::new(&mut store, &module, &[]).unwrap().get_typed_func::<(), ()>(&mut store, "spin").unwrap();
        store.deadline(SOON).unwrap();
        assert_eq!(spin.call(&mut store, ()).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    });
}

/// What ends a wait.
#[derive(Clone, Copy)]
enum End {
    Epoch,
    /// The deadline of the store.
    Deadline,
    /// The timeout of the wait.
    Timeout,
}

/// Calls a guest in `store` that waits, polls it once with `waker`, and does `then` while it waits.
fn while_it_waits(mut store: Store<()>, end: End, waker: Waker, then: impl FnOnce()) {
    let module = Module::new(
        &store.engine().clone(),
        r#"(module (memory 1 1 shared)
            (func (export "wait") (param i64) (result i32) (memory.atomic.wait32 (i32.const 8) (i32.const 0) (local.get 0))))"#,
    )
    .unwrap();
    let wait = Instance::new(&mut store, &module, &[]).unwrap().get_typed_func::<i64, i32>(&mut store, "wait").unwrap();
    // On a machine that is busy with other things the time may be over before the guest waits.
    for time in [1, 4, 16, 64, 256].map(|factor| factor * SOON) {
        let timeout = if matches!(end, End::Timeout) { time.as_nanos() as i64 } else { -1 };
        store.set_deadline(None).unwrap();
        if matches!(end, End::Deadline) {
            store.deadline(time).unwrap();
        }
        let mut call = pin!(wait.call_async(&mut store, timeout));
        if call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            drop(waker);
            return then();
        }
    }
    panic!("the guest never waited");
}

#[test]
fn a_waker_that_panics_at_a_deadline_ends_no_other_deadline() {
    for end in [End::Deadline, End::Timeout] {
        let (sender, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Panics(Mutex::new(sender))));
        while_it_waits(store(&engine()), end, waker, || {
            woken.recv_timeout(PATIENCE).expect("its time has come");
            check_deadlines();
        });
    }
}

#[test]
fn a_waker_that_ends_a_store_with_a_deadline_ends_no_other_deadline() {
    let engine = engine();
    let mut other = store(&engine);
    other.deadline(Duration::from_secs(3600)).unwrap();
    let (sender, woken) = mpsc::channel();
    let store = store(&engine);
    let waker = Waker::from(Arc::new(Ends(Mutex::new(Some(other)), Mutex::new(sender))));
    // Where it hangs, what it waits for is locked: then it must not be dropped either.
    in_time(move || {
        while_it_waits(store, End::Deadline, waker, || {
            woken.recv().expect("its time has come");
            check_deadlines();
        });
    });
}

#[test]
fn epochs_go_on_whatever_wakers_do() {
    let engine = engine();
    let (sender, _woken) = mpsc::channel();
    let ends = Waker::from(Arc::new(Ends(Mutex::new(Some(store(&engine))), Mutex::new(sender.clone()))));
    let panics = Waker::from(Arc::new(Panics(Mutex::new(sender))));
    let counts = Arc::new(Counts(AtomicUsize::new(0)));
    in_time(move || {
        let new = || {
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(1);
            store
        };
        let (first, second, third) = (new(), new(), new());
        while_it_waits(first, End::Epoch, panics, || {
            while_it_waits(second, End::Epoch, ends, || {
                while_it_waits(third, End::Epoch, Waker::from(Arc::clone(&counts)), || {
                    let payload = catch_unwind(AssertUnwindSafe(|| engine.increment_epoch())).unwrap_err();
                    assert_eq!(payload.downcast_ref::<&str>(), Some(&"this waker panics"));
                    assert_eq!(counts.0.load(Ordering::SeqCst), 1, "the others are woken");
                    engine.increment_epoch();
                });
            });
        });
    });
}

/// Polls a call of `spin` once with a waker that panics, in an `engine`'s store that `prepare`d yields; checks that the panic comes out of the
/// poll, and that the store goes on afterwards.
fn panics_at_a_yield(config: &mut Config, prepare: impl FnOnce(&mut Store<()>) -> Result<()>) -> Result<()> {
    let engine = Engine::new(config)?;
    let module = Module::new(
        &engine,
        r#"(module (memory 1)
            (func (export "spin") (loop (br 0)))
            (func (export "fill") (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x10000)) (br 0)))
            (func (export "seven") (result i32) (i32.const 7)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    prepare(&mut store)?;
    let instance = Instance::new(&mut store, &module, &[])?;
    for name in ["spin", "fill"] {
        let spin = instance.get_typed_func::<(), ()>(&mut store, name)?;
        let (sender, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Panics(Mutex::new(sender))));
        let mut call = Box::pin(spin.call_async(&mut store, ()));
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()));
        assert_eq!(polled.unwrap_err().downcast_ref::<&str>(), Some(&"this waker panics"), "{name}");
        drop(call);
        assert!(woken.try_recv().is_ok());
    }
    let seven = instance.get_typed_func::<(), i32>(&mut store, "seven")?;
    let mut call = pin!(seven.call_async(&mut store, ()));
    for _ in 0..10 {
        if let std::task::Poll::Ready(result) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            assert_eq!(result?, 7);
            return Ok(());
        }
    }
    panic!("the store goes on");
}

#[test]
fn a_waker_that_panics_where_a_guest_yields_ends_that_call_alone() -> Result<()> {
    for strategy in [Strategy::Winch, Strategy::Cranelift] {
        panics_at_a_yield(Config::new().strategy(strategy).consume_fuel(true), |store| {
            store.set_fuel(1_000_000_000)?;
            store.fuel_async_yield_interval(Some(1000))
        })?;
        panics_at_a_yield(Config::new().strategy(strategy).epoch_interruption(true), |store| {
            store.epoch_deadline_async_yield_and_update(1);
            Ok(())
        })?;
        panics_at_a_yield(Config::new().strategy(strategy).epoch_interruption(true), |store| {
            store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
            Ok(())
        })?;
    }
    Ok(())
}

/// A future that is ready at once, and panics when it is dropped.
struct PanicsAtItsEnd;

impl Future for PanicsAtItsEnd {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> std::task::Poll<()> {
        std::task::Poll::Ready(())
    }
}

impl Drop for PanicsAtItsEnd {
    fn drop(&mut self) {
        panic!("this waker panics");
    }
}

#[test]
fn a_future_that_panics_when_it_is_dropped_ends_that_call_alone() -> Result<()> {
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, r#"(module (func (export "spin") (loop (br 0))))"#)?;
    let mut store = Store::new(&engine, ());
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(PanicsAtItsEnd))));
    let spin = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "spin")?;
    let mut call = Box::pin(spin.call_async(&mut store, ()));
    catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready())).unwrap_err();
    Ok(())
}

#[test]
fn a_waker_that_panics_at_a_notification_costs_nobody_else_a_wake_up() -> Result<()> {
    let engine = engine();
    let module = Module::new(
        &engine,
        r#"(module (import "" "memory" (memory 1 1 shared))
            (func (export "wait") (result i32) (memory.atomic.wait32 (i32.const 8) (i32.const 0) (i64.const -1)))
            (func (export "notify") (result i32) (memory.atomic.notify (i32.const 8) (i32.const -1)))
            (func (export "seven") (result i32) (i32.const 7)))"#,
    )?;
    for by_the_host in [false, true] {
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
        let guest = |name: &str| -> Result<_> {
            let mut store = store(&engine);
            let instance = Instance::new(&mut store, &module, &[memory.clone().into()])?;
            let func = instance.get_typed_func::<(), i32>(&mut store, name)?;
            Ok((store, instance, func))
        };
        let (sender, woken) = mpsc::channel();
        let panics = Waker::from(Arc::new(Panics(Mutex::new(sender))));
        let counts = Arc::new(Counts(AtomicUsize::new(0)));
        let counting = Waker::from(Arc::clone(&counts));
        let mut sleepers = [guest("wait")?, guest("wait")?, guest("wait")?, guest("wait")?];
        let mut calls: Vec<_> = sleepers.iter_mut().map(|(store, _, wait)| Box::pin(wait.call_async(store, ()))).collect();
        for (call, waker) in calls.iter_mut().zip([&panics, &counting, &panics, &counting]) {
            assert!(call.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        let (mut store, instance, notify) = guest("notify")?;
        let notified = catch_unwind(AssertUnwindSafe(|| match by_the_host {
            true => memory.atomic_notify(8, u32::MAX).map_err(Error::from),
            false => notify.call(&mut store, ()).map(|woken| woken as u32),
        }));
        assert_eq!(notified.unwrap_err().downcast_ref::<&str>(), Some(&"this waker panics"));
        assert_eq!((woken.try_iter().count(), counts.0.load(Ordering::SeqCst)), (2, 2), "all are woken");
        for call in &mut calls {
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(call.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(0))));
        }
        assert_eq!(notify.call(&mut store, ())?, 0, "nobody waits any longer");
        assert_eq!(instance.get_typed_func::<(), i32>(&mut store, "seven")?.call(&mut store, ())?, 7);
    }
    Ok(())
}
