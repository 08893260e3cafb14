//! Errors of the parser and validator as errors of the compiler.

use crate::features;
use peregrine_artifact::compiler::CompileError;

/// The error that the parser or validator reported, in the terms of this project: proposals that exist nowhere here are unsupported, sizes
/// beyond what any engine accepts are limits, and everything else is invalid.
#[cold]
pub(crate) fn from_parser(error: wasmparser::Error) -> CompileError {
    let offset = error.offset() as usize;
    let message = error.message();
    if let Some(missing) = error.missing_wasm_feature() {
        if let Some(proposal) = features::unsupported_proposal(missing) {
            return unsupported(proposal, format_args!("{message} (at offset {offset:#x})"));
        }
        let proposals = features::names(missing);
        return CompileError::invalid(format!("{message}; the proposal that is switched off: {proposals}"), offset);
    }
    // Recursive types, the one need of a proposal that the validator tells by its wording only.
    if message.contains("because the GC proposal is disabled") {
        return unsupported("garbage collection", format_args!("{message} (at offset {offset:#x})"));
    }
    // The wordings of the validator's counts (`functions count exceeds limit of 1000000`) and of the parser's sizes.
    if message.contains("exceeds limit of ") || message.ends_with("size is out of bounds") {
        return CompileError::Limit { message: format!("{message} (at offset {offset:#x})") };
    }
    CompileError::invalid(message, offset)
}

/// A module needs `proposal`, which is not implemented; `detail` says what for.
#[cold]
pub(crate) fn unsupported(proposal: &str, detail: impl std::fmt::Display) -> CompileError {
    CompileError::Unsupported { message: format!("the {proposal} proposal is not supported: {detail}") }
}

/// A module is beyond one of the limits of [`peregrine_wasm::ModuleLimits`].
#[cold]
pub(crate) fn limit(what: impl std::fmt::Display, name: &str, allowed: usize, found: usize) -> CompileError {
    CompileError::Limit { message: format!("{what}: {name} allows {allowed}, found {found}") }
}
