//! Every family of instructions compiles for every target, in both modes.

use super::{check, compile, settings};
use crate::budget::Mode;
use crate::isa;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::settings::Settings;
use peregrine_artifact::tables::addresses;
use peregrine_wasm::Trap;

#[test]
fn the_features_of_a_target_are_rebuilt_from_settings() {
    for triple in super::TARGETS {
        let target = isa::target(triple).unwrap();
        assert!(target.cpu_features.is_sorted());
        let isas = isa::isas(&Settings::new(target.clone())).unwrap();
        let mut rebuilt: Vec<String> =
            isas.optimized.isa_flags().iter().filter(|flag| flag.as_bool() == Some(true)).map(|flag| flag.name.to_string()).collect();
        rebuilt.sort();
        assert_eq!(rebuilt, target.cpu_features);
    }
}

#[test]
fn foreign_targets_and_features_are_refused() {
    for triple in ["wasm32-unknown-unknown", "x86_64-pc-windows-msvc", "nonsense"] {
        assert!(matches!(isa::target(Some(triple)), Err(CompileError::Unsupported { .. })), "{triple}");
    }
    let mut settings = settings(None);
    settings.target.cpu_features.push(String::from("has_no_such_thing"));
    assert!(matches!(isa::isas(&settings), Err(CompileError::Unsupported { .. })));
}

#[test]
fn blocks_carry_values() {
    check(
        r#"(module
        (func (param i32 i64) (result i64 i32)
            local.get 1
            local.get 0
            block (param i64 i32) (result i64 i32)
                block (param i64 i32) (result i64 i32)
                    local.get 0
                    br_if 1
                    local.get 0
                    br_table 0 1 2 0
                end
            end)
        (func (param i32) (result i32)
            i32.const 7
            local.get 0
            if (param i32) (result i32)
                i32.const 3
                i32.add
            else
                i32.const 4
                i32.mul
            end
            local.get 0
            if (param i32) (result i32)
            end)
        (func (param i32) (result i32) (local i32)
            i32.const 1
            i32.const 100
            loop (param i32) (result i32)
                i32.const -1
                i32.add
                local.tee 1
                local.get 1
                br_if 0
            end
            i32.add)
        (func (param i32) (result i32)
            i32.const 1
            i32.const 2
            i32.const 3
            local.get 0
            br_if 0
            drop
            block (result i32)
                i32.const 9
                i32.const 8
                local.get 0
                br_if 0
                br 1
            end
            drop
            i32.add))"#,
    );
}

#[test]
fn unreachable_code_is_skipped() {
    check(
        r#"(module
        (func (result i32)
            unreachable
            i32.add
            drop
            block (result i32) i32.const 1 if (result i32) i32.const 1 else loop unreachable end unreachable end end
            drop
            select)
        (func (param i32) (result i32)
            block (result i32)
                local.get 0
                if
                    i32.const 1
                    return
                    nop
                else
                    i32.const 2
                    br 1
                    i32.const 5
                    drop
                end
                unreachable
            end)
        (func (loop (br 0)) unreachable)
        (func (param i32) (block (br_table 0 0 (local.get 0)) (drop (i32.const 1))) (if (local.get 0) (then unreachable))))"#,
    );
}

#[test]
fn branches_on_null() {
    check(
        r#"(module (type $f (func (result i32)))
        (func (param i32 (ref null $f)) (result i32)
            (block (result i32) (call_ref $f (br_on_null 0 (local.get 0) (local.get 1))) (i32.add)))
        (func (param i32 (ref null $f)) (result i32)
            (block (result i32 (ref $f)) (br_on_non_null 0 (local.get 0) (local.get 1)) (return))
            (call_ref $f) (i32.add)))"#,
    );
}

