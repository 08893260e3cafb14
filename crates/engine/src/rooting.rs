//! How programs hold references: [`Rooted`] and [`OwnedRooted`].
//!
//! With a collector the one would end with its scope and the other with its last clone. Host values are the only ones there are, they live
//! as long as their store, and so do both kinds of references: programs written for shorter lives work unchanged.

use crate::context::{AsContext, AsContextMut, StoreContext, StoreContextMut};
use crate::error::Result;
use crate::store::{StoreId, StoreOpaque};
use crate::typed::WasmTy;
use crate::vm::ValRaw;
use crate::{ExternRef, ValType};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// Where a reference points: a handle of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub(crate) store: StoreId,
    pub(crate) handle: u32,
}

impl Place {
    /// The handle, after a check of the store.
    #[inline]
    pub(crate) fn handle_in(&self, store: &StoreOpaque) -> u32 {
        store.check_id(self.store);
        self.handle
    }
}

/// What can be referred to: [`ExternRef`](crate::ExternRef), and the kinds of values that only a collector makes. Implemented here only.
pub trait GcRef: Sealed {}

/// What `GcRef` needs to know.
pub trait Sealed: Copy {
    /// Where it is.
    fn place(&self) -> Place;
}

impl<T: Sealed> GcRef for T {}

impl Sealed for ExternRef {
    fn place(&self) -> Place {
        ExternRef::place(self)
    }
}

/// A reference of either kind.
pub trait RootedGcRef<T: GcRef>: Deref<Target = T> {
    /// As a [`Rooted`].
    fn to_rooted(&self, store: impl AsContextMut) -> Rooted<T>;
}

/// A reference that stays good as long as its store. Copied freely; checked on every use.
#[derive(Clone, Copy)]
pub struct Rooted<T: GcRef> {
    target: T,
}

/// A reference that can be held anywhere, until it is dropped; a [`Rooted`] serves as well while there is no collector.
///
/// ```
/// use peregrine::{Engine, ExternRef, OwnedRooted, Rooted, Store};
///
/// let mut store = Store::new(&Engine::default(), ());
/// let held: OwnedRooted<ExternRef> = ExternRef::new(&mut store, 5)?.to_owned_rooted(&mut store)?;
/// let value = held.to_rooted(&mut store);
/// assert!(Rooted::ref_eq(&store, &value, &held)?);
/// assert_eq!(held.data(&store)?.unwrap().downcast_ref(), Some(&5));
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone)]
pub struct OwnedRooted<T: GcRef> {
    target: T,
}

impl<T: GcRef> Rooted<T> {
    pub(crate) fn new(target: T) -> Self {
        Self { target }
    }

    /// Whether it is of `store`.
    #[inline]
    pub(crate) fn is_of(&self, store: &StoreOpaque) -> bool {
        store.owns(self.target.place().store)
    }

    /// The same reference, to be held anywhere.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it belongs to another store; so do all functions here that take one.
    pub fn to_owned_rooted(&self, store: impl AsContextMut) -> Result<OwnedRooted<T>> {
        self.target.place().handle_in(&store.as_context().0.opaque);
        Ok(OwnedRooted { target: self.target })
    }

    /// Whether both are the same reference. Needs no store: references to one thing are equal while there is no collector.
    pub fn rooted_eq(a: Self, b: Self) -> bool {
        a.target.place() == b.target.place()
    }

    /// Whether both refer to the same thing.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn ref_eq(store: impl AsContext, a: &impl RootedGcRef<T>, b: &impl RootedGcRef<T>) -> Result<bool> {
        let store = &store.as_context().0.opaque;
        Ok(a.place().handle_in(store) == b.place().handle_in(store))
    }

    /// Hashes the reference; equal by [`rooted_eq`](Self::rooted_eq) means equal hashes.
    pub fn rooted_hash<H: Hasher>(&self, state: &mut H) {
        self.target.place().hash(state);
    }

    /// Hashes what is referred to; equal by [`ref_eq`](Self::ref_eq) means equal hashes.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn ref_hash<H: Hasher>(&self, store: impl AsContext, state: &mut H) -> Result<()> {
        self.target.place().handle_in(&store.as_context().0.opaque).hash(state);
        Ok(())
    }
}

