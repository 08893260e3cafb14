//! Images come back as they were written, and damaged ones are refused.

use super::*;
use crate::settings::{Settings, Target};
use peregrine_wasm::{
    ConstExpr, ConstOp, DataMode, DataSegment, DefinedMemoryIndex, ElementItems, ElementMode, ElementSegment, EntityIndex, Export,
    FuncIndex, FuncType, FunctionDecl, Global, GlobalIndex, GlobalType, HeapType, Import, MemoryIndex, MemoryType, Module, RefType, Table,
    TableIndex, TableType, Trap, TypeIndex, ValType,
};

fn sample() -> Vec<u8> {
    sample_with(|_| {})
}

fn sample_with(change: impl FnOnce(&mut ImageMeta)) -> Vec<u8> {
    let settings = Settings::new(Target { triple: "x86_64-unknown-linux-gnu".into(), cpu_features: vec!["has_sse41".into()] });
    let mut meta = ImageMeta::default();
    let ty = meta.module.types.push(FuncType { params: [].into(), results: [].into() });
    assert_eq!(ty, TypeIndex::from_u32(0));
    meta.module.functions.push(FunctionDecl { ty, func_ref: None });
    change(&mut meta);
    let mut tables = Vec::new();
    crate::tables::traps::encode(&[(2, Trap::UnreachableCodeReached)], &mut tables);
    let traps_len = tables.len() as u32;
    crate::tables::addresses::encode(&[(0, 1)], &mut tables);
    let function = FunctionEntry {
        code_start: 16.into(),
        code_len: 8.into(),
        traps_len: traps_len.into(),
        addresses_len: (tables.len() as u32 - traps_len).into(),
        body_start: 40.into(),
        ..FunctionEntry::default()
    };
    write_image(&ImageParts {
        settings: &settings,
        meta: &meta,
        functions: &[function],
        stubs: &[StubEntry::default()],
        tables: &tables,
        relocs: &[],
        sites: &[],
        order: &[],
        names: &["main"],
        data: b"data",
        custom: &[],
        debug: &[],
        memory_image: &[],
        text: &[0xcc; 32],
    })
}

#[test]
fn parts_come_back() {
    let bytes = sample();
    let layout = ImageLayout::check(&bytes).expect("a good image");
    let meta = layout.meta(&bytes).expect("good meta");
    assert_eq!(meta.module.functions.len(), 1);
    assert_eq!(layout.section(&bytes, Section::Text), [0xcc; 32]);
    assert_eq!(layout.range(Section::Text).start as u64 % PAGE_ALIGN_BYTES, 0);
    assert_eq!(layout.section(&bytes, Section::Data), b"data");
    assert_eq!(layout.function_name(&bytes, FuncIndex::from_u32(0)), Some("main"));
    assert_eq!(layout.trap_at(&bytes, 18), Some(Trap::UnreachableCodeReached));
    assert_eq!(layout.trap_at(&bytes, 19), None);
    assert_eq!(layout.frames_at(&bytes, 20).first().and_then(|frame| frame.1), Some(41));
    assert_eq!(layout.function_at(&bytes, 15), None);
    assert_eq!(layout.function_at(&bytes, 24), None);
    assert_eq!(layout.settings_hash(), &layout.settings(&bytes).expect("good settings").hash());
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample();
    let step = bytes.len() / 500 + 1;
    for len in (0..bytes.len()).step_by(step).chain(bytes.len() - 8..bytes.len()) {
        assert!(ImageLayout::check(&bytes[..len]).is_err(), "length {len}");
    }
}

#[test]
fn every_flipped_bit_of_the_header_and_many_others_are_refused() {
    let mut bytes = sample();
    let content_step = bytes.len() / 300 + 1;
    for position in (0..400).chain((400..bytes.len()).step_by(content_step)) {
        for bit in 0..8 {
            bytes[position] ^= 1 << bit;
            assert!(ImageLayout::check(&bytes).is_err(), "byte {position}, bit {bit}");
            bytes[position] ^= 1 << bit;
        }
    }
    assert!(ImageLayout::check(&bytes).is_ok());
}

