//! Engine-wide identities of function types: equal types have equal numbers, whatever module they come from.
//!
//! A number means its type as long as somebody holds it: a loaded module holds those of its types, a [`FuncType`](crate::FuncType) its own, a
//! registered type those that it mentions. Stores hold, by modules and function types, every number that is in a function reference of theirs.
//! So when nobody holds a number, no image, instance or reference has it, and it is given to the next new type.

use crate::{Engine, EngineWeak};
use peregrine_sys::forks::{self, Inside};
use peregrine_wasm::{FuncType, HeapType, RefType, TypeIndex, ValType};
use std::collections::HashMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The types of one engine. A concrete heap type in a registered type holds an identity of this registry, not an index of a module.
///
/// A handle: clones are the same registry.
#[derive(Clone, Default)]
pub(crate) struct TypeRegistry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    types: Mutex<Types>,
    /// The engine that the types belong to.
    engine: OnceLock<EngineWeak>,
}

#[derive(Default)]
struct Types {
    ids: HashMap<Arc<FuncType>, u32>,
    by_id: Vec<Option<Registered>>,
    /// Numbers that nobody holds.
    free: Vec<u32>,
}

struct Registered {
    ty: Arc<FuncType>,
    /// How many hold it.
    holders: usize,
}

impl TypeRegistry {
    /// Says which engine the types belong to. Once.
    pub(crate) fn set_engine(&self, engine: EngineWeak) {
        let _ = self.inner.engine.set(engine);
    }

    /// The engine, while it is alive.
    pub(crate) fn engine(&self) -> Option<Engine> {
        self.inner.engine.get()?.upgrade()
    }

    /// The identity of `ty`, whose own concrete types are held by the caller.
    pub(crate) fn register(&self, ty: &FuncType) -> HeldTypes {
        let id = self.lock().hold_equal(ty);
        HeldTypes { ids: [id].into(), registry: self.clone() }
    }

    /// The identities of the types of a module, in order.
    pub(crate) fn register_all<'a>(&self, module_types: impl Iterator<Item = &'a FuncType>) -> HeldTypes {
        let mut ids: Vec<u32> = Vec::new();
        let mut types = self.lock();
        for ty in module_types {
            let canonical = |types: &[ValType]| types.iter().map(|ty| canonical_val(*ty, &ids)).collect();
            let canonical = FuncType { params: canonical(&ty.params), results: canonical(&ty.results) };
            let id = types.hold_equal(&canonical);
            ids.push(id);
        }
        drop(types);
        HeldTypes { ids: ids.into(), registry: self.clone() }
    }

    /// The type with the identity `id`, which somebody holds, held once more.
    ///
    /// # Panics
    ///
    /// If nobody holds it.
    pub(crate) fn hold(&self, id: u32) -> (HeldTypes, Arc<FuncType>) {
        let mut types = self.lock();
        let registered = types.by_id[id as usize].as_mut().expect("whoever names a type holds it");
        registered.holders += 1;
        let ty = Arc::clone(&registered.ty);
        drop(types);
        (HeldTypes { ids: [id].into(), registry: self.clone() }, ty)
    }

    /// How many types there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().ids.len()
    }

    fn lock(&self) -> Locked<'_> {
        let inside = forks::enter();
        Locked { types: self.inner.types.lock().unwrap_or_else(PoisonError::into_inner), _inside: inside }
    }
}

/// The types, locked inside of the gate that forks wait at: a child process finds them free, whoever else had them.
struct Locked<'a> {
    // First: the gate is left when they are free.
    types: MutexGuard<'a, Types>,
    _inside: Inside,
}

impl Deref for Locked<'_> {
    type Target = Types;

    fn deref(&self) -> &Types {
        &self.types
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Types {
        &mut self.types
    }
}

