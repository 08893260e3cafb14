//! Hostile modules cost no more than they may. The program `bombs` measures; unoptimized builds get more time and the same memory.

use std::process::Command;

#[test]
fn hostile_modules_stay_within_their_limits() {
    let factor = if cfg!(debug_assertions) { "12" } else { "1" };
    let output = Command::new(env!("CARGO_BIN_EXE_bombs")).args(["--factor", factor]).output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}");
}
