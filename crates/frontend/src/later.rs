//! Bodies that are read when they are compiled, of a module that was found valid before and whose description is known.
//!
//! [`Translation::of_valid`] makes a [`Translation`] without the binary. A body has to be fetched before anything looks at it, which
//! [`Translation::read_body`] and [`Translation::validate_body`] do. The driver that compiles functions one by one owns them.

use crate::features::wasm_features;
use crate::translation::Translation;
use once_cell::race::OnceBox;
use peregrine_artifact::allowance::ModuleSizes;
use peregrine_artifact::compiler::{CompileError, ReadBody};
use peregrine_wasm::{DefinedFuncIndex, Features, Index, IndexVec, Module};
use std::ops::Range;

/// Bodies that are found together: most are never asked for, and each takes some bytes even so.
const CHUNK: usize = 64;

/// Nobody waits for another thread that reads it: after a fork that thread may not be there.
type Body = OnceBox<Box<[u8]>>;

/// The bodies of a module, as far as they were asked for.
pub struct LaterBodies {
    starts: Box<[u32]>,
    end: usize,
    wasm_len_bytes: usize,
    reader: Box<dyn ReadBody>,
    chunks: Box<[OnceBox<Box<[Body]>>]>,
}

impl LaterBodies {
    /// The bodies that begin at `starts`, in bytes and rising, the last of which ends at `end`, of a binary of `wasm_len_bytes`.
    pub fn new(starts: Box<[u32]>, end: usize, wasm_len_bytes: usize, reader: Box<dyn ReadBody>) -> Self {
        let chunks = (0..starts.len().div_ceil(CHUNK)).map(|_| OnceBox::new()).collect();
        Self { starts, end, wasm_len_bytes, reader, chunks }
    }

    /// Length of the binary, in bytes.
    pub(crate) fn wasm_len_bytes(&self) -> usize {
        self.wasm_len_bytes
    }

    /// Reads a body if that was not done yet.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn fetch(&self, index: DefinedFuncIndex) -> Result<&[u8], CompileError> {
        let position = index.as_usize();
        let Some(chunk) = self.chunks.get(position / CHUNK).filter(|_| position < self.starts.len()) else {
            return Err(CompileError::Internal { message: format!("there is no body of the defined function {position}") });
        };
        let chunk = chunk.get_or_init(|| Box::new((0..CHUNK).map(|_| OnceBox::new()).collect()));
        let read = || {
            let range = self.range(position);
            self.reader.read_body(range.start as u32, range.end as u32).map(Box::new)
        };
        // What fails may go well the next time.
        chunk[position % CHUNK].get_or_try_init(read).map(|body| &**body)
    }

    /// A body that was read.
    pub(crate) fn fetched(&self, index: DefinedFuncIndex) -> &[u8] {
        let position = index.as_usize();
        let body = self.chunks.get(position / CHUNK).and_then(OnceBox::get).and_then(|chunk| chunk[position % CHUNK].get());
        body.map(|body| &**body).unwrap_or_default()
    }

    /// Where a body begins, and before which offset it ends: the size of the next one comes between.
    fn range(&self, position: usize) -> Range<usize> {
        let start = self.starts[position] as usize;
        let end = self.starts.get(position + 1).map_or(self.end, |next| (*next as usize).saturating_sub(1));
        start..end.max(start)
    }
}

impl<'a> Translation<'a> {
    /// A module that was found valid with `features` before, whose bodies are read later. `bodies` of the result end where they end at the
    /// latest. Names, hints for branches and debugging sections are not there.
    pub fn of_valid(module: Module, features: &Features, later: &'a LaterBodies) -> Self {
        Self {
            module,
            wasm: &[],
            bodies: (0..later.starts.len()).map(|position| later.range(position)).collect::<IndexVec<_, _>>(),
            function_names: Vec::new(),
            debug_sections: Vec::new(),
            code_section_offset: 0,
            sizes: ModuleSizes::default(),
            branch_hints: Vec::new(),
            features: wasm_features(features),
            resources: None,
            later: Some(later),
        }
    }
}
