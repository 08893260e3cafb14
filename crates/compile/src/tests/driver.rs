//! The driver: threads, errors, copies, limits and progress.

use super::fake_tier::{Checked, FAIL, FakeTier, HUGE, PANIC, compiler, settings};
use crate::budget::Budget;
use crate::driver::ImageCompiler;
use peregrine_artifact::compiler::{CompileError, Compiler, Progress};
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// A module of `count` functions of many sizes that call each other; some are the same.
fn many_functions(count: usize) -> Vec<u8> {
    let mut text = String::from("(module (type (func)) (type (func (param i32))) ");
    for index in 0..count {
        let body = match index % 5 {
            0 => String::new(),
            1 => format!("i32.const {} drop", index % 50),
            2 => format!("call {} call {}", index / 2 / 5 * 5, (index * 7 % count) / 5 * 5),
            3 => "unreachable".into(),
            _ => "i32.const 1 drop ".repeat(index % 90),
        };
        write!(text, "(func {body})").expect("strings take everything");
    }
    text.push(')');
    wat::parse_str(text).expect("good text")
}

#[test]
fn images_do_not_depend_on_the_number_of_threads() {
    let wasm = many_functions(3000);
    let reference = compiler(1).compile(&wasm, &settings(), &()).expect("a good module");
    for threads in [1, 2, 8, 8, 8] {
        let image = compiler(threads).compile(&wasm, &settings(), &()).expect("a good module");
        assert!(image == reference, "{threads} threads");
    }
    let image = Checked::new(reference);
    assert_eq!(image.layout.functions(&image.bytes).len(), 3000);
}

#[test]
fn copies_have_their_own_code_and_are_compiled_once() {
    let tier = FakeTier::default();
    let (functions, stubs) = (tier.functions.clone(), tier.stubs.clone());
    let compiler = ImageCompiler::new(Arc::new(tier));
    let text = "(module (func) (func call 3) (func) (func nop) (func (param i32)) (func call 3) (func) (func call 5) (func nop))";
    let wasm = wat::parse_str(text).expect("good text");
    let image = Checked::new(compiler.compile(&wasm, &settings(), &()).expect("a good module"));
    // Empty, `call 3`, `nop`, empty with a parameter, `call 5`.
    assert_eq!(functions.load(Ordering::Relaxed), 5);
    assert_eq!(stubs.load(Ordering::Relaxed), 4);
    let entries = image.layout.functions(&image.bytes);
    assert_eq!(entries.len(), 9);
    assert!(entries.is_sorted_by(|a, b| a.code_start.get() < b.code_start.get() && a.body_start.get() < b.body_start.get()));
    assert_eq!(image.code(0), image.code(6));
    // The same call from different places.
    for position in [1, 5] {
        let code = image.code(position);
        let rel32 = i32::from_le_bytes(code[6..10].try_into().expect("4 bytes"));
        assert_eq!(i64::from(entries[position].code_start.get()) + 10 + i64::from(rel32), i64::from(entries[3].code_start.get()));
    }
}

#[test]
fn a_hundred_thousand_empty_functions_are_cheap() {
    let tier = FakeTier::default();
    let functions = tier.functions.clone();
    let wasm = wat::parse_str(format!("(module {})", "(func)".repeat(100_000))).expect("good text");
    let image = Checked::new(ImageCompiler::new(Arc::new(tier)).compile(&wasm, &settings(), &()).expect("a good module"));
    assert_eq!(functions.load(Ordering::Relaxed), 1);
    assert_eq!(image.layout.functions(&image.bytes).len(), 100_000);
}

#[test]
fn the_first_error_is_the_one_reported() {
    // Each function is a batch of its own or nearly; later ones fail faster.
    let mut text = String::from("(module ");
    for index in 0..400 {
        let padding = "nop ".repeat(5000 + index);
        let end = match index {
            130 => format!("i32.const {FAIL} drop"),
            131 | 300 => format!("i32.const {FAIL} drop i32.const 1 drop"),
            200 => "i32.add drop".into(),
            _ => String::new(),
        };
        write!(text, "(func {padding} {end})").expect("strings take everything");
    }
    text.push(')');
    let wasm = wat::parse_str(text).expect("good text");
    for threads in [1, 2, 8] {
        let error = compiler(threads).compile(&wasm, &settings(), &()).expect_err("function 130 fails");
        assert_eq!(error, CompileError::Limit { message: "function 130: fail 130".into() });
        let error = compiler(threads).validate(&wasm, &settings()).expect_err("function 200 is invalid");
        let CompileError::Invalid { message, offset: Some(_) } = error else { panic!("unexpected {error}") };
        assert!(message.contains("type mismatch"), "{message}");
    }
}

