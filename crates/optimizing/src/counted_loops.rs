//! Loops that turn a small, known number of times, however they are left: nobody has to look for interruptions in them.
//!
//! Found after the passes, in what they made of the function: a header that gets a constant from outside and, by its only way back, that value
//! and a constant step more, where the way back is taken only while the value has not come to a constant end. (Of two ways back, one could carry
//! the value around to where the other is taken again.) There is no call in the loop and no other loop, and all of its turns together are a
//! moment. Nothing is changed here.
//!
//! Short loops in a row are not short together. Whoever looks, looks at the head of every loop that has others in it and at the entry of a function
//! that has short loops, so from one look to the next each short loop is passed once at most: those of one turn of the loop around them, and then
//! those of the loops around that, outwards. What all loops of one turn do together has a limit, which is half of it for each loop around them.
//!
//! A recursion may be as deep as the stack, and nobody looks when its calls return. So loops that a call leads to without a look in between are
//! short only if they are tiny together.

use cranelift_codegen::flowgraph::{BlockPredecessor, ControlFlowGraph};
use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{Block, BlockArg, BlockCall, Function, InstructionData, Opcode, Type, Value, ValueDef};
use cranelift_codegen::loop_analysis::{Loop, LoopAnalysis};
use cranelift_entity::SecondaryMap;
use std::collections::{HashMap, HashSet};

/// The most that all turns of the loops do which nobody looks in, those of one turn of the loop around them, in instructions of one cycle: some
/// hundred microseconds, but some ten milliseconds where each store is the first one to a page.
const MAX_WORK: u64 = 1 << 18;
/// The most that all loops do together which a call leads to and nobody looks in: every frame of a recursion may do as much.
const MAX_WORK_AFTER_CALLS: u64 = 1 << 10;
/// The most additions of constants that are followed.
const MAX_CHAIN: usize = 4;

/// A function and what is known of its blocks.
pub(crate) struct Loops<'f> {
    func: &'f Function,
    cfg: &'f ControlFlowGraph,
    analysis: &'f LoopAnalysis,
    inside: SecondaryMap<Loop, Inside>,
    /// The blocks that call something.
    calls: Vec<Block>,
}

/// What is in a loop, without the loops in it.
#[derive(Clone, Copy, Default)]
struct Inside {
    /// In instructions of one cycle.
    work: u64,
    has_call: bool,
    has_loop: bool,
}

/// How a value of the header changes from turn to turn.
struct Count {
    /// The header's parameter.
    value: Value,
    ty: Type,
    first: i64,
    step: i64,
}

impl<'f> Loops<'f> {
    /// The loops of a function, with what is in each.
    pub(crate) fn new(func: &'f Function, cfg: &'f ControlFlowGraph, analysis: &'f LoopAnalysis) -> Self {
        let mut inside: SecondaryMap<Loop, Inside> = SecondaryMap::new();
        let has_call = |block: &Block| func.layout.block_insts(*block).any(|inst| func.dfg.insts[inst].opcode().is_call());
        let calls = func.layout.blocks().filter(has_call).collect();
        for block in func.layout.blocks() {
            let Some(own) = analysis.innermost_loop(block) else { continue };
            for inst in func.layout.block_insts(block) {
                let opcode = func.dfg.insts[inst].opcode();
                inside[own].work += cycles(opcode);
                inside[own].has_call |= opcode.is_call();
            }
        }
        for parent in analysis.loops().filter_map(|inner| analysis.loop_parent(inner)) {
            inside[parent].has_loop = true;
        }
        Self { func, cfg, analysis, inside, calls }
    }

