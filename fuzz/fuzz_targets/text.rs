//! Any text is a module, which is valid or not, or an error, never a panic: `cargo +nightly fuzz run text`.
#![no_main]

use peregrine::{Engine, Module};
use std::sync::LazyLock;

static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::default);

libfuzzer_sys::fuzz_target!(|text: &str| {
    // Bytes of a binary are what `load` is for.
    if !text.starts_with('\0') {
        let _ = Module::new(&ENGINE, text);
    }
});
