//! Profiles: how often functions of a module were called, and what their indirect calls went to.
//!
//! Code of the baseline counts while it runs (see [`crate::vmctx::VmCallCell`] and [`crate::image::EntryArea`]), the engine reads what was
//! counted, and the optimizing tier makes guesses of it. A guess is checked by the code that relies on it: a profile that is wrong,
//! out of date or made up changes how fast code is, and nothing else. Functions are known by their number among the defined ones, calls by
//! where the operator is in the body. [`encoding`](self) is in a file of its own.

mod encoding;

pub use encoding::ProfileError;

use peregrine_wasm::{DefinedFuncIndex, Index};
use std::collections::BTreeMap;

/// The most targets that are told apart at one call. Calls of others are counted together.
pub const MAX_TARGETS: usize = 8;

/// What is known of how the functions of one module ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    module_hash: [u8; 32],
    runs: u32,
    functions: BTreeMap<DefinedFuncIndex, FunctionProfile>,
}

/// What is known of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionProfile {
    /// How often code of the baseline was entered at the start of the function.
    pub calls: u64,
    /// How much was done in it, by code of the baseline: bytes of the body that were run through, roughly.
    pub work: u64,
    /// Its indirect and reference calls, by the offset of the operator in the body, in bytes. All of them, also those that were never reached,
    /// unless they are many.
    pub sites: BTreeMap<u32, SiteProfile>,
}

/// Where one indirect or reference call went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteProfile {
    targets: Vec<(DefinedFuncIndex, u64)>,
    others: u64,
}

/// Whoever knows how functions ran. All of it are guesses.
pub trait Feedback: Send + Sync {
    /// How often a function was called; `None` if it is not known.
    fn calls(&self, function: DefinedFuncIndex) -> Option<u64>;

    /// Where the indirect or reference call at `offset` in the body of a function went; `None` if it is not known.
    fn site(&self, function: DefinedFuncIndex, offset: u32) -> Option<SiteProfile>;
}

impl SiteProfile {
    /// With so many calls of each of `targets`, and so many of what is none of them.
    pub fn new(targets: impl IntoIterator<Item = (DefinedFuncIndex, u64)>, others: u64) -> Self {
        let mut site = Self { targets: Vec::new(), others };
        targets.into_iter().for_each(|(target, calls)| site.add(target, calls));
        site.order();
        site
    }

    /// Functions of the module that were called, the one called most often first, and how often.
    pub fn targets(&self) -> &[(DefinedFuncIndex, u64)] {
        &self.targets
    }

    /// How often something else was called: functions of other modules and of the host, or simply too many different ones.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// All calls.
    pub fn total(&self) -> u64 {
        self.targets.iter().fold(self.others, |sum, (_, calls)| sum.saturating_add(*calls))
    }

    fn add(&mut self, target: DefinedFuncIndex, calls: u64) {
        match self.targets.iter_mut().find(|(known, _)| *known == target) {
            _ if calls == 0 => {}
            Some((_, known)) => *known = known.saturating_add(calls),
            None => self.targets.push((target, calls)),
        }
    }

    fn order(&mut self) {
        self.targets.sort_by_key(|(target, calls)| (std::cmp::Reverse(*calls), *target));
        for (_, calls) in self.targets.drain(MAX_TARGETS.min(self.targets.len())..) {
            self.others = self.others.saturating_add(calls);
        }
    }

    /// Adds what another run did.
    pub fn merge(&mut self, other: &Self) {
        other.targets.iter().for_each(|(target, calls)| self.add(*target, *calls));
        self.others = self.others.saturating_add(other.others);
        self.order();
    }
}

impl FunctionProfile {
    /// Adds what another run did.
    pub fn merge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.work = self.work.saturating_add(other.work);
        for (offset, site) in &other.sites {
            self.sites.entry(*offset).or_default().merge(site);
        }
    }
}

impl Profile {
    /// An empty profile of the binary module `wasm`, of one run.
    pub fn new(wasm: &[u8]) -> Self {
        Self { module_hash: blake3::hash(wasm).into(), runs: 1, functions: BTreeMap::new() }
    }

    /// The same as a profile of the module with that BLAKE3 hash.
    pub fn with_module_hash(self, module_hash: [u8; 32]) -> Self {
        Self { module_hash, ..self }
    }

    /// An empty profile, of one run of a module whose hash is not known yet: zero.
    pub fn unnamed() -> Self {
        Self { runs: 1, ..Self::default() }
    }

