//! Numbers, flags and layouts of preview 1, as its witx files fix them. All values in memory are little-endian.

use crate::host::clock::Clock;
use crate::host::error::Error;
use crate::host::file::{Advice, FileKind, Metadata, SetTime, Status, Times};

/// Error numbers (`errno`).
#[allow(missing_docs, reason = "the variants are the names of the specification")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Errno {
    Success = 0,
    TooBig = 1,
    Acces = 2,
    Addrinuse = 3,
    Addrnotavail = 4,
    Afnosupport = 5,
    Again = 6,
    Already = 7,
    Badf = 8,
    Badmsg = 9,
    Busy = 10,
    Canceled = 11,
    Child = 12,
    Connaborted = 13,
    Connrefused = 14,
    Connreset = 15,
    Deadlk = 16,
    Destaddrreq = 17,
    Dom = 18,
    Dquot = 19,
    Exist = 20,
    Fault = 21,
    Fbig = 22,
    Hostunreach = 23,
    Idrm = 24,
    Ilseq = 25,
    Inprogress = 26,
    Intr = 27,
    Inval = 28,
    Io = 29,
    Isconn = 30,
    Isdir = 31,
    Loop = 32,
    Mfile = 33,
    Mlink = 34,
    Msgsize = 35,
    Multihop = 36,
    Nametoolong = 37,
    Netdown = 38,
    Netreset = 39,
    Netunreach = 40,
    Nfile = 41,
    Nobufs = 42,
    Nodev = 43,
    Noent = 44,
    Noexec = 45,
    Nolck = 46,
    Nolink = 47,
    Nomem = 48,
    Nomsg = 49,
    Noprotoopt = 50,
    Nospc = 51,
    Nosys = 52,
    Notconn = 53,
    Notdir = 54,
    Notempty = 55,
    Notrecoverable = 56,
    Notsock = 57,
    Notsup = 58,
    Notty = 59,
    Nxio = 60,
    Overflow = 61,
    Ownerdead = 62,
    Perm = 63,
    Pipe = 64,
    Proto = 65,
    Protonosupport = 66,
    Prototype = 67,
    Range = 68,
    Rofs = 69,
    Spipe = 70,
    Srch = 71,
    Stale = 72,
    Timedout = 73,
    Txtbsy = 74,
    Xdev = 75,
    Notcapable = 76,
}

impl From<Error> for Errno {
    #[inline]
    fn from(error: Error) -> Self {
        match error {
            Error::TooBig => Errno::TooBig,
            Error::Access => Errno::Acces,
            Error::AddressInUse => Errno::Addrinuse,
            Error::AddressNotAvailable => Errno::Addrnotavail,
            Error::AddressFamily => Errno::Afnosupport,
            Error::Again => Errno::Again,
            Error::Already => Errno::Already,
            Error::BadDescriptor => Errno::Badf,
            Error::BadMessage => Errno::Badmsg,
            Error::Busy => Errno::Busy,
            Error::Canceled => Errno::Canceled,
            Error::Child => Errno::Child,
            Error::ConnectionAborted => Errno::Connaborted,
            Error::ConnectionRefused => Errno::Connrefused,
            Error::ConnectionReset => Errno::Connreset,
            Error::Deadlock => Errno::Deadlk,
            Error::DestinationRequired => Errno::Destaddrreq,
            Error::Domain => Errno::Dom,
            Error::Quota => Errno::Dquot,
            Error::Exists => Errno::Exist,
            Error::Fault => Errno::Fault,
            Error::FileTooBig => Errno::Fbig,
            Error::HostUnreachable => Errno::Hostunreach,
            Error::IdentifierRemoved => Errno::Idrm,
            Error::IllegalBytes => Errno::Ilseq,
            Error::InProgress => Errno::Inprogress,
            Error::Interrupted => Errno::Intr,
            Error::Invalid => Errno::Inval,
            Error::Io => Errno::Io,
            Error::Connected => Errno::Isconn,
            Error::IsDirectory => Errno::Isdir,
            Error::Loop => Errno::Loop,
            Error::TooManyOpen => Errno::Mfile,
            Error::TooManyLinks => Errno::Mlink,
            Error::MessageSize => Errno::Msgsize,
            Error::Multihop => Errno::Multihop,
            Error::NameTooLong => Errno::Nametoolong,
            Error::NetworkDown => Errno::Netdown,
            Error::NetworkReset => Errno::Netreset,
            Error::NetworkUnreachable => Errno::Netunreach,
            Error::TooManyOpenInSystem => Errno::Nfile,
            Error::NoBuffers => Errno::Nobufs,
            Error::NoDevice => Errno::Nodev,
            Error::NotFound => Errno::Noent,
            Error::NotExecutable => Errno::Noexec,
            Error::NoLocks => Errno::Nolck,
            Error::NoLink => Errno::Nolink,
            Error::NoMemory => Errno::Nomem,
            Error::NoMessage => Errno::Nomsg,
            Error::NoProtocolOption => Errno::Noprotoopt,
            Error::NoSpace => Errno::Nospc,
            Error::NoSystemCall => Errno::Nosys,
            Error::NotConnected => Errno::Notconn,
            Error::NotDirectory => Errno::Notdir,
            Error::NotEmpty => Errno::Notempty,
            Error::NotRecoverable => Errno::Notrecoverable,
            Error::NotSocket => Errno::Notsock,
            Error::NotSupported => Errno::Notsup,
            Error::NotTerminal => Errno::Notty,
            Error::NoSuchDevice => Errno::Nxio,
            Error::Overflow => Errno::Overflow,
            Error::OwnerDead => Errno::Ownerdead,
            Error::NotPermitted => Errno::Perm,
            Error::BrokenPipe => Errno::Pipe,
            Error::Protocol => Errno::Proto,
            Error::ProtocolNotSupported => Errno::Protonosupport,
            Error::ProtocolType => Errno::Prototype,
            Error::Range => Errno::Range,
            Error::ReadOnlyFileSystem => Errno::Rofs,
            Error::InvalidSeek => Errno::Spipe,
            Error::NoProcess => Errno::Srch,
            Error::Stale => Errno::Stale,
            Error::TimedOut => Errno::Timedout,
            Error::TextBusy => Errno::Txtbsy,
            Error::CrossDevice => Errno::Xdev,
            Error::Escape => Errno::Perm,
            Error::Refused => Errno::Perm,
        }
    }
}

