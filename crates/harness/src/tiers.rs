//! The oracle of the fuzzer: a module does the same in every tier, however it comes to run there, and in wasmi.
//!
//! ```text
//! Case -module-> wasm -script-> calls with arguments -each engine-> results, traps, backtraces, fuel, what the host saw
//!                                                               -> and then memories, globals and tables
//! ```
//!
//! Our own engines must agree in all of it; wasmi knows neither our fuel nor our backtraces.

use crate::cases::{Case, Kind, Variant};
use crate::differential::{Bits, Stop, bits_of_reference, bits_of_subject, random_bits, stop_of_reference, stop_of_subject, value_of};
use crate::modules::Random;
use peregrine::{
    Cache, Caller, Config, DefinedFuncIndex, Engine, ExternRef, ExternType, FunctionProfile, Linker, Module, OptLevel, Profile, Rooted,
    SiteProfile, Store, Strategy, TieringStress, Val, WasmBacktrace,
};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Functions called of a module of wasm-smith, each in an instance of its own.
const MAX_FUNCTIONS: usize = 6;
/// Calls of each function in one instance.
const CALLS: usize = 3;
/// Fuel that lasts.
const ENOUGH: u64 = 1 << 40;

/// Fuel for making an instance: where modules end by themselves, it lasts.
const START_FUEL: u64 = 1_000_000;

/// How an engine comes to its code.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Of a strategy, with what depends on time forced.
    Tier(Strategy, TieringStress),
    /// By the baseline, with code that counts what it does.
    Counting,
    /// Ahead, by what was counted.
    Guided,
    /// Ahead, by a profile in which all calls go elsewhere.
    Misled,
    /// By tiers, and what was compiled is kept in a cache.
    Keeping,
    /// By tiers, beginning with what was kept.
    Kept,
    /// By tiers that change at random, on two threads at once.
    Threads,
}

/// The first one is what the others are compared with.
const WAYS: [Way; 17] = [
    Way::Tier(Strategy::Ahead, TieringStress::None),
    Way::Tier(Strategy::Baseline, TieringStress::None),
    Way::Tier(Strategy::Baseline, TieringStress::Plain),
    Way::Tier(Strategy::Tiered, TieringStress::None),
    Way::Tier(Strategy::Tiered, TieringStress::Plain),
    Way::Tier(Strategy::Tiered, TieringStress::OptimizeAtOnce),
    Way::Tier(Strategy::Tiered, TieringStress::LoopEntryEverywhere),
    Way::Tier(Strategy::Tiered, TieringStress::OneInstructionBudget),
    Way::Tier(Strategy::Tiered, TieringStress::Random(1)),
    Way::Tier(Strategy::Tiered, TieringStress::Random(2)),
    Way::Tier(Strategy::Tiered, TieringStress::Random(3)),
    Way::Counting,
    Way::Guided,
    Way::Misled,
    Way::Keeping,
    Way::Kept,
    Way::Threads,
];

/// Every count of a profile is multiplied by 2 so many times: the script calls a function a few times, and what is called often is compiled
/// otherwise.
const DOUBLINGS: u32 = 10;

