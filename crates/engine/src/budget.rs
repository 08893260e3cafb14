//! What a store may hold: one struct of limits with presets, on by default, and the count of what is held.

use crate::error::{Result, bail};
use crate::{Config, Store, limits};

/// The most that the guests of one store may make the host hold. On by default ([`Budget::trusted`]); [`Budget::untrusted`] is for guests
/// that nobody vouches for. A refusal is an error that names the limit, or -1 where a guest asked by `memory.grow` or `table.grow`.
///
/// [`Config::budget`] sets it for all stores of an engine, [`Store::set_budget`] for one. A [`ResourceLimiter`](crate::ResourceLimiter) is
/// asked in addition, and its counts of instances, tables and memories replace those here. The stack is limited by
/// [`Config::max_wasm_stack`], time by fuel and epochs.
///
/// ```
/// use peregrine::{Budget, Engine, Memory, MemoryType, Store};
///
/// let mut store = Store::new(&Engine::default(), ());
/// let mut budget = Budget::untrusted();
/// budget.memory_bytes = 1 << 20;
/// store.set_budget(budget);
/// let memory = Memory::new(&mut store, MemoryType::new(10, None))?;
/// let error = format!("{:#}", Memory::new(&mut store, MemoryType::new(10, None)).unwrap_err());
/// assert!(error.contains("`Budget::memory_bytes` is 1048576"), "{error}");
/// assert!(memory.grow(&mut store, 7).is_err());
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// Bytes of all linear memories of a store together, as guests see their sizes.
    pub memory_bytes: usize,
    /// Elements of all tables of a store together. Each takes up to 8 bytes.
    pub table_elements: usize,
    /// Instances of a store.
    pub instances: usize,
    /// Linear memories of a store.
    pub memories: usize,
    /// Tables of a store.
    pub tables: usize,
    /// Bytes of a binary module that is to be compiled: what compiling costs is in proportion to it. The engine's alone, as modules belong to
    /// no store.
    pub module_bytes: usize,
}

impl Budget {
    /// For guests that the embedder chose: far above what programs need, and below what takes a machine down. 64 GiB of memory, 32 Mi
    /// elements, 10,000 each of instances, memories and tables, modules of 1 GiB.
    pub const fn trusted() -> Self {
        Self {
            memory_bytes: 64 << 30,
            table_elements: 32 << 20,
            instances: limits::DEFAULT_INSTANCE_LIMIT,
            memories: limits::DEFAULT_MEMORY_LIMIT,
            tables: limits::DEFAULT_TABLE_LIMIT,
            module_bytes: 1 << 30,
        }
    }

    /// For guests of strangers: 256 MiB of memory, 256 Ki elements, 100 each of instances, memories and tables, modules of 64 MiB.
    pub const fn untrusted() -> Self {
        Self { memory_bytes: 256 << 20, table_elements: 256 << 10, instances: 100, memories: 100, tables: 100, module_bytes: 64 << 20 }
    }

    /// Refuses a module that is too large to compile.
    pub(crate) fn check_module(&self, len_bytes: usize) -> Result<()> {
        if len_bytes > self.module_bytes {
            bail!("the module has {len_bytes} bytes, `Budget::module_bytes` is {}", self.module_bytes);
        }
        Ok(())
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::trusted()
    }
}

impl Config {
    /// What each store may hold unless [`Store::set_budget`] says otherwise. [`Budget::trusted`] by default.
    pub fn budget(&mut self, budget: Budget) -> &mut Self {
        self.budget = budget;
        self
    }
}

impl<T: 'static> Store<T> {
    /// Sets what the store may hold from now on. What it holds already stays.
    pub fn set_budget(&mut self, budget: Budget) {
        self.opaque_mut().counts.budget = budget;
    }

    /// What the store may hold.
    pub fn budget(&self) -> Budget {
        self.opaque().counts.budget
    }
}

/// What a store holds and may hold.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) budget: Budget,
    instances: usize,
    tables: usize,
    memories: usize,
    memory_bytes: usize,
    table_elements: usize,
    /// What the last growth that was allowed added to bytes and to elements.
    last: [usize; 2],
    /// What was refused last.
    refused: Option<Refused>,
}

/// A memory or table that would be too much.
#[derive(Clone, Copy)]
enum Refused {
    Memory { desired_bytes: usize, held_bytes: usize },
    Table { desired: usize, held: usize },
}

impl Counts {
    /// Of an empty store.
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, instances: 0, tables: 0, memories: 0, memory_bytes: 0, table_elements: 0, last: [0; 2], refused: None }
    }

    /// Counts new items, unless there are too many then.
    pub(crate) fn add(&mut self, instances: usize, tables: usize, memories: usize) -> Result<()> {
        let changes = [
            (&mut self.instances, instances, self.budget.instances, "instance"),
            (&mut self.tables, tables, self.budget.tables, "table"),
            (&mut self.memories, memories, self.budget.memories, "memory"),
        ];
        for (counted, new, limit, name) in &changes {
            let count = counted.saturating_add(*new);
            if count > *limit {
                bail!("resource limit exceeded: {name} count too high at {count}, the limit is {limit}");
            }
        }
        changes.into_iter().for_each(|(count, new, ..)| *count += new);
        Ok(())
    }

    /// Counts a memory's growth from `current` bytes, 0 for a new one, to `desired`. `false` if that is too much.
    pub(crate) fn grow_memory(&mut self, current: usize, desired: usize) -> bool {
        (self.last[0], self.refused) = (0, None);
        let (held, limit) = (&mut self.memory_bytes, self.budget.memory_bytes);
        self.last[0] = match grow(held, limit, current, desired) {
            Some(added) => added,
            None => {
                self.refused = Some(Refused::Memory { desired_bytes: desired, held_bytes: *held });
                return false;
            }
        };
        true
    }

    /// As [`grow_memory`](Self::grow_memory), for elements of a table.
    pub(crate) fn grow_table(&mut self, current: usize, desired: usize) -> bool {
        (self.last[1], self.refused) = (0, None);
        let (held, limit) = (&mut self.table_elements, self.budget.table_elements);
        self.last[1] = match grow(held, limit, current, desired) {
            Some(added) => added,
            None => {
                self.refused = Some(Refused::Table { desired, held: *held });
                return false;
            }
        };
        true
    }

    /// Why the last memory or table was too much, if it was.
    pub(crate) fn refusal(&self) -> Option<String> {
        Some(match self.refused? {
            Refused::Memory { desired_bytes, held_bytes } => {
                let limit = self.budget.memory_bytes;
                format!(
                    "a memory of {desired_bytes} bytes beside {held_bytes} bytes exceeds memory limits: `Budget::memory_bytes` is {limit}"
                )
            }
            Refused::Table { desired, held } => {
                let limit = self.budget.table_elements;
                format!("a table of {desired} elements beside {held} elements exceeds table limits: `Budget::table_elements` is {limit}")
            }
        })
    }

    /// Takes back the last growth of a memory, which was allowed and did not come about.
    pub(crate) fn take_back_memory(&mut self) {
        self.memory_bytes -= std::mem::take(&mut self.last[0]);
    }

    /// Takes back the last growth of a table.
    pub(crate) fn take_back_table(&mut self) {
        self.table_elements -= std::mem::take(&mut self.last[1]);
    }
}

/// Adds what growing from `current` to `desired` takes to `held`, and returns it, unless that is above `limit` then.
fn grow(held: &mut usize, limit: usize, current: usize, desired: usize) -> Option<usize> {
    let added = desired.saturating_sub(current);
    *held = held.checked_add(added).filter(|held| added == 0 || *held <= limit)?;
    Some(added)
}
