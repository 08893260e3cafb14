//! A cache in a folder that can be read and not be written: what is there is used. The only test of its process, so that all that is said there is
//! about it.

mod exports;
mod listening;
mod settled;

use exports::call;
use listening::Listener;
use peregrine::{Cache, Config, Engine, Module, Strategy};
use settled::settle;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tracing::Level;

/// Runs `work` on a thread that may not write where permissions do not let it: those of root count for nothing until they are given up.
fn without_privileges<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let give_up_and_work = || {
        let mut sets = capabilities(None).expect("the system tells");
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE);
        set_capabilities(None, sets).expect("anybody may do with less");
        work()
    };
    std::thread::scope(|scope| scope.spawn(give_up_and_work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// An engine with a cache in that folder.
fn engine(cache: &Path) -> Engine {
    let cache = Cache::new(cache).expect("a folder of our own");
    Engine::new(Config::new().strategy(Strategy::Tiered).cache(Some(cache))).expect("a good configuration")
}

/// The files of a folder, with the times of their content.
fn files(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let files = fs::read_dir(folder).expect("it can be listed").map(|file| file.expect("it can be listed"));
    let mut files: Vec<_> =
        files.map(|file| (file.path(), file.metadata().and_then(|metadata| metadata.modified()).expect("it has a time"))).collect();
    files.sort();
    files
}

#[test]
fn a_cache_that_can_only_be_read_has_what_was_kept() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let (cache, path) = (folder.path().join("cache"), folder.path().join("app.wasm"));
    // Large enough to be recognized without being read.
    let text = format!(
        r#"(module (memory 8) (data (i32.const 0) "{}")
            (func (export "one") (result i32) (i32.const 42))
            (func (export "two") (result i32) (i32.const 43)))"#,
        "abcdefgh".repeat(50_000)
    );
    fs::write(&path, wat::parse_str(text).expect("good text")).expect("it can be written");
    settle(&path);
    let load = || Module::from_file(&engine(&cache), &path).expect("a good module");
    assert_eq!(call(&load(), &["one"]), [42]);
    // Not used for long, which another folder would be told of at the next start.
    let entries = files(&cache).into_iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "pgn"));
    for (entry, used) in entries {
        fs::File::open(entry).and_then(|entry| entry.set_modified(used - Duration::from_secs(7200))).expect("it is ours");
    }
    let before = files(&cache);
    let allow = |mode| fs::set_permissions(&cache, Permissions::from_mode(mode)).expect("it is ours");
    allow(0o500);
    let warnings = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&warnings);
    let listener = Listener::new(|metadata| *metadata.level() <= Level::WARN, move |_| _ = count.fetch_add(1, Ordering::Relaxed));
    without_privileges(|| {
        assert!(fs::write(cache.join("new"), b"").is_err(), "this thread can write to it");
        tracing::subscriber::with_default(listener, || {
            for _ in 0..3 {
                let engine = engine(&cache);
                let from_bytes = Module::new(&engine, fs::read(&path).expect("it is there")).expect("a good module");
                for module in [Module::from_file(&engine, &path).expect("a good module"), from_bytes] {
                    assert_eq!(call(&module, &["one"]), [42]);
                    let metrics = module.tiering_metrics();
                    assert_eq!((metrics.precompiled_functions, metrics.baseline_functions), (1, 0));
                    module.keep_compiled();
                }
                assert_eq!(engine.metrics().cache_hits, 2);
            }
            assert_eq!(warnings.load(Ordering::Relaxed), 0, "nothing is new");
            // What is new cannot be kept, which is worth a warning, and runs all the same.
            let module = load();
            assert_eq!(call(&module, &["one", "two"]), [42, 43]);
            module.keep_compiled();
            assert!(warnings.load(Ordering::Relaxed) > 0);
        });
    });
    allow(0o700);
    assert_eq!(files(&cache), before);
    assert_eq!(load().tiering_metrics().precompiled_functions, 1);
    assert_ne!(files(&cache), before, "now it is used");
}
