//! What one module wants from the optimizing tier, the hottest first. The state of a module holds them; the queue of the engine serves modules in
//! turns, so what waits here keeps nobody else waiting.

use peregrine_artifact::compiler::LoopEntry;
use peregrine_wasm::DefinedFuncIndex;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Jobs of a module that wait at most.
const MAX_JOBS: usize = 512;

/// What to compile: a function, or a function from a loop on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) function: DefinedFuncIndex,
    pub(crate) loop_entry: Option<LoopEntry>,
}

/// The jobs of one module that wait.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    waiting: HashMap<Request, Job>,
    /// How many there were.
    made: u64,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    /// How much work the function did since it was asked for, by what is usual for its size.
    heat: u32,
    /// Of two that are equally hot, the first comes first.
    number: u64,
}

impl Jobs {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is no place for another one.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_JOBS
    }

    /// Adds a job that does not wait yet.
    pub(super) fn add(&mut self, request: Request) {
        self.made += 1;
        self.waiting.insert(request, Job { heat: 1, number: self.made });
    }

    /// Makes a job hotter, if it waits still.
    pub(super) fn raise(&mut self, request: Request, heat: u32) {
        if let Some(job) = self.waiting.get_mut(&request) {
            job.heat = job.heat.saturating_add(heat);
        }
    }

    /// Takes back a job.
    pub(super) fn remove(&mut self, request: Request) {
        self.waiting.remove(&request);
    }

    /// Takes back all jobs.
    pub(super) fn clear(&mut self) -> Vec<Request> {
        self.waiting.drain().map(|(request, _)| request).collect()
    }

    /// The hottest one, which does not wait any more.
    pub(super) fn take_hottest(&mut self) -> Option<Request> {
        let (request, _) = self.waiting.iter().max_by_key(|(_, job)| (job.heat, Reverse(job.number)))?;
        let request = *request;
        self.waiting.remove(&request);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peregrine_wasm::Index;

    fn function(number: usize) -> Request {
        Request { function: DefinedFuncIndex::from_usize(number), loop_entry: None }
    }

    #[test]
    fn the_hottest_comes_first_then_the_oldest() {
        let mut jobs = Jobs::default();
        (0..4).for_each(|number| jobs.add(function(number)));
        let entry = Request { loop_entry: Some(LoopEntry { offset: 7, homes: 0 }), ..function(3) };
        jobs.add(entry);
        jobs.raise(function(2), 5);
        jobs.raise(entry, 3);
        jobs.raise(function(9), 100);
        let order: Vec<_> = std::iter::from_fn(|| jobs.take_hottest()).collect();
        assert_eq!(order, [function(2), entry, function(0), function(1), function(3)]);
        assert!(jobs.is_empty());
    }

    #[test]
    fn a_module_has_so_many_places() {
        let mut jobs = Jobs::default();
        for number in 0..MAX_JOBS {
            assert!(!jobs.is_full());
            jobs.add(function(number));
        }
        assert!(jobs.is_full());
        jobs.remove(function(0));
        assert!(!jobs.is_full());
        assert_eq!((jobs.clear().len(), jobs.is_empty()), (MAX_JOBS - 1, true));
    }
}
