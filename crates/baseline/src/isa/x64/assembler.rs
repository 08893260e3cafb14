//! Encodings of x86-64 instructions, as methods of [`Masm`].
//!
//! One function does all but VEX; the others say which instruction. Operands are in the order of the manual: what is written comes first.

pub(crate) use super::operands::{Alu, Cc, Mem, Rm, Shift, Sse, Wide};
use super::operands::{CONSTANT, NO_INDEX};
use crate::masm::{Label, Masm};
use crate::registers::Reg;
use peregrine_artifact::func::{Reloc, RelocKind, RelocTarget};
use peregrine_artifact::image::BUDGET_CALLS_OFFSET;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex};

struct Opcode {
    prefix: u8,
    wide: bool,
    map: u8,
    byte: u8,
    /// The operand of one byte needs a prefix to be what it says.
    byte_operand: bool,
}

impl Masm {
    /// Encodes an instruction with a ModRM byte. `immediate` has `immediate_len` bytes.
    #[inline]
    fn modrm(&mut self, op: &Opcode, reg: u8, rm: Rm, immediate: u32, immediate_len: usize) {
        let mut bytes = [0; 16];
        let mut len = 0;
        let mut push = |byte: u8| {
            bytes[len & 15] = byte;
            len += 1;
        };
        if op.prefix != 0 {
            push(op.prefix);
        }
        let (x, b) = match rm {
            Rm::Reg(rm) => (0, rm.number() >> 3),
            Rm::Mem(mem) => {
                (if mem.index == NO_INDEX { 0 } else { mem.index >> 3 & 1 }, if mem.base == CONSTANT { 0 } else { mem.base >> 3 & 1 })
            }
        };
        let rex = (op.wide as u8) << 3 | (reg >> 3 & 1) << 2 | x << 1 | b;
        if rex != 0 || op.byte_operand {
            push(0x40 | rex);
        }
        match op.map {
            0 => {}
            1 => push(0x0f),
            2 => {
                push(0x0f);
                push(0x38);
            }
            _ => {
                push(0x0f);
                push(0x3a);
            }
        }
        push(op.byte);
        let reg = (reg & 7) << 3;
        let mut constant = None;
        match rm {
            Rm::Reg(rm) => push(0xc0 | reg | rm.number() & 7),
            Rm::Mem(mem) if mem.base == CONSTANT => {
                push(reg | 5);
                constant = Some((len, mem.disp as u32));
                for byte in (4 + immediate_len as u32).wrapping_neg().to_le_bytes() {
                    bytes[len & 15] = byte;
                    len += 1;
                }
            }
            Rm::Mem(mem) => {
                let base = mem.base & 7;
                let (mode, disp_len) = match mem.disp {
                    0 if base != 5 => (0, 0),
                    -128..=127 => (0x40, 1),
                    _ => (0x80, 4),
                };
                if mem.index != NO_INDEX {
                    push(mode | reg | 4);
                    push(mem.scale << 6 | (mem.index & 7) << 3 | base);
                } else if base == 4 {
                    push(mode | reg | 4);
                    push(0x24);
                } else {
                    push(mode | reg | base);
                }
                for byte in &mem.disp.to_le_bytes()[..disp_len] {
                    bytes[len & 15] = *byte;
                    len += 1;
                }
            }
        }
        for byte in &immediate.to_le_bytes()[..immediate_len] {
            bytes[len & 15] = *byte;
            len += 1;
        }
        let start = self.position();
        self.put(&bytes, len);
        if let Some((offset, number)) = constant {
            self.use_constant(start + offset as u32, number);
        }
    }

    #[inline]
    fn plain(&mut self, wide: Wide, byte: u8, reg: Reg, rm: impl Into<Rm>) {
        let op = Opcode { prefix: 0, wide, map: 0, byte, byte_operand: false };
        self.modrm(&op, reg.number(), rm.into(), 0, 0);
    }

    #[inline]
    fn extended(&mut self, prefix: u8, wide: Wide, byte: u8, reg: Reg, rm: impl Into<Rm>) {
        let op = Opcode { prefix, wide, map: 1, byte, byte_operand: false };
        self.modrm(&op, reg.number(), rm.into(), 0, 0);
    }

    /// A number in the place of a register.
    #[inline]
    fn digit(&mut self, wide: Wide, byte: u8, digit: u8, rm: Rm, immediate: u32, immediate_len: usize) {
        let op = Opcode { prefix: 0, wide, map: 0, byte, byte_operand: false };
        self.modrm(&op, digit, rm, immediate, immediate_len);
    }

