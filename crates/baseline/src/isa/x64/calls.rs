//! Frames and calls: prologue, epilogue, calls of all kinds, returns and tail calls.

use super::abi::{C_ARGUMENTS, Location, Locations};
use super::assembler::{Alu, Cc, Mem, Sse};
use super::registers::{FUEL, PRESERVED_FOR_LOCALS, R10, RAX, RBP, RDI, RSP, SCRATCH, VECTOR_SCRATCH, VECTOR_SCRATCH_2, xmm};
use super::runs::{Direction, Homes, Place, Run, is_in, may_have_runs, runs};
use crate::calls::Callee;
use crate::compile::{Cold, Compiler};
use crate::frame::{CONTEXT, RESULT_AREA, saved_register};
use crate::masm::Label;
use crate::registers::{Reg, RegSet};
use crate::values::{Ty, Value};
use peregrine_artifact::abi::{KEPT_MARK, KEPT_MARK_OFFSET};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::settings::Tiering;
use peregrine_artifact::vmctx::{VmContextHeader, VmFuncRef, VmFunctionImport};
use peregrine_wasm::{FuncIndex, FuncType, Trap, TypeIndex, ValType};
use smallvec::SmallVec;
use std::mem::offset_of;

/// Moves to distinct registers that happen at once.
type Moves = SmallVec<[(Ty, Reg, Value); 16]>;
pub(super) type Placed = SmallVec<[(Ty, Location); 16]>;

/// More zeros than these are written by a loop.
const MAX_UNROLLED_ZEROS: usize = 16;
/// Locals that are made zero by one loop are this far apart at most: the loop does the same to those in between.
const MAX_ZERO_STEP: usize = 4;
/// Bytes of a register that is kept below the frame.
const KEPT_REGISTER_BYTES: u32 = 16;
/// More than all registers that are kept below the frame take: not even the stack and frame pointers are left out.
const MAX_KEPT_BYTES: u32 = KEPT_REGISTER_BYTES * 32;
/// More than is put on the stack by one instruction after the other, each of which finds the guard if it is there.
const MAX_PUSHED_BYTES: u32 = 64;
/// Where arguments on the stack are from the frame pointer: above it and the return address.
const ARGUMENTS_ABOVE: i32 = 16;
/// `movups` from memory.
const MOVUPS: Sse = Sse::new(0, 0x10);
/// `movups` to memory.
const MOVUPS_STORE: Sse = Sse::new(0, 0x11);

/// A field at an offset, as an operand counts.
pub(super) const fn field(offset: usize) -> i32 {
    offset as i32
}

fn types(types: &[ValType]) -> impl Iterator<Item = Ty> + '_ {
    types.iter().map(|&ty| Ty::from(ty))
}

pub(super) fn result_area_bytes(ty: &FuncType) -> u32 {
    Locations::results().area_bytes(types(&ty.results))
}

/// Whether results of a function have no register, so that a pointer to their place is passed.
pub(super) fn has_result_area(ty: &FuncType) -> bool {
    result_area_bytes(ty) > 0
}

/// Where arguments are; the registers of the pointer to the place of results and of the context; bytes on the stack.
pub(super) fn place_arguments(ty: &FuncType) -> (Placed, Option<Reg>, Reg, u32) {
    let (mut locations, area, context) = Locations::arguments(has_result_area(ty));
    let placed = types(&ty.params).map(|ty| (ty, locations.next(ty))).collect();
    (placed, area, context, locations.stack_bytes())
}

pub(super) fn place_results(ty: &FuncType) -> Placed {
    let mut locations = Locations::results();
    types(&ty.results).map(|ty| (ty, locations.next(ty))).collect()
}

