//! Shared memories: several stores on several threads, waiting and waking, growth under running guests, and what is refused.

use peregrine::{
    Config, Engine, Extern, Instance, Linker, Memory, MemoryType, Module, SharedMemory, Store, Trap, TypedFunc, UpdateDeadline, WaitResult,
};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

/// Memories with and without explicit checks of bounds.
fn engines() -> [Engine; 2] {
    let mut checked = Config::new();
    checked.memory_reservation(0).memory_guard_size(0);
    [Engine::default(), Engine::new(&checked).unwrap()]
}

fn instance(engine: &Engine, module: &Module, memory: &SharedMemory) -> (Store<()>, Instance) {
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, module, &[memory.clone().into()]).unwrap();
    (store, instance)
}

fn word(memory: &SharedMemory, address: usize) -> &AtomicU32 {
    // SAFETY: the word is aligned and inside, and the guests of these tests access it by atomic instructions.
    unsafe { AtomicU32::from_ptr(memory.data()[address].get().cast()) }
}

fn trap(error: peregrine::Error) -> Trap {
    *error.downcast_ref().unwrap_or_else(|| panic!("expected a trap, found {error:#}"))
}

/// A lock at 0, as the proposal's overview has it: 0 free, 1 locked, 2 locked and waited for. What it guards is at 8, and no atomic.
const COUNTER: &str = r#"(module
    (import "" "memory" (memory 1 100 shared))
    (func $lock (local $seen i32)
        (local.set $seen (i32.atomic.rmw.cmpxchg (i32.const 0) (i32.const 0) (i32.const 1)))
        (block $locked
            (loop $again
                (br_if $locked (i32.eqz (local.get $seen)))
                (if (i32.or (i32.eq (local.get $seen) (i32.const 2))
                        (i32.ne (i32.atomic.rmw.cmpxchg (i32.const 0) (i32.const 1) (i32.const 2)) (i32.const 0)))
                    (then (drop (memory.atomic.wait32 (i32.const 0) (i32.const 2) (i64.const -1)))))
                (local.set $seen (i32.atomic.rmw.cmpxchg (i32.const 0) (i32.const 0) (i32.const 2)))
                (br $again))))
    (func $unlock
        (if (i32.ne (i32.atomic.rmw.sub (i32.const 0) (i32.const 1)) (i32.const 1))
            (then
                (i32.atomic.store (i32.const 0) (i32.const 0))
                (drop (memory.atomic.notify (i32.const 0) (i32.const 1))))))
    (func (export "count") (param $turns i32)
        (loop
            (call $lock)
            (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1)))
            (call $unlock)
            (br_if 0 (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))))"#;

#[test]
fn a_lock_of_guests_excludes_threads_and_stores() {
    const THREADS: u32 = 4;
    const TURNS: u32 = 3000;
    for engine in engines() {
        let module = Module::new(&engine, COUNTER).unwrap();
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 100)).unwrap();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let (mut store, instance) = instance(&engine, &module, &memory);
                    instance.get_typed_func::<u32, ()>(&mut store, "count").unwrap().call(&mut store, TURNS).unwrap();
                });
            }
        });
        assert_eq!(word(&memory, 8).load(Ordering::SeqCst), THREADS * TURNS);
        assert_eq!(word(&memory, 0).load(Ordering::SeqCst), 0);
    }
}

