//! Hosts that do what they may and seldom do: change what a guest is reading while it is interrupted, panic wherever the engine calls them,
//! nest stores of different engines, and instantiate in the middle of calls. In every tier.

mod every_way;

use every_way::engines;
use peregrine::{
    Caller, Config, Engine, Error, Extern, ExternRef, Func, Global, GlobalType, Instance, Linker, Memory, Module, Mutability, Ref, Result,
    Store, Trap, UpdateDeadline, Val, ValType, WasmBacktrace,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A callback has the whole store: what it changes is there when the guest goes on.
#[test]
fn a_guest_sees_what_was_changed_while_it_was_interrupted() -> Result<()> {
    const WAITING: &str = r#"(module
        (import "" "i" (global $i (mut i32)))
        (global $g (export "g") (mut i32) (i32.const 0))
        (memory $m (export "m") 1 3)
        (memory $small (export "small") 1 1)
        (table $t (export "t") 1 4 externref)
        (table $f (export "f") 1 4 funcref)
        (elem (table $f) (i32.const 0) func $zero)
        (func $zero (result i32) (i32.const 0))
        (func (export "one") (result i32) (i32.const 1))
        (func $read_global (result i32) (global.get $g))
        (func $read_memory (result i32) (i32.load $m (i32.const 8)))
        (func (export "global") (drop (global.get $g)) (loop $again (br_if $again (i32.eqz (global.get $g)))))
        (func (export "imported") (drop (global.get $i)) (loop $again (br_if $again (i32.eqz (global.get $i)))))
        (func (export "load") (drop (i32.load (i32.const 8))) (loop $again (br_if $again (i32.eqz (i32.load (i32.const 8))))))
        (func (export "load small") (drop (i32.load $small (i32.const 8)))
            (loop $again (br_if $again (i32.eqz (i32.load $small (i32.const 8))))))
        (func (export "size") (drop (memory.size)) (loop $again (br_if $again (i32.eq (memory.size) (i32.const 1)))))
        (func (export "element") (drop (table.get $t (i32.const 0)))
            (loop $again (br_if $again (ref.is_null (table.get $t (i32.const 0))))))
        (func (export "table size") (drop (table.size $t)) (loop $again (br_if $again (i32.eq (table.size $t) (i32.const 1)))))
        (func (export "indirect") (drop (call_indirect $f (result i32) (i32.const 0)))
            (loop $again (br_if $again (i32.eqz (call_indirect $f (result i32) (i32.const 0))))))
        (func (export "inlined") (drop (i32.add (call $read_global) (call $read_memory)))
            (loop $again (br_if $again (i32.eqz (i32.add (call $read_global) (call $read_memory))))))
        (func (export "stored") (local i32)
            (loop $again
                (i32.store (i32.const 8) (i32.const 0))
                (local.set 0 (i32.const 0))
                ;; Nobody looks in a loop of which it is known that it turns three times.
                (loop $inner
                    (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                    (br_if $inner (i32.lt_u (local.get 0) (i32.add (memory.size) (i32.const 2)))))
                (br_if $again (i32.eqz (i32.load (i32.const 8)))))))"#;
    struct Host {
        asked: u32,
        handles: Option<(Instance, Global)>,
    }
    for (name, engine) in engines(|config| _ = config.epoch_interruption(true)) {
        let module = Module::new(&engine, WAITING)?;
        for export in ["global", "imported", "load", "load small", "size", "element", "table size", "indirect", "inlined", "stored"] {
            let mut store = Store::new(&engine, Host { asked: 0, handles: None });
            let imported = Global::new(&mut store, GlobalType::new(ValType::I32, Mutability::Var), Val::I32(0))?;
            let instance = Instance::new(&mut store, &module, &[imported.into()])?;
            store.data_mut().handles = Some((instance, imported));
            store.epoch_deadline_callback(|mut context| {
                let asked = context.data().asked;
                context.data_mut().asked += 1;
                if asked == 40 {
                    return Err(Error::msg("it does not see what was changed"));
                }
                if asked < 5 {
                    return Ok(UpdateDeadline::Continue(0));
                }
                let (instance, imported) = context.data().handles.expect("it is there");
                imported.set(&mut context, Val::I32(1))?;
                instance.get_global(&mut context, "g").expect("exported").set(&mut context, Val::I32(1))?;
                let memory = instance.get_memory(&mut context, "m").expect("exported");
                memory.write(&mut context, 8, &[1])?;
                instance.get_memory(&mut context, "small").expect("exported").write(&mut context, 8, &[1])?;
                let _ = memory.grow(&mut context, 1);
                let table = instance.get_table(&mut context, "t").expect("exported");
                let value = ExternRef::new(&mut context, 5u32)?;
                table.set(&mut context, 0, Ref::Extern(Some(value)))?;
                let _ = table.grow(&mut context, 1, Ref::Extern(None));
                let one = instance.get_func(&mut context, "one").expect("exported");
                let functions = instance.get_table(&mut context, "f").expect("exported");
                functions.set(&mut context, 0, Ref::Func(Some(one)))?;
                Ok(UpdateDeadline::Continue(0))
            });
            for _ in 0..2 {
                let run = instance.get_typed_func::<(), ()>(&mut store, export)?;
                run.call(&mut store, ()).unwrap_or_else(|error| panic!("{name}: {export}: {error:?}"));
                store.data_mut().asked = 0;
            }
        }
    }
    Ok(())
}

/// What a guest has written before it is interrupted is there, though it would write there again.
#[test]
fn what_was_written_before_an_interruption_is_there() -> Result<()> {
    let text = r#"(module
        (global $g (export "g") (mut i64) (i64.const 5)) (memory (export "memory") 1 1) (table $t (export "t") 2 externref)
        (func (export "run") (param i32 externref) (result i32)
            (global.set $g (i64.const 6))
            (i32.store (i32.const 16) (i32.const 7))
            (table.set $t (i32.const 1) (local.get 1))
            (loop $again (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (table.set $t (i32.const 1) (ref.null extern))
            (i32.store (i32.const 16) (i32.const 8))
            (global.set $g (i64.const 9))
            (local.get 0))
        (func (export "plain") (param i32)
            (global.set $g (i64.const 20))
            (loop $again (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (global.set $g (i64.const 21))))"#;
    for (name, engine) in engines(|config| _ = config.epoch_interruption(true)) {
        let module = Module::new(&engine, text)?;
        for turns in [1, 1000, 1_000_000] {
            let mut store = Store::new(&engine, 0_u32);
            // Asked before the call, and then at the head of the loop.
            store.epoch_deadline_callback(|mut context| {
                *context.data_mut() += 1;
                Ok(if *context.data() % 2 == 1 { UpdateDeadline::Continue(0) } else { UpdateDeadline::Interrupt })
            });
            let instance = Instance::new(&mut store, &module, &[])?;
            let [value, none] = [ExternRef::new(&mut store, 1u32).map(Some)?, None];
            let run = instance.get_func(&mut store, "run").expect("exported");
            let mut results = [Val::I32(0)];
            let error = run.call(&mut store, &[Val::I32(turns), Val::ExternRef(value)], &mut results).expect_err("the deadline has come");
            assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt), "{name}");
            let memory = instance.get_memory(&mut store, "memory").expect("exported");
            let global = instance.get_global(&mut store, "g").expect("exported").get(&mut store).i64();
            assert_eq!((global, memory.data(&store)[16]), (Some(6), 7), "{name}");
            let table = instance.get_table(&mut store, "t").expect("exported");
            assert!(matches!(table.get(&mut store, 1), Some(Ref::Extern(Some(_)))), "{name}");
            let plain = instance.get_typed_func::<i32, ()>(&mut store, "plain")?;
            assert_eq!(plain.call(&mut store, turns).expect_err("the deadline has come").downcast_ref(), Some(&Trap::Interrupt), "{name}");
            let global = instance.get_global(&mut store, "g").expect("exported").get(&mut store).i64();
            assert_eq!(global, Some(20), "{name}");
            store.set_epoch_deadline(1);
            run.call(&mut store, &[Val::I32(turns), Val::ExternRef(none)], &mut results)?;
            assert_eq!(instance.get_global(&mut store, "g").expect("exported").get(&mut store).i64(), Some(9), "{name}");
        }
    }
    Ok(())
}

/// What an import's owner does to a memory or a global while a loop is under way that was entered in its middle.
#[test]
fn callees_change_what_loops_use() -> Result<()> {
    const OWNER: &str = r#"(module
        (memory (export "large") 1 200) (memory (export "small") 1 16) (memory (export "tiny") 1)
        (global $g (export "g") (mut i32) (i32.const 0))
        (table $t (export "t") 1 100 funcref)
        (func $zero (result i32) (i32.const 3)) (elem (i32.const 0) func $zero)
        (func (export "change") (param i32)
            (drop (memory.grow 0 (i32.const 1))) (drop (memory.grow 1 (i32.const 1))) (drop (memory.grow 2 (i32.const 1)))
            (drop (table.grow $t (ref.func $zero) (i32.const 1)))
            (i32.store 0 (i32.shl (local.get 0) (i32.const 16)) (i32.const 77))
            (global.set $g (i32.add (global.get $g) (i32.const 2)))))"#;
    const USER: &str = r#"(module
        (import "o" "large" (memory $large 1)) (import "o" "small" (memory $small 1)) (import "o" "tiny" (memory $tiny 1))
        (import "o" "g" (global $g (mut i32))) (import "o" "t" (table $t 1 funcref))
        (import "o" "change" (func $change (param i32)))
        (memory $own (export "own") 1)
        (func $step (param i32) (call $change (local.get 0)) (drop (memory.grow $own (i32.const 1))))
        (func (export "run") (param i32) (result i64) (local $n i32) (local $sum i64)
            (loop $again
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (i32.store $own (i32.const 100) (local.get $n))
                (i32.store $small (i32.const 4) (local.get $n))
                (call $step (local.get $n))
                (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31))
                    (i64.extend_i32_u (i32.add
                        (i32.add (memory.size $own) (i32.load $own (i32.const 100)))
                        (i32.add
                            (i32.add (i32.load $large (i32.shl (local.get $n) (i32.const 16))) (i32.load $own (i32.shl (local.get $n) (i32.const 16))))
                            (i32.add (global.get $g) (i32.add (i32.load $small (i32.const 4))
                                (i32.add (memory.size $small) (i32.add (memory.size $tiny)
                                    (call_indirect $t (result i32) (local.get $n))))))))))) 
                (br_if $again (i32.lt_u (local.get $n) (local.get 0))))
            (local.get $sum))
        (func (export "beyond") (param i32) (result i32) (local $n i32)
            (loop $again
                (call $change (i32.const 0))
                (drop (i32.load $tiny (i32.sub (i32.shl (memory.size $tiny) (i32.const 16)) (i32.const 4))))
                (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (local.get 0))))
            (i32.load $tiny (i32.sub (i32.shl (memory.size $tiny) (i32.const 16)) (i32.const 3)))))"#;
    let mut expected = None;
    for (name, engine) in engines(|_| ()) {
        let (owner, user) = (Module::new(&engine, OWNER)?, Module::new(&engine, USER)?);
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        let owner = linker.instantiate(&mut store, &owner)?;
        linker.instance(&mut store, "o", owner)?;
        let user = linker.instantiate(&mut store, &user)?;
        let run = user.get_typed_func::<i32, i64>(&mut store, "run")?;
        let found = (run.call(&mut store, 40)?, run.call(&mut store, 40)?);
        assert_eq!(*expected.get_or_insert(found), found, "{name}");
        let error = user.get_typed_func::<i32, i32>(&mut store, "beyond")?.call(&mut store, 20).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::MemoryOutOfBounds), "{name}");
    }
    Ok(())
}

