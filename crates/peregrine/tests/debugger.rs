//! A debugger sees the guest's functions by name and walks from a host function through the guest to `main`.

use peregrine::{Config, Engine, Linker, Module, Result, Store};
use std::process::Command;

const CHILD: &str = "PEREGRINE_DEBUGGED_CHILD";

/// Not a test of its own: what the debugger runs. Aborts in a host function under three guest functions.
#[test]
fn debugged_child() -> Result<()> {
    if std::env::var_os(CHILD).is_none() {
        return Ok(());
    }
    let mut config = Config::new();
    config.debug_info(true).compiler_inlining(false);
    let engine = Engine::new(&config)?;
    let text = r#"(module (import "host" "abort" (func $abort))
        (func $innermost (call $abort)) (func $middle (call $innermost)) (func $outermost (export "run") (call $middle)))"#;
    let module = Module::new(&engine, text)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "abort", || -> () { std::process::abort() })?;
    let mut store = Store::new(&engine, ());
    linker.instantiate(&mut store, &module)?.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())
}

#[test]
fn gdb_walks_through_the_guest() {
    let present = Command::new("gdb").arg("--version").output().is_ok_and(|output| output.status.success());
    if !present {
        eprintln!("gdb is not installed: nothing to test");
        return;
    }
    let child = std::env::current_exe().expect("this test");
    let output = Command::new("gdb")
        .args(["--batch", "--nx", "-iex", "set debuginfod enabled off", "-ex", "run", "-ex", "backtrace", "--args"])
        .arg(child)
        .args(["--exact", "debugged_child", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .expect("gdb starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("ptrace: Operation not permitted") || text.contains("Couldn't get registers") {
        eprintln!("this machine does not let processes be debugged: nothing to test");
        return;
    }
    let frames: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
    let position = |name: &str| frames.iter().rposition(|frame| frame.contains(name));
    let order = ["process::abort", "innermost", "middle", "outermost", "debugged_child"].map(position);
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
