//! The `path_*` functions: operations on names beneath a directory.

use super::WasiP1Ctx;
use super::fd::opened;
use super::fd_table::Object;
use super::memory::GuestMemory;
use super::types::{self, Errno, FdFlags, LOOKUP_SYMLINK_FOLLOW, OFlags, Rights};
use crate::host::dir::{OpenOptions, Opened};
use crate::host::path::{Follow, PATH_MAX_BYTES, RelativePath};

/// How a lookup treats a symbolic link at the end of the path.
///
/// # Errors
/// `Inval` if a bit has no meaning.
#[inline]
fn follow(flags: u32) -> Result<Follow, Errno> {
    match flags {
        0 => Ok(Follow::No),
        LOOKUP_SYMLINK_FOLLOW => Ok(Follow::Yes),
        _ => Err(Errno::Inval),
    }
}

/// A path from the guest's memory.
#[inline]
fn path<'m>(memory: &'m GuestMemory<'_>, ptr: u32, len: u32) -> Result<RelativePath<'m>, Errno> {
    Ok(RelativePath::new(memory.slice(ptr, len)?)?)
}

impl WasiP1Ctx {
    /// Makes a directory.
    pub fn path_create_directory(&mut self, memory: &mut GuestMemory<'_>, fd: u32, path_ptr: u32, path_len: u32) -> Result<(), Errno> {
        let dir = self.fds.dir(fd, Rights::PATH_CREATE_DIRECTORY)?;
        Ok(dir.create_directory(path(memory, path_ptr, path_len)?)?)
    }