    /// The headers among `headers`, in the order of the code, of loops that nobody has to look in: as many as are short together.
    pub(crate) fn short(&self, headers: &[Block]) -> HashSet<Block> {
        let mut found: Vec<(u64, Block)> = headers.iter().filter_map(|&header| Some((self.work(header)?, header))).collect();
        // The shortest first: they are the most, and a look costs them the most.
        found.sort_by_key(|(work, _)| *work);
        let mut together: HashMap<Option<Loop>, u64> = HashMap::new();
        found.retain(|(work, header)| {
            let around = self.analysis.is_loop_header(*header).and_then(|own| self.analysis.loop_parent(own));
            let loops_around = std::iter::successors(around, |inner| self.analysis.loop_parent(*inner)).count();
            let together = together.entry(around).or_default();
            let fits = together.saturating_add(*work) <= MAX_WORK.checked_shr(loops_around as u32).unwrap_or(0);
            *together += if fits { *work } else { 0 };
            fits
        });
        let short: HashSet<Block> = found.iter().map(|(_, header)| *header).collect();
        let after_calls = self.after_calls(&headers.iter().copied().filter(|header| !short.contains(header)).collect());
        let mut together: u64 = 0;
        found.retain(|(work, header)| {
            let is_after_call = after_calls.contains(header);
            let fits = !is_after_call || together.saturating_add(*work) <= MAX_WORK_AFTER_CALLS;
            together += if is_after_call && fits { *work } else { 0 };
            fits
        });
        found.into_iter().map(|(_, header)| header).collect()
    }

    /// The blocks that calls lead to, without those that are in `looked` in between.
    fn after_calls(&self, looked: &HashSet<Block>) -> HashSet<Block> {
        let (mut reached, mut open) = (HashSet::new(), self.calls.clone());
        while let Some(block) = open.pop() {
            open.extend(self.cfg.succ_iter(block).filter(|next| !looked.contains(next) && reached.insert(*next)));
        }
        reached
    }

    /// What all turns of the loop with this header do, if that is known and there is no other loop and no call in it.
    fn work(&self, header: Block) -> Option<u64> {
        let own = self.analysis.is_loop_header(header)?;
        let inside = self.inside[own];
        if inside.has_loop || inside.has_call {
            return None;
        }
        let ways: Vec<BlockPredecessor> = self.cfg.pred_iter(header).collect();
        let (back, into): (Vec<_>, Vec<_>) = ways.iter().partition(|way| self.analysis.is_in_loop(way.block, own));
        let [way] = back[..] else { return None };
        let count = self.func.dfg.block_params(header).len();
        let turns = |position| self.count(header, position, &into, &back).and_then(|count| self.turns(&count, header, way));
        (0..count).filter_map(turns).min().map(|turns| turns.saturating_mul(inside.work))
    }

    /// The parameter of the header at `position`, if it counts.
    fn count(&self, header: Block, position: usize, into: &[&BlockPredecessor], back: &[&BlockPredecessor]) -> Option<Count> {
        let value = self.func.dfg.block_params(header)[position];
        let ty = self.func.dfg.value_type(value);
        if ty != I32 && ty != I64 {
            return None;
        }
        let first = self.same(into, header, position, |given| self.constant(given))?;
        let step = self.same(back, header, position, |given| self.distance(value, given))?;
        (step != 0).then_some(Count { value, ty, first, step })
    }

    /// What `read` says of the argument for a parameter, if it says the same of all ways into the block.
    fn same(&self, ways: &[&BlockPredecessor], header: Block, position: usize, read: impl Fn(Value) -> Option<i64>) -> Option<i64> {
        let mut all = None;
        for way in ways {
            let destinations =
                self.func.dfg.insts[way.inst].branch_destination(&self.func.dfg.jump_tables, &self.func.dfg.exception_tables);
            for call in destinations.iter().filter(|call| call.block(&self.func.dfg.value_lists) == header) {
                let found = read(self.argument(call, position)?)?;
                if *all.get_or_insert(found) != found {
                    return None;
                }
            }
        }
        all
    }

    fn argument(&self, call: &BlockCall, position: usize) -> Option<Value> {
        match call.args(&self.func.dfg.value_lists).nth(position)? {
            BlockArg::Value(value) => Some(self.func.dfg.resolve_aliases(value)),
            _ => None,
        }
    }

