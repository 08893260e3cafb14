//! Code of functions that are compiled one by one reaches other functions through entry slots only.

use iced_x86::{Code, Decoder, DecoderOptions};
use peregrine_artifact::func::{CompiledFunc, Reloc, RelocKind, RelocTarget};
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};
use peregrine_wasm::{DefinedFuncIndex, FuncIndex};

const CALLS: &str = r#"(module
    (import "" "f" (func $imported (param i32) (result i32)))
    (func $defined (param i32) (result i32) (local.get 0))
    (func (param i32) (result i32)
        (i32.add (call $imported (local.get 0)) (call $defined (local.get 0)))
        (return_call $defined)))"#;

fn compile(tiering: Tiering) -> CompiledFunc {
    let tier = Baseline::new();
    let mut settings = Settings::new(tier.target(None).expect("this machine"));
    settings.tiering = tiering;
    let wasm = wat::parse_str(CALLS).expect("the text is right");
    let translation = peregrine_frontend::translate(&wasm, &settings.features, &Default::default()).expect("the module is valid");
    let env = ModuleEnv::new(&translation, &settings);
    let mut compiler = tier.function_compiler(&env).expect("a compiler");
    compiler.function(DefinedFuncIndex::from_u32(1)).expect("the function compiles")
}

/// The places of a function that refer to others.
fn calls(func: &CompiledFunc) -> Vec<Reloc> {
    func.relocs.iter().copied().filter(|reloc| !matches!(reloc.target, RelocTarget::Budget(_))).collect()
}

/// The instruction that has a place in it.
fn instruction_at(func: &CompiledFunc, place: u32) -> Code {
    let decoder = Decoder::new(64, &func.code, DecoderOptions::NONE);
    let found = decoder.into_iter().find(|instruction| (instruction.ip() + 1..instruction.next_ip()).contains(&u64::from(place)));
    found.expect("the place is in an instruction").code()
}

#[test]
fn calls_go_through_slots() {
    for tiering in [Tiering::Slots, Tiering::Counted] {
        let func = compile(tiering);
        let relocs = calls(&func);
        assert_eq!(relocs.len(), 2, "{relocs:?}");
        for (reloc, expected) in relocs.iter().zip([Code::Call_rm64, Code::Jmp_rm64]) {
            assert_eq!(reloc.target, RelocTarget::Slot(FuncIndex::from_u32(1)));
            assert_eq!((reloc.kind, reloc.addend), (RelocKind::X64Rel32, -4));
            assert_eq!(instruction_at(&func, reloc.offset), expected);
        }
    }
}

#[test]
fn whole_modules_call_directly() {
    let func = compile(Tiering::Whole);
    let relocs = calls(&func);
    assert_eq!(relocs.len(), 2, "{relocs:?}");
    for (reloc, expected) in relocs.iter().zip([Code::Call_rel32_64, Code::Jmp_rel32_64]) {
        assert_eq!(reloc.target, RelocTarget::Function(FuncIndex::from_u32(1)));
        assert_eq!(instruction_at(&func, reloc.offset), expected);
    }
}
