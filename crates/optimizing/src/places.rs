//! Places in the binary that instructions come from, as the 32 bits that Cranelift carries for each.
//!
//! An offset in the body of the function, or with [`addresses::INLINED`] the number of a place in a function that was compiled into it.

use cranelift_codegen::ir::{Block, Function, Opcode, SourceLoc};
use peregrine_artifact::tables::addresses;
use peregrine_wasm::DefinedFuncIndex;

/// The places of one function that are in others.
#[derive(Debug, Default)]
pub(crate) struct Places {
    inlined: Vec<InlinedPlace>,
}

/// A place in a function that was compiled into another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InlinedPlace {
    /// The function.
    pub function: DefinedFuncIndex,
    /// Where in its body.
    pub offset: u32,
    /// Where in the body of the other function it is called; `None` if that is its last act, so that it has no frame any more.
    pub call: Option<u32>,
}

impl Places {
    /// Forgets all places.
    pub(crate) fn clear(&mut self) {
        self.inlined.clear();
    }

    /// Keeps a place; what stands for it.
    pub(crate) fn keep(&mut self, place: InlinedPlace) -> SourceLoc {
        let number = self.inlined.len() as u32;
        self.inlined.push(place);
        SourceLoc::new(addresses::INLINED | number)
    }

    /// Appends the entries of the address table for code at `code_offset` that comes from `location`.
    pub(crate) fn write(&self, code_offset: u32, location: SourceLoc, entries: &mut Vec<(u32, u32)>) {
        let bits = location.bits();
        if bits & addresses::INLINED == 0 {
            entries.push((code_offset, bits));
            return;
        }
        let Some(place) = self.inlined.get((bits & !addresses::INLINED) as usize) else { return };
        entries.extend(place.call.map(|call| (code_offset, call)));
        entries.push((code_offset, addresses::INLINED | place.function.as_u32()));
        entries.push((code_offset, place.offset));
    }
}

/// Makes conditional branches to blocks that only trap come from where those traps do: the passes make conditional traps of them.
pub(crate) fn locate_conditional_traps(func: &mut Function) {
    let branches: Vec<_> = func
        .layout
        .blocks()
        .filter_map(|block| func.layout.last_inst(block))
        .filter(|&inst| func.dfg.insts[inst].opcode() == Opcode::Brif)
        .filter_map(|inst| {
            let destinations = func.dfg.insts[inst].branch_destination(&func.dfg.jump_tables, &func.dfg.exception_tables);
            let location = destinations.iter().find_map(|call| only_trap(func, call.block(&func.dfg.value_lists)))?;
            Some((inst, location))
        })
        .collect();
    for (inst, location) in branches {
        func.set_srcloc(inst, location);
    }
}

/// Where the trap comes from that a block ends with, if it does nothing else.
fn only_trap(func: &Function, block: Block) -> Option<SourceLoc> {
    let last = func.layout.last_inst(block)?;
    let is_trap = func.dfg.insts[last].opcode() == Opcode::Trap;
    let mut others = func.layout.block_insts(block).take_while(|&inst| inst != last);
    // What only computes goes away, whatever flags it has; nobody uses it.
    let only_computes = |inst| {
        let opcode = func.dfg.insts[inst].opcode();
        !(opcode.can_trap() || opcode.can_load() || opcode.can_store() || opcode.is_call() || opcode.other_side_effects())
    };
    let is_only = is_trap && others.all(only_computes);
    is_only.then(|| func.srcloc(last))
}
