//! What being able to stop a guest costs while it runs: a kernel of `benches/kernels`, which times itself, in three configurations. All is
//! compiled by the optimizing compiler beforehand, so that no run is one of warming up.

use crate::runtime::{Caller, Config, Engine, Error, Linker, Module, Result, Store, Strategy};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;

/// How often each configuration runs. Many short runs: the best is one in which nothing else disturbed.
const TURNS: usize = 24;

/// The state of a kernel: its arguments and what it wrote.
#[derive(Default)]
struct Kernel {
    arguments: Vec<u8>,
    output: String,
}

/// Prints nanoseconds per iteration of a kernel with nothing on, with epochs and with fuel, the best of [`TURNS`] each.
pub fn run(path: &Path, iterations: u32) -> Result<()> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let wasm = std::fs::read(path)?;
    let mut engines = Vec::new();
    for (kind, epochs, fuel) in [("plain", false, false), ("epochs", true, false), ("fuel", false, true)] {
        let engine = Engine::new(Config::new().strategy(Strategy::Cranelift).epoch_interruption(epochs).consume_fuel(fuel))?;
        let module = Module::new(&engine, &wasm)?;
        engines.push((kind, engine, module, f64::MAX, String::new()));
    }
    // In turns, so that a slow moment of the machine does not fall on one of them alone.
    for _ in 0..TURNS {
        for (_, engine, module, best, checksum) in &mut engines {
            let output = once(engine, module, iterations)?;
            let field = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
            *best = best.min(field("ns_per_iteration").parse().map_err(|_| Error::msg(format!("a kernel printed `{output}`")))?);
            *checksum = field("checksum");
        }
    }
    if engines.iter().any(|(.., checksum)| *checksum != engines[0].4) {
        return Err(Error::msg(format!("{name}: the configurations disagree on the result")));
    }
    let plain_ns = engines[0].3;
    for (kind, .., best_ns, _) in &engines[1..] {
        println!("ratio {kind}:{name} {:.4}", best_ns / plain_ns);
    }
    Ok(())
}

fn once(engine: &Engine, module: &Module, iterations: u32) -> Result<String> {
    let mut linker = Linker::new(engine);
    define_wasi(&mut linker)?;
    let arguments = format!("kernel\0{iterations}\0").into_bytes();
    let mut store = Store::new(engine, Kernel { arguments, output: String::new() });
    store.set_epoch_deadline(1 << 40);
    // An error where fuel is not counted.
    let _ = store.set_fuel(u64::MAX / 4);
    let instance = linker.instantiate(&mut store, module)?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    match start.call(&mut store, ()) {
        // `proc_exit` ends the kernel.
        Err(_) if !store.data().output.is_empty() => {}
        other => other?,
    }
    Ok(std::mem::take(&mut store.data_mut().output))
}

/// As much of WASI as kernels call.
fn define_wasi(linker: &mut Linker<Kernel>) -> Result<()> {
    const WASI: &str = "wasi_snapshot_preview1";
    linker.func_wrap(WASI, "args_sizes_get", |mut caller: Caller<'_, Kernel>, count: u32, size: u32| -> Result<u32> {
        let size_bytes = caller.data().arguments.len() as u32;
        write(&mut caller, count, &2u32.to_le_bytes())?;
        write(&mut caller, size, &size_bytes.to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(WASI, "args_get", |mut caller: Caller<'_, Kernel>, places: u32, text: u32| -> Result<u32> {
        let arguments = caller.data().arguments.clone();
        let second = arguments.iter().position(|byte| *byte == 0).unwrap_or(0) as u32 + 1;
        write(&mut caller, text, &arguments)?;
        write(&mut caller, places, &text.to_le_bytes())?;
        write(&mut caller, places + 4, &(text + second).to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(WASI, "clock_time_get", |mut caller: Caller<'_, Kernel>, _: u32, _: u64, place: u32| -> Result<u32> {
        // Of the processor: what others do on the machine meanwhile costs kernels nothing.
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        write(&mut caller, place, &now_ns.to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(WASI, "fd_write", |mut caller: Caller<'_, Kernel>, _: u32, list: u32, count: u32, written: u32| -> Result<u32> {
        let mut all = 0;
        for at in 0..count {
            let (start, len) = (word(&mut caller, list + 8 * at)?, word(&mut caller, list + 8 * at + 4)?);
            let memory = memory(&mut caller)?;
            let bytes = memory.data(&caller).get(start as usize..(start + len) as usize).unwrap_or_default().to_vec();
            caller.data_mut().output.push_str(&String::from_utf8_lossy(&bytes));
            all += len;
        }
        write(&mut caller, written, &all.to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(WASI, "proc_exit", |_: Caller<'_, Kernel>, _: u32| -> Result<()> { Err(Error::msg("the kernel is done")) })?;
    Ok(())
}

fn memory(caller: &mut Caller<'_, Kernel>) -> Result<crate::runtime::Memory> {
    let export = caller.get_export("memory").and_then(|export| export.into_memory());
    export.ok_or_else(|| Error::msg("a kernel exports its memory"))
}

fn write(caller: &mut Caller<'_, Kernel>, place: u32, bytes: &[u8]) -> Result<()> {
    Ok(memory(caller)?.write(caller, place as usize, bytes)?)
}

fn word(caller: &mut Caller<'_, Kernel>, place: u32) -> Result<u32> {
    let mut bytes = [0; 4];
    memory(caller)?.read(caller, place as usize, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