impl<T: GcRef> OwnedRooted<T> {
    /// The same reference, as a [`Rooted`].
    ///
    /// # Panics
    ///
    /// If it belongs to another store; so do all functions here that take one.
    pub fn to_rooted(&self, store: impl AsContextMut) -> Rooted<T> {
        self.target.place().handle_in(&store.as_context().0.opaque);
        Rooted { target: self.target }
    }

    /// Whether both refer to the same thing.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn ref_eq(store: impl AsContext, a: &impl RootedGcRef<T>, b: &impl RootedGcRef<T>) -> Result<bool> {
        Rooted::ref_eq(store, a, b)
    }

    /// Hashes the reference.
    pub fn rooted_hash<H: Hasher>(&self, state: &mut H) {
        self.target.place().hash(state);
    }

    /// Hashes what is referred to; equal by [`ref_eq`](Self::ref_eq) means equal hashes.
    pub fn ref_hash<H: Hasher>(&self, store: impl AsContext, state: &mut H) {
        self.target.place().handle_in(&store.as_context().0.opaque).hash(state);
    }
}

impl<T: GcRef> RootedGcRef<T> for Rooted<T> {
    fn to_rooted(&self, store: impl AsContextMut) -> Rooted<T> {
        self.target.place().handle_in(&store.as_context().0.opaque);
        *self
    }
}

impl<T: GcRef> RootedGcRef<T> for OwnedRooted<T> {
    fn to_rooted(&self, store: impl AsContextMut) -> Rooted<T> {
        Self::to_rooted(self, store)
    }
}

impl<T: GcRef> Deref for Rooted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.target
    }
}

impl<T: GcRef> Deref for OwnedRooted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.target
    }
}

impl<T: GcRef> fmt::Debug for Rooted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.target.place();
        write!(f, "Rooted({:?}, {})", place.store, place.handle)
    }
}

impl<T: GcRef> fmt::Debug for OwnedRooted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.target.place();
        write!(f, "OwnedRooted({:?}, {})", place.store, place.handle)
    }
}

/// A store, for a while: [`Rooted`] references made through it would end with it. They live as long as the store while there is no
/// collector.
///
/// ```
/// use peregrine::{Engine, ExternRef, RootScope, Store};
///
/// let mut store = Store::new(&Engine::default(), ());
/// for number in 0..3 {
///     let mut scope = RootScope::new(&mut store);
///     let value = ExternRef::new(&mut scope, number)?;
///     assert_eq!(value.data(&scope)?.unwrap().downcast_ref(), Some(&number));
/// }
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Debug)]
pub struct RootScope<C: AsContextMut> {
    store: C,
}

impl<C: AsContextMut> RootScope<C> {
    /// Begins a scope.
    pub fn new(store: C) -> Self {
        Self { store }
    }

    /// Accepted for compatibility and without meaning: references take no room in a scope.
    pub fn reserve(&mut self, additional: usize) {
        let _ = additional;
    }
}

impl<C: AsContextMut> AsContext for RootScope<C> {
    type Data = C::Data;

    fn as_context(&self) -> StoreContext<'_, C::Data> {
        self.store.as_context()
    }
}

impl<C: AsContextMut> AsContextMut for RootScope<C> {
    fn as_context_mut(&mut self) -> StoreContextMut<'_, C::Data> {
        self.store.as_context_mut()
    }
}

impl WasmTy for OwnedRooted<ExternRef> {
    fn valtype() -> ValType {
        Rooted::<ExternRef>::valtype()
    }

    fn is_of(&self, store: &StoreOpaque) -> bool {
        store.owns(self.target.place().store)
    }

    fn into_slot(self, store: &StoreOpaque) -> ValRaw {
        Rooted { target: self.target }.into_slot(store)
    }

    fn from_slot(store: &StoreOpaque, raw: ValRaw) -> Self {
        Self { target: Rooted::<ExternRef>::from_slot(store, raw).target }
    }
}

impl WasmTy for Option<OwnedRooted<ExternRef>> {
    fn valtype() -> ValType {
        ValType::EXTERNREF
    }

    fn is_of(&self, store: &StoreOpaque) -> bool {
        self.as_ref().is_none_or(|value| value.is_of(store))
    }

    fn into_slot(self, store: &StoreOpaque) -> ValRaw {
        self.map(|value| Rooted { target: value.target }).into_slot(store)
    }

    fn from_slot(store: &StoreOpaque, raw: ValRaw) -> Self {
        Option::<Rooted<ExternRef>>::from_slot(store, raw).map(|value| OwnedRooted { target: value.target })
    }
}
