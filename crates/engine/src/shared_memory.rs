//! Linear memories that belong to no store and are used by any number of them.

use crate::budget::why_not_grown;
use crate::error::{Context, Result, bail};
use crate::store::StoreOpaque;
use crate::vm::shared_memory::Expected;
use crate::vm::{self, WaitResult, boundary};
use crate::{Engine, MemoryType, MemoryTypeBuilder, Trap};
use std::cell::UnsafeCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A linear memory that several stores, and so several threads, use at once (threads proposal). A handle: clones are the same memory, which
/// lives as long as the last handle and the last instance that imports it. A store that has such instances holds a little of the host's
/// memory for it, which [`Budget::host_bytes`](crate::Budget::host_bytes) counts.
///
/// A guest that waits (`memory.atomic.wait32` and its like) blocks its thread until it is woken or interrupted. Of a call that is a future it
/// is suspended instead, and its task is woken.
///
/// ```
/// use peregrine::{Engine, Instance, MemoryType, Module, SharedMemory, Store};
///
/// let engine = Engine::default();
/// let module = Module::new(
///     &engine,
///     r#"(module
///         (import "" "memory" (memory 1 1 shared))
///         (func (export "count") (param $turns i32)
///             (loop
///                 (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))
///                 (br_if 0 (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))))"#,
/// )?;
/// let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
/// std::thread::scope(|scope| {
///     for _ in 0..2 {
///         scope.spawn(|| -> peregrine::Result<()> {
///             let mut store = Store::new(&engine, ());
///             let instance = Instance::new(&mut store, &module, &[memory.clone().into()])?;
///             instance.get_typed_func::<i32, ()>(&mut store, "count")?.call(&mut store, 1000)
///         });
///     }
/// });
/// // Nobody changes it any more.
/// let bytes = memory.data()[..4].iter().map(|byte| unsafe { *byte.get() });
/// assert_eq!(bytes.collect::<Vec<_>>(), 2000i32.to_le_bytes());
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone)]
pub struct SharedMemory {
    engine: Engine,
    memory: Arc<vm::SharedMemory>,
}

impl SharedMemory {
    /// A memory of zeroes, of a type that says `shared`. No store's limits count it.
    ///
    /// # Errors
    ///
    /// If the type is not a valid one or not shared, the threads proposal is [off](crate::Config::wasm_threads), or the system refuses it.
    pub fn new(engine: &Engine, ty: MemoryType) -> Result<Self> {
        if !ty.is_shared() {
            bail!("shared memory must have the `shared` flag enabled on its memory type; `{ty}` has not");
        }
        if !engine.settings().features.threads {
            bail!("shared memories need the threads proposal; turn on `Config::wasm_threads`");
        }
        MemoryTypeBuilder { ty: ty.ty }.build()?;
        let memory = boundary::new_shared_memory(engine.shared(), ty.ty)?;
        Ok(Self { engine: engine.clone(), memory })
    }

    pub(crate) fn from_vm(engine: &Engine, memory: &Arc<vm::SharedMemory>) -> Self {
        Self { engine: engine.clone(), memory: Arc::clone(memory) }
    }

    /// Whether it can be used with stores of `engine`.
    pub(crate) fn is_of(&self, engine: &Engine) -> bool {
        Engine::same(&self.engine, engine)
    }

    /// The machine's part, for an instance of `store` to import.
    ///
    /// # Panics
    ///
    /// If it belongs to another engine.
    pub(crate) fn in_store(&self, store: &StoreOpaque) -> Arc<vm::SharedMemory> {
        assert!(self.is_of(store.engine()), "shared memory used with a store of another engine");
        Arc::clone(&self.memory)
    }

    /// The type it was made with.
    pub fn ty(&self) -> MemoryType {
        MemoryType { ty: *self.memory.ty() }
    }

    /// The size in pages. Other threads may make it larger at any time.
    pub fn size(&self) -> u64 {
        self.memory.len_bytes() as u64 >> self.memory.ty().page_size_log2
    }

    /// Bytes in a page: 65,536 or 1.
    pub fn page_size(&self) -> u64 {
        self.memory.ty().page_size_bytes()
    }

    /// The size in bytes. Other threads may make it larger at any time.
    pub fn data_size(&self) -> usize {
        self.memory.len_bytes()
    }

    /// All bytes there are now.
    ///
    /// Guests and other threads of the host may read and write them at the same time. So a byte is accessed through its address, atomically
    /// unless it is known that nobody else does.
    pub fn data(&self) -> &[UnsafeCell<u8>] {
        boundary::shared_memory_bytes(&self.memory)
    }

    /// Makes the memory `delta` pages larger, which are zero. Returns the old size in pages.
    ///
    /// # Errors
    ///
    /// If the type's maximum or the system does not allow it, which the error says.
    pub fn grow(&self, delta: u64) -> Result<u64> {
        let grown = self.engine.shared().make_where_room_is(vm::NotGrown::is_no_room, || self.memory.grow(delta));
        grown.ok().with_context(|| {
            let ty = self.memory.ty();
            let why = why_not_grown(u128::from(self.size()) + u128::from(delta), Some(ty.max_bytes() >> ty.page_size_log2));
            format!("failed to grow memory by `{delta}` pages: {why}")
        })
    }

    /// `memory.atomic.notify`: wakes at most `count` of those that wait at address `addr`, guests or the host. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Trap::HeapMisaligned`] if the address is no multiple of 4, [`Trap::MemoryOutOfBounds`] beyond the end.
    pub fn atomic_notify(&self, addr: u64, count: u32) -> Result<u32, Trap> {
        self.memory.notify(addr, count)
    }

    /// `memory.atomic.wait32`: if there is `expected` at address `addr`, sleeps until woken or `timeout` is over; `None` is for ever.
    ///
    /// ```
    /// use peregrine::{Engine, MemoryType, SharedMemory, WaitResult};
    /// use std::time::Duration;
    ///
    /// let memory = SharedMemory::new(&Engine::default(), MemoryType::shared(1, 1))?;
    /// assert_eq!(memory.atomic_wait32(8, 1, None)?, WaitResult::Mismatch);
    /// assert_eq!(memory.atomic_wait32(8, 0, Some(Duration::from_millis(1)))?, WaitResult::TimedOut);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Trap::HeapMisaligned`] if the address is no multiple of the size, [`Trap::MemoryOutOfBounds`] beyond the end.
    pub fn atomic_wait32(&self, addr: u64, expected: u32, timeout: Option<Duration>) -> Result<WaitResult, Trap> {
        self.memory.wait(addr, Expected::I32(expected), timeout)
    }

    /// `memory.atomic.wait64`: as [`atomic_wait32`](Self::atomic_wait32), with 8 bytes.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn atomic_wait64(&self, addr: u64, expected: u64, timeout: Option<Duration>) -> Result<WaitResult, Trap> {
        self.memory.wait(addr, Expected::I64(expected), timeout)
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory").field("ty", &self.ty()).field("size", &self.size()).finish_non_exhaustive()
    }
}
