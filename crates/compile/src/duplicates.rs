//! Small functions that are the same function: equal bytes, equal type. Each is compiled once and copied.
//!
//! Code depends on a function's own index in no way that a program can notice, so the code of one serves all. Which one is compiled is
//! settled before anything is compiled (the first), so that the image does not depend on timing.

use crate::plan::CanonicalTypes;
use peregrine_frontend::Translation;
use peregrine_wasm::{DefinedFuncIndex, Index, TypeIndex};
use std::collections::HashMap;

/// Bodies longer than this are not compared.
const MAX_BODY_BYTES: usize = 64;

/// For each function of a module, the first that is the same.
pub(crate) struct Duplicates {
    first: Vec<DefinedFuncIndex>,
    /// How many copies of each function there are, without itself. Functions without copies are left out.
    copies: HashMap<DefinedFuncIndex, u32>,
}

impl Duplicates {
    /// Compares all small functions of a module.
    pub(crate) fn find(translation: &Translation<'_>, types: &CanonicalTypes) -> Self {
        let mut seen: HashMap<(&[u8], TypeIndex), DefinedFuncIndex> = HashMap::new();
        let mut copies = HashMap::new();
        let first = translation.bodies.indices().map(|index| {
            let body = translation.body_bytes(index);
            let in_module = translation.module.func_index(index);
            if body.len() > MAX_BODY_BYTES || !translation.function_branch_hints(in_module).is_empty() {
                return index;
            }
            let ty = types.canonical(translation.module.functions[in_module].ty);
            let first = *seen.entry((body, ty)).or_insert(index);
            if first != index {
                *copies.entry(first).or_insert(0) += 1;
            }
            first
        });
        let first = first.collect();
        Self { first, copies }
    }

    /// No function counts as a copy.
    pub(crate) fn none() -> Self {
        Self { first: Vec::new(), copies: HashMap::new() }
    }

    /// The function that `index` is a copy of, or `None` if it is the first of its kind.
    pub(crate) fn original(&self, index: DefinedFuncIndex) -> Option<DefinedFuncIndex> {
        let first = *self.first.get(index.as_usize())?;
        (first != index).then_some(first)
    }

    /// How many copies there are of `index`.
    pub(crate) fn copies(&self, index: DefinedFuncIndex) -> u32 {
        self.copies.get(&index).copied().unwrap_or(0)
    }
}
