//! The `sock_*` functions: what sockets can do beyond reading and writing.

use super::WasiP1Ctx;
use super::fd_table::{Entry, Object};
use super::memory::{GuestMemory, TRANSFER_MAX_BYTES};
use super::types::{Errno, FdFlags, RECV_DATA_TRUNCATED, RECV_PEEK, RECV_WAITALL, Rights, SHUTDOWN_RD, SHUTDOWN_WR};
use crate::host::socket::{ReceiveOptions, Role};

impl WasiP1Ctx {
    /// Takes a connection from a listening socket and writes its new descriptor. Of the flags, only `nonblock` has a meaning.
    pub fn sock_accept(&mut self, memory: &mut GuestMemory<'_>, fd: u32, flags: u32, opened_fd: u32) -> Result<(), Errno> {
        memory.check(opened_fd, 4)?;
        let flags = FdFlags::parse(flags)?;
        if !(flags - FdFlags::NONBLOCK).is_empty() {
            return Err(Errno::Inval);
        }
        if self.fds.socket(fd, Rights::empty())?.role() != Role::Listener {
            return Err(Errno::Inval);
        }
        let listener = self.fds.socket(fd, Rights::SOCK_ACCEPT)?;
        self.fds.room()?;
        let connection = listener.accept(flags.contains(FdFlags::NONBLOCK))?;
        let inheriting = self.fds.get(fd)?.inheriting;
        let mut entry = Entry::new(Object::Socket(connection));
        entry.base &= inheriting;
        entry.inheriting &= inheriting;
        let number = self.fds.insert(entry)?;
        memory.store_u32(opened_fd, number)
    }

    /// Receives from a socket; writes the count of bytes and whether a message was cut off.
    #[allow(clippy::too_many_arguments, reason = "the operands of the specification")]
    pub fn sock_recv(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        ri_data: u32,
        ri_data_len: u32,
        ri_flags: u32,
        nread: u32,
        ro_flags: u32,
    ) -> Result<(), Errno> {
        let socket = self.fds.socket(fd, Rights::FD_READ)?;
        if ri_flags & !(RECV_PEEK | RECV_WAITALL) != 0 {
            return Err(Errno::Inval);
        }
        memory.check(nread, 4)?;
        memory.check(ro_flags, 2)?;
        let options = ReceiveOptions { peek: ri_flags & RECV_PEEK != 0, wait_all: ri_flags & RECV_WAITALL != 0 };
        // Who asks for all gets all.
        let most_bytes = if options.wait_all { usize::MAX } else { TRANSFER_MAX_BYTES };
        let (count, cut) = memory.scatter_up_to(most_bytes, ri_data, ri_data_len, |buffers| socket.receive(buffers, options))??;
        memory.store_size(nread, count)?;
        memory.store(ro_flags, if cut { RECV_DATA_TRUNCATED } else { 0 }.to_le_bytes())
    }

    /// Sends to a socket and writes the count of bytes. No flag has a meaning.
    pub fn sock_send(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        si_data: u32,
        si_data_len: u32,
        si_flags: u32,
        nwritten: u32,
    ) -> Result<(), Errno> {
        let socket = self.fds.socket(fd, Rights::FD_WRITE)?;
        if si_flags != 0 {
            return Err(Errno::Inval);
        }
        memory.check(nwritten, 4)?;
        let count = memory.gather(si_data, si_data_len, |buffers| socket.send(buffers))??;
        memory.store_size(nwritten, count)
    }

    /// Closes one direction of a connection, or both.
    pub fn sock_shutdown(&mut self, _memory: &mut GuestMemory<'_>, fd: u32, how: u32) -> Result<(), Errno> {
        let socket = self.fds.socket(fd, Rights::empty())?;
        if socket.role() != Role::Connection {
            return Err(Errno::Notconn);
        }
        self.fds.get(fd)?.require(Rights::SOCK_SHUTDOWN)?;
        if how & !(SHUTDOWN_RD | SHUTDOWN_WR) != 0 {
            return Err(Errno::Inval);
        }
        Ok(socket.shutdown(how & SHUTDOWN_RD != 0, how & SHUTDOWN_WR != 0)?)
    }
}
