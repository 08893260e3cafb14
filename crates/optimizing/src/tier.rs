//! The tier as the driver sees it.

use crate::function::Compiler;
use crate::isa;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::settings::Target;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv, Tier};

/// The tier that makes the fastest code, by Cranelift.
///
/// With [`peregrine_artifact::settings::OptLevel::None`], and for functions that are too large for passes whose time is not linear,
/// locals stay in the frame and no pass runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Optimizing;

impl Tier for Optimizing {
    fn name(&self) -> &'static str {
        "optimizing"
    }

    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        isa::target(triple)
    }

    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        Ok(Box::new(Compiler::new(env)?))
    }
}
