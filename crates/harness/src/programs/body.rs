//! Bodies of random functions: statements over a typed stack of operands that lives on across blocks and loops.
//!
//! Programs end by construction. Each loop counts down a local of its own, at its head if other branches than the last one lead there; functions
//! call functions with higher numbers only, and themselves a few times at most; and turns of loops in loops and of callees are
//! multiplied and held below a bound.

use super::choices::Choices;
use super::operators::{Nan, Ty, shapes, trapping};
use super::rich::Referent;
use super::{HOST_LOG, Plan, Types};
use wasm_encoder::Instruction::{self, *};
use wasm_encoder::{BlockType, HeapType, MemArg, MemArgTarget, ValType};

/// Turns of loops and calls that one call of a function may come to.
pub(super) const MAX_COST: u32 = 1500;
/// Further locals of some functions: more than have homes by their index.
const MANY_LOCALS: usize = 90;
/// Instructions of a body, after which nothing is begun.
const MAX_INSTRUCTIONS: usize = 900;
/// Nested blocks.
pub(super) const MAX_LABELS: usize = 12;
/// Operands that are left alive on the stack.
const MAX_OPERANDS: usize = 24;
/// Calls of itself in a row: what the first parameter is cut down to.
const MAX_DEPTH: u32 = 3;
/// The addresses that are used: inside of the first page, but for those that trap.
pub(super) const ADDRESS_MASK: i64 = 0x7ff8;

/// A block that branches can lead to.
#[derive(Debug)]
pub(super) struct Label {
    /// What a branch takes along.
    pub(super) types: Vec<Ty>,
    /// Whether branches may lead here; those to a loop that counts at its end alone would not be counted.
    pub(super) open: bool,
}

/// A function under construction.
pub(super) struct Body<'a, 'b> {
    pub(super) choices: &'a mut Choices<'b>,
    pub(super) plan: &'a Plan,
    pub(super) types: &'a mut Types,
    /// The number of this function among the defined ones.
    pub(super) number: usize,
    params: usize,
    pub(super) locals: Vec<ValType>,
    /// Locals that hold NaNs before they are made canonical, and that nothing else reads.
    raw: Vec<u32>,
    pub(super) code: Vec<Instruction<'static>>,
    pub(super) stack: Vec<Ty>,
    pub(super) labels: Vec<Label>,
    /// Counters of the loops around, and whether they count at the head.
    pub(super) counters: Vec<u32>,
    /// How often what comes now can run in one call.
    pub(super) times: u32,
    pub(super) cost: u32,
    calls_itself: bool,
    /// Locals for references, by what they refer to.
    pub(super) references: Vec<(Referent, u32)>,
}

/// A finished function.
pub(super) struct Finished {
    /// Without parameters.
    pub(super) locals: Vec<ValType>,
    pub(super) code: Vec<Instruction<'static>>,
    /// The most turns of loops and calls that one call of it comes to.
    pub(super) cost: u32,
}

impl<'a, 'b> Body<'a, 'b> {
    pub(super) fn new(choices: &'a mut Choices<'b>, plan: &'a Plan, types: &'a mut Types, number: usize) -> Self {
        let params = &plan.functions[number].params;
        Self {
            choices,
            plan,
            types,
            number,
            params: params.len(),
            locals: params.iter().map(|ty| ty.val_type()).collect(),
            raw: Vec::new(),
            code: Vec::new(),
            stack: Vec::new(),
            labels: Vec::new(),
            counters: Vec::new(),
            times: 1,
            cost: 1,
            calls_itself: false,
            references: Vec::new(),
        }
    }

    /// Makes the body.
    pub(super) fn finish(mut self) -> Finished {
        for _ in 0..2 + self.choices.below(8) {
            let ty = self.any_type();
            self.locals.push(ty.val_type());
        }
        if self.choices.once_in(8) {
            // Of these the body names some, as it comes.
            self.locals.extend(Ty::ALL.iter().cycle().take(MANY_LOCALS).map(|ty| ty.val_type()));
        }
        self.emit([LocalGet(0), I32Const(MAX_DEPTH as i32), I32And, LocalSet(0)]);
        let results = self.plan.functions[self.number].results.clone();
        self.labels.push(Label { types: results.clone(), open: true });
        let count = 4 + self.choices.below(24);
        self.statements(count, 0);
        // A loop that runs for sure, whatever became of the choices before.
        self.loops(0);
        self.leave(0, &results);
        self.emit([End]);
        let cost = if self.calls_itself { self.cost * (MAX_DEPTH + 1) } else { self.cost };
        Finished { locals: self.locals.split_off(self.params), code: self.code, cost }
    }

