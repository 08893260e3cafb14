//! What guests may make the host hold and do: one struct of limits with presets, on by default, and the count of what a store holds.

use crate::error::{Result, bail};
use crate::{Config, Store, limits};
use peregrine_artifact::allowance::{Allowance, ModuleSizes};
use std::time::Duration;

/// The most that guests may make the host hold and do. On by default ([`Budget::trusted`]); [`Budget::untrusted`] is for guests that nobody
/// vouches for. Each refusal is an error that names the limit, its value and what was asked for, or -1 where a guest asked by `memory.grow`
/// or `table.grow`.
///
/// [`Config::budget`] sets it for an engine, [`Store::set_budget`] what a single store may hold. A
/// [`ResourceLimiter`](crate::ResourceLimiter) is asked in addition. Of its counts of instances, tables and memories and those here the lower
/// ones hold, whichever was set first; a count that is still 10,000 here, as nobody set it, gives way to a limiter that allows more.
/// How long guests run is limited by fuel, epochs and deadlines.
///
/// | limit | of | trusted | untrusted |
/// |---|---|---|---|
/// | [`memory_bytes`](Self::memory_bytes) | a store | 64 GiB | 256 MiB |
/// | [`table_elements`](Self::table_elements) | a store | 32 Mi | 256 Ki |
/// | [`instances`](Self::instances) | a store | 10,000 | 100 |
/// | [`memories`](Self::memories) | a store | 10,000 | 100 |
/// | [`tables`](Self::tables) | a store | 10,000 | 100 |
/// | [`host_bytes`](Self::host_bytes) | a store | 4 GiB | 16 MiB |
/// | [`stack_bytes`](Self::stack_bytes) | a call | 1 GiB | 1 MiB |
/// | [`module_bytes`](Self::module_bytes) | a module | 1 GiB | 64 MiB |
/// | [`functions`](Self::functions) | a module | 1,000,000 | 100,000 |
/// | [`function_bytes`](Self::function_bytes) | a module | 7,654,321 | 1 MiB |
/// | [`locals`](Self::locals) | a module | 1 Gi | 4 Mi |
/// | [`compile_memory_bytes`](Self::compile_memory_bytes) | a module | 64 GiB | 2 GiB |
/// | [`compile_time`](Self::compile_time) | a module | 1 hour | 1 minute |
///
/// Limits of a module are looked at when it is compiled: by [`Module::new`](crate::Module::new), [`Module::validate`](crate::Module::validate)
/// and [`Engine::precompile_module`](crate::Engine::precompile_module), whatever the strategy. What the [cache](Config::cache) has is looked
/// at too, but for what compiling it would take; images are not. A backtrace is limited by [`Config::wasm_backtrace_max_frames`]; source lines
/// are looked up within a number of steps in proportion to the debugging sections; a core dump holds what the memories hold.
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
    /// Bytes of all linear memories of a store together, as guests see their sizes. Of a memory that is shared with other stores, the store that
    /// made it counts what it began with, and each store what its own guests made it grow by; what the host makes and grows counts for none.
    pub memory_bytes: usize,
    /// Elements of all tables of a store together. Each takes up to 8 bytes. Where a store is allowed more than its
    /// [engine](Config::budget), one table grows to what its type allows, what the engine's budget allows, or 16 Mi elements if that is more; in
    /// any case to 512 Mi elements at most, unless it begins with more.
    pub table_elements: usize,
    /// Instances of a store.
    pub instances: usize,
    /// Linear memories of a store.
    pub memories: usize,
    /// Tables of a store.
    pub tables: usize,
    /// Bytes of the host's own memory that a store holds on behalf of its guests: the contexts of instances (globals, imports, references),
    /// host values that guests can refer to ([`ExternRef`](crate::ExternRef)) with their headers, shared memories that came from outside, and
    /// host functions. Host values count by
    /// the size of their type; what they point to is the embedder's. Making a host function never fails, but counts.
    pub host_bytes: usize,
    /// Bytes of the stack that a guest runs on: the most that [`Config::max_wasm_stack`] may ask for. The engine's alone.
    pub stack_bytes: usize,
    /// Bytes of a binary module that is to be compiled; of its text, eight times as many. The engine's alone, as modules belong to no store;
    /// so are all that follow.
    pub module_bytes: usize,
    /// Functions that a module defines.
    pub functions: usize,
    /// Bytes of the body of one function.
    pub function_bytes: usize,
    /// Locals of all functions of a module together, parameters excluded: a few bytes declare 50,000.
    pub locals: u64,
    /// Bytes of memory that making one module may take. An estimate by counts: of the description of the module, the code, and what compilers
    /// take at once. Where functions are compiled when they are called, the module is refused for the description alone, and hot functions are not
    /// optimized any more once the code that was made takes what is left. What is called is compiled by the baseline all the same: its code is
    /// bounded by [`functions`](Self::functions) and [`module_bytes`](Self::module_bytes): 4 KiB for each function and 96 bytes for each byte of a
    /// body, up to 608 where types have very many parameters and results. Programs become a few bytes for each byte.
    pub compile_memory_bytes: usize,
    /// Time that making one module may take. Looked at between functions, so that it may be exceeded by what one function takes, which is
    /// bounded by its size. A function that is compiled at its first call is bounded in the same way, and its time counts as the guest's.
    pub compile_time: Duration,
}

