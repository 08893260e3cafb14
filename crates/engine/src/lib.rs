//! Runs artifacts and embeds them: Engine, Module, Store, Instance, Linker.
//!
//! Programs depend on the `peregrine` crate, which is this one with a compiler linked in. The engine knows no compiler: it finds what is
//! linked in through [`COMPILERS`], and without one it still loads and runs images.
//!
//! ```text
//! bytes --Module::new--> (compiler) --> image --vm/code--> Module --Linker, Instance--> Instance in a Store
//! ```
//!
//! All unsafe code is in `vm`; the rest checks handles, types and limits before it calls the machine.
#![deny(missing_docs)]
#![deny(unsafe_code)]

mod accepted;
mod async_func;
mod async_limits;
mod at_once;
mod backtrace;
mod binary;
mod budget;
mod cache;
mod cache_config;
mod call_hook;
mod caller;
mod choices;
mod collected;
mod compat;
mod config;
mod context;
mod core_dump;
mod deadline;
mod engine;
mod engine_facts;
pub mod error;
mod exhausted;
mod exit_stubs;
mod extern_ref;
mod externals;
mod file_pieces;
mod func;
mod gdb_elf;
mod global;
mod guest_profile;
mod guest_profiler;
mod host_func;
mod instance;
mod interruption;
mod kept;
mod kept_profile;
mod limiter;
mod limits;
mod linker;
mod made_once;
mod matching;
mod memory;
mod metrics;
mod module;
mod module_facts;
mod module_file;
mod pooling;
mod profile;
mod rooting;
mod shared_memory;
mod store;
mod symbols;
mod table;
mod tag;
mod tiering;
mod typed;
mod types;
mod val;
mod verified;
#[allow(unsafe_code, reason = "the machine")]
pub(crate) mod vm;
mod wasm_features;

pub use accepted::{Collector, Enabled, RegallocAlgorithm};
pub use async_limits::{GrowthFuture, ResourceLimiterAsync};
pub use backtrace::{FrameInfo, FrameSymbol, WasmBacktrace};
pub use budget::Budget;
pub use cache::Cache;
pub use cache_config::CacheConfig;
pub use call_hook::{CallHook, CallHookHandler};
pub use caller::Caller;
pub use collected::{
    AnyRef, ArrayRef, ContRef, EqRef, ExnRef, GcHeapOutOfMemory, I31, NoExtern, NoFunc, NoneRef, StructRef, ThrownException,
};
pub use config::{
    CacheStore, Config, CustomCodeMemory, Inlining, ModuleVersionStrategy, OptLevel, ProfilingStrategy, Strategy, WasmBacktraceDetails,
};
pub use context::{AsContext, AsContextMut, StoreContext, StoreContextMut};
pub use core_dump::WasmCoreDump;
pub use engine::{Engine, EngineWeak, Precompiled};
pub use error::{Context, Error, OutOfMemory, Result, ToWasmtimeResult, bail, ensure, format_err};
pub use extern_ref::ExternRef;
pub use externals::{Export, Extern};
pub use func::Func;
pub use global::Global;
pub use guest_profiler::GuestProfiler;
pub use host_func::IntoFunc;
pub use instance::{Instance, InstancePre};
pub use interruption::UpdateDeadline;
pub use limits::{DEFAULT_INSTANCE_LIMIT, DEFAULT_MEMORY_LIMIT, DEFAULT_TABLE_LIMIT, ResourceLimiter, StoreLimits, StoreLimitsBuilder};
pub use linker::Linker;
pub use matching::UnknownImportError;
pub use memory::{Memory, MemoryAccessError};
pub use metrics::{EngineMetrics, StoreMetrics};
pub use module::{Module, ModuleExport};
pub use module_facts::{CodeBuilder, CodeHint, ModuleFunction, ResourcesRequired, StaticModuleIndex};
pub use peregrine_artifact::compiler::Progress;
pub use peregrine_artifact::profile::{FunctionProfile, Profile, ProfileError, SiteProfile};
pub use peregrine_wasm::{DefinedFuncIndex, FuncIndex, Trap};
pub use pooling::{InstanceAllocationStrategy, PoolConcurrencyLimitError, PoolingAllocationConfig};
pub use rooting::{GcRef, OwnedRooted, RootScope, Rooted, RootedGcRef};
pub use shared_memory::SharedMemory;
pub use store::Store;
pub use table::Table;
pub use tag::Tag;
pub use tiering::{TieringMetrics, TieringStress};
pub use typed::{TypedFunc, WasmParams, WasmResults, WasmRet, WasmTy, WasmTyList};
pub use types::{
    ArrayType, ContType, ExnType, ExportType, ExternType, FieldType, Finality, FuncType, GlobalType, HeapType, ImportType, MemoryType,
    MemoryTypeBuilder, Mutability, RefType, StorageType, StructType, TableType, TagType, ValType,
};
pub use val::{Ref, V128, Val};
pub use vm::creators::{LinearMemory, MemoryCreator, StackCreator, StackMemory};
pub use vm::{ValRaw, WaitResult};
pub use wasm_features::WasmFeatures;

use peregrine_artifact::compiler::CompilerEntry;

/// Compilers that are linked into the program. Crates above the engine add to it; an engine uses what its
/// [`strategy`](Config::strategy) says.
#[linkme::distributed_slice]
pub static COMPILERS: [CompilerEntry];
