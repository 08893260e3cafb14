//! Words that are wrong, help, completion and logs.

use crate::peregrine::{guest, peregrine, run};
use serde_json::json;

#[test]
fn mistakes_on_the_command_line_are_2() {
    peregrine(Vec::<String>::new()).finish().code(2).complains("FILE");
    peregrine(["--no-such-flag", "a.wasm"]).finish().code(2).complains("--no-such-flag");
    run(&["-W", "simb=n"], "hello.wat", &[]).finish().code(2).complains("-W simb").complains("simd");
    run(&["-W", "simd=perhaps"], "hello.wat", &[]).finish().code(2).complains("expected `y` or `n`");
    run(&["-O", "opt-level=9"], "hello.wat", &[]).finish().code(2).complains("opt-level");
    run(&["--dir", "a::b::c"], "hello.wat", &[]).finish().code(2).complains("`ro`");
    run(&["--dir-ro", "a::b::rw"], "hello.wat", &[]).finish().code(2).complains("use `--dir`");
    run(&["--preload", "x"], "hello.wat", &[]).finish().code(2).complains("NAME=FILE");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for (options, complaint) in [
        (["-W", "epoch-interruption=n,timeout=5s"], "-W timeout needs"),
        (["-C", "strategy=ahead,compiler=winch"], "-C compiler asks for the baseline"),
        (["-C", "strategy=baseline,compiler=cranelift"], "-C compiler asks for the optimizing"),
    ] {
        run(&options, "hello.wat", &[]).finish().code(2).stdout("").complains(complaint);
    }
    run(&["-C", "strategy=ahead,compiler=cranelift"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
}

#[test]
fn options_that_a_command_does_not_read_are_refused() {
    let wat = guest("hello.wat").display().to_string();
    let commands: [(&[&str], &[&str]); 6] = [
        (&["compile", &wat], &["-S inherit-env", "-W max-instances=1", "-C cache-dir=x", "-C deferred-validation", "--profile perfmap"]),
        (&["validate", &wat], &["-S cli", "-C strategy=ahead", "-D coredump=x", "-C cache=y", "--profile jitdump"]),
        (&["inspect", &wat], &["-S cli", "-W unknown-imports-trap", "-C tiering-stress=loops", "-C cache=y"]),
        (&["wast", &wat], &["-S cli", "-W max-memory-size=1M", "-W trap-on-grow-failure", "-D coredump=x", "-C cache=y"]),
        (&["cache", "path"], &["-S cli", "-W fuel=1", "-O opt-level=0", "-C strategy=ahead", "--target x86_64-unknown-linux-gnu"]),
        (&["settings"], &["-S cli", "-D coredump=x", "-C cache=y", "--profile perfmap"]),
    ];
    for (words, options) in commands {
        for option in options {
            let command = words[0];
            let said = option.split('=').next().unwrap_or(option).split(" x86").next().unwrap_or(option);
            let said = said.replace("perfmap", "perfmap|jitdump").replace("--profile jitdump", "--profile perfmap|jitdump");
            let words = [command].into_iter().chain(option.split(' ')).chain(words[1..].iter().copied());
            let finished = peregrine(words).finish().code(2).stdout("");
            finished.complains(&format!("`{said}` has no meaning for `peregrine {command}`"));
        }
    }
    let image = peregrine(["inspect", "-W", "simd=n", "hello.pgn"]).after(peregrine(["compile", &wat]));
    image.finish().code(2).complains("`hello.pgn` is compiled, and `-W simd` is about how a module is");
    peregrine(["profile", "save", "-C", "cache=n", &wat]).finish().code(0);
    // Without a cache is how these work anyway.
    peregrine(["compile", "-C", "cache=n", &wat]).finish().code(0);
    peregrine(["validate", "-C", "cache=n", &wat]).finish().code(0);
    peregrine(["cache", "-C", "cache=n", "path"]).finish().code(2).complains("`-C cache` has no meaning for `peregrine cache`");
    peregrine(["profile", "save", "-C", "cache-dir=x", &wat]).finish().code(2).complains("`peregrine profile save`");
}

/// Proposals that are not there without another one.
const BUILT_ON: [(&str, &str); 3] = [("relaxed-simd", "simd"), ("reference-types", "bulk-memory"), ("wide-arithmetic", "multi-value")];

#[test]
fn each_proposal_has_its_key() {
    let modules = [
        ("bulk-memory", "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))"),
        ("custom-page-sizes", "(module (memory 0 (pagesize 1)))"),
        ("extended-const", "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))"),
        ("memory64", "(module (memory i64 1))"),
        ("multi-memory", "(module (memory 1) (memory 1))"),
        ("multi-value", "(module (func (result i32 i32) (i32.const 1) (i32.const 2)))"),
        ("reference-types", "(module (table 1 externref))"),
        ("relaxed-simd", "(module (func (param v128 v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))))"),
        ("simd", "(module (func (param v128)))"),
        ("tail-call", "(module (func $f (return_call $f)))"),
        ("threads", "(module (memory 1 1 shared))"),
        ("wide-arithmetic", "(module (func (param i64 i64) (result i64 i64) (i64.mul_wide_u (local.get 0) (local.get 1))))"),
    ];
    for (key, text) in modules {
        let validate = |value: &str| peregrine(["validate", "-W", &format!("{key}={value}"), "a.wat"]).file("a.wat", text).finish();
        validate("y").code(0);
        validate("n").code(1).complains("a.wat");
        // No key takes more away than what is its own, and what is built on that.
        for (other, text) in modules.iter().filter(|(other, _)| *other != key && !BUILT_ON.contains(&(*other, key))) {
            let finished = peregrine(["validate", "-W", &format!("{key}=n"), "a.wat"]).file("a.wat", text).finish();
            assert_eq!(finished.code, Some(0), "{other} without {key}: {}", finished.stderr);
        }
    }
}

#[test]
fn proposals_are_refused_together_and_one_by_one() {
    let atomics = "(module (memory 1 1 shared) (func (export \"_start\") (drop (i32.atomic.load (i32.const 0)))))";
    let shared = |flags: &[&str]| peregrine(flags.iter().copied().chain(["a.wat"])).file("a.wat", atomics).finish();
    shared(&[]).code(0);
    for option in ["threads=n", "all-proposals=n"] {
        shared(&["-W", option]).code(1).complains("threads");
    }
    shared(&["-W", "all-proposals=n,threads"]).code(0);
}

/// Each key changes its own setting, which images are marked with, and no other.
#[test]
fn each_key_of_compilation_has_its_setting() {
    let settings = |options: &[&str]| -> serde_json::Map<String, serde_json::Value> {
        let finished = peregrine(["settings", "--json"].iter().chain(options)).finish().code(0);
        serde_json::from_str(&finished.stdout).expect("JSON")
    };
    let usual = settings(&[]);
    for (options, name, value) in [
        (["-C", "inlining=n"], "inlining", json!(false)),
        (["-C", "nan-canonicalization"], "nan_canonicalization", json!(true)),
        (["-O", "opt-level=s"], "opt_level", json!("SpeedAndSize")),
        (["-O", "memory-reservation=64M"], "memory_reservation_bytes", json!(64 << 20)),
        (["-O", "memory-guard-size=1M"], "memory_guard_bytes", json!(1 << 20)),
        (["-W", "fuel=7"], "fuel", json!(true)),
        (["-W", "epoch-interruption"], "interrupt", json!(true)),
        (["-W", "timeout=5s"], "interrupt", json!(true)),
    ] {
        let changed = settings(&options);
        assert_eq!(changed[name], value, "{options:?}");
        let names: Vec<&String> = usual.keys().filter(|name| usual[*name] != changed[*name]).collect();
        assert_eq!(names, [name], "{options:?}");
    }
    assert_eq!(settings(&["-D", "debug-info"])["debug_info"], true);
    // What is so anyway, and what changes nothing that code depends on.
    for options in [["-C", "inlining"], ["-C", "parallel-compilation=n"], ["-D", "address-map=n"], ["-D", "logging=n"]] {
        assert_eq!(settings(&options), usual, "{options:?}");
    }
}

#[test]
fn groups_list_their_keys() {
    peregrine(["-W", "help"]).finish().code(0).says("-W fuel=N").says("-W timeout=TIME").says("-W unknown-imports-trap=y|n");
    peregrine(["run", "-Shelp"]).finish().code(0).says("-S tcplisten=ADDR:PORT");
    peregrine(["compile", "-C", "help"]).finish().code(0).says("-C cache=y|n");
    peregrine(["-O", "help", &guest("hello.wat").display().to_string()]).finish().code(0).says("-O opt-level=0|1|2|s");
    peregrine(["-D", "help"]).finish().code(0).says("-D debug-info=y|n");
}

#[test]
fn help_and_version() {
    peregrine(["--help"]).finish().code(0).says("compile").says("inspect").says("--dir");
    peregrine(["--version"]).finish().code(0).says(env!("CARGO_PKG_VERSION"));
    peregrine(["help", "run"]).finish().code(0).says("--invoke");
}

#[test]
fn shells_are_completed() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        peregrine(["completion", shell]).finish().code(0).says("peregrine").says("inspect");
    }
    peregrine(["completion", "cmd"]).finish().code(2);
}

