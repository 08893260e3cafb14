//! Random modules do the same in every tier and in wasmi: a fixed number of what `cargo xtask fuzz` runs for minutes.

use peregrine::{Config, Engine, Module};
use peregrine_harness::cases::{Case, Kind, Variant, text};
use peregrine_harness::modules::seed_bytes;
use peregrine_harness::programs;
use peregrine_harness::tiers::{Tally, Tiers};
use std::collections::HashMap;

/// Seeds that are tried of each kind.
const SEEDS: u64 = 60;

fn run(kind: Kind) -> Tally {
    let (mut tally, mut by_variant) = (Tally::default(), run_variants(kind));
    by_variant.drain().for_each(|(_, more)| tally += more);
    println!("{kind:?}: {tally:?}");
    tally
}

fn run_variants(kind: Kind) -> HashMap<Variant, Tally> {
    let (mut tiers, mut tallies) = (Tiers::default(), HashMap::<Variant, Tally>::new());
    for case in (0..).map(Case::of_seed).filter(|case| case.kind == kind).take(SEEDS as usize) {
        let tally = tiers.check(&case, &mut |_| {}).unwrap_or_else(|difference| panic!("{difference}\n{case:?}"));
        *tallies.entry(case.variant).or_default() += tally;
    }
    tallies
}

#[test]
fn programs_with_loops() {
    let tally = run(Kind::Loops);
    assert!(tally.modules == SEEDS && tally.with_reference > SEEDS / 2 && tally.traps > 0 && tally.calls > 2 * tally.traps, "{tally:?}");
    assert!(tally.loop_entries > 20 * SEEDS, "loops are not entered: {tally:?}");
    assert!(tally.guided > SEEDS / 2, "no profile knows of indirect calls: {tally:?}");
}

#[test]
fn programs_with_all_that_there_is() {
    let (mut tally, variants) = (Tally::default(), run_variants(Kind::Rich));
    assert!(variants.len() > 5, "{variants:?}");
    for (variant, more) in variants {
        // Twice each module: once with mostly code of the baseline.
        assert!(more.kept > more.modules && 2 * more.kept_optimized > more.modules, "{variant:?} is not kept: {more:?}");
        assert_eq!(more.locals > 100 * more.traps.min(1), variant == Variant::KeptLocals, "{variant:?}: {more:?}");
        tally += more;
    }
    assert!(tally.modules == SEEDS && tally.traps > 0 && tally.calls > 2 * tally.traps, "{tally:?}");
    assert!(tally.loop_entries > 10 * SEEDS, "{tally:?}");
}

#[test]
fn modules_of_what_all_engines_have() {
    let tally = run(Kind::Common);
    assert!(tally.modules > SEEDS / 2 && tally.with_reference > SEEDS / 4 && tally.calls > 10 * SEEDS, "{tally:?}");
}

#[test]
fn modules_of_all_that_there_is() {
    let tally = run(Kind::Wide);
    assert!(tally.modules > SEEDS / 4 && tally.calls > 10 * SEEDS, "{tally:?}");
}

/// The generator keeps to what is valid and does not get out of hand, whatever the bytes.
#[test]
fn programs_are_valid_and_small() {
    let engine = Engine::new(Config::new().unfinished_function_references(true)).unwrap();
    for seed in 0..400 {
        let bytes = seed_bytes(seed, (seed * 37 % 5000) as usize);
        for wasm in [programs::looping(&bytes, seed % 2 == 0), programs::rich(&bytes, seed % 2 == 0)] {
            assert!(wasm.len() < 40_000, "seed {seed}: {} bytes", wasm.len());
            if let Err(error) = Module::validate(&engine, &wasm) {
                panic!("seed {seed}: {error:#}\n{}", text(&wasm));
            }
        }
    }
}
