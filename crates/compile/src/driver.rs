//! The compiler that the engine calls: a tier, driven over all functions of a module.

use crate::account::Account;
use crate::added;
use crate::budget::Budget;
use crate::duplicates::Duplicates;
use crate::lazy::{self, OneByOne, SourceModule, Tiers};
use crate::link::{self, Linked, Linker, Piece};
use crate::parallel::{Batch, Threads, panic_message, run_each, run_in_order};
use crate::pieces;
use crate::plan::{CanonicalTypes, Plan, Unit};
use crate::sections;
use crate::tier::{FunctionCompiler, ModuleEnv, Tier};
use peregrine_artifact::allowance::Allowance;
use peregrine_artifact::code_bounds::CodeBounds;
use peregrine_artifact::compiler::{
    CompileError, Compiler, Guidance, LazyFunctions, Prepared, Progress, ReadWasm, ValidModule, Validation, WasmBytes,
};
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::settings::{Settings, Target, Tiering};
use peregrine_frontend::{FuncValidatorAllocations, Sections, Translation, to_binary, translate};
use peregrine_wasm::{DefinedFuncIndex, ModuleLimits};
use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Modules whose cost is not above this are compiled on the thread that asks: starting others takes longer. Small enough also for tiers
/// that recurse, since nobody knows how large that thread's stack is.
const MAX_COST_ON_CURRENT_THREAD: usize = 4 << 10;

/// Makes images with one tier, and single functions with that one and a faster one. One for a process is enough; it can be used from any
/// thread, by several at once.
#[derive(Clone)]
pub struct ImageCompiler {
    tier: Arc<dyn Tier>,
    /// The tier that compiles fastest, for modules that are compiled function by function.
    fast: Option<Arc<dyn Tier>>,
    limits: ModuleLimits,
    budget: Budget,
    allowance: Allowance,
    threads: Option<NonZeroUsize>,
}

impl ImageCompiler {
    /// A compiler with the usual limits, and as many threads as there are processors.
    pub fn new(tier: Arc<dyn Tier>) -> Self {
        let (limits, budget, allowance) = (ModuleLimits::default(), Budget::default(), Allowance::UNLIMITED);
        Self { tier, fast: None, limits, budget, allowance, threads: None }
    }

    /// Compiles stubs, and functions when they are first called, with `fast`, for modules that are compiled function by function.
    pub fn with_fast_tier(mut self, fast: Arc<dyn Tier>) -> Self {
        self.fast = Some(fast);
        self
    }

    /// Replaces the limits on what is made of modules.
    #[cfg(test)]
    pub(crate) fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Compiles each module on so many threads. Changes no byte of any image.
    pub fn with_threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The tier that makes the code.
    pub fn tier(&self) -> &dyn Tier {
        &*self.tier
    }

    /// Where to do work of a cost.
    fn threads(&self, plan: &Plan) -> Threads {
        if plan.cost() <= MAX_COST_ON_CURRENT_THREAD {
            return Threads::Current;
        }
        Threads::New(self.new_threads())
    }

