//! Ways to force what otherwise depends on time: for tests that run every program in every tier.

use std::sync::atomic::{AtomicU64, Ordering};

/// What tests have done in place of the usual policy. Compilation happens on the calling thread then, so that runs can be repeated, but in
/// `OneInstructionBudget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TieringStress {
    /// Nothing: the usual policy.
    #[default]
    None,
    /// Each function is optimized at its first call, and each loop at its first turn.
    OptimizeAtOnce,
    /// Functions stay in the baseline, and each loop is entered with optimized code at its first turn.
    LoopEntryEverywhere,
    /// The usual policy, with budgets that are used up by one instruction.
    OneInstructionBudget,
    /// Each time that a budget is used up, after one instruction, something else happens: the number is the seed.
    Random(u64),
}

/// What happens at one occasion of [`TieringStress::Random`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing.
    Stay,
    /// The function is optimized for later calls.
    Optimize,
    /// Later calls of the function run in the baseline.
    Baseline,
    /// The loop goes on in optimized code.
    Enter,
}

/// Makes choices, the same ones for the same seed.
pub(super) struct Choices(AtomicU64);

impl Choices {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next one.
    pub(super) fn next(&self) -> Choice {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        // SplitMix64.
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        [Choice::Stay, Choice::Optimize, Choice::Baseline, Choice::Enter][(mixed >> 62) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_differ_and_repeat() {
        let sequence = |seed| {
            let choices = Choices::new(seed);
            (0..100).map(|_| choices.next()).collect::<Vec<_>>()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
        for choice in [Choice::Stay, Choice::Optimize, Choice::Baseline, Choice::Enter] {
            assert!(sequence(7).iter().filter(|found| **found == choice).count() > 10);
        }
    }
}
