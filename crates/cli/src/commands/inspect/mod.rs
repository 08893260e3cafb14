//! `peregrine inspect FILE`: what is in a module or image, for people and for programs.
//!
//! A module is compiled first, so that the sizes of code can be shown. [`report`] gathers facts and prints them; [`code`] shows one
//! function.

mod code;
mod report;

use super::failure::{Outcome, Usage};
use super::setup::{self, Input};
use super::{output, progress};
use crate::args::InspectWords;
use crate::args::group::Use;
use peregrine::{Context, Error, Result};
use std::process::ExitCode;

/// A file and what was made of it.
struct Subject {
    /// The name of the file.
    name: String,
    /// The module in binary; `None` if the file is an image.
    wasm: Option<Vec<u8>>,
    /// The image.
    image: Vec<u8>,
}

/// Shows the file.
///
/// # Errors
///
/// If the file cannot be read or compiled, or has no such function.
pub(crate) fn execute(words: &InspectWords) -> Outcome {
    let options = words.groups.read_or_exit("inspect", &[Use::Code, Use::Strategy, Use::Log]);
    let subject = open(words, &options)?;
    let text = match &words.function {
        Some(function) => code::show(&subject, function, words.json)?,
        None => {
            let report = report::Report::gather(&subject)?;
            if words.json { report.json() } else { report.text(words.all) }
        }
    };
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn open(words: &InspectWords, options: &crate::args::Options) -> Result<Subject> {
    let name = words.file.display().to_string();
    let (wasm, image) = match Input::open(&words.file)? {
        Input::Image(_) if options.unread(&[Use::Log]).is_some() => {
            let unread = options.unread(&[Use::Log]).unwrap_or_default();
            return Err(Error::from(Usage(format!("`{name}` is compiled, and `{unread}` is about how a module is; leave it out"))));
        }
        Input::Image(_) => (None, std::fs::read(&words.file).with_context(|| format!("cannot read `{name}`"))?),
        module => {
            let binary = module.into_bytes(&words.file)?;
            let engine = setup::engine(options)?;
            let profile = setup::profile(options)?;
            let image = progress::precompile(&engine, &binary, profile.as_ref()).with_context(|| format!("cannot load `{name}`"))?;
            (Some(binary), image)
        }
    };
    Ok(Subject { name, wasm, image })
}
