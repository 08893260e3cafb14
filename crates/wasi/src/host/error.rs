//! The one error of host operations. Each version of WASI maps it to its own numbers by one table.

use rustix::io::Errno;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $errno:ident, $text:literal;)*) => {
        /// Why a host operation failed. One byte; the variants are the POSIX reasons a guest can be told.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u8)]
        pub enum Error {
            $(#[doc = $text] #[error($text)] $name,)*
            /// a path leads out of the directory it was given for
            #[error("path leads out of the directory it was given for")]
            Escape,
            /// operation refused by the permissions of the grant
            #[error("operation refused by the permissions of the grant")]
            Refused,
        }

        impl From<Errno> for Error {
            fn from(errno: Errno) -> Self {
                match errno {
                    $(Errno::$errno => Error::$name,)*
                    _ => Error::Io,
                }
            }
        }
    };
}

errors! {
    TooBig = TOOBIG, "argument list too long";
    Access = ACCESS, "permission denied";
    AddressInUse = ADDRINUSE, "address in use";
    AddressNotAvailable = ADDRNOTAVAIL, "address not available";
    AddressFamily = AFNOSUPPORT, "address family not supported";
    Again = AGAIN, "resource unavailable, or operation would block";
    Already = ALREADY, "connection already in progress";
    BadDescriptor = BADF, "bad file descriptor";
    BadMessage = BADMSG, "bad message";
    Busy = BUSY, "device or resource busy";
    Canceled = CANCELED, "operation canceled";
    Child = CHILD, "no child processes";
    ConnectionAborted = CONNABORTED, "connection aborted";
    ConnectionRefused = CONNREFUSED, "connection refused";
    ConnectionReset = CONNRESET, "connection reset";
    Deadlock = DEADLK, "resource deadlock would occur";
    DestinationRequired = DESTADDRREQ, "destination address required";
    Domain = DOM, "argument out of the domain of the function";
    Quota = DQUOT, "disk quota exceeded";
    Exists = EXIST, "file exists";
    Fault = FAULT, "bad address";
    FileTooBig = FBIG, "file too large";
    HostUnreachable = HOSTUNREACH, "host is unreachable";
    IdentifierRemoved = IDRM, "identifier removed";
    IllegalBytes = ILSEQ, "illegal byte sequence";
    InProgress = INPROGRESS, "operation in progress";
    Interrupted = INTR, "interrupted";
    Invalid = INVAL, "invalid argument";
    Io = IO, "input or output error";
    Connected = ISCONN, "socket is connected";
    IsDirectory = ISDIR, "is a directory";
    Loop = LOOP, "too many levels of symbolic links";
    TooManyOpen = MFILE, "too many open files";
    TooManyLinks = MLINK, "too many links";
    MessageSize = MSGSIZE, "message too large";
    Multihop = MULTIHOP, "multihop attempted";
    NameTooLong = NAMETOOLONG, "file name too long";
    NetworkDown = NETDOWN, "network is down";
    NetworkReset = NETRESET, "connection aborted by network";
    NetworkUnreachable = NETUNREACH, "network unreachable";
    TooManyOpenInSystem = NFILE, "too many files open in the system";
    NoBuffers = NOBUFS, "no buffer space available";
    NoDevice = NODEV, "no such device";
    NotFound = NOENT, "no such file or directory";
    NotExecutable = NOEXEC, "executable file format error";
    NoLocks = NOLCK, "no locks available";
    NoLink = NOLINK, "link has been severed";
    NoMemory = NOMEM, "not enough space";
    NoMessage = NOMSG, "no message of the desired type";
    NoProtocolOption = NOPROTOOPT, "protocol not available";
    NoSpace = NOSPC, "no space left on device";
    NoSystemCall = NOSYS, "function not supported by this system";
    NotConnected = NOTCONN, "the socket is not connected";
    NotDirectory = NOTDIR, "not a directory";
    NotEmpty = NOTEMPTY, "directory not empty";
    NotRecoverable = NOTRECOVERABLE, "state not recoverable";
    NotSocket = NOTSOCK, "not a socket";
    NotSupported = NOTSUP, "not supported";
    NotTerminal = NOTTY, "inappropriate control operation";
    NoSuchDevice = NXIO, "no such device or address";
    Overflow = OVERFLOW, "value too large";
    OwnerDead = OWNERDEAD, "previous owner died";
    NotPermitted = PERM, "operation not permitted";
    BrokenPipe = PIPE, "broken pipe";
    Protocol = PROTO, "protocol error";
    ProtocolNotSupported = PROTONOSUPPORT, "protocol not supported";
    ProtocolType = PROTOTYPE, "protocol wrong type for socket";
    Range = RANGE, "result too large";
    ReadOnlyFileSystem = ROFS, "read-only file system";
    InvalidSeek = SPIPE, "invalid seek";
    NoProcess = SRCH, "no such process";
    Stale = STALE, "stale file handle";
    TimedOut = TIMEDOUT, "timed out";
    TextBusy = TXTBSY, "text file busy";
    CrossDevice = XDEV, "cross-device link";
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => match error.kind() {
                std::io::ErrorKind::NotFound => Error::NotFound,
                std::io::ErrorKind::PermissionDenied => Error::Escape,
                std::io::ErrorKind::AlreadyExists => Error::Exists,
                std::io::ErrorKind::InvalidInput => Error::Invalid,
                std::io::ErrorKind::WouldBlock => Error::Again,
                std::io::ErrorKind::BrokenPipe => Error::BrokenPipe,
                std::io::ErrorKind::Interrupted => Error::Interrupted,
                std::io::ErrorKind::StorageFull => Error::NoSpace,
                std::io::ErrorKind::Unsupported => Error::NotSupported,
                _ => Error::Io,
            },
        }
    }
}
