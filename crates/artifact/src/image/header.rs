//! The fixed part of an image and the fixed-size entries of its tables.

use crate::compiler::CompilerKind;
use crate::contract::CONTRACT_HASH;
use crate::func::{Reloc, RelocKind, RelocTarget};
use peregrine_wasm::{DefinedFuncIndex, FuncIndex};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of every image. Not text, not WebAssembly, and damaged by transfers that change line ends.
pub const MAGIC: [u8; 8] = *b"\x7fPGN\r\n\x1a\n";

/// Raised with every change of the format or of what code expects from the engine.
const REVISION: u32 = 9;

/// What an image has to say to be read: the revision of the format, and 16 bits of [what code expects](CONTRACT_HASH).
pub const FORMAT_VERSION: u32 = REVISION << 16 | (CONTRACT_HASH >> 48) as u32;

/// Alignment of text and memory images in the file: the largest page size among the targets.
pub const PAGE_ALIGN_BYTES: u64 = 64 << 10;

/// The parts of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Section {
    /// The settings, serialized.
    Settings,
    /// [`super::ImageMeta`], serialized.
    Meta,
    /// A [`FunctionEntry`] for each defined function.
    Functions,
    /// `u32` indices of the defined functions that have code, by rising code offset. Nothing if that is the order of the functions.
    Order,
    /// A [`StubEntry`] for each function type and kind of stub.
    Stubs,
    /// Streams of traps and addresses, see [`crate::tables`].
    Tables,
    /// A [`RelocEntry`] for each place in the text that refers to what is behind the image, by rising place. Only with
    /// [`crate::settings::Tiering`]: so that code can be added.
    Relocs,
    /// A [`SiteEntry`] for each call that counts into a cell, by rising function and in the order of [`crate::func::CompiledFunc::sites`]. The
    /// cell of the first is that after the one that is shared, and so on.
    Sites,
    /// `u32` ends of names of all functions (imports included), then the names one after the other in UTF-8. An empty name is none.
    Names,
    /// Bytes of data segments.
    Data,
    /// Bytes of custom sections.
    Custom,
    /// Bytes of DWARF sections.
    Debug,
    /// Initial content of memories.
    MemoryImage,
    /// Machine code.
    Text,
}

impl Section {
    /// How many sections there are.
    pub const COUNT: usize = Self::Text as usize + 1;
}

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`FORMAT_VERSION`].
    pub format_version: U32,
    /// How many functions the module has, imports included: the number of entry slots.
    pub functions: U32,
    /// Bytes of the whole image.
    pub len_bytes: U64,
    /// [`super::checksum`] of everything after the header.
    pub checksum: [u8; 16],
    /// [`super::checksum`] of the header with this field zero.
    pub header_checksum: [u8; 16],
    /// [`crate::settings::Settings::hash`].
    pub settings_hash: [u8; 32],
    /// Start and length in bytes of each section.
    pub sections: [SectionRange; Section::COUNT],
}

/// Where a section is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SectionRange {
    /// Bytes from the start of the image.
    pub start: U64,
    /// Bytes.
    pub len_bytes: U64,
}

/// One defined function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FunctionEntry {
    /// Where its code begins in the text, in bytes.
    pub code_start: U32,
    /// Bytes of code.
    pub code_len: U32,
    /// Where its trap stream begins in the tables, in bytes; its address stream follows.
    pub tables_start: U32,
    /// Bytes of the trap stream.
    pub traps_len: U32,
    /// Bytes of the address stream.
    pub addresses_len: U32,
    /// Where its body begins in the binary, in bytes.
    pub body_start: U32,
    /// What made its code: see [`Self::tier`].
    pub tier: U32,
}

impl FunctionEntry {
    /// What [`Self::tier`] is for code of a compiler.
    pub fn tier_number(kind: CompilerKind) -> u32 {
        match kind {
            CompilerKind::Baseline => 1,
            CompilerKind::Optimizing => 2,
        }
    }

    /// Which compiler made its code, if there is code.
    pub fn tier(&self) -> Option<CompilerKind> {
        match self.tier.get() {
            _ if self.code_len == 0 => None,
            1 => Some(CompilerKind::Baseline),
            _ => Some(CompilerKind::Optimizing),
        }
    }
}

/// A call whose code counts what it goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SiteEntry {
    /// Index of the defined function.
    pub function: U32,
    /// Offset of the operator in its body, in bytes.
    pub offset: U32,
}

/// A place in the text that refers to an entry slot, a budget or a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RelocEntry {
    /// Where in the text, in bytes.
    pub place: U32,
    /// The kind in the low byte; in the next one, 0 for a slot, 1 for a budget and 2 for a cell.
    pub kind_and_target: U32,
    /// Index of the function, among all for a slot, among defined ones for a budget; position in [`Section::Sites`] for a cell.
    pub index: U32,
    /// What is added to the address, in two's complement.
    pub addend: U32,
}

impl RelocEntry {
    /// The entry for `reloc`, whose code begins at `code_start`. The site of a cell is that in
    /// [`Section::Sites`]. `None` if it refers to code, or the addend is beyond 32 bits.
    pub fn new(code_start: u32, reloc: &Reloc) -> Option<Self> {
        let kind: u32 = match reloc.kind {
            RelocKind::X64Rel32 => 0,
            RelocKind::Aarch64Call26 => 1,
            RelocKind::Riscv64CallPair => 2,
            RelocKind::S390xRel32Halfwords => 3,
        };
        let (target, index) = match reloc.target {
            RelocTarget::Function(_) => return None,
            RelocTarget::Slot(function) => (0, function.as_u32()),
            RelocTarget::Budget(function) => (1, function.as_u32()),
            RelocTarget::Cell(site) => (2, site),
        };
        let addend = i32::try_from(reloc.addend).ok()? as u32;
        let place = code_start.checked_add(reloc.offset)?;
        Some(Self { place: place.into(), kind_and_target: (kind | target << 8).into(), index: index.into(), addend: addend.into() })
    }

    /// What it stands for, in code that begins at `code_start`. `None` if it is before that, or damaged.
    pub fn reloc(&self, code_start: u32) -> Option<Reloc> {
        let kind = match self.kind_and_target.get() & 0xff {
            0 => RelocKind::X64Rel32,
            1 => RelocKind::Aarch64Call26,
            2 => RelocKind::Riscv64CallPair,
            3 => RelocKind::S390xRel32Halfwords,
            _ => return None,
        };
        let target = match self.kind_and_target.get() >> 8 {
            0 => RelocTarget::Slot(FuncIndex::from_u32(self.index.get())),
            1 => RelocTarget::Budget(DefinedFuncIndex::from_u32(self.index.get())),
            2 => RelocTarget::Cell(self.index.get()),
            _ => return None,
        };
        let addend = i64::from(self.addend.get() as i32);
        Some(Reloc { offset: self.place.get().checked_sub(code_start)?, kind, target, addend })
    }
}

/// The stubs for one function type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StubEntry {
    /// Where the Enter stub begins in the text, in bytes.
    pub enter_start: U32,
    /// Bytes of the Enter stub.
    pub enter_len: U32,
    /// Where the Exit stub begins in the text, in bytes.
    pub exit_start: U32,
    /// Bytes of the Exit stub.
    pub exit_len: U32,
}
