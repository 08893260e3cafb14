//! Entries and heads of loops count down budgets by what the code up to the next head costs, if the settings say so.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use peregrine_artifact::func::{CompiledFunc, RelocKind, RelocTarget};
use peregrine_artifact::image::BUDGET_CALLS_OFFSET;
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_artifact::tables::addresses::LOOP_ENTRY_CALL;
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};
use peregrine_wasm::DefinedFuncIndex;

fn compile(text: &str, tiering: Tiering) -> CompiledFunc {
    let tier = Baseline::new();
    let mut settings = Settings::new(tier.target(None).expect("this machine"));
    settings.tiering = tiering;
    let wasm = wat::parse_str(text).expect("the text is right");
    let translation = peregrine_frontend::translate(&wasm, &settings.features, &Default::default()).expect("the module is valid");
    let env = ModuleEnv::new(&translation, &settings);
    let mut compiler = tier.function_compiler(&env).expect("a compiler");
    let last = translation.bodies.indices().next_back().expect("there is a function");
    compiler.function(last).expect("the function compiles")
}

fn instructions(func: &CompiledFunc) -> Vec<Instruction> {
    Decoder::new(64, &func.code, DecoderOptions::NONE).into_iter().collect()
}

/// The count is behind the budget, and counted up by an instruction that ends with the distance.
const COUNT_ADDEND: i64 = BUDGET_CALLS_OFFSET as i64 - 4;

/// What is taken off the budget of the function at each place that does, in the order of the code.
fn costs(func: &CompiledFunc, function: u32) -> Vec<u32> {
    let instructions = instructions(func);
    // The other one counts entries.
    let budgets = func.relocs.iter().filter(|reloc| matches!(reloc.target, RelocTarget::Budget(_)) && reloc.addend != COUNT_ADDEND);
    let cost = |reloc: &peregrine_artifact::func::Reloc| {
        assert_eq!(reloc.target, RelocTarget::Budget(DefinedFuncIndex::from_u32(function)));
        assert_eq!(reloc.kind, RelocKind::X64Rel32);
        let end = u64::from(reloc.offset).wrapping_sub(reloc.addend as u64);
        let found = instructions.iter().position(|instruction| instruction.next_ip() == end).expect("the addend counts to the end");
        assert_eq!(instructions[found].code(), Code::Sub_rm32_imm32);
        assert_eq!(instructions[found + 1].code(), Code::Js_rel32_64);
        instructions[found].immediate32()
    };
    budgets.map(cost).collect()
}

// The operators have these bytes: `loop` 2, `local.get` 2, `br_if` 2, `local.set` 2, `i32.const` of a small number 2, `i32.add` 1, `end` 1.
const LOOPS: &str = r#"(module (func) (func (param i32)
    (local.set 0 (local.get 0))                     ;; 4
    (loop $outer                                    ;; 2
        (loop (br_if 0 (local.get 0)))              ;; 2 + 4 + (1)
        (local.set 0 (i32.const 0))                 ;; 4
        (loop (local.set 0 (i32.const 1))           ;; 2 + 4
            (loop $inner (br_if 0 (local.get 0)))   ;; 2 + 4 + (1)
            (br_if $outer (local.get 0))))          ;; 4 + (1) + (1)
    (local.set 0 (i32.const 2))))"#;

#[test]
fn each_stretch_of_code_costs_its_bytes() {
    // What ends a loop is counted with what is around it.
    let expected = [4 + 1 + 4, 2 + 1 + 4 + 1, 2 + 4, 2 + 4 + 1 + 4, 2 + 4];
    assert_eq!(costs(&compile(LOOPS, Tiering::Counted), 1), expected);
}

#[test]
fn entries_are_counted_once() {
    let func = compile(LOOPS, Tiering::Counted);
    let counts: Vec<_> = func.relocs.iter().filter(|reloc| reloc.addend == COUNT_ADDEND).collect();
    let [count] = counts[..] else { panic!("{counts:?}") };
    assert_eq!(count.target, RelocTarget::Budget(DefinedFuncIndex::from_u32(1)));
    let end = u64::from(count.offset) + 4;
    let found = instructions(&func).into_iter().find(|instruction| instruction.next_ip() == end).expect("an instruction ends there");
    assert_eq!(found.code(), Code::Inc_rm32);
}

#[test]
fn only_counted_code_has_budgets() {
    for tiering in [Tiering::Whole, Tiering::Slots] {
        assert_eq!(costs(&compile(LOOPS, tiering), 1), []);
    }
}

#[test]
fn loops_that_are_not_reached_are_not_counted() {
    let func = compile("(module (func (unreachable) (loop (br 0)) (block (loop (br 0)))))", Tiering::Counted);
    assert_eq!(costs(&func, 0).len(), 1);
}

#[test]
fn loop_entries_are_called_at_one_marked_place() {
    let func = compile(LOOPS, Tiering::Counted);
    let marked: Vec<u32> = func.addresses.iter().filter(|address| address.1 == LOOP_ENTRY_CALL).map(|address| address.0).collect();
    let [start] = marked[..] else { panic!("{marked:?}") };
    assert_eq!(func.addresses.last(), Some(&(start, LOOP_ENTRY_CALL)));
    let after: Vec<Code> = instructions(&func).iter().filter(|at| at.ip() >= u64::from(start)).map(Instruction::code).collect();
    assert_eq!(after.first(), Some(&Code::Call_rm64));
    assert!(after.contains(&Code::Retnq), "{after:?}");
    let without_loops = compile("(module (func))", Tiering::Counted);
    assert!(without_loops.addresses.iter().all(|address| address.1 != LOOP_ENTRY_CALL));
}

#[test]
fn constants_below_loops_are_in_their_homes() {
    let text = r#"(module (func (result i32) (i32.const 0x12345) (i64.const 0x54321) (loop) (drop)))"#;
    let stored = |tiering| {
        let func = compile(text, tiering);
        let stores = instructions(&func).into_iter().filter(|at| matches!(at.code(), Code::Mov_rm32_imm32 | Code::Mov_rm64_imm32));
        stores.map(|at| (at.memory_displacement64() as i64, at.immediate32to64() as u32)).collect::<Vec<_>>()
    };
    assert_eq!(stored(Tiering::Slots), []);
    assert_eq!(stored(Tiering::Counted), [(-72, 0x12345), (-80, 0x54321)]);
}