#[test]
fn two_guests_wake_each_other() {
    // Whose turn it is stands at 64; a side waits while it is the other's.
    const SIDE: &str = r#"(module
        (import "" "memory" (memory 1 1 shared))
        (func (export "play") (param $me i32) (param $turns i32)
            (loop $next
                (block $mine
                    (loop $wait
                        (br_if $mine (i32.eq (i32.atomic.load (i32.const 64)) (local.get $me)))
                        (drop (memory.atomic.wait32 (i32.const 64) (i32.sub (i32.const 1) (local.get $me)) (i64.const -1)))
                        (br $wait)))
                (i32.store (i32.const 128) (i32.add (i32.load (i32.const 128)) (i32.const 1)))
                (i32.atomic.store (i32.const 64) (i32.sub (i32.const 1) (local.get $me)))
                (drop (memory.atomic.notify (i32.const 64) (i32.const 1)))
                (br_if $next (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))))"#;
    let engine = Engine::default();
    let module = Module::new(&engine, SIDE).unwrap();
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1)).unwrap();
    thread::scope(|scope| {
        for me in [0u32, 1] {
            let (engine, module, memory) = (&engine, &module, &memory);
            scope.spawn(move || {
                let (mut store, instance) = instance(engine, module, memory);
                let play = instance.get_typed_func::<(u32, u32), ()>(&mut store, "play").unwrap();
                play.call(&mut store, (me, 2000)).unwrap();
            });
        }
    });
    assert_eq!(word(&memory, 128).load(Ordering::SeqCst), 4000);
}

#[test]
fn memories_grow_under_running_guests() {
    // Reads the last word of what there is until the last page is there; each page holds its number at its end, written by the grower
    // after it grew. At 0 is how many pages are written.
    const READER: &str = r#"(module
        (import "" "memory" (memory 1 200 shared))
        (func (export "read") (result i32) (local $pages i32) (local $seen i32)
            (loop $next
                (local.set $pages (i32.atomic.load (i32.const 0)))
                (if (i32.gt_u (local.get $pages) (memory.size)) (then unreachable))
                (if (local.get $pages)
                    (then
                        (local.set $seen (i32.load (i32.sub (i32.mul (local.get $pages) (i32.const 65536)) (i32.const 4))))
                        (if (i32.ne (local.get $seen) (local.get $pages)) (then unreachable))))
                (br_if $next (i32.lt_u (local.get $pages) (i32.const 200))))
            (memory.size))
        (func (export "grow") (param $to i32)
            (loop $next
                (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (memory.size))
                (i32.atomic.store (i32.const 0) (memory.size))
                (if (i32.lt_u (memory.size) (local.get $to))
                    (then
                        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
                        (br $next))))))"#;
    for engine in engines() {
        let module = Module::new(&engine, READER).unwrap();
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 200)).unwrap();
        thread::scope(|scope| {
            let readers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let (mut store, instance) = instance(&engine, &module, &memory);
                    instance.get_typed_func::<(), u32>(&mut store, "read").unwrap().call(&mut store, ())
                })
            });
            let (mut store, instance) = instance(&engine, &module, &memory);
            let grow = instance.get_typed_func::<u32, ()>(&mut store, "grow").unwrap();
            grow.call(&mut store, 150).unwrap();
            // The host grows it, too.
            assert_eq!(memory.grow(10).unwrap(), 150);
            grow.call(&mut store, 200).unwrap();
            for reader in readers {
                assert_eq!(reader.join().unwrap().unwrap(), 200);
            }
        });
        assert_eq!((memory.size(), memory.data_size(), memory.data().len()), (200, 200 << 16, 200 << 16));
        assert!(memory.grow(1).unwrap_err().to_string().contains("failed to grow memory by `1` pages"));
    }
}

#[test]
fn many_growers_never_get_the_same_pages() {
    const GROWER: &str = r#"(module
        (import "" "memory" (memory 0 1000 shared))
        (func (export "run") (result i32) (local $old i32) (local $got i32)
            (loop $next
                (local.set $old (memory.grow (i32.const 1)))
                (if (i32.ne (local.get $old) (i32.const -1))
                    (then
                        ;; Nobody else was given this page.
                        (if (i32.atomic.rmw.xchg (i32.mul (local.get $old) (i32.const 65536)) (i32.const 1)) (then unreachable))
                        (local.set $got (i32.add (local.get $got) (i32.const 1)))
                        (br $next))))
            (local.get $got)))"#;
    for engine in engines() {
        let module = Module::new(&engine, GROWER).unwrap();
        let memory = SharedMemory::new(&engine, MemoryType::shared(0, 1000)).unwrap();
        let total: u32 = thread::scope(|scope| {
            let growers = [(); 3].map(|()| {
                scope.spawn(|| {
                    let (mut store, instance) = instance(&engine, &module, &memory);
                    instance.get_typed_func::<(), u32>(&mut store, "run").unwrap().call(&mut store, ()).unwrap()
                })
            });
            growers.into_iter().map(|grower| grower.join().unwrap()).sum()
        });
        assert_eq!((total, memory.size()), (1000, 1000));
    }
}

