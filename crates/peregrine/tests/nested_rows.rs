//! Rows of calls in blocks, conditions and loops of a few turns, however they are nested and left: there are looks on each way.

use peregrine::{Caller, Config, Engine, Linker, Module, Result, Store, Strategy, Trap};

/// The most calls of two bytes each between two looks.
const MOST_CALLS: u64 = 1024 / 2 + 1;

/// Bodies at random.
struct Bodies {
    state: u64,
    /// The blocks that are open, the innermost last: whether each is a loop.
    open: Vec<bool>,
}

impl Bodies {
    fn number(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % below
    }

    fn condition(&mut self) -> &'static str {
        ["(global.get $one)", "(i32.eqz (global.get $one))", "(i32.and (i32.wrap_i64 (global.get $n)) (i32.const 1))"][self.number(3)]
    }

    /// The depth of a block that is no loop.
    fn forward(&mut self) -> usize {
        let blocks: Vec<usize> = (0..self.open.len()).filter(|depth| !self.open[self.open.len() - 1 - depth]).collect();
        blocks[self.number(blocks.len())]
    }

    fn inside(&mut self, is_loop: bool) -> String {
        self.open.push(is_loop);
        let body = self.body();
        self.open.pop();
        body
    }

    fn body(&mut self) -> String {
        (0..self.number(4) + 2).map(|_| self.part()).collect()
    }

    fn part(&mut self) -> String {
        let level = self.open.len();
        let turns = |body: &str| {
            format!(
                "(local.set $i{level} (i32.const 2))
                (loop {body} (br_if 0 (local.tee $i{level} (i32.sub (local.get $i{level}) (i32.const 1)))))"
            )
        };
        match self.number(if level < 6 { 13 } else { 9 }) {
            0 => format!("(br_if {} {})", self.forward(), self.condition()),
            1 => format!("(block (br_table 0 {} {}))", self.forward() + 1, self.condition()),
            2 => turns(""),
            3..=8 => "(call $leaf)".repeat(self.number(200)),
            9 => turns(&self.inside(true)),
            10 => format!("(if {} (then {}))", self.condition(), self.inside(false)),
            11 => format!("(if {} (then {}) (else {}))", self.condition(), self.inside(false), self.inside(false)),
            _ => format!("(block {})", self.inside(false)),
        }
    }
}

#[test]
fn nested_rows_of_calls_look_now_and_then() -> Result<()> {
    let mut interrupted = 0;
    for seed in 0..30 {
        let mut bodies = Bodies { state: seed, open: vec![false] };
        let body: String = (0..6).map(|_| bodies.body()).collect();
        let locals: String = (0..8).map(|level| format!("(local $i{level} i32)")).collect();
        let text = format!(
            r#"(module (import "" "tick" (func $tick))
                (global $n (export "n") (mut i64) (i64.const 0)) (global $one (mut i32) (i32.const 1))
                (func $leaf (global.set $n (i64.add (global.get $n) (i64.const 1))))
                (func (export "run") {locals} (call $tick) {body}))"#
        );
        for strategy in [Strategy::Ahead, Strategy::Baseline, Strategy::Tiered] {
            let engine = Engine::new(Config::new().strategy(strategy).epoch_interruption(true))?;
            let mut linker = Linker::new(&engine);
            linker.func_wrap("", "tick", |caller: Caller<'_, ()>| caller.engine().increment_epoch())?;
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(1);
            let instance = linker.instantiate(&mut store, &Module::new(&engine, &text)?)?;
            let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
            if let Err(error) = run.call(&mut store, ()) {
                assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt), "{error:?}");
                interrupted += 1;
            }
            let called = instance.get_global(&mut store, "n").expect("exported").get(&mut store).unwrap_i64() as u64;
            assert!(called <= MOST_CALLS, "seed {seed}, {strategy:?}: {called} calls after the deadline");
        }
    }
    assert!(interrupted > 50, "{interrupted} were long enough");
    Ok(())
}
