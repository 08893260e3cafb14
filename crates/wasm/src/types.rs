//! Types of values and of everything that can be imported or exported. Core specification, section 2.3.

use crate::TypeIndex;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ValType {
    /// A 32-bit integer, of no sign.
    I32,
    /// A 64-bit integer, of no sign.
    I64,
    /// A 32-bit IEEE 754 number.
    F32,
    /// A 64-bit IEEE 754 number.
    F64,
    /// 128 bits: 16x8, 8x16, 4x32 or 2x64 lanes, as the instruction says.
    V128,
    /// A reference.
    Ref(RefType),
}

/// The type of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RefType {
    /// Whether null is among the values.
    pub nullable: bool,
    /// What is referred to.
    pub heap: HeapType,
}

/// What a reference refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HeapType {
    /// Any function.
    Func,
    /// No function: only null has this type.
    NoFunc,
    /// Any host value.
    Extern,
    /// No host value: only null has this type.
    NoExtern,
    /// A function of the type at this index.
    Concrete(TypeIndex),
}

impl RefType {
    /// `(ref null func)`.
    pub const FUNCREF: Self = Self { nullable: true, heap: HeapType::Func };
    /// `(ref null extern)`.
    pub const EXTERNREF: Self = Self { nullable: true, heap: HeapType::Extern };
}

impl HeapType {
    /// Whether references of this type are function references (machine pointers), not collected ones (32-bit handles).
    pub const fn is_func(self) -> bool {
        matches!(self, Self::Func | Self::NoFunc | Self::Concrete(_))
    }
}

impl ValType {
    /// `funcref`.
    pub const FUNCREF: Self = Self::Ref(RefType::FUNCREF);
    /// `externref`.
    pub const EXTERNREF: Self = Self::Ref(RefType::EXTERNREF);
}

impl fmt::Display for ValType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::I32 => f.write_str("i32"),
            Self::I64 => f.write_str("i64"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::V128 => f.write_str("v128"),
            Self::Ref(ty) => ty.fmt(f),
        }
    }
}

impl fmt::Display for RefType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nullable, self.heap) {
            (true, HeapType::Func) => f.write_str("funcref"),
            (true, HeapType::Extern) => f.write_str("externref"),
            (true, heap) => write!(f, "(ref null {heap})"),
            (false, heap) => write!(f, "(ref {heap})"),
        }
    }
}

impl fmt::Display for HeapType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Func => f.write_str("func"),
            Self::NoFunc => f.write_str("nofunc"),
            Self::Extern => f.write_str("extern"),
            Self::NoExtern => f.write_str("noextern"),
            Self::Concrete(index) => write!(f, "{}", index.as_u32()),
        }
    }
}

/// The type of a function: parameters to results.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FuncType {
    /// Types of the parameters, in order.
    pub params: Box<[ValType]>,
    /// Types of the results, in order.
    pub results: Box<[ValType]>,
}

impl fmt::Display for FuncType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(func")?;
        for (keyword, types) in [("param", &self.params), ("result", &self.results)] {
            if !types.is_empty() {
                write!(f, " ({keyword}")?;
                types.iter().try_for_each(|ty| write!(f, " {ty}"))?;
                f.write_str(")")?;
            }
        }
        f.write_str(")")
    }
}

/// The type of a table. Sizes count elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableType {
    /// Type of every element.
    pub element: RefType,
    /// Whether indices are 64 bits wide (`table64`), not 32.
    pub table64: bool,
    /// Size at creation.
    pub min: u64,
    /// Size it may not grow beyond.
    pub max: Option<u64>,
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(table ")?;
        write_limits(f, self.table64, self.min, self.max)?;
        write!(f, " {})", self.element)
    }
}

/// The type of a linear memory. Sizes count pages of `1 << page_size_log2` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemoryType {
    /// Whether addresses are 64 bits wide (`memory64`), not 32.
    pub memory64: bool,
    /// Whether several threads may use it at once.
    pub shared: bool,
    /// 16 unless the module says otherwise; 0 is the one other value there is.
    pub page_size_log2: u8,
    /// Pages at creation.
    pub min_pages: u64,
    /// Pages it may not grow beyond.
    pub max_pages: Option<u64>,
}

impl MemoryType {
    /// Bytes in one page: 65,536 or 1.
    pub const fn page_size_bytes(&self) -> u64 {
        1 << self.page_size_log2
    }

    /// Bytes at creation, or `None` if they are more than 2^64 - 1.
    pub fn min_bytes(&self) -> Option<u64> {
        self.min_pages.checked_mul(self.page_size_bytes())
    }

    /// The most bytes that the type allows, capped at what addresses can reach.
    pub fn max_bytes(&self) -> u64 {
        let reach_bytes = if self.memory64 { u64::MAX } else { 1 << 32 };
        self.max_pages.and_then(|pages| pages.checked_mul(self.page_size_bytes())).unwrap_or(reach_bytes).min(reach_bytes)
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(memory ")?;
        write_limits(f, self.memory64, self.min_pages, self.max_pages)?;
        if self.shared {
            f.write_str(" shared")?;
        }
        if self.page_size_log2 != 16 {
            write!(f, " (pagesize {})", self.page_size_bytes())?;
        }
        f.write_str(")")
    }
}

/// Writes `i64 MIN MAX`, without what there is not.
fn write_limits(f: &mut fmt::Formatter<'_>, is_64: bool, min: u64, max: Option<u64>) -> fmt::Result {
    if is_64 {
        f.write_str("i64 ")?;
    }
    write!(f, "{min}")?;
    max.map_or(Ok(()), |max| write!(f, " {max}"))
}

/// The type of a global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GlobalType {
    /// Type of the value.
    pub content: ValType,
    /// Whether it may be written.
    pub mutable: bool,
}

impl fmt::Display for GlobalType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mutable {
            true => write!(f, "(global (mut {}))", self.content),
            false => write!(f, "(global {})", self.content),
        }
    }
}

/// The type of a tag: a function type without results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TagType {
    /// Type of the payload.
    pub func: TypeIndex,
}

/// The type of an import or export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntityType {
    /// A function of the type at this index.
    Function(TypeIndex),
    /// A table.
    Table(TableType),
    /// A linear memory.
    Memory(MemoryType),
    /// A global.
    Global(GlobalType),
    /// A tag.
    Tag(TagType),
}
