//! Reads images: checks them once, then gives their parts.

use super::header::{FORMAT_VERSION, FunctionEntry, Header, MAGIC, PAGE_ALIGN_BYTES, RelocEntry, Section, SiteEntry, StubEntry};
use super::{ImageMeta, checksum};
use crate::settings::Settings;
use crate::tables;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, Index, Trap, TypeIndex};
use std::fmt;
use std::ops::Range;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

/// Why bytes are not an image that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// They do not begin as an image does.
    NotAnImage,
    /// They end before the image does.
    Truncated {
        /// Bytes that the image has.
        expected_len_bytes: u64,
        /// Bytes that there are.
        found_len_bytes: u64,
    },
    /// Another version of Peregrine made it.
    Version {
        /// The version of the format found.
        found: u32,
    },
    /// The content does not match the checksum.
    Checksum,
    /// The checksum is right, but the content is not what a compiler writes.
    Malformed {
        /// Which part.
        part: &'static str,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnImage => f.write_str("not a Peregrine image"),
            Self::Truncated { expected_len_bytes, found_len_bytes } => {
                write!(f, "the image is truncated: {found_len_bytes} of {expected_len_bytes} bytes are there; compile it again")
            }
            Self::Version { found } => {
                write!(f, "the image has format version {found}, and this is version {FORMAT_VERSION}; compile it again")
            }
            Self::Checksum => f.write_str("the image is damaged: its checksum does not match its content; compile it again"),
            Self::Malformed { part } => write!(f, "the image is damaged: its {part} cannot be read; compile it again"),
        }
    }
}

impl std::error::Error for ImageError {}

/// Where the parts of a checked image are. Holds no bytes: the caller keeps them mapped and passes them in. Every method takes the same bytes
/// that [`ImageLayout::check`] was given.
#[derive(Clone, Debug)]
pub struct ImageLayout {
    sections: [Range<usize>; Section::COUNT],
    functions: u32,
    settings_hash: [u8; 32],
}