bitflags::bitflags! {
    /// What may be done with a descriptor (`rights`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rights: u64 {
        /// `fd_datasync`.
        const FD_DATASYNC = 1 << 0;
        /// `fd_read`.
        const FD_READ = 1 << 1;
        /// `fd_seek`.
        const FD_SEEK = 1 << 2;
        /// `fd_fdstat_set_flags`.
        const FD_FDSTAT_SET_FLAGS = 1 << 3;
        /// `fd_sync`.
        const FD_SYNC = 1 << 4;
        /// `fd_tell`.
        const FD_TELL = 1 << 5;
        /// `fd_write`.
        const FD_WRITE = 1 << 6;
        /// `fd_advise`.
        const FD_ADVISE = 1 << 7;
        /// `fd_allocate`.
        const FD_ALLOCATE = 1 << 8;
        /// `path_create_directory`.
        const PATH_CREATE_DIRECTORY = 1 << 9;
        /// `path_create_file`.
        const PATH_CREATE_FILE = 1 << 10;
        /// `path_link_source`.
        const PATH_LINK_SOURCE = 1 << 11;
        /// `path_link_target`.
        const PATH_LINK_TARGET = 1 << 12;
        /// `path_open`.
        const PATH_OPEN = 1 << 13;
        /// `fd_readdir`.
        const FD_READDIR = 1 << 14;
        /// `path_readlink`.
        const PATH_READLINK = 1 << 15;
        /// `path_rename_source`.
        const PATH_RENAME_SOURCE = 1 << 16;
        /// `path_rename_target`.
        const PATH_RENAME_TARGET = 1 << 17;
        /// `path_filestat_get`.
        const PATH_FILESTAT_GET = 1 << 18;
        /// `path_filestat_set_size`.
        const PATH_FILESTAT_SET_SIZE = 1 << 19;
        /// `path_filestat_set_times`.
        const PATH_FILESTAT_SET_TIMES = 1 << 20;
        /// `fd_filestat_get`.
        const FD_FILESTAT_GET = 1 << 21;
        /// `fd_filestat_set_size`.
        const FD_FILESTAT_SET_SIZE = 1 << 22;
        /// `fd_filestat_set_times`.
        const FD_FILESTAT_SET_TIMES = 1 << 23;
        /// `path_symlink`.
        const PATH_SYMLINK = 1 << 24;
        /// `path_remove_directory`.
        const PATH_REMOVE_DIRECTORY = 1 << 25;
        /// `path_unlink_file`.
        const PATH_UNLINK_FILE = 1 << 26;
        /// `poll_fd_readwrite`.
        const POLL_FD_READWRITE = 1 << 27;
        /// `sock_shutdown`.
        const SOCK_SHUTDOWN = 1 << 28;
        /// `sock_accept`.
        const SOCK_ACCEPT = 1 << 29;
    }
}

