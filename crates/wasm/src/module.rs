//! The description of one module: everything but the bodies of its functions.
//!
//! Made by the frontend, stored in an image, read by tiers and engine. Core specification, section 2.5.

use crate::{
    ConstExpr, DataIndex, DefinedFuncIndex, DefinedGlobalIndex, DefinedMemoryIndex, DefinedTableIndex, ElementIndex, EntityIndex,
    EntityType, FuncIndex, FuncType, GlobalIndex, GlobalType, IndexVec, MemoryIndex, MemoryType, RefType, TableIndex, TableType, TagIndex,
    TagType, TypeIndex,
};
use serde::{Deserialize, Serialize};

/// One module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// The module's own name, from the name section.
    pub name: Option<Box<str>>,
    /// Function types.
    pub types: IndexVec<TypeIndex, FuncType>,
    /// Imports, in order.
    pub imports: Vec<Import>,
    /// Functions: the imported ones first.
    #[serde(with = "crate::packed::functions")]
    pub functions: IndexVec<FuncIndex, FunctionDecl>,
    /// Tables: the imported ones first.
    pub tables: IndexVec<TableIndex, Table>,
    /// Linear memories: the imported ones first.
    pub memories: IndexVec<MemoryIndex, MemoryType>,
    /// Defined memories that are exported.
    pub exported_memories: Vec<MemoryIndex>,
    /// Defined memories that the code may grow: all that it does grow, and possibly more. Memories of more than 1 MiB, with 64-bit
    /// addresses or shared are not looked for.
    pub grown_memories: Vec<MemoryIndex>,
    /// Globals: the imported ones first.
    pub globals: IndexVec<GlobalIndex, Global>,
    /// Tags: the imported ones first.
    pub tags: IndexVec<TagIndex, TagType>,
    /// How many of `functions` are imported.
    pub imported_functions: u32,
    /// How many of `tables` are imported.
    pub imported_tables: u32,
    /// How many of `memories` are imported.
    pub imported_memories: u32,
    /// How many of `globals` are imported.
    pub imported_globals: u32,
    /// How many of `tags` are imported.
    pub imported_tags: u32,
    /// How many functions escape: the length of an instance's array of function references.
    pub escaping_functions: u32,
    /// Exports, in order.
    pub exports: Vec<Export>,
    /// The function that instantiation ends with.
    pub start: Option<FuncIndex>,
    /// Element segments.
    pub elements: IndexVec<ElementIndex, ElementSegment>,
    /// Data segments.
    pub data: IndexVec<DataIndex, DataSegment>,
    /// Custom sections other than names and debugging information.
    pub custom_sections: Vec<CustomSection>,
}

/// What is known of a function without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDecl {
    /// Its type.
    pub ty: TypeIndex,
    /// If it can be reached other than by a direct call (it is exported, in an element segment, named by `ref.func`, or the start
    /// function): its position in the instance's array of function references.
    pub func_ref: Option<u32>,
}

/// A table and what its elements are at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its type.
    pub ty: TableType,
    /// The initial value of every element, for a defined table that has one; null otherwise.
    pub init: Option<ConstExpr>,
}

/// A global and its initial value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Global {
    /// Its type.
    pub ty: GlobalType,
    /// The initial value; `None` for imported globals.
    pub init: Option<ConstExpr>,
}

/// One import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// First part of the name.
    pub module: Box<str>,
    /// Second part of the name.
    pub name: Box<str>,
    /// The index that it fills.
    pub entity: EntityIndex,
}

/// One export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The name, unique in the module.
    pub name: Box<str>,
    /// What is exported.
    pub entity: EntityIndex,
}

/// One element segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElementSegment {
    /// Type of the elements.
    pub element: RefType,
    /// What instantiation does with it.
    pub mode: ElementMode,
    /// The elements.
    pub items: ElementItems,
}

/// What instantiation does with an element segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElementMode {
    /// Copied to a table.
    Active {
        /// The table.
        table: TableIndex,
        /// Where in the table.
        offset: ConstExpr,
    },
    /// Kept for `table.init`.
    Passive,
    /// Only declares functions for `ref.func`.
    Declared,
}

/// The elements of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElementItems {
    /// References to these functions.
    Functions(#[serde(with = "crate::packed::elements")] Box<[FuncIndex]>),
    /// One expression for each element.
    Expressions(Box<[ConstExpr]>),
}

impl ElementItems {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Functions(items) => items.len(),
            Self::Expressions(items) => items.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One data segment. Its bytes are in the data section of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSegment {
    /// What instantiation does with it.
    pub mode: DataMode,
    /// Where its bytes begin, in the binary (frontend) or in the image's data section (engine).
    pub start: u64,
    /// How many bytes there are.
    pub len_bytes: u64,
}

/// What instantiation does with a data segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataMode {
    /// Copied to a memory.
    Active {
        /// The memory.
        memory: MemoryIndex,
        /// Where in the memory.
        offset: ConstExpr,
    },
    /// Kept for `memory.init`.
    Passive,
}

/// A custom section, as a range of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomSection {
    /// Its name.
    pub name: Box<str>,
    /// Where its bytes begin, in the binary (frontend) or in the image's custom section (engine).
    pub start: u64,
    /// How many bytes there are.
    pub len_bytes: u64,
}

impl Module {
    /// The type of function `index`.
    pub fn func_type(&self, index: FuncIndex) -> &FuncType {
        &self.types[self.functions[index].ty]
    }

    /// How many functions have a body in this module.
    pub fn defined_functions(&self) -> usize {
        self.functions.len() - self.imported_functions as usize
    }

    /// The position among defined functions, or `None` for an import.
    pub fn defined_func_index(&self, index: FuncIndex) -> Option<DefinedFuncIndex> {
        index.as_u32().checked_sub(self.imported_functions).map(DefinedFuncIndex::from_u32)
    }

    /// The function at a position among the defined ones.
    pub fn func_index(&self, index: DefinedFuncIndex) -> FuncIndex {
        FuncIndex::from_u32(self.imported_functions + index.as_u32())
    }

    /// The position among defined tables, or `None` for an import.
    pub fn defined_table_index(&self, index: TableIndex) -> Option<DefinedTableIndex> {
        index.as_u32().checked_sub(self.imported_tables).map(DefinedTableIndex::from_u32)
    }

    /// The position among defined memories, or `None` for an import.
    pub fn defined_memory_index(&self, index: MemoryIndex) -> Option<DefinedMemoryIndex> {
        index.as_u32().checked_sub(self.imported_memories).map(DefinedMemoryIndex::from_u32)
    }

    /// The position among defined globals, or `None` for an import.
    pub fn defined_global_index(&self, index: GlobalIndex) -> Option<DefinedGlobalIndex> {
        index.as_u32().checked_sub(self.imported_globals).map(DefinedGlobalIndex::from_u32)
    }

    /// The type of what an import or export names.
    pub fn entity_type(&self, entity: EntityIndex) -> EntityType {
        match entity {
            EntityIndex::Function(index) => EntityType::Function(self.functions[index].ty),
            EntityIndex::Table(index) => EntityType::Table(self.tables[index].ty),
            EntityIndex::Memory(index) => EntityType::Memory(self.memories[index]),
            EntityIndex::Global(index) => EntityType::Global(self.globals[index].ty),
            EntityIndex::Tag(index) => EntityType::Tag(self.tags[index]),
        }
    }

    /// The export called `name`.
    pub fn export(&self, name: &str) -> Option<&Export> {
        self.exports.iter().find(|export| &*export.name == name)
    }
}
