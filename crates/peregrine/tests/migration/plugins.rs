//! A host of plug-ins: state of its own, strings in guest memory, several instances.

use peregrine::*;
use std::collections::HashMap;

struct PluginState {
    log: Vec<String>,
    settings: HashMap<String, String>,
}

const PLUGIN: &str = r#"
(module $upper
    (import "env" "log" (func $log (param i32 i32)))
    (import "env" "setting" (func $setting (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 1024))
    (data (i32.const 16) "prefix")
    (func (export "alloc") (param $len i32) (result i32)
        (global.get $next)
        (global.set $next (i32.add (global.get $next) (local.get $len))))
    ;; Upper case of a string, as (pointer << 32 | length), with the setting `prefix` before it.
    (func (export "process") (param $ptr i32) (param $len i32) (result i64)
        (local $out i32) (local $n i32) (local $i i32) (local $c i32)
        (local.set $out (global.get $next))
        (local.set $n (call $setting (i32.const 16) (i32.const 6) (local.get $out) (i32.const 64)))
        (loop $more
            (if (i32.lt_u (local.get $i) (local.get $len)) (then
                (local.set $c (i32.load8_u (i32.add (local.get $ptr) (local.get $i))))
                (if (i32.and (i32.ge_u (local.get $c) (i32.const 97)) (i32.le_u (local.get $c) (i32.const 122)))
                    (then (local.set $c (i32.sub (local.get $c) (i32.const 32)))))
                (i32.store8 (i32.add (local.get $out) (i32.add (local.get $n) (local.get $i))) (local.get $c))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br $more))))
        (call $log (local.get $out) (i32.add (local.get $n) (local.get $len)))
        (i64.or
            (i64.shl (i64.extend_i32_u (local.get $out)) (i64.const 32))
            (i64.extend_i32_u (i32.add (local.get $n) (local.get $len))))))
"#;

struct Plugin {
    store: Store<PluginState>,
    memory: Memory,
    alloc: TypedFunc<i32, i32>,
    process: TypedFunc<(i32, i32), i64>,
}

fn read_string(caller: &mut Caller<'_, PluginState>, ptr: i32, len: i32) -> Result<String> {
    let memory = match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => memory,
        _ => bail!("failed to find host memory"),
    };
    let data = memory
        .data(&caller)
        .get(ptr as u32 as usize..)
        .and_then(|bytes| bytes.get(..len as u32 as usize))
        .ok_or_else(|| format_err!("pointer/length out of bounds"))?;
    Ok(std::str::from_utf8(data)?.to_string())
}

impl Plugin {
    fn new(linker: &Linker<PluginState>, module: &Module, settings: HashMap<String, String>) -> Result<Self> {
        let mut store = Store::new(module.engine(), PluginState { log: Vec::new(), settings });
        let instance = linker.instantiate(&mut store, module)?;
        let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| Error::msg("failed to find `memory` export"))?;
        let alloc = instance.get_typed_func::<i32, i32>(&mut store, "alloc")?;
        let process = instance.get_typed_func(&mut store, "process")?;
        Ok(Self { store, memory, alloc, process })
    }

    fn process(&mut self, input: &str) -> Result<String> {
        let ptr = self.alloc.call(&mut self.store, input.len() as i32)?;
        self.memory.write(&mut self.store, ptr as usize, input.as_bytes())?;
        let packed = self.process.call(&mut self.store, (ptr, input.len() as i32))?;
        let (start, len) = ((packed >> 32) as usize, packed as u32 as usize);
        let mut output = vec![0; len];
        self.memory.read(&self.store, start, &mut output)?;
        Ok(String::from_utf8(output)?)
    }
}

fn linker(engine: &Engine) -> Result<Linker<PluginState>> {
    let mut linker = Linker::new(engine);
    linker
        .func_wrap("env", "log", |mut caller: Caller<'_, PluginState>, ptr: i32, len: i32| {
            let line = read_string(&mut caller, ptr, len)?;
            caller.data_mut().log.push(line);
            Ok(())
        })?
        .func_wrap(
            "env",
            "setting",
            |mut caller: Caller<'_, PluginState>, key: i32, key_len: i32, out: i32, out_len: i32| -> Result<i32> {
                let key = read_string(&mut caller, key, key_len)?;
                let memory = caller.get_export("memory").and_then(|export| export.into_memory()).unwrap();
                let (data, state) = memory.data_and_store_mut(&mut caller);
                let value = state.settings.get(&key).map(|value| value.as_bytes()).unwrap_or(&[]);
                let len = value.len().min(out_len as usize);
                data[out as usize..][..len].copy_from_slice(&value[..len]);
                Ok(len as i32)
            },
        )?;
    Ok(linker)
}

#[test]
fn plugins_have_settings_and_logs_of_their_own() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, PLUGIN)?;
    let linker = linker(&engine)?;
    let mut plain = Plugin::new(&linker, &module, HashMap::new())?;
    let mut loud = Plugin::new(&linker, &module, HashMap::from([("prefix".to_string(), ">> ".to_string())]))?;
    assert_eq!(plain.process("hello")?, "HELLO");
    assert_eq!(loud.process("hello")?, ">> HELLO");
    assert_eq!(plain.process("again")?, "AGAIN");
    assert_eq!(plain.store.data().log, ["HELLO", "AGAIN"]);
    assert_eq!(loud.store.into_data().log, [">> HELLO"]);
    Ok(())
}

#[test]
fn a_bad_pointer_is_an_error_of_the_host_function() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "env" "log" (func $log (param i32 i32)))
            (memory (export "memory") 1)
            (func (export "run") (call $log (i32.const 65530) (i32.const 100))))"#,
    )?;
    let mut store = Store::new(&engine, PluginState { log: Vec::new(), settings: HashMap::new() });
    let instance = linker(&engine)?.instantiate(&mut store, &module)?;
    let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    let error = run.call(&mut store, ()).unwrap_err();
    assert_eq!(error.root_cause().to_string(), "pointer/length out of bounds");
    assert!(format!("{error:?}").contains("wasm backtrace"));
    Ok(())
}
