//! What the cache keeps of a module whose functions are compiled one by one: an image with the code of those that ran, so that the next
//! process maps it and compiles the rest when it is called.
//!
//! The entry is written when the optimizing tier has had nothing to do for a moment, when the last handle of the module is dropped, and when
//! [`Module::keep_compiled`](crate::Module::keep_compiled) asks for it. Dropping returns when it is written; a function that is being optimized
//! then is not waited for, and is not in it. It is one file, replaced as a whole: readers see an image or
//! none, and of two writers the later one adds to what the earlier one wrote, or replaces it. What is found there is checked like
//! any image. Writing costs in proportion to the whole entry; so what is compiled later is written only once compiling it again would cost
//! more. Where it cannot be written, on a full disk for example, nothing is lost, and it is tried again only when there is many times as much to
//! keep, when the module is dropped, or when it is asked for.

use crate::cache::{Cache, CacheKey};
use crate::error::{Context, Result};
use crate::kept_profile::KeptProfile;
use crate::made_once::Turn;
use crate::tiering::ModuleTiering;
use crate::verified::Identity;
use crate::vm::LoadedModule;
use peregrine_artifact::compiler::CompilerKind;
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::image::{ImageLayout, Section};
use peregrine_sys::forks;
use peregrine_wasm::{DefinedFuncIndex, Index};
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Nanoseconds that a function costs to compile and to install, about, and a byte of its body: optimizing, and by the baseline.
const COMPILE_NS: [(u64, u64); 2] = [(300_000, 1000), (20_000, 30)];
/// Nanoseconds that a binary costs to read, to hash and to be looked through, about, and each byte of it.
const READ_NS: (u64, u64) = (50_000, 2);
/// Nanoseconds that a byte of an entry costs to write, about. An entry is written again when what is new took longer to compile.
const WRITE_NS_PER_BYTE: u64 = 1;
/// Entries up to this size are written again for anything new.
const SMALL_BYTES: u64 = 512 << 10;

/// The entry of one module.
pub(crate) struct Kept {
    cache: Cache,
    key: CacheKey,
    profile: KeptProfile,
    /// Held while writing, which takes long: one writer in a process is enough, and the second has nothing left to do.
    turn: Turn,
    /// The process of which a thread wants the turn that a quiet one may have: its [generation](forks::generation) and one.
    urgent: AtomicUsize,
    state: Mutex<State>,
}

/// Why something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// There was nothing else to do. Whoever wants to keep something for another reason goes first.
    Quiet,
    /// The last handle of the module is dropped.
    Dropped,
    /// Nobody has its code any more, which may be at once after [`Dropped`](Self::Dropped): what could not be written then cannot be written now.
    Gone,
    /// The embedder asks for it.
    Asked,
}

/// An entry that could not be written is tried again at a quiet moment when compiling what is to be kept took so many times as long.
const PATIENCE_AFTER_FAILURE: u64 = 10;

#[derive(Clone, Copy)]
struct State {
    /// Whether there is an entry that this process found or wrote.
    exists: bool,
    /// The entry that the module was loaded from.
    loaded: Option<Identity>,
    /// What compiling the functions of the baseline cost that this process has written.
    written_ns: u64,
    /// What compiling cost that could not be written, if the last attempt failed.
    failed_ns: Option<u64>,
}

