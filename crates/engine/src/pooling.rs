//! Settings of instance allocators that embedders know from another runtime. There is one allocator here, which keeps instances warm by
//! itself and grows as it is needed: sizes and numbers of pools are hints. What protects from guests is more than that: the most that one
//! memory or table may take is a limit where it is set, and protection keys are refused, as there are none.

use crate::{Config, Enabled};
use std::convert::Infallible;
use std::fmt;

/// How instances are to be allocated. See [`Config::allocation_strategy`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum InstanceAllocationStrategy {
    /// One by one.
    #[default]
    OnDemand,
    /// From pools of fixed sizes.
    Pooling(PoolingAllocationConfig),
}

impl InstanceAllocationStrategy {
    /// Pools with default sizes.
    pub fn pooling() -> Self {
        Self::Pooling(PoolingAllocationConfig::default())
    }
}

impl From<PoolingAllocationConfig> for InstanceAllocationStrategy {
    fn from(config: PoolingAllocationConfig) -> Self {
        Self::Pooling(config)
    }
}

impl Config {
    /// A hint, for compatibility. Whatever it is, a dropped instance is kept warm by its module, with its mappings, within bounds that need
    /// no tuning; new ones are made whenever none is warm, and never refused because a pool is full.
    /// [`Engine::metrics`](crate::Engine::metrics) tells how many were warm and how many were not.
    ///
    /// ```
    /// use peregrine::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};
    ///
    /// let mut pooling = PoolingAllocationConfig::new();
    /// pooling.total_core_instances(1);
    /// let engine = Engine::new(Config::new().allocation_strategy(InstanceAllocationStrategy::Pooling(pooling)))?;
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn allocation_strategy(&mut self, strategy: impl Into<InstanceAllocationStrategy>) -> &mut Self {
        self.pooling = match strategy.into() {
            InstanceAllocationStrategy::OnDemand => None,
            InstanceAllocationStrategy::Pooling(config) => Some(config),
        };
        let keys = self.pooling.as_ref().is_some_and(|pooling| pooling.memory_protection_keys == Enabled::Yes);
        self.refuse(
            keys,
            "memory protection keys (`memory_protection_keys`)",
            "memories are kept apart by address space, and `Enabled::Auto` does without keys",
        )
    }
}

impl Config {
    /// The pools that were asked for last, if they were.
    pub fn get_pooling_config(&self) -> Option<&PoolingAllocationConfig> {
        self.pooling.as_ref()
    }

    /// The most bytes of each memory and the most elements of each table, where pools were asked for and given these sizes.
    pub(crate) fn most_each(&self) -> [Option<usize>; 2] {
        self.pooling.as_ref().map_or([None; 2], |pooling| [pooling.max_memory_size, pooling.table_elements])
    }
}

