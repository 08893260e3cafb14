//! From places in a binary to places in its source, by the DWARF sections in the image.

use crate::backtrace::FrameSymbol;
use crate::vm::LoadedModule;
use peregrine_artifact::image::Section;
use std::borrow::Cow;

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
    addr2line::demangle_auto(Cow::Borrowed(name), None).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mangled_names_are_read_and_others_left() {
        assert_eq!(demangle("_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt::write");
        assert_eq!(demangle("_ZN3foo3barEi"), "foo::bar(int)");
        assert_eq!(demangle("plain"), "plain");
        assert_eq!(demangle("_ZN"), "_ZN");
    }
}
