//! Types of collected values: structs and arrays. Garbage collection is not implemented, so that they only describe: they can be made,
//! compared and printed, and no value has them. Core specification, sections 2.3.8 and 3.3.

use super::{Mutability, RefType, ValType};
use crate::Engine;
use crate::error::{Result, ensure};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Whether a type may have subtypes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finality {
    /// It may not.
    Final,
    /// It may.
    NonFinal,
}

impl Finality {
    /// Whether it is [`Self::Final`].
    pub fn is_final(&self) -> bool {
        *self == Self::Final
    }

    /// Whether it is [`Self::NonFinal`].
    pub fn is_non_final(&self) -> bool {
        *self == Self::NonFinal
    }
}

/// What a field or an element holds: a value, or an integer that is stored narrower than it is passed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StorageType {
    /// An 8-bit integer.
    I8,
    /// A 16-bit integer.
    I16,
    /// A value.
    ValType(ValType),
}

impl StorageType {
    /// Whether it is [`Self::I8`].
    pub fn is_i8(&self) -> bool {
        matches!(self, Self::I8)
    }

    /// Whether it is [`Self::I16`].
    pub fn is_i16(&self) -> bool {
        matches!(self, Self::I16)
    }

    /// Whether it is a value.
    pub fn is_val_type(&self) -> bool {
        matches!(self, Self::ValType(_))
    }

    /// The type of the value, if it is one.
    pub fn as_val_type(&self) -> Option<&ValType> {
        if let Self::ValType(ty) = self { Some(ty) } else { None }
    }

    /// The type of the value.
    ///
    /// # Panics
    ///
    /// If it is a narrow integer.
    pub fn unwrap_val_type(&self) -> &ValType {
        self.as_val_type().expect("not a value type")
    }

    /// The type of the value that reading it gives: `i32` for narrow integers.
    pub fn unpack(&self) -> &ValType {
        self.as_val_type().unwrap_or(&ValType::I32)
    }

    /// Whether everything this holds is also held by `other`.
    pub fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ValType(sub), Self::ValType(sup)) => sub.matches(sup),
            _ => self == other,
        }
    }
}

impl From<ValType> for StorageType {
    fn from(ty: ValType) -> Self {
        Self::ValType(ty)
    }
}

impl From<RefType> for StorageType {
    fn from(ty: RefType) -> Self {
        Self::ValType(ty.into())
    }
}

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::I8 => f.write_str("i8"),
            Self::I16 => f.write_str("i16"),
            Self::ValType(ty) => ty.fmt(f),
        }
    }
}

/// The type of a field of a struct, or of the elements of an array.
///
/// ```
/// use peregrine::{FieldType, Mutability, StorageType};
///
/// let bytes = FieldType::new(Mutability::Var, StorageType::I8);
/// assert_eq!(bytes.to_string(), "(mut i8)");
/// assert!(bytes.element_type().unpack().is_i32());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldType {
    mutability: Mutability,
    element_type: StorageType,
}

impl FieldType {
    /// The type of fields that hold `element_type`.
    pub fn new(mutability: Mutability, element_type: StorageType) -> Self {
        Self { mutability, element_type }
    }

    /// Whether it may be written.
    pub fn mutability(&self) -> Mutability {
        self.mutability
    }

    /// What it holds.
    pub fn element_type(&self) -> &StorageType {
        &self.element_type
    }

    /// Whether a field of this type can stand where one of `other` is expected: fields that may be written must hold exactly the same.
    pub fn matches(&self, other: &Self) -> bool {
        self == other || self.mutability.is_const() && other.mutability.is_const() && self.element_type.matches(&other.element_type)
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mutability {
            Mutability::Const => self.element_type.fmt(f),
            Mutability::Var => write!(f, "(mut {})", self.element_type),
        }
    }
}

/// What struct and array types have in common.
struct Composite<T> {
    engine: Engine,
    finality: Finality,
    supertype: Option<T>,
    fields: Vec<FieldType>,
}

impl<T: PartialEq> PartialEq for Composite<T> {
    fn eq(&self, other: &Self) -> bool {
        let parts = |ty: &Self| (ty.finality, ty.fields.len());
        parts(self) == parts(other)
            && Engine::same(&self.engine, &other.engine)
            && self.fields == other.fields
            && self.supertype == other.supertype
    }
}

macro_rules! composite {
    ($($ty:ident)*) => {$(
        impl $ty {
            /// The engine it belongs to.
            pub fn engine(&self) -> &Engine {
                &self.inner.engine
            }

            /// Whether it may have subtypes.
            pub fn finality(&self) -> Finality {
                self.inner.finality
            }

            /// The type that this is declared a subtype of.
            pub fn supertype(&self) -> Option<Self> {
                self.inner.supertype.clone()
            }

            /// Whether this is `other`, or declared a subtype of it, directly or not.
            pub fn matches(&self, other: &Self) -> bool {
                let mut ty = Some(self);
                while let Some(sub) = ty {
                    if sub == other {
                        return true;
                    }
                    ty = sub.inner.supertype.as_ref();
                }
                false
            }
        }

        impl PartialEq for $ty {
            fn eq(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.inner, &other.inner) || self.inner == other.inner
            }
        }

        impl Eq for $ty {}

        impl Hash for $ty {
            fn hash<H: Hasher>(&self, state: &mut H) {
                (self.inner.finality, &self.inner.fields).hash(state);
            }
        }

        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

/// The type of a struct: fields by number. Describes only: there are no objects of it yet.
///
/// ```
/// use peregrine::{Engine, FieldType, Mutability, StorageType, StructType, ValType};
///
/// let engine = Engine::default();
/// let pair = StructType::new(&engine, [FieldType::new(Mutability::Const, ValType::I32.into()), FieldType::new(Mutability::Var, StorageType::I8)])?;
/// assert_eq!(pair.to_string(), "(struct (field i32) (field (mut i8)))");
/// assert_eq!(pair.fields().len(), 2);
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone)]
pub struct StructType {
    inner: Arc<Composite<StructType>>,
}

