//! The cache of compiled modules on disk.
//!
//! One image per file, named by the hash of all that it depends on: the module's bytes, the settings and the compiler. An entry is written
//! under another name and renamed, so that a reader sees a whole image or none, whoever writes at the same time and whoever is killed.
//! What is read is checked like any image; a damaged entry is compiled again and replaced. Only files that nobody but
//! this user could have written are mapped.

use crate::error::{Context, Result};
use crate::verified;
use peregrine_artifact::compiler::CompilerKind;
use peregrine_artifact::image::FORMAT_VERSION;
use peregrine_artifact::settings::Settings;
use peregrine_sys::file::{Durability, PrivateDir, TEMPORARY_PREFIX, create_private_dir_all, write_atomically};
use peregrine_sys::program::identity_of_object;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// Compiled modules on disk, shared by all engines and processes of one user that name the same directory.
///
/// ```
/// use peregrine::{Cache, Config, Engine};
///
/// let dir = std::env::temp_dir().join(format!("peregrine-doc-{}", std::process::id()));
/// let cache = Cache::new(&dir)?;
/// let mut config = Config::new();
/// config.cache(Some(cache.clone()));
/// let engine = Engine::new(&config)?;
/// // … modules that `engine` compiles are kept …
/// cache.clear()?;
/// assert_eq!(cache.size_bytes()?, 0);
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cache {
    dir: Arc<PrivateDir>,
    max_size_bytes: u64,
    /// How many modules were found, and how many were not.
    pub(crate) found: Arc<[AtomicUsize; 2]>,
}

/// The name of one entry.
#[derive(Debug)]
pub(crate) struct CacheKey(OsString);

/// The hash of the bytes of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentHash(pub(crate) [u8; 32]);

impl ContentHash {
    /// The hash of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// Makes a [`ContentHash`] of bytes that come in pieces.
#[derive(Default)]
pub(crate) struct ContentHasher(blake3::Hasher);

impl ContentHasher {
    /// Adds the next bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all of them.
    pub(crate) fn finish(self) -> ContentHash {
        ContentHash(*self.0.finalize().as_bytes())
    }
}

const DEFAULT_MAX_SIZE_BYTES: u64 = 4 << 30;
/// What the names of entries end with.
const SUFFIX: &str = ".pgn";
/// What the names of profiles beside entries end with.
const PROFILE_SUFFIX: &str = ".profile";
/// The file whose time says when old entries were last looked for.
const CLEANUP_MARK: &str = "last-cleanup";
const CLEANUP_INTERVAL: Duration = Duration::from_secs(3600);
/// An entry's time of use is renewed when it is older than this.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);
/// No write takes as long as this.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

impl Cache {
    /// The cache in the directory `path`.
    pub(crate) fn in_directory(path: &Path) -> Result<Self> {
        let dir = create_private_dir_all(path).with_context(|| format!("the cache directory `{}` cannot be used", path.display()))?;
        Ok(Self { dir: Arc::new(dir), max_size_bytes: DEFAULT_MAX_SIZE_BYTES, found: Arc::default() })
    }

    /// Counts that a module was found, or was not.
    pub(crate) fn count(&self, is_found: bool) {
        self.found[usize::from(!is_found)].fetch_add(1, Ordering::Relaxed);
    }

    /// The cache in [`default_path`](Self::default_path).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), or if neither `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn from_default_dir() -> Result<Self> {
        Self::new(Self::default_path().context("there is no place for the cache: neither XDG_CACHE_HOME nor HOME is an absolute path")?)
    }