impl Way {
    /// The profile to compile with, made of what was counted.
    fn profile(self, noted: &Profile) -> Option<Profile> {
        let mut profile = noted.clone();
        match self {
            Self::Tier(..) | Self::Counting | Self::Keeping | Self::Kept | Self::Threads => return None,
            Self::Guided => {}
            Self::Misled => {
                let last = noted.functions().map(|(index, _)| index.as_u32()).max().unwrap_or(0);
                for (index, known) in noted.functions() {
                    let elsewhere = |(target, calls): &(DefinedFuncIndex, u64)| {
                        let next = if target.as_u32() < last { target.as_u32() + 1 } else { 0 };
                        (DefinedFuncIndex::from_u32(next), *calls)
                    };
                    let sites = known.sites.iter();
                    let sites =
                        sites.map(|(offset, site)| (*offset, SiteProfile::new(site.targets().iter().map(elsewhere), site.others())));
                    profile.insert(index, FunctionProfile { sites: sites.collect(), ..*known });
                }
            }
        }
        for _ in 0..DOUBLINGS {
            let same = profile.clone();
            profile.merge(&same).expect("it is of the same module");
        }
        Some(profile)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tier(strategy, stress) => write!(f, "{strategy:?} {stress:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

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

struct Call {
    name: String,
    params: Vec<Bits>,
    fuel: u64,
}

/// Calls, those of one instance together.
type Script = Vec<Vec<Call>>;

/// What one instance did.
#[derive(Debug, Default)]
struct Run {
    steps: Vec<Step>,
    /// Nothing if it ran out of what engines have differently much of.
    end: Option<End>,
}

#[derive(Debug, PartialEq)]
struct Step {
    outcome: Result<Vec<Bits>, Stopped>,
    /// What is left; known of our own engines.
    fuel: Option<u64>,
    host: Host,
}

#[derive(Debug, PartialEq)]
struct Stopped {
    /// The trap as engines agree on it; nothing for those that only ours have.
    stop: Option<Stop>,
    /// The trap, and where it was: of our own engines.
    text: String,
}

/// What the host saw of a guest, as sums.
#[derive(Clone, Debug, Default, PartialEq)]
struct Host {
    calls: u64,
    values: u64,
    /// Of our own engines.
    backtraces: u64,
}

impl Host {
    fn log(&mut self, value: i64) -> i64 {
        self.calls += 1;
        self.values = mix(self.values, value.cast_unsigned());
        (self.values >> 7).cast_signed()
    }
}

fn mix(sum: u64, value: u64) -> u64 {
    (sum.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95)
}

#[derive(Debug, Default, PartialEq)]
struct End {
    globals: Vec<(String, Bits)>,
    memories: Vec<(String, Vec<u8>)>,
    /// Sizes, and which of the first elements are null.
    tables: Vec<(String, u64, Vec<bool>)>,
}

/// Elements of tables that are looked at.
const TABLE_ELEMENTS: u64 = 256;

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
                    Way::Keeping => vec![run()?, run()?],
                    _ => vec![run()?],
                };
                tally.loop_entries += module.tiering_metrics().loop_entries_taken;
                match way {
                    Way::Counting => noted = Some(module.profile().ok_or("nothing was counted")?),
                    Way::Keeping => module.keep_compiled(),
                    Way::Kept => tally.kept += u64::from(module.tiering_metrics().precompiled_functions > 0),
                    _ => {}
                }
                tally.guided += u64::from(profile.is_some_and(|profile| profile.functions().any(|(_, known)| !known.sites.is_empty())));
                Ok(runs)
            }));
            let found = attempt.unwrap_or_else(|_| Err("it panicked".into())).map_err(|problem| format!("{name}: {problem}"))?;
            if let (Way::Kept, Some(cache)) = (way, cache) {
                cache.clear().map_err(|error| format!("the cache cannot be cleared: {error:#}"))?;
            }
            for found in found {
                if place == 0 {
                    expected = found;
                } else {
                    judge(&script, &expected, &found, false, &mut tally).map_err(|difference| format!("{name}: {difference}"))?;
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
                    judge(&script, &expected, &found?, true, &mut tally).map_err(|difference| format!("wasmi: {difference}"))?;
                    tally.with_reference += 1;
                }
            }
        }
        Ok(tally)
    }
}

