//! The address space of one memory or table: accessible from its start up to where it has grown, and made what it was at first by a reset.

use super::huge_pages;
use super::mappings::{Listed, Mappings, Place};
use crate::LinearMemory;
use peregrine_sys::image::MemoryImage;
use peregrine_sys::pages::{Reservation, page_size};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// From this size on the system is asked which pages were touched.
const WORTH_ASKING_BYTES: usize = 256 << 10;

/// A reservation whose first bytes are accessible.
pub(crate) struct Backing {
    /// Where the engine finds it, if it does. Dropped first.
    listed: Option<Listed>,
    space: Space,
    /// Accessible bytes at first: whole pages.
    initial_bytes: usize,
    /// Accessible bytes now: whole pages.
    committed_bytes: usize,
    /// Where the pieces end that the system mapped at once, accessible ones first: none extends over an end.
    piece_ends: Vec<usize>,
    /// Bytes of address space at first.
    initial_reserved_bytes: usize,
    /// Whether a part of it was mapped from a file.
    has_content: bool,
    /// Whether a reset can bring back what was there at first.
    is_restorable: bool,
    /// Whether the host asked for the address since the last reset. What guests write is not noted here.
    host_touched: AtomicBool,
}

enum Space {
    Own(Reservation),
    /// Memory of the embedder's: where it is, and how long with its guard.
    Lent {
        memory: Box<dyn LinearMemory>,
        base: usize,
        reserved_bytes: usize,
    },
}

impl Backing {
    /// Memory of the embedder's, of `memory.byte_size()` accessible bytes, and `reserved_bytes` with what it may grow to and its guard.
    pub(crate) fn lent(memory: Box<dyn LinearMemory>, reserved_bytes: usize) -> Self {
        let (base, bytes) = (memory.as_ptr() as usize, memory.byte_size());
        let space = Space::Lent { memory, base, reserved_bytes };
        Self::with_space(space, bytes, reserved_bytes)
    }

    fn with_space(space: Space, initial_bytes: usize, initial_reserved_bytes: usize) -> Self {
        Self {
            listed: None,
            space,
            initial_bytes,
            committed_bytes: initial_bytes,
            piece_ends: Vec::new(),
            initial_reserved_bytes,
            has_content: false,
            is_restorable: true,
            host_touched: AtomicBool::new(false),
        }
    }

    /// Whether a reset can make it ready for another life: not if it is memory of the embedder's, or was moved by copying.
    pub(crate) fn is_restorable(&self) -> bool {
        !self.is_lent() && self.is_restorable
    }

    /// Whether it is memory of the embedder's.
    fn is_lent(&self) -> bool {
        matches!(self.space, Space::Lent { .. })
    }