impl Types {
    /// The identity of `ty`, held once more.
    fn hold_equal(&mut self, ty: &FuncType) -> u32 {
        if let Some(id) = self.ids.get(ty) {
            let id = *id;
            self.registered(id).holders += 1;
            return id;
        }
        // What the new type mentions is alive as long as it is.
        for mentioned in mentioned(ty) {
            self.registered(mentioned).holders += 1;
        }
        let ty = Arc::new(ty.clone());
        let registered = Some(Registered { ty: Arc::clone(&ty), holders: 1 });
        let id = match self.free.pop() {
            Some(id) => {
                self.by_id[id as usize] = registered;
                id
            }
            None => {
                self.by_id.push(registered);
                u32::try_from(self.by_id.len() - 1).expect("memory ends before the numbers do")
            }
        };
        self.ids.insert(ty, id);
        id
    }

    /// Lets go of `id`, and of all that ends with it: a list in place of a recursion, since types can mention each other in long chains.
    fn release(&mut self, id: u32) {
        let mut released = vec![id];
        while let Some(id) = released.pop() {
            let registered = self.registered(id);
            registered.holders -= 1;
            if registered.holders > 0 {
                continue;
            }
            if let Some(Registered { ty, .. }) = self.by_id[id as usize].take() {
                released.extend(mentioned(&ty));
                self.ids.remove(&ty);
                self.free.push(id);
            }
        }
        if self.ids.is_empty() {
            // Nobody holds a number: begin anew, in little memory.
            *self = Self::default();
        }
    }

    fn registered(&mut self, id: u32) -> &mut Registered {
        self.by_id[id as usize].as_mut().expect("whoever names a type holds it")
    }
}

/// The identities in a registered type.
fn mentioned(ty: &FuncType) -> impl Iterator<Item = u32> + '_ {
    ty.params.iter().chain(&ty.results).filter_map(|ty| match ty {
        ValType::Ref(RefType { heap: HeapType::Concrete(id), .. }) => Some(id.as_u32()),
        _ => None,
    })
}

/// Identities of types, held until this is dropped.
pub(crate) struct HeldTypes {
    ids: Box<[u32]>,
    registry: TypeRegistry,
}

impl Deref for HeldTypes {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.ids
    }
}

impl Drop for HeldTypes {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            let mut types = self.registry.lock();
            self.ids.iter().for_each(|id| types.release(*id));
        }
    }
}

impl fmt::Debug for HeldTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(params: &[ValType]) -> FuncType {
        FuncType { params: params.into(), results: [].into() }
    }

    fn reference(index: u32) -> ValType {
        ValType::Ref(RefType { nullable: true, heap: HeapType::Concrete(TypeIndex::from_u32(index)) })
    }

    #[test]
    fn equal_types_have_one_number_as_long_as_anyone_holds_it() {
        let registry = TypeRegistry::default();
        let first = registry.register(&of(&[ValType::I32]));
        let second = registry.register(&of(&[ValType::I64]));
        let again = registry.register_all([of(&[ValType::I64]), of(&[ValType::I32])].iter());
        assert_eq!((again[0], again[1]), (second[0], first[0]));
        let id = first[0];
        drop(first);
        let other = registry.register(&of(&[ValType::F32]));
        assert_ne!(other[0], id, "the module still holds it");
        drop(again);
        let reused = registry.register(&of(&[ValType::F64]));
        assert_eq!((reused[0], registry.hold(id).1.params[0]), (id, ValType::F64));
        assert_eq!((registry.count(), registry.lock().by_id.len()), (3, 3));
        drop((second, other, reused));
        assert_eq!((registry.count(), registry.lock().by_id.len()), (0, 0));
    }

    #[test]
    fn mentioned_types_live_as_long_as_those_that_mention_them() {
        let registry = TypeRegistry::default();
        // Each but the first mentions the one before.
        let chain: Vec<FuncType> = (0..100_000).map(|i: u32| of(&[i.checked_sub(1).map_or(ValType::I32, reference)])).collect();
        let module = registry.register_all(chain.iter());
        let (last, ty) = registry.hold(module[99_999]);
        drop(module);
        assert_eq!(registry.count(), 100_000);
        assert_eq!(ty.params[0], reference(99_998));
        drop(last);
        assert_eq!((registry.count(), registry.lock().by_id.len()), (0, 0));
    }
}
