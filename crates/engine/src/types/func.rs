//! Types of functions.

use super::{Finality, ValType};
use crate::Engine;
use crate::error::{OutOfMemory, Result, ensure};
use crate::vm::{HeldTypes, VmShared};
use peregrine_wasm as wasm;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The type of a function: parameters to results. Belongs to one engine; equal types of it have one identity.
///
/// ```
/// use peregrine::{Engine, FuncType, ValType};
///
/// let engine = Engine::default();
/// let ty = FuncType::new(&engine, [ValType::I32, ValType::I32], [ValType::I64]);
/// assert_eq!(ty.params().len(), 2);
/// assert_eq!(ty.to_string(), "(func (param i32 i32) (result i64))");
/// ```
#[derive(Clone)]
pub struct FuncType {
    inner: Arc<Inner>,
}

struct Inner {
    /// Its identity alone.
    held: HeldTypes,
    ty: Arc<wasm::FuncType>,
    engine: Engine,
}

impl FuncType {
    /// The type with these parameters and results.
    ///
    /// # Panics
    ///
    /// If a type is one that no value has here: of collected values, exceptions or continuations.
    /// [`with_finality_and_supertype`](Self::with_finality_and_supertype) returns that as an error.
    pub fn new(engine: &Engine, params: impl IntoIterator<Item = ValType>, results: impl IntoIterator<Item = ValType>) -> Self {
        Self::of_types(engine, params, results).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`new`](Self::new). Memory for types is never refused.
    ///
    /// # Errors
    ///
    /// None so far.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn try_new(
        engine: &Engine,
        params: impl IntoIterator<Item = ValType>,
        results: impl IntoIterator<Item = ValType>,
    ) -> Result<Self, OutOfMemory> {
        Ok(Self::new(engine, params, results))
    }

    /// As [`new`](Self::new), for a type that may have supertypes and subtypes. Without garbage collection there are none: every type is
    /// final.
    ///
    /// # Errors
    ///
    /// If `finality` is not [`Finality::Final`], there is a `supertype`, or a type is one that no value has here.
    pub fn with_finality_and_supertype(
        engine: &Engine,
        finality: Finality,
        supertype: Option<&Self>,
        params: impl IntoIterator<Item = ValType>,
        results: impl IntoIterator<Item = ValType>,
    ) -> Result<Self> {
        ensure!(finality.is_final() && supertype.is_none(), "subtypes of functions need garbage collection, which is not implemented");
        Self::of_types(engine, params, results)
    }

    fn of_types(engine: &Engine, params: impl IntoIterator<Item = ValType>, results: impl IntoIterator<Item = ValType>) -> Result<Self> {
        // The types that these mention keep their identities until the new one holds them.
        let (params, results): (Vec<_>, Vec<_>) = (params.into_iter().collect(), results.into_iter().collect());
        let all_to_wasm = |types: &[ValType]| types.iter().map(ValType::to_wasm).collect::<Result<_>>();
        let ty = wasm::FuncType { params: all_to_wasm(&params)?, results: all_to_wasm(&results)? };
        let held = engine.shared().types.register(&ty);
        Ok(Self { inner: Arc::new(Inner { held, ty: Arc::new(ty), engine: engine.clone() }) })
    }

    pub(crate) fn from_id(id: u32, registry: &Arc<VmShared>) -> Self {
        let engine = Engine::of_shared(registry);
        let (held, ty) = registry.types.hold(id);
        Self { inner: Arc::new(Inner { held, ty, engine }) }
    }

    /// Its identity in the engine, which is its own as long as this type or a clone lives.
    pub(crate) fn id(&self) -> u32 {
        self.inner.held[0]
    }

    /// Parameters and results, concrete types by identity.
    pub(crate) fn as_wasm(&self) -> &wasm::FuncType {
        &self.inner.ty
    }

    pub(crate) fn comes_from(&self, engine: &Engine) -> bool {
        Engine::same(&self.inner.engine, engine)
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Whether it may have subtypes: it may not.
    pub fn finality(&self) -> Finality {
        Finality::Final
    }

    /// The type that this is declared a subtype of: none.
    pub fn supertype(&self) -> Option<Self> {
        None
    }

    /// Types of the parameters, in order.
    pub fn params(&self) -> impl ExactSizeIterator<Item = ValType> + '_ {
        self.inner.ty.params.iter().map(|ty| ValType::from_wasm(*ty, self.inner.engine.shared()))
    }

    /// The type of parameter `i`, from 0.
    pub fn param(&self, i: usize) -> Option<ValType> {
        self.params().nth(i)
    }

    /// Types of the results, in order.
    pub fn results(&self) -> impl ExactSizeIterator<Item = ValType> + '_ {
        self.inner.ty.results.iter().map(|ty| ValType::from_wasm(*ty, self.inner.engine.shared()))
    }

    /// The type of result `i`, from 0.
    pub fn result(&self, i: usize) -> Option<ValType> {
        self.results().nth(i)
    }

    /// Whether a function of this type can be used where one of `other` is expected. Function types are final, so they match only
    /// themselves.
    ///
    /// # Panics
    ///
    /// If they belong to different engines.
    pub fn matches(&self, other: &Self) -> bool {
        assert!(Engine::same(&self.inner.engine, &other.inner.engine), "function types of different engines cannot be compared");
        self.id() == other.id()
    }
}

impl PartialEq for FuncType {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id() && Engine::same(&self.inner.engine, &other.inner.engine)
    }
}

impl Eq for FuncType {}

impl Hash for FuncType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl fmt::Display for FuncType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(func")?;
        let lists: [(&str, Vec<ValType>); 2] = [("param", self.params().collect()), ("result", self.results().collect())];
        for (keyword, types) in lists.iter().filter(|(_, types)| !types.is_empty()) {
            write!(f, " ({keyword}")?;
            types.iter().try_for_each(|ty| write!(f, " {ty}"))?;
            f.write_str(")")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for FuncType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
