//! What is known of functions and loops whose budget was used up, and what follows from that: the usual policy. Tests force another one
//! ([`super::stress`]).
//!
//! The state is under one lock, which guests want each time that a budget is used up. So whoever holds it does little: it is looked up what a
//! function has, and a job is added or made hotter. The longer a function waits, the longer it runs until it looks again.

use super::budget;
use super::failure::Failure;
use super::feedback::{self, Granted};
use super::jobs::{Jobs, Request};
use super::metrics::add;
use super::module::ModuleTiering;
use super::stress::{self, TieringStress};
use crate::vm::{LoadedModule, TieredCode};
use peregrine_artifact::compiler::{CompilerKind, LoopEntry};
use peregrine_artifact::func::CompiledFunc;
use peregrine_sys::forks;
use peregrine_wasm::DefinedFuncIndex;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

/// What is known of functions and loops whose budget was used up.
#[derive(Default)]
pub(super) struct Hot {
    /// The [process](forks::generation) that asked for what is asked for.
    generation: usize,
    pub(super) functions: HashMap<DefinedFuncIndex, Better>,
    /// By function and offset of the loop.
    pub(super) loops: HashMap<(DefinedFuncIndex, u32), Better>,
    /// What waits for a thread.
    pub(super) jobs: Jobs,
    /// Whether the queue knows that something waits.
    pub(super) is_listed: bool,
    /// The offset of the loop that is asked for, by function.
    pub(super) waiting_loops: HashMap<DefinedFuncIndex, u32>,
    /// How many loops of a function were asked for.
    asked_loops: HashMap<DefinedFuncIndex, u32>,
    /// How often calls of a function that there is better code of were met in its loops.
    looks: HashMap<DefinedFuncIndex, u32>,
    /// How often functions were met that wait for better code.
    pub(super) patience: HashMap<DefinedFuncIndex, u32>,
    /// How often better code of a function could not be had for reasons that may go away.
    pub(super) setbacks: HashMap<DefinedFuncIndex, u32>,
    /// Code of the baseline, for tests that go back to it.
    pub(super) baseline: HashMap<DefinedFuncIndex, usize>,
    /// Optimized functions that are not written yet, if they are kept.
    pub(super) optimized: Vec<(DefinedFuncIndex, Arc<CompiledFunc>)>,
    /// Code of the baseline that is to be kept, and bytes of it.
    pub(super) held: (HashMap<DefinedFuncIndex, Arc<CompiledFunc>>, usize),
    /// Functions that cannot be compiled.
    pub(super) failed: HashMap<DefinedFuncIndex, Failure>,
    /// Work that functions were given, if it was more than the first time.
    pub(super) granted: Granted,
    /// How often loops were entered under [`TieringStress::LoopEntryEverywhere`].
    pub(super) entries: HashMap<DefinedFuncIndex, u32>,
}

/// What became of a request for better code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Requested,
    /// The address of the code.
    There(usize),
    /// There will be none.
    Refused,
}

/// A call that is met in a loop more often than this once there is better code of its function gets code to go on with from that loop: it
/// went on for longer than the work for which the function was compiled.
const PATIENT_LOOKS: u32 = 4;

/// Loops of one function that are compiled as entries, at most: each costs as much as the function.
const MAX_LOOP_ENTRIES: u32 = 8;

/// Functions that are asked for because they were hot in earlier runs, at most: the queue is there for what is hot now.
const MAX_FORESEEN: usize = 256;

/// Better code that could not be had so often is not asked for any more.
pub(super) const MAX_SETBACKS: u32 = 6;

impl Hot {
    /// What became of a request.
    pub(super) fn known(&self, request: Request) -> Option<Better> {
        match request.loop_entry {
            Some(entry) => self.loops.get(&(request.function, entry.offset)).copied(),
            None => self.functions.get(&request.function).copied(),
        }
    }

    /// Notes what became of a request; nothing is what becomes of one that may be made again.
    pub(super) fn note(&mut self, request: Request, better: Option<Better>) {
        let Request { function, loop_entry } = request;
        match (loop_entry, better) {
            (Some(entry), Some(better)) => _ = self.loops.insert((function, entry.offset), better),
            (Some(entry), None) => _ = self.loops.remove(&(function, entry.offset)),
            (None, Some(better)) => _ = self.functions.insert(function, better),
            (None, None) => _ = self.functions.remove(&function),
        }
        match (loop_entry, better) {
            (Some(entry), Some(Better::Requested)) => _ = self.waiting_loops.insert(function, entry.offset),
            (Some(entry), _) if self.waiting_loops.get(&function) == Some(&entry.offset) => _ = self.waiting_loops.remove(&function),
            _ => {}
        }
        if better != Some(Better::Requested) {
            self.patience.remove(&function);
        }
    }

