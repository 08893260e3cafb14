//! Runs of values that are moved by a loop: calls, returns and branches may move a thousand values each, in a body of a few bytes.
//!
//! ```text
//!        push rcx; mov ecx, count
//!        lea r11, [the place of the first]         where one side is not in homes
//! again: movsd xmm15, [rbp + rcx * 8 + from]; movsd [r11], xmm15
//!        lea r11, [r11 + 8]; loop again
//!        pop rcx
//! ```
//!
//! Homes of later operands are at lower addresses, so the count that is left tells where they are; values outside of homes are at rising
//! addresses. All values of a run are of one size: 16 bytes for vectors, otherwise 8, as the upper half of shorter ones means nothing. No flags
//! are changed: branches move values between a comparison and its jump.

use super::abi::Location;
use super::assembler::{Alu, Cc, Mem, Sse};
use super::registers::{RBP, RCX, RSP, SCRATCH, VECTOR_SCRATCH};
use crate::compile::Compiler;
use crate::registers::Reg;
use crate::values::{Ty, Value};

/// Fewer values than these are moved one by one.
const MIN_RUN: usize = 16;

/// The other side of values in homes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// From the stack pointer on.
    Outgoing,
    /// From where the pointer in a slot of the frame points.
    Behind(i32),
}

/// Which way values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    FromHomes,
    ToHomes,
}

/// Values in a row: operands of consecutive depths, at consecutive places on the other side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The position of the first among all values.
    pub(super) start: usize,
    pub(super) count: usize,
    /// Where the first is on the other side, if not in a home.
    pub(super) offset: u32,
    ty: Ty,
}

impl Run {
    /// The positions of its values.
    pub(super) fn positions(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.count
    }
}

/// The bytes that a value is moved by.
fn size_bytes(ty: Ty) -> u32 {
    if ty == Ty::V128 { 16 } else { 8 }
}

/// Whether so many values may have runs among them.
pub(super) fn may_have_runs(placed: &[(Ty, Location)]) -> bool {
    placed.len() >= MIN_RUN && placed.iter().filter(|(_, location)| matches!(location, Location::Stack(_))).count() >= MIN_RUN
}

/// Whether a value is moved as a part of one of the runs, which are by rising position.
pub(super) fn is_in(runs: &[Run], position: usize) -> bool {
    let next = runs.partition_point(|run| run.positions().end <= position);
    runs.get(next).is_some_and(|run| run.start <= position)
}

/// The runs among values with places on the stack.
pub(super) fn runs(placed: &[(Ty, Location)]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (position, &(ty, location)) in placed.iter().enumerate() {
        let Location::Stack(offset) = location else { continue };
        let size = size_bytes(ty);
        match runs.last_mut() {
            Some(run)
                if run.positions().end == position && size == size_bytes(run.ty) && offset == run.offset + run.count as u32 * size =>
            {
                run.count += 1;
            }
            _ => runs.push(Run { start: position, count: 1, offset, ty }),
        }
    }
    runs.retain(|run| run.count >= MIN_RUN);
    runs
}

impl Compiler<'_> {
    /// Begins a loop over `count` homes that are `1 << home_log2` bytes apart: the address of a home is in terms of what is left.
    fn begin_run(&mut self, count: usize) -> u32 {
        self.masm.mov_imm(RCX, (count as u64) << (self.home_log2 - 3));
        self.masm.position()
    }

    /// Ends a turn.
    fn end_run(&mut self, again: u32) {
        if self.home_log2 == 4 {
            self.masm.lea(true, RCX, Mem::new(RCX, -1));
        }
        self.masm.loop_short(again);
    }

    /// The home that the loop is at, of `count` whose first is at depth `first`.
    fn home_in_run(&mut self, first: usize, count: usize) -> Mem {
        // The last one's address is told by what is left for it: one home.
        let last = self.operand_home(first + count - 1);
        Mem::indexed(RBP, RCX, 3, last - (1 << self.home_log2))
    }

    /// Moves a run between the homes of operands, of which the first of all values has depth `first`, and another place.
    pub(super) fn move_run(&mut self, run: Run, first: usize, place: Place, direction: Direction) {
        let step = size_bytes(run.ty) as i32;
        match place {
            Place::Outgoing => self.masm.lea(true, SCRATCH, Mem::new(RSP, run.offset as i32)),
            Place::Behind(slot) => {
                self.load_slot(Ty::I64, SCRATCH, slot);
                self.masm.lea(true, SCRATCH, Mem::new(SCRATCH, run.offset as i32));
            }
        }
        self.masm.push(RCX);
        let again = self.begin_run(run.count);
        let home = self.home_in_run(first + run.start, run.count);
        let ty = if run.ty == Ty::V128 { Ty::V128 } else { Ty::F64 };
        let (from, to) = match direction {
            Direction::FromHomes => (home, Mem::new(SCRATCH, 0)),
            Direction::ToHomes => (Mem::new(SCRATCH, 0), home),
        };
        self.load_mem(ty, VECTOR_SCRATCH, from);
        self.store_mem(ty, to, VECTOR_SCRATCH);
        self.masm.lea(true, SCRATCH, Mem::new(SCRATCH, step));
        self.end_run(again);
        self.masm.pop(RCX);
    }

    /// Moves `count` operands from the homes from depth `from` on to those from depth `to` on, which is less. Changes no flags.
    pub(crate) fn move_homes(&mut self, from: usize, to: usize, count: usize) {
        if count < MIN_RUN {
            for position in 0..count {
                // Upwards: a home is read before it is written, as the target is never above the source.
                let ty = self.stack[from + position].ty;
                let source = self.operand_home(from + position);
                let target = self.operand_home(to + position);
                self.store_value(ty, target, Value::Slot(source));
            }
            return;
        }
        let ty = if self.home_log2 == 4 { Ty::V128 } else { Ty::F64 };
        self.masm.push(RCX);
        let again = self.begin_run(count);
        let (source, target) = (self.home_in_run(from, count), self.home_in_run(to, count));
        self.load_mem(ty, VECTOR_SCRATCH, source);
        self.store_mem(ty, target, VECTOR_SCRATCH);
        self.end_run(again);
        self.masm.pop(RCX);
    }

    /// Copies so many bytes, a multiple of 16, from the highest down: from the stack pointer on to `target` bytes from the frame pointer on, which
    /// is above. Uses `counter`. Changes flags.
    pub(super) fn copy_up(&mut self, bytes: i32, target: i32, counter: Reg) {
        self.masm.mov_imm(counter, bytes as u64);
        let again = self.masm.label();
        self.masm.bind(again);
        self.masm.sse(Sse::new(0, 0x10), VECTOR_SCRATCH, Mem::indexed(RSP, counter, 0, -16));
        self.masm.sse(Sse::new(0, 0x11), VECTOR_SCRATCH, Mem::indexed(RBP, counter, 0, target - 16));
        self.masm.alu_imm(Alu::Sub, true, counter, 16);
        self.masm.jcc(Cc::Ne, again);
    }
}