    /// `$XDG_CACHE_HOME/peregrine`, or `~/.cache/peregrine`.
    pub fn default_path() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(base.join("peregrine"))
    }

    /// The size that the cache is brought back to now and then by removing what was not used for longest, in bytes. 4 GiB by default.
    #[must_use]
    pub fn with_max_size_bytes(mut self, max_size_bytes: u64) -> Self {
        self.max_size_bytes = max_size_bytes;
        self
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The bytes of all entries.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn size_bytes(&self) -> Result<u64> {
        Ok(self.entries()?.iter().map(|entry| entry.len_bytes).sum())
    }

    /// Removes all entries.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn clear(&self) -> Result<()> {
        for entry in self.entries()? {
            self.dir.remove(&entry.name)?;
        }
        Ok(())
    }

    /// The entry of `key`, open for reading, if there is one that can be trusted.
    pub(crate) fn open(&self, key: &CacheKey) -> Option<File> {
        let file = self.dir.open_owned(&key.0).ok()?;
        self.renew_use(&file);
        Some(file)
    }

    /// Keeps an entry from being removed as unused. If that fails, it is compiled again some day.
    fn renew_use(&self, entry: &File) {
        let used = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let is_due = used.is_none_or(|used| used.elapsed().is_ok_and(|age| age > USE_GRANULARITY));
        // Nothing is removed from a directory that cannot be written, and no stamp could follow the change.
        if !is_due || !self.dir.is_writable() {
            return;
        }
        let stamped = verified::Identity::of(entry).filter(|identity| self.is_verified(identity));
        let now = SystemTime::now();
        // Reading the stamp took a while. What is left is somebody else who writes in place between the next two calls of the system, which
        // the new time hides; entries themselves are replaced by renaming others.
        let stamped = stamped.filter(|before| verified::Identity::of(entry).is_some_and(|still| still.is_same(before)));
        if set_modified(entry, now).is_ok()
            && let Some(renewed) = stamped.and_then(|before| before.renewed(entry, now))
        {
            self.remember_verified(&renewed);
        }
    }

    /// Keeps `image` as the entry of `key`.
    ///
    /// # Errors
    ///
    /// What the system says; the entry that there was stays then.
    pub(crate) fn put(&self, key: &CacheKey, image: &[u8]) -> Result<()> {
        write_atomically(&self.dir, &key.0, image, Durability::Checked)?;
        if let Err(error) = self.clean_up_if_due(image.len() as u64) {
            // The entry is there all the same.
            tracing::debug!("old entries of the cache cannot be removed: {error:#}");
        }
        Ok(())
    }

    /// Removes what is old if that was not done for long, or if what was written just now is large.
    fn clean_up_if_due(&self, written_bytes: u64) -> Result<()> {
        let mark = self.dir.path().join(CLEANUP_MARK);
        let due = std::fs::metadata(&mark)
            .and_then(|metadata| metadata.modified())
            .ok()
            .is_none_or(|last| last.elapsed().is_ok_and(|age| age > CLEANUP_INTERVAL));
        if due || written_bytes > self.max_size_bytes / 16 {
            // Removing helps where the mark finds no room.
            let marked = write_atomically(&self.dir, OsStr::new(CLEANUP_MARK), b"", Durability::Checked);
            self.clean_up()?;
            marked?;
        }
        Ok(())
    }

    /// Whether the image in `file` was found undamaged before and did not change since.
    pub(crate) fn is_verified(&self, identity: &verified::Identity) -> bool {
        verified::is_verified(&self.dir, identity)
    }

    /// Remembers that the image in the file is undamaged.
    pub(crate) fn remember_verified(&self, identity: &verified::Identity) {
        verified::remember_verified(&self.dir, identity);
    }

    /// The hash of the content of a file, if it was read before and did not change since.
    pub(crate) fn content(&self, identity: &verified::Identity) -> Option<ContentHash> {
        verified::content(&self.dir, identity)
    }

    /// Remembers the hash of the content of a file.
    pub(crate) fn remember_content(&self, identity: &verified::Identity, content: &ContentHash) {
        verified::remember_content(&self.dir, identity, content);
    }

    /// Remembers that the entry of `key`, which this process wrote just now, is undamaged.
    pub(crate) fn remember_written(&self, key: &CacheKey) {
        if let Some(identity) = self.dir.open_owned(&key.0).ok().and_then(|file| verified::Identity::of_own(&file)) {
            self.remember_verified(&identity);
        }
    }

    /// Forgets the entry of `key`.
    pub(crate) fn remove(&self, key: &CacheKey) {
        let _ = self.dir.remove(&key.0);
    }

    /// Removes what was not used for longest until the size is right, and what dead writers left.
    fn clean_up(&self) -> Result<()> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.used));
        let mut kept_bytes = 0u64;
        for entry in entries {
            let leftover = entry.is_temporary && entry.used.elapsed().is_ok_and(|age| age > LEFTOVER_AGE);
            kept_bytes += entry.len_bytes;
            if leftover || (kept_bytes > self.max_size_bytes && !entry.is_temporary) {
                kept_bytes -= entry.len_bytes;
                self.dir.remove(&entry.name)?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for found in std::fs::read_dir(self.dir.path())? {
            let found = found?;
            let name = found.file_name();
            let text = name.to_string_lossy();
            let is_temporary = text.starts_with(TEMPORARY_PREFIX);
            if !is_temporary && ![SUFFIX, PROFILE_SUFFIX].iter().any(|suffix| text.ends_with(suffix)) && !verified::is_stamp(&text) {
                continue;
            }
            // A file that another process has removed since is none.
            let Ok(metadata) = found.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            entries.push(Entry { is_temporary, name, len_bytes: metadata.len(), used });
        }
        Ok(entries)
    }
}

