//! Damaged modules and images: an error or a clean load, never a panic, and for images always an error.

use peregrine::{Engine, Instance, Module, Store};
use peregrine_harness::modules::{Random, seed_bytes, terminating};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Damaged modules for each base module.
const MODULES_PER_BASE: usize = 500;
/// Damaged images for each base module.
const IMAGES_PER_BASE: usize = 400;

const WRITTEN: &[&str] = &[
    r#"(module $named (memory (export "m") 2) (data (i32.const 65530) "across two pages") (func $f (export "f") (result i32) (i32.load (i32.const 65532))))"#,
    r#"(module (table 8 funcref) (elem (i32.const 1) $a $b) (type $t (func (param i32) (result i32)))
        (func $a (param i32) (result i32) local.get 0) (func $b (param i32) (result i32) local.get 0 i32.const 1 i32.add)
        (func (export "f") (param i32) (result i32) local.get 0 local.get 0 call_indirect (type $t)))"#,
    r#"(module (import "a" "b" (func (param i64) (result f64))) (global (export "g") (mut i64) (i64.const 7)) (func (export "f")
        (loop br 0)) (memory i64 1) (start 1) (@custom "some.section" "content"))"#,
];

fn bases() -> Vec<Vec<u8>> {
    let written = WRITTEN.iter().map(|text| wat::parse_str(text).expect("the text is right"));
    let random = (0..).filter_map(|seed| terminating(&seed_bytes(seed, 3000))).take(5);
    written.chain(random).collect()
}

/// Damages `bytes` in one of several ways.
fn damage(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    match random.below(6) {
        0 => damaged.truncate(random.below(bytes.len())),
        1 => {
            let at = random.below(bytes.len());
            damaged[at] = random.next() as u8;
        }
        2 => {
            let at = random.below(bytes.len());
            damaged.remove(at);
        }
        3 => damaged.insert(random.below(bytes.len()), random.next() as u8),
        4 => {
            for _ in 0..8 {
                let at = random.below(bytes.len());
                damaged[at] ^= 1 << random.below(8);
            }
        }
        _ => {
            let at = random.below(bytes.len());
            damaged[at] ^= 1 << random.below(8);
        }
    }
    damaged
}

#[test]
fn damaged_modules_are_errors_or_load() {
    let engine = Engine::default();
    let (mut refused, mut loaded) = (0, 0);
    for (number, base) in bases().iter().enumerate() {
        let mut random = Random::new(number as u64);
        for round in 0..MODULES_PER_BASE {
            let damaged = damage(&mut random, base);
            let result = catch_unwind(AssertUnwindSafe(|| Module::new(&engine, &damaged)));
            match result.unwrap_or_else(|_| panic!("base {number}, round {round}: a panic")) {
                Ok(module) => {
                    loaded += 1;
                    assert!(Module::validate(&engine, &damaged).is_ok(), "base {number}, round {round}: loads and is not valid");
                    drop(module);
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("{refused} damaged modules refused, {loaded} loaded");
    assert!(refused > 1000, "{refused} refused, {loaded} loaded");
}

#[test]
fn damaged_images_are_errors() {
    let engine = Engine::default();
    let mut refused = 0;
    for (number, base) in bases().iter().enumerate() {
        let image = engine.precompile_module(base).expect("the base is valid");
        let mut random = Random::new(1000 + number as u64);
        for round in 0..IMAGES_PER_BASE {
            let damaged = damage(&mut random, &image);
            if damaged == image {
                continue;
            }
            // SAFETY: the bytes are not those of an image, which is what is tested; nothing that loads is run.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { Module::deserialize(&engine, &damaged) }));
            let result = result.unwrap_or_else(|_| panic!("base {number}, round {round}: a panic"));
            assert!(result.is_err(), "base {number}, round {round}: the damaged image loads");
            refused += 1;
        }
    }
    println!("{refused} damaged images refused");
    assert!(refused > 1000);
}

#[test]
fn damaged_image_files_are_errors() {
    let engine = Engine::default();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("damaged.pgn");
    let image = engine.precompile_module(WRITTEN[0].as_bytes()).expect("the base is valid");
    let mut random = Random::new(7);
    for round in 0..300 {
        let damaged = damage(&mut random, &image);
        if damaged == image {
            continue;
        }
        std::fs::write(&path, &damaged).expect("the file is written");
        // SAFETY: the file is no image, which is what is tested; nothing that loads is run.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { Module::deserialize_file(&engine, &path) }));
        assert!(result.unwrap_or_else(|_| panic!("round {round}: a panic")).is_err(), "round {round}: the damaged file loads");
    }
    std::fs::write(&path, &image).expect("the file is written");
    // SAFETY: the file is what this engine wrote.
    let module = unsafe { Module::deserialize_file(&engine, &path) }.expect("the whole file loads");
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).expect("no imports");
    let func = instance.get_typed_func::<(), i32>(&mut store, "f").expect("the export");
    assert_eq!(func.call(&mut store, ()).expect("no trap").to_le_bytes(), *b"ross");
}