    // Moves of integers.

    /// `mov target, source`.
    #[inline]
    pub(crate) fn mov(&mut self, wide: Wide, target: Reg, source: impl Into<Rm>) {
        self.plain(wide, 0x8b, target, source);
    }

    /// `mov [target], source`.
    #[inline]
    pub(crate) fn mov_store(&mut self, wide: Wide, target: Mem, source: Reg) {
        self.plain(wide, 0x89, source, target);
    }

    /// `mov byte [target], source`.
    pub(crate) fn mov_store8(&mut self, target: Mem, source: Reg) {
        let op = Opcode { prefix: 0, wide: false, map: 0, byte: 0x88, byte_operand: (4..8).contains(&source.0) };
        self.modrm(&op, source.number(), target.into(), 0, 0);
    }

    /// `mov word [target], source`.
    pub(crate) fn mov_store16(&mut self, target: Mem, source: Reg) {
        let op = Opcode { prefix: 0x66, wide: false, map: 0, byte: 0x89, byte_operand: false };
        self.modrm(&op, source.number(), target.into(), 0, 0);
    }

    /// `mov [target], immediate`, which is sign-extended.
    pub(crate) fn mov_store_imm(&mut self, wide: Wide, target: Mem, immediate: i32) {
        self.digit(wide, 0xc7, 0, target.into(), immediate as u32, 4);
    }

    /// `mov byte [target], immediate`.
    pub(crate) fn mov_store8_imm(&mut self, target: Mem, immediate: u8) {
        self.digit(false, 0xc6, 0, target.into(), immediate.into(), 1);
    }

    /// `mov word [target], immediate`.
    pub(crate) fn mov_store16_imm(&mut self, target: Mem, immediate: u16) {
        let op = Opcode { prefix: 0x66, wide: false, map: 0, byte: 0xc7, byte_operand: false };
        self.modrm(&op, 0, target.into(), immediate.into(), 2);
    }

    /// The shortest instruction that writes `value` and leaves the flags as they are.
    pub(crate) fn mov_imm(&mut self, target: Reg, value: u64) {
        let mut bytes = [0; 16];
        let b = target.number() >> 3;
        let number = target.number() & 7;
        if u32::try_from(value).is_ok() {
            let prefix = usize::from(b);
            bytes[0] = 0x41;
            bytes[prefix] = 0xb8 | number;
            bytes[prefix + 1..prefix + 5].copy_from_slice(&(value as u32).to_le_bytes());
            self.put(&bytes, prefix + 5);
        } else if i32::try_from(value as i64).is_ok() {
            self.digit(true, 0xc7, 0, target.into(), value as u32, 4);
        } else {
            bytes[0] = 0x48 | b;
            bytes[1] = 0xb8 | number;
            bytes[2..10].copy_from_slice(&value.to_le_bytes());
            self.put(&bytes, 10);
        }
    }

    /// `xor target, target`: zero, and no flags.
    pub(crate) fn zero(&mut self, target: Reg) {
        self.plain(false, 0x33, target, target);
    }

    /// `lea target, source`.
    pub(crate) fn lea(&mut self, wide: Wide, target: Reg, source: Mem) {
        self.plain(wide, 0x8d, target, source);
    }

    /// `movzx target, byte source`.
    pub(crate) fn movzx8(&mut self, target: Reg, source: impl Into<Rm>) {
        let source = source.into();
        let byte_operand = matches!(source, Rm::Reg(reg) if (4..8).contains(&reg.0));
        let op = Opcode { prefix: 0, wide: false, map: 1, byte: 0xb6, byte_operand };
        self.modrm(&op, target.number(), source, 0, 0);
    }

    /// `movzx target, word source`.
    pub(crate) fn movzx16(&mut self, target: Reg, source: impl Into<Rm>) {
        self.extended(0, false, 0xb7, target, source);
    }

    /// `movsx target, byte source`.
    pub(crate) fn movsx8(&mut self, wide: Wide, target: Reg, source: impl Into<Rm>) {
        let source = source.into();
        let byte_operand = matches!(source, Rm::Reg(reg) if (4..8).contains(&reg.0));
        let op = Opcode { prefix: 0, wide, map: 1, byte: 0xbe, byte_operand };
        self.modrm(&op, target.number(), source, 0, 0);
    }

    /// `movsx target, word source`.
    pub(crate) fn movsx16(&mut self, wide: Wide, target: Reg, source: impl Into<Rm>) {
        self.extended(0, wide, 0xbf, target, source);
    }

