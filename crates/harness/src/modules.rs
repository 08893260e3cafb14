//! Random modules from bytes: what the differential oracle and the corruption tests feed on.

use arbitrary::Unstructured;
use wasm_smith::{Config, Module};

/// Steps that a generated module may take before it stops itself with `unreachable`.
const STEPS: u32 = 2000;

/// Bytes for `seed`, the same on every machine.
pub fn seed_bytes(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len_bytes + 8);
    while bytes.len() < len_bytes {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len_bytes);
    bytes
}

/// A small generator of numbers (SplitMix64), the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A valid module without imports that ends by itself, exports all it has, and whose every NaN is canonical. `None` if the bytes are too
/// few to make one.
pub fn terminating(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut unstructured = Unstructured::new(bytes);
    let mut module = Module::new(config(), &mut unstructured).ok()?;
    module.ensure_termination(STEPS).ok()?;
    Some(module.to_bytes())
}

/// A valid module without imports that uses whatever Peregrine has, the proposals that the reference interpreter lacks and NaNs of any
/// bits included; it ends by itself, if `ends`. `None` if the bytes are too few to make one.
pub fn wide(bytes: &[u8], ends: bool) -> Option<Vec<u8>> {
    let mut unstructured = Unstructured::new(bytes);
    let wide = Config {
        canonicalize_nans: false,
        custom_page_sizes_enabled: true,
        max_memories: 3,
        memory64_enabled: true,
        relaxed_simd_enabled: true,
        threads_enabled: true,
        ..config()
    };
    let mut module = Module::new(wide, &mut unstructured).ok()?;
    if ends {
        module.ensure_termination(STEPS).ok()?;
    }
    Some(module.to_bytes())
}

/// Everything that Peregrine and the reference interpreter both have, in small sizes.
fn config() -> Config {
    Config {
        allow_start_export: true,
        bulk_memory_enabled: true,
        canonicalize_nans: true,
        compact_imports_enabled: false,
        custom_page_sizes_enabled: false,
        exceptions_enabled: false,
        export_everything: true,
        extended_const_enabled: true,
        gc_enabled: false,
        generate_custom_sections: false,
        max_imports: 0,
        max_instructions: 120,
        max_memories: 2,
        max_memory32_bytes: 4 << 20,
        max_memory64_bytes: 4 << 20,
        max_table_elements: 1000,
        max_tables: 3,
        max_funcs: 12,
        min_funcs: 4,
        min_types: 4,
        max_tags: 0,
        memory_max_size_required: true,
        table_max_size_required: true,
        multi_value_enabled: true,
        reference_types_enabled: true,
        relaxed_simd_enabled: false,
        saturating_float_to_int_enabled: true,
        shared_everything_threads_enabled: false,
        sign_extension_ops_enabled: true,
        simd_enabled: true,
        tail_call_enabled: true,
        threads_enabled: false,
        wide_arithmetic_enabled: true,
        ..Config::default()
    }
}
