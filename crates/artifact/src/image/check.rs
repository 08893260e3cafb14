//! Checks a module that was read from an image: everything that it names exists. Types of code and values are the compiler's business; here a
//! damaged description is told from a whole one, so that whoever follows an index need not.

use super::ImageMeta;
use crate::vmctx::VmLayout;
use peregrine_wasm::{
    ConstExpr, ConstOp, DataMode, ElementItems, ElementMode, EntityIndex, FuncIndex, FuncType, GlobalIndex, HeapType, Index, MemoryType,
    Module, RefType, ValType,
};

/// Whether every index in `meta` is that of something, and all sizes can be added up.
pub(super) fn is_whole(meta: &ImageMeta) -> bool {
    let module = &meta.module;
    imports_fill_index_spaces(module)
        && VmLayout::fits(module)
        && u32::try_from(module.data.len()).is_ok_and(|data| data.checked_add(meta.mapped_data_segments).is_some())
        && meta.memory_images.iter().all(|image| image.memory.as_usize() < module.memories.len() - module.imported_memories as usize)
        && module.types.values().all(|ty| func_type_is_whole(module, ty))
        && functions_are_whole(module)
        && module.memories.values().all(memory_is_whole)
        && module.tables.values().all(|table| ref_type_is_whole(module, table.ty.element) && optional_is_whole(module, table.init.as_ref()))
        && module
            .globals
            .values()
            .all(|global| val_type_is_whole(module, global.ty.content) && optional_is_whole(module, global.init.as_ref()))
        && module.tags.values().all(|tag| tag.func.as_usize() < module.types.len())
        && module.exports.iter().all(|export| entity_is_whole(module, export.entity))
        && module.start.is_none_or(|start| function_has_reference(module, start))
        && elements_are_whole(module)
        && data_is_whole(module)
}

/// Whether imports come in the order of the index spaces and are as many as the module says.
fn imports_fill_index_spaces(module: &Module) -> bool {
    let mut counts = [0u32; 5];
    for import in &module.imports {
        let (space, index) = match import.entity {
            EntityIndex::Function(index) => (0, index.as_u32()),
            EntityIndex::Table(index) => (1, index.as_u32()),
            EntityIndex::Memory(index) => (2, index.as_u32()),
            EntityIndex::Global(index) => (3, index.as_u32()),
            EntityIndex::Tag(index) => (4, index.as_u32()),
        };
        if index != counts[space] {
            return false;
        }
        counts[space] += 1;
    }
    let spaces = [
        (module.imported_functions, module.functions.len()),
        (module.imported_tables, module.tables.len()),
        (module.imported_memories, module.memories.len()),
        (module.imported_globals, module.globals.len()),
        (module.imported_tags, module.tags.len()),
    ];
    counts.into_iter().zip(spaces).all(|(count, (imported, all))| count == imported && imported as usize <= all)
}

fn functions_are_whole(module: &Module) -> bool {
    module.escaping_functions as usize <= module.functions.len()
        && module.functions.values().all(|function| {
            function.ty.as_usize() < module.types.len() && function.func_ref.is_none_or(|position| position < module.escaping_functions)
        })
}

/// Whether a reference to a function can be made.
fn function_has_reference(module: &Module, index: FuncIndex) -> bool {
    index.as_u32() < module.imported_functions || (index.as_usize() < module.functions.len() && module.functions[index].func_ref.is_some())
}

fn func_type_is_whole(module: &Module, ty: &FuncType) -> bool {
    ty.params.iter().chain(&ty.results).all(|ty| val_type_is_whole(module, *ty))
}

fn val_type_is_whole(module: &Module, ty: ValType) -> bool {
    if let ValType::Ref(ty) = ty { ref_type_is_whole(module, ty) } else { true }
}

fn ref_type_is_whole(module: &Module, ty: RefType) -> bool {
    if let HeapType::Concrete(index) = ty.heap { index.as_usize() < module.types.len() } else { true }
}

/// Whether a memory is one that validation accepts; the largest of them is refused when it is made.
fn memory_is_whole(ty: &MemoryType) -> bool {
    match ty.page_size_log2 {
        0 => true,
        16 => ty.min_pages <= 1 << 48,
        _ => false,
    }
}

fn entity_is_whole(module: &Module, entity: EntityIndex) -> bool {
    match entity {
        EntityIndex::Function(index) => function_has_reference(module, index),
        EntityIndex::Table(index) => index.as_usize() < module.tables.len(),
        EntityIndex::Memory(index) => index.as_usize() < module.memories.len(),
        EntityIndex::Global(index) => index.as_usize() < module.globals.len(),
        EntityIndex::Tag(index) => index.as_usize() < module.tags.len(),
    }
}

fn optional_is_whole(module: &Module, expression: Option<&ConstExpr>) -> bool {
    expression.is_none_or(|expression| expression_is_whole(module, expression))
}

fn expression_is_whole(module: &Module, expression: &ConstExpr) -> bool {
    let global_exists = |index: GlobalIndex| index.as_usize() < module.globals.len();
    expression.ops().iter().all(|op| match *op {
        ConstOp::GlobalGet(index) => global_exists(index),
        ConstOp::RefFunc(index) => function_has_reference(module, index),
        _ => true,
    })
}

fn elements_are_whole(module: &Module) -> bool {
    module.elements.values().all(|segment| {
        let place = match &segment.mode {
            ElementMode::Active { table, offset } => table.as_usize() < module.tables.len() && expression_is_whole(module, offset),
            ElementMode::Passive | ElementMode::Declared => true,
        };
        place
            && match &segment.items {
                ElementItems::Functions(functions) => functions.iter().all(|index| function_has_reference(module, *index)),
                ElementItems::Expressions(expressions) => expressions.iter().all(|expression| expression_is_whole(module, expression)),
            }
    })
}

fn data_is_whole(module: &Module) -> bool {
    module.data.values().all(|segment| match &segment.mode {
        DataMode::Active { memory, offset } => memory.as_usize() < module.memories.len() && expression_is_whole(module, offset),
        DataMode::Passive => true,
    })
}
