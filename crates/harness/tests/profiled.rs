//! Random modules do the same when they are compiled with a profile of what they did before, and with one that is made up.

use peregrine::{Config, Engine, Func, FunctionProfile, Instance, Linker, Module, Profile, SiteProfile, Store, Strategy, Val, ValType};
use peregrine_harness::modules::{self, Random, seed_bytes};
use std::fmt::Write;

/// How many modules are compared.
const MODULES: usize = 150;
/// Bytes of a seed.
const SEED_LEN_BYTES: usize = 12 << 10;

/// Everything that calls of all exported functions can be seen to do.
fn observe(engine: &Engine, module: &Module) -> Option<Vec<String>> {
    let mut store = Store::new(engine, ());
    let mut linker = Linker::new(engine);
    linker.define_unknown_imports_as_default_values(&mut store, module).ok()?;
    let instance: Instance = match linker.instantiate(&mut store, module) {
        Ok(instance) => instance,
        Err(error) => return Some(vec![format!("{error:#}")]),
    };
    let functions: Vec<Func> = module.exports().filter_map(|export| instance.get_func(&mut store, export.name())).collect();
    let mut random = Random::new(7);
    let mut seen = Vec::new();
    for round in 0..3 {
        for func in &functions {
            let ty = func.ty(&store);
            let params: Vec<Val> = ty.params().map(|ty| value(&mut random, &ty)).collect();
            let mut results = vec![Val::I32(0); ty.results().len()];
            let outcome = func.call(&mut store, &params, &mut results);
            // Stack that is used up depends on how large frames are.
            let text = outcome.map(|()| results.iter().map(bits).collect::<Vec<_>>()).map_err(|error| format!("{error:#}"));
            if text.as_ref().is_err_and(|text| text.contains("stack exhausted")) {
                return None;
            }
            seen.push(format!("{round} {text:?}"));
        }
    }
    for export in module.exports() {
        if let Some(global) = instance.get_global(&mut store, export.name()) {
            let value = global.get(&mut store);
            seen.push(format!("{} {:?}", export.name(), bits(&value)));
        }
        if let Some(memory) = instance.get_memory(&mut store, export.name()) {
            let sum = memory.data(&store).iter().fold(memory.data_size(&store) as u64, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte));
            seen.push(format!("{} {sum}", export.name()));
        }
    }
    Some(seen)
}

fn value(random: &mut Random, ty: &ValType) -> Val {
    let number = random.next();
    match ty {
        // Small ones: the programs that call take the first for how deep.
        ValType::I32 => Val::I32((number % 6) as i32),
        ValType::I64 => Val::I64(number as i64 >> (number >> 58)),
        ValType::F32 => Val::F32((number as i8 as f32).to_bits()),
        ValType::F64 => Val::F64((number as i16 as f64).to_bits()),
        ValType::V128 => Val::V128(u128::from(number).into()),
        other => Val::default_for_ty(other).expect("references may be null"),
    }
}

/// A value, references only as null or not.
fn bits(value: &Val) -> String {
    match value {
        Val::I32(_) | Val::I64(_) | Val::F32(_) | Val::F64(_) | Val::V128(_) => format!("{value:?}"),
        reference => format!("null: {}", reference.ref_().is_none_or(|reference| reference.is_null())),
    }
}

/// A program that does little but call: through a table that it changes, by types that are not always right, directly, and in tail position.
fn calling_program(random: &mut Random) -> String {
    let functions = 4 + random.below(8);
    let elements = functions + 3;
    let mut text = String::from("(module (type $a (func (param i32 i32) (result i32))) (type $b (func (param i32 i32) (result i64)))\n");
    let is_b: Vec<bool> = (0..functions).map(|_| random.below(6) == 0).collect();
    let _ = writeln!(
        text,
        "(table {elements} funcref) (elem (i32.const 0) {})",
        (0..functions).map(|number| format!("$f{number} ")).collect::<String>()
    );
    for number in 0..functions {
        let ty = if is_b[number] { "b" } else { "a" };
        let result = |value: &str| if is_b[number] { format!("(i64.extend_i32_s {value})") } else { value.to_string() };
        let leaf = format!("(i32.xor (local.get 1) (i32.const {}))", random.below(1000));
        let (head, leaf) = (format!("(func $f{number} (export \"f{number}\") (type ${ty})"), result(&leaf));
        let _ = writeln!(text, "{head} (if (i32.lt_s (local.get 0) (i32.const 1)) (then (return {leaf})))");
        for _ in 0..1 + random.below(4) {
            let deeper = "(i32.sub (local.get 0) (i32.const 1))";
            // Nearly always the same, or anything, also beyond the end.
            let usual = random.below(functions);
            let index = match random.below(3) {
                0 => format!("(i32.const {usual})"),
                1 => format!(
                    "(select (i32.const {}) (i32.const {usual}) (i32.eqz (i32.and (local.get 1) (i32.const 15))))",
                    random.below(elements)
                ),
                _ => format!("(i32.rem_u (local.get 1) (i32.const {}))", functions + random.below(3)),
            };
            let statement = match random.below(8) {
                0 => format!("(local.set 1 (i32.mul (local.get 1) (i32.const {})))", random.below(100)),
                1 => {
                    let callee = random.below(functions);
                    let call = format!("(call $f{callee} {deeper} (local.get 1))");
                    if is_b[callee] { format!("(drop {call})") } else { format!("(local.set 1 {call})") }
                }
                2 => format!("(table.set (i32.const {}) (table.get {index}))", random.below(elements)),
                3 => format!("(drop (call_indirect (type $b) {deeper} (local.get 1) {index}))"),
                _ => format!("(local.set 1 (call_indirect (type $a) {deeper} (local.get 1) {index}))"),
            };
            let _ = writeln!(text, "  {statement}");
        }
        let last = match random.below(3) {
            0 => {
                let index = random.below(functions);
                format!("(return_call_indirect (type ${ty}) (i32.sub (local.get 0) (i32.const 1)) (local.get 1) (i32.const {index}))")
            }
            _ => result("(local.get 1)"),
        };
        let _ = writeln!(text, "  {last})");
    }
    text.push(')');
    text
}

