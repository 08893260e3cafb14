//! Open directories. Each operation asks the decision table first, then the resolver.

use super::error::Error;
use super::file::{File, FileKind, Metadata, Status, Times};
use super::path::{Follow, RelativePath, system};
use super::perms::{Operation, Perms, decide, decide_move};
use rustix::fd::OwnedFd;
use std::ops::ControlFlow;
use std::path::Path;

/// How an entry is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// For reading; also meant if `write` is not set.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Create a regular file if there is nothing.
    pub create: bool,
    /// With `create`: fail if there is something.
    pub exclusive: bool,
    /// Cut to length zero.
    pub truncate: bool,
    /// Fail unless it is a directory.
    pub directory: bool,
    /// Status flags.
    pub status: Status,
}

/// What was opened.
#[derive(Debug)]
pub enum Opened {
    /// Anything but a directory.
    File(File),
    /// A directory.
    Dir(Dir),
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Where the next entry starts.
    pub next_cookie: u64,
    /// Number of the file; of `..`, that of the directory itself, since its parent may lie outside the grant.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Its name; any bytes but NUL and slash.
    pub name: &'a [u8],
}

/// An open directory and what may be done through it.
#[derive(Debug)]
pub struct Dir {
    handle: system::DirHandle,
    perms: Perms,
    /// Cookie at which the system would read on, if known.
    position: Option<u64>,
}

impl Dir {
    /// Opens the directory of a grant, by the host's own rules.
    ///
    /// # Errors
    /// The reason of the open; `NoSystemCall` if the kernel has no `openat2`.
    pub(crate) fn open_root(host_path: &Path, perms: Perms) -> Result<Dir, Error> {
        Ok(Dir { handle: system::open_root(host_path)?, perms, position: None })
    }

    /// What it allows.
    pub fn perms(&self) -> Perms {
        self.perms
    }

    /// Opens an entry.
    ///
    /// # Errors
    /// `Refused` by the permissions, `Escape` for a path that leads out, `Loop` for a link that is not to be followed.
    pub fn open(&self, path: RelativePath<'_>, follow: Follow, options: &OpenOptions) -> Result<Opened, Error> {
        if options.directory {
            if options.create || options.exclusive || options.truncate {
                return Err(Error::Invalid);
            }
            decide(Operation::OpenDirectory, self.perms)?;
            let options = OpenOptions { read: true, write: false, directory: true, ..OpenOptions::default() };
            return Ok(Opened::Dir(self.below(system::open_entry(&self.handle, path, follow, &options)?)));
        }
        let reads = options.read || !options.write;
        for (wanted, operation) in [
            (reads, Operation::OpenRead),
            (options.write, Operation::OpenWrite),
            (options.create, Operation::Create),
            (options.truncate, Operation::Truncate),
        ] {
            if wanted {
                decide(operation, self.perms)?;
            }
        }
        let fd = system::open_entry(&self.handle, path, follow, options)?;
        let kind = Metadata::from(rustix::fs::fstat(&fd)?).kind;
        if kind == FileKind::Directory {
            decide(Operation::OpenDirectory, self.perms)?;
            return Ok(Opened::Dir(self.below(fd)));
        }
        Ok(Opened::File(File::opened(fd, kind, options.status, self.perms.file)))
    }

    fn below(&self, fd: OwnedFd) -> Dir {
        Dir { handle: fd, perms: self.perms, position: Some(0) }
    }

    /// What the system knows of the directory.
    pub fn metadata(&self) -> Result<Metadata, Error> {
        Ok(rustix::fs::fstat(&self.handle)?.into())
    }

    /// What the system knows of an entry.
    #[inline]
    pub fn stat(&self, path: RelativePath<'_>, follow: Follow) -> Result<Metadata, Error> {
        decide(Operation::Stat, self.perms)?;
        system::stat(&self.handle, path, follow)
    }

    /// Sets the times of the directory.
    pub fn set_times(&self, times: &Times) -> Result<(), Error> {
        decide(Operation::SetDirectoryTimes, self.perms)?;
        Ok(rustix::fs::futimens(&self.handle, &times.into())?)
    }

    /// Sets the times of an entry.
    pub fn set_times_at(&self, path: RelativePath<'_>, follow: Follow, times: &Times) -> Result<(), Error> {
        decide(Operation::SetTimesAt, self.perms)?;
        system::set_times(&self.handle, path, follow, times)
    }

    /// Brings the directory to the disk.
    pub fn sync(&self) -> Result<(), Error> {
        Ok(rustix::fs::fsync(&self.handle)?)
    }

    /// Makes a directory.
    pub fn create_directory(&self, path: RelativePath<'_>) -> Result<(), Error> {
        decide(Operation::CreateDirectory, self.perms)?;
        system::create_directory(&self.handle, path)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, path: RelativePath<'_>) -> Result<(), Error> {
        decide(Operation::RemoveDirectory, self.perms)?;
        system::remove_directory(&self.handle, path)
    }

    /// Removes anything but a directory.
    pub fn unlink_file(&self, path: RelativePath<'_>) -> Result<(), Error> {
        decide(Operation::UnlinkFile, self.perms)?;
        system::unlink_file(&self.handle, path)
    }

    /// Renames an entry into `new_dir`.
    pub fn rename(&self, old: RelativePath<'_>, new_dir: &Dir, new: RelativePath<'_>) -> Result<(), Error> {
        decide_move(self.perms, new_dir.perms)?;
        system::rename(&self.handle, old, &new_dir.handle, new)
    }

    /// Makes a second name for a file, in `new_dir`.
    pub fn link(&self, old: RelativePath<'_>, new_dir: &Dir, new: RelativePath<'_>) -> Result<(), Error> {
        decide_move(self.perms, new_dir.perms)?;
        system::link(&self.handle, old, &new_dir.handle, new)
    }

    /// Makes a symbolic link that holds `target`, which must not be absolute.
    pub fn symlink(&self, target: RelativePath<'_>, path: RelativePath<'_>) -> Result<(), Error> {
        decide(Operation::Symlink, self.perms)?;
        system::symlink(target.as_str(), &self.handle, path)
    }

    /// Reads the target of a symbolic link into `buffer`; the count of bytes.
    pub fn read_link(&self, path: RelativePath<'_>, buffer: &mut [u8]) -> Result<usize, Error> {
        decide(Operation::ReadLink, self.perms)?;
        system::read_link(&self.handle, path, buffer)
    }

    /// Lists the directory from `cookie` on (zero: from the start), until `take` breaks or the end is reached. `.` and `..` are listed.
    /// Needs memory for one buffer of `len_hint_bytes`, within fixed bounds, on the stack.
    pub fn entries(&mut self, cookie: u64, len_hint_bytes: usize, mut take: impl FnMut(Entry<'_>) -> ControlFlow<()>) -> Result<(), Error> {
        decide(Operation::ReadDirectory, self.perms)?;
        if i64::try_from(cookie).is_err() {
            return Err(Error::Invalid);
        }
        system::entries(&self.handle, &mut self.position, cookie, len_hint_bytes, &mut take)
    }
}
