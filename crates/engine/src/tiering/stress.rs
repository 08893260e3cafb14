//! Ways to force what otherwise depends on time: for tests that run every program in every tier. What happens then when a budget is used up is here;
//! the usual policy is in [`super::heat`].

use super::heat::Better;
use super::jobs::Request;
use super::module::ModuleTiering;
use crate::vm::{LoadedModule, TieredCode};
use peregrine_artifact::compiler::{CompileError, LoopEntry};
use peregrine_sys::forks;
use peregrine_wasm::DefinedFuncIndex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What tests have done in place of the usual policy. Compilation happens on the calling thread then, so that runs can be repeated, but in
/// `OneInstructionBudget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TieringStress {
    /// Nothing: the usual policy.
    #[default]
    None,
    /// Each function is optimized at its first call, and each loop at its first turn.
    OptimizeAtOnce,
    /// Functions stay in the baseline, and each loop is entered with optimized code at its first turn.
    LoopEntryEverywhere,
    /// The same, and the baseline makes all code in the way that it otherwise has for bodies which would become too much.
    Plain,
    /// The usual policy, with budgets that are used up by one instruction.
    OneInstructionBudget,
    /// Each time that a budget is used up, after one instruction, something else happens: the number is the seed.
    Random(u64),
}

impl TieringStress {
    /// Whether code is kept in the cache, and taken from there. Otherwise tests want the same of each run, whatever an earlier one left.
    pub(crate) fn keeps_code(self) -> bool {
        matches!(self, Self::None | Self::OptimizeAtOnce)
    }
}

/// What happens at one occasion of [`TieringStress::Random`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing.
    Stay,
    /// The function is optimized for later calls.
    Optimize,
    /// Later calls of the function run in the baseline.
    Baseline,
    /// The loop goes on in optimized code.
    Enter,
}

/// Makes choices, the same ones for the same seed.
pub(super) struct Choices(AtomicU64);

impl Choices {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next one.
    pub(super) fn next(&self) -> Choice {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        // SplitMix64.
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        [Choice::Stay, Choice::Optimize, Choice::Baseline, Choice::Enter][(mixed >> 62) as usize]
    }
}

/// Under stress, a function whose loops were entered this often is optimized as a whole: each entry that ends with a tail call leaves a frame
/// behind.
const MAX_STRESSED_ENTRIES: u32 = 200;

/// What happens under stress when a function that is in the baseline has used up its budget at its entry.
pub(super) fn hot_function(tiering: &ModuleTiering, module: &Arc<LoadedModule>, code: &TieredCode, function: DefinedFuncIndex) {
    code.set_budget(function, 0);
    let request = Request { function, loop_entry: None };
    match tiering.stress {
        TieringStress::None | TieringStress::LoopEntryEverywhere | TieringStress::Plain => {}
        TieringStress::OneInstructionBudget => tiering.request(module, &mut tiering.hot(), request),
        TieringStress::OptimizeAtOnce => _ = tiering.now(module, request),
        TieringStress::Random(_) => choose(tiering, module, function),
    }
}

/// What happens under stress when a function that is in the baseline has used up its budget in a loop. Returns code to go on with.
pub(super) fn hot_loop(
    tiering: &ModuleTiering,
    module: &Arc<LoadedModule>,
    code: &TieredCode,
    function: DefinedFuncIndex,
    entry: LoopEntry,
) -> Option<usize> {
    code.set_budget(function, 0);
    let request = Request { function, loop_entry: Some(entry) };
    match tiering.stress {
        TieringStress::None => None,
        TieringStress::OneInstructionBudget => {
            let mut hot = tiering.hot();
            tiering.request(module, &mut hot, request);
            match hot.known(request) {
                Some(Better::There(address)) => Some(address),
                _ => None,
            }
        }
        TieringStress::OptimizeAtOnce => tiering.now(module, request),
        TieringStress::LoopEntryEverywhere | TieringStress::Plain => {
            let address = tiering.now(module, request);
            let entries = {
                let mut hot = tiering.hot();
                let entries = hot.entries.entry(function).or_default();
                *entries += 1;
                *entries
            };
            if entries > MAX_STRESSED_ENTRIES {
                tiering.now(module, Request { function, loop_entry: None });
            }
            address
        }
        TieringStress::Random(_) => match tiering.choices.next() {
            Choice::Enter | Choice::Optimize => tiering.now(module, request),
            Choice::Stay | Choice::Baseline => None,
        },
    }
}

/// What a random test does at the entry of a function.
fn choose(tiering: &ModuleTiering, module: &LoadedModule, function: DefinedFuncIndex) {
    match tiering.choices.next() {
        Choice::Stay | Choice::Enter => {}
        Choice::Optimize => {
            if let Some(address) = tiering.now(module, Request { function, loop_entry: None }) {
                module.set_entry(function, address);
                module.redirect_references(function, address);
            }
        }
        // All of them: code that is optimized does not come here again by itself.
        Choice::Baseline => {
            let baseline: Vec<_> = tiering.hot().baseline.iter().map(|(function, address)| (*function, *address)).collect();
            for (function, address) in baseline {
                module.set_entry(function, address);
                module.force_references(function, address);
            }
        }
    }
}

impl ModuleTiering {
    /// Compiles and installs at once. The caller is inside of the gate that forks wait at.
    fn now(&self, module: &LoadedModule, request: Request) -> Option<usize> {
        let known = self.hot().known(request);
        match known {
            Some(Better::There(address)) => Some(address),
            Some(Better::Refused) => None,
            Some(Better::Requested) | None => {
                // Not on this thread: its stack may be small.
                let compile = || {
                    let _inside = forks::enter_for_another();
                    self.compile_better(module, request)
                };
                let compiled = std::thread::scope(|scope| {
                    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn_scoped(scope, compile);
                    thread.ok().and_then(|thread| thread.join().ok())
                });
                let failed = || Err(CompileError::Internal { message: "the compiler panicked, or has no thread".into() });
                self.install(module, request, compiled.unwrap_or_else(failed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_differ_and_repeat() {
        let sequence = |seed| {
            let choices = Choices::new(seed);
            (0..100).map(|_| choices.next()).collect::<Vec<_>>()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
        for choice in [Choice::Stay, Choice::Optimize, Choice::Baseline, Choice::Enter] {
            assert!(sequence(7).iter().filter(|found| **found == choice).count() > 10);
        }
    }
}
