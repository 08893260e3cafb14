//! Proposals as a set of flags, for programs that switch several at once.

use crate::Config;
use std::fmt;
use std::ops::{BitOr, BitOrAssign, Sub};

/// A set of proposals. See [`Config::wasm_features`].
///
/// ```
/// use peregrine::{Config, WasmFeatures};
///
/// let mut config = Config::new();
/// config.wasm_features(WasmFeatures::SIMD | WasmFeatures::RELAXED_SIMD, false);
/// assert!(!config.get_wasm_features().contains(WasmFeatures::SIMD));
/// assert!(config.get_wasm_features().contains(WasmFeatures::MULTI_VALUE));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WasmFeatures(u64);

macro_rules! features {
    ($($name:ident = $bit:literal, $text:literal;)*) => {
        impl WasmFeatures {
            $(
                #[doc = concat!("The ", $text, " proposal.")]
                pub const $name: Self = Self(1 << $bit);
            )*
        }

        const NAMES: &[(WasmFeatures, &str)] = &[$((WasmFeatures::$name, stringify!($name))),*];
    };
}

features! {
    MUTABLE_GLOBAL = 0, "mutable-global";
    SATURATING_FLOAT_TO_INT = 1, "nontrapping-float-to-int-conversions";
    SIGN_EXTENSION = 2, "sign-extension-ops";
    REFERENCE_TYPES = 3, "reference-types";
    MULTI_VALUE = 4, "multi-value";
    BULK_MEMORY = 5, "bulk-memory-operations";
    SIMD = 6, "simd";
    RELAXED_SIMD = 7, "relaxed-simd";
    THREADS = 8, "threads";
    SHARED_EVERYTHING_THREADS = 9, "shared-everything-threads";
    TAIL_CALL = 10, "tail-call";
    FLOATS = 11, "floating point instructions, which are no";
    MULTI_MEMORY = 12, "multi-memory";
    EXCEPTIONS = 13, "exception-handling";
    MEMORY64 = 14, "memory64";
    EXTENDED_CONST = 15, "extended-const";
    COMPONENT_MODEL = 16, "component-model";
    FUNCTION_REFERENCES = 17, "function-references";
    GC = 19, "gc";
    CUSTOM_PAGE_SIZES = 20, "custom-page-sizes";
    LEGACY_EXCEPTIONS = 23, "legacy exception-handling";
    STACK_SWITCHING = 25, "stack-switching";
    WIDE_ARITHMETIC = 26, "wide-arithmetic";
}

/// What every module may use: it cannot be switched off.
const ALWAYS: WasmFeatures = WasmFeatures(
    WasmFeatures::MUTABLE_GLOBAL.0 | WasmFeatures::SATURATING_FLOAT_TO_INT.0 | WasmFeatures::SIGN_EXTENSION.0 | WasmFeatures::FLOATS.0,
);

impl WasmFeatures {
    /// No proposal.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Every proposal with a name here.
    pub fn all() -> Self {
        NAMES.iter().fold(Self(0), |all, (feature, _)| all | *feature)
    }

    /// Every proposal that is implemented and can be switched off: what [`Config::wasm_features`] takes, on as well as off.
    pub fn choosable() -> Self {
        Config::new().get_wasm_features() - ALWAYS
    }

    /// Whether all of `other` are in the set.
    pub const fn contains(&self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in the set.
    pub const fn intersects(&self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// The bits.
    pub const fn bits(&self) -> u64 {
        self.0
    }

    /// Both sets together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Adds `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Takes `other` away.
    pub fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Adds `other` or takes it away.
    pub fn set(&mut self, other: Self, value: bool) {
        if value { self.insert(other) } else { self.remove(other) }
    }
}

impl BitOr for WasmFeatures {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for WasmFeatures {
    fn bitor_assign(&mut self, other: Self) {
        self.insert(other);
    }
}

impl Sub for WasmFeatures {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Debug for WasmFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(NAMES.iter().filter(|(feature, _)| self.contains(*feature)).map(|(_, name)| name)).finish()
    }
}

impl Config {
    /// Switches a set of proposals on or off, each as its own setting does.
    ///
    /// What belongs to WebAssembly 1.0 and was a proposal once is always on: [`Engine::new`](crate::Engine::new) refuses a configuration
    /// that switches it off.
    pub fn wasm_features(&mut self, flag: WasmFeatures, enable: bool) -> &mut Self {
        type Setter = fn(&mut Config, bool) -> &mut Config;
        let setters: [(WasmFeatures, Setter); 19] = [
            (WasmFeatures::REFERENCE_TYPES, Self::wasm_reference_types),
            (WasmFeatures::MULTI_VALUE, Self::wasm_multi_value),
            (WasmFeatures::BULK_MEMORY, Self::wasm_bulk_memory),
            (WasmFeatures::SIMD, Self::wasm_simd),
            (WasmFeatures::RELAXED_SIMD, Self::wasm_relaxed_simd),
            (WasmFeatures::THREADS, Self::wasm_threads),
            (WasmFeatures::SHARED_EVERYTHING_THREADS, Self::wasm_shared_everything_threads),
            (WasmFeatures::TAIL_CALL, Self::wasm_tail_call),
            (WasmFeatures::MULTI_MEMORY, Self::wasm_multi_memory),
            (WasmFeatures::EXCEPTIONS, Self::wasm_exceptions),
            (WasmFeatures::MEMORY64, Self::wasm_memory64),
            (WasmFeatures::EXTENDED_CONST, Self::wasm_extended_const),
            (WasmFeatures::COMPONENT_MODEL, Self::wasm_component_model),
            (WasmFeatures::FUNCTION_REFERENCES, Self::wasm_function_references),
            (WasmFeatures::GC, Self::wasm_gc),
            (WasmFeatures::CUSTOM_PAGE_SIZES, Self::wasm_custom_page_sizes),
            (WasmFeatures::LEGACY_EXCEPTIONS, Self::wasm_legacy_exceptions),
            (WasmFeatures::STACK_SWITCHING, Self::wasm_stack_switching),
            (WasmFeatures::WIDE_ARITHMETIC, Self::wasm_wide_arithmetic),
        ];
        for (feature, set) in setters {
            if flag.contains(feature) {
                set(self, enable);
            }
        }
        self.refuse(
            flag.intersects(ALWAYS) && !enable,
            "a WebAssembly without its mutable globals, sign extension, saturating conversions and floats",
        )
    }

    /// The proposals that are on.
    pub fn get_wasm_features(&self) -> WasmFeatures {
        let features = &self.features;
        let on = [
            (WasmFeatures::REFERENCE_TYPES, features.reference_types),
            (WasmFeatures::MULTI_VALUE, features.multi_value),
            (WasmFeatures::BULK_MEMORY, features.bulk_memory),
            (WasmFeatures::SIMD, features.simd),
            (WasmFeatures::RELAXED_SIMD, features.relaxed_simd),
            (WasmFeatures::THREADS, features.threads),
            (WasmFeatures::TAIL_CALL, features.tail_call),
            (WasmFeatures::MULTI_MEMORY, features.multi_memory),
            (WasmFeatures::MEMORY64, features.memory64),
            (WasmFeatures::EXTENDED_CONST, features.extended_const),
            (WasmFeatures::FUNCTION_REFERENCES, features.function_references),
            (WasmFeatures::CUSTOM_PAGE_SIZES, features.custom_page_sizes),
            (WasmFeatures::WIDE_ARITHMETIC, features.wide_arithmetic),
        ];
        on.into_iter().filter(|(_, on)| *on).fold(ALWAYS, |all, (feature, _)| all | feature)
    }
}
