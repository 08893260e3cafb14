//! What one instance writes, the next one in its place never reads: a hundred thousand instances of each kind of module on two threads, each of
//! which hides secrets somewhere and looks where earlier ones hid theirs.
//!
//! `PEREGRINE_REUSES` says how many of the first two kinds, and four times as many as of the others; `cargo xtask stress` runs a million under the
//! address sanitizer.
//!
//! | kind | what is special |
//! |---|---|
//! | small | a memory that moves when it grows, its accesses checked |
//! | guarded | 4 GiB of address space and a guard, as most programs have; grows by more than 4 MiB now and then, which gets huge pages |
//! | 64 bits | indices of 64 bits, and a memory that moves |
//! | 64 bits in place | the same, and a memory that does not |
//! | imported | the memory, the tables and the global are those of another instance, which is used again as well |

use peregrine::{Config, Engine, Extern, ExternRef, Instance, Module, Result, Store};
use std::thread;

/// One kind of module.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Small,
    Guarded,
    Wide,
    WideInPlace,
    Imported,
}

impl Kind {
    /// What the memory is like.
    fn memory(self) -> &'static str {
        match self {
            Self::Small => "3 8",
            Self::Guarded | Self::Imported => "3",
            Self::Wide | Self::WideInPlace => "i64 3",
        }
    }

    fn is_wide(self) -> bool {
        matches!(self, Self::Wide | Self::WideInPlace)
    }

    /// Address space that the memory has at least, if that is what makes the kind.
    fn reserved_bytes(self) -> u64 {
        match self {
            Self::Guarded | Self::Imported => 4 << 30,
            Self::WideInPlace => 1 << 30,
            Self::Small | Self::Wide => 0,
        }
    }
}

/// What holds the secrets. `{memory}` is what the memory is like.
const OWNER: &str = r#"
    (memory (export "memory") {memory})
    (data (i{bits}.const 70000) "known")
    (table $t (export "t") 64 128 funcref)
    (table $e (export "e") 64 128 externref)
    (global $g (export "g") (mut i64) (i64.const 0))"#;

/// The same, of another instance.
const IMPORTS: &str = r#"
    (import "" "memory" (memory 3))
    (import "" "t" (table $t 64 128 funcref))
    (import "" "e" (table $e 64 128 externref))
    (import "" "g" (global $g (mut i64)))"#;

/// `visit` sums up what is at a place that an earlier instance used, in memory, tables and global, and then hides secrets at another one. It uses
/// segments, which must be there, and drops them. In some instances it traps afterwards, so that they end in the middle of a call.
const VISITOR: &str = r#"
    (data $passive "segment")
    (elem $functions func $f)
    (func $f)
    (elem declare func $f)
    (func (export "visit") (param $look i32) (param $hide i32) (param $grow i32) (param $trap i32) (param $value externref) (result i64)
        (local $found i64)
        (local.set $found (i64.add (global.get $g) (i64.load {look})))
        (if (i32.eqz (ref.is_null (table.get $t (i32.and (local.get $look) (i32.const 63)))))
            (then (local.set $found (i64.const -1))))
        (if (i32.eqz (ref.is_null (table.get $e (i32.and (local.get $look) (i32.const 63)))))
            (then (local.set $found (i64.const -6))))
        (if (i{bits}.ne (memory.size) (i{bits}.const 3)) (then (local.set $found (i64.const -2))))
        (if (i32.ne (i32.add (table.size $t) (table.size $e)) (i32.const 128)) (then (local.set $found (i64.const -3))))
        (if (local.get $grow) (then
            (if (i{bits}.ne (memory.grow {grow}) (i{bits}.const 3)) (then (local.set $found (i64.const -4))))
            (if (i64.ne (i64.load (i{bits}.const 196608)) (i64.const 0)) (then (local.set $found (i64.const -5))))
            (if (i64.ne (i64.load offset=196600 {grown}) (i64.const 0)) (then (local.set $found (i64.const -7))))
            (i64.store (i{bits}.const 196608) (i64.const 0x5ec7e7))
            (i64.store offset=196600 {grown} (i64.const 0x5ec7e7))
            (drop (table.grow $t (ref.func $f) (i32.const 9)))
            (drop (table.grow $e (local.get $value) (i32.const 9)))))
        ;; A segment that was dropped in an earlier life would trap.
        (memory.init $passive {hide} (i32.const 0) (i32.const 7))
        (data.drop $passive)
        (table.init $t $functions (i32.const 5) (i32.const 0) (i32.const 1))
        (elem.drop $functions)
        (i64.store {hide} (i64.const 0x5ec7e7))
        (table.set $t (i32.and (local.get $hide) (i32.const 63)) (ref.func $f))
        (table.set $e (i32.and (local.get $hide) (i32.const 63)) (local.get $value))
        (global.set $g (i64.const 0x5ec7e7))
        (if (local.get $trap) (then (i64.store (i{bits}.const 0) (local.get $found)) unreachable))
        (local.get $found))"#;

/// Bytes of the memory.
const LEN: usize = 3 << 16;
/// Pages that it grows by now and then: more than 4 MiB.
const MANY_PAGES: i32 = 100;

