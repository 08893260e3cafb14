//! Open files: regular files, devices, pipes and the inherited standard streams. Every operation is one system call on the caller's
//! buffers; nothing is buffered or copied here.

use super::clock::{nanoseconds, timespec};
use super::error::Error;
use super::perms::{FilePerms, Operation, Perms, decide};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, Stat, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use std::io::{IoSlice, IoSliceMut};
use std::num::NonZeroU64;

/// What an open file or a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Something without a kind of its own: a pipe, an in-memory stream.
    Unknown,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharacterDevice,
    /// A directory.
    Directory,
    /// A regular file.
    RegularFile,
    /// A stream socket.
    StreamSocket,
    /// A symbolic link.
    SymbolicLink,
}

impl From<rustix::fs::FileType> for FileKind {
    fn from(kind: rustix::fs::FileType) -> Self {
        match kind {
            rustix::fs::FileType::RegularFile => FileKind::RegularFile,
            rustix::fs::FileType::Directory => FileKind::Directory,
            rustix::fs::FileType::Symlink => FileKind::SymbolicLink,
            rustix::fs::FileType::Socket => FileKind::StreamSocket,
            rustix::fs::FileType::CharacterDevice => FileKind::CharacterDevice,
            rustix::fs::FileType::BlockDevice => FileKind::BlockDevice,
            _ => FileKind::Unknown,
        }
    }
}

/// How a file will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing is known.
    Normal,
    /// From lower offsets to higher ones.
    Sequential,
    /// In any order.
    Random,
    /// Soon.
    WillNeed,
    /// Not soon.
    DontNeed,
    /// Once.
    NoReuse,
}

impl From<Advice> for rustix::fs::Advice {
    fn from(advice: Advice) -> Self {
        match advice {
            Advice::Normal => rustix::fs::Advice::Normal,
            Advice::Sequential => rustix::fs::Advice::Sequential,
            Advice::Random => rustix::fs::Advice::Random,
            Advice::WillNeed => rustix::fs::Advice::WillNeed,
            Advice::DontNeed => rustix::fs::Advice::DontNeed,
            Advice::NoReuse => rustix::fs::Advice::NoReuse,
        }
    }
}

/// What the system knows of a file. Times are nanoseconds since 1970, zero if earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Device that holds the file.
    pub device: u64,
    /// Number of the file on its device.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Hard links to it.
    pub links: u64,
    /// Length in bytes; of a symbolic link, that of its target.
    pub size: u64,
    /// Last read.
    pub accessed_ns: u64,
    /// Last change of contents.
    pub modified_ns: u64,
    /// Last change of status.
    pub changed_ns: u64,
}

impl From<Stat> for Metadata {
    #[allow(clippy::unnecessary_cast, reason = "the fields have other types on other systems")]
    #[inline]
    fn from(stat: Stat) -> Self {
        let time = |seconds: i64, ns: u64| nanoseconds(Timespec { tv_sec: seconds, tv_nsec: ns as _ });
        Metadata {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            kind: rustix::fs::FileType::from_raw_mode(stat.st_mode as _).into(),
            links: stat.st_nlink as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            accessed_ns: time(stat.st_atime as i64, stat.st_atime_nsec as u64),
            modified_ns: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            changed_ns: time(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}

/// What to do with one time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Keep,
    /// Set it to the present.
    Now,
    /// Set it to so many nanoseconds since 1970.
    At(u64),
}

/// The two times of a file that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Last read.
    pub access: SetTime,
    /// Last change of contents.
    pub modify: SetTime,
}

impl From<&Times> for Timestamps {
    fn from(times: &Times) -> Self {
        let time = |set| match set {
            SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
            SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ },
            SetTime::At(ns) => timespec(ns),
        };
        Timestamps { last_access: time(times.access), last_modification: time(times.modify) }
    }
}

/// Status flags of an open file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Writes go to the end.
    pub append: bool,
    /// Reads and writes return `Again` rather than wait.
    pub nonblock: bool,
    /// Writes reach the disk, contents only.
    pub dsync: bool,
    /// Reads wait for pending writes.
    pub rsync: bool,
    /// Writes reach the disk, contents and metadata.
    pub sync: bool,
}

