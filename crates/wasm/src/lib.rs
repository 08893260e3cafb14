//! What a WebAssembly module is.
//!
//! Plain descriptions, free of any compiler or engine: index spaces, types, constant expressions, modules, traps,
//! features and limits. The frontend makes them, every other layer reads them. No I/O, no unsafe code.
#![forbid(unsafe_code)]

mod const_expr;
mod features;
mod index;
mod limits;
mod module;
mod packed;
mod trap;
mod types;

pub use const_expr::{ConstExpr, ConstOp};
pub use features::Features;
pub use index::{
    DataIndex, DefinedFuncIndex, DefinedGlobalIndex, DefinedMemoryIndex, DefinedTableIndex, ElementIndex, EntityIndex, FuncIndex,
    GlobalIndex, Index, IndexVec, MemoryIndex, TableIndex, TagIndex, TypeIndex,
};
pub use limits::ModuleLimits;
pub use module::{
    CustomSection, DataMode, DataSegment, ElementItems, ElementMode, ElementSegment, Export, FunctionDecl, Global, Import, Module, Table,
};
pub use trap::Trap;
pub use types::{EntityType, FuncType, GlobalType, HeapType, MemoryType, RefType, TableType, TagType, ValType};
