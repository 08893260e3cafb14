//! Types of what is imported and exported.

use super::{FuncType, RefType, TagType, ValType, canonical};
use crate::error::{Result, ensure};
use crate::vm::VmShared;
use peregrine_wasm as wasm;
use peregrine_wasm::Index;
use std::fmt;
use std::sync::Arc;

/// The type of an import or export.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExternType {
    /// A function.
    Func(FuncType),
    /// A global.
    Global(GlobalType),
    /// A table.
    Table(TableType),
    /// A linear memory.
    Memory(MemoryType),
    /// A tag of exceptions.
    Tag(TagType),
}

/// Whether a global may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutability {
    /// It keeps its first value.
    Const,
    /// It may be written.
    Var,
}

/// The type of a global.
///
/// ```
/// use peregrine::{GlobalType, Mutability, ValType};
///
/// let ty = GlobalType::new(ValType::I32, Mutability::Var);
/// assert!(ty.content().is_i32());
/// assert_eq!(ty.to_string(), "(global (mut i32))");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GlobalType {
    content: ValType,
    mutability: Mutability,
}

/// The type of a table. Sizes count elements.
///
/// ```
/// use peregrine::{RefType, TableType};
///
/// let ty = TableType::new(RefType::FUNCREF, 10, Some(20));
/// assert_eq!((ty.minimum(), ty.maximum()), (10, Some(20)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableType {
    element: RefType,
    is_64: bool,
    min: u64,
    max: Option<u64>,
}

/// The type of a linear memory. Sizes count pages of [`page_size`](Self::page_size) bytes.
///
/// ```
/// use peregrine::MemoryType;
///
/// let ty = MemoryType::new(1, Some(16));
/// assert_eq!(ty.minimum() * ty.page_size(), 65536);
/// assert!(!ty.is_64());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemoryType {
    pub(crate) ty: wasm::MemoryType,
}

/// Makes a [`MemoryType`] that [`MemoryType::new`] cannot: with 64-bit addresses, shared, or with pages of another size.
///
/// ```
/// use peregrine::MemoryTypeBuilder;
///
/// let ty = MemoryTypeBuilder::new().memory64(true).min(1).max(Some(1 << 20)).build()?;
/// assert!(ty.is_64());
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryTypeBuilder {
    pub(crate) ty: wasm::MemoryType,
}

/// One import of a module: two names and a type.
#[derive(Clone, Debug)]
pub struct ImportType<'module> {
    pub(crate) module: &'module str,
    pub(crate) name: &'module str,
    pub(crate) ty: ExternType,
}

/// One export of a module: a name and a type.
#[derive(Clone, Debug)]
pub struct ExportType<'module> {
    pub(crate) name: &'module str,
    pub(crate) ty: ExternType,
}

impl ExternType {
    /// The function type, if it is one.
    pub fn func(&self) -> Option<&FuncType> {
        if let Self::Func(ty) = self { Some(ty) } else { None }
    }

    /// The global type, if it is one.
    pub fn global(&self) -> Option<&GlobalType> {
        if let Self::Global(ty) = self { Some(ty) } else { None }
    }

    /// The table type, if it is one.
    pub fn table(&self) -> Option<&TableType> {
        if let Self::Table(ty) = self { Some(ty) } else { None }
    }

    /// The memory type, if it is one.
    pub fn memory(&self) -> Option<&MemoryType> {
        if let Self::Memory(ty) = self { Some(ty) } else { None }
    }

    /// The tag type, if it is one.
    pub fn tag(&self) -> Option<&TagType> {
        if let Self::Tag(ty) = self { Some(ty) } else { None }
    }

    /// The function type.
    ///
    /// # Panics
    ///
    /// If it is another kind.
    pub fn unwrap_func(&self) -> &FuncType {
        self.func().expect("not a function type")
    }

    /// The global type.
    ///
    /// # Panics
    ///
    /// If it is another kind.
    pub fn unwrap_global(&self) -> &GlobalType {
        self.global().expect("not a global type")
    }

