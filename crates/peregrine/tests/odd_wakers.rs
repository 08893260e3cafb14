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
