//! Every way to run, for tests that compare all of them.

use peregrine::{Config, Engine, Strategy, TieringStress};

/// An engine for each strategy and stress mode, with its name.
pub fn engines(change: impl Fn(&mut Config)) -> Vec<(String, Engine)> {
    let tiered = [
        TieringStress::None,
        TieringStress::OptimizeAtOnce,
        TieringStress::LoopEntryEverywhere,
        TieringStress::OneInstructionBudget,
        TieringStress::Random(3),
    ];
    let plain = [Strategy::Ahead, Strategy::Baseline].map(|strategy| (strategy, TieringStress::None));
    let all = plain.into_iter().chain(tiered.map(|stress| (Strategy::Tiered, stress)));
    all.map(|(strategy, stress)| {
        let mut config = Config::new();
        config.strategy(strategy).tiering_stress(stress);
        change(&mut config);
        (format!("{strategy:?} {stress:?}"), Engine::new(&config).expect("the settings are fine"))
    })
    .collect()
}