#[test]
fn a_defined_shared_memory_goes_to_other_stores_and_outlives_its_own() {
    const OWNER: &str = r#"(module
        (memory (export "memory") 1 4 shared)
        (data (i32.const 16) "secret")
        (func (export "size") (result i32) (memory.size))
        (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0))))"#;
    const USER: &str = r#"(module
        (import "" "memory" (memory 1 4 shared))
        (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
        (func (export "store") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#;
    for engine in engines() {
        let (owner, user) = (Module::new(&engine, OWNER).unwrap(), Module::new(&engine, USER).unwrap());
        let mut store = Store::new(&engine, ());
        let first = Instance::new(&mut store, &owner, &[]).unwrap();
        assert!(first.get_memory(&mut store, "memory").is_none());
        let memory = first.get_shared_memory(&mut store, "memory").unwrap();
        assert_eq!(memory.ty().to_string(), "(memory 1 4 shared)");

        let (mut other, second) = instance(&engine, &user, &memory);
        let load: TypedFunc<u32, u32> = second.get_typed_func(&mut other, "load").unwrap();
        assert_eq!(load.call(&mut other, 16).unwrap(), u32::from(b's'));
        let error = load.call(&mut other, 65536).unwrap_err();
        assert_eq!(trap(error), Trap::MemoryOutOfBounds);
        assert_eq!(second.get_typed_func::<u32, u32>(&mut other, "grow").unwrap().call(&mut other, 2).unwrap(), 1);
        second.get_typed_func::<(u32, u32), ()>(&mut other, "store").unwrap().call(&mut other, (131072, 7)).unwrap();

        // What defines it sees what another store did to it, in the same cell.
        assert_eq!(first.get_typed_func::<(), u32>(&mut store, "size").unwrap().call(&mut store, ()).unwrap(), 3);
        assert_eq!(first.get_typed_func::<u32, u32>(&mut store, "load").unwrap().call(&mut store, 131072).unwrap(), 7);

        // Used twice in one store it is one memory; and in its own.
        let third = Instance::new(&mut other, &user, &[memory.clone().into()]).unwrap();
        assert_eq!(third.get_typed_func::<u32, u32>(&mut other, "load").unwrap().call(&mut other, 131072).unwrap(), 7);
        let fourth = Instance::new(&mut store, &user, &[memory.clone().into()]).unwrap();
        assert_eq!(fourth.get_typed_func::<u32, u32>(&mut store, "load").unwrap().call(&mut store, 131072).unwrap(), 7);

        drop(store);
        assert_eq!(load.call(&mut other, 17).unwrap(), u32::from(b'e'));
        drop(other);
        let (mut last, instance) = instance(&engine, &user, &memory);
        assert_eq!(instance.get_typed_func::<u32, u32>(&mut last, "load").unwrap().call(&mut last, 131072).unwrap(), 7);
    }
}

#[test]
fn host_and_guest_wake_each_other() {
    const GUEST: &str = r#"(module
        (import "" "memory" (memory 1 1 shared))
        (func (export "wait") (param i32 i64) (result i32) (memory.atomic.wait32 (local.get 0) (i32.const 0) (local.get 1)))
        (func (export "wait64") (param i32 i64 i64) (result i32) (memory.atomic.wait64 (local.get 0) (local.get 1) (local.get 2)))
        (func (export "notify") (param i32 i32) (result i32) (memory.atomic.notify (local.get 0) (local.get 1))))"#;
    let engine = Engine::default();
    let module = Module::new(&engine, GUEST).unwrap();
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1)).unwrap();
    let (mut store, guest) = instance(&engine, &module, &memory);
    let wait = guest.get_typed_func::<(u32, i64), u32>(&mut store, "wait").unwrap();
    let wait64 = guest.get_typed_func::<(u32, i64, i64), u32>(&mut store, "wait64").unwrap();
    let notify = guest.get_typed_func::<(u32, u32), u32>(&mut store, "notify").unwrap();

    thread::scope(|scope| {
        let waker = scope.spawn(|| while memory.atomic_notify(32, 1).unwrap() == 0 {});
        assert_eq!(wait.call(&mut store, (32, -1)).unwrap(), WaitResult::Ok as u32);
        waker.join().unwrap();
        let sleeper = scope.spawn(|| memory.atomic_wait64(40, 0, None));
        while notify.call(&mut store, (40, 5)).unwrap() == 0 {}
        assert_eq!(sleeper.join().unwrap(), Ok(WaitResult::Ok));
    });

    assert_eq!(wait.call(&mut store, (32, 1_000_000)).unwrap(), WaitResult::TimedOut as u32);
    word(&memory, 32).store(1, Ordering::SeqCst);
    assert_eq!(wait.call(&mut store, (32, -1)).unwrap(), WaitResult::Mismatch as u32);
    assert_eq!(wait64.call(&mut store, (32, 2, -1)).unwrap(), WaitResult::Mismatch as u32);
    assert_eq!(wait64.call(&mut store, (32, 1, 0)).unwrap(), WaitResult::TimedOut as u32);
    assert_eq!(memory.atomic_wait32(32, 1, Some(Duration::ZERO)), Ok(WaitResult::TimedOut));

    for (address, expect) in [(2, Trap::HeapMisaligned), (65536, Trap::MemoryOutOfBounds), (u32::MAX - 3, Trap::MemoryOutOfBounds)] {
        assert_eq!(trap(wait.call(&mut store, (address, -1)).unwrap_err()), expect);
        assert_eq!(trap(notify.call(&mut store, (address, 1)).unwrap_err()), expect);
        assert_eq!(memory.atomic_wait32(address.into(), 0, None), Err(expect));
        assert_eq!(memory.atomic_notify(address.into(), 1), Err(expect));
    }
    assert_eq!(trap(wait64.call(&mut store, (4, 0, -1)).unwrap_err()), Trap::HeapMisaligned);
    assert_eq!(memory.atomic_wait64(u64::MAX - 7, 0, None), Err(Trap::MemoryOutOfBounds));
}

