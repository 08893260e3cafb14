//! What an image of linked code looks like.

use super::fake_tier::{Checked, compiler, settings};
use peregrine_artifact::compiler::Compiler;
use peregrine_artifact::image::Section;
use peregrine_wasm::{FuncIndex, Trap};

/// The defined function that the call at `offset` of function `position` goes to.
fn called(image: &Checked, position: usize, offset: usize) -> Option<usize> {
    let entry = image.layout.functions(&image.bytes)[position];
    let code = image.code(position);
    assert_eq!(code[offset], 0xe8);
    let rel32 = i32::from_le_bytes(code[offset + 1..offset + 5].try_into().expect("4 bytes"));
    let target = i64::from(entry.code_start.get()) + offset as i64 + 5 + i64::from(rel32);
    image.layout.functions(&image.bytes).iter().position(|entry| i64::from(entry.code_start.get()) == target)
}

#[test]
fn calls_reach_earlier_and_later_functions_and_themselves() {
    let image = Checked::compile(
        r#"(module (import "" "" (func)) (func call 3) (func call 1) (func call 3 call 2 call 1 unreachable) (func call 4))"#,
    );
    assert_eq!(called(&image, 0, 5), Some(2));
    assert_eq!(called(&image, 1, 5), Some(0));
    assert_eq!([5, 10, 15].map(|offset| called(&image, 2, offset)), [Some(2), Some(1), Some(0)]);
    assert_eq!(called(&image, 3, 5), Some(3));
}

#[test]
fn functions_are_aligned_padded_and_in_order() {
    let image = Checked::compile("(module (func) (func call 0 call 0 call 0) (func i32.const 30583 drop) (func unreachable))");
    let entries = image.layout.functions(&image.bytes);
    let text = image.layout.section(&image.bytes, Section::Text);
    assert!(entries.is_sorted_by(|a, b| a.code_start.get() + a.code_len.get() <= b.code_start.get()));
    for entry in entries {
        assert_eq!(entry.code_start.get() % 32, 0);
    }
    let first_end = entries[0].code_len.get() as usize;
    assert!(text[first_end..entries[1].code_start.get() as usize].iter().all(|byte| *byte == 0xcc));
    assert!(entries[2].code_len.get() > 1 << 20);
}

#[test]
fn traps_and_addresses_are_found() {
    let text = "(module (func) (func nop nop call 0 unreachable))";
    let image = Checked::compile(text);
    let entry = image.layout.functions(&image.bytes)[1];
    let start = entry.code_start.get();
    assert_eq!(image.layout.trap_at(&image.bytes, start + 10), Some(Trap::UnreachableCodeReached));
    assert_eq!(image.layout.trap_at(&image.bytes, start + 9), None);
    // The body is: no locals, nop, nop, call.
    assert_eq!(image.layout.frames_at(&image.bytes, start + 7).first().and_then(|frame| frame.1), Some(entry.body_start.get() + 3));
    let wasm = wat::parse_str(text).expect("good text");
    assert_eq!(wasm[entry.body_start.get() as usize..][..4], [0, 1, 1, 0x10]);
}

#[test]
fn types_that_are_the_same_share_stubs() {
    let image = Checked::compile(
        "(module (type (func)) (type (func (param i32))) (type (func)) (type (func (param i32))) (type (func (result i32))))",
    );
    let stubs = image.layout.stubs(&image.bytes);
    let text = image.layout.section(&image.bytes, Section::Text);
    assert_eq!(stubs.len(), 5);
    assert_eq!((stubs[0], stubs[1]), (stubs[2], stubs[3]));
    for (position, ty) in [(0, 0), (1, 1), (2, 0), (3, 1), (4, 4)] {
        let stub = stubs[position];
        let code = |start: u32, len: u32| &text[start as usize..(start + len) as usize];
        assert_eq!(code(stub.enter_start.get(), stub.enter_len.get()), [0xee, ty]);
        assert_eq!(code(stub.exit_start.get(), stub.exit_len.get()), [0xff, ty, 0]);
    }
}

#[test]
fn names_come_from_the_name_section_or_the_exports() {
    let image = Checked::compile(
        r#"(module $m (import "a" "b" (func $imported)) (func $named) (func) (func (export "x") (export "y")) (export "z" (func 1)))"#,
    );
    let names = (0..5).map(|index| image.layout.function_name(&image.bytes, FuncIndex::from_u32(index)));
    assert_eq!(names.collect::<Vec<_>>(), [Some("imported"), Some("named"), None, Some("x"), None]);
    assert_eq!(image.meta.module.name.as_deref(), Some("m"));
}

#[test]
fn custom_and_debug_sections_are_kept_where_they_belong() {
    let text =
        r#"(module $n (@custom "producers" "abc") (@custom ".debug_info" "dwarf!") (@custom "empty" "") (@custom ".debug_line" "ln"))"#;
    let image = Checked::compile(text);
    let custom = image.layout.section(&image.bytes, Section::Custom);
    let sections = image.meta.module.custom_sections.iter();
    let sections = sections.map(|section| (&*section.name, &custom[section.start as usize..][..section.len_bytes as usize]));
    assert_eq!(sections.collect::<Vec<_>>(), [("producers", &b"abc"[..]), ("empty", b"")]);
    assert_eq!(image.meta.debug_sections, [(".debug_info".into(), 0, 6), (".debug_line".into(), 6, 2)]);
    assert_eq!(image.layout.section(&image.bytes, Section::Debug), b"dwarf!ln");

    let wasm = wat::parse_str(text).expect("good text");
    let mut without = settings();
    without.debug_info = false;
    let image = Checked::new(compiler(1).compile(&wasm, &without, &()).expect("a good module"));
    assert!(image.meta.debug_sections.is_empty() && image.layout.section(&image.bytes, Section::Debug).is_empty());
}