impl Compiler<'_> {
    /// Does moves that happen at once. Uses the scratch registers. Changes no flags.
    fn move_all(&mut self, moves: &Moves) {
        let mut pending: SmallVec<[(Ty, Reg, Reg); 16]> = SmallVec::new();
        for &(ty, target, value) in moves {
            if let Value::Reg(source) = value
                && source != target
            {
                pending.push((ty, target, source));
            }
        }
        while !pending.is_empty() {
            let mut sources = RegSet::EMPTY;
            for (_, _, source) in &pending {
                sources = sources.with(*source);
            }
            let before = pending.len();
            let mut position = 0;
            while position < pending.len() {
                let (ty, target, source) = pending[position];
                if sources.has(target) {
                    position += 1;
                } else {
                    self.move_reg(ty, target, source);
                    pending.swap_remove(position);
                    if !pending.iter().any(|other| other.2 == source) {
                        sources = sources.without(source);
                    }
                    position = 0;
                }
            }
            if pending.len() == before {
                // A cycle: one target is read from elsewhere.
                let (_, target, _) = pending[0];
                let vector = target.is_vector();
                let scratch = if vector { VECTOR_SCRATCH } else { SCRATCH };
                self.move_reg(if vector { Ty::V128 } else { Ty::I64 }, scratch, target);
                for other in &mut pending {
                    if other.2 == target {
                        other.2 = scratch;
                    }
                }
            }
        }
        for &(ty, target, value) in moves {
            if !matches!(value, Value::Reg(_)) {
                self.load_value(ty, target, value);
            }
        }
    }

    // Frames.

    /// What every function begins with: from there on, whoever walks the stack finds its caller.
    pub(crate) fn begin_frame(&mut self) {
        self.masm.push(RBP);
        self.masm.mov(true, RBP, RSP);
    }

    /// Makes the frame and brings parameters to where locals are.
    pub(crate) fn prologue(&mut self) {
        let module = self.module;
        let ty = &module.types[self.ty];
        let (placed, area, context, argument_bytes) = place_arguments(ty);
        self.argument_bytes = argument_bytes;
        self.begin_frame();
        // `sub rsp, size`, with a size of 32 bits that is filled in when all is known.
        self.frame_size_place = self.masm.position();
        self.masm.alu_imm(Alu::Sub, true, RSP, i32::MAX);
        for (position, reg) in PRESERVED_FOR_LOCALS.into_iter().enumerate() {
            if self.saved.has(reg) {
                self.store_slot(Ty::I64, saved_register(position), reg);
            }
        }
        // Core dumps tell whose call it is.
        if self.settings.keeps_locals || self.context_pin.is_none_or(|reg| self.volatile.has(reg)) {
            self.store_slot(Ty::I64, CONTEXT, context);
        }
        if let Some(area) = area {
            self.store_slot(Ty::I64, RESULT_AREA, area);
        }
        let mut moves = Moves::new();
        if let Some(pin) = self.context_pin {
            moves.push((Ty::I64, pin, Value::Reg(context)));
        }
        // All are stored only for core dumps; otherwise those that the body uses, which has bytes for each.
        let runs = if self.keeps_locals && may_have_runs(&placed) { runs(&placed) } else { Vec::new() };
        let mut extended = RegSet::EMPTY;
        for (index, &(ty, location)) in placed.iter().enumerate() {
            let pin = self.locals[index].pin;
            match (location, pin) {
                (Location::Stack(_), _) if is_in(&runs, index) => {}
                (Location::Reg(reg), Some(pin)) => {
                    moves.push((ty, pin, Value::Reg(reg)));
                    if ty == Ty::I32 && reg == pin {
                        extended = extended.with(pin);
                    }
                }
                (Location::Reg(reg), None) if self.scan.locals[index] > 0 || self.keeps_locals => {
                    let home = self.local_home(index);
                    self.store_slot(ty, home, reg);
                }
                // The arguments are above the frame pointer and the return address.
                (Location::Stack(offset), Some(pin)) => moves.push((ty, pin, Value::Slot(ARGUMENTS_ABOVE + offset as i32))),
                (Location::Stack(offset), None) if self.scan.locals[index] > 0 || self.keeps_locals => {
                    let home = self.local_home(index);
                    self.store_value(ty, home, Value::Slot(ARGUMENTS_ABOVE + offset as i32));
                }
                _ => {}
            }
        }
        self.move_all(&moves);
        // These use the scratch registers, and give back the one for the count.
        for run in &runs {
            self.move_run(*run, &placed, Homes::Locals, Place::Above(ARGUMENTS_ABOVE), Direction::ToHomes);
        }
        for reg in extended {
            self.masm.mov(false, reg, reg);
        }
        self.zero_locals(placed.len());
        // All registers of locals hold them from here on.
        self.valid = self.volatile;
        if let Some(pin) = self.base_pin {
            self.load_memory_zero_base(pin);
        }
    }

    /// Makes zero of the locals that need it.
    fn zero_locals(&mut self, first: usize) {
        if self.keeps_locals {
            if first < self.local_count {
                self.zero_homes(first, self.local_count - 1);
            }
            self.masm.mov_store_imm(false, Self::slot(KEPT_MARK_OFFSET), self.local_count as i32);
            self.masm.mov_store_imm(false, Self::slot(KEPT_MARK_OFFSET + 4), KEPT_MARK as i32);
            return;
        }
        if self.settings.keeps_locals {
            // An earlier call may have left its mark there.
            self.masm.mov_store_imm(false, Self::slot(KEPT_MARK_OFFSET + 4), 0);
        }
        let mut homes: usize = 0;
        let touched = std::mem::take(&mut self.scan.touched);
        let needing = || touched.iter().map(|index| *index as usize).filter(|index| *index >= first);
        for index in needing() {
            if !self.scan.needs_zero(index) {
                continue;
            }
            match self.locals[index].pin {
                Some(pin) if pin.is_vector() => self.masm.sse(Sse::new(0, 0x57), pin, pin),
                Some(pin) => self.masm.zero(pin),
                None => homes += 1,
            }
        }
        if homes > MAX_UNROLLED_ZEROS {
            let mut homes: Vec<usize> =
                needing().filter(|index| self.locals[*index].pin.is_none() && self.scan.needs_zero(*index)).collect();
            homes.sort_unstable();
            self.zero_groups(&homes);
        } else {
            self.zero_homes_one_by_one(needing());
        }
        self.scan.touched = touched;
    }

    /// Makes zero of the homes of locals, by rising number: where many are close together by a loop, so that those far from others cost no more
    /// than themselves.
    fn zero_groups(&mut self, locals: &[usize]) {
        let number = |compiler: &Self, local: usize| compiler.locals[local].home as usize;
        let mut groups = Vec::new();
        groups.extend(locals.chunk_by(|a, b| number(self, *b) - number(self, *a) <= MAX_ZERO_STEP));
        for group in groups {
            match group {
                [first, .., last] if group.len() > MAX_UNROLLED_ZEROS => self.zero_homes(number(self, *first), number(self, *last)),
                _ => self.zero_homes_one_by_one(group.iter().copied()),
            }
        }
    }

    fn zero_homes_one_by_one(&mut self, locals: impl Iterator<Item = usize>) {
        let mut zero = false;
        for index in locals {
            if self.locals[index].pin.is_some() || !self.scan.needs_zero(index) {
                continue;
            }
            let home = self.local_home(index);
            let ty = self.locals[index].ty;
            if ty == Ty::V128 {
                if !zero {
                    self.masm.sse(Sse::new(0, 0x57), VECTOR_SCRATCH, VECTOR_SCRATCH);
                    zero = true;
                }
                self.store_slot(ty, home, VECTOR_SCRATCH);
            } else {
                self.store_value(ty, home, Value::Const(0));
            }
        }
    }

    /// Makes zero of all homes from number `first` up to `last`.
    fn zero_homes(&mut self, first: usize, last: usize) {
        let lowest = self.home(last);
        let words = ((last + 1 - first) << self.home_log2) / 8;
        self.masm.lea(true, SCRATCH, Self::slot(lowest));
        self.masm.mov_imm(RAX, words as u64);
        let again = self.masm.label();
        self.masm.bind(again);
        self.masm.mov_store_imm(true, Mem::new(SCRATCH, 0), 0);
        self.masm.alu_imm(Alu::Add, true, SCRATCH, 8);
        self.masm.alu_imm(Alu::Sub, false, RAX, 1);
        self.masm.jcc(Cc::Ne, again);
    }

    /// How far below the frame pointer the function may write before anything is sure to have been written closer to it: arguments and results
    /// of calls, or registers that are kept at a call of a builtin, and what the call itself puts on the stack.
    fn deepest_bytes(&self, frame_bytes: u32) -> u64 {
        u64::from(frame_bytes) + u64::from(self.max_outgoing_bytes) + u64::from(MAX_KEPT_BYTES + MAX_PUSHED_BYTES)
    }

    /// Fills in the size of the frame. A large one is probed first.
    pub(crate) fn finish_prologue(&mut self, frame_bytes: u32) {
        let place = self.frame_size_place;
        if self.deepest_bytes(frame_bytes) < u64::from(self.settings.stack_guard_bytes) {
            self.masm.write_u32(place + 3, frame_bytes);
            return;
        }
        let (label, back) = (self.masm.label(), self.masm.label());
        // `jmp label` and two `nop` in the place of the 7 bytes of `sub`.
        self.masm.write_u8(place, 0xe9);
        let distance = self.masm.distance_to(label, place + 1);
        self.masm.write_u32(place + 1, distance);
        self.masm.write_u8(place + 5, 0x90);
        self.masm.write_u8(place + 6, 0x90);
        self.masm.bind_at(back, place + 7);
        self.cold.push(Cold::Probe { label, back });
    }

    /// Touches each guard's size of the frame, then makes it.
    pub(crate) fn cold_probe(&mut self, frame_bytes: u32) {
        let guard = self.settings.stack_guard_bytes.max(1 << 12);
        self.masm.mov_imm(SCRATCH, (self.deepest_bytes(frame_bytes) / u64::from(guard)).max(1));
        let again = self.masm.label();
        self.masm.bind(again);
        self.masm.alu_imm(Alu::Sub, true, RSP, guard as i32);
        self.masm.mov_store_imm(false, Mem::new(RSP, 0), 0);
        self.masm.alu_imm(Alu::Sub, false, SCRATCH, 1);
        self.masm.jcc(Cc::Ne, again);
        self.masm.lea(true, RSP, Self::slot(-(frame_bytes as i32)));
    }

    fn restore_saved(&mut self) {
        for (position, reg) in PRESERVED_FOR_LOCALS.into_iter().enumerate() {
            if self.saved.has(reg) {
                self.load_slot(Ty::I64, reg, saved_register(position));
            }
        }
    }

    /// Returns; the results are in place.
    pub(crate) fn epilogue(&mut self) {
        self.restore_saved();
        self.masm.leave();
        self.masm.ret(self.argument_bytes as u16);
    }

    /// Brings the operands on top to where the function returns them, if there are several.
    pub(crate) fn results_to_registers(&mut self) {
        let module = self.module;
        let placed = place_results(&module.types[self.ty]);
        if may_have_runs(&placed) {
            self.flush_top(placed.len());
            self.results_from_homes_to_registers(placed.len());
            for _ in 0..placed.len() {
                self.pop();
            }
            return;
        }
        let mut moves = Moves::new();
        let mut values: SmallVec<[Value; 16]> = placed.iter().map(|_| self.pop()).collect();
        values.reverse();
        self.store_stack_results(&placed, &values, &[]);
        for (&(ty, location), &value) in placed.iter().zip(&values) {
            if let Location::Reg(reg) = location {
                moves.push((ty, reg, value));
            }
        }
        self.move_all(&moves);
        for value in values {
            self.release(value);
        }
    }

    /// The same for operands that are in their homes, which they stay in.
    pub(crate) fn results_from_homes_to_registers(&mut self, count: usize) {
        let module = self.module;
        let placed = place_results(&module.types[self.ty]);
        let first = self.depth() - count;
        let values: SmallVec<[Value; 16]> = (first..self.depth()).map(|depth| Value::Slot(self.operand_home(depth))).collect();
        let runs = if may_have_runs(&placed) { runs(&placed) } else { Vec::new() };
        for run in &runs {
            self.move_run(*run, &placed, Homes::Operands(first), Place::Behind(RESULT_AREA), Direction::FromHomes);
        }
        self.store_stack_results(&placed, &values, &runs);
        for (&(ty, location), &value) in placed.iter().zip(&values) {
            if let Location::Reg(reg) = location {
                self.load_value(ty, reg, value);
            }
        }
    }

    /// Stores results that have no register, but for those of `runs`.
    fn store_stack_results(&mut self, placed: &Placed, values: &[Value], runs: &[Run]) {
        for (position, (&(ty, location), &value)) in placed.iter().zip(values).enumerate() {
            let Location::Stack(offset) = location else { continue };
            if is_in(runs, position) {
                continue;
            }
            // The scratch register is needed for copies: the pointer goes to a vector register in between, one value at a time.
            match value {
                Value::Reg(reg) => {
                    self.load_slot(Ty::I64, SCRATCH, RESULT_AREA);
                    self.store_mem(ty, Mem::new(SCRATCH, offset as i32), reg);
                }
                _ => {
                    let (through, as_ty) = (VECTOR_SCRATCH, if ty == Ty::V128 { Ty::V128 } else { Ty::F64 });
                    match value {
                        Value::Const(bits) => {
                            self.masm.mov_imm(SCRATCH, bits);
                            self.masm.sse_wide(Sse::new(0x66, 0x6e), true, through, SCRATCH);
                        }
                        _ => self.load_value(as_ty, through, value),
                    }
                    self.load_slot(Ty::I64, SCRATCH, RESULT_AREA);
                    self.store_mem(as_ty, Mem::new(SCRATCH, offset as i32), through);
                }
            }
        }
    }

    // Calls.

    /// Pops the arguments: those on the stack are stored from the stack pointer on, the others are added to `moves`.
    fn pop_arguments(&mut self, placed: &Placed, moves: &mut Moves) {
        let runs = if may_have_runs(placed) { runs(placed) } else { Vec::new() };
        if !runs.is_empty() {
            self.flush_top(placed.len());
            let first = self.depth() - placed.len();
            for run in &runs {
                self.move_run(*run, placed, Homes::Operands(first), Place::Outgoing, Direction::FromHomes);
            }
        }
        for (position, &(ty, location)) in placed.iter().enumerate().rev() {
            let value = self.pop();
            match location {
                Location::Stack(_) if is_in(&runs, position) => {}
                Location::Reg(reg) => moves.push((ty, reg, value)),
                Location::Stack(offset) => {
                    self.store_value_mem(ty, Mem::new(RSP, offset as i32), value);
                    self.release(value);
                }
            }
        }
    }

    /// Where the context is, as a source of moves.
    pub(super) fn context_value(&self) -> Value {
        match self.context_pin {
            Some(reg) if !self.volatile.has(reg) || self.valid.has(reg) => Value::Reg(reg),
            _ => Value::Slot(CONTEXT),
        }
    }

    fn reserve_outgoing(&mut self, bytes: u32) {
        if bytes > 0 {
            self.masm.alu_imm(Alu::Sub, true, RSP, bytes as i32);
            self.max_outgoing_bytes = self.max_outgoing_bytes.max(bytes);
        }
    }

    /// Calls; the arguments are on top of the operand stack, and then the results.
    pub(crate) fn emit_call(&mut self, callee: Callee, ty: TypeIndex) {
        let module = self.module;
        let ty = &module.types[ty];
        self.spill_below(self.depth() - ty.params.len());
        self.save_volatile();
        let (placed, area, context, argument_bytes) = place_arguments(ty);
        let result_bytes = result_area_bytes(ty);
        self.reserve_outgoing(argument_bytes + result_bytes);
        let mut moves = Moves::new();
        self.pop_arguments(&placed, &mut moves);
        if matches!(callee, Callee::Function(_)) {
            moves.push((Ty::I64, context, self.context_value()));
        }
        self.move_all(&moves);
        for (_, _, value) in moves {
            self.release(value);
        }
        if let Some(area) = area {
            self.masm.lea(true, area, Mem::new(RSP, argument_bytes as i32));
        }
        self.load_callee(callee, context);
        self.masm.address_here(self.offset);
        match callee {
            Callee::Function(index) if self.module.defined_func_index(index).is_some() => self.call_defined(index, false),
            _ => self.masm.call_rm(RAX),
        }
        self.regs.release(RAX);
        self.destroyed_by_call();
        self.push_results(&place_results(ty));
        if result_bytes > 0 {
            self.masm.lea(true, RSP, Mem::new(RSP, result_bytes as i32));
        }
    }

    /// Calls or, if `jump`, jumps to a function of this module.
    fn call_defined(&mut self, index: FuncIndex, jump: bool) {
        match self.settings.tiering {
            Tiering::Whole => self.masm.call_function(index, jump),
            Tiering::Slots | Tiering::Counted => self.masm.call_slot(index, jump),
        }
    }

    /// Loads code to `rax` and its context to `context`, unless it is a function of this module. Then the stretch of straight code ends: one in
    /// which the reference turns out to be null is not counted. Changes no flags.
    fn load_callee(&mut self, callee: Callee, context: Reg) {
        match callee {
            Callee::Function(index) if self.module.defined_func_index(index).is_some() => {}
            Callee::Function(index) => {
                let import = self.layout.function_import(index) as i32;
                self.masm.mov(true, RAX, Mem::new(context, import + field(offset_of!(VmFunctionImport, code))));
                self.masm.mov(true, context, Mem::new(context, import + field(offset_of!(VmFunctionImport, vmctx))));
            }
            Callee::Reference(trap) => {
                if let Some(trap) = trap {
                    self.may_trap(trap);
                }
                self.masm.mov(true, context, Mem::new(RAX, field(offset_of!(VmFuncRef, vmctx))));
                self.masm.mov(true, RAX, Mem::new(RAX, field(offset_of!(VmFuncRef, code))));
            }
        }
        self.meter_flush();
    }

    fn push_results(&mut self, placed: &Placed) {
        let runs = if may_have_runs(placed) { runs(placed) } else { Vec::new() };
        let first = self.depth();
        for (position, &(ty, location)) in placed.iter().enumerate() {
            match location {
                Location::Stack(_) if is_in(&runs, position) => self.push_home(ty),
                Location::Reg(reg) if self.regs.is_temporary(reg) => {
                    if ty == Ty::I32 {
                        self.masm.mov(false, reg, reg);
                    }
                    self.push_reg(ty, reg);
                }
                Location::Reg(reg) => {
                    debug_assert!(self.volatile.has(reg), "results are in registers that calls destroy");
                    let home = self.operand_home(self.depth());
                    self.store_slot(ty, home, reg);
                    self.push_home(ty);
                }
                Location::Stack(offset) => {
                    self.masm.sse(MOVUPS, VECTOR_SCRATCH, Mem::new(RSP, offset as i32));
                    let home = self.operand_home(self.depth());
                    self.store_slot(if ty == Ty::V128 { ty } else { Ty::F64 }, home, VECTOR_SCRATCH);
                    self.push_home(ty);
                }
            }
        }
        for run in &runs {
            self.move_run(*run, placed, Homes::Operands(first), Place::Outgoing, Direction::ToHomes);
        }
    }

    /// Pushes the integer that a builtin returned.
    pub(crate) fn push_call_result(&mut self, ty: Ty) {
        if ty == Ty::I32 {
            self.masm.mov(false, RAX, RAX);
        }
        self.push_reg(ty, RAX);
    }

    /// Calls in place of this frame; the arguments are on top of the operand stack.
    pub(crate) fn emit_return_call(&mut self, callee: Callee, ty: TypeIndex) {
        let module = self.module;
        let ty = &module.types[ty];
        let (placed, area, context, argument_bytes) = place_arguments(ty);
        self.reserve_outgoing(argument_bytes);
        let mut moves = Moves::new();
        self.pop_arguments(&placed, &mut moves);
        if matches!(callee, Callee::Function(_)) {
            moves.push((Ty::I64, context, self.context_value()));
        }
        if let Some(area) = area {
            // The results of the callee are those of this function.
            moves.push((Ty::I64, area, Value::Slot(RESULT_AREA)));
        }
        self.move_all(&moves);
        for (_, _, value) in moves {
            self.release(value);
        }
        self.load_callee(callee, context);
        self.regs.release(RAX);
        self.masm.address_here(self.offset);
        self.restore_saved();
        if argument_bytes == 0 && self.argument_bytes == 0 {
            self.masm.leave();
        } else {
            self.move_arguments_up(argument_bytes);
        }
        match callee {
            Callee::Function(index) if self.module.defined_func_index(index).is_some() => self.call_defined(index, true),
            _ => self.masm.jmp_rm(RAX),
        }
    }

    /// Ends this frame and puts the arguments that are at the stack pointer where those of this function were.
    fn move_arguments_up(&mut self, argument_bytes: u32) {
        // Where the return address will be, from the frame pointer.
        let bottom = 8 + self.argument_bytes as i32 - argument_bytes as i32;
        self.load_slot(Ty::I64, SCRATCH, 8);
        // From the highest down: the target is above the source.
        if argument_bytes as usize > 16 * MAX_UNROLLED_ZEROS {
            // The frame pointer of the caller is in the way of the arguments, and there is one register for it and the count.
            self.load_slot(Ty::F64, VECTOR_SCRATCH_2, 0);
            self.copy_up(argument_bytes as i32, bottom + 8, R10);
            self.masm.sse_wide(Sse::new(0x66, 0x7e), true, VECTOR_SCRATCH_2, R10);
        } else {
            self.load_slot(Ty::I64, R10, 0);
            for offset in (0..argument_bytes as i32).step_by(16).rev() {
                self.masm.sse(MOVUPS, VECTOR_SCRATCH, Mem::new(RSP, offset));
                self.masm.sse(MOVUPS_STORE, VECTOR_SCRATCH, Self::slot(bottom + 8 + offset));
            }
        }
        self.store_slot(Ty::I64, bottom, SCRATCH);
        self.masm.lea(true, RSP, Self::slot(bottom));
        self.masm.mov(true, RBP, R10);
    }

    /// Calls a builtin with the context and `args`.
    pub(crate) fn emit_builtin_call(&mut self, builtin: Builtin, args: &[(Ty, Value)]) {
        let mut moves = Moves::new();
        moves.push((Ty::I64, C_ARGUMENTS[0], self.context_value()));
        let (mut next_integer, mut next_vector) = (1, 0);
        for &(ty, value) in args {
            if ty.is_vector_class() {
                moves.push((ty, xmm(next_vector), value));
                next_vector += 1;
            } else {
                moves.push((ty, C_ARGUMENTS[next_integer], value));
                next_integer += 1;
            }
        }
        self.move_all(&moves);
        self.masm.mov(true, RAX, Mem::new(RDI, field(offset_of!(VmContextHeader, builtins))));
        self.masm.address_here(self.offset);
        self.masm.call_rm(Mem::new(RAX, builtin.offset_bytes()));
    }

    /// Calls a builtin from a place where `live` registers must be kept.
    fn call_builtin_keeping(&mut self, live: RegSet, builtin: Builtin, args: &[(Ty, Value)], result: Option<Reg>) {
        const STEP: i32 = KEPT_REGISTER_BYTES as i32;
        let count = live.count() as i32;
        // Also where an argument of this path is a register that is kept: it is read before the call.
        if count > 0 {
            self.masm.lea(true, RSP, Mem::new(RSP, -STEP * count));
        }
        for (position, reg) in live.enumerate() {
            let ty = if reg.is_vector() { Ty::V128 } else { Ty::I64 };
            self.store_mem(ty, Mem::new(RSP, STEP * position as i32), reg);
        }
        self.emit_builtin_call_from_slot(builtin, args);
        if let Some(result) = result {
            self.masm.mov(true, SCRATCH, RAX);
            debug_assert!(!live.has(result));
        }
        for (position, reg) in live.enumerate() {
            let ty = if reg.is_vector() { Ty::V128 } else { Ty::I64 };
            self.load_mem(ty, reg, Mem::new(RSP, STEP * position as i32));
        }
        if let Some(result) = result {
            self.masm.mov(true, result, SCRATCH);
        }
        if count > 0 {
            self.masm.lea(true, RSP, Mem::new(RSP, STEP * count));
        }
    }

    /// As [`emit_builtin_call`](Self::emit_builtin_call), at the end of the function, where nothing is known of registers.
    fn emit_builtin_call_from_slot(&mut self, builtin: Builtin, args: &[(Ty, Value)]) {
        let valid = std::mem::replace(&mut self.valid, self.volatile);
        self.emit_builtin_call(builtin, args);
        self.valid = valid;
    }

    /// What has to be kept by a path that leaves the straight code and comes back.
    pub(crate) fn live_registers(&self) -> RegSet {
        self.regs.held().or(self.valid)
    }

    /// Has the engine make an element of a table.
    pub(crate) fn cold_init_element(&mut self, table: u32, index: Reg, result: Reg, live: RegSet) {
        // A context in a register that was not valid is read from its slot.
        let args = [(Ty::I32, Value::Const(table.into())), (Ty::I64, Value::Reg(index))];
        self.with_context_as(live, |this| this.call_builtin_keeping(live, Builtin::table_element_init, &args, Some(result)));
    }

    /// Asks the engine about fuel.
    pub(crate) fn cold_out_of_fuel(&mut self, live: RegSet) {
        self.with_context_as(live, |this| this.call_builtin_keeping(live, Builtin::out_of_fuel, &[], None));
    }

    /// Does something with the context in its register only if that is among `live`, or preserved.
    fn with_context_as(&mut self, live: RegSet, then: impl FnOnce(&mut Self)) {
        let pin = self.context_pin;
        if pin.is_some_and(|reg| self.volatile.has(reg) && !live.has(reg)) {
            self.context_pin = None;
        }
        then(self);
        self.context_pin = pin;
    }

    /// Traps unless the function that `reference` points to has the type `ty`. Null faults.
    pub(crate) fn check_signature(&mut self, reference: Reg, type_id: i32, ty: TypeIndex) {
        self.load_context_field(SCRATCH, offset_of!(VmContextHeader, type_ids) as u32);
        self.masm.mov(false, SCRATCH, Mem::new(SCRATCH, ty.as_u32() as i32 * 4));
        self.may_trap(Trap::IndirectCallToNull);
        self.masm.alu(Alu::Cmp, false, SCRATCH, Mem::new(reference, type_id));
        self.trap_if(Cc::Ne, Trap::BadSignature);
    }

    // Fuel.

    /// Adds to the fuel counter. Changes no flags.
    pub(crate) fn add_fuel(&mut self, units: i32) {
        self.masm.lea(true, FUEL, Mem::new(FUEL, units));
    }

    /// Asks the engine if the fuel counter is above zero.
    pub(crate) fn check_fuel(&mut self) {
        self.masm.test(true, FUEL, FUEL);
        let (label, back) = (self.masm.label(), self.masm.label());
        self.masm.jcc(Cc::G, label);
        self.masm.bind(back);
        self.cold.push(Cold::OutOfFuel { label, back, live: self.live_registers(), offset: self.offset });
    }

    // Jumps by number.

    /// Brings the index of a `br_table` to the scratch register.
    pub(crate) fn table_index(&mut self, index: Value) -> Reg {
        self.load_value(Ty::I32, SCRATCH, index);
        self.release(index);
        SCRATCH
    }

    /// Jumps to the label that `index`, the scratch register, says; to `default` if there is none.
    pub(crate) fn jump_by_table(&mut self, index: Reg, labels: &[Label], default: Label) {
        if labels.is_empty() {
            return self.masm.jmp(default);
        }
        self.masm.alu_imm(Alu::Cmp, false, index, labels.len() as i32);
        self.masm.jcc(Cc::Ae, default);
        // Nothing is kept in registers here but the one operand that the branch carries, and locals.
        let base = self.alloc(false);
        self.masm.lea_table(base, labels.iter().copied());
        self.masm.movsx32(index, Mem::indexed(base, index, 2, 0));
        self.masm.alu(Alu::Add, true, index, base);
        self.masm.jmp_rm(index);
        self.regs.release(base);
    }
}