macro_rules! hints {
    ($($(#[$doc:meta])* $set:ident $get:ident: $ty:ty = $default:expr;)*) => {
        /// Sizes of pools, for [`InstanceAllocationStrategy::Pooling`]. All are hints but
        /// [`max_memory_size`](Self::max_memory_size) and [`table_elements`](Self::table_elements): what limits a guest besides these is its
        /// [`ResourceLimiter`](crate::ResourceLimiter) and its [`Budget`](crate::Budget), and what is kept warm is found by use.
        #[derive(Clone, Debug)]
        pub struct PoolingAllocationConfig {
            $($set: $ty,)*
            max_memory_size: Option<usize>,
            table_elements: Option<usize>,
        }

        impl Default for PoolingAllocationConfig {
            fn default() -> Self {
                Self { $($set: $default,)* max_memory_size: None, table_elements: None }
            }
        }

        impl PoolingAllocationConfig {
            $(
                $(#[$doc])*
                pub fn $set(&mut self, value: $ty) -> &mut Self {
                    self.$set = value;
                    self
                }

                #[doc = concat!("What [`", stringify!($set), "`](Self::", stringify!($set), ") was set to.")]
                pub fn $get(&self) -> $ty {
                    self.$set
                }
            )*
        }
    };
}

impl PoolingAllocationConfig {
    /// Default sizes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most bytes that each memory of a store may have, beside what the store's budget and limiter say. No limit unless it is set.
    pub fn max_memory_size(&mut self, bytes: usize) -> &mut Self {
        self.max_memory_size = Some(bytes);
        self
    }

    /// What [`max_memory_size`](Self::max_memory_size) was set to, or 4 GiB.
    pub fn get_max_memory_size(&self) -> usize {
        self.max_memory_size.unwrap_or(4 << 30)
    }

    /// The most elements that each table of a store may have, beside what the store's budget and limiter say. No limit unless it is set.
    pub fn table_elements(&mut self, elements: usize) -> &mut Self {
        self.table_elements = Some(elements);
        self
    }

    /// What [`table_elements`](Self::table_elements) was set to, or 20,000.
    pub fn get_table_elements(&self) -> usize {
        self.table_elements.unwrap_or(20_000)
    }

    /// Whether [`pagemap_scan`](Self::pagemap_scan) may be set to [`Enabled::Yes`]: it may everywhere, and changes nothing.
    pub fn is_pagemap_scan_available() -> bool {
        true
    }

    /// Whether this system has memory protection keys that the allocator uses: it uses none.
    pub fn are_memory_protection_keys_available() -> bool {
        false
    }
}

hints! {
    /// A hint that changes nothing: how many instances stay warm follows from how many were in use.
    max_unused_warm_slots get_max_unused_warm_slots: u32 = 100;
    /// A hint that changes nothing: an instance is reset when it is dropped.
    decommit_batch_size get_decommit_batch_size: usize = 1;
    /// A hint that changes nothing: stacks keep what [`Config::max_wasm_stack`] allows, bounded by the engine.
    async_stack_keep_resident get_async_stack_keep_resident: usize = 0;
    /// A hint that changes nothing: how much of a memory stays resident is measured, not chosen.
    linear_memory_keep_resident get_memory_keep_resident: usize = 0;
    /// A hint that changes nothing: as for memories.
    table_keep_resident get_table_keep_resident: usize = 0;
    /// A hint that changes nothing: there is no bound on components.
    total_component_instances get_total_component_instances: u32 = 1000;
    /// A hint that changes nothing: there is no bound on components.
    max_component_instance_size get_max_component_instance_size: usize = 1 << 20;
    /// A hint that changes nothing: there is no bound on components.
    max_core_instances_per_component get_max_core_instances_per_component: u32 = u32::MAX;
    /// A hint that changes nothing: there is no bound on components.
    max_memories_per_component get_max_memories_per_component: u32 = u32::MAX;
    /// A hint that changes nothing: there is no bound on components.
    max_tables_per_component get_max_tables_per_component: u32 = u32::MAX;
    /// A hint that changes nothing: memories are made as they are asked for.
    total_memories get_total_memories: u32 = 1000;
    /// A hint that changes nothing: tables are made as they are asked for.
    total_tables get_total_tables: u32 = 1000;
    /// A hint that changes nothing: stacks are made as they are asked for.
    total_stacks get_total_stacks: u32 = 1000;
    /// A hint that changes nothing: instances are made as they are asked for.
    total_core_instances get_total_core_instances: u32 = 1000;
    /// A hint that changes nothing: an instance takes what its module needs.
    max_core_instance_size get_max_core_instance_size: usize = 1 << 20;
    /// A hint that changes nothing: limit a store with [`ResourceLimiter::tables`](crate::ResourceLimiter::tables).
    max_tables_per_module get_max_tables_per_module: u32 = 1;
    /// A hint that changes nothing: limit a store with [`ResourceLimiter::memories`](crate::ResourceLimiter::memories).
    max_memories_per_module get_max_memories_per_module: u32 = 1;
    /// Memories are kept apart by address space alone: [`Engine::new`](crate::Engine::new) refuses [`Enabled::Yes`].
    memory_protection_keys get_memory_protection_keys: Enabled = Enabled::No;
    /// A hint that changes nothing: memories are kept apart by address space alone.
    max_memory_protection_keys get_max_memory_protection_keys: usize = 16;
    /// A hint that changes nothing.
    total_gc_heaps get_total_gc_heaps: u32 = 1000;
    /// A hint that changes nothing: the engine finds out by itself what the system can do.
    pagemap_scan get_pagemap_scan: Enabled = Enabled::No;
}

/// The error of an instantiation for which no pool has room, for programs that look for it by downcasting. Never made: instances are made as
/// they are needed.
pub struct PoolConcurrencyLimitError {
    never: Infallible,
}

impl fmt::Debug for PoolConcurrencyLimitError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}

impl fmt::Display for PoolConcurrencyLimitError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}

impl std::error::Error for PoolConcurrencyLimitError {}
