//! Structured control: blocks, loops, branches, and what they do to blocks of CLIF.
//!
//! A frame of the control stack makes the block that follows its `end` when something first branches there. In plain mode blocks take no
//! parameters: what a branch carries is written to the frame, at the depths where the target expects it.

use super::flags::trap_code;
use super::stack::Values;
use super::translator::Translator;
use crate::abi;
use crate::budget::Mode;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, BlockCall, InstBuilder, JumpTableData, SourceLoc, Type, Value};
use peregrine_artifact::abi::LONG_BODY_BYTES;
use peregrine_wasm::{Trap, TypeIndex};
use smallvec::SmallVec;
use std::collections::HashMap;
use wasmparser::{BlockType, BrTable, Operator};

/// What a frame of the control stack is.
#[derive(Clone, Debug)]
pub(crate) enum FrameKind {
    /// The whole body.
    Function,
    /// `block`.
    Block,
    /// `loop`.
    Loop {
        /// Where branches go.
        header: Block,
    },
    /// `if`, before its `else`.
    If {
        /// Where the condition is zero.
        otherwise: Block,
        /// The parameters, for that block. Optimized mode.
        params: Values,
    },
    /// `if`, after its `else`.
    Else,
}

/// One frame of the control stack.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    kind: FrameKind,
    ty: BlockType,
    /// Operands below the parameters.
    height: usize,
    /// What follows the `end`, if something branches there.
    exit: Option<Block>,
    /// Where the last look for interruptions is before it, but for those of loops.
    last_look: u32,
    /// The least of where they are on the ways to its end, so far.
    exit_look: u32,
}

/// A loop that is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenLoop {
    /// Where in the body it begins.
    offset: u32,
    /// The block that looks for interruptions there.
    header: Block,
}

type Args = SmallVec<[BlockArg; 8]>;

impl Translator<'_, '_> {
    /// Begins the body.
    pub(super) fn enter_function(&mut self) {
        let ty = BlockType::FuncType(self.ty.as_u32());
        self.push_control(FrameKind::Function, ty, 0);
    }

    fn push_control(&mut self, kind: FrameKind, ty: BlockType, height: usize) {
        let (last_look, exit_look) = (self.last_look, u32::MAX);
        self.control.push(Frame { kind, ty, height, exit: None, last_look, exit_look });
    }

    /// Goes on in `block`, all branches to which are known.
    pub(super) fn begin_sealed(&mut self, block: Block) {
        self.builder.seal_block(block);
        self.begin(block);
    }

    fn begin(&mut self, block: Block) {
        self.budget.block(self.stack.len() + self.locals.len());
        self.budget.operations(1);
        self.locals.begin_block();
        self.builder.switch_to_block(block);
    }

    fn param_count(&self, ty: BlockType) -> usize {
        match ty {
            BlockType::FuncType(index) => self.module.types[TypeIndex::from_u32(index)].params.len(),
            _ => 0,
        }
    }

    fn param_type(&self, ty: BlockType, position: usize) -> Type {
        match ty {
            BlockType::FuncType(index) => abi::value_type(self.module.types[TypeIndex::from_u32(index)].params[position]),
            _ => unreachable!("only function types have parameters"),
        }
    }

    fn result_count(&self, ty: BlockType) -> usize {
        match ty {
            BlockType::Empty => 0,
            BlockType::Type(_) => 1,
            BlockType::FuncType(index) => self.module.types[TypeIndex::from_u32(index)].results.len(),
        }
    }

    fn result_type(&self, ty: BlockType, position: usize) -> Type {
        match ty {
            BlockType::Type(ty) => abi::parsed_value_type(ty),
            BlockType::FuncType(index) => abi::value_type(self.module.types[TypeIndex::from_u32(index)].results[position]),
            BlockType::Empty => unreachable!("there are no results"),
        }
    }

    /// The block that branches to a frame go to, and how many values they carry. The block is made if it is not there yet.
    fn target(&mut self, frame: usize) -> (Block, usize) {
        let (ty, exit) = (self.control[frame].ty, self.control[frame].exit);
        if let FrameKind::Loop { header } = self.control[frame].kind {
            return (header, self.param_count(ty));
        }
        let count = self.result_count(ty);
        self.control[frame].exit_look = self.control[frame].exit_look.min(self.last_look);
        let block = match exit {
            Some(block) => block,
            None => {
                let block = self.builder.create_block();
                if self.mode == Mode::Optimized {
                    self.budget.arguments(count);
                    for position in 0..count {
                        let ty = self.result_type(ty, position);
                        self.builder.append_block_param(block, ty);
                    }
                }
                self.control[frame].exit = Some(block);
                block
            }
        };
        (block, count)
    }

