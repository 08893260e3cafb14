//! Resolution on Linux: `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS` is the only way a path of more than one name is looked
//! up, so the kernel holds every step (`..`, symbolic links, races with renames) below the directory. What acts on a name (create, remove,
//! rename, link) opens the parent that way and then works on the last name alone, which the kernel's `*at` calls never follow.

use super::{Follow, Last, RelativePath};
use crate::host::dir::{Entry, OpenOptions};
use crate::host::error::Error;
use crate::host::file::{FileKind, Metadata, Times};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;

/// How often a lookup that raced with a rename is tried again.
const RACE_TRIES: u32 = 1000;

/// Smallest and largest buffer for listing, in bytes: the longest entry of the system fits in the smallest.
const ENTRIES_MIN_BYTES: usize = 1024;
const ENTRIES_MAX_BYTES: usize = 32 * 1024;

/// A directory, as this system holds it.
pub(crate) type DirHandle = OwnedFd;

/// Opens the directory that a grant names, by the host's own rules. This also proves that the kernel has `openat2`.
///
/// # Errors
/// `NoSystemCall` on kernels before 5.6 (or where a filter forbids the call), else the reason of the open.
pub(crate) fn open_root(host_path: &std::path::Path) -> Result<DirHandle, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(CWD, host_path, flags, Mode::empty(), ResolveFlags::empty())?)
}

/// Opens `path` beneath `dir`. `mode` counts only where `flags` create.
fn open(dir: &DirHandle, path: &str, follow: Follow, mut flags: OFlags, mode: Mode) -> Result<OwnedFd, Error> {
    flags |= OFlags::CLOEXEC;
    if follow == Follow::No {
        flags |= OFlags::NOFOLLOW;
    }
    let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RACE_TRIES {
        match rustix::fs::openat2(dir, path, flags, mode, beneath) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::XDEV) => return Err(Error::Escape),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Error::Again)
}

/// Opens what `path` names, as `options` ask.
pub(crate) fn open_entry(dir: &DirHandle, path: RelativePath<'_>, follow: Follow, options: &OpenOptions) -> Result<OwnedFd, Error> {
    let mut flags = match (options.read, options.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    } | OFlags::NOCTTY;
    for (wanted, flag) in [
        (options.directory, OFlags::DIRECTORY),
        (options.create, OFlags::CREATE),
        (options.exclusive, OFlags::EXCL),
        (options.truncate, OFlags::TRUNC),
        (options.status.append, OFlags::APPEND),
        (options.status.nonblock, OFlags::NONBLOCK),
        (options.status.dsync, OFlags::DSYNC),
        (options.status.sync || options.status.rsync, OFlags::SYNC),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    open(dir, path.as_str(), follow, flags, Mode::from_raw_mode(0o666))
}

/// Opens what `path` names as a mere place, to be described or stamped.
fn open_place(dir: &DirHandle, path: RelativePath<'_>, follow: Follow) -> Result<OwnedFd, Error> {
    open(dir, path.as_str(), follow, OFlags::PATH, Mode::empty())
}

/// The directory that holds the last name of a path.
enum Parent<'a> {
    Given(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Parent::Given(fd) => *fd,
            Parent::Opened(fd) => fd.as_fd(),
        }
    }
}

/// Resolves all but the last component. `on_dots` is the error for a path that ends in `.` or `..` and stays beneath the directory: no
/// operation that needs a name can act on one.
fn parent<'a, 'p>(dir: &'a DirHandle, path: RelativePath<'p>, on_dots: Error) -> Result<(Parent<'a>, &'p str), Error> {
    let (before, last) = path.split();
    let Last::Name(name) = last else {
        open(dir, path.as_str(), Follow::Yes, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        return Err(on_dots);
    };
    let parent = match before {
        None => Parent::Given(dir.as_fd()),
        Some(before) => Parent::Opened(open(dir, before, Follow::Yes, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?),
    };
    Ok((parent, name))
}

/// Describes what `path` names: one system call for one name that is no link to be followed, else three.
#[inline]
pub(crate) fn stat(dir: &DirHandle, path: RelativePath<'_>, follow: Follow) -> Result<Metadata, Error> {
    if path.is_one_name() {
        let stat = rustix::fs::statat(dir, path.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        if follow == Follow::No || FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(stat.into());
        }
    }
    Ok(rustix::fs::fstat(open_place(dir, path, follow)?)?.into())
}

/// Sets the times of what `path` names.
pub(crate) fn set_times(dir: &DirHandle, path: RelativePath<'_>, follow: Follow, times: &Times) -> Result<(), Error> {
    if follow == Follow::No && path.is_one_name() {
        return Ok(rustix::fs::utimensat(dir, path.as_str(), &times.into(), AtFlags::SYMLINK_NOFOLLOW)?);
    }
    let place = open_place(dir, path, follow)?;
    Ok(rustix::fs::utimensat(place, c"", &times.into(), AtFlags::EMPTY_PATH)?)
}

/// Makes a directory.
pub(crate) fn create_directory(dir: &DirHandle, path: RelativePath<'_>) -> Result<(), Error> {
    let (parent, name) = parent(dir, path, Error::Exists)?;
    Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777))?)
}

