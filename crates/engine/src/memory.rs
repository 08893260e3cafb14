//! Linear memories.

use crate::at_once::at_once;
use crate::context::{AsContext, AsContextMut, StoreContext, StoreContextMut};
use crate::error::{Context, Result, bail};
use crate::global::HOST_OBJECT_BYTES;
use crate::store::{StoreId, StoreInner, StoreOpaque};
use crate::vm::{InstanceId, Pending, boundary};
use crate::{MemoryType, MemoryTypeBuilder};
use peregrine_wasm::DefinedMemoryIndex;
use std::fmt;

/// A linear memory of a store: an array of bytes that guests share with the host.
///
/// ```
/// use peregrine::{Engine, Memory, MemoryType, Store};
///
/// let mut store = Store::new(&Engine::default(), ());
/// let memory = Memory::new(&mut store, MemoryType::new(1, Some(2)))?;
/// memory.write(&mut store, 8, b"bytes")?;
/// assert_eq!(&memory.data(&store)[8..13], b"bytes");
/// assert_eq!(memory.grow(&mut store, 1)?, 1);
/// assert_eq!(memory.data_size(&store), 131072);
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    store: StoreId,
    owner: InstanceId,
    index: DefinedMemoryIndex,
}

/// An access outside of a linear memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryAccessError {}

impl fmt::Display for MemoryAccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of bounds memory access")
    }
}

impl std::error::Error for MemoryAccessError {}

impl Memory {
    /// A memory of the host's, of zeroes.
    ///
    /// # Errors
    ///
    /// If the type is not a valid one, the limits of the store or the system refuse it, or it is that of a
    /// [`SharedMemory`](crate::SharedMemory).
    pub fn new(store: impl AsContextMut, ty: MemoryType) -> Result<Self> {
        at_once(Self::new_async(store, ty))
    }