impl Rights {
    /// What applies to a directory itself.
    pub const DIRECTORY: Rights = Rights::PATH_CREATE_DIRECTORY
        .union(Rights::PATH_CREATE_FILE)
        .union(Rights::PATH_LINK_SOURCE)
        .union(Rights::PATH_LINK_TARGET)
        .union(Rights::PATH_OPEN)
        .union(Rights::FD_READDIR)
        .union(Rights::PATH_READLINK)
        .union(Rights::PATH_RENAME_SOURCE)
        .union(Rights::PATH_RENAME_TARGET)
        .union(Rights::PATH_SYMLINK)
        .union(Rights::PATH_REMOVE_DIRECTORY)
        .union(Rights::PATH_UNLINK_FILE)
        .union(Rights::PATH_FILESTAT_GET)
        .union(Rights::PATH_FILESTAT_SET_SIZE)
        .union(Rights::PATH_FILESTAT_SET_TIMES)
        .union(Rights::FD_FILESTAT_GET)
        .union(Rights::FD_FILESTAT_SET_TIMES)
        .union(Rights::FD_SYNC)
        .union(Rights::FD_DATASYNC);

    /// What applies to a file.
    pub const FILE: Rights = Rights::FD_DATASYNC
        .union(Rights::FD_READ)
        .union(Rights::FD_SEEK)
        .union(Rights::FD_FDSTAT_SET_FLAGS)
        .union(Rights::FD_SYNC)
        .union(Rights::FD_TELL)
        .union(Rights::FD_WRITE)
        .union(Rights::FD_ADVISE)
        .union(Rights::FD_ALLOCATE)
        .union(Rights::FD_FILESTAT_GET)
        .union(Rights::FD_FILESTAT_SET_SIZE)
        .union(Rights::FD_FILESTAT_SET_TIMES)
        .union(Rights::POLL_FD_READWRITE);

    /// What applies to a connected socket.
    pub const CONNECTION: Rights = Rights::FD_READ
        .union(Rights::FD_WRITE)
        .union(Rights::FD_FDSTAT_SET_FLAGS)
        .union(Rights::FD_FILESTAT_GET)
        .union(Rights::POLL_FD_READWRITE)
        .union(Rights::SOCK_SHUTDOWN);

    /// What applies to a listening socket.
    pub const LISTENER: Rights =
        Rights::FD_FDSTAT_SET_FLAGS.union(Rights::FD_FILESTAT_GET).union(Rights::POLL_FD_READWRITE).union(Rights::SOCK_ACCEPT);

    /// What needs a file open for writing.
    pub const NEEDS_WRITE: Rights = Rights::FD_WRITE.union(Rights::FD_ALLOCATE).union(Rights::FD_FILESTAT_SET_SIZE);

    /// What needs a position.
    pub const NEEDS_POSITION: Rights = Rights::FD_SEEK.union(Rights::FD_TELL).union(Rights::FD_ADVISE).union(Rights::FD_ALLOCATE);
}

bitflags::bitflags! {
    /// Status flags of a descriptor (`fdflags`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FdFlags: u16 {
        /// `append`.
        const APPEND = 1;
        /// `dsync`.
        const DSYNC = 2;
        /// `nonblock`.
        const NONBLOCK = 4;
        /// `rsync`.
        const RSYNC = 8;
        /// `sync`.
        const SYNC = 16;
    }
}

impl FdFlags {
    /// Takes flags as a guest gave them.
    ///
    /// # Errors
    /// `Inval` if a bit has no meaning.
    pub(crate) fn parse(bits: u32) -> Result<Self, Errno> {
        u16::try_from(bits).ok().and_then(FdFlags::from_bits).ok_or(Errno::Inval)
    }
}

impl From<FdFlags> for Status {
    fn from(flags: FdFlags) -> Self {
        Status {
            append: flags.contains(FdFlags::APPEND),
            nonblock: flags.contains(FdFlags::NONBLOCK),
            dsync: flags.contains(FdFlags::DSYNC),
            rsync: flags.contains(FdFlags::RSYNC),
            sync: flags.contains(FdFlags::SYNC),
        }
    }
}

impl From<Status> for FdFlags {
    #[inline]
    fn from(status: Status) -> Self {
        let mut flags = FdFlags::empty();
        flags.set(FdFlags::APPEND, status.append);
        flags.set(FdFlags::NONBLOCK, status.nonblock);
        flags.set(FdFlags::DSYNC, status.dsync);
        flags.set(FdFlags::RSYNC, status.rsync);
        flags.set(FdFlags::SYNC, status.sync);
        flags
    }
}