/// Where the descriptor comes from.
#[derive(Debug)]
enum Handle {
    Owned(OwnedFd),
    /// A standard stream of this process, which is never closed from here.
    Inherited(BorrowedFd<'static>),
}

/// An open file.
#[derive(Debug)]
pub struct File {
    handle: Handle,
    kind: FileKind,
    terminal: bool,
    status: Status,
    perms: FilePerms,
}

/// Repeats a system call that a signal interrupted.
#[inline]
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Error> {
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl File {
    /// A file that was opened below a directory.
    pub(crate) fn opened(fd: OwnedFd, kind: FileKind, status: Status, perms: FilePerms) -> Self {
        File { handle: Handle::Owned(fd), kind, terminal: false, status, perms }
    }

    /// A descriptor of the embedder's, as a stream of the guest.
    ///
    /// # Errors
    /// What the system reports when it is asked for the kind of the descriptor.
    pub(crate) fn stream(fd: OwnedFd) -> Result<Self, Error> {
        File::described(Handle::Owned(fd))
    }

    /// A standard stream of this process.
    pub(crate) fn inherited(fd: BorrowedFd<'static>) -> Result<Self, Error> {
        File::described(Handle::Inherited(fd))
    }

    fn described(handle: Handle) -> Result<Self, Error> {
        let fd = match &handle {
            Handle::Owned(fd) => fd.as_fd(),
            Handle::Inherited(fd) => *fd,
        };
        let kind = Metadata::from(rustix::fs::fstat(fd)?).kind;
        let terminal = kind == FileKind::CharacterDevice && rustix::termios::isatty(fd);
        let flags = rustix::fs::fcntl_getfl(fd)?;
        let status = Status { append: flags.contains(OFlags::APPEND), nonblock: flags.contains(OFlags::NONBLOCK), ..Status::default() };
        Ok(File { handle, kind, terminal, status, perms: FilePerms::all() })
    }

    /// The descriptor, to poll it.
    #[inline]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.handle {
            Handle::Owned(fd) => fd.as_fd(),
            Handle::Inherited(fd) => *fd,
        }
    }

    /// What it is; known since it was opened.
    #[inline]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether it has a position.
    pub fn is_seekable(&self) -> bool {
        matches!(self.kind, FileKind::RegularFile | FileKind::BlockDevice | FileKind::CharacterDevice) && !self.terminal
    }

    /// Status flags; known since it was opened.
    #[inline]
    pub fn status(&self) -> Status {
        self.status
    }

    /// Changes `append` and `nonblock`. On an inherited stream the descriptor is left alone, since it is shared with other processes:
    /// `nonblock` is then kept by asking before each operation, and `append` is refused.
    ///
    /// # Errors
    /// `Invalid` if another flag differs from what it is.
    pub fn set_status(&mut self, wanted: Status) -> Result<(), Error> {
        let now = self.status;
        if (wanted.dsync, wanted.rsync, wanted.sync) != (now.dsync, now.rsync, now.sync) {
            return Err(Error::Invalid);
        }
        if let Handle::Owned(fd) = &self.handle {
            let mut flags = rustix::fs::fcntl_getfl(fd)?;
            flags.set(OFlags::APPEND, wanted.append);
            flags.set(OFlags::NONBLOCK, wanted.nonblock);
            rustix::fs::fcntl_setfl(fd, flags)?;
        } else if wanted.append != now.append {
            return Err(Error::Invalid);
        }
        self.status = wanted;
        Ok(())
    }

