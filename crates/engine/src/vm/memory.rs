//! One linear memory: its reservation, and the cell with base and length that compiled code reads.
//!
//! A guarded memory reserves everything that a 32-bit index and a static offset can reach, and never moves. A checked memory reserves what it
//! may grow to, as far as the host gives it, or little: then it moves when it grows beyond that, or when code that relies on a guard gets
//! it. Code that may see it move loads the base from the cell after each call; the host asks for the address each time.

use super::address_space::{AddressRoom, MemoryPlan, reach_bytes};
use super::alloc::Backing;
use super::code::LoadedModule;
use super::growth::Growth;
use super::pending::Pending;
use super::store::{VmStore, is_no_room};
use crate::MemoryCreator;
use crate::limiter::EmbedderPanic;
use peregrine_artifact::settings::Settings;
use peregrine_artifact::vmctx::VmMemory;
use peregrine_wasm::{DefinedMemoryIndex, MemoryType, Trap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a memory or table did not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotGrown {
    /// Its type, its address space or the moment does not allow it.
    Limit,
    /// The system has no room.
    NoRoom,
}

impl From<std::io::Error> for NotGrown {
    fn from(error: std::io::Error) -> Self {
        if is_no_room(&error) { Self::NoRoom } else { Self::Limit }
    }
}

impl NotGrown {
    /// Whether room would help.
    pub(crate) fn is_no_room(&self) -> bool {
        *self == Self::NoRoom
    }
}

/// A defined memory of an instance.
pub(crate) struct Memory {
    ty: MemoryType,
    backing: Backing,
    cell: NonNull<VmMemory>,
    room: Arc<AddressRoom>,
    /// Whether no code relies on the base or the guard.
    may_move: bool,
    /// As it was when it was made.
    may_move_at_first: bool,
    /// Bytes from the base on that fault where they are not accessible; 0 if only what code checks is safe.
    guarded_bytes: usize,
}

impl Memory {
    /// A memory of type `ty` at its minimum, with the module's initial content for `index` mapped into it. Fills in `cell`.
    ///
    /// # Safety
    ///
    /// 1. `cell` is valid for writing as long as the result lives.
    pub(crate) unsafe fn new(
        ty: MemoryType,
        (settings, room): (&Settings, &Arc<AddressRoom>),
        images: (&LoadedModule, DefinedMemoryIndex),
        cell: NonNull<VmMemory>,
    ) -> anyhow::Result<Self> {
        let min_bytes = ty.min_bytes().and_then(|bytes| usize::try_from(bytes).ok());
        let Some(min_bytes) = min_bytes.filter(|bytes| *bytes <= isize::MAX as usize / 2) else {
            anyhow::bail!("a memory with a minimum of {} pages is larger than the address space", ty.min_pages);
        };
        let plan = room.memory_plan(settings, images, &ty);
        let (reservation, is_guarded) = room.reserve(&plan, min_bytes)?;
        let guarded_bytes = if is_guarded { reservation.len_bytes() } else { 0 };
        let backing = Backing::new(reservation, min_bytes)?;
        Self::with_backing(ty, room, MemoryPlan { may_move: plan.may_move && !is_guarded, ..plan }, (backing, guarded_bytes), images, cell)
    }

    /// A memory at its minimum, with its initial content.
    fn with_backing(
        ty: MemoryType,
        room: &Arc<AddressRoom>,
        plan: MemoryPlan,
        (mut backing, guarded_bytes): (Backing, usize),
        (module, index): (&LoadedModule, DefinedMemoryIndex),
        cell: NonNull<VmMemory>,
    ) -> anyhow::Result<Self> {
        for image in module.memory_images().iter().filter(|image| image.memory == index) {
            backing.map(&image.content, image.offset)?;
        }
        backing.list(room.mappings());
        let (room, may_move) = (Arc::clone(room), plan.may_move);
        let memory = Self { ty, backing, cell, room, may_move, may_move_at_first: may_move, guarded_bytes };
        memory.fill_cell();
        Ok(memory)
    }

    /// As [`Memory::new`], in memory of the embedder's.
    ///
    /// # Errors
    ///
    /// What `creator` said, or how it broke its promise.
    ///
    /// # Safety
    ///
    /// As there.
    pub(crate) unsafe fn lent(
        creator: &dyn MemoryCreator,
        ty: MemoryType,
        (settings, room): (&Settings, &Arc<AddressRoom>),
        images: (&LoadedModule, DefinedMemoryIndex),
        cell: NonNull<VmMemory>,
    ) -> anyhow::Result<Self> {
        let min_bytes = ty.min_bytes().and_then(|bytes| usize::try_from(bytes).ok());
        let Some(min_bytes) = min_bytes else {
            anyhow::bail!("a memory with a minimum of {} pages is larger than the address space", ty.min_pages);
        };
        let max_bytes = ty.max_pages.map(|_| usize::try_from(ty.max_bytes()).unwrap_or(usize::MAX));
        // What is the embedder's does not move, so whoever gets it later must find the guard.
        let plan = MemoryPlan { may_move: false, ..room.memory_plan(settings, images, &ty) };
        let guarded = plan.guarded_bytes.is_some() || (settings.may_be_guarded(&ty) && room.is_shown(images));
        let reserved = guarded.then(|| settings.memory_reservation_bytes.max(4 << 30) as usize);
        let guard = if guarded { reach_bytes(settings) - settings.memory_reservation_bytes.max(4 << 30) as usize } else { 0 };
        // What the memory says of itself is the embedder's code, too.
        let backing = EmbedderPanic::catch(|| {
            let made = creator.new_memory(crate::MemoryType { ty }, min_bytes, max_bytes, reserved, guard);
            let memory = made.map_err(anyhow::Error::msg)?;
            let (bytes, capacity) = (memory.byte_size(), memory.byte_capacity());
            if bytes < min_bytes || capacity < reserved.unwrap_or(min_bytes) {
                anyhow::bail!(
                    "the memory creator gave {bytes} bytes that can grow to {capacity}; expected {min_bytes} that can grow to {}",
                    reserved.unwrap_or(min_bytes)
                );
            }
            Ok(Backing::lent(memory, capacity.saturating_add(guard)))
        })?;
        let guarded_bytes = if guarded { backing.reserved_bytes() } else { 0 };
        Self::with_backing(ty, room, plan, (backing, guarded_bytes), images, cell)
    }

    /// Writes the cell of a memory at its minimum.
    fn fill_cell(&self) {
        let len_bytes = self.ty.min_bytes().expect("checked when the memory was made");
        // SAFETY: the cell may be written as long as `self` lives; no code of its store runs now.
        unsafe { self.cell.write(VmMemory { base: self.backing.address() as u64, len_bytes }) };
    }

    /// Makes it what it was when it was made, but for the cell, which is filled in by [`Memory::renew`].
    ///
    /// # Errors
    ///
    /// What the system said. The memory must not be used again then.
    pub(super) fn reset(&mut self, guest_ran: bool) -> std::io::Result<()> {
        self.backing.reset(guest_ran)
    }

    /// Prepares a memory that was reset for its next instance.
    pub(super) fn renew(&mut self) {
        self.may_move = self.may_move_at_first && self.guarded_bytes == 0;
        self.fill_cell();
    }

    /// Its address space and accessible part.
    pub(crate) fn backing(&self) -> &Backing {
        &self.backing
    }

    /// The type, with the minimum it was made with.
    pub(crate) fn ty(&self) -> &MemoryType {
        &self.ty
    }

    /// The cell that compiled code reads.
    pub(crate) fn cell(&self) -> NonNull<VmMemory> {
        self.cell
    }

    /// The first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.backing.ptr()
    }

    /// Accessible bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_cell().load(Ordering::Acquire) as usize
    }

    /// The length in the cell. Of a memory that is shared, code of other threads reads it at any time.
    fn len_cell(&self) -> &AtomicU64 {
        // SAFETY: the cell is valid as long as `self` lives, and its length is accessed atomically only.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.cell.as_ptr()).len_bytes) }
    }

    /// The addresses of the memory and its guard.
    pub(super) fn reserved(&self) -> std::ops::Range<usize> {
        let start = self.backing.address();
        start..start + self.backing.reserved_bytes()
    }

    /// Whether `address` is in the memory or its guard. Signal-safe.
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.backing.contains(address)
    }

    /// Makes the memory `delta_pages` larger. Returns the old size in pages.
    ///
    /// # Errors
    ///
    /// If the type's maximum, the address space or the host does not allow it, or it would have to move and `may_move` is false.
    pub(super) fn grow(&mut self, delta_pages: u64, may_move: bool) -> Result<u64, NotGrown> {
        let old_bytes = self.len_bytes();
        let old_pages = old_bytes as u64 >> self.ty.page_size_log2;
        let new_bytes = self.bytes_after_growing(delta_pages).ok_or(NotGrown::Limit)?;
        if !self.may_move {
            self.backing.grow_in_place(new_bytes)?;
        } else if let Err(error) = self.backing.grow_checked(new_bytes) {
            if !may_move {
                return Err(error.into());
            }
            self.move_to_grow(new_bytes)?;
        }
        // Paired with the load in `len_bytes`: whoever sees the new length may access what it covers.
        self.len_cell().store(new_bytes as u64, Ordering::Release);
        Ok(old_pages)
    }

    /// Moves to where there are `len_bytes`, with room for more if there is enough.
    fn move_to_grow(&mut self, len_bytes: usize) -> std::io::Result<()> {
        let page = peregrine_sys::pages::page_size();
        let least = len_bytes.next_multiple_of(page);
        let wanted = usize::try_from(self.room.grown_bytes(len_bytes as u64, &self.ty)).unwrap_or(least);
        let mut room_bytes = wanted.saturating_sub(least).next_multiple_of(page);
        // Half of what there is at least, so that growing page by page towards the end does not move at every page.
        while let Err(error) = self.backing.relocate(len_bytes, least + room_bytes, true) {
            if room_bytes == 0 {
                return Err(error);
            }
            room_bytes = room_bytes / 2 / page * page;
        }
        self.base_moved();
        Ok(())
    }

    /// Tells compiled code where the memory is now.
    fn base_moved(&mut self) {
        // SAFETY: the cell may be written as long as `self` lives; no code of its store runs now, and no other uses a memory that moves.
        unsafe { (*self.cell.as_ptr()).base = self.backing.address() as u64 };
    }

    /// Makes it fit for code that relies on `reach_bytes` of address space, by moving it if `may_move`. It stays where it is then.
    ///
    /// # Errors
    ///
    /// If it must not move, or there is not so much address space.
    pub(super) fn guard(&mut self, reach_bytes: usize, may_move: bool) -> anyhow::Result<()> {
        if self.guarded_bytes >= reach_bytes {
            return Ok(());
        }
        if !self.may_move || !may_move {
            let why = if self.may_move { "it must not move while a guest is interrupted" } else { "it does not move" };
            anyhow::bail!(
                "a memory that is imported has {:#x} bytes of address space, and the importing code needs {reach_bytes:#x}; {why}",
                self.backing.reserved_bytes()
            );
        }
        let moved = self.backing.relocate(self.len_bytes(), reach_bytes, false);
        moved.map_err(|error| self.room.no_room(error, reach_bytes))?;
        self.backing.settle();
        (self.guarded_bytes, self.may_move) = (reach_bytes, false);
        self.base_moved();
        Ok(())
    }

    /// Lets it stay where it is, for code that relies on that.
    pub(super) fn pin(&mut self) {
        self.may_move = false;
    }

    /// The length after growing by `delta_pages`, if the type allows it.
    fn bytes_after_growing(&self, delta_pages: u64) -> Option<usize> {
        let delta_bytes = delta_pages.checked_mul(self.ty.page_size_bytes())?;
        let new_bytes = (self.len_bytes() as u64).checked_add(delta_bytes)?;
        // `memory.size` must be able to tell: 32 bits hold the length of no memory of 4 GiB with pages of one byte.
        let most = if !self.ty.memory64 && self.ty.page_size_log2 == 0 { u64::from(u32::MAX) } else { u64::MAX };
        (new_bytes <= self.ty.max_bytes().min(most)).then(|| usize::try_from(new_bytes).ok()).flatten()
    }
}

