//! The tiers of one module: what functions are compiled from, their first calls, and what is told and kept of them. What is hot is in
//! [`super::heat`], optimizing in [`super::install`].

use super::budget;
use super::failure::Failure;
use super::feedback::{self, Learnt};
use super::heat::{Better, Hot};
use super::metrics::{Counters, TieringMetrics, add};
use super::queue::Queue;
use super::stress::{Choices, TieringStress};
use crate::binary::Binary;
use crate::error::{Error, Result};
use crate::gdb_elf;
use crate::kept::{Kept, Occasion};
use crate::made_once::MadeOnce;
use crate::profile::Profiler;
use crate::vm::alloc::Counting;
use crate::vm::{BlobKind, InstallError, LoadedModule, TieredCode, VmShared};
use peregrine_artifact::compiler::{
    CompileError, Compiler, CompilerKind, FunctionRequest, Guidance, LazyFunctions, ValidModule, Validation,
};
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::profile::Profile;
use peregrine_artifact::settings::Settings;
use peregrine_sys::{forks, gdb, threads};
use peregrine_wasm::{DefinedFuncIndex, Index};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What functions of a module are compiled from, and how.
pub(crate) struct TieringSource {
    pub(crate) compiler: Arc<dyn Compiler>,
    pub(crate) binary: Binary,
    pub(crate) settings: Settings,
    pub(crate) validation: Validation,
    /// Where the engine counts.
    pub(crate) shared: Arc<VmShared>,
    /// Told about code that is made.
    pub(crate) profiler: Option<Arc<Profiler>>,
    /// Whether debuggers are told about it too.
    pub(crate) debugged: bool,
}

/// What compiles functions when they are first called.
#[derive(Clone)]
pub(crate) enum FirstTier {
    /// The baseline; hot functions go to the queue.
    BaselineThen(Arc<Queue>),
    /// The baseline, and nothing else.
    Baseline,
}

/// The tiers of one module. The module owns it.
pub(crate) struct ModuleTiering {
    pub(super) source: TieringSource,
    /// Made when the first function is compiled.
    functions: MadeOnce<Result<Arc<dyn LazyFunctions>, CompileError>>,
    pub(super) queue: Option<Arc<Queue>>,
    pub(super) stress: TieringStress,
    pub(super) choices: Choices,
    /// One of `COLD`, `COMPILING`, `READY` for each function.
    pub(super) states: Box<[AtomicU8]>,
    pub(super) hot: Mutex<Hot>,
    /// What keeps compiled functions for the next process, if anything does.
    pub(super) kept: Option<Kept>,
    /// The time and the processor time from which on functions may be optimized, if not from the beginning.
    settled: Option<(Instant, Duration)>,
    learnt: Learnt,
    /// Whether functions were asked for that earlier runs show to become hot.
    pub(super) foreseen: AtomicBool,
    pub(super) counters: Counters,
    /// Whether optimized code finds no place any more.
    pub(super) room_is_full: AtomicBool,
    /// What debuggers know of the code so far.
    shown: Mutex<Vec<gdb::Registration>>,
}

/// What code of the baseline is made by: it counts what its calls go to.
const FIRST: Guidance = Guidance { record: true, feedback: None };

/// Nobody called the function yet.
pub(super) const COLD: u8 = 0;
/// A thread compiles it for its first call.
const COMPILING: u8 = 1;
/// Its slot points to code.
pub(super) const READY: u8 = 2;

/// How often a thread looks whether another one is done with a function before it sleeps, and how long it does: at first, and at most. Most
/// functions take less than that.
const PATIENT_LOOKS: u32 = 20;
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// Bytes of code of the baseline that are held until they are kept in the cache.
const MAX_HELD_BYTES: usize = 32 << 20;

/// A module that starts with code from the cache is not optimized further before the process has used so much processor time: what ends
/// sooner has little to gain, and much to lose by reading the binary.
const SETTLING: Duration = Duration::from_millis(40);

