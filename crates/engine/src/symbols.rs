//! From places in a binary to places in its source, by the DWARF sections in the image.

use crate::backtrace::FrameSymbol;
use crate::vm::LoadedModule;
use peregrine_artifact::image::Section;
use std::fmt;

type Bytes<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;

/// The source places of each of `offsets` in the binary of `module`; none where nothing is known. Damaged sections count as missing.
pub(crate) fn resolve(module: &LoadedModule, offsets: &[Option<usize>]) -> Vec<Vec<FrameSymbol>> {
    let Some(context) = context(module) else { return vec![Vec::new(); offsets.len()] };
    let code_section = module.meta().code_section_offset;
    let place = |offset: &Option<usize>| {
        let address = offset.and_then(|offset| (offset as u64).checked_sub(code_section));
        address.map(|address| places(&context, address)).unwrap_or_default()
    };
    offsets.iter().map(place).collect()
}

fn context(module: &LoadedModule) -> Option<addr2line::Context<Bytes<'_>>> {
    let sections = &module.meta().debug_sections;
    if sections.is_empty() {
        return None;
    }
    let bytes = module.section(Section::Debug);
    let load = |id: gimli::SectionId| {
        let section = sections.iter().find(|(name, ..)| **name == *id.name());
        let content = section.and_then(|(_, start, len)| bytes.get(*start as usize..)?.get(..*len as usize)).unwrap_or(&[]);
        Ok::<_, gimli::Error>(Bytes::new(content, gimli::LittleEndian))
    };
    addr2line::Context::from_dwarf(gimli::Dwarf::load(load).ok()?).ok()
}

fn places(context: &addr2line::Context<Bytes<'_>>, address: u64) -> Vec<FrameSymbol> {
    let mut found = Vec::new();
    let Ok(mut frames) = context.find_frames(address).skip_all_loads() else { return found };
    while let Ok(Some(frame)) = frames.next() {
        let name = frame.function.as_ref().and_then(|function| Some(function.raw_name().ok()?.into_owned()));
        let location = frame.location.as_ref();
        found.push(FrameSymbol {
            name,
            file: location.and_then(|location| location.file).map(str::to_owned),
            line: location.and_then(|location| location.line),
            column: location.and_then(|location| location.column),
        });
    }
    found
}

/// The name as its source language writes it, if it is a mangled one of Rust or C++.
pub(crate) fn demangle(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    // The demangler takes short plain names for types: `l` for `long`.
    if !["_Z", "__Z", "_GLOBAL_"].iter().any(|prefix| name.starts_with(prefix)) {
        return name.to_owned();
    }
    let mut demangled = Bounded { text: String::new() };
    let written =
        cpp_demangle::Symbol::new(name).is_ok_and(|symbol| symbol.structured_demangle(&mut demangled, &Default::default()).is_ok());
    if written { demangled.text } else { name.to_owned() }
}

/// Text that ends with an error when it becomes too long: names are the guest's, and each letter can double what they stand for.
struct Bounded {
    text: String,
}

/// Longer names are shown as they are.
const MAX_DEMANGLED_BYTES: usize = 64 << 10;

impl cpp_demangle::DemangleWrite for Bounded {
    fn write_string(&mut self, part: &str) -> fmt::Result {
        if self.text.len() + part.len() > MAX_DEMANGLED_BYTES {
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mangled_names_are_read_and_others_left() {
        assert_eq!(demangle("_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt::write");
        assert_eq!(demangle("_ZN3foo3barEi"), "foo::bar(int)");
        assert_eq!(demangle("plain"), "plain");
        assert_eq!(demangle("l"), "l");
        assert_eq!(demangle("_ZN"), "_ZN");
    }

    #[test]
    fn names_that_would_grow_without_end_are_left() {
        // `pair<pair<pair<..>, pair<..>>, ..>`: each parameter's type is twice as long as the one before.
        let digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".as_bytes();
        let twice = |digit: &u8| format!("S_IS{0}_S{0}_E", *digit as char);
        let name = format!("_Z1f4pairIiiE{}", digits.iter().map(twice).collect::<String>());
        assert_eq!(demangle(&name), name);
    }
}
