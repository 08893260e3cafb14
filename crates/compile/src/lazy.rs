//! Compiles functions of a module one by one, from any thread, without linking them.
//!
//! The module is read again when the first function is asked for, so that a start from an image that has the code it needs reads nothing; or
//! it is known from an image, and only the bodies are read that are compiled.
//! Compilers of both tiers are kept from one function to the next: a thread takes one that is free or makes another. The engine calls this
//! through [`LazyFunctions`] and installs what it gets.

use crate::account;
use crate::budget::Budget;
use crate::driver::{compiled, in_unit};
use crate::link;
use crate::parallel::STACK_BYTES;
use crate::plan::Unit;
use crate::tier::{FunctionCompiler, ModuleEnv, Tier};
use once_cell::race::OnceBox;
use peregrine_artifact::allowance::Allowance;
use peregrine_artifact::compiler::{
    CompileError, CompilerKind, FunctionRequest, Guidance, LazyFunctions, ValidModule, Validation, WasmBytes,
};
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::settings::Settings;
use peregrine_frontend::{FuncValidatorAllocations, LaterBodies, Translation, translate};
use peregrine_wasm::{DefinedFuncIndex, Index, Module, ModuleLimits};
use self_cell::self_cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Compilers of one tier that are kept while nobody uses them.
const MAX_IDLE_COMPILERS: usize = 8;

/// The tiers that compile single functions.
#[derive(Clone)]
pub(crate) struct Tiers {
    /// The one that compiles fastest, if there is another one.
    pub(crate) fast: Option<Arc<dyn Tier>>,
    /// The one whose code is fastest.
    pub(crate) optimizing: Arc<dyn Tier>,
}

impl Tiers {
    /// A compiler of the fast tier, or of the other one if that has no code for the target.
    pub(crate) fn fast_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        match self.fast.as_ref().map(|fast| fast.function_compiler(env)) {
            None | Some(Err(CompileError::Unsupported { .. })) => self.optimizing.function_compiler(env),
            Some(compiler) => compiler,
        }
    }

    fn compiler<'m>(&self, kind: CompilerKind, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        match kind {
            CompilerKind::Baseline => self.fast_compiler(env),
            CompilerKind::Optimizing => self.optimizing.function_compiler(env),
        }
    }
}

/// What functions are compiled from.
pub(crate) struct Source {
    pub(crate) module: SourceModule,
    pub(crate) settings: Settings,
    pub(crate) limits: ModuleLimits,
}

/// Where the module comes from.
pub(crate) enum SourceModule {
    /// Its binary.
    Binary(WasmBytes),
    /// It is known, and its bodies are read when they are compiled. The description is taken once.
    Valid { module: Mutex<Option<Box<Module>>>, bodies: LaterBodies },
}

impl SourceModule {
    /// A module that is known.
    pub(crate) fn valid(module: ValidModule) -> Self {
        let ValidModule { module, body_starts, bodies_end, wasm_len_bytes, bodies } = module;
        let bodies = LaterBodies::new(body_starts, bodies_end, wasm_len_bytes, bodies);
        Self::Valid { module: Mutex::new(Some(Box::new(module))), bodies }
    }
}

impl Source {
    fn read(&self) -> Result<Translation<'_>, CompileError> {
        match &self.module {
            SourceModule::Binary(wasm) => translate((**wasm).as_ref(), &self.settings.features, &self.limits),
            SourceModule::Valid { module, bodies } => {
                let module = module.lock().unwrap_or_else(PoisonError::into_inner).take();
                let module = module.ok_or_else(|| CompileError::Internal { message: "a module is described twice".into() })?;
                Ok(Translation::of_valid(*module, &self.settings.features, bodies))
            }
        }
    }
}

self_cell!(
    /// A module that is read, with its binary.
    struct ReadModule {
        owner: Source,
        #[covariant]
        dependent: Translation,
    }
);

