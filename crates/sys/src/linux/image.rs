//! Code mapped from a file or from bytes, and page-aligned content for copy-on-write maps.
//!
//! A [`CodeMapping`] is one reservation:
//!
//! | offset                         | what                                   | protection          |
//! |--------------------------------|----------------------------------------|---------------------|
//! | 0                              | the image, padded to whole pages       | read                |
//! | ranges given to `map_executable` | the code in the image                | read, execute       |
//! | [`slots_offset`](CodeMapping::slots_offset) | slots: zeroed data beside the code | read, write |
//! | [`room_offset`](CodeMapping::room_offset) | room for code that is made later: see [`room`](super::room) | none at first |
//!
//! No page is ever writable and executable at one address, nor executable after having been writable there, except
//! where neither files nor memory files may be executed: there the code is written to a page elsewhere, which is moved into
//! place after it lost its write permission.
//!
//! The meaning of the bytes is the caller's (the machine in the engine); the address space comes from `pages`.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use super::icache;
use super::pages::{Reservation, page_size, round_up_to_pages};
use super::room::{CodeRoom, RoomKind};

/// What follows an image in the address space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    /// Slots and room begin at multiples of this many bytes, a power of two, or of the page size if that is more.
    pub align_bytes: usize,
    /// Bytes of zeroed memory.
    pub slots_len_bytes: usize,
    /// Bytes of address space for code that is made later.
    pub room_len_bytes: usize,
}

/// An image mapped for execution, with a writable range of slots directly after it.
#[derive(Debug)]
pub struct CodeMapping {
    reservation: Arc<Reservation>,
    image_len_bytes: usize,
    slots_offset: usize,
    slots_len_bytes: usize,
    room_offset: usize,
    /// The file behind the image and the offset of its first byte; `None` for plain memory.
    file: Option<(Arc<OwnedFd>, u64)>,
}

impl CodeMapping {
    /// Maps `len_bytes` of a file at `file_offset`, a multiple of the page size, read-only, and what is to be `beside` it. The file's pages are shared with every other process that maps it and are read on first use.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file is shorter, `InvalidInput` for an offset that is not page-aligned, otherwise what
    /// the system said.
    ///
    /// # Safety
    /// 1. While the mapping lives, nobody changes or shortens the file: writers replace it by renaming another one over it.
    pub unsafe fn from_file(file: &File, file_offset: u64, len_bytes: usize, beside: Beside) -> io::Result<Self> {
        let file_len_bytes = file.metadata()?.len();
        if file_offset.checked_add(len_bytes as u64).is_none_or(|end| end > file_len_bytes) {
            let message = format!("image of {len_bytes} bytes at {file_offset} does not fit in a file of {file_len_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        let fd = Arc::new(file.as_fd().try_clone_to_owned()?);
        Self::map(fd, file_offset, len_bytes, beside)
    }

    /// Holds a copy of `image` in an anonymous memory file, sealed against change, or in plain memory where the system
    /// allows none, with what is to be `beside` it.
    ///
    /// # Errors
    /// What the system said.
    pub fn from_bytes(image: &[u8], beside: Beside) -> io::Result<Self> {
        match memory_file(c"peregrine-code", image, image.len() as u64) {
            Ok(fd) => Self::map(Arc::new(fd), 0, image.len(), beside),
            Err(_) => Self::from_bytes_anonymous(image, beside),
        }
    }

    /// Holds a copy of `image` in plain memory, which profilers look up by address rather than by file, with what is to be `beside` it.
    ///
    /// # Errors
    /// What the system said.
    pub fn from_bytes_anonymous(image: &[u8], beside: Beside) -> io::Result<Self> {
        let mapping = Self::reserve(image.len(), beside)?;
        mapping.reservation.map_anonymous_over(0..mapping.slots_offset)?;
        // SAFETY: the range was just mapped writable, is at least as long as the image, and nobody else knows it.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), mapping.reservation.ptr(), image.len()) };
        mapping.reservation.protect_read(0..mapping.slots_offset)?;
        Ok(mapping)
    }

    fn map(fd: Arc<OwnedFd>, file_offset: u64, len_bytes: usize, beside: Beside) -> io::Result<Self> {
        let mut mapping = Self::reserve(len_bytes, beside)?;
        // Up to the slots, beyond the end of the file if need be, so that no gap needs a mapping of its own.
        mapping.reservation.map_file_read_only(0, &fd, file_offset, mapping.slots_offset)?;
        mapping.file = Some((fd, file_offset));
        Ok(mapping)
    }

    fn reserve(image_len_bytes: usize, beside: Beside) -> io::Result<Self> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("image of {image_len_bytes} bytes is too long"));
        let align_bytes = beside.align_bytes.max(page_size());
        let round_up = |len_bytes: usize| len_bytes.checked_next_multiple_of(align_bytes).ok_or_else(too_long);
        let slots_offset = round_up(image_len_bytes)?;
        let slots_end = slots_offset.checked_add(beside.slots_len_bytes).ok_or_else(too_long)?;
        let room_offset = if beside.room_len_bytes == 0 { slots_end } else { round_up(slots_end)? };
        let reservation = Reservation::new(room_offset.checked_add(beside.room_len_bytes).ok_or_else(too_long)?)?;
        reservation.commit(slots_offset..round_up_to_pages(room_offset).ok_or_else(too_long)?)?;
        let slots_len_bytes = beside.slots_len_bytes;
        Ok(Self { reservation: Arc::new(reservation), image_len_bytes, slots_offset, slots_len_bytes, room_offset, file: None })
    }

