//! How many places of a function look for interruptions: none of a few short loops, most of many.

use super::{compile, settings};
use peregrine_artifact::settings::Settings;
use peregrine_wasm::Trap;

/// The looks in each function of the module in `text`.
fn looks(text: &str) -> Vec<usize> {
    let wasm = wat::parse_str(text).expect("the text is well-formed");
    let settings = Settings { interrupt: true, ..settings(None) };
    let compiled = compile(&wasm, &settings, None).expect("it compiles");
    let count = |func: &peregrine_artifact::func::CompiledFunc| func.traps.iter().filter(|(_, trap)| *trap == Trap::Interrupt).count();
    compiled.iter().map(count).collect()
}

/// A function whose body is `body`, with counters and a number.
fn looks_of(body: &str) -> usize {
    looks(&format!("(module (memory 1) (func (export \"f\") (param $n i32) (local $i i32) (local $j i32) (local $x f64) {body}))"))[0]
}

/// A loop of so many turns.
fn turns(count: u32, body: &str) -> String {
    format!(
        "(local.set $i (i32.const {count}))
        (loop {body} (br_if 0 (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
    )
}

const ADD: &str = "(local.set $x (f64.add (local.get $x) (f64.const 3)))";
const STORE: &str = "(f64.store (i32.shl (local.get $i) (i32.const 3)) (local.get $x))";

#[test]
fn a_handful_of_short_loops_is_not_looked_in() {
    for count in 1..8 {
        assert_eq!(looks_of(&turns(1000, &format!("{ADD} {STORE}")).repeat(count)), 1, "{count} loops: the entry alone");
    }
    // In loops, as kernels have them.
    let inner = turns(100, &format!("{ADD} {STORE}")).repeat(3);
    let nest = format!("(loop {inner} (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))");
    assert_eq!(looks_of(&nest), 2, "the outer loop and the entry");
}

#[test]
fn thousands_of_short_loops_are_looked_in() {
    let most = 2000;
    let found = looks_of(&turns(10_000, ADD).repeat(most));
    assert!(found > most - 16, "{found} looks");
    // Also where what is between them is not reached, and whatever the order.
    let mut body = String::new();
    for count in 0..most {
        body += &format!("(if (i32.eq (local.get $n) (i32.const {count})) (then {}))", turns(10_000 + count as u32, ADD));
    }
    let found = looks_of(&body);
    assert!(found > most - 16, "{found} looks");
    // Tiny ones are short together.
    assert_eq!(looks_of(&turns(10, ADD).repeat(100)), 1);
}

#[test]
fn loops_in_loops_are_counted_for_each_turn_around_them() {
    let inner = turns(10_000, ADD).repeat(200);
    let nest = format!("(loop {inner} (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))");
    let found = looks_of(&nest);
    assert!(found > 190, "{found} looks");
    // Each level has less than the one around it, so that all levels together are short.
    let mut nest = String::new();
    for _ in 0..20 {
        nest = format!("(loop {nest} {} (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))", turns(10_000, ADD));
    }
    let found = looks_of(&nest);
    assert!(found > 20 + 15, "{found} looks");
}

#[test]
fn what_takes_long_counts_more() {
    assert_eq!(looks_of(&turns(10_000, ADD)), 1);
    for slow in [
        "(local.set $x (f64.sqrt (f64.div (local.get $x) (f64.const 3))))",
        "(local.set $x (f64.mul (f64.add (f64.mul (f64.add (f64.mul (f64.add (f64.mul (f64.add (local.get $x) (f64.const 3)) (local.get $x))
            (f64.const 3)) (local.get $x)) (f64.const 3)) (local.get $x)) (f64.const 3)) (local.get $x)))",
        "(local.set $x (f64.ceil (f64.floor (local.get $x))))",
        "(local.set $j (i32.div_u (local.get $j) (local.get $n)))",
        "(local.set $j (i32.rem_s (local.get $j) (local.get $n)))",
    ] {
        assert_eq!(looks_of(&turns(20_000, slow).repeat(3)), 3, "{slow}: in the loops");
        assert_eq!(looks_of(&turns(1_000, slow).repeat(3)), 1, "{slow}: at the entry");
        let found = looks_of(&turns(1_000, slow).repeat(50));
        assert!(found > 40, "{slow}: {found}");
    }
}

/// The function calls itself.
const CALL: &str = "(if (local.get $n) (then (call 0 (i32.sub (local.get $n) (i32.const 1)))))";

