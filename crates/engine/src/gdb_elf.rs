//! What debuggers and unwinders are told about loaded code: an object file with symbols, and how to walk its frames.
//!
//! Every function keeps a frame pointer, so that one rule describes all code: the caller's frame begins 16 bytes above the frame pointer,
//! with the
//! caller's frame pointer and the return address below. In the first instructions of a function, before the frame pointer is set, the
//! rule is wrong;
//! that is the price of not describing each function.

use crate::vm::LoadedModule;
use peregrine_wasm::FuncIndex;
use std::ops::Range;

/// Numbers of this processor in DWARF, and its ELF machine.
struct Machine {
    elf: u16,
    frame_pointer: u8,
    return_address: u8,
}

const MACHINE: Option<Machine> = if cfg!(target_arch = "x86_64") {
    Some(Machine { elf: 62, frame_pointer: 6, return_address: 16 })
} else if cfg!(target_arch = "aarch64") {
    Some(Machine { elf: 183, frame_pointer: 29, return_address: 30 })
} else {
    None
};

const DW_CFA_DEF_CFA: u8 = 0x0c;
const DW_CFA_OFFSET: u8 = 0x80;
const DW_CFA_NOP: u8 = 0;

/// An `.eh_frame` section with absolute addresses for code at `text`. `None` for processors whose numbers are not known here.
pub(crate) fn eh_frame(text: &Range<usize>) -> Option<Vec<u8>> {
    let Machine { frame_pointer, return_address, .. } = MACHINE?;
    let mut section = Vec::with_capacity(80);
    // CIE: version 1, no augmentation, code alignment 1, data alignment -8.
    let mut cie = vec![0, 0, 0, 0, 1, 0, 1, 0x78, return_address];
    cie.extend([DW_CFA_DEF_CFA, frame_pointer, 16, DW_CFA_OFFSET | frame_pointer, 2, DW_CFA_OFFSET | return_address, 1]);
    push_entry(&mut section, cie);
    let to_cie = section.len() as u32 + 4;
    let mut fde = to_cie.to_le_bytes().to_vec();
    fde.extend((text.start as u64).to_le_bytes());
    fde.extend((text.len() as u64).to_le_bytes());
    push_entry(&mut section, fde);
    section.extend([0; 4]);
    Some(section)
}

fn push_entry(section: &mut Vec<u8>, mut entry: Vec<u8>) {
    // The length field and the entry together are a multiple of 8.
    entry.resize((entry.len() + 4).next_multiple_of(8) - 4, DW_CFA_NOP);
    section.extend((entry.len() as u32).to_le_bytes());
    section.extend(entry);
}

const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const HEADER_LEN: usize = 64;
const SECTION_HEADER_LEN: usize = 64;
const SYMBOL_LEN: u64 = 24;

/// One section of the object: name, type, flags, address, size in memory, link, entry size, alignment, content.
struct SectionParts {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    size: u64,
    link: u32,
    entry_size: u64,
    align: u64,
    content: Vec<u8>,
}

/// An ELF object for debuggers: the symbols of all functions and stubs of `module` at their addresses in this process, and how to unwind
/// them. The code itself stays where it is.
pub(crate) fn object(module: &LoadedModule) -> Vec<u8> {
    object_of(&module.text(), symbols(module))
}

/// As [`object`], for the code at `address`, which was made while the module ran. `None` if there is none.
pub(crate) fn object_of_later_code(module: &LoadedModule, address: usize) -> Option<Vec<u8>> {
    let blob = module.tiered()?.find(address)?;
    let mut symbols = Symbols::new();
    symbols.push(&name(module, module.module().func_index(blob.function)), 0, u64::from(blob.len));
    Some(object_of(&(blob.start..blob.start + blob.len as usize), symbols))
}

