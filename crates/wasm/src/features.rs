//! The proposals a module may use.

use serde::{Deserialize, Serialize};

/// Which proposals beyond version 1.0 of the specification are accepted. A module that uses one that is off is refused as invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Features {
    /// Several results, and parameters of blocks (2.0).
    pub multi_value: bool,
    /// `memory.copy`, `memory.fill`, passive segments and their like (2.0).
    pub bulk_memory: bool,
    /// `externref`, `funcref` values, table instructions (2.0).
    pub reference_types: bool,
    /// 128-bit vectors (2.0).
    pub simd: bool,
    /// Vector instructions whose results depend on the processor (3.0).
    pub relaxed_simd: bool,
    /// The same instructions with one fixed result on every processor.
    pub relaxed_simd_deterministic: bool,
    /// `return_call` and `return_call_indirect` (3.0).
    pub tail_call: bool,
    /// More than one linear memory (3.0).
    pub multi_memory: bool,
    /// 64-bit addresses and table indices (3.0).
    pub memory64: bool,
    /// Arithmetic in constant expressions (3.0).
    pub extended_const: bool,
    /// 128-bit addition, subtraction and multiplication.
    pub wide_arithmetic: bool,
    /// Memories with pages of one byte.
    pub custom_page_sizes: bool,
    /// Shared memories and atomic instructions.
    pub threads: bool,
    /// Typed function references (3.0).
    pub function_references: bool,
}

impl Features {
    /// Every proposal by its field's name, and whether it is accepted. What changes results, and not what is valid, is none.
    pub fn proposals(&self) -> [(&'static str, bool); 13] {
        let Self {
            multi_value,
            bulk_memory,
            reference_types,
            simd,
            relaxed_simd,
            relaxed_simd_deterministic: _,
            tail_call,
            multi_memory,
            memory64,
            extended_const,
            wide_arithmetic,
            custom_page_sizes,
            threads,
            function_references,
        } = *self;
        [
            ("multi_value", multi_value),
            ("bulk_memory", bulk_memory),
            ("reference_types", reference_types),
            ("simd", simd),
            ("relaxed_simd", relaxed_simd),
            ("tail_call", tail_call),
            ("multi_memory", multi_memory),
            ("memory64", memory64),
            ("extended_const", extended_const),
            ("wide_arithmetic", wide_arithmetic),
            ("custom_page_sizes", custom_page_sizes),
            ("threads", threads),
            ("function_references", function_references),
        ]
    }
}

impl Default for Features {
    /// Everything that is finished in the specification and implemented here.
    fn default() -> Self {
        Self {
            multi_value: true,
            bulk_memory: true,
            reference_types: true,
            simd: true,
            relaxed_simd: true,
            relaxed_simd_deterministic: false,
            tail_call: true,
            multi_memory: true,
            memory64: true,
            extended_const: true,
            wide_arithmetic: true,
            custom_page_sizes: true,
            threads: true,
            function_references: false,
        }
    }
}
