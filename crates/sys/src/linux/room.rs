//! Room for code that is made while other code of the process runs.
//!
//! Code is written to a file in memory, one for the whole process, and each room maps a range of it for execution: no page is writable at
//! any address, and there is one descriptor however many rooms there are. Where that cannot be had, or a profiler is to find code by its
//! address, a room is plain memory: pages are filled while nobody knows them and become executable afterwards, so each piece of code takes
//! whole pages.
//!
//! A child process after `fork` has the same file as its parent, so it continues in a file of its own, from the next page on. What it got from its
//! parent it goes on executing, whatever becomes of it there: memory of a room that was there at a fork is given back with the file alone.
//! So that this happens when the last room in it goes, rooms that are made after a fork are in another file, if one can be had. The memory needs
//! the rooms' mappings only: where there are many files, the descriptor of the oldest is closed, and rooms in it go on in the newest, as in a
//! child process.
//!
//! `image` gives out the rooms; what is written and when it may run is the machine's business (in the engine).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::process::Resource;

use super::forks;
use super::icache;
use super::pages::{Reservation, page_size, round_up_to_pages};

/// What backs a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomKind {
    /// The file of the process, or plain memory where there can be none.
    Shared,
    /// Plain memory.
    Plain,
}

impl RoomKind {
    /// Whether each piece of code takes whole pages in such rooms.
    pub fn takes_whole_pages(self) -> bool {
        // Rooms are made of the file as soon as there is one.
        self == Self::Plain || claim(&FILES, 0).is_err()
    }
}

/// A range of address space that is filled with code from its start.
#[derive(Debug)]
pub struct CodeRoom {
    reservation: Arc<Reservation>,
    /// All offsets are from the start of the reservation.
    start: usize,
    used: usize,
    backing: Backing,
    /// The file of the backing, held open from when the next address was told until it is used or [released](CodeRoom::release).
    ready: Option<Arc<File>>,
    /// Where pages that were put aside are in a file.
    aside: Option<(Arc<CodeFile>, u64)>,
}

#[derive(Debug)]
enum Backing {
    /// Nothing was written yet.
    None,
    /// The range of a file from an offset on, mapped from `start` on, since there were so many forks.
    File { file: Arc<CodeFile>, file_offset: u64, start: usize, forks: usize },
    /// Pages become executable as they are filled.
    Plain,
}

/// Code begins at multiples of this many bytes, if not of more.
pub const CODE_ALIGN_BYTES: usize = 16;

impl CodeRoom {
    pub(super) fn new(reservation: Arc<Reservation>, start: usize, kind: RoomKind) -> Self {
        let backing = match kind {
            RoomKind::Shared => Backing::None,
            RoomKind::Plain => Backing::Plain,
        };
        Self { reservation, start, used: start, backing, ready: None, aside: None }
    }

    /// The address that the next code will have: a multiple of `align_bytes`, a power of two from [`CODE_ALIGN_BYTES`] up to a page.
    ///
    /// # Errors
    /// What the system said when it was asked for backing.
    pub fn next_address(&mut self, align_bytes: usize) -> io::Result<usize> {
        self.next_address_after(align_bytes, 0)
    }

    /// The same, so many bytes after a multiple of `align_bytes`: fewer than that, and a multiple of [`CODE_ALIGN_BYTES`]. Where each code has
    /// pages of its own, it begins with the page.
    ///
    /// # Errors
    /// As [`next_address`](Self::next_address).
    pub fn next_address_after(&mut self, align_bytes: usize, offset_bytes: usize) -> io::Result<usize> {
        debug_assert!(offset_bytes < align_bytes && offset_bytes.is_multiple_of(CODE_ALIGN_BYTES));
        self.prepare()?;
        self.used = match self.backing {
            Backing::Plain => round_up_to_pages(self.used),
            _ => {
                let align_bytes = align_bytes.max(CODE_ALIGN_BYTES);
                self.used.checked_add(offset_bytes.wrapping_sub(self.used) % align_bytes)
            }
        }
        .unwrap_or(self.reservation.len_bytes());
        Ok(self.reservation.ptr().addr() + self.used)
    }

