//! What the cache keeps of modules whose functions are compiled one by one.

mod exports;
mod patience;
mod settled;

use exports::call;
use patience::wait_for;
use peregrine::{Budget, Cache, Config, DefinedFuncIndex, Engine, GuestProfiler, Instance, Module, Store, Strategy, Trap};
use settled::{settle, while_unsettled};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Each function is called by its number; `hot` loops.
const MODULE: &str = r#"(module
    (memory 1) (data (i32.const 8) "\2a")
    (func (export "one") (result i32) (call $load))
    (func $load (result i32) (i32.load8_u (i32.const 8)))
    (func (export "two") (result i32) (i32.add (call $load) (i32.const 1)))
    (func (export "trap") (result i32) unreachable)
    (func (export "hot") (param $n i32) (result i32) (local $sum i32)
        (loop $next
            (local.set $sum (i32.add (local.get $sum) (call $step (local.get $n))))
            (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $sum))
    (func $step (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3))))"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for the test"))
    }

    fn cache(&self) -> Cache {
        Cache::new(self.0.path().join("cache")).expect("a folder of our own")
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.strategy(Strategy::Tiered).cache(Some(self.cache()));
        config
    }

    fn engine(&self) -> Engine {
        Engine::new(&self.config()).expect("a good configuration")
    }

    /// The files with code.
    fn entries(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.0.path().join("cache")).expect("the cache is there");
        let mut files: Vec<_> = files.map(|file| file.expect("it can be listed").path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "pgn"));
        files.sort();
        files
    }

    fn entry(&self) -> PathBuf {
        let entries = self.entries();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0].clone()
    }
}

fn module(engine: &Engine) -> Module {
    Module::new(engine, MODULE).expect("a good module")
}

#[test]
fn the_next_start_has_the_code_of_what_ran() {
    let folder = Folder::new();
    let first = module(&folder.engine());
    assert_eq!(call(&first, &["one"]), [42]);
    assert_eq!((first.tiering_metrics().precompiled_functions, first.tiering_metrics().baseline_functions), (0, 2));
    drop(first);
    let second = module(&folder.engine());
    assert_eq!(second.tiering_metrics().precompiled_functions, 2);
    assert_eq!(call(&second, &["one"]), [42]);
    assert_eq!(second.tiering_metrics().baseline_functions, 0);
    assert_eq!(call(&second, &["one", "two"]), [42, 43]);
    assert_eq!(second.tiering_metrics().baseline_functions, 1);
    drop(second);
    let third = module(&folder.engine());
    assert_eq!(third.tiering_metrics().precompiled_functions, 3);
    assert_eq!(call(&third, &["two", "one"]), [43, 42]);
    assert_eq!(third.tiering_metrics().baseline_functions, 0);
}

#[test]
fn backtraces_of_kept_code_are_the_same() {
    let folder = Folder::new();
    let trace = || {
        let module = module(&folder.engine());
        let mut store = Store::new(module.engine(), ());
        let instance = Instance::new(&mut store, &module, &[]).expect("it can be instantiated");
        let function = instance.get_typed_func::<(), i32>(&mut store, "trap").expect("it is exported");
        let error = function.call(&mut store, ()).expect_err("it traps");
        (format!("{error:#}"), module.tiering_metrics().precompiled_functions)
    };
    let (first, second) = (trace(), trace());
    assert_eq!(first.0, second.0);
    assert_eq!((first.1, second.1), (0, 1));
}

/// Runs `hot` until what it calls is optimized.
fn run_hot(module: &Module) {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[]).expect("it can be instantiated");
    let hot = instance.get_typed_func::<i32, i32>(&mut store, "hot").expect("it is exported");
    wait_for("something optimized", || {
        assert_eq!(hot.call(&mut store, 1000).expect("it does not trap"), 3 * 1000 * 1001 / 2);
        (module.tiering_metrics().optimized_functions >= 1).then_some(())
    });
}

