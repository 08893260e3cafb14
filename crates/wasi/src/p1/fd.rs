//! The `fd_*` functions: operations on open descriptors.

use super::WasiP1Ctx;
use super::fd_table::{Entry, Object};
use super::memory::GuestMemory;
use super::types::{self, DIRENT_SIZE_BYTES, Errno, FdFlags, Rights};
use crate::host::error::Error;
use crate::host::socket::ReceiveOptions;
use rustix::fs::SeekFrom;
use std::io::{IoSlice, IoSliceMut};
use std::ops::ControlFlow;

/// Reads from whatever has a stream of bytes.
fn read_vectored(object: &mut Object, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Error> {
    match object {
        Object::File(file) if buffers.is_empty() => file.read(&mut []),
        Object::File(file) => file.read_vectored(buffers),
        Object::Socket(socket) => Ok(socket.receive(buffers, ReceiveOptions::default())?.0),
        Object::Input(stream) => {
            let mut total = 0;
            for buffer in buffers.iter_mut() {
                let count = match stream.read(buffer) {
                    Ok(count) => count.min(buffer.len()),
                    // What came before is told first; the reason comes with the next call.
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                };
                total += count;
                if count < buffer.len() {
                    break;
                }
            }
            Ok(total)
        }
        Object::Output(_) | Object::Dir(_) => Err(Error::BadDescriptor),
    }
}

/// Reads into one buffer: one plain system call, where there is a descriptor.
#[inline]
fn read(object: &mut Object, buffer: &mut [u8]) -> Result<usize, Error> {
    match object {
        Object::File(file) => file.read(buffer),
        Object::Socket(socket) => socket.read(buffer),
        other => read_vectored(other, &mut [IoSliceMut::new(buffer)]),
    }
}

/// Writes to whatever takes a stream of bytes.
#[inline]
fn write_vectored(object: &mut Object, buffers: &[IoSlice<'_>]) -> Result<usize, Error> {
    match object {
        Object::File(file) => match buffers {
            [] => file.write(&[]),
            [buffer] => file.write(buffer),
            _ => file.write_vectored(buffers),
        },
        Object::Socket(socket) => socket.send(buffers),
        Object::Output(stream) => {
            let mut total = 0;
            for buffer in buffers {
                let count = match stream.write(buffer) {
                    Ok(count) => count.min(buffer.len()),
                    // What was taken before is told first; the reason comes with the next call.
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                };
                total += count;
                // What is in the next buffer comes after the rest of this one.
                if count < buffer.len() {
                    break;
                }
            }
            Ok(total)
        }
        Object::Input(_) | Object::Dir(_) => Err(Error::BadDescriptor),
    }
}

impl WasiP1Ctx {
    /// Reads at the position. One iovec is one `read`, several are one `readv`, straight into the guest's memory.
    #[inline]
    pub fn fd_read(&mut self, memory: &mut GuestMemory<'_>, fd: u32, iovs: u32, iovs_len: u32, nread: u32) -> Result<(), Errno> {
        let entry = self.fds.get_mut(fd)?;
        entry.require(Rights::FD_READ)?;
        memory.check(nread, 4)?;
        let count = if iovs_len == 1 {
            read(&mut entry.object, memory.one_buffer(iovs)?)?
        } else {
            memory.scatter(iovs, iovs_len, |buffers| read_vectored(&mut entry.object, buffers))??
        };
        memory.store_size(nread, count)
    }

    /// Writes at the position. One iovec is one `write`, several are one `writev`, straight from the guest's memory.
    #[inline]
    pub fn fd_write(&mut self, memory: &mut GuestMemory<'_>, fd: u32, iovs: u32, iovs_len: u32, nwritten: u32) -> Result<(), Errno> {
        let entry = self.fds.get_mut(fd)?;
        entry.require(Rights::FD_WRITE)?;
        memory.check(nwritten, 4)?;
        let count = memory.gather(iovs, iovs_len, |buffers| write_vectored(&mut entry.object, buffers))??;
        memory.store_size(nwritten, count)
    }

    /// Reads at `offset`, leaving the position.
    pub fn fd_pread(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        iovs: u32,
        iovs_len: u32,
        offset: u64,
        nread: u32,
    ) -> Result<(), Errno> {
        let file = self.fds.file(fd, Rights::FD_READ)?;
        memory.check(nread, 4)?;
        let count = memory.scatter(iovs, iovs_len, |buffers| file.read_at(buffers, position(offset)?))??;
        memory.store_size(nread, count)
    }

    /// Writes at `offset`, leaving the position.
    pub fn fd_pwrite(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        iovs: u32,
        iovs_len: u32,
        offset: u64,
        nwritten: u32,
    ) -> Result<(), Errno> {
        let file = self.fds.file(fd, Rights::FD_WRITE)?;
        memory.check(nwritten, 4)?;
        let count = memory.gather(iovs, iovs_len, |buffers| file.write_at(buffers, position(offset)?))??;
        memory.store_size(nwritten, count)
    }

    /// Moves the position and writes the new one.
    pub fn fd_seek(&mut self, memory: &mut GuestMemory<'_>, fd: u32, offset: u64, whence: u32, newoffset: u32) -> Result<(), Errno> {
        const SET: u32 = 0;
        const CUR: u32 = 1;
        const END: u32 = 2;
        let right = if whence == CUR && offset == 0 { Rights::FD_TELL } else { Rights::FD_SEEK };
        let file = self.fds.file(fd, right)?;
        memory.check(newoffset, 8)?;
        let to = match whence {
            SET => SeekFrom::Start(position(offset)?),
            CUR => SeekFrom::Current(offset as i64),
            END => SeekFrom::End(offset as i64),
            _ => return Err(Errno::Inval),
        };
        memory.store_u64(newoffset, file.seek(to)?)
    }

    /// Writes the position.
    pub fn fd_tell(&mut self, memory: &mut GuestMemory<'_>, fd: u32, offset: u32) -> Result<(), Errno> {
        let file = self.fds.file(fd, Rights::FD_TELL)?;
        memory.store_u64(offset, file.tell()?)
    }

    /// Brings contents and metadata to the disk.
    pub fn fd_sync(&mut self, _memory: &mut GuestMemory<'_>, fd: u32) -> Result<(), Errno> {
        let entry = self.fds.get(fd)?;
        entry.require(Rights::FD_SYNC)?;
        match &entry.object {
            Object::File(file) => Ok(file.sync()?),
            Object::Dir(dir) => Ok(dir.sync()?),
            _ => Err(Errno::Inval),
        }
    }

    /// Brings contents to the disk.
    pub fn fd_datasync(&mut self, _memory: &mut GuestMemory<'_>, fd: u32) -> Result<(), Errno> {
        let entry = self.fds.get(fd)?;
        entry.require(Rights::FD_DATASYNC)?;
        match &entry.object {
            Object::File(file) => Ok(file.datasync()?),
            Object::Dir(dir) => Ok(dir.sync()?),
            _ => Err(Errno::Inval),
        }
    }

    /// Tells the system how a file will be read.
    pub fn fd_advise(&mut self, _memory: &mut GuestMemory<'_>, fd: u32, offset: u64, len: u64, advice: u32) -> Result<(), Errno> {
        let file = self.fds.file(fd, Rights::FD_ADVISE)?;
        Ok(file.advise(offset, len, types::advice(advice)?)?)
    }

    /// Reserves space for a file.
    pub fn fd_allocate(&mut self, _memory: &mut GuestMemory<'_>, fd: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let file = self.fds.file(fd, Rights::FD_ALLOCATE)?;
        Ok(file.allocate(offset, len)?)
    }

    /// Writes kind, flags and rights of a descriptor. No system call.
    #[inline]
    pub fn fd_fdstat_get(&mut self, memory: &mut GuestMemory<'_>, fd: u32, stat: u32) -> Result<(), Errno> {
        let entry = self.fds.get(fd)?;
        memory.store(stat, types::fdstat(entry.kind(), entry.flags(), entry.base, entry.inheriting))
    }

    /// Changes `append` and `nonblock`.
    pub fn fd_fdstat_set_flags(&mut self, _memory: &mut GuestMemory<'_>, fd: u32, flags: u32) -> Result<(), Errno> {
        let flags = FdFlags::parse(flags)?;
        let entry = self.fds.get_mut(fd)?;
        entry.require(Rights::FD_FDSTAT_SET_FLAGS)?;
        match &mut entry.object {
            Object::File(file) => Ok(file.set_status(flags.into())?),
            Object::Socket(socket) if (flags - FdFlags::NONBLOCK).is_empty() => Ok(socket.set_nonblock(flags.contains(FdFlags::NONBLOCK))?),
            _ => Err(Errno::Inval),
        }
    }

    /// Takes rights away. Rights that are not there cannot be asked for.
    pub fn fd_fdstat_set_rights(
        &mut self,
        _memory: &mut GuestMemory<'_>,
        fd: u32,
        fs_rights_base: u64,
        fs_rights_inheriting: u64,
    ) -> Result<(), Errno> {
        let entry = self.fds.get_mut(fd)?;
        if fs_rights_base & !entry.base.bits() != 0 || fs_rights_inheriting & !entry.inheriting.bits() != 0 {
            return Err(Errno::Notcapable);
        }
        entry.base = Rights::from_bits_truncate(fs_rights_base);
        entry.inheriting = Rights::from_bits_truncate(fs_rights_inheriting);
        Ok(())
    }

    /// Writes what the system knows of an open file.
    pub fn fd_filestat_get(&mut self, memory: &mut GuestMemory<'_>, fd: u32, stat: u32) -> Result<(), Errno> {
        let entry = self.fds.get(fd)?;
        entry.require(Rights::FD_FILESTAT_GET)?;
        memory.store(stat, types::filestat(&entry.metadata()?))
    }

    /// Cuts or grows a file.
    pub fn fd_filestat_set_size(&mut self, _memory: &mut GuestMemory<'_>, fd: u32, size: u64) -> Result<(), Errno> {
        Ok(self.fds.file(fd, Rights::FD_FILESTAT_SET_SIZE)?.set_size(size)?)
    }

    /// Sets the times of an open file or directory.
    pub fn fd_filestat_set_times(
        &mut self,
        _memory: &mut GuestMemory<'_>,
        fd: u32,
        atim: u64,
        mtim: u64,
        fst_flags: u32,
    ) -> Result<(), Errno> {
        let times = types::times(atim, mtim, fst_flags)?;
        let entry = self.fds.get(fd)?;
        entry.require(Rights::FD_FILESTAT_SET_TIMES)?;
        match &entry.object {
            Object::File(file) => Ok(file.set_times(&times)?),
            Object::Dir(dir) => Ok(dir.set_times(&times)?),
            _ => Err(Errno::Notcapable),
        }
    }

    /// Writes the description of a granted directory.
    pub fn fd_prestat_get(&mut self, memory: &mut GuestMemory<'_>, fd: u32, prestat: u32) -> Result<(), Errno> {
        let name = self.fds.get(fd)?.preopen.as_deref().ok_or(Errno::Badf)?;
        let len = u32::try_from(name.len()).map_err(|_| Errno::Overflow)?;
        memory.store(prestat, types::prestat_dir(len))
    }

    /// Writes the guest's name of a granted directory, without a terminator.
    pub fn fd_prestat_dir_name(&mut self, memory: &mut GuestMemory<'_>, fd: u32, path: u32, path_len: u32) -> Result<(), Errno> {
        let name = self.fds.get(fd)?.preopen.as_deref().ok_or(Errno::Badf)?;
        let place = memory.slice_mut(path, path_len)?;
        let place = place.get_mut(..name.len()).ok_or(Errno::Nametoolong)?;
        place.copy_from_slice(name.as_bytes());
        Ok(())
    }

    /// Lists a directory from `cookie` on. The last entry is cut off where the buffer ends; a buffer that is not full is the end.
    pub fn fd_readdir(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        buf: u32,
        buf_len: u32,
        cookie: u64,
        bufused: u32,
    ) -> Result<(), Errno> {
        let entry = self.fds.get_mut(fd)?;
        let Object::Dir(dir) = &mut entry.object else { return Err(Errno::Notdir) };
        if !entry.base.contains(Rights::FD_READDIR) {
            return Err(Errno::Notcapable);
        }
        memory.check(bufused, 4)?;
        let buffer = memory.slice_mut(buf, buf_len)?;
        let mut used = 0;
        if !buffer.is_empty() {
            dir.entries(cookie, buffer.len(), |entry| {
                // Names are bounded by the system.
                let head = types::dirent(entry.next_cookie, entry.inode, entry.name.len() as u32, entry.kind);
                for piece in [&head[..DIRENT_SIZE_BYTES], entry.name] {
                    let room = &mut buffer[used..];
                    let count = piece.len().min(room.len());
                    room[..count].copy_from_slice(&piece[..count]);
                    used += count;
                }
                if used < buffer.len() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        memory.store_size(bufused, used)
    }

    /// Moves a descriptor to the number of another, which is closed.
    pub fn fd_renumber(&mut self, _memory: &mut GuestMemory<'_>, fd: u32, to: u32) -> Result<(), Errno> {
        self.fds.renumber(fd, to)
    }

    /// Closes a descriptor.
    pub fn fd_close(&mut self, _memory: &mut GuestMemory<'_>, fd: u32) -> Result<(), Errno> {
        self.fds.close(fd)
    }
}

/// An offset within a file, which no system takes beyond 63 bits.
fn position(offset: u64) -> Result<u64, Error> {
    if i64::try_from(offset).is_ok() { Ok(offset) } else { Err(Error::Invalid) }
}

/// A new descriptor for what was opened below a directory: of the rights that apply to it, those that the directory passes on.
pub(super) fn opened(object: Object, inheriting: Rights, reads: bool, writes: bool) -> Entry {
    let mut entry = Entry::new(object);
    if matches!(entry.object, Object::File(_)) {
        if !reads {
            entry.base -= Rights::FD_READ;
        }
        if !writes {
            entry.base -= Rights::NEEDS_WRITE;
        }
        entry.inheriting = entry.base;
    }
    entry.base &= inheriting;
    entry.inheriting &= inheriting;
    entry
}
