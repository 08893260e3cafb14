//! Random modules do the same in Peregrine and in wasmi, in each configuration that changes code.

use peregrine::{Config, OptLevel};
use peregrine_harness::differential::{Oracle, Stats};
use peregrine_harness::modules::seed_bytes;

/// Bytes of a seed: enough for a module of some functions.
const SEED_LEN_BYTES: usize = 12 << 10;
/// What each configuration runs. A number and not a time, so that every run tries the same modules; longer runs ask for more
/// with `PEREGRINE_DIFFERENTIAL_MODULES`.
const MODULES: u64 = 250;

fn run(name: &str, first_seed: u64, config: &mut Config) {
    let oracle = Oracle::new(config.wasm_wide_arithmetic(true)).expect("an engine");
    let mut stats = Stats::default();
    let mut seed = first_seed;
    let wanted = std::env::var("PEREGRINE_DIFFERENTIAL_MODULES").map_or(MODULES, |text| text.parse().expect("a number of modules"));
    while stats.modules < wanted {
        match oracle.check(&seed_bytes(seed, SEED_LEN_BYTES)) {
            Ok(more) => stats += more,
            Err(difference) => panic!("{name}, seed {seed}: {difference}"),
        }
        seed += 1;
        assert!(seed - first_seed < 100 * wanted.max(1000), "{name}: seeds give no modules: {stats:?}");
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
