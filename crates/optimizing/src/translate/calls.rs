//! Calls: direct, through a table, and as the last act of a function.
//!
//! Where functions are compiled one by one, direct calls of other functions go through entry slots: the emitter makes that of their names.

use super::flags::{Region, trap_code};
use super::guesses::Source;
use super::stack::Values;
use super::translator::Translator;
use crate::abi;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{ExtFuncData, ExternalName, FuncRef, Inst, InstBuilder, SigRef, UserExternalName, Value};
use peregrine_artifact::settings::Tiering;
use peregrine_artifact::vmctx::{FUNC_ELEMENT_INITIALIZED, VmContextHeader, VmFuncRef, VmFunctionImport};
use peregrine_wasm::{FuncIndex, TableIndex, Trap, TypeIndex};
use std::mem::offset_of;
use wasmparser::Operator;

/// The namespace of the names of a module's functions. Those that are not colocated are reached through their entry slots.
pub(crate) const FUNCTION_NAMESPACE: u32 = 0;

/// What is called.
pub(super) enum Callee {
    /// A function of this module.
    Defined(FuncRef),
    /// Code with its context.
    Code { signature: SigRef, code: Value, vmctx: Value },
}

impl Translator<'_, '_> {
    fn signature(&mut self, ty: TypeIndex) -> SigRef {
        if let Some(&signature) = self.signatures.get(&ty) {
            return signature;
        }
        let func_type = &self.module.types[ty];
        if abi::has_vectors(func_type) {
            self.require_vectors();
        }
        let signature = self.builder.import_signature(abi::wasm_signature(func_type));
        self.signatures.insert(ty, signature);
        signature
    }

    pub(super) fn function(&mut self, index: FuncIndex) -> Callee {
        let signature = self.signature(self.module.functions[index].ty);
        if self.module.defined_func_index(index).is_none() {
            let place = self.layout.function_import(index) as usize;
            let code = self.load_context_pointer(place + offset_of!(VmFunctionImport, code));
            let vmctx = self.load_context_pointer(place + offset_of!(VmFunctionImport, vmctx));
            return Callee::Code { signature, code, vmctx };
        }
        if let Some(&function) = self.functions.get(&index) {
            return Callee::Defined(function);
        }
        let name = UserExternalName::new(FUNCTION_NAMESPACE, index.as_u32());
        let name = ExternalName::user(self.builder.func.declare_imported_user_function(name));
        // The address of any function but this one may change, and code of some may be missing.
        let colocated = self.settings().tiering == Tiering::Whole || index == self.own_index && self.arrival.is_none();
        let function = self.builder.import_function(ExtFuncData { name, signature, colocated, patchable: false });
        self.functions.insert(index, function);
        Callee::Defined(function)
    }

    /// Pops the index and gives the reference that it finds in the table, with its mark.
    fn table_reference(&mut self, table: TableIndex) -> Value {
        let index = self.pop();
        let index = self.widen(index);
        // The arguments must not cross the blocks in between.
        self.flush();
        self.function_element(table, index)
    }

    /// The code and context of a reference out of a table, with its mark, which is checked to be of type `ty`.
    pub(super) fn table_callee(&mut self, marked: Value, table: TableIndex, ty: TypeIndex) -> Callee {
        let signature = self.signature(ty);
        let element = self.module.tables[table].ty.element;
        let types = &self.module.types;
        let null = Some(trap_code(Trap::IndirectCallToNull));
        let flags = Region::FunctionReferences.trusted(self.builder.func);
        let field = |offset: usize| offset as i32 - FUNC_ELEMENT_INITIALIZED as i32;
        // Reading a null reference faults: it is near address 0.
        let mut code_flags = flags;
        match abi::concrete_type(element.heap) {
            Some(known) if types[known] == types[ty] => code_flags = if element.nullable { flags.with_trap_code(null) } else { flags },
            _ => {
                let found = self.builder.ins().load(I32, flags.with_trap_code(null), marked, field(offset_of!(VmFuncRef, type_id)));
                let ids = self.load_context_pointer(offset_of!(VmContextHeader, type_ids));
                let constant = Region::Constant.constant(self.builder.func);
                let expected = self.builder.ins().load(I32, constant, ids, ty.as_u32() as i32 * 4);
                let other = self.builder.ins().icmp(IntCC::NotEqual, found, expected);
                self.builder.ins().trapnz(other, trap_code(Trap::BadSignature));
            }
        }
        let code = self.builder.ins().load(I64, code_flags, marked, field(offset_of!(VmFuncRef, code)));
        let vmctx = self.builder.ins().load(I64, flags, marked, field(offset_of!(VmFuncRef, vmctx)));
        Callee::Code { signature, code, vmctx }
    }

