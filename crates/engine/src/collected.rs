//! Kinds of values that only a collector, exceptions or stack switching make. None of these is implemented: the types are there so that
//! programs can name them and match on them, and null is all that there is of them.

use crate::context::AsContext;
use crate::rooting::{Place, Rooted, RootedGcRef, Sealed};
use crate::store::StoreOpaque;
use crate::typed::WasmTy;
use crate::vm::ValRaw;
use crate::{ExternRef, HeapType, Ref, RefType, Val, ValType};
use std::convert::Infallible;
use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $kind {
            never: Infallible,
        }

        impl $kind {
            /// Stands for anything: there is no such value.
            pub(crate) fn absent<R>(&self) -> R {
                match self.never {}
            }
        }

        impl Sealed for $kind {
            fn place(&self) -> Place {
                self.absent()
            }
        }
    )*};
}

kinds! {
    /// A collected value, of which there are none: garbage collection is not implemented.
    AnyRef;
    /// A collected value that can be compared, of which there are none.
    EqRef;
    /// A struct, of which there are none.
    StructRef;
    /// An array, of which there are none.
    ArrayRef;
    /// An exception, of which there are none: exceptions are not implemented.
    ExnRef;
    /// A suspended computation, of which there are none: stack switching is not implemented.
    ContRef;
}

macro_rules! upwards {
    ($($sub:ident $sup:ident;)*) => {$(
        impl From<Rooted<$sub>> for Rooted<$sup> {
            fn from(value: Rooted<$sub>) -> Self {
                value.absent()
            }
        }
    )*};
}

upwards! {
    EqRef AnyRef;
    StructRef AnyRef;
    ArrayRef AnyRef;
    StructRef EqRef;
    ArrayRef EqRef;
}

/// An integer of 31 bits, as collected values hold it.
///
/// ```
/// use peregrine::I31;
///
/// assert_eq!(I31::new_i32(-5).unwrap().get_i32(), -5);
/// assert_eq!(I31::wrapping_u32(u32::MAX).get_u32(), 0x7fff_ffff);
/// assert_eq!(I31::new_u32(1 << 31), None);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct I31(u32);

impl I31 {
    /// `value`, if it has at most 31 bits.
    pub fn new_u32(value: u32) -> Option<Self> {
        (value >> 31 == 0).then_some(Self(value))
    }

    /// `value`, if it is between -2^30 and 2^30 - 1.
    pub fn new_i32(value: i32) -> Option<Self> {
        let wrapped = Self::wrapping_i32(value);
        (wrapped.get_i32() == value).then_some(wrapped)
    }

    /// The low 31 bits of `value`.
    pub fn wrapping_u32(value: u32) -> Self {
        Self(value & 0x7fff_ffff)
    }

    /// The low 31 bits of `value`.
    pub fn wrapping_i32(value: i32) -> Self {
        Self::wrapping_u32(value as u32)
    }

    /// The bits as an unsigned number.
    pub fn get_u32(&self) -> u32 {
        self.0
    }

    /// The bits as a signed number.
    pub fn get_i32(&self) -> i32 {
        (self.0 << 1) as i32 >> 1
    }
}

impl fmt::Debug for I31 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("I31").field("as_u32", &self.get_u32()).field("as_i32", &self.get_i32()).finish()
    }
}

macro_rules! bottoms {
    ($($(#[$doc:meta])* $name:ident $ty:ident $variant:ident $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name {
            never: Infallible,
        }

        impl $name {
            /// Null, for a [`TypedFunc`](crate::TypedFunc).
            pub fn null() -> Option<Self> {
                None
            }

            /// Null, as a reference.
            pub fn null_ref() -> Ref {
                Ref::$kind(None)
            }

            /// Null, as a value.
            pub fn null_val() -> Val {
                Val::$variant(None)
            }
        }
    )*};
}

bottoms! {
    /// No function: `Option<NoFunc>` stands for `nullfuncref` in types of functions.
    NoFunc NULLFUNCREF FuncRef Func;
    /// No host value: `Option<NoExtern>` stands for `nullexternref` in types of functions.
    NoExtern NULLEXTERNREF ExternRef Extern;
    /// No collected value.
    NoneRef NULLREF AnyRef Any;
}

