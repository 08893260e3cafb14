//! A quick look at a body before it is compiled: how often locals, memory and the context are used.
//!
//! Reads opcodes and skips their immediates, nothing else. What is inside of a loop counts more. On an opcode that is not known here the look
//! ends: the compiler does not know it either, and refuses the function there. So whatever it compiles was seen, and it relies on that for which
//! locals are used at all, and which have to be zero at first; the rest of the outcome only makes code faster or slower.

use crate::body::Body;

/// The factor by which a loop multiplies, as a power of two.
const LOOP_LOG2: u32 = 3;
/// No more loops than these multiply.
const MAX_LOOPS: u32 = 6;

/// What a body does how often.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Uses of each local. Longer than there are locals, if an earlier function had more.
    pub locals: Vec<u32>,
    /// The locals that are used, in the order of their first uses, or sorted. Only these cost anything: a function may declare many more.
    pub touched: Vec<u32>,
    /// Locals beyond the parameters that are written before anything can read them, as bits.
    written_first: Vec<u64>,
    seen: Vec<u64>,
    /// Uses of the context other than calls.
    pub context: u32,
    /// Accesses to memory 0.
    pub memory: u32,
    /// Calls of any kind.
    pub calls: u32,
    /// Whether wasm functions are called elsewhere than in loops, or may be in a part that was not looked at.
    pub calls_outside_loops: bool,
    /// Whether there are loops, or may be in a part that was not looked at.
    pub loops: bool,
    /// Whether there are vector instructions.
    pub vectors: bool,
    /// For each open block whether it is a loop.
    blocks: Vec<bool>,
}

impl Scan {
    /// Whether a local has to be zero at first, as something may read that.
    pub(crate) fn needs_zero(&self, local: usize) -> bool {
        self.locals[local] > 0 && self.written_first[local / 64] >> (local % 64) & 1 == 0
    }

    /// Looks at `operators`, the body of a function with so many locals, after their declarations.
    pub(crate) fn run(&mut self, operators: &[u8], locals: usize) {
        for index in self.touched.drain(..) {
            let word = index as usize / 64;
            (self.locals[index as usize], self.written_first[word], self.seen[word]) = (0, 0, 0);
        }
        if self.locals.len() < locals {
            self.locals.resize(locals, 0);
            self.written_first.resize(locals.div_ceil(64), 0);
            self.seen.resize(locals.div_ceil(64), 0);
        }
        (self.context, self.memory, self.calls, self.calls_outside_loops, self.loops, self.vectors) = (0, 0, 0, false, false, false);
        self.blocks.clear();
        let mut body = Body::new(operators);
        let mut loops = 0;
        while !body.is_at_end() && self.operator(&mut body, &mut loops) {}
        self.loops |= !body.is_at_end();
        self.calls_outside_loops |= !body.is_at_end();
    }

    /// Forgets everything if it takes more memory than that.
    pub(crate) fn give_back_memory(&mut self, max_bytes: usize) {
        let locals = self.locals.capacity().max(self.touched.capacity());
        if 4 * locals > max_bytes || self.blocks.capacity() > max_bytes {
            *self = Self::default();
        }
    }

    #[inline]
    fn operator(&mut self, body: &mut Body<'_>, loops: &mut u32) -> bool {
        let opcode = body.byte();
        let weight = 1u32 << (LOOP_LOG2 * (*loops).min(MAX_LOOPS));
        match opcode {
            // The most frequent ones first: without immediates, and constants.
            0x45..=0xc4 => return true,
            0x41 | 0x42 => {
                while body.byte() >= 0x80 {}
                return true;
            }
            0x20..=0x22 => {
                let index = body.u32() as usize;
                let Some(count) = self.locals.get_mut(index) else { return false };
                *count = count.saturating_add(weight);
                let (word, bit) = (index / 64, 1 << (index % 64));
                if self.seen[word] & bit == 0 {
                    self.seen[word] |= bit;
                    self.touched.push(index as u32);
                    if opcode != 0x20 && self.blocks.is_empty() {
                        self.written_first[word] |= bit;
                    }
                }
                return true;
            }
            0x28..=0x3e => {
                if body.memarg().memory == 0 {
                    self.memory = self.memory.saturating_add(weight);
                }
                return true;
            }
            0x02..=0x04 => {
                self.blocks.push(opcode == 0x03);
                *loops += u32::from(opcode == 0x03);
                self.loops |= opcode == 0x03;
            }
            0x0b => *loops -= u32::from(self.blocks.pop().unwrap_or(false)),
            0x10 | 0x12 | 0x14 | 0x15 => {
                self.call(weight);
                self.calls_outside_loops |= *loops == 0;
            }
            0x11 | 0x13 => {
                self.context = self.context.saturating_add(weight);
                self.call(weight);
                self.calls_outside_loops |= *loops == 0;
            }
            0x23 | 0x24 | 0x3f => self.context = self.context.saturating_add(weight),
            0x25 | 0x26 | 0x40 | 0xd2 => self.call(weight),
            0xfc if (8..=18).contains(&body.peek()) => self.call(weight),
            0xfd => {
                self.vectors = true;
                if body.peek() < 12 || (84..=93).contains(&body.peek()) {
                    self.memory = self.memory.saturating_add(weight);
                }
            }
            0xfe if body.peek() < 3 => self.call(weight),
            0xfe => self.memory = self.memory.saturating_add(weight),
            _ => {}
        }
        body.skip_immediates(opcode)
    }

    fn call(&mut self, weight: u32) {
        self.calls = self.calls.saturating_add(weight);
    }
}