#[test]
fn optimized_code_is_kept_and_runs_in_the_next_process() {
    let folder = Folder::new();
    let first = module(&folder.engine());
    run_hot(&first);
    first.keep_compiled();
    let entry = fs::read(folder.entry()).expect("it was written");
    let second = module(&folder.engine());
    assert!(second.tiering_metrics().precompiled_functions >= 2);
    let mut store = Store::new(second.engine(), ());
    let instance = Instance::new(&mut store, &second, &[]).expect("it can be instantiated");
    let hot = instance.get_typed_func::<i32, i32>(&mut store, "hot").expect("it is exported");
    assert_eq!(hot.call(&mut store, 100_000).expect("it does not trap"), (3i64 * 100_000 * 100_001 / 2) as i32);
    let metrics = second.tiering_metrics();
    assert_eq!((metrics.baseline_functions, metrics.optimized_functions), (0, 0));
    // Nothing is new, so nothing is written.
    second.keep_compiled();
    assert!(fs::read(folder.entry()).expect("it is there still") == entry);
}

#[test]
fn an_entry_is_written_at_a_quiet_moment() {
    let folder = Folder::new();
    let module = module(&folder.engine());
    run_hot(&module);
    wait_for("an entry while the module lives", || (!folder.entries().is_empty()).then_some(()));
}

#[test]
fn the_entry_is_there_when_the_last_handle_is_dropped_whoever_has_the_code() {
    let folder = Folder::new();
    let module = module(&folder.engine());
    assert_eq!(call(&module, &["one"]), [42]);
    // As a thread of the optimizing tier may at that moment.
    let holder = GuestProfiler::new(module.engine(), "test", Duration::from_millis(1), [("module".to_owned(), module.clone())])
        .expect("modules of one engine");
    assert!(folder.entries().is_empty());
    drop(module);
    assert_eq!(folder.entries().len(), 1);
    let written = fs::metadata(folder.entry()).and_then(|metadata| metadata.modified()).expect("it has a time");
    drop(holder);
    let after = fs::metadata(folder.entry()).and_then(|metadata| metadata.modified()).expect("it has a time");
    assert_eq!(written, after, "there was nothing new to write");
}

#[test]
fn damaged_entries_are_compiled_again_in_silence() {
    let folder = Folder::new();
    let first = module(&folder.engine());
    assert_eq!(call(&first, &["one"]), [42]);
    drop(first);
    let entry = folder.entry();
    let good = fs::read(&entry).expect("it was written");
    let step = good.len() / 37;
    let flipped = (0..37).map(|part| {
        let mut bytes = good.clone();
        bytes[part * step + part] ^= 1 << (part % 8);
        bytes
    });
    let cut = [0, 1, 7, 100, good.len() / 2, good.len() - 1].into_iter().map(|len| good[..len].to_vec());
    let longer = [good.clone(), vec![0; 100]].concat();
    let foreign = fs::read(other_image(&folder)).expect("it was written");
    for damaged in flipped.chain(cut).chain([longer, foreign, b"text".to_vec()]) {
        if damaged == good {
            continue;
        }
        fs::write(&entry, &damaged).expect("it can be written");
        let module = module(&folder.engine());
        assert_eq!(call(&module, &["one", "two"]), [42, 43]);
        drop(module);
        let again = fs::read(&entry).expect("it was written again");
        assert!(again != damaged);
    }
}

/// A good image of another module.
fn other_image(folder: &Folder) -> PathBuf {
    let path = folder.0.path().join("other.pgn");
    let image = Engine::default().precompile_module(b"(module (func (export \"one\") (result i32) (i32.const 7)))");
    fs::write(&path, image.expect("a good module")).expect("it can be written");
    path
}

#[test]
fn other_settings_have_an_entry_of_their_own() {
    let folder = Folder::new();
    for fuel in [false, true, false, true] {
        let mut config = folder.config();
        config.consume_fuel(fuel);
        let module = module(&Engine::new(&config).expect("a good configuration"));
        let mut store = Store::new(module.engine(), ());
        if fuel {
            store.set_fuel(1000).expect("fuel is on");
        }
        let instance = Instance::new(&mut store, &module, &[]).expect("it can be instantiated");
        let one = instance.get_typed_func::<(), i32>(&mut store, "one").expect("it is exported");
        assert_eq!(one.call(&mut store, ()).expect("it does not trap"), 42);
    }
    assert_eq!(folder.entries().len(), 2);
}

