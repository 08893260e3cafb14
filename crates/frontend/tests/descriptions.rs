//! What the frontend says of modules: each case is a module in the text format and the lines that describe it.

use peregrine_frontend::{Translation, to_binary, translate};
use peregrine_wasm::{ConstExpr, DataMode, DefinedFuncIndex, ElementItems, ElementMode, Features, FuncIndex, Module, ModuleLimits};
use std::fmt::Write;

/// Everything on, so that every kind of description occurs.
fn features() -> Features {
    Features { threads: true, function_references: true, ..Features::default() }
}

fn describe(translation: &Translation<'_>) -> String {
    let module = &translation.module;
    let mut lines = String::new();
    let mut line = |text: String| writeln!(lines, "{text}").expect("strings take everything");
    module.types.iter().for_each(|(index, ty)| line(format!("type {} {ty}", index.as_u32())));
    module.imports.iter().for_each(|import| line(format!("import {:?} {:?} {:?}", import.module, import.name, import.entity)));
    for (index, function) in module.functions.iter() {
        let name = translation.function_name(index).map_or(String::new(), |name| format!(" ${name}"));
        let escapes = function.func_ref.map_or(String::new(), |position| format!(" ref {position}"));
        let kind = if module.defined_func_index(index).is_some() { "defined" } else { "imported" };
        line(format!("func {}{name} type {} {kind}{escapes}", index.as_u32(), function.ty.as_u32()));
    }
    for (index, table) in module.tables.iter() {
        let ty = table.ty;
        let init = table.init.as_ref().map_or(String::new(), |init| format!(" = {}", ops(init)));
        line(format!("table {} {} {}..{:?} table64 {}{init}", index.as_u32(), ty.element, ty.min, ty.max, ty.table64));
    }
    for (index, ty) in module.memories.iter() {
        let (min, max, log2) = (ty.min_pages, ty.max_pages, ty.page_size_log2);
        line(format!("memory {} {min}..{max:?} page 2^{log2} memory64 {} shared {}", index.as_u32(), ty.memory64, ty.shared));
    }
    for (index, global) in module.globals.iter() {
        let mutable = if global.ty.mutable { " mut" } else { "" };
        let init = global.init.as_ref().map_or(String::new(), |init| format!(" = {}", ops(init)));
        line(format!("global {}{mutable} {}{init}", index.as_u32(), global.ty.content));
    }
    module.exports.iter().for_each(|export| line(format!("export {:?} {:?}", export.name, export.entity)));
    if let Some(start) = module.start {
        line(format!("start {}", start.as_u32()));
    }
    for segment in module.elements.values() {
        let items = match &segment.items {
            ElementItems::Functions(items) => items.iter().map(|index| index.as_u32().to_string()).collect::<Vec<_>>(),
            ElementItems::Expressions(items) => items.iter().map(ops).collect(),
        };
        let mode = match &segment.mode {
            ElementMode::Active { table, offset } => format!("active table {} at {}", table.as_u32(), ops(offset)),
            ElementMode::Passive => "passive".into(),
            ElementMode::Declared => "declared".into(),
        };
        line(format!("elem {} {mode}: {}", segment.element, items.join(", ")));
    }
    for segment in module.data.values() {
        let bytes = &translation.wasm[segment.start as usize..][..segment.len_bytes as usize];
        let mode = match &segment.mode {
            DataMode::Active { memory, offset } => format!("active memory {} at {}", memory.as_u32(), ops(offset)),
            DataMode::Passive => "passive".into(),
        };
        line(format!("data {mode}: {:?}", String::from_utf8_lossy(bytes)));
    }
    for section in &module.custom_sections {
        let bytes = &translation.wasm[section.start as usize..][..section.len_bytes as usize];
        line(format!("custom {:?}: {:?}", section.name, String::from_utf8_lossy(bytes)));
    }
    translation.debug_sections.iter().for_each(|(name, bytes)| line(format!("debug {name}: {:?}", String::from_utf8_lossy(bytes))));
    translation.branch_hints.iter().for_each(|(index, hints)| line(format!("hints {} {hints:?}", index.as_u32())));
    lines
}

