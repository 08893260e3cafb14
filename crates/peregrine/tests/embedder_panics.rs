//! Panics of what the embedder gives the engine, and guests of other stores that run there: memories, stacks, limiters. A panic goes on in who
//! called the engine, whatever guest is between, and leaves the engine and the store as they were.

mod executor;

use executor::drive;
use peregrine::{
    Config, Engine, Error, GrowthFuture, Instance, LinearMemory, Memory, MemoryCreator, MemoryType, Module, ResourceLimiter,
    ResourceLimiterAsync, Result, StackCreator, StackMemory, Store, Strategy, TieringStress, Trap,
};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

fn engines(change: impl Fn(&mut Config)) -> Vec<Engine> {
    let tiers = [
        (Strategy::Ahead, TieringStress::None),
        (Strategy::Baseline, TieringStress::None),
        (Strategy::Tiered, TieringStress::LoopEntryEverywhere),
    ];
    tiers
        .map(|(strategy, stress)| {
            let mut config = Config::new();
            config.strategy(strategy).tiering_stress(stress);
            change(&mut config);
            Engine::new(&config).expect("the settings are fine")
        })
        .into()
}

#[track_caller]
fn panic_of<R>(work: impl FnOnce() -> R) -> &'static str {
    let caught = catch_unwind(AssertUnwindSafe(|| _ = work())).expect_err("it panics");
    caught.downcast_ref::<&str>().expect("a text")
}

/// A memory in ordinary bytes, for code that checks all accesses.
struct Bytes(Vec<u8>, usize, Odd);

/// Which of its functions panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Odd {
    Nothing,
    New,
    Size,
    Capacity,
    Address,
}

impl Bytes {
    fn panic_if(&self, odd: Odd) {
        if self.2 == odd {
            panic_any("no memory");
        }
    }
}

// SAFETY: the bytes do not move, as there is room for all that it grows to. Nothing is reserved, so accesses are checked.
unsafe impl LinearMemory for Bytes {
    fn byte_size(&self) -> usize {
        self.panic_if(Odd::Size);
        self.1
    }

    fn byte_capacity(&self) -> usize {
        self.panic_if(Odd::Capacity);
        self.0.len()
    }

    fn grow_to(&mut self, new_size: usize) -> Result<()> {
        match new_size >> 16 {
            4 => panic_any("four pages"),
            6 => return Err(Error::msg("six pages")),
            _ => {}
        }
        self.1 = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.panic_if(Odd::Address);
        self.0.as_ptr().cast_mut()
    }
}

struct Creator(Mutex<Odd>);

// SAFETY: as large as asked for, and zero; nothing is reserved.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        _: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        assert!(reserved.is_none());
        let odd = *self.0.lock().expect("nobody panics meanwhile");
        if odd == Odd::New {
            panic_any("no memory");
        }
        Ok(Box::new(Bytes(vec![0; 20 << 16], minimum, odd)))
    }
}

#[test]
fn of_memories() -> Result<()> {
    let creator = Arc::new(Creator(Mutex::new(Odd::Nothing)));
    let text = r#"(module (memory (export "memory") 1 9)
        (func (export "grow") (param i32) (result i32) (loop (br_if 0 (i32.eq (memory.size) (i32.const 77)))) (memory.grow (local.get 0))))"#;
    for engine in engines(|config| _ = config.memory_reservation(0).with_host_memory(creator.clone())) {
        let module = Module::new(&engine, text)?;
        let mut store = Store::new(&engine, ());
        let memory = MemoryType::new(1, Some(9));
        for odd in [Odd::New, Odd::Size, Odd::Capacity, Odd::Address] {
            *creator.0.lock().expect("nobody panicked") = odd;
            assert_eq!(panic_of(|| Instance::new(&mut store, &module, &[])), "no memory");
            assert_eq!(panic_of(|| Memory::new(&mut store, memory.clone())), "no memory");
            assert_eq!(panic_of(|| drive(Memory::new_async(&mut store, memory.clone())).0), "no memory");
        }
        // What did not come about does not count.
        let metrics = store.metrics();
        assert_eq!((metrics.instances_live, metrics.memories, metrics.host_bytes), (0, 0, 0), "{metrics:?}");
        *creator.0.lock().expect("nobody panicked") = Odd::Nothing;
        let instance = Instance::new(&mut store, &module, &[])?;
        let memory = instance.get_memory(&mut store, "memory").expect("exported");
        let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
        assert_eq!(grow.call(&mut store, 1)?, 1);
        for _ in 0..2 {
            assert_eq!(panic_of(|| grow.call(&mut store, 2)), "four pages");
            assert_eq!(panic_of(|| memory.grow(&mut store, 2)), "four pages");
            assert_eq!(panic_of(|| drive(grow.call_async(&mut store, 2)).0), "four pages");
            assert_eq!(memory.size(&store), 2);
        }
        // What was not grown is not counted.
        assert_eq!((grow.call(&mut store, 4)?, grow.call(&mut store, 1)?, memory.size(&store)), (-1, 2, 3));
        assert_eq!(grow.call(&mut store, 4)?, 3);
    }
    Ok(())
}

struct NoStacks(AtomicUsize);

// SAFETY: it makes none.
unsafe impl StackCreator for NoStacks {
    fn new_stack(&self, _: usize, _: bool) -> Result<Box<dyn StackMemory>, Error> {
        if self.0.fetch_add(1, SeqCst).is_multiple_of(2) { panic_any("no stack") } else { Err(Error::msg("none")) }
    }
}

