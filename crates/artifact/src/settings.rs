//! Everything that changes compiled code. Two compilations of the same bytes with equal settings give the same image.

use peregrine_wasm::{Features, MemoryIndex, MemoryType, Module};
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
    /// Address space behind each 32-bit memory, in bytes, without the guard. At least 4 GiB elides bounds checks; below that, code checks
    /// every access.
    pub memory_reservation_bytes: u64,
    /// Inaccessible address space after the reservation, in bytes. Accesses with a static offset below it need no check.
    pub memory_guard_bytes: u64,
    /// Whether memories may move, to grow beyond their reservation or to get a larger one for code that relies on it.
    pub memory_may_move: bool,
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
    /// Whether code keeps the values of locals in its frames, for core dumps: see "kept locals" in [`crate::abi`].
    pub keeps_locals: bool,
    /// How functions reach each other.
    pub tiering: Tiering,
    /// What the embedder marks images with. Changes no code.
    pub module_version: String,
}

/// Up to this size a memory is small: not worth the address space that spares checks.
pub const SMALL_MEMORY_BYTES: u64 = 1 << 20;
/// The most that a memory without such a maximum begins with to be accessed with checks, in bytes: one page. Code that works on more is more often
/// worth its address space.
const SMALL_AT_FIRST_BYTES: u64 = 64 << 10;

/// What the code of one module relies on when it accesses one of its memories. Compilers and engine derive it by the same function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryStyle {
    /// Every address that a 32-bit index can form is reserved, and what lies beyond the size faults: no checks for static offsets below the
    /// guard. The memory never moves.
    Guarded,
    /// Nothing: every access is compared with the size, and the memory may move in any call, so its base is loaded again after each.
    Small,
    /// Every access is compared with the size. The memory never moves.
    Exact,
}

impl MemoryStyle {
    /// Whether every access is compared with the size.
    pub fn is_checked(self) -> bool {
        self != Self::Guarded
    }

    /// Whether the base stays the same in calls.
    pub fn has_constant_base(self) -> bool {
        self != Self::Small
    }
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
            memory_may_move: true,
            stack_guard_bytes: 64 << 10,
            interrupt: false,
            fuel: false,
            nan_canonicalization: false,
            spectre_mitigations: true,
            debug_info: true,
            inlining: true,
            keeps_locals: false,
            tiering: Tiering::Whole,
            module_version: String::new(),
        }
    }

    /// What code of `module` relies on when it accesses `memory`.
    ///
    /// A memory that others can reach may be given to code that relies on the guard: then it moves to a larger reservation. So only what
    /// is the module's alone is known to stay where it is.
    pub fn memory_style(&self, module: &Module, memory: MemoryIndex) -> MemoryStyle {
        let ty = &module.memories[memory];
        let never_large = ty.max_pages.is_some() && ty.max_bytes() <= SMALL_MEMORY_BYTES;
        // What no reservation could spare the checks of is worth none.
        let is_checked = never_large || !self.may_be_guarded(ty);
        let movable = if self.memory_may_move { MemoryStyle::Small } else { MemoryStyle::Exact };
        match module.defined_memory_index(memory) {
            _ if ty.shared && is_checked => MemoryStyle::Exact,
            _ if ty.shared => MemoryStyle::Guarded,
            None if is_checked => movable,
            None => MemoryStyle::Guarded,
            Some(_) if never_large && !module.exported_memories.contains(&memory) => MemoryStyle::Exact,
            Some(_) if is_checked => movable,
            // It grows by the hand of others alone, if at all.
            Some(_) if self.memory_may_move && is_small_at_first(ty) && !module.grown_memories.contains(&memory) => MemoryStyle::Small,
            Some(_) => MemoryStyle::Guarded,
        }
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

/// Whether a memory of type `ty` is [`MemoryStyle::Small`] if the module that defines it does not grow it.
pub fn is_small_at_first(ty: &MemoryType) -> bool {
    !ty.shared && !ty.memory64 && ty.min_bytes().is_some_and(|bytes| bytes <= SMALL_AT_FIRST_BYTES)
}