#[test]
fn calls_of_every_kind() {
    check(
        r#"(module
        (type $binary (func (param i32 i64 f32 f64 externref funcref) (result f64 i32)))
        (import "" "f" (func $imported (type $binary)))
        (import "" "t" (table $imported_table 10 funcref))
        (table $fixed 4 4 funcref)
        (table $growing 1 100 funcref)
        (table $typed 2 2 (ref null $binary))
        (table $wide i64 3 funcref)
        (func $defined (type $binary) f64.const 1 i32.const 2)
        (elem declare func $defined $imported)
        (func (type $binary) (call $imported (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))
        (func (type $binary) (call $defined (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (ref.func $defined)))
        (func (type $binary)
            (call_indirect $fixed (type $binary)
                (local.get 0) (local.get 1) (local.get 2) (local.get 3) (ref.null extern) (ref.func $imported) (local.get 0)))
        (func (type $binary)
            (call_indirect $growing (type $binary)
                (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (ref.null func) (local.get 0)))
        (func (type $binary)
            (call_indirect $typed (type $binary)
                (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 0)))
        (func (type $binary)
            (call_indirect $imported_table (type $binary)
                (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 0)))
        (func (type $binary)
            (call_indirect $wide (type $binary)
                (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 1)))
        (func (type $binary)
            (return_call $defined (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))
        (func (type $binary)
            (return_call $imported (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))
        (func (type $binary)
            (return_call_indirect $fixed (type $binary)
                (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 0)))
        (func (param (ref null $binary)) (result i32)
            (call_ref $binary (i32.const 1) (i64.const 2) (f32.const 3) (f64.const 4) (ref.null extern) (ref.null func) (local.get 0))
            drop drop i32.const 1))"#,
    );
}

#[test]
fn many_parameters_and_results() {
    let many = |keyword: &str| format!("({keyword} {})", "i32 i64 f32 f64 ".repeat(12));
    let gets: String = (0..48).map(|index| format!("(local.get {index})")).collect();
    check(&format!(
        "(module (func $callee {p} {r} {gets}) (func {p} {r} {gets} call $callee) (func {p} {r} {gets} return_call $callee))",
        p = many("param"),
        r = many("result"),
    ));
}

#[test]
fn memories_of_every_style() {
    for memory in [
        "(memory 1)",
        "(memory 0)",
        "(memory 2 2)",
        "(memory i64 1)",
        "(memory i64 1 1)",
        "(memory 1 (pagesize 1))",
        "(import \"\" \"m\" (memory 1))",
        "(import \"\" \"m\" (memory i64 1))",
    ] {
        let address = if memory.contains("i64") { "i64" } else { "i32" };
        let mut body = String::new();
        for (ty, suffixes) in [("i32", &["", "8", "16"][..]), ("i64", &["", "8", "16", "32"]), ("f32", &[""]), ("f64", &[""])] {
            for suffix in suffixes {
                for offset in ["", "offset=16 ", "offset=2147483648 ", "offset=4294967295 "] {
                    body += &format!("({ty}.store{suffix} {offset}(local.get 0) ({ty}.const 1))\n");
                    for sign in if suffix.is_empty() { &[""][..] } else { &["_s", "_u"] } {
                        body += &format!("(drop ({ty}.load{suffix}{sign} {offset}(local.get 0)))\n");
                        body += &format!("(drop ({ty}.load{suffix}{sign} {offset}({address}.const 3)))\n");
                    }
                }
            }
        }
        check(&format!(
            "(module {memory} (data $d \"abc\")
            (func (param {address}) {body})
            (func (param {address}) (result {address}) (memory.grow (local.get 0)) memory.size drop)
            (func (param {address}) (memory.copy (local.get 0) (local.get 0) (local.get 0)))
            (func (param {address}) (memory.fill (local.get 0) (i32.const 7) (local.get 0)))
            (func (param {address}) (memory.init $d (local.get 0) (i32.const 7) (i32.const 1)) (data.drop $d)))"
        ));
    }
}

#[test]
fn an_offset_that_wraps_around_always_traps() {
    check("(module (memory i64 1) (func (param i64) (result i32) (i32.load offset=0xffffffffffffffff (local.get 0))))");
}

#[test]
fn several_memories() {
    check(
        r#"(module (memory $a 1) (memory $b i64 1) (memory $c 1 2)
        (func (param i32 i64)
            (i32.store $b (local.get 1) (i32.load $a (local.get 0)))
            (memory.copy $a $b (local.get 0) (local.get 1) (local.get 0))
            (memory.copy $c $a (local.get 0) (local.get 0) (local.get 0))))"#,
    );
}

#[test]
fn tables_of_every_kind() {
    for (table, index) in [("(table 2 funcref)", "i32"), ("(table 2 2 externref)", "i32"), ("(table i64 2 9 funcref)", "i64")] {
        let element = if table.contains("extern") { "externref" } else { "funcref" };
        let null = element.trim_end_matches("ref");
        check(&format!(
            "(module {table} (table $other {table_tail} (elem $e {element} (ref.null {null}))
            (func (param {index}) (result {element}) (table.set (local.get 0) (table.get (local.get 0))) (table.get (local.get 0)))
            (func (param {index}) (result {index}) (table.grow (ref.null {null}) (local.get 0)))
            (func (param {index}) (result {index}) (table.fill (local.get 0) (ref.null {null}) (local.get 0)) (table.size 0))
            (func (param {index}) (table.copy 0 $other (local.get 0) (local.get 0) (local.get 0)))
            (func (param {index}) (result i32)
                (table.init $e (local.get 0) (i32.const 0) (i32.const 1)) (elem.drop $e) (ref.is_null (table.get (local.get 0)))))",
            table_tail = table.trim_start_matches("(table "),
        ));
    }
}

#[test]
fn globals_of_every_type() {
    let mut module = String::from("(module (import \"\" \"m\" (global $imported (mut i32))) (import \"\" \"i\" (global $constant i64))");
    for (ty, init) in [
        ("i32", "i32.const -1"),
        ("i64", "i64.const -1"),
        ("f32", "f32.const 1.5"),
        ("f64", "f64.const -0.0"),
        ("externref", "ref.null extern"),
        ("funcref", "ref.null func"),
    ] {
        module += &format!("(global $c_{ty} {ty} ({init})) (global $m_{ty} (mut {ty}) ({init}))");
        module += &format!("(func (result {ty}) (global.set $m_{ty} (global.get $c_{ty})) (global.get $m_{ty}))");
    }
    module += "(func (result i64) (global.set $imported (i32.const 1)) (global.get $constant)))";
    check(&module);
}

#[test]
fn vectors_cross_blocks_calls_and_globals() {
    let text = r#"(module
        (global $g (mut v128) (v128.const i64x2 1 2)) (memory 1)
        (func $f (param v128 i32) (result v128) (local v128)
            local.get 0
            local.get 1
            if (param v128) (result v128)
                local.get 0
                i32x4.add
                local.tee 2
                f64x2.neg
                local.set 2
                local.get 2
            end
            loop (param v128) (result v128)
                local.get 1
                br_if 0
            end
            (call $f (local.get 1))
            global.set $g
            (v128.store (i32.const 0) (global.get $g))
            (select (v128.load (i32.const 0)) (local.get 2) (local.get 1))))"#;
    let wasm = wat::parse_str(text).unwrap();
    for triple in super::TARGETS {
        for mode in [None, Some(Mode::Plain)] {
            let result = compile(&wasm, &settings(triple), mode);
            if triple.is_some_and(|triple| triple.starts_with("riscv64")) {
                assert!(matches!(result, Err(CompileError::Unsupported { .. })), "no vectors without the V extension");
            } else {
                result.unwrap_or_else(|error| panic!("{triple:?}, {mode:?}: {error}"));
            }
        }
    }
}