#[test]
fn what_was_not_validated_is_not_trusted() {
    let folder = Folder::new();
    let mut wasm =
        wat::parse_str(r#"(module (func (export "one") (result i32) (i32.const 42)) (func (drop (i32.const 1))))"#).expect("good text");
    let drop_at = wasm.iter().rposition(|byte| *byte == 0x1a).expect("there is a drop");
    wasm[drop_at] = 0x01;
    let deferred = || {
        let mut config = folder.config();
        config.deferred_validation(true);
        Engine::new(&config).expect("a good configuration")
    };
    for _ in 0..2 {
        let module = Module::new(&deferred(), &wasm).expect("bodies are not looked at");
        assert_eq!(call(&module, &["one"]), [42]);
        drop(module);
        assert!(Module::new(&folder.engine(), &wasm).is_err());
    }
}

#[test]
fn writers_at_the_same_time_leave_a_good_entry() {
    let folder = Folder::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let folder = &folder;
            scope.spawn(move || {
                for round in 0..10 {
                    let module = module(&folder.engine());
                    let names: &[&str] = if (thread + round) % 2 == 0 { &["one"] } else { &["two"] };
                    assert_eq!(call(&module, names), [if names == ["one"] { 42 } else { 43 }]);
                }
            });
        }
    });
    let last = module(&folder.engine());
    assert!(last.tiering_metrics().precompiled_functions >= 2);
    assert_eq!(call(&last, &["one", "two"]), [42, 43]);
}

#[test]
fn a_writer_that_is_killed_leaves_a_good_entry_or_none() {
    const CHILD: &str = "PEREGRINE_TEST_WRITER";
    if let Some(path) = std::env::var_os(CHILD) {
        // Writes until it is killed.
        loop {
            let mut config = Config::new();
            config.strategy(Strategy::Tiered).cache(Some(Cache::new(Path::new(&path)).expect("a folder of our own")));
            let cache = config.clone();
            let module = module(&Engine::new(&cache).expect("a good configuration"));
            call(&module, &["one"]);
            drop(module);
            Cache::new(Path::new(&path)).and_then(|cache| cache.clear()).expect("it can be cleared");
        }
    }
    let folder = Folder::new();
    let path = folder.cache().path().to_owned();
    for round in 0..12u64 {
        let program = std::env::current_exe().expect("this test has a file");
        let mut child = std::process::Command::new(program)
            .args(["--exact", "a_writer_that_is_killed_leaves_a_good_entry_or_none"])
            .env(CHILD, &path)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it can be started");
        std::thread::sleep(Duration::from_millis(20 + 7 * round));
        child.kill().expect("it runs");
        child.wait().expect("it ran");
        let module = module(&folder.engine());
        assert_eq!(call(&module, &["one", "two"]), [42, 43]);
    }
}

/// A module in a file that is large enough to be recognized: `one` and `two` as above, and data that nothing reads.
fn large_file(folder: &Folder, name: &str, answer: i32) -> PathBuf {
    let text = format!(
        r#"(module (memory 8) (data (i32.const 0) "{}")
            (func (export "one") (result i32) (i32.const {answer}))
            (func (export "two") (result i32) (i32.const 43)))"#,
        "abcdefgh".repeat(50_000)
    );
    let path = folder.0.path().join(name);
    fs::write(&path, wat::parse_str(text).expect("good text")).expect("it can be written");
    path
}

fn stamps(folder: &Folder) -> usize {
    let files = fs::read_dir(folder.0.path().join("cache")).expect("the cache is there");
    files.filter(|file| file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|extension| extension == "content"))).count()
}

