//! What code of the baseline counted, as a [`Profile`] for others and as [`Feedback`] for the optimizing tier.
//!
//! The state of the tiers asks for it: [`ModuleTiering`](super::ModuleTiering). Counts are of this process; what earlier ones had counted is
//! added where the cache kept it, or the embedder gave it.

use crate::vm::{CellContent, LoadedModule, TieredCode};
use peregrine_artifact::compiler::CompilerKind;
use peregrine_artifact::profile::{Feedback, FunctionProfile, Profile, SiteProfile};
use peregrine_artifact::vmctx::VmFuncRef;
use peregrine_sys::forks;
use peregrine_wasm::{DefinedFuncIndex, Index};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long counts of calls are used before they are read again: the module may have a hundred thousand functions.
const FRESH: Duration = Duration::from_millis(20);
/// In place of a count: the function may have been called without being counted.
const UNKNOWN: u32 = u32::MAX;

/// What is known of a module beside what its code has counted.
#[derive(Default)]
pub(super) struct Learnt {
    /// What earlier runs had counted.
    earlier: Mutex<Earlier>,
    calls: Mutex<Option<(Instant, Arc<[u32]>)>>,
}

#[derive(Default)]
struct Earlier {
    /// Whether it was looked for what the cache kept.
    looked: bool,
    /// What the cache kept alone.
    kept: Option<Arc<Profile>>,
    /// All that is known.
    profile: Option<Arc<Profile>>,
}

/// What is known when one function is compiled.
struct Known {
    function: DefinedFuncIndex,
    sites: BTreeMap<u32, SiteProfile>,
    /// By defined function.
    calls: Arc<[u32]>,
    earlier: Option<Arc<Profile>>,
}

impl Feedback for Known {
    fn calls(&self, function: DefinedFuncIndex) -> Option<u64> {
        let counted = self.calls.get(function.as_usize()).copied().filter(|calls| *calls != UNKNOWN).map(u64::from);
        let earlier = self.earlier.as_ref().and_then(|profile| profile.calls(function));
        match (counted, earlier) {
            (Some(counted), earlier) => Some(counted.saturating_add(earlier.unwrap_or(0))),
            // A function that the cache had the code of. No calls before that was made does not say that there are none.
            (None, earlier) => earlier.filter(|calls| *calls > 0),
        }
    }

    fn site(&self, function: DefinedFuncIndex, offset: u32) -> Option<SiteProfile> {
        let counted = if function == self.function { self.sites.get(&offset).cloned() } else { None };
        let earlier = self.earlier.as_ref().and_then(|profile| profile.site(function, offset));
        match (counted, earlier) {
            (Some(mut counted), Some(earlier)) => {
                counted.merge(&earlier);
                Some(counted)
            }
            (counted, earlier) => counted.or(earlier),
        }
    }
}

impl Learnt {
    /// Looks for what earlier runs had counted, unless that was done; `kept` reads it. Forks need not wait for that.
    pub(super) fn look(&self, kept: impl FnOnce() -> Option<Profile>) {
        let looked = |earlier: &mut Earlier| earlier.looked;
        if self.with_earlier(looked) {
            return;
        }
        let kept = kept();
        self.with_earlier(|earlier| {
            // Of two threads that read it, one adds it.
            if let (false, Some(kept)) = (std::mem::replace(&mut earlier.looked, true), kept) {
                earlier.kept = Some(Arc::new(kept.clone()));
                earlier.add(Some(kept));
            }
        });
    }

    /// What earlier runs had counted, as far as it was [looked](Self::look) for, and what was [added](Self::add).
    pub(super) fn earlier(&self) -> Option<Arc<Profile>> {
        self.with_earlier(|earlier| earlier.profile.clone())
    }

    /// What the cache kept, without what was [added](Self::add): that is the business of who added it.
    pub(super) fn kept(&self) -> Option<Arc<Profile>> {
        self.with_earlier(|earlier| earlier.kept.clone())
    }

