//! Images to which code is added: what the cache keeps of a run.
//!
//! Everything but code and its tables is copied. Code that the image has is moved, with the places in it that refer to slots and budgets; new
//! code takes the place of old. The order stays that of the functions, so that an image is looked up as any other.

use crate::budget::Budget;
use crate::link::{Linker, Piece};
use crate::plan::CanonicalTypes;
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::func::{CompiledFunc, RelocTarget};
use peregrine_artifact::image::{ImageError, ImageLayout, ImageParts, Section, write_image};
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, Index};
use std::sync::Arc;

/// `image` with the code of `functions`, which are sorted by index.
pub(crate) fn image_with(
    image: &[u8],
    functions: &[(DefinedFuncIndex, Arc<CompiledFunc>)],
    budget: &Budget,
) -> Result<Vec<u8>, CompileError> {
    let layout = ImageLayout::check_header(image).map_err(damaged)?;
    let settings = layout.settings(image).map_err(damaged)?;
    let meta = layout.meta(image).map_err(damaged)?;
    let module = &meta.module;
    let budget = budget.for_module(meta.wasm_len_bytes as usize);
    let mut linker = Linker::new(&settings.target, module, &budget);
    let malformed = || damaged(ImageError::Malformed { part: "text" });

    let mut added = functions.iter().peekable();
    for (position, entry) in layout.functions(image).iter().enumerate() {
        let body_start = entry.body_start.get() as usize;
        let new = added.next_if(|(index, _)| index.as_usize() == position).filter(|(_, compiled)| can_be_added(compiled));
        if let Some((_, compiled)) = new {
            linker.function(&Piece::new(CompiledFunc::clone(compiled), &budget)?, body_start)?;
            continue;
        }
        let start = entry.code_start.get();
        let end = start.checked_add(entry.code_len.get()).ok_or_else(malformed)?;
        if start == end {
            linker.function_without_code(body_start);
        } else {
            linker.function(&Piece::of_image(&layout, image, start..end, Some(entry)).ok_or_else(malformed)?, body_start)?;
        }
    }
    let types = CanonicalTypes::find(module);
    for ty in module.types.indices().filter(|ty| types.canonical(*ty) == *ty) {
        let Some(stub) = layout.stub(image, ty) else { continue };
        let parts = [(StubKind::Enter, stub.enter_start, stub.enter_len), (StubKind::Exit, stub.exit_start, stub.exit_len)];
        for (kind, start, len) in parts.into_iter().filter(|(_, _, len)| len.get() > 0) {
            let end = start.get().checked_add(len.get()).ok_or_else(malformed)?;
            linker.stub(kind, ty, &Piece::of_image(&layout, image, start.get()..end, None).ok_or_else(malformed)?)?;
        }
    }
    let linked = linker.finish(|ty| types.canonical(ty))?;

    let name = |position| layout.function_name(image, FuncIndex::from_usize(position)).unwrap_or("");
    let names: Vec<&str> = (0..layout.function_count()).map(name).collect();
    let section = |section| layout.section(image, section);
    Ok(write_image(&ImageParts {
        settings: &settings,
        meta: &meta,
        functions: &linked.functions,
        stubs: linked.stubs.as_slice(),
        tables: &linked.tables,
        relocs: &linked.relocs,
        names: &names,
        data: section(Section::Data),
        custom: section(Section::Custom),
        debug: section(Section::Debug),
        memory_image: section(Section::MemoryImage),
        text: &linked.text,
    }))
}

/// Whether code can be moved once it is in an image: it does not know where other code is.
fn can_be_added(compiled: &CompiledFunc) -> bool {
    !compiled.relocs.iter().any(|reloc| matches!(reloc.target, RelocTarget::Function(_)))
}

#[cold]
fn damaged(error: ImageError) -> CompileError {
    CompileError::Invalid { message: error.to_string(), offset: None }
}