struct Entry {
    name: OsString,
    is_temporary: bool,
    len_bytes: u64,
    used: SystemTime,
}

impl CacheKey {
    /// The key of the image that a compiler of this program makes with `settings` of the bytes with the hash `content`.
    pub(crate) fn new(content: &ContentHash, settings: &Settings, compiler: CompilerKind) -> Self {
        Self::of_validated(content, settings, compiler, true)
    }

    /// [`new`](Self::new), of an image whose making does not say that all bodies are valid, if `validated` is not set.
    pub(crate) fn of_validated(content: &ContentHash, settings: &Settings, compiler: CompilerKind, validated: bool) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&FORMAT_VERSION.to_le_bytes());
        hasher.update(program_identity().unwrap_or_default());
        hasher.update(&[compiler as u8, u8::from(validated)]);
        hasher.update(&settings.hash());
        hasher.update(&content.0);
        Self(format!("{}{SUFFIX}", hasher.finalize().to_hex()).into())
    }
}

impl CacheKey {
    /// The key of the profile beside the entry of this one.
    pub(crate) fn of_profile(&self) -> Self {
        let name = self.0.to_string_lossy();
        Self(format!("{}{PROFILE_SUFFIX}", name.strip_suffix(SUFFIX).unwrap_or(&name)).into())
    }
}

/// What tells apart programs whose compilers or engines may differ: the version, and the builds of the objects that hold this code and that of
/// the compilers, so that a rebuilt one never meets code of the one before, be it the program or a library in it. `None`: nothing
/// does, so nothing can be kept.
pub(crate) fn program_identity() -> Option<&'static [u8]> {
    static IDENTITY: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let find = || {
        let mut identity = env!("CARGO_PKG_VERSION").as_bytes().to_vec();
        let mut objects = vec![identity_of_object(program_identity as fn() -> _ as usize)?];
        for compiler in crate::COMPILERS {
            objects.push(identity_of_object(compiler.make as usize)?);
        }
        objects.dedup();
        for object in objects {
            identity.extend_from_slice(&(object.len() as u64).to_le_bytes());
            identity.extend_from_slice(&object);
        }
        Some(identity)
    };
    IDENTITY.get_or_init(find).as_deref()
}

