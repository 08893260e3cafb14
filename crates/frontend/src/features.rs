//! The proposals of a module in the terms of the parser and validator.

use peregrine_wasm::Features;
use wasmparser::WasmFeatures;

/// What the parser and validator accept when exactly `features` are on. Parts that have a switch there and none here are always on.
pub fn wasm_features(features: &Features) -> WasmFeatures {
    let always = WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::FLOATS
        // Gates `externref`, next to the proposal that has it.
        | WasmFeatures::GC_TYPES;
    let Features {
        multi_value,
        bulk_memory,
        reference_types,
        simd,
        relaxed_simd,
        // Changes results, not what is valid.
        relaxed_simd_deterministic: _,
        tail_call,
        multi_memory,
        memory64,
        extended_const,
        wide_arithmetic,
        custom_page_sizes,
        threads,
        function_references,
    } = *features;
    [
        (multi_value, WasmFeatures::MULTI_VALUE),
        (bulk_memory, WasmFeatures::BULK_MEMORY),
        (reference_types, WasmFeatures::REFERENCE_TYPES),
        (simd, WasmFeatures::SIMD),
        (relaxed_simd, WasmFeatures::RELAXED_SIMD),
        (tail_call, WasmFeatures::TAIL_CALL),
        (multi_memory, WasmFeatures::MULTI_MEMORY),
        (memory64, WasmFeatures::MEMORY64),
        (extended_const, WasmFeatures::EXTENDED_CONST),
        (wide_arithmetic, WasmFeatures::WIDE_ARITHMETIC),
        (custom_page_sizes, WasmFeatures::CUSTOM_PAGE_SIZES),
        (threads, WasmFeatures::THREADS),
        (function_references, WasmFeatures::FUNCTION_REFERENCES),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(always, |all, (_, one)| all | one)
}

/// The name of the proposal, if `missing` is one that no [`Features`] can switch on.
pub(crate) fn unsupported_proposal(missing: WasmFeatures) -> Option<&'static str> {
    [
        (WasmFeatures::GC, "garbage collection"),
        (WasmFeatures::EXCEPTIONS, "exception handling"),
        (WasmFeatures::LEGACY_EXCEPTIONS, "legacy exception handling"),
        (WasmFeatures::STACK_SWITCHING, "stack switching"),
        (WasmFeatures::SHARED_EVERYTHING_THREADS, "shared-everything threads"),
        (WasmFeatures::CUSTOM_DESCRIPTORS, "custom descriptors"),
        (WasmFeatures::MEMORY_CONTROL, "memory control"),
        (WasmFeatures::COMPACT_IMPORTS, "compact import section"),
        (WasmFeatures::ACQUIRE_RELEASE_ATOMICS, "acquire-release atomics"),
        (WasmFeatures::MULTIBYTE_ARRAY_ACCESS, "multibyte array access"),
        (WasmFeatures::COMPONENT_MODEL, "component model"),
    ]
    .into_iter()
    .find(|(feature, _)| missing.contains(*feature))
    .map(|(_, name)| name)
}

/// The names of `features`, separated by commas.
pub(crate) fn names(features: WasmFeatures) -> String {
    let names: Vec<String> = features.iter_names().map(|(name, _)| name.to_lowercase().replace('_', "-")).collect();
    names.join(", ")
}
