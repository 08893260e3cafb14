//! Modules in large files, which are read in pieces: bodies are validated as they pass and read again when they are compiled.

mod settled;

use peregrine::{Budget, Cache, Config, Engine, Instance, Module, Store, Strategy};
use settled::settle;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
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
    allow(path, 0o644);
}

/// Sets who may write to a file, and waits as above.
fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is a file of our own");
    settle(path);
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

#[test]
fn a_file_that_others_may_write_to_is_read_as_a_whole() {
    let (_folder, path) = folder();
    write(&path, &binary(10, "(i32.const 1000)"));
    let load = |cache: Option<Cache>| {
        let mut config = Config::new();
        config.strategy(Strategy::Tiered).cache(cache);
        Module::from_file(&Engine::new(&config).expect("a good configuration"), &path).expect("a good module")
    };
    for (mode, bodies_read) in [(0o644, 1), (0o600, 1), (0o664, 0), (0o646, 0)] {
        allow(&path, mode);
        let module = load(None);
        assert_eq!((call(&module, "last"), reads(&module)), (Ok(1000), (bodies_read, 0)), "{mode:o}");
    }
    // One that the cache recognizes is read as a whole for what the cache lacks.
    let cache = tempfile::tempdir().expect("a folder for the test");
    let cache = || Some(Cache::new(cache.path()).expect("a folder of our own"));
    assert_eq!(call(&load(cache()), "f1"), Ok(1));
    let module = load(cache());
    assert!(module.tiering_metrics().precompiled_functions >= 1);
    assert_eq!((call(&module, "last"), reads(&module)), (Ok(1000), (0, 1)));
}

#[test]
fn a_body_that_is_replaced_without_a_trace_is_not_compiled() {
    // In memory, where writes through a mapping leave no trace once a page was written to. Elsewhere they do, which is noticed as well.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder for the test");
    let path = folder.path().join("app.wasm");
    let bytes = binary(10, "(i32.const 1000)");
    let body = bytes.windows(5).position(|window| window == [0, 0x41, 0xe8, 0x07, 0x0b]).expect("the last body");
    fs::write(&path, &bytes).expect("it can be written");
    let file = fs::File::options().read(true).write(true).open(&path).expect("it is there");
    let (access, shared) = (rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE, rustix::mm::MapFlags::SHARED);
    // SAFETY: the system chooses the place, so nothing that is in use is replaced.
    let mapping = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes.len(), access, shared, &file, 0) }.expect("it can be mapped");
    // SAFETY: the mapping has so many bytes, and only this thread uses it.
    let change = |at: usize, byte: u8| unsafe { mapping.cast::<u8>().add(at).write_volatile(byte) };
    change(body + 2, bytes[body + 2]);
    allow(&path, 0o644);
    let times = |metadata: fs::Metadata| (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
    let before = fs::metadata(&path).map(times).expect("it has times");

    let module = Module::from_file(&engine(), &path).expect("a good module");
    assert_eq!((call(&module, "f1"), reads(&module)), (Ok(1), (1, 0)));
    change(body + 2, 0xe9);
    let after = fs::metadata(&path).map(times).expect("it has times");
    assert!(before == after || !memory.is_dir(), "{before:?} {after:?}");
    let error = call(&module, "last").expect_err("nobody validated it");
    assert!(error.contains("was changed in place"), "{error}");
    assert_eq!((call(&module, "f1"), reads(&module)), (Ok(1), (1, 0)), "what has code goes on");
    // SAFETY: nothing refers to it any more.
    unsafe { rustix::mm::munmap(mapping, bytes.len()) }.expect("it is mapped");
}

/// What reading such a module costs grows with its length, not with the square of it.
#[test]
fn a_body_without_end_costs_no_more_than_its_bytes() {
    let leb = |number: usize| -> [u8; 5] {
        std::array::from_fn(|position| (number >> (7 * position)) as u8 & 0x7f | if position < 4 { 0x80 } else { 0 })
    };
    let (_folder, path) = folder();
    // What this thread uses of the processor, at the least of some tries: the system reads the file at the first.
    let seconds = |body_bytes: usize| {
        let types = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a";
        let start = [&types[..], &leb(body_bytes + 6), b"\x01", &leb(body_bytes)].concat();
        let file = fs::File::create(&path).expect("it can be written");
        file.write_all_at(&start, 0).and_then(|()| file.set_len((start.len() + body_bytes) as u64)).expect("it can be written");
        allow(&path, 0o644);
        let now = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
        };
        let seconds = (0..3).map(|_| {
            let before = now();
            let error = format!("{:#}", Module::from_file(&engine(), &path).expect_err("it is too large"));
            let seconds = now() - before;
            let expected = format!("{:#}", Module::new(&engine(), fs::read(&path).expect("it is there")).expect_err("it is too large"));
            assert!(error.ends_with(&expected), "{error}\n{expected}");
            seconds
        });
        seconds.fold(f64::INFINITY, f64::min)
    };
    let (few, many) = (seconds(15_000_000), seconds(300_000_000));
    // The system's part, which reads the file where memory is short, may be much more than ours.
    assert!(many < 80.0 * few.max(0.05), "{many} s for twenty times as many bytes as in {few} s");
}

#[test]
fn what_the_cache_does_not_have_is_counted() {
    let (folder, path) = folder();
    write(&path, &binary(10, "(i32.const 1000)"));
    let cache = Cache::new(folder.path().join("cache")).expect("a folder of our own");
    let mut config = Config::new();
    config.strategy(Strategy::Tiered).cache(Some(cache.clone()));
    let module = Module::from_file(&Engine::new(&config).expect("a good configuration"), &path).expect("a good module");
    assert_eq!((call(&module, "f1"), reads(&module)), (Ok(1), (1, 0)));
    assert_eq!((cache.cache_hits(), cache.cache_misses()), (0, 1));
}

#[test]
fn what_cannot_be_read_now_may_be_read_later() {
    let (folder, path) = folder();
    write(&path, &binary(10, "(i32.const 1000)"));
    let module = Module::from_file(&engine(), &path).expect("a good module");
    let is_kept = |number: &i32| fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|target| target == path);
    let kept = (0..1024).find(is_kept).expect("the module has the file open");
    let (same, other) = (fs::File::open(&path).expect("it is there"), fs::File::open(folder.path()).expect("it is there"));
    let replace = |by: &fs::File| {
        // SAFETY: the module lives, so nobody else has a descriptor of that number.
        assert_eq!(unsafe { libc::dup2(by.as_raw_fd(), kept) }, kept);
    };
    // Reading a folder fails.
    replace(&other);
    for _ in 0..2 {
        let error = call(&module, "last").expect_err("it cannot be read");
        assert!(error.contains("cannot be read"), "{error}");
    }
    replace(&same);
    assert_eq!((call(&module, "last"), reads(&module)), (Ok(1000), (1, 0)));
}
