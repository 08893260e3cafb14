//! How much machine code functions may become in the baseline: what compilers keep to, and what the engine makes room for.
//!
//! A function is compiled when it is first called, when it is too late to refuse a module. So room is reserved for the most that its functions may
//! become. It is address space; what is not used costs nothing.

use peregrine_wasm::Module;

/// Bytes of code that every function may have, whatever its body.
pub const FUNCTION_CODE_BYTES: u64 = 4 << 10;
/// Bytes of code for each byte of a body, in a module whose functions have neither parameters nor results.
const CODE_PER_BODY_BYTE: u64 = 96;
/// Further ones for each parameter and result of the type that has most: a call of a few bytes moves as many values.
const CODE_PER_VALUE: u64 = 4;
/// More values than these are moved by loops.
const MAX_VALUES: u64 = 128;
/// The most bytes of code that any function may have, so that a module is not met as gigabytes. A body that could become more is compiled when the
/// module is made, and if it does, the module is refused then.
pub const MAX_FUNCTION_CODE_BYTES: u64 = 256 << 20;

/// How much code the functions of a module may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeBounds {
    per_body_byte: u64,
}

impl CodeBounds {
    /// The bounds of functions of `module`.
    pub fn of(module: &Module) -> Self {
        let widest = module.types.values().map(|ty| ty.params.len() + ty.results.len()).max().unwrap_or(0);
        Self { per_body_byte: CODE_PER_BODY_BYTE + CODE_PER_VALUE * MAX_VALUES.min(widest as u64) }
    }

    /// The most bytes of code of a function whose body has so many bytes.
    pub fn function(&self, body_bytes: u64) -> u64 {
        self.module(1, body_bytes).min(MAX_FUNCTION_CODE_BYTES)
    }

    /// Whether a body of so many bytes may become more code than any function may have.
    pub fn may_exceed(&self, body_bytes: u64) -> bool {
        self.module(1, body_bytes) > MAX_FUNCTION_CODE_BYTES
    }

    /// The most bytes of code of so many functions whose bodies have so many bytes together.
    pub fn module(&self, functions: u64, body_bytes: u64) -> u64 {
        functions.saturating_mul(FUNCTION_CODE_BYTES).saturating_add(body_bytes.saturating_mul(self.per_body_byte))
    }
}
