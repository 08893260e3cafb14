//! The one error type of the tasks: a message for the person who started the task.

use std::fmt;

/// What went wrong, in words. One word wide.
#[derive(Debug)]
pub struct Failure(Box<Message>);

#[derive(Debug)]
struct Message {
    text: String,
}

/// The result of anything a task does.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with this message: lower case, no full stop, naming the thing and the fix.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Message { text: message.into() }))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Failure {}

/// Adds what was being done to an error of the standard library.
pub trait Context<T> {
    /// The error becomes "`what`: error".
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{what}: {error}")))
    }
}
