//! Calls that move more than the system does in a moment: they are short, or stop when the guest is to.

use peregrine::{Config, Engine, Instance, Linker, Module, Result, Store, Trap};
use peregrine_wasi::host::random::RandomSource;
use peregrine_wasi::p1::{WasiP1Ctx, add_to_linker_sync};
use peregrine_wasi::{DirPerms, FilePerms, MemoryInputPipe, MemoryOutputPipe, WasiCtxBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const MEMORY_LEN_BYTES: usize = 64 << 20;
/// What one call reads or writes at most.
const MOST_BYTES: i32 = 8 << 20;
/// Where buffers begin.
const START: i32 = 4096;

/// A guest with one function that passes calls on: its buffers are described at 0, and the count is written to 16.
const GUEST: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pread" (func $pread (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (memory (export "memory") 1024)
    (data (i32.const 32) "file")
    (func $count (param $errno i32) (result i32)
        (if (result i32) (local.get $errno) (then (i32.sub (i32.const 0) (local.get $errno))) (else (i32.load (i32.const 16)))))
    (func $buffer (param $len i32) (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (local.get $len)))
    (func (export "open") (result i32)
        (call $count (call $open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 4) (i32.const 1) (i64.const 0x66) (i64.const 0x66)
            (i32.const 0) (i32.const 16))))
    (func (export "read") (param $fd i32) (param $len i32) (result i32)
        (call $buffer (local.get $len)) (call $count (call $read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16))))
    (func (export "write") (param $fd i32) (param $len i32) (result i32)
        (call $buffer (local.get $len)) (call $count (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16))))
    (func (export "read_at") (param $fd i32) (param $len i32) (result i32)
        (call $buffer (local.get $len)) (call $count (call $pread (local.get $fd) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 16))))
    (func (export "write_at") (param $fd i32) (param $len i32) (result i32)
        (call $buffer (local.get $len)) (call $count (call $pwrite (local.get $fd) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 16))))
    (func (export "random") (param $start i32) (param $len i32) (result i32) (call $random (local.get $start) (local.get $len))))"#;

fn start(engine: &Engine, ctx: WasiP1Ctx) -> Result<(Store<WasiP1Ctx>, Instance)> {
    let mut linker = Linker::new(engine);
    add_to_linker_sync(&mut linker, |ctx: &mut WasiP1Ctx| ctx)?;
    let mut store = Store::new(engine, ctx);
    let instance = linker.instantiate(&mut store, &Module::new(engine, GUEST)?)?;
    Ok((store, instance))
}

/// Calls an export with two operands.
fn call(store: &mut Store<WasiP1Ctx>, instance: Instance, name: &str, operands: (i32, i32)) -> Result<i32> {
    instance.get_typed_func::<(i32, i32), i32>(&mut *store, name)?.call(&mut *store, operands)
}

#[test]
fn reads_and_writes_are_short() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = MemoryOutputPipe::new(MEMORY_LEN_BYTES);
    let mut builder = WasiCtxBuilder::new();
    builder.stdin(MemoryInputPipe::new(vec![7; 20 << 20])).stdout(output.clone());
    builder.preopened_dir(folder.path(), "/", DirPerms::all(), FilePerms::all())?;
    let (mut store, instance) = start(&Engine::default(), builder.build_p1())?;
    let file = instance.get_typed_func::<(), i32>(&mut store, "open")?.call(&mut store, ())?;
    let mut counts =
        |name: &str, fd: i32, len: i32| -> Result<Vec<i32>> { (0..3).map(|_| call(&mut store, instance, name, (fd, len))).collect() };
    let len = 20 << 20;
    assert_eq!(counts("read", 0, len)?, [MOST_BYTES, MOST_BYTES, len - 2 * MOST_BYTES]);
    assert_eq!(counts("write", 1, len)?, [MOST_BYTES; 3]);
    assert_eq!(output.contents().len(), 3 * MOST_BYTES as usize);
    assert_eq!(counts("write", file, len)?, [MOST_BYTES; 3]);
    assert_eq!(counts("write_at", file, len)?, [MOST_BYTES; 3]);
    assert_eq!(counts("read_at", file, len)?, [MOST_BYTES; 3]);
    assert_eq!(std::fs::metadata(folder.path().join("file"))?.len(), 3 * MOST_BYTES as u64);
    // As long as it is, it is not cut.
    assert_eq!(counts("write", 1, MOST_BYTES)?, [MOST_BYTES; 3]);
    Ok(())
}

/// Begins the next epoch when it has filled so many buffers.
struct Slow {
    engine: Engine,
    filled: Arc<AtomicUsize>,
    until: usize,
}

impl RandomSource for Slow {
    fn fill(&mut self, buffer: &mut [u8]) {
        buffer.fill(7);
        if self.filled.fetch_add(1, SeqCst) + 1 == self.until {
            self.engine.increment_epoch();
        }
    }
}

#[test]
fn random_bytes_are_made_until_the_guest_is_to_stop() -> Result<()> {
    const LEN: i32 = 32 << 20;
    let engine = Engine::new(Config::new().epoch_interruption(true))?;
    let filled = Arc::new(AtomicUsize::new(0));
    let source = Slow { engine: engine.clone(), filled: Arc::clone(&filled), until: 3 };
    let (mut store, instance) = start(&engine, WasiCtxBuilder::new().secure_random(source).build_p1())?;
    let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
    store.set_epoch_deadline(1);
    let error = call(&mut store, instance, "random", (START, LEN)).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
    assert_eq!(filled.load(SeqCst), 3);
    assert_eq!(memory.data(&store).iter().rposition(|byte| *byte == 7), Some(START as usize + (3 << 20) - 1));

    // Otherwise all of it is filled, and nothing else.
    store.set_epoch_deadline(10);
    assert_eq!(call(&mut store, instance, "random", (START, LEN + 5))?, 0);
    let bytes = &memory.data(&store)[START as usize..];
    assert!(bytes[..LEN as usize + 5].iter().all(|byte| *byte == 7) && bytes[LEN as usize + 5] == 0);

    // What is out of bounds somewhere is filled nowhere.
    let before = filled.load(SeqCst);
    let fault = peregrine_wasi::p1::Errno::Fault as i32;
    assert_eq!(call(&mut store, instance, "random", (START, MEMORY_LEN_BYTES as i32))?, fault);
    assert_eq!((call(&mut store, instance, "random", (START, 0))?, filled.load(SeqCst) - before), (0, 1));

    // A store that goes on at the epoch is asked once the call is over.
    filled.store(0, SeqCst);
    store.epoch_deadline_callback(|_| Ok(peregrine::UpdateDeadline::Continue(100)));
    store.set_epoch_deadline(1);
    assert_eq!(call(&mut store, instance, "random", (START, LEN))?, 0);
    assert_eq!(filled.load(SeqCst), 32);
    Ok(())
}
