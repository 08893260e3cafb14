//! Exit stubs that no module of a store has: a module with very many types has those of its imports alone, and a host function that it is to call
//! through a table, of a type that needs one, gets it from a module that consists of nothing else.
//!
//! Asked for where a function of the host becomes a reference and where a module is instantiated; each type is compiled once for an engine.

use crate::engine::Engine;
use crate::module::Module;
use crate::store::StoreOpaque;
use crate::vm::LoadedModule;
use peregrine_sys::forks;
use peregrine_wasm::{FuncType, ValType};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The stubs that an engine made: by the binary that they are compiled from, nothing where that failed.
#[derive(Default)]
pub(crate) struct ExitStubs(Mutex<Known>);

type Known = HashMap<Vec<u8>, Option<Arc<LoadedModule>>>;

impl ExitStubs {
    /// A module whose one type has an Exit stub that serves for `ty`. `None` if the engine cannot compile it.
    fn get(&self, engine: &Engine, ty: &FuncType) -> Option<Arc<LoadedModule>> {
        let binary = importing(ty)?;
        // Locked for moments inside of the gate, so that a forked child finds it free.
        let known = |work: &mut dyn FnMut(&mut Known) -> Option<Option<Arc<LoadedModule>>>| {
            let _inside = forks::enter();
            work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        };
        if let Some(made) = known(&mut |known| known.get(&binary).cloned()) {
            return made;
        }
        let made = make(engine, &binary);
        if let Err(error) = &made {
            tracing::warn!(%error, "no stub for a host function: guests of modules with very many types cannot call it through tables");
        }
        let made = made.ok();
        known(&mut |known| Some(known.entry(binary.clone()).or_insert_with(|| made.clone()).clone()))?
    }
}

fn make(engine: &Engine, binary: &[u8]) -> crate::Result<Arc<LoadedModule>> {
    let image = engine.compiler_from_now()?.compile(binary, engine.whole_settings(), &())?;
    Ok(Arc::clone(Module::from_image(engine, &image)?.loaded()))
}

impl StoreOpaque {
    /// Makes the Exit stubs that host functions of the store lack and that guests of it may need.
    #[inline]
    pub(crate) fn make_missing_exits(&mut self) {
        if self.vm.may_lack_exits() {
            self.make_exits();
        }
    }

    #[cold]
    fn make_exits(&mut self) {
        for type_id in self.vm.missing_exits() {
            let ty = self.func_type(type_id);
            let engine = self.engine().clone();
            if let Some(module) = engine.exit_stubs().get(&engine, ty.as_wasm()) {
                self.vm.give_exit(type_id, &module);
            }
        }
    }
}

/// The binary of a module that imports a function of a type, or of one whose values are passed the same way. `None` beyond the limits of modules.
fn importing(ty: &FuncType) -> Option<Vec<u8>> {
    let mut types = vec![1, 0x60];
    for list in [&ty.params, &ty.results] {
        put_len(&mut types, list.len())?;
        types.extend(list.iter().map(|ty| match ty {
            ValType::I32 => 0x7f,
            ValType::I64 => 0x7e,
            ValType::F32 => 0x7d,
            ValType::F64 => 0x7c,
            ValType::V128 => 0x7b,
            ValType::Ref(ty) if ty.heap.is_func() => 0x70,
            ValType::Ref(_) => 0x6f,
        }));
    }
    let mut binary = b"\0asm\x01\0\0\0\x01".to_vec();
    put_len(&mut binary, types.len())?;
    binary.append(&mut types);
    // One import, with empty names, of a function of the first type.
    binary.extend([2, 5, 1, 0, 0, 0, 0]);
    Some(binary)
}

fn put_len(bytes: &mut Vec<u8>, len: usize) -> Option<()> {
    let mut len = u32::try_from(len).ok()?;
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    Some(())
}
