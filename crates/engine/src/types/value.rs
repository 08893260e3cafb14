//! Types of values.
//!
//! Types of the garbage collection, exception and stack switching proposals can be named, compared and printed. The proposals themselves
//! are not implemented: nothing of a store can have such a type, and asking for it is an error.

use super::{ArrayType, ContType, ExnType, FuncType, StructType};
use crate::Val;
use crate::error::{Result, bail};
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
    /// Any collected value. Garbage collection is not implemented, so nothing has this type, or one of those below it.
    Any,
    /// Any collected value that can be compared.
    Eq,
    /// An integer of 31 bits.
    I31,
    /// Any array.
    Array,
    /// An array of one type.
    ConcreteArray(ArrayType),
    /// Any struct.
    Struct,
    /// A struct of one type.
    ConcreteStruct(StructType),
    /// Any exception. Exceptions are not implemented, so nothing has this type.
    Exn,
    /// An exception of one tag's type.
    ConcreteExn(ExnType),
    /// A suspended computation of one type.
    ConcreteCont(ContType),
    /// Any suspended computation. Stack switching is not implemented, so nothing has this type.
    Cont,
    /// No suspended computation.
    NoCont,
    /// No collected value: only null has this type.
    None,
    /// No exception: only null has this type.
    NoExn,
}

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident $heap:ident;)*) => {
        impl ValType {
            $($(#[$doc])* pub const $name: Self = Self::Ref(RefType::$name);)*
        }

        impl RefType {
            $($(#[$doc])* pub const $name: Self = Self { nullable: true, heap: HeapType::$heap };)*
        }
    };
}

constants! {
    /// `externref`: a host value or null.
    EXTERNREF Extern;
    /// `nullexternref`: null, as a host value.
    NULLEXTERNREF NoExtern;
    /// `funcref`: a function or null.
    FUNCREF Func;
    /// `nullfuncref`: null, as a function.
    NULLFUNCREF NoFunc;
    /// `anyref`: a collected value or null.
    ANYREF Any;
    /// `eqref`: a collected value that can be compared, or null.
    EQREF Eq;
    /// `i31ref`: an integer of 31 bits or null.
    I31REF I31;
    /// `arrayref`: an array or null.
    ARRAYREF Array;
    /// `structref`: a struct or null.
    STRUCTREF Struct;
    /// `nullref`: null, as a collected value.
    NULLREF None;
    /// `contref`: a suspended computation or null.
    CONTREF Cont;
    /// `nullcontref`: null, as a suspended computation.
    NULLCONTREF NoCont;
    /// `exnref`: an exception or null.
    EXNREF Exn;
    /// `nullexnref`: null, as an exception.
    NULLEXNREF NoExn;
}

impl ValType {
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

    /// Whether it is `anyref`.
    pub fn is_anyref(&self) -> bool {
        *self == Self::ANYREF
    }

    /// Whether it is `contref`.
    pub fn is_contref(&self) -> bool {
        *self == Self::CONTREF
    }

    /// Zero or null. `None` if the type has no such value: references that are never null.
    pub fn default_value(&self) -> Option<Val> {
        Val::default_for_ty(self)
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
    ///
    /// # Errors
    ///
    /// If nothing in a store can have this type.
    pub(crate) fn to_wasm(&self) -> Result<wasm::ValType> {
        Ok(match self {
            Self::I32 => wasm::ValType::I32,
            Self::I64 => wasm::ValType::I64,
            Self::F32 => wasm::ValType::F32,
            Self::F64 => wasm::ValType::F64,
            Self::V128 => wasm::ValType::V128,
            Self::Ref(ty) => wasm::ValType::Ref(ty.to_wasm()?),
        })
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

    /// As [`ValType::to_wasm`].
    pub(crate) fn to_wasm(&self) -> Result<wasm::RefType> {
        let heap = match &self.heap {
            HeapType::Extern => wasm::HeapType::Extern,
            HeapType::NoExtern => wasm::HeapType::NoExtern,
            HeapType::Func => wasm::HeapType::Func,
            HeapType::NoFunc => wasm::HeapType::NoFunc,
            HeapType::ConcreteFunc(ty) => wasm::HeapType::Concrete(wasm::TypeIndex::from_u32(ty.id())),
            other => bail!("{self} is not implemented: values of type `{}` do not exist", other.top()),
        };
        Ok(wasm::RefType { nullable: self.nullable, heap })
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

macro_rules! is {
    ($($is:ident $variant:ident $text:literal;)*) => {$(
        #[doc = concat!("Whether it is `", $text, "`.")]
        pub fn $is(&self) -> bool {
            matches!(self, Self::$variant)
        }
    )*};
}

macro_rules! concrete {
    ($($is:ident $get:ident $unwrap:ident $variant:ident $ty:ident $text:literal;)*) => {$(
        #[doc = concat!("Whether it is one ", $text, " type.")]
        pub fn $is(&self) -> bool {
            matches!(self, Self::$variant(_))
        }

        #[doc = concat!("The one ", $text, " type, if it is that.")]
        pub fn $get(&self) -> Option<&$ty> {
            if let Self::$variant(ty) = self { Some(ty) } else { None }
        }

        #[doc = concat!("The one ", $text, " type.\n\n# Panics\n\nIf it is not that.")]
        pub fn $unwrap(&self) -> &$ty {
            self.$get().expect(concat!("not a concrete ", $text, " type"))
        }
    )*};
}

impl HeapType {
    is! {
        is_extern Extern "extern";
        is_no_extern NoExtern "noextern";
        is_func Func "func";
        is_no_func NoFunc "nofunc";
        is_any Any "any";
        is_eq Eq "eq";
        is_i31 I31 "i31";
        is_array Array "array";
        is_struct Struct "struct";
        is_none None "none";
        is_cont Cont "cont";
        is_no_cont NoCont "nocont";
        is_exn Exn "exn";
        is_no_exn NoExn "noexn";
    }

    concrete! {
        is_concrete_func as_concrete_func unwrap_concrete_func ConcreteFunc FuncType "function";
        is_concrete_array as_concrete_array unwrap_concrete_array ConcreteArray ArrayType "array";
        is_concrete_struct as_concrete_struct unwrap_concrete_struct ConcreteStruct StructType "struct";
        is_concrete_exn as_concrete_exn unwrap_concrete_exn ConcreteExn ExnType "exception";
        is_concrete_cont as_concrete_cont unwrap_concrete_cont ConcreteCont ContType "continuation";
    }

    /// Whether it is a type that modules and programs define, not one of those that are always there.
    pub fn is_concrete(&self) -> bool {
        matches!(
            self,
            Self::ConcreteFunc(_) | Self::ConcreteArray(_) | Self::ConcreteStruct(_) | Self::ConcreteExn(_) | Self::ConcreteCont(_)
        )
    }

    /// Whether it is one of the types that are always there.
    pub fn is_abstract(&self) -> bool {
        !self.is_concrete()
    }

    /// The largest type of the hierarchy this belongs to: `func`, `extern`, `any`, `exn` or `cont`.
    pub fn top(&self) -> Self {
        match self {
            Self::Extern | Self::NoExtern => Self::Extern,
            Self::Func | Self::ConcreteFunc(_) | Self::NoFunc => Self::Func,
            Self::Exn | Self::ConcreteExn(_) | Self::NoExn => Self::Exn,
            Self::Cont | Self::ConcreteCont(_) | Self::NoCont => Self::Cont,
            Self::Any
            | Self::Eq
            | Self::I31
            | Self::Array
            | Self::ConcreteArray(_)
            | Self::Struct
            | Self::ConcreteStruct(_)
            | Self::None => Self::Any,
        }
    }

    /// Whether it is the largest type of its hierarchy.
    pub fn is_top(&self) -> bool {
        matches!(self, Self::Extern | Self::Func | Self::Any | Self::Exn | Self::Cont)
    }

    /// The smallest type of the hierarchy this belongs to: `nofunc`, `noextern`, `none`, `noexn` or `nocont`.
    pub fn bottom(&self) -> Self {
        match self.top() {
            Self::Extern => Self::NoExtern,
            Self::Func => Self::NoFunc,
            Self::Exn => Self::NoExn,
            Self::Cont => Self::NoCont,
            _ => Self::None,
        }
    }

    /// Whether it is the smallest type of its hierarchy.
    pub fn is_bottom(&self) -> bool {
        matches!(self, Self::NoExtern | Self::NoFunc | Self::None | Self::NoExn | Self::NoCont)
    }

    /// Whether everything this refers to is also referred to by `other`. Core specification, section 3.3.3.
    ///
    /// # Panics
    ///
    /// If both are function types, of different engines.
    pub fn matches(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        if self.is_bottom() || other.is_top() {
            return self.top() == other.top();
        }
        match (self, other) {
            (Self::I31 | Self::Array | Self::ConcreteArray(_) | Self::Struct | Self::ConcreteStruct(_), Self::Eq) => true,
            (Self::ConcreteArray(_), Self::Array) | (Self::ConcreteStruct(_), Self::Struct) => true,
            (Self::ConcreteArray(sub), Self::ConcreteArray(sup)) => sub.matches(sup),
            (Self::ConcreteStruct(sub), Self::ConcreteStruct(sup)) => sub.matches(sup),
            (Self::ConcreteFunc(sub), Self::ConcreteFunc(sup)) => sub.matches(sup),
            _ => false,
        }
    }
}

impl From<RefType> for ValType {
    fn from(ty: RefType) -> Self {
        Self::Ref(ty)
    }
}

macro_rules! concrete_from {
    ($($ty:ident $variant:ident;)*) => {$(
        impl From<$ty> for HeapType {
            fn from(ty: $ty) -> Self {
                Self::$variant(ty)
            }
        }
    )*};
}

concrete_from! {
    FuncType ConcreteFunc;
    ArrayType ConcreteArray;
    StructType ConcreteStruct;
    ExnType ConcreteExn;
    ContType ConcreteCont;
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
        match (self.nullable, &self.heap) {
            (true, HeapType::Func) => f.write_str("funcref"),
            (true, HeapType::Extern) => f.write_str("externref"),
            (true, heap @ (HeapType::Any | HeapType::Eq | HeapType::I31 | HeapType::Array | HeapType::Struct)) => write!(f, "{heap}ref"),
            (true, heap @ (HeapType::Exn | HeapType::Cont)) => write!(f, "{heap}ref"),
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
            Self::Any => f.write_str("any"),
            Self::Eq => f.write_str("eq"),
            Self::I31 => f.write_str("i31"),
            Self::Array => f.write_str("array"),
            Self::Struct => f.write_str("struct"),
            Self::None => f.write_str("none"),
            Self::Exn => f.write_str("exn"),
            Self::NoExn => f.write_str("noexn"),
            Self::Cont => f.write_str("cont"),
            Self::NoCont => f.write_str("nocont"),
            Self::ConcreteFunc(ty) => ty.fmt(f),
            Self::ConcreteArray(ty) => ty.fmt(f),
            Self::ConcreteStruct(ty) => ty.fmt(f),
            Self::ConcreteExn(ty) => ty.fmt(f),
            Self::ConcreteCont(ty) => ty.fmt(f),
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
    fn each_hierarchy_has_a_top_and_a_bottom() {
        let any = [HeapType::Any, HeapType::Eq, HeapType::I31, HeapType::Array, HeapType::Struct, HeapType::None];
        for heap in &any {
            assert!(heap.matches(&HeapType::Any) && HeapType::None.matches(heap));
            assert!(!heap.matches(&HeapType::Func) && !HeapType::NoFunc.matches(heap));
            assert_eq!((heap.top(), heap.bottom()), (HeapType::Any, HeapType::None));
        }
        assert!(HeapType::I31.matches(&HeapType::Eq) && !HeapType::Eq.matches(&HeapType::I31) && !HeapType::Any.matches(&HeapType::Eq));
        assert!(HeapType::NoExn.matches(&HeapType::Exn) && !HeapType::Exn.matches(&HeapType::NoExn));
        assert_eq!(ValType::ANYREF.to_string(), "anyref");
        assert!(RefType::EXNREF.to_wasm().unwrap_err().to_string().contains("exnref is not implemented"));
    }

    #[test]
    fn names_are_those_of_the_text_format() {
        let strict = ValType::Ref(RefType::new(false, HeapType::Extern));
        assert_eq!([ValType::F32, ValType::EXTERNREF, strict].map(|ty| ty.to_string()).join(" "), "f32 externref (ref extern)");
    }
}