    /// The table type.
    ///
    /// # Panics
    ///
    /// If it is another kind.
    pub fn unwrap_table(&self) -> &TableType {
        self.table().expect("not a table type")
    }

    /// The memory type.
    ///
    /// # Panics
    ///
    /// If it is another kind.
    pub fn unwrap_memory(&self) -> &MemoryType {
        self.memory().expect("not a memory type")
    }

    /// The tag type.
    ///
    /// # Panics
    ///
    /// If it is another kind.
    pub fn unwrap_tag(&self) -> &TagType {
        self.tag().expect("not a tag type")
    }

    /// The word for the kind in messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Func(_) => "func",
            Self::Global(_) => "global",
            Self::Table(_) => "table",
            Self::Memory(_) => "memory",
            Self::Tag(_) => "tag",
        }
    }

    /// The type of what `entity` names in a module. `None` for tags.
    pub(crate) fn of_entity(module: &wasm::Module, entity: wasm::EntityIndex, type_ids: &[u32], registry: &Arc<VmShared>) -> Option<Self> {
        Some(match module.entity_type(entity) {
            wasm::EntityType::Function(ty) => Self::Func(FuncType::from_id(type_ids[ty.as_usize()], registry)),
            wasm::EntityType::Table(ty) => Self::Table(TableType::from_wasm(&ty, type_ids, registry)),
            wasm::EntityType::Memory(ty) => Self::Memory(MemoryType { ty }),
            wasm::EntityType::Global(ty) => Self::Global(GlobalType::from_wasm(&ty, type_ids, registry)),
            wasm::EntityType::Tag(_) => return None,
        })
    }
}

impl From<FuncType> for ExternType {
    fn from(ty: FuncType) -> Self {
        Self::Func(ty)
    }
}

impl From<GlobalType> for ExternType {
    fn from(ty: GlobalType) -> Self {
        Self::Global(ty)
    }
}

impl From<TableType> for ExternType {
    fn from(ty: TableType) -> Self {
        Self::Table(ty)
    }
}

impl From<MemoryType> for ExternType {
    fn from(ty: MemoryType) -> Self {
        Self::Memory(ty)
    }
}

impl From<TagType> for ExternType {
    fn from(ty: TagType) -> Self {
        Self::Tag(ty)
    }
}

impl fmt::Display for ExternType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Func(ty) => ty.fmt(f),
            Self::Global(ty) => ty.fmt(f),
            Self::Table(ty) => ty.fmt(f),
            Self::Memory(ty) => ty.fmt(f),
            Self::Tag(ty) => ty.fmt(f),
        }
    }
}

impl Mutability {
    /// Whether it is [`Self::Const`].
    pub fn is_const(&self) -> bool {
        *self == Self::Const
    }

    /// Whether it is [`Self::Var`].
    pub fn is_var(&self) -> bool {
        *self == Self::Var
    }
}

impl GlobalType {
    /// The type of globals with values of `content`.
    pub fn new(content: ValType, mutability: Mutability) -> Self {
        Self { content, mutability }
    }

    /// Type of the value.
    pub fn content(&self) -> &ValType {
        &self.content
    }

    /// Whether it may be written.
    pub fn mutability(&self) -> Mutability {
        self.mutability
    }

    pub(crate) fn to_wasm(&self) -> Result<wasm::GlobalType> {
        Ok(wasm::GlobalType { content: self.content.to_wasm()?, mutable: self.mutability.is_var() })
    }

    pub(crate) fn from_wasm(ty: &wasm::GlobalType, type_ids: &[u32], registry: &Arc<VmShared>) -> Self {
        let content = match ty.content {
            wasm::ValType::Ref(ty) => wasm::ValType::Ref(canonical(ty, type_ids)),
            other => other,
        };
        let mutability = if ty.mutable { Mutability::Var } else { Mutability::Const };
        Self { content: ValType::from_wasm(content, registry), mutability }
    }
}

impl fmt::Display for GlobalType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mutability {
            Mutability::Const => write!(f, "(global {})", self.content),
            Mutability::Var => write!(f, "(global (mut {}))", self.content),
        }
    }
}

