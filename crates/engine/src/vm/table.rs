//! One table: its reservation, and the cell with base and length that compiled code reads.
//!
//! The base never moves. Elements are raw: what a `funcref` is to compiled code, or a 32-bit handle; both are `u64` here.

use super::address_space::AddressRoom;
use super::alloc::Backing;
use super::code::NO_FUNCTION;
use super::memory::NotGrown;
use super::pending::Pending;
use super::store::VmStore;
use super::{InstanceId, VmInstance};
use peregrine_artifact::vmctx::{FUNC_ELEMENT_INITIALIZED, FUNC_ELEMENT_SIZE_BYTES, HANDLE_ELEMENT_SIZE_BYTES, VmTable};
use peregrine_sys::pages::{Reservation, page_size};
use peregrine_wasm::{DefinedTableIndex, FuncIndex, TableIndex, TableType, Trap};
use std::ptr::NonNull;

/// A defined table of an instance.
pub(crate) struct Table {
    ty: TableType,
    backing: Backing,
    cell: NonNull<VmTable>,
}

impl Table {
    /// A table of type `ty` at its minimum; elements are uninitialized (functions) or null. Fills in `cell`.
    ///
    /// # Safety
    ///
    /// 1. `cell` is valid for writing as long as the result lives.
    pub(crate) unsafe fn new(ty: TableType, room: &AddressRoom, cell: NonNull<VmTable>) -> anyhow::Result<Self> {
        let whole = |bytes: u64| (bytes <= isize::MAX as u64 / 2).then(|| (bytes as usize).next_multiple_of(page_size()));
        let reserved = whole(room.table_bytes(ty.min, ty.max, element_size(&ty)));
        let initial_bytes = ty.min.checked_mul(element_size(&ty)).and_then(whole);
        let (Some(mut reserved), Some(initial_bytes)) = (reserved, initial_bytes) else {
            anyhow::bail!("a table with a minimum of {} elements is larger than the address space", ty.min);
        };
        let least = initial_bytes.max(page_size());
        let reservation = loop {
            match Reservation::new(reserved.max(least)) {
                Ok(reservation) => break reservation,
                // It grows less far then.
                Err(_) if reserved > least => reserved = (reserved / 2).next_multiple_of(page_size()),
                Err(error) => return Err(room.no_room(error, least)),
            }
        };
        let mut backing = Backing::new(reservation, initial_bytes)?;
        backing.list(room.mappings());
        let table = Self { ty, backing, cell };
        table.fill_cell();
        Ok(table)
    }

    /// Writes the cell of a table at its minimum.
    fn fill_cell(&self) {
        // SAFETY: the cell may be written as long as `self` lives; no code of its store runs now.
        unsafe { self.cell.write(VmTable { base: self.backing.address() as u64, len: self.ty.min }) };
    }

    /// Makes it what it was when it was made, but for the cell, which is filled in by [`Table::renew`].
    ///
    /// # Errors
    ///
    /// What the system said. The table must not be used again then.
    pub(super) fn reset(&mut self, guest_ran: bool) -> std::io::Result<()> {
        self.backing.reset(guest_ran)
    }

    /// Prepares a table that was reset for its next instance.
    pub(super) fn renew(&mut self) {
        self.fill_cell();
    }

    /// Its address space and accessible part.
    pub(crate) fn backing(&self) -> &Backing {
        &self.backing
    }

    /// The type, with the minimum it was made with.
    pub(crate) fn ty(&self) -> &TableType {
        &self.ty
    }

