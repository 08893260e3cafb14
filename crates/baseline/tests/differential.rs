//! Random modules do the same on code of this tier and in wasmi, in each configuration that changes code.

use peregrine::{Config, Strategy};
use peregrine_harness::differential::{Oracle, Stats};
use peregrine_harness::modules::seed_bytes;

/// Bytes of a seed: enough for a module of some functions.
const SEED_LEN_BYTES: usize = 4096;
/// What each configuration runs: a number and not a time, so that every run tries the same. `PEREGRINE_DIFFERENTIAL_MODULES` says otherwise.
const MODULES: u64 = 150;

fn run(name: &str, first_seed: u64, config: &mut Config) {
    let modules = std::env::var("PEREGRINE_DIFFERENTIAL_MODULES").map_or(MODULES, |text| text.parse().expect("a number of modules"));
    let first_seed = std::env::var("PEREGRINE_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(first_seed);
    let oracle = Oracle::new(config.wasm_wide_arithmetic(true).strategy(Strategy::Winch)).expect("an engine");
    let mut stats = Stats::default();
    let mut seed = first_seed;
    while stats.modules < modules {
        match oracle.check(&seed_bytes(seed, SEED_LEN_BYTES)) {
            Ok(more) => stats += more,
            Err(difference) => panic!("{name}, seed {seed}: {difference}"),
        }
        seed += 1;
    }
    println!("{name}: seeds {first_seed}..{seed}: {stats:?}");
    assert!(stats.returned > 0 && stats.trapped > 0, "{name}: {stats:?}");
}

#[test]
fn guarded_memories() {
    run("guarded", 10_000_000, &mut Config::new());
}

#[test]
fn checked_memories() {
    run("checked", 20_000_000, Config::new().memory_reservation(0).memory_guard_size(0));
}

#[test]
fn interruptible_code() {
    run("interruptible", 30_000_000, Config::new().epoch_interruption(true));
}

#[test]
fn old_processors() {
    run("old processors", 40_000_000, Config::new().target("x86_64-unknown-linux-gnu").expect("a target with code"));
}
