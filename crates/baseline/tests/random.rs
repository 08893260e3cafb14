//! Random modules do the same in both tiers: results, traps, globals and memories.

mod two_tiers;

use peregrine::{Engine, Extern, Instance, Module, Ref, Store, Trap, Val, ValType};
use peregrine_harness::modules::{Random, seed_bytes, terminating};
use two_tiers::{Which, load};

/// Bytes of a seed: enough for a module of some functions.
const SEED_LEN_BYTES: usize = 6000;
/// How many modules are tried; `PEREGRINE_DIFFERENTIAL_MODULES` says otherwise.
const MODULES: u64 = 200;
/// Calls of one function.
const CALLS: u64 = 3;

fn argument(random: &mut Random, ty: &ValType) -> Val {
    let bits = match random.next() % 4 {
        0 => random.next() % 8,
        1 => u64::MAX - random.next() % 8,
        _ => random.next(),
    };
    match ty {
        ValType::I32 => Val::I32(bits as i32),
        ValType::I64 => Val::I64(bits as i64),
        ValType::F32 => Val::F32(bits as u32),
        ValType::F64 => Val::F64(bits),
        ValType::V128 => Val::V128((u128::from(bits) << 64 | u128::from(random.next())).into()),
        ValType::Ref(ty) if *ty.heap_type() == peregrine::HeapType::Extern => Val::ExternRef(None),
        ValType::Ref(_) => Val::FuncRef(None),
    }
}

fn text(value: &Val) -> String {
    match value {
        Val::FuncRef(reference) => format!("function {}", reference.is_some()),
        Val::ExternRef(reference) => format!("extern {}", reference.is_some()),
        value => format!("{value:?}"),
    }
}

/// Everything that can be seen after one call of one function.
fn observe(engine: &Engine, module: &Module, name: &str, seed: u64) -> Option<String> {
    let mut store = Store::new(engine, ());
    let instance = match Instance::new(&mut store, module, &[]) {
        Ok(instance) => instance,
        Err(error) => {
            return error.downcast_ref::<Trap>().filter(|trap| **trap != Trap::StackOverflow).map(|trap| format!("no instance: {trap:?}"));
        }
    };
    let func = instance.get_func(&mut store, name)?;
    let ty = func.ty(&store);
    let mut random = Random::new(seed);
    let params: Vec<Val> = ty.params().map(|ty| argument(&mut random, &ty)).collect();
    let mut results: Vec<Val> = ty.results().map(|_| Val::I32(0)).collect();
    let mut seen = match func.call(&mut store, &params, &mut results) {
        Ok(()) => results.iter().map(text).collect::<Vec<_>>().join(" "),
        Err(error) => match error.downcast_ref::<Trap>() {
            // How deep the stack goes depends on the tier.
            None | Some(Trap::StackOverflow) => return None,
            Some(trap) => format!("{trap:?}"),
        },
    };
    let exports: Vec<(String, Extern)> =
        instance.exports(&mut store).map(|export| (export.name().to_string(), export.into_extern())).collect();
    for (name, export) in exports {
        match export {
            Extern::Global(global) => seen += &format!("\n{name}: {}", text(&global.get(&mut store))),
            Extern::Memory(memory) => {
                let bytes = memory.data(&store);
                let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
                seen += &format!("\n{name}: {} bytes, {sum:x}", bytes.len());
            }
            Extern::Table(table) => {
                let nulls = (0..table.size(&store).min(1000))
                    .filter(|index| matches!(table.get(&mut store, *index), Some(Ref::Func(None) | Ref::Extern(None))))
                    .count();
                seen += &format!("\n{name}: {} elements, {nulls} null", table.size(&store));
            }
            _ => {}
        }
    }
    Some(seen)
}

#[test]
fn random_modules_do_the_same_in_both_tiers() {
    let wanted = std::env::var("PEREGRINE_DIFFERENTIAL_MODULES").map_or(MODULES, |text| text.parse().expect("a number of modules"));
    let first: u64 = std::env::var("PEREGRINE_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000_000);
    let engine = Engine::default();
    let (mut modules, mut calls) = (0, 0);
    let mut seed = first;
    while modules < wanted {
        seed += 1;
        let Some(wasm) = terminating(&seed_bytes(seed, SEED_LEN_BYTES)) else { continue };
        let loaded = [Which::Baseline, Which::Plain, Which::Optimizing].map(|which| load(&engine, which, &wasm));
        let [Ok(baseline), Ok(plain), Ok(optimizing)] = loaded else { panic!("seed {seed}: one tier refuses it: {loaded:?}") };
        modules += 1;
        let names: Vec<String> = baseline.exports().filter(|e| e.ty().func().is_some()).map(|e| e.name().to_string()).collect();
        for (number, name) in names.iter().enumerate() {
            for call in 0..CALLS {
                let arguments = seed << 16 | (number as u64) << 4 | call;
                let Some(expect) = observe(&engine, &optimizing, name, arguments) else { continue };
                for (way, module) in [("usual", &baseline), ("plain", &plain)] {
                    if let Some(found) = observe(&engine, module, name, arguments) {
                        assert_eq!(found, expect, "seed {seed}, function `{name}`, call {call}, the {way} baseline");
                        calls += 1;
                    }
                }
            }
        }
    }
    println!("seeds {first}..={seed}: {modules} modules, {calls} calls");
    assert!(modules > 10 && calls > 10, "{modules} modules, {calls} calls");
}
