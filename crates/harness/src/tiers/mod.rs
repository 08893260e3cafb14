//! The oracle of the fuzzer: a module does the same in every tier, however it comes to run there, and in wasmi.
//!
//! ```text
//! Case -module-> wasm -script-> calls with arguments -each engine-> results, traps, backtraces, fuel, what the host saw
//!                                                               -> and then memories, globals and tables
//! ```
//!
//! Our own engines must agree in all of it, and in the locals of core dumps where they make them; wasmi knows neither our fuel nor our backtraces.

mod reference;
mod run;
mod subject;
mod ways;

use crate::cases::{Case, Kind, Variant};
use crate::differential::random_bits;
use crate::modules::Random;
use peregrine::{Cache, Engine, Module, TieringStress};
use reference::run_reference;
use run::{Call, Run, Script, judge, mix};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use subject::run_subject;
use ways::{WAYS, Way, engine};

/// Functions called of a module of wasm-smith, each in an instance of its own.
const MAX_FUNCTIONS: usize = 6;
/// Calls of each function in one instance.
const CALLS: usize = 3;
/// Fuel that lasts.
const ENOUGH: u64 = 1 << 40;

/// Fuel for making an instance: where modules end by themselves, it lasts.
const START_FUEL: u64 = 1_000_000;

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Modules that ran in every engine of ours.
    pub modules: u64,
    /// Of these, how many ran in wasmi as well.
    pub with_reference: u64,
    /// Calls compared, counted once for each engine but the first.
    pub calls: u64,
    /// Of these, how many trapped.
    pub traps: u64,
    /// Loops that optimized code was entered at.
    pub loop_entries: u64,
    /// Modules that were compiled by a profile with indirect calls, counted once for each profile.
    pub guided: u64,
    /// Modules that began with code that was kept.
    pub kept: u64,
    /// Of these, how many began with optimized code.
    pub kept_optimized: u64,
    /// Locals in core dumps that were compared.
    pub locals: u64,
    /// What was not compared, by the reason.
    pub skipped: BTreeMap<String, u64>,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.modules += other.modules;
        self.with_reference += other.with_reference;
        self.calls += other.calls;
        self.traps += other.traps;
        self.loop_entries += other.loop_entries;
        self.guided += other.guided;
        self.kept += other.kept;
        self.kept_optimized += other.kept_optimized;
        self.locals += other.locals;
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
    }
}

impl Tally {
    fn skip(&mut self, reason: &str) {
        *self.skipped.entry(reason.to_owned()).or_default() += 1;
    }
}

/// Engines in every tier, made when they are first needed.
pub struct Tiers {
    /// By the place in [`WAYS`].
    engines: HashMap<(Variant, usize), Engine>,
    /// Made when it is first needed.
    cache: Option<TemporaryCache>,
    reference: wasmi::Engine,
}

/// A cache that goes with its files.
struct TemporaryCache(Cache);

impl TemporaryCache {
    fn new() -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("peregrine-tiers-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Cache::new(std::env::temp_dir().join(name)).map(Self).map_err(|error| format!("no cache: {error:#}"))
    }
}

impl std::ops::Drop for TemporaryCache {
    fn drop(&mut self) {
        // Nobody needs them; what is left is small.
        let _ = std::fs::remove_dir_all(self.0.path());
    }
}

impl Default for Tiers {
    fn default() -> Self {
        let mut reference = wasmi::Config::default();
        reference.wasm_wide_arithmetic(true).wasm_simd(true).wasm_multi_memory(true).wasm_tail_call(true).wasm_memory64(true);
        // So that what it fails to translate is known before it runs: its panics cannot be caught then.
        reference.compilation_mode(wasmi::CompilationMode::Eager);
        Self { engines: HashMap::new(), cache: None, reference: wasmi::Engine::new(&reference) }
    }
}

impl Tiers {
    /// Runs a case in every engine. `watch` is told what runs next: `reference`, or the name of a tier.
    ///
    /// # Errors
    ///
    /// What differs, what panicked, or what was refused.
    pub fn check(&mut self, case: &Case, watch: &mut dyn FnMut(&str)) -> Result<Tally, String> {
        watch("generator");
        let mut tally = Tally::default();
        let Some(wasm) = case.module() else {
            tally.skip("no module of these bytes");
            return Ok(tally);
        };
        self.check_wasm(case, &wasm, watch)
    }

