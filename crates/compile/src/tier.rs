//! The trait that every tier implements: from the body of one function to machine code.
//!
//! The driver makes one [`Tier`] for a process, one [`FunctionCompiler`] for each thread and module, and links what they give.

use crate::memory_gate::MemoryGate;
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::{CompileError, Guidance, LoopEntry};
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::settings::{Settings, Target};
use peregrine_artifact::vmctx::VmLayout;
use peregrine_frontend::Translation;
use peregrine_wasm::{DefinedFuncIndex, TypeIndex};

/// Everything about a module that the code of one of its functions depends on.
pub struct ModuleEnv<'a> {
    /// The module and its bodies.
    pub translation: &'a Translation<'a>,
    /// What the code is made for.
    pub settings: &'a Settings,
    /// Where things are in an instance's context.
    pub layout: VmLayout,
    /// How much memory compiling it may take.
    pub memory: MemoryGate,
}

impl<'a> ModuleEnv<'a> {
    /// The environment of the functions of `translation`.
    pub fn new(translation: &'a Translation<'a>, settings: &'a Settings) -> Self {
        let memory = MemoryGate::new(translation.wasm_len_bytes());
        Self { translation, settings, layout: VmLayout::new(&translation.module), memory }
    }
}

/// One way to make machine code.
pub trait Tier: Send + Sync + 'static {
    /// The name that users see.
    fn name(&self) -> &'static str;

    /// What code may be made for: `None` means this machine with all its features, a triple its baseline features.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unsupported`] if the tier has no code for the target.
    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError>;

    /// A compiler of functions of one module, for one thread.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unsupported`] if the settings ask for what the tier does not have.
    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError>;
}

/// Compiles functions of one module on one thread, reusing its memory from one to the next. The result depends on nothing but the arguments.
pub trait FunctionCompiler: Send {
    /// Guides what is compiled from now on. What the code means does not depend on it.
    fn guide(&mut self, guidance: &Guidance) {
        let _ = guidance;
    }

    /// Compiles the body of a function. The body is valid: the driver has validated it.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if the function is too large even for the slowest code, [`CompileError::Internal`] on a fault of the tier.
    fn function(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError>;

    /// Compiles the body of a function from the head of a loop on, for a caller that is in that loop: see "loop entry" in
    /// [`peregrine_artifact::abi`].
    ///
    /// # Errors
    ///
    /// As for functions, and [`CompileError::Unsupported`] if the tier has no entry at that loop.
    fn loop_entry(&mut self, index: DefinedFuncIndex, entry: LoopEntry) -> Result<CompiledFunc, CompileError> {
        let message = format!("function {} cannot be entered at the loop at offset {:#x}", index.as_u32(), entry.offset);
        Err(CompileError::Unsupported { message })
    }

    /// Compiles the stub of a kind for a function type, see [`peregrine_artifact::abi`].
    ///
    /// # Errors
    ///
    /// As for functions.
    fn stub(&mut self, kind: StubKind, ty: TypeIndex) -> Result<CompiledFunc, CompileError>;
}
