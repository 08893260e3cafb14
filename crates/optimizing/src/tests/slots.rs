//! Functions that are compiled one by one reach each other through their entry slots.

use super::{check_tables, compile, settings};
use crate::budget::Mode;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::func::{CompiledFunc, RelocKind, RelocTarget};
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_wasm::FuncIndex;

/// An import, then functions that call each other, themselves and the import, in every way.
const TEXT: &str = r#"(module
    (import "" "" (func $imported (param i32) (result i32)))
    (func $even (param i32) (result i32)
        (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1)) (else (return_call $odd (i32.sub (local.get 0) (i32.const 1))))))
    (func $odd (param i32) (result i32)
        (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 0)) (else (call $even (i32.sub (local.get 0) (i32.const 1))))))
    (func $self (param i32) (result i32)
        (if (result i32) (local.get 0)
            (then (i32.add (call $self (i32.sub (local.get 0) (i32.const 1))) (call $imported (i32.const 1))))
            (else (return_call $self (i32.const 3))))))"#;

fn compiled(settings: &Settings, mode: Option<Mode>) -> Vec<CompiledFunc> {
    let wasm = wat::parse_str(TEXT).expect("the text is well-formed");
    let compiled = compile(&wasm, settings, mode).expect("it compiles");
    compiled.iter().for_each(check_tables);
    compiled
}

/// The target of the call with a 32-bit distance at `place`, if it is one.
fn direct_call_target(code: &[u8], place: usize) -> Option<usize> {
    let distance = code.get(place + 1..place + 5)?;
    let distance = i32::from_le_bytes([distance[0], distance[1], distance[2], distance[3]]);
    matches!(code[place], 0xe8 | 0xe9).then(|| (place + 5).wrapping_add_signed(distance as isize))
}

#[test]
fn calls_go_through_slots() {
    for tiering in [Tiering::Slots, Tiering::Counted] {
        for mode in [None, Some(Mode::Plain)] {
            let settings = Settings { tiering, ..settings(Some("x86_64-unknown-linux-gnu")) };
            let functions = compiled(&settings, mode);
            for (position, callee) in [(0, 2), (1, 1)] {
                let relocs = &functions[position].relocs;
                assert_eq!(relocs.len(), 1, "{relocs:?}");
                let reloc = relocs[0];
                assert_eq!(reloc.target, RelocTarget::Slot(FuncIndex::from_u32(callee)));
                assert_eq!((reloc.kind, reloc.addend), (RelocKind::X64Rel32, -4));
                // `mov r64, [rip + distance]`, whose last field is the distance.
                let code = &functions[position].code[reloc.offset as usize - 3..];
                assert!(matches!(code[0], 0x48 | 0x4c) && code[1] == 0x8b && code[2] & 0xc7 == 0x05, "{:x?}", &code[..3]);
            }
        }
    }
}

#[test]
fn a_call_of_itself_is_direct() {
    let settings = Settings { tiering: Tiering::Slots, ..settings(Some("x86_64-unknown-linux-gnu")) };
    let func = &compiled(&settings, None)[2];
    assert_eq!(func.relocs, []);
    let calls = (0..func.code.len()).filter(|&place| direct_call_target(&func.code, place) == Some(0)).count();
    assert_eq!(calls, 2, "{:x?}", func.code);
}

#[test]
fn whole_modules_call_directly() {
    for func in compiled(&settings(Some("x86_64-unknown-linux-gnu")), None) {
        assert!(func.relocs.iter().all(|reloc| matches!(reloc.target, RelocTarget::Function(_))));
    }
}

#[test]
fn other_processors_have_no_slots() {
    let wasm = wat::parse_str(TEXT).expect("the text is well-formed");
    for triple in ["aarch64-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu", "s390x-unknown-linux-gnu"] {
        let settings = Settings { tiering: Tiering::Slots, ..settings(Some(triple)) };
        let error = compile(&wasm, &settings, None).expect_err("there are none");
        assert!(matches!(&error, CompileError::Unsupported { message } if message.contains("entry slots")), "{error}");
    }
}