fn engine(variant: Variant, way: Way, cache: Option<&Cache>) -> Engine {
    let mut config = Config::new();
    match way {
        Way::Tier(strategy, stress) => _ = config.strategy(strategy).tiering_stress(stress),
        Way::Counting => _ = config.gather_profile(true),
        Way::Guided | Way::Misled => _ = config.strategy(Strategy::Ahead),
        Way::Keeping | Way::Kept => _ = config.strategy(Strategy::Tiered).cache(cache.cloned()),
        Way::Threads => _ = config.strategy(Strategy::Tiered).tiering_stress(TieringStress::Random(4)),
    }
    config.wasm_custom_page_sizes(true).wasm_wide_arithmetic(true).unfinished_function_references(true);
    match variant {
        Variant::Plain => {}
        Variant::Fuel => _ = config.consume_fuel(true),
        Variant::Checked => _ = config.epoch_interruption(true).memory_reservation(0).memory_guard_size(0).compiler_inlining(false),
        Variant::Unoptimized => _ = config.cranelift_opt_level(OptLevel::None),
        Variant::CanonicalNans => _ = config.cranelift_nan_canonicalization(true),
        Variant::OldProcessor => {
            let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
            config.target(&triple).expect("it is a triple");
        }
        Variant::KeptLocals => _ = config.coredump_on_trap(true),
        Variant::Deterministic => _ = config.relaxed_simd_deterministic(true),
        Variant::FixedMemories => _ = config.memory_may_move(false),
    }
    Engine::new(&config).expect("the settings are fine")
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

/// Compares the runs of the first engine with those of another.
fn judge(script: &Script, expected: &[Run], found: &[Run], is_reference: bool, tally: &mut Tally) -> Result<(), String> {
    for ((calls, expected), found) in script.iter().zip(expected).zip(found) {
        for (number, (expected, found)) in expected.steps.iter().zip(&found.steps).enumerate() {
            let place = || match number.checked_sub(1) {
                None => String::from("making the instance"),
                Some(call) => format!("call {number} of an instance, `{}` with {:x?}", calls[call].name, calls[call].params),
            };
            if is_exhausted(expected) || is_exhausted(found) {
                tally.skip("the stack or a resource was used up");
                break;
            }
            if is_reference && is_stopped_by_fuel(expected) {
                tally.skip("out of fuel, which wasmi was not given");
                break;
            }
            let same = match is_reference {
                false => expected == found,
                true => {
                    let (expected_host, found_host) = (&expected.host, &found.host);
                    let stop = |step: &Step| step.outcome.as_ref().err().and_then(|stopped| stopped.stop);
                    stop(expected) == stop(found)
                        && expected.outcome.as_ref().ok() == found.outcome.as_ref().ok()
                        && (expected_host.calls, expected_host.values) == (found_host.calls, found_host.values)
                }
            };
            if !same {
                return Err(format!("{}:\n  expected {expected:x?}\n  found    {found:x?}", place()));
            }
            tally.calls += u64::from(number > 0);
            tally.traps += u64::from(number > 0 && found.outcome.is_err());
        }
        let all = |run: &Run| run.steps.iter().all(|step| !(is_exhausted(step) || is_reference && is_stopped_by_fuel(step)));
        if let (Some(expected), Some(found), true) = (&expected.end, &found.end, all(expected) && all(found)) {
            judge_end(expected, found).map_err(|difference| format!("after the calls of an instance, {difference}"))?;
        }
    }
    Ok(())
}

fn is_exhausted(step: &Step) -> bool {
    step.outcome.as_ref().is_err_and(|stopped| stopped.stop == Some(Stop::Resources))
}

fn is_stopped_by_fuel(step: &Step) -> bool {
    step.outcome.as_ref().is_err_and(|stopped| stopped.stop.is_none())
}

fn judge_end(expected: &End, found: &End) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    for ((name, expected), (_, found)) in expected.globals.iter().zip(&found.globals) {
        if expected != found {
            return Err(format!("the global `{name}`: expected {expected:x?}, found {found:x?}"));
        }
    }
    for ((name, expected), (_, found)) in expected.memories.iter().zip(&found.memories) {
        if let Some(at) = expected.iter().zip(found).position(|(expected, found)| expected != found) {
            return Err(format!("the memory `{name}` at {at:#x}: expected {:#04x}, found {:#04x}", expected[at], found[at]));
        }
        if expected.len() != found.len() {
            return Err(format!("the memory `{name}`: expected {} bytes, found {}", expected.len(), found.len()));
        }
    }
    Err(format!("the tables: expected {:?}, found {:?}", expected.tables, found.tables))
}