    /// The frame at a label.
    fn frame_at(&self, depth: u32) -> usize {
        self.control.len() - 1 - depth as usize
    }

    /// In optimized mode the last `count` operands, as arguments of a branch; none in plain mode.
    fn branch_args(&mut self, count: usize) -> Args {
        if self.mode == Mode::Plain {
            return Args::new();
        }
        self.budget.arguments(count);
        self.peek_n(count).into_iter().map(BlockArg::from).collect()
    }

    /// In plain mode, whether a branch to a frame has to move the last `count` operands, which are in the frame.
    fn must_move(&self, frame: usize, count: usize) -> bool {
        self.mode == Mode::Plain && count > 0 && self.control[frame].height + count != self.stack.len()
    }

    /// In plain mode, moves the last `count` operands to where a frame expects them.
    fn move_operands(&mut self, frame: usize, count: usize) {
        if !self.must_move(frame, count) {
            return;
        }
        let height = self.control[frame].height;
        let first = self.stack.len() - count;
        for position in 0..count {
            let ty = self.operand_type(first + position);
            // Upwards: a place is read before it is written, as the target is never above the source.
            let value = self.reload(first + position, ty);
            self.store_operand(value, height + position);
        }
    }

    /// Branches to a frame and leaves the rest of the block unreachable.
    fn jump(&mut self, frame: usize) {
        let (block, count) = self.target(frame);
        self.flush();
        self.move_operands(frame, count);
        let args = self.branch_args(count);
        self.builder.ins().jump(block, &args);
    }

    fn now_unreachable(&mut self) {
        self.reachable = false;
        self.skipped_blocks = 0;
    }

    /// Puts operands of the types of `ty`'s parameters or results on the stack, at the height of the frame: they are in the frame.
    fn push_block_operands(&mut self, count: usize, ty: impl Fn(&Self, usize) -> Type) {
        for position in 0..count {
            let ty = ty(self, position);
            self.push_frame(ty);
        }
    }

    fn push_values(&mut self, values: &[Value]) {
        for &value in values {
            self.push(value);
        }
    }

    fn block(&mut self, ty: BlockType) {
        let height = self.stack.len() - self.param_count(ty);
        self.name_operands(height);
        self.push_control(FrameKind::Block, ty, height);
    }

    fn begin_loop(&mut self, ty: BlockType) {
        self.meter_flush();
        let count = self.param_count(ty);
        let height = self.stack.len() - count;
        let header = self.builder.create_block();
        self.flush();
        let args = self.branch_args(count);
        if self.mode == Mode::Optimized {
            for position in 0..count {
                let ty = self.param_type(ty, position);
                self.builder.append_block_param(header, ty);
            }
        }
        self.name_operands(height);
        self.builder.ins().jump(header, &args);
        self.arrive(header, count);
        self.begin(header);
        if self.mode == Mode::Optimized {
            self.stack.truncate(height);
            // Those of variables follow.
            let params = Values::from_slice(&self.builder.block_params(header)[..count]);
            self.push_values(&params);
        }
        self.push_control(FrameKind::Loop { header }, ty, height);
        self.open_loops.push(OpenLoop { offset: self.offset, header });
        // Makes sure that the header is in the layout, for it may have no instruction of its own.
        self.builder.ensure_inserted_block();
        self.look_here(header);
        self.budget.loop_in(self.control.len());
        self.meter_check();
    }

    /// Looks for interruptions at the start of a block, which is here.
    fn look_here(&mut self, block: Block) {
        self.translated.looks.push((block, SourceLoc::new(self.offset)));
    }

    /// Before a call: looks for interruptions if none was looked for in a long part of the body, on some way to here. The header of a loop
    /// looks for what is in it, but not for what follows: a loop that is [short](crate::counted_loops) has none in the end, unless calls rely
    /// on it that are on a way out.
    pub(super) fn look_before_call(&mut self) {
        let is_long_ago = |look: u32| (self.offset - look) as usize > LONG_BODY_BYTES;
        if !self.env.settings.interrupt || !is_long_ago(self.last_look) {
            return;
        }
        // Of the loops that begin near enough the outermost: it turns least, and those with loops in them look anyway.
        let near = self.open_loops.partition_point(|open| is_long_ago(open.offset));
        if let Some(&OpenLoop { header, .. }) = self.open_loops.get(near) {
            self.translated.relied_on.push((header, SourceLoc::new(self.offset)));
            return;
        }
        // Whoever is asked sees the fuel that was consumed, as at all other looks.
        self.meter_flush();
        let next = self.builder.create_block();
        self.flush();
        self.builder.ins().jump(next, &[]);
        self.begin_sealed(next);
        self.builder.ensure_inserted_block();
        self.look_here(next);
        self.last_look = self.offset;
    }

