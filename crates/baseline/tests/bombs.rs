//! Hostile modules cost this tier no more than they may: validation and code, on one thread, by what ordinary code of as many bytes costs.

use peregrine_artifact::settings::Settings;
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};
use peregrine_harness::bombs::BOMBS;
use peregrine_harness::processor_time;
use std::fmt::Write;

/// What a hostile module may cost, as a multiple of ordinary code that is as many bytes before and after. Those that move the most values for each
/// byte cost twenty times as much.
const MOST: f64 = 60.0;
/// What is smaller counts as so many bytes: it is over too soon to be measured.
const MIN_BYTES: usize = 100_000;

/// What compiling a module took.
#[derive(Default)]
struct Cost {
    seconds: f64,
    wasm_bytes: usize,
    code_bytes: usize,
    functions: usize,
    refused: usize,
}

/// Compiles all functions. Nothing if the module is refused as such.
fn compile(wasm: &[u8]) -> Option<Cost> {
    let settings = Settings::new(Baseline::new().target(None).expect("this machine is known"));
    let translation = peregrine_frontend::translate(wasm, &settings.features, &Default::default()).ok()?;
    let env = ModuleEnv::new(&translation, &settings);
    let mut compiler = Baseline::new().function_compiler(&env).expect("this machine is known");
    let mut cost = Cost { wasm_bytes: wasm.len(), functions: translation.bodies.len(), ..Cost::default() };
    cost.seconds = processor_time::least_seconds(1, || {
        for index in translation.bodies.indices() {
            match compiler.function(index) {
                Ok(function) => cost.code_bytes += function.code.len(),
                Err(_) => cost.refused += 1,
            }
        }
    });
    Some(cost)
}

/// Functions as there are in programs: locals, arithmetic, memory, branches.
fn ordinary() -> Vec<u8> {
    let mut text = String::from("(module (memory 1)");
    for _ in 0..200 {
        text += "(func (param i32) (result i32) (local i32 i32 i32 i32) loop ";
        for turn in 0..100 {
            let (one, other) = (turn % 4 + 1, (turn * 7 + 1) % 4 + 1);
            let _ = write!(
                text,
                "local.get {one} i32.load offset=8 local.get {other} i32.add i32.const {turn} i32.xor local.tee {other}
                    local.get 0 i32.lt_s if local.get {one} local.get {other} i32.store end "
            );
        }
        text += "local.get 1 br_if 0 end local.get 2)";
    }
    wat::parse_str(text + ")").expect("good text")
}

#[test]
fn hostile_modules_are_compiled_in_linear_time() {
    let ordinary = ordinary();
    let costs = (0..5).map(|_| compile(&ordinary).expect("a good module"));
    let ordinary = costs.min_by(|one, other| one.seconds.total_cmp(&other.seconds)).expect("it is tried");
    let (mut slow, mut refused_in) = (Vec::new(), Vec::new());
    for bomb in BOMBS {
        let Some(cost) = compile(&(bomb.make)()) else { continue };
        let bytes = |cost: &Cost| (cost.wasm_bytes + cost.code_bytes).max(MIN_BYTES) as f64;
        let times = cost.seconds / (ordinary.seconds * bytes(&cost) / bytes(&ordinary));
        println!(
            "{:<28} {:>9} bytes of wasm, {:>10} of code, {:>7} functions, {:.3} s, {times:.2} of what is ordinary",
            bomb.name, cost.wasm_bytes, cost.code_bytes, cost.functions, cost.seconds
        );
        if cost.refused > 0 {
            refused_in.push(bomb.name);
        }
        if times > MOST {
            slow.push(format!("{} {times:.2}", bomb.name));
        }
    }
    assert!(refused_in.is_empty(), "refused: {refused_in:?}");
    assert!(slow.is_empty(), "too slow: {slow:?}");
}
