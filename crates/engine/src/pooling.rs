//! Settings of instance allocators that embedders know from another runtime. There is one allocator here, which keeps instances warm by
//! itself and grows as it is needed: everything in this file is a hint, and none of it makes an instantiation fail.

use crate::{Config, Enabled};

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
        let _ = strategy.into();
        self
    }
}

macro_rules! hints {
    ($($(#[$doc:meta])* $set:ident $ty:ty;)*) => {
        impl PoolingAllocationConfig {
            $(
                $(#[$doc])*
                pub fn $set(&mut self, value: $ty) -> &mut Self {
                    let _ = value;
                    self
                }
            )*
        }
    };
}

/// Sizes of pools, for [`InstanceAllocationStrategy::Pooling`]. All are hints: what limits a guest is its
/// [`ResourceLimiter`](crate::ResourceLimiter), and what is kept warm is found by use.
#[derive(Clone, Debug)]
pub struct PoolingAllocationConfig {
    max_unused_warm_slots: u32,
    decommit_batch_size: usize,
}

impl Default for PoolingAllocationConfig {
    fn default() -> Self {
        Self { max_unused_warm_slots: 100, decommit_batch_size: 1 }
    }
}

impl PoolingAllocationConfig {
    /// Default sizes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A hint that changes nothing: how many instances stay warm follows from how many were in use.
    pub fn max_unused_warm_slots(&mut self, max: u32) -> &mut Self {
        self.max_unused_warm_slots = max;
        self
    }

    /// What [`max_unused_warm_slots`](Self::max_unused_warm_slots) was set to.
    pub fn get_max_unused_warm_slots(&self) -> u32 {
        self.max_unused_warm_slots
    }

    /// A hint that changes nothing: an instance is reset when it is dropped.
    pub fn decommit_batch_size(&mut self, batch_size: usize) -> &mut Self {
        self.decommit_batch_size = batch_size;
        self
    }

    /// What [`decommit_batch_size`](Self::decommit_batch_size) was set to.
    pub fn get_decommit_batch_size(&self) -> usize {
        self.decommit_batch_size
    }

    /// Whether this system has memory protection keys that the allocator uses: it uses none.
    pub fn are_memory_protection_keys_available() -> bool {
        false
    }
}

hints! {
    /// A hint that changes nothing: stacks keep what [`Config::max_wasm_stack`] allows, bounded by the engine.
    async_stack_keep_resident usize;
    /// A hint that changes nothing: how much of a memory stays resident is measured, not chosen.
    linear_memory_keep_resident usize;
    /// A hint that changes nothing: as for memories.
    table_keep_resident usize;
    /// A hint that changes nothing: there is no bound on components.
    total_component_instances u32;
    /// A hint that changes nothing: there is no bound on components.
    max_component_instance_size usize;
    /// A hint that changes nothing: there is no bound on components.
    max_core_instances_per_component u32;
    /// A hint that changes nothing: there is no bound on components.
    max_memories_per_component u32;
    /// A hint that changes nothing: there is no bound on components.
    max_tables_per_component u32;
    /// A hint that changes nothing: memories are made as they are asked for.
    total_memories u32;
    /// A hint that changes nothing: tables are made as they are asked for.
    total_tables u32;
    /// A hint that changes nothing: stacks are made as they are asked for.
    total_stacks u32;
    /// A hint that changes nothing: instances are made as they are asked for.
    total_core_instances u32;
    /// A hint that changes nothing: an instance takes what its module needs.
    max_core_instance_size usize;
    /// A hint that changes nothing: limit a store with [`ResourceLimiter::tables`](crate::ResourceLimiter::tables).
    max_tables_per_module u32;
    /// A hint that changes nothing: limit a store with [`ResourceLimiter::table_growing`](crate::ResourceLimiter::table_growing).
    table_elements usize;
    /// A hint that changes nothing: limit a store with [`ResourceLimiter::memories`](crate::ResourceLimiter::memories).
    max_memories_per_module u32;
    /// A hint that changes nothing: limit a store with [`ResourceLimiter::memory_growing`](crate::ResourceLimiter::memory_growing).
    max_memory_size usize;
    /// A hint that changes nothing: memories are kept apart by address space alone.
    memory_protection_keys Enabled;
    /// A hint that changes nothing: memories are kept apart by address space alone.
    max_memory_protection_keys usize;
    /// A hint that changes nothing.
    total_gc_heaps u32;
    /// A hint that changes nothing: the engine finds out by itself what the system can do.
    pagemap_scan Enabled;
}
