//! Locals in core dumps: what a guest's calls held when it trapped, whatever made their code.

mod patience;

use patience::until_answered;
use peregrine::*;

/// The value of a local in a dump.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    /// Not known, or of a type that dumps have no numbers for.
    Missing,
}

use Held::{F32, F64, I32, I64, Missing};

/// Engines of all kinds, with dumps.
fn engines() -> Vec<(String, Engine)> {
    configs().into_iter().map(|(name, config)| (name, Engine::new(&config).expect("the configuration is good"))).collect()
}

/// What they are made with.
fn configs() -> Vec<(String, Config)> {
    let mut configs = Vec::new();
    let mut add = |name: &str, change: &dyn Fn(&mut Config)| {
        let mut config = Config::new();
        config.coredump_on_trap(true);
        change(&mut config);
        configs.push((name.to_owned(), config));
    };
    add("ahead", &|config| _ = config.strategy(Strategy::Ahead));
    add("ahead, nothing inlined", &|config| _ = config.strategy(Strategy::Ahead).compiler_inlining(false));
    add("ahead, without optimization", &|config| _ = config.strategy(Strategy::Ahead).cranelift_opt_level(OptLevel::None));
    add("baseline", &|config| _ = config.strategy(Strategy::Baseline));
    add("tiered", &|config| _ = config.strategy(Strategy::Tiered));
    for stress in
        [TieringStress::OptimizeAtOnce, TieringStress::LoopEntryEverywhere, TieringStress::OneInstructionBudget, TieringStress::Random(3)]
    {
        add(&format!("{stress:?}"), &|config| _ = config.strategy(Strategy::Tiered).tiering_stress(stress));
    }
    configs
}

/// Reads the parts of a dump.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().expect("there is more");
        self.0 = rest;
        *byte
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        [(); N].map(|()| self.byte())
    }

    fn number(&mut self) -> u64 {
        let byte = self.byte();
        u64::from(byte & 0x7f) | if byte >= 0x80 { self.number() << 7 } else { 0 }
    }

    fn signed(&mut self) -> i64 {
        let (mut value, mut shift) = (0i64, 0);
        loop {
            let byte = self.byte();
            value |= i64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return if shift < 64 { value << (64 - shift) >> (64 - shift) } else { value };
            }
        }
    }

    fn held(&mut self) -> Held {
        match self.byte() {
            0x01 => Missing,
            0x7f => I32(i32::try_from(self.signed()).expect("32 bits")),
            0x7e => I64(self.signed()),
            0x7d => F32(f32::from_le_bytes(self.bytes())),
            0x7c => F64(f64::from_le_bytes(self.bytes())),
            other => panic!("{other:#x} is the type of no value"),
        }
    }
}

/// The calls in the dump of an error, newest first: function and locals. All are of the first instance.
fn calls(store: &mut Store<()>, error: &Error) -> Vec<(u64, Vec<Held>)> {
    let calls = calls_of_instances(store, error).into_iter();
    calls.inspect(|call| assert_eq!(call.0, 0)).map(|(_, function, locals)| (function, locals)).collect()
}

/// As [`calls`], each with its instance.
fn calls_of_instances(store: &mut Store<()>, error: &Error) -> Vec<(u64, u64, Vec<Held>)> {
    let dump = error.downcast_ref::<WasmCoreDump>().expect("there is a dump");
    let file = dump.serialize(&mut *store, "app");
    let read = Module::new(&Engine::default(), file).expect("a dump is a module");
    let mut stack = Reader(read.custom_sections("corestack").next().expect("there is a stack"));
    assert_eq!(stack.bytes(), *b"\0\x04main");
    let calls = (0..stack.number()).map(|_| {
        assert_eq!(stack.byte(), 0);
        let (instance, function, _offset) = (stack.number(), stack.number(), stack.number());
        let locals = (0..stack.number()).map(|_| stack.held()).collect();
        assert_eq!(stack.number(), 0, "operands are not kept");
        (instance, function, locals)
    });
    let calls = calls.collect();
    assert!(stack.0.is_empty());
    calls
}