    /// On how many threads to do work of any size.
    fn new_threads(&self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    /// Compiles and links all functions and stubs of a module.
    fn link(
        &self,
        env: &ModuleEnv<'_>,
        account: &Account<'_>,
        guidance: &Guidance,
        progress: &dyn Progress,
    ) -> Result<Linked, CompileError> {
        let translation = env.translation;
        let module = &translation.module;
        let types = CanonicalTypes::find(module);
        // In the order of a profile copies are not kept apart: each has its own place in it.
        let duplicates = if guidance.feedback.is_some() { Duplicates::none() } else { Duplicates::find(translation, &types) };
        let mut plan = match &guidance.feedback {
            None => Plan::functions(translation, &duplicates),
            Some(feedback) => Plan::by_heat(translation, &**feedback),
        };
        plan.add_stubs(module, &types, &self.budget)?;

        let progress = BodyProgress::new(translation, progress);
        let worker = || {
            let mut compiler = self.tier.function_compiler(env)?;
            compiler.guide(guidance);
            Ok(Worker { compiler, allocations: FuncValidatorAllocations::default() })
        };
        let work = |worker: &mut Worker<'_>, batch: &Batch| {
            let units = &plan.units[batch.items.clone()];
            let pieces: Result<Vec<_>, CompileError> =
                units.iter().map(|unit| Ok((*unit, self.piece(worker, env, account, *unit)?))).collect();
            progress.add(translation, units);
            pieces
        };
        let budget = self.budget.for_module(translation.wasm.len());
        let linker = Linker::new(&env.settings.target, module, &budget);
        let next = DefinedFuncIndex::from_u32(0);
        let mut in_order = InOrder { linker, translation, duplicates: &duplicates, next, copied: HashMap::new(), progress: &progress };
        let sink = |pieces: Vec<(Unit, Piece)>| pieces.into_iter().try_for_each(|(unit, piece)| in_order.add(unit, piece));
        run_in_order(self.threads(&plan), &plan.batches, worker, work, sink)?;
        in_order.copies()?;
        in_order.linker.finish(|ty| types.canonical(ty))
    }

    /// Compiles and links the stubs of a module.
    fn link_stubs(&self, env: &ModuleEnv<'_>, account: &Account<'_>) -> Result<Linked, CompileError> {
        let translation = env.translation;
        let module = &translation.module;
        let types = CanonicalTypes::find(module);
        let mut plan = Plan::default();
        plan.add_stubs(module, &types, &self.budget)?;
        let budget = self.budget.for_module(translation.wasm.len());
        let mut linker = Linker::new(&env.settings.target, module, &budget);
        translation.bodies.iter().try_for_each(|(index, body)| linker.function_without_code(index, body.start))?;
        let tiers = self.tiers();
        let worker = || Ok(Worker { compiler: tiers.fast_compiler(env)?, allocations: FuncValidatorAllocations::default() });
        let work = |worker: &mut Worker<'_>, batch: &Batch| {
            let units = plan.units[batch.items.clone()].iter();
            units.map(|unit| Ok((*unit, self.piece(worker, env, account, *unit)?))).collect::<Result<Vec<_>, CompileError>>()
        };
        let sink = |pieces: Vec<(Unit, Piece)>| {
            pieces.into_iter().try_for_each(|(unit, piece)| match unit {
                Unit::Stub(kind, ty) => linker.stub(kind, ty, &piece),
                Unit::Function(_) => Ok(()),
            })
        };
        run_in_order(self.threads(&plan), &plan.batches, worker, work, sink)?;
        linker.finish(|ty| types.canonical(ty))
    }

    /// The image of a module with everything but the code of functions.
    fn image_without_code(&self, env: &ModuleEnv<'_>, account: &Account<'_>) -> Result<Vec<u8>, CompileError> {
        let linked = self.link_stubs(env, account)?;
        Ok(sections::image(env.translation, env.translation.module.clone(), &linked, env.settings))
    }

    fn one_by_one(&self, wasm: WasmBytes, settings: &Settings, validation: Validation) -> Result<OneByOne, CompileError> {
        refuse_whole(settings)?;
        let source = lazy::Source { module: SourceModule::Binary(wasm), settings: settings.clone(), limits: self.limits };
        Ok(OneByOne::new(source, self.tiers(), self.budget, self.allowance, validation))
    }

    /// Validates all bodies of a module.
    fn validate_bodies(&self, translation: &Translation<'_>, account: &Account<'_>) -> Result<(), CompileError> {
        let plan = Plan::functions(translation, &Duplicates::none());
        let work = |allocations: &mut FuncValidatorAllocations, batch: &Batch| {
            account.check_time()?;
            plan.units[batch.items.clone()].iter().try_for_each(|unit| match unit {
                Unit::Function(index) => translation.validate_body(*index, allocations),
                Unit::Stub(..) => Ok(()),
            })
        };
        run_each(self.threads(&plan), &plan.batches, FuncValidatorAllocations::default, work)
    }

    /// The tiers that compile single functions.
    fn tiers(&self) -> Tiers {
        Tiers { fast: self.fast.clone(), optimizing: self.tier.clone() }
    }

    /// Validates and compiles one unit.
    fn piece(&self, worker: &mut Worker<'_>, env: &ModuleEnv<'_>, account: &Account<'_>, unit: Unit) -> Result<Piece, CompileError> {
        let Worker { compiler, allocations } = worker;
        account.check_time()?;
        if let Unit::Function(index) = unit {
            env.translation.validate_body(index, allocations)?;
        }
        let compiled = compiled(env, unit, || match unit {
            Unit::Function(index) => compiler.function(index),
            Unit::Stub(kind, ty) => compiler.stub(kind, ty),
        })?;
        let piece = Piece::new(compiled, &self.budget).map_err(|error| in_unit(env.translation, unit, error))?;
        account.add_code(piece.len_bytes())?;
        Ok(piece)
    }
}

