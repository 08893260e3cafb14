//! Types of values and of everything that can be imported or exported, as embedders see them.
//!
//! They are the descriptions of `peregrine_wasm` with function types resolved to identities of one engine, so that two of them can be
//! compared whatever modules they come from. Core specification, section 2.3 (types) and 3.3 (matching).

mod composite;
mod default_value;
mod externs;
mod func;
mod tag;
mod value;

pub use composite::{ArrayType, FieldType, Finality, StorageType, StructType};
pub use externs::{ExportType, ExternType, GlobalType, ImportType, MemoryType, MemoryTypeBuilder, Mutability, TableType};
pub use func::FuncType;
pub use tag::{ContType, ExnType, TagType};
pub(crate) use value::canonical;
pub use value::{HeapType, RefType, ValType};
