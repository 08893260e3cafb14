//! What is said where the code of a module cannot be kept. One test: who listens to what the process says is known by all of its threads.

use peregrine::*;
use std::fmt::Debug;
use std::fs;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        *self.0 += &format!(" {}={value:?}", field.name());
    }
}

/// Notes warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::WARN && metadata.target().starts_with("peregrine")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = String::new();
        event.record(&mut Fields(&mut text));
        self.0.lock().expect("nobody panicked").push(text);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

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
    let warnings = Warnings::default();
    let module = module()?;
    tracing::subscriber::with_default(warnings.clone(), || drop(module));
    let warnings = warnings.0.lock().expect("nobody panicked");
    assert!(warnings.len() == 1 && warnings[0].contains("cannot be kept"), "{warnings:?}");
    Ok(())
}