    /// Writes what the system knows of a file.
    #[inline]
    pub fn path_filestat_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        flags: u32,
        path_ptr: u32,
        path_len: u32,
        stat: u32,
    ) -> Result<(), Errno> {
        let dir = self.fds.dir(fd, Rights::PATH_FILESTAT_GET)?;
        let metadata = dir.stat(path(memory, path_ptr, path_len)?, follow(flags)?)?;
        memory.store(stat, types::filestat(&metadata))
    }

    /// Sets the times of a file.
    #[allow(clippy::too_many_arguments, reason = "the operands of the specification")]
    pub fn path_filestat_set_times(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        flags: u32,
        path_ptr: u32,
        path_len: u32,
        atim: u64,
        mtim: u64,
        fst_flags: u32,
    ) -> Result<(), Errno> {
        let times = types::times(atim, mtim, fst_flags)?;
        let dir = self.fds.dir(fd, Rights::PATH_FILESTAT_SET_TIMES)?;
        Ok(dir.set_times_at(path(memory, path_ptr, path_len)?, follow(flags)?, &times)?)
    }

    /// Makes a second name for a file. A symbolic link at the end of the old path is never followed: to ask for it is `Inval`.
    #[allow(clippy::too_many_arguments, reason = "the operands of the specification")]
    pub fn path_link(
        &mut self,
        memory: &mut GuestMemory<'_>,
        old_fd: u32,
        old_flags: u32,
        old_path: u32,
        old_path_len: u32,
        new_fd: u32,
        new_path: u32,
        new_path_len: u32,
    ) -> Result<(), Errno> {
        let old_dir = self.fds.dir(old_fd, Rights::PATH_LINK_SOURCE)?;
        let new_dir = self.fds.dir(new_fd, Rights::PATH_LINK_TARGET)?;
        if follow(old_flags)? == Follow::Yes {
            return Err(Errno::Inval);
        }
        let (old, new) = (path(memory, old_path, old_path_len)?, path(memory, new_path, new_path_len)?);
        Ok(old_dir.link(old, new_dir, new)?)
    }

    /// Opens a file or a directory and writes its new descriptor.
    ///
    /// What may be done with it is not narrowed by `fs_rights_*`, except reading and writing: see the rights of a descriptor.
    #[allow(clippy::too_many_arguments, reason = "the operands of the specification")]
    pub fn path_open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        dirflags: u32,
        path_ptr: u32,
        path_len: u32,
        oflags: u32,
        fs_rights_base: u64,
        _fs_rights_inheriting: u64,
        fdflags: u32,
        opened_fd: u32,
    ) -> Result<(), Errno> {
        memory.check(opened_fd, 4)?;
        let entry = self.fds.get(fd)?;
        let dir = self.fds.dir(fd, Rights::PATH_OPEN)?;
        let oflags = u16::try_from(oflags).ok().and_then(OFlags::from_bits).ok_or(Errno::Inval)?;
        let asked = Rights::from_bits_truncate(fs_rights_base);
        let directory = oflags.contains(OFlags::DIRECTORY);
        let write = asked.contains(Rights::FD_WRITE) && !directory;
        let read = asked.intersects(Rights::FD_READ | Rights::FD_READDIR) || !write;
        if oflags.contains(OFlags::CREAT) {
            entry.require(Rights::PATH_CREATE_FILE)?;
        }
        if oflags.contains(OFlags::TRUNC) {
            entry.require(Rights::PATH_FILESTAT_SET_SIZE)?;
        }
        if write && !entry.inheriting.contains(Rights::FD_WRITE) {
            return Err(Errno::Notcapable);
        }
        let options = OpenOptions {
            read,
            write,
            create: oflags.contains(OFlags::CREAT),
            exclusive: oflags.contains(OFlags::EXCL),
            truncate: oflags.contains(OFlags::TRUNC),
            directory,
            status: FdFlags::parse(fdflags)?.into(),
        };
        self.fds.room()?;
        let object = match dir.open(path(memory, path_ptr, path_len)?, follow(dirflags)?, &options)? {
            Opened::File(file) => Object::File(file),
            Opened::Dir(dir) => Object::Dir(dir),
        };
        let new = opened(object, entry.inheriting, read, write);
        let number = self.fds.insert(new)?;
        memory.store_u32(opened_fd, number)
    }

    /// Reads the target of a symbolic link, cut off where the buffer ends.
    #[allow(clippy::too_many_arguments, reason = "the operands of the specification")]
    pub fn path_readlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        path_ptr: u32,
        path_len: u32,
        buf: u32,
        buf_len: u32,
        bufused: u32,
    ) -> Result<(), Errno> {
        let dir = self.fds.dir(fd, Rights::PATH_READLINK)?;
        memory.check(buf, buf_len)?;
        memory.check(bufused, 4)?;
        // The path may lie within the buffer.
        let mut target = [0; PATH_MAX_BYTES];
        let count = dir.read_link(path(memory, path_ptr, path_len)?, &mut target)?.min(buf_len as usize);
        memory.slice_mut(buf, buf_len)?[..count].copy_from_slice(&target[..count]);
        memory.store_size(bufused, count)
    }

    /// Removes an empty directory.
    pub fn path_remove_directory(&mut self, memory: &mut GuestMemory<'_>, fd: u32, path_ptr: u32, path_len: u32) -> Result<(), Errno> {
        let dir = self.fds.dir(fd, Rights::PATH_REMOVE_DIRECTORY)?;
        Ok(dir.remove_directory(path(memory, path_ptr, path_len)?)?)
    }

    /// Renames a file or a directory.
    #[allow(clippy::too_many_arguments, reason = "the operands of the specification")]
    pub fn path_rename(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        old_path: u32,
        old_path_len: u32,
        new_fd: u32,
        new_path: u32,
        new_path_len: u32,
    ) -> Result<(), Errno> {
        let old_dir = self.fds.dir(fd, Rights::PATH_RENAME_SOURCE)?;
        let new_dir = self.fds.dir(new_fd, Rights::PATH_RENAME_TARGET)?;
        let (old, new) = (path(memory, old_path, old_path_len)?, path(memory, new_path, new_path_len)?);
        Ok(old_dir.rename(old, new_dir, new)?)
    }

    /// Makes a symbolic link. Its target must be relative; it may lead anywhere, since it is followed beneath the directory only.
    pub fn path_symlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        old_path: u32,
        old_path_len: u32,
        fd: u32,
        new_path: u32,
        new_path_len: u32,
    ) -> Result<(), Errno> {
        let dir = self.fds.dir(fd, Rights::PATH_SYMLINK)?;
        let (target, new) = (path(memory, old_path, old_path_len)?, path(memory, new_path, new_path_len)?);
        Ok(dir.symlink(target, new)?)
    }

    /// Removes anything but a directory.
    pub fn path_unlink_file(&mut self, memory: &mut GuestMemory<'_>, fd: u32, path_ptr: u32, path_len: u32) -> Result<(), Errno> {
        let dir = self.fds.dir(fd, Rights::PATH_UNLINK_FILE)?;
        Ok(dir.unlink_file(path(memory, path_ptr, path_len)?)?)
    }
}
