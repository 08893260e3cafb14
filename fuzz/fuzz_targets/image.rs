//! Damaged images are refused or read, never a panic, with the checksum of the header wrong and right: `cargo +nightly fuzz run image`.
#![no_main]

use peregrine::Engine;
use peregrine_artifact::image::{ImageLayout, Section, checksum};
use peregrine_wasm::{FuncIndex, Index};
use std::sync::LazyLock;

/// Where the header keeps the checksum of itself, and how long it is.
const HEADER_CHECKSUM: std::ops::Range<usize> = 40..56;
const HEADER_BYTES: usize = 88 + 16 * Section::COUNT;

/// An image with something in each section.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let text = r#"(module $named (memory (export "m") 2) (data (i32.const 65530) "across two pages") (table 2 funcref) (elem (i32.const 0) $f)
        (func $f (export "f") (param i32) (result i32) (i32.load (local.get 0))) (@custom "some.section" "content"))"#;
    Engine::default().precompile_module(text.as_bytes()).expect("it is valid")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut image = IMAGE.clone();
    // Groups of four: a place, counted from either end, and what is there instead.
    for change in bytes.chunks_exact(4) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let place = if change[2] & 1 == 0 { place } else { image.len().saturating_sub(1 + place) };
        if let Some(byte) = image.get_mut(place) {
            *byte = change[3];
        }
        if change[2] == 2 {
            image.truncate(place);
        }
    }
    // With the right checksum over the wrong header, sections are anywhere.
    if let Some(header) = image.get(..HEADER_BYTES).filter(|_| bytes.len() % 2 == 0) {
        let mut header = header.to_vec();
        header[HEADER_CHECKSUM].fill(0);
        let sum = checksum(&header);
        image[HEADER_CHECKSUM].copy_from_slice(&sum);
    }
    if let Ok(layout) = ImageLayout::check_header(&image) {
        let _ = (layout.settings(&image), layout.meta(&image), layout.relocs(&image), layout.stubs(&image), layout.functions(&image));
    }
    if let Ok(layout) = ImageLayout::check(&image) {
        let _ = (layout.settings(&image), layout.meta(&image), layout.relocs(&image), layout.stubs(&image));
        for (position, function) in layout.functions(&image).iter().enumerate().take(100) {
            let _ = (layout.trap_at(&image, function.code_start.get()), layout.frames_at(&image, function.code_start.get()));
            let _ = layout.function_name(&image, FuncIndex::from_usize(position));
        }
        let _ = layout.section(&image, Section::Text);
    }
});
