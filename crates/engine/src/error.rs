//! Errors: one word wide, with context, a chain of causes and downcasting.
//!
//! [`Error`] is the type of the `anyhow` crate, re-exported so that a caller needs no dependency of its own. What went wrong is found by
//! downcasting: an error of a call that trapped is a [`Trap`](crate::Trap) with a [`WasmBacktrace`](crate::WasmBacktrace) around it, and
//! both are found wherever in the chain they are.

/// An error with its causes.
///
/// ```
/// use peregrine::{Error, Trap};
///
/// let error = Error::from(Trap::OutOfFuel).context("the plug-in ran too long");
/// assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
/// assert_eq!(error.to_string(), "the plug-in ran too long");
/// ```
pub use anyhow::Error;

/// Adds context to the errors of a [`Result`], or makes one of a missing value.
///
/// ```
/// use peregrine::{Context, Result};
///
/// fn port(text: &str) -> Result<u16> {
///     text.parse::<u16>().with_context(|| format!("{text:?} is not a port"))
/// }
/// assert_eq!(port("x").unwrap_err().to_string(), "\"x\" is not a port");
/// ```
pub use anyhow::Context;

/// Makes an [`Error`] from a format string or from another error.
///
/// ```
/// let error = peregrine::format_err!("{} is too large", 7);
/// assert_eq!(error.to_string(), "7 is too large");
/// ```
pub use anyhow::anyhow as format_err;

/// Returns early with an [`Error`] made from a format string.
pub use anyhow::bail;

/// Returns early with an [`Error`] unless a condition holds.
pub use anyhow::ensure;

/// An error in the shape of [`bail!`], under the name it has in the crate that [`Error`] comes from.
pub use anyhow::anyhow;

/// `Ok` with [`Error`] as the type of the error, for closures whose types are not known otherwise.
pub use anyhow::Ok;

/// The causes of an [`Error`], outermost first.
pub use anyhow::Chain;

/// What most functions return: a value or an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Results of the `anyhow` crate, as results of this one. They are the same, so it changes nothing: for programs written for a crate whose
/// errors are of another type.
///
/// ```
/// use peregrine::ToWasmtimeResult;
///
/// let result: Result<i32, peregrine::Error> = Ok(1);
/// assert_eq!(result.to_wasmtime_result()?, 1);
/// # Ok::<(), peregrine::Error>(())
/// ```
pub trait ToWasmtimeResult<T> {
    /// The same result.
    ///
    /// # Errors
    ///
    /// If it is one.
    fn to_wasmtime_result(self) -> Result<T>;
}

impl<T> ToWasmtimeResult<T> for Result<T> {
    fn to_wasmtime_result(self) -> Result<T> {
        self
    }
}

/// Memory for an object of the host was refused. Never made by this crate: an allocation of the host's that fails ends the process, as everywhere in
/// Rust; what a guest asks for is refused by other errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    requested_bytes: usize,
}

impl OutOfMemory {
    /// The error of an allocation of so many bytes, for embedders whose own code has one.
    pub const fn new(requested_allocation_size: usize) -> Self {
        Self { requested_bytes: requested_allocation_size }
    }

    /// The bytes asked for.
    pub fn requested_allocation_size(&self) -> usize {
        self.requested_bytes
    }
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "out of memory: an allocation of {} bytes failed", self.requested_bytes)
    }
}

impl std::error::Error for OutOfMemory {}
