//! Where things are: the root of the workspace, the folder for what is fetched and built, the files under version control.

use crate::failure::{Context, Failure, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace: the nearest folder above the current one that holds `crates/xtask`.
///
/// # Errors
/// When the task was started outside the workspace.
pub fn root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("current folder")?;
    let found = here.ancestors().find(|folder| folder.join("crates/xtask/Cargo.toml").is_file());
    found.map(Path::to_owned).ok_or_else(|| Failure::new("run this inside the workspace"))
}

/// A folder under `build/`, created.
///
/// # Errors
/// When it cannot be created.
pub fn build_folder(name: &str) -> Result<PathBuf> {
    let folder = root()?.join("build").join(name);
    std::fs::create_dir_all(&folder).context(folder.display())?;
    Ok(folder)
}

/// The target folder that cargo uses.
///
/// # Errors
/// When the task was started outside the workspace.
pub fn target_folder() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => Ok(root()?.join("target")),
    }
}

/// The files of the project, relative to the root and sorted: all that is committed or would be.
///
/// # Errors
/// When `git` is missing or fails.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let listing = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let output = Command::new("git").args(listing).current_dir(root).output().context("git")?;
    if !output.status.success() {
        return Err(Failure::new(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut files: Vec<PathBuf> = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    files.retain(|file| root.join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

/// The file that a command name stands for on `PATH`.
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