bitflags::bitflags! {
    /// How `path_open` opens (`oflags`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OFlags: u16 {
        /// `creat`.
        const CREAT = 1;
        /// `directory`.
        const DIRECTORY = 2;
        /// `excl`.
        const EXCL = 4;
        /// `trunc`.
        const TRUNC = 8;
    }
}

/// Follow a symbolic link at the end of a path (`lookupflags`).
pub const LOOKUP_SYMLINK_FOLLOW: u32 = 1;
/// The timeout of a clock subscription is absolute (`subclockflags`).
pub const SUBSCRIPTION_CLOCK_ABSTIME: u16 = 1;
/// The peer has hung up (`eventrwflags`).
pub const EVENT_FD_READWRITE_HANGUP: u16 = 1;
/// Received bytes stay in the socket (`riflags`).
pub const RECV_PEEK: u32 = 1;
/// Receive until the buffers are full (`riflags`).
pub const RECV_WAITALL: u32 = 2;
/// A message was cut off (`roflags`).
pub const RECV_DATA_TRUNCATED: u16 = 1;
/// Shut down receiving (`sdflags`).
pub const SHUTDOWN_RD: u32 = 1;
/// Shut down sending (`sdflags`).
pub const SHUTDOWN_WR: u32 = 2;
/// The highest signal (`signal`).
pub const SIGNAL_MAX: u32 = 30;

/// Kinds of subscriptions and events (`eventtype`).
#[allow(missing_docs, reason = "the variants are the names of the specification")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventType {
    Clock = 0,
    FdRead = 1,
    FdWrite = 2,
}

/// The number of a kind of file (`filetype`).
#[inline]
pub fn filetype(kind: FileKind) -> u8 {
    match kind {
        FileKind::Unknown => 0,
        FileKind::BlockDevice => 1,
        FileKind::CharacterDevice => 2,
        FileKind::Directory => 3,
        FileKind::RegularFile => 4,
        FileKind::StreamSocket => 6,
        FileKind::SymbolicLink => 7,
    }
}

/// The clock of a number (`clockid`).
///
/// # Errors
/// `Inval` for any other number.
#[inline]
pub(crate) fn clock(id: u32) -> Result<Clock, Errno> {
    match id {
        0 => Ok(Clock::Realtime),
        1 => Ok(Clock::Monotonic),
        2 => Ok(Clock::ProcessCpu),
        3 => Ok(Clock::ThreadCpu),
        _ => Err(Errno::Inval),
    }
}

/// The advice of a number (`advice`).
///
/// # Errors
/// `Inval` for any other number.
pub(crate) fn advice(number: u32) -> Result<Advice, Errno> {
    match number {
        0 => Ok(Advice::Normal),
        1 => Ok(Advice::Sequential),
        2 => Ok(Advice::Random),
        3 => Ok(Advice::WillNeed),
        4 => Ok(Advice::DontNeed),
        5 => Ok(Advice::NoReuse),
        _ => Err(Errno::Inval),
    }
}

/// Which times to set to what (`fstflags`).
///
/// # Errors
/// `Inval` if a time shall be both given and the present, or a bit has no meaning.
pub(crate) fn times(atim: u64, mtim: u64, flags: u32) -> Result<Times, Errno> {
    const ATIM: u32 = 1;
    const ATIM_NOW: u32 = 2;
    const MTIM: u32 = 4;
    const MTIM_NOW: u32 = 8;
    if flags & !(ATIM | ATIM_NOW | MTIM | MTIM_NOW) != 0 {
        return Err(Errno::Inval);
    }
    let time = |given: bool, now: bool, at: u64| match (given, now) {
        (false, false) => Ok(SetTime::Keep),
        (false, true) => Ok(SetTime::Now),
        (true, false) => Ok(SetTime::At(at)),
        (true, true) => Err(Errno::Inval),
    };
    Ok(Times {
        access: time(flags & ATIM != 0, flags & ATIM_NOW != 0, atim)?,
        modify: time(flags & MTIM != 0, flags & MTIM_NOW != 0, mtim)?,
    })
}

/// Size of `iovec` and `ciovec` in bytes: pointer at 0, length at 4.
pub const IOVEC_SIZE_BYTES: u32 = 8;
/// Size of `subscription` in bytes.
pub const SUBSCRIPTION_SIZE_BYTES: u32 = 48;
/// Size of `event` in bytes.
pub const EVENT_SIZE_BYTES: u32 = 32;
/// Size of the head of `dirent` in bytes; the name follows.
pub const DIRENT_SIZE_BYTES: usize = 24;