impl ModuleTiering {
    /// The tiers of `module`.
    pub(crate) fn new(module: &LoadedModule, source: TieringSource, first: FirstTier, stress: TieringStress, kept: Option<Kept>) -> Self {
        let queue = match first {
            FirstTier::BaselineThen(queue) => Some(queue),
            FirstTier::Baseline => None,
        };
        let functions = (0..module.module().defined_functions()).map(DefinedFuncIndex::from_usize);
        let mut hot = Hot::default();
        if let Some(code) = module.tiered() {
            for function in functions.clone().filter(|function| module.image_tier(*function) == Some(CompilerKind::Baseline)) {
                let budget = budget::settling(module.body_bytes(function));
                hot.granted.insert(function, budget.max(0) as u64);
                code.set_budget(function, budget);
            }
        }
        let state = |function| AtomicU8::new(if module.has_image_code(function) { READY } else { COLD });
        let seed = if let TieringStress::Random(seed) = stress { seed } else { 0 };
        Self {
            source,
            functions: MadeOnce::default(),
            queue,
            stress,
            choices: Choices::new(seed),
            states: functions.map(state).collect(),
            hot: Mutex::new(hot),
            settled: (module.functions_with_code() > 0).then(|| (Instant::now() + SETTLING, threads::processor_time() + SETTLING)),
            kept,
            learnt: Learnt::default(),
            foreseen: AtomicBool::new(false),
            counters: Counters::default(),
            room_is_full: AtomicBool::new(false),
            shown: Mutex::default(),
        }
    }

    /// What the module was made of.
    pub(crate) fn source(&self) -> &TieringSource {
        &self.source
    }

    /// Optimized functions that are [not kept yet](Self::forget_kept), not linked, by rising index; none unless they are kept.
    pub(crate) fn optimized(&self) -> Vec<(DefinedFuncIndex, Arc<CompiledFunc>)> {
        let _inside = forks::enter();
        let mut optimized = self.hot().optimized.clone();
        optimized.sort_by_key(|(function, _)| *function);
        optimized
    }

    /// Functions that only the baseline compiled in this process, by rising index.
    pub(crate) fn only_baseline(&self, module: &LoadedModule) -> Vec<DefinedFuncIndex> {
        let optimized = self.optimized_here();
        let compiled = self.states.iter().enumerate().filter(|(_, state)| state.load(Ordering::Relaxed) == READY);
        let functions = compiled.map(|(position, _)| DefinedFuncIndex::from_usize(position));
        functions.filter(|function| module.image_tier(*function).is_none() && !optimized.contains(function)).collect()
    }

    /// Functions that ran in this process or were optimized in an earlier one, those first that the next one is likely to need most: what was
    /// optimized, then by the number of calls.
    pub(crate) fn by_heat(&self, module: &LoadedModule) -> Vec<DefinedFuncIndex> {
        let Some(code) = module.tiered() else { return Vec::new() };
        let optimized = self.optimized_here();
        let heat = |function: DefinedFuncIndex| {
            let is_optimized = module.image_tier(function) == Some(CompilerKind::Optimizing) || optimized.contains(&function);
            (is_optimized, code.budget_and_calls(function).1)
        };
        let ready = |function: &DefinedFuncIndex| self.states[function.as_usize()].load(Ordering::Relaxed) == READY;
        let functions = (0..self.states.len()).map(DefinedFuncIndex::from_usize).filter(ready);
        let mut functions: Vec<_> = functions.map(|function| (heat(function), function)).filter(|(heat, _)| *heat > (false, 0)).collect();
        functions.sort_by_key(|(heat, function)| (Reverse(*heat), *function));
        functions.into_iter().map(|(_, function)| function).collect()
    }

    /// What the baseline makes of a function that it compiled before.
    pub(crate) fn compile_unlinked(&self, module: &LoadedModule, function: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        let request = FunctionRequest { function, tier: CompilerKind::Baseline, loop_entry: None };
        self.functions(module)?.compile_guided(&request, &FIRST)
    }

    /// Code of the baseline, not linked, that is held so that it is not made again to keep it.
    pub(crate) fn held(&self) -> HashMap<DefinedFuncIndex, Arc<CompiledFunc>> {
        let _inside = forks::enter();
        self.hot().held.0.clone()
    }

