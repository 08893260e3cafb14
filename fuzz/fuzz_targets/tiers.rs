//! Any program does the same in every tier and in the reference interpreter: `cargo +nightly fuzz run tiers`.
#![no_main]

use peregrine_harness::cases::Case;
use peregrine_harness::tiers::Tiers;
use std::cell::RefCell;

thread_local! {
    static TIERS: RefCell<Tiers> = RefCell::default();
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let case = Case::of_choice(*choice, bytes.to_vec());
    if let Err(difference) = TIERS.with_borrow_mut(|tiers| tiers.check(&case, &mut |_| {})) {
        panic!("{difference}");
    }
});
