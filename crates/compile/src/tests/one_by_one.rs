//! Images without code, and functions compiled one by one.

use super::fake_tier::{Checked, FAIL, FAST, FakeTier, HUGE, PANIC, settings};
use crate::budget::Budget;
use crate::driver::ImageCompiler;
use crate::tier::{FunctionCompiler, ModuleEnv, Tier};
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::allowance::Allowance;
use peregrine_artifact::compiler::{
    CompileError, Compiler, CompilerKind, FunctionRequest, LazyFunctions, LoopEntry, Validation, WasmBytes,
};
use peregrine_artifact::func::{CompiledFunc, RelocTarget};
use peregrine_artifact::image::{EntryArea, Section};
use peregrine_artifact::settings::{Settings, Target, Tiering};
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, TypeIndex};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const OPTIMIZING: u8 = 0x0b;

fn slots() -> Settings {
    Settings { tiering: Tiering::Slots, ..settings() }
}

fn two_tiers() -> ImageCompiler {
    ImageCompiler::new(Arc::new(FakeTier::marked(OPTIMIZING))).with_fast_tier(Arc::new(FakeTier::marked(FAST)))
}

fn wasm(text: &str) -> WasmBytes {
    Arc::new(wat::parse_str(text).expect("good text"))
}

fn functions(compiler: &ImageCompiler, wasm: WasmBytes, validation: Validation) -> Arc<dyn LazyFunctions> {
    compiler.lazy_functions(wasm, &slots(), validation).expect("settings with slots")
}

fn request(function: u32, tier: CompilerKind) -> FunctionRequest {
    FunctionRequest { function: DefinedFuncIndex::from_u32(function), tier, loop_entry: None }
}

/// Valid sections, and a body that leaves an operand.
fn invalid_body() -> WasmBytes {
    let mut bytes = wat::parse_str("(module (func (drop (i32.const 1))) (func nop))").expect("good text");
    let drop = bytes.iter().rposition(|byte| *byte == 0x1a).expect("there is a drop");
    bytes[drop] = 0x01;
    Arc::new(bytes)
}

#[test]
fn a_prepared_image_has_all_but_the_code_of_functions() {
    let text = r#"(module $name (import "a" "b" (func)) (memory 1) (data (i32.const 0) "data")
        (func $one (export "one") (param i32)) (func $two call $two) (func $three))"#;
    let (fast, other) = (FakeTier::marked(FAST), FakeTier::marked(OPTIMIZING));
    let counts = [&fast, &other].map(|tier| (tier.functions.clone(), tier.stubs.clone()));
    let compiler = ImageCompiler::new(Arc::new(other)).with_fast_tier(Arc::new(fast));
    let image = Checked::new(compiler.prepare((*wasm(text)).as_ref(), &slots(), Validation::Complete).expect("a good module"));
    let prepared = compiler.prepare_functions(wasm(text), &slots(), Validation::Complete).expect("a good module");
    assert!(prepared.image == image.bytes);
    assert_eq!(prepared.functions.compile(&request(2, CompilerKind::Baseline)).expect("a good function").code[0], FAST);
    let whole = Checked::new(compiler.compile((*wasm(text)).as_ref(), &slots(), &()).expect("a good module"));
    assert_eq!(image.meta, whole.meta);
    for section in [Section::Settings, Section::Names, Section::Data, Section::MemoryImage] {
        assert_eq!(image.layout.section(&image.bytes, section), whole.layout.section(&whole.bytes, section));
    }
    let (entries, with_code) = (image.layout.functions(&image.bytes), whole.layout.functions(&whole.bytes));
    assert_eq!(entries.len(), 3);
    for (entry, with_code) in entries.iter().zip(with_code) {
        assert_eq!((entry.code_len.get(), entry.traps_len.get(), entry.addresses_len.get()), (0, 0, 0));
        assert_eq!(entry.body_start, with_code.body_start);
    }
    let text_len = image.layout.section(&image.bytes, Section::Text).len() as u32;
    assert!(text_len > 0 && (0..text_len).all(|offset| image.layout.function_at(&image.bytes, offset).is_none()));
    // Two types with two stubs, twice by the fast tier, and a function; everything again by the other for the whole image.
    let counts = counts.map(|(functions, stubs)| (functions.load(Ordering::Relaxed), stubs.load(Ordering::Relaxed)));
    assert_eq!(counts, [(1, 8), (3, 4)]);
}

