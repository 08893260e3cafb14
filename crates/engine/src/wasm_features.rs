//! Proposals as a set of flags, for programs that switch several at once.

use crate::Config;
use std::fmt;
use std::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, BitXor, BitXorAssign, Not, Sub, SubAssign};

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
    ($($name:ident = $bits:expr, $text:literal;)*) => {
        impl WasmFeatures {
            $(
                #[doc = concat!("The ", $text, " proposal.")]
                pub const $name: Self = Self($bits);
            )*
        }

        const ALL: u64 = 0 $(| WasmFeatures::$name.0)*;

        const NAMES: &[(WasmFeatures, &str)] = &[$((WasmFeatures::$name, stringify!($name))),*];
    };
}

features! {
    MUTABLE_GLOBAL = 1 << 0, "mutable-global";
    SATURATING_FLOAT_TO_INT = 1 << 1, "nontrapping-float-to-int-conversions";
    SIGN_EXTENSION = 1 << 2, "sign-extension-ops";
    REFERENCE_TYPES = 1 << 3 | 1 << 34, "reference-types";
    MULTI_VALUE = 1 << 4, "multi-value";
    BULK_MEMORY = 1 << 5 | 1 << 35, "bulk-memory-operations";
    SIMD = 1 << 6, "simd";
    RELAXED_SIMD = 1 << 7, "relaxed-simd";
    THREADS = 1 << 8, "threads";
    SHARED_EVERYTHING_THREADS = 1 << 9, "shared-everything-threads";
    TAIL_CALL = 1 << 10, "tail-call";
    FLOATS = 1 << 11, "floating point instructions, which are no";
    MULTI_MEMORY = 1 << 12, "multi-memory";
    EXCEPTIONS = 1 << 13, "exception-handling";
    MEMORY64 = 1 << 14, "memory64";
    EXTENDED_CONST = 1 << 15, "extended-const";
    COMPONENT_MODEL = 1 << 16, "component-model";
    FUNCTION_REFERENCES = 1 << 17, "function-references";
    GC = 1 << 19, "gc";
    CUSTOM_PAGE_SIZES = 1 << 20, "custom-page-sizes";
    LEGACY_EXCEPTIONS = 1 << 23, "legacy exception-handling";
    STACK_SWITCHING = 1 << 25, "stack-switching";
    WIDE_ARITHMETIC = 1 << 26, "wide-arithmetic";
    GC_TYPES = 1 << 24, "types of references, which are no";
    CALL_INDIRECT_OVERLONG = 1 << 34, "long encodings of the table of an indirect call, a part of the reference-types";
    BULK_MEMORY_OPT = 1 << 35, "copying and filling of memories, a part of the bulk-memory-operations";
}

/// What every module may use: it cannot be switched off.
const ALWAYS: WasmFeatures = WasmFeatures(
    WasmFeatures::MUTABLE_GLOBAL.0
        | WasmFeatures::SATURATING_FLOAT_TO_INT.0
        | WasmFeatures::SIGN_EXTENSION.0
        | WasmFeatures::FLOATS.0
        | WasmFeatures::GC_TYPES.0,
);

impl WasmFeatures {
    /// What there was before any proposal.
    pub const MVP: Self = Self::FLOATS.union(Self::GC_TYPES);
    /// WebAssembly 1.0.
    pub const WASM1: Self = Self::MVP.union(Self::MUTABLE_GLOBAL);
    /// WebAssembly 2.0.
    pub const WASM2: Self = Self::WASM1
        .union(Self::BULK_MEMORY)
        .union(Self::REFERENCE_TYPES)
        .union(Self::SIGN_EXTENSION)
        .union(Self::SATURATING_FLOAT_TO_INT)
        .union(Self::MULTI_VALUE)
        .union(Self::SIMD);
    /// WebAssembly 3.0, with threads. Parts of it are not implemented: see [`Config::wasm_features`].
    pub const WASM3: Self = Self::WASM2
        .union(Self::GC)
        .union(Self::TAIL_CALL)
        .union(Self::EXTENDED_CONST)
        .union(Self::FUNCTION_REFERENCES)
        .union(Self::MULTI_MEMORY)
        .union(Self::RELAXED_SIMD)
        .union(Self::THREADS)
        .union(Self::EXCEPTIONS)
        .union(Self::MEMORY64);
    /// "Lime1" of the tool conventions: what compilers of languages with linear memories may count on.
    pub const LIME1: Self = Self::WASM1
        .union(Self::MULTI_VALUE)
        .union(Self::SIGN_EXTENSION)
        .union(Self::SATURATING_FLOAT_TO_INT)
        .union(Self::BULK_MEMORY_OPT)
        .union(Self::EXTENDED_CONST)
        .union(Self::CALL_INDIRECT_OVERLONG);

