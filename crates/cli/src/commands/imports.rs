//! Imports that nothing defines: what to tell the user.

use peregrine::{Error, ExternType, ImportType, Linker, Module, Store};
use std::fmt::Write;

/// How many imports are named at most.
const MAX_NAMED: usize = 10;

/// An error that names every import of `module` that `linker` does not define, with its type and what would help; `None` if all are
/// defined.
pub(super) fn unknown<T>(linker: &Linker<T>, store: &mut Store<T>, module: &Module) -> Option<Error> {
    let unknown: Vec<ImportType<'_>> = module.imports().filter(|import| linker.get_by_import(&mut *store, import).is_none()).collect();
    let first = unknown.first()?;
    let mut text = match unknown.len() {
        1 => format!("unknown import: {}", describe(first)),
        count => format!("{count} unknown imports:"),
    };
    if unknown.len() > 1 {
        for import in unknown.iter().take(MAX_NAMED) {
            let _ = write!(text, "\n{}", describe(import));
        }
        if unknown.len() > MAX_NAMED {
            let _ = write!(text, "\n… and {} more", unknown.len() - MAX_NAMED);
        }
    }
    for help in helps(&unknown) {
        let _ = write!(text, "\nhelp: {help}");
    }
    Some(Error::msg(text))
}

fn describe(import: &ImportType<'_>) -> String {
    format!("`{}::{}` of type {}", import.module(), import.name(), import.ty())
}

/// The flags that would define some of these imports.
fn helps(unknown: &[ImportType<'_>]) -> Vec<String> {
    let mut helps = Vec::new();
    let from = |name: &str| unknown.iter().find(|import| import.module() == name);
    if let Some(import) = from("wasi_snapshot_preview1") {
        helps.push(match crate::commands::run::is_wasi_function(import.name()) {
            true => "`-S cli=y` provides WASI".to_string(),
            false => format!("WASI preview 1 has no function `{}`", import.name()),
        });
    }
    if from("wasi_unstable").is_some() {
        helps.push("`wasi_unstable` is the version before WASI preview 1; build the program again with a newer toolchain".to_string());
    }
    let other = unknown.iter().find(|import| !import.module().starts_with("wasi_"));
    if let Some(import) = other {
        helps.push(format!("`--preload {}=FILE` takes it from another module", import.module()));
    }
    helps.push("`-W unknown-imports-trap=y` runs the program until it calls a function that is not there".to_string());
    if unknown.iter().all(|import| matches!(import.ty(), ExternType::Func(_))) {
        helps.push("`-W unknown-imports-default=y` lets such functions return zeros".to_string());
    }
    helps
}