self_cell!(
    /// What the code of its functions depends on.
    struct OwnedEnv {
        owner: ReadModule,
        #[covariant]
        dependent: ModuleEnv,
    }
);

self_cell!(
    /// The compilers of its functions.
    struct OwnedCompilers {
        owner: OwnedEnv,
        #[not_covariant]
        dependent: Compilers,
    }
);

/// Compilers that nobody uses now.
#[derive(Default)]
struct Compilers<'m> {
    baseline: Mutex<Vec<Box<dyn FunctionCompiler + 'm>>>,
    optimizing: Mutex<Vec<Box<dyn FunctionCompiler + 'm>>>,
    validation: Mutex<Vec<FuncValidatorAllocations>>,
}

impl<'m> Compilers<'m> {
    fn of(&self, kind: CompilerKind) -> &Mutex<Vec<Box<dyn FunctionCompiler + 'm>>> {
        match kind {
            CompilerKind::Baseline => &self.baseline,
            CompilerKind::Optimizing => &self.optimizing,
        }
    }
}

/// Compiles functions of one module, one by one.
pub(crate) struct OneByOne {
    /// Taken by the thread that reads the module.
    source: Mutex<Option<Source>>,
    compilers: OnceLock<Result<OwnedCompilers, CompileError>>,
    tiers: Tiers,
    budget: Budget,
    allowance: Allowance,
    /// A bit for each function whose body was found valid, if bodies are validated here.
    valid: Option<OnceBox<Box<[AtomicU64]>>>,
}

impl OneByOne {
    pub(crate) fn new(source: Source, tiers: Tiers, budget: Budget, allowance: Allowance, validation: Validation) -> Self {
        let valid = (validation == Validation::Deferred).then(OnceBox::new);
        Self { source: Mutex::new(Some(source)), compilers: OnceLock::new(), tiers, budget, allowance, valid }
    }

    /// The compilers; reads the module if that was not done yet.
    fn compilers(&self) -> Result<&OwnedCompilers, CompileError> {
        let read = || {
            let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).take();
            let source = source.ok_or_else(|| CompileError::Internal { message: "a module is read twice".into() })?;
            let module = ReadModule::try_new(source, Source::read)?;
            let env = OwnedEnv::new(module, |module| {
                account::env(&self.allowance, ModuleEnv::new(module.borrow_dependent(), &module.borrow_owner().settings))
            });
            Ok(OwnedCompilers::new(env, |_| Compilers::default()))
        };
        self.compilers.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    /// Calls `with` with what the code of functions depends on.
    pub(crate) fn with_env<T>(&self, with: impl FnOnce(&ModuleEnv<'_>) -> Result<T, CompileError>) -> Result<T, CompileError> {
        self.compilers()?.with_dependent(|env, _| with(env.borrow_dependent()))
    }

    /// Compiles with one tier.
    fn compile_with<'m>(
        &self,
        kind: CompilerKind,
        env: &'m ModuleEnv<'m>,
        compilers: &Compilers<'m>,
        request: &FunctionRequest,
        guidance: &Guidance,
    ) -> Result<CompiledFunc, CompileError> {
        let idle = compilers.of(kind);
        // Never waited for: after a fork a thread that there is no longer may have the lock.
        let taken = idle.try_lock().ok().and_then(|mut idle| idle.pop());
        let mut compiler = match taken {
            Some(compiler) => compiler,
            None => self.tiers.compiler(kind, env)?,
        };
        compiler.guide(guidance);
        let unit = Unit::Function(request.function);
        let compile = || match request.loop_entry {
            None => compiler.function(request.function),
            Some(entry) => compiler.loop_entry(request.function, entry),
        };
        let made = compiled(env, unit, compile);
        // After a panic it may be in disorder.
        if !matches!(made, Err(CompileError::Internal { .. }))
            && let Ok(mut idle) = idle.try_lock()
            && idle.len() < MAX_IDLE_COMPILERS
        {
            idle.push(compiler);
        }
        let made = made?;
        link::check(&made, &self.budget).map_err(|error| in_unit(env.translation, unit, error))?;
        Ok(made)
    }