    /// `movsxd target, dword source`.
    pub(crate) fn movsx32(&mut self, target: Reg, source: impl Into<Rm>) {
        self.plain(true, 0x63, target, source);
    }

    // Arithmetic.

    /// `op target, source`.
    #[inline]
    pub(crate) fn alu(&mut self, op: Alu, wide: Wide, target: Reg, source: impl Into<Rm>) {
        self.plain(wide, (op as u8) << 3 | 3, target, source);
    }

    /// `op target, immediate`, which is sign-extended.
    #[inline]
    pub(crate) fn alu_imm(&mut self, op: Alu, wide: Wide, target: impl Into<Rm>, immediate: i32) {
        match i8::try_from(immediate) {
            Ok(byte) => self.digit(wide, 0x83, op as u8, target.into(), byte as u8 as u32, 1),
            Err(_) => self.digit(wide, 0x81, op as u8, target.into(), immediate as u32, 4),
        }
    }

    /// `xor byte [target], immediate`.
    pub(crate) fn alu_imm_byte_xor(&mut self, target: Mem, immediate: u8) {
        self.digit(false, 0x80, Alu::Xor as u8, target.into(), immediate.into(), 1);
    }

    /// `op [target], source`.
    pub(crate) fn alu_store(&mut self, op: Alu, wide: Wide, target: Mem, source: Reg) {
        self.plain(wide, (op as u8) << 3 | 1, source, target);
    }

    /// `test left, right`.
    pub(crate) fn test(&mut self, wide: Wide, left: Reg, right: Reg) {
        self.plain(wide, 0x85, right, left);
    }

    /// `test left, immediate`, of the low bytes.
    pub(crate) fn test8_imm(&mut self, left: Reg, immediate: u8) {
        let op = Opcode { prefix: 0, wide: false, map: 0, byte: 0xf6, byte_operand: (4..8).contains(&left.0) };
        self.modrm(&op, 0, left.into(), immediate.into(), 1);
    }

    /// `imul target, source`.
    pub(crate) fn imul(&mut self, wide: Wide, target: Reg, source: impl Into<Rm>) {
        self.extended(0, wide, 0xaf, target, source);
    }

    /// `imul target, source, immediate`.
    pub(crate) fn imul_imm(&mut self, wide: Wide, target: Reg, source: impl Into<Rm>, immediate: i32) {
        let (byte, len) = if i8::try_from(immediate).is_ok() { (0x6b, 1) } else { (0x69, 4) };
        let op = Opcode { prefix: 0, wide, map: 0, byte, byte_operand: false };
        self.modrm(&op, target.number(), source.into(), immediate as u32, len);
    }

    /// One of the instructions of `f7 /n`: 2 `not`, 3 `neg`, 4 `mul`, 5 `imul`, 6 `div`, 7 `idiv`.
    pub(crate) fn unary(&mut self, digit: u8, wide: Wide, operand: impl Into<Rm>) {
        self.digit(wide, 0xf7, digit, operand.into(), 0, 0);
    }

    /// `cdq` or `cqo`.
    pub(crate) fn sign_to_rdx(&mut self, wide: Wide) {
        self.put_slice(if wide { &[0x48, 0x99] } else { &[0x99] });
    }

    /// `op target, count`.
    pub(crate) fn shift_imm(&mut self, op: Shift, wide: Wide, target: Reg, count: u8) {
        self.digit(wide, 0xc1, op as u8, target.into(), count.into(), 1);
    }

    /// `op target, cl`.
    pub(crate) fn shift_cl(&mut self, op: Shift, wide: Wide, target: Reg) {
        self.digit(wide, 0xd3, op as u8, target.into(), 0, 0);
    }

    /// `shlx`, `shrx`, `sarx target, source, count` (BMI2).
    pub(crate) fn shift_bmi2(&mut self, op: Shift, wide: Wide, target: Reg, source: impl Into<Rm>, count: Reg) {
        let prefix = match op {
            Shift::Shl => 1,
            Shift::Sar => 2,
            _ => 3,
        };
        self.vex(prefix, 2, wide, 0xf7, target.number(), count.number(), source.into());
    }

    /// `bsf` 0xbc, `bsr` 0xbd; with prefix 0xf3 `tzcnt`, `lzcnt`, and 0xb8 `popcnt`.
    pub(crate) fn count_bits(&mut self, prefix: u8, wide: Wide, byte: u8, target: Reg, source: impl Into<Rm>) {
        self.extended(prefix, wide, byte, target, source);
    }