/// What `compile` makes of `unit`; a panic is an error.
pub(crate) fn compiled(
    env: &ModuleEnv<'_>,
    unit: Unit,
    compile: impl FnOnce() -> Result<CompiledFunc, CompileError>,
) -> Result<CompiledFunc, CompileError> {
    catch_unwind(AssertUnwindSafe(compile))
        .unwrap_or_else(|panic| Err(CompileError::Internal { message: panic_message(&*panic) }))
        .map_err(|error| in_unit(env.translation, unit, error))
}

/// What a thread keeps from one function to the next.
struct Worker<'m> {
    compiler: Box<dyn FunctionCompiler + 'm>,
    allocations: FuncValidatorAllocations,
}

impl Compiler for ImageCompiler {
    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        self.tier.target(triple)
    }

    fn within(&self, allowance: &Allowance) -> Option<Arc<dyn Compiler>> {
        Some(Arc::new(Self { allowance: *allowance, ..self.clone() }))
    }

    fn to_binary<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, CompileError> {
        to_binary(bytes)
    }

    fn validate(&self, wasm: &[u8], settings: &Settings) -> Result<(), CompileError> {
        let translation = translate(wasm, &settings.features, &self.limits)?;
        self.validate_bodies(&translation, &Account::open(&self.allowance, &translation)?)
    }

    fn compile(&self, wasm: &[u8], settings: &Settings, progress: &dyn Progress) -> Result<Vec<u8>, CompileError> {
        self.compile_guided(wasm, settings, &Guidance::default(), progress)
    }

    fn compile_guided(
        &self,
        wasm: &[u8],
        settings: &Settings,
        guidance: &Guidance,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, CompileError> {
        let translation = translate(wasm, &settings.features, &self.limits)?;
        let account = Account::open(&self.allowance, &translation)?;
        let linked = self.link(&account.env(ModuleEnv::new(&translation, settings)), &account, guidance, progress)?;
        Ok(sections::image(&translation, translation.module.clone(), &linked, settings))
    }

    fn prepare(&self, wasm: &[u8], settings: &Settings, validation: Validation) -> Result<Vec<u8>, CompileError> {
        refuse_whole(settings)?;
        let translation = translate(wasm, &settings.features, &self.limits)?;
        let account = Account::open(&self.allowance, &translation)?;
        let env = account.env(ModuleEnv::new(&translation, settings));
        if validation == Validation::Complete {
            self.validate_bodies(&translation, &account)?;
            self.try_large_bodies(&env, &account)?;
        }
        self.image_without_code(&env, &account)
    }

    fn prepare_pieces(&self, source: &dyn ReadWasm, settings: &Settings) -> Result<Option<Vec<u8>>, CompileError> {
        if settings.tiering == Tiering::Whole {
            return Ok(None);
        }
        let Some(sections) = Sections::read(source)? else { return Ok(None) };
        // The bodies cost most.
        let threads = if sections.wasm_len_bytes() <= MAX_COST_ON_CURRENT_THREAD { 1 } else { self.new_threads() };
        let Some(translation) = pieces::validate(&sections, source, &settings.features, &self.limits, &self.allowance, threads)? else {
            return Ok(None);
        };
        let bounds = CodeBounds::of(&translation.module);
        if translation.bodies.values().any(|body| bounds.may_exceed(body.len() as u64)) {
            // Such bodies are compiled.
            return Ok(None);
        }
        let account = Account::open(&self.allowance, &translation)?;
        self.image_without_code(&ModuleEnv::new(&translation, settings), &account).map(Some)
    }

    fn prepare_functions(&self, wasm: WasmBytes, settings: &Settings, validation: Validation) -> Result<Prepared, CompileError> {
        let functions = self.one_by_one(wasm, settings, validation)?;
        let image = functions.with_env(|env| {
            let account = Account::open(&self.allowance, env.translation)?;
            if validation == Validation::Complete {
                self.validate_bodies(env.translation, &account)?;
                self.try_large_bodies(env, &account)?;
            }
            self.image_without_code(env, &account)
        })?;
        Ok(Prepared { image, functions: Arc::new(functions) })
    }

    fn add_functions(
        &self,
        image: &[u8],
        functions: &[(DefinedFuncIndex, Arc<CompiledFunc>)],
        first: &[DefinedFuncIndex],
    ) -> Result<Vec<u8>, CompileError> {
        added::image_with(image, functions, first, &self.budget)
    }

    fn lazy_functions(&self, wasm: WasmBytes, settings: &Settings, validation: Validation) -> Result<Arc<dyn LazyFunctions>, CompileError> {
        Ok(Arc::new(self.one_by_one(wasm, settings, validation)?))
    }

    fn lazy_functions_of(&self, module: ValidModule, settings: &Settings) -> Result<Arc<dyn LazyFunctions>, CompileError> {
        refuse_whole(settings)?;
        let source = lazy::Source { module: SourceModule::valid(module), settings: settings.clone(), limits: self.limits };
        Ok(Arc::new(OneByOne::new(source, self.tiers(), self.budget, self.allowance, Validation::Trusted)))
    }
}

