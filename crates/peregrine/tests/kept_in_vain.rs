//! What is said where the code of a module cannot be kept. One test: who listens to what the process says is known by all of its threads.

mod listening;

use listening::{Listener, Told};
use peregrine::*;
use std::fs;
use std::sync::{Arc, Mutex};
use tracing::Level;

/// Whoever drops a module whose code cannot be kept waits for one attempt.
#[test]
fn what_cannot_be_kept_is_tried_once_when_a_module_is_dropped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("cache");
    let module = || {
        let engine = Engine::new(Config::new().strategy(Strategy::Baseline).cache(Some(Cache::new(&path)?)))?;
        let module = Module::new(&engine, r#"(module (func (export "run")) (func (export "other")))"#)?;
        let mut store = Store::new(&engine, ());
        let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
        run.call(&mut store, ())?;
        Ok::<_, Error>(module)
    };
    drop(module()?);
    let entry =
        fs::read_dir(&path)?.filter_map(|file| Some(file.ok()?.path())).find(|path| path.extension().is_some_and(|end| end == "pgn"));
    let entry = entry.expect("it was kept");
    // No file is renamed over a folder.
    fs::remove_file(&entry)?;
    fs::create_dir_all(entry.join("in the way"))?;
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&warnings);
    let listener = Listener::new(
        |metadata| metadata.is_event() && *metadata.level() == Level::WARN,
        move |told| {
            let Told::Event(message) = told else { unreachable!("spans are not wanted") };
            noted.lock().expect("nobody panicked").push(message);
        },
    );
    let module = module()?;
    tracing::subscriber::with_default(listener, || drop(module));
    let warnings = warnings.lock().expect("nobody panicked");
    assert!(warnings.len() == 1 && warnings[0].contains("cannot be kept"), "{warnings:?}");
    Ok(())
}
