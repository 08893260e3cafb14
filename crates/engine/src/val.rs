//! Values with their types, for calls whose types are known at run time only.

use crate::collected::{AnyRef, ContRef, ExnRef};
use crate::context::{AsContext, AsContextMut};
use crate::error::{Result, bail};
use crate::store::StoreOpaque;
use crate::vm::ValRaw;
use crate::{ExternRef, Func, FuncType, HeapType, RefType, Rooted, ValType};
use peregrine_wasm as wasm;
use std::fmt;

/// A value. Floats are bits, so that no NaN is changed on the way.
///
/// ```
/// use peregrine::Val;
///
/// assert_eq!(Val::from(7).i32(), Some(7));
/// assert_eq!(Val::from(1.5f64).unwrap_f64(), 1.5);
/// assert_eq!(Val::I64(1).i32(), None);
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Val {
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float, as bits.
    F32(u32),
    /// A 64-bit float, as bits.
    F64(u64),
    /// 128 bits.
    V128(V128),
    /// A function, or null.
    FuncRef(Option<Func>),
    /// A host value, or null.
    ExternRef(Option<Rooted<ExternRef>>),
    /// A collected value, of which there are none, or null.
    AnyRef(Option<Rooted<AnyRef>>),
    /// An exception, of which there are none, or null.
    ExnRef(Option<Rooted<ExnRef>>),
    /// A suspended computation, of which there are none, or null.
    ContRef(Option<ContRef>),
}

/// A reference: what a table holds.
#[derive(Clone, Copy, Debug)]
pub enum Ref {
    /// A function, or null.
    Func(Option<Func>),
    /// A host value, or null.
    Extern(Option<Rooted<ExternRef>>),
    /// A collected value, of which there are none, or null.
    Any(Option<Rooted<AnyRef>>),
    /// An exception, of which there are none, or null.
    Exn(Option<Rooted<ExnRef>>),
}

/// 128 bits: the number whose little-endian bytes are the lanes.
///
/// ```
/// use peregrine::V128;
///
/// let lanes = V128::from(0x0001_0000u128);
/// assert_eq!(lanes.as_u128().to_le_bytes()[2], 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V128(u128);

impl V128 {
    /// The number whose little-endian bytes are the lanes.
    pub fn as_u128(&self) -> u128 {
        self.0
    }
}

impl From<u128> for V128 {
    fn from(bits: u128) -> Self {
        Self(bits)
    }
}

impl From<V128> for u128 {
    fn from(value: V128) -> Self {
        value.0
    }
}

macro_rules! accessors {
    ($($variant:ident $get:ident $unwrap:ident $ty:ty, $value:ident => $convert:expr;)*) => {$(
        #[doc = concat!("The value, if it is [`Val::", stringify!($variant), "`].")]
        pub fn $get(&self) -> Option<$ty> {
            match *self {
                Self::$variant($value) => Some($convert),
                _ => None,
            }
        }

        #[doc = concat!("The value.\n\n# Panics\n\nIf it is not [`Val::", stringify!($variant), "`].")]
        pub fn $unwrap(&self) -> $ty {
            self.$get().expect(concat!("expected ", stringify!($get)))
        }
    )*};
}

/// References of one kind, null or not.
macro_rules! references {
    ($($get:ident $unwrap:ident $variant:ident $ty:ty, $text:literal;)*) => {$(
        #[doc = concat!("The ", $text, ", which may be null, if it is one.")]
        pub fn $get(&self) -> Option<Option<&$ty>> {
            if let Self::$variant(value) = self { Some(value.as_ref()) } else { None }
        }

        #[doc = concat!("The ", $text, ", which may be null.\n\n# Panics\n\nIf it is none.")]
        pub fn $unwrap(&self) -> Option<&$ty> {
            self.$get().expect(concat!("expected a ", $text))
        }
    )*};
}

impl Val {
    accessors! {
        I32 i32 unwrap_i32 i32, value => value;
        I64 i64 unwrap_i64 i64, value => value;
        F32 f32 unwrap_f32 f32, value => f32::from_bits(value);
        F64 f64 unwrap_f64 f64, value => f64::from_bits(value);
        V128 v128 unwrap_v128 V128, value => value;
    }

    /// Null, as a function reference.
    pub const fn null_func_ref() -> Self {
        Self::FuncRef(None)
    }

    /// Null, as a host reference.
    pub const fn null_extern_ref() -> Self {
        Self::ExternRef(None)
    }

