//! Bodies that are made to be costly: compiling them takes time and memory in proportion to their bytes.

use super::{settings, with_module};
use crate::function::Compiler;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::func::CompiledFunc;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv};
use peregrine_harness::processor_time;
use peregrine_wasm::DefinedFuncIndex;
use std::fmt::Write;
use std::sync::LazyLock;

/// What compiling one function may take, as a multiple of what [an ordinary one](ORDINARY_SECONDS) does.
const MOST: f64 = 40.0;

/// What an ordinary function with 4,000 loads, as many branches and a body of 72 KB takes of the processor on this machine and in this build.
static ORDINARY_SECONDS: LazyLock<f64> = LazyLock::new(|| {
    let mut text = String::from("(module (memory 1) (func (param i32) (result i32) (local i32 i32 i32 i32)");
    for turn in 0..4000 {
        let (one, other) = (turn % 4 + 1, (turn * 7 + 1) % 4 + 1);
        let _ = write!(
            text,
            "local.get {one} i32.load offset=8 local.get {other} i32.add i32.const {turn} i32.xor local.tee {other}
                local.get 0 i32.lt_s if local.get {one} local.get {other} i32.store end "
        );
    }
    text += "local.get 1))";
    let wasm = wat::parse_str(text).expect("the text is well-formed");
    processor_time::least_seconds(3, || assert!(compile(&wasm).is_ok()))
});

/// Compiles the first function of a module.
fn compile(wasm: &[u8]) -> Result<CompiledFunc, CompileError> {
    let settings = settings(None);
    with_module(wasm, &settings, |translation| {
        let env = ModuleEnv::new(translation, &settings);
        Compiler::new(&env, None)?.unverified().function(DefinedFuncIndex::from_u32(0))
    })
}

/// Compiles the first function of the module in `text` and checks what it took.
fn check(name: &str, text: &str) -> Result<CompiledFunc, CompileError> {
    let wasm = wat::parse_str(text).expect("the text is well-formed");
    let mut compiled = None;
    let seconds = processor_time::least_seconds(1, || compiled = Some(compile(&wasm)));
    let compiled = compiled.expect("it was tried");
    let code = compiled.as_ref().map_or(0, |compiled| compiled.code.len());
    let times = seconds / *ORDINARY_SECONDS;
    println!("{name}: {} bytes of input, {code} bytes of code, {seconds:.3} s, {times:.2} of what is ordinary", wasm.len());
    assert!(times < MOST, "{name} took {seconds:.3} s, {times:.2} times as long as what is ordinary");
    compiled
}

fn compiles(name: &str, text: &str) {
    let compiled = check(name, text);
    assert!(compiled.is_ok(), "{name}: {:?}", compiled.err());
}

fn nested_loops(loops: usize, locals: usize) -> String {
    let mut text = format!("(module (func (param i32) (local {})", "i32 ".repeat(locals));
    text += &"loop ".repeat(loops);
    for local in 1..=locals {
        text += &format!("local.get {local} i32.const 1 i32.add local.set {local} ");
    }
    text += &"local.get 0 br_if 0 end ".repeat(loops);
    text + "))"
}

#[test]
fn nested_loops_over_many_locals() {
    compiles("500 loops over 300 locals", &nested_loops(500, 300));
    compiles("2000 loops over 300 locals", &nested_loops(2000, 300));
    compiles("100 loops over 300 locals", &nested_loops(100, 300));
}

#[test]
fn a_loop_over_very_many_locals() {
    compiles("a loop over 49,000 locals", &nested_loops(1, 49_000));
    compiles("2 loops over 20,000 locals", &nested_loops(2, 20_000));
}

#[test]
fn sequences_of_loops_over_many_locals() {
    let mut text = format!("(module (func (param i32) (local {})", "i32 ".repeat(1000));
    for turn in 0..2000 {
        let (one, other) = (turn % 1000 + 1, turn * 7 % 1000 + 1);
        text += &format!("loop local.get {one} local.get {other} i32.add local.set {one} local.get 0 br_if 0 end ");
    }
    text += "))";
    compiles("2000 loops after each other over 1000 locals", &text);
}

#[test]
fn nested_blocks() {
    let depth = 100_000;
    let text = format!("(module (func (param i32) {} {}))", "block ".repeat(depth), "local.get 0 br_if 0 end ".repeat(depth));
    compiles("100,000 nested blocks", &text);
    let text = format!("(module (func (param i32) {} {}))", "local.get 0 if ".repeat(depth), "end ".repeat(depth));
    compiles("100,000 nested ifs", &text);
    let text = format!("(module (func (param i32) {} {}))", "loop ".repeat(depth), "end ".repeat(depth));
    compiles("100,000 nested loops", &text);
}