impl ImageLayout {
    /// Whether `bytes` begin as an image does.
    pub fn is_image(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Checks `bytes`: header, version, length, checksum and the places of all sections.
    ///
    /// # Errors
    ///
    /// Any [`ImageError`].
    pub fn check(bytes: &[u8]) -> Result<Self, ImageError> {
        let layout = Self::check_header(bytes)?;
        let (header, content) = Header::read_from_prefix(bytes).map_err(|_| ImageError::NotAnImage)?;
        if checksum(content) != header.checksum {
            return Err(ImageError::Checksum);
        }
        Ok(layout)
    }

    /// Checks the header of `bytes` and the places of all sections, but not their content: for content that was checked before and has not
    /// changed since.
    ///
    /// # Errors
    ///
    /// Any [`ImageError`].
    pub fn check_header(bytes: &[u8]) -> Result<Self, ImageError> {
        if !Self::is_image(bytes) {
            return Err(ImageError::NotAnImage);
        }
        let found_len_bytes = bytes.len() as u64;
        let Ok((mut header, _)) = Header::read_from_prefix(bytes) else {
            return Err(ImageError::Truncated { expected_len_bytes: size_of::<Header>() as u64, found_len_bytes });
        };
        // The version comes first: other versions may have another header.
        if header.format_version != FORMAT_VERSION {
            return Err(ImageError::Version { found: header.format_version.get() });
        }
        let header_checksum = std::mem::take(&mut header.header_checksum);
        if checksum(header.as_bytes()) != header_checksum {
            return Err(ImageError::Checksum);
        }
        if header.len_bytes != found_len_bytes {
            let expected_len_bytes = header.len_bytes.get();
            return Err(if found_len_bytes < expected_len_bytes {
                ImageError::Truncated { expected_len_bytes, found_len_bytes }
            } else {
                ImageError::Checksum
            });
        }
        let mut sections: [Range<usize>; Section::COUNT] = Default::default();
        for (range, section) in sections.iter_mut().zip(header.sections) {
            let (start, len) = (section.start.get() as usize, section.len_bytes.get() as usize);
            let end = start.checked_add(len).filter(|end| *end <= bytes.len());
            *range = start..end.ok_or(ImageError::Malformed { part: "section table" })?;
        }
        let layout = Self { sections, functions: header.functions.get(), settings_hash: header.settings_hash };
        layout.check_tables(bytes)?;
        Ok(layout)
    }

    /// Checks that fixed-size tables are whole and that mapped sections are aligned.
    fn check_tables(&self, bytes: &[u8]) -> Result<(), ImageError> {
        for (section, part) in [(Section::Text, "text"), (Section::MemoryImage, "memory image")] {
            let range = self.range(section);
            if !range.is_empty() && !(range.start as u64).is_multiple_of(PAGE_ALIGN_BYTES) {
                return Err(ImageError::Malformed { part });
            }
        }
        let whole = <[FunctionEntry]>::ref_from_bytes(self.section(bytes, Section::Functions)).is_ok()
            && <[StubEntry]>::ref_from_bytes(self.section(bytes, Section::Stubs)).is_ok()
            && <[RelocEntry]>::ref_from_bytes(self.section(bytes, Section::Relocs)).is_ok()
            && <[SiteEntry]>::ref_from_bytes(self.section(bytes, Section::Sites)).is_ok()
            && <[U32]>::ref_from_bytes(self.section(bytes, Section::Order)).is_ok()
            && self.range(Section::Names).len() >= self.functions as usize * 4;
        if whole { Ok(()) } else { Err(ImageError::Malformed { part: "function table" }) }
    }

    /// Where a section is.
    pub fn range(&self, section: Section) -> Range<usize> {
        self.sections[section as usize].clone()
    }

    /// The bytes of a section.
    pub fn section<'a>(&self, bytes: &'a [u8], section: Section) -> &'a [u8] {
        &bytes[self.range(section)]
    }

    /// Identity of the settings that the code was compiled with.
    pub fn settings_hash(&self) -> &[u8; 32] {
        &self.settings_hash
    }

    /// How many functions the module has, imports included: the number of entry slots.
    pub fn function_count(&self) -> usize {
        self.functions as usize
    }

    /// The settings that the code was compiled with.
    ///
    /// # Errors
    ///
    /// [`ImageError::Malformed`].
    pub fn settings(&self, bytes: &[u8]) -> Result<Settings, ImageError> {
        postcard::from_bytes(self.section(bytes, Section::Settings)).map_err(|_| ImageError::Malformed { part: "settings" })
    }

    /// The module and how to load it, checked against the tables: every index and range that the engine follows is in bounds.
    ///
    /// # Errors
    ///
    /// [`ImageError::Malformed`].
    pub fn meta(&self, bytes: &[u8]) -> Result<ImageMeta, ImageError> {
        let malformed = |part| ImageError::Malformed { part };
        let meta: ImageMeta = postcard::from_bytes(self.section(bytes, Section::Meta)).map_err(|_| malformed("module"))?;
        let module = &meta.module;
        let counts_match = module.functions.len() == self.function_count()
            && (module.imported_functions as usize) <= module.functions.len()
            && self.functions(bytes).len() == module.defined_functions()
            && self.stubs(bytes).len() == module.types.len();
        if !counts_match || !super::check::is_whole(&meta) {
            return Err(malformed("module"));
        }
        let within = |start: u64, len: u64, section| start.checked_add(len).is_some_and(|end| end <= self.range(section).len() as u64);
        let data_fits = module.data.values().all(|segment| within(segment.start, segment.len_bytes, Section::Data));
        let images_fit = meta.memory_images.iter().all(|image| within(image.section_offset, image.len_bytes, Section::MemoryImage));
        let custom_fits = module.custom_sections.iter().all(|section| within(section.start, section.len_bytes, Section::Custom));
        let debug_fits = meta.debug_sections.iter().all(|(_, start, len)| within(*start, *len, Section::Debug));
        if data_fits && images_fit && custom_fits && debug_fits { Ok(meta) } else { Err(malformed("section ranges")) }
    }

    /// Defined functions.
    pub fn functions<'a>(&self, bytes: &'a [u8]) -> &'a [FunctionEntry] {
        // Checked in `check_tables`.
        <[FunctionEntry]>::ref_from_bytes(self.section(bytes, Section::Functions)).unwrap_or(&[])
    }

    /// Stubs, one entry for each function type.
    pub fn stubs<'a>(&self, bytes: &'a [u8]) -> &'a [StubEntry] {
        // Checked in `check_tables`.
        <[StubEntry]>::ref_from_bytes(self.section(bytes, Section::Stubs)).unwrap_or(&[])
    }

    /// Places in the text that refer to what is behind the image, by rising place.
    pub fn relocs<'a>(&self, bytes: &'a [u8]) -> &'a [RelocEntry] {
        // Checked in `check_tables`.
        <[RelocEntry]>::ref_from_bytes(self.section(bytes, Section::Relocs)).unwrap_or(&[])
    }

    /// Calls that count into cells, by rising function.
    pub fn sites<'a>(&self, bytes: &'a [u8]) -> &'a [SiteEntry] {
        // Checked in `check_tables`.
        <[SiteEntry]>::ref_from_bytes(self.section(bytes, Section::Sites)).unwrap_or(&[])
    }

    /// Which of [`Self::sites`] are those of a function.
    pub fn sites_of(&self, bytes: &[u8], function: DefinedFuncIndex) -> Range<usize> {
        let (sites, index) = (self.sites(bytes), function.as_u32());
        sites.partition_point(|site| site.function.get() < index)..sites.partition_point(|site| site.function.get() <= index)
    }

    /// Defined functions by rising code offset, those without code perhaps left out.
    pub fn functions_by_code<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (DefinedFuncIndex, FunctionEntry)> + use<'a> {
        let (functions, order) = (self.functions(bytes), self.order(bytes));
        let count = if order.is_empty() { functions.len() } else { order.len() };
        let index = move |position: usize| order.get(position).map_or(position, |index| index.get() as usize);
        (0..count).map(index).filter_map(|index| Some((DefinedFuncIndex::from_usize(index), *functions.get(index)?)))
    }

    /// See [`Section::Order`].
    fn order<'a>(&self, bytes: &'a [u8]) -> &'a [U32] {
        // Checked in `check_tables`.
        <[U32]>::ref_from_bytes(self.section(bytes, Section::Order)).unwrap_or(&[])
    }

    /// The stubs for the function type `ty`.
    pub fn stub(&self, bytes: &[u8], ty: TypeIndex) -> Option<StubEntry> {
        self.stubs(bytes).get(ty.as_usize()).copied()
    }

    /// The defined function whose code contains the offset `text_offset` of the text. Signal-safe.
    pub fn function_at(&self, bytes: &[u8], text_offset: u32) -> Option<(DefinedFuncIndex, FunctionEntry)> {
        let (functions, order) = (self.functions(bytes), self.order(bytes));
        let starts_before = |function: &FunctionEntry| function.code_start.get() <= text_offset;
        let position = if order.is_empty() {
            functions.partition_point(starts_before).checked_sub(1)?
        } else {
            let after = order.partition_point(|index| functions.get(index.get() as usize).is_some_and(starts_before));
            order[after.checked_sub(1)?].get() as usize
        };
        let function = *functions.get(position)?;
        let inside = text_offset - function.code_start.get() < function.code_len.get();
        inside.then(|| (DefinedFuncIndex::from_usize(position), function))
    }

    /// Why the instruction at `text_offset` of the text traps, if it does. Signal-safe.
    pub fn trap_at(&self, bytes: &[u8], text_offset: u32) -> Option<Trap> {
        let (_, function) = self.function_at(bytes, text_offset)?;
        let start = function.tables_start.get() as usize;
        let stream = self.section(bytes, Section::Tables).get(start..)?.get(..function.traps_len.get() as usize)?;
        tables::traps::lookup(stream, text_offset - function.code_start.get())
    }

    /// The functions that the code at `text_offset` belongs to, newest call first, and where in the binary: several where functions were compiled
    /// into their callers. None in stubs, and where a loop entry is called, whose frame stands for that of the caller.
    pub fn frames_at(&self, bytes: &[u8], text_offset: u32) -> Vec<(DefinedFuncIndex, Option<u32>)> {
        let Some((index, function)) = self.function_at(bytes, text_offset) else { return Vec::new() };
        let functions = self.functions(bytes);
        let start = function.tables_start.get() as usize + function.traps_len.get() as usize;
        let tables = self.section(bytes, Section::Tables).get(start..);
        let stream = tables.and_then(|stream| stream.get(..function.addresses_len.get() as usize)).unwrap_or_default();
        if stream.is_empty() {
            return vec![(index, None)];
        }
        let frames = tables::addresses::frames(stream, text_offset - function.code_start.get());
        let place = |frame: tables::addresses::Frame| {
            let function = frame.function.unwrap_or(index);
            let body_start = functions.get(function.as_usize())?.body_start.get();
            Some((function, body_start.checked_add(frame.offset)))
        };
        frames.into_iter().filter_map(place).collect()
    }

    /// The name of a function, if it has one.
    pub fn function_name<'a>(&self, bytes: &'a [u8], index: FuncIndex) -> Option<&'a str> {
        let (ends, names) = self.section(bytes, Section::Names).split_at_checked(self.function_count() * 4)?;
        let end_of = |position: usize| {
            let end = ends.get(position * 4..position * 4 + 4)?;
            Some(u32::from_le_bytes(end.try_into().ok()?) as usize)
        };
        let position = index.as_usize();
        let start = if position == 0 { 0 } else { end_of(position - 1)? };
        let name = std::str::from_utf8(names.get(start..end_of(position)?)?).ok()?;
        (!name.is_empty()).then_some(name)
    }
}