    /// The cell that compiled code reads.
    pub(crate) fn cell(&self) -> NonNull<VmTable> {
        self.cell
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> u64 {
        // SAFETY: the cell is valid as long as `self` lives; this thread owns the store, so nobody writes it now.
        unsafe { (*self.cell.as_ptr()).len }
    }

    /// Whether elements are functions.
    pub(crate) fn is_func(&self) -> bool {
        self.ty.element.heap.is_func()
    }

    /// The stored bits of element `index`, which is in bounds.
    fn stored(&self, index: u64) -> u64 {
        assert!(index < self.len(), "callers check the index");
        let base = self.backing.ptr();
        // SAFETY: the index is in bounds, so the element lies in the accessible part of the reservation, aligned to its size.
        unsafe {
            if self.is_func() {
                base.cast::<u64>().add(index as usize).read()
            } else {
                u64::from(base.cast::<u32>().add(index as usize).read())
            }
        }
    }

    /// Whether the stored bits of any element of a table of functions are such.
    pub(super) fn any_stored(&self, is_such: impl Fn(u64) -> bool) -> bool {
        debug_assert!(self.is_func());
        // The address is not noted as one that the host may have written to.
        let base = self.backing.address() as *const u64;
        let (len, size) = (self.len() as usize, size_of::<u64>());
        // Elements that nobody touched are uninitialized. A table may reserve millions, of which few are used.
        self.backing.touched(len * size).into_iter().any(|part| {
            let indices = part.start / size..(part.end / size).min(len);
            // SAFETY: the elements are accessible, aligned to their size, and nobody writes them while the store is borrowed.
            indices.into_iter().any(|index| is_such(unsafe { base.add(index).read() }))
        })
    }

    /// Writes the stored bits of element `index`, which is in bounds.
    fn store(&mut self, index: u64, bits: u64) {
        assert!(index < self.len(), "callers check the index");
        let base = self.backing.ptr();
        // SAFETY: as in `stored`.
        unsafe {
            if self.is_func() {
                base.cast::<u64>().add(index as usize).write(bits);
            } else {
                base.cast::<u32>().add(index as usize).write(bits as u32);
            }
        }
    }

    /// Writes element `index`, which is in bounds.
    pub(crate) fn set(&mut self, index: u64, element: u64) {
        let tag = if self.is_func() { FUNC_ELEMENT_INITIALIZED } else { 0 };
        self.store(index, element | tag);
    }

    /// Writes `element` to a range.
    pub(crate) fn fill(&mut self, start: u64, element: u64, len: u64) -> Result<(), Trap> {
        self.check(start, len)?;
        (start..start + len).for_each(|index| self.set(index, element));
        Ok(())
    }

    /// Makes the table `delta` elements larger, new ones being `element`. Returns the old size.
    ///
    /// # Errors
    ///
    /// If its type or the address space does not allow it.
    pub(crate) fn grow(&mut self, delta: u64, element: u64) -> Result<u64, NotGrown> {
        let old = self.len();
        let new = old.checked_add(delta).filter(|new| *new <= self.ty.max.unwrap_or(u64::MAX)).ok_or(NotGrown::Limit)?;
        let bytes = new.checked_mul(element_size(&self.ty)).and_then(|bytes| usize::try_from(bytes).ok()).ok_or(NotGrown::Limit)?;
        self.backing.grow(bytes.checked_next_multiple_of(page_size()).ok_or(NotGrown::Limit)?)?;
        // SAFETY: the cell is valid as long as `self` lives; compiled code of this store does not run while the host does.
        unsafe { (*self.cell.as_ptr()).len = new };
        // Fresh elements are null: those of a table of functions because the module prepares none beyond the minimum.
        if element != 0 {
            (old..new).for_each(|index| self.set(index, element));
        }
        Ok(old)
    }

    /// Checks that a range is in bounds.
    pub(crate) fn check(&self, start: u64, len: u64) -> Result<(), Trap> {
        match start.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(Trap::TableOutOfBounds),
        }
    }
}

fn element_size(ty: &TableType) -> u64 {
    u64::from(if ty.element.heap.is_func() { FUNC_ELEMENT_SIZE_BYTES } else { HANDLE_ELEMENT_SIZE_BYTES })
}

impl VmInstance {
    /// Element `index` of a defined table, initialized if it was not. `None` if it is out of bounds.
    pub(crate) fn table_get(&mut self, table: DefinedTableIndex, index: u64) -> Option<u64> {
        let owner = self.table(table);
        if index >= owner.len() {
            return None;
        }
        let bits = owner.stored(index);
        if !owner.is_func() {
            return Some(bits);
        }
        if bits != 0 {
            return Some(bits & !FUNC_ELEMENT_INITIALIZED);
        }
        let module = self.module();
        let table_index = TableIndex::from_u32(module.module().imported_tables + table.as_u32());
        let function = module.lazy_table(table_index).get(index as usize).copied().unwrap_or(NO_FUNCTION);
        let element = if function == NO_FUNCTION { 0 } else { self.func_ref(FuncIndex::from_u32(function)).as_ptr() as u64 };
        self.table_mut(table).set(index, element);
        Some(element)
    }
}