#[test]
fn a_file_that_did_not_change_is_recognized_and_one_that_did_is_read() {
    let folder = Folder::new();
    let path = large_file(&folder, "app.wasm", 42);
    let load = || Module::from_file(&folder.engine(), &path).expect("a good module");
    let stamped = while_unsettled(&path, || {
        folder.cache().clear().expect("it can be cleared");
        assert_eq!(call(&load(), &["one"]), [42]);
        stamps(&folder)
    });
    assert_eq!(stamped, 0, "what changed just now may change again unseen");
    settle(&path);
    assert_eq!(call(&load(), &["one"]), [42]);
    assert_eq!(stamps(&folder), 1);
    let recognized = load();
    assert_eq!(recognized.tiering_metrics().precompiled_functions, 1);
    // What it lacks is compiled from the file, also when that has another name by now, or none.
    fs::remove_file(&path).expect("it is there");
    assert_eq!(call(&recognized, &["two", "one"]), [43, 42]);
    let metrics = recognized.tiering_metrics();
    assert_eq!((metrics.baseline_functions, metrics.bodies_read, metrics.whole_reads), (1, 0, 1));
    drop(recognized);

    // Another file of that name, and the same file with other content, are others.
    large_file(&folder, "app.wasm", 44);
    assert_eq!(call(&load(), &["one"]), [44]);
    settle(&path);
    assert_eq!(call(&load(), &["one"]), [44]);
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("it has a time");
    let new = fs::read(large_file(&folder, "other.wasm", 46)).expect("it was written");
    fs::write(&path, new).expect("it can be written");
    fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("times can be set");
    assert_eq!(call(&load(), &["one"]), [46]);

    // Damaged stamps are none.
    settle(&path);
    assert_eq!(call(&load(), &["one"]), [46]);
    for file in fs::read_dir(folder.0.path().join("cache")).expect("the cache is there").flatten() {
        if file.path().extension().is_some_and(|extension| extension == "content") {
            let mut bytes = fs::read(file.path()).expect("it is there");
            let last = bytes.len() - 20;
            bytes[last] ^= 1;
            fs::write(file.path(), bytes).expect("it can be written");
        }
    }
    assert_eq!(call(&load(), &["one", "two"]), [46, 43]);
}

#[test]
fn a_recognized_file_that_changes_in_place_is_not_compiled() {
    let folder = Folder::new();
    let path = large_file(&folder, "app.wasm", 42);
    settle(&path);
    let load = || Module::from_file(&folder.engine(), &path).expect("a good module");
    assert_eq!(call(&load(), &["one"]), [42]);
    let module = load();
    assert_eq!((stamps(&folder), module.tiering_metrics().precompiled_functions), (1, 1));
    let mut bytes = fs::read(&path).expect("it is there");
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("it can be written");
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, &module, &[]).expect("it can be instantiated");
    let two = instance.get_typed_func::<(), i32>(&mut store, "two").expect("it is exported");
    let error = format!("{:#}", two.call(&mut store, ()).expect_err("its code cannot be made"));
    assert!(error.contains("was changed in place"), "{error}");
}

/// The module of the file, recognized, with the code of `one`.
fn recognized(config: &Config, path: &Path) -> Module {
    let load = || Module::from_file(&Engine::new(config).expect("a good configuration"), path).expect("a good module");
    settle(path);
    assert_eq!(call(&load(), &["one"]), [42]);
    let module = load();
    let metrics = module.tiering_metrics();
    assert!(metrics.precompiled_functions >= 1 && (metrics.bodies_read, metrics.whole_reads) == (0, 0), "{metrics:?}");
    module
}

/// What a call says that fails.
fn failure(module: &Module, name: &str) -> String {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[]).expect("it can be instantiated");
    let function = instance.get_typed_func::<(), i32>(&mut store, name).expect("it is exported");
    format!("{:#}", function.call(&mut store, ()).expect_err("its code cannot be made"))
}

#[test]
fn a_recognized_file_that_is_cut_or_written_again_is_not_compiled() {
    let folder = Folder::new();
    let path = large_file(&folder, "app.wasm", 42);
    let bytes = fs::read(&path).expect("it is there");
    let body = bytes.windows(4).position(|window| window == [0, 0x41, 43, 0x0b]).expect("the body of `two`");
    assert!(body < 1000, "code comes before data: {body}");
    // Cut behind the body, within it, and before it; and the same length with another body there.
    for len in [bytes.len() - 1, body + 2, body - 1, 0] {
        let module = recognized(&folder.config(), &path);
        fs::File::options().write(true).open(&path).and_then(|file| file.set_len(len as u64)).expect("it can be cut");
        let error = failure(&module, "two");
        assert!(error.contains("was changed in place"), "{len}: {error}");
        assert_eq!(call(&module, &["one"]), [42]);
        assert_eq!(module.tiering_metrics().bodies_read, 0);
        fs::write(&path, &bytes).expect("it can be written");
    }
    let module = recognized(&folder.config(), &path);
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("it has a time");
    let mut other = bytes.clone();
    other[body + 2] = 44;
    fs::write(&path, &other).expect("it can be written");
    fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("times can be set");
    let error = failure(&module, "two");
    assert!(error.contains("was changed in place"), "{error}");
    drop(module);
    // The same bytes again are no proof that they were there all the time; a new start reads them.
    fs::write(&path, &bytes).expect("it can be written");
    let module = Module::from_file(&folder.engine(), &path).expect("a good module");
    assert_eq!(call(&module, &["two", "one"]), [43, 42]);
}

