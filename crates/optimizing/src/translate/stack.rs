//! The operand stack during translation.
//!
//! In [`Mode::Optimized`] an operand is a value. In [`Mode::Plain`] it is a value up to the end of the block that it was pushed in, and
//! then in the frame, at a place that depends on its depth only.

use super::flags::Region;
use super::translator::Translator;
use crate::budget::Mode;
use cranelift_codegen::ir::types::{I8X16, I64};
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, StackSlot, Type, Value};
use cranelift_frontend::Variable;
use smallvec::SmallVec;

/// Bytes of the place of one operand or local in the frame.
pub(crate) const FRAME_VALUE_BYTES: u32 = 16;

/// A few values, usually without allocation.
pub(crate) type Values = SmallVec<[Value; 8]>;

/// One operand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand {
    /// A value of the current block, or in optimized mode of any block that dominates it.
    Value(Value),
    /// In the frame, at the place for its depth.
    Frame(Type),
    /// A variable of the SSA builder: below the loop that a function is entered at. Optimized mode.
    Variable(Variable, Type),
}

/// The operand stack.
#[derive(Debug, Default)]
pub(crate) struct OperandStack {
    operands: Vec<Operand>,
    /// All operands below this depth are in the frame. Plain mode only.
    flushed: usize,
    /// Where operands are in the frame, once one of them is.
    slot: Option<StackSlot>,
    /// The largest number of operands that were in the frame.
    max_flushed: usize,
}

impl OperandStack {
    /// How many operands there are.
    pub(crate) fn len(&self) -> usize {
        self.operands.len()
    }

    /// The operand at a depth.
    pub(crate) fn operand(&self, depth: usize) -> Operand {
        self.operands[depth]
    }

    /// Replaces the operand at a depth.
    pub(crate) fn replace(&mut self, depth: usize, operand: Operand) {
        self.operands[depth] = operand;
    }

    /// Forgets all operands at `height` and above.
    pub(crate) fn truncate(&mut self, height: usize) {
        self.operands.truncate(height);
        self.flushed = self.flushed.min(height);
    }

    /// The slot of the frame, and the bytes it needs.
    pub(crate) fn frame(&self) -> Option<(StackSlot, u64)> {
        self.slot.map(|slot| (slot, self.max_flushed as u64 * u64::from(FRAME_VALUE_BYTES)))
    }
}

impl Translator<'_, '_> {
    /// Pushes an operand. A vector may have any lanes; it is kept as one of bytes.
    pub(crate) fn push(&mut self, value: Value) {
        let value = self.canonical(value);
        self.stack.operands.push(Operand::Value(value));
    }

    /// Pops an operand.
    pub(crate) fn pop(&mut self) -> Value {
        let depth = self.stack.len() - 1;
        let operand = self.stack.operands[depth];
        self.stack.truncate(depth);
        self.operand_value(operand, depth)
    }

    /// Pops an operand that nobody needs.
    pub(super) fn discard(&mut self) {
        self.stack.truncate(self.stack.len() - 1);
    }

    /// Pops two operands: the one pushed first, then the one pushed last.
    pub(crate) fn pop2(&mut self) -> (Value, Value) {
        let second = self.pop();
        let first = self.pop();
        (first, second)
    }

    /// Pops three operands, in the order they were pushed in.
    pub(crate) fn pop3(&mut self) -> (Value, Value, Value) {
        let third = self.pop();
        let (first, second) = self.pop2();
        (first, second, third)
    }

    /// The last `count` operands, in the order they were pushed in; they stay.
    pub(crate) fn peek_n(&mut self, count: usize) -> Values {
        let first = self.stack.len() - count;
        (first..self.stack.len())
            .map(|depth| {
                let operand = self.stack.operands[depth];
                self.operand_value(operand, depth)
            })
            .collect()
    }

    /// Pops the last `count` operands, in the order they were pushed in.
    pub(crate) fn pop_n(&mut self, count: usize) -> Values {
        let values = self.peek_n(count);
        self.stack.truncate(self.stack.len() - count);
        values
    }