    /// Bytes of the image, rounded up to whole pages.
    fn image_pages(&self) -> usize {
        self.image_len_bytes.next_multiple_of(page_size())
    }

    /// Makes a page-aligned byte range of the image executable and visible to instruction fetch. It is not writable since it was
    /// filled. May be called for several ranges.
    ///
    /// # Errors
    /// `InvalidInput` where the range is not page-aligned or not inside the padded image, otherwise what the system said.
    pub fn map_executable(&self, text: Range<usize>) -> io::Result<()> {
        if text.end > self.slots_offset {
            let message = format!("text {:#x}..{:#x} is not inside an image of {:#x} bytes", text.start, text.end, self.slots_offset);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if self.file.is_none() {
            // Plain memory that is read-only since it was filled. Moving a copy here would hide the code from profilers.
            self.reservation.protect_read_execute(text.clone())?;
            // SAFETY: the range is inside the reservation, as was just checked, and readable.
            unsafe { icache::publish(self.reservation.ptr().add(text.start), text.len()) };
            return Ok(());
        }
        match self.reservation.protect_read_execute(text.clone()) {
            Ok(()) => {
                icache::synchronize_cores();
                Ok(())
            }
            // The file lies where nothing may be executed (a `noexec` mount, a policy): run a copy.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.map_executable_copy(text),
            Err(error) => Err(error),
        }
    }

    /// Replaces a range by a copy in plain memory that is made executable before it is moved into place.
    fn map_executable_copy(&self, text: Range<usize>) -> io::Result<()> {
        // Checks the range before anything is made of it.
        self.reservation.protect_read(text.clone())?;
        if text.is_empty() {
            return Ok(());
        }
        let copy = Reservation::new(text.len())?;
        copy.commit(0..text.len())?;
        // SAFETY: the source is a readable range of this reservation, checked above; the copy is fresh, writable, as long.
        unsafe { std::ptr::copy_nonoverlapping(self.reservation.ptr().add(text.start), copy.ptr(), text.len()) };
        copy.protect_read_execute(0..text.len())?;
        self.reservation.adopt(text.clone(), copy)?;
        // SAFETY: the range is inside the reservation and readable.
        unsafe { icache::publish(self.reservation.ptr().add(text.start), text.len()) };
        Ok(())
    }

    /// The first byte of the image.
    pub fn ptr(&self) -> *const u8 {
        self.reservation.ptr()
    }

    /// The image, without its padding.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped readable for as long as `self` lives. Nothing writes to it: a file is kept unchanged
        // by the caller of `from_file` (1), a memory file has no other holder, plain memory is read-only.
        unsafe { std::slice::from_raw_parts(self.reservation.ptr(), self.image_len_bytes) }
    }