#[test]
fn a_file_that_is_replaced_does_not_change_a_module_that_is_there() {
    let folder = Folder::new();
    let path = large_file(&folder, "app.wasm", 42);
    let module = recognized(&folder.config(), &path);
    let other = large_file(&folder, "other.wasm", 44);
    fs::rename(&other, &path).expect("it can be replaced");
    assert_eq!(call(&module, &["two", "one"]), [43, 42]);
    // The file that has no name any more is another state of it, so its content is looked at.
    let metrics = module.tiering_metrics();
    assert_eq!((metrics.bodies_read, metrics.whole_reads), (0, 1));
    let new = Module::from_file(&folder.engine(), &path).expect("a good module");
    assert_eq!(call(&new, &["one", "two"]), [44, 43]);
}

#[test]
fn a_recognized_file_whose_bodies_were_not_validated_is_read_as_a_whole() {
    let folder = Folder::new();
    let path = large_file(&folder, "app.wasm", 42);
    let mut bytes = fs::read(&path).expect("it is there");
    let body = bytes.windows(4).position(|window| window == [0, 0x41, 43, 0x0b]).expect("the body of `two`");
    // An `end` that leaves nothing on the stack.
    bytes[body + 1..body + 3].copy_from_slice(&[0x01, 0x01]);
    fs::write(&path, &bytes).expect("it can be written");
    let mut config = folder.config();
    config.deferred_validation(true);
    let module = recognized(&config, &path);
    let error = failure(&module, "two");
    assert!(error.contains("type mismatch"), "{error}");
    let metrics = module.tiering_metrics();
    assert_eq!((metrics.bodies_read, metrics.whole_reads), (0, 1));
    assert!(Module::from_file(&folder.engine(), &path).is_err());
}

#[test]
fn hints_for_branches_are_read_with_the_whole_file() {
    let folder = Folder::new();
    let path = folder.0.path().join("app.wasm");
    let text = format!(
        r#"(module (memory 8) (data (i32.const 0) "{}")
            (func (export "one") (result i32) (i32.const 42))
            (func (export "two") (result i32)
                (@metadata.code.branch_hint "\01") (if (i32.const 1) (then (return (i32.const 43)))) (i32.const 0)))"#,
        "abcdefgh".repeat(50_000)
    );
    fs::write(&path, wat::parse_str(text).expect("good text")).expect("it can be written");
    let module = recognized(&folder.config(), &path);
    assert_eq!(call(&module, &["two"]), [43]);
    let metrics = module.tiering_metrics();
    assert_eq!((metrics.bodies_read, metrics.whole_reads), (0, 1));
}

/// A module that does everything that code refers to: other functions, globals, tables, memories and segments of each kind.
const EVERYTHING: &str = r#"(module
    (type $unary (func (param i32) (result i32)))
    (memory 8) (memory $other 1)
    (global $count (mut i32) (i32.const 0))
    (global $far (mut i64) (i64.const 1000))
    (table $table 4 funcref) (elem (table $table) (i32.const 1) func $double $triple)
    (elem $passive func $triple)
    (data (i32.const 0) "PADDING") (data (memory $other) (i32.const 4) "\07\08")
    (data $later "\2a\2b\2c")
    (func (export "one") (result i32) (i32.const 42))
    (func $double (type $unary) (i32.mul (local.get 0) (i32.const 2)))
    (func $triple (type $unary) (i32.mul (local.get 0) (i32.const 3)))
    (func $last (param i32) (result i32)
        (global.set $count (i32.add (global.get $count) (local.get 0))) (global.get $count))
    (func (export "calls") (result i32)
        (i32.add (call $last (i32.const 5))
            (i32.add (call_indirect (type $unary) (i32.const 10) (i32.const 1)) (call_indirect (type $unary) (i32.const 10) (i32.const 2)))))
    (func (export "segments") (result i32)
        (memory.init $later (i32.const 100) (i32.const 1) (i32.const 2))
        (data.drop $later)
        (table.init $table $passive (i32.const 3) (i32.const 0) (i32.const 1))
        (i32.add (i32.load16_u (i32.const 100))
            (i32.add (call_indirect (type $unary) (i32.const 1) (i32.const 3)) (i32.load8_u $other (i32.const 5)))))
    (func (export "vectors") (result i32)
        (i32x4.extract_lane 2 (i32x4.mul (v128.const i32x4 1 2 3 4) (i32x4.splat (i32.const 7)))))
    (func (export "last") (result i32)
        (i32.add (call $double (i32.const 4)) (i32.wrap_i64 (global.get $far)))))"#;

