//! Code pointers in function references, which other threads change: where optimized code of a function is made, references to it in all
//! instances of the module go to that, without the jump through the function's slot. Where it is compiled for its first call, so do those of few
//! instances: the caller waits for it, and references that are left as they are go there too.
//!
//! A reference is part of its instance's context. The module knows the contexts that are alive, so that a thread of the tiers finds them; the
//! pointer is read and written as a whole, in any order, since the code before stays good. Nobody else may hold a Rust reference to one.

use peregrine_artifact::vmctx::{VmContextHeader, VmFuncRef};
use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The code that a reference goes to; 0 if it is not made yet.
///
/// # Safety
///
/// 1. The reference is in a context that is alive.
pub(super) unsafe fn code(func_ref: NonNull<VmFuncRef>) -> u64 {
    // SAFETY: the field is there (1), aligned, and all who share it use it as an atomic.
    unsafe { AtomicU64::from_ptr(&raw mut (*func_ref.as_ptr()).code) }.load(Ordering::Acquire)
}

/// Makes a reference, whose place is zero.
///
/// # Safety
///
/// 1. The place is in a context that is alive, and its owner's thread alone makes references there.
pub(super) unsafe fn make(place: NonNull<VmFuncRef>, func_ref: VmFuncRef) {
    let VmFuncRef { code, vmctx, type_id, reserved, enter } = func_ref;
    let place = place.as_ptr();
    // SAFETY: the place is there (1); other threads touch nothing but the code, and that only where it is not zero.
    unsafe {
        (&raw mut (*place).vmctx).write(vmctx);
        (&raw mut (*place).type_id).write(type_id);
        (&raw mut (*place).reserved).write(reserved);
        (&raw mut (*place).enter).write(enter);
        AtomicU64::from_ptr(&raw mut (*place).code).store(code, Ordering::Release);
    }
}

/// The contexts of a module's instances, in parts, so that who makes or drops an instance waits for few of them at most.
#[derive(Default)]
pub(super) struct Contexts {
    parts: [Mutex<HashSet<usize>>; PARTS],
    /// How many there are. It orders nothing.
    count: AtomicUsize,
}

const PARTS: usize = 32;
/// To go through so many contexts takes less than to compile the smallest function.
const FEW: usize = 64;

impl Contexts {
    fn part(&self, context: NonNull<VmContextHeader>) -> MutexGuard<'_, HashSet<usize>> {
        // Contexts are pages apart, or parts of pages.
        let address = context.as_ptr() as usize;
        self.parts[(address >> 6 ^ address >> 12 ^ address >> 16) % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A context is there.
    pub(super) fn add(&self, context: NonNull<VmContextHeader>) {
        self.part(context).insert(context.as_ptr() as usize);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// A context is about to be freed.
    pub(super) fn remove(&self, context: NonNull<VmContextHeader>) {
        self.part(context).remove(&(context.as_ptr() as usize));
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there are so few that a caller does not notice when all are gone through.
    pub(super) fn are_few(&self) -> bool {
        self.count.load(Ordering::Relaxed) <= FEW
    }

    /// Lets the references at an offset in all contexts go to `code`, where they are made; only those that go to `from`, if that is said.
    ///
    /// # Safety
    ///
    /// 1. `offset` is that of a reference in the contexts of the module, and `code` is code of its function.
    pub(super) unsafe fn redirect(&self, offset: u32, code: u64, from: Option<u64>) {
        for part in &self.parts {
            for context in &*part.lock().unwrap_or_else(PoisonError::into_inner) {
                let place = (context + offset as usize) as *mut VmFuncRef;
                // SAFETY: contexts are alive until they are removed, which waits for the lock; the field is there (1).
                let current = unsafe { AtomicU64::from_ptr(&raw mut (*place).code) };
                match from {
                    Some(from) => _ = current.compare_exchange(from, code, Ordering::Release, Ordering::Relaxed),
                    None if current.load(Ordering::Relaxed) != 0 => current.store(code, Ordering::Release),
                    None => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::Binary;
    use crate::tiering::{FirstTier, ModuleTiering, TieringSource, TieringStress, first_call};
    use crate::vm::address_space::AddressRoom;
    use crate::vm::alloc::KeptShared;
    use crate::vm::{FuncId, LoadOptions, LoadedModule, VmShared, VmStore};
    use peregrine_artifact::compiler::{Compiler, Prepared, Validation, WasmBytes};
    use peregrine_artifact::settings::{Settings, Tiering};
    use peregrine_baseline::Baseline;
    use peregrine_compile::ImageCompiler;
    use peregrine_optimizing::Optimizing;
    use peregrine_sys::stack::{StackPool, StackPoolConfig};
    use peregrine_wasm::{DefinedFuncIndex, FuncIndex};
    use std::sync::Arc;

    #[test]
    fn first_calls_go_through_the_instances_where_there_are_few() {
        let compiler: Arc<dyn Compiler> = Arc::new(ImageCompiler::new(Arc::new(Optimizing)).with_fast_tier(Arc::new(Baseline)));
        let mut settings = Settings::new(compiler.target(None).expect("this machine is supported"));
        settings.tiering = Tiering::Counted;
        let stacks = StackPool::new(StackPoolConfig::default());
        let shared = Arc::new(VmShared::new(settings.clone(), AddressRoom::measure(None, 0), stacks));
        let text = b"(module (func (export \"few\")) (func (export \"many\")) (func (export \"few again\")))";
        let wasm: WasmBytes = Arc::new(compiler.to_binary(text).expect("good text").into_owned());
        let prepared = compiler.prepare_functions(Arc::clone(&wasm), &settings, Validation::Complete);
        let Prepared { image, functions } = prepared.expect("a valid module");
        let module = LoadedModule::from_bytes(&image, &shared.types, LoadOptions::default()).expect("a good image");
        let (binary, validation) = (Binary::Held(wasm), Validation::Complete);
        let (profiler, debugged) = (None, false);
        let source = TieringSource { compiler, binary, settings, validation, shared: Arc::clone(&shared), profiler, debugged };
        let tiering = ModuleTiering::new(&module, source, FirstTier::Baseline, TieringStress::None, None);
        tiering.set_functions(functions);
        module.set_tiering(tiering);
        for (number, instances, are_changed) in [(0, FEW, true), (1, 20 * FEW, false), (2, FEW, true)] {
            let mut store = VmStore::new(KeptShared::Own(Arc::clone(&shared)), None).expect("a store");
            let references: Vec<_> = (0..instances)
                .map(|_| {
                    let instance = store.instantiate(&module, &[]).unwrap_or_else(|_| panic!("there is room"));
                    store.func_ref(FuncId::Wasm(instance, FuncIndex::from_u32(number)))
                })
                .collect();
            let function = DefinedFuncIndex::from_u32(number);
            let follower = module.tiered().expect("it is tiered").follower(function);
            // SAFETY: the store is alive, and so are its instances.
            let going_to = |address: usize| references.iter().filter(|reference| unsafe { code(**reference) } == address as u64).count();
            assert_eq!(going_to(follower), instances);
            let address = first_call(&module, function).expect("it is valid");
            let expected = if are_changed { (0, instances) } else { (instances, 0) };
            assert_eq!((going_to(follower), going_to(address)), expected, "{instances} instances");
        }
    }
}
