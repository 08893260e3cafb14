//! `peregrine inspect`.

use crate::peregrine::{guest, peregrine};

fn inspect(flags: &[&str], name: &str) -> crate::peregrine::Finished {
    let words = ["inspect"].iter().chain(flags).map(|word| word.to_string()).chain([guest(name).display().to_string()]);
    peregrine(words).finish()
}

#[test]
fn modules_are_shown() {
    inspect(&[], "traps.wat")
        .code(0)
        .says("sections")
        .says("type")
        .says("code")
        .says("divide")
        .says("(func (param i32 i32) (result i32))")
        .says("functions (5");
    inspect(&[], "unknown.wat").code(0).says("env::missing").says("(func (param i32) (result i64))");
}

#[test]
fn images_are_shown() {
    let hello = guest("hello.wat").display().to_string();
    peregrine(["inspect", "hello.pgn"])
        .after(peregrine(["compile", &hello]))
        .finish()
        .code(0)
        .says("image")
        .says("memory image")
        .says("text")
        .says("wasi_snapshot_preview1::fd_write")
        .says("_start");
}

#[test]
fn json_is_json() {
    let finished = inspect(&["--json"], "traps.wat").code(0);
    let value: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!(value["functions"].as_array().map(Vec::len), Some(5));
    assert_eq!(value["kind"], "module");
    let finished = inspect(&["--json", "--function", "divide"], "traps.wat").code(0);
    let value: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert!(value["pieces"].as_array().is_some_and(|pieces| !pieces.is_empty()));
}

#[test]
fn functions_are_disassembled_beside_their_text() {
    let finished = inspect(&["--function", "divide"], "traps.wat").code(0).says("i32.div_s");
    if cfg!(target_arch = "x86_64") {
        finished.says("idiv").says("ret");
    }
    let foreign = ["-C", "strategy=ahead", "--function", "0", "--target", "aarch64-unknown-linux-gnu"];
    inspect(&foreign, "traps.wat").code(0).says("only x86_64 code is decoded");
    inspect(&["--function", "none"], "traps.wat").code(1).complains("there is no function `none`");
    inspect(&["--function", "99"], "traps.wat").code(1).complains("the module has 5");
    inspect(&["--function", "0"], "hello.wat").code(1).complains("imported");
}