impl ImageCompiler {
    /// Compiles bodies that could become more code than any function may have: when they are called it is too late to refuse the module. Programs
    /// have none. What the fast tier does not take is left to the other one, as in a first call. The code is not kept, so only that of one body
    /// is within `account` at a time.
    fn try_large_bodies(&self, env: &ModuleEnv<'_>, account: &Account<'_>) -> Result<(), CompileError> {
        let bounds = CodeBounds::of(&env.translation.module);
        let large: Vec<_> = env.translation.bodies.iter().filter(|(_, body)| bounds.may_exceed(body.len() as u64)).collect();
        let tiers = self.tiers();
        let make = |index, compiler: Result<Box<dyn FunctionCompiler + '_>, CompileError>| {
            account.check_time()?;
            let unit = Unit::Function(index);
            let mut compiler = compiler?;
            let made = compiled(env, unit, || compiler.function(index))?;
            link::check(&made, &self.budget).map_err(|error| in_unit(env.translation, unit, error))?;
            Ok(made.code.len())
        };
        let work = |(): &mut (), batch: &Batch| {
            large[batch.items.clone()].iter().try_for_each(|&(index, _)| {
                let made = match make(index, tiers.fast_compiler(env)) {
                    Err(CompileError::Limit { .. } | CompileError::Unsupported { .. }) if tiers.fast.is_some() => {
                        make(index, tiers.optimizing.function_compiler(env))
                    }
                    made => made,
                };
                account.check_code(made?)
            })
        };
        if large.is_empty() {
            return Ok(());
        }
        let batches: Vec<_> = (0..large.len()).map(|item| Batch { items: item..item + 1, cost: large[item].1.len() }).collect();
        // One at a time, for each takes much memory; on a thread of its own, for the second tier recurses.
        run_in_order(Threads::New(1), &batches, || Ok(()), work, |()| Ok(()))
    }
}