    /// `btc target, bit`.
    pub(crate) fn btc(&mut self, target: Reg, bit: u8) {
        let op = Opcode { prefix: 0, wide: true, map: 1, byte: 0xba, byte_operand: false };
        self.modrm(&op, 7, target.into(), bit.into(), 1);
    }

    /// `bt [bits], number`: the carry flag is the bit with that number, of bits in memory.
    pub(crate) fn bt(&mut self, bits: Mem, number: Reg) {
        self.extended(0, true, 0xa3, number, bits);
    }

    /// `setcc target`, a byte.
    pub(crate) fn setcc(&mut self, cc: Cc, target: Reg) {
        let op = Opcode { prefix: 0, wide: false, map: 1, byte: 0x90 | cc as u8, byte_operand: target.0 >= 4 };
        self.modrm(&op, 0, target.into(), 0, 0);
    }

    /// `cmovcc target, source`.
    pub(crate) fn cmov(&mut self, cc: Cc, wide: Wide, target: Reg, source: impl Into<Rm>) {
        self.extended(0, wide, 0x40 | cc as u8, target, source);
    }

    // Atomics, of 1, 2, 4 or 8 bytes.

    /// `xchg [target], source`, which is atomic without a prefix.
    pub(crate) fn xchg(&mut self, size_bytes: u32, target: Mem, source: Reg) {
        self.sized(0, [0x86, 0x87], size_bytes, target, source);
    }

    /// `lock xadd [target], source`.
    pub(crate) fn lock_xadd(&mut self, size_bytes: u32, target: Mem, source: Reg) {
        self.put_slice(&[0xf0]);
        self.sized(1, [0xc0, 0xc1], size_bytes, target, source);
    }

    /// `lock cmpxchg [target], source`.
    pub(crate) fn lock_cmpxchg(&mut self, size_bytes: u32, target: Mem, source: Reg) {
        self.put_slice(&[0xf0]);
        self.sized(1, [0xb0, 0xb1], size_bytes, target, source);
    }

    /// An instruction with one opcode for bytes and one for all other sizes.
    fn sized(&mut self, map: u8, [byte, other]: [u8; 2], size_bytes: u32, target: Mem, source: Reg) {
        let op = Opcode {
            prefix: if size_bytes == 2 { 0x66 } else { 0 },
            wide: size_bytes == 8,
            map,
            byte: if size_bytes == 1 { byte } else { other },
            byte_operand: size_bytes == 1 && (4..8).contains(&source.0),
        };
        self.modrm(&op, source.number(), target.into(), 0, 0);
    }

    /// `mfence`.
    pub(crate) fn mfence(&mut self) {
        self.put_slice(&[0x0f, 0xae, 0xf0]);
    }

    // Control.

    /// `jmp label`.
    pub(crate) fn jmp(&mut self, label: Label) {
        if let Some(target) = self.bound(label) {
            let distance = target.wrapping_sub(self.position() + 2) as i32;
            if let Ok(short) = i8::try_from(distance) {
                return self.put_slice(&[0xeb, short as u8]);
            }
        }
        let mut bytes = [0; 16];
        bytes[0] = 0xe9;
        let place = self.position() + 1;
        bytes[1..5].copy_from_slice(&self.distance_to(label, place).to_le_bytes());
        self.put(&bytes, 5);
    }

    /// `jcc label`.
    pub(crate) fn jcc(&mut self, cc: Cc, label: Label) {
        if let Some(target) = self.bound(label) {
            let distance = target.wrapping_sub(self.position() + 2) as i32;
            if let Ok(short) = i8::try_from(distance) {
                return self.put_slice(&[0x70 | cc as u8, short as u8]);
            }
        }
        let mut bytes = [0; 16];
        bytes[0] = 0x0f;
        bytes[1] = 0x80 | cc as u8;
        let place = self.position() + 2;
        bytes[2..6].copy_from_slice(&self.distance_to(label, place).to_le_bytes());
        self.put(&bytes, 6);
    }

    /// `jcc` over at most 127 bytes that come next; [`Masm::land`] ends them.
    pub(crate) fn jcc_short(&mut self, cc: Cc) -> u32 {
        self.put_slice(&[0x70 | cc as u8, 0]);
        self.position()
    }

    /// `jmp` over at most 127 bytes that come next; [`Masm::land`] ends them.
    pub(crate) fn jmp_short(&mut self) -> u32 {
        self.put_slice(&[0xeb, 0]);
        self.position()
    }