/// Checks that both ranges of a copy are in bounds.
///
/// # Safety
///
/// 1. `store` is valid and no mutable reference into it is held.
pub(crate) unsafe fn check_copy(
    store: NonNull<VmStore>,
    (target, target_start): ((InstanceId, DefinedTableIndex), u64),
    (source, source_start): ((InstanceId, DefinedTableIndex), u64),
    len: u64,
) -> Result<(), Trap> {
    // SAFETY: the caller lends the store (1).
    let store = unsafe { store.as_ref() };
    store.instance(source.0).table(source.1).check(source_start, len)?;
    store.instance(target.0).table(target.1).check(target_start, len)
}

/// Copies elements from one table to another, or within one, as if through a buffer.
///
/// # Safety
///
/// 1. `store` is valid and no reference into it is held.
pub(crate) unsafe fn copy(
    store: NonNull<VmStore>,
    target: (InstanceId, DefinedTableIndex, u64),
    source: (InstanceId, DefinedTableIndex, u64),
    len: u64,
) -> Result<(), Trap> {
    // SAFETY: the caller lends the store (1).
    let store = unsafe { &mut *store.as_ptr() };
    store.instance(source.0).table(source.1).check(source.2, len)?;
    store.instance(target.0).table(target.1).check(target.2, len)?;
    let mut copy_one = |offset: u64| {
        let element = store.instance_mut(source.0).table_get(source.1, source.2 + offset).unwrap_or(0);
        store.instance_mut(target.0).table_mut(target.1).set(target.2 + offset, element);
    };
    // Away from the overlap first.
    if target.2 <= source.2 {
        (0..len).for_each(&mut copy_one)
    } else {
        (0..len).rev().for_each(&mut copy_one)
    }
    Ok(())
}

/// Grows a table of an instance, asking the store's limits first. `Ok(None)` is the refusal that the guest sees as -1.
///
/// # Safety
///
/// 1. `store` is valid and no reference into it is held.
pub(crate) unsafe fn grow(
    store: NonNull<VmStore>,
    owner: InstanceId,
    index: DefinedTableIndex,
    delta: u64,
    element: u64,
) -> Result<Option<u64>, Pending> {
    // SAFETY: the caller lends the store (1); the reference ends before the limiter runs.
    let (current, max) = unsafe {
        let table = (*store.as_ptr()).instance(owner).table(index);
        (table.len(), table.ty.max)
    };
    if delta != 0
        // SAFETY: as above.
        && let Some(mut host) = unsafe { (*store.as_ptr()).host() }
    {
        let desired = usize::try_from(current.saturating_add(delta)).unwrap_or(usize::MAX);
        // SAFETY: the host's part of the store lives as long as the store, and nothing else of it is borrowed.
        match unsafe { host.as_mut() }.table_growing(current as usize, desired, max.map(|max| max as usize)) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(Pending::Error(error, Vec::new())),
        }
    }
    // SAFETY: as above.
    let grow = || unsafe { (*store.as_ptr()).instance_mut(owner).table_mut(index).grow(delta, element) };
    // SAFETY: as above. What all stores share outlives the store.
    let shared = unsafe { &*std::ptr::from_ref((*store.as_ptr()).shared()) };
    let grown = shared.make_where_room_is(NotGrown::is_no_room, grow).ok();
    if grown.is_none()
        // SAFETY: as above.
        && let Some(mut host) = unsafe { (*store.as_ptr()).host() }
    {
        let error = anyhow::anyhow!("failed to grow table by {delta} elements");
        // SAFETY: as above.
        unsafe { host.as_mut() }.table_grow_failed(error).map_err(|error| Pending::Error(error, Vec::new()))?;
    }
    Ok(grown)
}
