//! Entering a function at the head of a loop, with values that another tier left in its homes.
//!
//! The function is translated as a whole, from a block that nothing reaches. Another block, where it really begins, loads all values and goes to
//! the head of the loop:
//!
//! ```text
//! entry(vmctx, homes) ------------------------> arrival: loads homes --+
//! start: the body from its first operator on --> before the loop ------+--> header of the loop
//! ```
//!
//! What cannot be reached from there is dropped by Cranelift. An enclosing loop makes the start of the loop reachable again, with other operands
//! below the loop. So at the heads of the loop and of those around it, operands are variables of the SSA builder, one for each depth. In plain
//! mode, locals and operands are in the frame anyway.

use super::flags::Region;
use super::stack::Operand;
use super::translator::{FunctionInput, Stopped, Translator};
use crate::budget::Mode;
use cranelift_codegen::ir::{Block, BlockArg, Endianness, InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::{FunctionBuilder, Variable};
use peregrine_artifact::builtins::unpack_homes;
use peregrine_artifact::compiler::{CompileError, LoopEntry};
use std::collections::HashMap;
use wasmparser::Operator;

/// The entry of a translation that begins at the head of a loop.
pub(crate) struct Arrival {
    /// Where the `loop` operator is.
    offset: u32,
    /// Where it and the loops around it are.
    loops: Vec<u32>,
    /// The pointer to the homes.
    homes: Value,
    /// How many homes of locals come before those of operands.
    locals: usize,
    /// Bytes of a home.
    home_log2: u32,
    /// Loads the homes; `None` once it does.
    block: Option<Block>,
    /// Variables of operands at the heads of `loops`, by depth and type.
    operands: HashMap<(usize, Type), Variable>,
}

impl Arrival {
    /// Ends the entry block, which is current and has the parameters of a loop entry, and begins a block that nothing reaches.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unsupported`] if there is no loop at that place.
    pub(super) fn begin(input: &FunctionInput<'_>, entry: LoopEntry, builder: &mut FunctionBuilder<'_>) -> Result<Self, Stopped> {
        let loops = loops_around(input, entry.offset)?.ok_or_else(|| no_entry(entry.offset))?;
        let (locals, home_log2) = unpack_homes(entry.homes);
        let current = builder.current_block().expect("the entry block is current");
        let homes = builder.block_params(current)[1];
        let block = builder.create_block();
        builder.ins().jump(block, &[]);
        let start = builder.create_block();
        builder.switch_to_block(start);
        builder.seal_block(start);
        Ok(Self { offset: entry.offset, loops, homes, locals: locals as usize, home_log2, block: Some(block), operands: HashMap::new() })
    }

    /// An error if the loop was never met: it is in code that validation calls unreachable.
    pub(super) fn check_arrived(&self) -> Result<(), Stopped> {
        if self.block.is_some() { Err(no_entry(self.offset)) } else { Ok(()) }
    }
}

fn no_entry(offset: u32) -> Stopped {
    let message = format!("entering a function at offset {offset:#x} of its body: no loop is reached there");
    Stopped::Error(CompileError::Unsupported { message })
}

/// The places of the loop at `offset` and of all loops around it; `None` if there is no loop at that place.
fn loops_around(input: &FunctionInput<'_>, offset: u32) -> Result<Option<Vec<u32>>, Stopped> {
    let translation = &input.env.translation;
    let start = translation.bodies[input.index].start as u64;
    let mut operators = translation.body(input.index).get_operators_reader()?;
    // For each block that is open, where it begins if it is a loop.
    let mut open: Vec<Option<u32>> = Vec::new();
    while !operators.eof() {
        let (op, position) = operators.read_with_offset()?;
        let place = (position - start) as u32;
        if place > offset {
            break;
        }
        match op {
            Operator::Loop { .. } => open.push(Some(place)),
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => open.push(None),
            Operator::End => drop(open.pop()),
            _ => {}
        }
        if place == offset {
            let is_loop = matches!(op, Operator::Loop { .. });
            return Ok(is_loop.then(|| open.into_iter().flatten().collect()));
        }
    }
    Ok(None)
}

impl Translator<'_, '_> {
    /// Whether the loop at this place is the one to enter, or one around it.
    pub(super) fn is_around_arrival(&self) -> bool {
        self.arrival.as_ref().is_some_and(|arrival| arrival.loops.contains(&self.offset))
    }

    /// The variable of the operand at a depth.
    fn operand_variable(&mut self, depth: usize, ty: Type) -> Variable {
        let Self { arrival, builder, .. } = self;
        let arrival = arrival.as_mut().expect("only loop entries have variables of operands");
        *arrival.operands.entry((depth, ty)).or_insert_with(|| builder.declare_var(ty))
    }

    /// Before the head of a loop around the arrival: operands below `height` become variables.
    pub(super) fn define_operands(&mut self, height: usize) {
        if self.mode == Mode::Plain {
            return;
        }
        for depth in 0..height {
            let Operand::Value(value) = self.stack.operand(depth) else { continue };
            let ty = self.builder.func.dfg.value_type(value);
            let variable = self.operand_variable(depth, ty);
            self.builder.def_var(variable, value);
        }
        self.budget.operations(height);
    }

    /// At the head of a loop around the arrival: operands below `height` are read back.
    pub(super) fn use_operands(&mut self, height: usize) {
        if self.mode == Mode::Plain {
            return;
        }
        for depth in 0..height {
            let ty = self.operand_type(depth);
            let variable = self.operand_variable(depth, ty);
            let value = self.builder.use_var(variable);
            self.stack.replace(depth, value);
        }
    }

    /// Before the head of a loop whose `count` parameters are the last operands, when all branches to it from before are made: if it is the one to
    /// enter, all values are loaded and it is entered.
    pub(super) fn arrive(&mut self, header: Block, count: usize) {
        let Some(arrival) = self.arrival.as_mut().filter(|arrival| arrival.offset == self.offset) else { return };
        let Some(block) = arrival.block.take() else { return };
        let found = arrival.locals;
        self.begin_sealed(block);
        if found != self.locals.len() {
            self.unsupported = Some(format!("homes of {found} locals, of a function with {}", self.locals.len()));
            return;
        }
        for local in 0..found {
            let value = self.load_home(local, self.locals.types()[local]);
            self.set_local(local as u32, value);
        }
        let height = self.stack.len() - count;
        let mut args: Vec<BlockArg> = Vec::new();
        for depth in 0..self.stack.len() {
            let ty = self.operand_type(depth);
            let value = self.load_home(found + depth, ty);
            if self.mode == Mode::Plain {
                self.store_operand(value, depth);
            } else if depth < height {
                let variable = self.operand_variable(depth, ty);
                self.builder.def_var(variable, value);
            } else {
                args.push(value.into());
            }
        }
        self.budget.arguments(args.len());
        self.builder.ins().jump(header, &args);
    }

    fn load_home(&mut self, number: usize, ty: Type) -> Value {
        let arrival = self.arrival.as_ref().expect("only loop entries have homes");
        let homes = arrival.homes;
        let below_bytes = (number as i64 + 1) << arrival.home_log2;
        let flags: MemFlagsData = Region::Homes.trusted(self.builder.func).with_endianness(Endianness::Little);
        match i32::try_from(-below_bytes) {
            Ok(offset) => self.builder.ins().load(ty, flags, homes, offset),
            Err(_) => {
                let home = self.builder.ins().iadd_imm_s(homes, -below_bytes);
                self.builder.ins().load(ty, flags, home, 0)
            }
        }
    }
}
