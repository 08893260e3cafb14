//! What a tier makes of one function or stub.

use crate::compiler::CompilerKind;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, Trap};

/// Machine code of one function or stub, not linked yet. All offsets count bytes from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompiledFunc {
    /// The code.
    pub code: Vec<u8>,
    /// Places to fill in when the addresses of functions are known.
    pub relocs: Vec<Reloc>,
    /// Instructions that can trap: offset and reason, by rising offset.
    pub traps: Vec<(u32, Trap)>,
    /// Where code comes from: offset in the code, and offset in the binary relative to the start of the body (the byte after its length),
    /// by rising offset in the code; each holds up to the next. The call of a loop entry has no offset but
    /// [`LOOP_ENTRY_CALL`](crate::tables::addresses::LOOP_ENTRY_CALL), to be passed over in backtraces. Code of functions that were compiled into
    /// this one has several entries at one place: see [`crate::tables::addresses`].
    pub addresses: Vec<(u32, u32)>,
    /// Indirect and reference calls that count where they go, by the number of their cell: the offset of the operator in the body, in bytes.
    pub sites: Vec<u32>,
    /// What made it. Without meaning for stubs.
    pub tier: CompilerKind,
    /// Where in a line of the processor's caches the code is best begun, if that matters.
    pub line_offset: Option<LineOffset>,
}

/// The bytes of a line of the processor's caches, of those that there is code for.
pub const LINE_BYTES: usize = 64;

/// A place in a line where code may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineOffset(u8);

impl LineOffset {
    /// Code begins at multiples of this.
    const STEP_BYTES: usize = 16;

    /// All that there are, by their distance from the beginning of the line.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..LINE_BYTES).step_by(Self::STEP_BYTES).map(|bytes| Self(bytes as u8))
    }

    /// Where the code at `address` begins in its line. `None` if code does not begin there.
    pub fn of(address: usize) -> Option<Self> {
        address.is_multiple_of(Self::STEP_BYTES).then_some(Self((address % LINE_BYTES) as u8))
    }

    /// The distance from the beginning of the line.
    pub fn bytes(self) -> usize {
        usize::from(self.0)
    }

    /// The first such place from `address` on. `None` if there is none.
    pub fn next(self, address: usize) -> Option<usize> {
        address.checked_add(self.bytes().wrapping_sub(address) % LINE_BYTES)
    }
}

/// One place in the code that depends on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloc {
    /// Where in the code.
    pub offset: u32,
    /// How to write the address.
    pub kind: RelocKind,
    /// Whose address.
    pub target: RelocTarget,
    /// What to add to it.
    pub addend: i64,
}

/// What code refers to by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelocTarget {
    /// The code of a function.
    Function(FuncIndex),
    /// The entry slot of a function: a code pointer that is read at every call. See [`crate::settings::Tiering`].
    Slot(FuncIndex),
    /// The work budget of a function: an `i32` that code of the baseline counts down, and a `u32` that it counts up at its entry. See
    /// [`crate::settings::Tiering::Counted`].
    Budget(DefinedFuncIndex),
    /// The [`VmCallCell`](crate::vmctx::VmCallCell) of one of [`CompiledFunc::sites`]. In images,
    /// of one of [`Section::Sites`](crate::image::Section::Sites).
    Cell(u32),
}

/// How an address is written. All kinds are relative to the place, so that an image needs no relocation when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelocKind {
    /// x86-64: 32 bits, relative to the place (the addend counts to the end of the instruction).
    X64Rel32,
    /// aarch64: the 26-bit word offset of `b` and `bl`.
    Aarch64Call26,
    /// riscv64: an `auipc`, `jalr` pair.
    Riscv64CallPair,
    /// s390x: 32 bits, relative to the place, counting halfwords.
    S390xRel32Halfwords,
}
