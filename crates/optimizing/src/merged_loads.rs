//! Places of loads that become part of the instruction that uses what is read.
//!
//! Lowering takes a load into its only user where the processor can compute with memory, and what traps there has the user's place. Mostly
//! the user needs no place of its own, and gets the load's; where it does, because it traps itself, the two are kept apart. Done after the
//! passes, which keep neither.

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::{Block, Function, Inst, InstBuilder, InstructionData, Opcode, SourceLoc, Value};
use std::collections::HashMap;

/// How many instructions may be one in the end: a load, arithmetic, comparisons, what depends on them.
const MAX_MERGED: usize = 4;

/// Gives the users of loads that trap the places of those.
pub(crate) fn locate(func: &mut Function) {
    let blocks: Vec<Block> = func.layout.blocks().collect();
    let mut users = HashMap::new();
    for block in blocks {
        users_in(func, block, &mut users);
        let loads: Vec<Inst> = func.layout.block_insts(block).filter(|inst| traps_and_merges(func, *inst)).collect();
        for load in loads {
            locate_users(func, load, &users);
        }
    }
}

/// The only user of each value that is used in the block; none of those with several.
fn users_in(func: &Function, block: Block, users: &mut HashMap<Value, Option<Inst>>) {
    users.clear();
    for inst in func.layout.block_insts(block) {
        for value in func.dfg.inst_values(inst) {
            let value = func.dfg.resolve_aliases(value);
            users.entry(value).and_modify(|user| *user = None).or_insert(Some(inst));
        }
    }
}

/// Whether an instruction is a load that lowering may take into another one.
fn traps_and_merges(func: &Function, inst: Inst) -> bool {
    let data = &func.dfg.insts[inst];
    data.opcode() == Opcode::Load && data.memflags_trap_code(&func.dfg).is_some()
}

fn locate_users(func: &mut Function, load: Inst, users: &HashMap<Value, Option<Inst>>) {
    let location = func.srcloc(load);
    let mut value = func.dfg.first_result(load);
    for _ in 0..MAX_MERGED {
        let Some(Some(user)) = users.get(&value).copied() else { return };
        let opcode = func.dfg.insts[user].opcode();
        if opcode.can_store() {
            if is_same_place(func, load, user) {
                func.set_srcloc(user, location);
            }
            return;
        }
        if opcode.can_trap() && !opcode.can_load() && !opcode.is_call() {
            return keep_apart(func, load, user, location);
        }
        if opcode.can_load() || opcode.is_call() || opcode.is_return() {
            return;
        }
        func.set_srcloc(user, location);
        let [result] = *func.dfg.inst_results(user) else { return };
        value = result;
    }
}

/// Whether a store writes where the load reads, and no more than that, so that they may become one instruction, whose first access is the load's.
fn is_same_place(func: &Function, load: Inst, store: Inst) -> bool {
    match (&func.dfg.insts[load], &func.dfg.insts[store]) {
        (InstructionData::Load { arg, offset, .. }, InstructionData::Store { opcode, args, offset: to, .. }) => {
            let loaded_bytes = func.dfg.value_type(func.dfg.first_result(load)).bytes();
            let stored_bytes = match opcode {
                Opcode::Istore8 => 1,
                Opcode::Istore16 => 2,
                Opcode::Istore32 => 4,
                _ => func.dfg.value_type(args[0]).bytes(),
            };
            func.dfg.resolve_aliases(*arg) == func.dfg.resolve_aliases(args[1]) && offset == to && stored_bytes <= loaded_bytes
        }
        _ => false,
    }
}

/// Keeps a load from becoming part of what traps elsewhere.
fn keep_apart(func: &mut Function, load: Inst, user: Inst, location: SourceLoc) {
    if func.srcloc(user) != location {
        FuncCursor::new(func).after_inst(load).with_srcloc(location).ins().sequence_point();
    }
}
