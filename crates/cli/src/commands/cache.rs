//! `peregrine cache {path,size,clear}`.

use super::failure::Outcome;
use super::{log, output, setup};
use crate::args::group::Use;
use crate::args::{CacheAction, CacheWords};
use std::process::ExitCode;

/// Looks after the cache.
///
/// # Errors
///
/// If there is no cache directory, or it cannot be read or emptied, or the answer cannot be written.
pub(crate) fn execute(words: &CacheWords) -> Outcome {
    let options = words.groups.read_or_exit("cache", &[Use::Cache, Use::Log]);
    log::start(&options.debug)?;
    let cache = setup::cache(&options)?;
    match words.action {
        CacheAction::Path => output::print(format!("{}\n", cache.path().display()))?,
        CacheAction::Size => output::print(format!("{}\n", cache.size_bytes()?))?,
        CacheAction::Clear => cache.clear()?,
    }
    Ok(ExitCode::SUCCESS)
}