    /// No proposal.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Every proposal with a name here.
    pub const fn all() -> Self {
        Self(ALL)
    }

    /// Whether every proposal with a name here is in the set.
    pub const fn is_all(&self) -> bool {
        self.0 == ALL
    }

    /// The set with the bits `bits`, if all have a meaning.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits & !ALL == 0 { Some(Self(bits)) } else { None }
    }

    /// The set with those of the bits `bits` that have a meaning.
    pub const fn from_bits_truncate(bits: u64) -> Self {
        Self(bits & ALL)
    }

    /// The proposal with the name of one of the constants here.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(feature, _)| *feature)
    }

    /// The proposals in the set, each alone.
    pub fn iter(&self) -> impl Iterator<Item = Self> + use<> {
        let set = *self;
        NAMES.iter().map(|(feature, _)| *feature).filter(move |feature| set.contains(*feature))
    }

    /// As [`iter`](Self::iter), with the names of the constants here.
    pub fn iter_names(&self) -> impl Iterator<Item = (&'static str, Self)> + use<> {
        let set = *self;
        NAMES.iter().filter(move |(feature, _)| set.contains(*feature)).map(|(feature, name)| (*name, *feature))
    }

    /// What is in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this set alone.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is in one of both sets.
    pub const fn symmetric_difference(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    /// What is not in the set.
    pub const fn complement(self) -> Self {
        Self(!self.0 & ALL)
    }

    /// Adds what is missing of `other`, and takes away what is not.
    pub fn toggle(&mut self, other: Self) {
        self.0 ^= other.0;
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

macro_rules! operators {
    ($($operator:ident $function:ident $by:ident, $assign:ident $assign_function:ident;)*) => {$(
        impl $operator for WasmFeatures {
            type Output = Self;

            fn $function(self, other: Self) -> Self {
                self.$by(other)
            }
        }

        impl $assign for WasmFeatures {
            fn $assign_function(&mut self, other: Self) {
                *self = self.$by(other);
            }
        }
    )*};
}

operators! {
    BitOr bitor union, BitOrAssign bitor_assign;
    BitAnd bitand intersection, BitAndAssign bitand_assign;
    BitXor bitxor symmetric_difference, BitXorAssign bitxor_assign;
    Sub sub difference, SubAssign sub_assign;
}

impl Not for WasmFeatures {
    type Output = Self;

    fn not(self) -> Self {
        self.complement()
    }
}

impl FromIterator<Self> for WasmFeatures {
    fn from_iter<I: IntoIterator<Item = Self>>(features: I) -> Self {
        features.into_iter().fold(Self::empty(), Self::union)
    }
}

impl Extend<Self> for WasmFeatures {
    fn extend<I: IntoIterator<Item = Self>>(&mut self, features: I) {
        features.into_iter().for_each(|feature| self.insert(feature));
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
    /// that switches it off. A part of a proposal that has a name of its own goes with the proposal.
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
            "a WebAssembly without its mutable globals, sign extension, saturating conversions, floats and types of references",
            "leave them on",
        )
    }

    /// The proposals that are on.
    pub fn get_wasm_features(&self) -> WasmFeatures {
        let on = self.features.proposals().into_iter().filter(|(_, on)| *on);
        on.fold(ALWAYS, |all, (name, _)| all | Self::flag_of(name))
    }

    /// The flag of a proposal, by its name.
    fn flag_of(name: &str) -> WasmFeatures {
        WasmFeatures::from_name(&name.to_uppercase()).expect("every proposal has a flag of its name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_proposal_has_a_flag() {
        let names = peregrine_wasm::Features::default().proposals();
        let all = names.into_iter().fold(WasmFeatures(0), |all, (name, _)| all | Config::flag_of(name));
        assert!(all.contains(WasmFeatures::SIMD | WasmFeatures::FUNCTION_REFERENCES) && !all.intersects(ALWAYS));
        assert_eq!(Config::new().get_wasm_features() - ALWAYS, all - WasmFeatures::FUNCTION_REFERENCES);
    }
}
