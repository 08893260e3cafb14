//! What the cache keeps of a module whose functions are compiled one by one: an image with the code of those that ran, so that the next
//! process maps it and compiles the rest when it is called.
//!
//! The entry is written when the optimizing tier has had nothing to do for a moment, when the module is dropped, and when
//! [`Module::keep_compiled`](crate::Module::keep_compiled) asks for it. It is one file, replaced as a whole: readers see an image or
//! none, and of two writers the later one adds to what the earlier one wrote, or replaces it. What is found there is checked like
//! any image.

use crate::cache::{Cache, CacheKey};
use crate::error::{Context, Result};
use crate::tiering::ModuleTiering;
use crate::vm::LoadedModule;
use peregrine_artifact::compiler::CompilerKind;
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::image::{ImageLayout, Section};
use peregrine_wasm::{DefinedFuncIndex, Index};
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

/// An entry is written again when this part of the functions with code of the baseline would be new, or any optimized one: those are what
/// took time.
const WORTH_WRITING: usize = 16;

/// The entry of one module.
pub(crate) struct Kept {
    cache: Cache,
    key: CacheKey,
    state: Mutex<State>,
}

struct State {
    /// Whether there is an entry that this process found or wrote.
    exists: bool,
    /// Functions compiled by this process that it has, by tier: optimizing, baseline.
    written: [usize; 2],
}

impl Kept {
    /// The entry of `key`.
    pub(crate) fn new(cache: Cache, key: CacheKey) -> Self {
        Self { cache, key, state: Mutex::new(State { exists: false, written: [0, 0] }) }
    }

    /// The file, if there is one.
    pub(crate) fn open(&self) -> Option<File> {
        let file = self.cache.open(&self.key)?;
        self.state.lock().unwrap_or_else(PoisonError::into_inner).exists = true;
        Some(file)
    }

    /// Forgets a file that is of no use.
    pub(crate) fn remove(&mut self) {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).exists = false;
        self.cache.remove(&self.key);
    }

    /// Writes what was compiled so far, if it is worth it. A failure is logged: a cache that cannot be written, on a full disk for example,
    /// must not keep programs from running.
    pub(crate) fn write(&self, module: &LoadedModule, tiering: &ModuleTiering) {
        // Held while writing: one writer in a process is enough, and the second has nothing left to do.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (optimized, baseline) = (tiering.optimized(), tiering.only_baseline(module));
        let found = [optimized.len(), baseline.len()];
        let [new_optimized, new_baseline] = [0, 1].map(|tier| found[tier].saturating_sub(state.written[tier]));
        let worth_it = new_optimized > 0 || new_baseline * WORTH_WRITING > module.functions_with_code() + state.written[1];
        if state.exists && !worth_it {
            return;
        }
        let start = std::time::Instant::now();
        match self.write_functions(module, tiering, optimized, &baseline) {
            Ok(len_bytes) => {
                *state = State { exists: true, written: found };
                let time = start.elapsed();
                tracing::debug!(optimized = found[0], baseline = found[1], len_bytes, ?time, "compiled functions are kept");
            }
            Err(error) => tracing::warn!("compiled functions cannot be kept: {error:#}"),
        }
    }

    fn write_functions(
        &self,
        module: &LoadedModule,
        tiering: &ModuleTiering,
        optimized: Vec<(DefinedFuncIndex, Arc<CompiledFunc>)>,
        baseline: &[DefinedFuncIndex],
    ) -> Result<usize> {
        // Another process may have written more than this one has found.
        let found = self.cache.open(&self.key).and_then(|file| read_image(file, module));
        let base = found.as_deref().unwrap_or_else(|| module.image_bytes());
        let layout = ImageLayout::check_header(base).context("the image changed since it was loaded")?;
        let entries = layout.functions(base);
        let has = |function: DefinedFuncIndex| entries.get(function.as_usize()).and_then(|entry| entry.tier());

        let mut functions: Vec<_> = optimized.into_iter().filter(|(index, _)| has(*index) != Some(CompilerKind::Optimizing)).collect();
        // The baseline is fast enough to do it again, and its code is not held meanwhile.
        for &index in baseline.iter().filter(|index| has(**index).is_none()) {
            if let Ok(compiled) = tiering.compile_unlinked(index) {
                functions.push((index, Arc::new(compiled)));
            }
        }
        functions.sort_by_key(|(index, _)| *index);
        functions.dedup_by_key(|(index, _)| *index);
        let image = tiering.source().compiler.add_functions(base, &functions)?;
        self.cache.put(&self.key, &image)?;
        Ok(image.len())
    }
}

/// The content of a file, if it is an undamaged image of this module.
fn read_image(mut file: File, module: &LoadedModule) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let layout = ImageLayout::check(&bytes).ok()?;
    // The name says it is; two images of one module have the same description.
    let same = layout.section(&bytes, Section::Meta) == module.section(Section::Meta);
    same.then_some(bytes)
}
