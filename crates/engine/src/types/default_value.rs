//! Something of a given type to fill an import with: zero, null, empty.

use crate::context::AsContextMut;
use crate::error::{Context, Result};
use crate::types::{ExternType, FuncType, GlobalType, MemoryType, TableType, TagType};
use crate::{Extern, Func, Global, Memory, Ref, SharedMemory, Table, Tag, Val};

impl ExternType {
    /// Something of this type: a function that returns zeroes and nulls, a global of zero or null, a memory of zeroes, a table of nulls.
    ///
    /// # Errors
    ///
    /// If there is none, for want of a value for a reference type without null, or a limit of the store refuses it.
    pub fn default_value(&self, store: impl AsContextMut) -> Result<Extern> {
        Ok(match self {
            Self::Func(ty) => ty.default_value(store)?.into(),
            Self::Global(ty) => ty.default_value(store)?.into(),
            Self::Table(ty) => ty.default_value(store)?.into(),
            Self::Memory(ty) => return ty.default_value(store),
            Self::Tag(ty) => ty.default_value(store)?.into(),
        })
    }
}

impl FuncType {
    /// The results of a function of this type that returns zeroes and nulls.
    pub(crate) fn default_results(&self) -> Result<Vec<Val>> {
        self.results().map(|ty| Val::default_for_ty(&ty).with_context(|| no_default(&ty))).collect()
    }

    /// A function of this type that returns zeroes and nulls.
    ///
    /// # Errors
    ///
    /// If a result is of a reference type without null.
    pub fn default_value(&self, store: impl AsContextMut) -> Result<Func> {
        let defaults = self.default_results()?;
        Ok(Func::new(store, self.clone(), move |_, _, results| {
            results.copy_from_slice(&defaults);
            Ok(())
        }))
    }
}

impl GlobalType {
    /// A global of zero or null.
    ///
    /// # Errors
    ///
    /// If its value is of a reference type without null.
    pub fn default_value(&self, store: impl AsContextMut) -> Result<Global> {
        let value = Val::default_for_ty(self.content()).with_context(|| no_default(self.content()))?;
        Global::new(store, self.clone(), value)
    }
}

impl TableType {
    /// A table of nulls, of the minimal size.
    ///
    /// # Errors
    ///
    /// If its elements are of a reference type without null, or a limit of the store refuses it.
    pub fn default_value(&self, store: impl AsContextMut) -> Result<Table> {
        let element = Ref::default_for(self.element()).with_context(|| no_default(self.element()))?;
        Table::new(store, self.clone(), element)
    }
}

impl MemoryType {
    /// A memory of zeroes, of the minimal size.
    ///
    /// # Errors
    ///
    /// If a limit of the store refuses it.
    pub fn default_value(&self, store: impl AsContextMut) -> Result<Extern> {
        if self.is_shared() {
            return Ok(SharedMemory::new(store.as_context().engine(), self.clone())?.into());
        }
        Ok(Memory::new(store, self.clone())?.into())
    }
}

impl TagType {
    /// A tag.
    ///
    /// # Errors
    ///
    /// As [`Tag::new`].
    pub fn default_value(&self, store: impl AsContextMut) -> Result<Tag> {
        Tag::new(store, self)
    }
}

fn no_default(ty: &impl std::fmt::Display) -> String {
    format!("`{ty}` has no default value")
}
