//! How much compiling one function may cost, so that the cost stays near linear in the input whatever the input.
//!
//! What the passes and the register allocator do grows with the number of values that are alive at once times the number of blocks
//! in which they are. A function that is worth it is far from the limits here; beyond them it is translated in [`Mode::Plain`],
//! where no value but the context outlives a block. What would take more memory than the module may take ends the same way; and if there is
//! a tier whose costs are linear, all such functions are left to it instead.

use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::ir::{Block, Function};
use cranelift_entity::SecondaryMap;

/// How a body is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Locals and operands are values; all passes run.
    Optimized,
    /// Locals, and operands at the ends of blocks, are in the frame; no pass runs. Linear in time and memory.
    Plain,
}

/// The most live values, summed over the blocks of a function, that an optimized translation may ask for.
const MAX_LIVE_IN_BLOCKS: u64 = 24_000_000;
/// The most values of an optimized function.
const MAX_VALUES: u64 = 600_000;
/// The most values that are passed between blocks in an optimized function.
const MAX_BLOCK_ARGUMENTS: u64 = 400_000;
/// The most bytes of the body of an optimized function: the passes take a second for each few hundred kilobytes, and interpreters' main loops
/// are smaller.
const MAX_BODY_BYTES: u64 = 384 << 10;
/// The most nesting depths of loops, summed over the loops of an optimized function: finding loops takes that many steps.
const MAX_LOOP_DEPTHS: u64 = 10_000_000;
/// The most depths in the dominator tree, summed over the blocks of an optimized function: one walk up the tree from each block, and the
/// allocator's time grows with it where values live through many blocks in a row. So many for each byte of the body, that many functions of
/// the kind cost no more than one.
const MAX_DOMINATOR_DEPTHS_PER_BYTE: u64 = 300;
/// Depths that every function may have.
const MIN_DOMINATOR_DEPTHS: u64 = 4_000_000;
/// Elements of function tables that every function may read.
const MIN_ELEMENTS: u64 = 8;
/// Bytes of the body for each further one. Reading one is two blocks and a call; what needs so few bytes for it comes from no compiler.
const MIN_BYTES_PER_ELEMENT: u64 = 8;
/// The most parameters of blocks in an optimized function. The register allocator's time grows with the square.
const MAX_BLOCK_PARAMETERS: u64 = 36_000;
/// The most pairs of parameters of one block, summed over the blocks of an optimized function.
const MAX_PARAMETER_PAIRS: u64 = 20_000_000;
/// Bytes of the note which value a local has in a block.
const DEFINITION_BYTES: u64 = 4;
/// Bytes that the compiler takes for each instruction of CLIF, from translation to code.
const INSTRUCTION_BYTES: u64 = 650;
/// Bytes that it takes for each argument of a block or function.
const ARGUMENT_BYTES: u64 = 48;
/// Bytes that it takes for each target of a branch table: an edge that has a block of its own.
const TABLE_TARGET_BYTES: u64 = 650;
/// The most operations that even a plain translation may make. The allocator's numbers end at 2^21 values.
const MAX_PLAIN_OPERATIONS: u64 = 40_000_000;

/// What one translation has cost so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    mode: Mode,
    live_in_blocks: u64,
    arguments: u64,
    operations: u64,
    loop_depths: u64,
    table_targets: u64,
    elements: u64,
    max_bytes: u64,
}

impl Budget {
    /// Nothing has been spent. Compiling may take `max_bytes` of memory.
    pub(crate) fn new(mode: Mode, max_bytes: u64) -> Self {
        Self { mode, live_in_blocks: 0, arguments: 0, operations: 0, loop_depths: 0, table_targets: 0, elements: 0, max_bytes }
    }

    /// The mode that a body of this many bytes begins with.
    pub(crate) fn first_mode(body_bytes: u64) -> Mode {
        if body_bytes > MAX_BODY_BYTES { Mode::Plain } else { Mode::Optimized }
    }

