//! Everything that changes compiled code. Two compilations of the same bytes with equal settings give the same image.

use peregrine_wasm::{Features, MemoryType};
use serde::{Deserialize, Serialize};

/// The processor and system that code is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The target triple, `x86_64-unknown-linux-gnu` for example.
    pub triple: String,
    /// Features of the processor that code may use, sorted, by the names the compiler gives them (`has_avx2`).
    pub cpu_features: Vec<String>,
}

/// How much work the optimizing tier does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OptLevel {
    /// Compile fast.
    None,
    /// Run fast.
    #[default]
    Speed,
    /// Run fast, and prefer small code where it costs little.
    SpeedAndSize,
}

/// Whether functions can be compiled one by one while the module runs, and again when they turn out to be hot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tiering {
    /// The whole module is compiled before it runs; functions call each other directly.
    #[default]
    Whole,
    /// Functions call each other through entry slots, so that each can be compiled when it is first called, and replaced.
    Slots,
    /// As [`Tiering::Slots`]; code of the baseline also counts down a budget at entries and loop heads, and tells the engine when it is used up.
    Counted,
}

/// Everything that changes compiled code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// The processor and system.
    pub target: Target,
    /// How much work the optimizing tier does.
    pub opt_level: OptLevel,
    /// Accepted proposals.
    pub features: Features,
    /// Address space behind each 32-bit memory, in bytes, without the guard. At least 4 GiB elides bounds checks.
    pub memory_reservation_bytes: u64,
    /// Inaccessible address space after the reservation, in bytes. Accesses with a static offset below it need no check.
    pub memory_guard_bytes: u64,
    /// Inaccessible bytes below a guest stack. Larger frames touch every page of themselves.
    pub stack_guard_bytes: u32,
    /// Whether loops and functions look at the interrupt page.
    pub interrupt: bool,
    /// Whether executed instructions are counted.
    pub fuel: bool,
    /// Whether every computed NaN has the one canonical bit pattern.
    pub nan_canonicalization: bool,
    /// Whether bounds checks and indirect calls resist speculation.
    pub spectre_mitigations: bool,
    /// Whether DWARF sections are kept for source lines in backtraces.
    pub debug_info: bool,
    /// Whether small functions of the module are compiled into their callers.
    pub inlining: bool,
    /// How functions reach each other.
    pub tiering: Tiering,
    /// What the embedder marks images with. Changes no code.
    pub module_version: String,
}

/// Up to this maximum a memory is [`MemoryStyle::Checked`].
pub const SMALL_MEMORY_BYTES: u64 = 1 << 20;

/// How accesses to one memory are kept inside of it. Compilers and engine derive it by the same function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryStyle {
    /// Every address that a 32-bit index can form is reserved, and what lies beyond the size faults: no checks for static offsets below the guard.
    Guarded,
    /// Every access is compared with the size.
    Checked,
}

impl Settings {
    /// Defaults for `target`: everything on that costs nothing.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            opt_level: OptLevel::Speed,
            features: Features::default(),
            memory_reservation_bytes: 4 << 30,
            memory_guard_bytes: 32 << 20,
            stack_guard_bytes: 64 << 10,
            interrupt: false,
            fuel: false,
            nan_canonicalization: false,
            spectre_mitigations: true,
            debug_info: true,
            inlining: true,
            tiering: Tiering::Whole,
            module_version: String::new(),
        }
    }

    /// How accesses to a memory of type `ty` are kept inside of it. One that can never be large is not worth the address space that spares
    /// the checks.
    pub fn memory_style(&self, ty: &MemoryType) -> MemoryStyle {
        let is_small = ty.max_pages.is_some() && ty.max_bytes() <= SMALL_MEMORY_BYTES;
        if self.may_be_guarded(ty) && !is_small { MemoryStyle::Guarded } else { MemoryStyle::Checked }
    }

    /// Whether code elsewhere may take a memory of type `ty` for a guarded one: an import need not name the maximum that the memory has. So
    /// such a memory, if others can reach it, must have the address space of a guarded one, however its own module accesses it.
    pub fn may_be_guarded(&self, ty: &MemoryType) -> bool {
        !ty.memory64 && ty.page_size_log2 == 16 && self.memory_reservation_bytes >= 4 << 30
    }

    /// The 32-byte identity of these settings.
    pub fn hash(&self) -> [u8; 32] {
        let bytes = postcard::to_stdvec(self).expect("settings are plain data");
        blake3::hash(&bytes).into()
    }
}
