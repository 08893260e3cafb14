//! Compiling one function: translation, passes, interruption points, lowering; with the memory of the last function reused.

use crate::budget::{self, Budget, Mode};
use crate::counted_loops::Loops;
use crate::fuel;
use crate::inlining::{self, Candidates};
use crate::isa::{self, Isas};
use crate::lines;
use crate::merged_loads;
use crate::places::{self, Places};
use crate::translate::{FunctionInput, Stopped, Translated, translate, trap_code};
use crate::{emit, stubs};
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::types::{I8, I64};
use cranelift_codegen::ir::{Block, Function, Inst, InstBuilder, MemFlagsData, SourceLoc};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::{CodegenError, Context};
use cranelift_frontend::FunctionBuilderContext;
use peregrine_artifact::abi::{LONG_BODY_BYTES, StubKind};
use peregrine_artifact::compiler::{CompileError, Guidance, LoopEntry};
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::profile::Feedback;
use peregrine_artifact::settings::OptLevel;
use peregrine_artifact::vmctx::VmContextHeader;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv, Tier};
use peregrine_wasm::{DefinedFuncIndex, Trap, TypeIndex};
use std::collections::HashSet;
use std::mem::offset_of;
use std::sync::Arc;

/// Compiles the functions of one module on one thread.
pub(crate) struct Compiler<'m> {
    env: &'m ModuleEnv<'m>,
    isas: Isas,
    context: Context,
    builder: FunctionBuilderContext,
    allocator: regalloc2::Ctx,
    candidates: Candidates,
    /// How the functions ran, if that is known.
    feedback: Option<Arc<dyn Feedback>>,
    places: Places,
    /// Who compiles what is too costly here, once that was needed.
    linear: Linear<'m>,
    /// How every body is translated, instead of as its budget says.
    forced_mode: Option<Mode>,
}

/// A tier whose time and memory are linear in the body.
struct Linear<'m> {
    /// `None` if there is none for this target.
    tier: Option<Arc<dyn Tier>>,
    /// Its compiler, once something was too costly.
    compiler: Option<Box<dyn FunctionCompiler + 'm>>,
}

impl<'m> Linear<'m> {
    /// The compiler, if there is one for the target.
    fn compiler(&mut self, env: &'m ModuleEnv<'m>) -> Result<Option<&mut (dyn FunctionCompiler + 'm)>, CompileError> {
        if let (None, Some(tier)) = (&self.compiler, &self.tier) {
            match tier.function_compiler(env) {
                Ok(compiler) => self.compiler = Some(compiler),
                Err(CompileError::Unsupported { .. }) => self.tier = None,
                Err(error) => return Err(error),
            }
        }
        Ok(self.compiler.as_deref_mut())
    }

    /// Compiles a function. The compiler does not outlive it: what is left to it is large, and so is what it keeps.
    fn function(&mut self, env: &'m ModuleEnv<'m>, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        let missing = || CompileError::Internal { message: String::from("the linear tier has no compiler") };
        let compiled = self.compiler(env)?.ok_or_else(missing)?.function(index);
        self.compiler = None;
        compiled
    }
}

/// Parameters and results of a stub. More, which the allocator takes too long for, are left to a linear tier.
const MAX_STUB_VALUES: usize = 64;

/// After a function that took more than this, the memory of the compiler is given back.
const MAX_KEPT_BYTES: u64 = 8 << 20;

impl<'m> Compiler<'m> {
    /// A compiler for the module of `env`, which leaves to `linear` what is too costly.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unsupported`] if its settings ask for what there is not.
    pub(crate) fn new(env: &'m ModuleEnv<'m>, linear: Option<Arc<dyn Tier>>) -> Result<Self, CompileError> {
        Ok(Self {
            env,
            isas: isa::isas(env.settings)?,
            context: Context::new(),
            builder: FunctionBuilderContext::new(),
            allocator: regalloc2::Ctx::default(),
            candidates: Candidates::default(),
            feedback: None,
            places: Places::default(),
            linear: Linear { tier: linear, compiler: None },
            forced_mode: None,
        })
    }

    /// The same compiler, translating every body in one mode.
    #[cfg(test)]
    pub(crate) fn in_mode(self, mode: Mode) -> Self {
        Self { forced_mode: Some(mode), ..self }
    }

    /// The same compiler without the checks of what it makes in between.
    #[cfg(test)]
    pub(crate) fn unverified(self) -> Self {
        Self { isas: isa::unverified(self.env.settings).expect("the settings were fine"), ..self }
    }