    fn with_earlier<T>(&self, with: impl FnOnce(&mut Earlier) -> T) -> T {
        let _inside = forks::enter();
        with(&mut self.earlier.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds what other runs counted.
    pub(super) fn add(&self, profile: Profile) {
        self.with_earlier(|earlier| earlier.add(Some(profile)));
    }

    /// What is known for compiling a function.
    pub(super) fn for_function(
        &self,
        module: &LoadedModule,
        function: DefinedFuncIndex,
        earlier: Option<Arc<Profile>>,
    ) -> Arc<dyn Feedback> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = calls.take().filter(|(read, _)| read.elapsed() < FRESH);
        let (_, read) = calls.insert(fresh.unwrap_or_else(|| (Instant::now(), read_calls(module))));
        Arc::new(Known { function, sites: read_sites(module, function), calls: Arc::clone(read), earlier })
    }
}

impl Earlier {
    fn add(&mut self, profile: Option<Profile>) {
        let Some(mut new) = profile else { return };
        if let Some(known) = &self.profile {
            // Both are of this module: the hash of its bytes was compared, or is part of the name.
            let _ = new.merge(known);
        }
        self.profile = Some(Arc::new(new));
    }
}

/// Functions that did as much in an average run of `profile` as `threshold` says that it takes to be hot, those first that did most.
pub(super) fn foreseen(profile: &Profile, threshold: impl Fn(DefinedFuncIndex) -> u64) -> Vec<DefinedFuncIndex> {
    let runs = u64::from(profile.runs().max(1));
    let mut functions: Vec<(u64, DefinedFuncIndex)> = profile
        .functions()
        .map(|(index, function)| (function.work, index))
        .filter(|(work, index)| work / runs >= threshold(*index))
        .collect();
    functions.sort_by_key(|(work, index)| (Reverse(*work), *index));
    functions.into_iter().map(|(_, index)| index).collect()
}

fn read_calls(module: &LoadedModule) -> Arc<[u32]> {
    let Some(code) = module.tiered() else { return Arc::default() };
    let calls = |function| match module.image_tier(function) {
        Some(CompilerKind::Optimizing) => UNKNOWN,
        _ => code.budget_and_calls(function).1.min(UNKNOWN - 1),
    };
    (0..module.module().defined_functions()).map(|position| calls(DefinedFuncIndex::from_usize(position))).collect()
}

fn read_sites(module: &LoadedModule, function: DefinedFuncIndex) -> BTreeMap<u32, SiteProfile> {
    let cells = module.tiered().map_or_else(Vec::new, |code| code.call_cells().read(function, || module.image_sites(function)));
    cells.into_iter().map(|(offset, cell)| (offset, site(module, &cell))).collect()
}

/// What the numbers in a cell stand for.
fn site(module: &LoadedModule, cell: &CellContent) -> SiteProfile {
    let first = module.vm_layout().func_ref(0);
    let function = |distance: u32| {
        let offset = distance.checked_sub(first)?;
        if !offset.is_multiple_of(size_of::<VmFuncRef>() as u32) {
            return None;
        }
        module.module().defined_func_index(module.escaping_function(offset as usize / size_of::<VmFuncRef>())?)
    };
    let mut others = u64::from(cell.others);
    let mut targets = Vec::new();
    for &(distance, calls) in cell.targets.iter().filter(|(distance, _)| *distance != 0) {
        match function(distance) {
            Some(function) => targets.push((function, u64::from(calls))),
            None => others += u64::from(calls),
        }
    }
    SiteProfile::new(targets, others)
}

/// How much work functions were given, to know what they did: by function, for those that were given more than the first time.
pub(super) type Granted = HashMap<DefinedFuncIndex, u64>;

/// Lets a function do so much until it is reported, and keeps account of it. `first` is what it had at the start.
pub(super) fn grant(granted: &mut Granted, code: &TieredCode, function: DefinedFuncIndex, first: i32, budget: i32) {
    let (left, _) = code.budget_and_calls(function);
    let total = granted.entry(function).or_insert(first.max(0) as u64);
    *total = total.saturating_add_signed(i64::from(budget) - i64::from(left));
    code.set_budget(function, budget);
}

/// What one function did in the baseline so far; `granted` is all the work that it was given.
pub(super) fn function_profile(module: &LoadedModule, code: &TieredCode, function: DefinedFuncIndex, granted: u64) -> FunctionProfile {
    let (left, calls) = code.budget_and_calls(function);
    let work = granted.saturating_add_signed(-i64::from(left));
    FunctionProfile { calls: calls.into(), work, sites: read_sites(module, function) }
}
