//! Linear memories that several stores use at once, on several threads.
//!
//! There is one cell with base and length, which the code of every instance reads: the contexts of the instances that define or import
//! the memory hold a pointer to it ([`peregrine_artifact::vmctx::MemoryCell::Behind`]). A memory that comes into a store from outside is
//! owned there by an instance without code ([`super::adopted`]). Waiting and waking are in [`super::parking`].

use super::address_space::AddressRoom;
use super::alloc::Backing;
use super::code::LoadedModule;
use super::instance::VmInstance;
use super::memory::{Memory, NotGrown, check_range};
use super::parking::{Awoken, Parking, WaitResult, Waiting};
use peregrine_artifact::settings::Settings;
use peregrine_artifact::vmctx::VmMemory;
use peregrine_wasm::{DefinedMemoryIndex, MemoryType, Trap};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A memory that any number of stores may use. It lives as long as the last one that does.
pub(crate) struct SharedMemory {
    /// Locked to grow. Its cell is `cell`.
    memory: Mutex<Memory>,
    cell: Cell,
    ty: MemoryType,
    base: NonNull<u8>,
    reserved: Range<usize>,
    parking: Parking,
}

// SAFETY: what is not locked does not change, but for the length in the cell, which is read and written atomically.
unsafe impl Send for SharedMemory {}
// SAFETY: as above. The bytes are the guests' and are reached through raw pointers only.
unsafe impl Sync for SharedMemory {}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory").field("ty", &self.ty).field("len_bytes", &self.len_bytes()).finish_non_exhaustive()
    }
}

/// The cell of a shared memory, on the heap.
struct Cell(NonNull<VmMemory>);

impl Drop for Cell {
    fn drop(&mut self) {
        // SAFETY: made from a box by `SharedMemory::new`, and nothing else frees it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl SharedMemory {
    /// A memory of type `ty` at its minimum, with the initial content that `images` has for it.
    ///
    /// # Errors
    ///
    /// What the system said, or that the type is beyond the address space.
    pub(crate) fn new(
        ty: MemoryType,
        settings: (&Settings, &Arc<AddressRoom>),
        images: (&LoadedModule, DefinedMemoryIndex),
    ) -> anyhow::Result<Arc<Self>> {
        let cell = Cell(NonNull::from(Box::leak(Box::new(VmMemory { base: 0, len_bytes: 0 }))));
        // SAFETY: the cell lives as long as the result, which keeps the memory.
        let memory = unsafe { Memory::new(ty, settings, images, cell.0)? };
        // SAFETY: a reservation's address is not null.
        let base = unsafe { NonNull::new_unchecked(memory.base()) };
        let reserved = memory.reserved();
        Ok(Arc::new(Self { memory: Mutex::new(memory), cell, ty, base, reserved, parking: Parking::default() }))
    }

    /// The type, with the minimum it was made with.
    pub(crate) fn ty(&self) -> &MemoryType {
        &self.ty
    }

    /// The first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Accessible bytes now. They never become fewer.
    pub(crate) fn len_bytes(&self) -> usize {
        // SAFETY: the cell lives as long as `self`, and its length is accessed atomically only.
        // Paired with the store in `Memory::grow`: what the length covers was made accessible before.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.cell.0.as_ptr()).len_bytes) }.load(Ordering::Acquire) as usize
    }

    /// Whether `address` is in the memory or its guard. Signal-safe.
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.reserved.contains(&address)
    }

    /// Makes the memory `delta_pages` larger. Returns the old size in pages.
    ///
    /// # Errors
    ///
    /// If the type's maximum, the address space or the host does not allow it.
    pub(crate) fn grow(&self, delta_pages: u64) -> Result<u64, NotGrown> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).grow(delta_pages, false)
    }

    /// The address of an atomic access of `size` bytes, checked.
    fn place(&self, address: u64, size: u64) -> Result<NonNull<u8>, Trap> {
        if !address.is_multiple_of(size) {
            return Err(Trap::HeapMisaligned);
        }
        let range = check_range(address, size, self.len_bytes())?;
        // SAFETY: the range was just checked.
        Ok(unsafe { self.base.add(range.start) })
    }

    /// Wakes at most `count` of those that wait at `address`. Returns how many.
    ///
    /// # Errors
    ///
    /// If the address is misaligned or out of bounds.
    pub(crate) fn notify(&self, address: u64, count: u32) -> Result<u32, Trap> {
        self.place(address, 4)?;
        Ok(self.parking.notify(address, count))
    }

    /// Begins to wait at `address` if it holds `expected`, for `timeout` at most; `None` is for ever. The result is `None` if it does not.
    ///
    /// # Errors
    ///
    /// If the address is misaligned or out of bounds.
    pub(super) fn begin_wait(
        self: &Arc<Self>,
        address: u64,
        expected: Expected,
        timeout: Option<Duration>,
    ) -> Result<Option<Waiting<Self>>, Trap> {
        let place = self.place(address, expected.size_bytes())?;
        // SAFETY: the place is aligned and within the memory, which `self` keeps. Guests access it by other atomic instructions.
        let matches = || unsafe {
            match expected {
                Expected::I32(expected) => AtomicU32::from_ptr(place.cast().as_ptr()).load(Ordering::SeqCst) == expected,
                Expected::I64(expected) => AtomicU64::from_ptr(place.cast().as_ptr()).load(Ordering::SeqCst) == expected,
            }
        };
        Ok(Waiting::begin(self, |memory| &memory.parking, address, matches, timeout))
    }

    /// Waits as [`begin_wait`](Self::begin_wait) says, for the host, which nothing interrupts.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn wait(self: &Arc<Self>, address: u64, expected: Expected, timeout: Option<Duration>) -> Result<WaitResult, Trap> {
        let Some(waiting) = self.begin_wait(address, expected, timeout)? else { return Ok(WaitResult::Mismatch) };
        loop {
            if let Awoken::Done(result) = waiting.sleep(None) {
                return Ok(result);
            }
        }
    }
}

