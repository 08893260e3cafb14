//! Private directories, atomic writes and files that nobody else could have changed.
//!
//! The on-disk cache maps what it finds as code, so its files must be its user's own: every look-up refuses symbolic links at the last
//! component and checks owner and mode on the open descriptor. What is in the files is the cache's business in the engine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::Resource;

/// What the names of unfinished files start with. One that is older than any write may take is left over from a process that died.
pub const TEMPORARY_PREFIX: &str = ".writing-";

/// An open directory that belongs to this user alone.
#[derive(Debug)]
pub struct PrivateDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Whether a written file must survive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The content may be lost or cut off by a crash of the machine; the reader checks it.
    Checked,
    /// Content and name are on the disk when the write returns.
    Synced,
}

/// Creates the directory and what is missing above it, all with mode 0700, and opens it. It must be a directory, not a symbolic
/// link to one, owned by the effective user and writable by nobody else.
///
/// # Errors
/// `PermissionDenied` with the reason for a directory that others own or may write to, otherwise what the system said
/// (`NotADirectory` for a symbolic link).
pub fn create_private_dir_all(path: &Path) -> io::Result<PrivateDir> {
    use std::os::unix::fs::DirBuilderExt;

    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    PrivateDir::open(path)
}

/// Opens a regular file for reading that is owned by the effective user, writable by nobody else and not a symbolic link.
///
/// # Errors
/// `PermissionDenied` with the reason for a file that others own or may write to, `InvalidInput` for what is not a regular file,
/// otherwise what the system said.
pub fn open_owned(path: &Path) -> io::Result<File> {
    open_owned_at(CWD, path.as_os_str(), path)
}

/// Whether `file` is a regular file that the effective user or root owns, and nobody else may write to. Who had it open for writing before
/// may still do so.
pub fn is_own(file: &File) -> bool {
    rustix::fs::fstat(file).is_ok_and(is_own_stat)
}

fn is_own_stat(mut stat: Stat) -> bool {
    // Root may write to any file.
    if stat.st_uid == 0 {
        stat.st_uid = rustix::process::geteuid().as_raw();
    }
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && check_owner(&stat, Path::new("")).is_ok()
}

/// Writes a file of the directory: under a temporary name first, then renamed, so that readers see all of it or nothing, and of
/// several writers one wins. The file's mode is 0600.
///
/// # Errors
/// `InvalidInput` where `name` is not a plain file name, otherwise what the system said; the temporary file is gone then.
pub fn write_atomically(dir: &PrivateDir, name: &OsStr, bytes: &[u8], durability: Durability) -> io::Result<()> {
    // A process that writes beyond its limit is ended, unless it asked for another end.
    if rustix::process::getrlimit(Resource::Fsize).current.is_some_and(|most| bytes.len() as u64 > most) {
        return Err(Errno::FBIG.into());
    }
    write_with(dir, name, |file| file.write_all(bytes), durability)
}

/// [`write_atomically`], of what `write` puts into the file.
fn write_with(dir: &PrivateDir, name: &OsStr, write: impl FnOnce(&mut File) -> io::Result<()>, durability: Durability) -> io::Result<()> {
    check_name(name)?;
    let (temporary, fd) = create_temporary(dir)?;
    let mut file = File::from(fd);
    let written = write(&mut file).and_then(|()| match durability {
        Durability::Checked => Ok(()),
        Durability::Synced => file.sync_data(),
    });
    let renamed = written.and_then(|()| Ok(rustix::fs::renameat(&dir.fd, &temporary, &dir.fd, name)?));
    if let Err(error) = renamed {
        let _ = rustix::fs::unlinkat(&dir.fd, &temporary, AtFlags::empty());
        return Err(error);
    }
    if durability == Durability::Synced {
        rustix::fs::fsync(&dir.fd)?;
    }
    Ok(())
}

impl PrivateDir {
    /// Opens an existing directory under the conditions of [`create_private_dir_all`].
    ///
    /// # Errors
    /// As [`create_private_dir_all`].
    pub fn open(path: &Path) -> io::Result<Self> {
        // Without trailing slashes and dots, which would follow a symbolic link.
        let path: PathBuf = path.components().collect();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())?;
        check_owner(&rustix::fs::fstat(&fd)?, &path)?;
        Ok(Self { fd, path })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this user may make and remove files in it now.
    pub fn is_writable(&self) -> bool {
        rustix::fs::accessat(&self.fd, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    }

    /// Opens one of its files under the conditions of [`open_owned`].
    ///
    /// # Errors
    /// `InvalidInput` where `name` is not a plain file name, otherwise as [`open_owned`].
    pub fn open_owned(&self, name: &OsStr) -> io::Result<File> {
        check_name(name)?;
        open_owned_at(self.fd.as_fd(), name, &self.path.join(name))
    }

    /// Removes one of its files. One that is not there is fine.
    ///
    /// # Errors
    /// `InvalidInput` where `name` is not a plain file name, otherwise what the system said.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        check_name(name)?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for PrivateDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open_owned_at(dir: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> io::Result<File> {
    // NONBLOCK: opening a pipe would wait for its writer; on regular files it has no effect.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a regular file", shown.display())));
    }
    check_owner(&stat, shown)?;
    Ok(File::from(fd))
}

fn create_temporary(dir: &PrivateDir) -> io::Result<(String, OwnedFd)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The time tells apart processes of one number, in other namespaces or left over from earlier.
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let name = format!("{TEMPORARY_PREFIX}{}-{:x}{:08x}-{number}", std::process::id(), time.tv_sec, time.tv_nsec);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&dir.fd, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => return Ok((name, fd)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Refuses what somebody else owns or may write to.
pub(crate) fn check_owner(stat: &Stat, shown: &Path) -> io::Result<()> {
    let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {why}", shown.display())));
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return denied(format!("is owned by user {}, expected {user}", stat.st_uid));
    }
    if stat.st_mode & 0o022 != 0 {
        return denied(format!("may be written by others (mode {:04o}), expected none", stat.st_mode & 0o7777));
    }
    Ok(())
}