    /// What a value is made of: the instruction, if there is one.
    fn made_by(&self, value: Value) -> Option<&InstructionData> {
        match self.func.dfg.value_def(self.func.dfg.resolve_aliases(value)) {
            ValueDef::Result(inst, 0) => Some(&self.func.dfg.insts[inst]),
            _ => None,
        }
    }

    /// A constant, with its sign.
    fn constant(&self, value: Value) -> Option<i64> {
        let InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } = self.made_by(value)? else { return None };
        Some(with_sign(self.func.dfg.value_type(value), imm.bits()))
    }

    /// By which constant `value` is larger than `base`, modulo its type.
    fn distance(&self, base: Value, mut value: Value) -> Option<i64> {
        let (base, ty) = (self.func.dfg.resolve_aliases(base), self.func.dfg.value_type(base));
        let mut distance: i64 = 0;
        for _ in 0..MAX_CHAIN {
            value = self.func.dfg.resolve_aliases(value);
            if value == base {
                return Some(with_sign(ty, distance));
            }
            let InstructionData::Binary { opcode, args: [left, right] } = *self.made_by(value)? else { return None };
            let (rest, change) = match (opcode, self.constant(left), self.constant(right)) {
                (Opcode::Iadd, None, Some(change)) => (left, change),
                (Opcode::Iadd, Some(change), None) => (right, change),
                (Opcode::Isub, None, Some(change)) => (left, change.wrapping_neg()),
                _ => return None,
            };
            (value, distance) = (rest, distance.wrapping_add(change));
        }
        None
    }

    /// How often the only way back can be taken, if what decides about it says so.
    fn turns(&self, count: &Count, header: Block, way: &BlockPredecessor) -> Option<u64> {
        let (arg, is_if_true) = self.decision(header, way)?;
        let (condition, value, end) = match self.made_by(arg) {
            Some(InstructionData::IntCompare { cond, args: [left, right], .. }) => match (self.constant(*left), self.constant(*right)) {
                (None, Some(end)) => (*cond, *left, end),
                (Some(end), None) => (cond.swap_args(), *right, end),
                _ => return None,
            },
            _ => (IntCC::NotEqual, arg, 0),
        };
        let goes_on = if is_if_true { condition } else { condition.complement() };
        if self.func.dfg.value_type(value) != count.ty {
            return None;
        }
        let first = with_sign(count.ty, count.first.wrapping_add(self.distance(count.value, value)?));
        turns(count.ty, first, count.step, goes_on, end)
    }

    /// The condition that decides about a way back, and whether it has to be true.
    fn decision(&self, header: Block, way: &BlockPredecessor) -> Option<(Value, bool)> {
        let (mut target, mut inst) = (header, way.inst);
        // What is on the way and does not decide.
        for _ in 0..MAX_CHAIN {
            if self.func.dfg.insts[inst].opcode() != Opcode::Jump {
                break;
            }
            target = self.func.layout.inst_block(inst)?;
            let mut ways = self.cfg.pred_iter(target);
            let (Some(only), None) = (ways.next(), ways.next()) else { return None };
            inst = only.inst;
        }
        let InstructionData::Brif { arg, blocks, .. } = self.func.dfg.insts[inst] else { return None };
        let [if_true, if_false] = blocks.map(|call| call.block(&self.func.dfg.value_lists) == target);
        (if_true != if_false).then(|| (self.func.dfg.resolve_aliases(arg), if_true))
    }
}