    /// Zero or null of type `ty`. `None` if the type has no such value.
    pub fn default_for_ty(ty: &ValType) -> Option<Self> {
        Some(match ty {
            ValType::I32 => Self::I32(0),
            ValType::I64 => Self::I64(0),
            ValType::F32 => Self::F32(0),
            ValType::F64 => Self::F64(0),
            ValType::V128 => Self::V128(V128(0)),
            ValType::Ref(ty) if !ty.is_nullable() => return None,
            ValType::Ref(ty) => Self::null_ref(ty.heap_type()),
        })
    }

    /// Null, as a collected value.
    pub const fn null_any_ref() -> Self {
        Self::AnyRef(None)
    }

    /// Null of the hierarchy that `heap_type` belongs to.
    pub fn null_ref(heap_type: &HeapType) -> Self {
        match heap_type.top() {
            HeapType::Func => Self::FuncRef(None),
            HeapType::Extern => Self::ExternRef(None),
            HeapType::Exn => Self::ExnRef(None),
            HeapType::Cont => Self::ContRef(None),
            _ => Self::AnyRef(None),
        }
    }

    references! {
        funcref unwrap_funcref FuncRef Func, "function reference";
        externref unwrap_externref ExternRef Rooted<ExternRef>, "host reference";
        anyref unwrap_anyref AnyRef Rooted<AnyRef>, "collected reference";
        exnref unwrap_exnref ExnRef Rooted<ExnRef>, "exception";
        func_ref unwrap_func_ref FuncRef Func, "function reference";
        extern_ref unwrap_extern_ref ExternRef Rooted<ExternRef>, "host reference";
        any_ref unwrap_any_ref AnyRef Rooted<AnyRef>, "collected reference";
    }

    /// The reference, if it is one.
    pub fn ref_(self) -> Option<Ref> {
        match self {
            Self::FuncRef(func) => Some(Ref::Func(func)),
            Self::ExternRef(value) => Some(Ref::Extern(value)),
            Self::AnyRef(value) => Some(Ref::Any(value)),
            Self::ExnRef(value) => Some(Ref::Exn(value)),
            _ => None,
        }
    }

    /// The type: of references, the most special one there is.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it is a reference of another store.
    pub fn ty(&self, store: impl AsContext) -> Result<ValType> {
        Ok(self.ty_in(&store.as_context().0.opaque))
    }

    fn ty_in(&self, store: &StoreOpaque) -> ValType {
        match self {
            Self::I32(_) => ValType::I32,
            Self::I64(_) => ValType::I64,
            Self::F32(_) => ValType::F32,
            Self::F64(_) => ValType::F64,
            Self::V128(_) => ValType::V128,
            Self::FuncRef(func) => Ref::Func(*func).ty_in(store).into(),
            Self::ExternRef(value) => Ref::Extern(*value).ty_in(store).into(),
            Self::AnyRef(value) => Ref::Any(*value).ty_in(store).into(),
            Self::ExnRef(value) => Ref::Exn(*value).ty_in(store).into(),
            Self::ContRef(None) => ValType::NULLCONTREF,
            Self::ContRef(Some(value)) => value.absent(),
        }
    }

    /// Whether the value is one of type `ty`.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it is a reference of another store.
    pub fn matches_ty(&self, store: impl AsContext, ty: &ValType) -> Result<bool> {
        Ok(self.ty_in(&store.as_context().0.opaque).matches(ty))
    }

    /// The value without its type, as [`Func::call_unchecked`] takes it.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it is a reference of another store.
    pub fn to_raw(&self, store: impl AsContextMut) -> Result<ValRaw> {
        let store = &store.as_context().0.opaque;
        Ok(match *self {
            Self::I32(value) => ValRaw::i32(value),
            Self::I64(value) => ValRaw::i64(value),
            Self::F32(bits) => ValRaw::f32(bits),
            Self::F64(bits) => ValRaw::f64(bits),
            Self::V128(bits) => ValRaw::v128(bits.0),
            Self::FuncRef(func) => ValRaw::u64(func.map_or(0, |func| func.checked(store).get())),
            Self::ExternRef(value) => ValRaw::externref(value.map_or(0, |value| value.handle_in(store))),
            Self::AnyRef(_) | Self::ExnRef(_) | Self::ContRef(_) => ValRaw::u64(0),
        })
    }

    /// The value of type `ty` that a raw value stands for.
    ///
    /// # Safety
    ///
    /// 1. `raw` is a value of type `ty`; a reference comes from the same store.
    #[expect(unsafe_code, reason = "the caller promises what the type of the value is")]
    pub unsafe fn from_raw(store: impl AsContextMut, raw: ValRaw, ty: ValType) -> Self {
        match ty.to_wasm() {
            Ok(ty) => Self::from_slot(&store.as_context().0.opaque, raw, ty),
            // Nothing but null has such a type.
            Err(_) => ty.as_ref().map_or(Self::I32(0), |ty| Self::null_ref(ty.heap_type())),
        }
    }

