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
mod tests;
