//! Types of functions.

use super::ValType;
use crate::Engine;
use crate::vm::VmShared;
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
    id: u32,
    ty: wasm::FuncType,
    registry: Arc<VmShared>,
}

impl FuncType {
    /// The type with these parameters and results.
    pub fn new(engine: &Engine, params: impl IntoIterator<Item = ValType>, results: impl IntoIterator<Item = ValType>) -> Self {
        let ty = wasm::FuncType {
            params: params.into_iter().map(|ty| ty.to_wasm()).collect(),
            results: results.into_iter().map(|ty| ty.to_wasm()).collect(),
        };
        let registry = engine.shared();
        let id = registry.types.register(&ty);
        Self { inner: Arc::new(Inner { id, ty, registry: Arc::clone(registry) }) }
    }

    pub(crate) fn from_id(id: u32, registry: &Arc<VmShared>) -> Self {
        Self { inner: Arc::new(Inner { id, ty: registry.types.func_type(id), registry: Arc::clone(registry) }) }
    }

    pub(crate) fn id(&self) -> u32 {
        self.inner.id
    }

    /// Parameters and results, concrete types by identity.
    pub(crate) fn as_wasm(&self) -> &wasm::FuncType {
        &self.inner.ty
    }

    pub(crate) fn comes_from(&self, engine: &Engine) -> bool {
        Arc::ptr_eq(&self.inner.registry, engine.shared())
    }

    /// Types of the parameters, in order.
    pub fn params(&self) -> impl ExactSizeIterator<Item = ValType> + '_ {
        self.inner.ty.params.iter().map(|ty| ValType::from_wasm(*ty, &self.inner.registry))
    }

    /// The type of parameter `i`, from 0.
    pub fn param(&self, i: usize) -> Option<ValType> {
        self.params().nth(i)
    }

    /// Types of the results, in order.
    pub fn results(&self) -> impl ExactSizeIterator<Item = ValType> + '_ {
        self.inner.ty.results.iter().map(|ty| ValType::from_wasm(*ty, &self.inner.registry))
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
        assert!(Arc::ptr_eq(&self.inner.registry, &other.inner.registry), "function types of different engines cannot be compared");
        self.inner.id == other.inner.id
    }
}

impl PartialEq for FuncType {
    fn eq(&self, other: &Self) -> bool {
        self.inner.id == other.inner.id && Arc::ptr_eq(&self.inner.registry, &other.inner.registry)
    }
}

impl Eq for FuncType {}

impl Hash for FuncType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.id.hash(state);
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
