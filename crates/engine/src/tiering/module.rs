//! The tiers of one module: which functions are compiled, which are asked for, and what happens when compiled code calls.

use super::budget;
use super::failure::Failure;
use super::feedback::{self, Granted, Learnt};
use super::metrics::{Counters, TieringMetrics, add};
use super::queue::{Queue, Request};
use super::stress::{Choice, Choices, TieringStress};
use crate::binary::Binary;
use crate::error::{Error, Result};
use crate::gdb_elf;
use crate::kept::Kept;
use crate::made_once::MadeOnce;
use crate::profile::Profiler;
use crate::vm::alloc::Counting;
use crate::vm::{BlobKind, InstallError, LoadedModule, TieredCode, VmShared};
use peregrine_artifact::compiler::{
    CompileError, Compiler, CompilerKind, FunctionRequest, Guidance, LazyFunctions, LoopEntry, ValidModule, Validation,
};
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::profile::Profile;
use peregrine_artifact::settings::Settings;
use peregrine_sys::{forks, gdb, threads};
use peregrine_wasm::{DefinedFuncIndex, Index};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
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
    source: TieringSource,
    /// Made when the first function is compiled.
    functions: MadeOnce<Result<Arc<dyn LazyFunctions>, CompileError>>,
    queue: Option<Arc<Queue>>,
    stress: TieringStress,
    choices: Choices,
    /// One of `COLD`, `COMPILING`, `READY` for each function.
    states: Box<[AtomicU8]>,
    /// How many threads wait for a function that another one compiles; they do with `compiled`.
    waiting: AtomicUsize,
    compiled_lock: Mutex<()>,
    compiled: Condvar,
    hot: Mutex<Hot>,
    /// What keeps compiled functions for the next process, if anything does.
    kept: Option<Kept>,
    /// The time and the processor time from which on functions may be optimized, if not from the beginning.
    settled: Option<(Instant, Duration)>,
    learnt: Learnt,
    /// Whether functions were asked for that earlier runs show to become hot.
    foreseen: AtomicBool,
    counters: Counters,
    /// What debuggers know of the code so far.
    shown: Mutex<Vec<gdb::Registration>>,
}

/// What code of the baseline is made by: it counts what its calls go to.
const FIRST: Guidance = Guidance { record: true, feedback: None };

/// Nobody called the function yet.
const COLD: u8 = 0;
/// A thread compiles it for its first call.
const COMPILING: u8 = 1;
/// Its slot points to code.
const READY: u8 = 2;

/// What is known of functions and loops whose budget was used up.
#[derive(Default)]
struct Hot {
    functions: HashMap<DefinedFuncIndex, Better>,
    /// By function and offset of the loop.
    loops: HashMap<(DefinedFuncIndex, u32), Better>,
    /// The offset of the loop that is asked for, by function.
    waiting_loops: HashMap<DefinedFuncIndex, u32>,
    /// How often calls of a function that there is better code of were met in its loops.
    looks: HashMap<DefinedFuncIndex, u32>,
    /// Code of the baseline, for tests that go back to it.
    baseline: HashMap<DefinedFuncIndex, usize>,
    optimized: Vec<(DefinedFuncIndex, Arc<CompiledFunc>)>,
    /// Code of the baseline that is to be kept, and bytes of it.
    held: (HashMap<DefinedFuncIndex, CompiledFunc>, usize),
    /// Functions that cannot be compiled.
    failed: HashMap<DefinedFuncIndex, Failure>,
    /// Work that functions were given, if it was more than the first time.
    granted: Granted,
    /// How often loops were entered under [`TieringStress::LoopEntryEverywhere`].
    entries: HashMap<DefinedFuncIndex, u32>,
}

/// What became of a request for better code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Requested,
    /// The address of the code.
    There(usize),
    /// There will be none.
    Refused,
}

/// Under stress, a function whose loops were entered this often is optimized as a whole: each entry that ends with a tail call leaves a frame
/// behind.
const MAX_STRESSED_ENTRIES: u32 = 200;

