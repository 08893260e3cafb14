//! Compilation with a progress bar, which appears on a terminal when it takes long.

use indicatif::{ProgressBar, ProgressStyle};
use peregrine::{Engine, Module, Profile, Progress, Result};
use std::fs::File;
use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Compilation that ends sooner shows nothing.
const QUIET_TIME: Duration = Duration::from_millis(500);

/// Compiles a module, or takes it from the cache.
///
/// # Errors
///
/// As [`Module::new`].
pub(super) fn compile(engine: &Engine, bytes: Vec<u8>) -> Result<Module> {
    let bar = Bar::new();
    let module = Module::from_vec_with_progress(engine, bytes, &bar);
    bar.clear();
    module
}

/// [`compile`], for a file, which is not read if the cache knows it.
///
/// # Errors
///
/// As [`Module::from_file`].
pub(super) fn compile_file(engine: &Engine, file: File) -> Result<Module> {
    let bar = Bar::new();
    let module = Module::from_open_file_with_progress(engine, file, &bar);
    bar.clear();
    module
}

/// Compiles a module to an image, with what is known of earlier runs.
///
/// # Errors
///
/// As [`Engine::precompile_module_with_profile`].
pub(super) fn precompile(engine: &Engine, bytes: &[u8], profile: Option<&Profile>) -> Result<Vec<u8>> {
    let bar = Bar::new();
    let image = match profile {
        Some(profile) => engine.precompile_module_with_profile(bytes, profile, &bar),
        None => engine.precompile_module_with_progress(bytes, &bar),
    };
    bar.clear();
    image
}

/// The bar, made when it is first needed.
struct Bar {
    start: Instant,
    bar: OnceLock<ProgressBar>,
}

impl Bar {
    fn new() -> Self {
        Self { start: Instant::now(), bar: OnceLock::new() }
    }

    fn clear(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn compiled(&self, done_bytes: u64, total_bytes: u64) {
        if self.start.elapsed() < QUIET_TIME {
            return;
        }
        let bar = self.bar.get_or_init(|| match stderr().is_terminal() {
            true => ProgressBar::new(total_bytes).with_style(style()),
            false => ProgressBar::hidden(),
        });
        bar.set_position(done_bytes);
    }
}

fn style() -> ProgressStyle {
    let template = "compiling [{bar:40}] {bytes} of {total_bytes}, {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
