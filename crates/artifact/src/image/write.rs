//! Writes images.

use super::header::{FORMAT_VERSION, Header, MAGIC, PAGE_ALIGN_BYTES, Section, SectionRange};
use super::{FunctionEntry, ImageMeta, RelocEntry, SiteEntry, StubEntry, checksum};
use crate::settings::Settings;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// Everything an image consists of, linked and ready.
pub struct ImageParts<'a> {
    /// What the code was compiled with.
    pub settings: &'a Settings,
    /// The module and how to load it.
    pub meta: &'a ImageMeta,
    /// One for each defined function, in order.
    pub functions: &'a [FunctionEntry],
    /// One for each function type, in order.
    pub stubs: &'a [StubEntry],
    /// Streams of traps and addresses.
    pub tables: &'a [u8],
    /// Places in the text that refer to what is behind the image, by rising place.
    pub relocs: &'a [RelocEntry],
    /// Calls that count into cells.
    pub sites: &'a [SiteEntry],
    /// Functions with code by rising offset, if that is another order than their own.
    pub order: &'a [u32],
    /// A name (or nothing) for each function, imports included.
    pub names: &'a [&'a str],
    /// Bytes of data segments.
    pub data: &'a [u8],
    /// Bytes of custom sections.
    pub custom: &'a [u8],
    /// Bytes of DWARF sections.
    pub debug: &'a [u8],
    /// Initial content of memories.
    pub memory_image: &'a [u8],
    /// Machine code.
    pub text: &'a [u8],
}

/// The bytes of the image that consists of `parts`. The same parts give the same bytes.
pub fn write_image(parts: &ImageParts<'_>) -> Vec<u8> {
    let settings = postcard::to_stdvec(parts.settings).expect("settings are plain data");
    let meta = postcard::to_stdvec(parts.meta).expect("a module is plain data");
    let names = names_section(parts.names);
    let order: Vec<U32> = parts.order.iter().map(|index| U32::new(*index)).collect();
    // In the order of `Section`.
    let contents: [&[u8]; Section::COUNT] = [
        &settings,
        &meta,
        parts.functions.as_bytes(),
        order.as_bytes(),
        parts.stubs.as_bytes(),
        parts.tables,
        parts.relocs.as_bytes(),
        parts.sites.as_bytes(),
        &names,
        parts.data,
        parts.custom,
        parts.debug,
        parts.memory_image,
        parts.text,
    ];
    let header_len = size_of::<Header>();
    let capacity = contents.iter().map(|content| content.len() + 16).sum::<usize>() + header_len + 2 * PAGE_ALIGN_BYTES as usize;
    let mut image = Vec::with_capacity(capacity);
    image.resize(header_len, 0);

    let mut header = Header::new_zeroed();
    for (index, content) in contents.into_iter().enumerate() {
        let mapped = index == Section::MemoryImage as usize || index == Section::Text as usize;
        let align = if mapped && !content.is_empty() { PAGE_ALIGN_BYTES as usize } else { 8 };
        image.resize(image.len().next_multiple_of(align), 0);
        header.sections[index] = SectionRange { start: (image.len() as u64).into(), len_bytes: (content.len() as u64).into() };
        image.extend_from_slice(content);
    }
    header.magic = MAGIC;
    header.format_version = FORMAT_VERSION.into();
    header.functions = (parts.names.len() as u32).into();
    header.len_bytes = (image.len() as u64).into();
    header.settings_hash = parts.settings.hash();
    header.checksum = checksum(&image[header_len..]);
    header.header_checksum = checksum(header.as_bytes());
    image[..header_len].copy_from_slice(header.as_bytes());
    image
}

fn names_section(names: &[&str]) -> Vec<u8> {
    let mut section = Vec::with_capacity(names.len() * 4 + names.iter().map(|name| name.len()).sum::<usize>());
    let mut end = 0u32;
    for name in names {
        // Names come from one binary, which is smaller than 4 GiB.
        end += name.len() as u32;
        section.extend_from_slice(&end.to_le_bytes());
    }
    names.iter().for_each(|name| section.extend_from_slice(name.as_bytes()));
    section
}