/// How much longer than a binary module its text may be.
const TEXT_BYTES_PER_BYTE: usize = 8;
/// What text may have in any case: white space is no sign of a large module.
const MIN_TEXT_BYTES: usize = 4 << 10;

impl Budget {
    /// For guests that the embedder chose: above what programs need, and below what takes a large machine down.
    pub const fn trusted() -> Self {
        Self {
            memory_bytes: 64 << 30,
            table_elements: 32 << 20,
            instances: limits::DEFAULT_INSTANCE_LIMIT,
            memories: limits::DEFAULT_MEMORY_LIMIT,
            tables: limits::DEFAULT_TABLE_LIMIT,
            host_bytes: 4 << 30,
            stack_bytes: 1 << 30,
            module_bytes: 1 << 30,
            functions: 1_000_000,
            function_bytes: 7_654_321,
            locals: 1 << 30,
            compile_memory_bytes: 64 << 30,
            compile_time: Duration::from_secs(3600),
        }
    }

    /// For guests of strangers: what plug-ins and services need.
    pub const fn untrusted() -> Self {
        Self {
            memory_bytes: 256 << 20,
            table_elements: 256 << 10,
            instances: 100,
            memories: 100,
            tables: 100,
            host_bytes: 16 << 20,
            stack_bytes: 1 << 20,
            module_bytes: 64 << 20,
            functions: 100_000,
            function_bytes: 1 << 20,
            locals: 4 << 20,
            compile_memory_bytes: 2 << 30,
            compile_time: Duration::from_secs(60),
        }
    }

    /// Refuses a module that is too large to compile.
    pub(crate) fn check_module(&self, len_bytes: usize) -> Result<()> {
        if len_bytes > self.module_bytes {
            bail!("the module has {len_bytes} bytes, `Budget::module_bytes` is {}; `Config::budget` sets it", self.module_bytes);
        }
        Ok(())
    }

    /// Refuses a module that was compiled before, with another budget maybe, as a compiler would with this one.
    pub(crate) fn check_sizes(&self, sizes: &ModuleSizes) -> Result<()> {
        Ok(self.allowance().check_module(sizes)?)
    }

    /// Refuses what is too large to be read as a module in either format.
    pub(crate) fn check_bytes(&self, bytes: &[u8]) -> Result<()> {
        if bytes.starts_with(b"\0asm") {
            return self.check_module(bytes.len());
        }
        let most = self.most_bytes();
        if bytes.len() > most {
            let (len, module_bytes) = (bytes.len(), self.module_bytes);
            bail!(
                "the text of the module has {len} bytes, more than {most} for `Budget::module_bytes`, which is {module_bytes}; `Config::budget` sets it"
            );
        }
        Ok(())
    }

    /// Bytes of a module that are read at most, in either format.
    pub(crate) fn most_bytes(&self) -> usize {
        self.module_bytes.saturating_mul(TEXT_BYTES_PER_BYTE).max(MIN_TEXT_BYTES)
    }

    /// Refuses a file that is too large to be read, whatever it is.
    pub(crate) fn check_file(&self, len_bytes: u64) -> Result<()> {
        if len_bytes > self.most_bytes() as u64 {
            let module_bytes = self.module_bytes;
            bail!("the file has {len_bytes} bytes, `Budget::module_bytes` is {module_bytes}; `Config::budget` sets it");
        }
        Ok(())
    }

    /// Refuses a stack that is too large.
    pub(crate) fn check_stack(&self, len_bytes: usize) -> Result<()> {
        if len_bytes > self.stack_bytes {
            bail!("max_wasm_stack is {len_bytes} bytes, `Budget::stack_bytes` is {}; `Config::budget` sets it", self.stack_bytes);
        }
        Ok(())
    }

