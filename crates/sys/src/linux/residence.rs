//! Which pages of this process are in memory: the page map of the system, an entry for each.

use super::pages::page_size;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The bit of an entry whose page is in memory and mapped.
pub(super) const PRESENT: u64 = 1 << 63;

const ENTRY_BYTES: usize = size_of::<u64>();
/// Bytes of entries that are read at once.
const CHUNK_BYTES: usize = 32 << 10;

/// The page map, open.
pub(super) struct PageMap {
    file: File,
    buffer: Vec<u8>,
}

impl PageMap {
    /// The map of this process.
    ///
    /// # Errors
    /// What opening it said.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/pagemap")?, buffer: Vec::new() })
    }

    /// Gives the address of each page of a range, whose ends are page-aligned, and its entry. Pages where nothing is mapped have the entry 0.
    ///
    /// # Errors
    /// What reading said.
    pub(super) fn read(&mut self, range: Range<usize>, mut each: impl FnMut(usize, u64)) -> io::Result<()> {
        let mut file_offset = (range.start / page_size() * ENTRY_BYTES) as u64;
        let mut left_bytes = range.len() / page_size() * ENTRY_BYTES;
        if self.buffer.len() < left_bytes.min(CHUNK_BYTES) {
            self.buffer.resize(left_bytes.min(CHUNK_BYTES), 0);
        }
        let mut address = range.start;
        while left_bytes > 0 {
            let chunk = &mut self.buffer[..left_bytes.min(CHUNK_BYTES)];
            self.file.read_exact_at(chunk, file_offset)?;
            for entry in chunk.as_chunks::<ENTRY_BYTES>().0 {
                each(address, u64::from_ne_bytes(*entry));
                address += page_size();
            }
            file_offset += chunk.len() as u64;
            left_bytes -= chunk.len();
        }
        Ok(())
    }
}

/// How many bytes of ranges of addresses, with page-aligned ends, are in memory and mapped in this process. A snapshot: other threads may
/// change it, and map something else where a range was.
///
/// # Errors
/// What reading the page map said.
pub fn resident_bytes(ranges: impl IntoIterator<Item = Range<usize>>) -> io::Result<u64> {
    let mut page_map = PageMap::open()?;
    let mut present_pages = 0;
    for range in ranges {
        page_map.read(range, |_, entry| present_pages += u64::from(entry & PRESENT != 0))?;
    }
    Ok(present_pages * page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::pages::Reservation;
    use super::*;

    #[test]
    fn what_was_touched_is_resident() {
        let page = page_size();
        let reservations = [(); 2].map(|()| Reservation::new(8 * page).unwrap());
        for (number, reservation) in reservations.iter().enumerate() {
            reservation.commit(0..4 * page).unwrap();
            for touched in 0..=number {
                // SAFETY: the page is accessible, and this test alone uses it.
                unsafe { reservation.ptr().add(touched * 2 * page).write_volatile(1) };
            }
        }
        let ranges = || reservations.iter().map(|reservation| reservation.ptr().addr()..reservation.ptr().addr() + 8 * page);
        assert_eq!(resident_bytes(ranges()).unwrap(), 3 * page as u64);
        assert_eq!(resident_bytes([]).unwrap(), 0);
        let gone: Vec<_> = ranges().collect();
        drop(reservations);
        assert!(resident_bytes(gone).is_ok());
    }
}
