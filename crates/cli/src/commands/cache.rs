//! `peregrine cache {path,size,clear}`.

use super::failure::Outcome;
use super::setup;
use crate::args::{CacheAction, CacheWords};
use std::process::ExitCode;

/// Looks after the cache.
///
/// # Errors
///
/// If there is no cache directory, or it cannot be read or emptied.
pub(crate) fn execute(words: &CacheWords) -> Outcome {
    let cache = setup::cache(&words.groups.read_or_exit())?;
    match words.action {
        CacheAction::Path => println!("{}", cache.path().display()),
        CacheAction::Size => println!("{}", cache.size_bytes()?),
        CacheAction::Clear => cache.clear()?,
    }
    Ok(ExitCode::SUCCESS)
}
