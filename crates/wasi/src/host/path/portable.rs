//! Resolution where there is no `openat2`: cap-std walks the path one component at a time beneath the directory. The functions are those
//! of the Linux file.

use super::{Follow, RelativePath};
use crate::host::dir::{Entry, OpenOptions};
use crate::host::error::Error;
use crate::host::file::{Metadata, SetTime, Times};
use cap_std::fs::{Dir, OpenOptionsExt};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, OFlags};
use std::ops::ControlFlow;

/// A directory, as this system holds it.
pub(crate) type DirHandle = Dir;

/// Opens the directory that a grant names, by the host's own rules.
pub(crate) fn open_root(host_path: &std::path::Path) -> Result<DirHandle, Error> {
    Ok(Dir::open_ambient_dir(host_path, cap_std::ambient_authority())?)
}

/// Opens what `path` names, as `options` ask.
pub(crate) fn open_entry(dir: &DirHandle, path: RelativePath<'_>, follow: Follow, options: &OpenOptions) -> Result<OwnedFd, Error> {
    if options.directory {
        if follow == Follow::No && dir.symlink_metadata(path.as_str())?.is_symlink() {
            return Err(Error::Loop);
        }
        return Ok(dir.open_dir(path.as_str())?.into_std_file().into());
    }
    let mut flags = OFlags::NOCTTY;
    for (wanted, flag) in [
        (follow == Follow::No, OFlags::NOFOLLOW),
        (options.status.append, OFlags::APPEND),
        (options.status.nonblock, OFlags::NONBLOCK),
        (options.status.dsync, OFlags::DSYNC),
        (options.status.sync || options.status.rsync, OFlags::SYNC),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    let mut open = cap_std::fs::OpenOptions::new();
    open.read(options.read || !options.write)
        .write(options.write)
        .create(options.create && !options.exclusive)
        .create_new(options.create && options.exclusive)
        .truncate(options.truncate)
        .custom_flags(flags.bits() as i32);
    Ok(dir.open_with(path.as_str(), &open)?.into_std().into())
}

/// Describes what `path` names.
pub(crate) fn stat(dir: &DirHandle, path: RelativePath<'_>, follow: Follow) -> Result<Metadata, Error> {
    if path.is_one_name() {
        let metadata: Metadata = rustix::fs::statat(dir, path.as_str(), AtFlags::SYMLINK_NOFOLLOW)?.into();
        if follow == Follow::No || metadata.kind != crate::host::file::FileKind::SymbolicLink {
            return Ok(metadata);
        }
    }
    let place = open_entry(dir, path, follow, &OpenOptions { read: true, ..OpenOptions::default() })?;
    Ok(rustix::fs::fstat(place)?.into())
}

/// Sets the times of what `path` names.
pub(crate) fn set_times(dir: &DirHandle, path: RelativePath<'_>, follow: Follow, times: &Times) -> Result<(), Error> {
    if times.access == SetTime::Keep && times.modify == SetTime::Keep {
        return Ok(());
    }
    if follow == Follow::No && path.is_one_name() {
        return Ok(rustix::fs::utimensat(dir, path.as_str(), &times.into(), AtFlags::SYMLINK_NOFOLLOW)?);
    }
    let place = open_entry(dir, path, follow, &OpenOptions { read: true, ..OpenOptions::default() })?;
    Ok(rustix::fs::futimens(place, &times.into())?)
}

/// Makes a directory.
pub(crate) fn create_directory(dir: &DirHandle, path: RelativePath<'_>) -> Result<(), Error> {
    Ok(dir.create_dir(path.as_str())?)
}

/// Removes an empty directory.
pub(crate) fn remove_directory(dir: &DirHandle, path: RelativePath<'_>) -> Result<(), Error> {
    Ok(dir.remove_dir(path.as_str())?)
}

/// Removes anything but a directory.
pub(crate) fn unlink_file(dir: &DirHandle, path: RelativePath<'_>) -> Result<(), Error> {
    Ok(dir.remove_file(path.as_str())?)
}

/// Renames, replacing what is there.
pub(crate) fn rename(old_dir: &DirHandle, old: RelativePath<'_>, new_dir: &DirHandle, new: RelativePath<'_>) -> Result<(), Error> {
    Ok(old_dir.rename(old.as_str(), new_dir, new.as_str())?)
}

/// Makes a second name for a file.
pub(crate) fn link(old_dir: &DirHandle, old: RelativePath<'_>, new_dir: &DirHandle, new: RelativePath<'_>) -> Result<(), Error> {
    if old.has_trailing_slash() {
        return Err(Error::NotPermitted);
    }
    Ok(old_dir.hard_link(old.as_str(), new_dir, new.as_str())?)
}

/// Makes a symbolic link that holds `target`.
pub(crate) fn symlink(target: &str, dir: &DirHandle, path: RelativePath<'_>) -> Result<(), Error> {
    Ok(dir.symlink(target, path.as_str())?)
}

/// Reads the target of a symbolic link into `buffer`; the count of bytes, cut off at the buffer's end.
pub(crate) fn read_link(dir: &DirHandle, path: RelativePath<'_>, buffer: &mut [u8]) -> Result<usize, Error> {
    let target = dir.read_link_contents(path.as_str())?;
    let bytes = target.as_os_str().as_encoded_bytes();
    let count = bytes.len().min(buffer.len());
    buffer[..count].copy_from_slice(&bytes[..count]);
    Ok(count)
}

/// Lists a directory for [`crate::host::dir::Dir::entries`]. A cookie is the count of entries before it.
pub(crate) fn entries(
    dir: &DirHandle,
    _position: &mut Option<u64>,
    cookie: u64,
    _len_hint_bytes: usize,
    take: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let own = rustix::fs::fstat(dir)?.st_ino as u64;
    for (at, entry) in (1_u64..).zip(rustix::fs::Dir::read_from(dir)?) {
        let entry = entry?;
        if at <= cookie {
            continue;
        }
        let name = entry.file_name();
        let inode = if name == c".." { own } else { entry.ino() };
        if take(Entry { next_cookie: at, inode, kind: entry.file_type().into(), name: name.to_bytes() }).is_break() {
            break;
        }
    }
    Ok(())
}
