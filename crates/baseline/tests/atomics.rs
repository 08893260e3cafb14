//! Atomic instructions give the same in both tiers: values, what is in memory, and traps in their order.

mod two_tiers;

use peregrine::{Config, Engine, Instance, Module, Store, Trap, TypedFunc};
use std::fmt::Write;
use two_tiers::{Which, load_with};

/// Type, name and bytes of each width.
const WIDTHS: [(&str, &str, u32); 7] =
    [("i32", "", 4), ("i64", "", 8), ("i32", "8", 1), ("i32", "16", 2), ("i64", "8", 1), ("i64", "16", 2), ("i64", "32", 4)];
const OFFSETS: [u64; 4] = [0, 3, 8, 65_528];

/// A module with a function for each instruction and offset: `(address, a, b) -> result`.
fn text(memory: &str) -> (String, Vec<String>) {
    let is_64 = memory.starts_with("i64");
    let mut text = format!("(module (memory (export \"memory\") {memory})");
    let mut names = Vec::new();
    for (ty, bits, _) in WIDTHS {
        let unsigned = if bits.is_empty() { "" } else { "_u" };
        let narrow = |local: &str| if ty == "i32" { format!("(i32.wrap_i64 (local.get {local}))") } else { format!("(local.get {local})") };
        let wide = |value: String| if ty == "i32" { format!("(i64.extend_i32_u {value})") } else { value };
        let (a, b) = (narrow("1"), narrow("2"));
        for offset in OFFSETS {
            let mut rows = vec![
                (format!("{ty}.atomic.load{bits}{unsigned}"), String::new()),
                (format!("{ty}.atomic.store{bits}"), a.clone()),
                (format!("{ty}.atomic.rmw{bits}.cmpxchg{unsigned}"), format!("{a} {b}")),
                (
                    format!("{ty}.atomic.rmw{bits}.cmpxchg{unsigned}"),
                    format!("(i32.const 0x55) {b}").replace("i32.const", &format!("{ty}.const")),
                ),
            ];
            for op in ["add", "sub", "and", "or", "xor", "xchg"] {
                rows.push((format!("{ty}.atomic.rmw{bits}.{op}{unsigned}"), a.clone()));
                rows.push((format!("{ty}.atomic.rmw{bits}.{op}{unsigned}"), format!("({ty}.const 0x1234)")));
            }
            for (op, operands) in rows {
                let address = if is_64 { "(local.get 0)" } else { "(i32.wrap_i64 (local.get 0))" };
                let call = format!("({op} offset={offset} {address} {operands})");
                let body = if op.contains("store") { format!("{call} (i64.const 0)") } else { wide(call) };
                let name = format!("{op} {offset} {}", names.len());
                // Twice: with locals in registers, and with every register that an operand can have in use.
                write!(text, "(func (export \"{name}\") (param i64 i64 i64) (result i64) {body})").expect("a string");
                names.push(name.clone());
                let held: String = (0..10).map(|number| format!("(i64.add (local.get 1) (i64.const {number}))")).collect();
                let sums = "(i64.xor)".repeat(10);
                let name = format!("{name} held");
                write!(text, "(func (export \"{name}\") (param i64 i64 i64) (result i64) {held} {body} {sums})").expect("a string");
                names.push(name);
            }
        }
    }
    let address = if is_64 { "(local.get 0)" } else { "(i32.wrap_i64 (local.get 0))" };
    for offset in OFFSETS {
        for (op, operands, ty) in [
            ("notify", "(i32.wrap_i64 (local.get 1))", ""),
            ("wait32", "(i32.wrap_i64 (local.get 1)) (local.get 2)", ""),
            ("wait64", "(local.get 1) (local.get 2)", ""),
        ] {
            let name = format!("{op} {offset}{ty}");
            let body = format!("(i64.extend_i32_u (memory.atomic.{op} offset={offset} {address} {operands}))");
            write!(text, "(func (export \"{name}\") (param i64 i64 i64) (result i64) (atomic.fence) {body})").expect("a string");
            names.push(name);
        }
    }
    text.push(')');
    (text, names)
}

struct Tier {
    store: Store<()>,
    instance: Instance,
}

impl Tier {
    fn new(engine: &Engine, module: &Module) -> Self {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, module, &[]).expect("no imports");
        Self { store, instance }
    }

    /// What a call gives, and the bytes around the address afterwards.
    fn call(&mut self, name: &str, args: (i64, i64, i64)) -> (Result<i64, Option<Trap>>, Vec<u8>) {
        let memory = self.instance.get_memory(&mut self.store, "memory").expect("a memory");
        let bytes: Vec<u8> = (0..memory.data_size(&self.store)).map(|at| (at as u8).wrapping_mul(167) ^ 0x55).collect();
        memory.write(&mut self.store, 0, &bytes).expect("in bounds");
        let func: TypedFunc<(i64, i64, i64), i64> = self.instance.get_typed_func(&mut self.store, name).expect("the export");
        let result = func.call(&mut self.store, args).map_err(|error| error.downcast_ref::<Trap>().copied());
        (result, memory.data(&self.store).to_vec())
    }
}

fn check(memory: &str, config: &mut Config, change: impl Fn(&mut peregrine_artifact::settings::Settings) + Copy) {
    let engine = Engine::new(config.wasm_threads(true)).expect("an engine");
    let (text, names) = text(memory);
    let modules = [Which::Baseline, Which::Optimizing].map(|which| {
        let changed = |settings: &mut _| change(settings);
        load_with(&engine, which, text.as_bytes(), |settings| {
            settings.features.threads = true;
            changed(settings);
        })
        .expect("the module compiles")
    });
    let [mut baseline, mut optimizing] = modules.each_ref().map(|module| Tier::new(&engine, module));
    let (mut values, mut traps) = (0, 0);
    for name in &names {
        for address in [0, 5, 8, 64, 65_528, 65_535, 65_536, 0xffff_fff8, -8, -1] {
            for (a, b) in [(0x55, -1), (0x1122_3344_5566_7788, 7)] {
                let results = [baseline.call(name, (address, a, b)), optimizing.call(name, (address, a, b))];
                assert_eq!(results[0].0, results[1].0, "{name} at {address:#x} with {a:#x}, {b:#x} in {memory}");
                assert!(results[0].1 == results[1].1, "{name} at {address:#x} with {a:#x}, {b:#x} in {memory} leaves other memory");
                match results[0].0 {
                    Ok(_) => values += 1,
                    Err(trap) => {
                        assert!(trap.is_some(), "{name}");
                        traps += 1;
                    }
                }
            }
        }
    }
    assert!(values > 1000 && traps > 1000, "{values} values, {traps} traps");
}

#[test]
fn in_guarded_memories() {
    check("1", &mut Config::new(), |_| ());
}

#[test]
fn in_checked_memories() {
    let mut config = Config::new();
    config.memory_reservation(0).memory_guard_size(0);
    check("1", &mut config, |settings| (settings.memory_reservation_bytes, settings.memory_guard_bytes) = (0, 0));
}

#[test]
fn in_64_bit_memories() {
    check("i64 1 2", &mut Config::new(), |_| ());
}