fn ops(expr: &ConstExpr) -> String {
    expr.ops().iter().map(|op| format!("{op:?}").replace("GlobalIndex", "").replace("FuncIndex", "")).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(text: &str, expect: &str) {
    let wasm = to_binary(text.as_bytes()).expect("good text");
    let translation = translate(&wasm, &features(), &ModuleLimits::default()).expect("a good module");
    let mut allocations = peregrine_frontend::FuncValidatorAllocations::default();
    for index in translation.bodies.indices() {
        translation.validate_body(index, &mut allocations).expect("a good body");
    }
    let unindent = |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    assert_eq!(unindent(&describe(&translation)), unindent(expect));
    check_counts(&translation.module);
}

/// What holds for every module.
#[track_caller]
fn check_counts(module: &Module) {
    let mut positions: Vec<u32> = module.functions.values().filter_map(|function| function.func_ref).collect();
    positions.sort_unstable();
    assert_eq!(positions, (0..module.escaping_functions).collect::<Vec<_>>());
    let imported =
        [module.imported_functions, module.imported_tables, module.imported_memories, module.imported_globals, module.imported_tags];
    assert_eq!(imported.iter().sum::<u32>() as usize, module.imports.len());
}

#[test]
fn the_empty_module() {
    check("(module)", "");
}

#[test]
fn imports_come_first_in_every_index_space() {
    check(
        r#"(module
            (import "a" "f" (func $f (param i32) (result i64)))
            (import "a" "t" (table 1 2 externref))
            (import "b" "m" (memory 1 2))
            (import "b" "g" (global i32))
            (import "b" "mg" (global (mut f64)))
            (func $own) (table i64 3 funcref) (memory i64 4) (memory 5 6 (pagesize 1)) (memory 1 2 shared)
            (global v128 (v128.const i32x4 1 0 0 0)))"#,
        r#"type 0 (func (param i32) (result i64))
           type 1 (func)
           import "a" "f" Function(FuncIndex(0))
           import "a" "t" Table(TableIndex(0))
           import "b" "m" Memory(MemoryIndex(0))
           import "b" "g" Global(GlobalIndex(0))
           import "b" "mg" Global(GlobalIndex(1))
           func 0 $f type 0 imported
           func 1 $own type 1 defined
           table 0 externref 1..Some(2) table64 false
           table 1 funcref 3..None table64 true
           memory 0 1..Some(2) page 2^16 memory64 false shared false
           memory 1 4..None page 2^16 memory64 true shared false
           memory 2 5..Some(6) page 2^0 memory64 false shared false
           memory 3 1..Some(2) page 2^16 memory64 false shared true
           global 0 i32
           global 1 mut f64
           global 2 v128 = V128Const(1)"#,
    );
}

#[test]
fn functions_escape_through_exports_segments_globals_and_the_start() {
    check(
        r#"(module
            (import "" "" (func $imported)) (import "" "" (func $unused))
            (func $direct) (func $exported (export "e") call $direct) (func $in_elem) (func $in_expr)
            (func $declared (drop (ref.func $declared)))
            (func $in_global) (func $start) (func $in_table)
            (table 1 funcref (ref.func $in_table)) (table 3 funcref)
            (elem (table 1) (i32.const 1) func $in_elem $imported)
            (elem funcref (ref.func $in_expr) (ref.null func))
            (elem funcref (ref.func $in_expr) (ref.func $imported))
            (elem declare func $declared)
            (global funcref (ref.func $in_global))
            (start $start))"#,
        r#"type 0 (func)
           import "" "" Function(FuncIndex(0))
           import "" "" Function(FuncIndex(1))
           func 0 $imported type 0 imported ref 0
           func 1 $unused type 0 imported
           func 2 $direct type 0 defined
           func 3 $exported type 0 defined ref 1
           func 4 $in_elem type 0 defined ref 2
           func 5 $in_expr type 0 defined ref 3
           func 6 $declared type 0 defined ref 4
           func 7 $in_global type 0 defined ref 5
           func 8 $start type 0 defined ref 6
           func 9 $in_table type 0 defined ref 7
           table 0 funcref 1..None table64 false = RefFunc((9))
           table 1 funcref 3..None table64 false
           global 0 funcref = RefFunc((7))
           export "e" Function(FuncIndex(3))
           start 8
           elem funcref active table 1 at I32Const(1): 4, 0
           elem funcref passive: RefFunc((5)), RefNullFunc
           elem funcref passive: 5, 0
           elem funcref declared: 6"#,
    );
}

#[test]
fn constant_expressions_are_folded() {
    check(
        r#"(module
            (import "" "i" (global $i i32)) (import "" "l" (global i64))
            (global $seven i32 (i32.sub (i32.const 10) (i32.const 3)))
            (global $mut (mut i32) (i32.const 1))
            (global i32 (i32.mul (global.get $i) (i32.add (i32.const 2) (i32.const 2))))
            (global i64 (i64.add (global.get 1) (i64.sub (i64.const 1) (i64.const 3))))
            (global f32 (f32.const 1)) (global f64 (f64.const -0)) (global externref (ref.null extern))
            (memory 1)
            (data (i32.add (global.get $i) (i32.const 4)) "x")
            (data (offset (i32.const 2) (i32.const 5) i32.mul) "y\00z")
            (data "passive"))"#,
        r#"import "" "i" Global(GlobalIndex(0))
           import "" "l" Global(GlobalIndex(1))
           memory 0 1..None page 2^16 memory64 false shared false
           global 0 i32
           global 1 i64
           global 2 i32 = I32Const(7)
           global 3 mut i32 = I32Const(1)
           global 4 i32 = GlobalGet((0)) I32Const(4) I32Mul
           global 5 i64 = GlobalGet((1)) I64Const(-2) I64Add
           global 6 f32 = F32Const(1065353216)
           global 7 f64 = F64Const(9223372036854775808)
           global 8 externref = RefNullExtern
           data active memory 0 at GlobalGet((0)) I32Const(4) I32Add: "x"
           data active memory 0 at I32Const(10): "y\0z"
           data passive: "passive""#,
    );
}