/// A host function makes an instance that needs the memory of the running guest to be where accesses are not checked.
#[test]
fn a_memory_moves_while_its_guest_waits_for_the_host() -> Result<()> {
    const GUEST: &str = r#"(module
        (import "" "host" (func $host (param i32)))
        (memory (export "memory") 1)
        (func $inner (param i32) (call $host (local.get 0)))
        (func (export "run") (param i32) (result i32) (local $n i32) (local $sum i32)
            (loop $again
                (i32.store (i32.shl (local.get $n) (i32.const 2)) (local.get $n))
                (call $inner (local.get $n))
                (local.set $sum (i32.add (local.get $sum) (i32.load (i32.shl (local.get $n) (i32.const 2)))))
                (i32.store (i32.const 4000) (local.get $sum))
                (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (local.get 0))))
            (i32.load (i32.const 4000))))"#;
    const USER: &str = r#"(module (import "" "memory" (memory 1))
        (func (export "poke") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
        (func (export "grow") (result i32) (memory.grow (i32.const 1))))"#;
    for (name, engine) in engines(|_| ()) {
        for at in [1, 7] {
            let (guest, user) = (Module::new(&engine, GUEST)?, Module::new(&engine, USER)?);
            let mut store = Store::new(&engine, ());
            let host = Func::wrap(&mut store, move |mut caller: Caller<'_, ()>, n: i32| -> Result<()> {
                let memory = caller.get_export("memory").and_then(Extern::into_memory).expect("exported");
                if n == at {
                    let user = Instance::new(&mut caller, &user, &[memory.into()])?;
                    user.get_typed_func::<(i32, i32), ()>(&mut caller, "poke")?.call(&mut caller, (n * 4, 1000))?;
                    assert_eq!(user.get_typed_func::<(), i32>(&mut caller, "grow")?.call(&mut caller, ())?, 1);
                } else if n > at {
                    memory.grow(&mut caller, 1)?;
                }
                Ok(())
            });
            let instance = Instance::new(&mut store, &guest, &[host.into()])?;
            let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
            assert_eq!(run.call(&mut store, 20)?, 190 - at + 1000, "{name}");
        }
    }
    Ok(())
}

