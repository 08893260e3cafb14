//! Types of values.

use super::FuncType;
use crate::vm::VmShared;
use peregrine_wasm as wasm;
use peregrine_wasm::Index;
use std::fmt;
use std::sync::Arc;

/// The type of a value.
///
/// ```
/// use peregrine::ValType;
///
/// assert!(ValType::I32.is_num());
/// assert_eq!(ValType::FUNCREF.to_string(), "funcref");
/// assert!(!ValType::I32.matches(&ValType::I64));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValType {
    /// A 32-bit integer, of no sign.
    I32,
    /// A 64-bit integer, of no sign.
    I64,
    /// A 32-bit IEEE 754 number.
    F32,
    /// A 64-bit IEEE 754 number.
    F64,
    /// 128 bits, as lanes of any width.
    V128,
    /// A reference.
    Ref(RefType),
}

/// The type of a reference: what is referred to, and whether null is among the values.
///
/// ```
/// use peregrine::{HeapType, RefType};
///
/// let strict = RefType::new(false, HeapType::Func);
/// assert!(strict.matches(&RefType::FUNCREF));
/// assert!(!RefType::FUNCREF.matches(&strict));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RefType {
    nullable: bool,
    heap: HeapType,
}

/// What a reference refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeapType {
    /// Any host value.
    Extern,
    /// No host value: only null has this type.
    NoExtern,
    /// Any function.
    Func,
    /// A function of one type.
    ConcreteFunc(FuncType),
    /// No function: only null has this type.
    NoFunc,
}

impl ValType {
    /// `funcref`: a function or null.
    pub const FUNCREF: Self = Self::Ref(RefType::FUNCREF);
    /// `externref`: a host value or null.
    pub const EXTERNREF: Self = Self::Ref(RefType::EXTERNREF);
    /// `nullfuncref`: null, as a function.
    pub const NULLFUNCREF: Self = Self::Ref(RefType::NULLFUNCREF);
    /// `nullexternref`: null, as a host value.
    pub const NULLEXTERNREF: Self = Self::Ref(RefType::NULLEXTERNREF);

    /// Whether it is `i32`, `i64`, `f32` or `f64`.
    pub fn is_num(&self) -> bool {
        matches!(self, Self::I32 | Self::I64 | Self::F32 | Self::F64)
    }

    /// Whether it is `i32`.
    pub fn is_i32(&self) -> bool {
        matches!(self, Self::I32)
    }

    /// Whether it is `i64`.
    pub fn is_i64(&self) -> bool {
        matches!(self, Self::I64)
    }

    /// Whether it is `f32`.
    pub fn is_f32(&self) -> bool {
        matches!(self, Self::F32)
    }

    /// Whether it is `f64`.
    pub fn is_f64(&self) -> bool {
        matches!(self, Self::F64)
    }

    /// Whether it is `v128`.
    pub fn is_v128(&self) -> bool {
        matches!(self, Self::V128)
    }

    /// Whether it is a reference.
    pub fn is_ref(&self) -> bool {
        matches!(self, Self::Ref(_))
    }

    /// Whether it is `funcref`.
    pub fn is_funcref(&self) -> bool {
        *self == Self::FUNCREF
    }

    /// Whether it is `externref`.
    pub fn is_externref(&self) -> bool {
        *self == Self::EXTERNREF
    }

    /// The reference type, if it is one.
    pub fn as_ref(&self) -> Option<&RefType> {
        match self {
            Self::Ref(ty) => Some(ty),
            _ => None,
        }
    }

    /// The reference type.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn unwrap_ref(&self) -> &RefType {
        self.as_ref().expect("not a reference type")
    }

    /// Whether every value of this type is a value of `other`.
    pub fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ref(sub), Self::Ref(sup)) => sub.matches(sup),
            _ => self == other,
        }
    }

    /// The type as the machine knows it: concrete types by identity.
    pub(crate) fn to_wasm(&self) -> wasm::ValType {
        match self {
            Self::I32 => wasm::ValType::I32,
            Self::I64 => wasm::ValType::I64,
            Self::F32 => wasm::ValType::F32,
            Self::F64 => wasm::ValType::F64,
            Self::V128 => wasm::ValType::V128,
            Self::Ref(ty) => wasm::ValType::Ref(ty.to_wasm()),
        }
    }

    /// The public form of a type whose concrete indices are identities of `registry`.
    pub(crate) fn from_wasm(ty: wasm::ValType, registry: &Arc<VmShared>) -> Self {
        match ty {
            wasm::ValType::I32 => Self::I32,
            wasm::ValType::I64 => Self::I64,
            wasm::ValType::F32 => Self::F32,
            wasm::ValType::F64 => Self::F64,
            wasm::ValType::V128 => Self::V128,
            wasm::ValType::Ref(ty) => Self::Ref(RefType::from_wasm(ty, registry)),
        }
    }
}

impl RefType {
    /// `(ref null func)`.
    pub const FUNCREF: Self = Self { nullable: true, heap: HeapType::Func };
    /// `(ref null extern)`.
    pub const EXTERNREF: Self = Self { nullable: true, heap: HeapType::Extern };
    /// `(ref null nofunc)`.
    pub const NULLFUNCREF: Self = Self { nullable: true, heap: HeapType::NoFunc };
    /// `(ref null noextern)`.
    pub const NULLEXTERNREF: Self = Self { nullable: true, heap: HeapType::NoExtern };