/// The module that is visited, and the one whose instances it imports everything of, if it does.
fn modules(engine: &Engine, kind: Kind) -> Result<(Module, Option<Module>)> {
    let bits = if kind.is_wide() { "64" } else { "32" };
    let index = |of: &str| if kind.is_wide() { format!("(i64.extend_i32_u {of})") } else { of.to_owned() };
    let fill = |text: &str| {
        let text = text.replace("{memory}", kind.memory()).replace("{bits}", bits);
        let text = text.replace("{look}", &index("(local.get $look)")).replace("{hide}", &index("(local.get $hide)"));
        // The last eight bytes of what was added.
        let grown = index("(i32.mul (local.get $grow) (i32.const 65536))");
        text.replace("{grow}", &index("(local.get $grow)")).replace("{grown}", &grown)
    };
    if kind == Kind::Imported {
        let owner = Module::new(engine, format!("(module {})", fill(OWNER)))?;
        return Ok((Module::new(engine, format!("(module {IMPORTS} {})", fill(VISITOR)))?, Some(owner)));
    }
    Ok((Module::new(engine, format!("(module {} {})", fill(OWNER), fill(VISITOR)))?, None))
}

/// Instances made one after the other; places come from a sequence of numbers that begins at `seed`.
fn visits(kind: Kind, (module, owner): (&Module, Option<&Module>), seed: u64, count: u64) -> Result<()> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Beyond the data at 70000 and what the trap writes, within the memory, in words.
        70_016 + (state >> 33) as i32 % (LEN as i32 - 70_032) / 8 * 8
    };
    let (mut last, mut before) = (next(), next());
    for round in 0..count {
        let mut store = Store::new(module.engine(), ());
        let (instance, owner) = match owner {
            None => {
                let instance = Instance::new(&mut store, module, &[])?;
                (instance, instance)
            }
            Some(owner) => {
                let owner = Instance::new(&mut store, owner, &[])?;
                let imports: Vec<Extern> = ["memory", "t", "e", "g"].iter().filter_map(|name| owner.get_export(&mut store, name)).collect();
                (Instance::new(&mut store, module, &imports)?, owner)
            }
        };
        let memory = owner.get_memory(&mut store, "memory").expect("it is exported");
        if round % 1000 == 0 {
            let expected = |at: usize| b"known".get(at.wrapping_sub(70_000)).copied().unwrap_or(0);
            assert!(memory.data(&store).iter().enumerate().all(|(at, byte)| *byte == expected(at)), "round {round}");
            assert!(store.metrics().reserved_bytes >= kind.reserved_bytes(), "{:?}", store.metrics());
        }
        let grow = match round {
            _ if round % 70 == 0 && kind != Kind::Small => MANY_PAGES,
            _ => i32::from(round % 7 == 0),
        };
        let (hide, trap) = (next(), i32::from(round % 5 == 0));
        // The place of the last instance, or of the one before: the other thread's instances come between.
        let look = if round % 2 == 0 { last } else { before };
        (before, last) = (last, hide);
        let value = ExternRef::new(&mut store, "secret")?;
        let visit = instance.get_func(&mut store, "visit").expect("it is exported");
        let visit = visit.typed::<(i32, i32, i32, i32, Option<_>), i64>(&store)?;
        let found = match visit.call(&mut store, (look, hide, grow, trap, Some(value))) {
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

fn no_reuse_shows_a_secret(kind: Kind) {
    let reuses = std::env::var("PEREGRINE_REUSES").map_or(100_000, |text| text.parse().expect("PEREGRINE_REUSES is a number"));
    let reuses: u64 = if matches!(kind, Kind::Small | Kind::Guarded) { reuses } else { reuses / 4 };
    let mut config = Config::new();
    config.memory_may_move(kind != Kind::WideInPlace);
    let engine = Engine::new(&config).expect("the configuration works");
    let (module, owner) = modules(&engine, kind).expect("the guest is valid");
    thread::scope(|scope| {
        for seed in [1, 2] {
            let modules = (&module, owner.as_ref());
            scope.spawn(move || visits(kind, modules, seed, reuses / 2).expect("nothing is refused"));
        }
    });
    let metrics = engine.metrics();
    assert_eq!(metrics.slots_quarantined, 0);
    assert!(metrics.slots_warm > reuses / 2 * 2 - 100, "places are used again: {metrics:?}");
}

#[test]
fn no_reuse_of_a_small_memory_shows_a_secret() {
    no_reuse_shows_a_secret(Kind::Small);
}

#[test]
fn no_reuse_of_a_guarded_memory_shows_a_secret() {
    no_reuse_shows_a_secret(Kind::Guarded);
}

#[test]
fn no_reuse_of_a_memory_of_64_bits_shows_a_secret() {
    no_reuse_shows_a_secret(Kind::Wide);
}

#[test]
fn no_reuse_of_a_memory_of_64_bits_that_stays_shows_a_secret() {
    no_reuse_shows_a_secret(Kind::WideInPlace);
}

#[test]
fn no_reuse_of_imported_things_shows_a_secret() {
    no_reuse_shows_a_secret(Kind::Imported);
}
