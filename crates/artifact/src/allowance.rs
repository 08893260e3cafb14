//! What making one module may cost: limits that the engine hands to a compiler, and the errors that name them.
//!
//! The names in the errors are those of the embedder's `Budget`, which the limits come from. Compilers look at the time between functions.

use crate::compiler::CompileError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant};

/// What making one module may cost. What does not fit is refused with [`CompileError::Limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Functions that the module defines.
    pub functions: usize,
    /// Bytes of the body of one function.
    pub function_bytes: usize,
    /// Locals of all functions together, parameters excluded.
    pub locals: u64,
    /// Bytes of memory for the description of the module, for what compilers need at once, and for the code, by estimate.
    pub memory_bytes: usize,
    /// Time, looked at between functions.
    pub time: Duration,
    /// When the time is up. `None` before [`begin`](Self::begin), and if that is never.
    pub until: Option<Instant>,
}

/// How large a module is, in what an [`Allowance`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleSizes {
    /// Functions that it defines.
    pub functions: usize,
    /// Locals of all functions together, parameters excluded.
    pub declared_locals: u64,
    /// The first function whose body is the largest, and bytes of that.
    pub largest_body: (u32, u64),
}

/// Bytes of memory for each byte of code and its tables: as a piece, as text, in the image, and as it is loaded.
pub const BYTES_PER_CODE_BYTE: usize = 4;
/// Bytes of memory that any module may take: so that a small budget is about what modules make, not about what every compiler has.
pub const FREE_BYTES: usize = 64 << 10;

impl Allowance {
    /// No limits.
    pub const UNLIMITED: Self = Self {
        functions: usize::MAX,
        function_bytes: usize::MAX,
        locals: u64::MAX,
        memory_bytes: usize::MAX,
        time: Duration::MAX,
        until: None,
    };

    /// The same limits, with the time running from now.
    #[must_use]
    pub fn begin(self) -> Self {
        Self { until: Instant::now().checked_add(self.time), ..self }
    }

    /// Bytes of memory for what is kept of the module: half of them, as compilers that ask before they take much have the others.
    pub const fn kept_bytes(&self) -> usize {
        self.memory_bytes / 2
    }

    /// Bytes of code that may be made later, where the module takes so many bytes of memory without it.
    pub fn later_code_bytes(&self, taken_bytes: u64) -> usize {
        let taken_bytes = usize::try_from(taken_bytes).unwrap_or(usize::MAX).saturating_sub(FREE_BYTES);
        self.kept_bytes().saturating_sub(taken_bytes) / BYTES_PER_CODE_BYTE
    }

    /// Whether a module is small enough.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`].
    pub fn check_module(&self, sizes: &ModuleSizes) -> Result<(), CompileError> {
        let ModuleSizes { functions, declared_locals, largest_body: (function, len_bytes) } = *sizes;
        if functions > self.functions {
            return Err(exceeded(format_args!("the module has {functions} functions, more than"), "functions", self.functions));
        }
        if len_bytes > self.function_bytes as u64 {
            let what = format_args!("the body of function {function} has {len_bytes} bytes, more than");
            return Err(exceeded(what, "function_bytes", self.function_bytes));
        }
        if declared_locals > self.locals {
            return Err(exceeded("the functions of the module have more locals than", "locals", self.locals));
        }
        Ok(())
    }

    /// Whether there is time left.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if there is none.
    pub fn check_time(&self) -> Result<(), CompileError> {
        match self.until {
            Some(until) if Instant::now() >= until => {
                Err(exceeded("compiling the module takes longer than", "compile_time", format_args!("{:?}", self.time)))
            }
            _ => Ok(()),
        }
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self::UNLIMITED
    }
}

/// The error for a limit that is passed: `what` and "`Budget::limit`, which is `allowed`".
#[cold]
pub fn exceeded(what: impl fmt::Display, limit: &str, allowed: impl fmt::Display) -> CompileError {
    CompileError::Limit { message: format!("{what} `Budget::{limit}`, which is {allowed}; `Config::budget` sets it") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_from_the_beginning_only() {
        let none = Allowance { time: Duration::ZERO, ..Allowance::UNLIMITED };
        assert_eq!(none.check_time(), Ok(()));
        let error = none.begin().check_time().expect_err("no time at all").to_string();
        assert!(error.contains("`Budget::compile_time`, which is 0ns; `Config::budget` sets it"), "{error}");
        assert_eq!(Allowance::UNLIMITED.begin().check_time(), Ok(()));
    }
}
