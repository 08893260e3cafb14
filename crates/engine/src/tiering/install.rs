//! Optimizing: what a thread of the queue does for a module, and where the code goes.
//!
//! Locks that guests want are held for moments only: compiling, writing code, and changing the references of all instances go without.

use super::failure::Failure;
use super::heat::{Better, MAX_SETBACKS, grant};
use super::jobs::Request;
use super::metrics::add;
use super::module::{COLD, ModuleTiering, READY, install_message};
use super::{budget, stress::TieringStress};
use crate::vm::alloc::Counting;
use crate::vm::{BlobKind, LoadedModule, TieredCode};
use peregrine_artifact::compiler::{CompileError, CompilerKind, FunctionRequest};
use peregrine_artifact::func::CompiledFunc;
use peregrine_sys::forks;
use peregrine_wasm::Index;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Where less than so many bytes of optimized code find no place, nothing else is tried.
const SMALL_CODE_BYTES: usize = 4096;

impl ModuleTiering {
    /// Compiles what was asked for with the optimizing tier, on this thread.
    pub(super) fn compile_better(&self, module: &LoadedModule, request: Request) -> Result<CompiledFunc, CompileError> {
        let start = Instant::now();
        let Request { function, loop_entry } = request;
        let request = FunctionRequest { function, tier: CompilerKind::Optimizing, loop_entry };
        let compiled = self.functions(module)?.compile_guided(&request, &self.guidance(module, function));
        let nanoseconds = start.elapsed().as_nanos() as u64;
        self.source.shared.counters.add(Counting::OptimizingNanoseconds, nanoseconds);
        add(&self.counters.optimizing_ns, nanoseconds);
        compiled
    }

    /// Whether there is no place for any more optimized code. Notes it.
    fn finds_full_room(&self, code: &TieredCode) -> bool {
        let is_full = !code.has_room_for_optimized(1);
        if is_full {
            self.close_room(&mut self.hot());
        }
        is_full
    }

    /// Puts code of the optimizing tier into the room.
    fn place(&self, module: &LoadedModule, code: &TieredCode, request: Request, compiled: &CompiledFunc) -> Result<usize, Failure> {
        if compiled.tier != CompilerKind::Optimizing {
            let why = "the optimizing tier leaves it to the baseline, whose code there is already";
            return Err(Failure::Install(why.into()));
        }
        if !code.has_room_for_optimized(compiled.code.len()) {
            if !code.has_room_for_optimized(compiled.code.len().min(SMALL_CODE_BYTES)) {
                self.close_room(&mut self.hot());
            }
            let (used, all) = code.room_bytes();
            return Err(Failure::Install(match code.is_within_budget(compiled.code.len()) {
                true => format!("no room for optimized code: {used} of {all} bytes are used"),
                false => format!("beside {used} bytes of code, `Budget::compile_memory_bytes` leaves none for optimized code"),
            }));
        }
        let added = code.add(request.function, request.kind(), compiled);
        added.map_err(|error| Failure::of_install(install_message(module, request.function, &error), &error))
    }

    /// Puts optimized code where it will be found, or notes that there is none. Inside of the gate.
    pub(super) fn install(&self, module: &LoadedModule, request: Request, compiled: Result<CompiledFunc, CompileError>) -> Option<usize> {
        let code = module.tiered()?;
        let Request { function, loop_entry } = request;
        let index = module.module().func_index(function).as_u32();
        let placed = compiled.map_err(Failure::Compile).and_then(|compiled| Ok((self.place(module, code, request, &compiled)?, compiled)));
        let (address, compiled) = match placed {
            Ok(placed) => placed,
            Err(failure) => {
                let may_pass = failure.may_pass();
                tracing::debug!(function = index, kind = ?request.kind(), error = %failure.into_error(), may_pass, "not optimized");
                self.set_back(request, may_pass);
                return None;
            }
        };
        self.report(module, address);
        tracing::debug!(function = index, kind = ?request.kind(), len = compiled.code.len(), "optimized");
        add(if loop_entry.is_some() { &self.counters.loop_entries } else { &self.counters.optimized_functions }, 1);
        self.source.shared.counters.add(Counting::OptimizedFunctions, 1);
        add(&self.counters.optimized_code_bytes, compiled.code.len() as u64);
        let mut hot = self.hot();
        hot.note(request, Some(Better::There(address)));
        if loop_entry.is_some() {
            // The loop looks at its next turn.
            grant(module, &mut hot, code, function, 0);
            return Some(address);
        }
        // Before others see in the state that it is there: the first call of a function does this too.
        module.set_entry(function, address);
        // Whoever waited for its first call may have found it cold.
        let _ = self.states[function.as_usize()].compare_exchange(COLD, READY, Ordering::SeqCst, Ordering::SeqCst);
        if self.kept.is_some() {
            hot.optimized.push((function, Arc::new(compiled)));
        }
        if self.stress == TieringStress::None {
            // Calls that are in its loops look soon whether they go on for long.
            grant(module, &mut hot, code, function, budget::slice(module.body_bytes(function)));
        }
        drop(hot);
        module.redirect_references(function, address);
        Some(address)
    }