    /// The value as the machine takes it, where one of type `expect` is expected.
    pub(crate) fn to_slot(self, store: &StoreOpaque, expect: wasm::ValType, what: impl FnOnce() -> String) -> Result<ValRaw> {
        let raw = match (self, expect) {
            (Self::I32(value), wasm::ValType::I32) => ValRaw::i32(value),
            (Self::I64(value), wasm::ValType::I64) => ValRaw::i64(value),
            (Self::F32(bits), wasm::ValType::F32) => ValRaw::f32(bits),
            (Self::F64(bits), wasm::ValType::F64) => ValRaw::f64(bits),
            (Self::V128(bits), wasm::ValType::V128) => ValRaw::v128(bits.0),
            (value, wasm::ValType::Ref(ty)) => match value.ref_() {
                Some(reference) => return reference.to_slot(store, ty, what),
                None => bail!("{}: expected {}, found {}", what(), RefType::from_wasm(ty, store.engine().shared()), value.ty_in(store)),
            },
            (value, _) => bail!("{}: expected {expect}, found {}", what(), value.ty_in(store)),
        };
        Ok(raw)
    }

    /// The value that the machine gives for type `ty`.
    pub(crate) fn from_slot(store: &StoreOpaque, raw: ValRaw, ty: wasm::ValType) -> Self {
        match ty {
            wasm::ValType::I32 => Self::I32(raw.get_i32()),
            wasm::ValType::I64 => Self::I64(raw.get_i64()),
            wasm::ValType::F32 => Self::F32(raw.get_f32()),
            wasm::ValType::F64 => Self::F64(raw.get_f64()),
            wasm::ValType::V128 => Self::V128(V128(raw.get_v128())),
            wasm::ValType::Ref(ty) => Ref::from_bits(store, raw.get_u64(), ty).into(),
        }
    }
}

impl Ref {
    /// Null of the hierarchy that `heap_type` belongs to. There is none for continuations, which are no values of tables: null of `any`.
    pub fn null(heap_type: &HeapType) -> Self {
        match heap_type.top() {
            HeapType::Func => Self::Func(None),
            HeapType::Extern => Self::Extern(None),
            HeapType::Exn => Self::Exn(None),
            _ => Self::Any(None),
        }
    }

