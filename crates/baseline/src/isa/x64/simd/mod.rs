//! Vector instructions.

use crate::compile::Compiler;
use wasmparser::Operator;

impl Compiler<'_> {
    /// Translates a vector instruction. False if `op` is none.
    pub(crate) fn simd(&mut self, _op: &Operator<'_>) -> bool {
        false
    }
}