    /// How many bytes of code there may be yet.
    pub fn left_bytes(&self) -> usize {
        self.reservation.len_bytes().saturating_sub(self.used)
    }

    /// How many bytes are used up, gaps included.
    pub fn used_bytes(&self) -> usize {
        self.used - self.start
    }

    /// Puts code at the address that [`next_address`](Self::next_address) told. It may run when this returns; other threads have to learn
    /// of it by something that orders memory.
    ///
    /// # Errors
    /// `StorageFull` where it does not fit, otherwise what the system said; nothing is used up then.
    pub fn append(&mut self, code: &[u8]) -> io::Result<()> {
        self.next_address(CODE_ALIGN_BYTES)?;
        let used = self.used;
        // Nobody else has taken any meanwhile.
        self.reserve(code.len())?.fill(code).inspect_err(|_| self.used = used)
    }

    /// Uses up the bytes from the address on that [`next_address`](Self::next_address) told, to be filled without the room.
    ///
    /// # Errors
    /// `StorageFull` where they do not fit, otherwise what the system said; nothing is used up then.
    pub fn reserve(&mut self, len_bytes: usize) -> io::Result<Place> {
        self.next_address(CODE_ALIGN_BYTES)?;
        if len_bytes > self.left_bytes() {
            self.release();
            let message = format!("{len_bytes} bytes of code do not fit in the {} bytes that are left", self.left_bytes());
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        let file = match &self.backing {
            Backing::File { file_offset, start, .. } => {
                let file = self.ready.take().ok_or(io::ErrorKind::NotFound)?;
                Some((file, file_offset + (self.used - start) as u64))
            }
            _ => None,
        };
        let place = Place { reservation: Arc::clone(&self.reservation), start: self.used, len_bytes, file };
        self.used += len_bytes;
        Ok(place)
    }

    /// Lets go of what [`next_address`](Self::next_address) holds until the code is there: for whoever does not go on.
    pub fn release(&mut self) {
        self.ready = None;
    }

    /// Puts pages aside that are filled later. Returns the address of the first one. Before anything else is asked of the room.
    ///
    /// # Errors
    /// `StorageFull` where there is no room, otherwise what the system said.
    pub fn put_aside(&mut self, len_bytes: usize) -> io::Result<usize> {
        debug_assert_eq!(self.used, self.start);
        self.prepare()?;
        self.release();
        let len_bytes = len_bytes.next_multiple_of(page_size());
        if len_bytes > self.left_bytes() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{len_bytes} bytes cannot be put aside")));
        }
        if let Backing::File { file, file_offset, .. } = &self.backing {
            self.aside = Some((Arc::clone(file), *file_offset));
        }
        self.used += len_bytes;
        Ok(self.reservation.ptr().addr() + self.start)
    }

    /// Fills the page with number `page` of those that were put aside. Once for each, but for processes that were forked since: there it is the
    /// same content.
    ///
    /// # Errors
    /// What the system said.
    pub fn fill_page(&mut self, page: usize, code: &[u8]) -> io::Result<()> {
        debug_assert!(code.len() <= page_size() && (page + 1) * page_size() <= self.used - self.start);
        let offset = page * page_size();
        match self.aside.as_ref().map(|(file, file_offset)| (file.open(), file_offset)) {
            Some((Some(file), file_offset)) => file.write_all_at(code, file_offset + offset as u64)?,
            Some((None, _)) => {
                // The page is mapped of a file that is not written to any more: one of its own takes its place.
                let page = self.start + offset..self.start + offset + page_size();
                self.reservation.reserve_over(page.clone())?;
                fill_fresh(&self.reservation, page.start, code)?;
            }
            None => fill_fresh(&self.reservation, self.start + offset, code)?,
        }
        // SAFETY: the page is in the reservation, mapped and filled.
        unsafe { icache::publish(self.reservation.ptr().add(self.start + offset), code.len()) };
        Ok(())
    }

