//! Structured control: blocks, loops, branches, `select` and the ends of functions.

use crate::body::{BlockType, Body, BrTable};
use crate::compile::Compiler;
use crate::isa::machine::moves::Condition;
use crate::masm::Label;
use crate::values::Ty;
use peregrine_artifact::abi::LONG_BODY_BYTES;
use peregrine_wasm::Trap;

/// What a frame of the control stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// The whole body.
    Function,
    /// `block`.
    Block,
    /// `loop`.
    Loop,
    /// `if`, before its `else`, which is at the label.
    If(Label),
    /// `if`, after its `else`.
    Else,
}

/// One frame of the control stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    kind: FrameKind,
    ty: BlockType,
    /// Operands below the parameters.
    height: u32,
    /// Where branches go.
    label: Label,
    /// Whether one does.
    used: bool,
    /// For the `br_table` being translated: its number and the way to this frame.
    edge: (u32, Label),
    /// Where the last look for interruptions is before it, but for those of loops.
    last_look: u32,
    /// The least of where they are on the ways to its end, so far.
    exit_look: u32,
    /// Where the innermost loop around it begins.
    outer_loop: u32,
}

impl Compiler<'_> {
    fn param_count(&self, ty: BlockType) -> usize {
        match ty {
            BlockType::Func(index) => self.module.types[index].params.len(),
            _ => 0,
        }
    }

    fn param_type(&self, ty: BlockType, position: usize) -> Ty {
        match ty {
            BlockType::Func(index) => self.module.types[index].params[position].into(),
            _ => unreachable!("only function types have parameters"),
        }
    }

    fn result_count(&self, ty: BlockType) -> usize {
        match ty {
            BlockType::Empty => 0,
            BlockType::Result(_) => 1,
            BlockType::Func(index) => self.module.types[index].results.len(),
        }
    }

    fn result_type(&self, ty: BlockType, position: usize) -> Ty {
        match ty {
            BlockType::Result(ty) => ty,
            BlockType::Func(index) => self.module.types[index].results[position].into(),
            BlockType::Empty => unreachable!("there are no results"),
        }
    }

    fn push_frame(&mut self, kind: FrameKind, ty: BlockType, height: usize) {
        let label = self.masm.label();
        let (last_look, exit_look, outer_loop) = (self.last_look, u32::MAX, self.innermost_loop);
        let edge = (0, label);
        self.control.push(Frame { kind, ty, height: height as u32, label, used: false, edge, last_look, exit_look, outer_loop });
    }

    /// Begins the body, whose operators begin at an offset.
    pub(crate) fn enter_function(&mut self, first_operator: u32) {
        self.joined();
        self.push_frame(FrameKind::Function, BlockType::Func(self.ty), 0);
        self.count_entry(first_operator);
        if self.settings.interrupt && (self.scan.calls_outside_loops || self.is_long) {
            self.check_interrupt();
        }
        self.meter_entry();
    }

    fn frame_at(&self, depth: u32) -> usize {
        self.control.len() - 1 - depth as usize
    }

    /// How many operands a branch to a frame carries.
    fn arity(&self, frame: usize) -> usize {
        let Frame { kind, ty, .. } = self.control[frame];
        if kind == FrameKind::Loop { self.param_count(ty) } else { self.result_count(ty) }
    }

    /// Whether a branch to a frame carries one operand in a register.
    fn carries_register(&self, frame: usize, arity: usize) -> bool {
        arity == 1 && self.control[frame].kind != FrameKind::Loop
    }

    /// Marks that something branches to a frame, and gives the label.
    fn target(&mut self, frame: usize) -> Label {
        self.reaches_end(frame);
        self.control[frame].label
    }

    /// Notes a way from here to the end of a frame, or to the header if it is a loop, which looks itself.
    fn reaches_end(&mut self, frame: usize) {
        let frame = &mut self.control[frame];
        frame.used = true;
        frame.exit_look = frame.exit_look.min(self.last_look);
    }

    fn top_type(&self) -> Ty {
        self.stack.last().expect("validated code has its operands").ty
    }

    /// Brings what a branch carries to where its target expects it. All code after this place is unreachable.
    fn carry(&mut self, frame: usize) {
        let arity = self.arity(frame);
        if self.control[frame].kind == FrameKind::Function {
            // Neither locals nor operands are needed any more.
            return self.carry_results(arity);
        }
        self.settle();
        if self.carries_register(frame, arity) {
            self.carry_one(self.top_type());
        } else if arity > 0 {
            self.flush_top(arity);
            self.carry_homes(self.control[frame].height as usize, arity);
        }
    }

    fn carry_results(&mut self, arity: usize) {
        match arity {
            0 => {}
            1 => self.carry_one(self.top_type()),
            _ => self.results_to_registers(),
        }
    }

    fn now_unreachable(&mut self) {
        self.reachable = false;
        self.skipped_blocks = 0;
        self.flags_pending = false;
    }

    fn push_block_operands(&mut self, count: usize, ty: impl Fn(&Self, usize) -> Ty) {
        for position in 0..count {
            let ty = ty(self, position);
            self.push_home(ty);
        }
    }

    /// `block`.
    pub(crate) fn block(&mut self, ty: BlockType) {
        let count = self.param_count(ty);
        let height = self.depth() - count;
        self.flush();
        self.push_frame(FrameKind::Block, ty, height);
    }

    /// `loop`.
    pub(crate) fn begin_loop(&mut self, ty: BlockType) {
        self.meter_flush();
        let count = self.param_count(ty);
        let height = self.depth() - count;
        self.settle();
        self.flush_top(count);
        self.push_frame(FrameKind::Loop, ty, height);
        let label = self.control[self.control.len() - 1].label;
        self.masm.bind(label);
        self.joined();
        self.count_loop();
        if self.settings.interrupt {
            self.check_interrupt();
        }
        self.innermost_loop = self.offset;
        self.meter_check();
    }

    /// Before a call: looks for interruptions if none was looked for in a long part of the body, on some way to here. The header of a loop
    /// looks for what is in it, but not for what follows: the optimizing tier leaves the looks of short loops out if no call relies on them,
    /// and has all others where they are here.
    pub(crate) fn look_before_call(&mut self) {
        let last_look = self.last_look.max(self.innermost_loop);
        if self.settings.interrupt && (self.offset - last_look) as usize > LONG_BODY_BYTES {
            // Whoever is asked sees the fuel that was consumed, as at all other looks.
            self.meter_flush();
            self.check_interrupt();
            self.last_look = self.offset;
        }
    }

    /// `if`.
    pub(crate) fn begin_if(&mut self, ty: BlockType) {
        let condition = self.pop_condition();
        self.meter_flush();
        let count = self.param_count(ty);
        let height = self.depth() - count;
        self.settle();
        self.flush_top(count);
        let otherwise = self.masm.label();
        self.jump_if(Self::opposite(condition), otherwise);
        self.push_frame(FrameKind::If(otherwise), ty, height);
    }

    /// `else`.
    pub(crate) fn begin_else(&mut self) {
        let last = self.control.len() - 1;
        if self.reachable {
            self.meter_flush();
            self.carry(last);
            let label = self.target(last);
            self.masm.jmp(label);
        }
        self.begin_otherwise();
    }

    /// Goes on where the condition of the innermost `if` is zero.
    fn begin_otherwise(&mut self) {
        let last = self.control.len() - 1;
        let Frame { kind, ty, height, last_look, .. } = self.control[last];
        let FrameKind::If(otherwise) = kind else { unreachable!("`else` follows `if` in valid code") };
        self.control[last].kind = FrameKind::Else;
        self.last_look = last_look;
        self.masm.bind(otherwise);
        self.truncate(height as usize);
        self.joined();
        self.push_block_operands(self.param_count(ty), |this, position| this.param_type(ty, position));
        self.reachable = true;
    }

    /// `end`.
    pub(crate) fn end(&mut self) {
        let last = self.control.len() - 1;
        if matches!(self.control[last].kind, FrameKind::If(_)) {
            self.end_without_else(last);
        }
        if self.reachable {
            self.control[last].exit_look = self.control[last].exit_look.min(self.last_look);
        }
        let Frame { kind, ty, height, label, used, exit_look, outer_loop, .. } = self.control[last];
        match kind {
            FrameKind::Loop => {
                self.end_stretch();
                self.innermost_loop = outer_loop;
            }
            FrameKind::Function => {
                self.end_stretch();
                if self.reachable {
                    self.meter_flush();
                    self.carry(last);
                }
                if self.reachable || used {
                    if used {
                        self.masm.bind(label);
                    }
                    self.epilogue();
                }
                self.truncate(0);
                self.reachable = false;
            }
            _ if used => {
                if self.reachable {
                    self.meter_flush();
                    self.carry(last);
                }
                self.truncate(height as usize);
                self.masm.bind(label);
                self.joined();
                let count = self.result_count(ty);
                if count == 1 {
                    let ty = self.result_type(ty, 0);
                    self.push_reg(ty, Self::join_register(ty));
                } else {
                    self.push_block_operands(count, |this, position| this.result_type(ty, position));
                }
                // Some of the ways to here may lead around looks that are inside.
                self.last_look = exit_look;
                self.reachable = true;
            }
            _ => {}
        }
        self.control.pop();
    }

    /// At the end of an `if` without `else`: the parameters are the results.
    fn end_without_else(&mut self, last: usize) {
        let arity = self.arity(last);
        self.control[last].used = true;
        if self.reachable {
            self.reaches_end(last);
            self.meter_flush();
            self.carry(last);
            if arity > 0 {
                let label = self.target(last);
                self.masm.jmp(label);
            }
        }
        // Without results both ways meet here, and the other one has nothing to do.
        self.begin_otherwise();
    }

    /// `br`, or `return` as a branch to the outermost frame.
    pub(crate) fn br(&mut self, depth: u32) {
        self.meter_flush();
        let frame = self.frame_at(depth);
        self.carry(frame);
        let label = self.target(frame);
        self.masm.jmp(label);
        self.now_unreachable();
    }

    /// `return`.
    pub(crate) fn br_to_end(&mut self) {
        self.br(self.control.len() as u32 - 1);
    }

    /// `unreachable`.
    pub(crate) fn unreachable(&mut self) {
        self.meter_flush();
        self.trap(Trap::UnreachableCodeReached);
        self.now_unreachable();
    }

    /// `br_if`.
    pub(crate) fn br_if(&mut self, depth: u32) {
        let condition = self.pop_condition();
        self.branch_if(condition, depth);
    }

    /// `br_on_null`.
    pub(crate) fn br_on_null(&mut self, depth: u32) {
        let (ty, value) = (self.top_type(), self.pop());
        let mut reg = self.in_temporary(ty, value);
        if reg == Self::join_register(ty) {
            // The branch may need that one.
            let other = self.alloc(false);
            self.move_reg(ty, other, reg);
            self.regs.release(reg);
            reg = other;
        }
        let (null, _) = self.test_reference(ty, reg);
        self.branch_if(null, depth);
        self.push_reg(ty, reg);
    }

    /// `br_on_non_null`.
    pub(crate) fn br_on_non_null(&mut self, depth: u32) {
        let (ty, value) = (self.top_type(), self.pop());
        let reg = self.in_temporary(ty, value);
        let (_, other) = self.test_reference(ty, reg);
        self.push_reg(ty, reg);
        self.branch_if(other, depth);
        self.discard();
    }

    /// Branches to a label if a condition holds.
    fn branch_if(&mut self, condition: Condition, depth: u32) {
        self.meter_flush();
        let frame = self.frame_at(depth);
        let arity = self.arity(frame);
        let is_function = self.control[frame].kind == FrameKind::Function;
        if !is_function {
            self.settle();
        }
        if arity > 0 && !self.carries_register(frame, arity) {
            self.flush_top(arity);
            let height = self.control[frame].height as usize;
            if is_function || self.depth() - arity != height {
                let over = self.masm.label();
                self.jump_if(Self::opposite(condition), over);
                if is_function {
                    self.results_from_homes_to_registers(arity);
                } else {
                    self.carry_homes(height, arity);
                }
                let label = self.target(frame);
                self.masm.jmp(label);
                self.masm.bind(over);
                return;
            }
        } else if arity == 1 {
            self.carry_one(self.top_type());
        }
        let label = self.target(frame);
        self.jump_if(condition, label);
    }

    /// `br_table`.
    pub(crate) fn br_table(&mut self, table: &BrTable<'_>) {
        let index = self.pop();
        self.meter_flush();
        self.settle();
        let default = self.frame_at(table.default);
        let arity = self.arity(default);
        let depths = || table.targets();
        let in_register = |frame| self.carries_register(frame, arity);
        let direct = arity == 0 || in_register(default) && depths().all(|depth| in_register(self.frame_at(depth)));
        if direct {
            // Nothing from here to the jump uses the scratch register, where the index is.
            let index = self.table_index(index);
            if arity == 1 {
                self.carry_one(self.top_type());
            }
            let labels: Vec<Label> = depths().map(|depth| self.target_label(depth)).collect();
            let default = self.target(default);
            self.jump_by_table(index, &labels, default);
        } else {
            self.flush_top(arity);
            let index = self.table_index(index);
            self.br_table_by_edges(index, table, arity);
        }
        self.now_unreachable();
    }

    fn target_label(&mut self, depth: u32) -> Label {
        let frame = self.frame_at(depth);
        self.target(frame)
    }

    /// A `br_table` whose branches have to move operands: each distinct target gets a place where that is done.
    fn br_table_by_edges(&mut self, index: crate::registers::Reg, table: &BrTable<'_>, arity: usize) {
        let number = self.masm.position();
        let mut order = Vec::new();
        let mut labels = Vec::new();
        for depth in table.targets().chain(std::iter::once(table.default)) {
            let frame = self.frame_at(depth);
            if self.control[frame].edge.0 != number {
                self.control[frame].edge = (number, self.masm.label());
                order.push(frame);
            }
            labels.push(self.control[frame].edge.1);
        }
        let default = labels.pop().expect("the default is always there");
        self.jump_by_table(index, &labels, default);
        for frame in order {
            if self.masm.position() > self.max_code_bytes {
                // The function is refused for this when the operator is done.
                return;
            }
            let Frame { kind, edge, height, .. } = self.control[frame];
            self.masm.bind(edge.1);
            if kind == FrameKind::Function {
                self.results_from_homes_to_registers(arity);
            } else if self.carries_register(frame, arity) {
                let ty = self.top_type();
                let home = self.operand_home(self.depth() - 1);
                self.load_slot(ty, Self::join_register(ty), home);
            } else {
                self.carry_homes(height as usize, arity);
            }
            let label = self.target(frame);
            self.masm.jmp(label);
        }
    }

    /// `drop`.
    pub(crate) fn discard(&mut self) {
        self.truncate(self.depth() - 1);
    }

    /// `select` of values of any type.
    pub(crate) fn select(&mut self) {
        let condition = self.pop_condition();
        let ty = self.top_type();
        let otherwise = self.pop();
        let then = self.pop();
        if ty.is_vector_class() {
            self.select_vector(ty, condition, then, otherwise)
        } else {
            self.select_integer(ty, condition, then, otherwise)
        }
    }

    /// Goes over an operator in unreachable code, whose opcode has been read.
    pub(crate) fn visit_unreachable(&mut self, opcode: u8, body: &mut Body<'_>) {
        match opcode {
            0x02..=0x04 => self.skipped_blocks += 1,
            0x05 if self.skipped_blocks == 0 => return self.begin_else(),
            0x0b if self.skipped_blocks == 0 => return self.end(),
            0x0b => self.skipped_blocks -= 1,
            _ => {}
        }
        if !body.skip_immediates(opcode) {
            self.refuse(format!("an instruction that begins with {opcode:#x}, at offset {:#x} of a body", self.offset));
        }
    }
}
