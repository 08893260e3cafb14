//! Whether what is given for an import is what the module asks for. Core specification, section 3.3.

use crate::backtrace::Escaped;
use crate::error::{Error, Result};
use crate::{ExternType, GlobalType, ImportType, MemoryType, Module, TableType};
use peregrine_wasm::EntityIndex;
use std::fmt;

/// A module imports what nobody has defined.
///
/// ```
/// use peregrine::{Engine, Linker, Module, Store, UnknownImportError};
///
/// let engine = Engine::default();
/// let module = Module::new(&engine, r#"(module (import "env" "now" (func (result i64))))"#)?;
/// let error = Linker::new(&engine).instantiate(&mut Store::new(&engine, ()), &module).unwrap_err();
/// let unknown = error.downcast_ref::<UnknownImportError>().unwrap();
/// assert_eq!((unknown.module(), unknown.name()), ("env", "now"));
/// assert_eq!(error.to_string(), "unknown import: `env::now` of type `(func (result i64))` has not been defined");
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct UnknownImportError {
    module: String,
    name: String,
    ty: ExternType,
}

impl UnknownImportError {
    pub(crate) fn new(import: &ImportType<'_>) -> Self {
        Self { module: import.module().to_owned(), name: import.name().to_owned(), ty: import.ty() }
    }

    /// First part of the name.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// Second part of the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is asked for.
    pub fn ty(&self) -> ExternType {
        self.ty.clone()
    }
}

impl fmt::Display for UnknownImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (module, name) = (Escaped(&self.module), Escaped(&self.name));
        write!(f, "unknown import: `{module}::{name}` of type `{}` has not been defined", self.ty)
    }
}

impl std::error::Error for UnknownImportError {}

/// Checks that the type `found` can be given for import number `position` of `module`.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_import(module: &Module, position: usize, found: &ExternType) -> Result<()> {
    let same_func = matches!(found, ExternType::Func(found) if found.comes_from(module.engine()) && is_func(module, position, found.id()));
    if same_func { Ok(()) } else { check(&import(module, position), found) }
}

/// Whether import number `position` of `module` is a function whose type has the identity `type_id`: the common case, without a look at types.
pub(crate) fn is_func(module: &Module, position: usize, type_id: u32) -> bool {
    let loaded = module.loaded();
    let entity = loaded.module().imports[position].entity;
    matches!(entity, EntityIndex::Function(index) if loaded.func_type_id(index) == type_id)
}

/// Import number `position` of `module`.
pub(crate) fn import(module: &Module, position: usize) -> ImportType<'_> {
    let import = &module.loaded().module().imports[position];
    ImportType { module: &import.module, name: &import.name, ty: module.extern_type(import.entity) }
}

/// Checks that something of type `found` can be given for `import`.
///
/// # Errors
///
/// Names the import, and what differs.
fn check(import: &ImportType<'_>, found: &ExternType) -> Result<()> {
    let problem = match (&import.ty, found) {
        (ExternType::Func(expect), ExternType::Func(found)) => (expect != found).then_some("function types"),
        (ExternType::Global(expect), ExternType::Global(found)) => global(expect, found),
        (ExternType::Table(expect), ExternType::Table(found)) => table(expect, found),
        (ExternType::Memory(expect), ExternType::Memory(found)) => memory(expect, found),
        (ExternType::Tag(expect), ExternType::Tag(found)) => (expect != found).then_some("types of tags"),
        (expect, found) => {
            let error = Error::msg(format!("expected {}, found {}", expect.kind(), found.kind()));
            return Err(error.context(incompatible(import)));
        }
    };
    match problem {
        None => Ok(()),
        Some(what) => {
            let error = Error::msg(format!("{what} incompatible: expected `{}`, found `{found}`", import.ty));
            Err(error.context(incompatible(import)))
        }
    }
}

fn incompatible(import: &ImportType<'_>) -> String {
    format!("incompatible import type for `{}::{}`", Escaped(import.module), Escaped(import.name))
}

fn global(expect: &GlobalType, found: &GlobalType) -> Option<&'static str> {
    if expect.mutability() != found.mutability() {
        return Some("mutabilities of globals");
    }
    // A global that may be written must hold exactly the type.
    let fits = if expect.mutability().is_var() { found.content() == expect.content() } else { found.content().matches(expect.content()) };
    (!fits).then_some("types of globals")
}

fn table(expect: &TableType, found: &TableType) -> Option<&'static str> {
    if expect.element() != found.element() {
        return Some("element types of tables");
    }
    if expect.is_64() != found.is_64() {
        return Some("index types of tables");
    }
    (!limits(expect.minimum(), expect.maximum(), found.minimum(), found.maximum())).then_some("limits of tables")
}

fn memory(expect: &MemoryType, found: &MemoryType) -> Option<&'static str> {
    if expect.is_64() != found.is_64() {
        return Some("address types of memories");
    }
    if expect.is_shared() != found.is_shared() {
        return Some("sharing of memories");
    }
    if expect.page_size_log2() != found.page_size_log2() {
        return Some("page sizes of memories");
    }
    (!limits(expect.minimum(), expect.maximum(), found.minimum(), found.maximum())).then_some("limits of memories")
}

/// Whether a size within `found` is always within `expect`.
fn limits(expect_min: u64, expect_max: Option<u64>, found_min: u64, found_max: Option<u64>) -> bool {
    found_min >= expect_min && expect_max.is_none_or(|expect| found_max.is_some_and(|found| found <= expect))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mutability, RefType, ValType};

    fn outcome(expect: ExternType, found: ExternType) -> Result<(), String> {
        let import = ImportType { module: "m", name: "n", ty: expect };
        check(&import, &found).map_err(|error| error.root_cause().to_string())
    }

    #[test]
    fn limits_may_only_be_narrower() {
        let memory = |min, max| ExternType::Memory(MemoryType::new(min, max));
        assert_eq!(outcome(memory(1, None), memory(2, Some(3))), Ok(()));
        assert_eq!(outcome(memory(1, Some(3)), memory(2, Some(3))), Ok(()));
        assert!(outcome(memory(2, None), memory(1, None)).is_err());
        assert!(outcome(memory(1, Some(3)), memory(1, None)).is_err());
        let error = outcome(memory(1, Some(3)), memory(1, Some(4))).unwrap_err();
        assert_eq!(error, "limits of memories incompatible: expected `(memory 1 3)`, found `(memory 1 4)`");
    }

    #[test]
    fn mutable_globals_are_invariant() {
        let global = |ty: ValType, mutability| ExternType::Global(GlobalType::new(ty, mutability));
        let strict = ValType::Ref(RefType::new(false, crate::HeapType::Func));
        assert_eq!(outcome(global(ValType::FUNCREF, Mutability::Const), global(strict.clone(), Mutability::Const)), Ok(()));
        assert!(outcome(global(ValType::FUNCREF, Mutability::Var), global(strict, Mutability::Var)).is_err());
        assert!(outcome(global(ValType::I32, Mutability::Const), global(ValType::I32, Mutability::Var)).is_err());
    }

    #[test]
    fn another_kind_is_named() {
        let found = ExternType::Table(TableType::new(RefType::FUNCREF, 1, None));
        assert_eq!(outcome(ExternType::Memory(MemoryType::new(1, None)), found), Err("expected memory, found table".to_owned()));
    }
}