impl Kept {
    /// The entry of `key`.
    pub(crate) fn new(cache: Cache, key: CacheKey) -> Self {
        let profile = KeptProfile::new(&cache, &key);
        let state = State { exists: false, loaded: None, written_ns: 0, failed_ns: None };
        Self { cache, key, profile, turn: Turn::default(), urgent: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    /// The profile beside it.
    pub(crate) fn profile(&self) -> &KeptProfile {
        &self.profile
    }

    /// The file, if there is one.
    pub(crate) fn open(&self) -> Option<File> {
        let file = self.cache.open(&self.key)?;
        self.with_state(|state| (state.exists, state.loaded) = (true, Identity::of(&file)));
        Some(file)
    }

    /// Forgets a file that is of no use.
    pub(crate) fn remove(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        (state.exists, state.loaded) = (false, None);
        self.cache.remove(&self.key);
    }

    fn with_state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        let _inside = forks::enter();
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes what was compiled so far, if it is worth it, and says whether it did. A failure is logged: a cache that cannot be written, on a
    /// full disk for example, must not keep programs from running. The process may fork meanwhile.
    pub(crate) fn write(&self, module: &LoadedModule, tiering: &ModuleTiering, occasion: Occasion) -> bool {
        let _urgent = (occasion != Occasion::Quiet).then(|| Urgent::new(&self.urgent));
        let _turn = self.turn.take();
        let state = self.with_state(|state| *state);
        let (optimized, baseline) = (tiering.optimized(), tiering.only_baseline(module));
        let ns = |(each, per_byte): (u64, u64), function| each + u64::from(module.body_bytes(function)) * per_byte;
        // Those that were written before are not among them.
        let optimized_ns = optimized.iter().map(|(function, _)| ns(COMPILE_NS[0], *function)).sum::<u64>();
        // A start that lacks the code of one function may have to read the whole binary for it.
        let read_ns = READ_NS.0 + module.meta().wasm_len_bytes * READ_NS.1;
        let read_ns = if state.loaded.is_some() && !baseline.is_empty() && !tiering.reads_bodies(module) { read_ns } else { 0 };
        let baseline_ns = read_ns + baseline.iter().map(|function| ns(COMPILE_NS[1], *function)).sum::<u64>();
        let new_ns = optimized_ns + baseline_ns.saturating_sub(state.written_ns);
        let write_ns = (module.image_bytes().len() as u64).saturating_sub(SMALL_BYTES) * WRITE_NS_PER_BYTE;
        if state.exists && new_ns <= write_ns {
            return false;
        }
        let is_in_vain = |failed_ns: u64| match occasion {
            Occasion::Quiet => new_ns < failed_ns.saturating_mul(PATIENCE_AFTER_FAILURE),
            Occasion::Gone => new_ns <= failed_ns,
            Occasion::Dropped | Occasion::Asked => false,
        };
        if state.failed_ns.is_some_and(is_in_vain) {
            return false;
        }
        let start = std::time::Instant::now();
        let counts = (optimized.len(), baseline.len());
        let is_hurried = || occasion == Occasion::Quiet && self.urgent.load(Ordering::Relaxed) == forks::generation() + 1;
        match self.write_functions(&state, module, tiering, optimized, &baseline, &is_hurried) {
            Ok(Some(len_bytes)) => {
                self.with_state(|state| (state.exists, state.written_ns, state.failed_ns) = (true, baseline_ns, None));
                let time = start.elapsed();
                tracing::debug!(optimized = counts.0, baseline = counts.1, len_bytes, ?time, "compiled functions are kept");
                true
            }
            // Somebody else does it.
            Ok(None) => false,
            Err(error) => {
                self.with_state(|state| state.failed_ns = Some(new_ns));
                tracing::warn!("compiled functions cannot be kept: {error:#}");
                false
            }
        }
    }

    /// Writes the entry, and returns its length in bytes; nothing if `is_hurried` said between two steps that there is no time for that.
    fn write_functions(
        &self,
        state: &State,
        module: &LoadedModule,
        tiering: &ModuleTiering,
        optimized: Vec<(DefinedFuncIndex, Arc<CompiledFunc>)>,
        baseline: &[DefinedFuncIndex],
        is_hurried: &dyn Fn() -> bool,
    ) -> Result<Option<usize>> {
        // Another process may have written more than this one has found, or this one did.
        let entry = self.cache.open(&self.key);
        let is_loaded = |file: &File| state.loaded.is_some_and(|loaded| Identity::of(file).is_some_and(|found| found.is_same(&loaded)));
        let found = entry.filter(|file| !is_loaded(file)).and_then(|file| read_image(file, module));
        let base = found.as_deref().unwrap_or_else(|| module.image_bytes());
        let layout = ImageLayout::check_header(base).context("the image changed since it was loaded")?;
        let entries = layout.functions(base);
        let has = |function: DefinedFuncIndex| entries.get(function.as_usize()).and_then(|entry| entry.tier());

        let mut held = tiering.held();
        let mut functions: Vec<_> =
            optimized.iter().filter(|(index, _)| has(*index) != Some(CompilerKind::Optimizing)).map(Clone::clone).collect();
        for &index in baseline.iter().filter(|index| has(**index).is_none()) {
            if is_hurried() {
                return Ok(None);
            }
            // What is not held any more is compiled again.
            let compiled = held.remove(&index).or_else(|| tiering.compile_unlinked(module, index).ok().map(Arc::new));
            functions.extend(compiled.map(|compiled| (index, compiled)));
        }
        functions.sort_by_key(|(index, _)| *index);
        functions.dedup_by_key(|(index, _)| *index);
        if is_hurried() {
            return Ok(None);
        }
        let image = tiering.source().compiler.add_functions(base, &functions, &tiering.by_heat(module))?;
        if is_hurried() {
            return Ok(None);
        }
        self.cache.put(&self.key, &image)?;
        self.cache.remember_written(&self.key);
        // The entry has them from now on, and what is written later begins with it. What was held of functions that are optimized, too.
        functions.extend(optimized);
        functions.extend(held);
        tiering.forget_kept(&functions);
        Ok(Some(image.len()))
    }
}

/// Wanting the turn that a quiet thread may have; ends when it is dropped.
struct Urgent<'a>(&'a AtomicUsize);

impl<'a> Urgent<'a> {
    fn new(process: &'a AtomicUsize) -> Self {
        process.store(forks::generation() + 1, Ordering::Relaxed);
        Self(process)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        // If others want it too, a quiet thread may keep them waiting.
        self.0.store(0, Ordering::Relaxed);
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