    /// Translates a body, entered at a loop if there is an `entry`, optimized if its budget allows it, and says how. `None` if it is left to the
    /// linear tier.
    fn translate(&mut self, index: DefinedFuncIndex, entry: Option<LoopEntry>) -> Result<Option<(Translated, Mode)>, CompileError> {
        let body_bytes = self.env.translation.body_bytes(index).len() as u64;
        let first = match (self.forced_mode, self.env.settings.opt_level) {
            (Some(mode), _) => mode,
            (None, OptLevel::None) => Mode::Plain,
            (None, _) => match Budget::first_mode(body_bytes) {
                Mode::Plain if self.linear.compiler(self.env)?.is_some() => return Ok(None),
                mode => mode,
            },
        };
        let mut translated = self.translate_in(index, entry, first, self.env.memory.max_bytes());
        if self.feedback.is_some() && matches!(translated, Err(Stopped::Budget)) {
            // Guesses cost a little: nothing is compiled worse for them.
            let feedback = self.feedback.take();
            translated = self.translate_in(index, entry, first, self.env.memory.max_bytes());
            self.feedback = feedback;
        }
        match translated {
            Ok(translated) if first == Mode::Plain || self.is_worth_optimizing(body_bytes)? => return Ok(Some((translated, first))),
            Ok(_) | Err(Stopped::Budget) => {}
            Err(Stopped::Error(error)) => return Err(error),
        }
        if self.linear.compiler(self.env)?.is_some() {
            self.give_back_memory();
            return Ok(None);
        }
        match self.translate_in(index, entry, Mode::Plain, u64::MAX) {
            Ok(translated) => Ok(Some((translated, Mode::Plain))),
            Err(Stopped::Error(error)) => Err(error),
            Err(Stopped::Budget) => Err(CompileError::Limit { message: budget::too_many_operations() }),
        }
    }

    fn give_back_memory(&mut self) {
        self.context = Context::new();
        self.builder = FunctionBuilderContext::new();
        self.allocator = regalloc2::Ctx::default();
    }

    /// Whether the passes and the allocator can take the function in the context in reasonable time.
    fn is_worth_optimizing(&mut self, body_bytes: u64) -> Result<bool, CompileError> {
        self.context.flowgraph();
        if budget::is_too_deep(&self.context.domtree, &self.context.func, body_bytes) {
            return Ok(false);
        }
        if !budget::has_too_many_parameters(&self.context.func) {
            return Ok(true);
        }
        // Many of them may be the same value whichever way the block is reached.
        let isa = self.isa(Mode::Optimized);
        self.context.eliminate_unreachable_code(&*isa).map_err(|error| self.failed(&error))?;
        self.context.remove_constant_phis(&*isa).map_err(|error| self.failed(&error))?;
        Ok(!budget::has_too_many_parameters(&self.context.func))
    }

    fn translate_in(
        &mut self,
        index: DefinedFuncIndex,
        entry: Option<LoopEntry>,
        mode: Mode,
        max_bytes: u64,
    ) -> Result<Translated, Stopped> {
        self.context.clear();
        self.places.clear();
        let feedback = self.feedback.as_deref().filter(|_| mode == Mode::Optimized);
        let input = FunctionInput { env: self.env, isa: &*self.isas.optimized, index, mode, entry, feedback, max_bytes };
        let translated = translate(&input, &mut self.context.func, &mut self.builder);
        if translated.is_err() {
            // What an unfinished translation leaves behind cannot be reused.
            self.builder = FunctionBuilderContext::new();
            self.context.func = Function::new();
        }
        translated
    }

    fn isa(&self, mode: Mode) -> OwnedTargetIsa {
        match mode {
            Mode::Optimized => self.isas.optimized.clone(),
            Mode::Plain => self.isas.plain.clone(),
        }
    }

