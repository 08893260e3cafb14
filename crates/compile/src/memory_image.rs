//! The initial content of memories, laid out so that it is mapped and not copied.
//!
//! Active data segments run in order, and the first one that does not fit traps, after those before it were written. So the longest
//! run of segments from the first one on is taken whose effect is known: each has a constant offset within the least size of a memory that
//! the module itself defines. The rest stays for instantiation. Core specification, section 4.7.2.

use peregrine_artifact::image::{MemoryImage, PAGE_ALIGN_BYTES};
use peregrine_wasm::{DataMode, DataSegment, DefinedMemoryIndex, ElementMode, Module};
use std::collections::BTreeSet;

/// Image bytes that any module may have.
const FREE_IMAGE_BYTES: u64 = 1 << 20;
/// Image bytes for each byte of data beyond that. Segments that are too far apart for it stay as they are.
const MAX_IMAGE_BYTES_PER_DATA_BYTE: u64 = 4;

/// Images and what they replace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryImages {
    /// By rising memory and offset, without overlap.
    pub(crate) images: Vec<MemoryImage>,
    /// The content of the image section.
    pub(crate) bytes: Vec<u8>,
    /// How many of the first data segments are contained.
    pub(crate) mapped_segments: usize,
}

/// One page of one memory.
type Page = (DefinedMemoryIndex, u64);

/// Lays out the images of a module whose data segments are ranges of `wasm`.
pub(crate) fn build(module: &Module, wasm: &[u8]) -> MemoryImages {
    if !elements_cannot_trap_visibly(module) {
        return MemoryImages::default();
    }
    let mut pages: BTreeSet<Page> = BTreeSet::new();
    let mut data_bytes = 0;
    let mut mapped_segments = 0;
    for segment in module.data.values() {
        let Some((memory, offset)) = known_place(module, segment) else { break };
        data_bytes += segment.len_bytes;
        let touched = pages_of(offset, segment.len_bytes);
        let all = pages.len() as u64 + touched.clone().filter(|page| !pages.contains(&(memory, *page))).count() as u64;
        if all * PAGE_ALIGN_BYTES > FREE_IMAGE_BYTES + data_bytes * MAX_IMAGE_BYTES_PER_DATA_BYTE {
            break;
        }
        pages.extend(touched.map(|page| (memory, page)));
        mapped_segments += 1;
    }
    let mut content = PageContent::new(pages);
    for segment in module.data.values().take(mapped_segments) {
        if let Some((memory, offset)) = known_place(module, segment) {
            let start = segment.start as usize;
            content.write(memory, offset, &wasm[start..start + segment.len_bytes as usize]);
        }
    }
    let (images, bytes) = content.into_images();
    MemoryImages { images, bytes, mapped_segments }
}

/// Whether no instance can tell that data was written before element segments ran. They run first: if one of them traps after another put
/// functions of this module into an imported table, those functions can be called, and the memory they see must have no data.
fn elements_cannot_trap_visibly(module: &Module) -> bool {
    module.imported_tables == 0
        || module.elements.values().all(|segment| match &segment.mode {
            ElementMode::Active { table, offset } => {
                let end = offset.as_offset().and_then(|offset| offset.checked_add(segment.items.len() as u64));
                end.is_some_and(|end| end <= module.tables[*table].ty.min)
            }
            ElementMode::Passive | ElementMode::Declared => true,
        })
}

/// Where an active segment goes, if that is known, certain to succeed and in a memory that can be mapped.
fn known_place(module: &Module, segment: &DataSegment) -> Option<(DefinedMemoryIndex, u64)> {
    let DataMode::Active { memory, offset } = &segment.mode else { return None };
    let defined = module.defined_memory_index(*memory)?;
    let ty = &module.memories[*memory];
    let offset = offset.as_offset()?;
    let fits = offset.checked_add(segment.len_bytes)? <= ty.min_bytes()?;
    (fits && ty.page_size_log2 == 16 && !ty.shared).then_some((defined, offset))
}

/// The pages that `len_bytes` at `offset` touch.
fn pages_of(offset: u64, len_bytes: u64) -> std::ops::Range<u64> {
    if len_bytes == 0 { 0..0 } else { offset / PAGE_ALIGN_BYTES..(offset + len_bytes).div_ceil(PAGE_ALIGN_BYTES) }
}

/// The content of some pages.
struct PageContent {
    pages: Vec<Page>,
    /// One page after the other.
    bytes: Vec<u8>,
}

impl PageContent {
    fn new(pages: BTreeSet<Page>) -> Self {
        let bytes = vec![0; pages.len() * PAGE_ALIGN_BYTES as usize];
        Self { pages: pages.into_iter().collect(), bytes }
    }

    /// Writes `data`, which touches none but these pages.
    fn write(&mut self, memory: DefinedMemoryIndex, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        // The pages that a segment touches follow each other here as they do in the memory.
        let page = offset / PAGE_ALIGN_BYTES;
        let position = self.pages.partition_point(|other| *other < (memory, page));
        let start = position * PAGE_ALIGN_BYTES as usize + (offset % PAGE_ALIGN_BYTES) as usize;
        self.bytes[start..start + data.len()].copy_from_slice(data);
    }

    /// One image for each run of pages that follow each other. Pages of zeros are left out: memories are zero anyway.
    fn into_images(mut self) -> (Vec<MemoryImage>, Vec<u8>) {
        let page_len = PAGE_ALIGN_BYTES as usize;
        let mut images: Vec<MemoryImage> = Vec::new();
        let mut kept = 0;
        for (position, &(memory, page)) in self.pages.iter().enumerate() {
            let source = position * page_len..(position + 1) * page_len;
            if self.bytes[source.clone()].iter().all(|byte| *byte == 0) {
                continue;
            }
            self.bytes.copy_within(source, kept * page_len);
            let (memory_offset, section_offset) = (page * PAGE_ALIGN_BYTES, kept as u64 * PAGE_ALIGN_BYTES);
            match images.last_mut() {
                Some(last) if last.memory == memory && last.memory_offset + last.len_bytes == memory_offset => {
                    last.len_bytes += PAGE_ALIGN_BYTES;
                }
                _ => images.push(MemoryImage { memory, memory_offset, section_offset, len_bytes: PAGE_ALIGN_BYTES }),
            }
            kept += 1;
        }
        self.bytes.truncate(kept * page_len);
        (images, self.bytes)
    }
}
