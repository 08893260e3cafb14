//! Images, targets, settings and validation.

use crate::peregrine::{guest, peregrine, run};

fn compiled(flags: &[&str], name: &str) -> crate::peregrine::Peregrine {
    let guest = guest(name);
    let words = ["compile"].iter().chain(flags).map(|word| word.to_string()).chain([guest.display().to_string()]);
    peregrine(words)
}

#[test]
fn images_run() {
    peregrine(["run", "hello.pgn"]).after(compiled(&[], "hello.wat")).finish().code(0).stdout("hello\n");
    peregrine(["a.image"]).after(compiled(&["-o", "a.image"], "hello.wat")).finish().code(0).stdout("hello\n");
    peregrine(["--allow-precompiled", "args.pgn", "x"]).after(compiled(&[], "args.wat")).finish().code(0).stdout("args.pgn\0x\0");
    peregrine(["--invoke", "add", "numbers.pgn", "1", "2"]).after(compiled(&[], "numbers.wat")).finish().code(0).stdout("3\n");
    peregrine(["trap.pgn"]).after(compiled(&[], "trap.wat")).finish().code(134).complains("trapper!inner");
}

#[test]
fn compilation_is_deterministic() {
    let image = |flags: &[&str]| {
        let finished = compiled(flags, "traps.wat").finish().code(0);
        std::fs::read(finished.dir.path().join("traps.pgn")).expect("the image")
    };
    let first = image(&[]);
    assert_eq!(first, image(&[]));
    assert_eq!(first, image(&["-C", "parallel-compilation=n"]));
}

#[test]
fn damaged_images_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hello.pgn");
    let file = path.display().to_string();
    compiled(&["-o", &file], "hello.wat").finish().code(0);
    let image = std::fs::read(&path).unwrap();
    for (at, len) in [(9, image.len()), (40, image.len()), (image.len() / 2, image.len()), (0, image.len() - 1), (0, 100), (0, 12)] {
        let mut damaged = image[..len].to_vec();
        if at > 0 {
            damaged[at] ^= 0x10;
        }
        std::fs::write(&path, &damaged).unwrap();
        let finished = peregrine(["run", &file]).finish().code(1).complains("hello.pgn").stdout("");
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    }
    std::fs::write(&path, &image).unwrap();
    peregrine(["run", &file]).finish().code(0).stdout("hello\n");
}

#[test]
fn images_for_other_machines_and_settings_are_refused() {
    for target in ["aarch64-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu", "s390x-unknown-linux-gnu"] {
        if cfg!(target_arch = "x86_64") {
            peregrine(["hello.pgn"]).after(compiled(&["--target", target], "hello.wat")).finish().code(1).complains(&target[..5]);
        }
    }
    let finished = peregrine(["-W", "fuel=1000", "hello.pgn"]).after(compiled(&[], "hello.wat")).finish().code(1);
    finished.complains("fuel");
    compiled(&["--target", "nonsense"], "hello.wat").finish().code(1).complains("nonsense");
}

#[test]
fn optimization_levels_give_the_same_results() {
    for level in ["0", "1", "2", "s"] {
        run(&["-O", &format!("opt-level={level}"), "--invoke", "add"], "numbers.wat", &["1", "2"]).finish().code(0).stdout("3\n");
    }
    run(&["-O", "memory-reservation=0,memory-guard-size=0"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    run(&["-O", "memory-reservation=0", "--invoke", "load"], "traps.wat", &["65536"]).finish().code(134).complains("out of bounds");
}

#[test]
fn an_image_is_not_compiled_again() {
    peregrine(["compile", "hello.pgn"]).after(compiled(&[], "hello.wat")).finish().code(1).complains("compiled already");
}

#[test]
fn validation_names_what_is_wrong() {
    let good = guest("hello.wat").display().to_string();
    peregrine(["validate", &good]).finish().code(0).stdout("");
    peregrine(["validate", &good, "bad.wat"]).file("bad.wat", "(module (func (result i32)))").finish().code(1).complains("bad.wat");
    peregrine(["validate", "-W", "simd=n", &guest("vector.wat").display().to_string()]).finish().code(1).complains("SIMD");
}

#[test]
fn settings_are_shown() {
    peregrine(["settings"]).finish().code(0).says("target").says("memory reservation").says("simd");
    let finished = peregrine(["settings", "--json", "-O", "opt-level=0"]).finish().code(0).says("\"opt_level\": \"None\"");
    assert!(serde_json::from_str::<serde_json::Value>(&finished.stdout).is_ok());
}

#[test]
fn profilers_are_told() {
    let finished = run(&["--profile", "jitdump"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    assert!(finished.left("jit-"));
    run(&["--profile", "perfmap"], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    run(&["--profile", "nonsense"], "hello.wat", &[]).finish().code(2);
}
