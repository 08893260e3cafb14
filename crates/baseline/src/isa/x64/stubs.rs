//! The stubs between host and guest: from an array of values to a function of a type, and from there to the host.

use super::abi::Location;
use super::assembler::{Alu, Mem};
use super::calls::{field, place_arguments, place_results, result_area_bytes};
use super::registers::{RAX, RBP, RBX, RDI, RDX, RSI, RSP, SCRATCH, VECTOR_SCRATCH};
use crate::compile::Compiler;
use crate::values::Ty;
use peregrine_artifact::abi::VALUE_SIZE_BYTES;
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::vmctx::VmContextHeader;
use peregrine_wasm::TypeIndex;
use std::mem::offset_of;

impl Compiler<'_> {
    /// `(vmctx, code, values)` in the C convention to a function of the type.
    pub(crate) fn enter_stub(&mut self, ty: TypeIndex) {
        let module = self.module;
        let ty = &module.types[ty];
        let (placed, area, context, argument_bytes) = place_arguments(ty);
        let total = argument_bytes + result_area_bytes(ty);
        let value = |position: usize| Mem::new(RBX, (position * VALUE_SIZE_BYTES) as i32);
        self.masm.push(RBP);
        self.masm.mov(true, RBP, RSP);
        self.masm.push(RBX);
        self.masm.alu_imm(Alu::Sub, true, RSP, 8 + total as i32);
        self.masm.mov(true, RBX, RDX);
        self.masm.mov(true, RAX, RSI);
        if let Some(area) = area {
            self.masm.mov(true, context, RDI);
            self.masm.lea(true, area, Mem::new(RSP, argument_bytes as i32));
        }
        for (position, &(ty, location)) in placed.iter().enumerate() {
            match location {
                Location::Reg(reg) => self.load_mem(ty, reg, value(position)),
                Location::Stack(offset) => {
                    self.load_mem(Ty::V128, VECTOR_SCRATCH, value(position));
                    self.store_mem(if ty == Ty::V128 { ty } else { Ty::F64 }, Mem::new(RSP, offset as i32), VECTOR_SCRATCH);
                }
            }
        }
        self.masm.call_rm(RAX);
        for (position, (ty, location)) in place_results(ty).into_iter().enumerate() {
            match location {
                Location::Reg(reg) => self.store_mem(ty, value(position), reg),
                Location::Stack(offset) => {
                    let ty = if ty == Ty::V128 { ty } else { Ty::F64 };
                    self.load_mem(ty, VECTOR_SCRATCH, Mem::new(RSP, offset as i32));
                    self.store_mem(ty, value(position), VECTOR_SCRATCH);
                }
            }
        }
        self.masm.lea(true, RSP, Mem::new(RBP, -8));
        self.masm.pop(RBX);
        self.masm.pop(RBP);
        self.masm.ret(0);
    }

    /// From wasm to the host function of a host context.
    pub(crate) fn exit_stub(&mut self, ty: TypeIndex) {
        let module = self.module;
        let ty = &module.types[ty];
        let (placed, area, context, argument_bytes) = place_arguments(ty);
        let values = ty.params.len().max(ty.results.len()) * VALUE_SIZE_BYTES;
        let value = |position: usize| Mem::new(RSP, (position * VALUE_SIZE_BYTES) as i32);
        self.masm.push(RBP);
        self.masm.mov(true, RBP, RSP);
        self.masm.alu_imm(Alu::Sub, true, RSP, 16 + values as i32);
        for (position, &(ty, location)) in placed.iter().enumerate() {
            match location {
                Location::Reg(reg) => self.store_mem(ty, value(position), reg),
                Location::Stack(offset) => {
                    let ty = if ty == Ty::V128 { ty } else { Ty::F64 };
                    self.load_mem(ty, VECTOR_SCRATCH, Mem::new(RBP, 16 + offset as i32));
                    self.store_mem(ty, value(position), VECTOR_SCRATCH);
                }
            }
        }
        if let Some(area) = area {
            self.store_slot(Ty::I64, -8, area);
            self.masm.mov(true, RDI, context);
        }
        self.masm.mov(true, RSI, RSP);
        self.masm.mov(true, RAX, Mem::new(RDI, field(offset_of!(VmContextHeader, builtins))));
        self.masm.call_rm(Mem::new(RAX, Builtin::host_call.offset_bytes()));
        let results = place_results(ty);
        if area.is_some() {
            self.load_slot(Ty::I64, SCRATCH, -8);
        }
        for (position, &(ty, location)) in results.iter().enumerate() {
            match location {
                Location::Reg(reg) => self.load_mem(ty, reg, value(position)),
                Location::Stack(offset) => {
                    let ty = if ty == Ty::V128 { ty } else { Ty::F64 };
                    self.load_mem(ty, VECTOR_SCRATCH, value(position));
                    self.store_mem(ty, Mem::new(SCRATCH, offset as i32), VECTOR_SCRATCH);
                }
            }
        }
        self.masm.leave();
        self.masm.ret(argument_bytes as u16);
    }
}
