//! Rows of calls in blocks, conditions and loops of a few turns, however they are nested and left: there are looks on each way, in every tier
//! and in code that is entered at its loops.

mod every_way;

use peregrine::{Caller, Config, Engine, Linker, Module, Result, Store, Trap};

/// The most calls of two bytes each between two looks.
const MOST_CALLS: u64 = 1024 / 2 + 1;

/// The deepest level of blocks.
const MOST_LEVELS: usize = 7;

/// A block that is open.
struct Open {
    is_loop: bool,
    /// Whether something in it goes back to its start, beside its end.
    goes_back: bool,
}

/// Bodies at random.
struct Bodies {
    state: u64,
    /// The blocks that are open, the innermost last. The loop at a position counts its turns in the local of that number.
    open: Vec<Open>,
}

impl Bodies {
    fn new(seed: u64) -> Self {
        Self { state: seed, open: vec![Open { is_loop: false, goes_back: false }] }
    }

    fn number(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % below
    }

    fn condition(&mut self) -> &'static str {
        ["(global.get $one)", "(i32.eqz (global.get $one))", "(i32.and (global.get $all) (i32.const 1))"][self.number(3)]
    }

    /// The position of an open block of a kind.
    fn position(&mut self, is_loop: bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.open.len()).filter(|position| self.open[*position].is_loop == is_loop).collect();
        (!all.is_empty()).then(|| all[self.number(all.len())])
    }

    /// The depth of a block that is no loop.
    fn forward(&mut self) -> usize {
        self.open.len() - 1 - self.position(false).expect("the function is none")
    }

    /// What counts a turn of some open loop, and the depth of that loop.
    fn back(&mut self) -> Option<(String, usize)> {
        let position = self.position(true)?;
        self.open[position].goes_back = true;
        let next = format!("(i32.gt_s (local.tee $i{position} (i32.sub (local.get $i{position}) (i32.const 1))) (i32.const 0))");
        Some((next, self.open.len() - 1 - position))
    }

    fn inside(&mut self, is_loop: bool) -> String {
        self.open.push(Open { is_loop, goes_back: false });
        let body = self.body();
        let end = self.end();
        let count = self.open.len() - 1;
        let next = format!("(local.tee $i{count} (i32.sub (local.get $i{count}) (i32.const 1)))");
        match self.open.pop() {
            Some(Open { is_loop: true, goes_back: true }) => format!("{body} {end} (br_if 0 (i32.gt_s {next} (i32.const 0)))"),
            Some(Open { is_loop: true, goes_back: false }) => format!("{body} {end} (br_if 0 {next})"),
            _ => format!("{body} {end}"),
        }
    }

    fn body(&mut self) -> String {
        (0..self.number(4) + 2).map(|_| self.part()).collect()
    }

    /// What may stand before the end of a block: most often nothing.
    fn end(&mut self) -> String {
        match self.number(10) {
            0 | 1 => format!("(br {})", self.forward()),
            2 => format!("(br_table {} {} {} {})", self.forward(), self.forward(), self.forward(), self.condition()),
            // What follows is not reached.
            3 => format!("(br {}) {}", self.forward(), self.row()),
            4 if self.number(3) == 0 => String::from("(return)"),
            _ => String::new(),
        }
    }

    fn row(&mut self) -> String {
        let calls = self.number(200);
        match self.number(8) {
            0 => "(call_indirect $leaves (type $empty) (i32.const 0))".repeat(calls / 2),
            1 => "(call $small)".repeat(calls / 4),
            _ => "(call $leaf)".repeat(calls),
        }
    }

    fn turns(&mut self, is_empty: bool) -> String {
        let level = self.open.len();
        let next = format!("(br_if 0 (local.tee $i{level} (i32.sub (local.get $i{level}) (i32.const 1))))");
        let body = if is_empty { next } else { self.inside(true) };
        format!("(local.set $i{level} (i32.const 2)) (loop {body})")
    }

    /// The body of a function.
    fn whole(&mut self) -> String {
        (0..3).map(|_| self.body() + &self.block(Self::left)).collect()
    }

    fn block(&mut self, inside: impl FnOnce(&mut Self) -> String) -> String {
        self.open.push(Open { is_loop: false, goes_back: false });
        let body = inside(self);
        self.open.pop();
        format!("(block {body})")
    }

    /// A loop that most often is left for good, from the midst of a block in it; so it is a loop for those few calls only that come back.
    fn left(&mut self) -> String {
        let level = self.open.len();
        let condition = if self.number(3) == 0 { self.condition() } else { "(global.get $one)" };
        let out = self.forward() + 2;
        self.open.push(Open { is_loop: true, goes_back: true });
        self.open.push(Open { is_loop: false, goes_back: false });
        let inner = if self.number(3) == 0 || level > 2 * MOST_LEVELS { self.part() } else { self.left() };
        let body = format!("{} {inner} {} (br {out})", "(call $leaf)".repeat(self.number(400)), self.row());
        self.open.truncate(level);
        let next = format!("(local.tee $i{level} (i32.sub (local.get $i{level}) (i32.const 1)))");
        format!("(local.set $i{level} (i32.const 2)) (loop (if {condition} (then {body})) (br_if 0 (i32.gt_s {next} (i32.const 0))))")
    }

    fn part(&mut self) -> String {
        match self.number(if self.open.len() < MOST_LEVELS { 23 } else { 13 }) {
            0 => format!("(br_if {} {})", self.forward(), self.condition()),
            1 => format!("(block (br_table 0 {} {}))", self.forward() + 1, self.condition()),
            2 => self.turns(true),
            3 => String::from("(call $start)"),
            4 => match self.back() {
                Some((next, depth)) => format!("(br_if {depth} {next})"),
                None => String::new(),
            },
            5 => match self.back() {
                Some((next, depth)) => {
                    format!("(if {next} (then {} (br_table {} {} (i32.const 1))))", self.row(), self.forward() + 1, depth + 1)
                }
                None => String::new(),
            },
            6 => String::from("(if (i32.eqz (global.get $one)) (then (call $leaf) (unreachable)))"),
            7..=12 => self.row(),
            13 | 14 => self.turns(false),
            15 | 16 => format!("(if {} (then {}))", self.condition(), self.inside(false)),
            17 => format!("(if {} (then {}) (else {}))", self.condition(), self.inside(false), self.inside(false)),
            18 => format!("(if {} (then {} (br {})))", self.condition(), self.row(), self.forward() + 1),
            19 => format!("(block {})", self.inside(false)),
            _ => self.left(),
        }
    }
}