    /// A block begins in which up to `live` values are alive.
    pub(crate) fn block(&mut self, live: usize) {
        self.live_in_blocks += live as u64;
    }

    /// A loop begins within `depth` other blocks.
    pub(crate) fn loop_in(&mut self, depth: usize) {
        self.loop_depths += depth as u64;
    }

    /// `count` values are passed to a block or function.
    pub(crate) fn arguments(&mut self, count: usize) {
        self.arguments += count as u64;
    }

    /// `count` instructions were made otherwise.
    pub(crate) fn operations(&mut self, count: usize) {
        self.operations += count as u64;
    }

    /// A branch table has so many targets.
    pub(crate) fn table_targets(&mut self, count: usize) {
        self.table_targets += count as u64;
    }

    /// An element of a function table is read.
    pub(crate) fn element(&mut self) {
        self.elements += 1;
    }

    /// Whether a finished function of so many bytes reads elements of tables more often than is worth optimizing.
    pub(crate) fn has_too_many_elements(&self, body_bytes: u64) -> bool {
        self.elements > MIN_ELEMENTS + body_bytes / MIN_BYTES_PER_ELEMENT
    }

    /// Bytes of memory that compiling a function of so many instructions takes, roughly.
    pub(crate) fn memory_bytes(&self, instructions: usize) -> u64 {
        let code = instructions as u64 * INSTRUCTION_BYTES + self.arguments * ARGUMENT_BYTES + self.table_targets * TABLE_TARGET_BYTES;
        code + self.live_in_blocks * DEFINITION_BYTES
    }

    /// Whether translation should stop after so many instructions: in plain mode the function is too large for this tier, otherwise it
    /// should be plain.
    pub(crate) fn is_spent(&self, instructions: usize) -> bool {
        if self.memory_bytes(instructions) > self.max_bytes {
            return true;
        }
        match self.mode {
            Mode::Optimized => {
                self.live_in_blocks > MAX_LIVE_IN_BLOCKS || self.arguments > MAX_BLOCK_ARGUMENTS || self.loop_depths > MAX_LOOP_DEPTHS
            }
            Mode::Plain => self.arguments + self.operations > MAX_PLAIN_OPERATIONS,
        }
    }

    /// Whether a finished translation with this many values is too large for the passes.
    pub(crate) fn is_too_large(values: usize, blocks: usize) -> bool {
        values as u64 > MAX_VALUES || blocks as u64 > MAX_VALUES / 4
    }
}

/// The message for a function that not even a plain translation can make.
pub(crate) fn too_many_operations() -> String {
    format!("operations of one function: max_plain_operations allows {MAX_PLAIN_OPERATIONS}, found more")
}

/// Whether the allocator would take too long for the parameters of the blocks of `func`.
pub(crate) fn has_too_many_parameters(func: &Function) -> bool {
    let (mut all, mut pairs) = (0u64, 0u64);
    for block in func.layout.blocks() {
        let count = func.dfg.num_block_params(block) as u64;
        all += count;
        pairs = pairs.saturating_add(count * count);
    }
    all > MAX_BLOCK_PARAMETERS || pairs > MAX_PARAMETER_PAIRS
}

/// Whether the dominator tree of a function is too deep for the passes, which walk up in it.
pub(crate) fn is_too_deep(tree: &DominatorTree, func: &Function, body_bytes: u64) -> bool {
    let mut depths: SecondaryMap<Block, u32> = SecondaryMap::with_capacity(func.dfg.num_blocks());
    let mut sum = 0u64;
    for &block in tree.cfg_rpo() {
        // A block comes after its dominators in this order.
        let depth = tree.idom(block).map_or(0, |dominator| depths[dominator] + 1);
        depths[block] = depth;
        sum += u64::from(depth);
    }
    sum > MIN_DOMINATOR_DEPTHS.max(MAX_DOMINATOR_DEPTHS_PER_BYTE * body_bytes)
}
