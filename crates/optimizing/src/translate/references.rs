//! References: `ref.null`, `ref.is_null`, `ref.func` and `ref.as_non_null`. Branches on null are with the others.

use super::flags::trap_code;
use super::translator::Translator;
use crate::abi;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I32;
use cranelift_codegen::ir::{InstBuilder, Value};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::vmctx::VmFunctionImport;
use peregrine_wasm::{FuncIndex, Trap};
use std::mem::offset_of;
use wasmparser::Operator;

impl Translator<'_, '_> {
    fn is_null(&mut self, reference: Value) -> Value {
        let null = self.builder.ins().icmp_imm_s(IntCC::Equal, reference, 0);
        self.builder.ins().uextend(I32, null)
    }

    fn ref_func(&mut self, index: FuncIndex) {
        let reference = if self.module.defined_func_index(index).is_none() {
            let place = self.layout.function_import(index) as usize;
            Some(self.load_context_pointer(place + offset_of!(VmFunctionImport, func_ref)))
        } else {
            let index = self.builder.ins().iconst(I32, i64::from(index.as_u32()));
            self.call_builtin(Builtin::ref_func, &[index])
        };
        if let Some(reference) = reference {
            self.push(reference);
        }
    }

    /// Translates `op` if it is of this family.
    pub(super) fn references(&mut self, op: &Operator<'_>) -> bool {
        match *op {
            Operator::RefNull { hty } => {
                let null = self.builder.ins().iconst(abi::parsed_heap_type(hty), 0);
                self.push(null);
            }
            Operator::RefIsNull => {
                let reference = self.pop();
                let null = self.is_null(reference);
                self.push(null);
            }
            Operator::RefFunc { function_index } => self.ref_func(FuncIndex::from_u32(function_index)),
            Operator::RefAsNonNull => {
                let reference = self.pop();
                self.builder.ins().trapz(reference, trap_code(Trap::NullReference));
                self.push(reference);
            }
            _ => return false,
        }
        true
    }
}
