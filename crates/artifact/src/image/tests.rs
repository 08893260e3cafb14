//! Images come back as they were written, and damaged ones are refused.

use super::*;
use crate::settings::{Settings, Target};
use peregrine_wasm::{FuncIndex, FuncType, FunctionDecl, Trap, TypeIndex};

fn sample() -> Vec<u8> {
    let settings = Settings::new(Target { triple: "x86_64-unknown-linux-gnu".into(), cpu_features: vec!["has_sse41".into()] });
    let mut meta = ImageMeta::default();
    let ty = meta.module.types.push(FuncType { params: [].into(), results: [].into() });
    assert_eq!(ty, TypeIndex::from_u32(0));
    meta.module.functions.push(FunctionDecl { ty, func_ref: None });
    let mut tables = Vec::new();
    crate::tables::traps::encode(&[(2, Trap::UnreachableCodeReached)], &mut tables);
    let traps_len = tables.len() as u32;
    crate::tables::addresses::encode(&[(0, 1)], &mut tables);
    let function = FunctionEntry {
        code_start: 16.into(),
        code_len: 8.into(),
        traps_len: traps_len.into(),
        addresses_len: (tables.len() as u32 - traps_len).into(),
        body_start: 40.into(),
        ..FunctionEntry::default()
    };
    write_image(&ImageParts {
        settings: &settings,
        meta: &meta,
        functions: &[function],
        stubs: &[StubEntry::default()],
        tables: &tables,
        names: &["main"],
        data: b"data",
        custom: &[],
        debug: &[],
        memory_image: &[],
        text: &[0xcc; 32],
    })
}

#[test]
fn parts_come_back() {
    let bytes = sample();
    let layout = ImageLayout::check(&bytes).expect("a good image");
    let meta = layout.meta(&bytes).expect("good meta");
    assert_eq!(meta.module.functions.len(), 1);
    assert_eq!(layout.section(&bytes, Section::Text), [0xcc; 32]);
    assert_eq!(layout.range(Section::Text).start as u64 % PAGE_ALIGN_BYTES, 0);
    assert_eq!(layout.section(&bytes, Section::Data), b"data");
    assert_eq!(layout.function_name(&bytes, FuncIndex::from_u32(0)), Some("main"));
    assert_eq!(layout.trap_at(&bytes, 18), Some(Trap::UnreachableCodeReached));
    assert_eq!(layout.trap_at(&bytes, 19), None);
    assert_eq!(layout.wasm_offset_at(&bytes, 20), Some(41));
    assert_eq!(layout.function_at(&bytes, 15), None);
    assert_eq!(layout.function_at(&bytes, 24), None);
    assert_eq!(layout.settings_hash(), &layout.settings(&bytes).expect("good settings").hash());
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample();
    let step = bytes.len() / 500 + 1;
    for len in (0..bytes.len()).step_by(step).chain(bytes.len() - 8..bytes.len()) {
        assert!(ImageLayout::check(&bytes[..len]).is_err(), "length {len}");
    }
}

#[test]
fn every_flipped_bit_of_the_header_and_many_others_are_refused() {
    let mut bytes = sample();
    let content_step = bytes.len() / 300 + 1;
    for position in (0..400).chain((400..bytes.len()).step_by(content_step)) {
        for bit in 0..8 {
            bytes[position] ^= 1 << bit;
            assert!(ImageLayout::check(&bytes).is_err(), "byte {position}, bit {bit}");
            bytes[position] ^= 1 << bit;
        }
    }
    assert!(ImageLayout::check(&bytes).is_ok());
}

#[test]
fn another_version_says_so() {
    let mut bytes = sample();
    bytes[8] = 0xfe;
    assert_eq!(ImageLayout::check(&bytes).err(), Some(ImageError::Version { found: 0xfe }));
}
