//! Where in a line of the processor's caches a function begins best: so that its loops are in as few lines as they can be.
//!
//! A processor fetches and decodes code, and keeps what it decoded, by lines of [`LINE_BYTES`]. A loop of 50 bytes that lies in two of them costs
//! twice the fetches in each turn, for no other reason than how long the code before it is. Cranelift does not align loops, and to fill
//! up before each would cost bytes in all of them; but where the whole function begins is free. So each of the few places is tried, and loops
//! within loops count the most.
//!
//! What code is whose is known by the source locations that it was made with: those of the instructions in the blocks of a loop.

use cranelift_codegen::CompiledCode;
use cranelift_codegen::ir::{Function, SourceLoc};
use cranelift_codegen::loop_analysis::{Loop, LoopAnalysis};
use peregrine_artifact::func::{LINE_BYTES, LineOffset};
use std::collections::HashMap;
use std::ops::Range;

/// Loops of more lines gain nothing from one less.
const MAX_LINES: usize = 16;
/// How many of the loops around it, of its own number, the code of a loop is counted for: those further out are long.
const MAX_AROUND: usize = 3;
/// How much more often a loop turns than the one around it, as a guess, in bits.
const DEPTH_BITS: usize = 3;
/// From this depth on, loops count the same.
const MAX_DEPTH: usize = 6;
/// What one line in one turn counts.
const UNIT: u64 = 1 << 10;

/// The number of the innermost loop that something is in, if it is in one.
type Innermost = Option<u32>;

/// The loops of a function before code is made of it.
#[derive(Debug, Default)]
pub(crate) struct LoopPlaces {
    /// The innermost loop of what is of each location, if that is in one; `None` where some of it is elsewhere, as what a pass took out of a
    /// loop is.
    by_location: HashMap<SourceLoc, Option<Innermost>>,
    /// Of each loop: the one around it, and how many there are around it.
    around: Vec<(Option<u32>, usize)>,
}

impl LoopPlaces {
    /// The loops that the analysis of the function has found.
    pub(crate) fn new(func: &Function, analysis: &LoopAnalysis) -> Self {
        let number = |found: Loop| found.as_u32();
        // The level of what is in no loop is 0.
        let depth = |found: Loop| analysis.loop_level(analysis.loop_header(found)).level().saturating_sub(1);
        let around = analysis.loops().map(|found| (analysis.loop_parent(found).map(number), depth(found))).collect();
        let mut loops = Self { by_location: HashMap::new(), around };
        if loops.around.is_empty() {
            return loops;
        }
        for block in func.layout.blocks() {
            let own = analysis.innermost_loop(block).map(number);
            let mut last = None;
            for inst in func.layout.block_insts(block) {
                // Operators become several instructions each.
                let location = func.srcloc(inst);
                if last.replace(location) == Some(location) {
                    continue;
                }
                let found = loops.by_location.entry(location).or_insert(Some(own));
                if *found != Some(own) {
                    *found = None;
                }
            }
        }
        loops
    }

    /// Where the code that was made of the function begins best. `None` if it has no short loop, and it does not matter.
    pub(crate) fn best_start(&self, compiled: &CompiledCode) -> Option<LineOffset> {
        if self.around.is_empty() {
            return None;
        }
        let located: Vec<_> = compiled.buffer.get_srclocs_sorted().iter().map(|found| (found.start..found.end, found.loc)).collect();
        let ends = compiled.bb_starts.iter().skip(1).copied().chain([compiled.buffer.data().len() as u32]);
        let blocks: Vec<Range<u32>> = compiled.bb_starts.iter().zip(ends).map(|(start, end)| *start..end).collect();
        best(&self.code(&blocks, &located))
    }

    /// The code of the loops, by the blocks of the code and the locations of what is in them, either by rising offset.
    fn code(&self, blocks: &[Range<u32>], located: &[(Range<u32>, SourceLoc)]) -> Vec<LoopCode> {
        let mut loops: Vec<LoopCode> = self.around.iter().map(|(_, depth)| LoopCode { depth: *depth, ..LoopCode::default() }).collect();
        let mut located = located.iter().peekable();
        for block in blocks {
            // A block of which nothing is known moves values from one block to another, and may be in the loop or behind it.
            let mut own = None;
            while let Some((_, location)) = located.next_if(|(code, _)| code.start < block.end) {
                own = own.or(self.by_location.get(location).copied().flatten());
            }
            let own = own.flatten();
            let around = |found: &u32| self.around[*found as usize].0;
            for found in std::iter::successors(own, around).take(MAX_AROUND) {
                loops[found as usize].add(block.clone());
            }
        }
        loops.retain(|found| (1..=MAX_LINES * LINE_BYTES).contains(&found.bytes()));
        loops
    }
}

