//! How large a module may be.

/// Limits on the description of a module, checked while it is read. They exist so that what the host holds on behalf of a module stays
/// proportional to its bytes; none of them is met by real programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleLimits {
    /// Bytes of the binary.
    pub max_module_bytes: usize,
    /// Bytes of one function body.
    pub max_function_bytes: usize,
    /// Operations that stay in one constant expression after folding.
    pub max_const_ops: usize,
}

impl Default for ModuleLimits {
    fn default() -> Self {
        Self { max_module_bytes: 1 << 30, max_function_bytes: 7_654_321, max_const_ops: 1 << 16 }
    }
}
