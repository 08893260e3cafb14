//! Globals.

use crate::context::{AsContext, AsContextMut};
use crate::error::{Result, bail};
use crate::store::{StoreId, StoreOpaque};
use crate::vm::{InstanceId, ValRaw, boundary};
use crate::{GlobalType, Val, ValType};
use peregrine_wasm as wasm;
use peregrine_wasm::DefinedGlobalIndex;

/// A global of a store.
///
/// ```
/// use peregrine::{Engine, Global, GlobalType, Mutability, Store, Val, ValType};
///
/// let mut store = Store::new(&Engine::default(), ());
/// let global = Global::new(&mut store, GlobalType::new(ValType::I64, Mutability::Var), Val::I64(1))?;
/// global.set(&mut store, Val::I64(2))?;
/// assert_eq!(global.get(&mut store).unwrap_i64(), 2);
/// assert!(global.set(&mut store, Val::I32(2)).is_err());
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global {
    store: StoreId,
    owner: InstanceId,
    index: DefinedGlobalIndex,
}

/// Bytes that a global, memory or table of the host's takes for its description and its instance, for
/// [`Budget::host_bytes`](crate::Budget::host_bytes).
pub(crate) const HOST_OBJECT_BYTES: usize = 2048;

impl Global {
    /// A global of the host's.
    ///
    /// # Errors
    ///
    /// If `value` is not of the type or belongs to another store, or the store holds more than
    /// [`Budget::host_bytes`](crate::Budget::host_bytes).
    pub fn new(mut store: impl AsContextMut, ty: GlobalType, value: Val) -> Result<Self> {
        let store = store.as_context_mut().0;
        if let ValType::Ref(content) = ty.content() {
            store.opaque.keep_types_of(content);
        }
        let ty = ty.to_wasm()?;
        let raw = value.to_slot(&store.opaque, ty.content, mismatch)?;
        let before = store.opaque.counts;
        store.opaque.counts.add_host_bytes(HOST_OBJECT_BYTES)?;
        let owner = boundary::create(store, |vm| vm.new_host_global(ty)).inspect_err(|_| store.opaque.counts = before)?;
        let index = DefinedGlobalIndex::from_u32(0);
        boundary::set_global_bits(&mut store.opaque, owner, index, raw.get_v128());
        Ok(Self::from_id(&store.opaque, (owner, index)))
    }

    /// Whether it is of `store`.
    pub(crate) fn is_of(&self, store: &StoreOpaque) -> bool {
        store.owns(self.store)
    }

    pub(crate) fn from_id(store: &StoreOpaque, (owner, index): (InstanceId, DefinedGlobalIndex)) -> Self {
        Self { store: store.id(), owner, index }
    }

    /// Which global of `store` it is.
    pub(crate) fn id(&self, store: &StoreOpaque) -> (InstanceId, DefinedGlobalIndex) {
        store.check_instance(self.store, self.owner);
        (self.owner, self.index)
    }

    /// The type, concrete types by identity.
    fn wasm_ty(&self, store: &StoreOpaque) -> wasm::GlobalType {
        let (owner, index) = self.id(store);
        let module = store.vm.instance(owner).module();
        let description = module.module();
        let ty = description.globals[wasm::GlobalIndex::from_u32(description.imported_globals + index.as_u32())].ty;
        let content = match ty.content {
            wasm::ValType::Ref(reference) => wasm::ValType::Ref(crate::types::canonical(reference, module.type_ids())),
            other => other,
        };
        wasm::GlobalType { content, ..ty }
    }

    pub(crate) fn ty_in(&self, store: &StoreOpaque) -> GlobalType {
        let (owner, index) = self.id(store);
        let module = store.vm.instance(owner).module();
        let description = module.module();
        let index = peregrine_wasm::GlobalIndex::from_u32(description.imported_globals + index.as_u32());
        GlobalType::from_wasm(&description.globals[index].ty, module.type_ids(), store.engine().shared())
    }

    /// The type.
    ///
    /// # Panics
    ///
    /// If it belongs to another store; so do all functions here.
    pub fn ty(&self, store: impl AsContext) -> GlobalType {
        self.ty_in(&store.as_context().0.opaque)
    }

    /// The value.
    pub fn get(&self, mut store: impl AsContextMut) -> Val {
        let store = &store.as_context_mut().0.opaque;
        let ty = self.wasm_ty(store).content;
        let (owner, index) = self.id(store);
        Val::from_slot(store, ValRaw::v128(boundary::global_bits(store, owner, index)), ty)
    }

    /// Writes the value.
    ///
    /// # Errors
    ///
    /// If the global is constant or `value` is not of its type.
    pub fn set(&self, mut store: impl AsContextMut, value: Val) -> Result<()> {
        let store = &mut store.as_context_mut().0.opaque;
        let ty = self.wasm_ty(store);
        if !ty.mutable {
            bail!("immutable global cannot be set");
        }
        let raw = value.to_slot(store, ty.content, mismatch)?;
        let (owner, index) = self.id(store);
        boundary::set_global_bits(store, owner, index, raw.get_v128());
        Ok(())
    }
}

fn mismatch() -> String {
    "type mismatch: value does not match the global".to_owned()
}