#[test]
fn every_kind_of_function_is_compiled_from_its_body_alone() {
    let names = ["calls", "segments", "vectors", "last"];
    let expected = [55, 0x2c2b + 3 + 8, 21, 1008];
    let folder = Folder::new();
    let path = folder.0.path().join("app.wasm");
    let text = EVERYTHING.replace("PADDING", &"abcdefgh".repeat(50_000));
    fs::write(&path, wat::parse_str(text).expect("good text")).expect("it can be written");
    let module = recognized(&folder.config(), &path);
    assert_eq!(call(&module, &names), expected);
    let metrics = module.tiering_metrics();
    assert_eq!((metrics.bodies_read, metrics.whole_reads), (metrics.baseline_functions, 0));
    drop(module);
    // And kept: the next start has all of it.
    let module = Module::from_file(&folder.engine(), &path).expect("a good module");
    assert_eq!(call(&module, &names), expected);
    let metrics = module.tiering_metrics();
    assert_eq!((metrics.baseline_functions, metrics.bodies_read), (0, 0));
}

#[test]
fn hot_functions_of_a_recognized_file_are_optimized_from_their_bodies() {
    let folder = Folder::new();
    let path = folder.0.path().join("app.wasm");
    let text = MODULE.replace("(data ", &format!("(data (i32.const 100) \"{}\") (data ", "abcdefgh".repeat(50_000)));
    let text = text.replace("(memory 1)", "(memory 8)");
    fs::write(&path, wat::parse_str(text).expect("good text")).expect("it can be written");
    let module = recognized(&folder.config(), &path);
    run_hot(&module);
    let metrics = module.tiering_metrics();
    assert!(metrics.bodies_read >= 2, "{metrics:?}");
    assert_eq!(metrics.whole_reads, 0);
}

#[test]
fn a_recognized_file_obeys_the_settings_of_the_engine() {
    let folder = Folder::new();
    let path = large_file(&folder, "app.wasm", 42);
    settle(&path);
    let run = |config: &Config| {
        let module = Module::from_file(&Engine::new(config).expect("a good configuration"), &path)?;
        let mut store = Store::new(module.engine(), ());
        let instance = Instance::new(&mut store, &module, &[])?;
        instance.get_typed_func::<(), i32>(&mut store, "one")?.call(&mut store, ())
    };
    for _ in 0..2 {
        assert_eq!(run(&folder.config()).expect("it runs"), 42);
        assert_eq!(run(folder.config().strategy(Strategy::Ahead)).expect("it runs"), 42);
    }
    let mut fuel = folder.config();
    run(fuel.consume_fuel(true)).expect("it is not asked for more");
    assert_eq!(folder.entries().len(), 3);
    let mut budget = Budget::trusted();
    budget.module_bytes = 1000;
    let error = format!("{:#}", run(folder.config().budget(budget)).expect_err("it is too large"));
    assert!(error.contains("Budget::module_bytes"), "{error}");
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let folder = Folder::new();
    let path = large_file(&folder, "app.wasm", 42);
    settle(&path);
    for _ in 0..2 {
        let engine = folder.engine();
        // Whoever has it open can neither find nor write anything in it any more, whatever the user may do.
        fs::remove_dir_all(folder.cache().path()).expect("it is ours");
        let module = Module::from_file(&engine, &path).expect("a good module");
        assert_eq!(call(&module, &["one", "two"]), [42, 43]);
        module.keep_compiled();
    }
}

