//! Which data segments become memory images, and that a memory has the same content with and without them.

use super::fake_tier::Checked;
use peregrine_artifact::image::{MemoryImage, PAGE_ALIGN_BYTES, Section};
use peregrine_wasm::{DataMode, Index};
use std::collections::BTreeMap;

const PAGE: u64 = PAGE_ALIGN_BYTES;

/// Compiles `text` and returns it with how many segments are mapped, and the (memory, offset, length) of the images in pages.
#[track_caller]
fn check(text: &str, mapped: u32, expect: &[(u32, u64, u64)]) -> Checked {
    let image = Checked::compile(text);
    let places = |image: &MemoryImage| (image.memory.as_u32(), image.memory_offset / PAGE, image.len_bytes / PAGE);
    assert_eq!(image.meta.memory_images.iter().map(places).collect::<Vec<_>>(), expect);
    assert_eq!(image.meta.mapped_data_segments, mapped);
    for image in &image.meta.memory_images {
        assert!([image.memory_offset, image.section_offset, image.len_bytes].iter().all(|number| number % PAGE == 0));
    }
    image
}

/// The bytes of memories that are not zero, with all segments run: mapped ones first, then the others, until one does not fit.
fn content(image: &Checked) -> BTreeMap<(usize, u64), u8> {
    let mut content = BTreeMap::new();
    for range in &image.meta.memory_images {
        let bytes = &image.layout.section(&image.bytes, Section::MemoryImage)[range.section_offset as usize..][..range.len_bytes as usize];
        content.extend((range.memory_offset..).zip(bytes).map(|(address, byte)| ((range.memory.as_usize(), address), *byte)));
    }
    for segment in image.meta.module.data.values() {
        let DataMode::Active { memory, offset } = &segment.mode else { continue };
        let Some(offset) = offset.as_offset() else { continue };
        if offset + segment.len_bytes > image.meta.module.memories[*memory].min_bytes().expect("small") {
            break;
        }
        let bytes = &image.layout.section(&image.bytes, Section::Data)[segment.start as usize..][..segment.len_bytes as usize];
        content.extend((offset..).zip(bytes).map(|(address, byte)| ((memory.as_usize(), address), *byte)));
    }
    content.retain(|_, byte| *byte != 0);
    content
}

fn bytes_at(memory: usize, address: u64, bytes: &[u8]) -> BTreeMap<(usize, u64), u8> {
    (address..).zip(bytes).map(|(address, byte)| ((memory, address), *byte)).collect()
}

#[test]
fn later_segments_win() {
    let image = check(r#"(module (memory 1) (data (i32.const 8) "abcdef") (data (i32.const 10) "XY"))"#, 2, &[(0, 0, 1)]);
    assert_eq!(content(&image), bytes_at(0, 8, b"abXYef"));
}

#[test]
fn pages_apart_become_separate_images() {
    let text = r#"(module (memory 16) (memory 1)
        (data (i32.const 65534) "abcd") (data (memory 1) (i32.const 5) "m1") (data (i32.const 983040) "z"))"#;
    let image = check(text, 3, &[(0, 0, 2), (0, 15, 1), (1, 0, 1)]);
    let mut expect = bytes_at(0, 65534, b"abcd");
    expect.extend(bytes_at(1, 5, b"m1"));
    expect.extend(bytes_at(0, 983040, b"z"));
    assert_eq!(content(&image), expect);
}

#[test]
fn the_first_segment_that_may_fail_ends_the_images() {
    let image =
        check(r#"(module (memory 1) (data (i32.const 0) "ab") (data (i32.const 65535) "cd") (data (i32.const 1) "X"))"#, 1, &[(0, 0, 1)]);
    assert_eq!(content(&image), bytes_at(0, 0, b"ab"));
    // The last byte of the last page is in bounds, an empty segment at the end too.
    check(r#"(module (memory 1) (data (i32.const 65535) "c") (data (i32.const 65536) ""))"#, 2, &[(0, 0, 1)]);
    check(r#"(module (memory 1) (data (i32.const 65537) "") (data (i32.const 0) "a"))"#, 0, &[]);
    check(r#"(module (memory 0) (data (i32.const -1) "a"))"#, 0, &[]);
    check(r#"(module (memory i64 1) (data (i64.const -1) "ab") (data (i64.const 0) "a"))"#, 0, &[]);
}

#[test]
fn offsets_that_are_not_known_and_passive_segments_end_the_images() {
    let text =
        r#"(module (import "" "" (global i32)) (memory 1) (data (i32.const 0) "ab") (data (global.get 0) "cd") (data (i32.const 1) "X"))"#;
    let image = check(text, 1, &[(0, 0, 1)]);
    assert_eq!(content(&image), bytes_at(0, 0, b"aX"));
    check(r#"(module (memory 1) (data (i32.const 0) "ab") (data "passive") (data (i32.const 1) "X"))"#, 1, &[(0, 0, 1)]);
    // A global of the module that never changes is as good as a constant.
    check(r#"(module (global i32 (i32.const 7)) (memory 1) (data (i32.const 0) "a"))"#, 1, &[(0, 0, 1)]);
}

#[test]
fn memories_that_cannot_be_mapped_keep_their_segments() {
    check(r#"(module (import "" "" (memory 1)) (data (i32.const 0) "ab"))"#, 0, &[]);
    check(r#"(module (memory 100 (pagesize 1)) (data (i32.const 0) "ab"))"#, 0, &[]);
}

#[test]
fn zeros_need_no_image() {
    let image =
        check(r#"(module (memory 3) (data (i32.const 0) "\00\00") (data (i32.const 70000) "a") (data (i32.const 70000) "\00"))"#, 3, &[]);
    assert!(content(&image).is_empty());
}

#[test]
fn data_far_apart_makes_no_large_image() {
    let image =
        check(r#"(module (memory 65536) (data (i32.const 0) "a") (data (i32.const 0xc0000000) "b"))"#, 2, &[(0, 0, 1), (0, 49152, 1)]);
    assert!(image.bytes.len() < 1 << 20);
    let segments: String = (0..1000).map(|page| format!("(data (i32.const {}) \"a\")", page * 65536)).collect();
    let image = Checked::compile(&format!("(module (memory 65536) {segments})"));
    assert_eq!(image.meta.mapped_data_segments, 16);
    assert!(image.bytes.len() < 2 << 20);
    assert_eq!(content(&image).len(), 1000);
}

#[test]
fn element_segments_that_may_trap_after_an_imported_table_was_written_forbid_images() {
    let data = r#"(memory 1) (func $f) (data (i32.const 0) "a")"#;
    let with = |elements: &str| format!(r#"(module (import "" "" (table 2 funcref)) {elements} {data})"#);
    check(&with("(elem (i32.const 0) func $f $f)"), 1, &[(0, 0, 1)]);
    check(&with("(elem (i32.const 0) func $f) (elem (i32.const 1) func $f $f)"), 0, &[]);
    check(&format!("(module (table 1 funcref) (elem (i32.const 1) func $f) {data})"), 1, &[(0, 0, 1)]);
}