    /// Lets code go that is kept now, so that it is in memory once.
    pub(crate) fn forget_kept(&self, kept: &[(DefinedFuncIndex, Arc<CompiledFunc>)]) {
        let gone: HashSet<_> = kept.iter().map(|(_, compiled)| Arc::as_ptr(compiled)).collect();
        let _inside = forks::enter();
        let mut hot = self.hot();
        let (held, held_bytes) = &mut hot.held;
        held.retain(|_, compiled| {
            let stays = !gone.contains(&Arc::as_ptr(compiled));
            *held_bytes -= if stays { 0 } else { compiled.code.len() };
            stays
        });
        hot.optimized.retain(|(_, compiled)| !gone.contains(&Arc::as_ptr(compiled)));
    }

    /// Keeps what was compiled so far for the next process, if anything does.
    pub(crate) fn keep(&self, module: &LoadedModule, occasion: Occasion) {
        if let Some(kept) = &self.kept {
            let is_written = kept.write(module, self, occasion);
            self.keep_profile(module, kept, is_written);
        }
    }

    /// What was done so far for `module`, whose tiers these are.
    pub(crate) fn metrics(&self, module: &LoadedModule) -> TieringMetrics {
        let functions = (0..module.module().defined_functions()).map(DefinedFuncIndex::from_usize);
        let precompiled = functions.clone().filter(|function| module.has_image_code(*function)).count();
        let optimized = functions.filter(|function| module.image_tier(*function) == Some(CompilerKind::Optimizing)).count();
        let (used, all) = module.tiered().map_or((0, 0), TieredCode::room_bytes);
        let (bodies_read, whole_reads) = self.source.binary.reads();
        let pending = {
            let _inside = forks::enter();
            self.hot().pending()
        };
        TieringMetrics {
            functions: self.states.len() as u64,
            pending_requests: pending as u64,
            precompiled_functions: precompiled as u64,
            precompiled_optimized_functions: optimized as u64,
            room_used_bytes: used as u64,
            room_bytes: all as u64,
            bodies_read,
            whole_reads,
            ..self.counters.metrics()
        }
    }

    /// What the functions of `module`, whose tiers these are, did in the baseline so far in this process. It names no module.
    pub(crate) fn profile(&self, module: &LoadedModule) -> Profile {
        let mut profile = Profile::unnamed();
        let Some(code) = module.tiered() else { return profile };
        let granted = {
            let _inside = forks::enter();
            self.hot().granted.clone()
        };
        let ran = |function: &DefinedFuncIndex| {
            let is_compiled = self.states[function.as_usize()].load(Ordering::Relaxed) == READY;
            is_compiled && module.image_tier(*function) != Some(CompilerKind::Optimizing)
        };
        for function in (0..self.states.len()).map(DefinedFuncIndex::from_usize).filter(ran) {
            let first = if self.stress == TieringStress::None { budget::first(module.body_bytes(function)) as u64 } else { 0 };
            let granted = granted.get(&function).copied().unwrap_or(first);
            profile.insert(function, feedback::function_profile(module, code, function, granted));
        }
        profile
    }

    /// Adds what other runs of the module did to what the optimizing tier goes by.
    pub(crate) fn add_profile(&self, profile: Profile) {
        self.learnt.add(profile.with_module_hash([0; 32]));
    }

    /// What earlier runs did, as far as that is known.
    pub(super) fn earlier(&self, module: &LoadedModule) -> Option<Arc<Profile>> {
        self.look_for_profile(module);
        self.learnt.earlier()
    }

    /// Reads what earlier runs did, if that is kept and was not read yet.
    pub(super) fn look_for_profile(&self, module: &LoadedModule) {
        self.learnt.look(|| self.read_kept(module));
    }

    fn read_kept(&self, module: &LoadedModule) -> Option<Profile> {
        self.kept.as_ref()?.profile().read(module.module().defined_functions())
    }

    /// Keeps what was counted for the next process, if anything took long enough to be optimized, and if code was kept too or there is much
    /// that is not known yet.
    fn keep_profile(&self, module: &LoadedModule, kept: &Kept, code_is_written: bool) {
        if self.counters.optimized_functions.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut profile = self.profile(module);
        if !code_is_written && !kept.profile().is_worth_writing(profile.functions().len()) {
            return;
        }
        self.look_for_profile(module);
        if let Some(earlier) = self.learnt.kept() {
            // Neither names its module, so that they go together.
            let _ = profile.merge(&earlier);
        }
        kept.profile().write(&profile);
    }

