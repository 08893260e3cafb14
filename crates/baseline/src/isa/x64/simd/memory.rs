//! Vector loads and stores.

use super::super::assembler::Sse;
use super::{PSHUFD, p66};
use crate::body::MemArg;
use crate::compile::Compiler;
use crate::values::Ty::{F32, F64, V128};
use crate::values::Value;
use wasmparser::Operator;

impl Compiler<'_> {
    /// Translates a vector load or store. False if `op` is none.
    pub(super) fn simd_memory(&mut self, op: &Operator<'_>) -> bool {
        use Operator as Op;
        match op {
            Op::V128Load { memarg } => self.load_vector(&memarg.into(), 16, Sse::new(0, 0x10)),
            Op::V128Store { memarg } => {
                let value = self.pop_vector();
                let address = self.address(&memarg.into(), 16);
                self.memory_may_trap();
                self.store_mem(V128, address.mem, value);
                self.release_address(address);
                self.regs.release(value);
            }
            Op::V128Load8x8S { memarg } => self.load_vector(&memarg.into(), 8, Sse::map38(0x20)),
            Op::V128Load8x8U { memarg } => self.load_vector(&memarg.into(), 8, Sse::map38(0x30)),
            Op::V128Load16x4S { memarg } => self.load_vector(&memarg.into(), 8, Sse::map38(0x23)),
            Op::V128Load16x4U { memarg } => self.load_vector(&memarg.into(), 8, Sse::map38(0x33)),
            Op::V128Load32x2S { memarg } => self.load_vector(&memarg.into(), 8, Sse::map38(0x25)),
            Op::V128Load32x2U { memarg } => self.load_vector(&memarg.into(), 8, Sse::map38(0x35)),
            Op::V128Load8Splat { memarg } => self.load_splat_small(&memarg.into(), true),
            Op::V128Load16Splat { memarg } => self.load_splat_small(&memarg.into(), false),
            Op::V128Load32Splat { memarg } => self.load_splat(&memarg.into(), 4, 0x00),
            Op::V128Load64Splat { memarg } => self.load_splat(&memarg.into(), 8, 0x44),
            Op::V128Load32Zero { memarg } => self.load_vector(&memarg.into(), 4, Sse::new(0xf3, 0x10)),
            Op::V128Load64Zero { memarg } => self.load_vector(&memarg.into(), 8, Sse::new(0xf2, 0x10)),
            Op::V128Load8Lane { memarg, lane } => self.load_lane(&memarg.into(), 1, Sse::map3a(0x20), false, *lane),
            Op::V128Load16Lane { memarg, lane } => self.load_lane(&memarg.into(), 2, p66(0xc4), false, *lane),
            Op::V128Load32Lane { memarg, lane } => self.load_lane(&memarg.into(), 4, Sse::map3a(0x22), false, *lane),
            Op::V128Load64Lane { memarg, lane } => self.load_lane(&memarg.into(), 8, Sse::map3a(0x22), true, *lane),
            Op::V128Store8Lane { memarg, lane } => self.store_lane(&memarg.into(), 1, Sse::map3a(0x14), false, *lane),
            Op::V128Store16Lane { memarg, lane } => self.store_lane(&memarg.into(), 2, Sse::map3a(0x15), false, *lane),
            Op::V128Store32Lane { memarg, lane } => self.store_lane(&memarg.into(), 4, Sse::map3a(0x16), false, *lane),
            Op::V128Store64Lane { memarg, lane } => self.store_lane(&memarg.into(), 8, Sse::map3a(0x16), true, *lane),
            _ => return false,
        }
        true
    }

    fn load_vector(&mut self, memarg: &MemArg, size_bytes: u32, op: Sse) {
        let address = self.address(memarg, size_bytes);
        self.release_address(address);
        let target = self.result(true);
        self.memory_may_trap();
        self.masm.sse(op, target, address.mem);
        self.push_reg(V128, target);
    }

    fn load_splat(&mut self, memarg: &MemArg, size_bytes: u32, order: u8) {
        let address = self.address(memarg, size_bytes);
        self.release_address(address);
        let target = self.result(true);
        self.memory_may_trap();
        self.load_mem(if size_bytes == 4 { F32 } else { F64 }, target, address.mem);
        self.masm.sse_imm(PSHUFD, target, target, order);
        self.push_reg(V128, target);
    }

    fn load_splat_small(&mut self, memarg: &MemArg, is_byte: bool) {
        let address = self.address(memarg, if is_byte { 1 } else { 2 });
        self.release_address(address);
        let target = self.result(true);
        self.memory_may_trap();
        self.masm.sse_imm(if is_byte { Sse::map3a(0x20) } else { p66(0xc4) }, target, address.mem, 0);
        self.splat_low(target, is_byte);
        self.push_reg(V128, target);
    }

    fn load_lane(&mut self, memarg: &MemArg, size_bytes: u32, op: Sse, wide: bool, lane: u8) {
        let target = self.pop_vector_result(Value::Const(0));
        let address = self.address(memarg, size_bytes);
        self.memory_may_trap();
        self.masm.sse_wide_imm(op, wide, target, address.mem, lane);
        self.release_address(address);
        self.push_reg(V128, target);
    }

    fn store_lane(&mut self, memarg: &MemArg, size_bytes: u32, op: Sse, wide: bool, lane: u8) {
        let value = self.pop_vector();
        let address = self.address(memarg, size_bytes);
        self.memory_may_trap();
        self.masm.sse_wide_imm(op, wide, value, address.mem, lane);
        self.release_address(address);
        self.regs.release(value);
    }
}