/// Guests of several engines on one stack of the host: each counts its own fuel, has its own limits and its own frames.
#[test]
fn stores_of_several_engines_nest() -> Result<()> {
    const GUEST: &str = r#"(module
        (import "" "host" (func $host (param i32) (result i32)))
        (memory (export "memory") 1)
        (func $named (export "run") (param i32) (result i32) (local i32)
            (loop $again
                (local.set 1 (i32.add (i32.add (local.get 1) (i32.const 1)) (call $host (local.get 0))))
                (br_if $again (i32.lt_u (local.get 1) (i32.const 3))))
            (i32.load (i32.sub (local.get 1) (local.get 1)))
            (i32.add (local.get 1)))
        (func $trap (export "trap") (param i32) (result i32) (i32.load (i32.const -1)))
        (func $deep (export "deep") (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0)))))"#;
    fn nest(engines: &Arc<Vec<Engine>>, level: usize, what: i32) -> Result<(i32, u64)> {
        let engine = &engines[level % engines.len()];
        let module = Module::new(engine, GUEST)?;
        let mut store = Store::new(engine, level);
        store.set_epoch_deadline(1_000_000);
        let _ = store.set_fuel(1_000_000);
        let inside = Arc::clone(engines);
        let host = Func::wrap(&mut store, move |caller: Caller<'_, usize>, what: i32| -> Result<i32> {
            assert_eq!(*caller.data(), level);
            if level + 1 == inside.len() {
                return Ok(what);
            }
            Ok(nest(&inside, level + 1, what)?.0)
        });
        let instance = Instance::new(&mut store, &module, &[host.into()])?;
        let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
        let result = run.call(&mut store, what)?;
        for (export, trap) in [("trap", Trap::MemoryOutOfBounds), ("deep", Trap::StackOverflow)] {
            let error = instance.get_typed_func::<i32, i32>(&mut store, export)?.call(&mut store, 0).unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&trap));
            let frames = error.downcast_ref::<WasmBacktrace>().expect("it has one").frames();
            assert!(frames.iter().all(|frame| frame.func_name() == Some(export)), "frames of other stores");
            let _ = store.set_fuel(500_000);
        }
        let left = store.get_fuel().unwrap_or(0);
        let error = run.call(&mut store, -100).err();
        assert!(error.is_none_or(|error| error.is::<Trap>()));
        Ok((result, left))
    }
    let change = |number: usize| {
        move |config: &mut Config| {
            config.max_wasm_stack(64 << 10).consume_fuel(number.is_multiple_of(2)).epoch_interruption(number.is_multiple_of(3));
        }
    };
    let mut expected = None;
    for rotation in 0..3 {
        let all: Vec<Engine> = (0..4).map(|number| engines(change(number)).swap_remove((number + rotation * 2) % 7).1).collect();
        let found = nest(&Arc::new(all), 0, 2)?;
        assert_eq!(*expected.get_or_insert(found), found);
    }
    Ok(())
}

