//! Which memories the code of a module grows. Called once the sections are read, before any body is validated.
//!
//! The answer decides how much address space an instance takes, not what its code may do, so bodies are not decoded for it: where the bytes
//! of a `memory.grow` occur, there may be one.

use crate::translation::Translation;
use peregrine_artifact::settings::is_small_at_first;
use peregrine_wasm::{MemoryIndex, Module};

/// The opcode of `memory.grow`. Its operand is the number of the memory.
const MEMORY_GROW: u8 = 0x40;

/// Defined memories that are small at first and that the code may grow.
pub(crate) fn grown_memories(translation: &Translation<'_>) -> Vec<MemoryIndex> {
    let mut growth = Growth::of(&translation.module);
    translation.bodies.values().for_each(|body| growth.look(&translation.wasm[body.clone()]));
    growth.grown()
}

/// What is known so far of the memories that are small at first.
pub(crate) struct Growth {
    /// Each with whether it is taken to be grown.
    small: Vec<(MemoryIndex, bool)>,
    /// Whether there are any that are not.
    looking: bool,
}

impl Growth {
    /// Before any body is looked at.
    pub(crate) fn of(module: &Module) -> Self {
        let defined = module.memories.iter().skip(module.imported_memories as usize);
        let small = defined.filter(|(_, ty)| is_small_at_first(ty)).map(|(index, _)| index);
        // A memory that cannot be told by one byte is taken to be grown; so is each of very many.
        let small: Vec<_> = small.enumerate().map(|(position, index)| (index, position >= 8 || index.as_u32() >= 0x80)).collect();
        let looking = small.iter().any(|(_, grown)| !grown);
        Self { small, looking }
    }

    /// Looks at the bytes of a body.
    pub(crate) fn look(&mut self, body: &[u8]) {
        if !self.looking {
            return;
        }
        for (index, grown) in self.small.iter_mut().filter(|(_, grown)| !grown) {
            *grown = may_grow(body, index.as_u32());
        }
        self.looking = self.small.iter().any(|(_, grown)| !grown);
    }

    /// What was found to be grown.
    pub(crate) fn grown(&self) -> Vec<MemoryIndex> {
        self.small.iter().filter(|(_, grown)| *grown).map(|(index, _)| *index).collect()
    }
}

/// Whether there may be a `memory.grow` of a memory whose number is less than 128.
fn may_grow(body: &[u8], memory: u32) -> bool {
    body.windows(2).any(|bytes| bytes[0] == MEMORY_GROW && u32::from(bytes[1]) == memory)
}

#[cfg(test)]
mod tests {
    use crate::{to_binary, translate};
    use peregrine_wasm::{Features, ModuleLimits};

    fn grown(text: &str) -> Vec<u32> {
        let wasm = to_binary(text.as_bytes()).unwrap();
        let translation = translate(&wasm, &Features { multi_memory: true, ..Features::default() }, &ModuleLimits::default()).unwrap();
        translation.module.grown_memories.iter().map(|index| index.as_u32()).collect()
    }

    #[test]
    fn what_grows_is_found() {
        assert_eq!(grown("(module (memory 1) (func (block (drop (i32.load (i32.const 0))))))"), []);
        assert_eq!(grown("(module (memory 1) (func (drop (memory.grow (i32.const 1)))))"), [0]);
        assert_eq!(grown("(module (memory 1) (memory 1) (func (drop (memory.grow 1 (i32.const 1)))))"), [1]);
        assert_eq!(grown("(module (memory 17) (func (drop (memory.grow (i32.const 1)))))"), []);
    }
}