#[test]
fn validation_is_complete_deferred_or_trusted() {
    let wasm = invalid_body();
    let compiler = two_tiers();
    let bytes = (*wasm).as_ref();
    assert!(matches!(compiler.prepare(bytes, &slots(), Validation::Complete), Err(CompileError::Invalid { offset: Some(_), .. })));
    let together = compiler.prepare_functions(wasm.clone(), &slots(), Validation::Complete);
    assert!(matches!(together.map(|_| ()), Err(CompileError::Invalid { offset: Some(_), .. })));
    for validation in [Validation::Deferred, Validation::Trusted] {
        compiler.prepare(bytes, &slots(), validation).expect("bodies are not looked at");
    }
    let deferred = functions(&compiler, wasm.clone(), Validation::Deferred);
    for _ in 0..2 {
        for tier in [CompilerKind::Baseline, CompilerKind::Optimizing] {
            assert!(matches!(deferred.compile(&request(0, tier)), Err(CompileError::Invalid { offset: Some(_), .. })));
            deferred.compile(&request(1, tier)).expect("a valid body");
        }
    }
    functions(&compiler, wasm, Validation::Trusted).compile(&request(0, CompilerKind::Baseline)).expect("bodies are not validated");
}

#[test]
fn sections_are_validated_whenever_bodies_are() {
    let mut bytes = wat::parse_str("(module (func))").expect("good text");
    bytes.extend([0, 5]);
    let bytes: WasmBytes = Arc::new(bytes);
    let compiler = two_tiers();
    for validation in [Validation::Complete, Validation::Deferred, Validation::Trusted] {
        let error = compiler.prepare((*bytes).as_ref(), &slots(), validation).expect_err("truncated");
        assert!(matches!(error, CompileError::Invalid { .. }), "{error}");
        let functions = functions(&compiler, bytes.clone(), validation);
        for _ in 0..2 {
            assert_eq!(functions.compile(&request(0, CompilerKind::Baseline)), Err(error.clone()));
        }
    }
}

#[test]
fn functions_call_each_other_through_slots() {
    let functions =
        functions(&two_tiers(), wasm(r#"(module (import "a" "b" (func)) (func call 2) (func call 1 call 2))"#), Validation::Trusted);
    for (tier, mark) in [(CompilerKind::Baseline, FAST), (CompilerKind::Optimizing, OPTIMIZING)] {
        let compiled = functions.compile(&request(1, tier)).expect("a good function");
        assert_eq!(compiled.code[0], mark);
        let targets: Vec<_> = compiled.relocs.iter().map(|reloc| reloc.target).collect();
        assert_eq!(targets, [1, 2].map(|index| RelocTarget::Slot(FuncIndex::from_u32(index))));
    }
    let error = functions.compile(&request(2, CompilerKind::Baseline)).expect_err("there are two");
    assert!(matches!(error, CompileError::Internal { .. }));
    let entry = Some(LoopEntry { offset: 1, homes: 0 });
    let no_entry = functions.compile(&FunctionRequest { loop_entry: entry, ..request(0, CompilerKind::Optimizing) });
    assert!(matches!(no_entry, Err(CompileError::Unsupported { .. })));
}

/// Code as the fake tier's, but begun with `99`, and none for function 1.
struct Picky;

struct PickyCompiler<'m>(Box<dyn FunctionCompiler + 'm>);

impl Tier for Picky {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        FakeTier::default().target(triple)
    }

    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        Ok(Box::new(PickyCompiler(FakeTier::marked(0x99).function_compiler(env)?)))
    }
}

impl FunctionCompiler for PickyCompiler<'_> {
    fn function(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        if index.as_u32() == 1 { Err(CompileError::Limit { message: "picky".into() }) } else { self.0.function(index) }
    }

    fn stub(&mut self, kind: StubKind, ty: TypeIndex) -> Result<CompiledFunc, CompileError> {
        self.0.stub(kind, ty)
    }
}