fn traps_of(text: &str, settings: &Settings) -> Vec<Trap> {
    let wasm = wat::parse_str(text).unwrap();
    let compiled = compile(&wasm, settings, None).unwrap();
    compiled[0].traps.iter().map(|trap| trap.1).collect()
}

#[test]
fn traps_say_why() {
    let settings = settings(None);
    assert_eq!(traps_of("(module (memory 17) (func (drop (i32.load (i32.const 99999999)))))", &settings), [Trap::MemoryOutOfBounds]);
    assert_eq!(traps_of("(module (func unreachable))", &settings), [Trap::UnreachableCodeReached]);
    let traps = traps_of("(module (func (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1))))", &settings);
    assert!(traps.contains(&Trap::IntegerDivisionByZero) && traps.contains(&Trap::IntegerOverflow), "{traps:?}");
    let traps = traps_of("(module (table 9 99 funcref) (func (param i32) (call_indirect (local.get 0))))", &settings);
    assert_eq!(traps.len(), 3, "{traps:?}");
    for trap in [Trap::TableOutOfBounds, Trap::IndirectCallToNull, Trap::BadSignature] {
        assert!(traps.contains(&trap), "{trap}");
    }
}

#[test]
fn interruptions_are_looked_for_at_loops_and_in_functions_that_call() {
    let settings = Settings { interrupt: true, ..settings(None) };
    let count = |text: &str| traps_of(text, &settings).iter().filter(|trap| **trap == Trap::Interrupt).count();
    assert_eq!(count("(module (func (param i32) (result i32) local.get 0))"), 0);
    assert_eq!(count("(module (func $f (call $f) (call $f)))"), 1);
    assert_eq!(count("(module (func $f (param i32) (loop (loop (br_if 0 (local.get 0)) (br_if 1 (local.get 0))))))"), 2);
    // Not at the entry where each call is in a loop.
    assert_eq!(count("(module (func $f (param i32) (loop (call $f (local.get 0)) (br 0))))"), 1);
    assert_eq!(count("(module (func $f (param i32) (block (loop (if (local.get 0) (then (call $f (local.get 0)) (br 1))) (br 1)))))"), 1);
    assert_eq!(count("(module (func $f (param i32) (loop (br_if 0 (local.get 0))) (call $f (local.get 0))))"), 2);
    assert_eq!(count("(module (func $f (param i32) (call $f (local.get 0)) (loop (br 0))))"), 2);
}

