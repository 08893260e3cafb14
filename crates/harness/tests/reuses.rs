//! What one instance writes, the next one in its place never reads: a hundred thousand instances of one module on two threads, each of which
//! hides a secret somewhere and looks where earlier ones hid theirs.
//!
//! `PEREGRINE_REUSES` says how many; `cargo xtask stress` runs a million under the address sanitizer.

use peregrine::{Engine, Instance, Module, Result, Store};
use std::thread;

/// `visit` sums up what is at a place that an earlier instance used, in memory, table and global, and then hides secrets at another one; in
/// some instances it traps afterwards, so that they end in the middle of a call.
const GUEST: &str = r#"(module
    (memory (export "memory") 3 8)
    (data (i32.const 70000) "known")
    (table $t 64 128 funcref)
    (global $g (mut i64) (i64.const 0))
    (func $f)
    (elem declare func $f)
    (func (export "visit") (param $look i32) (param $hide i32) (param $grow i32) (param $trap i32) (result i64)
        (local $found i64)
        (local.set $found (i64.add (global.get $g) (i64.load (local.get $look))))
        (if (i32.eqz (ref.is_null (table.get $t (i32.and (local.get $look) (i32.const 63)))))
            (then (local.set $found (i64.const -1))))
        (if (i32.ne (memory.size) (i32.const 3)) (then (local.set $found (i64.const -2))))
        (if (i32.ne (table.size $t) (i32.const 64)) (then (local.set $found (i64.const -3))))
        (if (local.get $grow) (then
            (if (i32.ne (memory.grow (local.get $grow)) (i32.const 3)) (then (local.set $found (i64.const -4))))
            (if (i64.ne (i64.load (i32.const 196608)) (i64.const 0)) (then (local.set $found (i64.const -5))))
            (i64.store (i32.const 196608) (i64.const 0x5ec7e7))
            (drop (table.grow $t (ref.func $f) (i32.const 9)))))
        (i64.store (local.get $hide) (i64.const 0x5ec7e7))
        (table.set $t (i32.and (local.get $hide) (i32.const 63)) (ref.func $f))
        (global.set $g (i64.const 0x5ec7e7))
        (if (local.get $trap) (then (i64.store (i32.const 0) (local.get $found)) unreachable))
        (local.get $found)))"#;

/// Bytes of the memory.
const LEN: usize = 3 << 16;

/// Instances made one after the other; places come from a sequence of numbers that begins at `seed`.
fn visits(module: &Module, seed: u64, count: u64) -> Result<()> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Beyond the data at 70000 and what the trap writes, within the memory, in words.
        70_016 + (state >> 33) as i32 % (LEN as i32 - 70_032) / 8 * 8
    };
    let (mut last, mut before) = (next(), next());
    for round in 0..count {
        let mut store = Store::new(module.engine(), ());
        let instance = Instance::new(&mut store, module, &[])?;
        let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
        if round % 1000 == 0 {
            let expected = |at: usize| b"known".get(at.wrapping_sub(70_000)).copied().unwrap_or(0);
            assert!(memory.data(&store).iter().enumerate().all(|(at, byte)| *byte == expected(at)), "round {round}");
        }
        let (hide, grow, trap) = (next(), i32::from(round % 7 == 0), i32::from(round % 5 == 0));
        // The place of the last instance, or of the one before: the other thread's instances come between.
        let look = if round % 2 == 0 { last } else { before };
        (before, last) = (last, hide);
        let visit = instance.get_typed_func::<(i32, i32, i32, i32), i64>(&mut store, "visit")?;
        let found = match visit.call(&mut store, (look, hide, grow, trap)) {
            Ok(found) => found,
            Err(_) => i64::from_le_bytes(memory.data(&store)[..8].try_into().expect("eight bytes")),
        };
        assert_eq!(found, 0, "round {round}");
        if round % 3 == 0 {
            // The host writes, too.
            memory.write(&mut store, hide as usize + 8, b"secret")?;
        }
    }
    Ok(())
}

#[test]
fn no_reuse_shows_a_secret() {
    let reuses = std::env::var("PEREGRINE_REUSES").map_or(100_000, |text| text.parse().expect("PEREGRINE_REUSES is a number"));
    let engine = Engine::default();
    let module = Module::new(&engine, GUEST).expect("the guest is valid");
    thread::scope(|scope| {
        for seed in [1, 2] {
            let module = &module;
            scope.spawn(move || visits(module, seed, reuses / 2).expect("nothing is refused"));
        }
    });
    let metrics = engine.metrics();
    assert_eq!(metrics.slots_quarantined, 0);
    assert!(metrics.slots_warm > reuses / 2 * 2 - 100, "places are used again: {metrics:?}");
}
