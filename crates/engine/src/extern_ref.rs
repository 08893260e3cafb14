//! Host values that guests hold and pass around without looking inside.
//!
//! A guest sees a 32-bit handle: the position, from 1, in a table of its store. There is no collector yet: **a value lives as long as its
//! store**, and [`Store::gc`](crate::Store::gc) frees nothing.

use crate::context::{AsContext, AsContextMut, StoreContext, StoreContextMut};
use crate::error::{Context, Result};
use crate::store::{StoreId, StoreOpaque};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

/// A host value in a store; see [`Rooted`] for how to hold one.
///
/// ```
/// use peregrine::{Engine, ExternRef, Instance, Module, Store};
///
/// let engine = Engine::default();
/// let module = Module::new(&engine, r#"(module (func (export "same") (param externref) (result externref) local.get 0))"#)?;
/// let mut store = Store::new(&engine, ());
/// let instance = Instance::new(&mut store, &module, &[])?;
/// let value = ExternRef::new(&mut store, "from the host")?;
/// let same = instance.get_func(&mut store, "same").unwrap();
/// let mut results = [peregrine::Val::null_extern_ref()];
/// same.call(&mut store, &[value.into()], &mut results)?;
/// let back = results[0].unwrap_externref().unwrap();
/// assert_eq!(back.data(&store)?.unwrap().downcast_ref(), Some(&"from the host"));
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Debug)]
pub struct ExternRef {
    _private: (),
}

/// A reference that stays good as long as its store. Copied freely; checked on every use.
pub struct Rooted<T> {
    store: StoreId,
    handle: u32,
    of: PhantomData<fn() -> T>,
}

/// The host values of a store.
#[derive(Default)]
pub(crate) struct HandleTable {
    values: Vec<Box<dyn Any + Send + Sync>>,
}

impl ExternRef {
    /// Puts `value` into the store.
    ///
    /// # Errors
    ///
    /// If the store holds 2^32 - 1 values already.
    pub fn new<V: Any + Send + Sync>(mut store: impl AsContextMut, value: V) -> Result<Rooted<ExternRef>> {
        let store = &mut store.as_context_mut().0.opaque;
        let values = &mut store.handles.values;
        values.push(Box::new(value));
        let handle = u32::try_from(values.len()).context("the store holds 2^32 - 1 host values already")?;
        Ok(Rooted { store: store.id(), handle, of: PhantomData })
    }
}

impl<T> Rooted<T> {
    #[inline]
    pub(crate) fn check(&self, store: &StoreOpaque) {
        store.check_id(self.store);
    }

    pub(crate) fn handle_in(&self, store: &StoreOpaque) -> u32 {
        self.check(store);
        self.handle
    }

    pub(crate) fn from_handle(store: &StoreOpaque, handle: u32) -> Option<Self> {
        (handle != 0).then(|| Self { store: store.id(), handle, of: PhantomData })
    }

    /// Whether both refer to the same thing.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If either belongs to another store.
    pub fn ref_eq(store: impl AsContext, a: &Self, b: &Self) -> Result<bool> {
        let store = &store.as_context().0.opaque;
        Ok(a.handle_in(store) == b.handle_in(store))
    }
}

impl Rooted<ExternRef> {
    /// The value. `None` only for a reference that the host did not make.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn data<'a, T: 'static>(&self, store: impl Into<StoreContext<'a, T>>) -> Result<Option<&'a (dyn Any + Send + Sync)>> {
        let store = &store.into().0.opaque;
        let position = self.handle_in(store) as usize - 1;
        Ok(store.handles.values.get(position).map(|value| &**value))
    }

    /// The value, to change it.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn data_mut<'a, T: 'static>(&self, store: impl Into<StoreContextMut<'a, T>>) -> Result<Option<&'a mut (dyn Any + Send + Sync)>> {
        let store = &mut store.into().0.opaque;
        let position = self.handle_in(store) as usize - 1;
        Ok(store.handles.values.get_mut(position).map(|value| &mut **value))
    }

    /// The handle that guests see, for [`ValRaw::externref`](crate::ValRaw::externref).
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn to_raw(&self, store: impl AsContext) -> Result<u32> {
        Ok(self.handle_in(&store.as_context().0.opaque))
    }
}

impl<T> Clone for Rooted<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rooted<T> {}

impl<T> fmt::Debug for Rooted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rooted({:?}, {})", self.store, self.handle)
    }
}