    /// What the optimizing tier goes by.
    pub(super) fn guidance(&self, module: &LoadedModule, function: DefinedFuncIndex) -> Guidance {
        let earlier = self.earlier(module);
        Guidance { record: false, feedback: Some(self.learnt.for_function(module, function, earlier)) }
    }

    /// Says what compiles functions, instead of reading the module again when it is first needed.
    pub(crate) fn set_functions(&self, functions: Arc<dyn LazyFunctions>) {
        self.functions.set(Ok(functions));
    }

    /// What compiles functions of `module`, whose tiers these are; reads the module if that has to be and was not done yet.
    pub(super) fn functions(&self, module: &LoadedModule) -> Result<Arc<dyn LazyFunctions>, CompileError> {
        let TieringSource { compiler, binary, settings, validation, .. } = &self.source;
        let make = || {
            let functions = match self.reads_bodies(module) {
                true => compiler.lazy_functions_of(valid_module(module, binary), settings),
                false => compiler.lazy_functions(binary.bytes()?, settings, *validation),
            }?;
            // The module is read here, not under a lock that a child process could find locked.
            functions.prepare()?;
            Ok(functions)
        };
        let made = self.functions.get_or_make(|| match make() {
            // It may go well the next time.
            Err(error @ CompileError::Unreadable { .. }) => Err(error),
            made => Ok(made),
        });
        made?.clone()
    }

    /// Whether a function that is compiled when it is called needs nothing but its body: the image has the rest, and it is valid.
    pub(crate) fn reads_bodies(&self, module: &LoadedModule) -> bool {
        self.source.validation == Validation::Trusted && !module.meta().has_branch_hints
    }

    /// Tells a profiler and debuggers about new code.
    pub(super) fn report(&self, module: &LoadedModule, address: usize) {
        if self.source.debugged
            && let Some(object) = gdb_elf::object_of_later_code(module, address)
        {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.push(gdb::register(object));
        }
        if let Some(Err(error)) = self.source.profiler.as_ref().map(|profiler| profiler.compiled(module, address)) {
            tracing::warn!(%error, "cannot write for the profiler");
        }
    }

    /// In a child process: nobody compiles what threads of the parent were compiling. Before any thread of the child does.
    pub(super) fn forget_compiling(&self) {
        for state in &self.states {
            let _ = state.compare_exchange(COMPILING, COLD, Ordering::SeqCst, Ordering::SeqCst);
        }
        if let Some(Ok(functions)) = self.functions.get() {
            functions.forget_compiling();
        }
    }

    /// Compiles a function for its first call, and lets its slot point to it. Outside of the gate.
    fn compile_first(&self, module: &LoadedModule, code: &TieredCode, function: DefinedFuncIndex) -> Result<usize> {
        let start = Instant::now();
        let request = FunctionRequest { function, tier: CompilerKind::Baseline, loop_entry: None };
        // Forks need not wait for it.
        let compiled = self.functions(module).and_then(|functions| functions.compile_guided(&request, &FIRST));
        let _inside = forks::enter();
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(error) => return Err(self.failed(function, Failure::Compile(error)).into_error()),
        };
        // The optimizing tier, if the baseline does not take it.
        let kind = if compiled.tier == CompilerKind::Optimizing { BlobKind::Optimized } else { BlobKind::Baseline };
        let address = match code.add(function, kind, &compiled) {
            Ok(address) => address,
            Err(error) => {
                let failure = Failure::of_install(install_message(module, function, &error), &error);
                return Err(self.failed(function, failure).into_error());
            }
        };
        self.report(module, address);
        let index = module.module().func_index(function).as_u32();
        tracing::trace!(function = index, len = compiled.code.len(), "compiled at its first call");
        let nanoseconds = start.elapsed().as_nanos() as u64;
        self.source.shared.counters.add(Counting::BaselineFunctions, 1);
        self.source.shared.counters.add(Counting::BaselineNanoseconds, nanoseconds);
        add(&self.counters.baseline_ns, nanoseconds);
        add(&self.counters.baseline_functions, 1);
        add(&self.counters.baseline_code_bytes, compiled.code.len() as u64);
        code.set_budget(function, if self.stress == TieringStress::None { budget::first(module.body_bytes(function)) } else { 0 });
        let mut hot = self.hot();
        if self.kept.is_some() && hot.held.1 < MAX_HELD_BYTES {
            hot.held.1 += compiled.code.len();
            hot.held.0.insert(function, Arc::new(compiled));
        }
        if self.stress != TieringStress::None {
            hot.baseline.insert(function, address);
        }
        // It may have been optimized meanwhile.
        match hot.functions.get(&function) {
            Some(Better::There(better)) => Ok(*better),
            _ => {
                module.set_entry(function, address);
                drop(hot);
                // Other threads want the state, and the guest waits: where there are many instances, their references go on through the slot.
                let are_redirected = module.redirect_few_references(function, address);
                // References that were made while better code came may have been redirected to this code now, when those to the better one were
                // done.
                let entry = code.entry(function);
                if are_redirected && entry != address {
                    module.redirect_references(function, entry);
                }
                Ok(address)
            }
        }
    }

    /// Notes that a function cannot be compiled, so that its next call does not try it again, unless it might go better then.
    fn failed(&self, function: DefinedFuncIndex, failure: Failure) -> Failure {
        add(&self.counters.failed_functions, 1);
        if failure.stays() {
            self.hot().failed.insert(function, failure.clone());
        }
        failure
    }

    /// Whether it is too early to ask for better code.
    pub(super) fn is_settling(&self) -> bool {
        // The time first: asking for it is no system call, and one thread cannot use more of the processor.
        self.settled.is_some_and(|(time, processor_time)| Instant::now() < time || threads::processor_time() < processor_time)
    }
}