#[test]
fn logs_go_where_they_are_told() {
    let finished = run(&["-D", "log-to-files"], "hello.wat", &[]).env("PEREGRINE_LOG", "trace").finish().code(0).stdout("hello\n");
    assert!(finished.left("peregrine.log."));
    run(&[], "hello.wat", &[]).env("PEREGRINE_LOG", "no=such=filter").finish().code(1).stdout("").complains("PEREGRINE_LOG is no filter");
    // Switched off, the filter is not looked at; switched on, there need not be one.
    let finished = run(&["-D", "logging=n"], "hello.wat", &[]).env("PEREGRINE_LOG", "no=such=filter").finish().code(0).stdout("hello\n");
    assert_eq!(finished.stderr, "");
    run(&["-D", "logging"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    let finished = run(&[], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    assert!(!finished.left("peregrine.log."));
    assert_eq!(finished.stderr, "");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    for words in [&["settings"][..], &["settings", "--json"], &["cache", "path"], &["completion", "bash"], &["-W", "help"]] {
        peregrine(words).stdout_to("/dev/full").finish().code(1);
    }
    let finished = run(&["--invoke", "grow"], "grow.wat", &["1"]).stdout_to("/dev/full").finish().code(1);
    finished.complains("cannot write to standard output").complains("No space left");
}
