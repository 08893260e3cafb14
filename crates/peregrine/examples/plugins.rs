//! A host of plug-ins: each has an instance and state of its own, is found by what it exports, and exchanges strings with the host through
//! its memory.
//!
//! `cargo run --release --example plugins`

use peregrine::{Caller, Context, Engine, Extern, Linker, Memory, Module, Result, Store, TypedFunc, ensure};
use std::collections::BTreeMap;

/// Plug-ins export `memory`, `alloc(len) -> address` and `handle(address, len)`, and answer through `host.reply`.
const SHOUT: &str = r#"(module $shout
    (import "host" "reply" (func $reply (param i32 i32)))
    (memory (export "memory") 1)
    (func (export "alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "handle") (param $at i32) (param $len i32)
        (local $i i32)
        (loop $next
            (if (i32.lt_u (local.get $i) (local.get $len)) (then
                (call $upper (i32.add (local.get $at) (local.get $i)))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br $next))))
        (call $reply (local.get $at) (local.get $len)))
    (func $upper (param $at i32) (local $c i32)
        (local.set $c (i32.load8_u (local.get $at)))
        (if (i32.lt_u (i32.sub (local.get $c) (i32.const 97)) (i32.const 26))
            (then (i32.store8 (local.get $at) (i32.sub (local.get $c) (i32.const 32)))))))"#;

const COUNT: &str = r#"(module $count
    (import "host" "reply" (func $reply (param i32 i32)))
    (memory (export "memory") 1)
    (global $calls (mut i32) (i32.const 0))
    (func (export "alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "handle") (param i32 i32)
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store8 (i32.const 0) (i32.add (i32.const 48) (global.get $calls)))
        (call $reply (i32.const 0) (i32.const 1))))"#;

/// What the host keeps about one plug-in.
#[derive(Default)]
struct State {
    replies: Vec<String>,
}

struct Plugin {
    store: Store<State>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    handle: TypedFunc<(u32, u32), ()>,
}

impl Plugin {
    fn load(linker: &Linker<State>, module: &Module) -> Result<Self> {
        let mut store = Store::new(module.engine(), State::default());
        let instance = linker.instantiate(&mut store, module)?;
        Ok(Self {
            memory: instance.get_memory(&mut store, "memory").context("the plug-in exports no memory")?,
            alloc: instance.get_typed_func(&mut store, "alloc")?,
            handle: instance.get_typed_func(&mut store, "handle")?,
            store,
        })
    }

    fn handle(&mut self, event: &str) -> Result<&str> {
        let len = event.len() as u32;
        let at = self.alloc.call(&mut self.store, len)?;
        // The plug-in said where; whether that is inside of its memory is checked here.
        self.memory.write(&mut self.store, at as usize, event.as_bytes())?;
        self.handle.call(&mut self.store, (at, len))?;
        self.store.data().replies.last().map(String::as_str).context("the plug-in did not reply")
    }
}

/// What plug-ins may call. It is the same for all; which of them calls is told by the store.
fn host(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("host", "reply", |mut caller: Caller<'_, State>, at: u32, len: u32| {
        let memory = caller.get_export("memory").and_then(Extern::into_memory).context("the plug-in exports no memory")?;
        let (bytes, state) = memory.data_and_store_mut(&mut caller);
        let text = bytes.get(at as usize..).and_then(|rest| rest.get(..len as usize)).context("the reply is outside of the memory")?;
        state.replies.push(std::str::from_utf8(text)?.to_owned());
        Ok(())
    })?;
    Ok(linker)
}

/// Runs the example.
pub fn main() -> Result<()> {
    let engine = Engine::default();
    let linker = host(&engine)?;
    let mut plugins = BTreeMap::new();
    for text in [SHOUT, COUNT] {
        let module = Module::new(&engine, text)?;
        let name = module.name().context("the plug-in has no name")?.to_owned();
        ensure!(module.get_export("handle").is_some(), "`{name}` is not a plug-in: it does not export `handle`");
        plugins.insert(name, Plugin::load(&linker, &module)?);
    }
    for event in ["start", "stop"] {
        for (name, plugin) in &mut plugins {
            println!("{event} -> {name}: {}", plugin.handle(event)?);
        }
    }
    assert_eq!(plugins["shout"].store.data().replies, ["START", "STOP"]);
    assert_eq!(plugins["count"].store.data().replies, ["1", "2"]);
    Ok(())
}
