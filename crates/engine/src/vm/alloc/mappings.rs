//! What an engine's memories and tables have of the address space: a list of where each is, so that it can be told at any time, from any thread,
//! without asking the stores that they belong to.
//!
//! A place in the list is written where address space is reserved, made accessible, moved or given back, which takes system calls anyway, and
//! never where an instance is made of a warm slot. A part of the list is locked for moments, except by who walks it, which is done inside of the
//! gate for forks.

use super::pool::{SHARDS, own_shard};
use peregrine_sys::forks;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The list of an engine, in parts that threads use each on its own.
#[derive(Debug, Default)]
pub(crate) struct Mappings([Mutex<Part>; SHARDS]);

#[derive(Debug, Default)]
struct Part {
    places: Vec<Place>,
    /// Numbers of places that are nobody's.
    free: Vec<u32>,
}

/// Where one memory or table is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) address: usize,
    pub(super) reserved_bytes: usize,
    /// Accessible bytes from the address on.
    pub(super) committed_bytes: usize,
}

/// What there is at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Address space.
    pub(crate) reserved_bytes: u64,
    /// What of it is accessible.
    pub(crate) committed_bytes: u64,
}

impl Mappings {
    fn part(&self, number: usize) -> MutexGuard<'_, Part> {
        self.0[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the list, for as long as the result lives.
    pub(super) fn list(self: &Arc<Self>, place: Place) -> Listed {
        let shard = own_shard();
        let number = {
            let mut part = self.part(shard);
            match part.free.pop() {
                Some(number) => {
                    part.places[number as usize] = place;
                    number
                }
                None => {
                    part.places.push(place);
                    u32::try_from(part.places.len() - 1).expect("memory ends before the numbers do")
                }
            }
        };
        Listed { mappings: Arc::clone(self), shard: shard as u32, number }
    }

    /// Walks the whole list. A fork waits while a part is walked: else it would stay locked in the child.
    fn walk(&self, mut each: impl FnMut(&Place)) {
        for shard in 0..SHARDS {
            let _inside = forks::enter();
            self.part(shard).places.iter().for_each(&mut each);
        }
    }

    /// What all of them have together.
    pub(crate) fn mapped(&self) -> Mapped {
        let mut all = Mapped::default();
        self.walk(|place| {
            all.reserved_bytes += place.reserved_bytes as u64;
            all.committed_bytes += place.committed_bytes as u64;
        });
        all
    }

    /// The addresses of what is accessible.
    pub(crate) fn accessible(&self) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        self.walk(|place| {
            if place.committed_bytes != 0 {
                ranges.push(place.address..place.address + place.committed_bytes);
            }
        });
        ranges
    }
}

/// A place in the list of an engine.
pub(super) struct Listed {
    mappings: Arc<Mappings>,
    shard: u32,
    number: u32,
}

impl Listed {
    /// Says where the memory or table is now.
    pub(super) fn set(&self, place: Place) {
        self.mappings.part(self.shard as usize).places[self.number as usize] = place;
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut part = self.mappings.part(self.shard as usize);
        part.places[self.number as usize] = Place::default();
        part.free.push(self.number);
    }
}
