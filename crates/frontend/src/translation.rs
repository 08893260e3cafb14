//! A module as the frontend hands it to compilers: its description, and where its bodies are.

use peregrine_wasm::{DefinedFuncIndex, FuncIndex, IndexVec, Module};
use std::ops::Range;
use wasmparser::{BinaryReader, FunctionBody};

/// A module whose every section but the bodies is validated.
pub struct Translation<'a> {
    /// The description. Data segments and custom sections are ranges of `wasm`.
    pub module: Module,
    /// The binary.
    pub wasm: &'a [u8],
    /// Where each body is in the binary, without its length: what address tables count from.
    pub bodies: IndexVec<DefinedFuncIndex, Range<usize>>,
    /// Names of functions, by rising index, from the name section.
    pub function_names: Vec<(FuncIndex, &'a str)>,
    /// DWARF sections: name and bytes.
    pub debug_sections: Vec<(&'a str, &'a [u8])>,
    /// Where the contents of the code section begin in the binary.
    pub code_section_offset: usize,
    /// Branch hints: for each function that has any, by rising index, (offset in the body, likely taken), by rising offset.
    pub branch_hints: Vec<(FuncIndex, Box<[(u32, bool)]>)>,
    /// The proposals the module was validated with.
    pub(crate) features: wasmparser::WasmFeatures,
    /// What bodies are validated against.
    pub(crate) resources: Option<wasmparser::ValidatorResources>,
}

impl<'a> Translation<'a> {
    /// The body of a function, ready to be read operator by operator. Positions are offsets in the binary.
    pub fn body(&self, index: DefinedFuncIndex) -> FunctionBody<'a> {
        let range = self.bodies[index].clone();
        FunctionBody::new(BinaryReader::new_features(&self.wasm[range.clone()], range.start as u64, self.features))
    }

    /// The name of a function, if it has one.
    pub fn function_name(&self, index: FuncIndex) -> Option<&'a str> {
        let position = self.function_names.binary_search_by_key(&index, |named| named.0).ok()?;
        Some(self.function_names[position].1)
    }
}
