//! Dependencies that nobody names: each one that a crate of the workspace lists occurs in the code of that crate, and each one that the workspace
//! lists is some crate's. Called by `cargo xtask layers`.

use crate::failure::{Context, Result};
use crate::{source_text, workspace};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// What is listed and named by nobody, a line each. `metadata` is what cargo says of the workspace.
///
/// # Errors
/// When files cannot be listed or read.
pub fn unnamed(metadata: &Value, root: &Path) -> Result<Vec<String>> {
    let files = workspace::files(root)?;
    let mut wrong = Vec::new();
    let mut listed = BTreeSet::new();
    for package in array(&metadata["packages"]).iter().filter(|package| package["source"].is_null()) {
        let Some(folder) = package["manifest_path"].as_str().and_then(|path| Path::new(path).parent()) else { continue };
        let Ok(folder) = folder.strip_prefix(root) else { continue };
        let (mut code, mut all) = (String::new(), String::new());
        for file in files.iter().filter(|file| file.starts_with(folder) && file.extension().is_some_and(|extension| extension == "rs")) {
            let text = std::fs::read_to_string(root.join(file)).context(file.display())?;
            code += &source_text::code_only(&text);
            all += &text;
        }
        let own = package["name"].as_str().unwrap_or_default();
        for dependency in array(&package["dependencies"]) {
            let name = dependency["rename"].as_str().or(dependency["name"].as_str()).unwrap_or_default();
            listed.insert(dependency["name"].as_str().unwrap_or_default().to_owned());
            // A crate lists itself to turn on features for its tests.
            // What examples in documentation need is there for the tests.
            let text = if dependency["kind"] == "dev" { &all } else { &code };
            if name != own && !is_named(text, name) {
                wrong.push(format!("{}: `{name}` is named nowhere in the crate; take it out", folder.join("Cargo.toml").display()));
            }
        }
    }
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    for name in workspace_dependencies(&manifest) {
        if !listed.contains(name) {
            wrong.push(format!("Cargo.toml: `{name}` is no crate's dependency; take it out"));
        }
    }
    Ok(wrong)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether code, without comments and texts, has the name of a crate as a word.
fn is_named(code: &str, name: &str) -> bool {
    let name = name.replace('-', "_");
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    code.match_indices(&name).any(|(start, _)| {
        let before = code[..start].chars().next_back();
        let after = code[start + name.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// The names under `[workspace.dependencies]`.
fn workspace_dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[workspace.dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim()).filter(|name| !name.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        assert!(is_named("use wasm_encoder::Module;", "wasm-encoder"));
        assert!(!is_named("use my_wasm_encoder::Module; wasm_encoders()", "wasm-encoder"));
    }

    #[test]
    fn the_dependencies_of_the_workspace_are_listed() {
        let manifest = "[workspace]\nmembers = []\n\n[workspace.dependencies]\na = \"1\"\n# About b = c.\nb-c = { path = \"x\" }\n\n[profile.dev]\nd = 1\n";
        assert_eq!(workspace_dependencies(manifest).collect::<Vec<_>>(), ["a", "b-c"]);
    }
}
