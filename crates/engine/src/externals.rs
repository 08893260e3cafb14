//! What can be imported and exported.

use crate::context::AsContext;
use crate::store::StoreOpaque;
use crate::vm::VmImport;
use crate::{ExternType, Func, Global, Memory, SharedMemory, Table, Tag};

/// Something that can be imported and exported.
#[derive(Clone, Debug)]
pub enum Extern {
    /// A function.
    Func(Func),
    /// A global.
    Global(Global),
    /// A table.
    Table(Table),
    /// A linear memory.
    Memory(Memory),
    /// A tag of exceptions.
    Tag(Tag),
    /// A linear memory that several stores may use at once.
    SharedMemory(SharedMemory),
}

/// An export of an instance. See [`Instance::exports`](crate::Instance::exports).
#[derive(Clone, Debug)]
pub struct Export<'instance> {
    name: &'instance str,
    definition: Extern,
}

impl Extern {
    /// The function, if it is one.
    pub fn into_func(self) -> Option<Func> {
        if let Self::Func(func) = self { Some(func) } else { None }
    }

    /// The global, if it is one.
    pub fn into_global(self) -> Option<Global> {
        if let Self::Global(global) = self { Some(global) } else { None }
    }

    /// The table, if it is one.
    pub fn into_table(self) -> Option<Table> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    /// The memory, if it is one.
    pub fn into_memory(self) -> Option<Memory> {
        if let Self::Memory(memory) = self { Some(memory) } else { None }
    }

    /// The tag, if it is one.
    pub fn into_tag(self) -> Option<Tag> {
        if let Self::Tag(tag) = self { Some(tag) } else { None }
    }

    /// The shared memory, if it is one.
    pub fn into_shared_memory(self) -> Option<SharedMemory> {
        if let Self::SharedMemory(memory) = self { Some(memory) } else { None }
    }

    /// The type it was made with.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn ty(&self, store: impl AsContext) -> ExternType {
        let store = &store.as_context().0.opaque;
        match self {
            Self::Table(table) => table.ty_in(store).into(),
            Self::Memory(memory) => memory.ty_in(store).into(),
            Self::SharedMemory(memory) => memory.ty().into(),
            other => other.ty_in(store),
        }
    }

    /// Whether it can be used in `store`. Shared memories can be used in all of their engine.
    pub(crate) fn is_of(&self, store: &StoreOpaque) -> bool {
        match self {
            Self::Func(func) => func.is_of(store),
            Self::Global(global) => global.is_of(store),
            Self::Table(table) => table.is_of(store),
            Self::Memory(memory) => memory.is_of(store),
            Self::Tag(tag) => tag.is_of(store),
            Self::SharedMemory(memory) => memory.is_of(store.engine()),
        }
    }

    /// The type that imports are compared with: of memories and tables with their current size as the minimum.
    pub(crate) fn ty_in(&self, store: &StoreOpaque) -> ExternType {
        match self {
            Self::Func(func) => func.ty_in(store).into(),
            Self::Global(global) => global.ty_in(store).into(),
            Self::Table(table) => table.ty_in(store).with_minimum(table.size_in(store)).into(),
            Self::Memory(memory) => memory.ty_in(store).with_minimum(memory.size_in(store)).into(),
            Self::Tag(tag) => tag.ty_in(store).into(),
            Self::SharedMemory(memory) => memory.ty().with_minimum(memory.size()).into(),
        }
    }

    /// How the machine names it.
    pub(crate) fn to_import(&self, store: &mut StoreOpaque) -> VmImport {
        match self {
            Self::Func(func) => VmImport::Func(func.id(store)),
            Self::Global(global) => {
                let (owner, index) = global.id(store);
                VmImport::Global(owner, index)
            }
            Self::Table(table) => {
                let (owner, index) = table.id(store);
                VmImport::Table(owner, index)
            }
            Self::Memory(memory) => {
                let (owner, index) = memory.id(store);
                VmImport::Memory(owner, index)
            }
            Self::Tag(_) => unreachable!("modules that import tags are refused"),
            Self::SharedMemory(memory) => VmImport::Shared(memory.in_store(store)),
        }
    }
}

macro_rules! conversions {
    ($($kind:ident)*) => {$(
        impl From<$kind> for Extern {
            fn from(item: $kind) -> Self {
                Self::$kind(item)
            }
        }
    )*};
}

conversions! { Func Global Table Memory SharedMemory Tag }

impl<'instance> Export<'instance> {
    pub(crate) fn new(name: &'instance str, definition: Extern) -> Self {
        Self { name, definition }
    }

    /// The name.
    pub fn name(&self) -> &'instance str {
        self.name
    }

    /// The type.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn ty(&self, store: impl AsContext) -> ExternType {
        self.definition.ty(store)
    }

    /// What is exported.
    pub fn into_extern(self) -> Extern {
        self.definition
    }

    /// The function, if it is one.
    pub fn into_func(self) -> Option<Func> {
        self.definition.into_func()
    }

    /// The global, if it is one.
    pub fn into_global(self) -> Option<Global> {
        self.definition.into_global()
    }

    /// The table, if it is one.
    pub fn into_table(self) -> Option<Table> {
        self.definition.into_table()
    }

    /// The memory, if it is one.
    pub fn into_memory(self) -> Option<Memory> {
        self.definition.into_memory()
    }

    /// The tag, if it is one.
    pub fn into_tag(self) -> Option<Tag> {
        self.definition.into_tag()
    }

    /// The shared memory, if it is one.
    pub fn into_shared_memory(self) -> Option<SharedMemory> {
        self.definition.into_shared_memory()
    }
}
