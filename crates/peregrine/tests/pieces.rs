//! Modules in large files, which are read in pieces: bodies are validated as they pass and read again when they are compiled.

use peregrine::{Budget, Config, Engine, Instance, Module, Store, Strategy};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Functions that return their number, and data that makes the file large. `body` is that of the last one.
fn binary(functions: usize, body: &str) -> Vec<u8> {
    let function = |number: usize| format!("(func (export \"f{number}\") (result i32) (i32.const {number}))");
    let text = format!(
        "(module (memory 8) {} (func (export \"last\") (result i32) {body}) (data (i32.const 0) \"{}\"))",
        (0..functions).map(function).collect::<String>(),
        "abcdefgh".repeat(40_000)
    );
    wat::parse_str(text).expect("good text")
}

/// Writes a file, and waits until another change would show.
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("it can be written");
    std::thread::sleep(Duration::from_millis(250));
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("app.wasm");
    (folder, path)
}

fn engine() -> Engine {
    Engine::new(Config::new().strategy(Strategy::Tiered)).expect("a good configuration")
}

fn call(module: &Module, name: &str) -> Result<i32, String> {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[]).expect("it can be instantiated");
    let function = instance.get_typed_func::<(), i32>(&mut store, name).expect("it is exported");
    function.call(&mut store, ()).map_err(|error| format!("{error:#}"))
}

fn reads(module: &Module) -> (u64, u64) {
    let metrics = module.tiering_metrics();
    (metrics.bodies_read, metrics.whole_reads)
}

#[test]
fn bodies_are_read_when_they_are_compiled() {
    let (_folder, path) = folder();
    write(&path, &binary(3000, "(i32.load8_u (i32.const 9))"));
    let module = Module::from_file(&engine(), &path).expect("a good module");
    for name in [0, 7, 2999, 7].map(|number| format!("f{number}")) {
        assert_eq!(call(&module, &name).map(|number| format!("f{number}")), Ok(name));
    }
    assert_eq!(call(&module, "last"), Ok(i32::from(b'b')));
    assert_eq!(reads(&module), (4, 0));
    let held = Module::new(module.engine(), fs::read(&path).expect("it is there")).expect("the same module");
    assert_eq!(module.exports().count(), held.exports().count());
    assert_eq!(call(&held, "last"), Ok(i32::from(b'b')));
    assert_eq!(reads(&held), (0, 0));
}

#[test]
fn a_file_may_be_replaced_and_not_be_changed() {
    let (folder, path) = folder();
    let bytes = binary(10, "(i32.const 1000)");
    write(&path, &bytes);
    let module = Module::from_file(&engine(), &path).expect("a good module");
    assert_eq!((call(&module, "f1"), reads(&module)), (Ok(1), (1, 0)));
    let other = folder.path().join("other.wasm");
    write(&other, &binary(10, "(i32.const 2000)"));
    fs::rename(&other, &path).expect("it can be replaced");
    // A file without a name is in another state, so all of it is looked at: it is what was validated.
    assert_eq!((call(&module, "last"), reads(&module)), (Ok(1000), (1, 1)));
    assert_eq!(call(&Module::from_file(&engine(), &path).expect("a good module"), "last"), Ok(2000));

    for (at, time) in [(10, false), (bytes.len() - 1, true)] {
        write(&path, &bytes);
        let module = Module::from_file(&engine(), &path).expect("a good module");
        assert_eq!(call(&module, "f1"), Ok(1));
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("it has a time");
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).expect("it can be written");
        if time {
            fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("times can be set");
        }
        let error = call(&module, "last").expect_err("nobody knows what it was");
        assert!(error.contains("was changed in place"), "{error}");
        assert_eq!(call(&module, "f1"), Ok(1), "what has code goes on");
    }
}

#[test]
fn what_is_wrong_is_told_as_of_any_other_module() {
    let (_folder, path) = folder();
    let mut too_long = binary(10, "(i32.const 1000)");
    let code_end = too_long.windows(5).position(|window| window == [0, 0x41, 0xe8, 0x07, 0x0b]).expect("the last body");
    let mut wrong_type = too_long.clone();
    wrong_type[code_end + 1] = 0x42;
    too_long[code_end - 1] += 1;
    let cut = binary(10, "(i32.const 1000)");
    for bytes in [&wrong_type[..], &too_long, &cut[..cut.len() - 3]] {
        write(&path, bytes);
        let error = format!("{:#}", Module::from_file(&engine(), &path).expect_err("it is not valid"));
        let expected = format!("{:#}", Module::new(&engine(), bytes).expect_err("it is not valid"));
        assert!(error.ends_with(&expected), "{error}\n{expected}");
    }
    // Limits too.
    write(&path, &cut);
    let limits: [fn(&mut Budget); 5] = [
        |budget| budget.functions = 10,
        |budget| budget.function_bytes = 3,
        |budget| budget.module_bytes = 300_000,
        |budget| budget.compile_time = Duration::ZERO,
        |budget| budget.compile_memory_bytes = 1000,
    ];
    for limit in limits {
        let mut budget = Budget::trusted();
        limit(&mut budget);
        let engine = Engine::new(Config::new().strategy(Strategy::Tiered).budget(budget)).expect("a good configuration");
        let error = format!("{:#}", Module::from_file(&engine, &path).expect_err("too much"));
        let expected = format!("{:#}", Module::new(&engine, &cut).expect_err("too much"));
        assert!(error.ends_with(&expected) && expected.contains("Budget::"), "{error}\n{expected}");
    }
}

#[test]
fn what_can_only_be_read_as_a_whole_is() {
    let (_folder, path) = folder();
    let filler = "abcdefgh".repeat(40_000);
    let hints = format!(
        "(module (memory 8) (func (export \"last\") (result i32)
            (@metadata.code.branch_hint \"\\01\") (if (i32.const 1) (then (return (i32.const 43)))) (i32.const 0)) (data (i32.const 0) \"{filler}\"))"
    );
    write(&path, &wat::parse_str(hints).expect("good text"));
    let module = Module::from_file(&engine(), &path).expect("a good module");
    assert_eq!((call(&module, "last"), reads(&module)), (Ok(43), (0, 0)));
    // Text, and modules that are compiled as a whole.
    write(&path, format!("(module (func (export \"last\") (result i32) (i32.const 5)) (; {filler} ;))").as_bytes());
    assert_eq!(call(&Module::from_file(&engine(), &path).expect("a good module"), "last"), Ok(5));
    write(&path, &binary(3, "(i32.const 6)"));
    let ahead = Engine::new(Config::new().strategy(Strategy::Ahead)).expect("a good configuration");
    assert_eq!(call(&Module::from_file(&ahead, &path).expect("a good module"), "last"), Ok(6));
    let only_images = Engine::new(Config::new().strategy(Strategy::Precompiled)).expect("a good configuration");
    let error = format!("{:#}", Module::from_file(&only_images, &path).expect_err("nothing compiles it"));
    assert!(error.contains("Strategy::Precompiled"), "{error}");
}
