//! The parts of an image besides code: description, names, data, custom and debug sections.

use crate::link::Linked;
use crate::memory_image;
use peregrine_artifact::image::{ImageMeta, ImageParts, write_image};
use peregrine_artifact::settings::Settings;
use peregrine_frontend::Translation;
use peregrine_wasm::{DataSegment, EntityIndex, Index, Module};

/// The image of a module with its linked code. `module` is that of `translation`.
pub(crate) fn image(translation: &Translation<'_>, mut module: Module, linked: &Linked, settings: &Settings) -> Vec<u8> {
    let wasm = translation.wasm;
    let memory = memory_image::build(&module, wasm);
    let data = data(&mut module, wasm, memory.mapped_segments);
    let custom = custom(&mut module, wasm);

    let (mut debug_ranges, mut debug) = (Vec::new(), Vec::new());
    for (name, bytes) in translation.debug_sections.iter().filter(|_| settings.debug_info) {
        debug_ranges.push(((*name).into(), debug.len() as u64, bytes.len() as u64));
        debug.extend_from_slice(bytes);
    }
    let meta = ImageMeta {
        module,
        memory_images: memory.images,
        mapped_data_segments: memory.mapped_segments as u32,
        debug_sections: debug_ranges,
        wasm_len_bytes: wasm.len() as u64,
        bodies_end: translation.bodies.values().last().map_or(0, |body| body.end as u64),
        code_section_offset: translation.code_section_offset as u64,
        sizes: translation.sizes,
        has_branch_hints: !translation.branch_hints.is_empty(),
    };

    let mut names = vec![""; meta.module.functions.len()];
    // A function without a name is known by what it is exported as.
    for export in meta.module.exports.iter().rev() {
        if let EntityIndex::Function(index) = export.entity {
            names[index.as_usize()] = &export.name;
        }
    }
    for (index, name) in &translation.function_names {
        names[index.as_usize()] = name;
    }
    write_image(&ImageParts {
        settings,
        meta: &meta,
        functions: &linked.functions,
        stubs: linked.stubs.as_slice(),
        tables: &linked.tables,
        relocs: &linked.relocs,
        sites: &linked.sites,
        order: &linked.order,
        names: &names,
        data: &data,
        custom: &custom,
        debug: &debug,
        memory_image: &memory.bytes,
        text: &linked.text,
    })
}

/// Gathers the bytes of data segments and points the segments at them. The first `mapped` ones are in memory images and left out.
fn data(module: &mut Module, wasm: &[u8], mapped: usize) -> Vec<u8> {
    let mut data = Vec::new();
    let mut place = |segment: &DataSegment| {
        let start = data.len() as u64;
        data.extend_from_slice(&wasm[segment.start as usize..][..segment.len_bytes as usize]);
        DataSegment { start, ..segment.clone() }
    };
    module.data = module.data.values().skip(mapped).map(&mut place).collect();
    data
}

/// Gathers the bytes of custom sections and points the sections at them.
fn custom(module: &mut Module, wasm: &[u8]) -> Vec<u8> {
    let mut custom = Vec::new();
    for section in &mut module.custom_sections {
        let bytes = &wasm[section.start as usize..][..section.len_bytes as usize];
        section.start = custom.len() as u64;
        custom.extend_from_slice(bytes);
    }
    custom
}
