//! `peregrine cache {path,size,clear}`.

use super::failure::Outcome;
use super::{output, setup};
use crate::args::{CacheAction, CacheWords};
use std::process::ExitCode;

/// Looks after the cache.
///
/// # Errors
///
/// If there is no cache directory, or it cannot be read or emptied, or the answer cannot be written.
pub(crate) fn execute(words: &CacheWords) -> Outcome {
    let cache = setup::cache(&words.groups.read_or_exit())?;
    match words.action {
        CacheAction::Path => output::print(format!("{}\n", cache.path().display()))?,
        CacheAction::Size => output::print(format!("{}\n", cache.size_bytes()?))?,
        CacheAction::Clear => cache.clear()?,
    }
    Ok(ExitCode::SUCCESS)
}
