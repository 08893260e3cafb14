//! Types of the parser as types of a module.
//!
//! Validation has refused the types of proposals that are off. What is left and has no counterpart is refused here, so that a proposal that
//! the parser learns does not become a panic.

use crate::errors::unsupported;
use peregrine_artifact::compiler::CompileError;
use peregrine_wasm::{FuncType, GlobalType, HeapType, MemoryType, RefType, TableType, TagType, TypeIndex, ValType};
use wasmparser::{AbstractHeapType, CompositeInnerType, SubType, UnpackedIndex};

pub(crate) fn sub_type(ty: &SubType) -> Result<FuncType, CompileError> {
    match &ty.composite_type.inner {
        CompositeInnerType::Func(func) if !ty.composite_type.shared => func_type(func),
        CompositeInnerType::Func(_) => Err(unsupported("shared-everything threads", "a shared function type")),
        CompositeInnerType::Cont(_) => Err(unsupported("stack switching", "a continuation type")),
        CompositeInnerType::Array(_) | CompositeInnerType::Struct(_) => Err(unsupported("garbage collection", "a struct or array type")),
    }
}

fn func_type(ty: &wasmparser::FuncType) -> Result<FuncType, CompileError> {
    let all = |types: &[wasmparser::ValType]| types.iter().map(|ty| val_type(*ty)).collect::<Result<Box<[ValType]>, _>>();
    Ok(FuncType { params: all(ty.params())?, results: all(ty.results())? })
}

pub(crate) fn val_type(ty: wasmparser::ValType) -> Result<ValType, CompileError> {
    Ok(match ty {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        wasmparser::ValType::Ref(ty) => ValType::Ref(ref_type(ty)?),
    })
}

pub(crate) fn ref_type(ty: wasmparser::RefType) -> Result<RefType, CompileError> {
    Ok(RefType { nullable: ty.is_nullable(), heap: heap_type(ty.heap_type())? })
}

pub(crate) fn heap_type(ty: wasmparser::HeapType) -> Result<HeapType, CompileError> {
    match ty {
        wasmparser::HeapType::Abstract { shared: true, .. } => Err(unsupported("shared-everything threads", "a shared reference type")),
        wasmparser::HeapType::Abstract { ty, .. } => match ty {
            AbstractHeapType::Func => Ok(HeapType::Func),
            AbstractHeapType::NoFunc => Ok(HeapType::NoFunc),
            AbstractHeapType::Extern => Ok(HeapType::Extern),
            AbstractHeapType::NoExtern => Ok(HeapType::NoExtern),
            AbstractHeapType::Exn | AbstractHeapType::NoExn => Err(unsupported("exception handling", "an exception reference type")),
            AbstractHeapType::Cont | AbstractHeapType::NoCont => Err(unsupported("stack switching", "a continuation reference type")),
            _ => Err(unsupported("garbage collection", "a reference to a collected type")),
        },
        wasmparser::HeapType::Concrete(UnpackedIndex::Module(index)) => Ok(HeapType::Concrete(TypeIndex::from_u32(index))),
        wasmparser::HeapType::Concrete(_) => Err(unsupported("garbage collection", "a reference within a recursion group")),
        wasmparser::HeapType::Exact(_) => Err(unsupported("custom descriptors", "an exact reference type")),
    }
}

pub(crate) fn table_type(ty: &wasmparser::TableType) -> Result<TableType, CompileError> {
    if ty.shared {
        return Err(unsupported("shared-everything threads", "a shared table"));
    }
    Ok(TableType { element: ref_type(ty.element_type)?, table64: ty.table64, min: ty.initial, max: ty.maximum })
}

pub(crate) fn memory_type(ty: &wasmparser::MemoryType) -> MemoryType {
    MemoryType {
        memory64: ty.memory64,
        shared: ty.shared,
        // Validated to be 0 or 16.
        page_size_log2: ty.page_size_log2.unwrap_or(16) as u8,
        min_pages: ty.initial,
        max_pages: ty.maximum,
    }
}

pub(crate) fn global_type(ty: &wasmparser::GlobalType) -> Result<GlobalType, CompileError> {
    if ty.shared {
        return Err(unsupported("shared-everything threads", "a shared global"));
    }
    Ok(GlobalType { content: val_type(ty.content_type)?, mutable: ty.mutable })
}

pub(crate) fn tag_type(ty: &wasmparser::TagType) -> TagType {
    TagType { func: TypeIndex::from_u32(ty.func_type_idx) }
}
