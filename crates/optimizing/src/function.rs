//! Compiling one function: translation, passes, interruption points, lowering; with the memory of the last function reused.

use crate::budget::{self, Budget, Mode};
use crate::inlining::{self, Candidates};
use crate::isa::{self, Isas};
use crate::translate::{FunctionInput, Stopped, Translated, translate, trap_code};
use crate::{emit, stubs};
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::types::{I8, I64};
use cranelift_codegen::ir::{Function, InstBuilder, MemFlagsData};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::{CodegenError, Context};
use cranelift_frontend::FunctionBuilderContext;
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::settings::OptLevel;
use peregrine_artifact::vmctx::VmContextHeader;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv};
use peregrine_wasm::{DefinedFuncIndex, Trap, TypeIndex};
use std::mem::offset_of;

/// Compiles the functions of one module on one thread.
pub(crate) struct Compiler<'m> {
    env: &'m ModuleEnv<'m>,
    isas: Isas,
    context: Context,
    builder: FunctionBuilderContext,
    allocator: regalloc2::Ctx,
    candidates: Candidates,
    /// How every body is translated, instead of as its budget says.
    forced_mode: Option<Mode>,
}

impl<'m> Compiler<'m> {
    /// A compiler for the module of `env`.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unsupported`] if its settings ask for what there is not.
    pub(crate) fn new(env: &'m ModuleEnv<'m>) -> Result<Self, CompileError> {
        Ok(Self {
            env,
            isas: isa::isas(env.settings)?,
            context: Context::new(),
            builder: FunctionBuilderContext::new(),
            allocator: regalloc2::Ctx::default(),
            candidates: Candidates::default(),
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

    /// Translates a body, optimized if its budget allows it, and says how.
    fn translate(&mut self, index: DefinedFuncIndex) -> Result<(Translated, Mode), CompileError> {
        let body_bytes = self.env.translation.bodies[index].len() as u64;
        let first = match (self.forced_mode, self.env.settings.opt_level) {
            (Some(mode), _) => mode,
            (None, OptLevel::None) => Mode::Plain,
            (None, _) => Budget::first_mode(body_bytes),
        };
        match self.translate_in(index, first) {
            Ok(translated) if first == Mode::Plain || self.is_worth_optimizing()? => return Ok((translated, first)),
            Ok(_) => {}
            Err(Stopped::Error(error)) => return Err(error),
            Err(Stopped::Budget) => {}
        }
        match self.translate_in(index, Mode::Plain) {
            Ok(translated) => Ok((translated, Mode::Plain)),
            Err(Stopped::Error(error)) => Err(error),
            Err(Stopped::Budget) => Err(CompileError::Internal { message: String::from("a plain translation asked for a plainer one") }),
        }
    }

    /// Whether the passes and the allocator can take the function in the context in reasonable time.
    fn is_worth_optimizing(&mut self) -> Result<bool, CompileError> {
        self.context.flowgraph();
        if budget::is_too_deep(&self.context.domtree, &self.context.func) {
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

    fn translate_in(&mut self, index: DefinedFuncIndex, mode: Mode) -> Result<Translated, Stopped> {
        self.context.clear();
        let input = FunctionInput { env: self.env, isa: &*self.isas.optimized, index, mode };
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
    fn finish(&mut self, index: DefinedFuncIndex, translated: &Translated, mode: Mode) -> Result<CompiledFunc, CompileError> {
        let isa = self.isa(mode);
        self.context.verify_if(&*isa).map_err(|error| self.failed(&error))?;
        // Fuel is counted at calls, so that they must stay.
        if self.env.settings.inlining && !self.env.settings.fuel && mode == Mode::Optimized && translated.calls {
            inlining::inline(&mut self.context, self.env, &*isa, index, &mut self.candidates).map_err(|error| self.failed(&error))?;
        }
        let mut control = ControlPlane::default();
        self.context.optimize(&*isa, &mut control).map_err(|error| self.failed(&error))?;
        if self.env.settings.interrupt {
            insert_interruption_points(&mut self.context.func, translated);
            self.context.verify_if(&*isa).map_err(|error| self.failed(&error))?;
        }
        let compiled = isa
            .compile_function(&self.context.func, &self.context.domtree, &mut self.allocator, false, &mut control)
            .map_err(|error| self.failed(&error))?
            .apply_params(&self.context.func.params);
        emit::emit(&compiled, &self.context.func.params)
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
    fn function(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        let (translated, mode) = self.translate(index)?;
        self.finish(index, &translated, mode)
    }

    fn stub(&mut self, kind: StubKind, ty: TypeIndex) -> Result<CompiledFunc, CompileError> {
        let ty = &self.env.translation.module.types[ty];
        self.context.clear();
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
        emit::emit(&compiled, &self.context.func.params)
    }
}

/// Looks for a pending interruption at the entry of a function that calls others and at the header of every loop: a load of a page
/// that faults if there is one. Done after the passes, which would merge these loads or move others around them.
fn insert_interruption_points(func: &mut Function, translated: &Translated) {
    let Some(entry) = func.layout.entry_block() else { return };
    let vmctx = func.dfg.block_params(entry)[0];
    let entry = translated.calls.then_some(entry);
    for &block in entry.iter().chain(&translated.loop_headers) {
        if !func.layout.is_block_inserted(block) {
            continue;
        }
        let mut cursor = FuncCursor::new(func).at_first_insertion_point(block);
        if let Some(inst) = cursor.current_inst() {
            cursor.use_srcloc(inst);
        }
        let page =
            cursor.ins().load(I64, MemFlagsData::trusted().with_readonly(), vmctx, offset_of!(VmContextHeader, interrupt_page) as i32);
        let interrupt = MemFlagsData::new().with_trap_code(Some(trap_code(Trap::Interrupt)));
        cursor.ins().load(I8, interrupt, page, 0);
    }
}