/// Which function of a module is called how often, by their numbers among those that are defined.
const ORDERED: &str = r#"(module
    (table funcref (elem $c $d))
    (func $a (export "once") (result i32) (i32.const 1))
    (func $b (export "never") (result i32) (i32.const 2))
    (func $c (param i32) (result i32) (i32.add (local.get 0) (i32.const 3)))
    (func $d (param i32) (result i32) (i32.add (local.get 0) (i32.const 5)))
    (func $e (export "run") (result i32) (local $n i32) (local $sum i32)
        (local.set $n (i32.const 40))
        (loop $next
            (local.set $sum (call_indirect (param i32) (result i32) (local.get $sum) (i32.eqz (i32.and (local.get $n) (i32.const 3)))))
            (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $sum)))"#;

/// The functions with code by the places of it.
fn by_place(module: &Module) -> Vec<u32> {
    let mut functions: Vec<_> =
        module.functions().filter(|function| function.len > 0).map(|function| (function.offset, function.index)).collect();
    functions.sort_by_key(|(offset, _)| *offset);
    functions.into_iter().map(|(_, index)| index.as_u32()).collect()
}

#[test]
fn what_is_called_most_comes_first_in_the_entry() {
    let folder = Folder::new();
    let run = |names: &[&str]| {
        let module = Module::new(&folder.engine(), ORDERED).expect("a good module");
        assert_eq!(call(&module, &["run"]), [140]);
        call(&module, names);
        module
    };
    run(&["once"]);
    // 30 calls of one, 10 of the other, and one each of two.
    let next = run(&[]);
    assert_eq!(by_place(&next), [2, 3, 0, 4]);
    assert_eq!(next.tiering_metrics().baseline_functions, 0);
    // Most calls by far, and one that is new: the entry is written again for it, in an order that goes by this process.
    let late = run(&["once"; 50]);
    call(&late, &["never"]);
    drop(late);
    assert_eq!(by_place(&run(&[])), [0, 2, 3, 1, 4]);
}

/// Code that counts where its calls go is kept as it is, and goes on counting in the next process.
#[test]
fn kept_code_counts_where_its_calls_go() {
    let folder = Folder::new();
    for precompiled in [0, 3] {
        let module = Module::new(&folder.engine(), ORDERED).expect("a good module");
        for runs in 1..3u64 {
            assert_eq!(call(&module, &["run"]), [140]);
            let metrics = module.tiering_metrics();
            assert_eq!((metrics.precompiled_functions, metrics.baseline_functions), (precompiled, 3 - precompiled));
            let profile = module.profile().expect("code of the baseline counts");
            let run = profile.function(DefinedFuncIndex::from_u32(4)).expect("it ran");
            assert_eq!(run.calls, runs);
            let targets: Vec<_> =
                run.sites.values().flat_map(|site| site.targets().to_vec()).map(|(to, calls)| (to.as_u32(), calls)).collect();
            assert_eq!(targets, [(2, 30 * runs), (3, 10 * runs)]);
        }
    }
}

/// A limit on the size of files is a full disk that tests can have: nothing is written, nothing is left, and the program goes on.
#[test]
fn an_entry_that_finds_no_room_leaves_nothing_behind() {
    const CHILD: &str = "PEREGRINE_TEST_NO_ROOM";
    let Some(path) = std::env::var_os(CHILD) else {
        let folder = Folder::new();
        let path = folder.0.path().join("cache");
        let program = std::env::current_exe().expect("this test has a file");
        let mut child = std::process::Command::new(program);
        // A process of its own: the limit is that of the process.
        child.args(["--exact", "an_entry_that_finds_no_room_leaves_nothing_behind"]).env(CHILD, &path);
        let output = child.output().expect("it can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The last one found room.
        let module = module(&folder.engine());
        assert_eq!(module.tiering_metrics().precompiled_functions, 3);
        return;
    };
    let files = || {
        let files = fs::read_dir(&path).expect("the cache is there").map(|file| file.expect("it can be listed").file_name());
        let mut files: Vec<_> = files.map(|name| name.into_string().expect("plain names")).collect();
        files.retain(|name| name != "last-cleanup");
        files
    };
    let limit = |bytes: Option<u64>| {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Fsize).maximum;
        setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).expect("a lower limit is everybody's");
    };
    let mut config = Config::new();
    config.strategy(Strategy::Tiered).cache(Some(Cache::new(&path).expect("a folder of our own")));
    let engine = Engine::new(&config).expect("a good configuration");
    let first = module(&engine);
    assert_eq!(call(&first, &["one"]), [42]);
    limit(Some(4096));
    first.keep_compiled();
    limit(None);
    assert!(files().is_empty(), "{:?}", files());
    first.keep_compiled();
    let entry = fs::read(Path::new(&path).join(files().iter().find(|name| name.ends_with(".pgn")).expect("now there is room")))
        .expect("it can be read");
    let before = files();
    // One that is there stays as it is.
    assert_eq!(call(&first, &["two"]), [43]);
    limit(Some(4096));
    first.keep_compiled();
    limit(None);
    assert_eq!(files(), before);
    let name = files().into_iter().find(|name| name.ends_with(".pgn")).expect("it is there still");
    assert!(fs::read(Path::new(&path).join(name)).expect("it can be read") == entry);
    drop(first);
}

