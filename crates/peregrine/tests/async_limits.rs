//! Limiters that may wait: each question is asked once, each answer is for one operation, and their panics go on in the caller.

mod executor;

use executor::{poll_once, ready};
use peregrine::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

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
    // The count of instances is refused before the limiter is asked.
    let mut full = store(Mood::Allows, 0);
    let module = Module::new(full.engine(), memory_and_table)?;
    assert!(ready(Instance::new_async(&mut full, &module, &[])).is_err());
    assert_eq!(full.data().asked, 0);
    // The future is dropped between two questions.
    let mut dropped = store(Mood::Waits, 10);
    let module = Module::new(dropped.engine(), memory_and_table)?;
    assert!(poll_once(pin!(Instance::new_async(&mut dropped, &module, &[]))).is_pending());
    assert_eq!(dropped.data().asked, 2);
    for mut store in [full, dropped] {
        let host = store.data_mut();
        (host.mood, host.asked) = (Mood::Refuses, 0);
        assert!(Memory::new(&mut store, MemoryType::new(1, None)).is_err(), "the limiter refuses");
        assert_eq!(store.data().asked, 1);
    }
    Ok(())
}

#[test]
fn what_cannot_be_had_is_not_asked_for() -> Result<()> {
    let mut store = store(Mood::Allows, 10);
    let table = |min, max| TableType::new(RefType::FUNCREF, min, Some(max));
    assert!(ready(Memory::new_async(&mut store, MemoryType::shared(1, 1))).is_err());
    assert!(ready(Memory::new_async(&mut store, MemoryType::new(2, Some(1)))).is_err());
    assert!(ready(Table::new_async(&mut store, table(2, 1), Ref::Func(None))).is_err());
    assert!(ready(Table::new_async(&mut store, table(1, 1), Ref::Extern(None))).is_err(), "elements are functions");
    // The host's own memory that they take is refused.
    let mut budget = store.budget();
    let host_bytes = std::mem::take(&mut budget.host_bytes);
    store.set_budget(budget);
    assert!(ready(Memory::new_async(&mut store, MemoryType::new(1, Some(1)))).is_err());
    assert!(ready(Table::new_async(&mut store, table(1, 1), Ref::Func(None))).is_err());
    assert_eq!(store.data().asked, 0);
    budget.host_bytes = host_bytes;
    store.set_budget(budget);
    ready(Memory::new_async(&mut store, MemoryType::new(1, Some(1))))?;
    ready(Table::new_async(&mut store, table(1, 1), Ref::Func(None)))?;
    assert_eq!(store.data().asked, 2);
    Ok(())
}

/// An instance of [`GROWS`], its memory and its table, once the limiter has been asked for them.
fn grows(store: &mut Store<Host>) -> Result<(Instance, Memory, Table)> {
    let module = Module::new(store.engine(), GROWS)?;
    let instance = ready(Instance::new_async(&mut *store, &module, &[]))?;
    let memory = instance.get_memory(&mut *store, "m").expect("a memory");
    let table = instance.get_table(&mut *store, "t").expect("a table");
    store.data_mut().asked = 0;
    Ok((instance, memory, table))
}

