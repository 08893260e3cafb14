//! Locals that are declared and not used cost nothing when a function is called.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use peregrine_artifact::settings::Settings;
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};
use peregrine_wasm::{DefinedFuncIndex, Index};

/// The code of a function with 7,000 locals, whose frame needs no probe, that reads those of the numbers given.
fn reading(locals: impl Iterator<Item = usize>) -> Vec<Instruction> {
    let reads: String = locals.map(|local| format!("(drop (i64.load (i32.wrap_i64 (local.get {local}))))")).collect();
    let text = format!("(module (memory 1) (func (local {}) {reads}))", "i64 ".repeat(7_000));
    let tier = Baseline::new();
    let settings = Settings::new(tier.target(None).expect("this machine"));
    let wasm = wat::parse_str(text).expect("the text is right");
    let translation = peregrine_frontend::translate(&wasm, &settings.features, &Default::default()).expect("the module is valid");
    let env = ModuleEnv::new(&translation, &settings);
    let mut compiler = tier.function_compiler(&env).expect("a compiler");
    let func = compiler.function(DefinedFuncIndex::from_usize(0)).expect("the function compiles");
    Decoder::new(64, &func.code, DecoderOptions::NONE).into_iter().collect()
}

/// How many stores of zero there are before the first load of the body, how many loops, and how many words the loops are for.
fn zeros(code: &[Instruction]) -> (usize, usize, u64) {
    let stores = code.iter().filter(|at| at.code() == Code::Mov_rm64_imm32 && at.memory_base() == iced_x86::Register::RBP);
    let loops = code.iter().enumerate().filter(|(_, at)| at.code() == Code::Jne_rel8_64 && at.near_branch_target() < at.ip());
    // Each begins with its count.
    let counts = loops.clone().map(|(position, _)| {
        let count = code[..position].iter().rev().find(|at| at.code() == Code::Mov_r32_imm32).expect("a loop counts");
        u64::from(count.immediate32())
    });
    (stores.count(), loops.count(), counts.sum())
}

#[test]
fn locals_that_are_not_used_are_not_made_zero() {
    assert_eq!(zeros(&reading((0..40).map(|local| local * 150))), (40, 0, 0));
    // Close together, and some far away.
    assert_eq!(zeros(&reading((100..200).chain([6_000, 6_500]))), (2, 1, 100));
    assert_eq!(zeros(&reading((0..100).chain(5_000..5_050))), (0, 2, 150));
}
