//! `memory.copy` and `memory.fill` of every short length, constant and not, overlapping and at the ends of the memory, in each strategy.

use peregrine::{Config, Engine, Instance, Memory, Module, Result, Store, Strategy, Trap, TypedFunc};
use std::fmt::Write;

/// Longer than what is done without a call of the engine.
const MAX_LEN: u32 = 80;
const PAGE: usize = 64 << 10;

/// `copy` and `fill` with the length as a parameter, and `copyN` and `fillN` for each constant one.
fn module_text() -> String {
    let mut text = String::from(
        r#"(module (memory (export "memory") 1)
        (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
        (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
        "#,
    );
    for len in 0..=MAX_LEN {
        writeln!(text, r#"(func (export "copy{len}") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (i32.const {len})))"#)
            .unwrap();
        writeln!(text, r#"(func (export "fill{len}") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (i32.const {len})))"#)
            .unwrap();
    }
    text + ")"
}

fn content() -> Vec<u8> {
    (0..PAGE).map(|at| (at * 7 + at / 256) as u8).collect()
}

struct Guest {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
    /// What is in the memory before each call.
    content: Vec<u8>,
}

impl Guest {
    fn new(strategy: Strategy) -> Result<Self> {
        let mut config = Config::new();
        config.strategy(strategy);
        let engine = Engine::new(&config)?;
        let module = Module::new(&engine, module_text())?;
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        Ok(Self { store, instance, memory, content: content() })
    }

    fn function(&mut self, name: &str) -> Result<TypedFunc<(u32, u32, u32), ()>> {
        self.instance.get_typed_func(&mut self.store, name)
    }

    /// Calls `name` on fresh content, and checks the whole memory against `expected`, or that it is as before if there is a trap.
    fn check(&mut self, name: &str, args: (u32, u32, u32), expected: Option<Vec<u8>>) -> Result<()> {
        self.memory.data_mut(&mut self.store).copy_from_slice(&self.content);
        let outcome = self.function(name)?.call(&mut self.store, args);
        match &expected {
            Some(_) => outcome?,
            None => assert_eq!(outcome.unwrap_err().downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds), "{name} {args:?}"),
        }
        let found = self.memory.data(&self.store);
        let expected = expected.as_ref().unwrap_or(&self.content);
        assert!(
            found == expected.as_slice(),
            "{name} {args:?}: {:?}",
            found.iter().zip(expected).position(|(found, expected)| found != expected)
        );
        Ok(())
    }
}

/// The last places of an operation of `len` bytes: in bounds, and one beyond.
fn ends(len: u32) -> [u32; 3] {
    let last = PAGE as u32 - len;
    [last, last + 1, u32::MAX - len / 2]
}

fn every_length(strategy: Strategy) -> Result<()> {
    let mut guest = Guest::new(strategy)?;
    for len in 0..=MAX_LEN {
        let mut places = vec![(100, 1000), (1000, 100), (500, 500), (500, 501), (501, 500), (500, 500 + len / 2), (500 + len, 500)];
        for end in ends(len) {
            places.extend([(end, 64), (64, end)]);
        }
        for (target, source) in places {
            let is_inside = u64::from(target.max(source)) + u64::from(len) <= PAGE as u64;
            let expected = is_inside.then(|| {
                let mut bytes = guest.content.clone();
                bytes.copy_within(source as usize..(source + len) as usize, target as usize);
                bytes
            });
            guest.check("copy", (target, source, len), expected.clone())?;
            guest.check(&format!("copy{len}"), (target, source, 0), expected)?;
        }
        for target in [0, 333].into_iter().chain(ends(len)) {
            // Only the low byte of the value counts.
            let value = 0xffff_ff00 | (len * 37 + 5) & 0xff;
            let is_inside = u64::from(target) + u64::from(len) <= PAGE as u64;
            let expected = is_inside.then(|| {
                let mut bytes = guest.content.clone();
                bytes[target as usize..(target + len) as usize].fill(value as u8);
                bytes
            });
            guest.check("fill", (target, value, len), expected.clone())?;
            guest.check(&format!("fill{len}"), (target, value, 0), expected)?;
        }
    }
    Ok(())
}

#[test]
fn short_copies_and_fills_of_optimized_code_are_right() -> Result<()> {
    every_length(Strategy::Ahead)
}

#[test]
fn short_copies_and_fills_of_baseline_code_are_right() -> Result<()> {
    every_length(Strategy::Baseline)
}
