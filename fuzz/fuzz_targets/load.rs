//! Any bytes are an error or load, never a panic: `cargo +nightly fuzz run load`.
#![no_main]

use peregrine::{Engine, Module};
use std::sync::LazyLock;

static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::default);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Module::new(&ENGINE, bytes);
});