    /// Makes sure that the room beyond `used` is backed, by this process alone, and that the file which does it stays open.
    fn prepare(&mut self) -> io::Result<()> {
        match &self.backing {
            Backing::Plain => return Ok(()),
            Backing::File { file, .. } if file.is_own() => {
                self.ready = self.ready.take().or_else(|| file.open());
                if self.ready.is_some() {
                    return Ok(());
                }
            }
            _ => self.release(),
        }
        let start = round_up_to_pages(self.used).unwrap_or(self.reservation.len_bytes()).min(self.reservation.len_bytes());
        let len_bytes = self.reservation.len_bytes() - start;
        // Before it is mapped: a fork from now on gives it to the child.
        let forks = forks::count();
        let mapped = claim(&FILES, len_bytes as u64).and_then(|claimed| {
            self.reservation.map_shared_read_execute(start, &claimed.open, claimed.offset, len_bytes)?;
            Ok((Backing::File { file: claimed.file, file_offset: claimed.offset, start, forks }, Some(claimed.open)))
        });
        self.used = start;
        (self.backing, self.ready) = match mapped {
            Ok(backed) => backed,
            // Whatever was mapped of the earlier file goes, beyond what is used.
            Err(_) => {
                self.reservation.reserve_over(start..self.reservation.len_bytes())?;
                (Backing::Plain, None)
            }
        };
        Ok(())
    }
}

impl Drop for CodeRoom {
    fn drop(&mut self) {
        let Backing::File { file, file_offset, start, forks } = &self.backing else { return };
        if !file.is_own() {
            return;
        }
        if *forks != forks::count() {
            // A child that was forked since executes what is there. The file is not to stay for whoever might want a range of it.
            return release_stale(&FILES);
        }
        let used = (self.used - start).next_multiple_of(page_size()) as u64;
        if let Some(file) = file.open().filter(|_| used > 0) {
            // The room's range is not used again, so this gives its memory back. If it fails, the memory stays until the file goes.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&*file, flags, *file_offset, used);
        }
    }
}

/// A range of a room that is to be filled.
#[derive(Debug)]
#[must_use = "it is used up"]
pub struct Place {
    reservation: Arc<Reservation>,
    /// From the start of the reservation.
    start: usize,
    len_bytes: usize,
    /// Where it is in a file; `None` for fresh pages.
    file: Option<(Arc<File>, u64)>,
}

impl Place {
    /// Puts code there. It may run when this returns; other threads have to learn of it by something that orders memory.
    ///
    /// # Errors
    /// `InvalidInput` if it is longer than the place, otherwise what the system said; the place stays used up.
    pub fn fill(self, code: &[u8]) -> io::Result<()> {
        if code.len() > self.len_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match &self.file {
            Some((file, offset)) => file.write_all_at(code, *offset)?,
            None => fill_fresh(&self.reservation, self.start, code)?,
        }
        // SAFETY: the range is in the reservation, mapped and filled.
        unsafe { icache::publish(self.reservation.ptr().add(self.start), code.len()) };
        Ok(())
    }
}

/// Fills fresh pages, and makes them executable.
fn fill_fresh(reservation: &Reservation, start: usize, code: &[u8]) -> io::Result<()> {
    let pages = start..start + code.len().next_multiple_of(page_size());
    reservation.commit(pages.clone())?;
    // SAFETY: the range is in the reservation, as was checked by `commit`, writable, and nobody else knows it.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), reservation.ptr().add(start), code.len()) };
    reservation.protect_read_execute(pages)
}

/// One piece of code, many times one after the other, in the memory of one.
#[derive(Debug)]
pub struct RepeatedCode {
    reservation: Reservation,
    code: Vec<u8>,
    file: Option<(Arc<File>, u64)>,
    times: usize,
}