impl TableType {
    /// The type of tables of `element` with `min` elements at first and `max` at most.
    pub fn new(element: RefType, min: u32, max: Option<u32>) -> Self {
        Self { element, is_64: false, min: min.into(), max: max.map(Into::into) }
    }

    /// The same with 64-bit indices.
    pub fn new64(element: RefType, min: u64, max: Option<u64>) -> Self {
        Self { element, is_64: true, min, max }
    }

    /// Type of every element.
    pub fn element(&self) -> &RefType {
        &self.element
    }

    /// Elements at creation.
    pub fn minimum(&self) -> u64 {
        self.min
    }

    /// Elements it may not grow beyond.
    pub fn maximum(&self) -> Option<u64> {
        self.max
    }

    /// Whether indices are 64 bits wide.
    pub fn is_64(&self) -> bool {
        self.is_64
    }

    /// The same with another minimum.
    pub(crate) fn with_minimum(self, min: u64) -> Self {
        Self { min, ..self }
    }

    pub(crate) fn to_wasm(&self) -> Result<wasm::TableType> {
        Ok(wasm::TableType { element: self.element.to_wasm()?, table64: self.is_64, min: self.min, max: self.max })
    }

    pub(crate) fn from_wasm(ty: &wasm::TableType, type_ids: &[u32], registry: &Arc<VmShared>) -> Self {
        let element = RefType::from_wasm(canonical(ty.element, type_ids), registry);
        Self { element, is_64: ty.table64, min: ty.min, max: ty.max }
    }
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(table ")?;
        if self.is_64 {
            f.write_str("i64 ")?;
        }
        write!(f, "{}", self.min)?;
        if let Some(max) = self.max {
            write!(f, " {max}")?;
        }
        write!(f, " {})", self.element)
    }
}

impl MemoryType {
    /// The type of memories with 32-bit addresses and pages of 64 KiB.
    pub fn new(minimum: u32, maximum: Option<u32>) -> Self {
        let (min_pages, max_pages) = (minimum.into(), maximum.map(Into::into));
        Self { ty: wasm::MemoryType { memory64: false, shared: false, page_size_log2: 16, min_pages, max_pages } }
    }

    /// The type of memories with 64-bit addresses and pages of 64 KiB.
    pub fn new64(minimum: u64, maximum: Option<u64>) -> Self {
        Self { ty: wasm::MemoryType { memory64: true, shared: false, page_size_log2: 16, min_pages: minimum, max_pages: maximum } }
    }

    /// The type of memories that several threads may use at once.
    pub fn shared(minimum: u32, maximum: u32) -> Self {
        let mut shared = Self::new(minimum, Some(maximum));
        shared.ty.shared = true;
        shared
    }

    /// A builder with every choice there is.
    pub fn builder() -> MemoryTypeBuilder {
        MemoryTypeBuilder::new()
    }

    /// Whether addresses are 64 bits wide.
    pub fn is_64(&self) -> bool {
        self.ty.memory64
    }

    /// Whether several threads may use it at once.
    pub fn is_shared(&self) -> bool {
        self.ty.shared
    }

    /// Pages at creation.
    pub fn minimum(&self) -> u64 {
        self.ty.min_pages
    }

    /// Pages it may not grow beyond.
    pub fn maximum(&self) -> Option<u64> {
        self.ty.max_pages
    }

    /// Bytes in a page: 65,536 or 1.
    pub fn page_size(&self) -> u64 {
        self.ty.page_size_bytes()
    }

    /// The same as a power of two: 16 or 0.
    pub fn page_size_log2(&self) -> u8 {
        self.ty.page_size_log2
    }

    /// The same with another minimum.
    pub(crate) fn with_minimum(self, min_pages: u64) -> Self {
        Self { ty: wasm::MemoryType { min_pages, ..self.ty } }
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ty.fmt(f)
    }
}

impl Default for MemoryTypeBuilder {
    fn default() -> Self {
        Self { ty: MemoryType::new(0, None).ty }
    }
}

