//! What stops a guest.

use crate::peregrine::{guest, run};

/// Neither guest ends by itself.
#[test]
fn time_runs_out() {
    run(&["-W", "timeout=300ms"], "spin.wat", &[]).finish().code(134).complains("interrupt");
    run(&["-W", "timeout=60s"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
}

#[test]
fn time_runs_out_while_the_guest_sleeps() {
    run(&["-W", "timeout=300ms"], "sleep.wat", &[]).finish().code(134).complains("interrupt").complains("waiting for the host");
}

#[test]
fn preloaded_modules_have_the_same_time() {
    let library = format!("lib={}", guest("started.wat").display());
    run(&["-W", "timeout=60s", "--preload", &library], "hello.wat", &[]).finish().code(0).stdout("hello\n");
}

#[test]
fn fuel_runs_out() {
    run(&["-W", "fuel=100000"], "spin.wat", &[]).finish().code(134).complains("fuel");
    run(&["-W", "fuel=100000"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
}

#[test]
fn memories_and_tables_stay_small() {
    let grow = |flags: &[&str], function: &str, by: &str| {
        let flags: Vec<&str> = flags.iter().copied().chain(["--invoke", function]).collect();
        run(&flags, "grow.wat", &[by]).finish()
    };
    grow(&[], "grow", "10").code(0).stdout("1\n");
    grow(&["-W", "max-memory-size=128K"], "grow", "1").code(0).stdout("1\n");
    grow(&["-W", "max-memory-size=128K"], "grow", "2").code(0).stdout("-1\n");
    grow(&["-W", "max-memory-size=1K"], "grow", "0").code(1).complains("memory");
    grow(&["-W", "max-table-elements=5"], "grow_table", "5").code(0).stdout("-1\n");
    grow(&["-W", "max-table-elements=5"], "grow_table", "4").code(0).stdout("1\n");
    grow(&["-W", "max-memory-size=128K,trap-on-grow-failure"], "grow", "2").code(1).complains("memory");
}

#[test]
fn counts_are_limited() {
    run(&["-W", "max-instances=0"], "hello.wat", &[]).finish().code(1).complains("instance");
    run(&["-W", "max-memories=0"], "hello.wat", &[]).finish().code(1).complains("memor");
    run(&["-W", "max-tables=0", "--invoke", "grow"], "grow.wat", &["1"]).finish().code(1).complains("table");
}

#[test]
fn the_stack_can_be_set() {
    run(&["-W", "max-wasm-stack=64K", "--invoke", "recurse"], "traps.wat", &[]).finish().code(134).complains("call stack exhausted");
    run(&["-W", "max-wasm-stack=16M", "--invoke", "recurse"], "traps.wat", &[]).finish().code(134).complains("call stack exhausted");
}

#[test]
fn compiling_is_limited() {
    let refused = |option: &str, limit: &str| {
        run(&["-C", "cache=n", "-W", option], "hello.wat", &[]).finish().code(1).complains(&format!("`Budget::{limit}`"));
    };
    refused("max-module-size=16", "module_bytes");
    refused("max-functions=0", "functions");
    refused("max-compile-memory=1", "compile_memory_bytes");
    refused("compile-timeout=0s", "compile_time");
    refused("max-host-memory=100", "host_bytes");
    refused("budget=untrusted,max-wasm-stack=2M", "stack_bytes");
    run(&["-W", "budget=untrusted"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    run(&["-W", "budget=none"], "hello.wat", &[]).finish().code(2).complains("`trusted` or `untrusted`");
}

#[test]
fn a_trap_leaves_a_core_dump() {
    let path = std::env::temp_dir().join(format!("peregrine-core-{}", std::process::id()));
    let option = format!("coredump={}", path.display());
    run(&["-D", &option, "--invoke", "recurse"], "traps.wat", &[]).finish().code(134).complains("core dump written to");
    let dump = std::fs::read(&path).expect("the file was written");
    std::fs::remove_file(&path).expect("it is there");
    assert!(dump.starts_with(b"\0asm") && dump.windows(9).any(|bytes| bytes == b"corestack"));
    run(&["-D", &option], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    assert!(!path.exists(), "what ends well leaves none");
}
