//! Long lists of numbers as plain bytes in serialized modules, so that reading a large module back costs little more than copying them.

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// An item that is `WORDS` numbers.
pub(crate) trait Packed: Sized {
    /// How many numbers.
    const WORDS: usize;
    /// Gives the numbers to `write`.
    fn pack(&self, write: &mut dyn FnMut(u32));
    /// The item with these numbers.
    fn unpack(words: &[u32]) -> Self;
}

/// Writes `items` as little-endian bytes.
pub(crate) fn serialize<'a, T: Packed + 'a, S: Serializer>(items: impl Iterator<Item = &'a T>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut bytes = Vec::new();
    items.for_each(|item| item.pack(&mut |word| bytes.extend_from_slice(&word.to_le_bytes())));
    serializer.serialize_bytes(&bytes)
}

/// Reads what [`serialize`] wrote.
pub(crate) fn deserialize<'de, T: Packed, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_bytes(Items(PhantomData))
}

struct Items<T>(PhantomData<T>);

impl<T: Packed> Visitor<'_> for Items<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes in groups of {}", T::WORDS * 4)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<T>, E> {
        if !bytes.len().is_multiple_of(T::WORDS * 4) {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        let mut words = [0u32; 4];
        let item = |group: &[u8]| {
            for (word, bytes) in words.iter_mut().zip(group.chunks_exact(4)) {
                *word = u32::from_le_bytes(bytes.try_into().unwrap_or_default());
            }
            T::unpack(&words[..T::WORDS])
        };
        Ok(bytes.chunks_exact(T::WORDS * 4).map(item).collect())
    }
}

/// Serialization of the functions of a module.
pub(crate) mod functions {
    use super::Packed;
    use crate::{FuncIndex, FunctionDecl, IndexVec, TypeIndex};
    use serde::{Deserializer, Serializer};

    const NONE: u32 = u32::MAX;

    impl Packed for FunctionDecl {
        const WORDS: usize = 2;

        fn pack(&self, write: &mut dyn FnMut(u32)) {
            write(self.ty.as_u32());
            write(self.func_ref.unwrap_or(NONE));
        }

        fn unpack(words: &[u32]) -> Self {
            Self { ty: TypeIndex::from_u32(words[0]), func_ref: (words[1] != NONE).then_some(words[1]) }
        }
    }

    pub(crate) fn serialize<S: Serializer>(functions: &IndexVec<FuncIndex, FunctionDecl>, serializer: S) -> Result<S::Ok, S::Error> {
        super::serialize(functions.values(), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IndexVec<FuncIndex, FunctionDecl>, D::Error> {
        Ok(super::deserialize(deserializer)?.into())
    }
}

/// Serialization of the elements of a segment.
pub(crate) mod elements {
    use super::Packed;
    use crate::FuncIndex;
    use serde::{Deserializer, Serializer};

    impl Packed for FuncIndex {
        const WORDS: usize = 1;

        fn pack(&self, write: &mut dyn FnMut(u32)) {
            write(self.as_u32());
        }

        fn unpack(words: &[u32]) -> Self {
            Self::from_u32(words[0])
        }
    }

    pub(crate) fn serialize<S: Serializer>(elements: &[FuncIndex], serializer: S) -> Result<S::Ok, S::Error> {
        super::serialize(elements.iter(), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<[FuncIndex]>, D::Error> {
        Ok(super::deserialize(deserializer)?.into())
    }
}
