//! The tier as the driver sees it.

use crate::function::Compiler;
use crate::isa;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::settings::Target;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv, Tier};
use std::sync::Arc;

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
        Ok(Box::new(Compiler::new(env, None)?))
    }
}

/// [`Optimizing`], but functions that would cost it too much are compiled by another tier, whose costs are linear in the body.
///
/// Both make code of the same conventions, so functions of both call each other. For targets that the other does not know, functions that
/// cost too much are made plainer here.
#[derive(Clone)]
pub struct OptimizingOr {
    linear: Arc<dyn Tier>,
}

impl OptimizingOr {
    /// With `linear` for what costs too much.
    pub fn new(linear: Arc<dyn Tier>) -> Self {
        Self { linear }
    }
}

impl Tier for OptimizingOr {
    fn name(&self) -> &'static str {
        Optimizing.name()
    }

    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        Optimizing.target(triple)
    }

    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        Ok(Box::new(Compiler::new(env, Some(self.linear.clone()))?))
    }
}