/// A call that is met in a loop more often than this once there is better code of its function gets code to go on with from that loop: it
/// went on for longer than the work for which the function was compiled.
const PATIENT_LOOKS: u32 = 4;

/// Bytes of code of the baseline that are held until they are kept in the cache.
const MAX_HELD_BYTES: usize = 32 << 20;

/// A module that starts with code from the cache is not optimized further before the process has used so much processor time: what ends
/// sooner has little to gain, and much to lose by reading the binary.
const SETTLING: Duration = Duration::from_millis(40);

/// Functions that are asked for because they were hot in earlier runs, at most: the queue is there for what is hot now.
const MAX_FORESEEN: usize = 256;

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
            waiting: AtomicUsize::new(0),
            compiled_lock: Mutex::new(()),
            compiled: Condvar::new(),
            hot: Mutex::new(hot),
            settled: (module.functions_with_code() > 0).then(|| (Instant::now() + SETTLING, threads::processor_time() + SETTLING)),
            kept,
            learnt: Learnt::default(),
            foreseen: AtomicBool::new(false),
            counters: Counters::default(),
            shown: Mutex::default(),
        }
    }

    /// What the module was made of.
    pub(crate) fn source(&self) -> &TieringSource {
        &self.source
    }

    /// Optimized functions so far, not linked, by rising index; none unless they are kept.
    pub(crate) fn optimized(&self) -> Vec<(DefinedFuncIndex, Arc<CompiledFunc>)> {
        let _inside = forks::enter();
        let mut optimized = self.hot().optimized.clone();
        optimized.sort_by_key(|(function, _)| *function);
        optimized
    }

    /// Functions that only the baseline compiled in this process, by rising index.
    pub(crate) fn only_baseline(&self, module: &LoadedModule) -> Vec<DefinedFuncIndex> {
        let _inside = forks::enter();
        let hot = self.hot();
        let optimized = |function| matches!(hot.functions.get(&function), Some(Better::There(_)));
        let compiled = self.states.iter().enumerate().filter(|(_, state)| state.load(Ordering::Relaxed) == READY);
        let functions = compiled.map(|(position, _)| DefinedFuncIndex::from_usize(position));
        functions.filter(|function| module.image_tier(*function).is_none() && !optimized(*function)).collect()
    }

    /// Functions that ran in this process or were optimized in an earlier one, those first that the next one is likely to need most: what was
    /// optimized, then by the number of calls.
    pub(crate) fn by_heat(&self, module: &LoadedModule) -> Vec<DefinedFuncIndex> {
        let Some(code) = module.tiered() else { return Vec::new() };
        let _inside = forks::enter();
        let hot = self.hot();
        let heat = |function: DefinedFuncIndex| {
            let is_optimized = module.image_tier(function) == Some(CompilerKind::Optimizing)
                || matches!(hot.functions.get(&function), Some(Better::There(_)));
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
    pub(crate) fn take_held(&self) -> HashMap<DefinedFuncIndex, CompiledFunc> {
        let _inside = forks::enter();
        std::mem::take(&mut self.hot().held).0
    }

    /// Keeps what was compiled so far for the next process, if anything does.
    pub(crate) fn keep(&self, module: &LoadedModule) {
        if let Some(kept) = &self.kept {
            let is_written = kept.write(module, self);
            self.keep_profile(module, kept, is_written);
        }
    }

    /// What was done so far for `module`, whose tiers these are.
    pub(crate) fn metrics(&self, module: &LoadedModule) -> TieringMetrics {
        let functions = (0..module.module().defined_functions()).map(DefinedFuncIndex::from_usize);
        let precompiled = functions.filter(|function| module.has_image_code(*function)).count();
        let (used, all) = module.tiered().map_or((0, 0), TieredCode::room_bytes);
        let (bodies_read, whole_reads) = self.source.binary.reads();
        TieringMetrics {
            functions: self.states.len() as u64,
            precompiled_functions: precompiled as u64,
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
        let _inside = forks::enter();
        let hot = self.hot();
        let ran = |function: &DefinedFuncIndex| {
            let is_compiled = self.states[function.as_usize()].load(Ordering::Relaxed) == READY;
            is_compiled && module.image_tier(*function) != Some(CompilerKind::Optimizing)
        };
        for function in (0..self.states.len()).map(DefinedFuncIndex::from_usize).filter(ran) {
            let first = if self.stress == TieringStress::None { budget::first(module.body_bytes(function)) as u64 } else { 0 };
            let granted = hot.granted.get(&function).copied().unwrap_or(first);
            profile.insert(function, feedback::function_profile(module, code, function, granted));
        }
        profile
    }

    /// Adds what other runs of the module did to what the optimizing tier goes by.
    pub(crate) fn add_profile(&self, profile: Profile) {
        self.learnt.add(profile.with_module_hash([0; 32]));
    }

    /// What earlier runs did, as far as that is known.
    fn earlier(&self, module: &LoadedModule) -> Option<Arc<Profile>> {
        self.look_for_profile(module);
        self.learnt.earlier()
    }

    /// Reads what earlier runs did, if that is kept and was not read yet.
    fn look_for_profile(&self, module: &LoadedModule) {
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
    fn guidance(&self, module: &LoadedModule, function: DefinedFuncIndex) -> Guidance {
        let earlier = self.earlier(module);
        Guidance { record: false, feedback: Some(self.learnt.for_function(module, function, earlier)) }
    }

    /// Says what compiles functions, instead of reading the module again when it is first needed.
    pub(crate) fn set_functions(&self, functions: Arc<dyn LazyFunctions>) {
        self.functions.set(Ok(functions));
    }

    /// What compiles functions of `module`, whose tiers these are; reads the module if that has to be and was not done yet.
    fn functions(&self, module: &LoadedModule) -> Result<Arc<dyn LazyFunctions>, CompileError> {
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

    fn hot(&self) -> MutexGuard<'_, Hot> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a profiler and debuggers about new code.
    fn report(&self, module: &LoadedModule, address: usize) {
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

    /// Waits until another thread is done with compiling a function.
    fn wait_for(&self, state: &AtomicU8) {
        // Ordered against the look at `waiting` in `done`: either this thread sees the new state, or the other one sees that it waits.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.compiled_lock.lock().unwrap_or_else(PoisonError::into_inner);
        while state.load(Ordering::SeqCst) == COMPILING {
            guard = self.compiled.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Lets others go on that wait for a function.
    fn done(&self, state: &AtomicU8, new: u8) {
        state.store(new, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.compiled_lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.compiled.notify_all();
        }
    }

    /// Compiles a function for its first call, and lets its slot point to it.
    fn compile_first(&self, module: &LoadedModule, code: &TieredCode, function: DefinedFuncIndex) -> Result<usize> {
        let start = Instant::now();
        let request = FunctionRequest { function, tier: CompilerKind::Baseline, loop_entry: None };
        if let Some(failure) = self.hot().failed.get(&function) {
            return Err(failure.clone().into_error());
        }
        let compiled = match self.functions(module)?.compile_guided(&request, &FIRST) {
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
            hot.held.0.insert(function, compiled);
        }
        if self.stress != TieringStress::None {
            hot.baseline.insert(function, address);
        }
        // It may have been optimized meanwhile.
        match hot.functions.get(&function) {
            Some(Better::There(better)) => Ok(*better),
            _ => {
                module.set_entry(function, address);
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

    /// Compiles what was asked for with the optimizing tier, and installs it.
    fn compile_better(&self, module: &LoadedModule, request: Request) -> Result<CompiledFunc, CompileError> {
        let start = Instant::now();
        let Request { function, loop_entry } = request;
        let request = FunctionRequest { function, tier: CompilerKind::Optimizing, loop_entry };
        let compiled = self.functions(module)?.compile_guided(&request, &self.guidance(module, function));
        let nanoseconds = start.elapsed().as_nanos() as u64;
        self.source.shared.counters.add(Counting::OptimizingNanoseconds, nanoseconds);
        add(&self.counters.optimizing_ns, nanoseconds);
        compiled
    }

    /// Puts optimized code where it will be found, or notes that there is none.
    fn install(&self, module: &LoadedModule, request: Request, compiled: Result<CompiledFunc, CompileError>) -> Option<usize> {
        let code = module.tiered()?;
        let Request { function, loop_entry } = request;
        let kind = if loop_entry.is_some() { BlobKind::LoopEntry } else { BlobKind::Optimized };
        let added = compiled.map_err(|error| error.to_string()).and_then(|compiled| {
            if compiled.tier != CompilerKind::Optimizing {
                return Err(String::from("the optimizing tier leaves it to the baseline, whose code there is already"));
            }
            if !code.has_room_for_optimized(compiled.code.len()) {
                let (used, all) = code.room_bytes();
                return Err(format!("no room for optimized code: {used} of {all} bytes are used"));
            }
            let address = code.add(function, kind, &compiled).map_err(|error| error.to_string())?;
            Ok((address, compiled))
        });
        if let Ok((address, _)) = &added {
            self.report(module, *address);
        }
        let mut hot = self.hot();
        let (better, address) = match added {
            Ok((address, compiled)) => {
                let (len, function) = (compiled.code.len(), module.module().func_index(function).as_u32());
                tracing::debug!(function, ?kind, len, "optimized");
                add(if loop_entry.is_some() { &self.counters.loop_entries } else { &self.counters.optimized_functions }, 1);
                self.source.shared.counters.add(Counting::OptimizedFunctions, 1);
                add(&self.counters.optimized_code_bytes, len as u64);
                if self.kept.is_some() && loop_entry.is_none() {
                    hot.optimized.push((request.function, Arc::new(compiled)));
                }
                (Better::There(address), Some(address))
            }
            Err(error) => {
                let function = module.module().func_index(function).as_u32();
                tracing::debug!(function, ?kind, error, "not optimized");
                add(&self.counters.refused, 1);
                (Better::Refused, None)
            }
        };
        match loop_entry {
            Some(entry) => {
                hot.loops.insert((function, entry.offset), better);
                hot.waiting_loops.remove(&function);
                // The loop looks at its next turn.
                grant(module, &mut hot, code, function, 0);
            }
            None => {
                hot.functions.insert(function, better);
                if let Some(address) = address {
                    module.set_entry(function, address);
                    // Whoever waited for its first call may have found it cold.
                    let _ = self.states[function.as_usize()].compare_exchange(COLD, READY, Ordering::SeqCst, Ordering::SeqCst);
                }
            }
        }
        address
    }

    /// Asks for better code in the background.
    fn request(&self, module: &Arc<LoadedModule>, hot: &mut Hot, request: Request) {
        let Some(queue) = &self.queue else { return };
        let Request { function, loop_entry } = request;
        let known = match loop_entry {
            Some(entry) => hot.loops.get(&(function, entry.offset)),
            None => hot.functions.get(&function),
        };
        if matches!(known, Some(Better::There(_) | Better::Refused)) || !queue.request(module, request) {
            return;
        }
        tracing::trace!(function = module.module().func_index(function).as_u32(), from_loop = ?loop_entry.map(|entry| entry.offset), "asked for");
        match loop_entry {
            Some(entry) => {
                hot.waiting_loops.insert(function, entry.offset);
                hot.loops.insert((function, entry.offset), Better::Requested)
            }
            None => hot.functions.insert(function, Better::Requested),
        };
    }

    /// Asks, once, for better code of what earlier runs show to become hot in this one too, those first that did most. The first function that
    /// is compiled better brings it about: a process that ends before that has no use for it.
    fn request_foreseen(&self, module: &Arc<LoadedModule>) {
        if self.queue.is_none() || self.stress != TieringStress::None || self.foreseen.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(earlier) = self.earlier(module) else { return };
        let is_open = |function: DefinedFuncIndex| module.image_tier(function) != Some(CompilerKind::Optimizing);
        let _inside = forks::enter();
        let mut hot = self.hot();
        let threshold = |function| budget::first(module.body_bytes(function)) as u64;
        for function in feedback::foreseen(&earlier, threshold).into_iter().filter(|function| is_open(*function)).take(MAX_FORESEEN) {
            self.request(module, &mut hot, Request { function, loop_entry: None });
        }
    }

    /// Whether it is too early to ask for better code.
    fn is_settling(&self) -> bool {
        // The time first: asking for it is no system call, and one thread cannot use more of the processor.
        self.settled.is_some_and(|(time, processor_time)| Instant::now() < time || threads::processor_time() < processor_time)
    }

    /// Compiles and installs at once, for tests.
    fn now(&self, module: &LoadedModule, request: Request) -> Option<usize> {
        let known = match request.loop_entry {
            Some(entry) => self.hot().loops.get(&(request.function, entry.offset)).copied(),
            None => self.hot().functions.get(&request.function).copied(),
        };
        match known {
            Some(Better::There(address)) => Some(address),
            Some(Better::Refused) => None,
            Some(Better::Requested) | None => {
                // Not on this thread: its stack may be small.
                let compile = || self.compile_better(module, request);
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
    if state.load(Ordering::SeqCst) != READY {
        // The first time that takes long, and forks need not wait.
        tiering.functions(module).map_err(Error::new)?;
    }
    let _inside = forks::enter();
    loop {
        match state.compare_exchange(COLD, COMPILING, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                let result = tiering.compile_first(module, code, function);
                tiering.done(state, if result.is_ok() { READY } else { COLD });
                return result;
            }
            Err(COMPILING) => tiering.wait_for(state),
            Err(_) => return Ok(code.entry(function)),
        }
    }
}

/// Called when a function that is in the baseline has used up its budget at its entry.
pub(crate) fn hot_function(module: &Arc<LoadedModule>, function: DefinedFuncIndex) {
    let (Some(tiering), Some(code)) = (module.tiering(), module.tiered()) else { return };
    let request = Request { function, loop_entry: None };
    let _inside = forks::enter();
    match tiering.stress {
        TieringStress::None if tiering.is_settling() => {
            return grant(module, &mut tiering.hot(), code, function, budget::settling(module.body_bytes(function)));
        }
        TieringStress::None => {}
        TieringStress::OneInstructionBudget => {
            code.set_budget(function, 0);
            return tiering.request(module, &mut tiering.hot(), request);
        }
        TieringStress::OptimizeAtOnce => {
            code.set_budget(function, 0);
            tiering.now(module, request);
            return;
        }
        TieringStress::LoopEntryEverywhere => return code.set_budget(function, 0),
        TieringStress::Random(_) => {
            code.set_budget(function, 0);
            return choose(tiering, module, function);
        }
    }
    let mut hot = tiering.hot();
    tiering.request(module, &mut hot, request);
    let budget = next_budget(module, &hot, function);
    grant(module, &mut hot, code, function, budget);
}

/// Called when a function that is in the baseline has used up its budget in a loop. Returns code to go on with.
pub(crate) fn hot_loop(module: &Arc<LoadedModule>, function: DefinedFuncIndex, entry: LoopEntry) -> Option<usize> {
    let (tiering, code) = (module.tiering()?, module.tiered()?);
    let request = Request { function, loop_entry: Some(entry) };
    let _inside = forks::enter();
    let address = match tiering.stress {
        TieringStress::None if tiering.is_settling() => {
            grant(module, &mut tiering.hot(), code, function, budget::settling(module.body_bytes(function)));
            None
        }
        TieringStress::None => {
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
                        tiering.request(module, &mut hot, request);
                    }
                    None
                }
            };
            let budget = next_budget(module, &hot, function);
            grant(module, &mut hot, code, function, budget);
            there
        }
        TieringStress::OneInstructionBudget => {
            code.set_budget(function, 0);
            let mut hot = tiering.hot();
            tiering.request(module, &mut hot, request);
            match hot.loops.get(&(function, entry.offset)) {
                Some(Better::There(address)) => Some(*address),
                _ => None,
            }
        }
        TieringStress::OptimizeAtOnce => {
            code.set_budget(function, 0);
            tiering.now(module, request)
        }
        TieringStress::LoopEntryEverywhere => {
            code.set_budget(function, 0);
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
        TieringStress::Random(_) => {
            code.set_budget(function, 0);
            match tiering.choices.next() {
                Choice::Enter | Choice::Optimize => tiering.now(module, request),
                Choice::Stay | Choice::Baseline => None,
            }
        }
    };
    if address.is_some() {
        tracing::trace!(function = module.module().func_index(function).as_u32(), loop_offset = entry.offset, "goes on in optimized code");
        add(&tiering.counters.loop_entries_taken, 1);
    }
    address
}

/// What a random test does at the entry of a function.
fn choose(tiering: &ModuleTiering, module: &LoadedModule, function: DefinedFuncIndex) {
    match tiering.choices.next() {
        Choice::Stay | Choice::Enter => {}
        Choice::Optimize => {
            if let Some(address) = tiering.now(module, Request { function, loop_entry: None }) {
                module.set_entry(function, address);
            }
        }
        // All of them: code that is optimized does not come here again by itself.
        Choice::Baseline => tiering.hot().baseline.iter().for_each(|(function, address)| module.set_entry(*function, *address)),
    }
}

/// Compiles on a thread of the queue what was asked for, and installs it, if the module is still there.
pub(super) fn optimize(module: &Weak<LoadedModule>, request: Request) {
    let Some(alive) = module.upgrade() else { return };
    let Some(tiering) = alive.tiering() else { return };
    let functions = tiering.functions(&alive);
    tiering.look_for_profile(&alive);
    tiering.request_foreseen(&alive);
    let inside = forks::enter();
    let guidance = tiering.guidance(&alive, request.function);
    // The module may be dropped while this compiles.
    drop(alive);
    drop(inside);
    let compiling = functions.map(|functions| {
        let start = Instant::now();
        let Request { function, loop_entry } = request;
        let request = FunctionRequest { function, tier: CompilerKind::Optimizing, loop_entry };
        (functions.compile_guided(&request, &guidance), start.elapsed())
    });
    let _inside = forks::enter();
    let Some(alive) = module.upgrade() else { return };
    let Some(tiering) = alive.tiering() else { return };
    let compiled = compiling.and_then(|(compiled, time)| {
        add(&tiering.counters.optimizing_ns, time.as_nanos() as u64);
        compiled
    });
    tiering.install(&alive, request, compiled);
}

/// Lets a function do so much until it is reported.
fn grant(module: &LoadedModule, hot: &mut Hot, code: &TieredCode, function: DefinedFuncIndex, budget: i32) {
    feedback::grant(&mut hot.granted, code, function, budget::first(module.body_bytes(function)), budget);
}

/// What a function in the baseline may do until it calls again.
fn next_budget(module: &LoadedModule, hot: &Hot, function: DefinedFuncIndex) -> i32 {
    match hot.functions.get(&function) {
        // Only calls under way are in the baseline still, and look for better code of their loops.
        Some(Better::Requested | Better::There(_)) => budget::slice(module.body_bytes(function)),
        Some(Better::Refused) => budget::FAR,
        // The queue was full.
        None => budget::first(module.body_bytes(function)),
    }
}

/// `module`, which was found valid, with the bodies that are in `binary`.
fn valid_module(module: &LoadedModule, binary: &Binary) -> ValidModule {
    let functions = (0..module.module().defined_functions()).map(DefinedFuncIndex::from_usize);
    ValidModule {
        module: module.module().clone(),
        body_starts: functions.map(|function| module.body_start(function).unwrap_or(0)).collect(),
        wasm_len_bytes: usize::try_from(module.meta().wasm_len_bytes).unwrap_or(usize::MAX),
        bodies: binary.bodies(),
    }
}

fn install_message(module: &LoadedModule, function: DefinedFuncIndex, error: &InstallError) -> String {
    let index = module.module().func_index(function);
    let name = module.function_name(index).map(|name| format!(" (`{name}`)")).unwrap_or_default();
    format!("function {}{name} cannot be compiled: {error}", index.as_u32())
}
