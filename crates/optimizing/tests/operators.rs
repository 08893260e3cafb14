//! Every numeric, vector and atomic instruction compiles for every target, from the processors of long ago to those of today.
//!
//! What the code computes is the business of the specification's tests; here the code generator's verifier and its lowering are the judges.

use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::settings::{OptLevel, Settings, Target};
use peregrine_compile::tier::{ModuleEnv, Tier};
use peregrine_optimizing::Optimizing;
use peregrine_wasm::ModuleLimits;
use std::collections::BTreeSet;

/// One row: types of the operands, types of the results, instructions separated by `;`.
type Row = (&'static str, &'static str, &'static str);

const NUMERIC: &[Row] = &[
    ("", "i32", "i32.const 0; i32.const -1; i32.const 0x80000000; i32.const 0x7fffffff"),
    ("", "i64", "i64.const 0; i64.const -1; i64.const 0x8000000000000000; i64.const 0x7fffffffffffffff"),
    ("", "f32", "f32.const 0; f32.const -0.0; f32.const 1.5; f32.const nan:0x200000; f32.const -inf"),
    ("", "f64", "f64.const 0; f64.const -0.0; f64.const 1.5; f64.const nan:0x4000000000000; f64.const -inf"),
    ("i32 i32 i32", "i32", "select; select (result i32)"),
    ("i64 i64 i32", "i64", "select; select (result i64)"),
    ("f32 f32 i32", "f32", "select; select (result f32)"),
    ("f64 f64 i32", "f64", "select; select (result f64)"),
    ("externref externref i32", "externref", "select (result externref)"),
    ("funcref funcref i32", "funcref", "select (result funcref)"),
    ("i32", "i32", "i32.eqz; i32.clz; i32.ctz; i32.popcnt; i32.extend8_s; i32.extend16_s"),
    ("i64", "i32", "i64.eqz; i32.wrap_i64"),
    ("i64", "i64", "i64.clz; i64.ctz; i64.popcnt; i64.extend8_s; i64.extend16_s; i64.extend32_s"),
    (
        "i32 i32",
        "i32",
        "i32.eq; i32.ne; i32.lt_s; i32.lt_u; i32.gt_s; i32.gt_u; i32.le_s; i32.le_u; i32.ge_s; i32.ge_u;
         i32.add; i32.sub; i32.mul; i32.div_s; i32.div_u; i32.rem_s; i32.rem_u; i32.and; i32.or; i32.xor;
         i32.shl; i32.shr_s; i32.shr_u; i32.rotl; i32.rotr",
    ),
    ("i64 i64", "i32", "i64.eq; i64.ne; i64.lt_s; i64.lt_u; i64.gt_s; i64.gt_u; i64.le_s; i64.le_u; i64.ge_s; i64.ge_u"),
    (
        "i64 i64",
        "i64",
        "i64.add; i64.sub; i64.mul; i64.div_s; i64.div_u; i64.rem_s; i64.rem_u; i64.and; i64.or; i64.xor;
         i64.shl; i64.shr_s; i64.shr_u; i64.rotl; i64.rotr",
    ),
    // Constant operands take other ways through the lowering.
    ("i32", "i32", "i32.const 0 i32.div_s; i32.const -1 i32.div_s; i32.const 7 i32.rem_s; i32.const 33 i32.shl; i32.const -1 i32.rotr"),
    ("i64", "i64", "i64.const 0 i64.rem_u; i64.const -1 i64.rem_s; i64.const 7 i64.div_u; i64.const 65 i64.shr_s; i64.const -1 i64.rotl"),
    ("i64 i64 i64 i64", "i64 i64", "i64.add128; i64.sub128"),
    ("i64 i64", "i64 i64", "i64.mul_wide_s; i64.mul_wide_u"),
    ("f32 f32", "i32", "f32.eq; f32.ne; f32.lt; f32.gt; f32.le; f32.ge"),
    ("f64 f64", "i32", "f64.eq; f64.ne; f64.lt; f64.gt; f64.le; f64.ge"),
    ("f32", "f32", "f32.abs; f32.neg; f32.ceil; f32.floor; f32.trunc; f32.nearest; f32.sqrt"),
    ("f64", "f64", "f64.abs; f64.neg; f64.ceil; f64.floor; f64.trunc; f64.nearest; f64.sqrt"),
    ("f32 f32", "f32", "f32.add; f32.sub; f32.mul; f32.div; f32.min; f32.max; f32.copysign"),
    ("f64 f64", "f64", "f64.add; f64.sub; f64.mul; f64.div; f64.min; f64.max; f64.copysign"),
    ("f32", "i32", "i32.trunc_f32_s; i32.trunc_f32_u; i32.trunc_sat_f32_s; i32.trunc_sat_f32_u; i32.reinterpret_f32"),
    ("f64", "i32", "i32.trunc_f64_s; i32.trunc_f64_u; i32.trunc_sat_f64_s; i32.trunc_sat_f64_u"),
    ("f32", "i64", "i64.trunc_f32_s; i64.trunc_f32_u; i64.trunc_sat_f32_s; i64.trunc_sat_f32_u"),
    ("f64", "i64", "i64.trunc_f64_s; i64.trunc_f64_u; i64.trunc_sat_f64_s; i64.trunc_sat_f64_u; i64.reinterpret_f64"),
    ("i32", "i64", "i64.extend_i32_s; i64.extend_i32_u"),
    ("i32", "f32", "f32.convert_i32_s; f32.convert_i32_u; f32.reinterpret_i32"),
    ("i64", "f32", "f32.convert_i64_s; f32.convert_i64_u"),
    ("i32", "f64", "f64.convert_i32_s; f64.convert_i32_u"),
    ("i64", "f64", "f64.convert_i64_s; f64.convert_i64_u; f64.reinterpret_i64"),
    ("f64", "f32", "f32.demote_f64"),
    ("f32", "f64", "f64.promote_f32"),
];

const VECTORS: &[Row] = &[
    (
        "i32",
        "v128",
        "v128.load; v128.load offset=0xfffffff0; v128.load8x8_s; v128.load8x8_u; v128.load16x4_s; v128.load16x4_u; v128.load32x2_s;
         v128.load32x2_u; v128.load8_splat; v128.load16_splat; v128.load32_splat; v128.load64_splat; v128.load32_zero; v128.load64_zero;
         i8x16.splat; i16x8.splat; i32x4.splat",
    ),
    ("i32 v128", "", "v128.store; v128.store8_lane 15; v128.store16_lane 7; v128.store32_lane 3; v128.store64_lane 1; v128.store64_lane 0"),
    ("i32 v128", "v128", "v128.load8_lane 15; v128.load16_lane 7; v128.load32_lane 3; v128.load64_lane 1; v128.load64_lane 0"),
    ("", "v128", "v128.const i32x4 0 0 0 0; v128.const i64x2 -1 -1; v128.const i8x16 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"),
    (
        "v128 v128",
        "v128",
        "i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; i8x16.shuffle 31 0 30 1 29 2 28 3 27 4 26 5 25 6 24 7;
         i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23; i8x16.shuffle 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3; i8x16.swizzle",
    ),
    ("i64", "v128", "i64x2.splat"),
    ("f32", "v128", "f32x4.splat"),
    ("f64", "v128", "f64x2.splat"),
    (
        "v128",
        "i32",
        "i8x16.extract_lane_s 15; i8x16.extract_lane_u 0; i16x8.extract_lane_s 7; i16x8.extract_lane_u 0; i32x4.extract_lane 3;
         v128.any_true; i8x16.all_true; i16x8.all_true; i32x4.all_true; i64x2.all_true;
         i8x16.bitmask; i16x8.bitmask; i32x4.bitmask; i64x2.bitmask",
    ),
    ("v128", "i64", "i64x2.extract_lane 0; i64x2.extract_lane 1"),
    ("v128", "f32", "f32x4.extract_lane 0; f32x4.extract_lane 3"),
    ("v128", "f64", "f64x2.extract_lane 0; f64x2.extract_lane 1"),
    ("v128 i32", "v128", "i8x16.replace_lane 15; i16x8.replace_lane 7; i32x4.replace_lane 3"),
    ("v128 i64", "v128", "i64x2.replace_lane 0; i64x2.replace_lane 1"),
    ("v128 f32", "v128", "f32x4.replace_lane 0; f32x4.replace_lane 3"),
    ("v128 f64", "v128", "f64x2.replace_lane 0; f64x2.replace_lane 1"),
    (
        "v128 v128",
        "v128",
        "i8x16.eq; i8x16.ne; i8x16.lt_s; i8x16.lt_u; i8x16.gt_s; i8x16.gt_u; i8x16.le_s; i8x16.le_u; i8x16.ge_s; i8x16.ge_u;
         i16x8.eq; i16x8.ne; i16x8.lt_s; i16x8.lt_u; i16x8.gt_s; i16x8.gt_u; i16x8.le_s; i16x8.le_u; i16x8.ge_s; i16x8.ge_u;
         i32x4.eq; i32x4.ne; i32x4.lt_s; i32x4.lt_u; i32x4.gt_s; i32x4.gt_u; i32x4.le_s; i32x4.le_u; i32x4.ge_s; i32x4.ge_u;
         i64x2.eq; i64x2.ne; i64x2.lt_s; i64x2.gt_s; i64x2.le_s; i64x2.ge_s;
         f32x4.eq; f32x4.ne; f32x4.lt; f32x4.gt; f32x4.le; f32x4.ge; f64x2.eq; f64x2.ne; f64x2.lt; f64x2.gt; f64x2.le; f64x2.ge;
         v128.and; v128.andnot; v128.or; v128.xor",
    ),
    ("v128 v128 v128", "v128", "v128.bitselect"),
    ("v128 v128 i32", "v128", "select; select (result v128)"),
    (
        "v128",
        "v128",
        "v128.not; i8x16.abs; i8x16.neg; i8x16.popcnt; i16x8.abs; i16x8.neg; i32x4.abs; i32x4.neg; i64x2.abs; i64x2.neg;
         i16x8.extadd_pairwise_i8x16_s; i16x8.extadd_pairwise_i8x16_u; i32x4.extadd_pairwise_i16x8_s; i32x4.extadd_pairwise_i16x8_u;
         i16x8.extend_low_i8x16_s; i16x8.extend_high_i8x16_s; i16x8.extend_low_i8x16_u; i16x8.extend_high_i8x16_u;
         i32x4.extend_low_i16x8_s; i32x4.extend_high_i16x8_s; i32x4.extend_low_i16x8_u; i32x4.extend_high_i16x8_u;
         i64x2.extend_low_i32x4_s; i64x2.extend_high_i32x4_s; i64x2.extend_low_i32x4_u; i64x2.extend_high_i32x4_u;
         f32x4.ceil; f32x4.floor; f32x4.trunc; f32x4.nearest; f32x4.abs; f32x4.neg; f32x4.sqrt;
         f64x2.ceil; f64x2.floor; f64x2.trunc; f64x2.nearest; f64x2.abs; f64x2.neg; f64x2.sqrt;
         i32x4.trunc_sat_f32x4_s; i32x4.trunc_sat_f32x4_u; i32x4.trunc_sat_f64x2_s_zero; i32x4.trunc_sat_f64x2_u_zero;
         f32x4.convert_i32x4_s; f32x4.convert_i32x4_u; f64x2.convert_low_i32x4_s; f64x2.convert_low_i32x4_u;
         f32x4.demote_f64x2_zero; f64x2.promote_low_f32x4;
         i32x4.relaxed_trunc_f32x4_s; i32x4.relaxed_trunc_f32x4_u; i32x4.relaxed_trunc_f64x2_s_zero; i32x4.relaxed_trunc_f64x2_u_zero",
    ),
    (
        "v128 i32",
        "v128",
        "i8x16.shl; i8x16.shr_s; i8x16.shr_u; i16x8.shl; i16x8.shr_s; i16x8.shr_u; i32x4.shl; i32x4.shr_s; i32x4.shr_u;
         i64x2.shl; i64x2.shr_s; i64x2.shr_u",
    ),
    (
        "v128",
        "v128",
        "i32.const 9 i8x16.shl; i32.const 3 i8x16.shr_s; i32.const -1 i16x8.shr_u; i32.const 33 i32x4.shl; i32.const 63 i64x2.shr_s",
    ),
    (
        "v128 v128",
        "v128",
        "i8x16.narrow_i16x8_s; i8x16.narrow_i16x8_u; i16x8.narrow_i32x4_s; i16x8.narrow_i32x4_u;
         i8x16.add; i8x16.add_sat_s; i8x16.add_sat_u; i8x16.sub; i8x16.sub_sat_s; i8x16.sub_sat_u;
         i8x16.min_s; i8x16.min_u; i8x16.max_s; i8x16.max_u; i8x16.avgr_u;
         i16x8.add; i16x8.add_sat_s; i16x8.add_sat_u; i16x8.sub; i16x8.sub_sat_s; i16x8.sub_sat_u; i16x8.mul;
         i16x8.min_s; i16x8.min_u; i16x8.max_s; i16x8.max_u; i16x8.avgr_u; i16x8.q15mulr_sat_s;
         i32x4.add; i32x4.sub; i32x4.mul; i32x4.min_s; i32x4.min_u; i32x4.max_s; i32x4.max_u; i32x4.dot_i16x8_s;
         i64x2.add; i64x2.sub; i64x2.mul;
         i16x8.extmul_low_i8x16_s; i16x8.extmul_high_i8x16_s; i16x8.extmul_low_i8x16_u; i16x8.extmul_high_i8x16_u;
         i32x4.extmul_low_i16x8_s; i32x4.extmul_high_i16x8_s; i32x4.extmul_low_i16x8_u; i32x4.extmul_high_i16x8_u;
         i64x2.extmul_low_i32x4_s; i64x2.extmul_high_i32x4_s; i64x2.extmul_low_i32x4_u; i64x2.extmul_high_i32x4_u;
         f32x4.add; f32x4.sub; f32x4.mul; f32x4.div; f32x4.min; f32x4.max; f32x4.pmin; f32x4.pmax;
         f64x2.add; f64x2.sub; f64x2.mul; f64x2.div; f64x2.min; f64x2.max; f64x2.pmin; f64x2.pmax;
         i8x16.relaxed_swizzle; f32x4.relaxed_min; f32x4.relaxed_max; f64x2.relaxed_min; f64x2.relaxed_max;
         i16x8.relaxed_q15mulr_s; i16x8.relaxed_dot_i8x16_i7x16_s",
    ),
    (
        "v128 v128 v128",
        "v128",
        "f32x4.relaxed_madd; f32x4.relaxed_nmadd; f64x2.relaxed_madd; f64x2.relaxed_nmadd;
         i8x16.relaxed_laneselect; i16x8.relaxed_laneselect; i32x4.relaxed_laneselect; i64x2.relaxed_laneselect;
         i32x4.relaxed_dot_i8x16_i7x16_add_s",
    ),
    // Lanes of one kind after lanes of another, and no bit cast between lanes of the same.
    ("v128 v128", "v128", "f32x4.add i32x4.abs i16x8.neg f64x2.sqrt; i32x4.add i32x4.neg i32x4.abs; i64x2.eq f32x4.neg i8x16.popcnt"),
];

const ATOMICS: &[Row] = &[
    ("i32", "i32", "i32.atomic.load; i32.atomic.load8_u; i32.atomic.load16_u; i32.atomic.load offset=6; i32.atomic.load offset=0xfffffff0"),
    ("i32", "i64", "i64.atomic.load; i64.atomic.load8_u; i64.atomic.load16_u; i64.atomic.load32_u; i64.atomic.load offset=3"),
    ("i32 i32", "", "i32.atomic.store; i32.atomic.store8; i32.atomic.store16; i32.atomic.store offset=6"),
    ("i32 i64", "", "i64.atomic.store; i64.atomic.store8; i64.atomic.store16; i64.atomic.store32"),
    (
        "i32 i32",
        "i32",
        "i32.atomic.rmw.add; i32.atomic.rmw.sub; i32.atomic.rmw.and; i32.atomic.rmw.or; i32.atomic.rmw.xor; i32.atomic.rmw.xchg;
         i32.atomic.rmw8.add_u; i32.atomic.rmw8.sub_u; i32.atomic.rmw8.and_u; i32.atomic.rmw8.or_u; i32.atomic.rmw8.xor_u;
         i32.atomic.rmw8.xchg_u; i32.atomic.rmw16.add_u; i32.atomic.rmw16.sub_u; i32.atomic.rmw16.and_u; i32.atomic.rmw16.or_u;
         i32.atomic.rmw16.xor_u; i32.atomic.rmw16.xchg_u; memory.atomic.notify; memory.atomic.notify offset=4",
    ),
    (
        "i32 i64",
        "i64",
        "i64.atomic.rmw.add; i64.atomic.rmw.sub; i64.atomic.rmw.and; i64.atomic.rmw.or; i64.atomic.rmw.xor; i64.atomic.rmw.xchg;
         i64.atomic.rmw8.add_u; i64.atomic.rmw8.sub_u; i64.atomic.rmw8.and_u; i64.atomic.rmw8.or_u; i64.atomic.rmw8.xor_u;
         i64.atomic.rmw8.xchg_u; i64.atomic.rmw16.add_u; i64.atomic.rmw16.sub_u; i64.atomic.rmw16.and_u; i64.atomic.rmw16.or_u;
         i64.atomic.rmw16.xor_u; i64.atomic.rmw16.xchg_u; i64.atomic.rmw32.add_u; i64.atomic.rmw32.sub_u; i64.atomic.rmw32.and_u;
         i64.atomic.rmw32.or_u; i64.atomic.rmw32.xor_u; i64.atomic.rmw32.xchg_u",
    ),
    ("i32 i32 i32", "i32", "i32.atomic.rmw.cmpxchg; i32.atomic.rmw8.cmpxchg_u; i32.atomic.rmw16.cmpxchg_u"),
    ("i32 i64 i64", "i64", "i64.atomic.rmw.cmpxchg; i64.atomic.rmw8.cmpxchg_u; i64.atomic.rmw16.cmpxchg_u; i64.atomic.rmw32.cmpxchg_u"),
    ("i32 i32 i64", "i32", "memory.atomic.wait32; memory.atomic.wait32 offset=8"),
    ("i32 i64 i64", "i32", "memory.atomic.wait64"),
    ("", "", "atomic.fence"),
];

/// The instructions of `rows`, and a module with one function for each.
fn module(rows: &[Row]) -> (Vec<String>, Vec<u8>) {
    let mut text = String::from("(module (memory 1)\n");
    let mut names = Vec::new();
    for (params, results, instructions) in rows {
        for instruction in instructions.split(';').map(str::trim) {
            let gets: String = (0..params.split_whitespace().count()).map(|index| format!("local.get {index} ")).collect();
            text += &format!("(func (param {params}) (result {results}) {gets} {instruction})\n");
            names.push(instruction.to_owned());
        }
    }
    text.push(')');
    let binary = peregrine_frontend::to_binary(text.as_bytes()).expect("the text is well-formed").into_owned();
    (names, binary)
}

fn settings(triple: &str, cpu_features: &[&str]) -> Settings {
    let mut cpu_features: Vec<String> = cpu_features.iter().map(|name| String::from(*name)).collect();
    cpu_features.sort();
    let mut settings = Settings::new(Target { triple: triple.to_owned(), cpu_features });
    settings.features.threads = true;
    settings
}

/// Compiles every instruction, and gives the functions by instruction.
fn check(rows: &[Row], settings: &Settings) -> Vec<(String, CompiledFunc)> {
    let (names, binary) = module(rows);
    let translation = peregrine_frontend::translate(&binary, &settings.features, &ModuleLimits::default()).expect("the module is valid");
    let env = ModuleEnv::new(&translation, settings);
    let mut compiler = Optimizing.function_compiler(&env).expect("there is code for the target");
    let compiled = names.into_iter().zip(translation.bodies.indices()).map(|(name, index)| match compiler.function(index) {
        Ok(func) => (name, func),
        Err(error) => panic!("{name} for {:?}: {error}", settings.target),
    });
    compiled.collect()
}

/// What x86-64 processors had, one after the other.
const X64_LEVELS: &[&[&str]] = &[
    &[],
    &["has_sse3"],
    &["has_sse3", "has_ssse3", "has_cmpxchg16b"],
    &["has_sse3", "has_ssse3", "has_cmpxchg16b", "has_sse41"],
    &["has_sse3", "has_ssse3", "has_cmpxchg16b", "has_sse41", "has_sse42", "has_popcnt"],
    &["has_sse3", "has_ssse3", "has_cmpxchg16b", "has_sse41", "has_sse42", "has_popcnt", "has_avx"],
    &[
        "has_sse3",
        "has_ssse3",
        "has_cmpxchg16b",
        "has_sse41",
        "has_sse42",
        "has_popcnt",
        "has_avx",
        "has_avx2",
        "has_fma",
        "has_bmi1",
        "has_bmi2",
        "has_lzcnt",
    ],
    &[
        "has_sse3",
        "has_ssse3",
        "has_cmpxchg16b",
        "has_sse41",
        "has_sse42",
        "has_popcnt",
        "has_avx",
        "has_avx2",
        "has_fma",
        "has_bmi1",
        "has_bmi2",
        "has_lzcnt",
        "has_avx_vnni",
        "has_avx512f",
        "has_avx512dq",
        "has_avx512vl",
        "has_avx512vbmi",
        "has_avx512bitalg",
        "has_avx512vnni",
    ],
];

const X64: &str = "x86_64-unknown-linux-gnu";
const AARCH64: &str = "aarch64-unknown-linux-gnu";
const RISCV64: &str = "riscv64gc-unknown-linux-gnu";
const S390X: &str = "s390x-unknown-linux-gnu";

/// Compiles all of `rows` with and without optimization, relaxed and deterministic.
fn check_all(rows: &[Row], triple: &str, cpu_features: &[&str]) {
    for opt_level in [OptLevel::None, OptLevel::Speed] {
        for deterministic in [false, true] {
            let mut settings = settings(triple, cpu_features);
            settings.opt_level = opt_level;
            settings.nan_canonicalization = deterministic;
            settings.features.relaxed_simd_deterministic = deterministic;
            check(rows, &settings);
        }
    }
}

#[test]
fn every_x64_processor_runs_everything() {
    for level in X64_LEVELS {
        check_all(NUMERIC, X64, level);
        check_all(VECTORS, X64, level);
        check_all(ATOMICS, X64, level);
    }
}

#[test]
fn this_machine_runs_everything() {
    let target = Optimizing.target(None).expect("there is code for this machine");
    let cpu_features: Vec<&str> = target.cpu_features.iter().map(String::as_str).collect();
    check_all(NUMERIC, &target.triple, &cpu_features);
    check_all(VECTORS, &target.triple, &cpu_features);
    check_all(ATOMICS, &target.triple, &cpu_features);
}

#[test]
fn aarch64_runs_everything() {
    for level in [&[][..], &["has_lse"], &["has_lse", "has_fp16", "has_dotprod", "has_i8mm"]] {
        check_all(NUMERIC, AARCH64, level);
        check_all(VECTORS, AARCH64, level);
        check_all(ATOMICS, AARCH64, level);
    }
}

#[test]
fn riscv64_runs_everything_with_vectors() {
    check_all(NUMERIC, RISCV64, &["has_zicsr", "has_zifencei", "has_m", "has_a", "has_f", "has_d"]);
    let with_vectors =
        ["has_zicsr", "has_zifencei", "has_m", "has_a", "has_f", "has_d", "has_v", "has_zvl32b", "has_zvl64b", "has_zvl128b"];
    check_all(NUMERIC, RISCV64, &with_vectors);
    check_all(VECTORS, RISCV64, &with_vectors);
    check_all(ATOMICS, RISCV64, &with_vectors);
}

#[test]
fn s390x_runs_everything() {
    for level in [&[][..], &["has_mie3", "has_vxrs_ext2"], &["has_mie3", "has_vxrs_ext2", "has_mie4", "has_vxrs_ext3"]] {
        check_all(NUMERIC, S390X, level);
        check_all(VECTORS, S390X, level);
        check_all(ATOMICS, S390X, level);
    }
}

#[test]
fn no_instruction_needs_a_relocation() {
    for rows in [NUMERIC, VECTORS, ATOMICS] {
        for level in X64_LEVELS {
            for (name, func) in check(rows, &settings(X64, level)) {
                assert_eq!(func.relocs, [], "{name} with {level:?}");
            }
        }
    }
}

macro_rules! operators {
    ($(@$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        &[$((stringify!($proposal), stringify!($op))),*]
    };
}

/// Names of the operators in a module of `rows`.
fn operators_of(rows: &[Row]) -> BTreeSet<String> {
    let (_, binary) = module(rows);
    let mut names = BTreeSet::new();
    for payload in wasmparser::Parser::new(0).parse_all(&binary) {
        if let wasmparser::Payload::CodeSectionEntry(body) = payload.expect("the module is well-formed") {
            for op in body.get_operators_reader().expect("there are operators") {
                let text = format!("{:?}", op.expect("the operator is known"));
                names.insert(text.split(' ').next().unwrap_or_default().to_owned());
            }
        }
    }
    names
}

#[test]
fn the_tables_have_every_instruction() {
    let scalars: &[(&str, &str)] = wasmparser::for_each_visit_operator!(operators);
    let vectors: &[(&str, &str)] = wasmparser::for_each_visit_simd_operator!(operators);
    let is_numeric = |name: &str| {
        ["I32", "I64", "F32", "F64"].iter().any(|ty| name.starts_with(ty)) && !name.contains("Load") && !name.contains("Store")
    };
    let numeric = scalars.iter().filter(|(proposal, name)| match *proposal {
        "mvp" => is_numeric(name),
        proposal => ["sign_extension", "saturating_float_to_int", "wide_arithmetic"].contains(&proposal),
    });
    let atomics = scalars.iter().filter(|(proposal, _)| *proposal == "threads");
    let seen = [NUMERIC, VECTORS, ATOMICS].map(operators_of);
    let missing = |names: &mut dyn Iterator<Item = &(&'static str, &'static str)>, seen: &BTreeSet<String>| {
        names.map(|entry| entry.1).filter(|name| !seen.contains(*name)).collect::<Vec<_>>()
    };
    assert_eq!(missing(&mut numeric.into_iter(), &seen[0]), [""; 0]);
    assert_eq!(missing(&mut vectors.iter(), &seen[1]), [""; 0]);
    assert_eq!(missing(&mut atomics.into_iter(), &seen[2]), [""; 0]);
}

#[test]
fn the_same_lanes_need_no_bit_casts_in_between() {
    let chain: &[Row] = &[("v128 v128", "v128", "f32x4.add f32x4.neg f32x4.abs f32x4.sqrt")];
    let single: &[Row] = &[("v128 v128", "v128", "f32x4.add")];
    let settings = settings(X64, X64_LEVELS[6]);
    let (chain, single) = (check(chain, &settings), check(single, &settings));
    // An instruction of a vector is at most ten bytes with its constant's address, and a constant sixteen with its alignment.
    assert!(chain[0].1.code.len() <= single[0].1.code.len() + 3 * 10 + 2 * 16 + 15, "{}", chain[0].1.code.len());
}