    /// A reference's code and context; null traps.
    pub(super) fn reference_callee(&mut self, func_ref: Value, ty: TypeIndex) -> Callee {
        let signature = self.signature(ty);
        let flags = Region::FunctionReferences.trusted(self.builder.func);
        let code_flags = flags.with_trap_code(Some(trap_code(Trap::NullReference)));
        let code = self.builder.ins().load(I64, code_flags, func_ref, offset_of!(VmFuncRef, code) as i32);
        let vmctx = self.builder.ins().load(I64, flags, func_ref, offset_of!(VmFuncRef, vmctx) as i32);
        Callee::Code { signature, code, vmctx }
    }

    pub(super) fn arguments(&mut self, vmctx: Value, ty: TypeIndex) -> Values {
        let count = self.module.types[ty].params.len();
        let mut all = Values::with_capacity(count + 1);
        all.push(vmctx);
        all.extend(self.pop_n(count));
        self.budget.arguments(all.len());
        all
    }

    fn call(&mut self, callee: &Callee, ty: TypeIndex) {
        self.meter_flush();
        self.translated.calls = true;
        self.translated.calls_outside_loops |= self.open_loops.is_empty();
        let call = match *callee {
            Callee::Defined(function) => {
                let args = self.arguments(self.vmctx, ty);
                self.builder.ins().call(function, &args)
            }
            Callee::Code { signature, code, vmctx } => {
                let args = self.arguments(vmctx, ty);
                self.builder.ins().call_indirect(signature, code, &args)
            }
        };
        self.push_results(call);
    }

    fn push_results(&mut self, call: Inst) {
        let results = Values::from_slice(self.builder.inst_results(call));
        self.budget.arguments(results.len());
        for result in results {
            self.push(result);
        }
    }

    fn return_call(&mut self, callee: &Callee, ty: TypeIndex) {
        self.meter_flush();
        self.translated.calls = true;
        self.translated.calls_outside_loops |= self.open_loops.is_empty();
        match *callee {
            Callee::Defined(function) => {
                let args = self.arguments(self.vmctx, ty);
                self.builder.ins().return_call(function, &args);
            }
            Callee::Code { signature, code, vmctx } => {
                let args = self.arguments(vmctx, ty);
                self.builder.ins().return_call_indirect(signature, code, &args);
            }
        }
        self.end_of_code();
    }

    /// Translates `op` if it is of this family.
    pub(super) fn calls(&mut self, op: &Operator<'_>) -> bool {
        match *op {
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                self.look_before_call();
                let index = FuncIndex::from_u32(function_index);
                self.guess_reached(index);
                let callee = self.function(index);
                let ty = self.module.functions[index].ty;
                self.call_or_return(op, &callee, ty);
            }
            Operator::CallIndirect { type_index, table_index } | Operator::ReturnCallIndirect { type_index, table_index } => {
                self.look_before_call();
                let ty = TypeIndex::from_u32(type_index);
                let table = TableIndex::from_u32(table_index);
                let element = self.table_reference(table);
                if !self.call_guessed(op, element, Source::Table(table), ty) {
                    let callee = self.table_callee(element, table, ty);
                    self.call_or_return(op, &callee, ty);
                }
            }
            Operator::CallRef { type_index } | Operator::ReturnCallRef { type_index } => {
                self.look_before_call();
                let ty = TypeIndex::from_u32(type_index);
                let func_ref = self.pop();
                if !self.call_guessed(op, func_ref, Source::Reference, ty) {
                    let callee = self.reference_callee(func_ref, ty);
                    self.call_or_return(op, &callee, ty);
                }
            }
            _ => return false,
        }
        true
    }

    fn call_or_return(&mut self, op: &Operator<'_>, callee: &Callee, ty: TypeIndex) {
        match op {
            Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } | Operator::ReturnCallRef { .. } => {
                self.return_call(callee, ty)
            }
            _ => self.call(callee, ty),
        }
    }
}