    /// Where a short jump goes.
    pub(crate) fn land(&mut self, jump_end: u32) {
        let distance = self.position() - jump_end;
        debug_assert!(distance <= 127);
        self.write_u8(jump_end - 1, distance as u8);
    }

    /// `loop` to a position at most 126 bytes back: counts `rcx` down, and jumps unless it is zero. Changes no flags.
    pub(crate) fn loop_short(&mut self, target: u32) {
        let distance = self.position() + 2 - target;
        debug_assert!(distance <= 128);
        self.put_slice(&[0xe2, (distance as u8).wrapping_neg()]);
    }

    /// `jmp target`.
    pub(crate) fn jmp_rm(&mut self, target: impl Into<Rm>) {
        self.digit(false, 0xff, 4, target.into(), 0, 0);
    }

    /// `call target`.
    pub(crate) fn call_rm(&mut self, target: impl Into<Rm>) {
        self.digit(false, 0xff, 2, target.into(), 0, 0);
    }

    /// `call` or, if `jump`, `jmp` to a function of the module.
    pub(crate) fn call_function(&mut self, target: FuncIndex, jump: bool) {
        let mut bytes = [0; 16];
        bytes[0] = if jump { 0xe9 } else { 0xe8 };
        self.reloc(Reloc { offset: self.position() + 1, kind: RelocKind::X64Rel32, target: RelocTarget::Function(target), addend: -4 });
        self.put(&bytes, 5);
    }

    /// `call` or, if `jump`, `jmp` to what the entry slot of a function holds.
    pub(crate) fn call_slot(&mut self, target: FuncIndex, jump: bool) {
        let mut bytes = [0; 16];
        bytes[0] = 0xff;
        bytes[1] = if jump { 0x25 } else { 0x15 };
        self.reloc(Reloc { offset: self.position() + 2, kind: RelocKind::X64Rel32, target: RelocTarget::Slot(target), addend: -4 });
        self.put(&bytes, 6);
    }

    /// `sub dword [budget], immediate`, with the budget of a function. The immediate has 4 bytes and is zero: gives where it is.
    pub(crate) fn sub_budget(&mut self, function: DefinedFuncIndex) -> u32 {
        let mut bytes = [0; 16];
        bytes[0] = 0x81;
        bytes[1] = (Alu::Sub as u8) << 3 | 5;
        self.reloc(Reloc { offset: self.position() + 2, kind: RelocKind::X64Rel32, target: RelocTarget::Budget(function), addend: -8 });
        self.put(&bytes, 10);
        self.position() - 4
    }

    /// `inc dword [calls]`, with the count of entries of a function.
    pub(crate) fn count_call(&mut self, function: DefinedFuncIndex) {
        let addend = BUDGET_CALLS_OFFSET as i64 - 4;
        self.reloc(Reloc { offset: self.position() + 2, kind: RelocKind::X64Rel32, target: RelocTarget::Budget(function), addend });
        self.put_slice(&[0xff, 0x05, 0, 0, 0, 0]);
    }

    /// `call label`.
    pub(crate) fn call_label(&mut self, label: Label) {
        let mut bytes = [0; 16];
        bytes[0] = 0xe8;
        let place = self.position() + 1;
        bytes[1..5].copy_from_slice(&self.distance_to(label, place).to_le_bytes());
        self.put(&bytes, 5);
    }

    /// `lea target, [table]`: the address of a table of distances from its start to `labels`.
    pub(crate) fn lea_table(&mut self, target: Reg, labels: impl Iterator<Item = Label>) {
        let mut bytes = [0; 16];
        bytes[0] = 0x48 | target.number() >> 3 << 2;
        bytes[1] = 0x8d;
        bytes[2] = (target.number() & 7) << 3 | 5;
        let place = self.position() + 3;
        self.put(&bytes, 7);
        self.use_table(place, labels);
    }

    /// `push reg`.
    pub(crate) fn push(&mut self, reg: Reg) {
        if reg.0 >= 8 { self.put_slice(&[0x41, 0x50 | reg.0 & 7]) } else { self.put_slice(&[0x50 | reg.0]) }
    }

    /// `pop reg`.
    pub(crate) fn pop(&mut self, reg: Reg) {
        if reg.0 >= 8 { self.put_slice(&[0x41, 0x58 | reg.0 & 7]) } else { self.put_slice(&[0x58 | reg.0]) }
    }

