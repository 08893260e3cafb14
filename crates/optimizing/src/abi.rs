//! Types and signatures of Cranelift for those of the specification: what [`peregrine_artifact::abi`] says, in Cranelift's words.
//!
//! Translation and stubs build their signatures here, so that both sides of a call agree.

use crate::isa::has_fuel_register;
use cranelift_codegen::ir::types::{F32, F64, I8X16, I32, I64};
use cranelift_codegen::ir::{AbiParam, ArgumentPurpose, Signature, Type};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use peregrine_artifact::builtins::{Builtin, BuiltinType};
use peregrine_wasm::{FuncType, HeapType, RefType, ValType};
use target_lexicon::Architecture;

/// The machine type of references of a type: pointers for functions, handles for everything else.
pub(crate) fn ref_type(ty: RefType) -> Type {
    if ty.heap.is_func() { I64 } else { I32 }
}

/// The machine type of values of a type. Vectors have one type everywhere but in the middle of an instruction.
pub(crate) fn value_type(ty: ValType) -> Type {
    match ty {
        ValType::I32 => I32,
        ValType::I64 => I64,
        ValType::F32 => F32,
        ValType::F64 => F64,
        ValType::V128 => I8X16,
        ValType::Ref(ty) => ref_type(ty),
    }
}

/// The machine type of references to a heap type, as bodies write it.
pub(crate) fn parsed_heap_type(ty: wasmparser::HeapType) -> Type {
    use wasmparser::AbstractHeapType::{Func, NoFunc};
    match ty {
        wasmparser::HeapType::Abstract { ty: Func | NoFunc, .. } | wasmparser::HeapType::Concrete(_) | wasmparser::HeapType::Exact(_) => {
            I64
        }
        wasmparser::HeapType::Abstract { .. } => I32,
    }
}

/// The machine type of values of a type, as bodies write it.
pub(crate) fn parsed_value_type(ty: wasmparser::ValType) -> Type {
    match ty {
        wasmparser::ValType::I32 => I32,
        wasmparser::ValType::I64 => I64,
        wasmparser::ValType::F32 => F32,
        wasmparser::ValType::F64 => F64,
        wasmparser::ValType::V128 => I8X16,
        wasmparser::ValType::Ref(ty) => parsed_heap_type(ty.heap_type()),
    }
}

/// Whether a function type needs vector registers to be called.
pub(crate) fn has_vectors(ty: &FuncType) -> bool {
    ty.params.iter().chain(&ty.results).any(|ty| *ty == ValType::V128)
}

/// The function type that all references of a heap type have, if the type says so.
pub(crate) fn concrete_type(heap: HeapType) -> Option<peregrine_wasm::TypeIndex> {
    match heap {
        HeapType::Concrete(index) => Some(index),
        _ => None,
    }
}

/// The context parameter that every wasm function takes first.
fn context_param() -> AbiParam {
    AbiParam::special(I64, ArgumentPurpose::VMContext)
}

/// `(vmctx, params...) -> results` in the convention of wasm functions.
pub(crate) fn wasm_signature(ty: &FuncType) -> Signature {
    let mut signature = Signature::new(CallConv::Tail);
    signature.params.push(context_param());
    signature.params.extend(ty.params.iter().map(|&ty| AbiParam::new(value_type(ty))));
    signature.returns.extend(ty.results.iter().map(|&ty| AbiParam::new(value_type(ty))));
    signature
}

/// `(vmctx, homes) -> results`: a function that is entered at the head of a loop.
pub(crate) fn loop_entry_signature(ty: &FuncType) -> Signature {
    let mut signature = Signature::new(CallConv::Tail);
    signature.params.extend([context_param(), AbiParam::new(I64)]);
    signature.returns.extend(ty.results.iter().map(|&ty| AbiParam::new(value_type(ty))));
    signature
}

/// The C signature of a builtin on the target of `isa`.
pub(crate) fn builtin_signature(builtin: Builtin, isa: &dyn TargetIsa) -> Signature {
    // Nothing need be kept for a call that hardly ever happens.
    let keeps_registers = builtin == Builtin::out_of_fuel && has_fuel_register(isa.triple().architecture);
    let mut signature = Signature::new(if keeps_registers { CallConv::PreserveAll } else { CallConv::triple_default(isa.triple()) });
    let param = |ty: &BuiltinType| match (ty, isa.triple().architecture) {
        (BuiltinType::Pointer | BuiltinType::I64, _) => AbiParam::new(I64),
        (BuiltinType::F32, _) => AbiParam::new(F32),
        (BuiltinType::F64, _) => AbiParam::new(F64),
        // These two widen arguments of 32 bits; the first by the sign whatever the type, the second by the type, which is unsigned.
        (BuiltinType::I32, Architecture::Riscv64(_)) => AbiParam::new(I32).sext(),
        (BuiltinType::I32, Architecture::S390x) => AbiParam::new(I32).uext(),
        (BuiltinType::I32, _) => AbiParam::new(I32),
    };
    signature.params.extend(builtin.params().iter().map(param));
    signature.returns.extend(builtin.result().iter().map(param));
    signature
}

/// `(vmctx, code, values)`, the C signature of Enter stubs.
pub(crate) fn enter_signature(isa: &dyn TargetIsa) -> Signature {
    let mut signature = Signature::new(CallConv::triple_default(isa.triple()));
    signature.params.extend([AbiParam::new(I64); 3]);
    signature
}
