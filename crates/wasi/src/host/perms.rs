//! What a grant allows, and the one decision over all operations on files and directories.
//!
//! Every operation of every version of WASI asks [`decide`] (one directory or file) or [`decide_move`] (two directories) before it acts.
//! The permissions of a directory pass on to everything that is opened through it.

use super::error::Error;

bitflags::bitflags! {
    /// What may be done with a directory and its entries.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DirPerms: u8 {
        /// Look up, list and describe entries.
        const READ = 1;
        /// Create, remove, rename and link entries, and change their times.
        const MUTATE = 2;
    }
}

bitflags::bitflags! {
    /// What may be done with the files below a directory.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FilePerms: u8 {
        /// Read contents.
        const READ = 1;
        /// Change contents, size and times.
        const WRITE = 2;
    }
}

/// Permissions of a directory and of the files below it: what one grant carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perms {
    /// For directories and their entries.
    pub dir: DirPerms,
    /// For the contents of files.
    pub file: FilePerms,
}

impl Perms {
    /// Everything.
    pub const ALL: Perms = Perms { dir: DirPerms::all(), file: FilePerms::all() };
}

/// Operations that a grant can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Open a directory.
    OpenDirectory,
    /// Open a file for reading.
    OpenRead,
    /// Open a file for writing.
    OpenWrite,
    /// Open with leave to create the file.
    Create,
    /// Open and cut to length zero, whatever the access mode.
    Truncate,
    /// List a directory.
    ReadDirectory,
    /// Describe an entry by name.
    Stat,
    /// Read the target of a symbolic link.
    ReadLink,
    /// Make a directory.
    CreateDirectory,
    /// Make a symbolic link.
    Symlink,
    /// Remove a file or a symbolic link.
    UnlinkFile,
    /// Remove an empty directory.
    RemoveDirectory,
    /// Change the times of an entry by name.
    SetTimesAt,
    /// Change the times of an open directory.
    SetDirectoryTimes,
    /// Change the times of an open file.
    SetFileTimes,
    /// Change the size of an open file.
    SetSize,
    /// Reserve space for an open file.
    Allocate,
}

/// The decision table: what each operation needs.
const fn needs(operation: Operation) -> Perms {
    const NO_DIR: DirPerms = DirPerms::empty();
    const NO_FILE: FilePerms = FilePerms::empty();
    let (dir, file) = match operation {
        Operation::OpenDirectory => (DirPerms::READ, NO_FILE),
        Operation::OpenRead => (DirPerms::READ, FilePerms::READ),
        Operation::OpenWrite => (DirPerms::READ, FilePerms::WRITE),
        Operation::Create => (DirPerms::MUTATE, NO_FILE),
        Operation::Truncate => (DirPerms::MUTATE, FilePerms::WRITE),
        Operation::ReadDirectory => (DirPerms::READ, NO_FILE),
        Operation::Stat => (DirPerms::READ, NO_FILE),
        Operation::ReadLink => (DirPerms::READ, NO_FILE),
        Operation::CreateDirectory => (DirPerms::MUTATE, NO_FILE),
        Operation::Symlink => (DirPerms::MUTATE, NO_FILE),
        Operation::UnlinkFile => (DirPerms::MUTATE, NO_FILE),
        Operation::RemoveDirectory => (DirPerms::MUTATE, NO_FILE),
        Operation::SetTimesAt => (DirPerms::MUTATE, FilePerms::WRITE),
        Operation::SetDirectoryTimes => (DirPerms::MUTATE, NO_FILE),
        Operation::SetFileTimes => (NO_DIR, FilePerms::WRITE),
        Operation::SetSize => (NO_DIR, FilePerms::WRITE),
        Operation::Allocate => (NO_DIR, FilePerms::WRITE),
    };
    Perms { dir, file }
}

/// Whether `perms` allow `operation`.
///
/// # Errors
/// [`Error::Refused`] if a permission is missing.
#[inline]
pub fn decide(operation: Operation, perms: Perms) -> Result<(), Error> {
    let needs = needs(operation);
    if perms.dir.contains(needs.dir) && perms.file.contains(needs.file) { Ok(()) } else { Err(Error::Refused) }
}

/// Whether an entry may be linked or renamed from a directory with `source` into one with `target`.
///
/// Both must be mutable, and the target may grant nothing that the source does not: else a file that may only be read here could be
/// written there.
///
/// # Errors
/// [`Error::Refused`] otherwise.
pub fn decide_move(source: Perms, target: Perms) -> Result<(), Error> {
    let mutable = source.dir.contains(DirPerms::MUTATE) && target.dir.contains(DirPerms::MUTATE);
    if mutable && source.dir.contains(target.dir) && source.file.contains(target.file) { Ok(()) } else { Err(Error::Refused) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_grant_refuses_every_change() {
        let read = Perms { dir: DirPerms::READ, file: FilePerms::READ };
        let allowed = [Operation::OpenDirectory, Operation::OpenRead, Operation::ReadDirectory, Operation::Stat, Operation::ReadLink];
        let refused = [
            Operation::OpenWrite,
            Operation::Create,
            Operation::Truncate,
            Operation::CreateDirectory,
            Operation::Symlink,
            Operation::UnlinkFile,
            Operation::RemoveDirectory,
            Operation::SetTimesAt,
            Operation::SetDirectoryTimes,
            Operation::SetFileTimes,
            Operation::SetSize,
            Operation::Allocate,
        ];
        for operation in allowed {
            assert_eq!(decide(operation, read), Ok(()), "{operation:?}");
        }
        for operation in refused {
            assert_eq!(decide(operation, read), Err(Error::Refused), "{operation:?}");
            assert_eq!(decide(operation, Perms::ALL), Ok(()), "{operation:?}");
        }
    }

    #[test]
    fn a_move_never_widens_what_may_be_done_with_a_file() {
        let every_dir = [DirPerms::empty(), DirPerms::READ, DirPerms::MUTATE, DirPerms::all()];
        let every_file = [FilePerms::empty(), FilePerms::READ, FilePerms::WRITE, FilePerms::all()];
        for source in every_dir.iter().flat_map(|&dir| every_file.iter().map(move |&file| Perms { dir, file })) {
            for target in every_dir.iter().flat_map(|&dir| every_file.iter().map(move |&file| Perms { dir, file })) {
                if decide_move(source, target).is_ok() {
                    assert!(source.file.contains(target.file) && source.dir.contains(target.dir));
                    assert!(source.dir.contains(DirPerms::MUTATE) && target.dir.contains(DirPerms::MUTATE));
                }
            }
        }
    }
}