    /// `leave`.
    pub(crate) fn leave(&mut self) {
        self.put_slice(&[0xc9]);
    }

    /// `ret`, which also pops so many bytes of arguments.
    pub(crate) fn ret(&mut self, pops_bytes: u16) {
        match pops_bytes {
            0 => self.put_slice(&[0xc3]),
            _ => self.put_slice(&[0xc2, pops_bytes as u8, (pops_bytes >> 8) as u8]),
        }
    }

    /// `ud2`.
    pub(crate) fn ud2(&mut self) {
        self.put_slice(&[0x0f, 0x0b]);
    }

    // Floats and vectors.

    /// An instruction on vector registers.
    #[inline]
    pub(crate) fn sse(&mut self, op: Sse, target: Reg, source: impl Into<Rm>) {
        let op = Opcode { prefix: op.prefix, wide: false, map: op.map, byte: op.opcode, byte_operand: false };
        self.modrm(&op, target.number(), source.into(), 0, 0);
    }

    /// An instruction between vector and general registers, with a 64-bit operand if `wide`.
    pub(crate) fn sse_wide(&mut self, op: Sse, wide: Wide, target: Reg, source: impl Into<Rm>) {
        let op = Opcode { prefix: op.prefix, wide, map: op.map, byte: op.opcode, byte_operand: false };
        self.modrm(&op, target.number(), source.into(), 0, 0);
    }

    /// An instruction on vector registers with a byte.
    pub(crate) fn sse_imm(&mut self, op: Sse, target: Reg, source: impl Into<Rm>, immediate: u8) {
        self.sse_wide_imm(op, false, target, source, immediate);
    }

    /// An instruction between vector and general registers, with a byte.
    pub(crate) fn sse_wide_imm(&mut self, op: Sse, wide: Wide, target: Reg, source: impl Into<Rm>, immediate: u8) {
        let op = Opcode { prefix: op.prefix, wide, map: op.map, byte: op.opcode, byte_operand: false };
        self.modrm(&op, target.number(), source.into(), immediate.into(), 1);
    }

    /// A shift of vector lanes by a constant: `digit` says which.
    pub(crate) fn sse_shift_imm(&mut self, opcode: u8, digit: u8, target: Reg, count: u8) {
        let op = Opcode { prefix: 0x66, wide: false, map: 1, byte: opcode, byte_operand: false };
        self.modrm(&op, digit, target.into(), count.into(), 1);
    }

    /// `movaps target, source`, of registers.
    #[inline]
    pub(crate) fn movaps(&mut self, target: Reg, source: Reg) {
        self.extended(0, false, 0x28, target, source);
    }

    /// An instruction with a VEX prefix: `prefix` 1 for 66, 2 for f3, 3 for f2; `map` 2 for `0f 38`.
    #[expect(clippy::too_many_arguments, reason = "the fields of the prefix")]
    pub(crate) fn vex(&mut self, prefix: u8, map: u8, wide: Wide, byte: u8, reg: u8, vvvv: u8, rm: Rm) {
        // Encoded as the instruction without VEX, whose one prefix byte, REX included, then makes room for the three of VEX.
        let start = self.position();
        let op = Opcode { prefix: 0, wide: false, map: 0, byte, byte_operand: true };
        self.modrm(&op, reg, rm, 0, 0);
        let rex = self.byte_at(start);
        let len = (self.position() - start) as usize;
        let mut bytes = [0; 16];
        bytes[0] = 0xc4;
        bytes[1] = (!rex & 7) << 5 | map;
        // REX has R, X, B from high to low, as VEX has, which wants them inverted.
        bytes[2] = (wide as u8) << 7 | (!vvvv & 15) << 3 | prefix;
        for position in 1..len {
            bytes[position + 2] = self.byte_at(start + position as u32);
        }
        self.rewind(start);
        self.put(&bytes, len + 2);
    }
}

#[cfg(test)]
mod tests {
    use super::super::registers::{R8, R12, R13, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, xmm};
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    /// What a disassembler says of the code that `emit` makes.
    fn disassembled(emit: impl FnOnce(&mut Masm)) -> String {
        let mut masm = Masm::default();
        emit(&mut masm);
        let code = masm.finish(0xcc).code;
        let mut formatter = IntelFormatter::new();
        let mut lines = Vec::new();
        for instruction in &mut Decoder::new(64, &code, DecoderOptions::NONE) {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            lines.push(line);
        }
        lines.join("; ")
    }