#[test]
fn what_one_tier_does_not_take_the_other_compiles() {
    let module = wasm(&format!("(module (func i32.const {FAIL} drop) (func nop) (func i32.const {PANIC} drop))"));
    let compilers = [
        (ImageCompiler::new(Arc::new(Picky)).with_fast_tier(Arc::new(FakeTier::default())), CompilerKind::Optimizing),
        (ImageCompiler::new(Arc::new(FakeTier::default())).with_fast_tier(Arc::new(Picky)), CompilerKind::Baseline),
    ];
    for (compiler, picky) in compilers {
        let functions = functions(&compiler, module.clone(), Validation::Trusted);
        for _ in 0..3 {
            assert_eq!(functions.compile(&request(1, picky)).expect("the other takes it").code[0], 0xf0);
            let refused = functions.compile(&request(0, picky)).expect_err("neither takes it");
            assert_eq!(refused, CompileError::Limit { message: "function 0: fail 0".into() });
            let panicked = functions.compile(&request(2, picky)).expect_err("a panic");
            assert_eq!(panicked, CompileError::Internal { message: "function 2: panic: panic 2".into() });
        }
    }
}

#[test]
fn bodies_that_are_tried_at_once_keep_to_the_allowance_and_go_to_the_other_tier() {
    let params = "i32 ".repeat(128);
    let large = "nop ".repeat(450_000);
    let module = wasm(&format!("(module (type (func (param {params}))) (func) (func i32.const {HUGE} drop {large}))"));
    let prepare = |compiler: &dyn Compiler| compiler.prepare((*module).as_ref(), &slots(), Validation::Complete);
    let compiler = ImageCompiler::new(Arc::new(FakeTier::default())).with_fast_tier(Arc::new(Picky));
    prepare(&compiler).expect("the other tier takes it");
    let error = prepare(&ImageCompiler::new(Arc::new(Picky))).expect_err("there is no other tier");
    assert_eq!(error, CompileError::Limit { message: "function 1: picky".into() });
    // Enough for the description, not for a megabyte of code.
    let within = compiler.within(&Allowance { memory_bytes: 30 << 20, ..Allowance::UNLIMITED }).expect("it has limits");
    let error = prepare(&*within).expect_err("too much code").to_string();
    assert!(error.contains("compile_memory_bytes"), "{error}");
    let within = compiler.within(&Allowance { memory_bytes: 40 << 20, ..Allowance::UNLIMITED }).expect("it has limits");
    prepare(&*within).expect("enough for both");
}

#[test]
fn code_beyond_the_budget_is_refused() {
    let budget = Budget { max_function_code_bytes: 1 << 16, ..Budget::default() };
    let module = wasm(&format!("(module (func i32.const {HUGE} drop))"));
    let functions = functions(&two_tiers().with_budget(budget), module, Validation::Trusted);
    let error = functions.compile(&request(0, CompilerKind::Baseline)).expect_err("a megabyte");
    assert!(error.to_string().contains("max_function_code_bytes allows 65536"), "{error}");
}

#[test]
fn many_threads_compile_at_once_and_the_binary_is_kept() {
    struct Counted(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let text: String = (0..200).map(|index| format!("(func {})", "nop ".repeat(index))).collect();
    let bytes = wat::parse_str(format!("(module {text})")).expect("good text");
    let functions = functions(&two_tiers(), Arc::new(Counted(bytes, dropped.clone())), Validation::Deferred);
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let functions = &functions;
            scope.spawn(move || {
                for index in 0..200 {
                    let index = (index + thread * 25) % 200;
                    let tier = if (index + thread) % 2 == 0 { CompilerKind::Baseline } else { CompilerKind::Optimizing };
                    let compiled = functions.compile(&request(index, tier)).expect("a good function");
                    assert_eq!(compiled.code[1..5], (index + 2).to_le_bytes());
                }
            });
        }
    });
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    drop(functions);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn settings_without_slots_are_refused() {
    let module = wasm("(module)");
    let prepared = two_tiers().prepare((*module).as_ref(), &settings(), Validation::Complete);
    assert!(matches!(prepared, Err(CompileError::Unsupported { .. })));
    assert!(two_tiers().lazy_functions(module, &settings(), Validation::Complete).is_err());
}

