//! Stream sockets that the embedder granted: listeners, and the connections accepted from them.

use super::error::Error;
use super::file::{Metadata, retry};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use std::io::{IoSlice, IoSliceMut};

/// Sending to a closed peer raises no signal.
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes connections.
    Listener,
    /// Carries bytes.
    Connection,
}

/// A stream socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    role: Role,
    nonblock: bool,
}

/// How bytes are received.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReceiveOptions {
    /// Leave the bytes in the socket.
    pub peek: bool,
    /// Wait until the buffers are full.
    pub wait_all: bool,
}

impl Socket {
    /// A socket of the embedder's.
    pub(crate) fn granted(fd: OwnedFd, role: Role) -> Result<Self, Error> {
        let nonblock = rustix::fs::fcntl_getfl(&fd)?.contains(OFlags::NONBLOCK);
        Ok(Socket { fd, role, nonblock })
    }

    /// The descriptor, to poll it.
    #[inline]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What it is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether its operations return `Again` rather than wait.
    pub fn nonblock(&self) -> bool {
        self.nonblock
    }

    /// Makes its operations wait or not.
    pub fn set_nonblock(&mut self, nonblock: bool) -> Result<(), Error> {
        rustix::io::ioctl_fionbio(&self.fd, nonblock)?;
        self.nonblock = nonblock;
        Ok(())
    }

    /// What the system knows of it.
    pub fn metadata(&self) -> Result<Metadata, Error> {
        Ok(rustix::fs::fstat(&self.fd)?.into())
    }

    /// Takes a connection; it waits or not as `nonblock` says.
    ///
    /// # Errors
    /// `Invalid` if the socket does not listen, `Again` if there is no connection and it does not wait.
    pub fn accept(&self, nonblock: bool) -> Result<Socket, Error> {
        if self.role != Role::Listener {
            return Err(Error::Invalid);
        }
        let fd = accept(&self.fd, nonblock)?;
        Ok(Socket { fd, role: Role::Connection, nonblock })
    }

    /// Receives into `buffers`; the count of bytes, and whether some were cut off.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>], options: ReceiveOptions) -> Result<(usize, bool), Error> {
        self.connected()?;
        let mut flags = RecvFlags::empty();
        flags.set(RecvFlags::PEEK, options.peek);
        flags.set(RecvFlags::WAITALL, options.wait_all);
        let received = retry(|| rustix::net::recvmsg(&self.fd, buffers, &mut RecvAncillaryBuffer::default(), flags))?;
        Ok((received.bytes, received.flags.contains(ReturnFlags::TRUNC)))
    }

    /// Receives into one buffer.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        self.connected()?;
        retry(|| rustix::io::read(&self.fd, &mut *buffer))
    }

    /// Sends from `buffers`; the count of bytes. A closed peer is an error, never a signal.
    pub fn send(&self, buffers: &[IoSlice<'_>]) -> Result<usize, Error> {
        self.connected()?;
        retry(|| rustix::net::sendmsg(&self.fd, buffers, &mut SendAncillaryBuffer::default(), NO_SIGNAL))
    }

    /// Closes one direction or both.
    pub fn shutdown(&self, read: bool, write: bool) -> Result<(), Error> {
        self.connected()?;
        let how = match (read, write) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            (false, true) => Shutdown::Write,
            (false, false) => return Err(Error::Invalid),
        };
        Ok(rustix::net::shutdown(&self.fd, how)?)
    }

    /// Bytes that can be read at once without waiting.
    pub fn available(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.fd).unwrap_or(0)
    }

    #[inline]
    fn connected(&self) -> Result<(), Error> {
        if self.role == Role::Connection { Ok(()) } else { Err(Error::NotConnected) }
    }
}

/// Takes a connection that is closed on exec.
fn accept(listener: &OwnedFd, nonblock: bool) -> Result<OwnedFd, Error> {
    use rustix::net::SocketFlags;
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, nonblock);
    retry(|| rustix::net::accept_with(listener, flags))
}
