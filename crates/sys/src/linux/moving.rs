//! Moving what is in a reservation to another one, page by page and without copying, and making reservations shorter.
//!
//! The system moves what is mapped in one piece only, so callers say where the pieces are: what was committed or mapped by one call each.

use std::alloc::{Layout, handle_alloc_error};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::unix::fs::FileExt;
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

    /// Moves the first pages, which are accessible and were mapped in pieces that end at `ends`, to the start of `target`, whose first
    /// `accessible_bytes` become accessible. This reservation is what follows those pages then. Returns where they are, and whether they are
    /// what they were, with what a [`decommit`](Reservation::decommit) brings back; if not, some were copied.
    ///
    /// What the system does not move is copied. If it gave up a part of `target` when it failed, and another thread of the process has
    /// something mapped there since, all is copied to a third place; where there is none, the process ends as it does where the heap has no
    /// memory.
    ///
    /// # Errors
    /// `InvalidInput` for bad pieces, otherwise what `mprotect` said. Nothing has changed then.
    pub fn move_front(&mut self, target: Reservation, ends: &[usize], accessible_bytes: usize) -> io::Result<(Reservation, bool)> {
        let mut start = 0;
        for end in ends {
            if self.check(&(start..*end))?.is_none() {
                return Err(invalid(format!("a piece that ends at {end:#x} is empty")));
            }
            start = *end;
        }
        let (all_bytes, accessible_bytes) = (start, accessible_bytes.max(start));
        target.commit(0..accessible_bytes)?;
        let (mut moved_bytes, mut is_whole) = (0, true);
        for end in ends {
            let piece = moved_bytes..*end;
            match self.move_piece(&target, piece.clone()) {
                Outcome::Moved => {}
                Outcome::Copied => is_whole = false,
                Outcome::Taken => {
                    let fresh = self.rescue(&target, moved_bytes, all_bytes, accessible_bytes);
                    target.give_up_around(piece);
                    return Ok((fresh, false));
                }
            }
            moved_bytes = *end;
        }
        Ok((target, is_whole))
    }

    /// Moves or copies the first pages to `piece` of `target`, which is accessible.
    fn move_piece(&mut self, target: &Reservation, piece: Range<usize>) -> Outcome {
        let (front, place, len_bytes) = (self.ptr(), target.ptr().wrapping_add(piece.start), piece.len());
        let mark = mark();
        // SAFETY: the piece is accessible and whole pages, and nobody has a reference into it.
        unsafe { place.cast::<u128>().write_volatile(mark) };
        // SAFETY: both ranges are owned by reservations; nobody holds references handed out by them.
        let moved = !fails(place, len_bytes)
            && unsafe { rustix::mm::mremap_fixed(front.cast(), len_bytes, len_bytes, MremapFlags::MAYMOVE, place.cast()) }.is_ok();
        if moved {
            self.skip(len_bytes);
            return Outcome::Moved;
        }
        if !is_ours(place, len_bytes, mark) {
            return Outcome::Taken;
        }
        // SAFETY: both are accessible, of that length, and in different reservations.
        unsafe { front.copy_to_nonoverlapping(place, len_bytes) };
        self.unmap_front(len_bytes);
        Outcome::Copied
    }

    /// Copies what was moved to the start of `target`, and what is still here, to another place as large as `target`.
    fn rescue(&mut self, target: &Reservation, moved_bytes: usize, all_bytes: usize, accessible_bytes: usize) -> Reservation {
        let fresh = Self::new(target.len_bytes).and_then(|fresh| fresh.commit(0..accessible_bytes).map(|()| fresh));
        let Ok(fresh) = fresh else { handle_alloc_error(Layout::new::<[u8; 1 << 20]>()) };
        let left_bytes = all_bytes - moved_bytes;
        // SAFETY: what was moved is accessible in `target`, what was not is accessible here, and both have their place in the fresh one.
        unsafe {
            target.ptr().copy_to_nonoverlapping(fresh.ptr(), moved_bytes);
            self.ptr().copy_to_nonoverlapping(fresh.ptr().wrapping_add(moved_bytes), left_bytes);
        }
        self.unmap_front(left_bytes);
        fresh
    }

    /// Unmaps the first pages.
    fn unmap_front(&mut self, len_bytes: usize) {
        // SAFETY: the reservation owns the range, and lends no reference into it. If the system refuses, it stays mapped and unused.
        let _ = unsafe { rustix::mm::munmap(self.ptr().cast(), len_bytes) };
        self.skip(len_bytes);
    }

    /// Begins behind the first pages, which are mapped no more.
    fn skip(&mut self, len_bytes: usize) {
        self.base = NonNull::new(self.ptr().wrapping_add(len_bytes)).unwrap_or(NonNull::dangling());
        self.len_bytes -= len_bytes;
    }

    /// Unmaps all but `hole`, which is somebody else's.
    fn give_up_around(self, hole: Range<usize>) {
        let this = ManuallyDrop::new(self);
        for part in [0..hole.start, hole.end..this.len_bytes] {
            if !part.is_empty() {
                // SAFETY: the reservation owns what is around the hole, and nobody uses it any more.
                let _ = unsafe { rustix::mm::munmap(this.ptr().wrapping_add(part.start).cast(), part.len()) };
            }
        }
    }
}

