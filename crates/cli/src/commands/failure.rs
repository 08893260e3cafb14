//! How the process ends: which exit code, and what standard error says.

use peregrine::{Error, Trap, WasmBacktrace};
use std::process::ExitCode;

/// Exit code after a trap: what a shell gives to a process that was aborted.
pub(crate) const TRAP: u8 = 134;
/// Exit code after any other failure of ours.
pub(crate) const FAILED: u8 = 1;

/// Exit code after options that do not fit together, as after any mistake on the command line.
pub(crate) const USAGE: u8 = 2;

/// Options that do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// What a command comes to: the exit code of the process, or what went wrong.
pub(crate) type Outcome = Result<ExitCode, Error>;

/// Prints `error` with its causes and its backtrace, and gives the exit code for it.
pub(crate) fn report(error: &Error) -> ExitCode {
    eprint!("{}", describe(error));
    ExitCode::from(match error {
        _ if error.is::<Usage>() => USAGE,
        _ if error.is::<Trap>() => TRAP,
        _ => FAILED,
    })
}

/// The text for `error`: one line each for it and its causes, then the backtrace.
fn describe(error: &Error) -> String {
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string);
    let backtrace = backtrace.as_deref().map(str::trim_end);
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain() {
        let line = cause.to_string();
        let line = line.trim_end();
        // The backtrace is part of the chain, and comes last.
        if Some(line) == backtrace || line.is_empty() || line == last {
            continue;
        }
        let prefix = if text.is_empty() { "error: " } else { "  caused by: " };
        text.push_str(prefix);
        text.push_str(&line.replace('\n', "\n    "));
        text.push('\n');
        last = line.to_string();
    }
    if let Some(backtrace) = backtrace.filter(|lines| !lines.is_empty()) {
        text.push_str(backtrace);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_the_error_and_nothing_is_said_twice() {
        let error = Error::msg("the file is too short").context("the file is too short").context("cannot read `a`");
        assert_eq!(describe(&error), "error: cannot read `a`\n  caused by: the file is too short\n");
    }
}