/// Ways to trap, seven calls deep, with locals of every kind.
const DEEP: &str = r#"(module
    (import "host" "fail" (func $fail))
    (import "host" "back" (func $back (param i32)))
    (type $none (func))
    (table 4 funcref) (memory 1)
    (func $leaf (param $way i32) (local $a i64) (local $never f64) (local $b f32)
        (local.set $a (i64.const -5))
        (local.set $b (f32.const 2.5))
        (local.set $a (i64.mul (local.get $a) (i64.extend_i32_u (local.get $way))))
        (block (block (block (block (block (br_table 0 1 2 3 4 (local.get $way)))
            unreachable)
            (drop (i32.div_s (i32.const 7) (i32.sub (local.get $way) (i32.const 1)))))
            (i32.store (i32.const -1) (i32.const 0)))
            (call_indirect (type $none) (local.get $way)))
        (call $fail))
    (func $small (param i32 i32) (result i32) (i32.div_u (local.get 0) (local.get 1)))
    (func $many (param i32 i64 f32 f64 i32 i64 f32 f64 i32 i64 f32 f64 i32 i64 i32) (result i64)
        (local $v v128) (local externref) (local $sum i64)
        (local.set $sum (i64.add (local.get 1) (local.get 13)))
        (local.set $v (i64x2.splat (local.get $sum)))
        (call $leaf (local.get 0))
        (i64x2.extract_lane 0 (local.get $v)))
    (func $loops (param $way i32) (param $turns i32) (result i64) (local $i i32) (local $sum i64)
        (loop $again
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (local.set $sum (i64.add (local.get $sum) (i64.extend_i32_u (local.get $i))))
            (if (i32.eq (local.get $i) (local.get $turns)) (then
                (return (call $many (local.get $way) (local.get $sum) (f32.const 1) (f64.const 2) (i32.const 3) (i64.const 4) (f32.const 5)
                    (f64.const 6) (i32.const 7) (i64.const 8) (f32.const 9) (f64.const 10) (i32.const 11) (i64.const 12) (i32.const 13)))))
            (br_if $again (i32.lt_u (local.get $i) (i32.const 1000000))))
        (i64.const 0))
    (func $recurse (param $way i32) (param $depth i32) (result i64) (local $square i32)
        (local.set $square (i32.mul (local.get $depth) (local.get $depth)))
        (if (result i64) (i32.eqz (local.get $depth))
            (then (call $loops (local.get $way) (i32.const 100)))
            (else (i64.add (i64.extend_i32_u (local.get $square)) (call $recurse (local.get $way) (i32.sub (local.get $depth) (i32.const 1)))))))
    (func (export "run") (param $way i32) (local $kept i32)
        (local.set $kept (i32.const 77))
        (drop (call $recurse (local.get $way) (i32.const 2)))
        (drop (local.get $kept)))
    (func (export "again") (param $way i32) (local $mine f64)
        (local.set $mine (f64.const 0.5))
        (call $back (local.get $way)))
    (func (export "divide") (param i32 i32) (result i32) (local $before i32)
        (local.set $before (call $small (i32.const 9) (i32.const 3)))
        (i32.add (local.get $before) (call $small (local.get 0) (local.get 1))))
    (func $deeper (export "deeper") (param i32) (result i32) (local i64)
        (local.set 1 (i64.const 6))
        (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
)"#;

/// What the calls of `run` held.
fn expected(way: i32) -> Vec<(u64, Vec<Held>)> {
    let leaf = vec![I32(way), I64(-5 * i64::from(way)), F64(0.0), F32(2.5)];
    let many = [
        vec![I32(way), I64(5050), F32(1.0), F64(2.0), I32(3), I64(4), F32(5.0), F64(6.0), I32(7), I64(8), F32(9.0), F64(10.0), I32(11)],
        vec![I64(12), I32(13), Missing, Missing, I64(5062)],
    ];
    let recurse = |depth: i32| (6, vec![I32(way), I32(depth), I32(depth * depth)]);
    let loops = vec![I32(way), I32(100), I32(100), I64(5050)];
    vec![(2, leaf), (4, many.concat()), (5, loops), recurse(0), recurse(1), recurse(2), (7, vec![I32(way), I32(77)])]
}

fn with_each(mut check: impl FnMut(&str, &mut Store<()>, Instance)) -> Result<()> {
    for (name, engine) in engines() {
        let module = Module::new(&engine, DEEP)?;
        let mut linker = Linker::new(&engine);
        linker.func_wrap("host", "fail", || -> Result<()> { bail!("as it was told") })?;
        linker.func_wrap("host", "back", |mut caller: Caller<'_, ()>, way: i32| -> Result<()> {
            let run = caller.get_export("run").and_then(Extern::into_func).expect("it is exported");
            run.typed::<i32, ()>(&caller)?.call(&mut caller, way)
        })?;
        // What is optimized by and by is there in the second round.
        for round in 0..2 {
            let mut store = Store::new(&engine, ());
            let instance = linker.instantiate(&mut store, &module)?;
            check(&format!("{name}, round {round}"), &mut store, instance);
            until_answered(&module);
        }
    }
    Ok(())
}