#[test]
fn a_question_is_asked_once() -> Result<()> {
    let mut store = store(Mood::Allows, 10);
    let (instance, memory, table) = grows(&mut store)?;
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

/// Waits once before each answer, and notes what it was asked and told.
#[derive(Default)]
struct Slow {
    asked: Vec<(usize, usize)>,
    failed: usize,
}

impl ResourceLimiterAsync for Slow {
    fn memory_growing<'a, 'b>(&'a mut self, current: usize, desired: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        self.asked.push((current / 65_536, desired / 65_536));
        let mut has_waited = false;
        Box::pin(std::future::poll_fn(
            move |_| if std::mem::replace(&mut has_waited, true) { Poll::Ready(Ok(true)) } else { Poll::Pending },
        ))
    }

    fn memory_grow_failed(&mut self, _: Error) -> Result<()> {
        self.failed += 1;
        Ok(())
    }

    fn table_growing<'a, 'b>(&'a mut self, _: usize, _: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async { Ok(true) })
    }
}

#[test]
fn an_answer_to_another_question_is_asked_again() -> Result<()> {
    for strategy in [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered] {
        let engine = Engine::new(Config::new().strategy(strategy).shared_memory(true))?;
        let text = r#"(module (import "" "m" (memory 1 9 shared)) (func (export "grow") (result i32) (memory.grow (i32.const 2))))"#;
        let module = Module::new(&engine, text)?;
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 9))?;
        let mut store = Store::new(&engine, Slow::default());
        store.limiter_async(|limiter| limiter);
        let instance = Instance::new(&mut store, &module, &[memory.clone().into()])?;
        let grow = instance.get_typed_func::<(), i32>(&mut store, "grow")?;
        {
            let mut call = pin!(grow.call_async(&mut store, ()));
            assert!(poll_once(call.as_mut()).is_pending());
            // Others make the memory larger while the limiter thinks, twice.
            assert_eq!(memory.grow(1)?, 1);
            assert!(poll_once(call.as_mut()).is_pending(), "it is asked again");
            assert_eq!(memory.grow(3)?, 2);
            assert!(poll_once(call.as_mut()).is_pending(), "and again");
            assert!(matches!(poll_once(call), Poll::Ready(Ok(5))));
        }
        assert_eq!(store.data().asked, [(1, 3), (2, 4), (5, 7)]);
        // What was allowed in between did not come about.
        assert_eq!((store.data().failed, memory.size()), (2, 7));
        // It is more than the type allows by then.
        {
            let mut call = pin!(grow.call_async(&mut store, ()));
            assert!(poll_once(call.as_mut()).is_pending());
            assert_eq!(memory.grow(1)?, 7);
            assert!(poll_once(call.as_mut()).is_pending(), "it is asked again");
            assert!(matches!(poll_once(call), Poll::Ready(Ok(-1))));
        }
        assert_eq!((store.data().failed, memory.size()), (4, 8));
    }
    Ok(())
}

/// Waits once, and fails.
struct Fails;

impl ResourceLimiterAsync for Fails {
    fn memory_growing<'a, 'b>(&'a mut self, _: usize, _: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let mut has_waited = false;
        Box::pin(std::future::poll_fn(move |_| match std::mem::replace(&mut has_waited, true) {
            true => Poll::Ready(Err(Error::msg("the quota cannot be read"))),
            false => Poll::Pending,
        }))
    }

    fn table_growing<'a, 'b>(&'a mut self, _: usize, _: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async { Ok(true) })
    }
}

#[test]
fn an_error_of_the_limiter_ends_the_call_though_it_answers_another_question() -> Result<()> {
    let engine = Engine::new(Config::new().shared_memory(true))?;
    let text = r#"(module (import "" "m" (memory 1 9 shared)) (func (export "grow") (result i32) (memory.grow (i32.const 2))))"#;
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 9))?;
    let mut store = Store::new(&engine, Fails);
    store.limiter_async(|limiter| limiter);
    let instance = Instance::new(&mut store, &Module::new(&engine, text)?, &[memory.clone().into()])?;
    let grow = instance.get_typed_func::<(), i32>(&mut store, "grow")?;
    for is_outdated in [false, true] {
        let mut call = pin!(grow.call_async(&mut store, ()));
        assert!(poll_once(call.as_mut()).is_pending());
        if is_outdated {
            assert_eq!(memory.grow(1)?, 1);
        }
        let Poll::Ready(Err(error)) = poll_once(call) else { panic!("it goes on: {is_outdated}") };
        assert_eq!(error.root_cause().to_string(), "the quota cannot be read");
    }
    Ok(())
}

