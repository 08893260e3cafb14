//! Fuel is counted at the ends of stretches of straight code: what traps before the end is not counted.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};
use peregrine_artifact::settings::Settings;
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};
use peregrine_wasm::Trap;

/// The offsets of the first instruction that changes the fuel counter and of the one whose fault is `trap`, in the last function of `text`.
fn fuel_and_trap(text: &str, trap: Trap) -> (u32, u32) {
    let tier = Baseline::new();
    let mut settings = Settings::new(tier.target(None).expect("this machine"));
    settings.fuel = true;
    settings.features.function_references = true;
    let wasm = wat::parse_str(text).expect("the text is right");
    let translation = peregrine_frontend::translate(&wasm, &settings.features, &Default::default()).expect("the module is valid");
    let env = ModuleEnv::new(&translation, &settings);
    let mut compiler = tier.function_compiler(&env).expect("a compiler");
    let last = translation.bodies.indices().next_back().expect("there is a function");
    let func = compiler.function(last).expect("the function compiles");
    let instructions: Vec<Instruction> = Decoder::new(64, &func.code, DecoderOptions::NONE).into_iter().collect();
    let fuel =
        instructions.iter().find(|at| at.mnemonic() == Mnemonic::Lea && at.op0_register() == Register::R15).expect("fuel is counted");
    let fault = func.traps.iter().find(|other| other.1 == trap).expect("it may trap");
    (fuel.ip() as u32, fault.0)
}

#[test]
fn calls_of_null_are_not_counted() {
    let references = [
        ("(call_ref $t (ref.null $t))", Trap::NullReference),
        ("(return_call_ref $t (ref.null $t))", Trap::NullReference),
        ("(call_indirect $typed (type $t) (i32.const 0))", Trap::IndirectCallToNull),
        ("(return_call_indirect $typed (type $t) (i32.const 0))", Trap::IndirectCallToNull),
        ("(call_indirect $any (type $t) (i32.const 0))", Trap::IndirectCallToNull),
    ];
    for (call, trap) in references {
        let text = format!("(module (type $t (func)) (table $typed 1 (ref null $t)) (table $any 1 funcref) (func {call}))");
        let (fuel, fault) = fuel_and_trap(&text, trap);
        assert!(fault < fuel, "{call}: counted at {fuel}, traps at {fault}");
    }
}
