//! What engines and stores did and hold, as plain numbers. Always counted; what has to be looked up is looked up when it is asked for.

use crate::context::AsContext;
use crate::vm::VmInstance;
use crate::vm::alloc::Counting;
use crate::vm::alloc::lease::ModuleRef;
use crate::vm::interrupt::failed_interruptions;
use crate::{Engine, Store, StoreContext, TieringMetrics};
use peregrine_sys::forks;
use std::time::Duration;

/// What an [`Engine`] did so far and holds. Made by [`Engine::metrics`].
///
/// Counters of threads that are at work at the moment may lag behind by what they are just doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineMetrics {
    /// Stores made.
    pub stores_created: u64,
    /// Stores that have not been dropped.
    pub stores_live: u64,
    /// Instances made.
    pub instances_created: u64,
    /// Instances that have not been dropped.
    pub instances_live: u64,
    /// Instances that were made of a warm slot: without mapping anything.
    pub slots_warm: u64,
    /// Instances whose memories and tables were mapped anew.
    pub slots_cold: u64,
    /// Slots that are warm and unused now.
    pub slots_idle: u64,
    /// Address space of the unused warm slots, in bytes.
    pub slots_idle_reserved_bytes: u64,
    /// Slots that were unmapped because there were enough warm ones.
    pub slots_surplus: u64,
    /// Slots that were unmapped, and never used again, because resetting them failed.
    pub slots_quarantined: u64,
    /// Guest stacks that went back to the engine at the end of a call, because many stores had one.
    pub stacks_returned: u64,
    /// Guest stacks that no store has now.
    pub stacks_idle: u64,
    /// Bytes of memories and tables that are mapped and accessible: of the instances of all stores, of shared memories, and of the unused warm
    /// slots. Memory of a [`MemoryCreator`](crate::MemoryCreator), stacks and code are not among them. What of it is in physical memory says
    /// [`Engine::resident_bytes`].
    pub mapped_bytes: u64,
    /// Address space of the same, in bytes, with what they may grow to and their guards.
    pub reserved_bytes: u64,
    /// Calls from the host that entered a guest, in all stores that there are and were.
    pub calls: u64,
    /// Calls that ended with a trap, in all stores that there are and were.
    pub traps: u64,
    /// Time that guests ran, in all stores that there are and were and that [measured it](Store::measure_time_in_guest). Of a guest that runs
    /// now, up to when the host was called last.
    pub time_in_guest: Duration,
    /// How often guests stopped for a moment that nobody had asked to stop. Where the process has no mapping left to interrupt one guest alone
    /// (`vm.max_map_count`), up to 63 others stop at each turn of their loops until that one has stopped, a microsecond each time.
    pub looks_in_vain: u64,
    /// Interruptions (of an epoch, a deadline or a handle) that did not reach guest code that was running, because the system had no memory to make
    /// them known: of all engines of the process, as they share what is used for it. Each attempt counts. The guest stops at its next call of the
    /// host.
    pub interruptions_failed: u64,
    /// Modules compiled; where functions are compiled one by one, modules that were made ready for it.
    pub modules_compiled: u64,
    /// Of these, how many were compiled ahead although the [strategy](crate::Strategy) compiles functions when they are called: modules with more
    /// than some 170 MB of code.
    pub modules_too_large: u64,
    /// Time spent on that.
    pub compile_time: Duration,
    /// Functions that the baseline compiled at their first call.
    pub baseline_functions: u64,
    /// Time that took, on the threads that called.
    pub baseline_time: Duration,
    /// Functions, and loops as entries of their own, that the optimizing tier compiled because they were hot.
    pub optimized_functions: u64,
    /// Time that took, on threads in the background.
    pub optimizing_time: Duration,
    /// Function types that modules, functions and the host hold now.
    pub function_types: u64,
    /// Modules that were found in the [cache](crate::Config::cache).
    pub cache_hits: u64,
    /// Modules that were looked for in the cache and not found, or found damaged.
    pub cache_misses: u64,
}