    /// Pushes an operand that is in the frame already.
    pub(crate) fn push_frame(&mut self, ty: Type) {
        debug_assert_eq!(self.mode, Mode::Plain);
        self.stack.operands.push(Operand::Frame(ty));
        let depth = self.stack.len();
        if self.stack.flushed + 1 == depth {
            self.stack.flushed = depth;
        }
        self.stack.max_flushed = self.stack.max_flushed.max(depth);
    }

    /// In plain mode, moves all operands to the frame: the block ends here.
    pub(crate) fn flush(&mut self) {
        if self.mode == Mode::Optimized {
            return;
        }
        for depth in self.stack.flushed..self.stack.len() {
            if let Operand::Value(value) = self.stack.operands[depth] {
                let ty = self.builder.func.dfg.value_type(value);
                self.store_operand(value, depth);
                self.stack.operands[depth] = Operand::Frame(ty);
            }
        }
        self.stack.flushed = self.stack.len();
        self.stack.max_flushed = self.stack.max_flushed.max(self.stack.flushed);
    }

    /// Writes `value` to the frame, at the place of the operand at `depth`.
    pub(crate) fn store_operand(&mut self, value: Value, depth: usize) {
        let slot = self.operand_slot();
        self.stack.max_flushed = self.stack.max_flushed.max(depth + 1);
        self.store_frame(slot, depth, value);
    }

    /// Writes `value` to place `position` of a slot of the frame.
    pub(crate) fn store_frame(&mut self, slot: StackSlot, position: usize, value: Value) {
        self.budget.operations(1);
        let flags = Region::Frame.trusted(self.builder.func);
        let address = self.builder.ins().stack_addr(I64, slot, frame_offset(position));
        self.builder.ins().store(flags, value, address, 0);
    }

    /// Reads place `position` of a slot of the frame.
    pub(crate) fn load_frame(&mut self, slot: StackSlot, position: usize, ty: Type) -> Value {
        self.budget.operations(1);
        let flags = Region::Frame.trusted(self.builder.func);
        let address = self.builder.ins().stack_addr(I64, slot, frame_offset(position));
        self.builder.ins().load(ty, flags, address, 0)
    }

    /// `value` with lanes of bytes if it is a vector of others.
    pub(crate) fn canonical(&mut self, value: Value) -> Value {
        let ty = self.builder.func.dfg.value_type(value);
        if !ty.is_vector() || ty == I8X16 {
            return value;
        }
        // The bytes of a vector are in little-endian order, on every processor.
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.builder.ins().bitcast(I8X16, flags, value)
    }

    /// The type of the operand at a depth.
    pub(super) fn operand_type(&self, depth: usize) -> Type {
        match self.stack.operands[depth] {
            Operand::Value(value) => self.builder.func.dfg.value_type(value),
            Operand::Frame(ty) | Operand::Variable(_, ty) => ty,
        }
    }

    /// Reads the operand at a depth from the frame.
    pub(super) fn reload(&mut self, depth: usize, ty: Type) -> Value {
        let slot = self.operand_slot();
        self.load_frame(slot, depth, ty)
    }

    fn operand_value(&mut self, operand: Operand, depth: usize) -> Value {
        match operand {
            Operand::Value(value) => value,
            Operand::Variable(variable, _) => self.builder.use_var(variable),
            Operand::Frame(ty) => {
                let slot = self.operand_slot();
                self.load_frame(slot, depth, ty)
            }
        }
    }

    fn operand_slot(&mut self) -> StackSlot {
        match self.stack.slot {
            Some(slot) => slot,
            None => {
                let slot = self.frame_slot(0);
                self.stack.slot = Some(slot);
                slot
            }
        }
    }
}

/// The offset of place `position` of a slot. Larger ones than fit are refused when the function is finished, before any code is made.
fn frame_offset(position: usize) -> i32 {
    i32::try_from(position as u64 * u64::from(FRAME_VALUE_BYTES)).unwrap_or(i32::MAX)
}