macro_rules! null_types {
    ($($name:ident $ty:ident;)*) => {$(
        impl WasmTy for Option<$name> {
            fn valtype() -> ValType {
                ValType::$ty
            }

            fn into_slot(self, _: &StoreOpaque) -> ValRaw {
                ValRaw::u64(0)
            }

            fn from_slot(_: &StoreOpaque, _: ValRaw) -> Self {
                None
            }
        }
    )*};
}

null_types! {
    NoFunc NULLFUNCREF;
    NoExtern NULLEXTERNREF;
}

/// There is none, so no function that takes or returns one returns.
macro_rules! empty_types {
    ($($name:ident $text:literal;)*) => {$(
        impl WasmTy for $name {
            fn valtype() -> ValType {
                ValType::Ref(RefType::new(false, HeapType::$name))
            }

            fn into_slot(self, _: &StoreOpaque) -> ValRaw {
                match self.never {}
            }

            fn from_slot(_: &StoreOpaque, _: ValRaw) -> Self {
                unreachable!(concat!("a reference that is not null is no value of `(ref ", $text, ")`"))
            }
        }
    )*};
}

empty_types! {
    NoFunc "nofunc";
    NoExtern "noextern";
}

/// An allocation did not fit into the heap of collected values, which carries what was to be put there. Never made: host values, the only
/// ones there are, lie in the host's memory.
pub struct GcHeapOutOfMemory<T> {
    value: T,
}

impl<T> GcHeapOutOfMemory<T> {
    /// What was to be put there.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// What was to be put there, and the rest of the error.
    pub fn take_inner(self) -> (T, GcHeapOutOfMemory<()>) {
        (self.value, GcHeapOutOfMemory { value: () })
    }
}

impl<T> fmt::Debug for GcHeapOutOfMemory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> fmt::Display for GcHeapOutOfMemory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the heap of collected values is full")
    }
}

impl<T> std::error::Error for GcHeapOutOfMemory<T> {}

impl ExternRef {
    /// A collected value as a host value, of which there are none.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn convert_any(store: impl AsContext, anyref: impl RootedGcRef<AnyRef>) -> crate::Result<Rooted<ExternRef>> {
        let _ = store;
        anyref.absent()
    }
}

impl AnyRef {
    /// A host value as a collected value, of which there are none.
    ///
    /// # Errors
    ///
    /// Always: garbage collection is not implemented.
    pub fn convert_extern(store: impl AsContext, externref: impl RootedGcRef<ExternRef>) -> crate::Result<Rooted<AnyRef>> {
        let _ = (store, externref);
        crate::error::bail!("host values cannot be made collected ones: garbage collection is not implemented")
    }
}

/// What a host function returns when it has thrown an exception, of which there are none. See [`Store::throw`](crate::Store::throw).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrownException;

impl fmt::Display for ThrownException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an exception was thrown")
    }
}

impl std::error::Error for ThrownException {}

impl<T: 'static> crate::Store<T> {
    /// Throws an exception, of which there are none.
    ///
    /// # Errors
    ///
    /// Always a [`ThrownException`].
    pub fn throw<R>(&mut self, exception: Rooted<ExnRef>) -> crate::Result<R> {
        exception.absent()
    }

    /// The exception on its way to the embedder, of which there are none.
    pub fn take_pending_exception(&mut self) -> Option<Rooted<ExnRef>> {
        None
    }
}

impl<T: 'static> crate::StoreContextMut<'_, T> {
    /// See [`Store::throw`](crate::Store::throw).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn throw<R>(&mut self, exception: Rooted<ExnRef>) -> crate::Result<R> {
        exception.absent()
    }

    /// See [`Store::take_pending_exception`](crate::Store::take_pending_exception).
    pub fn take_pending_exception(&mut self) -> Option<Rooted<ExnRef>> {
        None
    }

    /// See [`Store::has_pending_exception`](crate::Store::has_pending_exception).
    pub fn has_pending_exception(&self) -> bool {
        false
    }
}

impl<T: 'static> crate::Caller<'_, T> {
    /// See [`Store::gc_heap_capacity`](crate::Store::gc_heap_capacity).
    pub fn gc_heap_capacity(&self) -> usize {
        0
    }
}

impl Rooted<AnyRef> {
    /// The type of the value.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn ty(&self, store: impl AsContext) -> crate::Result<crate::HeapType> {
        let _ = store;
        self.absent()
    }
}