/// What a [`Store`] did so far and holds. Made by [`Store::metrics`].
///
/// Modules belong to the engine and are shared by stores: what compiling them took, and whether the cache had them, is in [`EngineMetrics`] and
/// [`Store::tiering_metrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreMetrics {
    /// Instances made, those that were dropped since included.
    pub instances_created: u64,
    /// Of them, those that were made of a warm slot: without mapping anything.
    pub slots_warm: u64,
    /// Of them, those whose memories and tables were mapped anew.
    pub slots_cold: u64,
    /// Instances, those that the host's own memories, tables and globals count as included.
    pub instances_live: u64,
    /// Linear memories.
    pub memories: u64,
    /// Tables.
    pub tables: u64,
    /// Sizes of the linear memories together, in bytes, as guests see them.
    pub memory_bytes: u64,
    /// Bytes of memories and tables that are mapped and accessible.
    pub mapped_bytes: u64,
    /// Address space of memories and tables, in bytes.
    pub reserved_bytes: u64,
    /// Bytes of the host's own memory that are held for the guests: what [`Budget::host_bytes`](crate::Budget::host_bytes) limits.
    pub host_bytes: u64,
    /// Calls of guests by the host, those that were interrupted before they began included.
    pub calls: u64,
    /// Calls that ended with a trap.
    pub traps: u64,
    /// Time that guests ran, if it is [measured](Store::measure_time_in_guest), which costs more than a call does.
    pub time_in_guest: Duration,
}

impl Engine {
    /// Counts that a module was found in the cache, or was not.
    pub(crate) fn count_cached(&self, is_found: bool) {
        self.shared().counters.add(if is_found { Counting::CacheHits } else { Counting::CacheMisses }, 1);
        if let Some(cache) = &self.config().cache {
            cache.count(is_found);
        }
    }

    /// What the engine did so far and holds.
    ///
    /// ```
    /// use peregrine::{Engine, Instance, Module, Store};
    ///
    /// let engine = Engine::default();
    /// let module = Module::new(&engine, "(module (memory 1))")?;
    /// for _ in 0..10 {
    ///     Instance::new(Store::new(&engine, ()), &module, &[])?;
    /// }
    /// let metrics = engine.metrics();
    /// assert_eq!((metrics.instances_created, metrics.instances_live), (10, 0));
    /// assert_eq!((metrics.slots_cold, metrics.slots_warm, metrics.slots_idle), (1, 9, 1));
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn metrics(&self) -> EngineMetrics {
        let shared = self.shared();
        let get = |what| shared.counters.get(what);
        let time = |what| Duration::from_nanos(get(what));
        let (stores_created, stores_live) = self.pool().leases();
        let instances_created = get(Counting::SlotsWarm) + get(Counting::SlotsCold) + get(Counting::InstancesOfHost);
        // Inside of the gate for a part at a time: a fork does not wait for all instances.
        let (used, mapped) = (shared.stores_used.all(), shared.room.mappings().mapped());
        let (stacks_idle, function_types) = {
            // A child process finds neither list locked.
            let _inside = forks::enter();
            (shared.stacks.warm_count() as u64, shared.types.count() as u64)
        };
        EngineMetrics {
            stores_created,
            stores_live,
            instances_created,
            // A thread's drop may be seen before another's creation.
            instances_live: instances_created.saturating_sub(get(Counting::InstancesDropped)),
            slots_warm: get(Counting::SlotsWarm),
            slots_cold: get(Counting::SlotsCold),
            slots_idle: shared.idle.slots() as u64,
            slots_idle_reserved_bytes: shared.idle.bytes() as u64,
            slots_surplus: get(Counting::SlotsSurplus),
            slots_quarantined: get(Counting::SlotsQuarantined),
            stacks_returned: get(Counting::StacksReturned),
            stacks_idle,
            calls: used.calls,
            traps: used.traps,
            mapped_bytes: mapped.committed_bytes,
            reserved_bytes: mapped.reserved_bytes,
            looks_in_vain: get(Counting::LooksInVain),
            interruptions_failed: failed_interruptions(),
            modules_compiled: get(Counting::ModulesCompiled),
            modules_too_large: get(Counting::ModulesTooLarge),
            compile_time: time(Counting::CompileNanoseconds),
            time_in_guest: Duration::from_nanos(used.guest_nanoseconds),
            baseline_functions: get(Counting::BaselineFunctions),
            baseline_time: time(Counting::BaselineNanoseconds),
            optimized_functions: get(Counting::OptimizedFunctions),
            optimizing_time: time(Counting::OptimizingNanoseconds),
            function_types,
            cache_hits: get(Counting::CacheHits),
            cache_misses: get(Counting::CacheMisses),
        }
    }
}

