//! Page size and owned reservations of address space.
//!
//! A [`Reservation`] is address space first: nothing in it is accessible until a range is committed or mapped. It hands
//! out a raw pointer and never a reference, so changing what backs a range is safe by itself; whoever dereferences the
//! pointer answers for doing it only where and while the range is accessible. What lies in the reservation (linear
//! memories, tables, stacks, code) belongs to the callers: `image` and `stack` here, the machine in the engine.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use super::residence::{PRESENT, PageMap};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

/// Memory below this size is not worth huge pages: three of them.
const LARGE_BYTES: usize = 6 << 20;

/// The page size of the machine in bytes; a power of two.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// Rounds a number of bytes up to whole pages; `None` where that overflows.
pub fn round_up_to_pages(len_bytes: usize) -> Option<usize> {
    len_bytes.checked_next_multiple_of(page_size())
}

/// Asks for huge pages for memory that is about to be filled as a whole, if it is large: filling it takes a hundredth of the page faults then.
/// A hint that may have no effect.
pub fn prefer_huge_pages(memory: &mut [MaybeUninit<u8>]) {
    let start = memory.as_ptr().addr();
    let Some(first) = start.checked_next_multiple_of(page_size()) else { return };
    let end = (start + memory.len()) & !(page_size() - 1);
    if memory.len() < LARGE_BYTES || end <= first {
        return;
    }
    let from = memory[first - start..].as_mut_ptr();
    // SAFETY: the pages are within memory that the caller holds alone, and the advice changes nothing but how it is backed.
    let _ = unsafe { rustix::mm::madvise(from.cast(), end - first, Advice::LinuxHugepage) };
}

/// An owned range of address space, unmapped when dropped.
///
/// All ranges given to its methods are byte offsets from [`ptr`](Reservation::ptr), must be page-aligned at both ends
/// and lie inside the reservation; otherwise the method returns `InvalidInput` and changes nothing. Empty ranges are
/// accepted and do nothing.
#[derive(Debug)]
pub struct Reservation {
    pub(super) base: NonNull<u8>,
    pub(super) len_bytes: usize,
}

