//! Questions to an engine that have one answer here, and what it can be told early.

use crate::vm::boundary;
use crate::{Collector, Engine, Inlining, OptLevel, PoolingAllocationConfig, RegallocAlgorithm, Strategy, WasmFeatures};

impl Engine {
    /// Whether code is interpreted: it is not.
    pub fn is_pulley(&self) -> bool {
        false
    }

    /// Whether what happens is recorded to be replayed: it is not.
    pub fn is_recording(&self) -> bool {
        false
    }

    /// Whether what happens was recorded: it was not.
    pub fn is_replaying(&self) -> bool {
        false
    }

    /// Makes what the first call of a guest on this thread would make: the stack on which faults are handled. For threads whose first call
    /// must not be slower than the others.
    ///
    /// # Panics
    ///
    /// If the system has no memory left for it.
    pub fn tls_eager_initialize() {
        crate::vm::prepare_thread().expect("the system has memory for a thread's signal stack");
    }
}

macro_rules! settings {
    ($($get:ident -> $ty:ty;)*) => {
        /// The settings that the engine was made with, as [`Config`](crate::Config) has them.
        impl Engine {
            $(
                #[doc = concat!("As [`Config::", stringify!($get), "`](crate::Config::", stringify!($get), ").")]
                pub fn $get(&self) -> $ty {
                    self.config().$get()
                }
            )*
        }
    };
}

settings! {
    get_memory_may_move -> bool;
    get_memory_reservation -> u64;
    get_memory_reservation_for_growth -> u64;
    get_memory_guard_size -> u64;
    get_gc_heap_may_move -> bool;
    get_gc_heap_reservation -> u64;
    get_gc_heap_initial_size -> u64;
    get_gc_heap_reservation_for_growth -> u64;
    get_gc_heap_guard_size -> u64;
    get_guard_before_linear_memory -> bool;
    get_table_lazy_init -> bool;
    get_memory_init_cow -> bool;
    get_memory_guaranteed_dense_image_size -> u64;
    get_signals_based_traps -> bool;
    get_cranelift_opt_level -> Option<OptLevel>;
    get_strategy -> Option<Strategy>;
    get_compiler_inlining -> Inlining;
    get_native_unwind_info -> Option<bool>;
    get_parallel_compilation -> bool;
    get_metadata_for_internal_asserts -> bool;
    get_metadata_for_gc_heap_corruption -> bool;
    get_pooling_config -> Option<&PoolingAllocationConfig>;
    get_wasm_features -> WasmFeatures;
    get_async_stack_size -> usize;
    get_async_stack_zeroing -> bool;
    get_wasm_branch_hinting -> bool;
    get_concurrency_support -> bool;
    get_epoch_interruption -> bool;
    get_consume_fuel -> bool;
    get_max_wasm_stack -> usize;
    get_cranelift_nan_canonicalization -> Option<bool>;
    get_relaxed_simd_deterministic -> bool;
    get_shared_memory -> bool;
    get_generate_address_map -> bool;
    get_debug_info -> bool;
    get_guest_debug -> bool;
    get_debug_symbols -> bool;
    get_wasm_backtrace_max_frames -> usize;
    get_target -> Option<String>;
}

impl Engine {
    /// As [`Config::get_cranelift_regalloc_algorithm`](crate::Config::get_cranelift_regalloc_algorithm).
    pub fn get_cranelift_regalloc_algorithm(&self) -> Option<RegallocAlgorithm> {
        Some(self.config().get_cranelift_regalloc_algorithm())
    }

    /// As [`Config::get_collector`](crate::Config::get_collector).
    pub fn get_collector(&self) -> Option<Collector> {
        Some(self.config().get_collector())
    }

    /// As [`Config::get_cranelift_debug_verifier`](crate::Config::get_cranelift_debug_verifier).
    pub fn get_cranelift_debug_verifier(&self) -> Option<bool> {
        Some(self.config().get_cranelift_debug_verifier())
    }

    /// Flags of the compiler that were switched on: none, as the one that can be, `preserve_frame_pointers`, is always on.
    pub fn get_cranelift_flags_enabled(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    /// Flags of the compiler that were set: none can be.
    pub fn get_cranelift_flags_set(&self) -> impl Iterator<Item = (&str, &str)> {
        std::iter::empty()
    }

    /// Takes back what the engine changed in the process: the handlers of the signals that faults of guests cause. The first call of a guest
    /// in a store that had none yet installs them again; stores that had one rely on them without looking.
    ///
    /// Code of the engine stays where it is: each thread that called a guest calls some when it ends. A shared object that the engine is part of is
    /// therefore not unloaded before the process ends, whoever closes it.
    ///
    /// # Panics
    ///
    /// If there are other handles of the engine: modules and stores are.
    ///
    /// # Safety
    ///
    /// 1. No guest of any engine of the process runs meanwhile.
    /// 2. No store of any engine of the process that has run a guest runs one again: its next trap may end the process.
    #[expect(unsafe_code, reason = "the caller promises that no guest runs, and none of an older store will")]
    pub unsafe fn unload_process_handlers(self) {
        assert!(self.is_only_handle(), "the engine is still in use");
        boundary::unload_fault_handlers().expect("actions of signals that were read before can be set");
    }
}