    /// Whether there are memories of one store of a type.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub(crate) fn check_type(ty: &MemoryType) -> Result<()> {
        if ty.is_shared() {
            bail!("`Memory::new` makes memories of one store; a shared one is made with `SharedMemory::new`");
        }
        MemoryTypeBuilder { ty: ty.ty }.build().map(drop)
    }

    /// Makes a memory; the limiter was asked if it may wait.
    pub(crate) fn make<T: 'static>(store: &mut StoreInner<T>, ty: MemoryType) -> Result<Self> {
        Self::check_type(&ty)?;
        let before = store.opaque.counts;
        store.opaque.counts.add(0, 0, 1)?;
        store.opaque.counts.add_host_bytes(HOST_OBJECT_BYTES).inspect_err(|_| store.opaque.counts = before)?;
        let owner = boundary::create(store, |vm| vm.new_host_memory(ty.ty));
        let owner = owner.map_err(|error| {
            store.opaque.counts = before;
            store.opaque.error_of(Pending::Error(error, Vec::new()))
        })?;
        Ok(Self::from_id(&store.opaque, (owner, DefinedMemoryIndex::from_u32(0))))
    }

    /// Whether it is of `store`.
    pub(crate) fn is_of(&self, store: &StoreOpaque) -> bool {
        store.owns(self.store)
    }

    pub(crate) fn from_id(store: &StoreOpaque, (owner, index): (InstanceId, DefinedMemoryIndex)) -> Self {
        Self { store: store.id(), owner, index }
    }

    /// Which memory of `store` it is.
    #[inline]
    pub(crate) fn id(&self, store: &StoreOpaque) -> (InstanceId, DefinedMemoryIndex) {
        store.check_instance(self.store, self.owner);
        (self.owner, self.index)
    }

    pub(crate) fn ty_in(&self, store: &StoreOpaque) -> MemoryType {
        let (owner, index) = self.id(store);
        MemoryType { ty: *store.vm.instance(owner).memory(index).ty() }
    }

    /// Pages now.
    pub(crate) fn size_in(&self, store: &StoreOpaque) -> u64 {
        let (owner, index) = self.id(store);
        let memory = store.vm.instance(owner).memory(index);
        memory.len_bytes() as u64 >> memory.ty().page_size_log2
    }

    /// The type it was made with.
    ///
    /// # Panics
    ///
    /// If it belongs to another store; so do all functions here.
    pub fn ty(&self, store: impl AsContext) -> MemoryType {
        self.ty_in(&store.as_context().0.opaque)
    }

    /// Copies bytes from `offset` on to `buffer`.
    ///
    /// # Errors
    ///
    /// If the memory ends before; nothing is copied then.
    pub fn read(&self, store: impl AsContext, offset: usize, buffer: &mut [u8]) -> Result<(), MemoryAccessError> {
        let context = store.as_context();
        let bytes = self.data(&context).get(offset..).and_then(|bytes| bytes.get(..buffer.len())).ok_or(MemoryAccessError {})?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    /// Copies `buffer` to the memory from `offset` on.
    ///
    /// # Errors
    ///
    /// If the memory ends before; nothing is copied then.
    pub fn write(&self, mut store: impl AsContextMut, offset: usize, buffer: &[u8]) -> Result<(), MemoryAccessError> {
        let mut context = store.as_context_mut();
        let bytes =
            self.data_mut(&mut context).get_mut(offset..).and_then(|bytes| bytes.get_mut(..buffer.len())).ok_or(MemoryAccessError {})?;
        bytes.copy_from_slice(buffer);
        Ok(())
    }

    /// All bytes.
    pub fn data<'a, T: 'static>(&self, store: impl Into<StoreContext<'a, T>>) -> &'a [u8] {
        let store = &store.into().0.opaque;
        let (owner, index) = self.id(store);
        boundary::memory_bytes(store, owner, index)
    }

    /// All bytes, to change them.
    pub fn data_mut<'a, T: 'static>(&self, store: impl Into<StoreContextMut<'a, T>>) -> &'a mut [u8] {
        self.data_and_store_mut(store).0
    }

    /// All bytes, and the embedder's data beside them.
    pub fn data_and_store_mut<'a, T: 'static>(&self, store: impl Into<StoreContextMut<'a, T>>) -> (&'a mut [u8], &'a mut T) {
        let store = store.into().0;
        let (owner, index) = self.id(&store.opaque);
        boundary::memory_bytes_mut(store, owner, index)
    }

    /// The address of the first byte. It stays the same until the memory grows or is given to an instance that imports it, which happens in
    /// calls of the guest too; with [`Config::memory_may_move`](crate::Config::memory_may_move) off, while it lives. What may be accessed there is
    /// [`data_size`](Self::data_size) bytes.
    pub fn data_ptr(&self, store: impl AsContext) -> *mut u8 {
        let store = &store.as_context().0.opaque;
        let (owner, index) = self.id(store);
        store.vm.instance(owner).memory(index).base()
    }

    /// The size in bytes.
    pub fn data_size(&self, store: impl AsContext) -> usize {
        let store = &store.as_context().0.opaque;
        let (owner, index) = self.id(store);
        store.vm.instance(owner).memory(index).len_bytes()
    }

    /// The size in pages.
    pub fn size(&self, store: impl AsContext) -> u64 {
        self.size_in(&store.as_context().0.opaque)
    }

    /// Bytes in a page: 65,536 or 1.
    pub fn page_size(&self, store: impl AsContext) -> u64 {
        self.ty(store).page_size()
    }

    /// The same as a power of two: 16 or 0.
    pub fn page_size_log2(&self, store: impl AsContext) -> u8 {
        self.ty(store).page_size_log2()
    }

    /// Makes the memory `delta` pages larger, which are zero. Returns the old size in pages.
    ///
    /// # Errors
    ///
    /// If the type's maximum, the limits of the store or the system do not allow it: the error says which.
    pub fn grow(&self, store: impl AsContextMut, delta: u64) -> Result<u64> {
        at_once(self.grow_async(store, delta))
    }

    /// Grows it; the limiter was asked if it may wait.
    pub(crate) fn grow_as_asked<T: 'static>(&self, store: &mut StoreInner<T>, delta: u64) -> Result<u64> {
        let (owner, index) = self.id(&store.opaque);
        let grown = boundary::grow_memory(store, owner, index, delta).map_err(|pending| store.opaque.error_of(pending))?;
        grown.with_context(|| {
            let memory = store.opaque.vm.instance(owner).memory(index);
            let pages = memory.len_bytes() as u64 >> memory.ty().page_size_log2;
            let max = memory.ty().max_bytes() >> memory.ty().page_size_log2;
            let why = store.opaque.counts.why_not_grown(u128::from(pages) + u128::from(delta), Some(max));
            format!("failed to grow memory by `{delta}` pages: {why}")
        })
    }
}