#[test]
fn typed_references_are_kept() {
    check(
        r#"(module (type $t (func)) (func $f (type $t)) (elem declare func $f)
            (func (param (ref $t)) (result (ref null $t)) local.get 0) (table 2 (ref null $t)) (global (ref $t) (ref.func $f)))"#,
        r#"type 0 (func)
           type 1 (func (param (ref 0)) (result (ref null 0)))
           func 0 $f type 0 defined ref 0
           func 1 type 1 defined
           table 0 (ref null 0) 2..None table64 false
           global 0 (ref 0) = RefFunc((0))
           elem funcref declared: 0"#,
    );
}

#[test]
fn names_hints_debug_and_custom_sections() {
    check(
        r#"(module $m (@custom "producers" "abc") (@custom ".debug_str" "dwarf") (@custom "after" (after data) "")
            (func $first (param i32)
                local.get 0 (@metadata.code.branch_hint "\00") if end local.get 0 (@metadata.code.branch_hint "\01") if end)
            (func)
            (func $third))"#,
        r#"type 0 (func (param i32))
           type 1 (func)
           func 0 $first type 0 defined
           func 1 type 1 defined
           func 2 $third type 1 defined
           custom "after": ""
           custom "producers": "abc"
           debug .debug_str: "dwarf"
           hints 0 [(3, false), (8, true)]"#,
    );
}

#[test]
fn bodies_and_the_code_section_are_where_they_say() {
    let wasm = to_binary(b"(module (func nop) (func (local i32) unreachable))").expect("good text");
    let translation = translate(&wasm, &features(), &ModuleLimits::default()).expect("a good module");
    let bodies: Vec<&[u8]> = translation.bodies.indices().map(|index| translation.body_bytes(index)).collect();
    assert_eq!(bodies, [&[0, 1, 0x0b][..], &[1, 1, 0x7f, 0, 0x0b]]);
    assert_eq!(wasm[translation.code_section_offset], 2);
    let body = translation.body(DefinedFuncIndex::from_u32(1));
    assert_eq!(body.range().start as usize, translation.bodies.values().last().expect("two bodies").start);
}

/// What this thread uses of the processor for `work`, in seconds.
fn processor_seconds(work: impl FnOnce()) -> f64 {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let start = now();
    work();
    now() - start
}

#[test]
fn a_million_operations_in_a_constant_expression_are_linear() {
    for (ty, before, step) in [("i32", "(i32.const 1)", "(i32.const 1) i32.add "), ("i64", "(global.get 0)", "(i64.const 1) i64.sub ")] {
        let seconds = |operations: usize| {
            let text = format!(r#"(module (import "" "" (global i64)) (global {ty} {before} {}))"#, step.repeat(operations));
            let wasm = to_binary(text.as_bytes()).expect("good text");
            processor_seconds(|| {
                let translation = translate(&wasm, &features(), &ModuleLimits::default()).expect("a good module");
                let init = translation.module.globals.values().last().and_then(|global| global.init.as_ref()).expect("a defined global");
                assert!(init.ops().len() <= 3, "{}", init.ops().len());
            })
        };
        // Twenty times as many take four hundred times as long where the time grows with the square.
        let (few, many) = ((0..5).map(|_| seconds(50_000)).fold(f64::INFINITY, f64::min), seconds(1_000_000));
        assert!(many < 80.0 * few, "{many} s for 1,000,000, {few} s for 50,000");
    }
    // Operands first, operations last.
    let text = format!("(module (global i32 {} {}))", "(i32.const 1)".repeat(100_001), "i32.add ".repeat(100_000));
    let wasm = to_binary(text.as_bytes()).expect("good text");
    let translation = translate(&wasm, &features(), &ModuleLimits::default()).expect("a good module");
    assert_eq!(
        ops(translation.module.globals.values().next().and_then(|global| global.init.as_ref()).expect("a value")),
        "I32Const(100001)"
    );
}

#[test]
fn names_of_functions_that_do_not_exist_are_left_out() {
    // Subsection 1 of the name section: functions 0 and 9.
    let mut wasm = to_binary(b"(module (func))").expect("good text").into_owned();
    wasm.extend([0, 13, 4, b'n', b'a', b'm', b'e', 1, 6, 2, 0, 1, b'a', 9, 0]);
    let translation = translate(&wasm, &features(), &ModuleLimits::default()).expect("a good module");
    assert_eq!(translation.function_names, [(FuncIndex::from_u32(0), "a")]);
}
