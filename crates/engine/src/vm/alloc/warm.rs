//! Which modules of an engine may have warm instances, so that these are given up where the machine has no room for what is needed now.
//!
//! Modules are noted when they are loaded and forgotten when they are dropped; neither is a path that threads meet at often. Stores that find
//! no room ask for everything that is spare.

use crate::vm::owned_instance::OwnedInstance;
use peregrine_sys::forks;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What may have warm instances.
pub(crate) trait Spares: Send + Sync {
    /// Takes all of them, to be dropped before their module is.
    fn take_spares(&self) -> Vec<OwnedInstance>;
}

/// The modules of an engine, by their addresses.
#[derive(Default)]
pub(crate) struct WarmModules(Mutex<BTreeMap<usize, Weak<dyn Spares>>>);

impl WarmModules {
    /// Notes a module, which is [removed](Self::remove) before it is dropped.
    pub(crate) fn add<S: Spares + 'static>(&self, module: &Arc<S>) {
        let weak: Weak<S> = Arc::downgrade(module);
        self.change(|modules| modules.insert(Arc::as_ptr(module) as usize, weak));
    }

    /// Forgets a module.
    pub(crate) fn remove<S: Spares>(&self, module: &S) {
        self.change(|modules| modules.remove(&(std::ptr::from_ref(module) as usize)));
    }

    /// Hands the warm instances of every module to `each`.
    pub(crate) fn empty(&self, mut each: impl FnMut(Vec<OwnedInstance>)) {
        let modules: Vec<_> = self.change(|modules| modules.values().filter_map(Weak::upgrade).collect());
        // Not under the lock: the last reference to a module may be dropped here.
        for module in modules {
            each(module.take_spares());
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut BTreeMap<usize, Weak<dyn Spares>>) -> R) -> R {
        let _inside = forks::enter();
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