/// A module that runs `body`. Its calls are counted from the one on that brings the deadline. They are too long to be inlined, and too short to
/// look on their own.
fn module(body: &str) -> String {
    let locals: String = (0..2 * MOST_LEVELS + 6).map(|level| format!("(local $i{level} i32)")).collect();
    let nops = "(nop)".repeat(900);
    format!(
        r#"(module (import "" "tick" (func $tick)) (type $empty (func)) (table $leaves funcref (elem $leaf))
            (global $n (export "n") (mut i32) (i32.const 0)) (global $all (mut i32) (i32.const 0)) (global $counts (mut i32) (i32.const 0))
            (global $one (mut i32) (i32.const 1))
            (func $leaf {nops}
                (global.set $all (i32.add (global.get $all) (i32.const 1)))
                (global.set $n (i32.add (global.get $n) (global.get $counts))))
            (func $small (global.set $all (i32.add (global.get $all) (i32.const 1))))
            (func $start (if (i32.eqz (global.get $counts)) (then (global.set $counts (i32.const 1)) (call $tick))))
            (func (export "run") {locals} {body}))"#
    )
}

/// Runs a body; whether it was interrupted.
fn is_interrupted(engine: &Engine, body: &str, what: &str) -> Result<bool> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("", "tick", |caller: Caller<'_, ()>| caller.engine().increment_epoch())?;
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(1);
    let instance = linker.instantiate(&mut store, &Module::new(engine, module(body))?)?;
    let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    let outcome = run.call(&mut store, ());
    let called = instance.get_global(&mut store, "n").expect("exported").get(&mut store).unwrap_i32() as u64;
    assert!(called <= MOST_CALLS, "{what}: {called} calls after the deadline");
    if let Err(error) = &outcome {
        assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt), "{what}: {error:?}");
    }
    Ok(outcome.is_err())
}

fn engines() -> Vec<(String, Engine)> {
    every_way::engines(|config: &mut Config| _ = config.epoch_interruption(true))
}

#[test]
fn nested_rows_of_calls_look_now_and_then() -> Result<()> {
    let engines = engines();
    let mut interrupted = 0;
    for seed in 0..24 {
        let mut bodies = Bodies::new(seed);
        let first = if seed % 2 == 0 { "(call $start)" } else { "" };
        let body = bodies.whole();
        for (name, engine) in &engines {
            interrupted += u64::from(is_interrupted(engine, &format!("{first} {body}"), &format!("seed {seed}, {name}"))?);
        }
    }
    assert!(interrupted > 60, "{interrupted} were long enough");
    Ok(())
}

#[test]
fn rows_of_calls_on_ways_out_of_short_loops_look() -> Result<()> {
    let row = "(call $leaf)".repeat(480);
    let nest = (0..20).fold(String::from("(br $out)"), |inner, _| {
        format!(
            "(local.set $i0 (i32.const 2))
            (loop (if (global.get $one) (then {row} {inner} (br $out)))
                (br_if 0 (local.tee $i0 (i32.sub (local.get $i0) (i32.const 1)))))"
        )
    });
    for (name, engine) in engines() {
        assert!(is_interrupted(&engine, &format!("(call $start) (block $out {row} {nest})"), &name)?, "{name}");
    }
    Ok(())
}
