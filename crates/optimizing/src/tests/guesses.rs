//! Guesses of calls and of what is rare, for every target. What the code computes is tested where there is an engine to run it.

use super::{TARGETS, check_tables, settings, with_module};
use crate::function::Compiler;
use peregrine_artifact::compiler::Guidance;
use peregrine_artifact::func::{CompiledFunc, RelocTarget};
use peregrine_artifact::profile::{FunctionProfile, Profile, SiteProfile};
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv};
use peregrine_wasm::{DefinedFuncIndex, FuncIndex};
use std::sync::Arc;

const CALLS: &str = r#"(module
    (type $unary (func (param i32) (result i32)))
    (table 4 funcref)
    (elem (i32.const 0) $small $large $other)
    (func $small (type $unary) (i32.add (local.get 0) (i32.const 1)))
    (func $large (type $unary) (local.set 0 (call $small (local.get 0))) (call $small (local.get 0)))
    (func $other (result i64) (i64.const 1))
    (func $indirect (type $unary) (call_indirect (type $unary) (local.get 0) (local.get 0)))
    (func $tail (type $unary) (return_call_indirect (type $unary) (local.get 0) (local.get 0)))
    (func $never (call $never))
    (func $direct (type $unary)
        (if (i32.eqz (local.get 0)) (then (call $never)))
        (call $large (local.get 0))))"#;

const INDIRECT: u32 = 3;
const TAIL: u32 = 4;
const DIRECT: u32 = 6;

fn index(number: u32) -> DefinedFuncIndex {
    DefinedFuncIndex::from_u32(number)
}

/// Where the indirect call of the two functions is.
const OFFSET: u32 = 5;

/// The functions of the module when their calls went to `target`.
fn compile(settings: &Settings, target: Option<u32>) -> Vec<CompiledFunc> {
    let wasm = wat::parse_str(CALLS).expect("the text is well-formed");
    with_module(&wasm, settings, |translation| {
        let env = ModuleEnv::new(translation, settings);
        let mut compiler = Compiler::new(&env, None).expect("the target is known");
        if let Some(target) = target {
            let mut profile = Profile::new(&wasm);
            for callee in [0, 1] {
                profile.insert(index(callee), FunctionProfile { calls: 2000, ..FunctionProfile::default() });
            }
            for function in [INDIRECT, TAIL, DIRECT] {
                let sites = [(OFFSET, SiteProfile::new([(index(target), 1000)], 5))].into();
                profile.insert(index(function), FunctionProfile { calls: 1005, work: 1, sites });
            }
            compiler.guide(&Guidance { record: false, feedback: Some(Arc::new(profile)) });
        }
        translation.bodies.indices().map(|index| compiler.function(index).expect("it compiles")).collect()
    })
}

/// How often the code refers to a function or its slot.
fn references(compiled: &CompiledFunc, function: u32) -> usize {
    let function = FuncIndex::from_u32(function);
    let refers = |target| target == RelocTarget::Function(function) || target == RelocTarget::Slot(function);
    compiled.relocs.iter().filter(|reloc| refers(reloc.target)).count()
}

#[test]
fn calls_that_went_to_one_function_go_there_directly() {
    for triple in TARGETS {
        let tierings: &[Tiering] = if triple.is_none_or(|triple| triple.starts_with("x86_64")) {
            &[Tiering::Whole, Tiering::Slots, Tiering::Counted]
        } else {
            &[Tiering::Whole]
        };
        for &tiering in tierings {
            let settings = Settings { tiering, ..settings(triple) };
            let plain = compile(&settings, None);
            let guessed = compile(&settings, Some(1));
            for function in [INDIRECT as usize, TAIL as usize] {
                check_tables(&guessed[function]);
                assert_eq!(references(&plain[function], 1), 0, "{triple:?}");
                assert!(references(&guessed[function], 1) > 0, "{triple:?}, {tiering:?}, function {function}");
            }
            // What is small is there instead of a call.
            let inlined = compile(&settings, Some(0));
            for function in [INDIRECT as usize, TAIL as usize] {
                assert_eq!(references(&inlined[function], 0), 0, "{triple:?}");
                assert_ne!(inlined[function].code, plain[function].code);
            }
        }
    }
}

#[test]
fn guesses_that_cannot_be_right_are_not_made() {
    let settings = settings(None);
    let plain = compile(&settings, None);
    // A function of another type, and one that there is not.
    for target in [2, 100, u32::MAX] {
        let guessed = compile(&settings, Some(target));
        assert_eq!(guessed[INDIRECT as usize], plain[INDIRECT as usize]);
        assert_eq!(guessed[TAIL as usize], plain[TAIL as usize]);
    }
    // Nor where nobody knows anything.
    let metered = Settings { fuel: true, ..settings };
    assert_eq!(compile(&metered, None)[INDIRECT as usize], compile(&metered, Some(2))[INDIRECT as usize]);
    assert_ne!(compile(&metered, None)[INDIRECT as usize], compile(&metered, Some(1))[INDIRECT as usize]);
}

#[test]
fn what_was_never_reached_is_put_aside() {
    let settings = settings(Some("x86_64-unknown-linux-gnu"));
    let place = |compiled: &CompiledFunc| {
        let never = RelocTarget::Function(FuncIndex::from_u32(5));
        compiled.relocs.iter().find(|reloc| reloc.target == never).expect("the call is there").offset
    };
    let (plain, guessed) = (compile(&settings, None), compile(&settings, Some(1)));
    let others = |compiled: &CompiledFunc| compiled.relocs.iter().map(|reloc| reloc.offset).max();
    assert_eq!(others(&guessed[DIRECT as usize]), Some(place(&guessed[DIRECT as usize])), "after all other calls");
    assert_ne!(others(&plain[DIRECT as usize]), Some(place(&plain[DIRECT as usize])));
}