fn set_modified(file: &File, time: SystemTime) -> std::io::Result<()> {
    use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let modified = Timespec { tv_sec: since.as_secs() as i64, tv_nsec: since.subsec_nanos().into() };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: omit, last_modification: modified })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("peregrine-cache-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn key(number: u8) -> CacheKey {
        CacheKey::new(&ContentHash::of(&[number]), &Settings::new(crate::compat::host_target()), CompilerKind::Optimizing)
    }

    fn read(cache: &Cache, key: &CacheKey) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        cache.open(key)?.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    #[test]
    fn what_is_put_is_found_until_it_is_cleared() {
        let scratch = Scratch::new("put");
        let cache = Cache::new(&scratch.0).unwrap();
        assert_eq!(read(&cache, &key(1)), None);
        cache.put(&key(1), b"first").unwrap();
        cache.put(&key(2), b"second").unwrap();
        assert_eq!(read(&cache, &key(1)).unwrap(), b"first");
        assert_eq!(cache.size_bytes().unwrap(), 11);
        cache.remove(&key(1));
        assert_eq!(read(&cache, &key(1)), None);
        cache.clear().unwrap();
        assert_eq!(cache.size_bytes().unwrap(), 0);
    }

    #[test]
    fn keys_depend_on_bytes_and_settings() {
        let settings = Settings::new(crate::compat::host_target());
        let mut other = settings.clone();
        other.fuel = true;
        let name = |wasm: &[u8], settings, compiler| CacheKey::new(&ContentHash::of(wasm), settings, compiler).0;
        let usual = name(b"a", &settings, CompilerKind::Optimizing);
        assert_ne!(usual, name(b"b", &settings, CompilerKind::Optimizing));
        assert_ne!(usual, name(b"a", &other, CompilerKind::Optimizing));
        assert_ne!(usual, name(b"a", &settings, CompilerKind::Baseline));
    }

    #[test]
    fn an_entry_whose_time_of_use_is_renewed_stays_known_to_be_undamaged() {
        let scratch = Scratch::new("renewed");
        let cache = Cache::new(&scratch.0).unwrap();
        let path = scratch.0.join(&key(1).0);
        let age = || set_modified(&File::open(&path).unwrap(), SystemTime::now() - 2 * USE_GRANULARITY).unwrap();
        let open = || {
            let file = cache.open(&key(1)).unwrap();
            assert!(file.metadata().unwrap().modified().unwrap().elapsed().unwrap() < USE_GRANULARITY);
            cache.is_verified(&verified::Identity::of(&file).unwrap())
        };
        cache.put(&key(1), b"image").unwrap();
        age();
        assert!(!open(), "nobody said so");
        cache.remember_written(&key(1));
        age();
        assert!(!open(), "the stamp is of another state");
        age();
        cache.remember_written(&key(1));
        assert!(open());
        assert!(open(), "nothing is due");
        std::fs::write(&path, b"other").unwrap();
        assert!(!open());
    }

    #[test]
    fn a_state_that_is_renewed_is_of_the_same_file_and_content() {
        let scratch = Scratch::new("states");
        std::fs::create_dir(&scratch.0).unwrap();
        let path = scratch.0.join("entry");
        std::fs::write(&path, b"image").unwrap();
        let (file, now) = (File::open(&path).unwrap(), SystemTime::now());
        let before = verified::Identity::of(&file).unwrap();
        set_modified(&file, now).unwrap();
        assert!(before.renewed(&file, now).is_some());
        // The content was written since.
        std::fs::write(&path, b"other").unwrap();
        assert!(before.renewed(&file, now).is_none());
        std::fs::write(&path, b"longer").unwrap();
        set_modified(&file, now).unwrap();
        assert!(before.renewed(&file, now).is_none());
        let other = scratch.0.join("other");
        std::fs::write(&other, b"image").unwrap();
        let other = File::open(&other).unwrap();
        set_modified(&other, now).unwrap();
        assert!(before.renewed(&other, now).is_none());
    }

    #[test]
    fn this_program_is_told_from_others() {
        let identity = program_identity().expect("tests have a file");
        assert!(identity.len() > env!("CARGO_PKG_VERSION").len() + 16, "{identity:?}");
    }

    #[test]
    fn an_entry_is_there_even_if_old_ones_cannot_be_removed() {
        let scratch = Scratch::new("cleanup");
        let cache = Cache::new(&scratch.0).unwrap();
        // Nothing is renamed over a directory that is not empty.
        std::fs::create_dir_all(scratch.0.join(CLEANUP_MARK).join("in the way")).unwrap();
        set_modified(&File::open(scratch.0.join(CLEANUP_MARK)).unwrap(), SystemTime::UNIX_EPOCH).unwrap();
        cache.put(&key(1), b"first").unwrap();
        assert_eq!(read(&cache, &key(1)).unwrap(), b"first");
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let scratch = Scratch::new("size");
        let cache = Cache::new(&scratch.0).unwrap().with_max_size_bytes(1000);
        for number in 0..5 {
            cache.put(&key(number), &[number; 300]).unwrap();
            let hours = Duration::from_secs(3600 * u64::from(10 - number));
            let file = File::open(scratch.0.join(&key(number).0)).unwrap();
            set_modified(&file, SystemTime::now() - hours).unwrap();
        }
        cache.clean_up().unwrap();
        let left: Vec<u8> = (0..5).filter(|number| read(&cache, &key(*number)).is_some()).collect();
        assert_eq!(left, [2, 3, 4]);
    }

    #[test]
    fn leftovers_of_dead_writers_are_removed_and_live_ones_stay() {
        let scratch = Scratch::new("leftover");
        let cache = Cache::new(&scratch.0).unwrap();
        for (name, age) in [("old", Duration::from_secs(7200)), ("new", Duration::ZERO)] {
            let file = File::create(scratch.0.join(format!("{TEMPORARY_PREFIX}{name}"))).unwrap();
            set_modified(&file, SystemTime::now() - age).unwrap();
        }
        cache.put(&key(1), b"x").unwrap();
        let names: Vec<_> = cache.entries().unwrap().into_iter().filter(|entry| entry.is_temporary).map(|entry| entry.name).collect();
        assert_eq!(names, [OsString::from(format!("{TEMPORARY_PREFIX}new"))]);
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new("others");
        std::fs::create_dir(&scratch.0).unwrap();
        std::fs::set_permissions(&scratch.0, PermissionsExt::from_mode(0o777)).unwrap();
        let error = format!("{:#}", Cache::new(&scratch.0).unwrap_err());
        assert!(error.contains("may be written by others"), "{error}");
    }
}