    /// Makes the first `initial_bytes`, rounded up to pages, of a fresh reservation accessible.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(crate) fn new(reservation: Reservation, initial_bytes: usize) -> io::Result<Self> {
        let initial_bytes = initial_bytes.next_multiple_of(page_size());
        reservation.commit(0..initial_bytes)?;
        let reserved_bytes = reservation.len_bytes();
        Ok(Self::with_space(Space::Own(reservation), initial_bytes, reserved_bytes))
    }

    /// Lists it among the mappings of its engine, unless it is memory of the embedder's.
    pub(crate) fn list(&mut self, mappings: &Arc<Mappings>) {
        if !self.is_lent() {
            self.listed = Some(mappings.list(self.place()));
        }
    }

    fn place(&self) -> Place {
        Place { address: self.address(), reserved_bytes: self.reserved_bytes(), committed_bytes: self.committed_bytes }
    }

    /// Says that it has become larger or smaller, or moved.
    fn changed(&self) {
        if let Some(listed) = &self.listed {
            listed.set(self.place());
        }
    }

    /// Maps `content` at `offset`, or copies it there.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(crate) fn map(&mut self, content: &MemoryImage, offset: usize) -> io::Result<()> {
        match &self.space {
            Space::Own(reservation) => {
                content.map_into(reservation, offset)?;
                self.has_content = true;
                self.piece_ends.reserve_exact(2);
                self.piece_ends.extend([offset, offset + content.len_bytes()]);
                Ok(())
            }
            Space::Lent { base, .. } => {
                let copy = Reservation::new(content.len_bytes())?;
                content.map_into(&copy, 0)?;
                let len = content.len_bytes().min(self.committed_bytes.saturating_sub(offset));
                // SAFETY: the copy is of that many bytes, which are accessible in the memory too, and nobody else uses either yet.
                unsafe { copy.ptr().copy_to_nonoverlapping((*base as *mut u8).add(offset), len) };
                Ok(())
            }
        }
    }

    /// Whether `address` is in the address space. Signal-safe.
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.address()) < self.reserved_bytes()
    }

    /// Accessible bytes that are in physical memory; none of what is the embedder's.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(crate) fn resident_bytes(&self) -> io::Result<usize> {
        match &self.space {
            Space::Own(reservation) => reservation.resident_bytes(0..self.committed_bytes),
            Space::Lent { .. } => Ok(0),
        }
    }

    /// The accessible parts, among the first `len_bytes`, that may be other than they were at first.
    pub(crate) fn touched(&self, len_bytes: usize) -> Vec<std::ops::Range<usize>> {
        let len_bytes = len_bytes.next_multiple_of(page_size()).min(self.committed_bytes);
        let all = || std::iter::once(0..len_bytes).collect();
        match &self.space {
            // It is faster to look at little than to ask the system.
            Space::Own(reservation) if len_bytes >= WORTH_ASKING_BYTES => reservation.touched(0..len_bytes).unwrap_or_else(|_| all()),
            _ => all(),
        }
    }

    /// The first byte, for the host to read and write there.
    pub(crate) fn ptr(&self) -> *mut u8 {
        // Only this thread has the store; the reset that reads it happens when the store is dropped or borrowed mutably.
        self.host_touched.store(true, Ordering::Relaxed);
        self.address() as *mut u8
    }

    /// The address of the first byte.
    pub(crate) fn address(&self) -> usize {
        match &self.space {
            Space::Own(reservation) => reservation.ptr() as usize,
            Space::Lent { base, .. } => *base,
        }
    }

    /// Bytes of address space.
    pub(crate) fn reserved_bytes(&self) -> usize {
        match &self.space {
            Space::Own(reservation) => reservation.len_bytes(),
            Space::Lent { reserved_bytes, .. } => *reserved_bytes,
        }
    }

    /// Accessible bytes.
    pub(crate) fn committed_bytes(&self) -> usize {
        self.committed_bytes
    }

    /// Makes at least `bytes` accessible.
    ///
    /// # Errors
    ///
    /// What the system said, or that the reservation is smaller. Nothing has changed then.
    pub(crate) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let reservation = match &mut self.space {
            Space::Own(reservation) => reservation,
            Space::Lent { memory, base, .. } => {
                if bytes > self.committed_bytes {
                    memory.grow_to(bytes).map_err(io::Error::other)?;
                    assert!(memory.as_ptr() as usize == *base && memory.byte_size() >= bytes, "`LinearMemory::grow_to` broke its promise");
                    self.committed_bytes = memory.byte_size();
                }
                return Ok(());
            }
        };
        let wanted = bytes.checked_next_multiple_of(page_size()).filter(|wanted| *wanted <= reservation.len_bytes());
        let wanted = wanted.ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, "the reservation ends"))?;
        if wanted > self.committed_bytes {
            reservation.commit(self.committed_bytes..wanted)?;
            self.committed_bytes = wanted;
            self.changed();
        }
        Ok(())
    }

    /// As [`Backing::grow`], of memory that does not move, on behalf of a guest: what is much gets huge pages.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn grow_in_place(&mut self, bytes: usize) -> io::Result<()> {
        let old_bytes = self.committed_bytes;
        self.grow(bytes)?;
        if let Space::Own(reservation) = &self.space {
            huge_pages::prefer(reservation, old_bytes..self.committed_bytes);
        }
        Ok(())
    }

    /// As [`Backing::grow`], of memory whose accesses are all checked: makes all that is reserved accessible at once, so that what moves is few
    /// pieces, and growing is no system call.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn grow_checked(&mut self, bytes: usize) -> io::Result<()> {
        if bytes > self.committed_bytes && bytes <= self.reserved_bytes() {
            self.piece_ends.push(self.committed_bytes);
            return self.grow(self.reserved_bytes());
        }
        self.grow(bytes)
    }

    /// Moves the first `len_bytes` to a reservation of `reserved_bytes`, and makes them accessible there: everything if `all_accessible`,
    /// else nothing beyond them.
    ///
    /// # Errors
    ///
    /// What the system said, or that it is memory of the embedder's. Nothing has changed then.
    pub(crate) fn relocate(&mut self, len_bytes: usize, reserved_bytes: usize, all_accessible: bool) -> io::Result<()> {
        let Space::Own(reservation) = &mut self.space else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "memory of the embedder's does not move"));
        };
        let (old_bytes, len_bytes) = (self.committed_bytes, len_bytes.next_multiple_of(page_size()));
        // What was never anything but zero pages is often one piece, which the system moves by itself.
        let is_whole = !self.has_content && old_bytes == reservation.len_bytes();
        if all_accessible && is_whole && reservation.resize(reserved_bytes).is_ok() {
            self.committed_bytes = reserved_bytes;
            self.piece_ends.push(old_bytes);
            self.changed();
            return Ok(());
        }
        let target = Reservation::new(reserved_bytes)?;
        let accessible = if all_accessible { target.len_bytes() } else { len_bytes };
        let kept_bytes = old_bytes.min(len_bytes);
        let mut ends: Vec<usize> = self.piece_ends.iter().copied().filter(|end| (1..kept_bytes).contains(end)).collect();
        ends.sort_unstable();
        ends.dedup();
        ends.extend((kept_bytes > 0).then_some(kept_bytes));
        let (target, is_whole) = reservation.move_front(target, &ends, accessible)?;
        self.is_restorable &= is_whole;
        self.space = Space::Own(target);
        (self.committed_bytes, self.piece_ends) = (accessible, ends);
        self.changed();
        Ok(())
    }

    /// Says that what it is in now is what it needs in its next life too.
    pub(crate) fn settle(&mut self) {
        self.initial_reserved_bytes = self.reserved_bytes();
    }

    /// Makes the content and the accessible length what they were at first. Only what may have been touched costs anything: nothing if
    /// neither a guest ran nor the host asked for the address.
    ///
    /// # Errors
    ///
    /// What the system said. The content is then unknown, and must not be used again.
    pub(crate) fn reset(&mut self, guest_ran: bool) -> io::Result<()> {
        #[cfg(test)]
        faults::check()?;
        // Memory of the embedder's has one life only.
        let Space::Own(reservation) = &mut self.space else { return Ok(()) };
        let is_larger = reservation.len_bytes() > self.initial_reserved_bytes || self.committed_bytes > self.initial_bytes;
        if reservation.len_bytes() > self.initial_reserved_bytes {
            reservation.truncate(self.initial_reserved_bytes)?;
            self.committed_bytes = self.committed_bytes.min(self.initial_reserved_bytes);
        }
        if self.committed_bytes > self.initial_bytes {
            reservation.reserve_over(self.initial_bytes..self.committed_bytes)?;
            self.committed_bytes = self.initial_bytes;
        }
        self.piece_ends.retain(|end| *end < self.initial_bytes);
        if guest_ran || *self.host_touched.get_mut() {
            reservation.decommit(0..self.initial_bytes)?;
        }
        *self.host_touched.get_mut() = false;
        if is_larger {
            self.changed();
        }
        Ok(())
    }
}

