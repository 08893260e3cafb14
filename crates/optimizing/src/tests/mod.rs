//! Tests of the whole tier, from text to compiled functions. What the code computes is tested where there is an engine to run it.

mod bombs;
mod families;
mod guesses;
mod lines;
mod looks;
mod loop_entries;
mod slots;

use crate::budget::Mode;
use crate::function::Compiler;
use crate::isa;
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::settings::Settings;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv};
use peregrine_frontend::{FuncValidatorAllocations, Translation};
use peregrine_wasm::ModuleLimits;

/// Every target that there is code for.
const TARGETS: [Option<&str>; 5] = [
    None,
    Some("x86_64-unknown-linux-gnu"),
    Some("aarch64-unknown-linux-gnu"),
    Some("riscv64gc-unknown-linux-gnu"),
    Some("s390x-unknown-linux-gnu"),
];

/// Settings for a target with every proposal on that this tier has.
fn settings(triple: Option<&str>) -> Settings {
    let mut settings = Settings::new(isa::target(triple).expect("the target is known"));
    settings.features.function_references = true;
    settings
}

/// Calls `run` with the valid module in `wasm`.
fn with_module<R>(wasm: &[u8], settings: &Settings, run: impl FnOnce(&Translation<'_>) -> R) -> R {
    let translation = peregrine_frontend::translate(wasm, &settings.features, &ModuleLimits::default()).expect("the module is valid");
    let mut allocations = FuncValidatorAllocations::default();
    for index in translation.bodies.indices() {
        translation.validate_body(index, &mut allocations).expect("the body is valid");
    }
    run(&translation)
}

/// Compiles every function of `wasm`, and both stubs of each of its types, in a mode or as their budgets say.
fn compile(wasm: &[u8], settings: &Settings, mode: Option<Mode>) -> Result<Vec<CompiledFunc>, CompileError> {
    with_module(wasm, settings, |translation| {
        let env = ModuleEnv::new(translation, settings);
        let mut compiler = Compiler::new(&env, None)?;
        if let Some(mode) = mode {
            compiler = compiler.in_mode(mode);
        }
        let mut compiled = Vec::new();
        for index in translation.bodies.indices() {
            compiled.push(compiler.function(index)?);
        }
        for ty in translation.module.types.indices() {
            compiled.push(compiler.stub(StubKind::Enter, ty)?);
            compiled.push(compiler.stub(StubKind::Exit, ty)?);
        }
        Ok(compiled)
    })
}

/// Compiles the module in `text` for every target, in both modes, under settings that change the code, and checks what all code has.
fn check(text: &str) {
    let wasm = wat::parse_str(text).expect("the text is well-formed");
    for triple in TARGETS {
        let plain = settings(triple);
        let metered = Settings { interrupt: true, fuel: true, ..plain.clone() };
        let checked = Settings {
            memory_reservation_bytes: 0,
            memory_guard_bytes: 0,
            spectre_mitigations: false,
            nan_canonicalization: true,
            ..plain.clone()
        };
        for settings in [plain, metered, checked] {
            for mode in [None, Some(Mode::Plain)] {
                let first = compile(&wasm, &settings, mode).unwrap_or_else(|error| panic!("{triple:?}, {mode:?}: {error}\n{text}"));
                assert_eq!(first, compile(&wasm, &settings, mode).expect("it compiled before"), "the same every time");
                first.iter().for_each(check_tables);
                loop_entries::compile_all(&wasm, &settings, mode);
            }
        }
    }
}

/// Tables are sorted and within the code.
fn check_tables(func: &CompiledFunc) {
    let len = func.code.len() as u32;
    assert!(len > 0);
    assert!(func.traps.is_sorted_by(|a, b| a.0 < b.0) && func.traps.iter().all(|trap| trap.0 < len));
    assert!(func.addresses.is_sorted_by_key(|address| address.0) && func.addresses.iter().all(|address| address.0 < len));
    assert!(func.relocs.iter().all(|reloc| reloc.offset < len));
}
