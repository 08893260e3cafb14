//! Memories and stacks of the embedder's, in place of those that the engine maps itself.

use crate::error::{Error, Result, ensure};
use crate::{Config, MemoryType};
use peregrine_sys::stack::{GuestStack, StackPool, StackPoolConfig};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A linear memory of the embedder's. See [`MemoryCreator`].
///
/// # Safety
///
/// 1. [`byte_size`](Self::byte_size) bytes from [`as_ptr`](Self::as_ptr) on can be read and written until it is dropped, and nobody else
///    does while guests have it.
/// 2. The pointer never changes, and the size only by [`grow_to`](Self::grow_to). New bytes are zero.
/// 3. Accesses beyond the size, up to the end of the guard that was asked for, fault.
pub unsafe trait LinearMemory: Send + Sync + 'static {
    /// Accessible bytes.
    fn byte_size(&self) -> usize;

    /// Bytes that it can grow to without moving: at least the reservation that was asked for.
    fn byte_capacity(&self) -> usize;

    /// Makes at least `new_size` bytes accessible.
    ///
    /// # Errors
    ///
    /// If it cannot grow. The guest is told so.
    fn grow_to(&mut self, new_size: usize) -> Result<()>;

    /// The first byte.
    fn as_ptr(&self) -> *mut u8;
}

/// Makes the linear memories of an engine: see [`Config::with_host_memory`].
///
/// # Safety
///
/// 1. What it makes is as large and as guarded as it was asked for, and zero.
pub unsafe trait MemoryCreator: Send + Sync {
    /// A memory of type `ty`, of `minimum` bytes, which guests may grow up to `maximum` bytes.
    ///
    /// With a `reserved_size_in_bytes`, code makes no bounds checks: so many bytes of address space must be there, all that are not
    /// accessible must fault, and so must `guard_size_in_bytes` after them. Without, accesses are checked.
    ///
    /// # Errors
    ///
    /// If there is no memory left. The text is part of the error of the instantiation.
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String>;
}

/// A stack of the embedder's. See [`StackCreator`].
///
/// # Safety
///
/// 1. [`range`](Self::range) can be read and written until it is dropped, and nobody else does.
/// 2. [`guard_range`](Self::guard_range) ends where the range begins, and accesses to it fault.
pub unsafe trait StackMemory: Send + Sync {
    /// The end of the stack, where it begins to be used: aligned to 16 bytes.
    fn top(&self) -> *mut u8;

    /// The addresses of the stack, without its guard.
    fn range(&self) -> Range<usize>;

    /// The addresses of the guard.
    fn guard_range(&self) -> Range<*mut u8>;
}

/// Makes the stacks that guests of an engine run on: see [`Config::with_host_stack`].
///
/// # Safety
///
/// 1. What it makes is as large as it was asked for, and is what [`StackMemory`] says.
pub unsafe trait StackCreator: Send + Sync {
    /// A stack of at least `size` bytes, with a guard of at least 64 KiB: functions touch their frames no more often than that. `zeroed`
    /// asks for content of zeroes; it is always `false`.
    ///
    /// # Errors
    ///
    /// If there is no memory left.
    fn new_stack(&self, size: usize, zeroed: bool) -> Result<Box<dyn StackMemory>, Error>;
}

/// A creator of the embedder's, in a configuration.
pub(crate) struct Creator<T: ?Sized>(pub(crate) Arc<T>);

impl<T: ?Sized> Clone for Creator<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> fmt::Debug for Creator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("of the embedder's")
    }
}

impl Config {
    /// Makes linear memories by the embedder, but for those that threads share.
    ///
    /// Instances with such memories are not kept to be used again.
    pub fn with_host_memory(&mut self, mem_creator: Arc<dyn MemoryCreator>) -> &mut Self {
        self.memory_creator = Some(Creator(mem_creator));
        self
    }

    /// Makes the stacks that guests run on by the embedder, each for one store, of [`max_wasm_stack`](Self::max_wasm_stack) bytes.
    pub fn with_host_stack(&mut self, stack_creator: Arc<dyn StackCreator>) -> &mut Self {
        self.stack_creator = Some(Creator(stack_creator));
        self
    }
}

/// Stacks that `creator` makes.
pub(crate) fn lent_stacks(config: StackPoolConfig, creator: Arc<dyn StackCreator>) -> StackPool {
    StackPool::lent(config, move |size| lend_stack(&*creator, size, config.guard_len_bytes).map_err(io::Error::other))
}

fn lend_stack(creator: &dyn StackCreator, size: usize, guard_len: usize) -> Result<GuestStack> {
    let stack = creator.new_stack(size, false)?;
    let (top, range, guard) = (stack.top(), stack.range(), stack.guard_range());
    let guard = guard.start.addr()..guard.end.addr();
    ensure!(range.end == top.addr() && top.addr() % 16 == 0, "the stack of the embedder does not end at its top, or is not aligned");
    ensure!(range.len() >= size, "the stack of the embedder has {} bytes, and {size} were asked for", range.len());
    ensure!(guard.end == range.start, "the guard of the embedder's stack does not end where the stack begins");
    ensure!(guard.len() >= guard_len, "the guard of the embedder's stack has {} bytes; {guard_len} are needed", guard.len());
    let limit = top.wrapping_sub(range.len());
    // SAFETY: who implements the creator promises that the memory is there, its own, and guarded; the top was checked above.
    Ok(unsafe { GuestStack::lent(Box::new(stack), limit, top, guard) })
}
