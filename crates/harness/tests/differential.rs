//! Random modules do the same in Peregrine and in wasmi, in each configuration that changes code.

use peregrine::{Config, OptLevel};
use peregrine_harness::differential::{Oracle, Stats};
use peregrine_harness::modules::seed_bytes;
use std::time::{Duration, Instant};

/// Bytes of a seed: enough for a module of some functions.
const SEED_LEN_BYTES: usize = 12 << 10;
/// What each configuration runs in any case, and what it stops at.
const MIN_MODULES: u64 = 200;
const TIME: Duration = Duration::from_secs(4);

fn run(name: &str, first_seed: u64, config: &mut Config) {
    let oracle = Oracle::new(config.wasm_wide_arithmetic(true)).expect("an engine");
    let mut stats = Stats::default();
    let mut seed = first_seed;
    let start = Instant::now();
    while stats.modules < MIN_MODULES || start.elapsed() < TIME {
        match oracle.check(&seed_bytes(seed, SEED_LEN_BYTES)) {
            Ok(more) => stats += more,
            Err(difference) => panic!("{name}, seed {seed}: {difference}"),
        }
        seed += 1;
        assert!(seed - first_seed < 100_000, "{name}: seeds give no modules: {stats:?}");
    }
    println!("{name}: seeds {first_seed}..{seed}: {stats:?}");
    assert!(stats.returned + stats.trapped >= stats.modules, "{name}: almost nothing was compared: {stats:?}");
    assert!(stats.returned > 0 && stats.trapped > 0, "{name}: {stats:?}");
}

#[test]
fn optimized_code() {
    run("optimized", 0, &mut Config::new());
}

#[test]
fn unoptimized_code() {
    run("unoptimized", 1_000_000, Config::new().cranelift_opt_level(OptLevel::None));
}

#[test]
fn checked_memories() {
    run("checked", 2_000_000, Config::new().memory_reservation(0).memory_guard_size(0));
}

#[test]
fn instrumented_code() {
    run("instrumented", 4_000_000, Config::new().epoch_interruption(true).consume_fuel(true));
}

#[test]
fn functions_that_are_not_inlined() {
    run("without inlining", 3_000_000, Config::new().compiler_inlining(false));
}
