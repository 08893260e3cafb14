//! Logging, set up only when it is asked for: starting it costs more than starting a guest.

use crate::args::options::DebugOptions;
use peregrine::{Context, Result};
use std::env::VarError;
use std::fs::File;
use tracing_subscriber::EnvFilter;

/// The variable with the filter, `debug` or `peregrine_engine=trace` for example.
const VARIABLE: &str = "PEREGRINE_LOG";

/// Starts logging if the variable is set or the options say so.
///
/// # Errors
///
/// If the variable is no filter, or the log file cannot be made.
pub(super) fn start(options: &DebugOptions) -> Result<()> {
    let to_files = options.log_to_files == Some(true);
    if !options.logging.unwrap_or(to_files || std::env::var_os(VARIABLE).is_some()) {
        return Ok(());
    }
    let filter = match std::env::var(VARIABLE) {
        Err(VarError::NotPresent) => EnvFilter::new("info"),
        filter => EnvFilter::try_new(filter.with_context(|| format!("{VARIABLE} is not UTF-8"))?)
            .with_context(|| format!("{VARIABLE} is no filter, such as `debug` or `peregrine_engine=trace`"))?,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    if to_files {
        let name = format!("peregrine.log.{}", std::process::id());
        let file = File::create(&name).with_context(|| format!("cannot make the log file `{name}`"))?;
        builder.with_ansi(false).with_writer(file).init();
    } else {
        builder.with_writer(std::io::stderr).init();
    }
    Ok(())
}
