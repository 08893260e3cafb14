//! The fixed part of an image and the fixed-size entries of its tables.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of every image. Not text, not WebAssembly, and damaged by transfers that change line ends.
pub const MAGIC: [u8; 8] = *b"\x7fPGN\r\n\x1a\n";

/// Raised with every change of the format or of what code expects from the engine.
pub const FORMAT_VERSION: u32 = 1;

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
    /// A [`FunctionEntry`] for each defined function, by rising code offset.
    Functions,
    /// A [`StubEntry`] for each function type and kind of stub.
    Stubs,
    /// Streams of traps and addresses, see [`crate::tables`].
    Tables,
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