#[test]
fn what_runs_while_a_recursion_returns_is_tiny() {
    let long = turns(15_000, ADD);
    assert_eq!(looks_of(&format!("{long} {CALL}")), 1, "at the entry, which is passed on the way down");
    assert_eq!(looks_of(&format!("{CALL} {long}")), 2, "in the loop and at the entry");
    // Also after a call in a loop that is left at once, and if no block is between call and loop.
    let in_loop = format!("(loop {CALL} (br_if 0 (i32.eq (local.get $n) (i32.const -1))))");
    assert_eq!(looks_of(&format!("{in_loop} {long}")), 2, "in both loops");
    assert_eq!(looks_of(&format!("(call 0 (i32.const 1)) {long}")), 2);
    // In a loop around, but before its next turn.
    let around = format!("(loop {CALL} {long} (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))");
    assert_eq!(looks_of(&around), 2, "in both loops");
    // Where a look is in between, as in kernels.
    let nest = format!("(loop {long} (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))");
    assert_eq!(looks_of(&format!("{CALL} {nest}")), 2, "the outer loop and the entry");
    // Tiny ones may be after calls, but not many.
    let tiny = turns(10, ADD);
    assert_eq!(looks_of(&format!("{CALL} {tiny}")), 1);
    let found = looks_of(&format!("{CALL} {}", tiny.repeat(200)));
    assert!(found > 150, "{found} looks");
}

#[test]
fn long_rows_of_calls_are_looked_in() {
    let row = |calls: usize| "(call 0 (local.get $n))".repeat(calls);
    // Four bytes each.
    assert_eq!(looks_of(&row(200)), 1, "the entry alone");
    assert_eq!(looks_of(&row(1000)), 1 + 3);
    // In a loop, whose header has one for the first of each turn.
    assert_eq!(looks_of(&format!("(loop {} (br_if 0 (local.get $n)))", row(1000))), 2 + 3);
    // Blocks inside take no more of them: there is no way around the looks in there.
    let blocks = [
        format!("(block {}) (call 0 (local.get $n))", row(100)),
        format!("(block (block {} (br 1))) (call 0 (local.get $n))", row(100)),
        format!("(if (local.get $n) (then {0}) (else {0})) (call 0 (local.get $n))", row(50)),
        format!("(if (local.get $n) (then (call 0 (local.get $n)))) {}", row(100)),
        format!("(block (br_if 0 (local.get $n)) (call 0 (local.get $n))) {}", row(100)),
        format!("(block (br_table 0 0 (local.get $n))) {}", row(100)),
    ];
    for block in blocks {
        let found = looks_of(&block.repeat(40));
        // One of two ways may have one where the other has none yet.
        let most = if block.contains("else") { 30 } else { 20 };
        assert!((14..=most).contains(&found), "{found} looks in 16 to 19 KiB of {block}");
    }
    // Of many ends, those that are jumped to from before a look have another one.
    let (open, close) = ("(block ".repeat(100), format!("{})", row(3)).repeat(100));
    assert_eq!(looks_of(&format!("{} {open} (br_table 0 50 99 (local.get $n)) {close}", row(300))), 1 + 2 + 1);
    // The look of a short loop is left out, so it does not count for what follows.
    assert_eq!(looks_of(&format!("{0} {1} {0}", row(200), turns(2, ADD))), 1 + 1);
    // What is jumped over does not count.
    assert_eq!(looks_of(&format!("(block (br_if 0 (local.get $n)) {}) (call 0 (local.get $n))", row(300))), 1 + 2);
}

/// Loops of two turns, so many in one another as they are written: what is in one leaves all of them, so the passes see no loop in a loop.
fn left_nest(depth: usize, row: &str) -> String {
    let nest =
        (0..depth).fold(String::from("(br $out)"), |inner, _| turns(2, &format!("(if (local.get $n) (then {row} {inner} (br $out)))")));
    format!("(block $out {nest})")
}

#[test]
fn rows_of_calls_on_ways_out_of_short_loops_are_looked_in() {
    let call = "(call 0 (local.get $n))";
    let row = call.repeat(200);
    assert_eq!(looks_of(&format!("{row} {}", left_nest(20, &row))), 1 + 20, "the entry and each loop");
    assert_eq!(looks_of(&left_nest(20, call)), 1, "one KiB after the entry");
    // What is inlined is no call.
    let far = "(global.set $g (i32.mul (global.get $g) (global.get $g)))".repeat(150);
    let module = |callee: &str| {
        let nest = left_nest(4, &format!("(call {callee} (local.get $n))").repeat(3));
        format!(
            "(module (global $g (mut i32) (i32.const 0)) (func $leaf (param i32) (global.set $g (local.get 0)))
            (func $other (param i32) (call $leaf (local.get 0)) (call $other (local.get 0)))
            (func (export \"f\") (param $n i32) (local $i i32) {far} {nest}))"
        )
    };
    assert_eq!(looks(&module("$leaf"))[2], 1, "the entry alone");
    assert_eq!(looks(&module("$other"))[2], 1 + 1, "the entry and the outermost loop");
}