    /// Null of type `ty`, if it is among its values.
    pub(crate) fn default_for(ty: &RefType) -> Option<Self> {
        ty.is_nullable().then(|| Self::null(ty.heap_type()))
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Func(None) | Self::Extern(None) | Self::Any(None) | Self::Exn(None))
    }

    /// Whether it is not null.
    pub fn is_non_null(&self) -> bool {
        !self.is_null()
    }

    /// Whether it is a function reference.
    pub fn is_func(&self) -> bool {
        matches!(self, Self::Func(_))
    }

    /// Whether it is a host reference.
    pub fn is_extern(&self) -> bool {
        matches!(self, Self::Extern(_))
    }

    /// Whether it is a collected reference.
    pub fn is_any(&self) -> bool {
        matches!(self, Self::Any(_))
    }

    /// Whether it is an exception.
    pub fn is_exn(&self) -> bool {
        matches!(self, Self::Exn(_))
    }

    references! {
        as_func unwrap_func Func Func, "function reference";
        as_extern unwrap_extern Extern Rooted<ExternRef>, "host reference";
        as_any unwrap_any Any Rooted<AnyRef>, "collected reference";
        as_exn unwrap_exn Exn Rooted<ExnRef>, "exception";
    }

    /// Whether the reference is one of type `ty`.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it is of another store.
    pub fn matches_ty(&self, store: impl AsContext, ty: &RefType) -> Result<bool> {
        Ok(self.ty_in(&store.as_context().0.opaque).matches(ty))
    }

    /// The type: the most special one there is.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it is of another store.
    pub fn ty(&self, store: impl AsContext) -> Result<RefType> {
        Ok(self.ty_in(&store.as_context().0.opaque))
    }

    fn ty_in(&self, store: &StoreOpaque) -> RefType {
        match self {
            Self::Func(None) => RefType::NULLFUNCREF,
            Self::Extern(None) => RefType::NULLEXTERNREF,
            Self::Any(None) => RefType::NULLREF,
            Self::Exn(None) => RefType::NULLEXNREF,
            Self::Any(Some(value)) => value.absent(),
            Self::Exn(Some(value)) => value.absent(),
            Self::Func(Some(func)) => {
                let id = func.type_id(store);
                RefType::new(false, HeapType::ConcreteFunc(FuncType::from_id(id, store.engine().shared())))
            }
            Self::Extern(Some(value)) => {
                value.handle_in(store);
                RefType::new(false, HeapType::Extern)
            }
        }
    }

    /// Whether it can be used in `store`.
    fn is_of(&self, store: &StoreOpaque) -> bool {
        match self {
            Self::Func(Some(func)) => func.is_of(store),
            Self::Extern(Some(value)) => value.is_of(store),
            _ => true,
        }
    }

    /// The reference as the machine takes it, where one of type `expect` is expected.
    pub(crate) fn to_slot(self, store: &StoreOpaque, expect: wasm::RefType, what: impl FnOnce() -> String) -> Result<ValRaw> {
        if !self.is_of(store) {
            bail!("{}: the reference belongs to another store, and cross-`Store` values cannot be used", what());
        }
        let fits = match (&self, expect.heap) {
            (Self::Func(None), heap) => heap.is_func() && expect.nullable,
            (Self::Extern(None), heap) => !heap.is_func() && expect.nullable,
            (Self::Func(Some(func)), wasm::HeapType::Concrete(id)) => func.type_id(store) == id.as_u32(),
            (Self::Func(Some(_)), heap) => heap == wasm::HeapType::Func,
            (Self::Extern(Some(_)), heap) => heap == wasm::HeapType::Extern,
            (Self::Any(_) | Self::Exn(_), _) => false,
        };
        if !fits {
            bail!("{}: expected {}, found {}", what(), RefType::from_wasm(expect, store.engine().shared()), self.ty_in(store));
        }
        Ok(match self {
            Self::Func(None) | Self::Extern(None) | Self::Any(_) | Self::Exn(_) => ValRaw::u64(0),
            Self::Func(Some(func)) => ValRaw::u64(func.checked(store).get()),
            Self::Extern(Some(value)) => ValRaw::externref(value.handle_in(store)),
        })
    }

    /// The reference that the machine gives for type `ty`.
    pub(crate) fn from_bits(store: &StoreOpaque, bits: u64, ty: wasm::RefType) -> Self {
        if ty.heap.is_func() { Self::Func(Func::from_bits(store, bits)) } else { Self::Extern(Rooted::from_handle(store, bits as u32)) }
    }
}

macro_rules! conversions {
    ($($ty:ty, $value:ident => $convert:expr;)*) => {$(
        impl From<$ty> for Val {
            fn from($value: $ty) -> Self {
                $convert
            }
        }
    )*};
}

conversions! {
    i32, value => Self::I32(value);
    i64, value => Self::I64(value);
    f32, value => Self::F32(value.to_bits());
    f64, value => Self::F64(value.to_bits());
    V128, value => Self::V128(value);
    u128, value => Self::V128(V128(value));
    Func, value => Self::FuncRef(Some(value));
    Option<Func>, value => Self::FuncRef(value);
    Rooted<ExternRef>, value => Self::ExternRef(Some(value));
    Option<Rooted<ExternRef>>, value => Self::ExternRef(value);
    Rooted<AnyRef>, value => Self::AnyRef(Some(value));
    Option<Rooted<AnyRef>>, value => Self::AnyRef(value);
    Rooted<ExnRef>, value => Self::ExnRef(Some(value));
    Option<Rooted<ExnRef>>, value => Self::ExnRef(value);
}

impl From<Ref> for Val {
    fn from(reference: Ref) -> Self {
        match reference {
            Ref::Func(func) => Self::FuncRef(func),
            Ref::Extern(value) => Self::ExternRef(value),
            Ref::Any(value) => Self::AnyRef(value),
            Ref::Exn(value) => Self::ExnRef(value),
        }
    }
}

impl From<Func> for Ref {
    fn from(func: Func) -> Self {
        Self::Func(Some(func))
    }
}

impl From<Option<Func>> for Ref {
    fn from(func: Option<Func>) -> Self {
        Self::Func(func)
    }
}

impl From<Rooted<ExternRef>> for Ref {
    fn from(value: Rooted<ExternRef>) -> Self {
        Self::Extern(Some(value))
    }
}

impl From<Option<Rooted<ExternRef>>> for Ref {
    fn from(value: Option<Rooted<ExternRef>>) -> Self {
        Self::Extern(value)
    }
}

impl fmt::Display for V128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#034x}", self.0)
    }
}