#[test]
fn waiting_on_a_memory_of_one_store_traps() {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory 1)
            (func (export "wait") (result i32) (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const 0)))
            (func (export "notify") (result i32) (memory.atomic.notify (i32.const 0) (i32.const 1))))"#,
    )
    .unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let error = instance.get_typed_func::<(), u32>(&mut store, "wait").unwrap().call(&mut store, ()).unwrap_err();
    assert_eq!(trap(error), Trap::AtomicWaitNonSharedMemory);
    assert_eq!(instance.get_typed_func::<(), u32>(&mut store, "notify").unwrap().call(&mut store, ()).unwrap(), 0);
}

#[test]
fn a_guest_that_waits_for_ever_stops_at_its_deadline() {
    let engine = Engine::new(Config::new().epoch_interruption(true)).unwrap();
    let module = Module::new(
        &engine,
        r#"(module (import "" "memory" (memory 1 1 shared))
            (func (export "wait") (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)) drop))"#,
    )
    .unwrap();
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1)).unwrap();
    for _ in 0..50 {
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let instance = Instance::new(&mut store, &module, &[memory.clone().into()]).unwrap();
        let wait = instance.get_typed_func::<(), ()>(&mut store, "wait").unwrap();
        let error = thread::scope(|scope| {
            scope.spawn(|| engine.increment_epoch());
            wait.call(&mut store, ()).unwrap_err()
        });
        assert_eq!(trap(error), Trap::Interrupt);
    }
    assert_eq!(memory.atomic_notify(0, u32::MAX), Ok(0));
}

