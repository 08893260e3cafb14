//! What compiling one module may cost beyond the limits on the module itself.

use peregrine_artifact::code_bounds::MAX_FUNCTION_CODE_BYTES;
use peregrine_artifact::compiler::CompileError;

/// Limits on what is made of a module. None is met by real programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of machine code of one function.
    pub max_function_code_bytes: usize,
    /// Bytes of machine code of a module. At most 2^32 - 1.
    pub max_text_bytes: usize,
    /// Function types for which stubs are compiled. A module may have more types, if no more of them are those of functions that are
    /// imported or escape.
    pub max_stub_types: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { max_function_code_bytes: MAX_FUNCTION_CODE_BYTES as usize, max_text_bytes: (2 << 30) - 1, max_stub_types: 20_000 }
    }
}

/// Bytes of machine code that any module may have, whatever its size.
const MIN_TEXT_BYTES: usize = 32 << 20;
/// Bytes of machine code for each byte of the module beyond that. Programs have two or three.
const TEXT_PER_MODULE_BYTE: usize = 64;

impl Budget {
    /// This budget for a module of `wasm_len` bytes: its code stays in proportion to it.
    pub(crate) fn for_module(&self, wasm_len: usize) -> Self {
        let in_proportion = wasm_len.saturating_mul(TEXT_PER_MODULE_BYTE).saturating_add(MIN_TEXT_BYTES);
        Self { max_text_bytes: self.max_text_bytes.min(in_proportion), ..*self }
    }
}

/// The error for a limit that is passed.
#[cold]
pub(crate) fn exceeded(what: impl std::fmt::Display, limit: &str, allowed: usize, found: usize) -> CompileError {
    CompileError::Limit { message: format!("{what}: {limit} allows {allowed}, found {found}") }
}
