//! Tables: arrays of references.

use crate::at_once::at_once;
use crate::context::{AsContext, AsContextMut};
use crate::error::{Context, Result, bail};
use crate::global::HOST_OBJECT_BYTES;
use crate::store::{StoreId, StoreInner, StoreOpaque};
use crate::vm::{InstanceId, Pending, boundary};
use crate::{Ref, TableType, Trap, ValRaw};
use peregrine_wasm as wasm;
use peregrine_wasm::DefinedTableIndex;

/// A table of a store.
///
/// ```
/// use peregrine::{Engine, Func, Ref, RefType, Store, Table, TableType};
///
/// let mut store = Store::new(&Engine::default(), ());
/// let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 2, None), Ref::Func(None))?;
/// let func = Func::wrap(&mut store, || 5);
/// table.set(&mut store, 1, func.into())?;
/// assert!(table.get(&mut store, 0).unwrap().is_null());
/// assert!(!table.get(&mut store, 1).unwrap().is_null());
/// assert!(table.get(&mut store, 2).is_none());
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    store: StoreId,
    owner: InstanceId,
    index: DefinedTableIndex,
}

impl Table {
    /// A table of the host's, with all elements `init`.
    ///
    /// # Errors
    ///
    /// If `init` is not of the type of the elements or belongs to another store, or the limits of the store or the system refuse the table.
    pub fn new(store: impl AsContextMut, ty: TableType, init: Ref) -> Result<Self> {
        at_once(Self::new_async(store, ty, init))
    }

