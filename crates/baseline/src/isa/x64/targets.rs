//! Counting where indirect and reference calls go: see [`VmCallCell`].
//!
//! ```text
//!        mov r11d, reference; sub r11d, context       what the target is known by
//!        cmp [cell.target 0], r11d; jne cold
//!        inc [cell.calls 0]
//! back:  ...the call
//! cold:  push rax; lea rax, [cell]; call common; pop rax; jmp back
//! ```
//!
//! `common`, once for a function, looks for the target among the others, puts it in the first free place, or counts it with those that have
//! none. When those are enough, it takes the first target away, so that every call comes here and soon goes back: the processor can foresee that,
//! and not which of many targets comes next. Counts are without order or atomicity: several threads may lose some, and the engine reads what it finds.

use super::assembler::{Alu, Cc, Mem};
use super::registers::{RAX, SCRATCH};
use crate::compile::{Cold, Compiler};
use crate::masm::{Label, Masm};
use crate::registers::Reg;
use crate::values::Value;
use peregrine_artifact::func::{Reloc, RelocKind, RelocTarget};
use peregrine_artifact::vmctx::{CALL_CELL_MAX_OTHERS, CALL_CELL_TARGETS, VmCallCell, VmCallTarget};
use std::mem::{offset_of, size_of};

/// The most calls of one function that are counted: more have no cell.
const MAX_SITES: usize = 4096;

/// The field of a target in a cell, in bytes.
const fn target_field(position: usize, field: usize) -> i32 {
    (offset_of!(VmCallCell, targets) + position * size_of::<VmCallTarget>() + field) as i32
}

const DISTANCE: usize = offset_of!(VmCallTarget, distance);
const CALLS: usize = offset_of!(VmCallTarget, calls);

impl Masm {
    /// An instruction of `opcode` and a field of 32 bits of a cell, at an offset. `reg` is a register, or a digit of the opcode.
    fn cell_field(&mut self, opcode: u8, wide: bool, reg: Reg, site: u32, offset: i32) {
        let rex = 0x40 | u8::from(wide) << 3 | reg.number() >> 3 << 2;
        let addend = i64::from(offset) - 4;
        self.reloc(Reloc { offset: self.position() + 3, kind: RelocKind::X64Rel32, target: RelocTarget::Cell(site), addend });
        self.put_slice(&[rex, opcode, (reg.number() & 7) << 3 | 5, 0, 0, 0, 0]);
    }
}

impl Compiler<'_> {
    /// Counts a call of what the reference in a register points to, if calls are counted. Changes flags and the scratch register.
    pub(crate) fn count_target(&mut self, reference: Reg) {
        if !self.record || self.sites.len() >= MAX_SITES {
            return;
        }
        let site = self.sites.len() as u32;
        self.sites.push(self.offset);
        self.masm.mov(false, SCRATCH, reference);
        match self.context_value() {
            Value::Slot(slot) => self.masm.alu(Alu::Sub, false, SCRATCH, Self::slot(slot)),
            Value::Reg(context) => self.masm.alu(Alu::Sub, false, SCRATCH, context),
            Value::Const(_) => unreachable!("the context is no constant"),
        }
        // `cmp [target 0], scratch`.
        self.masm.cell_field((Alu::Cmp as u8) << 3 | 1, false, SCRATCH, site, target_field(0, DISTANCE));
        let (label, back) = (self.masm.label(), self.masm.label());
        self.masm.jcc(Cc::Ne, label);
        // `inc [calls 0]`.
        self.masm.cell_field(0xff, false, RAX, site, target_field(0, CALLS));
        self.masm.bind(back);
        self.cold.push(Cold::CountTarget { label, back, site });
    }

    /// The target is not the first of the cell.
    pub(crate) fn cold_count_target(&mut self, site: u32) {
        let common = match self.count_target {
            Some(label) => label,
            None => *self.count_target.insert(self.masm.label()),
        };
        self.masm.push(RAX);
        // `lea rax, [cell]`.
        self.masm.cell_field(0x8d, true, RAX, site, 0);
        self.masm.call_label(common);
        self.masm.pop(RAX);
    }

    /// Counts the target in the scratch register in the cell that `rax` points to, which it changes.
    pub(crate) fn count_other_target(&mut self) {
        let masm = &mut self.masm;
        let known: [Label; CALL_CELL_TARGETS] = std::array::from_fn(|_| masm.label());
        let free: [Label; CALL_CELL_TARGETS] = std::array::from_fn(|_| masm.label());
        let field = |position, field| Mem::new(RAX, target_field(position, field));
        let others = Mem::new(RAX, offset_of!(VmCallCell, others) as i32);
        let (count, done) = (masm.label(), masm.label());
        masm.alu_imm(Alu::Cmp, false, others, CALL_CELL_MAX_OTHERS as i32);
        masm.jcc(Cc::B, count);
        masm.mov(false, SCRATCH, field(0, DISTANCE));
        masm.test(false, SCRATCH, SCRATCH);
        masm.jcc(Cc::E, done);
        masm.mov_store(false, Mem::new(RAX, offset_of!(VmCallCell, first_distance) as i32), SCRATCH);
        masm.mov_store_imm(false, field(0, DISTANCE), 0);
        masm.bind(done);
        masm.ret(0);
        masm.bind(count);
        for (position, &label) in known.iter().enumerate().skip(1) {
            masm.alu(Alu::Cmp, false, SCRATCH, field(position, DISTANCE));
            masm.jcc(Cc::E, label);
        }
        for (position, &label) in free.iter().enumerate() {
            masm.alu_imm(Alu::Cmp, false, field(position, DISTANCE), 0);
            masm.jcc(Cc::E, label);
        }
        masm.alu_imm(Alu::Add, false, others, 1);
        masm.ret(0);
        for position in 0..CALL_CELL_TARGETS {
            masm.bind(free[position]);
            masm.mov_store(false, field(position, DISTANCE), SCRATCH);
            masm.bind(known[position]);
            masm.alu_imm(Alu::Add, false, field(position, CALLS), 1);
            masm.ret(0);
        }
    }
}
