//! What making one module has cost so far, against its [`Allowance`].
//!
//! Sizes are known before any body is looked at; memory is an estimate by counts, from what the structures take that hold a module, and
//! from the code as it is made; time is looked at between functions. Nothing here depends on how many threads there are, but time does.

use crate::tier::ModuleEnv;
use peregrine_artifact::allowance::{Allowance, BYTES_PER_CODE_BYTE, FREE_BYTES, exceeded};
use peregrine_artifact::compiler::CompileError;
use peregrine_frontend::Translation;
use peregrine_wasm::EntityIndex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes for each byte of the binary: as it came, as it is kept, and its parts in the image.
const BYTES_PER_BYTE: usize = 3;
/// Bytes for a function type, in the description, the validator and the registry, besides its values.
const TYPE_BYTES: usize = 256;
/// Bytes for a parameter or result of a type.
const VALUE_BYTES: usize = 16;
/// Bytes for a function: its declaration, its place, its row in the image, its slot.
const FUNCTION_BYTES: usize = 160;
/// Bytes for an import, export, table, memory, global, segment or custom section, besides its names and items.
const ITEM_BYTES: usize = 192;
/// Bytes for an item of an element segment.
const ELEMENT_BYTES: usize = 16;
/// Bytes for each byte of the largest body, in the compiler whose memory is in proportion to it.
const BYTES_PER_BODY_BYTE: usize = 24;

/// The cost of one module that is being made.
pub(crate) struct Account<'a> {
    allowance: &'a Allowance,
    description_bytes: usize,
    code_bytes: AtomicUsize,
}

impl<'a> Account<'a> {
    /// Checks all that is known of a module before its bodies are validated.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`].
    pub(crate) fn open(allowance: &'a Allowance, translation: &Translation<'_>) -> Result<Self, CompileError> {
        allowance.check_time()?;
        allowance.check_module(&translation.sizes)?;
        let description_bytes = description_bytes(translation);
        let account = Self { allowance, description_bytes, code_bytes: AtomicUsize::new(0) };
        account.add_code(0)?;
        Ok(account)
    }

    /// Whether there is time left.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if there is none.
    pub(crate) fn check_time(&self) -> Result<(), CompileError> {
        self.allowance.check_time()
    }

    /// Counts code and tables.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`].
    pub(crate) fn add_code(&self, len_bytes: usize) -> Result<(), CompileError> {
        self.check(self.code_bytes.fetch_add(len_bytes, Ordering::Relaxed).saturating_add(len_bytes))
    }

    /// Whether there is memory for more code, which is not kept.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`].
    pub(crate) fn check_code(&self, len_bytes: usize) -> Result<(), CompileError> {
        self.check(self.code_bytes.load(Ordering::Relaxed).saturating_add(len_bytes))
    }

    fn check(&self, code: usize) -> Result<(), CompileError> {
        let total = self.description_bytes.saturating_add(code.saturating_mul(BYTES_PER_CODE_BYTE));
        if total > self.allowance.kept_bytes() {
            return Err(out_of_memory(self.allowance));
        }
        Ok(())
    }

    /// `env` with as much memory for compilers as the allowance has.
    pub(crate) fn env<'m>(&self, env: ModuleEnv<'m>) -> ModuleEnv<'m> {
        self::env(self.allowance, env)
    }
}

/// `env` with as much memory for compilers as `allowance` has.
pub(crate) fn env<'m>(allowance: &Allowance, env: ModuleEnv<'m>) -> ModuleEnv<'m> {
    ModuleEnv { memory: env.memory.at_most((allowance.memory_bytes - allowance.kept_bytes()) as u64), ..env }
}

#[cold]
fn out_of_memory(allowance: &Allowance) -> CompileError {
    exceeded("compiling the module takes more memory than", "compile_memory_bytes", allowance.memory_bytes)
}

/// Bytes that the description of a module takes, by estimate.
fn description_bytes(translation: &Translation<'_>) -> usize {
    let module = &translation.module;
    let values: usize = module.types.values().map(|ty| ty.params.len() + ty.results.len()).sum();
    let elements: usize = module.elements.values().map(|segment| segment.items.len()).sum();
    let not_functions = module.imports.iter().filter(|import| !matches!(import.entity, EntityIndex::Function(_))).count();
    let items = module.imports.len()
        + module.exports.len()
        + module.tables.len()
        + module.memories.len()
        + module.globals.len()
        + module.elements.len()
        + module.data.len()
        + module.custom_sections.len()
        - not_functions;
    let largest = usize::try_from(translation.sizes.largest_body.1).unwrap_or(usize::MAX);
    let parts = [
        (translation.wasm.len(), BYTES_PER_BYTE),
        (module.types.len(), TYPE_BYTES),
        (values, VALUE_BYTES),
        (module.functions.len(), FUNCTION_BYTES),
        (elements, ELEMENT_BYTES),
        (items, ITEM_BYTES),
        (largest, BYTES_PER_BODY_BYTE),
    ];
    let bytes = parts.iter().map(|(count, each)| count.saturating_mul(*each)).fold(0, usize::saturating_add);
    bytes.saturating_sub(FREE_BYTES)
}
