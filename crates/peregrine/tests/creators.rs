//! Memories and stacks that the embedder makes.

use peregrine::{
    Config, Engine, Error, Instance, LinearMemory, Memory, MemoryCreator, MemoryType, Module, Result, StackCreator, StackMemory, Store,
    Strategy, Trap,
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
    /// Accessible bytes below the guard, which nobody may write.
    below: usize,
    guard: usize,
}

impl TestStack {
    fn limit(&self) -> usize {
        self.mapping.start + self.below + self.guard
    }
}

impl Drop for TestStack {
    fn drop(&mut self) {
        // SAFETY: that part of the mapping is accessible, and nobody has references to it.
        let below = unsafe { std::slice::from_raw_parts(self.mapping.start as *const u8, self.below) };
        let written = below.iter().position(|byte| *byte != 0);
        // It may be dropped by a test that fails already.
        if !std::thread::panicking() {
            assert_eq!(written.map(|offset| self.below - offset), None, "so many bytes below the guard something was written");
        }
    }
}

// SAFETY: what is above the guard is accessible, and the guard is not.
unsafe impl StackMemory for TestStack {
    fn top(&self) -> *mut u8 {
        (self.mapping.start + self.mapping.len) as *mut u8
    }

    fn range(&self) -> Range<usize> {
        self.limit()..self.mapping.start + self.mapping.len
    }

    fn guard_range(&self) -> Range<*mut u8> {
        (self.limit() - self.guard) as *mut u8..self.limit() as *mut u8
    }
}

struct Stacks {
    live: Arc<AtomicUsize>,
    below: usize,
    guard: usize,
}

// SAFETY: stacks are as large as they are asked for, and guarded.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> Result<Box<dyn StackMemory>, Error> {
        assert!(!zeroed);
        let len = self.below + self.guard + size;
        let mapping = Mapping::new(len, self.below + self.guard..len, &self.live)?;
        if self.below > 0 {
            // SAFETY: a part of the fresh mapping.
            unsafe { mprotect(mapping.start as *mut _, self.below, MprotectFlags::READ | MprotectFlags::WRITE)? };
        }
        Ok(Box::new(TestStack { mapping, below: self.below, guard: self.guard }))
    }
}

#[test]
fn stacks_are_the_embedders() -> Result<()> {
    let live = Arc::new(AtomicUsize::new(0));
    let stacks = |guard| Arc::new(Stacks { live: Arc::clone(&live), below: 0, guard });
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

/// Calls `run` of `text` with ever more levels of recursion, each time in a fresh store, until the stack is used up by them alone: whatever is
/// called at the end of it writes nothing below the guard. `fuel` is what each call may use.
fn check_below_the_guard(text: &str, config: &mut Config, fuel: Option<u64>) -> Result<()> {
    let stacks = Arc::new(Stacks { live: Arc::default(), below: 64 << 10, guard: 64 << 10 });
    let engine = Engine::new(config.max_wasm_stack(16 << 10).consume_fuel(fuel.is_some()).with_host_stack(stacks))?;
    let module = Module::new(&engine, text)?;
    for levels in 0..400 {
        let mut store = Store::new(&engine, ());
        if let Some(fuel) = fuel {
            store.set_fuel(fuel + 6 * levels as u64)?;
        }
        let instance = Instance::new(&mut store, &module, &[])?;
        let run = instance.get_typed_func::<i32, ()>(&mut store, "run")?;
        let error = run.call(&mut store, levels).expect_err("the guest uses up the stack, or the fuel");
        assert!(matches!(error.downcast_ref::<Trap>(), Some(Trap::StackOverflow | Trap::OutOfFuel)), "{levels}: {error:#}");
    }
    Ok(())
}

/// Frames that are just not probed keep registers for builtins below them.
#[test]
fn nothing_is_written_below_the_guard() -> Result<()> {
    let down = r#"(func $down (export "run") (param i32)
        (if (local.get 0) (then (call $down (i32.sub (local.get 0) (i32.const 1)))) (else (call $victim))))"#;
    // Local variables of eight bytes: the guard has room for 8192 of them.
    for locals in [8100, 8140, 8150, 8160, 8166, 8170, 8174, 8180, 8192] {
        // An element that is made when it is asked for, while all registers for floats are in use; then more stack than there is.
        let element = format!(
            "(module (memory 1) (table 4096 funcref) (global $i (mut i32) (i32.const 0)) {down}
                (func $victim (local {}) {} (drop (table.get 0 (global.get $i))) {} drop (call $victim)))",
            "i64 ".repeat(locals),
            "(f64.load (i32.const 0)) ".repeat(14),
            "f64.add ".repeat(13),
        );
        // The fuel is used up at the head of a loop, while registers hold locals.
        let uses = |range: std::ops::Range<usize>, ty: &str| {
            range
                .map(|local| format!("(local.set {local} ({ty}.add (local.get {local}) (local.get {local})))").repeat(4))
                .collect::<String>()
        };
        let fuel = format!(
            "(module {down} (func $victim (local {} {}) (loop $again {} {} (br $again))))",
            "f64 ".repeat(10),
            "i64 ".repeat(locals - 12),
            uses(0..10, "f64"),
            uses(10..20, "i64"),
        );
        for strategy in [Strategy::Winch, Strategy::Cranelift] {
            check_below_the_guard(&element, Config::new().strategy(strategy), None)?;
            check_below_the_guard(&fuel, Config::new().strategy(strategy), Some(0))?;
        }
    }
    Ok(())
}