    #[track_caller]
    fn check(emit: impl FnOnce(&mut Masm), expect: &str) {
        assert_eq!(disassembled(emit), expect);
    }

    #[test]
    fn addresses() {
        check(|m| m.mov(true, RAX, Mem::new(RBP, 0)), "mov rax,[rbp]");
        check(|m| m.mov(true, RAX, Mem::new(R13, 0)), "mov rax,[r13]");
        check(|m| m.mov(true, RAX, Mem::new(RSP, 8)), "mov rax,[rsp+8]");
        check(|m| m.mov(true, R8, Mem::new(R12, -129)), "mov r8,[r12-81h]");
        check(|m| m.mov(false, RCX, Mem::indexed(RBP, R12, 0, 0)), "mov ecx,[rbp+r12]");
        check(|m| m.mov(false, RCX, Mem::indexed(R13, RSI, 3, 127)), "mov ecx,[r13+rsi*8+7Fh]");
        check(|m| m.lea(true, R15, Mem::indexed(R15, R15, 2, 0x1234_5678)), "lea r15,[r15+r15*4+12345678h]");
    }

    #[test]
    fn bytes_of_registers() {
        check(|m| m.mov_store8(Mem::new(RAX, 0), RSI), "mov [rax],sil");
        check(|m| m.mov_store8(Mem::new(RAX, 0), RBX), "mov [rax],bl");
        check(|m| m.setcc(Cc::Be, RDI), "setbe dil");
        check(|m| m.movzx8(RAX, RDI), "movzx eax,dil");
        check(|m| m.movsx8(true, R8, RSI), "movsx r8,sil");
        check(|m| m.movsx8(false, R8, Mem::new(RSI, 1)), "movsx r8d,byte ptr [rsi+1]");
        check(|m| m.movzx16(RAX, R8), "movzx eax,r8w");
        check(|m| m.mov_store16(Mem::new(R8, 0), R15), "mov [r8],r15w");
        check(|m| m.mov_store16_imm(Mem::new(R8, 0), 0x1234), "mov word ptr [r8],1234h");
        check(|m| m.mov_store8_imm(Mem::new(RBP, 0), 7), "mov byte ptr [rbp],7");
    }

    #[test]
    fn atomics() {
        check(|m| m.test8_imm(RSI, 7), "test sil,7");
        check(|m| m.test8_imm(R12, 3), "test r12b,3");
        check(|m| m.xchg(1, Mem::new(RAX, 4), RDI), "xchg [rax+4],dil");
        check(|m| m.xchg(2, Mem::new(R8, 0), RCX), "xchg [r8],cx");
        check(|m| m.lock_xadd(1, Mem::new(RAX, 4), RSI), "lock xadd [rax+4],sil");
        check(|m| m.lock_xadd(2, Mem::new(R8, 0), R15), "lock xadd [r8],r15w");
        check(|m| m.lock_cmpxchg(4, Mem::indexed(R13, RSI, 0, 127), R8), "lock cmpxchg [r13+rsi+7Fh],r8d");
        check(|m| m.lock_cmpxchg(8, Mem::new(RSP, 8), RDX), "lock cmpxchg [rsp+8],rdx");
        check(Masm::mfence, "mfence");
    }

    #[test]
    fn constants() {
        check(|m| m.mov_imm(R8, 1), "mov r8d,1");
        check(|m| m.mov_imm(RAX, 0xffff_ffff), "mov eax,0FFFFFFFFh");
        check(|m| m.mov_imm(RAX, u64::MAX), "mov rax,0FFFFFFFFFFFFFFFFh");
        check(|m| m.mov_imm(R15, 0x1122_3344_5566_7788), "mov r15,1122334455667788h");
        check(|m| m.alu_imm(Alu::Sub, true, RSP, i32::MAX), "sub rsp,7FFFFFFFh");
        check(|m| m.alu_imm(Alu::Cmp, false, Mem::new(RBP, -72), -1), "cmp dword ptr [rbp-48h],0FFFFFFFFh");
        check(|m| m.imul_imm(true, RAX, R8, 1000), "imul rax,r8,3E8h");
        check(|m| m.imul_imm(false, R8, Mem::new(RAX, 4), -3), "imul r8d,[rax+4],0FFFFFFFDh");
    }