#[test]
fn a_panic_of_the_tier_names_the_function() {
    let wasm = wat::parse_str(format!("(module (func) (func $bad i32.const {PANIC} drop))")).expect("good text");
    let error = compiler(2).compile(&wasm, &settings(), &()).expect_err("the tier panics");
    assert_eq!(error, CompileError::Internal { message: "function 1 (`bad`): panic: panic 1".into() });
}

#[test]
fn limits_say_their_name_what_they_allow_and_what_was_found() {
    let wasm = wat::parse_str(format!("(module (func) (func $big i32.const {HUGE} drop))")).expect("good text");
    let with = |budget| compiler(2).with_budget(budget).compile(&wasm, &settings(), &()).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(with(Budget::default()), Ok(()));
    let error = with(Budget { max_function_code_bytes: 1000, ..Budget::default() }).expect_err("too much code");
    let start = "limit exceeded: function 1 (`big`): bytes of code: max_function_code_bytes allows 1000, found 1048";
    assert!(error.starts_with(start), "{error}");
    let error = with(Budget { max_text_bytes: 100_000, ..Budget::default() }).expect_err("too much code");
    assert!(error.contains("bytes of code of the module: max_text_bytes allows 100000, found 1048"), "{error}");
}

#[test]
fn code_stays_in_proportion_to_the_module() {
    let with = |functions: usize| {
        let bodies: String = (0..functions).map(|_| format!("(func i32.const {HUGE} drop)")).collect();
        let wasm = wat::parse_str(format!("(module {bodies})")).expect("good text");
        compiler(2).compile(&wasm, &settings(), &()).map(|_| wasm.len()).map_err(|error| error.to_string())
    };
    // A megabyte of code for each: what any module may have is more than twenty, whatever its size.
    with(20).expect("it is less than any module may have");
    let error = with(40).expect_err("a few hundred bytes do not make forty megabytes");
    let allowed = 64 * 400 + (32 << 20);
    let said = error.split("max_text_bytes allows ").nth(1).and_then(|rest| rest.split(',').next()?.parse::<usize>().ok());
    assert!(said.is_some_and(|said| said >= 32 << 20 && said <= allowed), "{error}");
}

#[test]
fn very_many_types_get_stubs_only_where_the_host_can_need_them() {
    let types: String = (0..3000)
        .map(|number| {
            let params: String = (0..12).map(|bit| if number >> bit & 1 == 0 { " i32" } else { " i64" }).collect();
            format!("(type (func (param{params})))")
        })
        .collect();
    let text = format!(r#"(module {types} (import "" "" (func (type 5))) (func (type 7)) (func (export "x") (type 2999)))"#);
    let wasm = wat::parse_str(&text).expect("good text");
    let image = Checked::new(compiler(2).compile(&wasm, &settings(), &()).expect("a good module"));
    let stubs = image.layout.stubs(&image.bytes);
    let there = |ty: usize| (stubs[ty].enter_len.get() > 0, stubs[ty].exit_len.get() > 0);
    assert_eq!([5, 7, 2999].map(there), [(false, true), (false, false), (true, false)]);
    let error = compiler(2).with_budget(Budget { max_stub_types: 1, ..Budget::default() }).compile(&wasm, &settings(), &());
    let error = error.expect_err("two types need stubs").to_string();
    assert!(error.contains("max_stub_types allows 1, found 2"), "{error}");
}

#[test]
fn progress_reaches_the_end() {
    struct Seen(Mutex<Vec<(u64, u64)>>);
    impl Progress for Seen {
        fn compiled(&self, done_bytes: u64, total_bytes: u64) {
            self.0.lock().expect("nobody panics").push((done_bytes, total_bytes));
        }
    }
    let wasm = many_functions(2000);
    let seen = Seen(Mutex::new(Vec::new()));
    compiler(4).compile(&wasm, &settings(), &seen).expect("a good module");
    let seen = seen.0.into_inner().expect("nobody panics");
    let total = seen[0].1;
    assert!(seen.iter().all(|(done, of)| *of == total && *done <= total));
    assert_eq!(seen.iter().map(|(done, _)| *done).max(), Some(total));
}

#[test]
fn an_empty_module_has_an_image() {
    let image = Checked::compile("(module)");
    assert_eq!(image.layout.function_count(), 0);
    assert!(compiler(1).validate(b"\0asm\x01\0\0\0", &settings()).is_ok());
}
