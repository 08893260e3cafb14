//! What the frontend refuses, and what it says.

use peregrine_artifact::compiler::CompileError;
use peregrine_frontend::{FuncValidatorAllocations, to_binary, translate};
use peregrine_wasm::{Features, ModuleLimits};

/// Translates and validates everything.
fn validate(wasm: &[u8], features: &Features, limits: &ModuleLimits) -> Result<(), CompileError> {
    let translation = translate(wasm, features, limits)?;
    let mut allocations = FuncValidatorAllocations::default();
    translation.bodies.indices().try_for_each(|index| translation.validate_body(index, &mut allocations))
}

#[track_caller]
fn invalid(text: &str, message: &str) {
    let wasm = to_binary(text.as_bytes()).expect("good text");
    match validate(&wasm, &Features::default(), &ModuleLimits::default()) {
        Err(CompileError::Invalid { message: found, offset: Some(offset) }) => {
            assert!(found.contains(message), "expected {message:?}, found {found:?}");
            assert!((8..=wasm.len()).contains(&offset), "offset {offset:#x} of {:#x}", wasm.len());
        }
        other => panic!("expected an invalid module, found {other:?}"),
    }
}

#[test]
fn invalid_modules_are_refused_with_offsets() {
    for (text, message) in [
        ("(module (func i32.const 1))", "type mismatch"),
        ("(module (func (result i32)))", "type mismatch"),
        ("(module (func local.get 0))", "unknown local"),
        ("(module (func call 7))", "unknown function"),
        ("(module (func br 1))", "unknown label"),
        ("(module (func (drop (ref.func 0))))", "undeclared function reference"),
        ("(module (global i32 (i64.const 0)))", "type mismatch"),
        ("(module (global i32 (global.get 0)))", "unknown global"),
        ("(module (memory 65537))", "memory size must be at most"),
        ("(module (memory 2 1))", "size minimum must not be greater than maximum"),
        ("(module (data (i32.const 0) \"\"))", "unknown memory"),
        ("(module (elem (i32.const 0)))", "unknown table"),
        ("(module (func) (export \"a\" (func 0)) (export \"a\" (func 0)))", "duplicate export name"),
        ("(module (func (param i32)) (start 0))", "invalid start function type"),
        ("(module (type (func)) (func (type 3)))", "unknown type"),
    ] {
        invalid(text, message);
    }
}

#[test]
fn what_is_switched_off_is_refused() {
    type Switch = fn(&mut Features) -> &mut bool;
    let cases: [(Switch, &str); 14] = [
        (|f| &mut f.multi_value, "(module (func (result i32 i32) unreachable))"),
        (|f| &mut f.bulk_memory, "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))"),
        (|f| &mut f.reference_types, "(module (table 1 externref))"),
        (|f| &mut f.simd, "(module (func (param v128)))"),
        (|f| &mut f.relaxed_simd, "(module (func (param v128 v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))))"),
        (|f| &mut f.tail_call, "(module (func return_call 0))"),
        (|f| &mut f.multi_memory, "(module (memory 1) (memory 1))"),
        (|f| &mut f.memory64, "(module (memory i64 1))"),
        (|f| &mut f.memory64, "(module (table i64 1 funcref))"),
        (|f| &mut f.extended_const, "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))"),
        (|f| &mut f.wide_arithmetic, "(module (func (param i64) (drop (drop (i64.mul_wide_u (local.get 0) (local.get 0))))))"),
        (|f| &mut f.custom_page_sizes, "(module (memory 1 (pagesize 1)))"),
        (|f| &mut f.threads, "(module (memory 1 1 shared))"),
        (|f| &mut f.function_references, "(module (type (func)) (func (param (ref 0))))"),
    ];
    for (switch, text) in cases {
        let wasm = to_binary(text.as_bytes()).expect("good text");
        let mut features = Features::default();
        *switch(&mut features) = true;
        assert_eq!(validate(&wasm, &features, &ModuleLimits::default()), Ok(()), "{text}");
        *switch(&mut features) = false;
        let result = validate(&wasm, &features, &ModuleLimits::default());
        assert!(matches!(result, Err(CompileError::Invalid { offset: Some(_), .. })), "{text}: {result:?}");
    }
}