    /// As [`check`](Self::check), for a module that was made of the case before.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_wasm(&mut self, case: &Case, wasm: &[u8], watch: &mut dyn FnMut(&str)) -> Result<Tally, String> {
        let mut tally = Tally { modules: 1, ..Tally::default() };
        let mut script = Script::new();
        let mut expected = Vec::new();
        // What the ways that go by a profile know.
        let mut noted = None;
        for (place, way) in WAYS.into_iter().enumerate() {
            let name = way.to_string();
            watch(&name);
            if self.cache.is_none() {
                self.cache = Some(TemporaryCache::new()?);
            }
            let cache = self.cache.as_ref().map(|cache| &cache.0);
            let engine = self.engines.entry((case.variant, place)).or_insert_with(|| engine(case.variant, way, cache));
            let attempt = catch_unwind(AssertUnwindSafe(|| -> Result<Vec<Vec<Run>>, String> {
                let profile = noted.as_ref().and_then(|noted| way.profile(noted));
                let module = match &profile {
                    Some(profile) => Module::new_with_profile(engine, wasm, profile),
                    None => Module::new(engine, wasm),
                };
                let module = module.map_err(|error| format!("the module is refused: {error:#}"))?;
                if script.is_empty() {
                    script = make_script(case, &module);
                }
                let run = || script.iter().map(|calls| run_subject(engine, &module, calls)).collect::<Result<Vec<_>, _>>();
                let runs = match way {
                    Way::Threads => std::thread::scope(|scope| {
                        let other = scope.spawn(run);
                        Ok::<_, String>(vec![run()?, other.join().map_err(|_| "the other thread panicked")??])
                    })?,
                    // What is hot by now may be optimized.
                    Way::Keeping(TieringStress::None) => vec![run()?, run()?],
                    _ => vec![run()?],
                };
                tally.loop_entries += module.tiering_metrics().loop_entries_taken;
                match way {
                    Way::Counting => noted = Some(module.profile().ok_or("nothing was counted")?),
                    Way::Keeping(_) => module.keep_compiled(),
                    Way::Kept(_) => {
                        let metrics = module.tiering_metrics();
                        tally.kept += u64::from(metrics.precompiled_functions > 0);
                        tally.kept_optimized += u64::from(metrics.precompiled_optimized_functions > 0);
                    }
                    _ => {}
                }
                tally.guided += u64::from(profile.is_some_and(|profile| profile.functions().any(|(_, known)| !known.sites.is_empty())));
                Ok(runs)
            }));
            let found = attempt.unwrap_or_else(|_| Err("it panicked".into())).map_err(|problem| format!("{name}: {problem}"))?;
            if let (Way::Kept(_), Some(cache)) = (way, cache) {
                cache.clear().map_err(|error| format!("the cache cannot be cleared: {error:#}"))?;
            }
            for found in found {
                if place == 0 {
                    expected = found;
                } else {
                    judge(&script, &mut expected, &found, false, &mut tally).map_err(|difference| format!("{name}: {difference}"))?;
                }
            }
        }
        if case.has_reference() {
            watch("reference");
            // What the reference does not know, or fails to translate, cannot be compared.
            let attempt = catch_unwind(AssertUnwindSafe(|| -> Result<Result<Vec<Run>, String>, String> {
                let module = wasmi::Module::new(&self.reference, wasm).map_err(|error| error.to_string())?;
                Ok(script.iter().map(|calls| run_reference(&self.reference, &module, calls)).collect())
            }));
            match attempt {
                Err(_) => tally.skip("wasmi panicked"),
                Ok(Err(_)) => tally.skip("wasmi refused the module"),
                Ok(Ok(found)) => {
                    judge(&script, &mut expected, &found?, true, &mut tally).map_err(|difference| format!("wasmi: {difference}"))?;
                    tally.with_reference += 1;
                }
            }
        }
        Ok(tally)
    }
}

fn make_script(case: &Case, module: &Module) -> Script {
    let functions: Vec<_> =
        module.exports().filter_map(|export| Some((export.name().to_owned(), export.ty().func()?.clone()))).take(MAX_FUNCTIONS).collect();
    let sum = case.bytes.iter().fold(case.bytes.len() as u64, |sum, byte| mix(sum, u64::from(*byte)));
    let mut random = Random::new(sum);
    let mut call = |name: &str, ty: &peregrine::FuncType| {
        let fuel = match (case.variant, case.kind, random.below(3)) {
            (Variant::Fuel, _, 0) => random.below(2000) as u64,
            // Nothing else ends them.
            (Variant::Fuel, Kind::Wide, _) => 20_000,
            _ => ENOUGH,
        };
        Call { name: name.to_owned(), params: ty.params().map(|ty| random_bits(&mut random, &ty)).collect(), fuel }
    };
    let mut script: Script = functions
        .iter()
        .map(|(name, ty)| (0..CALLS).map(|_| call(name, ty)).collect())
        .filter(|calls: &Vec<Call>| !calls.is_empty())
        .collect();
    if matches!(case.kind, Kind::Loops | Kind::Rich) {
        // They change what they share.
        script = vec![script.into_iter().flatten().collect()];
    }
    script
}
