//! Any module does the same in Peregrine and in the reference interpreter: `cargo +nightly fuzz run differential`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(difference) = peregrine_harness::differential::check(bytes) {
        panic!("{difference}");
    }
});