/// Removes an empty directory.
pub(crate) fn remove_directory(dir: &DirHandle, path: RelativePath<'_>) -> Result<(), Error> {
    let (parent, name) = parent(dir, path, Error::Invalid)?;
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Removes anything but a directory.
pub(crate) fn unlink_file(dir: &DirHandle, path: RelativePath<'_>) -> Result<(), Error> {
    let (parent, name) = parent(dir, path, Error::IsDirectory)?;
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?)
}

/// Renames, replacing what is there.
pub(crate) fn rename(old_dir: &DirHandle, old: RelativePath<'_>, new_dir: &DirHandle, new: RelativePath<'_>) -> Result<(), Error> {
    let (old_parent, old_name) = parent(old_dir, old, Error::Busy)?;
    let (new_parent, new_name) = parent(new_dir, new, Error::Busy)?;
    Ok(rustix::fs::renameat(old_parent, old_name, new_parent, new_name)?)
}

/// Makes a second name for a file. A symbolic link at the end of `old` is linked itself.
pub(crate) fn link(old_dir: &DirHandle, old: RelativePath<'_>, new_dir: &DirHandle, new: RelativePath<'_>) -> Result<(), Error> {
    // With a trailing slash the kernel would follow a link: what it names is looked up beneath the directory and can only be a directory.
    if old.has_trailing_slash() {
        open_place(old_dir, old, Follow::No)?;
        return Err(Error::NotPermitted);
    }
    let (old_parent, old_name) = parent(old_dir, old, Error::NotPermitted)?;
    let (new_parent, new_name) = parent(new_dir, new, Error::Exists)?;
    Ok(rustix::fs::linkat(old_parent, old_name, new_parent, new_name, AtFlags::empty())?)
}

/// Makes a symbolic link that holds `target`.
pub(crate) fn symlink(target: &str, dir: &DirHandle, path: RelativePath<'_>) -> Result<(), Error> {
    let (parent, name) = parent(dir, path, Error::Exists)?;
    Ok(rustix::fs::symlinkat(target, parent, name)?)
}

/// Reads the target of a symbolic link into `buffer`; the count of bytes, cut off at the buffer's end.
pub(crate) fn read_link(dir: &DirHandle, path: RelativePath<'_>, buffer: &mut [u8]) -> Result<usize, Error> {
    // A path that ends in a slash or in dots names a directory, if anything.
    if path.has_trailing_slash() {
        open_place(dir, path, Follow::No)?;
        return Err(Error::Invalid);
    }
    let (parent, name) = parent(dir, path, Error::Invalid)?;
    Ok(rustix::fs::readlinkat_raw(parent, name, buffer)?)
}

/// Lists a directory for [`crate::host::dir::Dir::entries`]. `position` is where the system would read on, if known.
pub(crate) fn entries(
    dir: &DirHandle,
    position: &mut Option<u64>,
    cookie: u64,
    len_hint_bytes: usize,
    take: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    // From the start, the directory is read anew even if the system stands there: it may hold what it saw before.
    if cookie == 0 || *position != Some(cookie) {
        *position = None;
        rustix::fs::seek(dir, SeekFrom::Start(cookie))?;
    }
    let mut buffer = [MaybeUninit::<u8>::uninit(); ENTRIES_MAX_BYTES];
    let len = len_hint_bytes.clamp(ENTRIES_MIN_BYTES, ENTRIES_MAX_BYTES);
    let mut raw = rustix::fs::RawDir::new(dir.as_fd(), &mut buffer[..len]);
    *position = None;
    let mut reached = cookie;
    while let Some(entry) = raw.next() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(entry) => entry,
        };
        let name = entry.file_name();
        let mut kind = FileKind::from(entry.file_type());
        if entry.file_type() == FileType::Unknown {
            let described = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            kind = described.map_or(FileKind::Unknown, |stat| Metadata::from(stat).kind);
        }
        let inode = if name == c".." { rustix::fs::fstat(dir)?.st_ino } else { entry.ino() };
        let next_cookie = entry.next_entry_cookie();
        if take(Entry { next_cookie, inode, kind, name: name.to_bytes() }).is_break() {
            return Ok(());
        }
        reached = next_cookie;
    }
    *position = Some(reached);
    Ok(())
}