/// Copies `value` into a layout at `offset`. All calls have constant offsets within the layout.
fn put<const N: usize, const M: usize>(layout: &mut [u8; N], offset: usize, value: [u8; M]) {
    layout[offset..offset + M].copy_from_slice(&value);
}

/// `fdstat`: | 0 filetype u8 | 2 flags u16 | 8 rights_base u64 | 16 rights_inheriting u64 |; gaps are zero.
#[inline]
pub(crate) fn fdstat(kind: FileKind, flags: FdFlags, base: Rights, inheriting: Rights) -> [u8; 24] {
    let mut layout = [0; 24];
    layout[0] = filetype(kind);
    put(&mut layout, 2, flags.bits().to_le_bytes());
    put(&mut layout, 8, base.bits().to_le_bytes());
    put(&mut layout, 16, inheriting.bits().to_le_bytes());
    layout
}

/// `filestat`: | 0 dev u64 | 8 ino u64 | 16 filetype u8 | 24 nlink u64 | 32 size u64 | 40 atim u64 | 48 mtim u64 | 56 ctim u64 |; gaps are
/// zero.
#[inline]
pub(crate) fn filestat(metadata: &Metadata) -> [u8; 64] {
    let mut layout = [0; 64];
    put(&mut layout, 0, metadata.device.to_le_bytes());
    put(&mut layout, 8, metadata.inode.to_le_bytes());
    layout[16] = filetype(metadata.kind);
    put(&mut layout, 24, metadata.links.to_le_bytes());
    put(&mut layout, 32, metadata.size.to_le_bytes());
    put(&mut layout, 40, metadata.accessed_ns.to_le_bytes());
    put(&mut layout, 48, metadata.modified_ns.to_le_bytes());
    put(&mut layout, 56, metadata.changed_ns.to_le_bytes());
    layout
}

/// `prestat` of a directory: | 0 tag u8 (0) | 4 name_len u32 |; gaps are zero.
pub(crate) fn prestat_dir(name_len: u32) -> [u8; 8] {
    let mut layout = [0; 8];
    put(&mut layout, 4, name_len.to_le_bytes());
    layout
}

/// Head of `dirent`: | 0 next u64 | 8 ino u64 | 16 namlen u32 | 20 type u8 |; gaps are zero.
pub(crate) fn dirent(next: u64, inode: u64, name_len: u32, kind: FileKind) -> [u8; DIRENT_SIZE_BYTES] {
    let mut layout = [0; DIRENT_SIZE_BYTES];
    put(&mut layout, 0, next.to_le_bytes());
    put(&mut layout, 8, inode.to_le_bytes());
    put(&mut layout, 16, name_len.to_le_bytes());
    layout[20] = filetype(kind);
    layout
}

/// `event`: | 0 userdata u64 | 8 error u16 | 10 type u8 | 16 nbytes u64 | 24 flags u16 |; gaps are zero.
pub(crate) fn event(userdata: u64, error: Errno, kind: EventType, nbytes: u64, flags: u16) -> [u8; EVENT_SIZE_BYTES as usize] {
    let mut layout = [0; EVENT_SIZE_BYTES as usize];
    put(&mut layout, 0, userdata.to_le_bytes());
    put(&mut layout, 8, (error as u16).to_le_bytes());
    layout[10] = kind as u8;
    put(&mut layout, 16, nbytes.to_le_bytes());
    put(&mut layout, 24, flags.to_le_bytes());
    layout
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_specification() {
        assert_eq!(Errno::Badf as u16, 8);
        assert_eq!(Errno::Inval as u16, 28);
        assert_eq!(Errno::Perm as u16, 63);
        assert_eq!(Errno::Notcapable as u16, 76);
        assert_eq!(Rights::SOCK_ACCEPT.bits(), 1 << 29);
        assert_eq!(Rights::POLL_FD_READWRITE.bits(), 1 << 27);
    }

    #[test]
    fn gaps_in_layouts_are_zero() {
        let stat = fdstat(FileKind::Directory, FdFlags::all(), Rights::all(), Rights::all());
        assert_eq!(stat[1], 0);
        assert_eq!(stat[4..8], [0; 4]);
        let event = event(u64::MAX, Errno::Notcapable, EventType::FdWrite, u64::MAX, u16::MAX);
        assert_eq!(event[11..16], [0; 5]);
        assert_eq!(event[26..], [0; 6]);
    }
}
