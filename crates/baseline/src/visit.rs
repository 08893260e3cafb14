//! The walk over the operators: one match on opcodes that sends each to its family. Core specification, section 5.4.

use crate::body::Body;
use crate::compile::Compiler;
use crate::operators::{FloatCompare, FloatOp, IntegerCompare, IntegerOp, Load, Rounding, ShiftOp, WideOp};
use crate::values::Ty::{F32, F64, I32, I64};

impl Compiler<'_> {
    /// If the operator at this place writes a local with a register, the one before may do it.
    #[inline]
    fn look_ahead(&mut self, body: &Body<'_>) {
        self.hint = None;
        if matches!(body.peek(), 0x21 | 0x22) {
            let mut ahead = body.clone();
            ahead.byte();
            let index = ahead.u32();
            self.hint = self.locals[index as usize].pin.map(|reg| (reg, index));
        }
    }

    /// Translates an operator in reachable code, whose opcode has been read.
    pub(crate) fn visit(&mut self, opcode: u8, body: &mut Body<'_>) {
        // Branches, `select` and `i32.eqz` take a comparison from the flags.
        if self.flags_pending && !matches!(opcode, 0x04 | 0x0d | 0x1b | 0x1c | 0x45) {
            self.settle_flags();
        }
        self.meter(opcode);
        if self.plain && matches!(opcode, 0x11 | 0x13 | 0x25 | 0x26) {
            // Where an element of a table is made, whatever is in registers is kept.
            self.flush();
        }
        match opcode {
            0x20 => self.local_get(body.u32()),
            0x21 => self.local_set(body.u32(), false),
            0x22 => self.local_set(body.u32(), true),
            0x41 => self.push_const(I32, u64::from(body.i64() as u32)),
            0x42 => self.push_const(I64, body.i64() as u64),
            0x43 => self.push_const(F32, body.bits32().into()),
            0x44 => self.push_const(F64, body.bits64()),
            0x28..=0x3e => self.visit_memory(opcode, body),
            0x45..=0xc4 => {
                self.look_ahead(body);
                self.visit_numeric(opcode);
            }
            0x00..=0x1f => self.visit_control(opcode, body),
            0xfc => self.visit_bulk(body),
            0xfd => self.visit_vector(body),
            0xfe => self.visit_atomic(body),
            _ => self.visit_other(opcode, body),
        }
    }

    fn visit_control(&mut self, opcode: u8, body: &mut Body<'_>) {
        match opcode {
            0x00 => self.unreachable(),
            0x01 => {}
            0x02 => self.block(body.block_type()),
            0x03 => self.begin_loop(body.block_type()),
            0x04 => self.begin_if(body.block_type()),
            0x05 => self.begin_else(),
            0x0b => self.end(),
            0x0c => self.br(body.u32()),
            0x0d => self.br_if(body.u32()),
            0x0e => self.br_table(&body.br_table()),
            0x0f => self.br_to_end(),
            0x10 => self.call(body.u32(), false),
            0x11 => {
                let ty = body.u32();
                self.call_indirect(ty, body.u32(), false);
            }
            0x12 => self.call(body.u32(), true),
            0x13 => {
                let ty = body.u32();
                self.call_indirect(ty, body.u32(), true);
            }
            0x14 => self.call_ref(body.u32(), false),
            0x15 => self.call_ref(body.u32(), true),
            0x1a => self.discard(),
            0x1b | 0x1c => {
                if opcode == 0x1c {
                    body.skip_immediates(opcode);
                }
                self.look_ahead(body);
                self.select();
            }
            _ => self.unknown(opcode),
        }
    }

    fn visit_other(&mut self, opcode: u8, body: &mut Body<'_>) {
        match opcode {
            0x23 => {
                let index = body.u32();
                self.look_ahead(body);
                self.global_get(index);
            }
            0x24 => self.global_set(body.u32()),
            0x25 => self.table_get(body.u32()),
            0x26 => self.table_set(body.u32()),
            0x3f => {
                let memory = body.u32();
                self.look_ahead(body);
                self.memory_size(memory);
            }
            0x40 => self.memory_grow(body.u32()),
            0xd0 => {
                let ty = body.heap_type();
                self.ref_null(ty);
            }
            0xd1 => self.ref_is_null(),
            0xd2 => {
                self.hint = None;
                self.ref_func(body.u32());
            }
            0xd4 => self.ref_as_non_null(),
            0xd5 => self.br_on_null(body.u32()),
            0xd6 => self.br_on_non_null(body.u32()),
            _ => self.unknown(opcode),
        }
    }

    fn unknown(&mut self, opcode: u8) {
        self.refuse(format!("an instruction that begins with {opcode:#x}, at offset {:#x} of a body", self.offset));
    }

    fn visit_memory(&mut self, opcode: u8, body: &mut Body<'_>) {
        let memarg = &body.memarg();
        self.look_ahead(body);
        match opcode {
            0x28 => self.load(I32, Load::Whole, memarg),
            0x29 => self.load(I64, Load::Whole, memarg),
            0x2a => self.load(F32, Load::Whole, memarg),
            0x2b => self.load(F64, Load::Whole, memarg),
            0x2c => self.load(I32, Load::S8, memarg),
            0x2d => self.load(I32, Load::U8, memarg),
            0x2e => self.load(I32, Load::S16, memarg),
            0x2f => self.load(I32, Load::U16, memarg),
            0x30 => self.load(I64, Load::S8, memarg),
            0x31 => self.load(I64, Load::U8, memarg),
            0x32 => self.load(I64, Load::S16, memarg),
            0x33 => self.load(I64, Load::U16, memarg),
            0x34 => self.load(I64, Load::S32, memarg),
            0x35 => self.load(I64, Load::U32, memarg),
            0x36 => self.store(I32, 4, memarg),
            0x37 => self.store(I64, 8, memarg),
            0x38 => self.store(F32, 4, memarg),
            0x39 => self.store(F64, 8, memarg),
            0x3a => self.store(I32, 1, memarg),
            0x3b => self.store(I32, 2, memarg),
            0x3c => self.store(I64, 1, memarg),
            0x3d => self.store(I64, 2, memarg),
            0x3e => self.store(I64, 4, memarg),
            _ => self.unknown(opcode),
        }
    }

    fn visit_numeric(&mut self, opcode: u8) {
        match opcode {
            0x45 => self.equal_to_zero(I32),
            0x46 => self.compare(I32, IntegerCompare::Equal),
            0x47 => self.compare(I32, IntegerCompare::NotEqual),
            0x48 => self.compare(I32, IntegerCompare::LessSigned),
            0x49 => self.compare(I32, IntegerCompare::LessUnsigned),
            0x4a => self.compare(I32, IntegerCompare::GreaterSigned),
            0x4b => self.compare(I32, IntegerCompare::GreaterUnsigned),
            0x4c => self.compare(I32, IntegerCompare::LessOrEqualSigned),
            0x4d => self.compare(I32, IntegerCompare::LessOrEqualUnsigned),
            0x4e => self.compare(I32, IntegerCompare::GreaterOrEqualSigned),
            0x4f => self.compare(I32, IntegerCompare::GreaterOrEqualUnsigned),
            0x50 => self.equal_to_zero(I64),
            0x51 => self.compare(I64, IntegerCompare::Equal),
            0x52 => self.compare(I64, IntegerCompare::NotEqual),
            0x53 => self.compare(I64, IntegerCompare::LessSigned),
            0x54 => self.compare(I64, IntegerCompare::LessUnsigned),
            0x55 => self.compare(I64, IntegerCompare::GreaterSigned),
            0x56 => self.compare(I64, IntegerCompare::GreaterUnsigned),
            0x57 => self.compare(I64, IntegerCompare::LessOrEqualSigned),
            0x58 => self.compare(I64, IntegerCompare::LessOrEqualUnsigned),
            0x59 => self.compare(I64, IntegerCompare::GreaterOrEqualSigned),
            0x5a => self.compare(I64, IntegerCompare::GreaterOrEqualUnsigned),
            0x5b => self.float_compare(F32, FloatCompare::Equal),
            0x5c => self.float_compare(F32, FloatCompare::NotEqual),
            0x5d => self.float_compare(F32, FloatCompare::Less),
            0x5e => self.float_compare(F32, FloatCompare::Greater),
            0x5f => self.float_compare(F32, FloatCompare::LessOrEqual),
            0x60 => self.float_compare(F32, FloatCompare::GreaterOrEqual),
            0x61 => self.float_compare(F64, FloatCompare::Equal),
            0x62 => self.float_compare(F64, FloatCompare::NotEqual),
            0x63 => self.float_compare(F64, FloatCompare::Less),
            0x64 => self.float_compare(F64, FloatCompare::Greater),
            0x65 => self.float_compare(F64, FloatCompare::LessOrEqual),
            0x66 => self.float_compare(F64, FloatCompare::GreaterOrEqual),
            0x67 => self.count_leading_zeros(I32),
            0x68 => self.count_trailing_zeros(I32),
            0x69 => self.count_ones(I32),
            0x6a => self.integer(IntegerOp::Add, I32),
            0x6b => self.integer(IntegerOp::Sub, I32),
            0x6c => self.multiply(I32),
            0x6d => self.divide(I32, true, false),
            0x6e => self.divide(I32, false, false),
            0x6f => self.divide(I32, true, true),
            0x70 => self.divide(I32, false, true),
            0x71 => self.integer(IntegerOp::And, I32),
            0x72 => self.integer(IntegerOp::Or, I32),
            0x73 => self.integer(IntegerOp::Xor, I32),
            0x74 => self.shift(ShiftOp::Left, I32),
            0x75 => self.shift(ShiftOp::RightSigned, I32),
            0x76 => self.shift(ShiftOp::RightUnsigned, I32),
            0x77 => self.shift(ShiftOp::RotateLeft, I32),
            0x78 => self.shift(ShiftOp::RotateRight, I32),
            0x79 => self.count_leading_zeros(I64),
            0x7a => self.count_trailing_zeros(I64),
            0x7b => self.count_ones(I64),
            0x7c => self.integer(IntegerOp::Add, I64),
            0x7d => self.integer(IntegerOp::Sub, I64),
            0x7e => self.multiply(I64),
            0x7f => self.divide(I64, true, false),
            0x80 => self.divide(I64, false, false),
            0x81 => self.divide(I64, true, true),
            0x82 => self.divide(I64, false, true),
            0x83 => self.integer(IntegerOp::And, I64),
            0x84 => self.integer(IntegerOp::Or, I64),
            0x85 => self.integer(IntegerOp::Xor, I64),
            0x86 => self.shift(ShiftOp::Left, I64),
            0x87 => self.shift(ShiftOp::RightSigned, I64),
            0x88 => self.shift(ShiftOp::RightUnsigned, I64),
            0x89 => self.shift(ShiftOp::RotateLeft, I64),
            0x8a => self.shift(ShiftOp::RotateRight, I64),
            0x8b => self.float_abs(F32),
            0x8c => self.float_neg(F32),
            0x8d => self.float_round(F32, Rounding::Ceil),
            0x8e => self.float_round(F32, Rounding::Floor),
            0x8f => self.float_round(F32, Rounding::Trunc),
            0x90 => self.float_round(F32, Rounding::Nearest),
            0x91 => self.float_sqrt(F32),
            0x92 => self.float(F32, FloatOp::Add),
            0x93 => self.float(F32, FloatOp::Sub),
            0x94 => self.float(F32, FloatOp::Mul),
            0x95 => self.float(F32, FloatOp::Div),
            0x96 => self.float_min_max(F32, false),
            0x97 => self.float_min_max(F32, true),
            0x98 => self.float_copysign(F32),
            0x99 => self.float_abs(F64),
            0x9a => self.float_neg(F64),
            0x9b => self.float_round(F64, Rounding::Ceil),
            0x9c => self.float_round(F64, Rounding::Floor),
            0x9d => self.float_round(F64, Rounding::Trunc),
            0x9e => self.float_round(F64, Rounding::Nearest),
            0x9f => self.float_sqrt(F64),
            0xa0 => self.float(F64, FloatOp::Add),
            0xa1 => self.float(F64, FloatOp::Sub),
            0xa2 => self.float(F64, FloatOp::Mul),
            0xa3 => self.float(F64, FloatOp::Div),
            0xa4 => self.float_min_max(F64, false),
            0xa5 => self.float_min_max(F64, true),
            0xa6 => self.float_copysign(F64),
            0xa7 => self.wrap(),
            0xa8 => self.convert_to_integer(F32, I32, true),
            0xa9 => self.convert_to_integer(F32, I32, false),
            0xaa => self.convert_to_integer(F64, I32, true),
            0xab => self.convert_to_integer(F64, I32, false),
            0xad => self.zero_extend(),
            0xae => self.convert_to_integer(F32, I64, true),
            0xaf => self.convert_to_integer(F32, I64, false),
            0xb0 => self.convert_to_integer(F64, I64, true),
            0xb1 => self.convert_to_integer(F64, I64, false),
            0xb2 => self.convert_from_integer(I32, F32, true),
            0xb3 => self.convert_from_integer(I32, F32, false),
            0xb4 => self.convert_from_integer(I64, F32, true),
            0xb5 => self.convert_from_integer(I64, F32, false),
            0xb6 => self.convert_float(F64, F32),
            0xb7 => self.convert_from_integer(I32, F64, true),
            0xb8 => self.convert_from_integer(I32, F64, false),
            0xb9 => self.convert_from_integer(I64, F64, true),
            0xba => self.convert_from_integer(I64, F64, false),
            0xbb => self.convert_float(F32, F64),
            0xbc => self.reinterpret(F32, I32),
            0xbd => self.reinterpret(F64, I64),
            0xbe => self.reinterpret(I32, F32),
            0xbf => self.reinterpret(I64, F64),
            0xc0 => self.sign_extend(I32, 8),
            0xc1 => self.sign_extend(I32, 16),
            0xc2 => self.sign_extend(I64, 8),
            0xc3 => self.sign_extend(I64, 16),
            0xc4 | 0xac => self.sign_extend(I64, 32),
            _ => self.unknown(opcode),
        }
    }

    fn visit_bulk(&mut self, body: &mut Body<'_>) {
        let opcode = body.u32();
        match opcode {
            0..=7 => {
                self.look_ahead(body);
                let (from, to, signed) = [
                    (F32, I32, true),
                    (F32, I32, false),
                    (F64, I32, true),
                    (F64, I32, false),
                    (F32, I64, true),
                    (F32, I64, false),
                    (F64, I64, true),
                    (F64, I64, false),
                ][opcode as usize];
                self.convert_to_integer_saturating(from, to, signed);
            }
            8 => {
                let data = body.u32();
                self.memory_init(body.u32(), data);
            }
            9 => self.data_drop(body.u32()),
            10 => {
                let target = body.u32();
                self.memory_copy(target, body.u32());
            }
            11 => self.memory_fill(body.u32()),
            12 => {
                let element = body.u32();
                self.table_init(body.u32(), element);
            }
            13 => self.element_drop(body.u32()),
            14 => {
                let target = body.u32();
                self.table_copy(target, body.u32());
            }
            15 => self.table_grow(body.u32()),
            16 => self.table_size_hinted(body),
            17 => self.table_fill(body.u32()),
            19 => self.wide_arithmetic(WideOp::Add),
            20 => self.wide_arithmetic(WideOp::Sub),
            21 => self.multiply_wide(true),
            22 => self.multiply_wide(false),
            _ => self.unknown(0xfc),
        }
    }

    fn table_size_hinted(&mut self, body: &mut Body<'_>) {
        let table = body.u32();
        self.look_ahead(body);
        self.table_size(table);
    }

    fn visit_vector(&mut self, body: &mut Body<'_>) {
        let mut reader = std::mem::take(&mut self.vector_reader);
        let operator = body.vector(&mut reader);
        self.vector_reader = reader;
        self.look_ahead(body);
        if !operator.is_some_and(|operator| self.simd(&operator)) {
            self.unknown(0xfd);
        }
    }

    fn visit_atomic(&mut self, body: &mut Body<'_>) {
        let opcode = body.u32();
        if opcode == 3 {
            body.byte();
            return self.atomic_fence();
        }
        let memarg = &body.memarg();
        // After `wait`, `notify` and `fence` there are seven widths of each kind, in the same order.
        let (ty, size_bytes) =
            [(I32, 4), (I64, 8), (I32, 1), (I32, 2), (I64, 1), (I64, 2), (I64, 4)][opcode.wrapping_sub(0x10) as usize % 7];
        self.hint = None;
        match opcode {
            0 => self.atomic_notify(memarg),
            1 => self.atomic_wait(I32, memarg),
            2 => self.atomic_wait(I64, memarg),
            0x10..=0x16 => {
                self.look_ahead(body);
                self.atomic_load(ty, size_bytes, memarg);
            }
            0x17..=0x1d => self.atomic_store(ty, size_bytes, memarg),
            0x1e..=0x24 => self.atomic_add(ty, size_bytes, memarg, false),
            0x25..=0x2b => self.atomic_add(ty, size_bytes, memarg, true),
            0x2c..=0x32 => self.atomic_logic(IntegerOp::And, ty, size_bytes, memarg),
            0x33..=0x39 => self.atomic_logic(IntegerOp::Or, ty, size_bytes, memarg),
            0x3a..=0x40 => self.atomic_logic(IntegerOp::Xor, ty, size_bytes, memarg),
            0x41..=0x47 => self.atomic_exchange(ty, size_bytes, memarg),
            0x48..=0x4e => self.atomic_compare_exchange(ty, size_bytes, memarg),
            _ => self.unknown(0xfe),
        }
    }
}
