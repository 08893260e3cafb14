//! Enter and Exit stubs, as [`peregrine_artifact::abi`] describes them.

use crate::abi;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{Endianness, Function, InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, Value};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use peregrine_artifact::abi::{StubKind, VALUE_SIZE_BYTES};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::vmctx::VmContextHeader;
use peregrine_wasm::{FuncType, ValType};
use std::mem::offset_of;

/// Builds the stub of a kind for a type in `func`, which is empty.
pub(crate) fn build(kind: StubKind, ty: &FuncType, isa: &dyn TargetIsa, func: &mut Function, context: &mut FunctionBuilderContext) {
    func.signature = match kind {
        StubKind::Enter => abi::enter_signature(isa),
        StubKind::Exit => abi::wasm_signature(ty),
    };
    let mut builder = FunctionBuilder::new(func, context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let params = builder.block_params(entry).to_vec();
    match kind {
        StubKind::Enter => enter(&mut builder, ty, params[0], params[1], params[2]),
        StubKind::Exit => exit(&mut builder, ty, isa, &params),
    }
    builder.finalize(isa.frontend_config());
}

/// Flags of accesses to an array of values.
fn value_flags() -> MemFlagsData {
    MemFlagsData::trusted().with_endianness(Endianness::Little)
}

fn load_values(builder: &mut FunctionBuilder<'_>, types: &[ValType], values: Value) -> Vec<Value> {
    let place = |position: usize| (position * VALUE_SIZE_BYTES) as i32;
    types
        .iter()
        .enumerate()
        .map(|(position, &ty)| builder.ins().load(abi::value_type(ty), value_flags(), values, place(position)))
        .collect()
}

fn store_values(builder: &mut FunctionBuilder<'_>, from: &[Value], values: Value) {
    for (position, &value) in from.iter().enumerate() {
        builder.ins().store(value_flags(), value, values, (position * VALUE_SIZE_BYTES) as i32);
    }
}

fn enter(builder: &mut FunctionBuilder<'_>, ty: &FuncType, vmctx: Value, code: Value, values: Value) {
    let mut args = vec![vmctx];
    args.extend(load_values(builder, &ty.params, values));
    let signature = builder.import_signature(abi::wasm_signature(ty));
    let call = builder.ins().call_indirect(signature, code, &args);
    let results = builder.inst_results(call).to_vec();
    store_values(builder, &results, values);
    builder.ins().return_(&[]);
}

fn exit(builder: &mut FunctionBuilder<'_>, ty: &FuncType, isa: &dyn TargetIsa, params: &[Value]) {
    let host_context = params[0];
    let values = ty.params.len().max(ty.results.len()).max(1) * VALUE_SIZE_BYTES;
    let slot = builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, values as u32, 4));
    let values = builder.ins().stack_addr(I64, slot, 0);
    store_values(builder, &params[1..], values);
    let constant = MemFlagsData::trusted().with_readonly();
    let builtins = builder.ins().load(I64, constant, host_context, offset_of!(VmContextHeader, builtins) as i32);
    let code = builder.ins().load(I64, constant, builtins, Builtin::host_call.offset_bytes());
    let signature = builder.import_signature(abi::builtin_signature(Builtin::host_call, isa));
    builder.ins().call_indirect(signature, code, &[host_context, values]);
    let results = load_values(builder, &ty.results, values);
    builder.ins().return_(&results);
}
