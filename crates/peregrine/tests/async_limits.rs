//! Limiters that may wait: each question is asked once, each answer is for one operation, and their panics go on in the caller.

use peregrine::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

/// What the limiter does when it is asked.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Allows,
    Refuses,
    Waits,
    PanicsWhenFound,
    PanicsWhenAsked,
    PanicsWhenPolled,
}

struct Host {
    mood: Mood,
    asked: usize,
    instances: usize,
}

impl Host {
    fn decide<'b>(&mut self) -> GrowthFuture<'b> {
        self.asked += 1;
        let mood = self.mood;
        match mood {
            Mood::PanicsWhenAsked => std::panic::panic_any("asked"),
            Mood::PanicsWhenPolled => Box::pin(async { std::panic::panic_any("polled") }),
            // Waits before the second question, which nobody answers.
            Mood::Waits if self.asked > 1 => Box::pin(std::future::pending()),
            _ => Box::pin(async move { Ok(mood != Mood::Refuses) }),
        }
    }
}

impl ResourceLimiterAsync for Host {
    fn memory_growing<'a, 'b>(&'a mut self, _: usize, _: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        self.decide()
    }

    fn table_growing<'a, 'b>(&'a mut self, _: usize, _: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        self.decide()
    }

    fn instances(&self) -> usize {
        self.instances
    }
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The output of a future that does not wait.
fn ready<F: Future>(future: F) -> F::Output {
    match poll_once(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

fn store(mood: Mood, instances: usize) -> Store<Host> {
    let mut store = Store::new(&Engine::default(), Host { mood, asked: 0, instances });
    store.limiter_async(|host| {
        if host.mood == Mood::PanicsWhenFound {
            std::panic::panic_any("found");
        }
        host
    });
    store
}

const GROWS: &str = r#"(module
    (memory (export "m") 1) (table (export "t") 1 funcref)
    (func (export "memory") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "table") (param i32) (result i32) (table.grow (ref.null func) (local.get 0))))"#;

fn panics<R>(work: impl FnOnce() -> R) -> &'static str {
    let payload = catch_unwind(AssertUnwindSafe(work)).err().expect("it panics");
    payload.downcast_ref::<&str>().expect("a text")
}

#[test]
fn panics_of_async_limiters_go_on_in_the_caller() -> Result<()> {
    for (mood, expected) in [(Mood::PanicsWhenFound, "found"), (Mood::PanicsWhenAsked, "asked"), (Mood::PanicsWhenPolled, "polled")] {
        let mut store = store(Mood::Allows, 10);
        let module = Module::new(store.engine(), GROWS)?;
        let instance = ready(Instance::new_async(&mut store, &module, &[]))?;
        let memory = instance.get_memory(&mut store, "m").expect("a memory");
        let grows = ["memory", "table"].map(|name| instance.get_typed_func::<i32, i32>(&mut store, name).expect("a function"));
        store.data_mut().mood = mood;
        for grow in &grows {
            assert_eq!(panics(|| ready(grow.call_async(&mut store, 1))), expected);
            assert_eq!(panics(|| grow.call(&mut store, 1)), expected);
        }
        assert_eq!(panics(|| ready(memory.grow_async(&mut store, 1))), expected);
        assert_eq!(panics(|| memory.grow(&mut store, 1)), expected);
        store.data_mut().mood = Mood::Allows;
        for grow in &grows {
            assert_eq!(ready(grow.call_async(&mut store, 1))?, 1, "the store goes on");
        }
    }
    Ok(())
}

#[test]
fn an_answer_is_for_one_operation() -> Result<()> {
    let memory_and_table = "(module (memory 1) (memory 2) (table 3 funcref))";
    // The count of instances is refused after the limiter was asked.
    let mut full = store(Mood::Allows, 0);
    let module = Module::new(full.engine(), memory_and_table)?;
    assert!(ready(Instance::new_async(&mut full, &module, &[])).is_err());
    assert_eq!(full.data().asked, 3);
    // The future is dropped between two questions.
    let mut dropped = store(Mood::Waits, 10);
    let module = Module::new(dropped.engine(), memory_and_table)?;
    assert!(poll_once(pin!(Instance::new_async(&mut dropped, &module, &[]))).is_pending());
    assert_eq!(dropped.data().asked, 2);
    // The type is refused after the limiter was asked.
    let mut shared = store(Mood::Allows, 10);
    assert!(ready(Memory::new_async(&mut shared, MemoryType::shared(1, 1))).is_err());
    for mut store in [full, dropped, shared] {
        let host = store.data_mut();
        (host.mood, host.asked) = (Mood::Refuses, 0);
        assert!(Memory::new(&mut store, MemoryType::new(1, None)).is_err(), "the limiter refuses");
        assert_eq!(store.data().asked, 1);
    }
    Ok(())
}

#[test]
fn a_question_is_asked_once() -> Result<()> {
    let mut store = store(Mood::Allows, 10);
    let module = Module::new(store.engine(), GROWS)?;
    let instance = ready(Instance::new_async(&mut store, &module, &[]))?;
    let memory = instance.get_memory(&mut store, "m").expect("a memory");
    let table = instance.get_table(&mut store, "t").expect("a table");
    store.data_mut().asked = 0;
    for name in ["memory", "table"] {
        let grow = instance.get_typed_func::<i32, i32>(&mut store, name)?;
        assert_eq!((grow.call(&mut store, 1)?, std::mem::take(&mut store.data_mut().asked)), (1, 1));
        assert_eq!((ready(grow.call_async(&mut store, 1))?, std::mem::take(&mut store.data_mut().asked)), (2, 1));
        // Nothing grows, so nobody is asked.
        assert_eq!((grow.call(&mut store, 0)?, ready(grow.call_async(&mut store, 0))?), (3, 3));
        assert_eq!(store.data().asked, 0);
    }
    assert_eq!(ready(memory.grow_async(&mut store, 0))?, 3);
    assert_eq!(ready(table.grow_async(&mut store, 0, Ref::Func(None)))?, 3);
    assert_eq!(store.data().asked, 0);
    assert_eq!((ready(memory.grow_async(&mut store, 1))?, store.data().asked), (3, 1));
    Ok(())
}