/// A loop around a switch, each case of which changes some locals and goes round again: costly, and worth being optimized.
#[test]
fn an_interpreter() {
    let (cases, locals) = (1000, 100);
    let mut text = format!("(module (memory 1) (func (param i32) (local {}) loop $top {}", "i32 ".repeat(locals), "block ".repeat(cases));
    let all: String = (0..cases).map(|depth| format!("{depth} ")).collect();
    text += &format!("local.get 0 i32.load br_table {all}");
    for case in 0..cases {
        text += "end ";
        for turn in 0..6 {
            let (one, other) = ((case * 7 + turn * 3) % locals + 1, (case * 11 + turn * 5) % locals + 1);
            text += &format!("local.get {other} i32.load local.get {one} i32.add local.set {one} ");
        }
        text += if case % 2 == 0 { "local.get 0 br_if $top " } else { "br $top " };
    }
    compiles("an interpreter of 1000 cases over 100 locals", &(text + "end ))"));
}

#[test]
fn many_blocks_after_each_other() {
    let text = format!("(module (func (param i32) (local i32) {}))", "local.get 0 if local.get 0 local.set 1 end ".repeat(100_000));
    compiles("100,000 ifs after each other", &text);
    let text = format!("(module (func (param i32) block {} end))", "local.get 0 br_if 0 ".repeat(100_000));
    compiles("100,000 branches to one block", &text);
}

#[test]
fn blocks_with_many_results() {
    let results = "i32 ".repeat(900);
    let values = "i32.const 1 ".repeat(900);
    let text = format!(
        "(module (func (param i32) (result {results}) {values} block (param {results}) (result {results}) {} end))",
        "local.get 0 br_if 0 ".repeat(2000)
    );
    compiles("2000 branches with 900 results", &text);
    let text = format!(
        "(module (func (param i32) (result {results}) i32.const 5 block (result {results}) {values} {} end
            {}))",
        "local.get 0 br_if 0 ".repeat(500),
        "return",
    );
    compiles("500 branches with 900 results that move", &text);
}

#[test]
fn operands_that_cross_many_blocks() {
    let text = format!(
        "(module (func (param i32) {} {} {}))",
        "local.get 0 i32.const 1 i32.add ".repeat(5000),
        "local.get 0 if end ".repeat(20_000),
        "drop ".repeat(5000)
    );
    compiles("5000 operands over 20,000 ifs", &text);
}

#[test]
fn huge_branch_tables() {
    let text = format!("(module (func (param i32) block block local.get 0 br_table {} 1 end end))", "0 1 ".repeat(50_000));
    compiles("a table of 100,000 branches", &text);
    let depth = 1000;
    let all: String = (0..depth).map(|depth| format!("{depth} ")).collect();
    let text = format!(
        "(module (func (param i32) {} {} {}))",
        "block ".repeat(depth),
        format!("block local.get 0 br_table {all} 0 end ").repeat(100),
        "end ".repeat(depth)
    );
    compiles("100 tables of 1000 targets", &text);
}

#[test]
fn a_long_straight_line() {
    let text = format!("(module (func (param i32) (result i32) local.get 0 {}))", "local.get 0 i32.add ".repeat(1_000_000));
    compiles("1,000,000 additions of a parameter", &text);
    let text = format!("(module (func (param i32) (result i32) local.get 0 {}))", "i32.const 77 i32.add ".repeat(1_000_000));
    compiles("1,000,000 additions of a constant", &text);
}

#[test]
fn many_memory_accesses() {
    let text = format!("(module (memory 1) (func (param i32) {}))", "local.get 0 local.get 0 i32.load i32.store ".repeat(100_000));
    compiles("100,000 loads and stores", &text);
}

#[test]
fn many_calls() {
    let text = format!("(module (func $f (param i32) {}) (func $g (param i32)))", "local.get 0 call $g ".repeat(50_000));
    compiles("50,000 calls", &text);
    let text = format!("(module (table 1 funcref) (func $f (param i32) {}))", "local.get 0 call_indirect ".repeat(20_000));
    compiles("20,000 indirect calls", &text);
}

#[test]
fn calls_with_many_parameters_and_results() {
    let types = "i64 ".repeat(900);
    let text = format!("(module (func $f (param {types}) (result {types}) {} {}))", "i64.const 1 ".repeat(900), "call $f ".repeat(500));
    compiles("500 calls with 900 parameters and results", &text);
}

#[test]
fn many_small_functions_called_once() {
    let calls: String = (1..=20_000).map(|callee| format!("local.get 0 call {callee} ")).collect();
    let callees = "(func (param i32) (i32.store (local.get 0) (local.get 0))) ".repeat(20_000);
    compiles("20,000 calls of as many small functions", &format!("(module (memory 1) (func (param i32) {calls}) {callees})"));
}

#[test]
fn more_globals_than_there_are_flags() {
    let globals = "(global (mut i32) (i32.const 1)) ".repeat(70_000);
    let uses: String = (0..70_000).map(|global| format!("global.get {global} global.set {} ", global * 7 % 70_000)).collect();
    compiles("70,000 globals", &format!("(module {globals} (func {uses}))"));
}