    /// Validates a body if that is still to be done, or reads it.
    fn validate(&self, env: &ModuleEnv<'_>, compilers: &Compilers<'_>, function: DefinedFuncIndex) -> Result<(), CompileError> {
        let Some(valid) = &self.valid else { return env.translation.read_body(function) };
        let bodies = env.translation.bodies.len();
        let valid = valid.get_or_init(|| Box::new((0..bodies.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()));
        let (word, bit) = (&valid[function.as_usize() / 64], 1 << (function.as_usize() % 64));
        // Nothing else is told by the bit, so no order is needed.
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        let taken = compilers.validation.try_lock().ok().and_then(|mut idle| idle.pop());
        let mut allocations = taken.unwrap_or_default();
        let result = env.translation.validate_body(function, &mut allocations);
        if let Ok(mut idle) = compilers.validation.try_lock()
            && idle.len() < MAX_IDLE_COMPILERS
        {
            idle.push(allocations);
        }
        result?;
        word.fetch_or(bit, Ordering::Relaxed);
        Ok(())
    }

    fn compile_in<'m>(
        &self,
        env: &'m ModuleEnv<'m>,
        compilers: &Compilers<'m>,
        request: &FunctionRequest,
        guidance: &Guidance,
    ) -> Result<CompiledFunc, CompileError> {
        if request.function.as_usize() >= env.translation.bodies.len() {
            let message = format!("there is no defined function {}", request.function.as_u32());
            return Err(CompileError::Internal { message });
        }
        self.validate(env, compilers, request.function)?;
        match (self.compile_with(request.tier, env, compilers, request, guidance), request.tier) {
            // An entry at a loop is nothing that the other tier has.
            (Err(CompileError::Limit { .. } | CompileError::Unsupported { .. }), CompilerKind::Optimizing)
                if request.loop_entry.is_none() && self.tiers.fast.is_some() =>
            {
                self.compile_with(CompilerKind::Baseline, env, compilers, request, guidance)
            }
            (Err(CompileError::Limit { .. } | CompileError::Unsupported { .. }), CompilerKind::Baseline)
                if request.loop_entry.is_none() && self.tiers.fast.is_some() =>
            {
                // Who asks for the fast tier may have little stack left; it is rare enough for a thread of its own.
                std::thread::scope(|scope| {
                    let thread = std::thread::Builder::new().name("peregrine-compile".into()).stack_size(STACK_BYTES);
                    let spawned =
                        thread.spawn_scoped(scope, || self.compile_with(CompilerKind::Optimizing, env, compilers, request, guidance));
                    match spawned.map(|thread| thread.join()) {
                        Ok(Ok(made)) => made,
                        Ok(Err(_)) => Err(CompileError::Internal { message: "a compiler panicked".into() }),
                        Err(error) => Err(CompileError::Internal { message: format!("no thread to compile with: {error}") }),
                    }
                })
            }
            (made, _) => made,
        }
    }
}

impl LazyFunctions for OneByOne {
    fn prepare(&self) -> Result<(), CompileError> {
        self.compilers().map(drop)
    }

    fn compile(&self, request: &FunctionRequest) -> Result<CompiledFunc, CompileError> {
        self.compile_guided(request, &Guidance::default())
    }

    fn compile_guided(&self, request: &FunctionRequest, guidance: &Guidance) -> Result<CompiledFunc, CompileError> {
        self.compilers()?.with_dependent(|env, compilers| self.compile_in(env.borrow_dependent(), compilers, request, guidance))
    }

    fn forget_compiling(&self) {
        if let Some(Ok(compilers)) = self.compilers.get() {
            compilers.with_dependent(|env, _| env.borrow_dependent().memory.forget_taken());
        }
    }
}