/// A profile that is wrong wherever it can be.
fn made_up(wasm: &[u8], found: &Profile, random: &mut Random) -> Profile {
    let mut profile = Profile::new(wasm);
    let functions: Vec<_> = found.functions().map(|(index, _)| index).collect();
    for (index, function) in found.functions() {
        let any = |random: &mut Random| functions[random.below(functions.len())];
        let sites = function.sites.keys().map(|offset| {
            let targets = [(any(random), 1000), (any(random), random.below(900) as u64)];
            (*offset, SiteProfile::new(targets, random.below(500) as u64))
        });
        let sites = sites.collect();
        profile.insert(index, FunctionProfile { calls: [0, 64, 100_000][random.below(3)], work: random.next(), sites });
    }
    profile
}

/// Compares what a module does with what it does when it is compiled with profiles: how many comparisons, and how many indirect calls were
/// taken before.
fn compare(counting: &Engine, ahead: &Engine, wasm: &[u8], seed: u64) -> (usize, usize) {
    let module = Module::new(counting, wasm).expect("the generator makes valid modules");
    let Some(expected) = observe(counting, &module) else { return (0, 0) };
    let mut profile = module.profile().expect("it counts");
    let sites = profile.functions().flat_map(|(_, function)| function.sites.values()).filter(|site| site.total() > 0).count();
    for _ in 0..10 {
        profile.merge(&profile.clone()).expect("of the same module");
    }
    let wrong = made_up(wasm, &profile, &mut Random::new(seed));
    let mut compared = 0;
    for (name, profile) in [("of a run", profile), ("made up", wrong)] {
        let module = Module::new_with_profile(ahead, wasm, &profile).expect("it compiled without");
        if let Some(found) = observe(ahead, &module) {
            assert_eq!(found, expected, "seed {seed}, with a profile {name}");
            compared += 1;
        }
    }
    (compared, sites)
}

/// Compares modules until it is enough.
fn compare_all(first_seed: u64, mut make: impl FnMut(u64) -> Option<Vec<u8>>) -> (usize, usize) {
    let config = || {
        let mut config = Config::new();
        config.wasm_wide_arithmetic(true).strategy(Strategy::Ahead);
        config
    };
    let counting = Engine::new(config().gather_profile(true)).expect("an engine");
    let ahead = Engine::new(&config()).expect("an engine");
    let (mut compared, mut sites) = (0, 0);
    for seed in first_seed..first_seed + 100_000 {
        if let Some(wasm) = make(seed) {
            let (more, more_sites) = compare(&counting, &ahead, &wasm, seed);
            (compared, sites) = (compared + more, sites + more_sites);
        }
        if compared >= 2 * MODULES {
            break;
        }
    }
    println!("{compared} comparisons, {sites} indirect calls were taken");
    assert!(compared >= 2 * MODULES);
    (compared, sites)
}

#[test]
fn a_profile_changes_nothing_that_any_module_does() {
    compare_all(9_000_000, |seed| modules::terminating(&seed_bytes(seed, SEED_LEN_BYTES)));
}

#[test]
fn a_profile_changes_nothing_that_calls_do() {
    let (_, sites) = compare_all(1, |seed| {
        let text = calling_program(&mut Random::new(seed));
        Some(wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}")))
    });
    assert!(sites > MODULES);
}
