//! The machine: loaded code, instances and the stack they run on. One of the rooms where unsafe code lives.
//!
//! ```text
//! image --code/load--> LoadedModule --instantiate--> VmInstance in a VmStore
//! call --entry--> guest code --veneer--> builtins | host functions
//! fault --fault/classify--> landing --entry--> Err(Pending)
//! ```
//!
//! Everything here works on raw contexts and is called by the API in the rest of this crate, which owns stores and checks
//! handles and types.

pub(crate) mod address_space;
pub(crate) mod adopted;
pub(crate) mod alloc;
pub(crate) mod async_call;
pub(crate) mod boundary;
pub(crate) mod builtins;
pub(crate) mod code;
pub(crate) mod creators;
pub(crate) mod dropping;
pub(crate) mod entry;
pub(crate) mod fault;
pub(crate) mod growth;
pub(crate) mod hooked_call;
pub(crate) mod host;
pub(crate) mod instance;
pub(crate) mod instantiate;
pub(crate) mod interrupt;
mod interrupt_pages;
pub(crate) mod memory;
pub(crate) mod owned_instance;
pub(crate) mod parking;
pub(crate) mod pending;
pub(crate) mod preempt;
pub(crate) mod references;
pub(crate) mod register_entry;
pub(crate) mod shared_memory;
pub(crate) mod store;
mod store_host;
pub(crate) mod suspend;
pub(crate) mod table;
pub(crate) mod types;
mod unchecked;
pub(crate) mod value;

pub(crate) use async_call::{AsyncHostBody, GuestCall, async_host_entry};
pub(crate) use code::{BlobKind, CellContent, InstallError, LoadError, LoadOptions, LoadedModule, ModuleNumber, TieredCode};
pub(crate) use dropping::{Held, MOST_DROPS};
pub(crate) use entry::call;
pub(crate) use entry::prepare_thread;
pub(crate) use fault::walk::{RawFrame, backtrace};
pub(crate) use growth::{Asking, Growth};
pub(crate) use host::{HOST_FUNC_BYTES, HostCode, HostCodes};
pub(crate) use instance::{FuncId, InstanceId, VmInstance};
pub(crate) use instantiate::VmImport;
pub(crate) use interrupt::{Cause, InterruptPage, Raised};
pub(crate) use memory::NotGrown;
pub(crate) use owned_instance::OwnedInstance;
pub use parking::WaitResult;
pub(crate) use pending::Pending;
pub(crate) use preempt::Interruption;
pub(crate) use shared_memory::SharedMemory;
pub(crate) use store::{DEFAULT_FRAMES, Unusual, VmShared, VmStore, is_no_room};
pub(crate) use store_host::StoreHost;
pub(crate) use types::HeldTypes;
pub use value::ValRaw;

#[cfg(test)]
mod tests;
