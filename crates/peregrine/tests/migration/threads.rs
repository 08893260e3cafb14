//! Guests on several threads, with a memory that they share.

use peregrine::{Config, Engine, Extern, Linker, MemoryType, Module, Result, SharedMemory, Store};
use std::thread;

#[test]
fn a_shared_memory_is_defined_in_every_store() -> Result<()> {
    let mut config = Config::new();
    config.wasm_threads(true).shared_memory(true);
    let engine = Engine::new(&config)?;
    let module = Module::new(
        &engine,
        r#"(module (import "env" "memory" (memory 1 2 shared)) (export "memory" (memory 0))
            (func (export "add") (param i32) (loop (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))
                (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#,
    )?;
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 2))?;
    let threads: Vec<_> = (0..3)
        .map(|_| (engine.clone(), module.clone(), memory.clone()))
        .map(|(engine, module, memory)| {
            thread::spawn(move || -> Result<()> {
                let mut store = Store::new(&engine, ());
                let mut linker = Linker::new(&engine);
                linker.define(&store, "env", "memory", Extern::SharedMemory(memory))?;
                let instance = linker.instantiate(&mut store, &module)?;
                assert!(instance.get_shared_memory(&mut store, "memory").is_some());
                instance.get_typed_func::<i32, ()>(&mut store, "add")?.call(&mut store, 1000)
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap()?;
    }
    let bytes: Vec<u8> = memory.data()[..4].iter().map(|cell| unsafe { *cell.get() }).collect();
    assert_eq!(u32::from_le_bytes(bytes.try_into().unwrap()), 3000);
    assert_eq!((memory.size(), memory.grow(1)?, memory.data_size()), (1, 1, 2 << 16));
    assert_eq!(memory.atomic_notify(0, 1)?, 0);
    Ok(())
}