#[test]
fn the_budget_is_asked_before_the_limiter() -> Result<()> {
    let mut store = store(Mood::Allows, 10);
    let mut budget = store.budget();
    (budget.memory_bytes, budget.table_elements, budget.tables) = (3 << 16, 3, 2);
    store.set_budget(budget);
    let (instance, memory, table) = grows(&mut store)?;
    for name in ["memory", "table"] {
        let grow = instance.get_typed_func::<i32, i32>(&mut store, name)?;
        assert_eq!((ready(grow.call_async(&mut store, 3))?, store.data().asked), (-1, 0), "{name}");
        assert_eq!((grow.call(&mut store, 3)?, store.data().asked), (-1, 0), "{name}");
    }
    let refused = [
        ready(memory.grow_async(&mut store, 3)).map(drop),
        ready(table.grow_async(&mut store, 3, Ref::Func(None))).map(drop),
        ready(Memory::new_async(&mut store, MemoryType::new(3, None))).map(drop),
        ready(Table::new_async(&mut store, TableType::new(RefType::FUNCREF, 3, None), Ref::Func(None))).map(drop),
    ];
    for error in refused {
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("`Budget::"), "{error}");
    }
    assert_eq!(store.data().asked, 0);
    // Each is possible alone; not all together. What comes before the refusal is asked for, as by the function that does not wait.
    let module = Module::new(store.engine(), "(module (memory 1) (memory 1) (memory 1))")?;
    assert!(ready(Instance::new_async(&mut store, &module, &[])).is_err());
    let asked = std::mem::take(&mut store.data_mut().asked);
    assert!(Instance::new(&mut store, &module, &[]).is_err());
    assert_eq!((asked, store.data().asked), (2, 2));
    // So many tables are too many.
    store.data_mut().asked = 0;
    let module = Module::new(store.engine(), "(module (memory 1) (table 1 funcref) (table 1 funcref))")?;
    assert!(ready(Instance::new_async(&mut store, &module, &[])).is_err());
    assert_eq!(store.data().asked, 0);
    Ok(())
}

/// Both forms of an operation ask the same questions, at the same moments.
#[test]
fn functions_ask_as_futures_do() -> Result<()> {
    for mood in [Mood::Allows, Mood::Refuses, Mood::Waits] {
        let asked = |work: &dyn Fn(&mut Store<Host>) -> bool| {
            let mut store = store(mood, 10);
            let outcome = work(&mut store);
            (outcome, store.data().asked)
        };
        let module = |store: &Store<Host>| Module::new(store.engine(), GROWS).expect("it is valid");
        // As a future it stays pending where the limiter waits; at once it fails.
        fn ended<R>(polled: Poll<Result<R>>) -> bool {
            matches!(polled, Poll::Ready(Ok(_)))
        }
        let new = asked(&|store| {
            let module = module(store);
            Instance::new(&mut *store, &module, &[]).is_ok()
        });
        let new_async = asked(&|store| {
            let module = module(store);
            ended(poll_once(pin!(Instance::new_async(&mut *store, &module, &[]))))
        });
        assert_eq!(new, new_async);
        assert_eq!(new, (mood == Mood::Allows, 2), "of a memory and a table");
        let ty = MemoryType::new(1, None);
        let grows = |store: &mut Store<Host>, memory: Result<Memory>| memory.is_ok_and(|memory| memory.grow(store, 1).is_ok());
        let memory = asked(&|store| {
            let memory = Memory::new(&mut *store, ty.clone());
            grows(store, memory)
        });
        let memory_async = asked(&|store| {
            let memory = {
                let made = pin!(Memory::new_async(&mut *store, ty.clone()));
                let Poll::Ready(memory) = poll_once(made) else { return false };
                memory
            };
            memory.is_ok_and(|memory| ended(poll_once(pin!(memory.grow_async(&mut *store, 1)))))
        });
        assert_eq!(memory, memory_async);
    }
    Ok(())
}