#[test]
fn of_stacks() -> Result<()> {
    for engine in engines(|config| _ = config.with_host_stack(Arc::new(NoStacks(AtomicUsize::new(0))))) {
        let module = Module::new(&engine, r#"(module (func (export "run")))"#)?;
        let mut store = Store::new(&engine, ());
        let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
        let mut panics = 0;
        for _ in 0..6 {
            match catch_unwind(AssertUnwindSafe(|| run.call(&mut store, ()))) {
                Ok(outcome) => assert!(format!("{:#}", outcome.unwrap_err()).contains("none")),
                Err(payload) => {
                    assert_eq!(payload.downcast_ref(), Some(&"no stack"));
                    panics += 1;
                }
            }
        }
        assert!(panics > 0);
    }
    Ok(())
}

/// Panics when it is asked, or when its answer is awaited.
struct Panicking {
    at_once: bool,
    asked: usize,
}

impl Panicking {
    fn asked(&mut self, desired: usize) -> GrowthFuture<'_> {
        self.asked += 1;
        let is_enough = desired >= 5 << 16 || desired == 5;
        if is_enough && self.at_once {
            panic_any("at once");
        }
        Box::pin(async move { if is_enough { panic_any("later") } else { Ok(true) } })
    }
}

impl ResourceLimiterAsync for Panicking {
    fn memory_growing<'a, 'b>(&'a mut self, _: usize, desired: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        self.asked(desired)
    }

    fn table_growing<'a, 'b>(&'a mut self, _: usize, desired: usize, _: Option<usize>) -> GrowthFuture<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        self.asked(desired)
    }
}

#[test]
fn of_limiters_that_may_wait() -> Result<()> {
    let text = r#"(module (memory (export "memory") 1) (table (export "table") 1 funcref)
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "grow_table") (param i32) (result i32) (table.grow (ref.null func) (local.get 0))))"#;
    for engine in engines(|_| ()) {
        let module = Module::new(&engine, text)?;
        for (at_once, expected) in [(true, "at once"), (false, "later")] {
            let mut store = Store::new(&engine, Panicking { at_once, asked: 0 });
            store.limiter_async(|limiter| limiter);
            let instance = drive(Instance::new_async(&mut store, &module, &[])).0?;
            let memory = instance.get_memory(&mut store, "memory").expect("exported");
            for name in ["grow", "grow_table"] {
                let grow = instance.get_typed_func::<i32, i32>(&mut store, name)?;
                assert_eq!(panic_of(|| drive(grow.call_async(&mut store, 4)).0), expected);
                assert_eq!(panic_of(|| grow.call(&mut store, 4)), expected);
                // Asked once for each growth, whether it can wait or not.
                let asked = store.data().asked;
                assert_eq!((drive(grow.call_async(&mut store, 1)).0?, grow.call(&mut store, 1)?), (1, 2));
                assert_eq!(store.data().asked, asked + 2, "{name}");
            }
            assert_eq!(panic_of(|| drive(memory.grow_async(&mut store, 2)).0), expected);
            assert_eq!(memory.size(&store), 3);
        }
    }
    Ok(())
}

/// A limiter that asks guests of a store of its own.
struct Guests {
    store: Store<()>,
    instance: Instance,
}

impl Guests {
    fn ask(&mut self, what: &str) -> Result<i32> {
        self.instance.get_typed_func::<(), i32>(&mut self.store, what)?.call(&mut self.store, ())
    }
}

impl ResourceLimiter for Guests {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        if current == 0 {
            return Ok(true);
        }
        match (desired - current) >> 16 {
            1 => Ok(self.ask("yes")? == 1),
            2 => Ok(self.ask("no")? == 1),
            3 => Ok(self.ask("trap")? == 1),
            4 => Ok(self.ask("deep")? == 1),
            _ => Ok(self.ask("trap").is_ok() || self.ask("deep").is_ok() || self.ask("yes")? == 1),
        }
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> Result<bool> {
        Ok(self.ask("yes")? == 1)
    }
}

#[test]
fn limiters_run_guests_of_other_stores() -> Result<()> {
    let judge = r#"(module (memory 1)
        (func (export "yes") (result i32) (i32.const 1)) (func (export "no") (result i32) (i32.const 0))
        (func (export "trap") (result i32) (i32.load (i32.const -1)))
        (func $deep (export "deep") (result i32) (i32.add (call $deep) (i32.const 1))))"#;
    let text = r#"(module (memory (export "memory") 1) (table 1 funcref)
        (func $grow (param i32) (result i32) (drop (table.grow (ref.null func) (i32.const 1))) (memory.grow (local.get 0)))
        (func (export "grow") (param i32) (result i32) (local i32)
            (loop $again
                (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
                (local.set 1 (i32.const 5))
                (drop (call $grow (i32.const 1)))
                (br_if $again (i32.lt_u (i32.load (i32.const 8)) (i32.const 3))))
            (call $grow (local.get 0))))"#;
    for (outer, inner) in engines(|_| ()).into_iter().zip(engines(|config| _ = config.max_wasm_stack(64 << 10)).into_iter().rev()) {
        let (module, judge) = (Module::new(&outer, text)?, Module::new(&inner, judge)?);
        let mut guests = Store::new(&inner, ());
        let judge = Instance::new(&mut guests, &judge, &[])?;
        let mut store = Store::new(&outer, Guests { store: guests, instance: judge });
        store.limiter(|guests| guests);
        let instance = Instance::new(&mut store, &module, &[])?;
        let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
        assert_eq!(grow.call(&mut store, 1)?, 4);
        assert_eq!(grow.call(&mut store, 2)?, -1);
        for (delta, trap) in [(3, Trap::MemoryOutOfBounds), (4, Trap::StackOverflow)] {
            assert_eq!(grow.call(&mut store, delta).unwrap_err().downcast_ref(), Some(&trap));
        }
        assert_eq!(grow.call(&mut store, 5)?, 9);
    }
    Ok(())
}