    /// Runs the passes and makes code of the function in the context.
    fn finish(
        &mut self,
        index: DefinedFuncIndex,
        translated: &Translated,
        mode: Mode,
        entry: Option<LoopEntry>,
    ) -> Result<CompiledFunc, CompileError> {
        let isa = self.isa(mode);
        self.context.verify_if(&*isa).map_err(|error| self.failed(&error))?;
        if entry.is_some() {
            // What is before the loop is not worth any further work.
            self.context.flowgraph();
            self.context.eliminate_unreachable_code(&*isa).map_err(|error| self.failed(&error))?;
        }
        if self.env.settings.inlining && mode == Mode::Optimized && translated.calls {
            let feedback = self.feedback.as_deref();
            inlining::inline(&mut self.context, self.env, &*isa, index, feedback, &mut self.candidates, &mut self.places)
                .map_err(|error| self.failed(&error))?;
        }
        places::locate_conditional_traps(&mut self.context.func);
        if self.env.settings.interrupt {
            keep_memory_apart(&mut self.context.func, translated);
        }
        let mut control = ControlPlane::default();
        self.context.optimize(&*isa, &mut control).map_err(|error| self.failed(&error))?;
        merged_loads::locate(&mut self.context.func);
        if self.env.settings.fuel {
            fuel::mark(&mut self.context.func);
        }
        if self.env.settings.interrupt {
            let looks = self.interruption_points(index, translated, mode, entry.is_some());
            insert_interruption_points(&mut self.context.func, &looks, translated.kept_from);
            self.context.verify_if(&*isa).map_err(|error| self.failed(&error))?;
        }
        let loops = self.loops(mode);
        let compiled = isa
            .compile_function(&self.context.func, &self.context.domtree, &mut self.allocator, false, &mut control)
            .map_err(|error| self.failed(&error))?
            .apply_params(&self.context.func.params);
        emit::emit(&compiled, &self.context.func.params, self.env.settings.tiering, &self.places, &loops)
    }

    /// The loops whose place in lines matters.
    fn loops(&mut self, mode: Mode) -> lines::LoopPlaces {
        if mode == Mode::Plain {
            return lines::LoopPlaces::default();
        }
        self.context.compute_loop_analysis();
        lines::LoopPlaces::new(&self.context.func, &self.context.loop_analysis)
    }

    /// Where to look for interruptions: at the header of every loop that may turn often or leads out to calls far from other looks, and at the
    /// entry of a function that calls outside of loops, has loops that nobody looks in, or is long. So whatever runs between two looks is short.
    fn interruption_points(
        &mut self,
        index: DefinedFuncIndex,
        translated: &Translated,
        mode: Mode,
        begins_in_loop: bool,
    ) -> Vec<(Block, SourceLoc)> {
        let is_there = |(block, _): &(Block, SourceLoc)| self.context.func.layout.is_block_inserted(*block);
        let mut looks: Vec<_> = translated.looks.iter().copied().filter(is_there).collect();
        let all = looks.len();
        if mode == Mode::Optimized && !looks.is_empty() {
            self.context.compute_loop_analysis();
            let Context { func, cfg, loop_analysis, .. } = &self.context;
            let loops = Loops::new(func, cfg, loop_analysis);
            let short = loops.short(&looks.iter().map(|(header, _)| *header).collect::<Vec<_>>());
            let relied_on = relied_on(func, translated);
            looks.retain(|(header, _)| !short.contains(header) || relied_on.contains(header));
        }
        // Calls in loops need no look of their own where the loops have one.
        let is_long = self.env.translation.bodies[index].len() > LONG_BODY_BYTES;
        let is_needed = translated.calls_outside_loops || is_long || looks.len() < all;
        if is_needed
            && !begins_in_loop
            && let Some(entry) = self.context.func.layout.entry_block()
        {
            looks.push((entry, SourceLoc::new(0)));
        }
        looks
    }

    /// [`finish`](Self::finish), when the module may take the memory; gives back much of it.
    fn finish_within_memory(
        &mut self,
        index: DefinedFuncIndex,
        translated: &Translated,
        mode: Mode,
        entry: Option<LoopEntry>,
    ) -> Result<CompiledFunc, CompileError> {
        let taken = self.env.memory.take(translated.memory_bytes);
        let compiled = self.finish(index, translated, mode, entry);
        if translated.memory_bytes > MAX_KEPT_BYTES {
            self.give_back_memory();
        }
        drop(taken);
        compiled
    }

    fn failed(&self, error: &CodegenError) -> CompileError {
        match error {
            CodegenError::CodeTooLarge | CodegenError::ImplLimitExceeded => {
                CompileError::Limit { message: format!("a function too large for the compiler: {error}") }
            }
            CodegenError::Unsupported(what) => CompileError::Unsupported { message: what.clone() },
            error => CompileError::Internal { message: format!("{error:?}") },
        }
    }
}

