//! Where functions begin best, seen from the tables of their code.

use super::{compile, settings};
use peregrine_artifact::func::LINE_BYTES;
use std::collections::HashSet;

/// Bytes of the body before the loop: the number of locals, and so many stores.
fn loop_offset(stores: u32) -> u32 {
    3 + stores * 7
}

#[test]
fn a_short_loop_is_in_one_line_whatever_is_before_it() {
    let function = |stores| {
        let before: String = (0..stores).map(|store| format!("(i32.store (i32.const {store}) (local.get $n))")).collect();
        format!(
            "(func (param $n i32) (result i32) (local $i i32) {before} (loop
                (local.set $i (i32.xor (i32.mul (local.get $i) (local.get $n)) (local.get $n)))
                (br_if 0 (i32.lt_u (local.get $i) (local.get $n)))) (local.get $i))"
        )
    };
    let text = format!(
        "(module (memory 1) {} (func (param i32) (i32.store (i32.const 0) (local.get 0))))",
        (0..64).map(function).collect::<String>()
    );
    let settings = settings(Some("x86_64-unknown-linux-gnu"));
    let compiled = compile(&wat::parse_str(text).expect("the text is well-formed"), &settings, None).expect("it compiles");
    let mut offsets = HashSet::new();
    for (stores, func) in compiled[..64].iter().enumerate() {
        let offset = func.line_offset.expect("it has a loop").bytes();
        let inside =
            func.addresses.iter().filter(|(_, place)| *place >= loop_offset(stores as u32)).map(|(code, _)| *code as usize + offset);
        let lines: HashSet<usize> = inside.map(|code| code / LINE_BYTES).collect();
        assert_eq!(lines.len(), 1, "{stores} stores, at {offset}: {lines:?}");
        offsets.insert(offset);
    }
    assert!(offsets.len() > 1, "{offsets:?}");
    assert!(compiled[64..].iter().all(|func| func.line_offset.is_none()));
}