#[test]
fn proposals_that_do_not_exist_here_are_named() {
    for (text, proposal) in [
        ("(module (type (struct)))", "garbage collection"),
        ("(module (type (array i8)))", "garbage collection"),
        ("(module (func (param anyref)))", "garbage collection"),
        ("(module (tag))", "exception handling"),
        ("(module (func (param exnref)))", "exception handling"),
        ("(component)", "component model"),
        ("(component (core module))", "component model"),
    ] {
        let wasm = to_binary(text.as_bytes()).expect("good text");
        let features = Features { threads: true, function_references: true, ..Features::default() };
        match validate(&wasm, &features, &ModuleLimits::default()) {
            Err(CompileError::Unsupported { message }) => assert!(message.contains(proposal), "{text}: {message}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn limits_say_their_name_what_they_allow_and_what_was_found() {
    #[track_caller]
    fn check(text: &str, limits: ModuleLimits, expect: &str) {
        let wasm = to_binary(text.as_bytes()).expect("good text");
        assert_eq!(validate(&wasm, &Features::default(), &ModuleLimits::default()), Ok(()));
        let error = validate(&wasm, &Features::default(), &limits).expect_err("a limit");
        assert!(matches!(error, CompileError::Limit { .. }), "{error:?}");
        assert!(error.to_string().contains(expect), "{error}");
    }
    let usual = ModuleLimits::default();
    check("(module (func))", ModuleLimits { max_module_bytes: 9, ..usual }, "max_module_bytes allows 9, found ");
    check("(module (func) (func nop nop))", ModuleLimits { max_function_bytes: 3, ..usual }, "max_function_bytes allows 3, found 4");
    let text = r#"(module (import "" "" (global i32)) (global i32 (i32.mul (i32.mul (global.get 0) (global.get 0)) (global.get 0))))"#;
    check(text, ModuleLimits { max_const_ops: 4, ..usual }, "max_const_ops allows 4, found 5");
}

#[test]
fn counts_beyond_what_any_engine_accepts_are_limits() {
    // A memory section of 101 memories.
    let mut wasm = b"\0asm\x01\0\0\0\x05".to_vec();
    wasm.extend([203, 1, 101]);
    wasm.extend([0, 1].repeat(101));
    let error = validate(&wasm, &Features::default(), &ModuleLimits::default()).expect_err("too many memories");
    assert!(matches!(&error, CompileError::Limit { message } if message.contains("memories count exceeds limit of 100")), "{error:?}");
}

#[test]
fn text_errors_have_line_and_column() {
    let error = to_binary(b"(module\n  (func (i32.bad)))").expect_err("an unknown instruction").to_string();
    assert!(error.contains(":2:10"), "{error}");
    assert!(error.contains("unknown operator"), "{error}");
    let error = to_binary(b"(module (func call $nowhere))").expect_err("an unknown name").to_string();
    assert!(error.contains(":1:20") && error.contains("$nowhere"), "{error}");
}

#[test]
fn what_is_neither_text_nor_binary_says_so() {
    for (bytes, expect) in [
        (&b""[..], "the input is empty"),
        (b"\0as", "truncated"),
        (b"\x7fELF\x02\x01\x01", "a native ELF program"),
        (b"\x7fPGN\r\n\x1a\n", "a compiled image"),
        (b"#!/bin/sh\n", "a script"),
        (b"\n\nint main() {}", "at line 3"),
        (b"\xff\xfe(module)", "ff, fe"),
        (b"   ", "no WebAssembly"),
    ] {
        match to_binary(bytes) {
            Err(CompileError::Invalid { message, offset: None }) => assert!(message.contains(expect), "{bytes:?}: {message}"),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    let binary = b"\0asm\x01\0\0\0";
    assert_eq!(to_binary(binary).expect("binary").as_ptr(), binary.as_ptr());
}

#[test]
fn headers_that_are_wrong_are_refused() {
    for wasm in [&b"\0asm"[..], b"\0asm\x02\0\0\0", b"\0asm\x01\0\0\0\x0f", b"\0asm\x01\0\0\0\x0f\0", b"\0asn\x01\0\0\0", b""] {
        let result = validate(wasm, &Features::default(), &ModuleLimits::default());
        assert!(matches!(result, Err(CompileError::Invalid { offset: Some(_), .. })), "{wasm:?}: {result:?}");
    }
}