    /// The type of references to `heap_type`, null among them or not.
    pub fn new(is_nullable: bool, heap_type: HeapType) -> Self {
        Self { nullable: is_nullable, heap: heap_type }
    }

    /// Whether null is among the values.
    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    /// What is referred to.
    pub fn heap_type(&self) -> &HeapType {
        &self.heap
    }

    /// Whether every value of this type is a value of `other`.
    pub fn matches(&self, other: &Self) -> bool {
        (other.nullable || !self.nullable) && self.heap.matches(&other.heap)
    }

    pub(crate) fn to_wasm(&self) -> wasm::RefType {
        let heap = match &self.heap {
            HeapType::Extern => wasm::HeapType::Extern,
            HeapType::NoExtern => wasm::HeapType::NoExtern,
            HeapType::Func => wasm::HeapType::Func,
            HeapType::NoFunc => wasm::HeapType::NoFunc,
            HeapType::ConcreteFunc(ty) => wasm::HeapType::Concrete(wasm::TypeIndex::from_u32(ty.id())),
        };
        wasm::RefType { nullable: self.nullable, heap }
    }

    pub(crate) fn from_wasm(ty: wasm::RefType, registry: &Arc<VmShared>) -> Self {
        let heap = match ty.heap {
            wasm::HeapType::Extern => HeapType::Extern,
            wasm::HeapType::NoExtern => HeapType::NoExtern,
            wasm::HeapType::Func => HeapType::Func,
            wasm::HeapType::NoFunc => HeapType::NoFunc,
            wasm::HeapType::Concrete(id) => HeapType::ConcreteFunc(FuncType::from_id(id.as_u32(), registry)),
        };
        Self { nullable: ty.nullable, heap }
    }
}

impl HeapType {
    /// Whether it is `extern`.
    pub fn is_extern(&self) -> bool {
        matches!(self, Self::Extern)
    }

    /// Whether it is `func`.
    pub fn is_func(&self) -> bool {
        matches!(self, Self::Func)
    }

    /// Whether it is one function type.
    pub fn is_concrete(&self) -> bool {
        matches!(self, Self::ConcreteFunc(_))
    }

    /// The one function type, if it is that.
    pub fn as_concrete_func(&self) -> Option<&FuncType> {
        match self {
            Self::ConcreteFunc(ty) => Some(ty),
            _ => None,
        }
    }

    /// The largest type of the hierarchy this belongs to: `func` or `extern`.
    pub fn top(&self) -> Self {
        match self {
            Self::Extern | Self::NoExtern => Self::Extern,
            Self::Func | Self::ConcreteFunc(_) | Self::NoFunc => Self::Func,
        }
    }

    /// Whether everything this refers to is also referred to by `other`.
    pub fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Extern | Self::NoExtern, Self::Extern) | (Self::NoExtern, Self::NoExtern) => true,
            (Self::Func | Self::ConcreteFunc(_) | Self::NoFunc, Self::Func) => true,
            (Self::NoFunc, Self::NoFunc | Self::ConcreteFunc(_)) => true,
            (Self::ConcreteFunc(sub), Self::ConcreteFunc(sup)) => sub == sup,
            _ => false,
        }
    }
}

impl From<RefType> for ValType {
    fn from(ty: RefType) -> Self {
        Self::Ref(ty)
    }
}

impl From<FuncType> for HeapType {
    fn from(ty: FuncType) -> Self {
        Self::ConcreteFunc(ty)
    }
}

impl fmt::Display for ValType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ref(ty) => ty.fmt(f),
            other => other.to_wasm().fmt(f),
        }
    }
}

impl fmt::Display for RefType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nullable, &self.heap) {
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
            Self::Extern => f.write_str("extern"),
            Self::NoExtern => f.write_str("noextern"),
            Self::Func => f.write_str("func"),
            Self::NoFunc => f.write_str("nofunc"),
            Self::ConcreteFunc(ty) => ty.fmt(f),
        }
    }
}

/// `ty` of a module, with identities in place of the module's indices. What the host made has no types of its own and names identities.
pub(crate) fn canonical(ty: wasm::RefType, type_ids: &[u32]) -> wasm::RefType {
    match ty.heap {
        wasm::HeapType::Concrete(index) => {
            let heap =
                wasm::HeapType::Concrete(wasm::TypeIndex::from_u32(type_ids.get(index.as_usize()).copied().unwrap_or(index.as_u32())));
            wasm::RefType { heap, ..ty }
        }
        _ => ty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_match_upwards_only() {
        let all = [RefType::FUNCREF, RefType::EXTERNREF, RefType::NULLFUNCREF, RefType::NULLEXTERNREF];
        let expect = [[true, false, false, false], [false, true, false, false], [true, false, true, false], [false, true, false, true]];
        for (sub, row) in all.iter().zip(expect) {
            for (sup, expect) in all.iter().zip(row) {
                assert_eq!(sub.matches(sup), expect, "{sub} <: {sup}");
            }
        }
    }

    #[test]
    fn names_are_those_of_the_text_format() {
        let strict = ValType::Ref(RefType::new(false, HeapType::Extern));
        assert_eq!([ValType::F32, ValType::EXTERNREF, strict].map(|ty| ty.to_string()).join(" "), "f32 externref (ref extern)");
    }
}
