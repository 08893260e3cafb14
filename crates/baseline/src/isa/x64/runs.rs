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
//! addresses. Values have 16 bytes if they are vectors, otherwise 8, as the upper half of shorter ones means nothing. Where both are mixed, homes
//! have 16 bytes each, and a bit for each value says whether the next one is 16 bytes further on instead of 8; all are moved by 16, and what that
//! is too much is moved again with the next one, so that the last one is a vector.
//!
//! No flags are changed, but by mixed runs: branches move values between homes between a comparison and its jump.

use super::abi::Location;
use super::assembler::{Alu, Cc, Mem, Sse};
use super::registers::{RBP, RCX, RSP, SCRATCH, VECTOR_SCRATCH};
use crate::compile::Compiler;
use crate::registers::Reg;
use crate::values::{Ty, Value};

/// Fewer values than these are moved one by one.
const MIN_RUN: usize = 16;
/// The same where many values are moved in all, so that the code for them stays small however registers divide them.
const MIN_RUN_OF_MANY: usize = 6;
/// So many are many.
const MANY: usize = 32;

/// The other side of values in homes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// From the stack pointer on.
    Outgoing,
    /// From where the pointer in a slot of the frame points.
    Behind(i32),
    /// From so many bytes above the frame pointer on.
    Above(i32),
}

/// What is in homes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Homes {
    /// Operands from a depth on.
    Operands(usize),
    /// All locals.
    Locals,
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
    sizes: Sizes,
}

/// How large the values of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    /// All 8 bytes.
    Words,
    /// All 16 bytes.
    Vectors,
    /// Either.
    Mixed,
}

impl Run {
    /// The positions of its values.
    pub(super) fn positions(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.count
    }
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
    let on_stack = placed.iter().filter(|(_, location)| matches!(location, Location::Stack(_))).count();
    let least = if on_stack >= MANY { MIN_RUN_OF_MANY } else { MIN_RUN };
    let mut runs: Vec<Run> = Vec::new();
    let mut start = 0;
    while start < placed.len() {
        let count = placed[start..].iter().take_while(|(_, location)| matches!(location, Location::Stack(_))).count();
        add_runs(&mut runs, placed, start, count);
        start += count + 1;
    }
    runs.retain(|run| run.count >= least);
    runs
}

/// Adds what `count` values from `start` on are moved by, which all have places on the stack: a run that ends with the last vector, and one for
/// the rest.
fn add_runs(runs: &mut Vec<Run>, placed: &[(Ty, Location)], start: usize, count: usize) {
    let values = &placed[start..start + count];
    let is_vector = |(ty, _): &(Ty, Location)| *ty == Ty::V128;
    let first_len = values.iter().rposition(is_vector).map_or(0, |last| last + 1);
    let sizes = if values[..first_len].iter().all(is_vector) { Sizes::Vectors } else { Sizes::Mixed };
    for (start, count, sizes) in [(start, first_len, sizes), (start + first_len, count - first_len, Sizes::Words)] {
        if let Some((_, Location::Stack(offset))) = placed[start..start + count].first() {
            runs.push(Run { start, count, offset: *offset, sizes });
        }
    }
}

/// For each number of values that are left, times two, whether the next one is 16 bytes further on, as the bits of numbers.
fn steps(placed: &[(Ty, Location)], run: &Run) -> Vec<u128> {
    let offset = |position: usize| match placed.get(position) {
        Some((_, Location::Stack(offset))) => *offset,
        _ => 0,
    };
    let mut bits = vec![0; (2 * run.count) / 128 + 1];
    for position in run.positions() {
        let left = 2 * (run.positions().end - position);
        if offset(position + 1) == offset(position) + 16 {
            bits[left / 128] |= 1 << (left % 128);
        }
    }
    bits
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

    /// The home that the loop is at, of `count` whose first has a number among all homes.
    fn home_in_run(&mut self, first: usize, count: usize) -> Mem {
        // The last one's address is told by what is left for it: one home.
        let last = first + count - 1;
        self.max_depth = self.max_depth.max((last + 1).saturating_sub(self.local_homes));
        Mem::indexed(RBP, RCX, 3, self.home(last) - (1 << self.home_log2))
    }

    /// Moves a run, one of those of `placed`, between homes, of which those for all of `placed` are in a row, and another place.
    pub(super) fn move_run(&mut self, run: Run, placed: &[(Ty, Location)], homes: Homes, place: Place, direction: Direction) {
        let offset = run.offset as i32;
        match place {
            Place::Outgoing => self.masm.lea(true, SCRATCH, Mem::new(RSP, offset)),
            Place::Above(above) => self.masm.lea(true, SCRATCH, Self::slot(above + offset)),
            Place::Behind(slot) => {
                self.load_slot(Ty::I64, SCRATCH, slot);
                self.masm.lea(true, SCRATCH, Mem::new(SCRATCH, offset));
            }
        }
        self.masm.push(RCX);
        let again = self.begin_run(run.count);
        let first = match homes {
            Homes::Operands(depth) => self.local_homes + depth,
            Homes::Locals => 0,
        };
        let home = self.home_in_run(first + run.start, run.count);
        let ty = if run.sizes == Sizes::Words { Ty::F64 } else { Ty::V128 };
        let (from, to) = match direction {
            Direction::FromHomes => (home, Mem::new(SCRATCH, 0)),
            Direction::ToHomes => (Mem::new(SCRATCH, 0), home),
        };
        self.load_mem(ty, VECTOR_SCRATCH, from);
        self.store_mem(ty, to, VECTOR_SCRATCH);
        match run.sizes {
            Sizes::Words => self.masm.lea(true, SCRATCH, Mem::new(SCRATCH, 8)),
            Sizes::Vectors => self.masm.lea(true, SCRATCH, Mem::new(SCRATCH, 16)),
            Sizes::Mixed => {
                debug_assert_eq!(self.home_log2, 4, "functions with vectors have homes for them");
                let steps = self.masm.constants_in_a_row(&steps(placed, &run));
                self.masm.lea(true, SCRATCH, Mem::new(SCRATCH, 8));
                self.masm.bt(Mem::constant(steps), RCX);
                let over = self.masm.jcc_short(Cc::Ae);
                self.masm.lea(true, SCRATCH, Mem::new(SCRATCH, 8));
                self.masm.land(over);
            }
        }
        self.end_run(again);
        self.masm.pop(RCX);
    }

    /// Moves `count` operands from the homes from depth `from` on to those from depth `to` on, which is less. Changes no flags.
    pub(crate) fn move_homes(&mut self, from: usize, to: usize, count: usize) {
        if count < if self.plain { MIN_RUN_OF_MANY } else { MIN_RUN } {
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
        let (source, target) = (self.home_in_run(self.local_homes + from, count), self.home_in_run(self.local_homes + to, count));
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