#[test]
fn interruptions_are_not_looked_for_in_loops_that_turn_few_times() {
    let settings = Settings { interrupt: true, ..settings(None) };
    // Of what stands twice: 1, at the entry, if nobody looks in its loop, and 2 if somebody does.
    let count = |body: &str| {
        let text = format!(
            "(module (memory 1) (func $f (param $p i32) (local $i i32) (local $j i32)
            {body} (local.set $i (i32.const 0)) {body}))"
        );
        check(&text);
        traps_of(&text, &settings).iter().filter(|trap| **trap == Trap::Interrupt).count()
    };
    let next = "(local.tee $i (i32.add (local.get $i) (i32.const 4)))";
    let looping = |inner: &str, condition: &str| format!("(loop {inner} (i32.store (local.get $i) (i32.const 7)) (br_if 0 {condition}))");
    // Up to an end, from either side of it, before or after the step.
    assert_eq!(count(&looping("", &format!("(i32.ne {next} (i32.const 400))"))), 1);
    assert_eq!(count(&looping("", &format!("(i32.lt_s {next} (i32.const 401))"))), 1);
    assert_eq!(
        count(&looping("", "(i32.gt_u (i32.const 400) (local.tee $i (i32.add (i32.const 3) (i32.sub (local.get $i) (i32.const -4)))))")),
        1
    );
    assert_eq!(
        count(&format!("(local.set $i (i32.const 400)) {}", looping("", "(local.tee $i (i32.sub (local.get $i) (i32.const 1)))"))),
        1
    );
    let leaving = format!("(block (loop (br_if 1 (i32.eq {next} (i32.const 4000))) (i32.store (local.get $i) (i32.const 7)) (br 0)))");
    assert_eq!(count(&leaving), 1);
    // Too often, for ever, or nobody knows.
    assert_eq!(count(&looping("", &format!("(i32.ne {next} (i32.const 400000))"))), 2);
    assert_eq!(count(&looping("", &format!("(i32.ne {next} (i32.const 401))"))), 2);
    assert_eq!(count(&looping("", &format!("(i32.gt_s {next} (i32.const -1))"))), 2);
    assert_eq!(count(&looping("", &format!("(i32.ne {next} (local.get $p))"))), 2);
    assert_eq!(count(&format!("(local.set $i (local.get $p)) {}", looping("", &format!("(i32.ne {next} (i32.const 400))")))), 2);
    // One way back could be taken where the other one would end.
    let both = format!("(br_if 0 (i32.ne {next} (i32.const 400)))");
    assert_eq!(count(&looping(&both, &format!("(i32.ne {next} (i32.const 800))"))), 2);
    // One way back carries the counter around to where the other one is taken.
    let around = "(loop (i32.store (i32.const 0) (i32.const 7)) (local.set $i (i32.add (local.get $i) (i32.const 0x40000000)))
        (br_if 0 (i32.lt_u (local.get $i) (i32.const 0x40000001))) (br_if 0 (i32.lt_s (local.get $i) (i32.const 0xc0000001))))";
    assert_eq!(count(around), 2);
    // All turns together take long.
    let work = "(i32.store (local.get $i) (i32.mul (i32.load (local.get $i)) (i32.const 3)))".repeat(2000);
    assert_eq!(count(&looping(&work, &format!("(i32.ne {next} (i32.const 400))"))), 3);
    // A loop in a loop.
    let inner = "(local.set $j (i32.const 0)) (loop (i32.store (local.get $j) (i32.const 7))
        (br_if 0 (i32.ne (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 9))))";
    assert_eq!(count(&looping(inner, &format!("(i32.ne {next} (i32.const 400))"))), 3);
    // What it calls may have loops that nobody looks in.
    assert_eq!(count(&looping("(call $f (local.get $i))", &format!("(i32.ne {next} (i32.const 400))"))), 2);
}

