//! Fuel: counting operators, and asking the engine when the counter is above zero.
//!
//! One unit for each operator but those that only structure the code. What a stretch of straight code costs is added at its end, so the
//! count is exact at every call and branch. The optimizing tier counts the same at the same places.

use crate::compile::Compiler;

/// The units of fuel for one operator.
fn cost(opcode: u8) -> i32 {
    match opcode {
        // `unreachable`, `nop`, `block`, `loop`, `else`, `end`, `return`, `drop`.
        0x00 | 0x01 | 0x02 | 0x03 | 0x05 | 0x0b | 0x0f | 0x1a => 0,
        _ => 1,
    }
}

impl Compiler<'_> {
    /// Counts an operator, which comes next.
    #[inline]
    pub(crate) fn meter(&mut self, opcode: u8) {
        if self.fuel {
            self.fuel_pending += cost(opcode);
        }
    }

    /// Adds what was counted to the counter: the straight code ends here. Changes no flags.
    #[inline]
    pub(crate) fn meter_flush(&mut self) {
        if self.fuel_pending != 0 {
            self.add_fuel(self.fuel_pending);
            self.fuel_pending = 0;
        }
    }

    /// At the entry of the function: asks the engine if the counter is above zero, where that is looked at.
    pub(crate) fn meter_entry(&mut self) {
        if self.looks_at_entry {
            self.check_fuel();
        }
    }

    /// At the header of a loop: asks the engine if the counter is above zero.
    pub(crate) fn meter_check(&mut self) {
        if self.fuel {
            self.check_fuel();
        }
    }
}