/// What became of one piece.
enum Outcome {
    /// It was moved.
    Moved,
    /// It was copied.
    Copied,
    /// It is where it was, and its place may be somebody else's.
    Taken,
}

/// Bits that are nowhere else in memory, as good as surely.
fn mark() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

/// After the system failed to move something to `place`, where `mark` stood: whether the place is accessible and not another thread's. If it was
/// unmapped, it is mapped anew.
fn is_ours(place: *mut u8, len_bytes: usize, mark: u128) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: where nothing is mapped, nothing is replaced.
    match unsafe { rustix::mm::mmap_anonymous(place.cast(), len_bytes, ProtFlags::READ | ProtFlags::WRITE, flags) } {
        Ok(mapped) if mapped == place.cast() => true,
        Ok(elsewhere) => {
            // SAFETY: just mapped, and nobody else knows it. A system that does not know the flag maps elsewhere.
            let _ = unsafe { rustix::mm::munmap(elsewhere, len_bytes) };
            reads(place, mark)
        }
        // It failed before it unmapped anything, if what is there is what was.
        Err(_) => reads(place, mark),
    }
}

/// Whether `mark` is at `place`. Nothing is assumed of what is mapped there.
fn reads(place: *mut u8, mark: u128) -> bool {
    let mut found = [0; size_of::<u128>()];
    let read = File::open("/proc/self/mem").and_then(|memory| memory.read_exact_at(&mut found, place.addr() as u64));
    read.is_ok() && u128::from_ne_bytes(found) == mark
}

/// Whether a test wants the move to `place` to fail.
#[cfg(not(test))]
const fn fails(_: *mut u8, _: usize) -> bool {
    false
}

#[cfg(test)]
use tests::fails;

#[cfg(test)]
mod tests {
    use super::super::pages::tests::{read, write};
    use super::*;
    use std::cell::Cell;

    /// How a move fails.
    #[derive(Clone, Copy)]
    enum Failure {
        /// Nothing happens.
        Before,
        /// The place is unmapped.
        Unmapped,
        /// The place is unmapped, and somebody else maps something there.
        Taken,
    }

    thread_local! {
        /// How many moves of this thread succeed before one fails, and how.
        static FAILURE: Cell<Option<(u32, Failure)>> = const { Cell::new(None) };
    }

    pub(super) fn fails(place: *mut u8, len_bytes: usize) -> bool {
        let Some((left, failure)) = FAILURE.take() else { return false };
        if left > 0 {
            FAILURE.set(Some((left - 1, failure)));
            return false;
        }
        if !matches!(failure, Failure::Before) {
            // SAFETY: the place is part of a reservation of the test.
            unsafe { rustix::mm::munmap(place.cast(), len_bytes) }.unwrap();
        }
        if matches!(failure, Failure::Taken) {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
            // SAFETY: nothing is there.
            unsafe { rustix::mm::mmap_anonymous(place.cast(), page_size(), ProtFlags::READ | ProtFlags::WRITE, flags) }.unwrap();
            // SAFETY: it was just mapped.
            unsafe { place.write_bytes(0xab, page_size()) };
        }
        true
    }

