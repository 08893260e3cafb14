//! A collector of what the engine tells, for tests that look at it or interfere.

#![allow(dead_code, reason = "each test listens to a part of it")]

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// What is told.
pub enum Told {
    /// A span begins: its name and fields, as `name field=value`.
    Span(String),
    /// A span is entered.
    Entered,
    /// It is left.
    Left,
    /// An event, by its message.
    Event(String),
}

/// Hands what the engine tells to a function.
pub struct Listener<F> {
    wants: fn(&Metadata<'_>) -> bool,
    listen: F,
    spans: AtomicU64,
}

impl<F: Fn(Told) + Send + Sync + 'static> Listener<F> {
    /// Calls `listen`, on the thread that tells something, for what `wants` to be told.
    pub fn new(wants: fn(&Metadata<'_>) -> bool, listen: F) -> Self {
        Self { wants, listen, spans: AtomicU64::new(0) }
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields += &format!(" {name}={value:?}"),
        }
    }
}

impl<F: Fn(Told) + Send + Sync + 'static> Subscriber for Listener<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("peregrine") && (self.wants)(metadata)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut text = Text::default();
        attributes.record(&mut text);
        (self.listen)(Told::Span(attributes.metadata().name().to_owned() + &text.fields));
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        (self.listen)(Told::Event(text.message));
    }

    fn enter(&self, _: &Id) {
        (self.listen)(Told::Entered);
    }

    fn exit(&self, _: &Id) {
        (self.listen)(Told::Left);
    }
}
