//! The image: one mappable, position-independent file with the code of a module and all that running it needs.
//!
//! ```text
//! header | settings | meta | functions | order | stubs | tables | relocs | sites | names | data | custom | debug
//!        | (page) memory image | (page) text
//! ```
//!
//! The header is fixed; sections are found through it. Text and memory image start at multiples of [`PAGE_ALIGN_BYTES`], so that they
//! are mapped, not read. After the mapped text, in memory only, follow the module's entry slots, see [`EntryArea`]. A function without code
//! (its length is 0) is compiled when it is first called, see [`crate::settings::Tiering`].
//! Everything is little-endian.

mod check;
mod entry;
mod header;
mod read;
mod write;

pub use entry::{BUDGET_CALLS_OFFSET, BUDGET_SIZE_BYTES, CELL_SIZE_BYTES, EntryArea, SLOT_SIZE_BYTES};
pub use header::{FORMAT_VERSION, FunctionEntry, MAGIC, PAGE_ALIGN_BYTES, RelocEntry, Section, SiteEntry, StubEntry};
pub use read::{ImageError, ImageLayout};
pub use write::{ImageParts, write_image};

use crate::allowance::ModuleSizes;
use peregrine_wasm::{DefinedMemoryIndex, Module};
use serde::{Deserialize, Serialize};

/// What is decoded when an image is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMeta {
    /// The module. Data segments and custom sections are ranges of [`Section::Data`] and [`Section::Custom`].
    pub module: Module,
    /// Initial content of memories that can be mapped, in place of running their active segments.
    pub memory_images: Vec<MemoryImage>,
    /// How many data segments before those in `module` are contained in `memory_images`. They need no copying and count as dropped.
    pub mapped_data_segments: u32,
    /// DWARF sections in [`Section::Debug`]: name, start, length in bytes.
    pub debug_sections: Vec<(Box<str>, u64, u64)>,
    /// Length of the binary that the image was made from, in bytes.
    pub wasm_len_bytes: u64,
    /// Offset in the binary where its last function body ends: data, names and others may follow. 0 if there is none.
    pub bodies_end: u64,
    /// Offset in the binary of its code section's contents: what DWARF addresses count from.
    pub code_section_offset: u64,
    /// What a budget limits of the binary.
    pub sizes: ModuleSizes,
    /// Whether the binary says which branches are likely taken: that is not in the image.
    pub has_branch_hints: bool,
}

/// Initial content of one memory: a part of [`Section::MemoryImage`] to map at an offset of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryImage {
    /// The memory.
    pub memory: DefinedMemoryIndex,
    /// Where in the memory it goes, in bytes; a multiple of [`PAGE_ALIGN_BYTES`].
    pub memory_offset: u64,
    /// Where in the section it begins, in bytes; a multiple of [`PAGE_ALIGN_BYTES`].
    pub section_offset: u64,
    /// How many bytes there are; a multiple of [`PAGE_ALIGN_BYTES`], and within the memory's minimum.
    pub len_bytes: u64,
}

/// The checksum of images: 128 bits against accidents, not against malice (an image is code, trusted as a program file is).
pub fn checksum(bytes: &[u8]) -> [u8; 16] {
    twox_hash::XxHash3_128::oneshot(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests;
