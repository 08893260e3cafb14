//! Exit stubs that no module of a store has: a module with very many types has those of its imports alone, and a host function that it is to call
//! through a table, of a type that needs one, gets it from a module that consists of nothing else.
//!
//! Asked for where a function of the host becomes a reference and where a module is instantiated; each type is compiled once for an engine. What
//! could not be had for want of time or memory is tried again when it is asked for, ever less often.

use crate::engine::Engine;
use crate::module::Module;
use crate::store::StoreOpaque;
use crate::vm::LoadedModule;
use peregrine_artifact::compiler::CompileError;
use peregrine_sys::forks;
use peregrine_wasm::{FuncType, ValType};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The stubs that an engine made: by the binary that they are compiled from.
#[derive(Default)]
pub(crate) struct ExitStubs(Mutex<HashMap<Vec<u8>, Known>>);

/// What is known of stubs of one type.
#[derive(Clone)]
enum Known {
    Made(Arc<LoadedModule>),
    /// They cannot be made.
    Never,
    /// They could not be made; to be tried again at that time, and so much later if it fails again.
    Later(Instant, Duration),
}

/// How long stubs that could not be made are not tried again: the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl ExitStubs {
    /// A module whose one type has an Exit stub that serves for `ty`. [`Known::Never`] if the engine cannot compile it.
    fn get(&self, engine: &Engine, ty: &FuncType) -> Known {
        let Some(binary) = importing(ty) else { return Known::Never };
        let known = self.locked(|stubs| stubs.get(&binary).cloned());
        let (pause, is_first) = match known {
            Some(Known::Later(time, pause)) if Instant::now() >= time => (pause, false),
            Some(known) => return known,
            None => (FIRST_PAUSE, true),
        };
        let made = match make(engine, &binary) {
            Ok(made) => Known::Made(made),
            Err(error) => {
                match is_first {
                    true => {
                        tracing::warn!(%error, "no stub for a host function: guests of modules with very many types cannot call it through tables")
                    }
                    false => tracing::debug!(%error, "there is still no stub for a host function"),
                }
                match may_pass(&error) {
                    true => Known::Later(Instant::now() + pause, (pause * 2).min(LONGEST_PAUSE)),
                    false => Known::Never,
                }
            }
        };
        self.locked(|stubs| match stubs.get(&binary) {
            // Another thread was faster.
            Some(Known::Made(first)) => Known::Made(Arc::clone(first)),
            _ => {
                stubs.insert(binary, made.clone());
                made
            }
        })
    }

    /// Locked for moments inside of the gate, so that a forked child finds it free.
    fn locked<R>(&self, work: impl FnOnce(&mut HashMap<Vec<u8>, Known>) -> R) -> R {
        let _inside = forks::enter();
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether stubs that cannot be made for the reason `error` may be made later: there was no time, no memory or no address space. Not where there
/// is no compiler, for example.
fn may_pass(error: &crate::Error) -> bool {
    let is_refusal = matches!(error.downcast_ref(), Some(CompileError::Limit { .. } | CompileError::Unreadable { .. }));
    is_refusal || error.chain().any(|cause| cause.is::<std::io::Error>())
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
            match engine.exit_stubs().get(&engine, ty.as_wasm()) {
                Known::Made(module) => self.vm.give_exit(type_id, &module),
                Known::Never => {}
                Known::Later(time, _) => self.vm.look_for_exits_again(time),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_may_pass_and_what_there_is_not_does_not() {
        let no_memory = crate::Error::new(std::io::Error::from_raw_os_error(12)).context("the system refused to load the image");
        let no_time = crate::Error::new(CompileError::Limit { message: "it takes too long".into() }).context("a stub");
        assert!(may_pass(&no_memory) && may_pass(&no_time));
        let unable = crate::Error::new(CompileError::Unsupported { message: "there are no such functions".into() });
        assert!(!may_pass(&unable) && !may_pass(&crate::Error::msg("no compiler is linked in")));
    }
}
