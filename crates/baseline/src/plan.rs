//! Which locals have a register, and which registers that leaves for operands.
//!
//! A register that callees preserve costs saving it once; one that calls destroy costs a store and a load at each call. Locals with the
//! most uses come first; the context and the base of memory 0 compete with them.

use crate::compile::Compiler;
use crate::isa::machine::registers::{ALWAYS_TEMPORARY, DESTROYED_FOR_LOCALS, PRESERVED, PRESERVED_FOR_LOCALS, VECTORS_FOR_LOCALS};
use crate::registers::{Reg, RegSet, Registers};
use peregrine_wasm::MemoryIndex;
use smallvec::SmallVec;

/// Who wants a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Candidate {
    Local(u32),
    Context,
    MemoryBase,
}

/// The best few, by falling weight.
#[derive(Debug)]
struct Best {
    candidates: SmallVec<[(u32, Candidate); 11]>,
    max: usize,
}

impl Best {
    fn new(max: usize) -> Self {
        Self { candidates: SmallVec::new(), max }
    }

    fn add(&mut self, weight: u32, candidate: Candidate) {
        if self.candidates.len() == self.max {
            match self.candidates.last() {
                Some(last) if last.0 < weight => self.candidates.pop(),
                _ => return,
            };
        }
        let position = self.candidates.iter().position(|other| other.0 < weight).unwrap_or(self.candidates.len());
        self.candidates.insert(position, (weight, candidate));
    }
}

/// Uses below this are not worth a register that has to be saved.
const MIN_PRESERVED: u32 = 3;
/// Uses below this are not worth any register.
const MIN_DESTROYED: u32 = 2;

impl Compiler<'_> {
    /// Gives registers to locals. What the body does is known.
    pub(crate) fn plan_registers(&mut self) {
        let mut integers = Best::new(PRESERVED_FOR_LOCALS.len() + DESTROYED_FOR_LOCALS.len());
        let mut vectors = Best::new(VECTORS_FOR_LOCALS.len());
        let calls = self.scan.calls;
        for &index in &self.scan.touched {
            let weight = self.scan.locals[index as usize];
            if weight < MIN_DESTROYED || self.keeps_locals || self.plain {
                continue;
            }
            let list = if self.locals[index as usize].ty.is_vector_class() { &mut vectors } else { &mut integers };
            list.add(weight, Candidate::Local(index));
        }
        let memory = self.scan.memory;
        let has_memory = !self.module.memories.is_empty();
        let zero = MemoryIndex::from_u32(0);
        let base_is_constant = has_memory && self.settings.memory_style(self.module, zero).has_constant_base();
        if memory > 0 && has_memory && !self.plain {
            integers.add(memory.saturating_add(1), Candidate::MemoryBase);
        }
        let context = self.scan.context.saturating_add(calls);
        if context > 0 && !self.plain {
            integers.add(context, Candidate::Context);
        }

        let mut temporaries = ALWAYS_TEMPORARY;
        // The last one is that of the fuel counter.
        let mut preserved = PRESERVED_FOR_LOCALS[..PRESERVED_FOR_LOCALS.len() - usize::from(self.fuel)].iter();
        let mut destroyed = DESTROYED_FOR_LOCALS.iter();
        let twice = calls.saturating_mul(2);
        let mut pinned = RegSet::EMPTY;
        for (weight, candidate) in integers.candidates {
            // A base that may change in calls is loaded again after each, so nobody shall preserve it.
            let is_kept = candidate != Candidate::MemoryBase || base_is_constant;
            let prefers_destroyed = calls == 0 || weight / 2 > twice || (!is_kept && weight > calls);
            let mut reg = if prefers_destroyed { destroyed.next() } else { None };
            if reg.is_none() && weight >= MIN_PRESERVED && is_kept {
                reg = preserved.next();
            }
            if reg.is_none() && weight > twice {
                reg = destroyed.next();
            }
            let Some(&reg) = reg else { continue };
            pinned = pinned.with(reg);
            match candidate {
                Candidate::Local(index) => self.locals[index as usize].pin = Some(reg),
                Candidate::Context => self.context_pin = Some(reg),
                Candidate::MemoryBase => self.base_pin = Some(reg),
            }
        }
        for reg in DESTROYED_FOR_LOCALS {
            if !pinned.has(reg) {
                temporaries = temporaries.with(reg);
            }
        }
        let mut regs = VECTORS_FOR_LOCALS.iter();
        for (weight, candidate) in vectors.candidates {
            if weight > twice
                && let Candidate::Local(index) = candidate
                && let Some(&reg) = regs.next()
            {
                pinned = pinned.with(reg);
                self.locals[index as usize].pin = Some(reg);
            }
        }
        for reg in regs {
            temporaries = temporaries.with(*reg);
        }
        self.regs = Registers::new(temporaries);
        self.saved = pinned.and(PRESERVED);
        self.volatile = pinned.minus(PRESERVED);
        self.local_of = [u32::MAX; 32];
        for &index in &self.scan.touched {
            if let Some(Reg(number)) = self.locals[index as usize].pin {
                self.local_of[number as usize] = index;
            }
        }
    }
}
