//! What the machine asks the embedder's part of a store. The store of the API implements it; growing memories and tables, running out of fuel and
//! interruptions call it.

use super::growth::{Asking, Growth};
use super::preempt::Interruption;

/// The part of a store that knows the embedder's data and limits. Called back by the machine.
pub(crate) trait StoreHost {
    /// Whether a memory may grow from `current` to `desired` bytes; its type allows `max`.
    fn memory_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> anyhow::Result<bool>;
    /// Whether a table may grow from `current` to `desired` elements; its type allows `max`.
    fn table_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> anyhow::Result<bool>;
    /// Told that a memory did not grow although it was allowed to. An error ends the guest's call.
    fn memory_grow_failed(&mut self, error: anyhow::Error) -> anyhow::Result<()>;
    /// Told that a table did not grow although it was allowed to. An error ends the guest's call.
    fn table_grow_failed(&mut self, error: anyhow::Error) -> anyhow::Result<()>;
    /// Why the budget refused what was asked last, if it did.
    fn budget_refusal(&self) -> Option<String>;
    /// Begins to ask whether a growth is allowed, if the limiter may wait. `None` if it does not, or there is none, or the budget refuses it anyway.
    fn ask_growth(&mut self, growth: Growth) -> Option<Asking<'_>>;
    /// Keeps the answer to [`ask_growth`](Self::ask_growth) for the question to come.
    fn growth_answered(&mut self, growth: Growth, answer: anyhow::Result<bool>);
    /// Told of an answer to [`ask_growth`](Self::ask_growth) after which the question was another one. An error ends the guest's call.
    fn growth_outdated(&mut self, growth: Growth, answer: anyhow::Result<bool>) -> anyhow::Result<()>;
    /// Forgets an answer to a question that did not come.
    fn forget_answers(&mut self);
    /// The fuel is used up: refill it, or refuse with an error. Says whether to let other tasks run first.
    fn out_of_fuel(&mut self) -> anyhow::Result<bool>;
    /// The guest was interrupted: says what to do.
    fn interrupted(&mut self) -> anyhow::Result<Interruption>;
    /// Sets the next deadline, `ticks` epochs from now.
    fn extend_deadline(&mut self, ticks: u64);
}
