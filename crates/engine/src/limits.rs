//! Limits on what a store may hold: asked before every growth.

use crate::error::{Error, Result, bail};

/// How many instances, memories and tables a store holds unless a limiter says otherwise.
pub const DEFAULT_INSTANCE_LIMIT: usize = 10_000;
/// See [`DEFAULT_INSTANCE_LIMIT`].
pub const DEFAULT_TABLE_LIMIT: usize = 10_000;
/// See [`DEFAULT_INSTANCE_LIMIT`].
pub const DEFAULT_MEMORY_LIMIT: usize = 10_000;

/// Decides over the growth of memories and tables of a store, their creation included. Installed with
/// [`Store::limiter`](crate::Store::limiter).
pub trait ResourceLimiter: Send {
    /// Whether a linear memory may grow from `current` to `desired` bytes; its type allows `maximum`. A refusal makes `memory.grow` return
    /// -1, and fails the instantiation if it is about the first size.
    ///
    /// # Errors
    ///
    /// An error ends the guest's call with it.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool>;

    /// Told that a growth that was allowed did not come about.
    ///
    /// # Errors
    ///
    /// An error ends the guest's call with it.
    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        let _ = error;
        Ok(())
    }

    /// Whether a table may grow from `current` to `desired` elements; its type allows `maximum`.
    ///
    /// # Errors
    ///
    /// An error ends the guest's call with it.
    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool>;

    /// Told that a growth that was allowed did not come about.
    ///
    /// # Errors
    ///
    /// An error ends the guest's call with it.
    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        let _ = error;
        Ok(())
    }

    /// How many instances the store may hold. Asked once, when the limiter is installed.
    fn instances(&self) -> usize {
        DEFAULT_INSTANCE_LIMIT
    }

    /// How many tables the store may hold. Asked once, when the limiter is installed.
    fn tables(&self) -> usize {
        DEFAULT_TABLE_LIMIT
    }

    /// How many linear memories the store may hold. Asked once, when the limiter is installed.
    fn memories(&self) -> usize {
        DEFAULT_MEMORY_LIMIT
    }
}

/// A [`ResourceLimiter`] with fixed limits.
///
/// ```
/// use peregrine::{Engine, Memory, MemoryType, Store, StoreLimits, StoreLimitsBuilder};
///
/// let engine = Engine::default();
/// let limits: StoreLimits = StoreLimitsBuilder::new().memory_size(1 << 20).instances(2).build();
/// let mut store = Store::new(&engine, limits);
/// store.limiter(|limits| limits);
///
/// assert!(Memory::new(&mut store, MemoryType::new(17, None)).is_err());
/// let memory = Memory::new(&mut store, MemoryType::new(16, None))?;
/// assert!(memory.grow(&mut store, 1).is_err());
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StoreLimits {
    memory_size_bytes: Option<usize>,
    table_elements: Option<usize>,
    instances: usize,
    tables: usize,
    memories: usize,
    trap_on_grow_failure: bool,
}

/// Makes [`StoreLimits`].
#[derive(Clone, Debug, Default)]
pub struct StoreLimitsBuilder(StoreLimits);

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            memory_size_bytes: None,
            table_elements: None,
            instances: DEFAULT_INSTANCE_LIMIT,
            tables: DEFAULT_TABLE_LIMIT,
            memories: DEFAULT_MEMORY_LIMIT,
            trap_on_grow_failure: false,
        }
    }
}

impl StoreLimitsBuilder {
    /// The limits that apply without a limiter.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most bytes that each linear memory may have.
    #[must_use]
    pub fn memory_size(mut self, limit_bytes: usize) -> Self {
        self.0.memory_size_bytes = Some(limit_bytes);
        self
    }

    /// The most elements that each table may have.
    #[must_use]
    pub fn table_elements(mut self, limit: usize) -> Self {
        self.0.table_elements = Some(limit);
        self
    }

    /// The most instances.
    #[must_use]
    pub fn instances(mut self, limit: usize) -> Self {
        self.0.instances = limit;
        self
    }

    /// The most tables.
    #[must_use]
    pub fn tables(mut self, limit: usize) -> Self {
        self.0.tables = limit;
        self
    }

    /// The most linear memories.
    #[must_use]
    pub fn memories(mut self, limit: usize) -> Self {
        self.0.memories = limit;
        self
    }

    /// Whether a growth that is refused or fails ends the guest's call, in place of returning -1.
    #[must_use]
    pub fn trap_on_grow_failure(mut self, trap: bool) -> Self {
        self.0.trap_on_grow_failure = trap;
        self
    }

    /// The limits.
    pub fn build(self) -> StoreLimits {
        self.0
    }
}

impl StoreLimits {
    fn decide(&self, what: &str, unit: &str, desired: usize, limit: Option<usize>, maximum: Option<usize>) -> Result<bool> {
        let over_limit = limit.is_some_and(|limit| desired > limit);
        let over_maximum = maximum.is_some_and(|maximum| desired > maximum);
        if !self.trap_on_grow_failure || !(over_limit || over_maximum) {
            return Ok(!over_limit && !over_maximum);
        }
        let (name, bound) = if over_limit { ("limit", limit) } else { ("maximum", maximum) };
        bail!("forcing trap when growing {what} to {desired} {unit}: the {name} is {}", bound.unwrap_or(usize::MAX));
    }

    fn failed(&self, what: &str, error: Error) -> Result<()> {
        if self.trap_on_grow_failure { Err(error.context(format!("forcing a {what} growth failure to be a trap"))) } else { Ok(()) }
    }
}

impl ResourceLimiter for StoreLimits {
    fn memory_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        self.decide("memory", "bytes", desired, self.memory_size_bytes, maximum)
    }

    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        self.failed("memory", error)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        self.decide("table", "elements", desired, self.table_elements, maximum)
    }

    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        self.failed("table", error)
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.tables
    }

    fn memories(&self) -> usize {
        self.memories
    }
}
