//! Statements of rich programs: references to functions by their types, objects of the host, atomic operators, passive segments, and tables and
//! memories as a whole.
//!
//! A reference that is kept for a function is to that one or null, wherever it is: in a local, a global or a table of its own. So calls of it
//! cost what calls of the function cost, and programs still end.

use super::body::{ADDRESS_MASK, Body, Label, MAX_COST, MAX_LABELS};
use super::operators::Ty;
use super::{DATA, HOST_NUMBER, HOST_OBJECT, OBJECTS, Plan, TYPED_ELEMENTS};
use wasm_encoder::Instruction::{self, *};
use wasm_encoder::{BlockType, HeapType, MemArg, MemArgTarget, Ordering, RefType, ValType};

/// What a reference is to, if it is not null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Referent {
    /// A defined function, by its number.
    Function(usize),
    /// Something of the host's.
    Object,
}

/// An atomic access: its type, its size as a power of two, and the instruction.
type Atomic = (Ty, u32, fn(MemArg) -> Instruction<'static>);

const LOADS: [Atomic; 7] = [
    (Ty::I32, 2, I32AtomicLoad),
    (Ty::I32, 0, I32AtomicLoad8U),
    (Ty::I32, 1, I32AtomicLoad16U),
    (Ty::I64, 3, I64AtomicLoad),
    (Ty::I64, 0, I64AtomicLoad8U),
    (Ty::I64, 1, I64AtomicLoad16U),
    (Ty::I64, 2, I64AtomicLoad32U),
];
const STORES: [Atomic; 7] = [
    (Ty::I32, 2, I32AtomicStore),
    (Ty::I32, 0, I32AtomicStore8),
    (Ty::I32, 1, I32AtomicStore16),
    (Ty::I64, 3, I64AtomicStore),
    (Ty::I64, 0, I64AtomicStore8),
    (Ty::I64, 1, I64AtomicStore16),
    (Ty::I64, 2, I64AtomicStore32),
];
const CHANGES: [Atomic; 24] = [
    (Ty::I32, 2, I32AtomicRmwAdd),
    (Ty::I32, 0, I32AtomicRmw8AddU),
    (Ty::I64, 3, I64AtomicRmwAdd),
    (Ty::I64, 1, I64AtomicRmw16AddU),
    (Ty::I32, 2, I32AtomicRmwSub),
    (Ty::I32, 1, I32AtomicRmw16SubU),
    (Ty::I64, 3, I64AtomicRmwSub),
    (Ty::I64, 2, I64AtomicRmw32SubU),
    (Ty::I32, 2, I32AtomicRmwAnd),
    (Ty::I32, 0, I32AtomicRmw8AndU),
    (Ty::I64, 3, I64AtomicRmwAnd),
    (Ty::I64, 2, I64AtomicRmw32AndU),
    (Ty::I32, 2, I32AtomicRmwOr),
    (Ty::I32, 1, I32AtomicRmw16OrU),
    (Ty::I64, 3, I64AtomicRmwOr),
    (Ty::I64, 0, I64AtomicRmw8OrU),
    (Ty::I32, 2, I32AtomicRmwXor),
    (Ty::I32, 0, I32AtomicRmw8XorU),
    (Ty::I64, 3, I64AtomicRmwXor),
    (Ty::I64, 1, I64AtomicRmw16XorU),
    (Ty::I32, 2, I32AtomicRmwXchg),
    (Ty::I32, 1, I32AtomicRmw16XchgU),
    (Ty::I64, 3, I64AtomicRmwXchg),
    (Ty::I64, 2, I64AtomicRmw32XchgU),
];
const COMPARISONS: [Atomic; 7] = [
    (Ty::I32, 2, I32AtomicRmwCmpxchg),
    (Ty::I32, 0, I32AtomicRmw8CmpxchgU),
    (Ty::I32, 1, I32AtomicRmw16CmpxchgU),
    (Ty::I64, 3, I64AtomicRmwCmpxchg),
    (Ty::I64, 0, I64AtomicRmw8CmpxchgU),
    (Ty::I64, 1, I64AtomicRmw16CmpxchgU),
    (Ty::I64, 2, I64AtomicRmw32CmpxchgU),
];

impl Body<'_, '_> {
    /// One of the statements of rich programs. Leaves the operands as they are, but for what it adds.
    pub(super) fn rich_statement(&mut self, base: usize) {
        match self.choices.below(16) {
            0 => self.call_by_reference(base),
            1 => self.call_by_typed_table(base),
            2 => self.end_by_call(),
            3 => self.branch_on_null(base),
            4 => self.branch_on_non_null(),
            5 => self.insist_on_function(),
            6 | 7 => self.set_reference(),
            8 => self.loop_with_reference(),
            9 | 10 => self.tables(),
            11 => self.objects(),
            12 | 13 => self.atomic(),
            _ => self.segments(),
        }
    }

    fn any_function(&mut self) -> usize {
        self.choices.below(self.plan.functions.len())
    }

    fn type_of(&mut self, number: usize, nullable: bool) -> RefType {
        self.types.reference_to(&self.plan.functions[number], nullable)
    }

    /// The local for references to something.
    fn reference_local(&mut self, referent: Referent) -> u32 {
        if let Some((_, local)) = self.references.iter().find(|(other, _)| *other == referent) {
            return *local;
        }
        let ty = match referent {
            Referent::Function(number) => ValType::Ref(self.type_of(number, true)),
            Referent::Object => ValType::EXTERNREF,
        };
        let local = self.fresh_of(ty);
        self.references.push((referent, local));
        local
    }

    /// Leaves a reference to a function, or null, on the stack.
    fn reference(&mut self, number: usize) {
        let ty = self.type_of(number, true);
        let function = RefFunc(self.plan.index(number));
        match self.choices.below(8) {
            0 => self.emit([RefNull(ty.heap_type)]),
            1 => self.emit([GlobalGet(self.plan.typed_global(number))]),
            2 => {
                let place = self.place(number, 3);
                self.emit([place, TableGet(self.plan.typed_table(number))]);
            }
            3 => {
                let local = self.reference_local(Referent::Function(number));
                self.emit([function, LocalGet(local)]);
                self.expression(Ty::I32, 1);
                self.emit([TypedSelect(ValType::Ref(ty))]);
            }
            4 => self.emit([function]),
            _ => {
                let local = self.reference_local(Referent::Function(number));
                self.emit([LocalGet(local)]);
            }
        }
    }

    /// A place in the table for a function: beyond its first elements now and then.
    fn place(&mut self, number: usize, below: usize) -> Instruction<'static> {
        let beyond = if self.choices.once_in(32) { TYPED_ELEMENTS.0 } else { 0 };
        let place = self.choices.below(below) as u64 + beyond;
        if Plan::is_table64(number) { I64Const(place.cast_signed()) } else { I32Const(place as i32) }
    }

    fn set_reference(&mut self) {
        let number = self.any_function();
        self.reference(number);
        let target = match self.choices.below(3) {
            0 => GlobalSet(self.plan.typed_global(number)),
            _ => LocalSet(self.reference_local(Referent::Function(number))),
        };
        self.emit([target]);
    }

    /// Makes sure, mostly, that a reference on the stack is not null.
    fn or_function(&mut self, number: usize) {
        if self.choices.once_in(16) {
            return;
        }
        let local = self.reference_local(Referent::Function(number));
        let function = RefFunc(self.plan.index(number));
        let ty = self.type_of(number, true);
        self.emit([LocalTee(local), function, LocalGet(local), RefIsNull, I32Eqz, TypedSelect(ValType::Ref(ty))]);
    }

    fn call_by_reference(&mut self, base: usize) {
        let Some(callee) = self.callee() else { return };
        let plan = self.plan;
        let function = &plan.functions[callee];
        self.arguments(&function.params);
        self.reference(callee);
        self.or_function(callee);
        if self.choices.once_in(4) {
            let ty = self.type_of(callee, false);
            let local = self.fresh_of(ValType::Ref(ty));
            self.emit([RefAsNonNull, LocalSet(local), LocalGet(local)]);
        }
        let ty = self.types.index(&function.params, &function.results);
        self.emit([CallRef(ty)]);
        self.results(&function.results, base);
    }

    fn call_by_typed_table(&mut self, base: usize) {
        let Some(callee) = self.callee() else { return };
        let plan = self.plan;
        let function = &plan.functions[callee];
        let table = plan.typed_table(callee);
        let place = self.place(callee, 3);
        if !self.choices.once_in(8) {
            self.emit([place.clone(), RefFunc(plan.index(callee)), TableSet(table)]);
        }
        self.arguments(&function.params);
        let type_index = self.types.index(&function.params, &function.results);
        self.emit([place, CallIndirect { type_index, table_index: table }]);
        self.results(&function.results, base);
    }

    /// Under some condition, a call of another function is the last act of this one.
    fn end_by_call(&mut self) {
        let Some(callee) = self.callee() else { return };
        let plan = self.plan;
        let (function, own) = (&plan.functions[callee], &plan.functions[self.number]);
        if function.results != own.results {
            return;
        }
        self.expression(Ty::I32, 1);
        self.emit([I32Const(7), I32And, I32Eqz, If(BlockType::Empty)]);
        self.arguments(&function.params);
        let type_index = self.types.index(&function.params, &function.results);
        match self.choices.below(3) {
            0 => {
                self.reference(callee);
                self.or_function(callee);
                self.emit([ReturnCallRef(type_index)]);
            }
            1 => {
                let place = self.place(callee, 3);
                self.emit([place, ReturnCallIndirect { type_index, table_index: plan.typed_table(callee) }]);
            }
            _ => self.emit([I32Const(callee as i32), ReturnCallIndirect { type_index, table_index: 0 }]),
        }
        self.emit([End]);
    }

    fn branch_on_null(&mut self, base: usize) {
        let depth = self.choices.below(self.labels.len());
        let label = &self.labels[self.labels.len() - 1 - depth];
        if !label.open {
            return;
        }
        let types = label.types.clone();
        if self.stack.len() - base < types.len() || !self.stack.ends_with(&types) {
            for ty in &types {
                self.expression(*ty, 1);
                self.stack.push(*ty);
            }
        }
        let number = self.any_function();
        self.reference(number);
        if self.choices.once_in(2) {
            self.or_function(number);
        }
        self.emit([BrOnNull(depth as u32)]);
        match self.choices.below(3) {
            0 => self.emit([Drop]),
            1 => {
                let local = self.local(Ty::I32);
                self.emit([RefIsNull, LocalSet(local)]);
            }
            _ => {
                let local = self.reference_local(Referent::Function(number));
                self.emit([LocalSet(local)]);
            }
        }
    }

    /// A block that is left with a reference, as soon as there is one.
    fn branch_on_non_null(&mut self) {
        if self.labels.len() >= MAX_LABELS {
            return;
        }
        let number = self.any_function();
        let ty = ValType::Ref(self.type_of(number, false));
        let takes_along = self.choices.once_in(2).then(|| self.any_type());
        let block = match takes_along {
            Some(other) => BlockType::FunctionType(self.types.index_of(Vec::new(), vec![other.val_type(), ty])),
            None => BlockType::Result(ty),
        };
        self.emit([Block(block)]);
        self.labels.push(Label { types: Vec::new(), open: false });
        if let Some(other) = takes_along {
            self.expression(other, 2);
        }
        self.reference(number);
        self.emit([BrOnNonNull(0)]);
        if let Some(other) = takes_along {
            let local = self.local(other);
            self.emit([LocalSet(local)]);
        }
        let base = self.stack.len();
        self.statements(1, base);
        while self.stack.len() > base {
            self.consume(base);
        }
        if let Some(other) = takes_along {
            self.expression(other, 1);
        }
        self.emit([RefFunc(self.plan.index(number)), End]);
        self.labels.pop();
        let local = self.reference_local(Referent::Function(number));
        self.emit([LocalSet(local)]);
        if let Some(other) = takes_along {
            let local = self.local(other);
            self.emit([LocalSet(local)]);
        }
    }

    fn insist_on_function(&mut self) {
        let number = self.any_function();
        self.reference(number);
        self.or_function(number);
        let local = self.reference_local(Referent::Function(number));
        self.emit([RefAsNonNull, LocalSet(local)]);
    }

    /// A loop that takes a reference along, and a number.
    fn loop_with_reference(&mut self) {
        let max = MAX_COST / self.times.max(self.cost / 2);
        if max < 2 || self.labels.len() >= MAX_LABELS {
            return;
        }
        let turns = (1 + self.choices.below(12) as u32).min(max);
        let number = self.any_function();
        let types = vec![ValType::I64, ValType::Ref(self.type_of(number, true))];
        let block = BlockType::FunctionType(self.types.index_of(types.clone(), types));
        let counter = self.fresh(Ty::I32);
        self.emit([I32Const(turns as i32), LocalSet(counter)]);
        self.expression(Ty::I64, 1);
        self.reference(number);
        self.emit([Loop(block)]);
        self.labels.push(Label { types: Vec::new(), open: false });
        self.counters.push(counter);
        let times_before = self.times;
        self.times = self.times.saturating_mul(turns);
        self.cost = self.cost.saturating_add(self.times);
        let local = self.reference_local(Referent::Function(number));
        self.emit([LocalSet(local)]);
        let base = self.stack.len();
        self.stack.push(Ty::I64);
        self.statements(2, base + 1);
        while self.stack.len() > base + 1 {
            self.consume(base + 1);
        }
        self.emit([LocalGet(local), RefIsNull, I64ExtendI32U, I64Add]);
        self.reference(number);
        self.emit([LocalGet(counter), I32Const(1), I32Sub, LocalTee(counter), BrIf(0), End]);
        self.stack.pop();
        self.labels.pop();
        self.counters.pop();
        self.times = times_before;
        let sum = self.local(Ty::I64);
        self.emit([LocalSet(local), LocalSet(sum)]);
    }

    /// The table for a function as a whole.
    fn tables(&mut self) {
        let number = self.any_function();
        let table = self.plan.typed_table(number);
        let wide = Plan::is_table64(number);
        let index_local = |body: &mut Self| body.local(if wide { Ty::I64 } else { Ty::I32 });
        match self.choices.below(8) {
            0 => {
                let place = self.place(number, 3);
                self.emit([place]);
                self.reference(number);
                self.emit([TableSet(table)]);
            }
            1 => {
                self.reference(number);
                let more = self.choices.below(3);
                self.emit([if wide { I64Const(more as i64) } else { I32Const(more as i32) }, TableGrow(table)]);
                let local = index_local(self);
                self.emit([LocalSet(local)]);
            }
            2 => {
                let local = index_local(self);
                self.emit([TableSize(table), LocalSet(local)]);
            }
            3 => {
                let (place, len) = (self.place(number, 2), self.place(number, 3));
                self.emit([place]);
                self.reference(number);
                self.emit([len, TableFill(table)]);
            }
            4 => {
                let (to, from, len) = (self.place(number, 2), self.place(number, 2), self.place(number, 3));
                self.emit([to, from, len, TableCopy { src_table: table, dst_table: table }]);
            }
            5 => {
                // To the place of the function in the table of all.
                let from = self.place(number, 3);
                self.emit([I32Const(number as i32), from, I32Const(1), TableCopy { src_table: table, dst_table: 0 }]);
            }
            6 => {
                let to = self.place(number, 2);
                let (from, len) = (self.choices.below(3) as i32, self.choices.below(2) as i32);
                self.emit([to, I32Const(from), I32Const(len), TableInit { elem_index: 1 + number as u32, table }]);
            }
            _ => {
                if self.choices.once_in(8) {
                    self.emit([ElemDrop(1 + number as u32)]);
                }
            }
        }
    }

    /// Leaves an object, or null, on the stack.
    fn object(&mut self) {
        match self.choices.below(6) {
            0 => self.emit([RefNull(HeapType::EXTERN)]),
            1 => self.emit([GlobalGet(self.plan.object_global())]),
            2 => {
                let place = self.choices.below(OBJECTS.0 as usize) as i32;
                self.emit([I32Const(place), TableGet(self.plan.object_table())]);
            }
            3 => {
                self.expression(Ty::I32, 1);
                self.emit([Call(HOST_OBJECT)]);
            }
            _ => {
                let local = self.reference_local(Referent::Object);
                self.emit([LocalGet(local)]);
            }
        }
    }

    fn objects(&mut self) {
        let table = self.plan.object_table();
        match self.choices.below(7) {
            0 => {
                self.object();
                self.emit([GlobalSet(self.plan.object_global())]);
            }
            1 => {
                let place = self.choices.below(OBJECTS.0 as usize) as i32;
                self.emit([I32Const(place)]);
                self.object();
                self.emit([TableSet(table)]);
            }
            2 => {
                self.object();
                let local = self.local(Ty::I32);
                self.emit([I32Const(1), TableGrow(table), LocalSet(local)]);
            }
            3 => {
                self.emit([I32Const(0)]);
                self.object();
                self.emit([I32Const(2), TableFill(table)]);
            }
            4 => {
                self.object();
                let local = self.local(Ty::I64);
                self.emit([Call(HOST_NUMBER), LocalSet(local)]);
            }
            5 => {
                self.emit([I32Const(0), I32Const(1), I32Const(1), TableCopy { src_table: table, dst_table: table }]);
            }
            _ => {
                self.object();
                let local = self.reference_local(Referent::Object);
                self.emit([LocalSet(local)]);
            }
        }
    }

    /// An address of some memory for an atomic access of so many bytes, as a power of two; misaligned now and then.
    fn atomic_address(&mut self, size_log2: u32) -> MemArg {
        let memory = self.choices.below(self.plan.memories().len());
        let wide = self.plan.memories()[memory].memory64;
        self.expression(if wide { Ty::I64 } else { Ty::I32 }, 1);
        self.code.extend(if wide { [I64Const(ADDRESS_MASK), I64And] } else { [I32Const(ADDRESS_MASK as i32), I32And] });
        let offset = if self.choices.once_in(96) { 3 } else { 8 * self.choices.below(64) as u64 };
        MemArg { offset, align: size_log2, target: MemArgTarget::Memory(memory as u32), ordering: None }
    }

    fn atomic(&mut self) {
        let kind = self.choices.below(6);
        let list: &[Atomic] = match kind {
            0 => &LOADS,
            1 => &STORES,
            2 | 3 => &CHANGES,
            4 => &COMPARISONS,
            _ if self.choices.once_in(2) => return self.emit([AtomicFence(Ordering::SeqCst)]),
            _ => {
                let place = self.atomic_address(2);
                let local = self.local(Ty::I32);
                return self.emit([I32Const(1), MemoryAtomicNotify(place), LocalSet(local)]);
            }
        };
        let (ty, size_log2, operator) = list[self.choices.below(list.len())];
        let place = self.atomic_address(size_log2);
        for _ in 0..[0, 1, 1, 1, 2][kind] {
            self.expression(ty, 1);
        }
        self.emit([operator(place)]);
        if kind != 1 {
            let local = self.local(ty);
            self.emit([LocalSet(local)]);
        }
    }

    /// Passive data, and copies from one memory to another.
    fn segments(&mut self) {
        let memory = self.choices.below(self.plan.memories().len());
        let wide = self.plan.memories()[memory].memory64;
        self.expression(if wide { Ty::I64 } else { Ty::I32 }, 1);
        self.code.extend(if wide { [I64Const(ADDRESS_MASK), I64And] } else { [I32Const(ADDRESS_MASK as i32), I32And] });
        if self.choices.once_in(2) {
            let data = self.choices.below(DATA.len());
            let from = self.choices.below(8) as i32;
            let len = if self.choices.once_in(24) { 60 } else { self.choices.below(DATA[data].len().saturating_sub(8).max(1)) as i32 };
            let from = if data == 0 { from } else { 0 };
            self.emit([I32Const(from), I32Const(len), MemoryInit { mem: memory as u32, data_index: data as u32 }]);
            if self.choices.once_in(16) {
                self.emit([DataDrop(data as u32)]);
            }
            return;
        }
        let source = self.choices.below(self.plan.memories().len());
        let source_wide = self.plan.memories()[source].memory64;
        self.expression(if source_wide { Ty::I64 } else { Ty::I32 }, 1);
        self.code.extend(if source_wide { [I64Const(ADDRESS_MASK), I64And] } else { [I32Const(ADDRESS_MASK as i32), I32And] });
        let len = self.choices.below(80);
        let len = if wide && source_wide { I64Const(len as i64) } else { I32Const(len as i32) };
        self.emit([len, MemoryCopy { src_mem: source as u32, dst_mem: memory as u32 }]);
    }
}