/// Makes resets fail, in tests.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    /// Lets `count` resets of this thread succeed and fails one after them.
    pub(crate) fn fail_after(count: u32) {
        LEFT.set(count);
    }

    pub(super) fn check() -> io::Result<()> {
        match LEFT.get() {
            u32::MAX => Ok(()),
            0 => {
                LEFT.set(u32::MAX);
                Err(io::Error::other("a fault was injected"))
            }
            left => {
                LEFT.set(left - 1);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(backing: &Backing, offset: usize) -> u8 {
        assert!(offset < backing.committed_bytes());
        // SAFETY: the byte is accessible, and this test alone uses it.
        unsafe { backing.ptr().add(offset).read_volatile() }
    }

    fn write(backing: &Backing, offset: usize, value: u8) {
        assert!(offset < backing.committed_bytes());
        // SAFETY: as above.
        unsafe { backing.ptr().add(offset).write_volatile(value) }
    }

    #[test]
    fn a_reset_leaves_nothing() {
        let page = page_size();
        let mut backing = Backing::new(Reservation::new(16 * page).unwrap(), 2 * page).unwrap();
        write(&backing, 5, 1);
        backing.grow(4 * page - 1).unwrap();
        write(&backing, 4 * page - 1, 2);
        backing.reset(false).unwrap();
        assert_eq!((read(&backing, 5), backing.committed_bytes()), (0, 2 * page));
        backing.grow(4 * page).unwrap();
        assert_eq!(read(&backing, 4 * page - 1), 0);
        assert!(backing.grow(16 * page + 1).is_err());
        assert!(backing.grow(usize::MAX).is_err());
    }

    #[test]
    fn much_gets_huge_pages_and_little_does_not() {
        let Some(huge) = peregrine_sys::huge::huge_page_size() else { return };
        let has_none = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap().contains("[never]");
        let reservation = Reservation::with_alignment(64 << 20, huge).unwrap();
        let mut backing = Backing::new(reservation, page_size()).unwrap();
        let mut resident_after_touching = |bytes: usize, offset: usize| {
            backing.grow_in_place(bytes).unwrap();
            write(&backing, offset, 1);
            backing.resident_bytes().unwrap()
        };
        let little = resident_after_touching(3 << 20, 2 << 20);
        assert_eq!(little, page_size());
        let much = resident_after_touching(32 << 20, 16 << 20);
        // The system gives a small page where it has no huge one.
        assert!(much == little + page_size() || !has_none && much == little + huge, "{much:#x} bytes");
        backing.reset(true).unwrap();
        assert_eq!(backing.resident_bytes().unwrap(), 0);
        backing.grow(32 << 20).unwrap();
        write(&backing, 16 << 20, 1);
        assert_eq!(backing.resident_bytes().unwrap(), page_size(), "the advice went with what was advised");
    }

    #[test]
    fn what_guests_touch_is_reset() {
        let mut backing = Backing::new(Reservation::new(page_size()).unwrap(), 1).unwrap();
        // SAFETY: the page is accessible.
        unsafe { (backing.address() as *mut u8).write_volatile(7) };
        backing.reset(true).unwrap();
        assert_eq!(read(&backing, 0), 0);
    }
}