/// The code of a loop, by rising offset, and how many loops are around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LoopCode {
    parts: Vec<Range<u32>>,
    depth: usize,
}

impl LoopCode {
    fn add(&mut self, part: Range<u32>) {
        match self.parts.last_mut() {
            Some(last) if last.end == part.start => last.end = part.end,
            _ => self.parts.push(part),
        }
    }

    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// What it costs where the code of the function begins there, above what it has to.
    fn cost(&self, offset: LineOffset) -> u64 {
        let (mut lines, mut free) = (0, 0);
        for part in &self.parts {
            let (start, end) = (part.start as usize + offset.bytes(), part.end as usize + offset.bytes());
            // A line that the part before ends in counts once.
            let (first, after) = ((start / LINE_BYTES).max(free), end.div_ceil(LINE_BYTES));
            lines += after.saturating_sub(first);
            free = free.max(after);
        }
        let least = self.bytes().div_ceil(LINE_BYTES).max(1);
        (lines.saturating_sub(least) as u64 * UNIT / least as u64) << (DEPTH_BITS * self.depth.min(MAX_DEPTH))
    }
}

/// Where code with these loops begins best: the first one of the best.
fn best(loops: &[LoopCode]) -> Option<LineOffset> {
    let cost = |offset: &LineOffset| loops.iter().map(|found| found.cost(*offset)).fold(0, u64::saturating_add);
    if loops.is_empty() { None } else { LineOffset::all().min_by_key(cost) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop of code from here to there.
    fn code(parts: &[(u32, u32)], depth: usize) -> LoopCode {
        LoopCode { parts: parts.iter().map(|(start, end)| *start..*end).collect(), depth }
    }

    #[test]
    fn a_loop_that_fits_in_a_line_is_put_into_one() {
        let start = |loops: &[LoopCode]| best(loops).map(LineOffset::bytes);
        assert_eq!(start(&[]), None);
        assert_eq!(start(&[code(&[(64, 128)], 0)]), Some(0));
        assert_eq!(start(&[code(&[(70, 120)], 0)]), Some(0));
        assert_eq!(start(&[code(&[(32, 92)], 0)]), Some(32));
        assert_eq!(start(&[code(&[(40, 70)], 0)]), Some(32));
        // 60 bytes from 5 on reach over the end of a line wherever the code begins.
        assert_eq!(start(&[code(&[(5, 65)], 0)]), Some(0));
        // The inner one counts more; of a long one, one line more is little.
        assert_eq!(start(&[code(&[(0, 190)], 0), code(&[(100, 160)], 1)]), Some(32));
        assert_eq!(start(&[code(&[(0, 1000)], 0)]), Some(0));
        // A line that two parts are in is one.
        assert_eq!(code(&[(0, 10), (20, 30), (64, 70)], 0).cost(LineOffset::default()), UNIT);
    }

    #[test]
    fn code_belongs_to_the_loops_of_its_locations() {
        let mut by_location: HashMap<_, _> = [1, 2, 3].map(|number| (SourceLoc::new(number), Some(Some(number - 1)))).into_iter().collect();
        by_location.extend([(SourceLoc::new(8), Some(None)), (SourceLoc::new(9), None)]);
        let loops = LoopPlaces { by_location, around: vec![(None, 0), (Some(0), 1), (None, 0)] };
        let found = |blocks: &[(u32, &[(u32, u32)])], end| {
            let ends = blocks[1..].iter().map(|(start, _)| *start).chain([end]);
            let ranges: Vec<Range<u32>> = blocks.iter().zip(ends).map(|((start, _), end)| *start..end).collect();
            let located = blocks.iter().flat_map(|(_, located)| *located);
            let located: Vec<_> = located.map(|(start, number)| (*start..*start + 4, SourceLoc::new(*number))).collect();
            loops.code(&ranges, &located)
        };
        // Before, with something that was taken out of the loop; in the loop, in the one in it, a move, back in the first, after it, another one,
        // and what was put aside of the first.
        let blocks: [(u32, &[(u32, u32)]); 8] = [
            (0, &[(0, 9)]),
            (12, &[(16, 1)]),
            (20, &[(20, 9), (24, 2), (30, 2)]),
            (40, &[]),
            (44, &[(50, 1)]),
            (60, &[(60, 8)]),
            (70, &[(70, 3)]),
            (99, &[(99, 1)]),
        ];
        assert_eq!(found(&blocks, 120), [code(&[(12, 40), (44, 60), (99, 120)], 0), code(&[(20, 40)], 1), code(&[(70, 99)], 0)]);
        // What is long does not matter, and what has no code is nowhere.
        assert_eq!(found(&[(0, &[(0, 1)]), (1025, &[(1025, 3)])], 2000), [code(&[(1025, 2000)], 0)]);
        assert_eq!(found(&[(0, &[(0, 9)])], 2000), []);
    }
}