impl RepeatedCode {
    /// Reserves address space for `code`, a multiple of the page size long, up to `max_times` times.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(code: Vec<u8>, max_times: usize) -> io::Result<Self> {
        debug_assert!(code.len().is_multiple_of(page_size()));
        let reservation = Reservation::new(code.len().saturating_mul(max_times))?;
        let file = claim(&REPEATED, code.len() as u64).and_then(|claimed| {
            claimed.open.write_all_at(&code, claimed.offset)?;
            Ok((claimed.open, claimed.offset))
        });
        Ok(Self { reservation, code, file: file.ok(), times: 0 })
    }

    /// The first byte.
    pub fn ptr(&self) -> *const u8 {
        self.reservation.ptr()
    }

    /// Makes sure that the code is there at least `times` times.
    ///
    /// # Errors
    /// `InvalidInput` where that is more than there is address space for, otherwise what the system said.
    pub fn ensure(&mut self, times: usize) -> io::Result<()> {
        while self.times < times {
            let start = self.times * self.code.len();
            let shared = self.file.as_ref().is_some_and(|(file, file_offset)| {
                self.reservation.map_shared_read_execute(start, file, *file_offset, self.code.len()).is_ok()
            });
            if !shared {
                self.file = None;
                let range = start..start + self.code.len();
                self.reservation.map_anonymous_over(range.clone())?;
                // SAFETY: the range was just mapped, writable, and nobody else knows it.
                unsafe { std::ptr::copy_nonoverlapping(self.code.as_ptr(), self.reservation.ptr().add(start), self.code.len()) };
                self.reservation.protect_read_execute(range)?;
            }
            self.times += 1;
        }
        Ok(())
    }
}

/// A file that code is written to.
#[derive(Debug)]
struct CodeFile {
    /// `None` when it was closed. What is mapped of it stays.
    file: RwLock<Option<Arc<File>>>,
    /// The process that writes to it.
    generation: usize,
}

/// The files of a process.
#[derive(Debug)]
struct Files {
    /// That which ranges are taken of now.
    current: Option<Current>,
    /// All that were made, the oldest first, without those that were closed and found gone.
    open: Vec<Weak<CodeFile>>,
}

/// The file that ranges are taken of now.
#[derive(Debug)]
struct Current {
    file: Arc<CodeFile>,
    open: Arc<File>,
    /// How much of it is given away.
    given: u64,
    /// How many forks there were when it was made.
    forks: usize,
}

/// A range of a file.
struct Claimed {
    file: Arc<CodeFile>,
    open: Arc<File>,
    offset: u64,
}

/// The files for rooms.
static FILES: Mutex<Files> = Mutex::new(Files { current: None, open: Vec::new() });
/// Those for code that is there until the process ends. In the others, it would keep the memory of all rooms that were there at a fork.
static REPEATED: Mutex<Files> = Mutex::new(Files { current: None, open: Vec::new() });

/// So many files are open, each of which takes a descriptor.
const MANY_FILES: usize = 16;

/// A range of a file, page-aligned, that nobody else has or gets.
fn claim(files: &Mutex<Files>, len_bytes: u64) -> io::Result<Claimed> {
    claim_with(files, len_bytes, CodeFile::create)
}

/// The same, of files that `create` makes.
fn claim_with(
    files: &Mutex<Files>,
    len_bytes: u64,
    create: impl FnOnce() -> io::Result<(Arc<CodeFile>, Arc<File>)>,
) -> io::Result<Claimed> {
    let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
    let forks = forks::count();
    // A child process has no use for that of its parent.
    files.current.take_if(|current| !current.file.is_own());
    // The file of before a fork lasts as long as its rooms.
    if files.current.as_ref().is_none_or(|current| current.forks != forks) {
        match create() {
            Ok((file, open)) => {
                // What there was is let go of, and the oldest is closed, now that there is another one.
                files.current = None;
                files.make_room();
                files.open.push(Arc::downgrade(&file));
                files.current = Some(Current { file, open, given: 0, forks });
            }
            // None may grow then.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(error),
            // The one of before a fork is good as well: its memory is there for longer, that is all.
            Err(error) if files.current.is_none() => return Err(error),
            Err(_) => {}
        }
    }
    let Some(Current { file, open, given, .. }) = &mut files.current else { return Err(io::ErrorKind::NotFound.into()) };
    let (file, open, start) = (Arc::clone(file), Arc::clone(open), *given);
    let end = start.saturating_add(len_bytes).next_multiple_of(page_size() as u64);
    if end > start {
        // The file is sparse: only what is written takes memory.
        open.set_len(end)?;
        *given = end;
    }
    Ok(Claimed { file, open, offset: start })
}

