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
    let on = features.proposals().into_iter().filter(|(_, on)| *on);
    on.fold(always, |all, (name, _)| all | flag_of(name))
}

/// The flag of a proposal, by its name.
fn flag_of(name: &str) -> WasmFeatures {
    WasmFeatures::from_name(&name.to_uppercase()).expect("every proposal has a flag of its name")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_proposal_is_switched_by_itself() {
        let none = Features {
            multi_value: false,
            bulk_memory: false,
            reference_types: false,
            simd: false,
            relaxed_simd: false,
            relaxed_simd_deterministic: false,
            tail_call: false,
            multi_memory: false,
            memory64: false,
            extended_const: false,
            wide_arithmetic: false,
            custom_page_sizes: false,
            threads: false,
            function_references: false,
        };
        for (at, (name, _)) in none.proposals().into_iter().enumerate() {
            assert!(!wasm_features(&none).intersects(flag_of(name)), "{name} is always on");
            assert!(none.proposals()[..at].iter().all(|(other, _)| !flag_of(other).intersects(flag_of(name))), "{name}");
        }
        assert_eq!(wasm_features(&Features { memory64: true, ..none }) - wasm_features(&none), WasmFeatures::MEMORY64);
    }
}
