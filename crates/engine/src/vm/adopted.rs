//! Shared memories that come into a store from outside: each is owned there by an instance without code, as long as others import it.
//!
//! Nobody has handles to these instances, and they are dropped with the last instance that imports the memory. What they are of is one module
//! without code, the same for all stores of an engine.

use super::alloc::Counting;
use super::alloc::lease::ModuleSource;
use super::code::LoadedModule;
use super::instance::InstanceId;
use super::instantiate::VmImport;
use super::owned_instance::OwnedInstance;
use super::shared_memory::SharedMemory;
use super::store::VmStore;
use peregrine_wasm::{DefinedMemoryIndex, Module};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The adopted memories of a store.
#[derive(Default)]
pub(crate) struct Adopted {
    /// The instances that own them, by the address of the memory.
    owners: BTreeMap<*const SharedMemory, InstanceId>,
    /// How many such instances were dropped.
    pub(super) dropped: u64,
    /// Bytes that the store was charged for the growth of those that were dropped since somebody asked.
    released_bytes: usize,
}

/// The one memory of an instance that owns an adopted one.
const INDEX: DefinedMemoryIndex = DefinedMemoryIndex::from_u32(0);

impl VmStore {
    /// How many shared memories that came from outside the store has.
    pub(crate) fn adopted_count(&self) -> usize {
        self.adopted.owners.len()
    }

    /// How many memories an instance with such imports would bring into the store.
    pub(crate) fn count_new_shared(&self, imports: &[VmImport]) -> usize {
        let mut new: Vec<*const SharedMemory> = Vec::new();
        for import in imports {
            if let VmImport::Shared(memory) = import
                && !self.adopted.owners.contains_key(&Arc::as_ptr(memory))
                && !new.contains(&Arc::as_ptr(memory))
            {
                new.push(Arc::as_ptr(memory));
            }
        }
        new.len()
    }

    /// Bytes of memory that the store was charged for and that left it with adopted memories since this was asked last.
    pub(crate) fn take_released_bytes(&mut self) -> usize {
        std::mem::take(&mut self.adopted.released_bytes)
    }

    /// The imports with every shared memory among them as one of the store. `None` if there is none.
    pub(super) fn adopt_imports(&mut self, imports: &[VmImport]) -> Option<Vec<VmImport>> {
        imports.iter().any(|import| matches!(import, VmImport::Shared(_))).then(|| {
            let adopt = |import: &VmImport| match import {
                VmImport::Shared(memory) => VmImport::Memory(self.adopt_memory(memory), INDEX),
                other => other.clone(),
            };
            imports.iter().map(adopt).collect()
        })
    }

    /// Makes a memory one of this store, if it is none yet. Returns the instance that owns it here.
    fn adopt_memory(&mut self, memory: &Arc<SharedMemory>) -> InstanceId {
        if let Some(owner) = self.adopted.owners.get(&Arc::as_ptr(memory)) {
            return *owner;
        }
        let shared = self.shared();
        let module = Arc::clone(shared.adopting.get_or_init(|| {
            let mut module = Module::default();
            // The contexts of all shared memories look alike.
            module.memories.push(*memory.ty());
            LoadedModule::without_code(module, &shared.types)
        }));
        let kept = self.keep(ModuleSource::Own(&module)).number;
        let id = self.next_instance();
        let header = self.instance_header(id, &module);
        let mut instance = OwnedInstance::new(id, (kept, self.kept_module(kept)), header);
        instance.add_shared_memory(Arc::clone(memory), 0);
        self.push_instance(instance, Counting::InstancesOfHost);
        self.adopted.owners.insert(Arc::as_ptr(memory), id);
        id
    }

    /// Drops the instance `owner` if it owns an adopted memory that no instance imports any more.
    pub(super) fn release_adopted(&mut self, owner: InstanceId) {
        let Some(instance) = self.find_instance(owner).filter(|instance| instance.importers == 0) else { return };
        let Some(memory) = instance.memories.values().next().and_then(|memory| memory.shared()).map(Arc::as_ptr) else { return };
        if self.adopted.owners.get(&memory) != Some(&owner) {
            return;
        }
        self.adopted.owners.remove(&memory);
        self.adopted.dropped += 1;
        let Some(instance) = self.take_instance(owner) else { return };
        self.adopted.released_bytes += instance.memory(INDEX).charged_bytes();
        self.forget_homes(&instance);
        self.give_back(instance);
    }

    /// Drops what was adopted for an instance that did not come about.
    pub(super) fn release_unused(&mut self) {
        let owners: Vec<_> = self.adopted.owners.values().copied().collect();
        owners.into_iter().for_each(|owner| self.release_adopted(owner));
    }
}