/// Lets go of the file that ranges were taken of before a fork: it goes with its last room.
fn release_stale(files: &Mutex<Files>) {
    // As whoever gives ranges away is, so that no child finds it locked for ever.
    let _inside = forks::enter();
    // Whoever has it locked looks itself.
    if let Ok(mut files) = files.try_lock()
        && files.current.as_ref().is_some_and(|current| current.forks != forks::count())
    {
        files.current = None;
    }
}

impl Files {
    /// Closes the oldest files, so that there may be another one.
    fn make_room(&mut self) {
        self.open.retain(|file| file.strong_count() > 0);
        while self.open.len() >= MANY_FILES {
            if let Some(oldest) = self.open.remove(0).upgrade()
                && !oldest.close()
            {
                // Somebody looks at it in this moment: the next time.
                self.open.push(Arc::downgrade(&oldest));
                return;
            }
        }
    }
}

impl CodeFile {
    fn create() -> io::Result<(Arc<Self>, Arc<File>)> {
        if rustix::process::getrlimit(Resource::Fsize).current.is_some() {
            // The limit counts files in memory too, and going beyond it ends the process.
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the size of files is limited"));
        }
        let flags = MemfdFlags::CLOEXEC;
        let name = c"peregrine-code";
        // As for images: mapping for execution needs no permission to execute.
        let fd: OwnedFd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
            result => result,
        }?;
        let open = Arc::new(File::from(fd));
        let file = RwLock::new(Some(Arc::clone(&open)));
        Ok((Arc::new(Self { file, generation: forks::generation() }), open))
    }

    /// The file, unless it was closed. One that cannot be looked at without waiting is as good as closed: in a child process, who closes it may be
    /// a thread that is not there.
    fn open(&self) -> Option<Arc<File>> {
        self.file.try_read().ok()?.clone()
    }

    /// Closes it, as soon as nobody writes to it. Whether that was possible.
    fn close(&self) -> bool {
        self.file.try_write().map(|mut file| *file = None).is_ok()
    }

    /// Whether this process writes to it. Not by the number of the process: a child in another namespace may have that of its parent.
    fn is_own(&self) -> bool {
        self.generation == forks::generation()
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;
    use crate::image::{Beside, CodeMapping};

    /// `mov eax, number; ret`
    fn returns(number: u32) -> Vec<u8> {
        let mut code = vec![0xb8];
        code.extend_from_slice(&number.to_le_bytes());
        code.push(0xc3);
        code
    }

    fn run(address: usize) -> u32 {
        // SAFETY: the tests put a function of this type there.
        let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(address) };
        function()
    }

    fn mapping() -> CodeMapping {
        let beside = Beside { align_bytes: 64 << 10, slots_len_bytes: 100, room_len_bytes: 64 << 10 };
        CodeMapping::from_bytes(b"image", beside).unwrap()
    }

    fn permissions(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let parse = |line: &str| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
            Some((range, rest.get(..4)?.to_string()))
        };
        maps.lines().filter_map(parse).find(|(range, _)| range.contains(&address)).unwrap().1
    }

    #[test]
    fn code_that_is_added_runs_beside_code_that_runs() {
        for kind in [RoomKind::Shared, RoomKind::Plain] {
            let mapping = mapping();
            let mut room = mapping.room(kind);
            let mut addresses = Vec::new();
            for number in 0..10 {
                let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
                assert_eq!(address % CODE_ALIGN_BYTES, 0);
                assert!(mapping.contains(address));
                room.append(&returns(number)).unwrap();
                addresses.push(address);
                assert!(addresses.iter().enumerate().all(|(number, address)| run(*address) == number as u32), "{kind:?}");
                assert!(matches!(&*permissions(address), "r-xs" | "r-xp"));
            }
        }
    }

    #[test]
    fn code_begins_at_a_place_of_its_choice() {
        for kind in [RoomKind::Shared, RoomKind::Plain] {
            let mapping = mapping();
            let mut room = mapping.room(kind);
            // Each takes a page of a room that is plain memory.
            for number in 0..if kind == RoomKind::Shared { 40 } else { 10 } {
                let offset = number as usize * 7 % 4 * CODE_ALIGN_BYTES;
                let address = room.next_address_after(64, offset).unwrap();
                assert_eq!(address % 64, if kind == RoomKind::Shared { offset } else { 0 });
                room.append(&returns(number)).unwrap();
                assert_eq!(run(address), number, "{kind:?}");
            }
        }
    }

    #[test]
    fn pages_that_were_put_aside_are_filled_later() {
        for kind in [RoomKind::Shared, RoomKind::Plain] {
            let mapping = mapping();
            let mut room = mapping.room(kind);
            let aside = room.put_aside(3 * page_size() - 1).unwrap();
            let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
            assert_eq!(address, aside + 3 * page_size());
            room.append(&returns(1)).unwrap();
            room.fill_page(2, &returns(2)).unwrap();
            room.fill_page(0, &returns(3)).unwrap();
            assert_eq!((run(address), run(aside + 2 * page_size()), run(aside)), (1, 2, 3));
        }
    }

    #[test]
    fn a_room_is_filled_to_its_end_and_no_further() {
        let mapping = mapping();
        let mut room = mapping.room(RoomKind::Shared);
        assert_eq!(room.left_bytes(), 64 << 10);
        room.append(&vec![0xcc; (64 << 10) - 100]).unwrap();
        assert_eq!(room.append(&[0xcc; 101]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
        room.append(&returns(7)).unwrap();
        assert_eq!(run(address), 7);
    }

    #[test]
    fn what_the_system_does_not_take_uses_nothing_up() {
        let mapping = mapping();
        let mut room = mapping.room(RoomKind::Shared);
        for _ in 0..3 {
            let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
            let good = room.ready.take().unwrap();
            // Opened to be read.
            room.ready = Some(Arc::new(File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&good))).unwrap()));
            assert_eq!(room.append(&returns(1)).unwrap_err().raw_os_error(), Some(libc::EBADF));
            assert_eq!(room.next_address(CODE_ALIGN_BYTES).unwrap(), address);
        }
        let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
        room.append(&returns(1)).unwrap();
        assert_eq!(run(address), 1);
    }

    #[test]
    fn rooms_share_one_descriptor() {
        let count = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
                .filter(|path| path.to_string_lossy().contains("memfd:peregrine-code"))
                .count()
        };
        let rooms: Vec<_> = (0..50)
            .map(|number| {
                let mut mapping = mapping();
                mapping.close_file();
                let mut room = mapping.room(RoomKind::Shared);
                let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
                room.append(&returns(number)).unwrap();
                (mapping, room, address)
            })
            .collect();
        assert!(rooms.iter().enumerate().all(|(number, (.., address))| run(*address) == number as u32));
        // Other tests have some at the same time.
        assert!(count() < 30, "{}", count());
    }

    #[test]
    fn repeated_code_takes_the_memory_of_one() {
        let mut code = returns(3);
        code.resize(2 * page_size(), 0xcc);
        let mut repeated = RepeatedCode::new(code, 10).unwrap();
        repeated.ensure(3).unwrap();
        repeated.ensure(2).unwrap();
        repeated.ensure(10).unwrap();
        let start = repeated.ptr().addr();
        assert!((0..10).all(|time| run(start + time * 2 * page_size()) == 3));
        assert!(repeated.ensure(11).is_err());
    }

    #[test]
    fn a_child_process_does_not_write_to_the_code_of_its_parent() {
        let mapping = mapping();
        let mut room = mapping.room(RoomKind::Shared);
        let first = room.next_address(CODE_ALIGN_BYTES).unwrap();
        room.append(&returns(1)).unwrap();
        // Another test must not have it locked in the child for ever.
        let file = FILES.lock().unwrap();
        // SAFETY: the child only makes system calls and ends without running anything of the parent's.
        let child = unsafe { libc::fork() };
        drop(file);
        let second = room.next_address(CODE_ALIGN_BYTES).unwrap();
        let number = if child == 0 { 3 } else { 2 };
        room.append(&returns(number)).unwrap();
        let good = run(first) == 1 && run(second) == number;
        if child == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert!(good && status == 0 && run(second) == 2, "{status}");
    }

    /// The file of a room, unless it was closed: tests of other threads make files too.
    fn file_of(room: &CodeRoom) -> Option<Arc<File>> {
        let Backing::File { file, .. } = &room.backing else { panic!("the room has a file") };
        file.open()
    }

    /// Bytes of memory that a file takes.
    fn file_bytes(file: &File) -> u64 {
        use std::os::unix::fs::MetadataExt;
        file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn a_child_process_goes_on_in_a_room_that_its_parent_dropped() {
        let (mut ends, mut image) = ([0; 2], vec![0xcc; page_size()]);
        image[..6].copy_from_slice(&returns(2));
        let mapping = CodeMapping::from_bytes(&image, Beside { room_len_bytes: 64 << 10, ..Beside::default() }).unwrap();
        mapping.map_executable(0..page_size()).unwrap();
        let in_image = mapping.ptr().addr();
        let mut room = mapping.room(RoomKind::Shared);
        let first = room.next_address(CODE_ALIGN_BYTES).unwrap();
        room.append(&returns(1)).unwrap();
        // SAFETY: both are descriptors of this test.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        let file = FILES.lock().unwrap();
        // SAFETY: the child only makes system calls and ends without running anything of the parent's.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: waits until the parent says that it has dropped the room, or is gone.
            unsafe {
                libc::close(ends[1]);
                libc::read(ends[0], [0u8; 1].as_mut_ptr().cast(), 1);
            }
            let good = run(first) == 1 && run(in_image) == 2;
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        drop(file);
        drop((room, mapping));
        let mut status = 0;
        // SAFETY: the descriptors are those above, and the child is waited for once.
        unsafe {
            libc::close(ends[1]);
            libc::waitpid(child, &mut status, 0);
            libc::close(ends[0]);
        }
        assert_eq!(status, 0, "{status:#x}");
    }

    #[test]
    fn memory_of_rooms_is_given_back_without_forks_and_with_the_file_after_one() {
        let fill = |room: &mut CodeRoom| room.append(&[0xcc; 60 << 10]).unwrap();
        // Tests of other threads fork too, so now and then a room is not emptied.
        let emptied = (0..50).any(|_| {
            let mappings = [mapping(), mapping()];
            let [mut kept, mut dropped] = [&mappings[0], &mappings[1]].map(|mapping| mapping.room(RoomKind::Shared));
            fill(&mut kept);
            fill(&mut dropped);
            let Some(file) = file_of(&kept) else { return false };
            let before = file_bytes(&file);
            drop(dropped);
            file_bytes(&file) < before
        });
        assert!(emptied, "the memory of a room stays");
        let (before, mut after) = (mapping(), mapping());
        let mut before = before.room(RoomKind::Shared);
        fill(&mut before);
        let file = FILES.lock().unwrap();
        // SAFETY: the child ends at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        drop(file);
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, &mut 0, 0) };
        after.close_file();
        let mut after = after.room(RoomKind::Shared);
        fill(&mut after);
        let (Backing::File { file: old, .. }, Backing::File { file: new, .. }) = (&before.backing, &after.backing) else {
            panic!("both have files")
        };
        assert!(!Arc::ptr_eq(old, new), "what is new would keep what is old");
    }

    /// A child process that ends at once.
    fn fork() {
        let file = FILES.lock().unwrap();
        // SAFETY: the child ends at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        drop(file);
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, &mut 0, 0) };
    }

    #[test]
    fn a_room_goes_on_when_its_file_is_closed() {
        let old_mapping = mapping();
        let mut old = old_mapping.room(RoomKind::Shared);
        let aside = old.put_aside(2 * page_size()).unwrap();
        old.fill_page(1, &returns(1)).unwrap();
        let first = old.next_address(CODE_ALIGN_BYTES).unwrap();
        old.append(&returns(2)).unwrap();
        // In a file each, which stay.
        let others: Vec<_> = (0..=MANY_FILES)
            .map(|_| {
                fork();
                let mut mapping = mapping();
                mapping.close_file();
                let mut room = mapping.room(RoomKind::Shared);
                let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
                room.append(&returns(3)).unwrap();
                (mapping, room, address)
            })
            .collect();
        let Backing::File { file, .. } = &old.backing else { panic!("the room has a file") };
        assert!(file.open().is_none(), "there are {} files", others.len());
        let second = old.next_address(CODE_ALIGN_BYTES).unwrap();
        old.append(&returns(4)).unwrap();
        old.fill_page(0, &returns(5)).unwrap();
        let all = [aside + page_size(), first, second, aside].map(run);
        assert_eq!(all, [1, 2, 4, 5]);
        assert!(others.iter().all(|(.., address)| run(*address) == 3));
        drop(old);
        assert!(others.iter().all(|(.., address)| run(*address) == 3));
    }

    #[test]
    fn the_file_of_before_a_fork_goes_with_its_last_room() {
        // Tests of other threads make rooms and fork, so now and then it is not that of this test alone.
        let gone = (0..50).any(|_| {
            fork();
            let mapping = mapping();
            let mut room = mapping.room(RoomKind::Shared);
            room.append(&returns(1)).unwrap();
            fork();
            let Backing::File { file, .. } = &room.backing else { panic!("the room has a file") };
            let file = Arc::downgrade(file);
            drop(room);
            file.upgrade().is_none()
        });
        assert!(gone, "somebody holds it");
    }

    #[test]
    fn what_refuses_code_holds_no_file_open() {
        let mapping = mapping();
        let mut room = mapping.room(RoomKind::Shared);
        assert_eq!(room.append(&[0xcc; 65 << 10]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(room.ready.is_none());
        room.next_address(CODE_ALIGN_BYTES).unwrap();
        assert!(room.ready.is_some());
        room.release();
        assert!(room.ready.is_none());
        let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
        room.append(&returns(1)).unwrap();
        assert_eq!(run(address), 1);
    }

    #[test]
    fn the_file_of_before_a_fork_is_good_where_there_is_no_other() {
        let page = page_size() as u64;
        let files = Mutex::new(Files { current: None, open: Vec::new() });
        // As many as are open at a time, and one that is closed for the last of them.
        let claimed: Vec<_> = (0..=MANY_FILES)
            .map(|_| {
                fork();
                claim(&files, page).unwrap()
            })
            .collect();
        let is_open = || claimed.iter().map(|claimed| claimed.file.open().is_some()).collect::<Vec<_>>();
        let before = is_open();
        fork();
        let last = claimed.last().unwrap();
        let none = |error: libc::c_int| move || Err(io::Error::from_raw_os_error(error));
        for offset in [page, 2 * page] {
            let more = claim_with(&files, page, none(libc::EMFILE)).unwrap();
            assert_eq!((Arc::ptr_eq(&more.file, &last.file), more.offset), (true, offset));
            more.open.write_all_at(&[1], offset).unwrap();
        }
        // Files that may not grow are not tried.
        assert!(claim_with(&files, page, none(libc::EFBIG)).is_err());
        assert_eq!(is_open(), before, "a file is closed for one that is not there");
        let new = claim(&files, page).unwrap();
        assert!(!Arc::ptr_eq(&new.file, &last.file) && new.offset == 0);
        assert!(claim_with(&Mutex::new(Files { current: None, open: Vec::new() }), page, none(libc::EMFILE)).is_err());
    }
}