    /// The offset of the slots from the start of the image: its length, rounded up.
    pub fn slots_offset(&self) -> usize {
        self.slots_offset
    }

    /// The first slot byte, page-aligned. The slots are zero at first and belong to the caller, who orders access to them.
    pub fn slots_ptr(&self) -> *mut u8 {
        self.reservation.ptr().wrapping_add(self.slots_offset)
    }

    /// The number of slot bytes that were asked for.
    pub fn slots_len_bytes(&self) -> usize {
        self.slots_len_bytes
    }

    /// The offset of the room for later code from the start of the image.
    pub fn room_offset(&self) -> usize {
        self.room_offset
    }

    /// The room for later code. Asked for once: a second one would write over the first.
    pub fn room(&self, kind: RoomKind) -> CodeRoom {
        CodeRoom::new(Arc::clone(&self.reservation), self.room_offset, kind)
    }

    /// Lets go of the file that the image came from, as its content will not be mapped again.
    pub fn close_file(&mut self) {
        self.file = None;
    }

    /// Whether the address lies in the image, its slots or its room.
    pub fn contains(&self, addr: usize) -> bool {
        self.reservation.contains(addr)
    }

    /// A page-aligned range of the image as content for copy-on-write maps, sharing the file. `None` where the image is
    /// plain memory or the range is not page-aligned or not inside the padded image.
    pub fn memory_image(&self, range: Range<usize>) -> Option<MemoryImage> {
        let (fd, file_offset) = self.file.as_ref()?;
        let aligned = range.start.is_multiple_of(page_size()) && range.end.is_multiple_of(page_size());
        (aligned && range.start <= range.end && range.end <= self.image_pages()).then(|| MemoryImage {
            fd: Arc::clone(fd),
            file_offset: file_offset + range.start as u64,
            len_bytes: range.len(),
        })
    }
}

/// Page-aligned initial content of a memory, in a file or a memory file, to be mapped copy-on-write any number of times.
#[derive(Debug, Clone)]
pub struct MemoryImage {
    fd: Arc<OwnedFd>,
    file_offset: u64,
    len_bytes: usize,
}

impl MemoryImage {
    /// Copies `content`, zero-padded to whole pages, to a sealed memory file, or to an unnamed temporary file where the system
    /// allows none.
    ///
    /// # Errors
    /// What the system said.
    pub fn from_bytes(content: &[u8]) -> io::Result<Self> {
        let len_bytes = round_up_to_pages(content.len())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("content of {} bytes is too long", content.len())))?;
        let fd = memory_file(c"peregrine-memory", content, len_bytes as u64).or_else(|_| unnamed_file(content, len_bytes as u64))?;
        Ok(Self { fd: Arc::new(fd), file_offset: 0, len_bytes })
    }

    /// Takes `len_bytes` of a file at `file_offset`, both multiples of the page size. Maps read what the file holds then.
    ///
    /// # Errors
    /// `InvalidInput` where either is not page-aligned, `UnexpectedEof` where the file ends more than a page's padding earlier,
    /// otherwise what the system said.
    pub fn from_file(file: &File, file_offset: u64, len_bytes: usize) -> io::Result<Self> {
        if !file_offset.is_multiple_of(page_size() as u64) || !len_bytes.is_multiple_of(page_size()) {
            let message = format!("memory image at {file_offset:#x} of {len_bytes:#x} bytes is not page-aligned");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let padded_len_bytes = file.metadata()?.len().checked_next_multiple_of(page_size() as u64).unwrap_or(u64::MAX);
        if file_offset.checked_add(len_bytes as u64).is_none_or(|end| end > padded_len_bytes) {
            let message = format!("memory image at {file_offset:#x} of {len_bytes:#x} bytes lies past the end of its file");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(Self { fd: Arc::new(file.as_fd().try_clone_to_owned()?), file_offset, len_bytes })
    }

    /// The length in bytes, a multiple of the page size.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Maps the whole content at `offset` in the reservation, readable and writable; writes stay in that mapping, and
    /// `decommit` restores the content.
    ///
    /// # Errors
    /// As [`Reservation::map_file_private`].
    pub fn map_into(&self, reservation: &Reservation, offset: usize) -> io::Result<()> {
        reservation.map_file_private(offset, &self.fd, self.file_offset, self.len_bytes)
    }
}

/// A memory file of `len_bytes` that starts with `content` and can no longer be changed.
fn memory_file(name: &std::ffi::CStr, content: &[u8], len_bytes: u64) -> io::Result<OwnedFd> {
    // Mapping a memory file executable needs no execute bit on it, so it goes without one; where the kernel is too old to know
    // the flag, files have the bit and nobody uses it.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        result => result,
    }?;
    let fd = fill(fd, content, len_bytes)?;
    // A kernel without a seal still has a file that nobody else holds.
    let _ = rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL);
    Ok(fd)
}