/// What memory must hold for a wait to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// 4 bytes.
    I32(u32),
    /// 8 bytes.
    I64(u64),
}

impl Expected {
    /// How many bytes there are.
    pub(super) fn size_bytes(self) -> u64 {
        match self {
            Self::I32(_) => 4,
            Self::I64(_) => 8,
        }
    }
}

/// A memory that an instance owns, alone or together with others.
pub(crate) enum InstanceMemory {
    /// Of this instance, whose context has the cell.
    Own(Memory),
    /// Of every store that it is in. The bytes are those that this store was charged: what others made it grow by is none of its own.
    Shared(Arc<SharedMemory>, usize),
}

impl InstanceMemory {
    /// The type, with the minimum it was made with.
    pub(crate) fn ty(&self) -> &MemoryType {
        match self {
            Self::Own(memory) => memory.ty(),
            Self::Shared(memory, _) => memory.ty(),
        }
    }

    /// The cell that compiled code reads.
    pub(crate) fn cell(&self) -> NonNull<VmMemory> {
        match self {
            Self::Own(memory) => memory.cell(),
            Self::Shared(memory, _) => memory.cell.0,
        }
    }

    /// The first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        match self {
            Self::Own(memory) => memory.base(),
            Self::Shared(memory, _) => memory.base(),
        }
    }

    /// Accessible bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        match self {
            Self::Own(memory) => memory.len_bytes(),
            Self::Shared(memory, _) => memory.len_bytes(),
        }
    }

    /// Bytes that the store of the instance was charged for it.
    pub(crate) fn charged_bytes(&self) -> usize {
        match self {
            Self::Own(memory) => memory.len_bytes(),
            Self::Shared(_, charged_bytes) => *charged_bytes,
        }
    }

    /// Whether `address` is in the memory or its guard. Signal-safe.
    pub(crate) fn contains(&self, address: usize) -> bool {
        match self {
            Self::Own(memory) => memory.contains(address),
            Self::Shared(memory, _) => memory.contains(address),
        }
    }

    /// As [`Memory::reset`]. A memory that others may use is none to be reset.
    pub(super) fn reset(&mut self, guest_ran: bool) -> std::io::Result<()> {
        match self {
            Self::Own(memory) => memory.reset(guest_ran),
            Self::Shared(..) => Err(std::io::ErrorKind::ResourceBusy.into()),
        }
    }

    /// As [`Memory::renew`].
    pub(super) fn renew(&mut self) {
        if let Self::Own(memory) = self {
            memory.renew();
        }
    }

    /// What it is in, if it is this instance's alone.
    pub(crate) fn backing(&self) -> Option<&Backing> {
        match self {
            Self::Own(memory) => Some(memory.backing()),
            Self::Shared(..) => None,
        }
    }

    /// Makes the memory `delta_pages` larger. Returns the old size in pages.
    ///
    /// # Errors
    ///
    /// If that is not possible, or not without moving it where `may_move` is false.
    pub(super) fn grow(&mut self, delta_pages: u64, may_move: bool) -> Result<u64, NotGrown> {
        match self {
            Self::Own(memory) => memory.grow(delta_pages, may_move),
            Self::Shared(memory, charged_bytes) => {
                let old = memory.grow(delta_pages)?;
                *charged_bytes += (delta_pages * memory.ty().page_size_bytes()) as usize;
                Ok(old)
            }
        }
    }

    /// As [`Memory::guard`].
    pub(super) fn guard(&mut self, reach_bytes: usize, may_move: bool) -> anyhow::Result<()> {
        match self {
            Self::Own(memory) => memory.guard(reach_bytes, may_move),
            // It is locked to grow only.
            Self::Shared(memory, _) => memory.memory.lock().unwrap_or_else(PoisonError::into_inner).guard(reach_bytes, false),
        }
    }

    /// As [`Memory::pin`].
    pub(super) fn pin(&mut self) {
        if let Self::Own(memory) = self {
            memory.pin();
        }
    }

    /// The memory, if it is one that others may use too.
    pub(crate) fn shared(&self) -> Option<&Arc<SharedMemory>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(memory, _) => Some(memory),
        }
    }
}

impl VmInstance {
    /// Makes `memory`, for which the store was charged so many bytes, the next of the defined memories.
    pub(super) fn add_shared_memory(&mut self, memory: Arc<SharedMemory>, charged_bytes: usize) {
        let index = self.memories.next_index();
        let place = self.at::<u64>(self.module().vm_layout().memory(index));
        // SAFETY: the place is in the instance's context, and has room for more than a pointer.
        unsafe { place.write(memory.cell.0.as_ptr() as u64) };
        self.memories.push(InstanceMemory::Shared(memory, charged_bytes));
    }
}