#[test]
fn slots_and_budgets_are_behind_the_text_of_whole_images() {
    let counted = Settings { tiering: Tiering::Counted, ..settings() };
    let module = wasm(r#"(module (import "a" "b" (func)) (func call 2) (func nop call 1 call 2))"#);
    let image = Checked::new(two_tiers().compile((*module).as_ref(), &counted, &()).expect("a good module"));
    let area = EntryArea::new(image.bytes.len() as u64, 3, 0);
    let text_start = image.layout.range(Section::Text).start as i64;
    for (position, entry) in image.layout.functions(&image.bytes).iter().enumerate() {
        let code = image.code(position);
        let code_start = text_start + i64::from(entry.code_start.get());
        let rel32 = |at: usize| i64::from(i32::from_le_bytes(code[at..at + 4].try_into().expect("4 bytes")));
        assert_eq!(code_start + 1 + rel32(1), area.budget(DefinedFuncIndex::from_u32(position as u32)) as i64);
        let callees: &[u32] = if position == 0 { &[2] } else { &[1, 2] };
        for (call, callee) in callees.iter().enumerate() {
            let place = 5 + call * 5 + 1;
            assert_eq!(code_start + place as i64 + 4 + rel32(place), area.slot(FuncIndex::from_u32(*callee)) as i64);
        }
    }
}

#[test]
fn code_is_added_to_images_again_and_again() {
    let counted = Settings { tiering: Tiering::Counted, ..settings() };
    let compiler = two_tiers();
    let text = r#"(module $name (import "a" "b" (func)) (memory 1) (data (i32.const 0) "data") (data "passive")
        (func $one (export "one") (param i32) unreachable) (func $two call $two call $three nop) (func $three call 0) (func $four call $one (i32.const 0)))"#
        .replace("call $one (i32.const 0)", "(call $one (i32.const 0))");
    let module = wasm(&text);
    let whole = Checked::new(compiler.compile((*module).as_ref(), &counted, &()).expect("a good module"));
    let functions = compiler.lazy_functions(module.clone(), &counted, Validation::Trusted).expect("settings with slots");
    let compile = |index, kind| {
        let compiled = functions.compile(&request(index, kind)).expect("a good function");
        (DefinedFuncIndex::from_u32(index), Arc::new(compiled))
    };
    let mut image = compiler.prepare((*module).as_ref(), &counted, Validation::Trusted).expect("a good module");
    // Out of order, one twice, and one beyond the last that is ignored.
    let ghost = (DefinedFuncIndex::from_u32(77), compile(0, CompilerKind::Baseline).1);
    for added in [vec![compile(2, CompilerKind::Baseline)], vec![], vec![compile(0, CompilerKind::Optimizing), ghost]] {
        image = compiler.add_functions(&image, &added, &[]).expect("a good image");
    }
    let partly = Checked::new(image.clone());
    assert_eq!(partly.meta, whole.meta);
    let tiers: Vec<_> = partly.layout.functions(&partly.bytes).iter().map(|entry| entry.tier()).collect();
    assert_eq!(tiers, [Some(CompilerKind::Optimizing), None, Some(CompilerKind::Baseline), None]);
    assert_eq!(partly.code(0)[5..], whole.code(0)[5..]);
    let entry = partly.layout.functions(&partly.bytes)[0];
    let trap = (0..entry.code_len.get()).find_map(|offset| partly.layout.trap_at(&partly.bytes, entry.code_start.get() + offset));
    assert_eq!(trap, Some(peregrine_wasm::Trap::UnreachableCodeReached));

    // With all functions by the optimizing tier it is the image of a whole compilation to the byte.
    let all: Vec<_> = (0..4).map(|index| compile(index, CompilerKind::Optimizing)).collect();
    assert!(compiler.add_functions(&image, &all, &[]).expect("a good image") == whole.bytes);
    assert!(compiler.add_functions(&whole.bytes, &[], &[]).expect("a good image") == whole.bytes);

    image.truncate(image.len() - 1);
    assert!(matches!(compiler.add_functions(&image, &all, &[]), Err(CompileError::Invalid { .. })));
}