    fn begin_if(&mut self, ty: BlockType) {
        let condition = self.pop();
        self.meter_flush();
        let count = self.param_count(ty);
        let height = self.stack.len() - count;
        self.name_operands(height);
        let params = if self.mode == Mode::Optimized { self.peek_n(count) } else { Values::new() };
        self.budget.operations(params.len());
        let then = self.builder.create_block();
        let otherwise = self.builder.create_block();
        match self.hint() {
            Some(true) => self.builder.set_cold_block(otherwise),
            Some(false) => self.builder.set_cold_block(then),
            None => {}
        }
        self.flush();
        self.builder.ins().brif(condition, then, &[], otherwise, &[]);
        self.begin_sealed(then);
        self.builder.seal_block(otherwise);
        self.push_control(FrameKind::If { otherwise, params }, ty, height);
    }

    fn begin_else(&mut self) {
        let last = self.control.len() - 1;
        if self.reachable {
            self.meter_flush();
            self.jump(last);
        }
        let kind = std::mem::replace(&mut self.control[last].kind, FrameKind::Else);
        let FrameKind::If { otherwise, params } = kind else { unreachable!("`else` follows `if` in valid code") };
        self.begin_otherwise(otherwise, &params);
    }

    /// Goes on where the condition of the innermost `if` is zero.
    fn begin_otherwise(&mut self, otherwise: Block, params: &[Value]) {
        let frame = self.control.len() - 1;
        let (ty, height) = (self.control[frame].ty, self.control[frame].height);
        self.last_look = self.control[frame].last_look;
        self.stack.truncate(height);
        match self.mode {
            Mode::Optimized => self.push_values(params),
            Mode::Plain => self.push_block_operands(self.param_count(ty), |this, position| this.param_type(ty, position)),
        }
        self.begin(otherwise);
        self.reachable = true;
    }

    fn end(&mut self) {
        let last = self.control.len() - 1;
        if let FrameKind::If { otherwise, params } = self.control[last].kind.clone() {
            // No `else`: the parameters are the results.
            if self.reachable {
                self.meter_flush();
                self.jump(last);
            }
            self.control[last].kind = FrameKind::Else;
            self.begin_otherwise(otherwise, &params);
        }
        if let FrameKind::Loop { header } = self.control[last].kind {
            self.builder.seal_block(header);
            self.open_loops.pop();
        }
        if let Some(exit) = self.control[last].exit {
            if self.reachable {
                self.meter_flush();
                self.jump(last);
            }
            let Frame { ty, height, exit_look, .. } = self.control[last];
            // Some of the ways to here may lead around looks that are inside.
            self.last_look = exit_look;
            self.stack.truncate(height);
            self.begin_sealed(exit);
            match self.mode {
                Mode::Optimized => {
                    let results = Values::from_slice(self.builder.block_params(exit));
                    self.push_values(&results);
                }
                Mode::Plain => self.push_block_operands(self.result_count(ty), |this, position| this.result_type(ty, position)),
            }
            self.reachable = true;
        }
        if matches!(self.control[last].kind, FrameKind::Function) && self.reachable {
            self.meter_flush();
            self.return_values();
            self.reachable = false;
        }
        self.control.pop();
    }

    fn return_values(&mut self) {
        let count = self.module.types[self.ty].results.len();
        let values = self.pop_n(count);
        self.budget.arguments(count);
        self.builder.ins().return_(&values);
    }

    /// Branches if `condition` is not zero, and goes on otherwise with the same operands.
    fn branch_if(&mut self, condition: Value, depth: u32) {
        self.meter_flush();
        let frame = self.frame_at(depth);
        let (block, count) = self.target(frame);
        let hint = self.hint();
        let next = self.builder.create_block();
        if hint == Some(true) {
            self.builder.set_cold_block(next);
        }
        self.flush();
        if self.must_move(frame, count) || hint == Some(false) {
            let edge = self.builder.create_block();
            if hint == Some(false) {
                self.builder.set_cold_block(edge);
            }
            self.builder.ins().brif(condition, edge, &[], next, &[]);
            self.begin_sealed(edge);
            self.move_operands(frame, count);
            let args = self.branch_args(count);
            self.builder.ins().jump(block, &args);
        } else {
            let args = self.branch_args(count);
            self.builder.ins().brif(condition, block, &args, next, &[]);
        }
        self.begin_sealed(next);
    }

