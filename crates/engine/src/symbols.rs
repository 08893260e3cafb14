//! From places in a binary to places in its source, by the DWARF sections in the image.
//!
//! The sections are the guest's. Work and memory are in proportion to their size ([`metered`]), nesting is bounded, and a panic of a reader is
//! no panic of the host: what is too much, or damaged, counts as missing.

mod metered;

use crate::backtrace::FrameSymbol;
use crate::vm::LoadedModule;
use metered::{Meter, Metered, longest_declaration};
use peregrine_artifact::image::Section;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Dwarf<'a> = gimli::Dwarf<Metered<'a>>;
type Context<'a> = addr2line::Context<Metered<'a>>;

/// The deepest nesting of entries in a unit that is read: readers recurse. Programs have some dozens.
const MAX_DEPTH: isize = 400;

/// The source places of each of `offsets` in the binary of `module`; none where nothing is known. Damaged sections count as missing, and so do
/// those that ask for too much.
pub(crate) fn resolve(module: &LoadedModule, offsets: &[Option<usize>]) -> Vec<Vec<FrameSymbol>> {
    let nothing = || vec![Vec::new(); offsets.len()];
    let sections = &module.meta().debug_sections;
    if sections.is_empty() {
        return nothing();
    }
    let code_section = module.meta().code_section_offset;
    let address = |offset: &Option<usize>| offset.and_then(|offset| (offset as u64).checked_sub(code_section));
    let addresses: Vec<Option<u64>> = offsets.iter().map(address).collect();
    let bytes = module.section(Section::Debug);
    let section = |name: &str| {
        // Without `.debug_aranges`, the addresses of units are those that the units say, which were looked at.
        let section = sections.iter().find(|(known, ..)| **known == *name && name != ".debug_aranges");
        section.and_then(|(_, start, len)| bytes.get(*start as usize..)?.get(..*len as usize)).unwrap_or(&[])
    };
    let meter = Meter::new(bytes.len() as u64, longest_declaration(section(".debug_abbrev")));
    let places = || places_of_all(|id| Metered::new(section(id.name()), &meter), &addresses);
    let found = catch_unwind(AssertUnwindSafe(places)).ok().flatten();
    if meter.is_spent() {
        tracing::debug!(section_bytes = bytes.len(), "the debugging sections of a module ask for too much work");
    }
    found.unwrap_or_else(nothing)
}

fn places_of_all<'a>(section: impl Fn(gimli::SectionId) -> Metered<'a>, addresses: &[Option<u64>]) -> Option<Vec<Vec<FrameSymbol>>> {
    let load = || Dwarf::load(|id| Ok::<_, gimli::Error>(section(id))).ok();
    let wanted: Vec<u64> = addresses.iter().copied().flatten().collect();
    is_flat(&load()?, &wanted)?;
    let context = Context::from_dwarf(load()?).ok()?;
    Some(addresses.iter().map(|address| address.map(|address| places(&context, address)).unwrap_or_default()).collect())
}

/// Checks that no unit which may be about one of `addresses` nests deeply.
fn is_flat(dwarf: &Dwarf<'_>, addresses: &[u64]) -> Option<()> {
    let mut headers = dwarf.units();
    while let Some(header) = headers.next().ok()? {
        let Ok(unit) = dwarf.unit(header) else { continue };
        if !may_be_about(dwarf, &unit, addresses) {
            continue;
        }
        let mut entries = unit.entries_raw(None).ok()?;
        while !entries.is_empty() {
            if entries.next_depth() > MAX_DEPTH {
                return None;
            }
            // A unit that is damaged is read up to there only.
            let Ok(abbreviation) = entries.read_abbreviation() else { break };
            if let Some(abbreviation) = abbreviation
                && entries.skip_attributes(abbreviation.attributes()).is_err()
            {
                break;
            }
        }
    }
    Some(())
}

/// Whether a unit covers one of `addresses`, or does not say what it covers.
fn may_be_about(dwarf: &Dwarf<'_>, unit: &gimli::Unit<Metered<'_>>, addresses: &[u64]) -> bool {
    let Ok(mut ranges) = dwarf.unit_ranges(unit) else { return true };
    let mut is_known = false;
    loop {
        match ranges.next() {
            Ok(Some(range)) => {
                is_known = true;
                if addresses.iter().any(|address| (range.begin..range.end).contains(address)) {
                    return true;
                }
            }
            Ok(None) => return !is_known,
            Err(_) => return true,
        }
    }
}

