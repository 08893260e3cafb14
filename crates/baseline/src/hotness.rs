//! Budgets: how much work of a function the engine lets this tier do before it hears of it.
//!
//! With [`Tiering::Counted`](peregrine_artifact::settings::Tiering::Counted) the entry of a function and the head of each loop take off
//! what the code up to the next head costs: the bytes of the body, or of the loop, without those of the loops inside of it. That counts
//! both ways of an `if`, but it can be known without looking ahead: the cost is written when the end is seen. The entry also counts calls.

use crate::compile::{Cold, Compiler};

/// The body of a function or an open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// Where the cost is written, in the code.
    cost_place: u32,
    /// Where it begins, in the body.
    start: u32,
    /// Bytes of loops inside of it.
    inner_bytes: u32,
}

impl Compiler<'_> {
    /// At the entry of the function, whose operators begin at an offset.
    pub(crate) fn count_entry(&mut self, first_operator: u32) {
        if self.counted {
            self.masm.count_call(self.function);
            let (label, back) = (self.masm.label(), self.masm.label());
            let cost_place = self.count_down(label, back);
            self.cold.push(Cold::HotFunction { label, back });
            self.stretches.push(Stretch { cost_place, start: first_operator, inner_bytes: 0 });
        }
    }

    /// At the head of a loop: all operands are in their homes, and locals with registers in these.
    pub(crate) fn count_loop(&mut self) {
        if self.counted {
            let (label, back) = (self.masm.label(), self.masm.label());
            let cost_place = self.count_down(label, back);
            self.cold.push(Cold::HotLoop { label, back, offset: self.offset });
            self.stretches.push(Stretch { cost_place, start: self.offset, inner_bytes: 0 });
            if self.loop_entry.is_none() {
                self.loop_entry = Some(self.masm.label());
            }
        }
    }

    /// At the end of a loop or of the body.
    pub(crate) fn end_stretch(&mut self) {
        let Some(stretch) = self.stretches.pop() else { return };
        let bytes = self.offset.saturating_sub(stretch.start);
        if let Some(outer) = self.stretches.last_mut() {
            outer.inner_bytes += bytes;
        }
        self.masm.write_u32(stretch.cost_place, bytes.saturating_sub(stretch.inner_bytes).max(1));
    }
}