    /// Whether there are tables of a type.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub(crate) fn check_type(ty: &wasm::TableType) -> Result<()> {
        if ty.max.is_some_and(|max| max < ty.min) {
            bail!("the minimum of the table ({}) is above its maximum", ty.min);
        }
        Ok(())
    }

    /// What a table of a type holds where it holds `init`.
    ///
    /// # Errors
    ///
    /// If `init` is not of the type of the elements, or belongs to another store.
    pub(crate) fn initial_element(store: &StoreOpaque, ty: &wasm::TableType, init: Ref) -> Result<ValRaw> {
        init.to_slot(store, ty.element, || "type mismatch: value does not match the table's elements".to_owned())
    }

    /// Makes a table; the limiter was asked if it may wait.
    pub(crate) fn make<T: 'static>(store: &mut StoreInner<T>, ty: TableType, init: Ref) -> Result<Self> {
        store.opaque.keep_types_of(ty.element());
        let ty = ty.to_wasm()?;
        Self::check_type(&ty)?;
        let element = Self::initial_element(&store.opaque, &ty, init)?;
        let before = store.opaque.counts;
        store.opaque.counts.add(0, 1, 0)?;
        store.opaque.counts.add_host_bytes(HOST_OBJECT_BYTES).inspect_err(|_| store.opaque.counts = before)?;
        let owner = boundary::create(store, |vm| vm.new_host_table(ty, element.get_u64()));
        let owner = owner.map_err(|error| {
            store.opaque.counts = before;
            store.opaque.error_of(Pending::Error(error, Vec::new()))
        })?;
        Ok(Self::from_id(&store.opaque, (owner, DefinedTableIndex::from_u32(0))))
    }

    /// Whether it is of `store`.
    pub(crate) fn is_of(&self, store: &StoreOpaque) -> bool {
        store.owns(self.store)
    }

    pub(crate) fn from_id(store: &StoreOpaque, (owner, index): (InstanceId, DefinedTableIndex)) -> Self {
        Self { store: store.id(), owner, index }
    }

    /// Which table of `store` it is.
    pub(crate) fn id(&self, store: &StoreOpaque) -> (InstanceId, DefinedTableIndex) {
        store.check_instance(self.store, self.owner);
        (self.owner, self.index)
    }

    /// The type, concrete types by identity.
    pub(crate) fn wasm_ty(&self, store: &StoreOpaque) -> wasm::TableType {
        let (owner, index) = self.id(store);
        let instance = store.vm.instance(owner);
        let ty = *instance.table(index).ty();
        wasm::TableType { element: crate::types::canonical(ty.element, instance.module().type_ids()), ..ty }
    }

    pub(crate) fn ty_in(&self, store: &StoreOpaque) -> TableType {
        let (owner, index) = self.id(store);
        let instance = store.vm.instance(owner);
        TableType::from_wasm(instance.table(index).ty(), instance.module().type_ids(), store.engine().shared())
    }

    pub(crate) fn size_in(&self, store: &StoreOpaque) -> u64 {
        let (owner, index) = self.id(store);
        store.vm.instance(owner).table(index).len()
    }

    /// The type it was made with.
    ///
    /// # Panics
    ///
    /// If it belongs to another store; so do all functions here.
    pub fn ty(&self, store: impl AsContext) -> TableType {
        self.ty_in(&store.as_context().0.opaque)
    }

    /// How many elements there are.
    pub fn size(&self, store: impl AsContext) -> u64 {
        self.size_in(&store.as_context().0.opaque)
    }

    /// Element `index`; `None` if it is out of bounds.
    pub fn get(&self, mut store: impl AsContextMut, index: u64) -> Option<Ref> {
        let store = &mut store.as_context_mut().0.opaque;
        let (owner, table) = self.id(store);
        let bits = store.vm.instance_mut(owner).table_get(table, index)?;
        Some(Ref::from_bits(store, bits, self.wasm_ty(store).element))
    }

    /// Writes element `index`.
    ///
    /// # Errors
    ///
    /// If `index` is out of bounds or `value` is not of the type of the elements.
    pub fn set(&self, mut store: impl AsContextMut, index: u64, value: Ref) -> Result<()> {
        self.fill_in(store.as_context_mut().0, index, value, 1)
    }

    /// Writes `len` elements from `start` on.
    ///
    /// # Errors
    ///
    /// If the table ends before, or `value` is not of the type of the elements.
    pub fn fill(&self, mut store: impl AsContextMut, start: u64, value: Ref, len: u64) -> Result<()> {
        self.fill_in(store.as_context_mut().0, start, value, len)
    }

    fn fill_in<T: 'static>(&self, store: &mut StoreInner<T>, start: u64, value: Ref, len: u64) -> Result<()> {
        let store = &mut store.opaque;
        let element = self.element(store, value)?;
        let (owner, index) = self.id(store);
        let table = store.vm.instance_mut(owner).table_mut(index);
        let size = table.len();
        table.fill(start, element, len).with_context(|| format!("elements {start} to {start} + {len} of a table of {size}"))
    }

    fn element(&self, store: &StoreOpaque, value: Ref) -> Result<u64> {
        let expect = self.wasm_ty(store).element;
        Ok(value.to_slot(store, expect, || "type mismatch: value does not match the table's elements".to_owned())?.get_u64())
    }

    /// Makes the table `delta` elements larger, which are `init`. Returns the old size.
    ///
    /// # Errors
    ///
    /// If the type's maximum, the limits of the store or the system do not allow it, which the error says, or `init` is not of the type of the elements.
    pub fn grow(&self, store: impl AsContextMut, delta: u64, init: Ref) -> Result<u64> {
        at_once(self.grow_async(store, delta, init))
    }

    /// Grows it; the limiter was asked if it may wait.
    pub(crate) fn grow_as_asked<T: 'static>(&self, store: &mut StoreInner<T>, delta: u64, init: Ref) -> Result<u64> {
        let element = self.element(&store.opaque, init)?;
        let (owner, index) = self.id(&store.opaque);
        let grown = boundary::grow_table(store, owner, index, delta, element).map_err(|pending| store.opaque.error_of(pending))?;
        grown.with_context(|| {
            let table = store.opaque.vm.instance(owner).table(index);
            let why = store.opaque.counts.why_not_grown(u128::from(table.len()) + u128::from(delta), table.ty().max);
            format!("failed to grow table by `{delta}`: {why}")
        })
    }

    /// Copies `len` elements, as if through a buffer.
    ///
    /// # Errors
    ///
    /// If either table ends before, or the elements of the source are of another type.
    pub fn copy(mut store: impl AsContextMut, target: &Self, target_index: u64, source: &Self, source_index: u64, len: u64) -> Result<()> {
        let store = &mut store.as_context_mut().0.opaque;
        let (target_ty, source_ty) = (target.ty_in(store), source.ty_in(store));
        if !source_ty.element().matches(target_ty.element()) {
            bail!("type mismatch: elements of {} cannot be copied to a table of {}", source_ty.element(), target_ty.element());
        }
        let ((target_owner, target), (source_owner, source)) = (target.id(store), source.id(store));
        let (target, source) = ((target_owner, target, target_index), (source_owner, source, source_index));
        boundary::copy_table(store, target, source, len).map_err(|trap: Trap| trap.into())
    }
}