/// The type of an array: elements of one type, in a number known at run time. Describes only: there are no objects of it yet.
///
/// ```
/// use peregrine::{ArrayType, Engine, FieldType, Mutability, StorageType};
///
/// let text = ArrayType::new(&Engine::default(), FieldType::new(Mutability::Var, StorageType::I8));
/// assert_eq!(text.to_string(), "(array (mut i8))");
/// ```
#[derive(Clone)]
pub struct ArrayType {
    inner: Arc<Composite<ArrayType>>,
}

composite! { StructType ArrayType }

impl StructType {
    /// The final type with these fields, a subtype of none.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn new(engine: &Engine, fields: impl IntoIterator<Item = FieldType>) -> Result<Self> {
        Self::with_finality_and_supertype(engine, Finality::Final, None, fields)
    }

    /// The type with these fields, a subtype of `supertype`.
    ///
    /// # Errors
    ///
    /// If `supertype` is final or of another engine, or its fields are not the first ones here.
    pub fn with_finality_and_supertype(
        engine: &Engine,
        finality: Finality,
        supertype: Option<&Self>,
        fields: impl IntoIterator<Item = FieldType>,
    ) -> Result<Self> {
        let fields: Vec<FieldType> = fields.into_iter().collect();
        if let Some(sup) = supertype {
            ensure!(Engine::same(sup.engine(), engine), "the supertype belongs to another engine");
            ensure!(sup.finality().is_non_final(), "{sup} is final and has no subtypes");
            let fits = sup.inner.fields.len() <= fields.len() && fields.iter().zip(&sup.inner.fields).all(|(sub, sup)| sub.matches(sup));
            ensure!(fits, "the fields of {sup} are not the first ones of its subtype");
        }
        Ok(Self { inner: Arc::new(Composite { engine: engine.clone(), finality, supertype: supertype.cloned(), fields }) })
    }

    /// Field `i`, from 0.
    pub fn field(&self, i: usize) -> Option<FieldType> {
        self.inner.fields.get(i).cloned()
    }

    /// The fields, in order.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = FieldType> + '_ {
        self.inner.fields.iter().cloned()
    }
}

impl fmt::Display for StructType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(struct")?;
        self.inner.fields.iter().try_for_each(|field| write!(f, " (field {field})"))?;
        f.write_str(")")
    }
}

impl ArrayType {
    /// The final type with elements of `field_type`, a subtype of none.
    pub fn new(engine: &Engine, field_type: FieldType) -> Self {
        Self { inner: Arc::new(Composite { engine: engine.clone(), finality: Finality::Final, supertype: None, fields: vec![field_type] }) }
    }

    /// The type with elements of `field_type`, a subtype of `supertype`.
    ///
    /// # Errors
    ///
    /// If `supertype` is final or of another engine, or its elements are not more general.
    pub fn with_finality_and_supertype(
        engine: &Engine,
        finality: Finality,
        supertype: Option<&Self>,
        field_type: FieldType,
    ) -> Result<Self> {
        if let Some(sup) = supertype {
            ensure!(Engine::same(sup.engine(), engine), "the supertype belongs to another engine");
            ensure!(sup.finality().is_non_final(), "{sup} is final and has no subtypes");
            ensure!(field_type.matches(&sup.field_type()), "elements of {field_type} do not match those of {sup}");
        }
        Ok(Self {
            inner: Arc::new(Composite { engine: engine.clone(), finality, supertype: supertype.cloned(), fields: vec![field_type] }),
        })
    }

    /// The type of the elements.
    pub fn field_type(&self) -> FieldType {
        self.inner.fields[0].clone()
    }

    /// Whether the elements may be written.
    pub fn mutability(&self) -> Mutability {
        self.inner.fields[0].mutability()
    }

    /// What the elements hold.
    pub fn element_type(&self) -> StorageType {
        self.inner.fields[0].element_type().clone()
    }
}

impl fmt::Display for ArrayType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(array {})", self.inner.fields[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeapType;

    #[test]
    fn subtypes_are_declared() {
        let engine = Engine::default();
        let number = FieldType::new(Mutability::Const, ValType::I32.into());
        let base = StructType::with_finality_and_supertype(&engine, Finality::NonFinal, None, [number.clone()]).unwrap();
        let more = [number.clone(), number.clone()];
        let derived = StructType::with_finality_and_supertype(&engine, Finality::Final, Some(&base), more.clone()).unwrap();
        assert!(derived.matches(&base) && !base.matches(&derived));
        assert!(!StructType::new(&engine, more.clone()).unwrap().matches(&base));
        assert!(HeapType::from(derived.clone()).matches(&HeapType::Struct));
        let error = StructType::with_finality_and_supertype(&engine, Finality::Final, Some(&derived), more).unwrap_err();
        assert!(error.to_string().contains("is final"), "{error}");
        let error = StructType::with_finality_and_supertype(&engine, Finality::Final, Some(&base), []).unwrap_err();
        assert!(error.to_string().contains("not the first ones"), "{error}");
        let other = StructType::new(&Engine::default(), [number.clone()]).unwrap();
        assert!(other != StructType::new(&engine, [number.clone()]).unwrap());
        assert_eq!(ArrayType::new(&engine, number.clone()), ArrayType::new(&engine, number));
    }
}