#[test]
fn counting_fuel_is_one_instruction() {
    let settings = Settings { fuel: true, ..settings(Some("x86_64-unknown-linux-gnu")) };
    let text = "(module (memory 1) (func (param i32) (loop (i32.store (local.get 0) (i32.const 7)) (br_if 0 (local.get 0))) (drop (call 1 (local.get 0))))
        (func (param i32) (result i32) (i32.mul (local.get 0) (local.get 0))))";
    let code = &compile(&wat::parse_str(text).unwrap(), &settings, None).unwrap()[0].code;
    let found = |bytes: &[u8]| code.windows(bytes.len()).filter(|window| *window == bytes).count();
    // add r15, 5 at the end of a turn, 2 at the call, 3 for what was called.
    for cost in [5, 2, 3] {
        assert_eq!(found(&[0x2e, 0x2e, 0x2e, 0x49, 0x81, 0xc7, cost, 0, 0, 0]), 1, "{cost}: {code:02x?}");
    }
    // test r15, r15 at the entry and at the loop.
    assert_eq!(found(&[0x2e, 0x2e, 0x2e, 0x4d, 0x85, 0xff]), 2, "{code:02x?}");
    // mov rax, r15
    assert_eq!(found(&[0x4c, 0x89, 0xf8]), 0, "{code:02x?}");
}

#[test]
fn a_guarded_memory_needs_no_check_but_beyond_the_guard() {
    let settings = settings(None);
    let len_of = |memory: &str, offset: u64, more: &str| {
        let text = format!("(module {memory} (func (param i32) (result i32) (i32.load offset={offset} (local.get 0))) {more})");
        compile(&wat::parse_str(text).unwrap(), &settings, None).unwrap()[0].code.len()
    };
    let len = |offset| len_of("(memory 2)", offset, "");
    assert_eq!(len(8), len(100));
    assert!(len(u64::from(u32::MAX)) > len(8) + 16);
    // What is small and does not grow is not guarded.
    assert!(len_of("(memory 1)", 8, "") > len(8) + 8);
    assert_eq!(len_of("(memory 1)", 8, "(func (drop (memory.grow (i32.const 1))))"), len(8));
}

