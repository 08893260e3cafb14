//! Tags: what tells exceptions apart. Exceptions are not implemented, so a tag can be made, defined in a linker and compared, and no module
//! imports one.

use crate::TagType;
use crate::context::{AsContext, AsContextMut};
use crate::error::{Result, ensure};
use crate::store::{StoreId, StoreOpaque};

/// A tag of a store.
///
/// ```
/// use peregrine::{Engine, FuncType, Store, Tag, TagType, ValType};
///
/// let engine = Engine::default();
/// let mut store = Store::new(&engine, ());
/// let ty = TagType::new(FuncType::new(&engine, [ValType::I32], []));
/// let (a, b) = (Tag::new(&mut store, &ty)?, Tag::new(&mut store, &ty)?);
/// assert_eq!(a.ty(&store), ty);
/// assert!(Tag::eq(&a, &a, &store) && !Tag::eq(&a, &b, &store));
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tag {
    store: StoreId,
    number: u32,
}

impl Tag {
    /// A new tag, unlike any other.
    ///
    /// # Errors
    ///
    /// If the type has results, or belongs to another engine.
    pub fn new(mut store: impl AsContextMut, ty: &TagType) -> Result<Self> {
        let store = &mut store.as_context_mut().0.opaque;
        ensure!(ty.ty().comes_from(store.engine()), "the type of the tag belongs to another engine");
        ensure!(ty.ty().results().len() == 0, "exceptions carry parameters, and {ty} has results");
        let number = store.tags.len() as u32;
        store.tags.push(ty.clone());
        Ok(Self { store: store.id(), number })
    }

    /// Whether it is of `store`.
    pub(crate) fn is_of(&self, store: &StoreOpaque) -> bool {
        store.owns(self.store)
    }

    pub(crate) fn ty_in(&self, store: &StoreOpaque) -> TagType {
        store.check_id(self.store);
        store.tags[self.number as usize].clone()
    }

    /// The type.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn ty(&self, store: impl AsContext) -> TagType {
        self.ty_in(&store.as_context().0.opaque)
    }

    /// Whether both are the same tag.
    ///
    /// # Panics
    ///
    /// If either belongs to another store.
    pub fn eq(a: &Self, b: &Self, store: impl AsContext) -> bool {
        let store = &store.as_context().0.opaque;
        store.check_id(a.store);
        store.check_id(b.store);
        a.number == b.number
    }
}