fn object_of(text: &Range<usize>, Symbols { symbols, names }: Symbols) -> Vec<u8> {
    let plain = |name, kind, content: Vec<u8>| SectionParts {
        name,
        kind,
        flags: 0,
        address: 0,
        size: content.len() as u64,
        link: 0,
        entry_size: 0,
        align: 1,
        content,
    };
    let eh_frame = eh_frame(text).unwrap_or_default();
    let sections = [
        SectionParts {
            flags: SHF_ALLOC | SHF_EXECINSTR,
            address: text.start as u64,
            size: text.len() as u64,
            align: 16,
            ..plain(".text", SHT_NOBITS, Vec::new())
        },
        SectionParts { flags: SHF_ALLOC, align: 8, ..plain(".eh_frame", SHT_PROGBITS, eh_frame) },
        SectionParts { link: 4, entry_size: SYMBOL_LEN, align: 8, ..plain(".symtab", SHT_SYMTAB, symbols) },
        plain(".strtab", SHT_STRTAB, names),
    ];
    write(&sections)
}

/// A symbol table and its strings.
struct Symbols {
    symbols: Vec<u8>,
    names: Vec<u8>,
}

impl Symbols {
    /// A null symbol comes first, and the empty name.
    fn new() -> Self {
        Self { symbols: vec![0u8; SYMBOL_LEN as usize], names: vec![0u8] }
    }

    /// Adds code from `start` on in the text.
    fn push(&mut self, name: &str, start: u64, len_bytes: u64) {
        self.symbols.extend((self.names.len() as u32).to_le_bytes());
        // Global function, in section 1; relative to it, as in every relocatable object.
        self.symbols.extend([0x12, 0, 1, 0]);
        self.symbols.extend(start.to_le_bytes());
        self.symbols.extend(len_bytes.to_le_bytes());
        self.names.extend(name.bytes().filter(|byte| *byte != 0));
        self.names.push(0);
    }
}

/// The functions of an image.
fn symbols(module: &LoadedModule) -> Symbols {
    let mut symbols = Symbols::new();
    let imported = module.module().imported_functions;
    let functions = module.image_layout().map_or(&[][..], |layout| layout.functions(module.image_bytes()));
    for (position, function) in functions.iter().enumerate().filter(|(_, function)| function.code_len.get() > 0) {
        let name = name(module, FuncIndex::from_u32(imported + position as u32));
        symbols.push(&name, u64::from(function.code_start.get()), u64::from(function.code_len.get()));
    }
    symbols
}

/// The name of a function for debuggers and profilers.
pub(crate) fn name(module: &LoadedModule, index: FuncIndex) -> String {
    match module.function_name(index) {
        Some(name) => crate::symbols::demangle(name),
        None => format!("{}::function[{}]", module.module().name.as_deref().unwrap_or("wasm"), index.as_u32()),
    }
}

