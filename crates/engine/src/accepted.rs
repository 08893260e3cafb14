//! Settings that embedders of other runtimes set, and that change nothing here: each says why. What was set can be read back.

use crate::Config;
use std::num::NonZeroU32;

macro_rules! accepted {
    ($($(#[$doc:meta])* $set:ident $get:ident $name:ident: $ty:ty = $default:expr;)*) => {
        /// What was set.
        #[derive(Clone, Debug)]
        pub(crate) struct Accepted {
            $($set: $ty,)*
        }

        impl Default for Accepted {
            fn default() -> Self {
                Self { $($set: $default,)* }
            }
        }

        /// Settings that are accepted for compatibility and change nothing.
        impl Config {
            $(
                $(#[$doc])*
                pub fn $set(&mut self, $name: $ty) -> &mut Self {
                    self.accepted.$set = $name;
                    self
                }

                #[doc = concat!("What [`", stringify!($set), "`](Self::", stringify!($set), ") was set to.")]
                pub fn $get(&self) -> $ty {
                    self.accepted.$set
                }
            )*
        }
    };
}

/// How values are to be assigned to registers. See [`Config::cranelift_regalloc_algorithm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegallocAlgorithm {
    /// With backtracking: slower to compile, faster to run.
    Backtracking,
    /// In one pass.
    SinglePass,
}

/// How collected values are to be freed. See [`Config::collector`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Collector {
    /// The best there is.
    #[default]
    Auto,
    /// By counting references.
    DeferredReferenceCounting,
    /// Never.
    Null,
    /// By copying what is alive.
    Copying,
}

/// Whether to use something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Enabled {
    /// If the machine has it.
    Auto,
    /// Yes.
    Yes,
    /// No.
    No,
}

accepted! {
    /// Accepted for compatibility and without meaning: every store can call guests as futures.
    async_support get_async_support enable: bool = true;
    /// Accepted for compatibility and without meaning: guests run on stacks of [`max_wasm_stack`](Self::max_wasm_stack) bytes whether they are
    /// called as futures or not, and host functions on the stack of who polls.
    async_stack_size get_async_stack_size bytes: usize = 2 << 20;
    /// Accepted for compatibility and without meaning: a stack is used by one store at a time, and nothing reads what was there before.
    async_stack_zeroing get_async_stack_zeroing enable: bool = false;
    /// Accepted for compatibility and without meaning: branch hints are always read, and tell the optimizing tier which way is rare.
    wasm_branch_hinting get_wasm_branch_hinting enable: bool = false;
    /// Accepted for compatibility and without meaning: names of functions are always kept.
    debug_symbols get_debug_symbols enable: bool = true;
    /// Accepted for compatibility and without meaning: no access reaches below a memory.
    guard_before_linear_memory get_guard_before_linear_memory enable: bool = true;
    /// Accepted for compatibility and without meaning: elements that a module gives its tables are always made when they are first looked at,
    /// where their segments allow it.
    table_lazy_init get_table_lazy_init enable: bool = true;
    /// Accepted for compatibility and without meaning: initial memory content is always mapped copy-on-write where it can be.
    memory_init_cow get_memory_init_cow enable: bool = true;
    /// Accepted for compatibility and without meaning: images are mapped from files, or from anonymous ones.
    force_memory_init_memfd get_force_memory_init_memfd enable: bool = false;
    /// Accepted for compatibility and without meaning: what part of a memory's content is mapped is decided by its gaps.
    memory_guaranteed_dense_image_size get_memory_guaranteed_dense_image_size bytes: u64 = 16 << 20;
    /// Accepted for compatibility and without meaning: address maps are always there.
    generate_address_map get_generate_address_map generate: bool = true;
    /// Accepted for compatibility and without meaning: with [`Config::wasm_threads`] on, a [`SharedMemory`](crate::SharedMemory) can be made.
    shared_memory get_shared_memory enable: bool = false;
    /// Accepted for compatibility and without meaning: the compiler is tested with its verifier, and runs without.
    cranelift_debug_verifier get_cranelift_debug_verifier enable: bool = false;
    /// Accepted for compatibility and without meaning: compiled code has no such checks.
    cranelift_wasmtime_debug_checks get_cranelift_wasmtime_debug_checks enable: bool = false;
    /// Accepted for compatibility and without meaning: the tier chooses how registers are assigned.
    cranelift_regalloc_algorithm get_cranelift_regalloc_algorithm algorithm: RegallocAlgorithm = RegallocAlgorithm::Backtracking;
    /// Accepted for compatibility and without meaning: garbage collection is not implemented.
    collector get_collector collector: Collector = Collector::Auto;
    /// Accepted for compatibility and without meaning: garbage collection is not implemented.
    gc_support get_gc_support enable: bool = true;
    /// Accepted for compatibility and without meaning: garbage collection is not implemented.
    gc_heap_initial_size get_gc_heap_initial_size bytes: u64 = 0;
    /// Accepted for compatibility and without meaning: garbage collection is not implemented.
    gc_heap_reservation get_gc_heap_reservation bytes: u64 = 0;
    /// Accepted for compatibility and without meaning: garbage collection is not implemented.
    gc_heap_guard_size get_gc_heap_guard_size bytes: u64 = 0;
    /// Accepted for compatibility and without meaning: garbage collection is not implemented.
    gc_heap_reservation_for_growth get_gc_heap_reservation_for_growth bytes: u64 = 0;
    /// Accepted for compatibility and without meaning: garbage collection is not implemented.
    gc_heap_may_move get_gc_heap_may_move enable: bool = true;
    /// Accepted for compatibility and without meaning: faults are told by signals on every system.
    macos_use_mach_ports get_macos_use_mach_ports enable: bool = false;
    /// Accepted for compatibility and without meaning: images hold no such data.
    metadata_for_internal_asserts get_metadata_for_internal_asserts enable: bool = false;
    /// Accepted for compatibility and without meaning: images hold no such data.
    metadata_for_gc_heap_corruption get_metadata_for_gc_heap_corruption enable: bool = false;
    /// Accepted for compatibility and without meaning: several calls of one store cannot be under way at once.
    concurrency_support get_concurrency_support enable: bool = false;
    /// Accepted for compatibility and without meaning: there are no component adapters.
    debug_adapter_modules get_debug_adapter_modules enable: bool = false;
}

impl Config {
    /// Accepted for compatibility and without meaning: garbage collection is not implemented.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn gc_zeal_alloc_counter(&mut self, counter: Option<NonZeroU32>) -> crate::Result<&mut Self> {
        let _ = counter;
        Ok(self)
    }

    /// Accepted for compatibility and without meaning: code passes floats in vector registers whatever the host does.
    ///
    /// # Safety
    ///
    /// There is nothing to promise.
    #[expect(unsafe_code, reason = "so that programs that write `unsafe` compile")]
    pub unsafe fn x86_float_abi_ok(&mut self, enable: bool) -> &mut Self {
        let _ = enable;
        self
    }
}
