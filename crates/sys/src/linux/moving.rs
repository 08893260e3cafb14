//! Moving what is in a reservation to another one, page by page and without copying, and making reservations shorter.
//!
//! The system moves what is mapped in one piece only, so callers say where the pieces are: what was committed or mapped by one call each.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

use super::pages::{Reservation, invalid, page_size};

impl Reservation {
    /// Makes the reservation, which is accessible from start to end and was mapped as one piece of zero pages, larger or smaller, at another
    /// address if there is no room here.
    ///
    /// # Errors
    /// What `mremap` said: that there is no address space, or that it is more than one piece. Nothing has changed then.
    pub fn resize(&mut self, len_bytes: usize) -> io::Result<()> {
        if self.len_bytes == 0 || len_bytes == 0 || !len_bytes.is_multiple_of(page_size()) {
            return Err(invalid(format!("{} bytes cannot become {len_bytes}", self.len_bytes)));
        }
        // SAFETY: the reservation owns the range, and lends no reference into it.
        let base = unsafe { rustix::mm::mremap(self.base.as_ptr().cast(), self.len_bytes, len_bytes, MremapFlags::MAYMOVE) }?;
        self.base = NonNull::new(base.cast()).ok_or_else(|| invalid("the kernel mapped address zero".into()))?;
        self.len_bytes = len_bytes;
        Ok(())
    }

    /// Gives up what is beyond `len_bytes`.
    ///
    /// # Errors
    /// `InvalidInput` for a bad length, otherwise what `munmap` said.
    pub fn truncate(&mut self, len_bytes: usize) -> io::Result<()> {
        if let Some(start) = self.check(&(len_bytes..self.len_bytes))? {
            // SAFETY: the reservation owns the range, and lends no reference into it.
            unsafe { rustix::mm::munmap(start.cast(), self.len_bytes - len_bytes) }?;
            self.len_bytes = len_bytes;
        }
        Ok(())
    }

    /// Moves the first pages of `source`, which are accessible, to the range of this reservation at `offset`. `source` begins after them then.
    /// Says whether they are what they were, with what a [`decommit`](Reservation::decommit) brings back; if not, they were copied.
    ///
    /// # Errors
    /// `InvalidInput` for a bad range. Otherwise what the system said where it neither moves nor maps anything: then the content of both is
    /// what it was.
    pub fn take_front(&self, offset: usize, source: &mut Reservation, len_bytes: usize) -> io::Result<bool> {
        let end = offset.checked_add(len_bytes).ok_or_else(|| invalid(format!("{len_bytes} bytes at {offset} overflow")))?;
        let (target, front) = (self.check(&(offset..end))?, source.check(&(0..len_bytes))?);
        let (Some(target), Some(front)) = (target, front) else { return Ok(true) };
        // SAFETY: both ranges are owned by reservations; nobody holds references handed out by them.
        let moved = unsafe { rustix::mm::mremap_fixed(front.cast(), len_bytes, len_bytes, MremapFlags::MAYMOVE, target.cast()) };
        if moved.is_err() {
            self.fill_gap(offset..end)?;
            // SAFETY: both are accessible, of that length, and in different reservations.
            unsafe {
                front.copy_to_nonoverlapping(target, len_bytes);
                rustix::mm::munmap(front.cast(), len_bytes)?;
            }
        }
        source.base = NonNull::new(front.wrapping_add(len_bytes)).ok_or_else(|| invalid("a reservation ends at address zero".into()))?;
        source.len_bytes -= len_bytes;
        Ok(moved.is_ok())
    }

    /// Makes a range accessible that the system may have unmapped when it failed to move something there.
    fn fill_gap(&self, range: Range<usize>) -> io::Result<()> {
        let Some(start) = self.check(&range)? else { return Ok(()) };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: where nothing is mapped, nothing is replaced.
        match unsafe { rustix::mm::mmap_anonymous(start.cast(), range.len(), ProtFlags::READ | ProtFlags::WRITE, flags) } {
            Ok(_) => Ok(()),
            // It failed before it unmapped anything.
            Err(rustix::io::Errno::EXIST) => self.commit(range),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pages::tests::{read, write};
    use super::*;
    use std::fs::File;

    #[test]
    fn pieces_move_with_their_files() {
        let page = page_size();
        let mut source = Reservation::new(4 * page).unwrap();
        source.commit(0..3 * page).unwrap();
        source.map_file_private(page, File::open(std::env::current_exe().unwrap()).unwrap(), 0, page).unwrap();
        (0..3).for_each(|number| write(&source, number * page, 40 + number as u8));
        let target = Reservation::new(64 * page).unwrap();
        for number in 0..3 {
            assert!(target.take_front(number * page, &mut source, page).unwrap());
        }
        assert_eq!(source.len_bytes(), page);
        assert_eq!([read(&target, 0), read(&target, page), read(&target, 2 * page)], [40, 41, 42]);
        target.decommit(0..3 * page).unwrap();
        assert_eq!([read(&target, 0), read(&target, page), read(&target, 2 * page)], [0, 0x7f, 0]);
    }

    #[test]
    fn several_pieces_move_or_are_copied() {
        let page = page_size();
        let mut source = Reservation::new(3 * page).unwrap();
        source.commit(0..3 * page).unwrap();
        source.map_file_private(page, File::open(std::env::current_exe().unwrap()).unwrap(), 0, page).unwrap();
        (0..3).for_each(|number| write(&source, number * page, 40 + number as u8));
        let target = Reservation::new(5 * page).unwrap();
        let moved = target.take_front(page, &mut source, 3 * page).unwrap();
        assert_eq!(source.len_bytes(), 0);
        assert_eq!([read(&target, page), read(&target, 2 * page), read(&target, 3 * page)], [40, 41, 42]);
        target.decommit(page..4 * page).unwrap();
        assert_eq!(read(&target, 2 * page), if moved { 0x7f } else { 0 });
    }

    #[test]
    fn one_piece_is_resized() {
        let page = page_size();
        let mut one = Reservation::new(2 * page).unwrap();
        one.commit(0..2 * page).unwrap();
        write(&one, page, 9);
        one.resize(100 * page).unwrap();
        assert_eq!((one.len_bytes(), read(&one, page), read(&one, 99 * page)), (100 * page, 9, 0));
        one.truncate(2 * page).unwrap();
        assert_eq!((one.len_bytes(), read(&one, page)), (2 * page, 9));
        assert!(one.truncate(3 * page).is_err() && one.resize(1).is_err());
        one.protect_none(0..page).unwrap();
        assert!(one.resize(4 * page).is_err());
        assert_eq!((one.len_bytes(), read(&one, page)), (2 * page, 9));
    }
}