#[test]
fn addresses_are_offsets_in_the_body() {
    let text = "(module (func (param i32) (result i32) (i32.div_u (i32.const 1) (local.get 0))))";
    let wasm = wat::parse_str(text).unwrap();
    let compiled = compile(&wasm, &settings(None), None).unwrap();
    // No local declarations (1), `i32.const 1` (2), `local.get 0` (2), then the division.
    let division = compiled[0].addresses.iter().find(|address| address.1 == 5);
    let (trap, _) = compiled[0].traps[0];
    assert!(division.is_some_and(|division| division.0 <= trap), "{:?}", compiled[0].addresses);
}

#[test]
fn hints_move_code_out_of_the_way() {
    let text = r#"(module (func (param i32) (result i32)
        (block (@metadata.code.branch_hint "\00") (br_if 0 (local.get 0)) (return (i32.const 1)))
        (@metadata.code.branch_hint "\01") (if (local.get 0) (then (return (i32.const 2))))
        (i32.const 3)))"#;
    check(text);
}

/// Compiles the first function and says how many calls of others are in it.
fn calls_in_first(text: &str, settings: &Settings) -> usize {
    compile(&wat::parse_str(text).unwrap(), settings, None).unwrap()[0].relocs.len()
}

#[test]
fn small_functions_are_inlined() {
    let settings = settings(None);
    let text = r#"(module (memory 1)
        (func (param i32) (result i32) (call $add (call $add (local.get 0) (local.get 0)) (call $get (local.get 0))))
        (func $add (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
        (func $get (param i32) (result i32) (if (result i32) (local.get 0) (then (i32.load (local.get 0))) (else (i32.const 1)))))"#;
    assert_eq!(calls_in_first(text, &settings), 0);
    assert_eq!(calls_in_first(text, &Settings { inlining: false, ..settings }), 3);
    check(text);
}

#[test]
fn functions_that_loop_or_call_are_not_inlined() {
    let settings = settings(None);
    let calls = |body: &str| {
        let text = format!("(module (table 1 funcref) (global (mut i32) (i32.const 1)) (func (call 1)) (func {body}))");
        calls_in_first(&text, &settings)
    };
    for body in ["(loop (br 0))", "(call 0)", "(call_indirect (global.get 0))", "(return_call 0)"] {
        assert_eq!(calls(body), 1, "{body}");
    }
    for body in ["unreachable", "(drop (i32.div_u (i32.const 1) (global.get 0)))", "(if (global.get 0) (then unreachable))"] {
        assert_eq!(calls(body), 0, "{body}");
    }
}

#[test]
fn inlined_instructions_that_trap_have_a_place_of_their_own() {
    let settings = settings(None);
    let places = |call: &str| {
        let text = format!(
            "(module (memory 1) (func (param i32) (result i32) nop nop (local.get 0) {call} i32.const 3 i32.mul)
            (func (param i32) (result i32) (i32.load offset=8 (local.get 0))))"
        );
        let compiled = compile(&wat::parse_str(&text).unwrap(), &settings, None).unwrap();
        let (trap, reason) = compiled[0].traps[0];
        assert_eq!(reason, Trap::MemoryOutOfBounds);
        let mut stream = Vec::new();
        addresses::encode(&compiled[0].addresses, &mut stream);
        addresses::frames(&stream, trap)
            .into_iter()
            .map(|frame| (frame.function.map(|index| index.as_u32()), frame.offset))
            .collect::<Vec<_>>()
    };
    // No local declarations (1), in the callee `local.get 0` (2), then the access; in the caller two `nop` (2) more, then the call.
    assert_eq!(places("(call 1)"), [(Some(1), 3), (None, 5)]);
    assert_eq!(places("(return_call 1)"), [(Some(1), 3)]);
}
