//! Vector loads and stores: whole, extending, splatting, zero-filling and of one lane.
//!
//! The size given to the bounds check is that of the bytes in memory, not of the vector.

use crate::translate::translator::Translator;
use cranelift_codegen::ir::types::{I8X16, I16X8, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};
use wasmparser::{MemArg, Operator};

impl Translator<'_, '_> {
    /// Translates a vector load or store. False if `op` is none.
    pub(super) fn simd_memory(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::V128Load { memarg } => {
                let value = self.load_bytes(memarg, I8X16);
                self.push(value);
            }
            Operator::V128Store { memarg } => {
                let value = self.pop_lanes(I8X16);
                self.store_bytes(memarg, value);
            }
            Operator::V128Load8x8S { memarg } => self.load_extending(memarg, Opcode::Sload8x8),
            Operator::V128Load8x8U { memarg } => self.load_extending(memarg, Opcode::Uload8x8),
            Operator::V128Load16x4S { memarg } => self.load_extending(memarg, Opcode::Sload16x4),
            Operator::V128Load16x4U { memarg } => self.load_extending(memarg, Opcode::Uload16x4),
            Operator::V128Load32x2S { memarg } => self.load_extending(memarg, Opcode::Sload32x2),
            Operator::V128Load32x2U { memarg } => self.load_extending(memarg, Opcode::Uload32x2),
            Operator::V128Load8Splat { memarg } => self.load_into_lanes(memarg, I8X16, Opcode::Splat),
            Operator::V128Load16Splat { memarg } => self.load_into_lanes(memarg, I16X8, Opcode::Splat),
            Operator::V128Load32Splat { memarg } => self.load_into_lanes(memarg, I32X4, Opcode::Splat),
            Operator::V128Load64Splat { memarg } => self.load_into_lanes(memarg, I64X2, Opcode::Splat),
            Operator::V128Load32Zero { memarg } => self.load_into_lanes(memarg, I32X4, Opcode::ScalarToVector),
            Operator::V128Load64Zero { memarg } => self.load_into_lanes(memarg, I64X2, Opcode::ScalarToVector),
            Operator::V128Load8Lane { memarg, lane } => self.load_lane(memarg, I8X16, *lane),
            Operator::V128Load16Lane { memarg, lane } => self.load_lane(memarg, I16X8, *lane),
            Operator::V128Load32Lane { memarg, lane } => self.load_lane(memarg, I32X4, *lane),
            Operator::V128Load64Lane { memarg, lane } => self.load_lane(memarg, I64X2, *lane),
            Operator::V128Store8Lane { memarg, lane } => self.store_lane(memarg, I8X16, *lane),
            Operator::V128Store16Lane { memarg, lane } => self.store_lane(memarg, I16X8, *lane),
            Operator::V128Store32Lane { memarg, lane } => self.store_lane(memarg, I32X4, *lane),
            Operator::V128Store64Lane { memarg, lane } => self.store_lane(memarg, I64X2, *lane),
            _ => return false,
        }
        true
    }

    /// Pops the address and loads a scalar or vector of type `ty`.
    fn load_bytes(&mut self, memarg: &MemArg, ty: Type) -> Value {
        let address = self.memory_address(memarg, ty.bytes());
        self.builder.ins().load(ty, address.flags, address.base, address.offset)
    }

    /// Pops the address and stores a scalar or vector.
    fn store_bytes(&mut self, memarg: &MemArg, value: Value) {
        let size_bytes = self.builder.func.dfg.value_type(value).bytes();
        let address = self.memory_address(memarg, size_bytes);
        self.builder.ins().store(address.flags, value, address.base, address.offset);
    }

    /// Loads 8 bytes and extends each of their lanes to twice its width.
    fn load_extending(&mut self, memarg: &MemArg, opcode: Opcode) {
        let address = self.memory_address(memarg, 8);
        let flags = address.flags;
        let ins = self.builder.ins();
        let value = match opcode {
            Opcode::Sload8x8 => ins.sload8x8(flags, address.base, address.offset),
            Opcode::Uload8x8 => ins.uload8x8(flags, address.base, address.offset),
            Opcode::Sload16x4 => ins.sload16x4(flags, address.base, address.offset),
            Opcode::Uload16x4 => ins.uload16x4(flags, address.base, address.offset),
            Opcode::Sload32x2 => ins.sload32x2(flags, address.base, address.offset),
            _ => ins.uload32x2(flags, address.base, address.offset),
        };
        self.push(value);
    }

    /// Loads one lane of `ty` and makes a vector of it: `opcode` is `Splat` or `ScalarToVector`.
    fn load_into_lanes(&mut self, memarg: &MemArg, ty: Type, opcode: Opcode) {
        let lane = self.load_bytes(memarg, ty.lane_type());
        let value = self.emit_unary(opcode, ty, lane);
        self.push(value);
    }

    fn load_lane(&mut self, memarg: &MemArg, ty: Type, lane: u8) {
        let vector = self.pop_lanes(ty);
        let value = self.load_bytes(memarg, ty.lane_type());
        let vector = self.builder.ins().insertlane(vector, value, lane);
        self.push(vector);
    }

    fn store_lane(&mut self, memarg: &MemArg, ty: Type, lane: u8) {
        let vector = self.pop_lanes(ty);
        let value = self.builder.ins().extractlane(vector, lane);
        self.store_bytes(memarg, value);
    }
}
