//! One engine that runs code of both tiers: modules are compiled to images by the one or the other and loaded.
#![allow(dead_code, reason = "each program that has this module uses a part of it")]

use peregrine::{Caller, Engine, Error, Extern, Linker, Module, Result, Store};
use peregrine_artifact::compiler::Compiler;
use peregrine_artifact::settings::Settings;
use peregrine_baseline::{Baseline, PlainBaseline};
use peregrine_compile::ImageCompiler;
use peregrine_compile::tier::Tier;
use peregrine_optimizing::Optimizing;
use std::sync::Arc;
use std::time::Instant;

/// Which tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Baseline,
    /// The baseline, as it compiles what would become too much code.
    Plain,
    Optimizing,
}

/// Loads the binary or text `wasm` as code of a tier.
pub fn load(engine: &Engine, which: Which, wasm: &[u8]) -> Result<Module> {
    load_with(engine, which, wasm, |_| ())
}

/// The same with other settings.
pub fn load_with(engine: &Engine, which: Which, wasm: &[u8], change: impl FnOnce(&mut Settings)) -> Result<Module> {
    let tier: Arc<dyn Tier> = match which {
        Which::Baseline => Arc::new(Baseline::new()),
        Which::Plain => Arc::new(PlainBaseline),
        Which::Optimizing => Arc::new(Optimizing),
    };
    let compiler = ImageCompiler::new(tier);
    let wasm = compiler.to_binary(wasm)?;
    let mut settings = Settings::new(compiler.target(None)?);
    // What engines mark their images with.
    settings.module_version = env!("CARGO_PKG_VERSION").to_owned();
    change(&mut settings);
    let image = compiler.compile(&wasm, &settings, &())?;
    // SAFETY: the image was just made by a compiler of this program.
    unsafe { Module::deserialize(engine, image) }
}

struct Exit(i32);

/// What a program of WASI preview 1 wrote, and how long it ran in seconds. It gets one argument.
pub fn run_program(engine: &Engine, module: &Module, argument: &str) -> Result<(String, f64)> {
    let mut store = Store::new(engine, (Vec::new(), None::<Exit>));
    store.set_epoch_deadline(1 << 40);
    type Host = (Vec<u8>, Option<Exit>);
    let mut linker: Linker<Host> = Linker::new(engine);
    let started = Instant::now();
    let wasi = "wasi_snapshot_preview1";
    let arguments: Vec<u8> = ["kernel", argument].iter().flat_map(|part| part.bytes().chain([0])).collect();
    let len = arguments.len() as u32;
    fn memory(caller: &mut Caller<'_, Host>) -> Result<peregrine::Memory> {
        match caller.get_export("memory") {
            Some(Extern::Memory(memory)) => Ok(memory),
            _ => Err(Error::msg("no memory")),
        }
    }
    linker.func_wrap(wasi, "args_sizes_get", move |mut caller: Caller<'_, Host>, count: u32, bytes: u32| -> Result<u32> {
        let memory = memory(&mut caller)?;
        memory.write(&mut caller, count as usize, &2u32.to_le_bytes())?;
        memory.write(&mut caller, bytes as usize, &len.to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(wasi, "args_get", move |mut caller: Caller<'_, Host>, pointers: u32, text: u32| -> Result<u32> {
        let memory = memory(&mut caller)?;
        memory.write(&mut caller, text as usize, &arguments)?;
        memory.write(&mut caller, pointers as usize, &text.to_le_bytes())?;
        memory.write(&mut caller, pointers as usize + 4, &(text + 7).to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(wasi, "clock_time_get", move |mut caller: Caller<'_, Host>, _: u32, _: u64, result: u32| -> Result<u32> {
        let memory = memory(&mut caller)?;
        let now = started.elapsed().as_nanos() as u64;
        memory.write(&mut caller, result as usize, &now.to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(wasi, "fd_write", |mut caller: Caller<'_, Host>, _: u32, vectors: u32, count: u32, written: u32| -> Result<u32> {
        let memory = memory(&mut caller)?;
        let mut total = 0;
        for number in 0..count {
            let mut vector = [0; 8];
            memory.read(&caller, (vectors + number * 8) as usize, &mut vector)?;
            let start = u32::from_le_bytes([vector[0], vector[1], vector[2], vector[3]]) as usize;
            let len = u32::from_le_bytes([vector[4], vector[5], vector[6], vector[7]]) as usize;
            let mut bytes = vec![0; len];
            memory.read(&caller, start, &mut bytes)?;
            caller.data_mut().0.extend_from_slice(&bytes);
            total += len as u32;
        }
        memory.write(&mut caller, written as usize, &total.to_le_bytes())?;
        Ok(0)
    })?;
    linker.func_wrap(wasi, "proc_exit", |mut caller: Caller<'_, Host>, code: i32| -> Result<()> {
        caller.data_mut().1 = Some(Exit(code));
        Err(Error::msg("the program ends"))
    })?;
    let instance = linker.instantiate(&mut store, module)?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    let result = start.call(&mut store, ());
    let seconds = started.elapsed().as_secs_f64();
    let (output, exit) = store.into_data();
    match (result, exit) {
        (Ok(()), _) | (Err(_), Some(Exit(0))) => Ok((String::from_utf8_lossy(&output).into_owned(), seconds)),
        (Err(error), _) => Err(error),
    }
}