/// What growing a memory of an instance by `delta_pages` means now.
///
/// # Safety
///
/// 1. `store` is valid and no mutable reference into it is held.
pub(crate) unsafe fn measure(store: NonNull<VmStore>, (owner, index): (super::InstanceId, DefinedMemoryIndex), delta_pages: u64) -> Growth {
    // SAFETY: the caller lends the store (1).
    Growth::growing_memory(unsafe { (*store.as_ptr()).instance(owner) }.memory(index), delta_pages)
}

/// Grows a memory of an instance, asking the store's limits first: for `growth`, which is what [`measure`] said a moment ago. Another thread may
/// have made a shared memory larger since. `Ok(None)` is the refusal that the guest sees as -1.
///
/// # Safety
///
/// 1. `store` is valid and no reference into it is held.
pub(crate) unsafe fn grow(
    store: NonNull<VmStore>,
    (owner, index): (super::InstanceId, DefinedMemoryIndex),
    delta_pages: u64,
    growth: Growth,
) -> Result<Option<u64>, Pending> {
    let Growth { current, desired, max, .. } = growth;
    if delta_pages != 0
        // SAFETY: the caller lends the store (1); no reference into it is held when the limiter runs.
        && let Some(mut host) = unsafe { (*store.as_ptr()).host() }
    {
        // SAFETY: the host's part of the store lives as long as the store, and nothing else of it is borrowed.
        let allowed = unsafe { host.as_mut() }.memory_growing(current, desired, max);
        match allowed {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(Pending::Error(error, Vec::new())),
        }
    }
    // SAFETY: as above.
    let may_move = unsafe { (*store.as_ptr()).memories_may_move() };
    // SAFETY: as above.
    let grow = || unsafe { (*store.as_ptr()).instance_mut(owner).memory_mut(index).grow(delta_pages, may_move) };
    // SAFETY: as above. What all stores share outlives the store.
    let shared = unsafe { &*std::ptr::from_ref((*store.as_ptr()).shared()) };
    // The memory may be the embedder's, and guests cannot be unwound.
    let grown = catch_unwind(AssertUnwindSafe(|| shared.make_where_room_is(NotGrown::is_no_room, grow).ok()));
    if !matches!(grown, Ok(Some(_)))
        // SAFETY: as above.
        && let Some(mut host) = unsafe { (*store.as_ptr()).host() }
    {
        let error = anyhow::anyhow!("failed to grow memory by {delta_pages} pages");
        // SAFETY: as above.
        let told = unsafe { host.as_mut() }.memory_grow_failed(error);
        if grown.is_ok() {
            told.map_err(|error| Pending::Error(error, Vec::new()))?;
        }
    }
    grown.map_err(Pending::Panic)
}

/// The range `start..start + len` of a memory of `memory_len` bytes.
pub(crate) fn check_range(start: u64, len: u64, memory_len: usize) -> Result<std::ops::Range<usize>, Trap> {
    match start.checked_add(len) {
        Some(end) if end <= memory_len as u64 => Ok(start as usize..end as usize),
        _ => Err(Trap::MemoryOutOfBounds),
    }
}