    fn br_on_null(&mut self, depth: u32) {
        let reference = self.pop();
        let null = self.builder.ins().icmp_imm_s(IntCC::Equal, reference, 0);
        self.branch_if(null, depth);
        self.push(reference);
    }

    fn br_on_non_null(&mut self, depth: u32) {
        let reference = self.pop();
        self.push(reference);
        let other = self.builder.ins().icmp_imm_s(IntCC::NotEqual, reference, 0);
        self.branch_if(other, depth);
        self.discard();
    }

    fn br_table(&mut self, table: &BrTable<'_>) {
        let index = self.pop();
        self.meter_flush();
        self.flush();
        // One block for each distinct target, which does what a branch to it needs.
        let mut edges: HashMap<u32, Block> = HashMap::new();
        let mut order = Vec::new();
        let mut calls = Vec::with_capacity(table.len() as usize + 1);
        let depths = table.targets().chain(std::iter::once(Ok(table.default())));
        for depth in depths.map(|depth| depth.unwrap_or(table.default())) {
            let edge = *edges.entry(depth).or_insert_with(|| {
                order.push(depth);
                self.builder.create_block()
            });
            calls.push(BlockCall::new(edge, std::iter::empty(), &mut self.builder.func.dfg.value_lists));
        }
        self.budget.operations(calls.len());
        self.budget.table_targets(calls.len());
        let default = calls.pop().expect("the default is always there");
        if calls.is_empty() {
            let edge = edges[&table.default()];
            self.builder.ins().jump(edge, &[]);
        } else {
            let table = self.builder.create_jump_table(JumpTableData::new(default, &calls));
            self.builder.ins().br_table(index, table);
        }
        for depth in order {
            self.begin_sealed(edges[&depth]);
            let frame = self.frame_at(depth);
            let (block, count) = self.target(frame);
            self.move_operands(frame, count);
            let args = self.branch_args(count);
            self.builder.ins().jump(block, &args);
        }
    }

    /// Whether the branch at this place is likely taken, if the module says so.
    fn hint(&mut self) -> Option<bool> {
        while let Some((&(offset, likely), rest)) = self.hints.split_first() {
            if offset > self.offset {
                return None;
            }
            self.hints = rest;
            if offset == self.offset {
                return Some(likely);
            }
        }
        None
    }

    /// Translates `op` if it is of this family.
    pub(super) fn control(&mut self, op: &Operator<'_>) -> bool {
        match op {
            Operator::Nop => {}
            Operator::Unreachable => {
                self.meter_flush();
                self.builder.ins().trap(trap_code(Trap::UnreachableCodeReached));
                self.now_unreachable();
            }
            Operator::Block { blockty } => self.block(*blockty),
            Operator::Loop { blockty } => self.begin_loop(*blockty),
            Operator::If { blockty } => self.begin_if(*blockty),
            Operator::Else => self.begin_else(),
            Operator::End => self.end(),
            Operator::Br { relative_depth } => {
                self.meter_flush();
                self.jump(self.frame_at(*relative_depth));
                self.now_unreachable();
            }
            Operator::BrIf { relative_depth } => {
                let condition = self.pop();
                self.branch_if(condition, *relative_depth);
            }
            Operator::BrOnNull { relative_depth } => self.br_on_null(*relative_depth),
            Operator::BrOnNonNull { relative_depth } => self.br_on_non_null(*relative_depth),
            Operator::BrTable { targets } => {
                self.br_table(targets);
                self.now_unreachable();
            }
            Operator::Return => {
                self.meter_flush();
                self.return_values();
                self.now_unreachable();
            }
            Operator::Drop => self.discard(),
            _ => return false,
        }
        true
    }

    /// Follows the structure of code that cannot be reached.
    pub(super) fn unreachable_operator(&mut self, op: &Operator<'_>) {
        match op {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => self.skipped_blocks += 1,
            Operator::End if self.skipped_blocks > 0 => self.skipped_blocks -= 1,
            Operator::Else if self.skipped_blocks == 0 => self.begin_else(),
            Operator::End => self.end(),
            _ => {}
        }
    }

    /// The code that follows cannot be reached.
    pub(super) fn end_of_code(&mut self) {
        self.now_unreachable();
    }
}
