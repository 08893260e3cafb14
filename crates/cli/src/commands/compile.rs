//! `peregrine compile FILE -o IMAGE`: a module to an image. The whole module is compiled, whatever the strategy.

use super::failure::Outcome;
use super::{progress, setup};
use crate::args::CompileWords;
use crate::args::group::Use;
use peregrine::{Context, Error};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compiles the module.
///
/// # Errors
///
/// If the module cannot be read or compiled, or the image cannot be written.
pub(crate) fn execute(words: &CompileWords) -> Outcome {
    let options = words.groups.read_or_exit("compile", &[Use::Code, Use::Strategy, Use::Log]);
    let bytes = setup::module_bytes(&words.file)?;
    let engine = setup::engine(&options)?;
    let profile = setup::profile(&options)?;
    let image =
        progress::precompile(&engine, &bytes, profile.as_ref()).with_context(|| format!("cannot compile `{}`", words.file.display()))?;
    let output = words.output.clone().unwrap_or_else(|| default_output(&words.file, "pgn"));
    if output.as_os_str() == "-" {
        std::io::stdout().lock().write_all(&image).context("cannot write to standard output")?;
        return Ok(ExitCode::SUCCESS);
    }
    write_whole(&output, &image).with_context(|| format!("cannot write `{}`", output.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Where what is made of the module in `file` goes unless it is said: a file of that name in the current folder.
pub(super) fn default_output(file: &Path, extension: &str) -> PathBuf {
    let name = file.file_name().filter(|name| *name != "-").unwrap_or("module".as_ref());
    PathBuf::from(name).with_extension(extension)
}

/// Writes beside the file and renames, so that a program that maps the old image keeps it, and a reader never sees half of one. What
/// is no regular file (`/dev/null`, a pipe) is written as it is.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Ok(fs::write(path, bytes)?);
    }
    let mut name = path.file_name().context("the path names no file")?.to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    Ok(written?)
}