    /// What compilers are told.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance {
            functions: self.functions,
            function_bytes: self.function_bytes,
            locals: self.locals,
            memory_bytes: self.compile_memory_bytes,
            time: self.compile_time,
            until: None,
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::trusted()
    }
}

impl Config {
    /// What modules may cost, and what each store may hold unless [`Store::set_budget`] says otherwise. [`Budget::trusted`] by default.
    pub fn budget(&mut self, budget: Budget) -> &mut Self {
        self.budget = budget;
        self
    }

    /// What [`budget`](Self::budget) set.
    pub fn get_budget(&self) -> Budget {
        self.budget
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
    host_bytes: usize,
    /// The most bytes of each memory and elements of each table: see [`Config::most_each`].
    most_each: [Option<usize>; 2],
    /// Instances, tables and memories that the limiter allows, if there is one.
    limiter: Option<(usize, usize, usize)>,
    /// What the last growth that was allowed added, in bytes or elements.
    last: usize,
    /// What the budget refused, if it refused the last growth.
    refused: Option<Refused>,
    is_refused_by_limiter: bool,
}

/// A memory or table that would be too much.
#[derive(Clone, Copy)]
enum Refused {
    Memory {
        desired_bytes: usize,
        held_bytes: usize,
    },
    Table {
        desired: usize,
        held: usize,
    },
    /// It alone is larger than any may be.
    Each {
        is_memory: bool,
        desired: usize,
        most: usize,
    },
}

impl Counts {
    /// Of an empty store.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            budget: config.budget,
            most_each: config.most_each(),
            instances: 0,
            tables: 0,
            memories: 0,
            memory_bytes: 0,
            table_elements: 0,
            host_bytes: 0,
            limiter: None,
            last: 0,
            refused: None,
            is_refused_by_limiter: false,
        }
    }

    /// Counts new items, unless there are too many then.
    pub(crate) fn add(&mut self, instances: usize, tables: usize, memories: usize) -> Result<()> {
        let most = self.most();
        let changes = [
            (&mut self.instances, instances, most.0, "instance", "instances"),
            (&mut self.tables, tables, most.1, "table", "tables"),
            (&mut self.memories, memories, most.2, "memory", "memories"),
        ];
        for (counted, new, limit, name, field) in &changes {
            let count = counted.saturating_add(*new);
            if *new > 0 && count > *limit {
                bail!(
                    "resource limit exceeded: {name} count too high at {count}, the limit is {limit}; \
                     `Budget::{field}` or the store's limiter sets it"
                );
            }
        }
        changes.into_iter().for_each(|(count, new, ..)| *count += new);
        Ok(())
    }

    /// Bytes of the host's own memory that are held.
    pub(crate) fn host_bytes(&self) -> usize {
        self.host_bytes
    }

    /// Counts the host's own memory, unless it is too much then.
    pub(crate) fn add_host_bytes(&mut self, len_bytes: usize) -> Result<()> {
        let (held, limit) = (self.host_bytes, self.budget.host_bytes);
        match held.checked_add(len_bytes).filter(|held| *held <= limit) {
            Some(held) => self.host_bytes = held,
            None => bail!(
                "{len_bytes} bytes for a guest beside {held} bytes exceed the host's memory for the store: `Budget::host_bytes` is \
                 {limit}; `Store::set_budget` or `Config::budget` sets it"
            ),
        }
        Ok(())
    }

    /// Counts the host's own memory where nothing can be refused.
    pub(crate) fn add_host_bytes_anyway(&mut self, len_bytes: usize) {
        self.host_bytes = self.host_bytes.saturating_add(len_bytes);
    }

    /// Takes back what an instance had that was dropped.
    pub(crate) fn remove(&mut self, held: crate::vm::Held) {
        self.instances = self.instances.saturating_sub(1);
        self.tables = self.tables.saturating_sub(held.tables);
        self.memories = self.memories.saturating_sub(held.memories);
        self.memory_bytes = self.memory_bytes.saturating_sub(held.memory_bytes);
        self.table_elements = self.table_elements.saturating_sub(held.table_elements);
        self.host_bytes = self.host_bytes.saturating_sub(held.host_bytes);
    }

    /// Takes back what shared memories took that left the store.
    pub(crate) fn remove_shared(&mut self, memory_bytes: usize, host_bytes: usize) {
        self.memory_bytes = self.memory_bytes.saturating_sub(memory_bytes);
        self.host_bytes = self.host_bytes.saturating_sub(host_bytes);
    }

    /// Counts the growth of a memory from `current` bytes, 0 for a new one, to `desired`, or of a table in elements. `false` if that is too
    /// much.
    pub(crate) fn grow(&mut self, is_memory: bool, current: usize, desired: usize) -> bool {
        (self.last, self.refused, self.is_refused_by_limiter) = (0, None, false);
        if let Some(most) = self.most_each[usize::from(!is_memory)].filter(|most| desired > *most) {
            self.refused = Some(Refused::Each { is_memory, desired, most });
            return false;
        }
        let (held, limit) = match is_memory {
            true => (&mut self.memory_bytes, self.budget.memory_bytes),
            false => (&mut self.table_elements, self.budget.table_elements),
        };
        match grow(held, limit, current, desired) {
            Some(added) => self.last = added,
            None if is_memory => self.refused = Some(Refused::Memory { desired_bytes: desired, held_bytes: *held }),
            None => self.refused = Some(Refused::Table { desired, held: *held }),
        }
        self.refused.is_none()
    }

    /// Notes that the limiter did not allow the last growth.
    pub(crate) fn limiter_refused(&mut self) {
        self.is_refused_by_limiter = true;
    }

    /// Why the last growth, which was to `desired`, did not come about: its type allows `max`.
    pub(crate) fn why_not_grown(&self, desired: u128, max: Option<u64>) -> String {
        if let Some(max) = max.filter(|max| desired > u128::from(*max)) {
            return why_not_grown(desired, Some(max));
        }
        let refused = self.refusal();
        refused.unwrap_or_else(|| match self.is_refused_by_limiter {
            true => "the store's limiter refused it".to_owned(),
            false => why_not_grown(desired, None),
        })
    }

    /// Why the last memory or table was too much, if it was.
    pub(crate) fn refusal(&self) -> Option<String> {
        Some(match self.refused? {
            Refused::Each { is_memory: true, desired, most } => {
                format!("a memory of {desired} bytes exceeds memory limits: `PoolingAllocationConfig::max_memory_size` is {most}")
            }
            Refused::Each { is_memory: false, desired, most } => {
                format!("a table of {desired} elements exceeds table limits: `PoolingAllocationConfig::table_elements` is {most}")
            }
            Refused::Memory { desired_bytes, held_bytes } => {
                let limit = self.budget.memory_bytes;
                format!(
                    "a memory of {desired_bytes} bytes beside {held_bytes} bytes exceeds memory limits: `Budget::memory_bytes` is {limit}; \
                     `Store::set_budget` or `Config::budget` sets it"
                )
            }
            Refused::Table { desired, held } => {
                let limit = self.budget.table_elements;
                format!(
                    "a table of {desired} elements beside {held} elements exceeds table limits: `Budget::table_elements` is {limit}; \
                     `Store::set_budget` or `Config::budget` sets it"
                )
            }
        })
    }

    /// Takes back the last growth, of a memory or a table, which was allowed and did not come about.
    pub(crate) fn take_back(&mut self, is_memory: bool) {
        let held = if is_memory { &mut self.memory_bytes } else { &mut self.table_elements };
        *held -= std::mem::take(&mut self.last);
    }

    /// Sets how many instances, tables and memories the store's limiter allows.
    pub(crate) fn set_limiter(&mut self, most: (usize, usize, usize)) {
        self.limiter = Some(most);
    }

    /// How many instances, tables and memories the store may hold.
    fn most(&self) -> (usize, usize, usize) {
        let Budget { instances, tables, memories, .. } = self.budget;
        let Some(limiter) = self.limiter else { return (instances, tables, memories) };
        // What nobody set is no reason to hold less than the limiter allows.
        let least = |budget: usize, default: usize, limiter: usize| if budget == default { limiter } else { budget.min(limiter) };
        (
            least(instances, limits::DEFAULT_INSTANCE_LIMIT, limiter.0),
            least(tables, limits::DEFAULT_TABLE_LIMIT, limiter.1),
            least(memories, limits::DEFAULT_MEMORY_LIMIT, limiter.2),
        )
    }
}

/// Why something did not grow to `desired`, where no store has a limit: its type allows `max`.
pub(crate) fn why_not_grown(desired: u128, max: Option<u64>) -> String {
    match max.filter(|max| desired > u128::from(*max)) {
        Some(max) => format!("that makes {desired}, and the maximum of its type is {max}"),
        None => "the system, or the address space that is reserved for it, has no room".to_owned(),
    }
}

/// Adds what growing from `current` to `desired` takes to `held`, and returns it, unless that is above `limit` then.
fn grow(held: &mut usize, limit: usize, current: usize, desired: usize) -> Option<usize> {
    let added = desired.saturating_sub(current);
    *held = held.checked_add(added).filter(|held| added == 0 || *held <= limit)?;
    Some(added)
}