#[test]
fn a_guest_that_waits_goes_on_waiting_if_its_store_says_so() {
    let engine = Engine::new(Config::new().epoch_interruption(true)).unwrap();
    let module = Module::new(
        &engine,
        r#"(module (import "" "memory" (memory 1 1 shared))
            (func (export "wait") (result i32) (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))"#,
    )
    .unwrap();
    for yields in [false, true] {
        let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1)).unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let counted = Arc::clone(&asked);
        store.epoch_deadline_callback(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(if yields { UpdateDeadline::Yield(1) } else { UpdateDeadline::Continue(1) })
        });
        let instance = Instance::new(&mut store, &module, &[memory.clone().into()]).unwrap();
        let wait = instance.get_typed_func::<(), u32>(&mut store, "wait").unwrap();
        let (result, woken) = thread::scope(|scope| {
            let waker = scope.spawn(|| {
                while asked.load(Ordering::SeqCst) < 3 {
                    engine.increment_epoch();
                    thread::yield_now();
                }
                // It kept its place in the queue, so that this is heard even between two turns of its task.
                while memory.atomic_notify(0, 1).unwrap() == 0 {}
                1
            });
            let mut call = pin!(wait.call_async(&mut store, ()));
            let result = loop {
                if let Poll::Ready(result) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    break result.unwrap();
                }
            };
            (result, waker.join().unwrap())
        });
        assert_eq!((result, woken), (WaitResult::Ok as u32, 1));
        assert!(asked.load(Ordering::SeqCst) >= 3);
    }
}

#[test]
fn what_is_no_shared_memory_is_refused() {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    assert!(SharedMemory::new(&engine, MemoryType::new(1, Some(1))).is_err());
    assert!(Memory::new(&mut store, MemoryType::shared(1, 1)).unwrap_err().to_string().contains("SharedMemory::new"));
    let off = Engine::new(Config::new().wasm_threads(false)).unwrap();
    assert!(SharedMemory::new(&off, MemoryType::shared(1, 1)).unwrap_err().to_string().contains("wasm_threads"));
    assert!(Module::new(&off, "(module (memory 1 1 shared))").is_err());

    let module = Module::new(&engine, r#"(module (import "" "memory" (memory 2 2 shared)))"#).unwrap();
    let small = SharedMemory::new(&engine, MemoryType::shared(1, 2)).unwrap();
    let error = Instance::new(&mut store, &module, &[small.clone().into()]).unwrap_err();
    assert!(format!("{error:#}").contains("limits of memories incompatible"), "{error:#}");
    let own = Memory::new(&mut store, MemoryType::new(2, Some(2))).unwrap();
    let error = Instance::new(&mut store, &module, &[own.into()]).unwrap_err();
    assert!(format!("{error:#}").contains("sharing of memories incompatible"), "{error:#}");

    // A linker looks at the size of the moment.
    let mut linker = Linker::new(&engine);
    linker.define(&store, "", "memory", small.clone()).unwrap();
    assert!(linker.instantiate(&mut store, &module).is_err());
    small.grow(1).unwrap();
    linker.instantiate(&mut store, &module).unwrap();
    let Ok(Extern::SharedMemory(same)) = linker.get(&mut store, "", "memory") else { panic!("a shared memory was defined") };
    assert_eq!(same.size(), 2);
}

#[test]
fn unknown_shared_memories_get_default_values() {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (import "" "memory" (memory 1 1 shared)))"#).unwrap();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut store, &module).unwrap();
    linker.instantiate(&mut store, &module).unwrap();
}
