//! Modules from files: read, or recognized without being read.
//!
//! With a [cache](crate::Config::cache), a large file that did not change since it was last read is recognized by what the system says of it,
//! and the module comes out of the cache. Whatever stands against it, the file is read as any other.

use crate::binary::Binary;
use crate::error::{Context, Result};
use crate::tiering::TieringStress;
use crate::verified::Identity;
use crate::{Budget, Engine, Module};
use peregrine_artifact::compiler::Progress;
use peregrine_sys::pages;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Files below this many bytes are read and hashed as fast as they are recognized, and no descriptor is kept.
const LARGE_BYTES: u64 = 256 << 10;

impl Module {
    /// As [`new`](Self::new), for the content of a file.
    ///
    /// With a [cache](crate::Config::cache), a large file that did not change since its content was last read is not read again. Then its
    /// functions that the cache has no code of are compiled from the file when they are first called; who changes a file in place, instead
    /// of replacing it, while the module lives, makes such calls fail.
    ///
    /// # Errors
    ///
    /// As there, and if the file cannot be read.
    pub fn from_file(engine: &Engine, file: impl AsRef<Path>) -> Result<Self> {
        let path = file.as_ref();
        let file = File::open(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        Self::from_open_file_with_progress(engine, file, &()).with_context(|| format!("failed to load `{}`", path.display()))
    }

    /// As [`from_file`](Self::from_file), for a file that is open, from its beginning where it can be read from there, telling `progress` how
    /// it goes on.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_open_file_with_progress(engine: &Engine, file: File, progress: &dyn Progress) -> Result<Self> {
        // Before it is read: a change meanwhile shows.
        let identity = Identity::of(&file).filter(|identity| identity.len_bytes() >= LARGE_BYTES);
        if let Some(module) = identity.and_then(|identity| Self::recognized(engine, &file, &identity)) {
            return Ok(module);
        }
        let bytes = read_within(&engine.config().budget, file)?;
        Self::from_content(engine, bytes, identity, progress)
    }

    /// The module of a file that is known, if the cache has it.
    fn recognized(engine: &Engine, file: &File, identity: &Identity) -> Option<Self> {
        let config = engine.config();
        let cache = config.cache.as_ref().filter(|_| config.tiering_stress == TieringStress::None)?;
        let len_bytes = identity.len_bytes();
        config.budget.check_module(usize::try_from(len_bytes).ok()?).ok()?;
        let content = cache.content(identity)?;
        let binary = || {
            Binary::in_file(file.try_clone()?, *identity, content).ok_or_else(|| std::io::Error::other("enough files are open for modules"))
        };
        match Self::find_cached(engine, &content, binary) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!("a file that is known is read: {error:#}");
                None
            }
        }
    }
}

/// The content of a file from its beginning, where it can be read from there, unless it is larger than a module may be.
pub(crate) fn read_within(budget: &Budget, mut file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Ok(metadata) = file.metadata()
        && metadata.is_file()
    {
        file.seek(SeekFrom::Start(0))?;
        budget.check_file(metadata.len())?;
        // One more, so that the end is found without making room for it.
        let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX).saturating_add(1);
        bytes.try_reserve_exact(len).context("there is no memory for the file")?;
        pages::prefer_huge_pages(bytes.spare_capacity_mut());
    }
    // Pipes have no length, and files may grow. One byte too many is refused below.
    let most = budget.most_bytes().saturating_add(1);
    file.take(most as u64).read_to_end(&mut bytes).context("the file cannot be read")?;
    Ok(bytes)
}
