//! Remembers what was found out about files by reading them as a whole, so that they are not read at every start: which images are
//! undamaged, and the hash of the content of modules.
//!
//! A stamp in the cache's directory names a file by device, inode, size, and the times of its last change of content and of status. Whoever
//! changes the content changes the status time, which programs cannot set; so a file whose identity is that of a stamp holds what was
//! read, unless somebody writes through a mapping of it, which changes the time only now and then. As the clock has a grain, a file that
//! changed a moment before it was looked at is not stamped, nor is one on a file system that is not known to keep a status time: some have
//! the time of creation or that of the content there, and files on a network change behind what this machine remembers of them. A stamp is
//! good until the machine is started again: content that never reached the disk is not taken for what was in memory. All this guards
//! against accidents, as checksums do.

use crate::cache::ContentHash;
use peregrine_sys::file::{Durability, PrivateDir, write_atomically};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the names of stamps of undamaged images end with.
const CHECKED: &str = ".checked";
/// What the names of stamps end with that know a hash.
const CONTENT: &str = ".content";
/// A file that changed more recently than this is not stamped: two changes could have the same time.
const GRAIN: Duration = Duration::from_millis(100);
/// The same where times are whole seconds.
const COARSE_GRAIN: Duration = Duration::from_secs(2);
/// File systems whose status time is that of the last change and nobody's to set: ext2 to ext4, XFS, Btrfs, tmpfs, ramfs, F2FS, bcachefs, ZFS, JFS,
/// ReiserFS, and overlays, which are on top of those.
const WITH_CHANGE_TIME: [u64; 11] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x3153_464a,
    0x5265_4973,
    0x794c_7630,
];
/// No stamp is longer.
const MAX_BYTES: u64 = 512;

/// What tells one state of one file from all others. To be taken before the file is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    words: [u64; 7],
    /// Whether the last change was so long ago that another one would show.
    is_settled: bool,
}

impl Identity {
    /// The state of `file` now; `None` if it is not a regular file.
    pub(crate) fn of(file: &File) -> Option<Self> {
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()].map(|time| time as u64);
        let words = [metadata.dev(), metadata.ino(), metadata.len(), times[0], times[1], times[2], times[3]];
        let grain = if words[6] == 0 { COARSE_GRAIN } else { GRAIN };
        let changed = UNIX_EPOCH + Duration::new(words[5], words[6] as u32);
        let is_old = SystemTime::now().duration_since(changed).is_ok_and(|age| age > grain);
        let is_settled = is_old && rustix::fs::fstatfs(file).is_ok_and(|system| has_change_time(system.f_type as u64));
        Some(Self { words, is_settled })
    }

    /// Whether both are the same state of one file.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.words == other.words
    }

    /// Whether any change from now on would show.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Length of the file in bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.words[2]
    }

    /// The same state of a file that was written under another name and has this one since: nobody else could change it.
    pub(crate) fn of_own(file: &File) -> Option<Self> {
        Self::of(file).map(|identity| Self { is_settled: true, ..identity })
    }

    /// The state of `file` after this process set the time of its content to `time`, if nothing else is known to have changed since this
    /// state: a write after that left its own time. As that time is no tick of the clock that writes go by, a write from now on shows. A
    /// write in place between the look at this state and the setting does not: the caller looks right before that.
    pub(crate) fn renewed(&self, file: &File, time: SystemTime) -> Option<Self> {
        let now = Self::of_own(file)?;
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        let is_ours = now.words[3..5] == [since.as_secs(), since.subsec_nanos().into()];
        (is_ours && now.words[..3] == self.words[..3]).then_some(now)
    }

    fn stamp_name(&self, suffix: &str) -> OsString {
        format!("{:x}-{:x}{suffix}", self.words[0], self.words[1]).into()
    }

    /// What a stamp of this state begins with. `None`: nothing tells since when the machine runs.
    fn to_bytes(self) -> Option<Vec<u8>> {
        Some(self.words.iter().flat_map(|word| word.to_le_bytes()).chain(boot_id()?.iter().copied()).collect())
    }
}

/// Whether a change of a file on a file system with this number shows in its status time.
fn has_change_time(file_system: u64) -> bool {
    // The number has 32 bits; some ask for it as a signed one.
    WITH_CHANGE_TIME.contains(&(file_system & 0xffff_ffff))
}

/// Whether a file of this name is a stamp.
pub(crate) fn is_stamp(name: &str) -> bool {
    name.ends_with(CHECKED) || name.ends_with(CONTENT)
}

/// Whether the image in the state `identity` was found undamaged before.
pub(crate) fn is_verified(dir: &PrivateDir, identity: &Identity) -> bool {
    find(dir, identity, CHECKED).is_some_and(|payload| payload.is_empty())
}

/// Remembers that the image in the state `identity`, read since then, is undamaged.
pub(crate) fn remember_verified(dir: &PrivateDir, identity: &Identity) {
    remember(dir, identity, CHECKED, &[]);
}

/// The hash of the content of the file in the state `identity`, if it is known.
pub(crate) fn content(dir: &PrivateDir, identity: &Identity) -> Option<ContentHash> {
    find(dir, identity, CONTENT)?.try_into().ok().map(ContentHash)
}

/// Remembers the hash of the file in the state `identity`, read since then.
pub(crate) fn remember_content(dir: &PrivateDir, identity: &Identity, content: &ContentHash) {
    remember(dir, identity, CONTENT, &content.0);
}

/// What the stamp of a state says, if there is one.
fn find(dir: &PrivateDir, identity: &Identity, suffix: &str) -> Option<Vec<u8>> {
    let mut stamp = Vec::new();
    dir.open_owned(&identity.stamp_name(suffix)).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut stamp)).ok()?;
    let (said, sum) = stamp.split_last_chunk()?;
    let payload = said.strip_prefix(identity.to_bytes()?.as_slice())?;
    (*sum == peregrine_artifact::image::checksum(said)).then(|| payload.to_vec())
}

/// Writes a stamp. That it cannot be written is no error.
fn remember(dir: &PrivateDir, identity: &Identity, suffix: &str, payload: &[u8]) {
    let Some(mut stamp) = identity.to_bytes().filter(|_| identity.is_settled) else { return };
    stamp.extend_from_slice(payload);
    stamp.extend(peregrine_artifact::image::checksum(&stamp));
    let _ = write_atomically(dir, &identity.stamp_name(suffix), &stamp, Durability::Checked);
}

/// What tells the time since the machine was started from other such times.
fn boot_id() -> Option<&'static [u8]> {
    static BOOT: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    BOOT.get_or_init(|| std::fs::read("/proc/sys/kernel/random/boot_id").ok()).as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_stamped_where_changes_show() {
        let (ext4, vfat, fuse, nfs) = (0xef53, 0x4d44, 0x6573_5546, 0x6969);
        assert!(has_change_time(ext4) && [vfat, fuse, nfs].into_iter().all(|system| !has_change_time(system)));
        assert!(has_change_time(0x9123_683e_u32 as i32 as i64 as u64));
        // What is there for long, on a file system without such times: the kernel's own.
        let file = File::open("/proc/version").expect("it is there");
        assert!(Identity::of(&file).is_none_or(|identity| !identity.is_settled()));
    }
}