fn unnamed_file(content: &[u8], len_bytes: u64) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::EXCL;
    let fd = rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?;
    fill(fd, content, len_bytes)
}

fn fill(fd: OwnedFd, content: &[u8], len_bytes: u64) -> io::Result<OwnedFd> {
    let mut file = File::from(fd);
    file.write_all(content)?;
    if len_bytes > content.len() as u64 {
        file.set_len(len_bytes)?;
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    const RETURN_42: &[u8] = &[0xb8, 42, 0, 0, 0, 0xc3];
    #[cfg(target_arch = "aarch64")]
    const RETURN_42: &[u8] = &[0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6];

    fn slots(slots_len_bytes: usize) -> Beside {
        Beside { slots_len_bytes, ..Beside::default() }
    }

    /// A page of data, a page with a function that returns 42, and a bit more.
    fn sample_image() -> Vec<u8> {
        let mut image = vec![0x11u8; page_size()];
        image.extend_from_slice(RETURN_42);
        image.resize(2 * page_size(), 0);
        image.extend_from_slice(b"tail");
        image
    }

    fn maps() -> Vec<(Range<usize>, String)> {
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        let parse = |line: &str| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
            Some((range, rest.get(..4)?.to_string()))
        };
        text.lines().map(|line| parse(line).unwrap()).collect()
    }

    fn protection_at(addr: usize) -> String {
        maps().into_iter().find(|(range, _)| range.contains(&addr)).unwrap().1
    }

    fn check(mapping: &CodeMapping) {
        let page = page_size();
        let image = sample_image();
        assert_eq!(mapping.bytes(), image);
        assert_eq!(mapping.slots_offset(), 3 * page);
        mapping.map_executable(page..2 * page).unwrap();
        assert_eq!(mapping.bytes(), image);
        let base = mapping.ptr().addr();
        assert_eq!(protection_at(base), "r--p");
        assert_eq!(protection_at(base + page), "r-xp");
        assert_eq!(protection_at(base + 2 * page), "r--p");
        assert_eq!(protection_at(mapping.slots_ptr().addr()), "rw-p");
        assert!(maps().iter().all(|(_, protection)| !(protection.contains('w') && protection.contains('x'))));
        // SAFETY: the page holds a function of this type, made executable above.
        let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(mapping.ptr().add(page)) };
        assert_eq!(function(), 42);
        let slots = mapping.slots_ptr();
        // SAFETY: the slots are mapped and this test alone uses them.
        unsafe {
            assert_eq!(slots.add(mapping.slots_len_bytes() - 1).read(), 0);
            slots.write(5);
            assert_eq!(slots.read(), 5);
        }
        assert!(mapping.map_executable(3 * page..4 * page).is_err(), "slots must never be executable");
        assert!(mapping.map_executable(1..page).is_err());
        mapping.map_executable(page..page).unwrap();
    }

    #[test]
    fn bytes_become_code() {
        let mapping = CodeMapping::from_bytes(&sample_image(), slots(100)).unwrap();
        check(&mapping);
        assert!(mapping.file.is_some(), "this system has memory files");
    }

    #[test]
    fn bytes_become_code_without_memory_files() {
        check(&CodeMapping::from_bytes_anonymous(&sample_image(), slots(100)).unwrap());
    }

    #[test]
    fn code_that_may_not_be_executed_in_place_is_copied() {
        let page = page_size();
        let mapping = CodeMapping::from_bytes(&sample_image(), slots(page + 1)).unwrap();
        mapping.map_executable_copy(page..2 * page).unwrap();
        check(&mapping);
    }

    #[test]
    fn a_file_becomes_code() {
        let page = page_size();
        let path = std::env::temp_dir().join(format!("peregrine-sys-image-{}", std::process::id()));
        let mut content = vec![0xeeu8; page];
        content.extend_from_slice(&sample_image());
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        // SAFETY: the file is this test's own and stays as it is.
        unsafe {
            check(&CodeMapping::from_file(&file, page as u64, sample_image().len(), slots(100)).unwrap());
            assert!(CodeMapping::from_file(&file, 1, 10, Beside::default()).is_err());
            let error = CodeMapping::from_file(&file, page as u64, sample_image().len() + 1, Beside::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert!(CodeMapping::from_file(&file, u64::MAX - 4095, page, Beside::default()).is_err());
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_memory_file_cannot_be_changed_afterwards() {
        let mapping = CodeMapping::from_bytes(&sample_image(), Beside::default()).unwrap();
        let (fd, _) = mapping.file.as_ref().unwrap();
        let mut file = File::from(fd.try_clone().unwrap());
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn copy_on_write_maps_do_not_see_each_other() {
        let page = page_size();
        let image = MemoryImage::from_bytes(&[3u8; 5000]).unwrap();
        assert_eq!(image.len_bytes(), 5000usize.next_multiple_of(page));
        let (first, second) = (Reservation::new(4 * page).unwrap(), Reservation::new(4 * page).unwrap());
        image.map_into(&first, 0).unwrap();
        image.map_into(&second, page).unwrap();
        let (first_ptr, second_ptr) = (first.ptr(), second.ptr().wrapping_add(page));
        // SAFETY: both ranges are mapped readable and writable, and this test alone uses them.
        unsafe {
            first_ptr.write_volatile(9);
            assert_eq!((first_ptr.read_volatile(), second_ptr.read_volatile()), (9, 3));
            second_ptr.write_volatile(8);
            assert_eq!((first_ptr.read_volatile(), second_ptr.read_volatile()), (9, 8));
            first.decommit(0..page).unwrap();
            assert_eq!((first_ptr.read_volatile(), second_ptr.read_volatile()), (3, 8));
            assert_eq!((first_ptr.add(4999).read_volatile(), first_ptr.add(5000).read_volatile()), (3, 0));
        }
        assert!(image.map_into(&first, 3 * page).is_err(), "two pages do not fit in one");
    }

    #[test]
    fn content_may_come_from_an_unnamed_file_or_from_an_image() {
        let page = page_size();
        let fd = Arc::new(unnamed_file(b"abc", page as u64).unwrap());
        let from_file = MemoryImage { fd, file_offset: 0, len_bytes: page };
        let mapping = CodeMapping::from_bytes(&sample_image(), Beside::default()).unwrap();
        let from_image = mapping.memory_image(2 * page..3 * page).unwrap();
        let reservation = Reservation::new(2 * page).unwrap();
        from_file.map_into(&reservation, 0).unwrap();
        from_image.map_into(&reservation, page).unwrap();
        // SAFETY: both pages are mapped readable.
        let (first, second) = unsafe { (reservation.ptr().read(), reservation.ptr().add(page).cast::<[u8; 5]>().read()) };
        assert_eq!((first, &second), (b'a', b"tail\0"));
        assert!(mapping.memory_image(2 * page..4 * page).is_none());
        assert!(mapping.memory_image(1..page).is_none());
    }
}
