//! Engines that count fuel, of every compiler and way to come from one to the other: what is counted is the same in all of them.

use peregrine::{Config, Engine, OptLevel, Strategy, TieringStress};

/// One engine of each kind.
pub fn engines() -> Vec<Engine> {
    let engine = |config: &mut Config| Engine::new(config.consume_fuel(true)).expect("the settings are fine");
    let tiered = |stress| engine(Config::new().strategy(Strategy::Tiered).tiering_stress(stress));
    vec![
        engine(Config::new().strategy(Strategy::Winch)),
        engine(Config::new().strategy(Strategy::Cranelift)),
        engine(Config::new().strategy(Strategy::Cranelift).epoch_interruption(true)),
        engine(Config::new().strategy(Strategy::Cranelift).cranelift_opt_level(OptLevel::None)),
        tiered(TieringStress::OptimizeAtOnce),
        tiered(TieringStress::LoopEntryEverywhere),
        tiered(TieringStress::Random(5)),
    ]
}