fn run_subject(engine: &Engine, module: &Module, calls: &[Call]) -> Result<Run, String> {
    let mut store = Store::new(engine, Host::default());
    store.set_epoch_deadline(1 << 40);
    // Start functions need not end either.
    let counts = store.set_fuel(START_FUEL).is_ok();
    let mut linker = Linker::new(engine);
    let log = |mut caller: Caller<'_, Host>, value: i64| {
        if caller.data().calls.is_multiple_of(8) {
            let frames = text_of(&WasmBacktrace::force_capture(&caller));
            let host = caller.data_mut();
            host.backtraces = frames.bytes().fold(host.backtraces, |sum, byte| mix(sum, u64::from(byte)));
        }
        caller.data_mut().log(value)
    };
    linker.func_wrap("host", "log", log).map_err(|error| format!("{error:#}"))?;
    let object = |mut caller: Caller<'_, Host>, number: u32| ExternRef::new(&mut caller, number).map(Some);
    linker.func_wrap("host", "object", object).map_err(|error| format!("{error:#}"))?;
    let number = |mut caller: Caller<'_, Host>, object: Option<Rooted<ExternRef>>| -> peregrine::Result<i64> {
        let number = match object {
            Some(object) => object.data(&caller)?.and_then(|data| data.downcast_ref::<u32>()).map_or(-2, |number| i64::from(*number)),
            None => -1,
        };
        Ok(caller.data_mut().log(number))
    };
    linker.func_wrap("host", "number", number).map_err(|error| format!("{error:#}"))?;
    let mut run = Run::default();
    let instance = match linker.instantiate(&mut store, module) {
        Ok(instance) => instance,
        Err(error) => {
            run.steps.push(Step { outcome: Err(stopped(&error)?), fuel: None, host: Host::default() });
            return Ok(run);
        }
    };
    let fuel_left = |store: &Store<Host>| if counts { store.get_fuel().ok() } else { None };
    run.steps.push(Step { outcome: Ok(Vec::new()), fuel: fuel_left(&store), host: store.data().clone() });
    for call in calls {
        let func = instance.get_func(&mut store, &call.name).ok_or("an export has gone")?;
        let ty = func.ty(&store);
        let params: Vec<Val> = call.params.iter().zip(ty.params()).map(|(bits, ty)| value_of(*bits, &ty)).collect();
        let mut results = vec![Val::I32(0); ty.results().len()];
        if counts {
            store.set_fuel(call.fuel).map_err(|error| format!("{error:#}"))?;
        }
        let outcome = match func.call(&mut store, &params, &mut results) {
            Ok(()) => Ok(results.iter().map(bits_of_subject).collect()),
            Err(error) => Err(stopped(&error)?),
        };
        run.steps.push(Step { outcome, fuel: fuel_left(&store), host: store.data().clone() });
        if run.steps.last().is_some_and(is_exhausted) {
            return Ok(run);
        }
    }
    let mut end = End::default();
    for export in module.exports() {
        let name = export.name().to_owned();
        match export.ty() {
            ExternType::Global(_) => {
                let global = instance.get_global(&mut store, &name).ok_or("a global has gone")?;
                end.globals.push((name, bits_of_subject(&global.get(&mut store))));
            }
            ExternType::Memory(ty) if !ty.is_shared() => {
                let memory = instance.get_memory(&mut store, &name).ok_or("a memory has gone")?;
                end.memories.push((name, memory.data(&store).to_vec()));
            }
            ExternType::Table(_) => {
                let table = instance.get_table(&mut store, &name).ok_or("a table has gone")?;
                let size = table.size(&store);
                let is_null = |element| matches!(element, Some(peregrine::Ref::Func(None) | peregrine::Ref::Extern(None)));
                let nulls = (0..size.min(TABLE_ELEMENTS)).map(|index| is_null(table.get(&mut store, index))).collect();
                end.tables.push((name, size, nulls));
            }
            _ => {}
        }
    }
    end.sort();
    run.end = Some(end);
    Ok(run)
}

impl End {
    /// Engines list exports in different orders; here they go by name.
    fn sort(&mut self) {
        self.globals.sort_by(|a, b| a.0.cmp(&b.0));
        self.memories.sort_by(|a, b| a.0.cmp(&b.0));
        self.tables.sort_by(|a, b| a.0.cmp(&b.0));
    }
}

/// Where calls are, without what is looked up elsewhere.
fn text_of(backtrace: &WasmBacktrace) -> String {
    backtrace.frames().iter().map(|frame| format!(" {}@{:?}", frame.func_index(), frame.module_offset())).collect()
}