    /// How many requests wait for an answer.
    pub(super) fn pending(&self) -> usize {
        self.functions.values().chain(self.loops.values()).filter(|better| **better == Better::Requested).count()
    }

    /// The hottest job, and whether there are others.
    pub(super) fn take_job(&mut self) -> (Option<Request>, bool) {
        let job = self.jobs.take_hottest();
        self.is_listed = !self.jobs.is_empty();
        (job, self.is_listed)
    }

    /// In a child process: nobody works at what the parent asked for.
    fn forget_parent(&mut self, generation: usize) {
        self.generation = generation;
        self.jobs.clear();
        self.is_listed = false;
        self.functions.retain(|_, better| *better != Better::Requested);
        self.loops.retain(|_, better| *better != Better::Requested);
        self.waiting_loops.clear();
        self.patience.clear();
    }
}

impl ModuleTiering {
    /// The state. Forks have to wait meanwhile: the caller is inside of the gate.
    pub(super) fn hot(&self) -> MutexGuard<'_, Hot> {
        let mut hot = self.hot.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = forks::generation();
        if hot.generation != generation {
            hot.forget_parent(generation);
            self.forget_compiling();
        }
        hot
    }

    /// Asks for better code in the background, or makes the job hotter that does.
    pub(super) fn request(&self, module: &Arc<LoadedModule>, hot: &mut Hot, request: Request) {
        let Some(queue) = &self.queue else { return };
        let Request { function, loop_entry } = request;
        match hot.known(request) {
            Some(Better::There(_) | Better::Refused) => return,
            Some(Better::Requested) => {
                let patience = hot.patience.entry(function).or_default();
                let body_bytes = module.body_bytes(function);
                // What it did since it was met before.
                let heat = budget::waiting(body_bytes, *patience) / budget::slice(body_bytes);
                *patience = patience.saturating_add(1);
                return hot.jobs.raise(request, heat.unsigned_abs());
            }
            None => {}
        }
        let asked_loops = loop_entry.map(|_| hot.asked_loops.entry(function).or_default());
        let too_many = self.stress == TieringStress::None && asked_loops.as_ref().is_some_and(|asked| **asked >= MAX_LOOP_ENTRIES);
        if too_many || self.room_is_full.load(Ordering::Relaxed) {
            add(&self.counters.refused, 1);
            return hot.note(request, Some(Better::Refused));
        }
        if hot.jobs.is_full() {
            return;
        }
        if let Some(asked) = asked_loops {
            *asked += 1;
        }
        hot.jobs.add(request);
        if !hot.is_listed && !queue.list(module) {
            // As if nobody had asked.
            if let Some(asked) = loop_entry.and_then(|_| hot.asked_loops.get_mut(&function)) {
                *asked -= 1;
            }
            return hot.jobs.remove(request);
        }
        hot.is_listed = true;
        hot.note(request, Some(Better::Requested));
        // Whoever collects it may panic.
        let (function, from_loop) = (module.module().func_index(function).as_u32(), loop_entry.map(|entry| entry.offset));
        tracing::trace!(function, ?from_loop, "asked for");
    }

    /// Asks, once, for better code of what earlier runs show to become hot in this one too, those first that did most. The first function that
    /// is compiled better brings it about: a process that ends before that has no use for it.
    pub(super) fn request_foreseen(&self, module: &Arc<LoadedModule>) {
        if self.queue.is_none() || self.stress != TieringStress::None || self.foreseen.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(earlier) = self.earlier(module) else { return };
        let is_open = |function: &DefinedFuncIndex| module.image_tier(*function) != Some(CompilerKind::Optimizing);
        let threshold = |function| budget::first(module.body_bytes(function)) as u64;
        let foreseen = feedback::foreseen(&earlier, threshold);
        let _inside = forks::enter();
        let mut hot = self.hot();
        for function in foreseen.into_iter().filter(is_open).take(MAX_FORESEEN) {
            let request = Request { function, loop_entry: None };
            if hot.known(request).is_none() {
                self.request(module, &mut hot, request);
            }
        }
    }

    /// There is no place for more optimized code: what waits is not worth compiling.
    pub(super) fn close_room(&self, hot: &mut Hot) {
        self.room_is_full.store(true, Ordering::Relaxed);
        for request in hot.jobs.clear() {
            add(&self.counters.refused, 1);
            hot.note(request, Some(Better::Refused));
        }
    }

    /// Functions with optimized code that was made in this process.
    pub(super) fn optimized_here(&self) -> HashSet<DefinedFuncIndex> {
        let _inside = forks::enter();
        let hot = self.hot();
        hot.functions.iter().filter(|(_, better)| matches!(better, Better::There(_))).map(|(function, _)| *function).collect()
    }
}

