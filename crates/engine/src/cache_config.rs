//! What a cache is to be like, for programs that describe it before they make it: by calls, or in a file of settings.

use crate::Cache;
use crate::error::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a [`Cache`] is to be like. A path is one too: the directory.
///
/// ```
/// use peregrine::{Cache, CacheConfig};
///
/// let dir = std::env::temp_dir().join(format!("peregrine-cache-config-{}", std::process::id()));
/// let mut config = CacheConfig::new();
/// config.with_directory(&dir).with_files_total_size_soft_limit(1 << 30);
/// let cache = Cache::new(config)?;
/// assert_eq!(cache.directory(), std::fs::canonicalize(&dir)?);
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheConfig {
    directory: Option<PathBuf>,
    max_size_bytes: Option<u64>,
}

impl<P: AsRef<Path>> From<P> for CacheConfig {
    /// The cache in the directory `path`.
    fn from(path: P) -> Self {
        Self { directory: Some(path.as_ref().to_owned()), max_size_bytes: None }
    }
}

macro_rules! without_meaning {
    ($($(#[$doc:meta])* $name:ident $value:ident: $ty:ty;)*) => {
        /// Settings that are accepted for compatibility and change nothing.
        impl CacheConfig {
            $(
                $(#[$doc])*
                pub fn $name(&mut self, $value: $ty) -> &mut Self {
                    let _ = $value;
                    self
                }
            )*
        }
    };
}

without_meaning! {
    /// Accepted for compatibility and without meaning: the cache has no thread of its own.
    with_worker_event_queue_size size: u64;
    /// Accepted for compatibility and without meaning: images are mapped, so they are not compressed.
    with_baseline_compression_level level: i32;
    /// Accepted for compatibility and without meaning: images are mapped, so they are not compressed.
    with_optimized_compression_level level: i32;
    /// Accepted for compatibility and without meaning: images are mapped, so they are not compressed.
    with_optimized_compression_usage_counter_threshold threshold: u64;
    /// Accepted for compatibility and without meaning: old entries are looked for once in an hour at most.
    with_cleanup_interval interval: Duration;
    /// Accepted for compatibility and without meaning: images are mapped, so they are not compressed.
    with_optimizing_compression_task_timeout timeout: Duration;
    /// Accepted for compatibility and without meaning: times of files are never compared with other machines' clocks.
    with_allowed_clock_drift_for_files_from_future drift: Duration;
    /// Accepted for compatibility and without meaning: what the cache takes is limited, not in how many files.
    with_file_count_soft_limit limit: u64;
    /// Accepted for compatibility and without meaning: as many entries are removed as the limit on sizes asks for.
    with_file_count_limit_percent_if_deleting percent: u8;
    /// Accepted for compatibility and without meaning: as many entries are removed as the limit on sizes asks for.
    with_files_total_size_limit_percent_if_deleting percent: u8;
}

/// Names in a file that are accepted, as the settings of the same name are.
const WITHOUT_MEANING: [&str; 10] = [
    "worker-event-queue-size",
    "baseline-compression-level",
    "optimized-compression-level",
    "optimized-compression-usage-counter-threshold",
    "cleanup-interval",
    "optimizing-compression-task-timeout",
    "allowed-clock-drift-for-files-from-future",
    "file-count-soft-limit",
    "file-count-limit-percent-if-deleting",
    "files-total-size-limit-percent-if-deleting",
];

impl CacheConfig {
    /// A cache in [`Cache::default_path`].
    pub fn new() -> Self {
        Self::default()
    }

    /// What a file says: lines of the form `directory = "path"` and `files-total-size-soft-limit = "512Mi"`, under the heading `[cache]`. Other
    /// settings that such files have elsewhere are accepted and change nothing. As [`new`](Self::new) without a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a line is something else: the error names it.
    pub fn from_file(config_file: Option<&Path>) -> Result<Self> {
        let Some(path) = config_file else { return Ok(Self::new()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        let mut config = Self::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') && line != "[cache]" {
                config.apply(line).with_context(|| format!("line {} of `{}`: `{line}`", number + 1, path.display()))?;
            }
        }
        Ok(config)
    }

    fn apply(&mut self, line: &str) -> Result<()> {
        let (name, value) = line.split_once('=').context("expected a name, `=` and a value")?;
        let (name, value) = (name.trim(), value.trim());
        let text = || value.strip_prefix(['"', '\'']).and_then(|value| value.strip_suffix(['"', '\'']));
        match name {
            "directory" => self.directory = Some(text().context("expected a path in quotes")?.into()),
            "files-total-size-soft-limit" => self.max_size_bytes = Some(bytes(text().unwrap_or(value))?),
            // Older files switch the cache on.
            "enabled" if value == "true" => {}
            _ if WITHOUT_MEANING.contains(&name) => {}
            _ => bail!("there is no such setting; expected `directory` or `files-total-size-soft-limit`"),
        }
        Ok(())
    }

    /// The directory, if one was set.
    pub fn directory(&self) -> Option<&PathBuf> {
        self.directory.as_ref()
    }

    /// The directory, which is made if needed, for this user alone.
    pub fn with_directory(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.directory = Some(directory.into());
        self
    }

    /// As [`Cache::with_max_size_bytes`].
    pub fn with_files_total_size_soft_limit(&mut self, limit: u64) -> &mut Self {
        self.max_size_bytes = Some(limit);
        self
    }
}

/// A number of bytes with a unit: `K`, `M`, `G` and `T` for powers of 1000, with an `i` for powers of 1024.
fn bytes(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let (base, unit) = match text[digits.len()..].strip_suffix('i') {
        Some(unit) => (1024u64, unit),
        None => (1000, &text[digits.len()..]),
    };
    let power = ["", "K", "M", "G", "T"].iter().position(|name| *name == unit);
    let factor = power.and_then(|power| base.checked_pow(power as u32));
    let bytes = factor.and_then(|factor| digits.trim().parse::<u64>().ok()?.checked_mul(factor));
    bytes.context("expected a number of bytes, such as 512Mi")
}

impl Cache {
    /// The cache in the directory `config`, or what else it says: a path will do. The directory is made if needed, for this user alone.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made, belongs to somebody else or may be written by others; or if none is given and there is no
    /// [`default_path`](Self::default_path).
    pub fn new(config: impl Into<CacheConfig>) -> Result<Self> {
        let CacheConfig { directory, max_size_bytes } = config.into();
        let cache = match directory {
            Some(directory) => Self::in_directory(&directory)?,
            None => Self::from_default_dir()?,
        };
        Ok(match max_size_bytes {
            Some(bytes) => cache.with_max_size_bytes(bytes),
            None => cache,
        })
    }

    /// The cache that a [file](CacheConfig::from_file) describes; without a file, the one in [`default_path`](Self::default_path).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new) and [`CacheConfig::from_file`].
    pub fn from_file(path: Option<&Path>) -> Result<Self> {
        Self::new(CacheConfig::from_file(path)?)
    }

    /// As [`path`](Self::path).
    pub fn directory(&self) -> &Path {
        self.path()
    }

    /// How many modules were found, by all engines that have this cache or a clone of it.
    pub fn cache_hits(&self) -> usize {
        self.found[0].load(Ordering::Relaxed)
    }

    /// How many modules were looked for and not found, or found damaged.
    pub fn cache_misses(&self) -> usize {
        self.found[1].load(Ordering::Relaxed)
    }
}