    pub(super) fn emit<const N: usize>(&mut self, instructions: [Instruction<'static>; N]) {
        self.code.extend(instructions);
    }

    pub(super) fn is_over(&self) -> bool {
        self.choices.is_over() || self.code.len() > MAX_INSTRUCTIONS
    }

    pub(super) fn any_type(&mut self) -> Ty {
        Ty::ALL[self.choices.below(Ty::ALL.len())]
    }

    pub(super) fn any_types(&mut self, at_most: usize) -> Vec<Ty> {
        (0..self.choices.below(at_most + 1)).map(|_| self.any_type()).collect()
    }

    pub(super) fn fresh(&mut self, ty: Ty) -> u32 {
        self.fresh_of(ty.val_type())
    }

    /// A local that nothing else knows of.
    pub(super) fn fresh_of(&mut self, ty: ValType) -> u32 {
        self.locals.push(ty);
        self.locals.len() as u32 - 1
    }

    /// A local of this type that no loop counts with.
    pub(super) fn local(&mut self, ty: Ty) -> u32 {
        let is_free = |index: &u32| *index > 0 && !self.counters.contains(index) && !self.raw.contains(index);
        let indices = (0..self.locals.len() as u32).filter(|index| self.locals[*index as usize] == ty.val_type());
        let found: Vec<u32> = indices.filter(is_free).collect();
        match found.len() {
            0 => self.fresh(ty),
            len => found[self.choices.below(len)],
        }
    }

    // -- expressions: each leaves one more value on the machine's stack; whoever calls adds it to `stack`, or uses it up.

    fn constant(&mut self, ty: Ty) {
        let number = self.choices.number();
        let float = [0.0, -0.0, 1.0, -1.5, 1e10, f64::INFINITY, 0.1, 3e-310][number as usize % 8];
        let instruction = match ty {
            Ty::I32 => I32Const(number as i32),
            Ty::I64 => I64Const(number as i64),
            Ty::F32 => F32Const((float as f32).into()),
            Ty::F64 => F64Const(float.into()),
            Ty::V128 => V128Const((i128::from(number) << 64) | i128::from(number.rotate_left(17))),
        };
        self.emit([instruction]);
    }

    pub(super) fn leaf(&mut self, ty: Ty) {
        match self.choices.below(8) {
            0 | 1 => self.constant(ty),
            2 => self.emit([GlobalGet(ty as u32)]),
            3 if ty == Ty::I32 && !self.counters.is_empty() => {
                let counter = self.counters[self.choices.below(self.counters.len())];
                self.emit([LocalGet(counter)]);
            }
            _ => {
                let local = self.local(ty);
                self.emit([LocalGet(local)]);
            }
        }
    }

    pub(super) fn expression(&mut self, ty: Ty, depth: usize) {
        if depth == 0 || self.is_over() {
            return self.leaf(ty);
        }
        match self.choices.below(12) {
            0 | 1 => self.leaf(ty),
            2 | 3 => self.load(ty, depth - 1),
            4 => {
                self.expression(ty, depth - 1);
                self.expression(ty, depth - 1);
                self.expression(Ty::I32, depth - 1);
                self.settle();
                self.emit([if ty == Ty::V128 { TypedSelect(ty.val_type()) } else { Select }]);
            }
            5 => {
                self.expression(ty, depth - 1);
                let local = self.local(ty);
                self.emit([LocalTee(local)]);
            }
            6 if matches!(ty, Ty::I32 | Ty::I64) => self.may_trap(ty, depth - 1),
            _ => {
                let shapes = shapes(ty);
                let shape = &shapes[self.choices.below(shapes.len())];
                for param in shape.params {
                    self.expression(*param, depth - 1);
                }
                let operator = shape.operators[self.choices.below(shape.operators.len())].clone();
                self.emit([operator]);
                self.canonicalize(shape.nan);
            }
        }
    }

    /// A division or conversion; mostly of what cannot trap.
    fn may_trap(&mut self, ty: Ty, depth: usize) {
        let shapes = trapping(ty);
        let traps = self.choices.once_in(24);
        let shape = &shapes[if traps { self.choices.below(shapes.len()) } else { 0 }];
        for param in shape.params {
            self.expression(*param, depth);
        }
        if !traps {
            // A divisor that is neither 0 nor -1.
            match ty {
                Ty::I32 => self.emit([I32Const(0xff), I32And, I32Const(1), I32Or]),
                _ => self.emit([I64Const(0xff), I64And, I64Const(1), I64Or]),
            }
        }
        let operator = shape.operators[self.choices.below(shape.operators.len())].clone();
        self.emit([operator]);
    }

    /// NaNs have no defined bits; other engines are compared by bits.
    fn canonicalize(&mut self, nan: Nan) {
        if !self.plan.canonical_nans {
            return;
        }
        const F32_BITS: u32 = 0x7fc0_0000;
        const F64_BITS: u64 = 0x7ff8_0000_0000_0000;
        let four = i128::from_le_bytes([0, 0, 0xc0, 0x7f, 0, 0, 0xc0, 0x7f, 0, 0, 0xc0, 0x7f, 0, 0, 0xc0, 0x7f]);
        let two = i128::from(F64_BITS) << 64 | i128::from(F64_BITS);
        let (ty, constant, equal, select) = match nan {
            Nan::Never => return,
            Nan::F32 => (Ty::F32, F32Const(f32::from_bits(F32_BITS).into()), F32Eq, Select),
            Nan::F64 => (Ty::F64, F64Const(f64::from_bits(F64_BITS).into()), F64Eq, Select),
            Nan::F32x4 => (Ty::V128, V128Const(four), F32x4Eq, V128Bitselect),
            Nan::F64x2 => (Ty::V128, V128Const(two), F64x2Eq, V128Bitselect),
        };
        let local = match self.raw.iter().find(|local| self.locals[**local as usize] == ty.val_type()) {
            Some(local) => *local,
            None => {
                let local = self.fresh(ty);
                self.raw.push(local);
                local
            }
        };
        self.emit([LocalTee(local), constant, LocalGet(local), LocalGet(local), equal]);
        if matches!(select, Select) {
            self.settle();
        }
        self.emit([select]);
    }

    /// Puts a condition into a local before it is selected by: the reference takes some comparisons and what they select for one instruction,
    /// and gets it wrong.
    fn settle(&mut self) {
        if self.plan.canonical_nans {
            let local = self.fresh(Ty::I32);
            self.emit([LocalSet(local), LocalGet(local)]);
        }
    }

    /// An address in one of the memories, which is returned with the offset.
    fn address(&mut self, depth: usize) -> MemArg {
        let memory = self.choices.below(self.plan.memories().len());
        let wide = self.plan.memories()[memory].memory64;
        self.expression(if wide { Ty::I64 } else { Ty::I32 }, depth.min(1));
        // Out of bounds now and then.
        if !self.choices.once_in(96) {
            self.code.extend(if wide { [I64Const(ADDRESS_MASK), I64And] } else { [I32Const(ADDRESS_MASK as i32), I32And] });
        }
        let offset = [0, 1, 4, 8, 16, 100, 4096][self.choices.below(7)];
        MemArg { offset, align: 0, target: MemArgTarget::Memory(memory as u32), ordering: None }
    }

    fn load(&mut self, ty: Ty, depth: usize) {
        let place = self.address(depth);
        let which = self.choices.byte();
        let of = |list: &[fn(MemArg) -> Instruction<'static>]| list[usize::from(which) % list.len()](place);
        let instruction = match ty {
            Ty::I32 => of(&[I32Load, I32Load8S, I32Load8U, I32Load16S, I32Load16U]),
            Ty::I64 => of(&[I64Load, I64Load8S, I64Load8U, I64Load16S, I64Load16U, I64Load32S, I64Load32U]),
            Ty::F32 => of(&[F32Load]),
            Ty::F64 => of(&[F64Load]),
            Ty::V128 => of(&[V128Load, V128Load8Splat, V128Load32Splat, V128Load64Zero, V128Load16x4S, V128Load32x2U]),
        };
        self.emit([instruction]);
    }

    fn store(&mut self) {
        let ty = self.any_type();
        let place = self.address(2);
        self.expression(ty, 2);
        let which = self.choices.byte();
        let of = |list: &[fn(MemArg) -> Instruction<'static>]| list[usize::from(which) % list.len()](place);
        let instruction = match ty {
            Ty::I32 => of(&[I32Store, I32Store8, I32Store16]),
            Ty::I64 => of(&[I64Store, I64Store8, I64Store16, I64Store32]),
            Ty::F32 => of(&[F32Store]),
            Ty::F64 => of(&[F64Store]),
            Ty::V128 if which.is_multiple_of(4) => V128Store32Lane { memarg: place, lane: which >> 2 & 3 },
            Ty::V128 => V128Store(place),
        };
        self.emit([instruction]);
    }

    // -- statements: they leave `stack` as high as `base` at least.

    pub(super) fn statements(&mut self, count: usize, base: usize) {
        for _ in 0..count {
            if self.is_over() {
                return;
            }
            self.statement(base);
        }
    }

    fn statement(&mut self, base: usize) {
        if self.plan.is_rich && self.choices.once_in(3) {
            return self.rich_statement(base);
        }
        match self.choices.below(22) {
            0..=2 => {
                let ty = self.any_type();
                let local = self.local(ty);
                self.expression(ty, 3);
                self.emit([LocalSet(local)]);
            }
            3 | 4 => {
                let ty = self.any_type();
                self.push(ty);
            }
            5 | 6 => self.operate(base),
            7 => {
                let ty = self.any_type();
                self.expression(ty, 2);
                self.emit([GlobalSet(ty as u32)]);
            }
            8 | 9 => self.store(),
            10 | 11 => self.loops(base),
            12 | 13 => self.branch(base),
            14 => self.choice_of_two(base),
            15 => self.choice_of_many(base),
            16 => self.call(base),
            17 => self.call_through_table(base),
            18 => self.call_itself(),
            19 => self.log(),
            20 => self.stop(),
            _ => self.bulk(),
        }
    }

    fn push(&mut self, ty: Ty) {
        if self.stack.len() < MAX_OPERANDS {
            self.expression(ty, 3);
            self.detach(ty);
            self.stack.push(ty);
        }
    }

    /// Computes something of an operand that is the value of a local: the reference forgets to keep some of those when the local is set in a loop.
    fn detach(&mut self, ty: Ty) {
        if !self.plan.canonical_nans || !matches!(self.code.last(), Some(LocalGet(_) | LocalTee(_))) {
            return;
        }
        match ty {
            Ty::I32 => self.emit([I32Const(0x5a), I32Xor]),
            Ty::I64 => self.emit([I64Const(0x5a), I64Xor]),
            Ty::F32 => self.emit([F32Neg]),
            Ty::F64 => self.emit([F64Neg]),
            Ty::V128 => self.emit([V128Not]),
        }
    }

    /// Uses up the topmost operand.
    pub(super) fn consume(&mut self, base: usize) {
        if self.stack.len() <= base {
            return;
        }
        let Some(ty) = self.stack.pop() else { return };
        match self.choices.below(4) {
            0 => self.emit([Drop]),
            1 => self.emit([GlobalSet(ty as u32)]),
            _ => {
                let local = self.local(ty);
                self.emit([LocalSet(local)]);
            }
        }
    }

    /// Applies an operator to the topmost operand and something else.
    fn operate(&mut self, base: usize) {
        let Some(top) = (self.stack.len() > base).then(|| self.stack.last().copied()).flatten() else { return };
        let ty = self.any_type();
        let fits = |shape: &&super::operators::Shape| shape.params[0] == top;
        let fitting: Vec<_> = shapes(ty).iter().filter(fits).collect();
        if fitting.is_empty() {
            return self.consume(base);
        }
        let shape = fitting[self.choices.below(fitting.len())];
        self.stack.pop();
        for param in &shape.params[1..] {
            self.expression(*param, 2);
        }
        let operator = shape.operators[self.choices.below(shape.operators.len())].clone();
        self.emit([operator]);
        self.canonicalize(shape.nan);
        self.stack.push(ty);
    }

    /// Brings the stack to `types` above `base`.
    fn leave(&mut self, base: usize, types: &[Ty]) {
        while !types.starts_with(&self.stack[base..]) {
            self.consume(base);
        }
        for ty in &types[self.stack.len() - base..] {
            self.expression(*ty, 1);
            self.detach(*ty);
            self.stack.push(*ty);
        }
    }

    fn block_type(&mut self, params: &[Ty], results: &[Ty]) -> BlockType {
        match (params, results) {
            ([], []) => BlockType::Empty,
            ([], [one]) => BlockType::Result(one.val_type()),
            _ => BlockType::FunctionType(self.types.index(params, results)),
        }
    }

    /// Operands that a block takes: some that are there, and some new ones.
    fn operands(&mut self, base: usize) -> Vec<Ty> {
        let there = self.choices.below(3).min(self.stack.len() - base);
        let first = self.stack.len() - there;
        for ty in self.any_types(2) {
            self.push(ty);
        }
        self.stack[first..].to_vec()
    }

    /// A loop that counts down.
    fn loops(&mut self, outer_base: usize) {
        let max = MAX_COST / self.times.max(self.cost / 2);
        if max < 2 || self.labels.len() + 2 > MAX_LABELS {
            return;
        }
        let turns = (1 + self.choices.below(20) as u32).min(max);
        let types = self.operands(outer_base);
        let base = self.stack.len() - types.len();
        let counter = self.fresh(Ty::I32);
        if self.choices.once_in(3) {
            // As many turns as an operand says.
            let local = self.local(Ty::I32);
            self.emit([LocalGet(local), I32Const(turns as i32), I32RemU, I32Const(1), I32Add, LocalSet(counter)]);
        } else {
            self.emit([I32Const(turns as i32), LocalSet(counter)]);
        }
        let block_type = self.block_type(&types, &types);
        let at_head = !self.choices.once_in(3);
        self.emit([Block(block_type), Loop(block_type)]);
        self.labels.push(Label { types: types.clone(), open: true });
        self.labels.push(Label { types: types.clone(), open: at_head });
        self.counters.push(counter);
        let times_before = self.times;
        self.times = self.times.saturating_mul(turns);
        self.cost = self.cost.saturating_add(self.times);
        if at_head {
            self.emit([LocalGet(counter), I32Const(1), I32Sub, LocalTee(counter), I32Eqz, BrIf(1)]);
        }
        let count = 1 + self.choices.below(8);
        self.statements(count, base);
        self.leave(base, &types);
        if at_head {
            match self.choices.below(4) {
                0 => self.emit([Br(0)]),
                1 => {
                    self.expression(Ty::I32, 2);
                    self.emit([BrIf(0)]);
                }
                2 => {
                    self.expression(Ty::I32, 2);
                    self.emit([I32Const(7), I32And, BrTable(vec![1, 0, 0].into(), 0)]);
                }
                _ => self.emit([I32Const(1), BrIf(0)]),
            }
        } else {
            self.emit([LocalGet(counter), I32Const(1), I32Sub, LocalTee(counter), BrIf(0)]);
        }
        self.emit([End, End]);
        self.labels.truncate(self.labels.len() - 2);
        self.counters.pop();
        self.times = times_before;
    }

    /// A conditional branch to any block around, with what it takes along.
    fn branch(&mut self, base: usize) {
        let depth = self.choices.below(self.labels.len());
        let label = &self.labels[self.labels.len() - 1 - depth];
        if !label.open {
            return;
        }
        let types = label.types.clone();
        let there = self.stack.len() - base >= types.len() && self.stack.ends_with(&types);
        if !there {
            for ty in &types {
                self.expression(*ty, 2);
                self.detach(*ty);
                self.stack.push(*ty);
            }
        }
        self.expression(Ty::I32, 2);
        if self.choices.once_in(2) {
            self.emit([I32Const(3), I32And, I32Eqz]);
        }
        self.emit([BrIf(depth as u32)]);
    }

    fn choice_of_two(&mut self, outer_base: usize) {
        if self.labels.len() >= MAX_LABELS {
            return;
        }
        let params = if self.plan.operands_of_ifs { self.operands(outer_base) } else { Vec::new() };
        let base = self.stack.len() - params.len();
        let results = self.any_types(2);
        self.expression(Ty::I32, 2);
        let block_type = self.block_type(&params, &results);
        self.emit([If(block_type)]);
        self.labels.push(Label { types: results.clone(), open: true });
        let count = self.choices.below(5);
        self.statements(count, base);
        self.leave(base, &results);
        self.emit([Else]);
        self.stack.truncate(base);
        self.stack.extend(&params);
        let count = self.choices.below(5);
        self.statements(count, base);
        self.leave(base, &results);
        self.emit([End]);
        self.labels.pop();
    }

    /// Cases, some of which lead to blocks around.
    fn choice_of_many(&mut self, _base: usize) {
        let cases = 1 + self.choices.below(3);
        if self.labels.len() + cases >= MAX_LABELS {
            return;
        }
        let base = self.stack.len();
        for _ in 0..cases {
            self.emit([Block(BlockType::Empty)]);
            self.labels.push(Label { types: Vec::new(), open: true });
        }
        self.expression(Ty::I32, 2);
        if !self.choices.once_in(4) {
            self.emit([I32Const(7), I32And]);
        }
        let targets: Vec<u32> = (0..1 + self.choices.below(6))
            .map(|_| {
                let depth = self.choices.below(self.labels.len());
                let label = &self.labels[self.labels.len() - 1 - depth];
                if label.open && label.types.is_empty() { depth as u32 } else { (depth % cases) as u32 }
            })
            .collect();
        let default = self.choices.below(cases) as u32;
        self.emit([BrTable(targets.into(), default)]);
        for case in (0..cases).rev() {
            self.emit([End]);
            self.labels.pop();
            self.stack.truncate(base);
            let count = self.choices.below(3);
            self.statements(count, base);
            while self.stack.len() > base {
                self.consume(base);
            }
            if case > 0 && self.choices.once_in(2) {
                let depth = self.choices.below(case) as u32;
                self.emit([Br(depth)]);
            }
        }
    }

    /// A later function that can be called here, if there is one that costs little enough.
    pub(super) fn callee(&mut self) -> Option<usize> {
        let first = self.number + 1;
        if first >= self.plan.functions.len() {
            return None;
        }
        let callee = first + self.choices.below(self.plan.functions.len() - first);
        let cost = self.plan.functions[callee].cost.saturating_mul(self.times);
        if self.cost.saturating_add(cost) > MAX_COST {
            return None;
        }
        self.cost += cost;
        Some(callee)
    }

    pub(super) fn arguments(&mut self, types: &[Ty]) {
        // Many of them are simple, so that programs stay small.
        let depth = if types.len() > 6 { 0 } else { 2 };
        for ty in types {
            self.expression(*ty, depth);
        }
    }

    fn call(&mut self, base: usize) {
        let Some(callee) = self.callee() else { return };
        let plan = self.plan;
        let (function, own) = (&plan.functions[callee], &plan.functions[self.number]);
        self.arguments(&function.params);
        let index = self.plan.index(callee);
        if function.results == own.results && self.choices.once_in(3) {
            // Now and then, as its last act.
            let scratch: Vec<u32> = function.params.iter().map(|ty| self.fresh(*ty)).collect();
            self.code.extend(scratch.iter().rev().map(|local| LocalSet(*local)));
            self.expression(Ty::I32, 1);
            self.emit([I32Const(15), I32And, I32Eqz, If(BlockType::Empty)]);
            self.code.extend(scratch.iter().map(|local| LocalGet(*local)));
            self.emit([ReturnCall(index), End]);
            return;
        }
        self.emit([Call(index)]);
        self.results(&function.results, base);
    }

    fn call_through_table(&mut self, base: usize) {
        let (Some(callee), Some(other)) = (self.callee(), self.callee()) else { return };
        let plan = self.plan;
        let function = &plan.functions[callee];
        self.arguments(&function.params);
        let type_index = self.types.index(&function.params, &function.results);
        self.emit([I32Const(callee as i32)]);
        match self.choices.below(24) {
            // A function of another type, perhaps.
            0 => {
                self.emit([I32Const(other as i32)]);
                self.expression(Ty::I32, 1);
                self.settle();
                self.emit([Select]);
            }
            // Nothing, or outside of the table.
            1 => {
                let place = plan.functions.len() + self.choices.below(3);
                self.emit([I32Const(place as i32)]);
                self.expression(Ty::I32, 1);
                self.settle();
                self.emit([Select]);
            }
            _ => {}
        }
        self.emit([CallIndirect { type_index, table_index: 0 }]);
        self.results(&function.results, base);
    }

    fn call_itself(&mut self) {
        if self.calls_itself || self.times > 1 || self.cost > MAX_COST / (MAX_DEPTH + 1) {
            return;
        }
        self.calls_itself = true;
        let plan = self.plan;
        let own = &plan.functions[self.number];
        self.emit([LocalGet(0), If(BlockType::Empty), LocalGet(0), I32Const(1), I32Sub]);
        self.arguments(&own.params[1..]);
        self.emit([Call(plan.index(self.number))]);
        self.stack.extend(&own.results);
        for _ in &own.results {
            self.consume(0);
        }
        self.emit([End]);
    }

    /// Results of a call are kept as operands, or used up if there are too many.
    pub(super) fn results(&mut self, results: &[Ty], base: usize) {
        self.stack.extend(results);
        while self.stack.len() > MAX_OPERANDS.max(base) {
            self.consume(base);
        }
    }

    fn log(&mut self) {
        self.expression(Ty::I64, 2);
        let local = self.local(Ty::I64);
        self.emit([Call(HOST_LOG), LocalSet(local)]);
    }

    /// A trap in some turn of a loop.
    fn stop(&mut self) {
        match self.counters.last() {
            Some(counter) => self.code.extend([LocalGet(*counter), I32Const(1 + self.choices.below(12) as i32), I32Eq]),
            None => {
                self.expression(Ty::I32, 2);
                self.emit([I32Const(31), I32And, I32Eqz]);
            }
        }
        if !self.choices.once_in(2) {
            let local = self.local(Ty::I32);
            self.emit([LocalGet(local), I32Const(7), I32And, I32Const(5), I32Eq, I32And]);
        }
        self.emit([If(BlockType::Empty), Unreachable, End]);
    }

    /// Memories and tables as a whole.
    fn bulk(&mut self) {
        let memory = self.choices.below(self.plan.memories().len());
        let wide = self.plan.memories()[memory].memory64;
        let mem = memory as u32;
        let small = |number: usize| if wide { I64Const(number as i64) } else { I32Const(number as i32) };
        let address = if wide { Ty::I64 } else { Ty::I32 };
        let masked = |body: &mut Self| {
            body.expression(address, 1);
            body.emit(if wide { [I64Const(ADDRESS_MASK), I64And] } else { [I32Const(ADDRESS_MASK as i32), I32And] });
        };
        match self.choices.below(6) {
            0 => {
                let pages = small(self.choices.below(2));
                self.emit([pages, MemoryGrow(mem)]);
                let local = self.local(address);
                self.emit([LocalSet(local)]);
            }
            1 => {
                let local = self.local(address);
                self.emit([MemorySize(mem), LocalSet(local)]);
            }
            2 => {
                masked(self);
                self.expression(Ty::I32, 1);
                let len = small(self.choices.below(64));
                self.emit([len, MemoryFill(mem)]);
            }
            3 => {
                masked(self);
                masked(self);
                let len = small(self.choices.below(64));
                self.emit([len, MemoryCopy { src_mem: mem, dst_mem: mem }]);
            }
            4 => {
                // Each function has its place or none, so that calls still end.
                let place = self.choices.below(self.plan.functions.len()) as u32;
                let element = if self.choices.once_in(4) { RefNull(HeapType::FUNC) } else { RefFunc(self.plan.index(place as usize)) };
                self.emit([I32Const(place as i32), element, TableSet(0)]);
            }
            _ => {
                let local = self.local(Ty::I32);
                let place = self.choices.below(self.plan.functions.len() + 1) as i32;
                self.emit([I32Const(place), TableGet(0), RefIsNull, LocalSet(local)]);
            }
        }
    }
}
