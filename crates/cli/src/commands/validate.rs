//! `peregrine validate FILE...`.

use super::failure::{FAILED, Outcome};
use super::setup;
use crate::args::ValidateWords;
use crate::args::group::Use;
use peregrine::{Context, Module};
use std::process::ExitCode;

/// Checks all files and reports each that is not valid.
///
/// # Errors
///
/// If the options do not fit together.
pub(crate) fn execute(words: &ValidateWords) -> Outcome {
    let engine = setup::engine(&words.groups.read_or_exit("validate", &[Use::Code, Use::Log]))?;
    let mut code = ExitCode::SUCCESS;
    for file in &words.files {
        let checked = setup::module_bytes(file)
            .and_then(|bytes| Module::validate(&engine, &bytes).with_context(|| format!("`{}` is not valid", file.display())));
        if let Err(error) = checked {
            super::failure::report(&error);
            code = ExitCode::from(FAILED);
        }
    }
    Ok(code)
}
