//! Damaged modules: thousands of truncations and bit flips, always the same ones. None may panic, and no good byte may be needed to say so.

use peregrine_artifact::compiler::CompileError;
use peregrine_frontend::{FuncValidatorAllocations, to_binary, translate};
use peregrine_wasm::{Features, ModuleLimits};

const SAMPLES: [&str; 3] = [
    r#"(module $calls
        (import "env" "log" (func $log (param i32 i64 f32 f64)))
        (import "env" "table" (table 2 10 funcref))
        (type $binary (func (param i32 i32) (result i32)))
        (func $fib (export "fib") (param $n i32) (result i32) (local i64 f64)
            (if (result i32) (i32.lt_u (local.get $n) (i32.const 2))
                (then (local.get $n))
                (else (i32.add (call $fib (i32.sub (local.get $n) (i32.const 1))) (call $fib (i32.sub (local.get $n) (i32.const 2)))))))
        (func $table (param i32) (result i32)
            (block (block (block (br_table 0 1 2 (local.get 0))) (return (i32.const 1))) (return (i32.const 2)))
            (call_indirect (type $binary) (i32.const 1) (i32.const 2) (local.get 0)))
        (func (type $binary) (return_call $fib (local.get 1)))
        (elem (i32.const 0) func $fib $log) (elem declare func 2) (elem funcref (ref.func $table) (ref.null func))
        (global $g (mut i32) (i32.const 5)) (global (export "g") i64 (i64.const -1)) (global funcref (ref.func $fib))
        (start $start) (func $start (global.set $g (i32.const 1))))"#,
    r#"(module $memories (@custom "producers" "tools") (@custom ".debug_info" "something")
        (memory (export "memory") 1 4) (memory i64 1) (memory 10 (pagesize 1)) (table i64 3 externref)
        (data (i32.const 16) "hello, world") (data (memory 1) (i64.const 0) "\00\01\02") (data "passive")
        (func (param i32) (result v128)
            (memory.copy (i32.const 0) (local.get 0) (i32.const 7)) (memory.init 2 (i32.const 1) (i32.const 2) (i32.const 3)) (data.drop 2)
            (i32x4.add (v128.load offset=16 align=8 (local.get 0)) (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
                (v128.const i64x2 1 2) (f32x4.splat (f32.const 1.5)))))
        (func (param i64) (result i64 i64) (i64.mul_wide_s (local.get 0) (i64.load 1 (local.get 0))))
        (func (param i32) (if (@metadata.code.branch_hint "\00") (local.get 0) (then (drop (memory.grow (i32.const 1)))))))"#,
    r#"(module (type $f (func (param i32) (result i32))) (global (import "a" "b") i32) (global i32 (i32.add (global.get 0) (i32.const 4)))
        (func $x (type $f) (loop $l (result i32) (br_if $l (i32.eqz (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (local.get 0)))
        (func (result i32) (select (i32.const 1) (i32.const 2) (i32.trunc_sat_f64_s (f64.const nan))))
        (table $t 1 funcref) (export "t" (table $t))
        (func (param externref) (drop (ref.is_null (local.get 0))) (table.set $t (i32.const 0) (ref.func $x))) (elem declare func $x))"#,
];

/// A small generator of numbers: xorshift.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Reads and validates everything and looks at everything that compilers look at.
fn validate(wasm: &[u8]) -> Result<(), CompileError> {
    let features = Features { threads: true, function_references: true, ..Features::default() };
    let translation = translate(wasm, &features, &ModuleLimits::default())?;
    let mut allocations = FuncValidatorAllocations::default();
    for segment in translation.module.data.values() {
        assert!(segment.start + segment.len_bytes <= wasm.len() as u64);
    }
    for section in &translation.module.custom_sections {
        assert!(section.start + section.len_bytes <= wasm.len() as u64);
    }
    assert_eq!(translation.bodies.len(), translation.module.defined_functions());
    for index in translation.bodies.indices() {
        translation.validate_body(index, &mut allocations)?;
        let _ = translation.function_name(translation.module.func_index(index));
    }
    Ok(())
}

fn samples() -> Vec<Vec<u8>> {
    SAMPLES.iter().map(|text| to_binary(text.as_bytes()).expect("good text").into_owned()).collect()
}

#[test]
fn every_truncation_is_read_without_a_panic() {
    for wasm in samples() {
        validate(&wasm).expect("the sample is good");
        for len in 0..wasm.len() {
            if let Err(CompileError::Internal { message }) = validate(&wasm[..len]) {
                panic!("length {len}: {message}");
            }
        }
    }
}

#[test]
fn flipped_bits_are_read_without_a_panic() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut refused, mut total) = (0, 0);
    for wasm in samples() {
        for _ in 0..6000 {
            let mut damaged = wasm.clone();
            for _ in 0..1 + numbers.below(4) {
                let position = numbers.below(damaged.len());
                damaged[position] ^= 1 << numbers.below(8);
            }
            total += 1;
            match validate(&damaged) {
                Ok(()) => {}
                Err(CompileError::Internal { message }) => panic!("{damaged:02x?}: {message}"),
                Err(_) => refused += 1,
            }
        }
    }
    // Some bits are in names and constants, most are not.
    assert!(refused > total / 2, "{refused} of {total}");
}

#[test]
fn replaced_and_repeated_bytes_are_read_without_a_panic() {
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    for wasm in samples() {
        for _ in 0..3000 {
            let mut damaged = wasm.clone();
            let (from, to) = (numbers.below(wasm.len()), numbers.below(wasm.len()));
            let len = numbers.below(24).min(wasm.len() - from).min(wasm.len() - to);
            match numbers.below(3) {
                0 => damaged.copy_within(from..from + len, to),
                1 => drop(damaged.splice(to..to, wasm[from..from + len].iter().copied())),
                _ => drop(damaged.drain(from..from + len)),
            }
            if let Err(CompileError::Internal { message }) = validate(&damaged) {
                panic!("{damaged:02x?}: {message}");
            }
        }
    }
}

#[test]
fn damaged_text_is_read_without_a_panic() {
    let mut numbers = Numbers(0xdead_beef_0bad_cafe);
    let (mut refused, mut invalid, mut valid) = (0, 0, 0);
    for text in SAMPLES {
        for _ in 0..1000 {
            let mut damaged = text.as_bytes().to_vec();
            let position = numbers.below(damaged.len());
            match numbers.below(3) {
                0 => damaged[position] ^= 1 << numbers.below(7),
                1 => damaged.truncate(position),
                _ => drop(damaged.remove(position)),
            }
            match to_binary(&damaged).map(|wasm| validate(&wasm)) {
                Err(_) => refused += 1,
                Ok(Err(CompileError::Internal { message })) => panic!("{}: {message}", String::from_utf8_lossy(&damaged)),
                Ok(Err(_)) => invalid += 1,
                Ok(Ok(())) => valid += 1,
            }
        }
    }
    assert!(refused > 100 && invalid > 0 && valid > 100, "{refused} refused, {invalid} invalid, {valid} valid");
}
