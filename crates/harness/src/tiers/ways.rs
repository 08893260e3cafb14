//! The ways in which engines come to their code: strategies with what depends on time forced, profiles true and made up, and what was kept.
//!
//! [`super`] runs every case in all of them; an engine for each is made here.

use crate::cases::Variant;
use peregrine::{Cache, Config, DefinedFuncIndex, Engine, FunctionProfile, OptLevel, Profile, SiteProfile, Strategy, TieringStress};
use std::fmt;

/// How an engine comes to its code.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Of a strategy, with what depends on time forced.
    Tier(Strategy, TieringStress),
    /// By the baseline, with code that counts what it does.
    Counting,
    /// Ahead, by what was counted.
    Guided,
    /// Ahead, by a profile in which all calls go elsewhere.
    Misled,
    /// By tiers, with what depends on time forced; what was compiled is kept in a cache.
    Keeping(TieringStress),
    /// By tiers, beginning with what was kept.
    Kept(TieringStress),
    /// By tiers that change at random, on two threads at once.
    Threads,
}

/// The first one is what the others are compared with.
pub(super) const WAYS: [Way; 19] = [
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
    // Mostly code of the baseline.
    Way::Keeping(TieringStress::None),
    Way::Kept(TieringStress::None),
    // Optimized code of all that was called.
    Way::Keeping(TieringStress::OptimizeAtOnce),
    Way::Kept(TieringStress::OptimizeAtOnce),
    Way::Threads,
];

/// Every count of a profile is multiplied by 2 so many times: the script calls a function a few times, and what is called often is compiled
/// otherwise.
const DOUBLINGS: u32 = 10;

impl Way {
    /// The profile to compile with, made of what was counted.
    pub(super) fn profile(self, noted: &Profile) -> Option<Profile> {
        let mut profile = noted.clone();
        match self {
            Self::Tier(..) | Self::Counting | Self::Keeping(_) | Self::Kept(_) | Self::Threads => return None,
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
            Self::Keeping(stress) => write!(f, "Keeping {stress:?}"),
            Self::Kept(stress) => write!(f, "Kept {stress:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// An engine that comes to its code in a way, for what a variant asks.
pub(super) fn engine(variant: Variant, way: Way, cache: Option<&Cache>) -> Engine {
    let mut config = Config::new();
    match way {
        Way::Tier(strategy, stress) => _ = config.strategy(strategy).tiering_stress(stress),
        Way::Counting => _ = config.gather_profile(true),
        Way::Guided | Way::Misled => _ = config.strategy(Strategy::Ahead),
        Way::Keeping(stress) | Way::Kept(stress) => _ = config.strategy(Strategy::Tiered).tiering_stress(stress).cache(cache.cloned()),
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
