//! Engine-wide identities of function types: equal types have equal numbers, whatever module they come from.

use crate::{Engine, EngineWeak};
use peregrine_wasm::{FuncType, HeapType, RefType, TypeIndex, ValType};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The types of one engine. A concrete heap type in a registered type holds an identity of this registry, not an index of a module.
#[derive(Default)]
pub(crate) struct TypeRegistry {
    types: Mutex<Types>,
    /// The engine that the types belong to.
    engine: OnceLock<EngineWeak>,
}

#[derive(Default)]
struct Types {
    ids: HashMap<FuncType, u32>,
    by_id: Vec<FuncType>,
}

impl TypeRegistry {
    /// Says which engine the types belong to. Once.
    pub(crate) fn set_engine(&self, engine: EngineWeak) {
        let _ = self.engine.set(engine);
    }

    /// The engine, while it is alive.
    pub(crate) fn engine(&self) -> Option<Engine> {
        self.engine.get()?.upgrade()
    }

    /// The identity of `ty`.
    pub(crate) fn register(&self, ty: &FuncType) -> u32 {
        let mut types = self.lock();
        if let Some(id) = types.ids.get(ty) {
            return *id;
        }
        let id = u32::try_from(types.by_id.len()).expect("memory ends before the numbers do");
        types.by_id.push(ty.clone());
        types.ids.insert(ty.clone(), id);
        id
    }

    /// The identities of the types of a module, in order.
    pub(crate) fn register_all<'a>(&self, module_types: impl Iterator<Item = &'a FuncType>) -> Box<[u32]> {
        let mut ids: Vec<u32> = Vec::new();
        for ty in module_types {
            let canonical = |types: &[ValType]| types.iter().map(|ty| canonical_val(*ty, &ids)).collect();
            let canonical = FuncType { params: canonical(&ty.params), results: canonical(&ty.results) };
            let id = self.register(&canonical);
            ids.push(id);
        }
        ids.into()
    }

    /// The type with the identity `id`.
    pub(crate) fn func_type(&self, id: u32) -> FuncType {
        self.lock().by_id[id as usize].clone()
    }

    fn lock(&self) -> MutexGuard<'_, Types> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `ty` with identities in place of indices. An index that is not among `ids` (a type that refers to itself) stands for any function.
fn canonical_val(ty: ValType, ids: &[u32]) -> ValType {
    match ty {
        ValType::Ref(RefType { nullable, heap: HeapType::Concrete(index) }) => {
            let id = ids.get(index.as_u32() as usize).copied();
            let heap = id.map_or(HeapType::Func, |id| HeapType::Concrete(TypeIndex::from_u32(id)));
            ValType::Ref(RefType { nullable, heap })
        }
        other => other,
    }
}
