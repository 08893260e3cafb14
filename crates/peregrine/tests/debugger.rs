//! A debugger sees the guest's functions by name and walks from a host function through the guest to `main`.

use peregrine::{Config, Engine, Linker, Module, Result, Store, Strategy, TieringStress};
use std::process::Command;

const CHILD: &str = "PEREGRINE_DEBUGGED_CHILD";

/// Not a test of its own: what the debugger runs. Aborts in a host function under three guest functions, one of them in a loop.
#[test]
fn debugged_child() -> Result<()> {
    let mut config = Config::new();
    match std::env::var(CHILD).as_deref() {
        Ok("ahead") => {}
        Ok("baseline") => _ = config.strategy(Strategy::Baseline),
        Ok("tiered") => _ = config.strategy(Strategy::Tiered),
        Ok("loops") => _ = config.strategy(Strategy::Tiered).tiering_stress(TieringStress::LoopEntryEverywhere),
        _ => return Ok(()),
    }
    config.debug_info(true).compiler_inlining(false);
    let engine = Engine::new(&config)?;
    let text = r#"(module (import "host" "abort" (func $abort))
        (func $innermost (call $abort))
        (func $middle (local $turns i32)
            (loop $again
                (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
                (br_if $again (i32.lt_u (local.get $turns) (i32.const 5)))
                (call $innermost)))
        (func $outermost (export "run") (call $middle)))"#;
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
    // Code that is there from the start, and code that is made when it is called or hot.
    for strategy in ["ahead", "baseline", "tiered", "loops"] {
        if !check(strategy) {
            eprintln!("this machine does not let processes be debugged: nothing to test");
            return;
        }
    }
}

/// Whether the debugger could run; what it saw is right then.
fn check(strategy: &str) -> bool {
    let child = std::env::current_exe().expect("this test");
    let output = Command::new("gdb")
        .args(["--batch", "--nx", "-iex", "set debuginfod enabled off", "-ex", "run", "-ex", "backtrace", "--args"])
        .arg(child)
        .args(["--exact", "debugged_child", "--nocapture", "--test-threads=1"])
        .env(CHILD, strategy)
        .output()
        .expect("gdb starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("ptrace: Operation not permitted") || text.contains("Couldn't get registers") {
        return false;
    }
    let frames: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
    let position = |name: &str| frames.iter().rposition(|frame| frame.contains(name));
    let order = ["process::abort", "innermost", "middle", "outermost", "debugged_child"].map(position);
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{strategy}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    true
}
