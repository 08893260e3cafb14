//! The memory of code in a process that forks again and again, with modules that stay and modules that go: that of those which went is given back. In
//! a file of its own: no other test makes modules or forks.

use peregrine::{Config, Engine, Instance, Module, Store, Strategy};
use std::os::unix::fs::MetadataExt;

/// Modules that stay, with a fork between each two.
const STAY: usize = 24;
/// Modules that go, with a fork in the life of each.
const GO: usize = 40;

/// Two functions with much code.
fn text(number: usize) -> String {
    let steps = "(local.set $i (i32.add (i32.mul (local.get $i) (i32.const 3)) (i32.const 5)))".repeat(6_000);
    let function = |name: &str| format!(r#"(func (export "{name}") (result i32) (local $i i32) {steps} (i32.const {number}))"#);
    format!(r#"(module {} {} (table 1 funcref) (elem (i32.const 0) func 0))"#, function("first"), function("second"))
}

fn fork() {
    // SAFETY: the child ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the child is ours.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child, "the process cannot fork");
}

/// How many files of code this process has open, and how many bytes of memory they take.
fn files() -> (usize, u64) {
    let fds = std::fs::read_dir("/proc/self/fd").expect("the system lists them");
    let paths = fds.map(|fd| fd.expect("it can be listed").path());
    let is_code = |path: &std::path::PathBuf| std::fs::read_link(path).is_ok_and(|name| name.to_string_lossy().contains("peregrine-code"));
    let sizes: Vec<u64> = paths.filter(is_code).filter_map(|path| Some(std::fs::metadata(path).ok()?.blocks() * 512)).collect();
    (sizes.len(), sizes.iter().sum())
}

/// Mappings of such files.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the system lists them");
    maps.lines().filter(|line| line.contains("peregrine-code")).count()
}

#[test]
fn memory_of_modules_that_went_is_given_back_however_often_the_process_forks() {
    let engine = Engine::new(Config::new().strategy(Strategy::Winch)).expect("an engine");
    let start = |number: usize| {
        let module = Module::new(&engine, text(number)).expect("it is valid");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
        (store, instance)
    };
    let call = |(store, instance): &mut (Store<()>, Instance), name: &str, number: usize| {
        let function = instance.get_typed_func::<(), i32>(&mut *store, name).expect("it is exported");
        assert_eq!(function.call(store, ()).expect("it returns"), number as i32);
    };
    let mut kept = Vec::new();
    for number in 0..STAY {
        let mut stays = start(number);
        call(&mut stays, "first", number);
        kept.push(stays);
        fork();
    }
    let one = {
        let mut last = start(0);
        let before = files().1;
        call(&mut last, "first", 0);
        files().1 - before
    };
    assert!(one > 32 << 10, "{one} bytes are too few to be seen");
    let (before, mapped) = (files(), mappings());
    for number in 0..GO {
        let mut gone = start(number);
        call(&mut gone, "first", number);
        fork();
        drop(gone);
    }
    let after = files();
    assert!(after.1 < before.1 + 8 * one, "{before:?} became {after:?}, with {one} bytes for each module");
    assert!(after.0 <= before.0 + 4 && after.0 < 24, "{before:?} became {after:?}");
    assert!(mappings() < mapped + 8, "{mapped} became {}", mappings());
    // Those that stayed go on.
    for (number, kept) in kept.iter_mut().enumerate() {
        call(kept, "second", number);
        call(kept, "first", number);
    }
}
