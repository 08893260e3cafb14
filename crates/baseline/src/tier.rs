//! The tier as the driver sees it.

use crate::compile::Compiler;
use crate::isa::machine::target;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::settings::Target;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv, Tier};

/// The tier that makes code at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Baseline;

impl Baseline {
    /// The tier.
    pub fn new() -> Self {
        Self
    }
}

/// The same, which compiles every function in the plain way: what is otherwise left to those that would become too much code. For tests of that.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainBaseline;

impl Tier for PlainBaseline {
    fn name(&self) -> &'static str {
        "plain baseline"
    }

    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        target::target(triple)
    }

    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        Ok(Box::new(Compiler { always_plain: true, ..Compiler::new(env)? }))
    }
}

impl Tier for Baseline {
    fn name(&self) -> &'static str {
        "baseline"
    }

    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        target::target(triple)
    }

    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        Ok(Box::new(Compiler::new(env)?))
    }
}