/// A panic in the destructor of what the host gave a guest reaches who drops the store; everything else goes all the same.
#[test]
fn panics_of_destructors_leave_nothing_behind() -> Result<()> {
    struct Noisy(u32, Arc<AtomicU32>);
    impl Drop for Noisy {
        fn drop(&mut self) {
            self.1.fetch_add(1, SeqCst);
            if self.0 == 30 {
                std::panic::panic_any("in drop");
            }
        }
    }
    for (name, engine) in engines(|_| ()) {
        let module = Module::new(
            &engine,
            r#"(module (import "" "make" (func $make (param i32) (result externref))) (table (export "t") 10 externref) (memory 1)
                (func (export "run") (param i32)
                    (loop $again
                        (table.set (i32.and (local.get 0) (i32.const 7)) (call $make (local.get 0)))
                        (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#,
        )?;
        for what in ["value", "function", "data"] {
            let dropped = Arc::new(AtomicU32::new(0));
            let noisy = |is: bool| Noisy(if is { 30 } else { 1000 }, Arc::clone(&dropped));
            let mut store = Store::new(&engine, noisy(what == "data"));
            let (held, count, of_value) = (noisy(what == "function"), Arc::clone(&dropped), what == "value");
            let make = Func::wrap(&mut store, move |mut caller: Caller<'_, Noisy>, number: u32| -> Result<_> {
                let _ = &held;
                ExternRef::new(&mut caller, Noisy(if of_value { number } else { 1000 }, Arc::clone(&count))).map(Some)
            });
            let instance = Instance::new(&mut store, &module, &[make.into()])?;
            instance.get_typed_func::<u32, ()>(&mut store, "run")?.call(&mut store, 50)?;
            assert_eq!(engine.metrics().instances_live, 1, "{name}");
            let caught = catch_unwind(AssertUnwindSafe(|| drop(store))).expect_err("the destructor panics");
            assert_eq!(caught.downcast_ref(), Some(&"in drop"), "{name}: {what}");
            assert_eq!((dropped.load(SeqCst), Arc::strong_count(&dropped)), (52, 1), "{name}: {what}");
            assert_eq!(engine.metrics().instances_live, 0, "{name}: {what}");
        }
        let mut store = Store::new(&engine, ());
        let make = Func::wrap(&mut store, |mut caller: Caller<'_, ()>, number: u32| ExternRef::new(&mut caller, number).map(Some));
        let instance = Instance::new(&mut store, &module, &[make.into()])?;
        instance.get_typed_func::<u32, ()>(&mut store, "run")?.call(&mut store, 50)?;
    }
    Ok(())
}

/// A start function traps in some threads while others make instances of the same module, and all is dropped while tiers compile it.
#[test]
fn instances_fail_while_others_of_their_module_are_made() -> Result<()> {
    let text = r#"(module
        (import "" "which" (func $which (result i32)))
        (memory (export "memory") 1) (data (i32.const 10) "ten")
        (table 3 funcref) (elem (i32.const 0) func $work $other $which)
        (func $other (result i32) (i32.const 5))
        (func $work (param i32) (result i32) (local i32)
            (loop $again
                (local.set 1 (i32.add (local.get 1) (i32.mul (call_indirect (result i32) (i32.const 1)) (local.get 0))))
                (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (local.get 1))
        (func $start
            (drop (call $work (i32.const 300)))
            (if (i32.eq (call $which) (i32.const 1)) (then unreachable))
            (if (i32.eq (call $which) (i32.const 2)) (then (drop (i32.load (i32.const -4))))))
        (start $start)
        (func (export "run") (param i32) (result i32) (call $work (local.get 0))))"#;
    for (name, engine) in engines(|_| ()) {
        for _ in 0..3 {
            let module = Module::new(&engine, text)?;
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (engine, module, name) = (engine.clone(), module.clone(), &name);
                    scope.spawn(move || {
                        for round in 0..30 {
                            let mut store = Store::new(&engine, ());
                            let which = (round + thread) % 3;
                            let host = Func::wrap(&mut store, move || which);
                            match Instance::new(&mut store, &module, &[host.into()]) {
                                Ok(instance) => {
                                    let run = instance.get_typed_func::<i32, i32>(&mut store, "run").unwrap();
                                    assert_eq!(run.call(&mut store, 100).unwrap(), 5 * 5050, "{name}");
                                    let memory: Memory = instance.get_memory(&mut store, "memory").unwrap();
                                    assert_eq!(&memory.data(&store)[10..13], b"ten", "{name}");
                                }
                                Err(error) => {
                                    let expected = [None, Some(Trap::UnreachableCodeReached), Some(Trap::MemoryOutOfBounds)];
                                    assert_eq!(error.downcast_ref().copied(), expected[which as usize], "{name}");
                                }
                            }
                        }
                    });
                }
                drop(module);
            });
        }
        drop(engine);
    }
    Ok(())
}
