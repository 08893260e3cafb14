//! Images to which code is added: what the cache keeps of a run.
//!
//! Everything but code and its tables is copied. Code that the image has is moved, with the places in it that refer to slots, budgets and cells;
//! new code takes the place of old. What ran most comes first, so that the next start touches few pages; what is not known to have run
//! keeps its order behind that.

use crate::budget::Budget;
use crate::link::{Linker, Piece};
use crate::plan::CanonicalTypes;
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::func::{CompiledFunc, RelocTarget};
use peregrine_artifact::image::{ImageError, ImageLayout, ImageParts, Section, write_image};
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, Index};
use std::sync::Arc;

/// `image` with the code of `functions`, which are sorted by index. The code of `first` comes first, in that order.
pub(crate) fn image_with(
    image: &[u8],
    functions: &[(DefinedFuncIndex, Arc<CompiledFunc>)],
    first: &[DefinedFuncIndex],
    budget: &Budget,
) -> Result<Vec<u8>, CompileError> {
    let layout = ImageLayout::check_header(image).map_err(damaged)?;
    let settings = layout.settings(image).map_err(damaged)?;
    let meta = layout.meta(image).map_err(damaged)?;
    let module = &meta.module;
    let budget = budget.for_module(meta.wasm_len_bytes as usize);
    let mut linker = Linker::new(&settings.target, module, &budget);
    let malformed = || damaged(ImageError::Malformed { part: "text" });

    let entries = layout.functions(image);
    let mut place = |index: DefinedFuncIndex| {
        let Some(entry) = entries.get(index.as_usize()).filter(|_| !linker.is_placed(index)) else { return Ok(()) };
        let body_start = entry.body_start.get() as usize;
        let new = functions.binary_search_by_key(&index, |(index, _)| *index).ok().map(|position| &functions[position].1);
        match new.filter(|compiled| can_be_added(compiled)) {
            Some(compiled) => linker.function(index, &Piece::new(CompiledFunc::clone(compiled), &budget)?, body_start),
            None if entry.code_len == 0 => linker.function_without_code(index, body_start),
            None => linker.function(index, &Piece::of_image(&layout, image, index, entry).ok_or_else(malformed)?, body_start),
        }
    };
    first.iter().try_for_each(|index| place(*index))?;
    layout.functions_by_code(image).try_for_each(|(index, _)| place(index))?;
    (0..entries.len()).map(DefinedFuncIndex::from_usize).try_for_each(&mut place)?;
    let types = CanonicalTypes::find(module);
    for ty in module.types.indices().filter(|ty| types.canonical(*ty) == *ty) {
        let Some(stub) = layout.stub(image, ty) else { continue };
        let parts = [(StubKind::Enter, stub.enter_start, stub.enter_len), (StubKind::Exit, stub.exit_start, stub.exit_len)];
        for (kind, start, len) in parts.into_iter().filter(|(_, _, len)| len.get() > 0) {
            let end = start.get().checked_add(len.get()).ok_or_else(malformed)?;
            linker.stub(kind, ty, &Piece::stub_of_image(&layout, image, start.get()..end).ok_or_else(malformed)?)?;
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
        sites: &linked.sites,
        order: &linked.order,
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