// SAFETY: the reservation owns address space that belongs to no thread, and its methods are system calls on it.
unsafe impl Send for Reservation {}
// SAFETY: as above; the kernel orders concurrent changes of the address space, and no references are handed out.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `len_bytes` of inaccessible address space, rounded up to whole pages. It costs no memory.
    ///
    /// # Errors
    /// `InvalidInput` where rounding overflows, otherwise what `mmap` said (usually `OutOfMemory`).
    pub fn new(len_bytes: usize) -> io::Result<Self> {
        Self::with_alignment(len_bytes, page_size())
    }

    /// As [`new`](Reservation::new), with the base a multiple of `align_bytes`, a power of two.
    ///
    /// # Errors
    /// `InvalidInput` where `align_bytes` is not a power of two or a size overflows, otherwise what `mmap` said.
    pub fn with_alignment(len_bytes: usize, align_bytes: usize) -> io::Result<Self> {
        if !align_bytes.is_power_of_two() {
            return Err(invalid(format!("alignment {align_bytes} is not a power of two")));
        }
        let align_bytes = align_bytes.max(page_size());
        let len_bytes = round_up_to_pages(len_bytes).ok_or_else(|| invalid(format!("{len_bytes} bytes cannot be reserved")))?;
        if len_bytes == 0 {
            let base = NonNull::without_provenance(align_bytes.try_into().map_err(|_| invalid("alignment is zero".into()))?);
            return Ok(Self { base, len_bytes: 0 });
        }
        let slack_bytes = align_bytes - page_size();
        let total_bytes = len_bytes.checked_add(slack_bytes).ok_or_else(|| invalid(format!("{len_bytes} bytes cannot be reserved")))?;
        // SAFETY: no address is asked for, so the kernel picks address space that nobody uses.
        let raw = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), total_bytes, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        }?;
        let raw = raw.cast::<u8>();
        let head_bytes = raw.addr().next_multiple_of(align_bytes) - raw.addr();
        let tail_bytes = slack_bytes - head_bytes;
        let base = raw.wrapping_add(head_bytes);
        if head_bytes > 0 {
            // SAFETY: the head was mapped above, is ours alone and lies outside what is kept.
            unsafe { rustix::mm::munmap(raw.cast(), head_bytes) }?;
        }
        if tail_bytes > 0 {
            // SAFETY: the tail was mapped above, is ours alone and lies outside what is kept.
            unsafe { rustix::mm::munmap(base.wrapping_add(len_bytes).cast(), tail_bytes) }?;
        }
        let base = NonNull::new(base).ok_or_else(|| invalid("the kernel mapped address zero".into()))?;
        Ok(Self { base, len_bytes })
    }

    /// The first byte of the reservation. Dereferencing it is allowed only where a range is accessible.
    pub fn ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The size in bytes, a multiple of the page size.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether the address lies in the reservation, accessible or not.
    pub fn contains(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.base.as_ptr().addr()) < self.len_bytes
    }

    /// Makes a range readable and writable. Pages that were never touched read as what backs them: zeros, or the mapped file.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what `mprotect` said.
    pub fn commit(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, MprotectFlags::READ | MprotectFlags::WRITE)
    }

    /// Makes a range inaccessible; its content stays.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what `mprotect` said.
    pub fn protect_none(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, MprotectFlags::empty())
    }

    /// Makes a range readable and not writable; its content stays.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what `mprotect` said.
    pub fn protect_read(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, MprotectFlags::READ)
    }

    /// Makes a range readable and executable; `image` keeps it from ever having been writable at this address.
    pub(crate) fn protect_read_execute(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, MprotectFlags::READ | MprotectFlags::EXEC)
    }

    /// Gives the memory of a range back: afterwards it reads as it did when it was mapped, zeros or the file's content.
    /// Protection stays as it is.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what `madvise` said.
    pub fn decommit(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(range, Advice::LinuxDontNeed)
    }

    /// Asks for huge pages in a range; a hint that may have no effect.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what `madvise` said.
    pub fn advise_huge_pages(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(range, Advice::LinuxHugepage)
    }

    /// Asks for no huge pages in a range, for memory that is touched sparsely; a hint that may have no effect.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what `madvise` said.
    pub fn advise_small_pages(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(range, Advice::LinuxNoHugepage)
    }

    /// Maps `len_bytes` of a file at `offset`, readable and writable, copy-on-write: writes stay in this mapping.
    ///
    /// `file_offset` and `len_bytes` are page-aligned. What lies past the end of the file must not be touched (the access
    /// faults). The descriptor may be closed afterwards.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range or offset, otherwise what `mmap` said.
    pub fn map_file_private(&self, offset: usize, file: impl AsFd, file_offset: u64, len_bytes: usize) -> io::Result<()> {
        self.map_file(offset, file, file_offset, len_bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }

    /// As [`map_file_private`](Reservation::map_file_private), readable only.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range or offset, otherwise what `mmap` said.
    pub fn map_file_read_only(&self, offset: usize, file: impl AsFd, file_offset: u64, len_bytes: usize) -> io::Result<()> {
        self.map_file(offset, file, file_offset, len_bytes, ProtFlags::READ, MapFlags::PRIVATE)
    }

    /// As [`map_file_private`](Reservation::map_file_private), readable and executable from the first moment.
    pub(crate) fn map_file_read_execute(&self, offset: usize, file: impl AsFd, file_offset: u64, len_bytes: usize) -> io::Result<()> {
        self.map_file(offset, file, file_offset, len_bytes, ProtFlags::READ | ProtFlags::EXEC, MapFlags::PRIVATE)
    }

    /// As [`map_file_read_execute`](Reservation::map_file_read_execute), showing what is written to the file later.
    pub(crate) fn map_shared_read_execute(&self, offset: usize, file: impl AsFd, file_offset: u64, len_bytes: usize) -> io::Result<()> {
        self.map_file(offset, file, file_offset, len_bytes, ProtFlags::READ | ProtFlags::EXEC, MapFlags::SHARED)
    }

    /// Replaces a range by fresh zero pages, readable and writable.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what `mmap` said.
    pub fn map_anonymous_over(&self, range: Range<usize>) -> io::Result<()> {
        self.map_fresh(range, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Replaces a range by fresh inaccessible address space, as after [`new`](Reservation::new).
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what `mmap` said.
    pub fn reserve_over(&self, range: Range<usize>) -> io::Result<()> {
        self.map_fresh(range, ProtFlags::empty())
    }

    /// How many bytes of a range are in memory and mapped in this process right now. A snapshot: other threads may change it.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range, otherwise what reading the page map said.
    pub fn resident_bytes(&self, range: Range<usize>) -> io::Result<usize> {
        let mut present_pages = 0;
        self.page_map(range, |_, entry| present_pages += usize::from(entry & PRESENT != 0))?;
        Ok(present_pages * page_size())
    }

    /// The pages of a range that this process has or had in memory, as ranges in rising order. All others read as what backs them. What is
    /// touched while this looks may be missing.
    ///
    /// # Errors
    /// As [`resident_bytes`](Self::resident_bytes).
    pub fn touched(&self, range: Range<usize>) -> io::Result<Vec<Range<usize>>> {
        const PRESENT_OR_SWAPPED: u64 = 3 << 62;
        let mut touched: Vec<Range<usize>> = Vec::new();
        self.page_map(range, |offset, entry| match touched.last_mut() {
            _ if entry & PRESENT_OR_SWAPPED == 0 => {}
            Some(last) if last.end == offset => last.end += page_size(),
            _ => touched.push(offset..offset + page_size()),
        })?;
        Ok(touched)
    }

    /// Gives the offset of each page of a range, and what the page map says of it.
    fn page_map(&self, range: Range<usize>, mut each: impl FnMut(usize, u64)) -> io::Result<()> {
        let Some(start) = self.check(&range)? else {
            return Ok(());
        };
        let first = start.addr();
        PageMap::open()?.read(first..first + range.len(), |address, entry| each(range.start + (address - first), entry))
    }

    /// Moves freshly written pages of `source` over a range, so that content can be replaced without a writable moment here.
    pub(crate) fn adopt(&self, range: Range<usize>, source: Reservation) -> io::Result<()> {
        if source.len_bytes != range.len() {
            return Err(invalid(format!("{} bytes cannot replace {}", source.len_bytes, range.len())));
        }
        let Some(target) = self.check(&range)? else {
            return Ok(());
        };
        // SAFETY: both ranges are owned by reservations and equally long; the source gives its address space up below.
        unsafe {
            rustix::mm::mremap_fixed(
                source.base.as_ptr().cast(),
                source.len_bytes,
                range.len(),
                rustix::mm::MremapFlags::MAYMOVE,
                target.cast(),
            )
        }?;
        std::mem::forget(source);
        Ok(())
    }

    fn map_file(
        &self,
        offset: usize,
        file: impl AsFd,
        file_offset: u64,
        len_bytes: usize,
        prot: ProtFlags,
        sharing: MapFlags,
    ) -> io::Result<()> {
        let end = offset.checked_add(len_bytes).ok_or_else(|| invalid(format!("range at {offset} of {len_bytes} bytes overflows")))?;
        let Some(start) = self.check(&(offset..end))? else {
            return Ok(());
        };
        if !file_offset.is_multiple_of(page_size() as u64) {
            return Err(invalid(format!("file offset {file_offset:#x} is not page-aligned")));
        }
        let fd = file.as_fd();
        debug_assert!(fd.as_raw_fd() >= 0);
        // SAFETY: the fixed range was checked to lie in this reservation, which nobody else owns.
        let mapped =
            unsafe { rustix::mm::mmap(start.cast(), len_bytes, prot, sharing | MapFlags::FIXED | MapFlags::NORESERVE, fd, file_offset) }?;
        debug_assert_eq!(mapped.cast::<u8>(), start);
        Ok(())
    }

    fn map_fresh(&self, range: Range<usize>, prot: ProtFlags) -> io::Result<()> {
        let Some(start) = self.check(&range)? else {
            return Ok(());
        };
        // SAFETY: the fixed range was checked to lie in this reservation, which nobody else owns.
        unsafe { rustix::mm::mmap_anonymous(start.cast(), range.len(), prot, MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE) }?;
        Ok(())
    }

    fn protect(&self, range: Range<usize>, flags: MprotectFlags) -> io::Result<()> {
        let Some(start) = self.check(&range)? else {
            return Ok(());
        };
        // SAFETY: the range was checked to lie in this reservation; nobody holds references handed out by it.
        unsafe { rustix::mm::mprotect(start.cast(), range.len(), flags) }?;
        Ok(())
    }

    fn advise(&self, range: Range<usize>, advice: Advice) -> io::Result<()> {
        let Some(start) = self.check(&range)? else {
            return Ok(());
        };
        // SAFETY: the range was checked to lie in this reservation; nobody holds references handed out by it.
        unsafe { rustix::mm::madvise(start.cast(), range.len(), advice) }?;
        Ok(())
    }

    /// The first address of a checked range, or `None` where it is empty.
    pub(super) fn check(&self, range: &Range<usize>) -> io::Result<Option<*mut u8>> {
        let page_size = page_size();
        if range.start > range.end || range.end > self.len_bytes {
            return Err(invalid(format!("range {:#x}..{:#x} is not inside {:#x} reserved bytes", range.start, range.end, self.len_bytes)));
        }
        if !range.start.is_multiple_of(page_size) || !range.end.is_multiple_of(page_size) {
            return Err(invalid(format!("range {:#x}..{:#x} is not aligned to pages of {page_size:#x}", range.start, range.end)));
        }
        Ok((range.start < range.end).then(|| self.base.as_ptr().wrapping_add(range.start)))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.len_bytes > 0 {
            // SAFETY: the reservation owns exactly this range, and it is going away.
            let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len_bytes) };
            debug_assert!(unmapped.is_ok(), "munmap failed: {unmapped:?}");
        }
    }
}

