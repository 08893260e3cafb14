//! `peregrine profile` and `--profile FILE`.

use crate::peregrine::{Finished, guest, peregrine};
use std::path::Path;

/// Calls one function through a table nearly always, and another one now and then.
const PROGRAM: &str = r#"(module
    (type $unary (func (param i32) (result i32)))
    (table 2 funcref)
    (elem (i32.const 0) $increment $slow)
    (func $increment (type $unary) (i32.add (local.get 0) (i32.const 1)))
    (func $slow (type $unary) (loop (br_if 0 (i32.lt_s (local.tee 0 (i32.add (local.get 0) (i32.const 7))) (i32.const 100)))) (local.get 0))
    (func $work (export "work") (param $count i32) (result i32) (local $value i32)
        (loop $again
            (local.set $value (call_indirect (type $unary) (local.get $value) (i32.eqz (i32.rem_u (local.get $count) (i32.const 50)))))
            (br_if $again (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
        (local.get $value)))"#;

/// The command in a directory that has the program.
fn in_dir(dir: &Path, words: &[&str]) -> Finished {
    std::fs::write(dir.join("app.wat"), PROGRAM).unwrap();
    let path = |word: &&str| match *word {
        file @ ("app.wat" | "app.profile" | "app.pgn" | "other.wat") => dir.join(file).display().to_string(),
        word => word.to_string(),
    };
    peregrine(words.iter().map(path)).finish()
}

#[test]
fn profiles_are_saved_shown_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| in_dir(dir.path(), words);
    let save = ["profile", "save", "--invoke", "work", "-o", "app.profile", "app.wat", "--", "10000"];
    let result = run(&save).code(0).stdout;
    run(&["profile", "show", "app.profile"]).code(0).says("1 run, 3 functions").says("defined 2").says("defined 0 98.0%");
    run(&["profile", "show", "app.profile", "app.wat"]).code(0).says("2 `work`").says("0 `increment` 98.0%, 1 `slow` 2.0%");
    let json = run(&["profile", "show", "--json", "app.profile", "app.wat"]).code(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let work = &json["functions"][2];
    assert_eq!((&work["function"]["name"], &work["calls"]), (&"work".into(), &1.into()));
    assert_eq!((&work["sites"][0]["calls"], &work["sites"][0]["targets"][0]["calls"]), (&10_000.into(), &9_800.into()));

    // Another run is added, or takes the place of the first.
    run(&[&["profile", "save", "--merge"], &save[2..]].concat()).code(0);
    run(&["profile", "show", "app.profile", "app.wat"]).code(0).says("2 runs").says("20000");
    run(&save).code(0);
    run(&["profile", "show", "app.profile"]).code(0).says("1 run,");

    // The usual target of the call is part of the function now.
    let plain = run(&["inspect", "-C", "strategy=ahead", "--function", "work", "app.wat"]).code(0).stdout;
    let guided = run(&["inspect", "-C", "strategy=ahead", "--profile", "app.profile", "--function", "work", "app.wat"]).code(0).stdout;
    assert_ne!(plain, guided);
    run(&["compile", "--profile", "app.profile", "-o", "app.pgn", "app.wat"]).code(0);
    run(&["--invoke", "work", "app.pgn", "10000"]).code(0).stdout(&result);
    run(&["--profile", "app.profile", "--invoke", "work", "app.wat", "10000"]).code(0).stdout(&result);
    run(&["profile", "save", "--invoke", "work", "-o", "app.profile", "app.pgn", "--", "1"])
        .code(1)
        .stdout("")
        .complains("give the module");
}

#[test]
fn files_that_are_no_profile_of_the_module_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| in_dir(dir.path(), words);
    std::fs::write(dir.path().join("other.wat"), "(module (func (export \"_start\")))").unwrap();
    run(&["profile", "save", "-o", "app.profile", "other.wat"]).code(0);
    for words in [
        &["compile", "--profile", "app.profile", "app.wat"][..],
        &["profile", "show", "app.profile", "app.wat"],
        &["--profile", "app.profile", "--invoke", "work", "app.wat", "1"],
        &["profile", "save", "--merge", "--invoke", "work", "-o", "app.profile", "app.wat", "--", "1"],
    ] {
        run(words).code(1).complains("the profile is of another module");
    }
    let good = std::fs::read(dir.path().join("app.profile")).unwrap();
    for (bytes, complaint) in [
        (&b"\0asm"[..], "expected a profile"),
        (b"", "expected a profile"),
        (&good[..good.len() - 1], "the profile is damaged"),
        (&[&good[..8], &[9, 0, 0, 0], &good[12..]].concat(), "found version 9"),
    ] {
        std::fs::write(dir.path().join("app.profile"), bytes).unwrap();
        run(&["compile", "--profile", "app.profile", "other.wat"]).code(1).complains(complaint);
        run(&["profile", "show", "app.profile"]).code(1).complains(complaint);
    }
    std::fs::remove_file(dir.path().join("app.profile")).unwrap();
    run(&["compile", "--profile", "app.profile", "other.wat"]).code(2).complains("there is no such file");
}

#[test]
fn whatever_the_end_is_the_profile_is_saved() {
    for (name, code) in [("exit.wat", None), ("trap.wat", None), ("hello.wat", Some(0))] {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out.profile").display().to_string();
        let guest = guest(name).display().to_string();
        let plain = peregrine([&guest]).finish();
        let finished = peregrine(["profile", "save", "-o", &output, &guest]).finish();
        assert_eq!((finished.code, finished.stdout, finished.stderr), (plain.code, plain.stdout, plain.stderr), "{name}");
        assert!(code.is_none_or(|code| plain.code == Some(code)));
        peregrine(["profile", "show", &output]).finish().code(0).says("1 run, ");
    }
}
