//! Functions that are entered at the heads of loops. Cranelift's verifier checks them; what they compute is tested where there is an engine.

use super::{check, check_tables, settings, with_module};
use crate::budget::Mode;
use crate::function::Compiler;
use peregrine_artifact::abi::has_homes_by_rank;
use peregrine_artifact::builtins::pack_homes;
use peregrine_artifact::compiler::{CompileError, LoopEntry};
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv};
use peregrine_frontend::Translation;
use peregrine_wasm::DefinedFuncIndex;
use std::collections::HashSet;
use wasmparser::Operator;

/// The offsets of the loops of a body, and how many locals have homes, parameters included.
fn loops(translation: &Translation<'_>, index: DefinedFuncIndex) -> (Vec<u32>, u32) {
    let module = &translation.module;
    let params = module.types[module.functions[module.func_index(index)].ty].params.len() as u32;
    let body = translation.body(index);
    let locals = body.get_locals_reader().unwrap().into_iter().map(|group| group.unwrap().0).sum::<u32>();
    let start = translation.bodies[index].start as u64;
    let mut operators = body.get_operators_reader().unwrap();
    let (mut found, mut named) = (Vec::new(), HashSet::new());
    while !operators.eof() {
        let (op, position) = operators.read_with_offset().unwrap();
        if let Operator::LocalGet { local_index } | Operator::LocalSet { local_index } | Operator::LocalTee { local_index } = op {
            named.insert(local_index);
        }
        if matches!(op, Operator::Loop { .. }) {
            found.push((position - start) as u32);
        }
    }
    let by_rank = has_homes_by_rank((params + locals) as usize, false);
    (found, if by_rank { named.len() as u32 } else { params + locals })
}

/// Enters every function at every loop. How many entries there were, and how many loops that are never reached.
pub(super) fn compile_all(wasm: &[u8], settings: &Settings, mode: Option<Mode>) -> (usize, usize) {
    with_module(wasm, settings, |translation| {
        let env = ModuleEnv::new(translation, settings);
        let mut compiler = Compiler::new(&env, None).expect("the target is known");
        if let Some(mode) = mode {
            compiler = compiler.in_mode(mode);
        }
        let (mut entries, mut unreached) = (0, 0);
        for index in translation.bodies.indices() {
            let (offsets, locals) = loops(translation, index);
            for offset in offsets {
                match compiler.loop_entry(index, LoopEntry { offset, homes: pack_homes(locals, 4) }) {
                    Ok(func) => {
                        check_tables(&func);
                        entries += 1;
                    }
                    Err(CompileError::Unsupported { message }) if message.contains("no loop is reached") => unreached += 1,
                    Err(error) => panic!("{mode:?}, at {offset:#x}: {error}"),
                }
            }
        }
        (entries, unreached)
    })
}

/// Enters `text` at every loop, in every mode: so many entries, and so many loops that are never reached.
#[track_caller]
fn check_entries(text: &str, expected: (usize, usize)) {
    // There are no vectors on one of the processors.
    if !text.contains("v128") {
        check(text);
    }
    let wasm = wat::parse_str(text).unwrap();
    let slots = Settings { tiering: Tiering::Counted, ..settings(Some("x86_64-unknown-linux-gnu")) };
    for settings in [settings(None), Settings { fuel: true, interrupt: true, ..slots.clone() }, slots] {
        for mode in [None, Some(Mode::Plain)] {
            assert_eq!(compile_all(&wasm, &settings, mode), expected, "{mode:?}");
        }
    }
}

#[test]
fn loops_in_loops_keep_operands_below() {
    check_entries(
        r#"(module (func (param i32 i64) (result i64) (local f32 i32)
            (i64.add (local.get 1)
                (loop (result i64)
                    (local.set 3 (i32.const 10))
                    (i64.mul (i64.extend_i32_u (local.get 0))
                        (loop (result i64)
                            (i64.sub (i64.extend_i32_u (local.get 3))
                                (loop (result i64)
                                    (local.set 2 (f32.add (local.get 2) (f32.const 1)))
                                    (br_if 0 (f32.lt (local.get 2) (f32.const 100)))
                                    (i64.trunc_f32_u (local.get 2))))
                            (br_if 0 (local.tee 3 (i32.sub (local.get 3) (i32.const 1))))))
                    (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))))"#,
        (3, 0),
    );
}