fn places(context: &Context<'_>, address: u64) -> Vec<FrameSymbol> {
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

    /// What is found for address 0 in sections given by name, and how much work was left.
    fn resolve_hostile(sections: &[(&str, &[u8])]) -> (Option<Vec<Vec<FrameSymbol>>>, bool) {
        let section = |name: &str| sections.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, bytes)| bytes);
        let len: usize = sections.iter().map(|(_, bytes)| bytes.len()).sum();
        let meter = Meter::new(len as u64, longest_declaration(section(".debug_abbrev")));
        let found = places_of_all(|id| Metered::new(section(id.name()), &meter), &[Some(0)]);
        (found, meter.is_spent())
    }

    /// A unit of DWARF 4 with these entries; its declarations are at the beginning.
    fn unit(entries: &[u8]) -> Vec<u8> {
        let mut unit = (7 + entries.len() as u32).to_le_bytes().to_vec();
        unit.extend([4, 0, 0, 0, 0, 0, 4]);
        unit.extend(entries);
        unit
    }

    #[test]
    fn many_units_that_share_a_long_table_end_the_work() {
        // A table of 100,000 declarations of a unit, and 50,000 units that read all of it.
        let mut table = Vec::new();
        for code in 1..100_000u32 {
            table.extend([code as u8 | 0x80, (code >> 7) as u8 | 0x80, (code >> 14) as u8, 0x11, 0, 0, 0]);
        }
        table.push(0);
        let units = unit(&[0x81, 0x80, 0]).repeat(50_000);
        let (found, spent) = resolve_hostile(&[(".debug_info", &units), (".debug_abbrev", &table)]);
        assert!(spent && found.is_none_or(|found| found[0].is_empty()));
    }

    #[test]
    fn entries_with_attributes_without_bytes_end_the_work() {
        // Declaration 1: a unit with children. Declaration 2: an entry with 200,000 flags that take no bytes.
        let mut table = vec![1, 0x11, 1, 0, 0, 2, 0x2e, 0];
        table.extend([0x3f, 0x19].repeat(200_000));
        table.extend([0, 0, 0]);
        let mut entries = vec![1];
        entries.extend([2u8].repeat(500_000));
        entries.push(0);
        let (_, spent) = resolve_hostile(&[(".debug_info", &unit(&entries)), (".debug_abbrev", &table)]);
        assert!(spent);
    }

    #[test]
    fn deep_nesting_is_not_followed() {
        // 1: a unit from 0 to 100 with children; 2: a function there with children; 3: an inlined call with children.
        let table = [
            &[1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0][..],
            &[2, 0x2e, 1, 0x11, 0x01, 0x12, 0x06, 0, 0],
            &[3, 0x1d, 1, 0x11, 0x01, 0x12, 0x06, 0, 0, 0],
        ]
        .concat();
        let nested = |depth: usize| {
            let range = [0, 0, 0, 0, 100, 0, 0, 0];
            let mut entries = Vec::new();
            for code in [1, 2].into_iter().chain(std::iter::repeat_n(3, depth)) {
                entries.push(code);
                entries.extend(range);
            }
            entries.extend(vec![0; depth + 2]);
            unit(&entries)
        };
        let (found, spent) = resolve_hostile(&[(".debug_info", &nested(1_000_000)), (".debug_abbrev", &table)]);
        assert!(found.is_none() && !spent);
        let (found, _) = resolve_hostile(&[(".debug_info", &nested(20)), (".debug_abbrev", &table)]);
        assert_eq!(found.expect("sound sections")[0].len(), 21);
    }

    #[test]
    fn long_paths_of_many_files_end_the_work() {
        // A line program of version 4: one directory with a long name, and many files in it.
        let mut header = vec![1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1];
        header.extend([b'd'].repeat(1 << 20));
        header.extend([0, 0]);
        for _ in 0..200_000 {
            header.extend([b'f', 0, 1, 0, 0]);
        }
        header.push(0);
        // A sequence that begins at 0, advances by 100, and ends.
        let program = [&[0, 5, 2, 0, 0, 0, 0, 1][..], &[2, 100, 0, 1, 1]].concat();
        let mut lines = ((2 + 4 + header.len() + program.len()) as u32).to_le_bytes().to_vec();
        lines.extend([4, 0]);
        lines.extend((header.len() as u32).to_le_bytes());
        lines.extend([header, program].concat());
        // A unit from 0 to 100 with these lines.
        let table = [1, 0x11, 0, 0x11, 0x01, 0x12, 0x06, 0x10, 0x17, 0, 0, 0];
        let info = unit(&[1, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0]);
        let (found, spent) = resolve_hostile(&[(".debug_info", &info), (".debug_abbrev", &table), (".debug_line", &lines)]);
        assert!(spent && found.is_none_or(|found| found[0].is_empty()), "200 GB of paths");
    }
}