    /// Notes that there is no better code, for good or until it is asked for again.
    fn set_back(&self, request: Request, may_pass: bool) {
        let mut hot = self.hot();
        let setbacks = hot.setbacks.entry(request.function).or_default();
        *setbacks += 1;
        let again = may_pass && *setbacks < MAX_SETBACKS;
        hot.note(request, (!again).then_some(Better::Refused));
        if !again {
            add(&self.counters.refused, 1);
        }
    }
}

impl Request {
    /// What becomes of it.
    fn kind(self) -> BlobKind {
        if self.loop_entry.is_some() { BlobKind::LoopEntry } else { BlobKind::Optimized }
    }
}

/// Takes the hottest job of a module, and says whether it has others. Nothing if it is gone.
pub(super) fn take_job(module: &Weak<LoadedModule>) -> (Option<Request>, bool) {
    // It is dropped outside of the gate if nobody else has it any more: that may write to the cache. So it is declared first, here and below.
    let Some(alive) = module.upgrade() else { return (None, false) };
    let _inside = forks::enter();
    alive.tiering().map_or((None, false), |tiering| tiering.hot().take_job())
}

/// Whether what is compiled of a module is kept for the next process. Nothing is of one that is gone. Outside of the gate.
pub(super) fn keeps(module: &Weak<LoadedModule>) -> bool {
    module.upgrade().is_some_and(|alive| alive.tiering().is_some_and(|tiering| tiering.kept.is_some()))
}

/// Compiles what was asked for, and installs it, if the module is still there.
pub(super) fn optimize(module: &Weak<LoadedModule>, request: Request) {
    let (functions, guidance) = {
        let Some(alive) = module.upgrade() else { return };
        let (Some(tiering), Some(code)) = (alive.tiering(), alive.tiered()) else { return };
        let is_full = {
            let _inside = forks::enter();
            tiering.finds_full_room(code)
        };
        if is_full {
            return give_up(module, request);
        }
        let functions = tiering.functions(&alive);
        tiering.look_for_profile(&alive);
        tiering.request_foreseen(&alive);
        let _inside = forks::enter();
        (functions, tiering.guidance(&alive, request.function))
    };
    // The module may be dropped while this compiles.
    let compiling = functions.map(|functions| {
        let start = Instant::now();
        let Request { function, loop_entry } = request;
        let request = FunctionRequest { function, tier: CompilerKind::Optimizing, loop_entry };
        (functions.compile_guided(&request, &guidance), start.elapsed())
    });
    let Some(alive) = module.upgrade() else { return };
    let Some(tiering) = alive.tiering() else { return };
    let _inside = forks::enter();
    let compiled = compiling.and_then(|(compiled, time)| {
        add(&tiering.counters.optimizing_ns, time.as_nanos() as u64);
        compiled
    });
    tiering.install(&alive, request, compiled);
}

/// Notes that nothing will become of a job: there is no place for its code, or the compiler panicked over it.
pub(super) fn give_up(module: &Weak<LoadedModule>, request: Request) {
    let Some(alive) = module.upgrade() else { return };
    let Some(tiering) = alive.tiering() else { return };
    let _inside = forks::enter();
    tiering.set_back(request, false);
}