fn write(sections: &[SectionParts]) -> Vec<u8> {
    let mut names = vec![0u8];
    let mut headers = vec![0u8; SECTION_HEADER_LEN];
    let mut object = vec![0u8; HEADER_LEN];
    let mut header = |parts: &SectionParts, object: &mut Vec<u8>, names: &mut Vec<u8>| {
        object.resize(object.len().next_multiple_of(8), 0);
        let offset = object.len() as u64;
        object.extend(&parts.content);
        headers.extend((names.len() as u32).to_le_bytes());
        names.extend(parts.name.bytes().chain([0]));
        headers.extend(parts.kind.to_le_bytes());
        [parts.flags, parts.address, offset, parts.size].iter().for_each(|field| headers.extend(field.to_le_bytes()));
        // `info` of a symbol table is its first global symbol.
        let info = u32::from(parts.kind == SHT_SYMTAB);
        headers.extend(parts.link.to_le_bytes());
        headers.extend(info.to_le_bytes());
        [parts.align, parts.entry_size].iter().for_each(|field| headers.extend(field.to_le_bytes()));
    };
    for parts in sections {
        header(parts, &mut object, &mut names);
    }
    let mut all_names = names.clone();
    all_names.extend(b".shstrtab\0");
    let strings = SectionParts {
        name: ".shstrtab",
        kind: SHT_STRTAB,
        flags: 0,
        address: 0,
        size: all_names.len() as u64,
        link: 0,
        entry_size: 0,
        align: 1,
        content: all_names,
    };
    header(&strings, &mut object, &mut names);
    object.resize(object.len().next_multiple_of(8), 0);
    let headers_offset = object.len() as u64;
    object.extend(headers);

    let count = sections.len() as u16 + 2;
    let mut start = Vec::with_capacity(HEADER_LEN);
    // 64 bits, little-endian, version 1, relocatable: debuggers take addresses from the sections.
    start.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    [1, MACHINE.map_or(0, |machine| machine.elf)].iter().for_each(|field: &u16| start.extend(field.to_le_bytes()));
    start.extend(1u32.to_le_bytes());
    [0, 0, headers_offset].iter().for_each(|field: &u64| start.extend(field.to_le_bytes()));
    start.extend(0u32.to_le_bytes());
    [HEADER_LEN as u16, 0, 0, SECTION_HEADER_LEN as u16, count, count - 1].iter().for_each(|field| start.extend(field.to_le_bytes()));
    object[..HEADER_LEN].copy_from_slice(&start);
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use gimli::UnwindSection;
    use object::{Object, ObjectSection, ObjectSymbol};

    #[test]
    fn the_frame_rule_is_read_back() {
        let section = eh_frame(&(0x10_0000..0x10_2000)).unwrap();
        let eh_frame = gimli::EhFrame::new(&section, gimli::LittleEndian);
        let bases = gimli::BaseAddresses::default();
        let fde = eh_frame.fde_for_address(&bases, 0x10_1234, gimli::EhFrame::cie_from_offset).unwrap();
        assert_eq!((fde.initial_address(), fde.len()), (0x10_0000, 0x2000));
        let mut context = gimli::UnwindContext::new();
        let row = fde.unwind_info_for_address(&eh_frame, &bases, &mut context, 0x10_1234).unwrap();
        let machine = MACHINE.unwrap();
        let fp = gimli::Register(machine.frame_pointer.into());
        assert_eq!(*row.cfa(), gimli::CfaRule::RegisterAndOffset { register: fp, offset: 16 });
        assert_eq!(row.register(fp), Some(gimli::RegisterRule::Offset(-16)));
        assert_eq!(row.register(gimli::Register(machine.return_address.into())), Some(gimli::RegisterRule::Offset(-8)));
    }

    #[test]
    fn the_object_is_read_back() {
        let mut symbols = vec![0u8; 24];
        symbols.extend(1u32.to_le_bytes());
        symbols.extend([0x12, 0, 1, 0]);
        symbols.extend(0x40u64.to_le_bytes());
        symbols.extend(0x20u64.to_le_bytes());
        let section = |name, kind, content: Vec<u8>| SectionParts {
            name,
            kind,
            flags: 0,
            address: 0,
            size: content.len() as u64,
            link: 0,
            entry_size: 0,
            align: 1,
            content,
        };
        let bytes = write(&[
            SectionParts { flags: SHF_ALLOC | SHF_EXECINSTR, address: 0x7000, size: 0x1000, ..section(".text", SHT_NOBITS, Vec::new()) },
            section(".eh_frame", SHT_PROGBITS, vec![0; 4]),
            SectionParts { link: 4, entry_size: SYMBOL_LEN, ..section(".symtab", SHT_SYMTAB, symbols) },
            section(".strtab", SHT_STRTAB, b"\0main\0".to_vec()),
        ]);
        let file = object::File::parse(&*bytes).unwrap();
        let text = file.section_by_name(".text").unwrap();
        assert_eq!((text.address(), text.size()), (0x7000, 0x1000));
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok("main")).unwrap();
        assert_eq!((symbol.address(), symbol.size(), symbol.section_index()), (0x40, 0x20, Some(text.index())));
    }
}