impl FunctionCompiler for Compiler<'_> {
    fn guide(&mut self, guidance: &Guidance) {
        self.feedback.clone_from(&guidance.feedback);
    }

    fn function(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        match self.translate(index, None)? {
            Some((translated, mode)) => self.finish_within_memory(index, &translated, mode, None),
            None => self.linear.function(self.env, index),
        }
    }

    fn loop_entry(&mut self, index: DefinedFuncIndex, entry: LoopEntry) -> Result<CompiledFunc, CompileError> {
        let too_costly = || CompileError::Unsupported { message: String::from("entering a loop of a function that costs too much") };
        let (translated, mode) = self.translate(index, Some(entry))?.ok_or_else(too_costly)?;
        self.finish_within_memory(index, &translated, mode, Some(entry))
    }

    fn stub(&mut self, kind: StubKind, ty: TypeIndex) -> Result<CompiledFunc, CompileError> {
        let index = ty;
        let ty = &self.env.translation.module.types[ty];
        if ty.params.len() + ty.results.len() > MAX_STUB_VALUES
            && let Some(linear) = self.linear.compiler(self.env)?
        {
            return linear.stub(kind, index);
        }
        self.context.clear();
        self.places.clear();
        let isa = self.isa(Mode::Optimized);
        stubs::build(kind, ty, &*isa, &mut self.context.func, &mut self.builder);
        let mut control = ControlPlane::default();
        let compiled = match self.context.compile(&*isa, &mut control) {
            Ok(_) => self.context.take_compiled_code(),
            Err(error) => {
                let error = error.inner;
                return Err(self.failed(&error));
            }
        };
        let compiled = compiled.ok_or_else(|| CompileError::Internal { message: String::from("a stub without code") })?;
        emit::emit(&compiled, &self.context.func.params, self.env.settings.tiering, &self.places, &lines::LoopPlaces::default())
    }
}

/// Lets the passes keep what memory holds at the headers of loops: an interruption there shows it to the host, which may change it. What
/// is written before is not left out for what is written later, and what was read before is read again. No code is made of this.
fn keep_memory_apart(func: &mut Function, translated: &Translated) {
    for (block, _) in &translated.looks {
        if func.layout.is_block_inserted(*block) {
            FuncCursor::new(func).at_first_insertion_point(*block).ins().sequence_point();
        }
    }
}

/// The headers of loops that look for calls: for those that were not inlined.
fn relied_on(func: &Function, translated: &Translated) -> HashSet<Block> {
    if translated.relied_on.is_empty() {
        return HashSet::new();
    }
    let all = func.layout.blocks().flat_map(|block| func.layout.block_insts(block));
    let calls: HashSet<_> = all.filter(|inst| func.dfg.insts[*inst].opcode().is_call()).map(|inst| func.srcloc(inst)).collect();
    translated.relied_on.iter().filter(|(_, call)| calls.contains(call)).map(|(header, _)| *header).collect()
}

/// Looks for a pending interruption at the start of blocks: a load of a page that faults if there is one. Done after the passes, which would
/// merge these loads or move others around them. That of the entry is made after the instruction `kept_from`, if there is one: before it, the frame may
/// keep the locals of an earlier call.
fn insert_interruption_points(func: &mut Function, looks: &[(Block, SourceLoc)], kept_from: Option<Inst>) {
    let Some(entry) = func.layout.entry_block().filter(|_| !looks.is_empty()) else { return };
    let vmctx = func.dfg.block_params(entry)[0];
    // Loaded once: loops need no context for it then, and where there is no register for it, it is loaded from the frame instead.
    let mut cursor = FuncCursor::new(func).at_first_insertion_point(entry);
    let page = cursor.ins().load(I64, MemFlagsData::trusted().with_readonly(), vmctx, offset_of!(VmContextHeader, interrupt_page) as i32);
    let made = func.dfg.value_def(page).unwrap_inst();
    let kept_from = kept_from.filter(|&inst| func.layout.inst_block(inst).is_some()).unwrap_or(made);
    for &(block, location) in looks {
        let mut cursor = FuncCursor::new(func).with_srcloc(location);
        cursor = if block == entry { cursor.after_inst(kept_from) } else { cursor.at_first_insertion_point(block) };
        let interrupt = MemFlagsData::new().with_trap_code(Some(trap_code(Trap::Interrupt)));
        cursor.ins().load(I8, interrupt, page, 0);
    }
}