/// What cannot be written costs one attempt, not one at each quiet moment, and is not lost.
#[test]
fn an_entry_that_cannot_be_written_is_not_tried_at_every_quiet_moment() {
    let text = MODULE.replace(
        r#"(func (export "one")"#,
        r#"(func (export "again") (param $n i32) (result i32) (loop (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            (local.get $n)) (func (export "one")"#,
    );
    let folder = Folder::new();
    let module = || Module::new(&folder.engine(), &text).expect("a good module");
    let first = module();
    assert_eq!(call(&first, &["one"]), [42]);
    drop(first);
    // No file is renamed over a folder.
    let entry = folder.entry();
    fs::remove_file(&entry).and_then(|()| fs::create_dir_all(entry.join("in the way"))).expect("it is ours");
    let kept = module();
    run_hot(&kept);
    // The profile beside it is written right after that.
    let profile = || {
        let files = fs::read_dir(folder.0.path().join("cache")).expect("the cache is there");
        let path =
            files.map(|file| file.expect("it can be listed").path()).find(|path| path.extension().is_some_and(|end| end == "profile"))?;
        fs::read(path).ok()
    };
    let before = wait_for("a quiet moment", profile);
    fs::remove_dir_all(&entry).expect("it is ours");
    // Another quiet moment, after some more work: `one`, `two` and what they call ran too.
    assert_eq!(call(&kept, &["one", "two"]), [42, 43]);
    let mut store = Store::new(kept.engine(), ());
    let instance = Instance::new(&mut store, &kept, &[]).expect("it can be instantiated");
    let again = instance.get_typed_func::<i32, i32>(&mut store, "again").expect("it is exported");
    let optimized = kept.tiering_metrics().optimized_functions;
    wait_for("more to keep", || {
        again.call(&mut store, 100_000).expect("it does not trap");
        (kept.tiering_metrics().optimized_functions > optimized).then_some(())
    });
    wait_for("another quiet moment", || profile().filter(|profile| *profile != before));
    assert!(!entry.exists(), "it was tried again");
    kept.keep_compiled();
    drop(kept);
    assert!(entry.is_file(), "it was not tried again when it was asked for");
    let next = module();
    assert_eq!(next.tiering_metrics().precompiled_functions, 6);
    assert_eq!((call(&next, &["one", "two"]), next.tiering_metrics().baseline_functions), (vec![42, 43], 0));
}

/// Whichever functions have code in an image: those that trap are found by where their code is.
#[test]
fn traps_of_kept_code_are_found_wherever_others_have_no_code() {
    for (count, last) in (1..9).flat_map(|count| (0..count).map(move |last| (count, last))) {
        let folder = Folder::new();
        let text = (0..count).fold(String::from("(module"), |text, number| text + &format!(r#"(func (export "{number}") unreachable)"#));
        for precompiled in [0, 1] {
            let module = Module::new(&folder.engine(), text.clone() + ")").expect("a good module");
            assert_eq!(module.tiering_metrics().precompiled_functions, precompiled);
            let mut store = Store::new(module.engine(), ());
            let instance = Instance::new(&mut store, &module, &[]).expect("it can be instantiated");
            let function = instance.get_typed_func::<(), ()>(&mut store, &last.to_string()).expect("it is exported");
            let error = function.call(&mut store, ()).expect_err("it traps");
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::UnreachableCodeReached), "{last} of {count}");
        }
    }
}
