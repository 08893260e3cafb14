//! Memories and stacks that the embedder makes.

use peregrine::{
    Config, Engine, Error, Instance, LinearMemory, Memory, MemoryCreator, MemoryType, Module, Result, StackCreator, StackMemory, Store,
    Trap,
};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Address space, unmapped when dropped.
struct Mapping {
    start: usize,
    len: usize,
    live: Arc<AtomicUsize>,
}

impl Mapping {
    /// `len` bytes, of which those of `accessible` are.
    fn new(len: usize, accessible: Range<usize>, live: &Arc<AtomicUsize>) -> Result<Self> {
        // SAFETY: a fresh mapping, and a part of it.
        let start = unsafe {
            let start = mmap_anonymous(null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?;
            mprotect(start.byte_add(accessible.start), accessible.len(), MprotectFlags::READ | MprotectFlags::WRITE)?;
            start as usize
        };
        live.fetch_add(1, SeqCst);
        Ok(Self { start, len, live: Arc::clone(live) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: its own mapping.
        unsafe { munmap(self.start as *mut _, self.len) }.unwrap();
        self.live.fetch_sub(1, SeqCst);
    }
}

struct TestMemory {
    mapping: Mapping,
    size: usize,
    capacity: usize,
}

// SAFETY: the mapping never moves, and what is beyond the size is inaccessible.
unsafe impl LinearMemory for TestMemory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.capacity
    }

    fn grow_to(&mut self, new_size: usize) -> Result<()> {
        if new_size > self.capacity.min(10 << 16) {
            return Err(Error::msg("ten pages are enough"));
        }
        // SAFETY: a part of its own mapping.
        unsafe { mprotect(self.mapping.start as *mut _, new_size, MprotectFlags::READ | MprotectFlags::WRITE)? };
        self.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.mapping.start as *mut u8
    }
}

#[derive(Default)]
struct Creator {
    live: Arc<AtomicUsize>,
    made: AtomicUsize,
    too_small: bool,
}

// SAFETY: memories are as large and guarded as they are asked for, unless they are to be refused.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if ty.minimum() == 7 {
            return Err("no memories of seven pages".to_owned());
        }
        assert_eq!(minimum as u64, ty.minimum() * ty.page_size());
        self.made.fetch_add(1, SeqCst);
        let capacity = reserved.unwrap_or(maximum.unwrap_or(20 << 16));
        let size = if self.too_small { 0 } else { minimum };
        let mapping = Mapping::new(capacity + guard + 4096, 0..minimum.max(4096), &self.live).map_err(|error| error.to_string())?;
        Ok(Box::new(TestMemory { mapping, size, capacity }))
    }
}

const WAT: &str = r#"(module
    (memory (export "memory") 2)
    (data (i32.const 66000) "initial")
    (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#;

#[test]
fn memories_are_the_embedders() -> Result<()> {
    // With all addresses reserved, and with checks.
    for reservation in [4 << 30, 0] {
        let creator = Arc::new(Creator::default());
        let engine = Engine::new(Config::new().memory_reservation(reservation).with_host_memory(creator.clone()))?;
        let module = Module::new(&engine, WAT)?;
        for round in 1..=3 {
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[])?;
            assert_eq!((creator.made.load(SeqCst), creator.live.load(SeqCst)), (round, 1), "instances are not kept");
            let memory = instance.get_memory(&mut store, "memory").unwrap();
            assert_eq!(&memory.data(&store)[66000..66007], b"initial");
            memory.write(&mut store, 66000, b"I")?;
            let load = instance.get_typed_func::<i32, i32>(&mut store, "load")?;
            assert_eq!(load.call(&mut store, 66000)?, i32::from_le_bytes(*b"Init"));
            let error = load.call(&mut store, 2 << 16).unwrap_err();
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
            let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow")?;
            assert_eq!((grow.call(&mut store, 3)?, grow.call(&mut store, 100)?), (2, -1));
            assert_eq!(load.call(&mut store, 2 << 16)?, 0);
            assert_eq!(memory.data_size(&store), 5 << 16);
            assert_eq!(load.call(&mut store, 5 << 16).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
        }
        assert_eq!(creator.live.load(SeqCst), 0);
        let mut store = Store::new(&engine, ());
        let memory = Memory::new(&mut store, MemoryType::new(1, Some(2)))?;
        assert_eq!((memory.grow(&mut store, 1)?, creator.live.load(SeqCst)), (1, 1));
        let error = Memory::new(&mut store, MemoryType::new(7, None)).unwrap_err();
        assert_eq!(error.root_cause().to_string(), "no memories of seven pages");
    }
    Ok(())
}

#[test]
fn a_creator_that_gives_too_little_is_told() -> Result<()> {
    let creator = Arc::new(Creator { too_small: true, ..Creator::default() });
    let engine = Engine::new(Config::new().with_host_memory(creator))?;
    let error = Instance::new(&mut Store::new(&engine, ()), &Module::new(&engine, WAT)?, &[]).unwrap_err();
    assert!(error.to_string().contains("the memory creator gave 0 bytes"), "{error:?}");
    Ok(())
}

struct TestStack {
    mapping: Mapping,
    guard: usize,
}

// SAFETY: what is above the guard is accessible, and the guard is not.
unsafe impl StackMemory for TestStack {
    fn top(&self) -> *mut u8 {
        (self.mapping.start + self.mapping.len) as *mut u8
    }

    fn range(&self) -> Range<usize> {
        self.mapping.start + self.guard..self.mapping.start + self.mapping.len
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.mapping.start as *mut u8..(self.mapping.start + self.guard) as *mut u8
    }
}

struct Stacks {
    live: Arc<AtomicUsize>,
    guard: usize,
}

// SAFETY: stacks are as large as they are asked for, and guarded.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> Result<Box<dyn StackMemory>, Error> {
        assert!(!zeroed);
        let len = size + self.guard;
        Ok(Box::new(TestStack { mapping: Mapping::new(len, self.guard..len, &self.live)?, guard: self.guard }))
    }
}