fn stopped(error: &peregrine::Error) -> Result<Stopped, String> {
    let Some(trap) = error.downcast_ref::<peregrine::Trap>() else { return Err(format!("an error that is no trap: {error:#}")) };
    // Segments that do not fit are traps that no guest is to blame for.
    let frames = error.downcast_ref::<WasmBacktrace>().map_or_else(|| " outside of guests".into(), text_of);
    Ok(Stopped { stop: stop_of_subject(error).ok(), text: format!("{trap:?}{frames}") })
}

fn run_reference(engine: &wasmi::Engine, module: &wasmi::Module, calls: &[Call]) -> Result<Run, String> {
    use wasmi::{ExternType, Val, ValType};
    let mut store = wasmi::Store::new(engine, Host::default());
    let mut linker = wasmi::Linker::new(engine);
    let log = |mut caller: wasmi::Caller<'_, Host>, value: i64| caller.data_mut().log(value);
    linker.func_wrap("host", "log", log).map_err(|error| format!("{error:#}"))?;
    let mut run = Run::default();
    let stopped =
        |error: &wasmi::Error| -> Result<Stopped, String> { Ok(Stopped { stop: Some(stop_of_reference(error)?), text: String::new() }) };
    let instance = match linker.instantiate_and_start(&mut store, module) {
        Ok(instance) => instance,
        Err(error) => {
            run.steps.push(Step { outcome: Err(stopped(&error)?), fuel: None, host: Host::default() });
            return Ok(run);
        }
    };
    run.steps.push(Step { outcome: Ok(Vec::new()), fuel: None, host: store.data().clone() });
    for call in calls {
        let func = instance.get_func(&store, &call.name).ok_or("the reference has no such export")?;
        let ty = func.ty(&store);
        let value = |bits: &Bits, ty: &ValType| match (*bits, ty) {
            (Bits::I32(bits), _) => Val::I32(bits.cast_signed()),
            (Bits::I64(bits), _) => Val::I64(bits.cast_signed()),
            (Bits::F32(bits), _) => Val::F32(wasmi::F32::from_bits(bits)),
            (Bits::F64(bits), _) => Val::F64(wasmi::F64::from_bits(bits)),
            (Bits::V128(bits), _) => Val::V128(bits.into()),
            (Bits::Reference { .. }, ValType::ExternRef) => Val::ExternRef(wasmi::Ref::Null),
            (Bits::Reference { .. }, _) => Val::FuncRef(wasmi::Ref::Null),
        };
        let params: Vec<Val> = call.params.iter().zip(ty.params()).map(|(bits, ty)| value(bits, ty)).collect();
        let mut results = vec![Val::I32(0); ty.results().len()];
        let outcome = match func.call(&mut store, &params, &mut results) {
            Ok(()) => Ok(results.iter().map(bits_of_reference).collect()),
            Err(error) => Err(stopped(&error)?),
        };
        run.steps.push(Step { outcome, fuel: None, host: store.data().clone() });
        if run.steps.last().is_some_and(is_exhausted) {
            return Ok(run);
        }
    }
    let mut end = End::default();
    for export in module.exports() {
        let name = export.name().to_owned();
        match export.ty() {
            ExternType::Global(_) => {
                let global = instance.get_global(&store, &name).ok_or("the reference has no such global")?;
                end.globals.push((name, bits_of_reference(&global.get(&store))));
            }
            ExternType::Memory(_) => {
                let memory = instance.get_memory(&store, &name).ok_or("the reference has no such memory")?;
                end.memories.push((name, memory.data(&store).to_vec()));
            }
            ExternType::Table(_) => {
                let table = instance.get_table(&store, &name).ok_or("the reference has no such table")?;
                let size = table.size(&store);
                let is_null = |element: Option<Val>| match element {
                    Some(Val::FuncRef(reference)) => reference.is_null(),
                    Some(Val::ExternRef(reference)) => reference.is_null(),
                    _ => false,
                };
                let nulls = (0..size.min(TABLE_ELEMENTS)).map(|index| is_null(table.get(&store, index))).collect();
                end.tables.push((name, size, nulls));
            }
            _ => {}
        }
    }
    end.sort();
    run.end = Some(end);
    Ok(run)
}
