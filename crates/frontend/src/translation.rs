//! A module as the frontend hands it to compilers: its description, and where its bodies are.

use crate::bodies;
use crate::errors;
use crate::later::LaterBodies;
use peregrine_artifact::allowance::ModuleSizes;
use peregrine_artifact::compiler::CompileError;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, IndexVec, Module};
use std::ops::Range;
use wasmparser::{BinaryReader, FuncToValidate, FuncValidatorAllocations, FunctionBody, ValidatorResources, WasmFeatures};

/// The branch hints of one function: offset in the body and whether the branch there is likely taken, by rising offset.
pub type BranchHints = Box<[(u32, bool)]>;

/// A module whose every section but the bodies is validated.
pub struct Translation<'a> {
    /// The description. Data segments and custom sections are ranges of `wasm`.
    pub module: Module,
    /// The binary; nothing if bodies are read later.
    pub wasm: &'a [u8],
    /// Where each body is in the binary, without its length: what address tables count from. If bodies are read later, where it ends at the
    /// latest: [`body_bytes`](Self::body_bytes) is what it has.
    pub bodies: IndexVec<DefinedFuncIndex, Range<usize>>,
    /// Names of functions, by rising index, from the name section.
    pub function_names: Vec<(FuncIndex, &'a str)>,
    /// DWARF sections: name and bytes.
    pub debug_sections: Vec<(&'a str, &'a [u8])>,
    /// Where the contents of the code section begin in the binary.
    pub code_section_offset: usize,
    /// What budgets limit. Locals whose declarations are malformed are left to the validator. Nothing if bodies are read later.
    pub sizes: ModuleSizes,
    /// Branch hints of each function that has any, by rising index.
    pub branch_hints: Vec<(FuncIndex, BranchHints)>,
    /// The proposals the module was validated with.
    pub(crate) features: WasmFeatures,
    /// What bodies are validated against.
    pub(crate) resources: Option<ValidatorResources>,
    /// Bodies that are read when they are asked for.
    pub(crate) later: Option<&'a LaterBodies>,
}

impl<'a> Translation<'a> {
    /// The body of a function, ready to be read operator by operator. Positions are offsets in the binary.
    pub fn body(&self, index: DefinedFuncIndex) -> FunctionBody<'a> {
        let start = self.bodies[index].start as u64;
        FunctionBody::new(BinaryReader::new_features(self.body_bytes(index), start, self.features))
    }

    /// The bytes of the body of a function: locals and instructions.
    pub fn body_bytes(&self, index: DefinedFuncIndex) -> &'a [u8] {
        match self.later {
            None => &self.wasm[self.bodies[index].clone()],
            Some(later) => later.fetched(index),
        }
    }

    /// Length of the binary, in bytes.
    pub fn wasm_len_bytes(&self) -> usize {
        self.later.map_or(self.wasm.len(), LaterBodies::wasm_len_bytes)
    }

    /// The name of a function, if it has one.
    pub fn function_name(&self, index: FuncIndex) -> Option<&'a str> {
        let position = self.function_names.binary_search_by_key(&index, |named| named.0).ok()?;
        Some(self.function_names[position].1)
    }

    /// The branch hints of a function: offset in the body and whether the branch there is likely taken, by rising offset.
    pub fn function_branch_hints(&self, index: FuncIndex) -> &[(u32, bool)] {
        match self.branch_hints.binary_search_by_key(&index, |hinted| hinted.0) {
            Ok(position) => &self.branch_hints[position].1,
            Err(_) => &[],
        }
    }

    /// Reads the body of a function if it is one of those that are read later, and was not read yet.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn read_body(&self, index: DefinedFuncIndex) -> Result<(), CompileError> {
        self.later.map_or(Ok(()), |later| later.fetch(index).map(|_| ()))
    }

    /// Validates the body of a function. `allocations` is scratch memory, one for each thread, that is reused from one body to the next.
    /// Core specification, section 3.4.1. A body that is read later was found valid before and is read now.
    ///
    /// # Errors
    ///
    /// [`CompileError::Invalid`] with the offset in the binary, or what reading the body says.
    pub fn validate_body(&self, index: DefinedFuncIndex, allocations: &mut FuncValidatorAllocations) -> Result<(), CompileError> {
        if self.later.is_some() {
            return self.read_body(index);
        }
        // There are no bodies without a code section, and with one there are resources.
        let Some(resources) = self.resources.clone() else {
            return Err(CompileError::Internal { message: "a function body without a code section".into() });
        };
        let index_in_module = self.module.func_index(index);
        let to_validate = FuncToValidate {
            resources,
            index: index_in_module.as_u32(),
            ty: self.module.functions[index_in_module].ty.as_u32(),
            features: self.features,
        };
        validate_function(to_validate, &self.body(index), allocations)
    }
}

/// Validates one body.
///
/// # Errors
///
/// [`CompileError::Invalid`] with the offset in the binary.
pub(crate) fn validate_function(
    function: FuncToValidate<ValidatorResources>,
    body: &FunctionBody<'_>,
    allocations: &mut FuncValidatorAllocations,
) -> Result<(), CompileError> {
    let features = function.features;
    let mut validator = function.into_validator(std::mem::take(allocations));
    let result = bodies::validate(&mut validator, body, features);
    *allocations = validator.into_allocations();
    result.map_err(errors::from_parser)
}