#[test]
fn stacks_are_the_embedders() -> Result<()> {
    let live = Arc::new(AtomicUsize::new(0));
    let stacks = |guard| Arc::new(Stacks { live: Arc::clone(&live), guard });
    let engine = Engine::new(Config::new().max_wasm_stack(128 << 10).with_host_stack(stacks(64 << 10)))?;
    let wat = r#"(module (func $deep (export "deep") (param i32) (result i32)
        (if (result i32) (local.get 0) (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1))))) (else (i32.const 0)))))"#;
    let module = Module::new(&engine, wat)?;
    {
        let mut store = Store::new(&engine, ());
        let deep = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, i32>(&mut store, "deep")?;
        assert_eq!(deep.call(&mut store, 100)?, 100);
        assert_eq!(live.load(SeqCst), 1);
        let error = deep.call(&mut store, 1 << 20).unwrap_err();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::StackOverflow));
        assert_eq!(deep.call(&mut store, 100)?, 100);
    }
    assert_eq!(live.load(SeqCst), 0, "a stack ends with its store");

    let engine = Engine::new(Config::new().with_host_stack(stacks(4096)))?;
    let mut store = Store::new(&engine, ());
    let deep = Instance::new(&mut store, &Module::new(&engine, wat)?, &[])?.get_typed_func::<i32, i32>(&mut store, "deep")?;
    let error = deep.call(&mut store, 1).unwrap_err();
    assert!(format!("{error:#}").contains("has 4096 bytes; 65536 are needed"), "{error:#}");
    Ok(())
}

/// A memory that does not keep its promise, or panics.
struct Odd(TestMemory, bool);

// SAFETY: as for `TestMemory`.
unsafe impl LinearMemory for Odd {
    fn byte_size(&self) -> usize {
        self.0.byte_size()
    }

    fn byte_capacity(&self) -> usize {
        self.0.byte_capacity()
    }

    fn grow_to(&mut self, _: usize) -> Result<()> {
        if self.1 { std::panic::panic_any("grows") } else { Ok(()) }
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

struct OddCreator(Creator, bool);

// SAFETY: as for `Creator`.
unsafe impl MemoryCreator for OddCreator {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let _ = (ty, maximum);
        let capacity = reserved.unwrap_or(1 << 20).max(minimum);
        let mapping = Mapping::new(capacity + guard, 0..minimum, &self.0.live).map_err(|error| error.to_string())?;
        Ok(Box::new(Odd(TestMemory { mapping, size: minimum, capacity }, self.1)))
    }
}

#[test]
fn a_memory_that_panics_ends_the_call_and_not_the_process() -> Result<()> {
    for panics in [true, false] {
        let creator = Arc::new(OddCreator(Creator::default(), panics));
        let engine = Engine::new(Config::new().with_host_memory(creator))?;
        let module = Module::new(&engine, r#"(module (memory 1) (func (export "grow") (result i32) (memory.grow (i32.const 1))))"#)?;
        let mut store = Store::new(&engine, ());
        let grow = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), i32>(&mut store, "grow")?;
        for _ in 0..2 {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| grow.call(&mut store, ())));
            assert!(caught.is_err());
        }
    }
    Ok(())
}
