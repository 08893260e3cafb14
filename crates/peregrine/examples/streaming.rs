//! A big input through a small window: the host writes chunks into the guest's linear memory, and the guest keeps a running result. Memory
//! stays the size of the window, whatever the size of the input.
//!
//! `cargo run --release --example streaming`

use peregrine::{Context, Engine, Instance, Module, Result, Store, ensure};
use std::io::Read;

/// Counts the bytes and lines of what it is given, and an Adler-32 checksum of it.
const GUEST: &str = r#"(module
    (memory (export "memory") 2)
    (global $lines (mut i64) (i64.const 0))
    (global $a (mut i32) (i32.const 1))
    (global $b (mut i32) (i32.const 0))
    ;; Where to write chunks, and how large they may be.
    (func (export "window") (result i32 i32) (i32.const 65536) (i32.const 65536))
    (func (export "chunk") (param $len i32)
        (local $at i32) (local $end i32) (local $byte i32)
        (local.set $at (i32.const 65536))
        (local.set $end (i32.add (local.get $at) (local.get $len)))
        (loop $next
            (if (i32.lt_u (local.get $at) (local.get $end)) (then
                (local.set $byte (i32.load8_u (local.get $at)))
                (global.set $lines (i64.add (global.get $lines) (i64.extend_i32_u (i32.eq (local.get $byte) (i32.const 10)))))
                (global.set $a (i32.rem_u (i32.add (global.get $a) (local.get $byte)) (i32.const 65521)))
                (global.set $b (i32.rem_u (i32.add (global.get $b) (global.get $a)) (i32.const 65521)))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next)))))
    (func (export "finish") (result i64 i32)
        (global.get $lines)
        (i32.or (i32.shl (global.get $b) (i32.const 16)) (global.get $a))))"#;

/// Gives everything that can be read from `input` to the guest. Returns lines and checksum.
fn digest(module: &Module, mut input: impl Read) -> Result<(u64, u32, u64)> {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[])?;
    let memory = instance.get_memory(&mut store, "memory").context("the guest exports no memory")?;
    let (start, len) = instance.get_typed_func::<(), (u32, u32)>(&mut store, "window")?.call(&mut store, ())?;
    let chunk = instance.get_typed_func::<u32, ()>(&mut store, "chunk")?;
    let mut bytes = 0;
    loop {
        // Read straight into the guest: no copy in between. The slice is taken anew each time, since the memory may have grown.
        let window = memory.data_mut(&mut store).get_mut(start as usize..).and_then(|rest| rest.get_mut(..len as usize));
        let read = input.read(window.context("the window is outside of the memory")?)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        chunk.call(&mut store, read as u32)?;
    }
    ensure!(memory.size(&store) == 2, "the guest grew");
    let (lines, checksum) = instance.get_typed_func::<(), (u64, u32)>(&mut store, "finish")?.call(&mut store, ())?;
    Ok((lines, checksum, bytes))
}

/// Runs the example.
pub fn main() -> Result<()> {
    let module = Module::new(&Engine::default(), GUEST)?;
    // 10 MB that are made as they are read.
    let input = std::io::repeat(b'x').take(99).chain(&b"\n"[..]);
    let (lines, checksum, bytes) = digest(&module, input)?;
    assert_eq!((lines, bytes), (1, 100));
    println!("{bytes} bytes, {lines} line, checksum {checksum:#010x}");
    let line = b"the same line over and over again\n";
    let big = line.repeat(300_000);
    let (lines, checksum, bytes) = digest(&module, &big[..])?;
    println!("{bytes} bytes, {lines} lines, checksum {checksum:#010x}");
    let (a, b) = big.iter().fold((1u32, 0), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    assert_eq!((lines, bytes, checksum), (300_000, big.len() as u64, b << 16 | a));
    Ok(())
}
