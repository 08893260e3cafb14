//! Finds the locals, and the context, that code keeps in its frame: see "kept locals" in [`peregrine_artifact::abi`]. Called by the walk
//! over the guest's frames.

use crate::vm::code::LoadedModule;
use crate::vm::store::VmStore;
use peregrine_artifact::abi::{KEPT_CONTEXT_OFFSET, KEPT_HEADER_BYTES, KEPT_LOCAL_BYTES, KEPT_MARK, KEPT_MARK_OFFSET, MOST_KEPT_LOCALS};
use peregrine_wasm::FuncIndex;
use std::ops::Range;

/// A longer frame is not looked at.
const MOST_FRAME_BYTES: usize = 1 << 20;

/// What a frame keeps.
#[derive(Default)]
pub(super) struct Kept {
    /// The address of the context of all functions in it. Not checked.
    pub(super) context: Option<u64>,
    /// The locals of each function.
    pub(super) locals: Vec<Option<Box<[u128]>>>,
}

/// One function's part of a frame of optimized code.
struct Block {
    function: u64,
    context: u64,
    locals: Box<[u128]>,
}

/// What is kept of `functions`, to which the code at `pc` belongs, newest call first. Their frame is at `place`, up to its frame pointer.
/// Nothing of those that keep nothing, or whose place is not certain.
pub(super) fn find(store: &VmStore, module: &LoadedModule, pc: usize, place: Range<usize>, functions: &[FuncIndex]) -> Kept {
    let is_stack = store.is_on_stack(place.start) && store.is_on_stack(place.end) && place.start < place.end;
    if !module.keeps_locals() || !is_stack || place.len() > MOST_FRAME_BYTES {
        return Kept::default();
    }
    let frame = Frame(place);
    match functions {
        [function] if module.is_baseline_at(pc, *function) => {
            let context = frame.0.end.checked_add_signed(KEPT_CONTEXT_OFFSET as isize).and_then(|address| frame.word(address));
            Kept { context, locals: vec![frame.of_baseline()] }
        }
        _ => {
            let blocks: Vec<Block> = frame.blocks().collect();
            let block_of = |function: &FuncIndex| {
                let mut found = blocks.iter().filter(|block| block.function == u64::from(function.as_u32()));
                // A second one is a call that is over, or another one that was compiled into the same frame.
                found.next().filter(|_| found.next().is_none())
            };
            // The one whose frame it is wrote its block when it was entered; those of the others may be there from calls of another
            // instance.
            let context = functions.last().and_then(block_of).map(|block| block.context);
            Kept { context, locals: functions.iter().map(|function| block_of(function).map(|block| block.locals.clone())).collect() }
        }
    }
}

/// A frame of a stopped guest, on its stack, from the end of the next newer one up to its frame pointer.
struct Frame(Range<usize>);

impl Frame {
    /// A word of the frame; none if it is not inside.
    fn word(&self, address: usize) -> Option<u64> {
        let is_inside = address >= self.0.start && address.checked_add(size_of::<u64>())? <= self.0.end;
        // SAFETY: the place is on the guest's stack, all of which is mapped and readable, and the guest is stopped.
        is_inside.then(|| unsafe { (address as *const u64).read_unaligned() })
    }

    /// How many locals a mark says that there are.
    fn count(mark: u64) -> Option<usize> {
        let count = mark as u32 as usize;
        (mark >> 32 == u64::from(KEPT_MARK) && count <= MOST_KEPT_LOCALS).then_some(count)
    }

    /// Values at addresses.
    fn values(&self, addresses: impl Iterator<Item = usize>) -> Option<Box<[u128]>> {
        addresses.map(|address| Some(u128::from(self.word(address)?) | u128::from(self.word(address + 8)?) << 64)).collect()
    }

    /// What code of the baseline keeps.
    fn of_baseline(&self) -> Option<Box<[u128]>> {
        let mark_at = self.0.end.checked_add_signed(KEPT_MARK_OFFSET as isize)?;
        let count = Self::count(self.word(mark_at)?)?;
        self.values((1..=count).map(|number| mark_at.wrapping_sub(number * KEPT_LOCAL_BYTES)))
    }

    /// What optimized code keeps.
    fn blocks(&self) -> impl Iterator<Item = Block> {
        let starts = (self.0.start.next_multiple_of(KEPT_LOCAL_BYTES)..self.0.end).step_by(KEPT_LOCAL_BYTES);
        starts.filter_map(|start| {
            let count = Self::count(self.word(start)?)?;
            if self.word(start + 8)? != self.0.end as u64 {
                return None;
            }
            let first = start + KEPT_HEADER_BYTES;
            let locals = self.values((0..count).map(|number| first + number * KEPT_LOCAL_BYTES))?;
            Some(Block { function: self.word(start + 16)?, context: self.word(start + 24)?, locals })
        })
    }
}