/// Functions that call each other directly cannot be compiled one by one.
fn refuse_whole(settings: &Settings) -> Result<(), CompileError> {
    if settings.tiering != Tiering::Whole {
        return Ok(());
    }
    let message = "functions can be compiled one by one only if the settings let them call each other through slots".into();
    Err(CompileError::Unsupported { message })
}

/// Takes finished units by rising function, and puts copies between them.
struct InOrder<'m> {
    linker: Linker<'m>,
    translation: &'m Translation<'m>,
    duplicates: &'m Duplicates,
    /// No function before this one lacks its place.
    next: DefinedFuncIndex,
    /// Functions of which more copies come, and how many.
    copied: HashMap<DefinedFuncIndex, (Piece, u32)>,
    progress: &'m BodyProgress<'m>,
}

impl InOrder<'_> {
    fn add(&mut self, unit: Unit, piece: Piece) -> Result<(), CompileError> {
        self.copies()?;
        match unit {
            Unit::Function(index) => {
                self.linker.function(index, &piece, self.translation.bodies[index].start)?;
                let copies = self.duplicates.copies(index);
                if copies > 0 {
                    self.copied.insert(index, (piece, copies));
                }
                Ok(())
            }
            Unit::Stub(kind, ty) => self.linker.stub(kind, ty, &piece),
        }
    }

    /// Appends the functions that come next as long as they are copies of earlier ones.
    fn copies(&mut self) -> Result<(), CompileError> {
        loop {
            while self.linker.is_placed(self.next) {
                self.next = DefinedFuncIndex::from_u32(self.next.as_u32() + 1);
            }
            let next = self.next;
            let Some(original) = self.duplicates.original(next) else { return Ok(()) };
            let Some((piece, copies_left)) = self.copied.get_mut(&original) else {
                return Err(CompileError::Internal { message: "a function comes before the one that it is a copy of".into() });
            };
            self.linker.function(next, piece, self.translation.bodies[next].start)?;
            *copies_left -= 1;
            if *copies_left == 0 {
                self.copied.remove(&original);
            }
            self.progress.add(self.translation, &[Unit::Function(next)]);
        }
    }
}

/// Counts bytes of bodies that are compiled.
struct BodyProgress<'p> {
    progress: &'p dyn Progress,
    done_bytes: AtomicU64,
    total_bytes: u64,
}

impl<'p> BodyProgress<'p> {
    fn new(translation: &Translation<'_>, progress: &'p dyn Progress) -> Self {
        let total_bytes = translation.bodies.values().map(|body| body.len() as u64).sum();
        Self { progress, done_bytes: AtomicU64::new(0), total_bytes }
    }

    fn add(&self, translation: &Translation<'_>, units: &[Unit]) {
        let bytes = units.iter().map(|unit| match unit {
            Unit::Function(index) => translation.bodies[*index].len() as u64,
            Unit::Stub(..) => 0,
        });
        let bytes: u64 = bytes.sum();
        if bytes > 0 {
            let done_bytes = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.progress.compiled(done_bytes, self.total_bytes);
        }
    }
}

/// Says in an error which unit it is about.
#[cold]
pub(crate) fn in_unit(translation: &Translation<'_>, unit: Unit, error: CompileError) -> CompileError {
    let place = match unit {
        Unit::Function(index) => {
            let index = translation.module.func_index(index);
            match translation.function_name(index) {
                Some(name) => format!("function {} (`{name}`)", index.as_u32()),
                None => format!("function {}", index.as_u32()),
            }
        }
        Unit::Stub(kind, ty) => format!("{kind:?} stub of type {}", ty.as_u32()),
    };
    match error {
        CompileError::Limit { message } => CompileError::Limit { message: format!("{place}: {message}") },
        CompileError::Internal { message } => CompileError::Internal { message: format!("{place}: {message}") },
        other => other,
    }
}