/// Code that comes first and code that counts: both go through images, and are found by address.
#[test]
fn code_of_images_has_an_order_and_counts_into_its_cells() {
    let counted = Settings { tiering: Tiering::Counted, ..settings() };
    let compiler = two_tiers();
    let module = wasm(r#"(module (func) (func call 0) (func call 0 call 1) (func call 2))"#);
    let functions = compiler.lazy_functions(module.clone(), &counted, Validation::Trusted).expect("settings with slots");
    let index = DefinedFuncIndex::from_u32;
    let compile = |function: u32| {
        let mut compiled = functions.compile(&request(function, CompilerKind::Baseline)).expect("a good function");
        // As if each had as many counted calls as it is far down, and its first place were in the last cell.
        compiled.sites = (0..function).map(|site| 10 * function + site).collect();
        if function > 0 {
            compiled.relocs[0].target = RelocTarget::Cell(function - 1);
        }
        (index(function), Arc::new(compiled))
    };
    let check = |image: &[u8], order: &[u32]| {
        let image = Checked::new(image.to_vec());
        let area = EntryArea::new(image.bytes.len() as u64, 4, 0);
        let by_code = image.layout.functions_by_code(&image.bytes).filter(|(_, entry)| entry.code_len.get() > 0);
        assert_eq!(by_code.map(|(function, _)| function.as_u32()).collect::<Vec<_>>(), order);
        assert!(image.layout.functions_by_code(&image.bytes).is_sorted_by_key(|(_, entry)| entry.code_start.get()));
        let mut first = 0;
        for function in 0..4u32 {
            let entry = image.layout.functions(&image.bytes)[function as usize];
            let has_code = order.contains(&function);
            assert_eq!(entry.code_len.get() > 0, has_code);
            if !has_code {
                continue;
            }
            for offset in 0..entry.code_len.get() {
                let found = image.layout.function_at(&image.bytes, entry.code_start.get() + offset);
                assert_eq!(found.map(|(found, _)| found.as_u32()), Some(function));
            }
            let sites = image.layout.sites_of(&image.bytes, index(function));
            assert_eq!(sites, first..first + function as usize);
            let offsets: Vec<_> = image.layout.sites(&image.bytes)[sites].iter().map(|site| site.offset.get()).collect();
            assert_eq!(offsets, (0..function).map(|site| 10 * function + site).collect::<Vec<_>>());
            first += function as usize;
            let rel32 = i32::from_le_bytes(image.code(function as usize)[1..5].try_into().expect("4 bytes"));
            let place = image.layout.range(Section::Text).start as i64 + i64::from(entry.code_start.get()) + 1;
            let target = match function {
                0 => area.budget(index(0)),
                _ => area.cell(first as u32 - 1),
            };
            assert_eq!(place + i64::from(rel32), target as i64, "function {function}");
        }
    };
    let empty = compiler.prepare((*module).as_ref(), &counted, Validation::Trusted).expect("a good module");
    let image = compiler.add_functions(&empty, &[compile(1), compile(3)], &[]).expect("a good image");
    check(&image, &[1, 3]);
    let image = compiler.add_functions(&image, &[], &[3, 77, 3].map(index)).expect("a good image");
    check(&image, &[3, 1]);
    // What is not among the first keeps its place, and what is new comes last.
    let image = compiler.add_functions(&image, &[compile(0), compile(2)], &[]).expect("a good image");
    check(&image, &[3, 1, 0, 2]);
    let image = compiler.add_functions(&image, &[], &[2, 0].map(index)).expect("a good image");
    check(&image, &[2, 0, 3, 1]);
    let image = compiler.add_functions(&image, &[], &[0, 1, 2, 3].map(index)).expect("a good image");
    check(&image, &[0, 1, 2, 3]);
}

/// Compilers that take all the memory that a module may, and never give it back, as those of threads that are not there in a child process.
struct Greedy(FakeTier);

impl Tier for Greedy {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        self.0.target(triple)
    }

    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        std::mem::forget(env.memory.take(env.memory.max_bytes()));
        self.0.function_compiler(env)
    }
}

#[test]
fn what_compilations_of_another_process_took_is_forgotten() {
    let tiers = [OPTIMIZING, FAST].map(|mark| Arc::new(Greedy(FakeTier::marked(mark))));
    let [optimizing, fast] = tiers;
    let compiler = ImageCompiler::new(optimizing).with_fast_tier(fast);
    let functions = functions(&compiler, wasm("(module (func nop) (func nop))"), Validation::Complete);
    functions.forget_compiling();
    for tier in [CompilerKind::Baseline, CompilerKind::Optimizing] {
        functions.compile(&request(0, tier)).expect("a good function");
        // Else the next compiler waits for ever.
        functions.forget_compiling();
    }
}