    /// Three pages with content, of which the second is mapped from a file, and one more.
    fn three_pieces() -> Reservation {
        let page = page_size();
        let source = Reservation::new(4 * page).unwrap();
        source.commit(0..3 * page).unwrap();
        source.map_file_private(page, File::open(std::env::current_exe().unwrap()).unwrap(), 0, page).unwrap();
        (0..3).for_each(|number| write(&source, number * page, 40 + number as u8));
        source
    }

    fn firsts(reservation: &Reservation) -> [u8; 3] {
        [0, 1, 2].map(|number| read(reservation, number * page_size()))
    }

    #[test]
    fn pieces_move_with_their_files() {
        let page = page_size();
        let mut source = three_pieces();
        let target = Reservation::new(64 * page).unwrap();
        let (target, is_whole) = source.move_front(target, &[page, 2 * page, 3 * page], 5 * page).unwrap();
        assert_eq!((is_whole, source.len_bytes(), firsts(&target)), (true, page, [40, 41, 42]));
        assert_eq!(read(&target, 4 * page), 0);
        target.decommit(0..3 * page).unwrap();
        assert_eq!(firsts(&target), [0, 0x7f, 0]);
    }

    #[test]
    fn what_does_not_move_is_copied() {
        let page = page_size();
        for (after, failure) in [(0, Failure::Before), (1, Failure::Before), (0, Failure::Unmapped), (2, Failure::Unmapped)] {
            FAILURE.set(Some((after, failure)));
            let mut source = three_pieces();
            let target = Reservation::new(64 * page).unwrap();
            let place = target.ptr();
            let (target, is_whole) = source.move_front(target, &[page, 2 * page, 3 * page], 3 * page).unwrap();
            assert!(FAILURE.get().is_none() && !is_whole && target.ptr() == place);
            assert_eq!((source.len_bytes(), firsts(&target)), (page, [40, 41, 42]));
            (1..page).for_each(|byte| assert_eq!(read(&target, byte), 0));
        }
    }

    #[test]
    fn what_others_mapped_meanwhile_is_left_alone() {
        let page = page_size();
        for after in 0..3 {
            FAILURE.set(Some((after, Failure::Taken)));
            let mut source = three_pieces();
            let target = Reservation::new(64 * page).unwrap();
            let place = target.ptr();
            let (fresh, is_whole) = source.move_front(target, &[page, 2 * page, 3 * page], 4 * page).unwrap();
            assert!(!is_whole && fresh.ptr() != place && fresh.len_bytes() == 64 * page);
            assert_eq!((source.len_bytes(), firsts(&fresh), read(&fresh, 3 * page)), (page, [40, 41, 42], 0));
            let others = place.wrapping_add(after as usize * page);
            // SAFETY: the hook mapped it, and nobody may have changed that.
            let content = unsafe { others.cast::<[u8; 16]>().read_volatile() };
            assert_eq!(content, [0xab; 16]);
        }
    }

    #[test]
    fn bad_pieces_change_nothing() {
        let page = page_size();
        let mut source = three_pieces();
        for ends in [&[page, page][..], &[2 * page, page], &[1], &[5 * page]] {
            assert!(source.move_front(Reservation::new(64 * page).unwrap(), ends, 0).is_err());
        }
        assert!(source.move_front(Reservation::new(page).unwrap(), &[page, 2 * page], 0).is_err());
        assert_eq!((source.len_bytes(), firsts(&source)), (4 * page, [40, 41, 42]));
    }

    #[test]
    fn several_pieces_as_one_move_or_are_copied() {
        let page = page_size();
        let mut source = three_pieces();
        let (target, is_whole) = source.move_front(Reservation::new(5 * page).unwrap(), &[3 * page], 0).unwrap();
        assert_eq!((source.len_bytes(), firsts(&target)), (page, [40, 41, 42]));
        target.decommit(0..3 * page).unwrap();
        assert_eq!(read(&target, page), if is_whole { 0x7f } else { 0 });
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