impl MemoryTypeBuilder {
    /// A memory of no pages, with 32-bit addresses and pages of 64 KiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the pages at creation.
    pub fn min(&mut self, minimum: u64) -> &mut Self {
        self.ty.min_pages = minimum;
        self
    }

    /// Sets the pages it may not grow beyond.
    pub fn max(&mut self, maximum: Option<u64>) -> &mut Self {
        self.ty.max_pages = maximum;
        self
    }

    /// Sets whether addresses are 64 bits wide.
    pub fn memory64(&mut self, memory64: bool) -> &mut Self {
        self.ty.memory64 = memory64;
        self
    }

    /// Sets whether several threads may use it at once.
    pub fn shared(&mut self, shared: bool) -> &mut Self {
        self.ty.shared = shared;
        self
    }

    /// Sets the size of pages, as a power of two: 16 or 0.
    pub fn page_size_log2(&mut self, page_size_log2: u8) -> &mut Self {
        self.ty.page_size_log2 = page_size_log2;
        self
    }

    /// The type, if it is a valid one.
    ///
    /// # Errors
    ///
    /// If the page size is neither 1 nor 65,536 bytes, the minimum is above the maximum or beyond what addresses reach, or a shared memory
    /// has no maximum.
    pub fn build(&self) -> Result<MemoryType> {
        let ty = self.ty;
        ensure!(matches!(ty.page_size_log2, 0 | 16), "the page size is 1 << {} bytes, expected 1 or 65536", ty.page_size_log2);
        ensure!(!ty.shared || ty.max_pages.is_some(), "a shared memory needs a maximum");
        ensure!(ty.max_pages.is_none_or(|max| ty.min_pages <= max), "the minimum ({} pages) is above the maximum", ty.min_pages);
        let reach_pages = if ty.memory64 { 1 << (64 - ty.page_size_log2.max(1)) } else { 1 << (32 - ty.page_size_log2) };
        for pages in [Some(ty.min_pages), ty.max_pages].into_iter().flatten() {
            ensure!(pages <= reach_pages, "{pages} pages are more than addresses reach ({reach_pages})");
        }
        Ok(MemoryType { ty })
    }
}

impl<'module> ImportType<'module> {
    /// First part of the name.
    pub fn module(&self) -> &'module str {
        self.module
    }

    /// Second part of the name.
    pub fn name(&self) -> &'module str {
        self.name
    }

    /// What is expected.
    pub fn ty(&self) -> ExternType {
        self.ty.clone()
    }
}

impl<'module> ExportType<'module> {
    /// The name.
    pub fn name(&self) -> &'module str {
        self.name
    }

    /// What is exported.
    pub fn ty(&self) -> ExternType {
        self.ty.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_like_the_text_format() {
        let memory = MemoryTypeBuilder::new().min(3).max(Some(9)).page_size_log2(0).build().unwrap();
        assert_eq!(memory.to_string(), "(memory 3 9 (pagesize 1))");
        assert_eq!(MemoryType::shared(1, 2).to_string(), "(memory 1 2 shared)");
        assert_eq!(TableType::new64(RefType::EXTERNREF, 4, None).to_string(), "(table i64 4 externref)");
        assert_eq!(GlobalType::new(ValType::F64, Mutability::Const).to_string(), "(global f64)");
    }

    #[test]
    fn impossible_memories_are_refused() {
        let check = |change: &dyn Fn(&mut MemoryTypeBuilder), expect: &str| {
            let mut builder = MemoryTypeBuilder::new();
            change(&mut builder);
            assert_eq!(builder.build().unwrap_err().to_string(), expect);
        };
        check(&|builder| _ = builder.shared(true), "a shared memory needs a maximum");
        check(&|builder| _ = builder.min(2).max(Some(1)), "the minimum (2 pages) is above the maximum");
        check(&|builder| _ = builder.min(65537), "65537 pages are more than addresses reach (65536)");
        check(&|builder| _ = builder.page_size_log2(3), "the page size is 1 << 3 bytes, expected 1 or 65536");
    }
}
