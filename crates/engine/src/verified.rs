//! Remembers which image files were found undamaged, so that a large image is not read as a whole at every start.
//!
//! A stamp in the cache's directory names a file by device, inode, size, and the times of its last change of content and of status. Whoever
//! changes the content changes the status time, which programs cannot set; so a file whose identity is that of a stamp holds what was
//! checked. As the clock has a grain, a file that changed a moment before is not stamped. This guards against accidents, as the checksum
//! itself does.

use peregrine_sys::file::{Durability, PrivateDir, write_atomically};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the names of stamps end with.
pub(crate) const SUFFIX: &str = ".checked";
/// A file that changed more recently than this is not stamped: two changes could have the same time.
const GRAIN: Duration = Duration::from_millis(100);
/// The same where times are whole seconds.
const COARSE_GRAIN: Duration = Duration::from_secs(2);

/// What tells one state of one file from all others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity([u64; 7]);

impl Identity {
    /// The state of `file` now.
    pub(crate) fn of(file: &File) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()].map(|time| time as u64);
        Some(Self([metadata.dev(), metadata.ino(), metadata.len(), times[0], times[1], times[2], times[3]]))
    }

    /// Whether the last change is so long ago that another one would show.
    fn is_settled(&self) -> bool {
        let grain = if self.0[6] == 0 { COARSE_GRAIN } else { GRAIN };
        let changed = UNIX_EPOCH + Duration::new(self.0[5], self.0[6] as u32);
        SystemTime::now().duration_since(changed).is_ok_and(|age| age > grain)
    }

    fn stamp_name(&self) -> OsString {
        format!("{:x}-{:x}{SUFFIX}", self.0[0], self.0[1]).into()
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(peregrine_artifact::image::checksum(&bytes));
        bytes
    }
}

/// Whether the file in the state `identity` was found undamaged before.
pub(crate) fn is_verified(dir: &PrivateDir, identity: &Identity) -> bool {
    let mut stamp = Vec::new();
    let read = dir.open_owned(&identity.stamp_name()).and_then(|file| file.take(256).read_to_end(&mut stamp));
    read.is_ok() && stamp == identity.to_bytes()
}

/// Remembers that the file in the state `identity`, read since then, is undamaged. That it cannot be remembered is no error.
pub(crate) fn remember(dir: &PrivateDir, identity: &Identity) {
    if identity.is_settled() {
        let _ = write_atomically(dir, &identity.stamp_name(), &identity.to_bytes(), Durability::Checked);
    }
}
