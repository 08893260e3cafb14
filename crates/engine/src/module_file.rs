//! Modules from files: read, or recognized without being read.
//!
//! With a [cache](crate::Config::cache), a large file that did not change since it was last read is recognized by what the system says of it,
//! and the module comes out of the cache. Other large files are read in pieces, if their functions are compiled when they are called: bodies are
//! validated as they pass, and read again when they are compiled, if nobody else may write to the file. Whatever stands against either, the
//! file is read as any other.

use crate::binary::Binary;
use crate::error::{Context, Result};
use crate::file_pieces::{Content, FilePieces};
use crate::module::{FoundKept, may_compile};
use crate::tiering::TieringStress;
use crate::verified::Identity;
use crate::vm::alloc::Counting;
use crate::{Budget, Engine, Module};
use peregrine_artifact::compiler::{CompileError, Progress, Validation};
use peregrine_artifact::settings::Tiering;
use peregrine_sys::{file, pages};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// Files below this many bytes are read and hashed as fast as they are recognized, and no descriptor is kept.
const LARGE_BYTES: u64 = 256 << 10;

impl Module {
    /// As [`new`](Self::new), for the content of a file.
    ///
    /// With a [cache](crate::Config::cache), a large file that did not change since its content was last read is not read again. The functions
    /// of large files that have no code yet are compiled from the file when they are first called, where functions are compiled one by
    /// one and nobody but the user and root may write to the file; who changes a file in place, instead of replacing it, while the
    /// module lives, makes such calls fail.
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
        if let Some(identity) = identity
            && let Some(module) = Self::in_pieces(engine, &file, identity)?
        {
            return Ok(module);
        }
        let bytes = read_within(&engine.config().budget, file)?;
        Self::from_content(engine, bytes, identity, progress)
    }

    /// The module of a file that is known, if the cache has it.
    fn recognized(engine: &Engine, file: &File, identity: &Identity) -> Option<Self> {
        let config = engine.config();
        let cache = config.cache.as_ref().filter(|_| config.tiering_stress.keeps_code())?;
        let len_bytes = identity.len_bytes();
        config.budget.check_module(usize::try_from(len_bytes).ok()?).ok()?;
        let content = cache.content(identity)?;
        let binary = || {
            Binary::in_file(file.try_clone()?, *identity, Content::Whole(content))
                .ok_or_else(|| std::io::Error::other("enough files are open for modules"))
        };
        match Self::find_cached(engine, &content, binary) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!("a file that is known is read: {error:#}");
                None
            }
        }
    }

    /// The module of a file in the state `identity` that is read in pieces. `None` if it has to be read as a whole, or is not valid.
    ///
    /// # Errors
    ///
    /// If the module is beyond the budget.
    fn in_pieces(engine: &Engine, file: &File, identity: Identity) -> Result<Option<Self>> {
        let config = engine.config();
        let one_by_one = engine.settings().tiering != Tiering::Whole && engine.validation() == Validation::Complete;
        let len_bytes = identity.len_bytes() as usize;
        if !one_by_one || config.tiering_stress != TieringStress::None || !identity.is_settled() {
            return Ok(None);
        }
        // Others could change a body between the two readings, through a mapping.
        if !file::is_own(file) {
            return Ok(None);
        }
        let mut magic = [0; 4];
        if file.read_exact_at(&mut magic, 0).is_err() || magic != *b"\0asm" {
            return Ok(None);
        }
        may_compile(engine, &magic)?;
        config.budget.check_module(len_bytes)?;
        let Ok(compiler) = engine.compiler_from_now() else { return Ok(None) };
        let _span = tracing::info_span!("compile", wasm_bytes = len_bytes, one_by_one = true, in_pieces = true).entered();
        // Without a cache the hash is made of the pieces as they come.
        let pieces = FilePieces::new(file, len_bytes, config.cache.is_none());
        let in_file = |content| Binary::in_file(file.try_clone().ok()?, identity, content);
        let (mut binary, mut kept) = (None, None);
        if let Some(cache) = &config.cache {
            let Ok(content) = pieces.hash() else { return Ok(None) };
            cache.remember_content(&identity, &content);
            let Some(in_file) = in_file(Content::Whole(content)) else { return Ok(None) };
            if let Some(found) = Self::kept(engine, &content) {
                match Self::from_kept(engine, found, || Ok(in_file.clone()))? {
                    FoundKept::Module(module) => return Ok(Some(module)),
                    FoundKept::Nothing(entry) => kept = Some(*entry),
                }
            }
            binary = Some(in_file);
        }
        let start = Instant::now();
        let image = match compiler.prepare_pieces(&pieces, engine.settings()) {
            Ok(Some(image)) => image,
            Err(error @ CompileError::Limit { .. }) => return Err(error.into()),
            other => {
                tracing::debug!(error = other.err().map(|error| error.to_string()), "a file is not read in pieces");
                return Ok(None);
            }
        };
        let valid = pieces.valid_bodies();
        let Some(binary) = binary.or_else(|| pieces.content().and_then(in_file)) else { return Ok(None) };
        // What was validated is what will be compiled.
        binary.set_valid(valid);
        if !Identity::of(file).is_some_and(|now| now.is_same(&identity)) {
            return Ok(None);
        }
        let Ok(loaded) = Self::load_bytes(engine, &image) else { return Ok(None) };
        if loaded.meta().has_branch_hints {
            return Ok(None);
        }
        let counters = &engine.shared().counters;
        if kept.is_some() {
            engine.count_cached(false);
        }
        counters.add(Counting::ModulesCompiled, 1);
        counters.add(Counting::CompileNanoseconds, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Self::set_tiering(engine, &loaded, binary, Validation::Trusted, None, kept)?;
        Self::from_loaded(engine, loaded).map(Some)
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
