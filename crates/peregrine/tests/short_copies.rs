//! `memory.copy` and `memory.fill` of every short length, constant and not, overlapping and at the ends of the memory, in each strategy.

use peregrine::{Config, Engine, Instance, Memory, Module, Result, Store, Strategy, TieringStress, Trap, TypedFunc};
use std::fmt::Write;

/// Longer than what is done without a call of the engine.
const MAX_LEN: u32 = 80;
const PAGE: usize = 64 << 10;

/// `copy` and `fill` with the length as a parameter, and `copyN` and `fillN` for each constant one, in the memory `declared`.
fn module_text(declared: &str) -> String {
    let mut text = format!(
        r#"(module {declared}
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

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

struct Guest {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
    /// What is in the memory before each call.
    content: Vec<u8>,
}

impl Guest {
    fn new(config: &Config, declared: &str) -> Result<Self> {
        let engine = Engine::new(config)?;
        let module = Module::new(&engine, module_text(declared))?;
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        let content = content(memory.data_size(&store));
        Ok(Self { store, instance, memory, content })
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
fn ends(memory_len: usize, len: u32) -> [u32; 3] {
    let last = memory_len as u32 - len;
    [last, last + 1, u32::MAX - len / 2]
}

fn every_length(config: &Config, declared: &str) -> Result<()> {
    let mut guest = Guest::new(config, declared)?;
    let memory_len = guest.content.len();
    for len in 0..=MAX_LEN {
        let mut places = vec![(100, 1000), (1000, 100), (500, 500), (500, 501), (501, 500), (500, 500 + len / 2), (500 + len, 500)];
        for end in ends(memory_len, len) {
            places.extend([(end, 64), (64, end)]);
        }
        for (target, source) in places {
            let is_inside = u64::from(target.max(source)) + u64::from(len) <= memory_len as u64;
            let expected = is_inside.then(|| {
                let mut bytes = guest.content.clone();
                bytes.copy_within(source as usize..(source + len) as usize, target as usize);
                bytes
            });
            guest.check("copy", (target, source, len), expected.clone())?;
            guest.check(&format!("copy{len}"), (target, source, 0), expected)?;
        }
        for target in [0, 333].into_iter().chain(ends(memory_len, len)) {
            // Only the low byte of the value counts.
            let value = 0xffff_ff00 | (len * 37 + 5) & 0xff;
            let is_inside = u64::from(target) + u64::from(len) <= memory_len as u64;
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

/// What code may rely on differs between them: a memory that may move, one with a guard, one that is checked.
const MEMORIES: [&str; 3] =
    [r#"(memory (export "memory") 1)"#, r#"(memory (export "memory") 2)"#, r#"(memory (export "memory") 1 1) (memory 1)"#];

#[test]
fn short_copies_and_fills_are_right_in_every_strategy() -> Result<()> {
    for (strategy, stress) in [
        (Strategy::Ahead, TieringStress::None),
        (Strategy::Baseline, TieringStress::None),
        (Strategy::Tiered, TieringStress::OptimizeAtOnce),
    ] {
        let mut config = Config::new();
        config.strategy(strategy).tiering_stress(stress);
        MEMORIES.iter().try_for_each(|declared| every_length(&config, declared))?;
    }
    Ok(())
}

#[test]
fn short_copies_and_fills_are_right_without_guards() -> Result<()> {
    let mut config = Config::new();
    config.strategy(Strategy::Ahead).memory_reservation(0).memory_guard_size(0);
    every_length(&config, MEMORIES[1])
}

/// Of two memories, each copy has the bounds of its own side.
#[test]
fn short_copies_between_memories_are_right() -> Result<()> {
    let mut text = String::from(
        r#"(module (memory (export "to") 2) (memory (export "from") 1)
        (func (export "copy") (param i32 i32 i32) (memory.copy 0 1 (local.get 0) (local.get 1) (local.get 2)))
        "#,
    );
    for len in 0..=MAX_LEN {
        writeln!(
            text,
            r#"(func (export "copy{len}") (param i32 i32 i32) (memory.copy 0 1 (local.get 0) (local.get 1) (i32.const {len})))"#
        )?;
    }
    let engine = Engine::new(Config::new().strategy(Strategy::Ahead))?;
    let module = Module::new(&engine, text + ")")?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let [to, from] = ["to", "from"].map(|name| instance.get_memory(&mut store, name).unwrap());
    let source_content = content(PAGE);
    from.data_mut(&mut store).copy_from_slice(&source_content);
    let page = PAGE as u32;
    for len in 0..=MAX_LEN {
        for (target, source) in [(7, 9), (page, page - len), (2 * page - len, 3), (page, page - len + 1), (2 * page - len + 1, 0)] {
            for name in ["copy".to_owned(), format!("copy{len}")] {
                to.data_mut(&mut store).fill(0);
                let copy = instance.get_typed_func::<(u32, u32, u32), ()>(&mut store, &name)?;
                let mut expected = vec![0; 2 * PAGE];
                let is_inside = target + len <= 2 * page && source + len <= page;
                let outcome = copy.call(&mut store, (target, source, len));
                if is_inside {
                    outcome?;
                    expected[target as usize..][..len as usize].copy_from_slice(&source_content[source as usize..][..len as usize]);
                } else {
                    assert_eq!(outcome.unwrap_err().downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
                }
                assert!(to.data(&store) == expected, "{name} {target} {source}");
            }
        }
    }
    Ok(())
}
