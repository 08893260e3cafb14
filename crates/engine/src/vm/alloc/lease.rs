//! How stores hold on to their engine and to the modules of their instances, without counters that all threads share.

use super::pool::{Anchor, Pool};
use crate::vm::code::LoadedModule;
use crate::vm::owned_instance::OwnedInstance;
use crate::vm::store::VmShared;
use crate::{Engine, Module};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

/// An engine that lives as long as this.
pub(crate) struct EngineLease {
    /// A copy of a handle that is not counted; the lease keeps what it points to.
    engine: ManuallyDrop<Engine>,
    shard: usize,
}

impl EngineLease {
    /// A lease of `engine`.
    pub(crate) fn new(engine: &Engine) -> Self {
        let shard = engine.pool().lease(|| engine.anchor());
        // SAFETY: a handle is a pointer; the copy is never dropped, and what it points to lives until the lease is ended.
        let engine = ManuallyDrop::new(unsafe { std::ptr::read(engine) });
        Self { engine, shard }
    }
}

impl Deref for EngineLease {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for EngineLease {
    fn drop(&mut self) {
        let anchor: Option<Anchor> = self.engine.pool().end_lease(self.shard);
        drop(anchor);
    }
}

/// A module that lives as long as this.
pub(crate) struct ModuleLease {
    /// As in [`EngineLease`].
    module: ManuallyDrop<Module>,
    shard: usize,
}

impl ModuleLease {
    /// A lease of `module`, and a warm instance of it, if there is one: it counts as out of the pool in either case.
    fn with_warm(module: &Module) -> (Self, Option<OwnedInstance>) {
        let (shard, warm) = module.pool().lease_and_take(|| module.anchor());
        // SAFETY: as in `EngineLease::new`.
        let module = ManuallyDrop::new(unsafe { std::ptr::read(module) });
        (Self { module, shard }, warm)
    }
}

impl Drop for ModuleLease {
    fn drop(&mut self) {
        let anchor: Option<Anchor> = self.module.pool().end_lease(self.shard);
        drop(anchor);
    }
}

/// A module to make an instance of.
#[derive(Clone, Copy)]
pub(crate) enum ModuleSource<'a> {
    /// One of the embedder's, which may have warm instances.
    Module(&'a Module),
    /// What the host itself made.
    Own(&'a Arc<LoadedModule>),
}

impl<'a> From<&'a Module> for ModuleSource<'a> {
    fn from(module: &'a Module) -> Self {
        Self::Module(module)
    }
}

impl<'a> From<&'a Arc<LoadedModule>> for ModuleSource<'a> {
    fn from(module: &'a Arc<LoadedModule>) -> Self {
        Self::Own(module)
    }
}

impl ModuleSource<'_> {
    /// The code and its description.
    pub(crate) fn loaded(&self) -> &LoadedModule {
        match self {
            Self::Module(module) => module.loaded(),
            Self::Own(module) => module,
        }
    }

    /// Keeps it, and takes a warm instance of it, as [`Pool::take`] does.
    pub(crate) fn keep(&self) -> (KeptModule, Option<OwnedInstance>) {
        match self {
            Self::Module(module) => {
                let (lease, warm) = ModuleLease::with_warm(module);
                (KeptModule::Leased(lease), warm)
            }
            Self::Own(module) => (KeptModule::Own(Arc::clone(module)), None),
        }
    }
}

/// A module that a store keeps.
pub(crate) enum KeptModule {
    /// One of the embedder's, with its warm instances.
    Leased(ModuleLease),
    /// What the host itself made.
    Own(Arc<LoadedModule>),
}

impl KeptModule {
    /// The code and its description.
    pub(crate) fn loaded(&self) -> &LoadedModule {
        match self {
            Self::Leased(lease) => lease.module.loaded(),
            Self::Own(module) => module,
        }
    }

    /// The embedder's module.
    pub(crate) fn module(&self) -> Option<&Module> {
        match self {
            Self::Leased(lease) => Some(&lease.module),
            Self::Own(_) => None,
        }
    }

    /// The warm instances of the module, and which shard of them to use.
    pub(crate) fn pool(&self) -> Option<(&Pool<OwnedInstance>, usize)> {
        match self {
            Self::Leased(lease) => Some((lease.module.pool(), lease.shard)),
            Self::Own(_) => None,
        }
    }
}

/// A module that a store keeps, by its address.
#[derive(Clone, Copy)]
pub(crate) struct ModuleRef(NonNull<LoadedModule>);

// SAFETY: a shared reference to a module, which is `Sync`.
unsafe impl Send for ModuleRef {}
// SAFETY: as above.
unsafe impl Sync for ModuleRef {}

impl ModuleRef {
    /// `module`, whose owner outlives the result.
    ///
    /// # Safety
    ///
    /// 1. The module lives as long as any copy of the result is used: its store keeps it, or the pool that a spare instance lies in belongs
    ///    to it.
    pub(crate) unsafe fn new(module: &LoadedModule) -> Self {
        Self(NonNull::from(module))
    }
}

impl Deref for ModuleRef {
    type Target = LoadedModule;

    fn deref(&self) -> &LoadedModule {
        // SAFETY: who made it says that the module is alive.
        unsafe { self.0.as_ref() }
    }
}

/// What a store shares with others of its engine.
pub(crate) enum KeptShared {
    /// Counted.
    #[cfg(test)]
    Own(Arc<VmShared>),
    /// A copy that is not counted: the store's owner has a lease of the engine that outlives the store.
    Leased(ManuallyDrop<Arc<VmShared>>),
}

impl KeptShared {
    /// What belongs to a leased engine.
    ///
    /// # Safety
    ///
    /// 1. The lease ends after the last use of the result.
    pub(crate) unsafe fn of(lease: &EngineLease) -> Self {
        // SAFETY: a copy of a pointer that is never dropped, and used only while the engine lives (1).
        Self::Leased(ManuallyDrop::new(unsafe { std::ptr::read(lease.shared()) }))
    }
}

impl Deref for KeptShared {
    type Target = Arc<VmShared>;

    fn deref(&self) -> &Arc<VmShared> {
        match self {
            #[cfg(test)]
            Self::Own(shared) => shared,
            Self::Leased(shared) => shared,
        }
    }
}