#[test]
fn another_version_says_so() {
    let mut bytes = sample();
    // Another contract, and another revision.
    for flip in [1, 1 << 16] {
        let found = FORMAT_VERSION ^ flip;
        bytes[8..12].copy_from_slice(&found.to_le_bytes());
        assert_eq!(ImageLayout::check(&bytes).err(), Some(ImageError::Version { found }));
    }
}

#[test]
fn a_module_that_names_what_there_is_not_is_refused() {
    const MEMORY: MemoryType = MemoryType { memory64: false, shared: false, page_size_log2: 16, min_pages: 1, max_pages: None };
    let far = FuncIndex::from_u32(1);
    let elements = |items| ElementSegment { element: RefType::FUNCREF, mode: ElementMode::Passive, items };
    let export = |entity| Export { name: "x".into(), entity };
    let global = |content, op| Global { ty: GlobalType { content, mutable: false }, init: Some(ConstExpr::One(op)) };
    let zero = || ConstExpr::One(ConstOp::I32Const(0));
    let concrete = RefType { nullable: true, heap: HeapType::Concrete(TypeIndex::from_u32(1)) };
    let table = Table { ty: TableType { element: concrete, table64: false, min: 0, max: None }, init: None };
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Module));
    let changes: [Change<'_>; 17] = [
        ("more imports than functions", &|module| module.imported_functions = 2),
        ("an import that is not there", &|module| module.imported_globals = 1),
        ("an import out of order", &|module| {
            module.imports.push(Import { module: "m".into(), name: "n".into(), entity: EntityIndex::Memory(MemoryIndex::from_u32(1)) });
        }),
        ("type of a function", &|module| module.functions[FuncIndex::from_u32(0)].ty = TypeIndex::from_u32(1)),
        ("type of a parameter", &|module| module.types[TypeIndex::from_u32(0)].params = [ValType::Ref(concrete)].into()),
        ("type of elements", &|module| _ = module.tables.push(table.clone())),
        ("position of a reference", &|module| module.functions[FuncIndex::from_u32(0)].func_ref = Some(0)),
        ("more references than functions", &|module| module.escaping_functions = u32::MAX),
        ("start function", &|module| module.start = Some(far)),
        ("start function without a reference", &|module| module.start = Some(FuncIndex::from_u32(0))),
        ("export of a function", &|module| module.exports.push(export(EntityIndex::Function(far)))),
        ("export of a table", &|module| module.exports.push(export(EntityIndex::Table(TableIndex::from_u32(0))))),
        ("global of a global", &|module| _ = module.globals.push(global(ValType::I32, ConstOp::GlobalGet(GlobalIndex::from_u32(1))))),
        ("global of a function", &|module| _ = module.globals.push(global(ValType::FUNCREF, ConstOp::RefFunc(far)))),
        ("element", &|module| _ = module.elements.push(elements(ElementItems::Functions([far].into())))),
        ("memory of data", &|module| {
            let mode = DataMode::Active { memory: MemoryIndex::from_u32(0), offset: zero() };
            module.data.push(DataSegment { mode, start: 0, len_bytes: 0 });
        }),
        ("page size", &|module| _ = module.memories.push(MemoryType { page_size_log2: 200, ..MEMORY })),
    ];
    let check = |change: &dyn Fn(&mut ImageMeta)| {
        let bytes = sample_with(change);
        ImageLayout::check(&bytes).expect("a good image").meta(&bytes).map(|_| ())
    };
    for (name, change) in changes {
        assert_eq!(check(&|meta| change(&mut meta.module)), Err(ImageError::Malformed { part: "module" }), "{name}");
    }
    let image = MemoryImage { memory: DefinedMemoryIndex::from_u32(1), memory_offset: 0, section_offset: 0, len_bytes: 0 };
    assert!(check(&|meta| meta.memory_images.push(image)).is_err());
    let whole = |meta: &mut ImageMeta| {
        meta.module.memories.push(MEMORY);
        meta.memory_images.push(MemoryImage { memory: DefinedMemoryIndex::from_u32(0), ..image });
    };
    assert_eq!(check(&whole), Ok(()));
}