    #[test]
    fn arithmetic() {
        check(|m| m.alu(Alu::Sbb, true, R8, RAX), "sbb r8,rax");
        check(|m| m.alu_store(Alu::Cmp, false, Mem::new(RBP, -8), R12), "cmp [rbp-8],r12d");
        check(|m| m.unary(7, true, R8), "idiv r8");
        check(|m| m.shift_imm(Shift::Sar, true, R12, 63), "sar r12,3Fh");
        check(|m| m.shift_cl(Shift::Rol, false, RDX), "rol edx,cl");
        check(|m| m.shift_bmi2(Shift::Shr, true, RAX, R8, R12), "shrx rax,r8,r12");
        check(|m| m.shift_bmi2(Shift::Shl, false, R15, Mem::new(RBP, -72), RCX), "shlx r15d,[rbp-48h],ecx");
        check(|m| m.shift_bmi2(Shift::Sar, false, RDX, Mem::new(R12, 0), R8), "sarx edx,[r12],r8d");
        check(|m| m.count_bits(0xf3, true, 0xb8, R8, RAX), "popcnt r8,rax");
        check(|m| m.btc(R8, 63), "btc r8,3Fh");
        check(|m| m.cmov(Cc::Np, true, RAX, R8), "cmovnp rax,r8");
    }

    #[test]
    fn vectors() {
        check(|m| m.sse(Sse::new(0xf2, 0x58), xmm(9), xmm(3)), "addsd xmm9,xmm3");
        check(|m| m.sse(Sse::map38(0x00), xmm(1), xmm(15)), "pshufb xmm1,xmm15");
        check(|m| m.sse_imm(Sse::map3a(0x0a), xmm(8), Mem::new(RBP, -80), 9), "roundss xmm8,[rbp-50h],9");
        check(|m| m.sse_wide(Sse::new(0x66, 0x6e), true, xmm(15), R8), "movq xmm15,r8");
        check(|m| m.sse_wide(Sse::new(0x66, 0x7e), false, xmm(2), RSI), "movd esi,xmm2");
        check(|m| m.sse_wide_imm(Sse::map3a(0x16), true, xmm(9), R12, 1), "pextrq r12,xmm9,1");
        check(|m| m.sse_shift_imm(0x73, 2, xmm(14), 32), "psrlq xmm14,20h");
        check(|m| m.sse_wide(Sse::new(0xf3, 0x2c), true, RAX, xmm(12)), "cvttss2si rax,xmm12");
        check(|m| m.vex(1, 2, true, 0xa8, 9, 10, Rm::Reg(xmm(11))), "vfmadd213pd xmm9,xmm10,xmm11");
        check(|m| m.vex(1, 2, false, 0xac, 1, 2, Rm::Reg(xmm(3))), "vfnmadd213ps xmm1,xmm2,xmm3");
    }

    #[test]
    fn jumps_reach_their_labels() {
        let forward_and_back = |m: &mut Masm| {
            let (top, out) = (m.label(), m.label());
            m.bind(top);
            m.jcc(Cc::E, out);
            m.jcc(Cc::A, out);
            m.jmp(top);
            m.bind(out);
            m.ret(16);
        };
        check(forward_and_back, "je 000000000000000Eh; ja 000000000000000Eh; jmp short 0; ret 10h");
    }

    #[test]
    fn constants_are_found_from_the_end_of_the_instruction() {
        let mut masm = Masm::default();
        let number = masm.constant(0x1111);
        masm.sse(Sse::new(0, 0x54), xmm(9), Mem::constant(number));
        masm.sse_imm(Sse::new(0x66, 0x70), xmm(1), Mem::constant(number), 0x44);
        let code = masm.finish(0xcc).code;
        let mut decoder = Decoder::new(64, &code, DecoderOptions::NONE);
        for _ in 0..2 {
            assert_eq!(decoder.decode().ip_rel_memory_address(), 32);
        }
        assert_eq!(code[32..48], 0x1111u128.to_le_bytes());
    }

    #[test]
    fn tables_hold_distances_from_their_start() {
        let mut masm = Masm::default();
        let (first, second) = (masm.label(), masm.label());
        masm.lea_table(RAX, [first, second, first].into_iter());
        masm.bind(first);
        masm.ret(0);
        masm.bind(second);
        masm.ret(0);
        let code = masm.finish(0xcc).code;
        let base = Decoder::new(64, &code, DecoderOptions::NONE).decode().ip_rel_memory_address() as usize;
        let entry = |position: usize| {
            let start = base + position * 4;
            base as i64 + i64::from(i32::from_le_bytes([code[start], code[start + 1], code[start + 2], code[start + 3]]))
        };
        assert_eq!([entry(0), entry(1), entry(2)], [7, 8, 7]);
    }
}
