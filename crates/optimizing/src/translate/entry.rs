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
//! What cannot be reached from there is dropped by Cranelift. An enclosing loop makes the start of the loop reachable again, and ways around the loop,
//! with other operands below it. So operands below the loop, and below each block around it, are variables of the SSA builder from the beginning
//! of that block on, one for each depth. In plain mode, locals and operands are in the frame anyway.

use super::flags::Region;
use super::stack::Operand;
use super::translator::{FunctionInput, Stopped, Translator};
use crate::budget::Mode;
use cranelift_codegen::ir::{Block, BlockArg, Endianness, InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::{FunctionBuilder, Variable};
use peregrine_artifact::abi::{MOST_HOMES_BY_INDEX, has_homes_by_rank};
use peregrine_artifact::builtins::unpack_homes;
use peregrine_artifact::compiler::{CompileError, LoopEntry};
use peregrine_compile::tier::ModuleEnv;
use peregrine_wasm::DefinedFuncIndex;
use wasmparser::Operator;

/// The entry of a translation that begins at the head of a loop.
pub(crate) struct Arrival {
    /// Where the `loop` operator is.
    offset: u32,
    /// Where the blocks around it and the loop itself begin, rising.
    around: Vec<u32>,
    /// The pointer to the homes.
    homes: Value,
    /// How many homes of locals come before those of operands.
    locals: usize,
    /// The locals that the body names, rising, if there are so many locals that it matters.
    named: Option<Vec<u32>>,
    /// Bytes of a home.
    home_log2: u32,
    /// Loads the homes; `None` once it does.
    block: Option<Block>,
    /// The variables of operands, by depth.
    operands: Vec<Variable>,
}

impl Arrival {
    /// Ends the entry block, which is current and has the parameters of a loop entry, and begins a block that nothing reaches.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unsupported`] if there is no loop at that place.
    pub(super) fn begin(input: &FunctionInput<'_>, entry: LoopEntry, builder: &mut FunctionBuilder<'_>) -> Result<Self, Stopped> {
        let around = blocks_around(input, entry.offset)?.ok_or_else(|| no_entry(entry.offset))?;
        let (locals, home_log2) = unpack_homes(entry.homes);
        let named = named_locals(input.env, input.index)?;
        let current = builder.current_block().expect("the entry block is current");
        let homes = builder.block_params(current)[1];
        let block = builder.create_block();
        builder.ins().jump(block, &[]);
        let start = builder.create_block();
        builder.switch_to_block(start);
        builder.seal_block(start);
        let locals = locals as usize;
        Ok(Self { offset: entry.offset, around, homes, locals, named, home_log2, block: Some(block), operands: Vec::new() })
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

/// The places of all blocks around the loop at `offset` and of itself; `None` if there is no loop at that place.
fn blocks_around(input: &FunctionInput<'_>, offset: u32) -> Result<Option<Vec<u32>>, Stopped> {
    let translation = &input.env.translation;
    let start = translation.bodies[input.index].start as u64;
    let mut operators = translation.body(input.index).get_operators_reader()?;
    let mut open: Vec<u32> = Vec::new();
    while !operators.eof() {
        let (op, position) = operators.read_with_offset()?;
        let place = (position - start) as u32;
        if place > offset {
            break;
        }
        match op {
            Operator::Loop { .. } | Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => open.push(place),
            Operator::End => drop(open.pop()),
            _ => {}
        }
        if place == offset {
            let is_loop = matches!(op, Operator::Loop { .. });
            return Ok(is_loop.then_some(open));
        }
    }
    Ok(None)
}

/// The locals that the body names, rising; `None` if there are few anyway.
pub(super) fn named_locals(env: &ModuleEnv<'_>, index: DefinedFuncIndex) -> Result<Option<Vec<u32>>, Stopped> {
    let (translation, module) = (env.translation, &env.translation.module);
    let body = translation.body(index);
    let mut locals = module.types[module.functions[module.func_index(index)].ty].params.len();
    for declared in body.get_locals_reader()? {
        locals += declared?.0 as usize;
    }
    if locals <= MOST_HOMES_BY_INDEX {
        return Ok(None);
    }
    let mut named = vec![false; locals];
    for op in body.get_operators_reader()? {
        if let Operator::LocalGet { local_index } | Operator::LocalSet { local_index } | Operator::LocalTee { local_index } = op? {
            named[local_index as usize] = true;
        }
    }
    Ok(Some((0..).zip(named).filter(|(_, named)| *named).map(|(local, _)| local).collect()))
}

impl Translator<'_, '_> {
    /// Before a block with `height` operands below: if it is around the loop that is entered, or is that loop, they become variables.
    pub(super) fn name_operands(&mut self, height: usize) {
        let Self { arrival: Some(arrival), builder, stack, budget, .. } = self else { return };
        if self.mode == Mode::Plain || arrival.around.binary_search(&self.offset).is_err() {
            return;
        }
        // Those of blocks further out stay until the loop is entered.
        for depth in arrival.operands.len()..height {
            let Operand::Value(value) = stack.operand(depth) else { unreachable!("in optimized mode operands are values") };
            let ty = builder.func.dfg.value_type(value);
            let variable = builder.declare_var(ty);
            builder.def_var(variable, value);
            stack.replace(depth, Operand::Variable(variable, ty));
            arrival.operands.push(variable);
            budget.operations(1);
        }
    }

    /// Before the head of a loop whose `count` parameters are the last operands, when all branches to it from before are made: if it is the one to
    /// enter, all values are loaded and it is entered.
    pub(super) fn arrive(&mut self, header: Block, count: usize) {
        let Some(arrival) = self.arrival.as_mut().filter(|arrival| arrival.offset == self.offset) else { return };
        let Some(block) = arrival.block.take() else { return };
        let (found, named) = (arrival.locals, arrival.named.take());
        self.begin_sealed(block);
        let locals = self.locals.len();
        let by_rank = has_homes_by_rank(locals, self.settings().keeps_locals);
        let homes = named.as_ref().filter(|_| by_rank).map_or(locals, Vec::len);
        if found != homes {
            self.unsupported = Some(format!("homes of {found} locals, of a function with {homes}"));
            return;
        }
        match named {
            // Nothing reads the others, but those who look at what is kept: all of them are zero there, but parameters.
            Some(named) => {
                let params = self.clear_kept_locals();
                let others = named.into_iter().filter(|local| *local >= params);
                for (rank, local) in (0..params).chain(others).enumerate() {
                    self.arrive_with(if by_rank { rank } else { local as usize }, local);
                }
            }
            None => (0..locals).for_each(|local| self.arrive_with(local, local as u32)),
        }
        self.mark_kept_locals();
        let height = self.stack.len() - count;
        let mut args: Vec<BlockArg> = Vec::new();
        for depth in 0..self.stack.len() {
            let ty = self.operand_type(depth);
            let value = self.load_home(found + depth, ty);
            if self.mode == Mode::Plain {
                self.store_operand(value, depth);
            } else if depth < height {
                let Operand::Variable(variable, _) = self.stack.operand(depth) else {
                    unreachable!("operands below the loop are variables")
                };
                self.builder.def_var(variable, value);
            } else {
                args.push(value.into());
            }
        }
        self.budget.arguments(args.len());
        self.builder.ins().jump(header, &args);
    }

    /// Gives a local the value that is in a home.
    fn arrive_with(&mut self, home: usize, local: u32) {
        let value = self.load_home(home, self.locals.types()[local as usize]);
        self.set_local(local, value);
        self.budget.operations(2);
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