    /// Whether it is of the binary module `wasm`.
    pub fn is_of(&self, wasm: &[u8]) -> bool {
        self.module_hash == *blake3::hash(wasm).as_bytes()
    }

    /// BLAKE3 of the binary module that it is of.
    pub fn module_hash(&self) -> &[u8; 32] {
        &self.module_hash
    }

    /// Of how many runs it is.
    pub fn runs(&self) -> u32 {
        self.runs
    }

    /// What is known of a function.
    pub fn function(&self, index: DefinedFuncIndex) -> Option<&FunctionProfile> {
        self.functions.get(&index)
    }

    /// The functions that something is known of, by rising index.
    pub fn functions(&self) -> impl ExactSizeIterator<Item = (DefinedFuncIndex, &FunctionProfile)> {
        self.functions.iter().map(|(index, function)| (*index, function))
    }

    /// Says what is known of a function.
    pub fn insert(&mut self, index: DefinedFuncIndex, function: FunctionProfile) {
        self.functions.insert(index, function);
    }

    /// Adds what other runs of the same module did.
    ///
    /// # Errors
    ///
    /// [`ProfileError::OtherModule`] if `other` is of another module.
    pub fn merge(&mut self, other: &Self) -> Result<(), ProfileError> {
        if self.module_hash != other.module_hash {
            return Err(ProfileError::OtherModule);
        }
        self.runs = self.runs.saturating_add(other.runs);
        for (index, function) in &other.functions {
            self.functions.entry(*index).or_default().merge(function);
        }
        Ok(())
    }

    /// Whether every function and target that it names is one of a module that defines so many functions.
    pub fn fits(&self, defined_functions: usize) -> bool {
        let known = |index: &DefinedFuncIndex| index.as_usize() < defined_functions;
        let targets = |function: &FunctionProfile| function.sites.values().flat_map(|site| &site.targets).all(|(target, _)| known(target));
        self.functions.iter().all(|(index, function)| known(index) && targets(function))
    }
}

impl Feedback for Profile {
    fn calls(&self, function: DefinedFuncIndex) -> Option<u64> {
        // A function that no run came to has no entry; but a profile without any says nothing.
        if self.functions.is_empty() { None } else { Some(self.function(function).map_or(0, |function| function.calls)) }
    }

    fn site(&self, function: DefinedFuncIndex, offset: u32) -> Option<SiteProfile> {
        self.function(function)?.sites.get(&offset).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(number: u32) -> DefinedFuncIndex {
        DefinedFuncIndex::from_u32(number)
    }

    #[test]
    fn runs_add_up() {
        let mut first = Profile::new(b"module");
        let site = SiteProfile::new([(index(1), 5), (index(2), 90), (index(1), 5)], 3);
        assert_eq!((site.targets(), site.others(), site.total()), (&[(index(2), 90), (index(1), 10)][..], 3, 103));
        first.insert(index(0), FunctionProfile { calls: 7, work: 100, sites: [(4, site)].into() });
        let mut second = Profile::new(b"module");
        let site = SiteProfile::new([(index(1), 1000)], u64::MAX);
        second.insert(index(0), FunctionProfile { calls: 1, work: u64::MAX, sites: [(4, site)].into() });
        second.insert(index(9), FunctionProfile::default());
        first.merge(&second).unwrap();
        let merged = first.function(index(0)).unwrap();
        assert_eq!((first.runs(), merged.calls, merged.work), (2, 8, u64::MAX));
        assert_eq!(merged.sites[&4].targets(), [(index(1), 1010), (index(2), 90)]);
        assert_eq!(merged.sites[&4].others(), u64::MAX);
        assert_eq!(first.functions().count(), 2);
        assert_eq!(first.merge(&Profile::new(b"other")), Err(ProfileError::OtherModule));
    }

    #[test]
    fn only_so_many_targets_are_told_apart() {
        let site = SiteProfile::new((0..20).map(|number| (index(number), u64::from(number) + 1)), 0);
        assert_eq!(site.targets().len(), MAX_TARGETS);
        assert_eq!(site.targets()[0], (index(19), 20));
        assert_eq!(site.total(), (1..=20).sum());
    }

    #[test]
    fn what_it_names_is_compared_with_the_module() {
        let mut profile = Profile::new(b"");
        profile
            .insert(index(3), FunctionProfile { sites: [(1, SiteProfile::new([(index(6), 1)], 0))].into(), ..FunctionProfile::default() });
        assert!(profile.fits(7) && !profile.fits(6) && !profile.fits(0));
    }
}