/// The code of a function that is called for the first time; compiles it, or waits for who does.
///
/// # Errors
///
/// If it cannot be compiled: it is invalid, and validation was deferred; it is beyond a limit; there is no room for its code.
pub(crate) fn first_call(module: &LoadedModule, function: DefinedFuncIndex) -> Result<usize> {
    let (Some(tiering), Some(code)) = (module.tiering(), module.tiered()) else {
        return Err(Error::msg("internal error: a function without code was called in a module that is not compiled further"));
    };
    let state = &tiering.states[function.as_usize()];
    loop {
        let inside = forks::enter();
        let hot = tiering.hot();
        if let Some(failure) = hot.failed.get(&function) {
            return Err(failure.clone().into_error());
        }
        drop(hot);
        match state.compare_exchange(COLD, COMPILING, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                drop(inside);
                let mut done = Done { state, becomes: COLD };
                let result = tiering.compile_first(module, code, function);
                if result.is_ok() {
                    done.becomes = READY;
                }
                return result;
            }
            Err(COMPILING) => {
                drop(inside);
                wait_for_another(state);
            }
            Err(_) => break,
        }
    }
    Ok(code.entry(function))
}

/// Waits until another thread is done with a function, or has given it up. Without the locks that it needs for that.
fn wait_for_another(state: &AtomicU8) {
    let (mut looks, mut pause) = (0, FIRST_PAUSE);
    while state.load(Ordering::SeqCst) == COMPILING {
        if looks < PATIENT_LOOKS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(pause);
            // A quarter of the time that it took so far, at most.
            pause = (pause * 5 / 4).min(LONGEST_PAUSE);
        }
        looks += 1;
    }
}

/// Ends the compilation of a function, also by a panic.
struct Done<'a> {
    state: &'a AtomicU8,
    becomes: u8,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.state.store(self.becomes, Ordering::SeqCst);
    }
}

/// `module`, which was found valid, with the bodies that are in `binary`.
fn valid_module(module: &LoadedModule, binary: &Binary) -> ValidModule {
    let functions = (0..module.module().defined_functions()).map(DefinedFuncIndex::from_usize);
    ValidModule {
        module: module.module().clone(),
        body_starts: functions.map(|function| module.body_start(function).unwrap_or(0)).collect(),
        bodies_end: usize::try_from(module.meta().bodies_end).unwrap_or(usize::MAX),
        wasm_len_bytes: usize::try_from(module.meta().wasm_len_bytes).unwrap_or(usize::MAX),
        bodies: binary.bodies(),
    }
}

pub(super) fn install_message(module: &LoadedModule, function: DefinedFuncIndex, error: &InstallError) -> String {
    let index = module.module().func_index(function);
    let name = module.function_name(index).map(|name| format!(" (`{name}`)")).unwrap_or_default();
    format!("function {}{name} cannot be compiled: {error}", index.as_u32())
}
