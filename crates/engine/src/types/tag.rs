//! Types of tags, of exceptions and of continuations. Exceptions and stack switching are not implemented: tags can be made and given to a
//! linker, exceptions and continuations do not exist.

use super::{FieldType, FuncType, Mutability, ValType};
use crate::Engine;
use crate::error::{Result, ensure};
use std::fmt;

/// The type of a tag: the values that an exception with it carries, as the parameters of a function without results.
///
/// ```
/// use peregrine::{Engine, FuncType, TagType, ValType};
///
/// let engine = Engine::default();
/// let ty = TagType::new(FuncType::new(&engine, [ValType::I32], []));
/// assert_eq!(ty.to_string(), "(tag (param i32))");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagType {
    ty: FuncType,
}

impl TagType {
    /// The type of tags whose exceptions carry the parameters of `ty`.
    pub fn new(ty: FuncType) -> Self {
        Self { ty }
    }

    /// The function type.
    pub fn ty(&self) -> &FuncType {
        &self.ty
    }
}

impl fmt::Display for TagType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.ty.to_string();
        write!(f, "(tag{}", text.strip_prefix("(func").unwrap_or(&text))
    }
}

/// The type of exceptions with a tag. Describes only, see [`HeapType::Exn`](crate::HeapType::Exn).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExnType {
    ty: FuncType,
}

impl ExnType {
    /// The type of exceptions that carry values of these types.
    ///
    /// # Errors
    ///
    /// If a type is one that no value has here.
    pub fn new(engine: &Engine, fields: impl IntoIterator<Item = ValType>) -> Result<Self> {
        let ty = FuncType::with_finality_and_supertype(engine, super::Finality::Final, None, fields, [])?;
        Ok(Self { ty })
    }

    /// The type of exceptions with tags of a type.
    ///
    /// # Errors
    ///
    /// If the tag's type has results.
    pub fn from_tag_type(tag: &TagType) -> Result<Self> {
        ensure!(tag.ty.results().len() == 0, "exceptions carry parameters, and {tag} has results");
        Ok(Self { ty: tag.ty.clone() })
    }

    /// The type of the tag.
    pub fn tag_type(&self) -> TagType {
        TagType::new(self.ty.clone())
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &Engine {
        self.ty.engine()
    }

    /// Value `i` that such an exception carries, from 0.
    pub fn field(&self, i: usize) -> Option<FieldType> {
        self.fields().nth(i)
    }

    /// The values that such an exception carries. They are constant.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = FieldType> + '_ {
        self.ty.params().map(|ty| FieldType::new(Mutability::Const, ty.into()))
    }

    /// Whether both are the same type: exceptions have no subtypes.
    pub fn matches(&self, other: &Self) -> bool {
        self == other
    }
}

impl fmt::Display for ExnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(exn")?;
        self.fields().try_for_each(|field| write!(f, " (field {field})"))?;
        f.write_str(")")
    }
}

/// The type of suspended computations that go on as a function of one type. None are made, see
/// [`HeapType::Cont`](crate::HeapType::Cont).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContType {
    ty: FuncType,
}

impl ContType {
    /// The engine it belongs to.
    pub fn engine(&self) -> &Engine {
        self.ty.engine()
    }

    /// Whether both are the same type.
    pub fn matches(&self, other: &Self) -> bool {
        self == other
    }
}

impl fmt::Display for ContType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(cont {})", self.ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_carry_what_their_tag_says() {
        let engine = Engine::default();
        let tag = TagType::new(FuncType::new(&engine, [ValType::I32, ValType::F64], []));
        let ty = ExnType::from_tag_type(&tag).unwrap();
        assert_eq!(ty.to_string(), "(exn (field i32) (field f64))");
        assert_eq!((ty.tag_type(), ty.fields().len()), (tag, 2));
        assert_eq!(ty, ExnType::new(&engine, [ValType::I32, ValType::F64]).unwrap());
        let returns = TagType::new(FuncType::new(&engine, [], [ValType::I32]));
        assert!(ExnType::from_tag_type(&returns).is_err());
    }
}
