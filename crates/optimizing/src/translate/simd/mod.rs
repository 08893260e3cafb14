//! Vector instructions: `v128` of WebAssembly 2.0 and the relaxed vector instructions of 3.0, one file for each family.
//!
//! On the operand stack a vector has lanes of bytes, [`V128`]. [`Translator::as_lanes`] gives it others, and finds those that it had before
//! it was pushed, so that a chain of instructions on the same lanes has no bit casts. Lane 0 is at the lowest address on every target, so
//! every bit cast says little-endian.
//!
//! On x86-64 everything compiles from SSE2 on: what only later instructions do, and what the code generator would make a library call of,
//! is taken apart here into scalars.

mod convert;
mod float;
mod integer;
mod lanes;
mod memory;
mod relaxed;

use super::translator::Translator;
use cranelift_codegen::ir::{Endianness, InstBuilder, InstructionData, MemFlagsData, Opcode, Type, Value, ValueDef, types};
use target_lexicon::Architecture;
use wasmparser::Operator;

/// The lanes of vectors where no instruction has a say: on the operand stack, in locals, across blocks and calls.
const V128: Type = types::I8X16;

/// How bits of one type are read as another.
pub(super) const LITTLE_ENDIAN: MemFlagsData = MemFlagsData::new().with_endianness(Endianness::Little);

impl Translator<'_, '_> {
    /// Translates a vector instruction. False if `op` is none.
    pub(crate) fn simd(&mut self, op: &Operator<'_>) -> bool {
        self.simd_memory(op)
            || self.simd_lanes(op)
            || self.simd_integer(op)
            || self.simd_float(op)
            || self.simd_convert(op)
            || self.simd_relaxed(op)
    }

    /// The vector `v` with lanes of the vector type `ty`.
    fn as_lanes(&mut self, v: Value, ty: Type) -> Value {
        let dfg = &self.builder.func.dfg;
        if dfg.value_type(v) == ty {
            return v;
        }
        let mut source = v;
        if let ValueDef::Result(inst, _) = dfg.value_def(v)
            && let InstructionData::LoadNoOffset { opcode: Opcode::Bitcast, arg, .. } = dfg.insts[inst]
            && dfg.value_type(arg).is_vector()
        {
            source = arg;
        }
        if dfg.value_type(source) == ty { source } else { self.builder.ins().bitcast(ty, LITTLE_ENDIAN, source) }
    }

    /// Pops a vector as lanes of `ty`.
    fn pop_lanes(&mut self, ty: Type) -> Value {
        let v = self.pop();
        self.as_lanes(v, ty)
    }

    /// Pops two vectors as lanes of `ty`, in the order they were pushed.
    fn pop2_lanes(&mut self, ty: Type) -> (Value, Value) {
        let (x, y) = self.pop2();
        (self.as_lanes(x, ty), self.as_lanes(y, ty))
    }

    /// Pops three vectors as lanes of `ty`, in the order they were pushed.
    fn pop3_lanes(&mut self, ty: Type) -> (Value, Value, Value) {
        let (x, y, z) = self.pop3();
        (self.as_lanes(x, ty), self.as_lanes(y, ty), self.as_lanes(z, ty))
    }

    /// An instruction of one operand whose lanes, and those of the result as far as they follow from them, are `ty`.
    fn lanewise(&mut self, ty: Type, opcode: Opcode) {
        let x = self.pop_lanes(ty);
        let value = self.emit_unary(opcode, ty, x);
        self.push(value);
    }

    /// An instruction of two operands of lanes `ty`.
    fn lanewise2(&mut self, ty: Type, opcode: Opcode) {
        let (x, y) = self.pop2_lanes(ty);
        let value = self.emit_binary(opcode, ty, x, y);
        self.push(value);
    }

    /// Applies `each` to lane after lane of vectors of type `ty` and gathers the results.
    fn each_lane<const N: usize>(&mut self, ty: Type, vectors: [Value; N], mut each: impl FnMut(&mut Self, [Value; N]) -> Value) -> Value {
        let mut result = vectors[0];
        for lane in 0..ty.lane_count() as u8 {
            let lanes = vectors.map(|v| self.builder.ins().extractlane(v, lane));
            let value = each(self, lanes);
            result = self.builder.ins().insertlane(result, value, lane);
        }
        self.budget.operations(ty.lane_count() as usize * (N + 2));
        result
    }

    /// Whether permuting bytes by a vector of indices is an instruction, and not a call that needs a relocation.
    fn has_byte_shuffle(&self) -> bool {
        !self.is_x64() || self.isa.has_x86_pshufb_lowering()
    }

    fn is_x64(&self) -> bool {
        self.architecture() == Architecture::X86_64
    }

    /// A constant of lanes `ty`, from its bytes in memory order.
    fn vector_constant(&mut self, ty: Type, bytes: [u8; 16]) -> Value {
        let constant = self.builder.func.dfg.constants.insert(bytes[..].into());
        self.builder.ins().vconst(ty, constant)
    }
}