fn check_name(name: &OsStr) -> io::Result<()> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a plain file name"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("peregrine-sys-file-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn content(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_private_directory_is_created_with_its_parents() {
        let scratch = Scratch::new("create");
        let path = scratch.0.join("a/b");
        let dir = create_private_dir_all(&path).unwrap();
        assert_eq!(dir.path(), path);
        for created in [&path, path.parent().unwrap()] {
            assert_eq!(std::fs::metadata(created).unwrap().mode() & 0o777, 0o700);
        }
        create_private_dir_all(&path).unwrap();
    }

    #[test]
    fn a_directory_of_others_is_refused() {
        let scratch = Scratch::new("refused");
        let path = scratch.0.join("open");
        create_private_dir_all(&path).unwrap();
        for mode in [0o720, 0o702, 0o777] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = create_private_dir_all(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{mode:o}");
            assert!(error.to_string().contains(&format!("mode 0{mode:o}")), "{error}");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        create_private_dir_all(&path).unwrap();
        for name in ["link", "link/", "link/."] {
            let _ = symlink(&path, scratch.0.join("link"));
            assert!(create_private_dir_all(&scratch.0.join(name)).is_err(), "{name}");
        }
        std::fs::write(scratch.0.join("plain"), b"").unwrap();
        assert!(create_private_dir_all(&scratch.0.join("plain")).is_err());
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() {
        let scratch = Scratch::new("write");
        let dir = create_private_dir_all(&scratch.0.join("dir")).unwrap();
        let name = OsStr::new("entry");
        write_atomically(&dir, name, b"first", Durability::Synced).unwrap();
        let old = dir.open_owned(name).unwrap();
        write_atomically(&dir, name, b"2", Durability::Checked).unwrap();
        assert_eq!(content(old), b"first", "an open file stays what it was");
        let new = dir.open_owned(name).unwrap();
        assert_eq!(new.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(content(new), b"2");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(write_atomically(&dir, OsStr::new("taken"), b"x", Durability::Checked).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
        dir.remove(name).unwrap();
        dir.remove(name).unwrap();
        assert_eq!(dir.open_owned(name).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_write_that_fails_midway_leaves_what_was_there() {
        let scratch = Scratch::new("midway");
        let dir = create_private_dir_all(&scratch.0.join("dir")).unwrap();
        let name = OsStr::new("entry");
        let fail = |file: &mut File| {
            file.write_all(b"half of")?;
            Err(Errno::NOSPC.into())
        };
        for before in [None, Some(b"before")] {
            if let Some(before) = before {
                write_atomically(&dir, name, before, Durability::Checked).unwrap();
            }
            assert_eq!(write_with(&dir, name, fail, Durability::Checked).unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), usize::from(before.is_some()), "no temporary file is left");
            assert_eq!(dir.open_owned(name).ok().map(content).as_deref(), before.map(|before| before.as_slice()));
        }
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let scratch = Scratch::new("names");
        let dir = create_private_dir_all(&scratch.0.join("dir")).unwrap();
        for name in ["", ".", "..", "a/b", "/a", "../a", "a/", "./a"] {
            let name = OsStr::new(name);
            let kind = io::ErrorKind::InvalidInput;
            assert_eq!(write_atomically(&dir, name, b"", Durability::Checked).unwrap_err().kind(), kind, "{name:?}");
            assert_eq!(dir.open_owned(name).unwrap_err().kind(), kind, "{name:?}");
            assert_eq!(dir.remove(name).unwrap_err().kind(), kind, "{name:?}");
        }
    }

    #[test]
    fn a_file_of_others_or_a_link_is_refused() {
        let scratch = Scratch::new("owned");
        let path = scratch.0.join("file");
        std::fs::write(&path, b"content").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(content(open_owned(&path).unwrap()), b"content");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o664)).unwrap();
        assert_eq!(open_owned(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        symlink(&path, scratch.0.join("link")).unwrap();
        assert!(open_owned(&scratch.0.join("link")).is_err());
        assert_eq!(open_owned(&scratch.0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let stat = rustix::fs::stat(&path).unwrap();
        assert!(check_owner(&stat, &path).is_ok());
        assert!(is_own(&File::open(&path).unwrap()) && !is_own(&File::open(&scratch.0).unwrap()));
        for (uid, mode, expected) in [(0, 0, true), (stat.st_uid, 0o020, false), (stat.st_uid, 0o002, false), (0, 0o002, false)] {
            let mut other = stat;
            (other.st_uid, other.st_mode) = (uid, stat.st_mode | mode);
            assert_eq!(is_own_stat(other), expected, "{uid} {mode:o}");
        }
        let mut foreign = stat;
        foreign.st_uid += 1;
        assert!(!is_own_stat(foreign));
        assert!(check_owner(&foreign, &path).unwrap_err().to_string().contains("is owned by user"));
    }

    #[test]
    fn concurrent_writers_leave_one_whole_file() {
        let scratch = Scratch::new("race");
        let dir = create_private_dir_all(&scratch.0.join("dir")).unwrap();
        std::thread::scope(|scope| {
            for id in 0..4u8 {
                let dir = &dir;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomically(dir, OsStr::new("entry"), &[id; 9000], Durability::Checked).unwrap();
                        let bytes = content(dir.open_owned(OsStr::new("entry")).unwrap());
                        assert!(bytes.len() == 9000 && bytes.iter().all(|byte| *byte == bytes[0]));
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
