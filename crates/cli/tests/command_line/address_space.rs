//! The command where a process may have little address space.

use crate::peregrine::guest;
use std::process::Command;

/// What `peregrine WORDS` writes under `ulimit -v KIB`.
fn under(kib: u64, words: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v \"$1\" && shift && exec \"$@\"", "sh", &kib.to_string(), env!("CARGO_BIN_EXE_peregrine")]);
    command.args(words).current_dir(dir.path()).env("HOME", dir.path()).env("XDG_CACHE_HOME", dir.path().join("cache"));
    let output = command.output().expect("there is a shell");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn guests_run_with_little_address_space() {
    let (hello, grow) = (guest("hello.wat"), guest("grow.wat"));
    let (hello, grow) = (hello.to_str().expect("a path of text"), grow.to_str().expect("a path of text"));
    let usual = [under(u64::MAX >> 10, &["run", hello]), under(u64::MAX >> 10, &["run", grow])];
    for kib in [4_000_000, 1_000_000, 500_000] {
        for strategy in ["tiered", "ahead", "baseline"] {
            let strategy = format!("strategy={strategy}");
            assert_eq!(under(kib, &["run", "-C", &strategy, hello]), usual[0], "{kib} {strategy}");
            assert_eq!(under(kib, &["run", "-C", &strategy, grow]), usual[1], "{kib} {strategy}");
        }
    }
}

#[test]
fn images_for_more_address_space_are_refused_with_the_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("grow.cwasm");
    let image = image.to_str().expect("a path of text");
    let grow = guest("grow.wat");
    let grow = grow.to_str().expect("a path of text");
    let compile = |options: &[&str]| {
        let words = [&["compile", "-o", image], options, &[grow]].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_peregrine")).args(words).env("HOME", dir.path()).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    compile(&[]);
    let refusal = under(4_000_000, &["run", "--allow-precompiled", image]);
    assert!(refusal.contains("`ulimit -v` (RLIMIT_AS) is 4000000 KiB") && refusal.contains("-O memory-reservation=0"), "{refusal}");
    compile(&["-O", "memory-reservation=0"]);
    assert_eq!(under(4_000_000, &["run", "--allow-precompiled", image]), under(u64::MAX >> 10, &["run", grow]));
}
