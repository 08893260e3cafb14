//! Host values that guests hold and pass around without looking inside.
//!
//! A guest sees a 32-bit handle: the position, from 1, in a table of its store. There is no collector yet: **a value lives as long as its
//! store**, and [`Store::gc`](crate::Store::gc) frees nothing. How references are held is in `rooting`.

use crate::context::{AsContext, AsContextMut, StoreContext, StoreContextMut};
use crate::error::{Context, Result};
use crate::rooting::{Place, Rooted};
use crate::store::StoreOpaque;
use std::any::Any;

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
#[derive(Clone, Copy, Debug)]
pub struct ExternRef {
    place: Place,
}

/// The host values of a store.
#[derive(Default)]
pub(crate) struct HandleTable {
    values: Vec<Box<dyn Any + Send + Sync>>,
}

/// Bytes that a value takes besides its own: its place in the table, and what the allocator adds.
const VALUE_BYTES: usize = 32;

impl ExternRef {
    /// Puts `value` into the store.
    ///
    /// # Errors
    ///
    /// If the store holds 2^32 - 1 values already, or more than [`Budget::host_bytes`](crate::Budget::host_bytes).
    pub fn new<V: Any + Send + Sync>(mut store: impl AsContextMut, value: V) -> Result<Rooted<ExternRef>> {
        let store = &mut store.as_context_mut().0.opaque;
        store.counts.add_host_bytes(size_of::<V>() + VALUE_BYTES)?;
        let values = &mut store.handles.values;
        values.push(Box::new(value));
        let handle = u32::try_from(values.len()).context("the store holds 2^32 - 1 host values already")?;
        Ok(Rooted::new(Self { place: Place { store: store.id(), handle } }))
    }

    /// As [`new`](Self::new), which never waits.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn new_async<V: Any + Send + Sync>(store: impl AsContextMut, value: V) -> Result<Rooted<ExternRef>> {
        Self::new(store, value)
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The value. `None` only for a reference that the host did not make.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// If it belongs to another store; so do all functions here.
    pub fn data<'a, T: 'static>(&self, store: impl Into<StoreContext<'a, T>>) -> Result<Option<&'a (dyn Any + Send + Sync)>> {
        let store = &store.into().0.opaque;
        let position = self.place.handle_in(store) as usize - 1;
        Ok(store.handles.values.get(position).map(|value| &**value))
    }

    /// The value, to change it.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn data_mut<'a, T: 'static>(&self, store: impl Into<StoreContextMut<'a, T>>) -> Result<Option<&'a mut (dyn Any + Send + Sync)>> {
        let store = &mut store.into().0.opaque;
        let position = self.place.handle_in(store) as usize - 1;
        Ok(store.handles.values.get_mut(position).map(|value| &mut **value))
    }

    /// The handle that guests see, for [`ValRaw::externref`](crate::ValRaw::externref).
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn to_raw(&self, store: impl AsContext) -> Result<u32> {
        Ok(self.place.handle_in(&store.as_context().0.opaque))
    }

    /// The value that a guest's handle stands for; `None` for null, and for a number that is no handle of the store.
    pub fn from_raw(store: impl AsContext, raw: u32) -> Option<Rooted<ExternRef>> {
        let store = &store.as_context().0.opaque;
        (raw as usize <= store.handles.values.len()).then(|| Rooted::from_handle(store, raw))?
    }
}

impl Rooted<ExternRef> {
    /// The reference that a guest's handle stands for; `None` for null.
    pub(crate) fn from_handle(store: &StoreOpaque, handle: u32) -> Option<Self> {
        (handle != 0).then(|| Self::new(ExternRef { place: Place { store: store.id(), handle } }))
    }

    pub(crate) fn handle_in(&self, store: &StoreOpaque) -> u32 {
        self.place.handle_in(store)
    }
}
