//! What programs that collect spans are told: when modules are compiled and instantiated, and of what.

use peregrine::*;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Notes spans as `name field=value`, in the order in which they begin, and how many are entered.
#[derive(Clone, Default)]
struct Spans {
    begun: Arc<Mutex<Vec<String>>>,
    next: Arc<AtomicU64>,
    entered: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        *self.0 += &format!(" {}={value:?}", field.name());
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("peregrine")
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut text = attributes.metadata().name().to_owned();
        attributes.record(&mut Fields(&mut text));
        self.begun.lock().expect("nobody panicked").push(text);
        Id::from_u64(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {
        self.entered.fetch_add(1, Ordering::Relaxed);
    }

    fn exit(&self, _: &Id) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn modules_and_instances_are_spans() -> Result<()> {
    let wasm = wat::parse_str(r#"(module $plugin (func (export "run")))"#)?;
    let spans = Spans::default();
    tracing::subscriber::with_default(spans.clone(), || {
        for strategy in [Strategy::Tiered, Strategy::Cranelift] {
            let engine = Engine::new(Config::new().strategy(strategy))?;
            let module = Module::new(&engine, &wasm)?;
            Instance::new(Store::new(&engine, ()), &module, &[])?;
        }
        Ok::<(), Error>(())
    })?;
    let bytes = wasm.len();
    let begun = spans.begun.lock().expect("nobody panicked");
    let expected = [
        format!("compile wasm_bytes={bytes} one_by_one=true"),
        "instantiate module=\"plugin\"".to_owned(),
        format!("compile wasm_bytes={bytes}"),
        "instantiate module=\"plugin\"".to_owned(),
    ];
    assert_eq!(*begun, expected);
    assert_eq!((spans.entered.load(Ordering::Relaxed), spans.left.load(Ordering::Relaxed)), (4, 4));
    Ok(())
}
