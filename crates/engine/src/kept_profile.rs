//! What the cache keeps of what a module did: a profile beside the image of its functions, for the optimizing tier of the next process.
//!
//! A small file of its own, under the name of the image with another ending, replaced as a whole. It is read when the first function is to be
//! optimized, and written with the image, by processes that ran long enough for something to be optimized. What cannot be read or is of
//! no use is passed over. Called by [`crate::kept`] and [`crate::tiering`].

use crate::cache::{Cache, CacheKey};
use peregrine_artifact::profile::Profile;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

/// No profile that is read is longer, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// The profile is written again when it would have this part more functions.
const WORTH_WRITING: usize = 8;

/// The profile of one module in the cache.
pub(crate) struct KeptProfile {
    cache: Cache,
    key: CacheKey,
    /// How many functions were in it when it was read or written last.
    written: AtomicUsize,
}

impl KeptProfile {
    /// The profile beside the entry of `key`.
    pub(crate) fn new(cache: &Cache, key: &CacheKey) -> Self {
        Self { cache: cache.clone(), key: key.of_profile(), written: AtomicUsize::new(0) }
    }

    /// What earlier processes did, if there is anything of use for a module that defines so many functions.
    pub(crate) fn read(&self, defined_functions: usize) -> Option<Profile> {
        let mut bytes = Vec::new();
        self.cache.open(&self.key)?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        match Profile::from_bytes(&bytes) {
            Ok(profile) if profile.fits(defined_functions) => {
                self.written.store(profile.functions().len(), Ordering::Relaxed);
                Some(profile)
            }
            _ => {
                tracing::debug!("the profile that was kept of a module is of no use");
                self.cache.remove(&self.key);
                None
            }
        }
    }

    /// Whether a profile of so many functions is worth being written.
    pub(crate) fn is_worth_writing(&self, functions: usize) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        functions > written + written / WORTH_WRITING
    }

    /// Writes what this process and earlier ones did. A failure is logged.
    pub(crate) fn write(&self, profile: &Profile) {
        self.written.store(profile.functions().len(), Ordering::Relaxed);
        if let Err(error) = self.cache.put(&self.key, &profile.to_bytes()) {
            tracing::warn!("a profile cannot be kept: {error:#}");
        }
    }
}
