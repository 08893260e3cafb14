//! Standard output of the commands themselves. What guests write goes there without passing through here.

use peregrine::{Context, Result};
use std::io::{ErrorKind, Write, stdout};

/// Writes all of `text` to standard output. A reader that has seen enough is no error.
///
/// # Errors
///
/// If it cannot be written, as on a full disk.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}