/// Called when a function that is in the baseline has used up its budget at its entry.
pub(crate) fn hot_function(module: &Arc<LoadedModule>, function: DefinedFuncIndex) {
    let (Some(tiering), Some(code)) = (module.tiering(), module.tiered()) else { return };
    let _inside = forks::enter();
    if tiering.stress != TieringStress::None {
        return stress::hot_function(tiering, module, code, function);
    }
    if tiering.is_settling() {
        return grant(module, &mut tiering.hot(), code, function, budget::settling(module.body_bytes(function)));
    }
    let mut hot = tiering.hot();
    tiering.request(module, &mut hot, Request { function, loop_entry: None });
    let budget = next_budget(module, &hot, function, None);
    grant(module, &mut hot, code, function, budget);
}

/// Called when a function that is in the baseline has used up its budget in a loop. Returns code to go on with.
pub(crate) fn hot_loop(module: &Arc<LoadedModule>, function: DefinedFuncIndex, entry: LoopEntry) -> Option<usize> {
    let (tiering, code) = (module.tiering()?, module.tiered()?);
    let _inside = forks::enter();
    let address = match tiering.stress {
        TieringStress::None => usual_hot_loop(tiering, module, code, function, entry),
        _ => stress::hot_loop(tiering, module, code, function, entry),
    };
    if address.is_some() {
        tracing::trace!(function = module.module().func_index(function).as_u32(), loop_offset = entry.offset, "goes on in optimized code");
        add(&tiering.counters.loop_entries_taken, 1);
    }
    address
}

fn usual_hot_loop(
    tiering: &ModuleTiering,
    module: &Arc<LoadedModule>,
    code: &TieredCode,
    function: DefinedFuncIndex,
    entry: LoopEntry,
) -> Option<usize> {
    if tiering.is_settling() {
        grant(module, &mut tiering.hot(), code, function, budget::settling(module.body_bytes(function)));
        return None;
    }
    let mut hot = tiering.hot();
    let there = match hot.loops.get(&(function, entry.offset)) {
        Some(Better::There(address)) => Some(*address),
        // The function first: it may be called often and stay in its loops for a short time only.
        _ => {
            // Nothing where that is refused: each loop would cost as much, and a call that goes on from a loop and ends with tail calls
            // leaves a frame behind each time that it comes back to the baseline.
            let is_done = matches!(hot.functions.get(&function), Some(Better::There(_)));
            tiering.request(module, &mut hot, Request { function, loop_entry: None });
            // Calls that end soon are not worth an entry of their own: the next ones go to the better code.
            let looks = hot.looks.entry(function).or_default();
            *looks += u32::from(is_done);
            // One loop at a time: code from there on has the other loops too.
            if *looks > PATIENT_LOOKS && hot.waiting_loops.get(&function).is_none_or(|offset| *offset == entry.offset) {
                tiering.request(module, &mut hot, Request { function, loop_entry: Some(entry) });
            }
            None
        }
    };
    let budget = next_budget(module, &hot, function, Some(entry));
    grant(module, &mut hot, code, function, budget);
    there
}

/// Lets a function do so much until it is reported.
pub(super) fn grant(module: &LoadedModule, hot: &mut Hot, code: &TieredCode, function: DefinedFuncIndex, budget: i32) {
    feedback::grant(&mut hot.granted, code, function, budget::first(module.body_bytes(function)), budget);
}

/// What a function in the baseline may do until it calls again, after it was met at `entry` or, without one, at its own.
fn next_budget(module: &LoadedModule, hot: &Hot, function: DefinedFuncIndex, entry: Option<LoopEntry>) -> i32 {
    let body_bytes = module.body_bytes(function);
    let patience = hot.patience.get(&function).copied().unwrap_or(0);
    match hot.functions.get(&function) {
        // Only calls under way are in the baseline still, and look for better code of their loops.
        Some(Better::There(_)) if entry.is_some_and(|entry| hot.loops.get(&(function, entry.offset)) == Some(&Better::Refused)) => {
            budget::MAX_SLICE
        }
        // Whoever makes better code ends this.
        Some(Better::Requested | Better::There(_)) => budget::waiting(body_bytes, patience),
        Some(Better::Refused) => budget::FAR,
        // There was no place for it, or it could not be had.
        None => budget::again(body_bytes, hot.setbacks.get(&function).copied().unwrap_or(0)),
    }
}