#[test]
fn a_dump_has_the_locals_of_all_calls() -> Result<()> {
    let traps = [
        Some(Trap::UnreachableCodeReached),
        Some(Trap::IntegerDivisionByZero),
        Some(Trap::MemoryOutOfBounds),
        Some(Trap::IndirectCallToNull),
        None,
    ];
    with_each(|name, store, instance| {
        for (way, trap) in (0..).zip(traps) {
            let run = instance.get_typed_func::<i32, ()>(&mut *store, "run").expect("it is exported");
            let error = run.call(&mut *store, way).expect_err("it traps");
            assert_eq!(error.downcast_ref::<Trap>(), trap.as_ref(), "{name}, way {way}");
            assert_eq!(calls(store, &error), expected(way), "{name}, way {way}");
        }
    })
}

#[test]
fn calls_below_the_host_are_in_the_dump_too() -> Result<()> {
    with_each(|name, store, instance| {
        let again = instance.get_typed_func::<i32, ()>(&mut *store, "again").expect("it is exported");
        let error = again.call(&mut *store, 1).expect_err("it traps");
        let mut all = expected(1);
        all.push((8, vec![I32(1), F64(0.5)]));
        assert_eq!(calls(store, &error), all, "{name}");
    })
}

#[test]
fn what_is_not_certain_is_marked() -> Result<()> {
    with_each(|name, store, instance| {
        // One call was compiled into its caller twice, or is a call of its own.
        let divide = instance.get_typed_func::<(i32, i32), i32>(&mut *store, "divide").expect("it is exported");
        let error = divide.call(&mut *store, (5, 0)).expect_err("it traps");
        let found = calls(store, &error);
        assert_eq!(found[1], (9, vec![I32(5), I32(0), I32(3)]), "{name}");
        assert!(found[0] == (3, vec![I32(5), I32(0)]) || found[0] == (3, vec![Missing, Missing]), "{name}: {found:?}");
        // The last call may have no frame yet.
        let deeper = instance.get_typed_func::<i32, i32>(&mut *store, "deeper").expect("it is exported");
        let error = deeper.call(&mut *store, 0).expect_err("it traps");
        assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow));
        let found = calls(store, &error);
        let [I32(depth), _] = found[1].1[..] else { panic!("{name}: {:?}", found[1]) };
        let last = [vec![Missing, Missing], vec![I32(depth + 1), I64(0)], vec![I32(depth + 1), I64(6)]];
        assert!(found[0].0 == 10 && last.contains(&found[0].1), "{name}: {:?}", found[0]);
        for (above, call) in found[1..].iter().enumerate() {
            assert_eq!(*call, (10, vec![I32(depth - above as i32), I64(6)]), "{name}");
        }
    })
}

#[test]
fn images_without_locals_run_as_well() -> Result<()> {
    let text = r#"(module (func (export "run") (param i32) (local i64) unreachable))"#;
    let image = Engine::default().precompile_module(text.as_bytes())?;
    let engine = Engine::new(Config::new().coredump_on_trap(true))?;
    // SAFETY: the image was just made.
    let module = unsafe { Module::deserialize(&engine, image) }?;
    let mut store = Store::new(&engine, ());
    let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
    let error = run.call(&mut store, 1).unwrap_err();
    assert_eq!(calls(&mut store, &error), [(0, vec![Missing])]);
    Ok(())
}

#[test]
fn functions_of_thousands_of_locals_keep_them_and_larger_ones_none() -> Result<()> {
    // What another call kept at the same place before does not count.
    let text = |count: usize| {
        format!(
            r#"(module (func $many (param i32) (local {}) (local.set {count} (i64.const 9)) unreachable)
                (func $few (param i32) (local i64 i64) (local.set 1 (i64.const 7)) (call $nothing))
                (func $nothing)
                (func (export "run") (param i32) (call $few (local.get 0)) (call $many (local.get 0))))"#,
            "i64 ".repeat(count)
        )
    };
    for (name, engine) in engines() {
        for (count, is_kept) in [(1_100, true), (8_191, true), (8_192, false)] {
            let module = Module::new(&engine, text(count))?;
            let mut store = Store::new(&engine, ());
            let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
            let error = run.call(&mut store, 1).unwrap_err();
            let calls = calls(&mut store, &error);
            let expected = if is_kept { [vec![I32(1)], vec![I64(0); count - 1], vec![I64(9)]].concat() } else { vec![Missing; count + 1] };
            assert_eq!((calls.len(), calls[0].0), (2, 0), "{name}, {count} locals");
            assert!(calls[0].1 == expected, "{name}, {count} locals: {:?}", &calls[0].1[..4]);
        }
    }
    Ok(())
}

