//! Numeric instructions on scalars: constants, arithmetic, comparisons, conversions, 128-bit arithmetic, and `select`.
//!
//! Called by the operator walk for every operator that no other family takes. Division and the trapping conversions rely on the trap codes
//! that the code generator attaches to them itself (`INTEGER_DIVISION_BY_ZERO`, `INTEGER_OVERFLOW`, `BAD_CONVERSION_TO_INTEGER`). Shift
//! and rotate counts need no masking: the code generator's instructions take them modulo the width, as the specification does.
//!
//! Rounding is an instruction on all targets but x86-64 without SSE4.1, where the engine does it: a call of the code generator's
//! own choice would need a relocation to a library.

use super::translator::Translator;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::types::{F32, F64, I8, I16, I32, I64, I128};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};
use peregrine_artifact::builtins::Builtin;
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Translates a numeric instruction on scalars, or `select`. False if `op` is none.
    pub(crate) fn numeric(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::I32Const { value } => self.integer_constant(I32, i64::from(value.cast_unsigned())),
            Operator::I64Const { value } => self.integer_constant(I64, *value),
            Operator::F32Const { value } => {
                let value = self.builder.ins().f32const(Ieee32::with_bits(value.bits()));
                self.push(value);
            }
            Operator::F64Const { value } => {
                let value = self.builder.ins().f64const(Ieee64::with_bits(value.bits()));
                self.push(value);
            }
            Operator::Select | Operator::TypedSelect { .. } => self.select(),

            Operator::I32Eqz => self.equal_to_zero(),
            Operator::I32Eq => self.compare_integers(IntCC::Equal),
            Operator::I32Ne => self.compare_integers(IntCC::NotEqual),
            Operator::I32LtS => self.compare_integers(IntCC::SignedLessThan),
            Operator::I32LtU => self.compare_integers(IntCC::UnsignedLessThan),
            Operator::I32GtS => self.compare_integers(IntCC::SignedGreaterThan),
            Operator::I32GtU => self.compare_integers(IntCC::UnsignedGreaterThan),
            Operator::I32LeS => self.compare_integers(IntCC::SignedLessThanOrEqual),
            Operator::I32LeU => self.compare_integers(IntCC::UnsignedLessThanOrEqual),
            Operator::I32GeS => self.compare_integers(IntCC::SignedGreaterThanOrEqual),
            Operator::I32GeU => self.compare_integers(IntCC::UnsignedGreaterThanOrEqual),
            Operator::I64Eqz => self.equal_to_zero(),
            Operator::I64Eq => self.compare_integers(IntCC::Equal),
            Operator::I64Ne => self.compare_integers(IntCC::NotEqual),
            Operator::I64LtS => self.compare_integers(IntCC::SignedLessThan),
            Operator::I64LtU => self.compare_integers(IntCC::UnsignedLessThan),
            Operator::I64GtS => self.compare_integers(IntCC::SignedGreaterThan),
            Operator::I64GtU => self.compare_integers(IntCC::UnsignedGreaterThan),
            Operator::I64LeS => self.compare_integers(IntCC::SignedLessThanOrEqual),
            Operator::I64LeU => self.compare_integers(IntCC::UnsignedLessThanOrEqual),
            Operator::I64GeS => self.compare_integers(IntCC::SignedGreaterThanOrEqual),
            Operator::I64GeU => self.compare_integers(IntCC::UnsignedGreaterThanOrEqual),
            Operator::F32Eq | Operator::F64Eq => self.compare_floats(FloatCC::Equal),
            Operator::F32Ne | Operator::F64Ne => self.compare_floats(FloatCC::NotEqual),
            Operator::F32Lt | Operator::F64Lt => self.compare_floats(FloatCC::LessThan),
            Operator::F32Gt | Operator::F64Gt => self.compare_floats(FloatCC::GreaterThan),
            Operator::F32Le | Operator::F64Le => self.compare_floats(FloatCC::LessThanOrEqual),
            Operator::F32Ge | Operator::F64Ge => self.compare_floats(FloatCC::GreaterThanOrEqual),

            Operator::I32Clz | Operator::I64Clz => self.unary(Opcode::Clz),
            Operator::I32Ctz | Operator::I64Ctz => self.unary(Opcode::Ctz),
            Operator::I32Popcnt | Operator::I64Popcnt => self.unary(Opcode::Popcnt),
            Operator::I32Add | Operator::I64Add => self.binary(Opcode::Iadd),
            Operator::I32Sub | Operator::I64Sub => self.binary(Opcode::Isub),
            Operator::I32Mul | Operator::I64Mul => self.binary(Opcode::Imul),
            Operator::I32DivS | Operator::I64DivS => self.binary(Opcode::Sdiv),
            Operator::I32DivU | Operator::I64DivU => self.binary(Opcode::Udiv),
            Operator::I32RemS | Operator::I64RemS => self.binary(Opcode::Srem),
            Operator::I32RemU | Operator::I64RemU => self.binary(Opcode::Urem),
            Operator::I32And | Operator::I64And => self.binary(Opcode::Band),
            Operator::I32Or | Operator::I64Or => self.binary(Opcode::Bor),
            Operator::I32Xor | Operator::I64Xor => self.binary(Opcode::Bxor),
            Operator::I32Shl | Operator::I64Shl => self.binary(Opcode::Ishl),
            Operator::I32ShrS | Operator::I64ShrS => self.binary(Opcode::Sshr),
            Operator::I32ShrU | Operator::I64ShrU => self.binary(Opcode::Ushr),
            Operator::I32Rotl | Operator::I64Rotl => self.binary(Opcode::Rotl),
            Operator::I32Rotr | Operator::I64Rotr => self.binary(Opcode::Rotr),
            Operator::I64Add128 => self.binary_128(Opcode::Iadd),
            Operator::I64Sub128 => self.binary_128(Opcode::Isub),
            Operator::I64MulWideS => self.multiply_wide(Opcode::Sextend),
            Operator::I64MulWideU => self.multiply_wide(Opcode::Uextend),

            Operator::F32Abs | Operator::F64Abs => self.unary(Opcode::Fabs),
            Operator::F32Neg | Operator::F64Neg => self.unary(Opcode::Fneg),
            Operator::F32Sqrt | Operator::F64Sqrt => self.unary(Opcode::Sqrt),
            Operator::F32Ceil | Operator::F64Ceil => self.round(Opcode::Ceil),
            Operator::F32Floor | Operator::F64Floor => self.round(Opcode::Floor),
            Operator::F32Trunc | Operator::F64Trunc => self.round(Opcode::Trunc),
            Operator::F32Nearest | Operator::F64Nearest => self.round(Opcode::Nearest),
            Operator::F32Add | Operator::F64Add => self.binary(Opcode::Fadd),
            Operator::F32Sub | Operator::F64Sub => self.binary(Opcode::Fsub),
            Operator::F32Mul | Operator::F64Mul => self.binary(Opcode::Fmul),
            Operator::F32Div | Operator::F64Div => self.binary(Opcode::Fdiv),
            Operator::F32Min | Operator::F64Min => self.binary(Opcode::Fmin),
            Operator::F32Max | Operator::F64Max => self.binary(Opcode::Fmax),
            Operator::F32Copysign | Operator::F64Copysign => self.binary(Opcode::Fcopysign),

            Operator::I32WrapI64 => self.convert(Opcode::Ireduce, I32),
            Operator::I64ExtendI32S => self.convert(Opcode::Sextend, I64),
            Operator::I64ExtendI32U => self.convert(Opcode::Uextend, I64),
            Operator::I32Extend8S => self.sign_extend(I8, I32),
            Operator::I32Extend16S => self.sign_extend(I16, I32),
            Operator::I64Extend8S => self.sign_extend(I8, I64),
            Operator::I64Extend16S => self.sign_extend(I16, I64),
            Operator::I64Extend32S => self.sign_extend(I32, I64),
            Operator::I32TruncF32S | Operator::I32TruncF64S => self.convert(Opcode::FcvtToSint, I32),
            Operator::I32TruncF32U | Operator::I32TruncF64U => self.convert(Opcode::FcvtToUint, I32),
            Operator::I64TruncF32S | Operator::I64TruncF64S => self.convert(Opcode::FcvtToSint, I64),
            Operator::I64TruncF32U | Operator::I64TruncF64U => self.convert(Opcode::FcvtToUint, I64),
            Operator::I32TruncSatF32S | Operator::I32TruncSatF64S => self.convert(Opcode::FcvtToSintSat, I32),
            Operator::I32TruncSatF32U | Operator::I32TruncSatF64U => self.convert(Opcode::FcvtToUintSat, I32),
            Operator::I64TruncSatF32S | Operator::I64TruncSatF64S => self.convert(Opcode::FcvtToSintSat, I64),
            Operator::I64TruncSatF32U | Operator::I64TruncSatF64U => self.convert(Opcode::FcvtToUintSat, I64),
            Operator::F32ConvertI32S | Operator::F32ConvertI64S => self.convert(Opcode::FcvtFromSint, F32),
            Operator::F32ConvertI32U | Operator::F32ConvertI64U => self.convert(Opcode::FcvtFromUint, F32),
            Operator::F64ConvertI32S | Operator::F64ConvertI64S => self.convert(Opcode::FcvtFromSint, F64),
            Operator::F64ConvertI32U | Operator::F64ConvertI64U => self.convert(Opcode::FcvtFromUint, F64),
            Operator::F32DemoteF64 => self.convert(Opcode::Fdemote, F32),
            Operator::F64PromoteF32 => self.convert(Opcode::Fpromote, F64),
            Operator::I32ReinterpretF32 => self.reinterpret(I32),
            Operator::I64ReinterpretF64 => self.reinterpret(I64),
            Operator::F32ReinterpretI32 => self.reinterpret(F32),
            Operator::F64ReinterpretI64 => self.reinterpret(F64),
            _ => return false,
        }
        true
    }

    /// Emits an instruction of one operand. `ty` is the type that controls it: of the result, where that is not the operand's.
    pub(super) fn emit_unary(&mut self, opcode: Opcode, ty: Type, x: Value) -> Value {
        let (inst, dfg) = self.builder.ins().Unary(opcode, ty, x);
        dfg.first_result(inst)
    }

    /// Emits an instruction of two operands, the first of type `ty`.
    pub(super) fn emit_binary(&mut self, opcode: Opcode, ty: Type, x: Value, y: Value) -> Value {
        let (inst, dfg) = self.builder.ins().Binary(opcode, ty, x, y);
        dfg.first_result(inst)
    }

    /// A truth value of one byte as the `i32` that WebAssembly has.
    pub(super) fn push_truth(&mut self, truth: Value) {
        let value = self.builder.ins().uextend(I32, truth);
        self.push(value);
    }

    /// Whether rounding to an integral float is an instruction, and not a call that needs a relocation.
    pub(super) fn has_round(&self) -> bool {
        self.isa.has_round()
    }

    /// Rounds a scalar, by an instruction or by the engine.
    pub(super) fn round_scalar(&mut self, opcode: Opcode, x: Value) -> Value {
        let ty = self.builder.func.dfg.value_type(x);
        if self.has_round() {
            return self.emit_unary(opcode, ty, x);
        }
        let builtin = match (opcode, ty == F32) {
            (Opcode::Ceil, true) => Builtin::f32_ceil,
            (Opcode::Floor, true) => Builtin::f32_floor,
            (Opcode::Trunc, true) => Builtin::f32_trunc,
            (_, true) => Builtin::f32_nearest,
            (Opcode::Ceil, false) => Builtin::f64_ceil,
            (Opcode::Floor, false) => Builtin::f64_floor,
            (Opcode::Trunc, false) => Builtin::f64_trunc,
            (_, false) => Builtin::f64_nearest,
        };
        let rounded = self.call_builtin(builtin, &[x]).expect("the builtins that round have a result");
        // Functions that round give a signalling NaN back as it is; arithmetic makes it quiet, and changes nothing else.
        let zero = if ty == F32 { self.builder.ins().f32const(0.0) } else { self.builder.ins().f64const(0.0) };
        self.builder.ins().fsub(rounded, zero)
    }

    fn integer_constant(&mut self, ty: Type, value: i64) {
        let value = self.builder.ins().iconst(ty, value);
        self.push(value);
    }

    /// `select` of values of any type.
    fn select(&mut self) {
        let (x, y, condition) = self.pop3();
        let value = self.builder.ins().select(condition, x, y);
        self.push(value);
    }

    fn unary(&mut self, opcode: Opcode) {
        let x = self.pop();
        let ty = self.builder.func.dfg.value_type(x);
        let value = self.emit_unary(opcode, ty, x);
        self.push(value);
    }

    fn binary(&mut self, opcode: Opcode) {
        let (x, y) = self.pop2();
        let ty = self.builder.func.dfg.value_type(x);
        let value = self.emit_binary(opcode, ty, x, y);
        self.push(value);
    }

    fn convert(&mut self, opcode: Opcode, to: Type) {
        let x = self.pop();
        let value = self.emit_unary(opcode, to, x);
        self.push(value);
    }

    fn round(&mut self, opcode: Opcode) {
        let x = self.pop();
        let value = self.round_scalar(opcode, x);
        self.push(value);
    }

    fn equal_to_zero(&mut self) {
        let x = self.pop();
        let truth = self.builder.ins().icmp_imm_s(IntCC::Equal, x, 0);
        self.push_truth(truth);
    }

    fn compare_integers(&mut self, condition: IntCC) {
        let (x, y) = self.pop2();
        let truth = self.builder.ins().icmp(condition, x, y);
        self.push_truth(truth);
    }

    fn compare_floats(&mut self, condition: FloatCC) {
        let (x, y) = self.pop2();
        let truth = self.builder.ins().fcmp(condition, x, y);
        self.push_truth(truth);
    }

    /// The low bits of type `from`, sign-extended to `to`.
    fn sign_extend(&mut self, from: Type, to: Type) {
        let x = self.pop();
        let low = self.builder.ins().ireduce(from, x);
        let value = self.builder.ins().sextend(to, low);
        self.push(value);
    }

    fn reinterpret(&mut self, to: Type) {
        let x = self.pop();
        let value = self.builder.ins().bitcast(to, super::simd::LITTLE_ENDIAN, x);
        self.push(value);
    }

    /// `i64.add128`, `i64.sub128`: each number is two `i64`, the low half first.
    fn binary_128(&mut self, opcode: Opcode) {
        let (y_low, y_high) = self.pop2();
        let (x_low, x_high) = self.pop2();
        let x = self.builder.ins().iconcat(x_low, x_high);
        let y = self.builder.ins().iconcat(y_low, y_high);
        let value = self.emit_binary(opcode, I128, x, y);
        self.push_128(value);
    }

    /// `i64.mul_wide_s`, `i64.mul_wide_u`.
    fn multiply_wide(&mut self, extend: Opcode) {
        let (x, y) = self.pop2();
        let x = self.emit_unary(extend, I128, x);
        let y = self.emit_unary(extend, I128, y);
        let value = self.builder.ins().imul(x, y);
        self.push_128(value);
    }

    fn push_128(&mut self, value: Value) {
        let (low, high) = self.builder.ins().isplit(value);
        self.push(low);
        self.push(high);
    }
}