pub(super) fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs::File;

    pub(in crate::platform) fn read(reservation: &Reservation, offset: usize) -> u8 {
        assert!(offset < reservation.len_bytes());
        // SAFETY: the tests call this for accessible ranges only, inside the reservation.
        unsafe { reservation.ptr().add(offset).read_volatile() }
    }

    pub(in crate::platform) fn write(reservation: &Reservation, offset: usize, value: u8) {
        assert!(offset < reservation.len_bytes());
        // SAFETY: the tests call this for writable ranges only, inside the reservation.
        unsafe { reservation.ptr().add(offset).write_volatile(value) }
    }

    #[test]
    fn a_huge_reservation_costs_nothing_and_is_committed_by_range() {
        let page = page_size();
        let reservation = Reservation::new(8 << 30).unwrap();
        assert_eq!(reservation.len_bytes(), 8 << 30);
        assert_eq!(reservation.resident_bytes(0..16 * page).unwrap(), 0);
        reservation.commit(page..3 * page).unwrap();
        assert_eq!(reservation.resident_bytes(0..16 * page).unwrap(), 0);
        write(&reservation, page, 7);
        assert_eq!(reservation.resident_bytes(0..16 * page).unwrap(), page);
        assert_eq!((read(&reservation, page), read(&reservation, 3 * page - 1)), (7, 0));
        reservation.decommit(page..3 * page).unwrap();
        assert_eq!(reservation.resident_bytes(0..16 * page).unwrap(), 0);
        assert_eq!(read(&reservation, page), 0);
    }

    #[test]
    fn alignment_is_kept() {
        for shift in [12, 16, 21, 32] {
            let reservation = Reservation::with_alignment(3 * page_size(), 1 << shift).unwrap();
            assert_eq!(reservation.ptr().addr() % (1 << shift), 0);
            assert_eq!(reservation.len_bytes(), 3 * page_size());
            reservation.commit(0..3 * page_size()).unwrap();
            write(&reservation, 3 * page_size() - 1, 1);
        }
        assert_eq!(Reservation::with_alignment(1, 3).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn touched_pages_are_known() {
        let page = page_size();
        let reservation = Reservation::new(1000 * page).unwrap();
        reservation.commit(0..1000 * page).unwrap();
        for number in [3, 4, 999] {
            write(&reservation, number * page, 1);
        }
        assert_eq!(reservation.touched(0..1000 * page).unwrap(), [3 * page..5 * page, 999 * page..1000 * page]);
        assert_eq!(reservation.touched(4 * page..999 * page).unwrap(), vec![4 * page..5 * page]);
        assert_eq!(reservation.resident_bytes(0..1000 * page).unwrap(), 3 * page);
    }

    #[test]
    fn bad_ranges_are_refused() {
        let page = page_size();
        let reservation = Reservation::new(4 * page).unwrap();
        let reversed = Range { start: 2 * page, end: page };
        for range in [0..5 * page, 1..page, 0..page + 1, reversed, 5 * page..5 * page, usize::MAX - page + 1..usize::MAX] {
            for operation in [
                Reservation::commit,
                Reservation::protect_none,
                Reservation::protect_read,
                Reservation::decommit,
                Reservation::map_anonymous_over,
                Reservation::reserve_over,
            ] {
                assert_eq!(operation(&reservation, range.clone()).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{range:?}");
            }
        }
        let file = File::open("/proc/self/exe").unwrap();
        assert!(reservation.map_file_private(0, &file, 1, page).is_err());
        assert!(reservation.map_file_private(4 * page, &file, 0, page).is_err());
        assert!(reservation.map_file_private(page, &file, 0, usize::MAX).is_err());
        assert!(Reservation::new(usize::MAX).is_err());
    }

    #[test]
    fn an_empty_reservation_is_fine() {
        let reservation = Reservation::new(0).unwrap();
        assert_eq!(reservation.len_bytes(), 0);
        reservation.commit(0..0).unwrap();
        assert!(!reservation.contains(reservation.ptr().addr()));
    }

    #[test]
    fn a_private_file_map_is_restored_by_decommit_and_replaced_by_zeros() {
        let page = page_size();
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let reservation = Reservation::new(4 * page).unwrap();
        reservation.map_file_private(page, &file, 0, page).unwrap();
        assert_eq!(read(&reservation, page), 0x7f);
        write(&reservation, page, 1);
        assert_eq!(read(&reservation, page), 1);
        reservation.decommit(page..2 * page).unwrap();
        assert_eq!(read(&reservation, page), 0x7f);
        reservation.map_anonymous_over(page..2 * page).unwrap();
        assert_eq!(read(&reservation, page), 0);
        write(&reservation, page, 9);
        reservation.reserve_over(page..2 * page).unwrap();
        reservation.commit(page..2 * page).unwrap();
        assert_eq!(read(&reservation, page), 0);
    }

    #[test]
    fn rounding_stops_at_the_end() {
        assert_eq!(round_up_to_pages(0), Some(0));
        assert_eq!(round_up_to_pages(1), Some(page_size()));
        assert_eq!(round_up_to_pages(usize::MAX), None);
    }
}
