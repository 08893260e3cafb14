//! The index spaces of a module, and the vectors they index.
//!
//! `FooIndex` counts imports first, then definitions (as the specification does); `DefinedFooIndex` counts definitions only.
//! Core specification, section 2.5.1.

use serde::{Deserialize, Serialize};
use std::marker::PhantomData;
use std::ops;

/// A newtype over the position in one index space.
pub trait Index: Copy + Eq {
    /// The index at position `position`. Positions beyond `u32::MAX` do not occur: modules are limited to 4 GiB.
    fn from_usize(position: usize) -> Self;
    /// The position, ready to index a slice.
    fn as_usize(self) -> usize;
}

macro_rules! index_spaces {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(u32);

        impl $name {
            /// The index `index`.
            pub const fn from_u32(index: u32) -> Self {
                Self(index)
            }

            /// The number as the binary format writes it.
            pub const fn as_u32(self) -> u32 {
                self.0
            }
        }

        impl Index for $name {
            fn from_usize(position: usize) -> Self {
                Self(u32::try_from(position).expect("an index space holds at most 2^32 - 1 items"))
            }

            fn as_usize(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}

index_spaces! {
    /// A type of the module.
    TypeIndex
    /// A function, imported or defined.
    FuncIndex
    /// A function defined in the module: `FuncIndex` minus the imported ones.
    DefinedFuncIndex
    /// A table, imported or defined.
    TableIndex
    /// A table defined in the module.
    DefinedTableIndex
    /// A linear memory, imported or defined.
    MemoryIndex
    /// A linear memory defined in the module.
    DefinedMemoryIndex
    /// A global, imported or defined.
    GlobalIndex
    /// A global defined in the module.
    DefinedGlobalIndex
    /// A tag, imported or defined.
    TagIndex
    /// A data segment.
    DataIndex
    /// An element segment.
    ElementIndex
}

/// One item of any of the index spaces that can be imported and exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntityIndex {
    /// A function.
    Function(FuncIndex),
    /// A table.
    Table(TableIndex),
    /// A linear memory.
    Memory(MemoryIndex),
    /// A global.
    Global(GlobalIndex),
    /// A tag.
    Tag(TagIndex),
}

/// A vector that is indexed by one index space only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IndexVec<I, T> {
    items: Vec<T>,
    #[serde(skip)]
    space: PhantomData<I>,
}

impl<I: Index, T> IndexVec<I, T> {
    /// An empty vector.
    pub const fn new() -> Self {
        Self { items: Vec::new(), space: PhantomData }
    }

    /// An empty vector with room for `capacity` items.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { items: Vec::with_capacity(capacity), space: PhantomData }
    }

    /// Appends `item` and returns its index.
    pub fn push(&mut self, item: T) -> I {
        let index = self.next_index();
        self.items.push(item);
        index
    }

    /// The index that the next `push` returns.
    pub fn next_index(&self) -> I {
        I::from_usize(self.items.len())
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The item at `index`, if there is one.
    pub fn get(&self, index: I) -> Option<&T> {
        self.items.get(index.as_usize())
    }

    /// The item at `index` for writing, if there is one.
    pub fn get_mut(&mut self, index: I) -> Option<&mut T> {
        self.items.get_mut(index.as_usize())
    }

    /// All items with their indices, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (I, &T)> + ExactSizeIterator {
        self.items.iter().enumerate().map(|(position, item)| (I::from_usize(position), item))
    }

    /// All items, in order.
    pub fn values(&self) -> std::slice::Iter<'_, T> {
        self.items.iter()
    }

    /// All items, in order, for writing.
    pub fn values_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.items.iter_mut()
    }

    /// Removes all items and keeps the room for them.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// All indices, in order.
    pub fn indices(&self) -> impl DoubleEndedIterator<Item = I> + ExactSizeIterator + use<I, T> {
        (0..self.items.len()).map(I::from_usize)
    }

    /// The items as a slice.
    pub fn as_slice(&self) -> &[T] {
        &self.items
    }
}

impl<I: Index, T> Default for IndexVec<I, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: Index, T> ops::Index<I> for IndexVec<I, T> {
    type Output = T;

    fn index(&self, index: I) -> &T {
        &self.items[index.as_usize()]
    }
}

impl<I: Index, T> ops::IndexMut<I> for IndexVec<I, T> {
    fn index_mut(&mut self, index: I) -> &mut T {
        &mut self.items[index.as_usize()]
    }
}

impl<I: Index, T> FromIterator<T> for IndexVec<I, T> {
    fn from_iter<It: IntoIterator<Item = T>>(items: It) -> Self {
        Self { items: items.into_iter().collect(), space: PhantomData }
    }
}

impl<I: Index, T> From<Vec<T>> for IndexVec<I, T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, space: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_returns_the_index_that_reads_the_item_back() {
        let mut names = IndexVec::<FuncIndex, &str>::new();
        let first = names.push("first");
        let second = names.push("second");
        assert_eq!((names[first], names[second]), ("first", "second"));
        assert_eq!(second.as_u32(), 1);
        assert_eq!(names.get(FuncIndex::from_u32(2)), None);
    }
}