#[test]
fn vectors_are_known_beside_the_file() -> Result<()> {
    with_each(|name, store, instance| {
        let run = instance.get_typed_func::<i32, ()>(&mut *store, "run").expect("it is exported");
        let error = run.call(&mut *store, 0).expect_err("it traps");
        let locals = error.downcast_ref::<WasmCoreDump>().expect("there is a dump").locals(1);
        let [Some(Val::V128(vector)), None, Some(Val::I64(sum))] = locals[15..] else { panic!("{name}: {locals:?}") };
        assert_eq!((vector.as_u128(), sum), (5062 << 64 | 5062, 5062), "{name}");
    })
}

/// Instances of one module that call each other, by a table that both have.
#[test]
fn calls_are_those_of_their_instances() -> Result<()> {
    let text = r#"(module (import "" "table" (table 2 funcref))
        (type $step (func (param i32)))
        (func $fail unreachable)
        (func $step (export "step") (param $left i32) (local $i i32)
            (loop $more (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3))))
            (if (i32.eqz (local.get $left)) (then (call $fail)))
            (call_indirect (type $step) (i32.sub (local.get $left) (i32.const 1)) (i32.and (local.get $left) (i32.const 1))))
        (func (export "put") (param i32) (table.set (local.get 0) (ref.func $step)))
        (func $deep (export "deep") (call $deep)))"#;
    for (name, engine) in engines() {
        let module = Module::new(&engine, text)?;
        let mut store = Store::new(&engine, ());
        let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 2, None), Ref::Func(None))?;
        let mut instances = Vec::new();
        for _ in 0..3 {
            instances.push(Instance::new(&mut store, &module, &[table.into()])?);
        }
        for number in 0..2 {
            instances[1 + number].get_typed_func::<i32, ()>(&mut store, "put")?.call(&mut store, number as i32)?;
        }
        for _ in 0..3 {
            let error = instances[1].get_typed_func::<i32, ()>(&mut store, "step")?.call(&mut store, 4).unwrap_err();
            let found: Vec<(u64, u64)> = calls_of_instances(&mut store, &error).iter().map(|call| (call.0, call.1)).collect();
            assert_eq!(found, [(2, 0), (2, 1), (1, 1), (2, 1), (1, 1), (1, 1)], "{name}");
        }
        // The newest has no frame yet.
        let error = instances[2].get_typed_func::<(), ()>(&mut store, "deep")?.call(&mut store, ()).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow));
        let found = calls_of_instances(&mut store, &error);
        assert!(found.len() > 10 && found.iter().all(|call| (call.0, call.1) == (2, 3)), "{name}");
    }
    Ok(())
}

/// A frame without locals of its own, in which another instance's call left some of a function that was compiled into it.
#[test]
fn what_an_earlier_call_left_says_nothing_of_the_instance() -> Result<()> {
    let text = format!(
        r#"(module (global $g (mut i32) (i32.const 0))
            (func $few (param i32) (local i64) (local.set 1 (i64.const 7)) (global.set $g (local.get 0)))
            (func (export "run") (param i32) (local {}) (if (local.get 0) (then (call $few (local.get 0)))) unreachable))"#,
        "i64 ".repeat(8_192)
    );
    for (name, engine) in engines() {
        let module = Module::new(&engine, &text)?;
        let mut store = Store::new(&engine, ());
        let instances = [Instance::new(&mut store, &module, &[])?, Instance::new(&mut store, &module, &[])?];
        for _ in 0..3 {
            for (number, is_called) in [(1, 1), (0, 0)] {
                let run = instances[number].get_typed_func::<i32, ()>(&mut store, "run")?;
                let error = run.call(&mut store, is_called).unwrap_err();
                let found: Vec<(u64, u64)> = calls_of_instances(&mut store, &error).iter().map(|call| (call.0, call.1)).collect();
                // Of the other one, code of the baseline alone knows it.
                let is_known = number == 0 || name == "baseline";
                assert!(!is_known || found == [(number as u64, 1)], "{name}: {found:?}");
            }
        }
    }
    Ok(())
}