/// How long an instruction takes at worst, of those that a loop may be made of, in cycles; caches miss now and then.
fn cycles(opcode: Opcode) -> u64 {
    match opcode {
        Opcode::Sdiv | Opcode::Udiv | Opcode::Srem | Opcode::Urem => 40,
        Opcode::Fdiv | Opcode::Sqrt => 20,
        // Functions of the host, on old processors.
        Opcode::Ceil | Opcode::Floor | Opcode::Trunc | Opcode::Nearest => 20,
        // Where each waits for the one before.
        Opcode::Fadd | Opcode::Fsub | Opcode::Fmul | Opcode::Fma | Opcode::Fmin | Opcode::Fmax => 4,
        Opcode::Imul | Opcode::Umulhi | Opcode::Smulhi => 4,
        Opcode::AtomicRmw | Opcode::AtomicCas | Opcode::Fence => 20,
        _ if opcode.can_load() || opcode.can_store() => 4,
        _ => 1,
    }
}

/// A number in the bits of a type, as a signed one.
fn with_sign(ty: Type, bits: i64) -> i64 {
    if ty == I32 { i64::from(bits as i32) } else { bits }
}

/// The bits of a number as an unsigned one.
fn without_sign(ty: Type, bits: i64) -> u64 {
    if ty == I32 { u64::from(bits as u32) } else { bits as u64 }
}

/// How often `first`, `first + step` and so on, modulo the type, `goes_on` compared with `end`, from the first on; no less than that.
fn turns(ty: Type, first: i64, step: i64, goes_on: IntCC, end: i64) -> Option<u64> {
    let pace = step.unsigned_abs();
    let (is_signed, is_up) = match goes_on {
        IntCC::NotEqual => {
            let apart = if step > 0 { end.wrapping_sub(first) } else { first.wrapping_sub(end) };
            let apart = without_sign(ty, apart);
            return apart.is_multiple_of(pace).then(|| (apart / pace).saturating_add(1));
        }
        IntCC::SignedLessThan | IntCC::SignedLessThanOrEqual => (true, true),
        IntCC::SignedGreaterThan | IntCC::SignedGreaterThanOrEqual => (true, false),
        IntCC::UnsignedLessThan | IntCC::UnsignedLessThanOrEqual => (false, true),
        IntCC::UnsignedGreaterThan | IntCC::UnsignedGreaterThanOrEqual => (false, false),
        IntCC::Equal => return Some(1),
    };
    if is_up != (step > 0) {
        return None;
    }
    let wide = |bits: i64| if is_signed { i128::from(bits) } else { i128::from(without_sign(ty, bits)) };
    let (first, end, pace) = (wide(first), wide(end), i128::from(pace));
    let (least, most) =
        if is_signed { (-(1_i128 << (ty.bits() - 1)), (1_i128 << (ty.bits() - 1)) - 1) } else { (0, (1_i128 << ty.bits()) - 1) };
    // What comes beyond the end must not have wrapped around.
    if end + pace > most || end - pace < least {
        return None;
    }
    let apart = if is_up { end - first } else { first - end };
    u64::try_from(apart.max(0) / pace + 2).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_counted() {
        assert_eq!(turns(I32, 16, 16, IntCC::NotEqual, 1280), Some(80));
        assert_eq!(turns(I32, 99, -1, IntCC::NotEqual, 0), Some(100));
        assert_eq!(turns(I32, 1, 2, IntCC::NotEqual, 0), None, "it is never even");
        assert_eq!(turns(I32, -8, 4, IntCC::NotEqual, 8), Some(5));
        assert_eq!(turns(I64, 0, 1, IntCC::NotEqual, -1), Some(u64::MAX));
        assert_eq!(turns(I32, 0, 3, IntCC::SignedLessThan, 10), Some(5));
        assert_eq!(turns(I32, 10, -3, IntCC::SignedGreaterThanOrEqual, 0), Some(5));
        assert_eq!(turns(I32, 0, 3, IntCC::UnsignedLessThan, -1), None, "it may step over the end");
        assert_eq!(turns(I32, 0, -1, IntCC::SignedLessThan, 10), None, "it goes away from the end");
        assert_eq!(turns(I32, 5, 1, IntCC::Equal, 5), Some(1));
    }
}
