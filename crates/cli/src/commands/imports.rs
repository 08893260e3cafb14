//! Imports that nothing defines: what to tell the user.

use super::invoke::{signature, type_name};
use peregrine::{Error, ExternType, GlobalType, ImportType, Linker, MemoryType, Module, Mutability, Store, TableType};
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
    format!("`{}::{}` of type {}", import.module(), import.name(), describe_type(&import.ty()))
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

/// A type as the text format has it.
pub(super) fn describe_type(ty: &ExternType) -> String {
    match ty {
        ExternType::Func(ty) => signature(ty),
        ExternType::Global(ty) => describe_global(ty),
        ExternType::Table(ty) => describe_table(ty),
        ExternType::Memory(ty) => describe_memory(ty),
        #[allow(unreachable_patterns, reason = "the API may have more kinds of imports")]
        _ => "another kind".to_string(),
    }
}

fn describe_global(ty: &GlobalType) -> String {
    match ty.mutability() {
        Mutability::Const => format!("(global {})", type_name(ty.content())),
        Mutability::Var => format!("(global (mut {}))", type_name(ty.content())),
    }
}

fn describe_table(ty: &TableType) -> String {
    let address = if ty.is_64() { "i64 " } else { "" };
    let maximum = ty.maximum().map_or(String::new(), |maximum| format!(" {maximum}"));
    let element = type_name(&peregrine::ValType::Ref(ty.element().clone()));
    format!("(table {address}{}{maximum} {element})", ty.minimum())
}

fn describe_memory(ty: &MemoryType) -> String {
    let address = if ty.is_64() { "i64 " } else { "" };
    let maximum = ty.maximum().map_or(String::new(), |maximum| format!(" {maximum}"));
    let page_size = if ty.page_size() == 65536 { String::new() } else { format!(" (pagesize {})", ty.page_size()) };
    let shared = if ty.is_shared() { " shared" } else { "" };
    format!("(memory {address}{}{maximum}{shared}{page_size})", ty.minimum())
}