#[test]
fn operands_of_other_types_at_the_same_depth() {
    check_entries(
        r#"(module (func (param i32) (result f64)
            (loop (result f64)
                (drop (i64.add (i64.const 5) (loop (result i64) (br_if 0 (local.get 0)) (i64.const 4))))
                (f64.add (f64.convert_i32_s (local.get 0)) (loop (result f64) (br_if 1 (local.get 0)) (br_if 0 (local.get 0)) (f64.const 1))))))"#,
        (3, 0),
    );
}

#[test]
fn parameters_of_loops() {
    check_entries(
        r#"(module (func (param i32) (result i32 i64)
            i32.const 1
            i64.const 2
            i32.const 3
            i64.const 4
            loop (param i32 i64) (result i32 i64)
                i64.const 1
                i64.add
                loop (param i32 i64) (result i32 i64)
                    local.get 0
                    br_if 0
                    local.get 0
                    br_table 0 1 0
                end
            end
            drop drop))"#,
        (2, 0),
    );
}

#[test]
fn branches_around_loops() {
    check_entries(
        r#"(module (memory 1) (func (param i32) (result i32) (local v128)
            i32.const 7
            local.get 0
            i32.const 9
            local.get 0
            if (param i32 i32) (result i32)
                i32.add
                loop (param i32) (result i32)
                    (br_if 0 (i32.and (local.get 0) (i32.const 1)))
                end
            else
                drop
                loop
                    (local.set 1 (i8x16.add (local.get 1) (v128.load (local.get 0))))
                    (br_if 0 (v128.any_true (local.get 1)))
                end
                i32.const 5
                i32.mul
            end
            (block (result i32)
                (loop
                    (block (block (br_table 0 1 2 1 (local.get 0))) (br 1))
                    (return (i32.const 4)))
                unreachable)
            drop
            i32.add))"#,
        (3, 0),
    );
}

#[test]
fn an_if_in_a_loop_keeps_its_parameters_for_else() {
    check_entries(
        r#"(module (func (param i32) (result i32)
            (loop $outer (result i32)
                (i32.add (local.get 0) (i32.const 3))
                local.get 0
                if (param i32) (result i32)
                    local.set 0
                    (loop $inner (br_if $inner (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                    br $outer
                else
                    i32.const 1
                    i32.add
                end)))"#,
        (2, 0),
    );
}

#[test]
fn calls_in_loops() {
    check_entries(
        r#"(module (func $leaf (param i32) (result i32) (i32.load (local.get 0))) (memory 1)
            (func $self (param i32) (result i32)
                (loop (result i32)
                    (br_if 0 (call $leaf (local.get 0)))
                    (br_if 0 (call $self (i32.const 0)))
                    (return_call $self (call $leaf (i32.const 4))))))"#,
        (1, 0),
    );
}

#[test]
fn loops_that_are_never_reached() {
    check_entries(
        r#"(module (func (param i32) (result i32)
            (loop (br 0) (loop (br_if 0 (local.get 0))))
            (loop (br 0))
            unreachable))"#,
        (1, 2),
    );
}

#[test]
fn what_is_no_loop_cannot_be_entered() {
    let wasm = wat::parse_str("(module (func (param i32) (loop (br_if 0 (local.get 0)))))").unwrap();
    let settings = settings(None);
    with_module(&wasm, &settings, |translation| {
        let env = ModuleEnv::new(translation, &settings);
        let mut compiler = Compiler::new(&env, None).unwrap();
        let index = DefinedFuncIndex::from_u32(0);
        let offset = loops(translation, index).0[0];
        for (offset, locals) in [(0, 1), (offset + 1, 1), (10_000, 1), (offset, 2), (offset, 0)] {
            let error = compiler.loop_entry(index, LoopEntry { offset, homes: pack_homes(locals, 3) }).unwrap_err();
            assert!(matches!(error, CompileError::Unsupported { .. }), "{error}");
        }
        compiler.loop_entry(index, LoopEntry { offset, homes: pack_homes(1, 3) }).unwrap();
    });
}
