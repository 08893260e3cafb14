//! Programs, exports, traps and imports.

use crate::peregrine::{guest, peregrine, run};

#[test]
fn a_program_runs_bare_and_with_run() {
    run(&[], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    run(&["run"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    run(&["run", "-W", "simd=y", "--allow-precompiled"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
}

#[test]
fn a_binary_runs_and_so_does_standard_input() {
    let text = std::fs::read(guest("hello.wat")).unwrap();
    let binary = wat::parse_bytes(&text).unwrap().into_owned();
    peregrine(["hello.wasm"]).file("hello.wasm", &binary).finish().code(0).stdout("hello\n");
    peregrine(["-"]).finish_with_input(&binary).code(0).stdout("hello\n");
    peregrine(["run", "-"]).finish_with_input(&text).code(0).stdout("hello\n");
}

#[test]
fn the_exit_code_is_the_guests() {
    run(&[], "exit.wat", &[]).finish().code(7).stdout("");
    // What the system would cut to 0 or 255 is a failure.
    for code in ["256", "-1"] {
        let exits = format!(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
        );
        peregrine(["exits.wat"]).file("exits.wat", exits).finish().code(1).stdout("");
    }
}

#[test]
fn a_trap_is_134_with_a_backtrace() {
    let finished = run(&[], "trap.wat", &[]).finish().code(134);
    let finished = finished.complains("error:").complains("unreachable").complains("trapper!inner").complains("trapper!outer");
    let place = |name: &str| finished.stderr.find(name).expect("a frame");
    assert!(place("inner") < place("middle") && place("middle") < place("outer"), "{}", finished.stderr);
}

#[test]
fn every_kind_of_trap_is_named() {
    for (words, text) in [
        (vec!["divide", "1", "0"], "integer divide by zero"),
        (vec!["divide", "-2147483648", "-1"], "integer overflow"),
        (vec!["load", "65536"], "out of bounds memory access"),
        (vec!["load", "-1"], "out of bounds memory access"),
        (vec!["indirect", "0"], "uninitialized element"),
        (vec!["indirect", "1"], "indirect call type mismatch"),
        (vec!["indirect", "2"], "undefined element"),
        (vec!["convert", "nan"], "invalid conversion to integer"),
        (vec!["convert", "1e10"], "integer overflow"),
        (vec!["recurse"], "call stack exhausted"),
    ] {
        run(&["--invoke", words[0]], "traps.wat", &words[1..]).finish().code(134).complains(text);
    }
}

#[test]
fn invoke_prints_one_result_per_line() {
    let invoke = |words: &[&str]| run(&["--invoke", words[0]], "numbers.wat", &words[1..]).finish();
    invoke(&["add", "1", "2"]).code(0).stdout("3\n");
    invoke(&["add", "0xffffffff", "2"]).code(0).stdout("1\n");
    invoke(&["add", "-5", "2"]).code(0).stdout("-3\n");
    invoke(&["mul64", "18446744073709551615", "3"]).code(0).stdout("-3\n");
    invoke(&["half", "5"]).code(0).stdout("2.5\n");
    invoke(&["swap", "7", "1.5"]).code(0).stdout("1.5\n7\n");
    invoke(&["nothing"]).code(0).stdout("");
    invoke(&["is_null", "null"]).code(0).stdout("1\n");
}

#[test]
fn what_cannot_be_invoked_is_explained() {
    let invoke = |words: &[&str]| run(&["--invoke", words[0]], "numbers.wat", &words[1..]).finish().code(1);
    invoke(&["sub", "1", "2"]).complains("exports no function `sub`").complains("`add` (func (param i32 i32) (result i32))");
    invoke(&["add", "1"]).complains("expected 2 arguments, found 1");
    invoke(&["add", "1", "x"]).complains("`x`").complains("i32");
    invoke(&["add", "1", "4294967296"]).complains("`4294967296`");
}

#[test]
fn reactors_are_initialized_first() {
    run(&["--invoke", "get"], "reactor.wat", &[]).finish().code(0).stdout("42\n");
    run(&[], "reactor.wat", &[]).finish().code(0).complains("`get` (func (result i32))");
}

#[test]
fn an_unknown_import_is_named_with_its_type_and_the_flag() {
    run(&[], "unknown.wat", &[])
        .finish()
        .code(1)
        .complains("unknown import: `env::missing` of type (func (param i32) (result i64))")
        .complains("--preload env=FILE")
        .complains("-W unknown-imports-trap=y")
        .complains("-W unknown-imports-default=y");
    run(&["-S", "cli=n"], "hello.wat", &[]).finish().code(1).complains("wasi_snapshot_preview1::fd_write").complains("-S cli=y");
}

#[test]
fn unknown_imports_trap_or_default_if_asked() {
    run(&["-W", "unknown-imports-trap=y"], "unknown.wat", &[]).finish().code(0);
    run(&["-W", "unknown-imports-trap", "--invoke", "late"], "unknown.wat", &[]).finish().code(134).complains("missing");
    run(&["-W", "unknown-imports-default=y", "--invoke", "late"], "unknown.wat", &[]).finish().code(0).stdout("0\n");
}

#[test]
fn preloaded_modules_are_imported_from() {
    let library = format!("library={}", guest("library.wat").display());
    run(&["--preload", &library, "--invoke", "four_times"], "user.wat", &["5"]).finish().code(0).stdout("20\n");
    let other = format!("other={}", guest("library.wat").display());
    run(&["--preload", &other, "--invoke", "four_times"], "user.wat", &["5"]).finish().code(1).complains("library::twice");
    run(&["--preload", "library=none.wasm"], "user.wat", &[]).finish().code(1).complains("none.wasm");
}

#[test]
fn files_that_are_no_modules_are_errors() {
    peregrine(["none.wasm"]).finish().code(1).complains("none.wasm");
    peregrine(["empty.wasm"]).file("empty.wasm", b"").finish().code(1).complains("empty.wasm");
    peregrine(["bad.wasm"]).file("bad.wasm", b"\0asm\x01\0\0\0\x01").finish().code(1).complains("bad.wasm");
    peregrine(["bad.wat"]).file("bad.wat", "(module (func i32.add))").finish().code(1).complains("bad.wat");
    peregrine(["bad.wat"]).file("bad.wat", "(module (fun))").finish().code(1).complains("bad.wat");
}

#[test]
fn proposals_can_be_refused() {
    run(&["--invoke", "splat"], "vector.wat", &["1"]).finish().code(0).stdout("0x00000001000000010000000100000001\n");
    run(&["-W", "simd=n", "--invoke", "splat"], "vector.wat", &["1"]).finish().code(1).complains("SIMD");
    run(&["-W", "all-proposals=n", "--invoke", "splat"], "vector.wat", &["1"]).finish().code(1).complains("SIMD");
}
