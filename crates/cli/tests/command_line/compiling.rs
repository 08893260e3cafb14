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
            // The baseline has code for this machine alone.
            let flags = ["-C", "strategy=ahead", "--target", target];
            peregrine(["hello.pgn"]).after(compiled(&flags, "hello.wat")).finish().code(1).complains(&target[..5]);
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
    let image = peregrine(["compile", "-o", "hello.pgn", &guest("hello.wat").display().to_string()]).finish().code(0);
    let image = image.dir.path().join("hello.pgn").display().to_string();
    peregrine(["run", "--profile", "perfmap", &image]).finish().code(0).stdout("hello\n");
    run(&["--profile", "nonsense"], "hello.wat", &[]).finish().code(2);
}

#[test]
fn an_image_is_written_to_standard_output() {
    // It is no text, so the child writes it to a file itself.
    let hello = guest("hello.wat").display().to_string();
    let finished = peregrine(["compile", "-o", "-", &hello]).file("hello.out", "").stdout_to("hello.out").finish().code(0);
    let file = finished.dir.path().join("hello.out").display().to_string();
    peregrine(["run", &file]).finish().code(0).stdout("hello\n");
    assert!(!finished.dir.path().join("-").exists());
}

#[test]
fn every_strategy_runs_programs() {
    for strategy in ["tiered", "ahead", "baseline", "auto"] {
        for deferred in ["n", "y"] {
            let options = format!("strategy={strategy},deferred-validation={deferred},cache=n");
            run(&["-C", &options], "hello.wat", &[]).finish().code(0).stdout("hello\n");
            run(&["-C", &options], "trap.wat", &[]).finish().code(134).complains("trapper!inner");
        }
    }
    for compiler in ["auto", "cranelift", "optimizing", "winch", "baseline"] {
        run(&["-C", &format!("compiler={compiler}")], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    }
    for stress in ["none", "optimize", "loops", "budget", "7"] {
        run(&["-C", &format!("strategy=tiered,tiering-stress={stress}")], "hello.wat", &[]).finish().code(0).stdout("hello\n");
    }
    run(&["-C", "strategy=fastest"], "hello.wat", &[]).finish().code(2).complains("`tiered`, `ahead`, `baseline` or `precompiled`");
    run(&["-C", "tiering-stress=much"], "hello.wat", &[]).finish().code(2).complains("a number");
}

#[test]
fn settings_tell_the_strategy() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "tiered"),
        (&["-C", "strategy=ahead"], "ahead"),
        (&["-C", "strategy=precompiled"], "precompiled"),
        (&["-C", "compiler=cranelift"], "ahead"),
        (&["-C", "compiler=winch"], "baseline"),
        (&["-C", "compiler=auto"], "tiered"),
        (&["-C", "strategy=auto"], "tiered"),
        (&["-C", "strategy=auto,compiler=winch"], "baseline"),
        (&["-C", "strategy=auto", "-D", "debug-info"], "ahead"),
        (&["-D", "debug-info"], "ahead"),
    ];
    for (options, strategy) in cases {
        let words = || ["settings"].iter().chain(*options);
        let variable = "PEREGRINE_STRATEGY";
        peregrine(words()).without(variable).finish().code(0).says(&format!("strategy              {strategy}\n"));
        peregrine(words().chain(&["--json"])).without(variable).finish().code(0).says(&format!("\"strategy\": \"{strategy}\""));
    }
    peregrine(["settings"]).env("PEREGRINE_STRATEGY", "baseline").finish().code(0).says("strategy              baseline\n");
    let finished = run(&[], "hello.wat", &[]).env("PEREGRINE_STRATEGY", "quick").finish().code(1);
    finished.complains("PEREGRINE_STRATEGY is `quick`").complains("`ahead`");
}

#[test]
fn tiers_are_logged() {
    let log = |options: &str| run(&["-C", options], "hello.wat", &[]).env("PEREGRINE_LOG", "peregrine_engine=trace").finish().code(0);
    log("strategy=tiered,cache=n").complains("compiled at its first call");
    log("strategy=tiered,tiering-stress=optimize,cache=n").complains("compiled at its first call").complains("optimized");
}

#[test]
fn images_alone_run_where_nothing_may_be_compiled() {
    run(&["-C", "strategy=precompiled"], "hello.wat", &[]).finish().code(1).complains("hello.wat").complains("peregrine compile");
    peregrine(["run", "-C", "strategy=precompiled", "hello.pgn"]).after(compiled(&[], "hello.wat")).finish().code(0).stdout("hello\n");
}

#[test]
fn deferred_validation_accepts_bodies_that_do_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("invalid.wasm");
    let mut wasm = wat::parse_str("(module (func (export \"_start\")) (func (drop (i32.const 1))))").unwrap();
    let drop_at = wasm.iter().rposition(|byte| *byte == 0x1a).unwrap();
    wasm[drop_at] = 0x01;
    std::fs::write(&path, wasm).unwrap();
    let file = path.display().to_string();
    peregrine(["run", "-C", "strategy=tiered,cache=n", &file]).finish().code(1).complains("invalid.wasm").complains("type mismatch");
    peregrine(["run", "-C", "strategy=tiered,deferred-validation,cache=n", &file]).finish().code(0);
}

#[test]
fn whole_modules_are_compiled_whatever_the_strategy() {
    for strategy in ["tiered", "ahead", "precompiled"] {
        let options = format!("strategy={strategy}");
        peregrine(["hello.pgn"]).after(compiled(&["-C", &options], "hello.wat")).finish().code(0).stdout("hello\n");
        let shown = peregrine(["inspect", "hello.pgn"]).after(compiled(&["-C", &options], "hello.wat")).finish().code(0);
        shown.says("optimizing");
    }
    let shown = peregrine(["inspect", "hello.pgn"]).after(compiled(&["-C", "strategy=baseline"], "hello.wat")).finish().code(0);
    shown.says("baseline");
}

#[test]
fn errors_in_text_name_the_file() {
    let finished = peregrine(["run", "wrong.wat"]).file("wrong.wat", "(module\n  (func nonsense))").finish().code(1);
    assert!(!finished.stderr.contains("anon"), "{}", finished.stderr);
    finished.complains("wrong.wat:2:9");
}