/// A call that ends where it begins, in a frame as an earlier one left it, which was of another instance.
#[test]
fn calls_that_end_at_their_entry_have_their_own_locals() -> Result<()> {
    let text = |locals: usize| {
        format!(
            r#"(module (import "" "tick" (func $tick)) (global $g (mut i32) (i32.const 0))
            (func $more (param i32) (local i32) (loop (global.set $g (local.get 0)) (br_if 0 (local.tee 1 (i32.eqz (local.get 1))))))
            (func $callee (param i32) (local {}) (local.set 1 (i64.const 9)) (call $more (local.get 0)) (call $more (local.get 0)))
            (func (export "run") (param i32 i32) (if (local.get 1) (then (call $tick))) (call $callee (local.get 0))))"#,
            "i64 ".repeat(locals)
        )
    };
    for locals in [1, 100] {
        for (name, mut config) in configs() {
            let engine = Engine::new(config.epoch_interruption(true))?;
            let module = Module::new(&engine, text(locals))?;
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(1);
            let ticking = engine.clone();
            let tick = Func::wrap(&mut store, move || ticking.increment_epoch());
            let instances = [Instance::new(&mut store, &module, &[tick.into()])?, Instance::new(&mut store, &module, &[tick.into()])?];
            for (number, value) in [(1, 5), (0, 6), (1, 7)] {
                let [run, other] = [number, 1 - number].map(|number| instances[number]);
                for _ in 0..3 {
                    other.get_typed_func::<(i32, i32), ()>(&mut store, "run")?.call(&mut store, (value * 100, 0))?;
                }
                let error = run.get_typed_func::<(i32, i32), ()>(&mut store, "run")?.call(&mut store, (value, 1)).unwrap_err();
                store.set_epoch_deadline(1);
                let found = calls_of_instances(&mut store, &error);
                let (instance, function, held) = &found[0];
                assert_eq!((*instance, *function), (number as u64, 2), "{name}");
                assert_eq!(held[..2], [I32(value), I64(0)], "{name}, {locals} locals");
            }
        }
    }
    Ok(())
}

/// Modules that are compiled by a profile know the types of their locals as others do.
#[test]
fn a_profile_takes_no_locals_away() -> Result<()> {
    let text = r#"(module (func (export "run") (param i32) (local i64) (local.set 1 (i64.const 5)) unreachable))"#;
    let counting = Engine::new(Config::new().gather_profile(true))?;
    let profile = Module::new(&counting, text)?.profile().expect("it is counted");
    for (name, engine) in engines() {
        let module = Module::new_with_profile(&engine, text, &profile)?;
        let mut store = Store::new(&engine, ());
        let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
        let error = run.call(&mut store, 1).unwrap_err();
        assert_eq!(calls(&mut store, &error), [(0, vec![I32(1), I64(5)])], "{name}");
    }
    Ok(())
}

/// Imported globals are those of the instances that define them, however many there are, and none takes longer than another.
#[test]
fn globals_are_looked_at_once() -> Result<()> {
    const GLOBALS: usize = 300_000;
    let engine = Engine::new(Config::new().coredump_on_trap(true))?;
    let own = "(global i32 (i32.const 0))".repeat(GLOBALS);
    let text = format!(r#"(module {own} (global (export "last") i32 (i32.const 5)) (memory (export "memory") 1))"#);
    let user = r#"(module (import "a" "last" (global i32)) (import "a" "memory" (memory 1)) (global i64 (i64.const 1))
        (func (export "run") unreachable))"#;
    let mut store = Store::new(&engine, ());
    let first = Instance::new(&mut store, &Module::new(&engine, text)?, &[])?;
    let imports = [first.get_export(&mut store, "last").unwrap(), first.get_export(&mut store, "memory").unwrap()];
    let run = Instance::new(&mut store, &Module::new(&engine, user)?, &imports)?.get_typed_func::<(), ()>(&mut store, "run")?;
    let error = run.call(&mut store, ()).unwrap_err();
    let dump = error.downcast_ref::<WasmCoreDump>().expect("there is a dump");
    assert_eq!((dump.globals().len(), dump.memories().len(), dump.instances().len()), (GLOBALS + 2, 1, 2));
    let file = dump.serialize(&mut store, "app");
    assert_eq!(Module::new(&Engine::default(), file)?.custom_sections("coreinstances").count(), 1);
    Ok(())
}