    /// For an inherited stream that only the guest believes to be non-blocking.
    #[inline]
    fn ask_first(&self, interest: PollFlags) -> Result<(), Error> {
        if self.status.nonblock && matches!(self.handle, Handle::Inherited(_)) {
            let mut fds = [PollFd::from_borrowed_fd(self.fd(), interest)];
            if retry(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))? == 0 {
                return Err(Error::Again);
            }
        }
        Ok(())
    }

    /// Reads at the position; the count of bytes.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        self.ask_first(PollFlags::IN)?;
        retry(|| rustix::io::read(self.fd(), &mut *buffer))
    }

    /// Reads at the position into several buffers.
    pub fn read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Error> {
        self.ask_first(PollFlags::IN)?;
        retry(|| rustix::io::readv(self.fd(), buffers))
    }

    /// Writes at the position, or at the end if `append`.
    #[inline]
    pub fn write(&self, buffer: &[u8]) -> Result<usize, Error> {
        self.ask_first(PollFlags::OUT)?;
        retry(|| rustix::io::write(self.fd(), buffer))
    }

    /// Writes several buffers.
    pub fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> Result<usize, Error> {
        self.ask_first(PollFlags::OUT)?;
        retry(|| rustix::io::writev(self.fd(), buffers))
    }

    /// Reads at `offset`, leaving the position.
    pub fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize, Error> {
        retry(|| rustix::io::preadv(self.fd(), buffers, offset))
    }

    /// Writes at `offset`, leaving the position. Linux appends all the same if `append` is set.
    pub fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<usize, Error> {
        retry(|| rustix::io::pwritev(self.fd(), buffers, offset))
    }

    /// Moves the position; the new one, from the start.
    pub fn seek(&self, to: SeekFrom) -> Result<u64, Error> {
        Ok(rustix::fs::seek(self.fd(), to)?)
    }

    /// The position.
    pub fn tell(&self) -> Result<u64, Error> {
        Ok(rustix::fs::tell(self.fd())?)
    }

    /// Brings contents and metadata to the disk.
    pub fn sync(&self) -> Result<(), Error> {
        retry(|| rustix::fs::fsync(self.fd()))
    }

    /// Brings contents to the disk.
    pub fn datasync(&self) -> Result<(), Error> {
        retry(|| rustix::fs::fdatasync(self.fd()))
    }

    /// Tells the system how the file will be read. `len` zero means to the end.
    pub fn advise(&self, offset: u64, len: u64, advice: Advice) -> Result<(), Error> {
        if i64::try_from(offset).is_err() || i64::try_from(len).is_err() {
            return Err(Error::Invalid);
        }
        Ok(rustix::fs::fadvise(self.fd(), offset, NonZeroU64::new(len), advice.into())?)
    }

    /// Reserves space, growing the file if need be.
    pub fn allocate(&self, offset: u64, len: u64) -> Result<(), Error> {
        decide(Operation::Allocate, self.grant())?;
        let end = offset.checked_add(len).ok_or(Error::FileTooBig)?;
        if len == 0 || i64::try_from(end).is_err() {
            return Err(if len == 0 { Error::Invalid } else { Error::FileTooBig });
        }
        retry(|| rustix::fs::fallocate(self.fd(), FallocateFlags::empty(), offset, len))
    }

    /// What the system knows of it.
    pub fn metadata(&self) -> Result<Metadata, Error> {
        Ok(rustix::fs::fstat(self.fd())?.into())
    }

    /// Cuts or grows it to `size` bytes.
    pub fn set_size(&self, size: u64) -> Result<(), Error> {
        decide(Operation::SetSize, self.grant())?;
        if i64::try_from(size).is_err() {
            return Err(Error::FileTooBig);
        }
        retry(|| rustix::fs::ftruncate(self.fd(), size))
    }

    /// Sets its times.
    pub fn set_times(&self, times: &Times) -> Result<(), Error> {
        decide(Operation::SetFileTimes, self.grant())?;
        Ok(rustix::fs::futimens(self.fd(), &times.into())?)
    }

    /// Bytes that can be read at once without waiting, as far as is known.
    pub fn available(&self) -> u64 {
        if self.kind == FileKind::RegularFile {
            let size = self.metadata().map_or(0, |metadata| metadata.size);
            return size.saturating_sub(self.tell().unwrap_or(0));
        }
        rustix::io::ioctl_fionread(self.fd()).unwrap_or(0)
    }

    fn grant(&self) -> Perms {
        Perms { dir: super::perms::DirPerms::empty(), file: self.perms }
    }
}
