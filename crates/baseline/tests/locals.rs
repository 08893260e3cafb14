//! Locals that are declared and not used cost nothing when a function is called: no time, and no place in its frame.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use peregrine_artifact::settings::Settings;
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};
use peregrine_wasm::{DefinedFuncIndex, Index};

/// The code of a function with 7,000 locals that writes some of them and reads others, of the numbers given.
fn using(written: impl Iterator<Item = usize>, read: impl Iterator<Item = usize>) -> Vec<Instruction> {
    let writes: String = written.map(|local| format!("(local.set {local} (i64.load (i32.const 0)))")).collect();
    let reads: String = read.map(|local| format!("(drop (i64.load (i32.wrap_i64 (local.get {local}))))")).collect();
    let text = format!("(module (memory 1) (func (local {}) {writes} {reads}))", "i64 ".repeat(7_000));
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
fn locals_that_are_not_read_are_not_made_zero() {
    // Those that are read are in a row, whatever is between them that nothing names.
    assert_eq!(zeros(&using(0..0, (0..10).map(|local| local * 150))), (10, 0, 0));
    assert_eq!(zeros(&using(0..0, (0..40).map(|local| local * 150))), (0, 1, 40));
    // Others that are written first may be between them.
    assert_eq!(zeros(&using(200..300, (100..200).chain([6_000, 6_500]))), (2, 1, 100));
    assert_eq!(zeros(&using(100..200, (0..100).chain(5_000..5_050))), (0, 2, 150));
}

#[test]
fn frames_have_places_for_what_is_used() {
    // `sub rsp, size`.
    let frame_bytes = |code: &[Instruction]| code.iter().find(|at| at.code() == Code::Sub_rm64_imm32).map(Instruction::immediate32);
    for count in [3, 100] {
        let bytes = frame_bytes(&using(0..0, (0..count).map(|local| 6_999 - 50 * local))).expect("there is a frame");
        assert!((8 * count as u32..8 * count as u32 + 128).contains(&bytes), "{count} locals, {bytes} bytes");
    }
}