impl Engine {
    /// How many bytes of the memories and tables of the engine ([`EngineMetrics::mapped_bytes`] are those that could be) are in physical memory
    /// now. Pages that were only read, and are one page of zeroes or the content of the module's file, count as well.
    ///
    /// Looks at the system's map of each page, of all stores together: a microsecond for a small memory, and some milliseconds for each GiB.
    /// What other threads map and unmap meanwhile may be counted or not.
    ///
    /// ```
    /// use peregrine::{Engine, Instance, Module, Store};
    ///
    /// let module = Module::new(&Engine::default(), r#"(module (memory (export "memory") 10))"#)?;
    /// let mut store = Store::new(module.engine(), ());
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// let before = module.engine().resident_bytes()?;
    /// instance.get_memory(&mut store, "memory").unwrap().data_mut(&mut store)[..100_000].fill(1);
    /// assert!((100_000..200_000).contains(&(module.engine().resident_bytes()? - before)));
    /// assert!(module.engine().metrics().mapped_bytes >= 655_360);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the system said, where it does not tell.
    pub fn resident_bytes(&self) -> crate::Result<u64> {
        Ok(peregrine_sys::residence::resident_bytes(self.shared().room.mappings().accessible())?)
    }
}

impl<T: 'static> Store<T> {
    /// What the store did so far and holds.
    ///
    /// ```
    /// use peregrine::{Engine, Instance, Module, Store};
    ///
    /// let module = Module::new(&Engine::default(), r#"(module (memory 2) (func (export "run")))"#)?;
    /// let mut store = Store::new(module.engine(), ());
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
    /// let metrics = store.metrics();
    /// assert_eq!((metrics.instances_live, metrics.calls, metrics.memory_bytes), (1, 1, 131_072));
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn metrics(&self) -> StoreMetrics {
        self.as_context().metrics()
    }

    /// What was compiled so far of the modules that the store has instances of, and what for, in all of their stores together: modules share
    /// their code.
    ///
    /// ```
    /// use peregrine::{Config, Engine, Instance, Module, Store, Strategy};
    ///
    /// let engine = Engine::new(Config::new().strategy(Strategy::Baseline))?;
    /// let module = Module::new(&engine, r#"(module (func (export "run")) (func (export "rest")))"#)?;
    /// let mut store = Store::new(&engine, ());
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// Instance::new(&mut store, &module, &[])?;
    /// instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
    /// let metrics = store.tiering_metrics();
    /// assert_eq!((metrics.functions, metrics.baseline_functions, metrics.optimized_functions), (2, 1, 0));
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn tiering_metrics(&self) -> TieringMetrics {
        let context = self.as_context();
        let mut modules: Vec<ModuleRef> = context.0.opaque.vm.live_instances().map(VmInstance::module).collect();
        modules.sort_by_key(|module| std::ptr::from_ref(&**module));
        modules.dedup_by_key(|module| std::ptr::from_ref(&**module));
        let mut all = TieringMetrics::default();
        modules.iter().filter_map(|module| Some(module.tiering()?.metrics(module))).for_each(|metrics| all.add(&metrics));
        all
    }

    /// How many bytes of the store's memories and tables are in physical memory now.
    ///
    /// # Errors
    ///
    /// What the system said, where it does not tell.
    pub fn resident_bytes(&self) -> crate::Result<u64> {
        Ok(self.as_context().0.opaque.vm.resident_bytes()?)
    }
}

impl<T: 'static> StoreContext<'_, T> {
    /// As [`Store::metrics`].
    pub fn metrics(&self) -> StoreMetrics {
        let vm = &self.0.opaque.vm;
        let used = vm.used().so_far();
        let (slots_warm, slots_cold) = vm.slots_warm_and_cold();
        let mut metrics = StoreMetrics {
            instances_created: vm.instances_made(),
            slots_warm,
            slots_cold,
            calls: used.calls,
            traps: used.traps,
            host_bytes: self.0.opaque.counts.host_bytes() as u64,
            time_in_guest: self.0.opaque.guest_clock.total(),
            ..StoreMetrics::default()
        };
        for instance in vm.live_instances() {
            metrics.instances_live += 1;
            metrics.memories += instance.memories.len() as u64;
            metrics.tables += instance.tables.len() as u64;
            metrics.memory_bytes += instance.memories.values().map(|memory| memory.len_bytes() as u64).sum::<u64>();
            metrics.mapped_bytes += instance.backings().map(|backing| backing.committed_bytes() as u64).sum::<u64>();
            metrics.reserved_bytes += instance.reserved_bytes() as u64;
        }
        metrics
    }
}
