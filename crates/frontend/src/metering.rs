//! Where fuel is looked at: what all tiers have to agree on. `docs/fuel.md` says what operators cost, as does each tier for its own form of
//! operators.

use crate::Translation;
use peregrine_wasm::DefinedFuncIndex;
use wasmparser::{BinaryReaderError, Operator};

impl Translation<'_> {
    /// Whether a function looks at the fuel where it is entered: if its body has a call or a loop anywhere, also where nothing gets to. The
    /// others end soon, and can be compiled into their callers.
    ///
    /// # Errors
    ///
    /// If the body is malformed.
    pub fn looks_at_fuel_at_entry(&self, index: DefinedFuncIndex) -> Result<bool, BinaryReaderError> {
        let mut operators = self.body(index).get_operators_reader()?;
        while !operators.eof() {
            let looks = matches!(
                operators.read()?,
                Operator::Loop { .. }
                    | Operator::Call { .. }
                    | Operator::CallIndirect { .. }
                    | Operator::CallRef { .. }
                    | Operator::ReturnCall { .. }
                    | Operator::ReturnCallIndirect { .. }
                    | Operator::ReturnCallRef { .. }
            );
            if looks {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
