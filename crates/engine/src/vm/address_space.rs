//! How much address space memories and tables get: what the settings ask for, and what the machine allows.

use super::alloc::mappings::Mappings;
use super::code::LoadedModule;
use peregrine_artifact::settings::{MemoryStyle, SMALL_MEMORY_BYTES, Settings};
use peregrine_sys::address_space::AddressSpace;
use peregrine_sys::pages::{Reservation, page_size};
use peregrine_wasm::{DefinedMemoryIndex, Index, MemoryIndex, MemoryType};
use std::sync::Arc;

/// Address space for a checked memory that may grow without a limit of its own and cannot move: growing beyond it fails.
const FIXED_RESERVATION_BYTES: u64 = 16 << 30;
/// From this much address space on, 4 GiB for each memory are no matter.
const ROOMY_BYTES: u64 = 1 << 40;
/// What a memory gets at first where address space is short.
const SHORT_RESERVATION_BYTES: u64 = SMALL_MEMORY_BYTES;
/// Room for growth that a memory gets when it moves, unless the embedder said how much: as much as it has, within these bounds.
const GROWTH_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 30);
/// Elements that a table can grow to, if its type says no less: what the engine's budget allows, within these bounds. Of functions they take as
/// much address space as a guarded memory at most.
const MOST_TABLE_ELEMENTS: std::ops::RangeInclusive<u64> = (1 << 24)..=(1 << 29);

/// Where address space is short, a table without a maximum gets one part in so many of what a memory would.
const TABLES_TO_A_SHARE: u64 = 32;

/// What an engine knows of the address space it may use, and where it uses it.
#[derive(Debug)]
pub(crate) struct AddressRoom {
    space: AddressSpace,
    /// Room for growth, in bytes, if the embedder said how much.
    growth_bytes: Option<u64>,
    /// Elements that a table can grow to.
    table_elements: u64,
    /// Where its memories and tables are.
    mappings: Arc<Mappings>,
}

/// What a memory needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryPlan {
    /// Bytes of address space with the guard. Everything that is not accessible faults.
    pub(super) guarded_bytes: Option<usize>,
    /// Bytes of address space without a guard, if there is enough.
    pub(super) wanted_bytes: usize,
    /// Whether it may move.
    pub(super) may_move: bool,
}

impl AddressRoom {
    /// Measures what there is. `growth_bytes` is what the embedder wants moved memories to have for growth; `table_elements` is what the budget
    /// of a store allows.
    pub(crate) fn measure(growth_bytes: Option<u64>, table_elements: usize) -> Self {
        let table_elements = (table_elements as u64).clamp(*MOST_TABLE_ELEMENTS.start(), *MOST_TABLE_ELEMENTS.end());
        Self { space: AddressSpace::measure(), growth_bytes, table_elements, mappings: Arc::default() }
    }

    /// Where the engine's memories and tables are.
    pub(crate) fn mappings(&self) -> &Arc<Mappings> {
        &self.mappings
    }

    /// The address space of the process.
    pub(crate) fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// The reservation of 32-bit memories that suits the machine.
    pub(crate) fn memory_reservation_bytes(&self) -> u64 {
        if self.is_roomy() { 4 << 30 } else { SHORT_RESERVATION_BYTES }
    }

    /// Whether nobody needs to be frugal.
    fn is_roomy(&self) -> bool {
        self.space.available_bytes() >= ROOMY_BYTES
    }

    /// The most that one thing may take without being asked to grow that far.
    fn share_bytes(&self) -> u64 {
        if self.is_roomy() { u64::MAX } else { self.space.available_bytes() / 32 }
    }

    /// Address space that warm instances may take.
    pub(crate) fn idle_bytes(&self) -> u64 {
        self.space.available_bytes() / 4
    }

    /// Bytes of address space for the elements of a table, of which there are `min` at first. Tables do not move.
    pub(super) fn table_bytes(&self, min: u64, max: Option<u64>, element_bytes: u64) -> u64 {
        let most = max.unwrap_or(u64::MAX).min(self.table_elements).saturating_mul(element_bytes);
        most.min(self.share_bytes() / TABLES_TO_A_SHARE).max(min.saturating_mul(element_bytes))
    }

    /// Bytes of address space for a memory that moves to have `bytes`: with room for growth.
    pub(super) fn grown_bytes(&self, bytes: u64, ty: &MemoryType) -> u64 {
        let room = self.growth_bytes.unwrap_or_else(|| bytes.clamp(*GROWTH_BYTES.start(), *GROWTH_BYTES.end()));
        bytes.saturating_add(room).min(ty.max_bytes()).max(bytes)
    }

    /// Whether others than the module can have the memory: it is exported, or the host made it.
    pub(super) fn is_shown(&self, (module, index): (&LoadedModule, DefinedMemoryIndex)) -> bool {
        module.settings().is_none() || module.module().exported_memories.contains(&in_module(module, index))
    }

    /// What a memory that `module` defines needs.
    pub(super) fn memory_plan(
        &self,
        settings: &Settings,
        (module, index): (&LoadedModule, DefinedMemoryIndex),
        ty: &MemoryType,
    ) -> MemoryPlan {
        let description = module.module();
        let is_hosts = module.settings().is_none();
        let style = match description.memories.get(in_module(module, index)) {
            Some(_) => settings.memory_style(description, in_module(module, index)),
            // A shared memory of the host's, which has no module.
            None => MemoryStyle::Exact,
        };
        // Who imports a memory that cannot move may rely on the guard.
        let guarded = match style {
            MemoryStyle::Guarded => true,
            MemoryStyle::Exact => settings.may_be_guarded(ty) && (ty.shared || self.is_shown((module, index))),
            MemoryStyle::Small => false,
        };
        let may_move = match style {
            MemoryStyle::Small => true,
            // No code relies on it yet.
            MemoryStyle::Guarded => is_hosts && settings.memory_may_move && !ty.shared,
            MemoryStyle::Exact => false,
        };
        let max_bytes = ty.max_bytes();
        let wanted = match style {
            MemoryStyle::Small if max_bytes <= SMALL_MEMORY_BYTES => max_bytes,
            // Where there is room for everything, it moves often enough to what it needs.
            MemoryStyle::Small if settings.memory_reservation_bytes >= 4 << 30 => 0,
            MemoryStyle::Small => max_bytes.min(settings.memory_reservation_bytes),
            // What threads share must have what it says.
            _ if ty.shared => max_bytes.min(FIXED_RESERVATION_BYTES),
            _ => max_bytes.min(FIXED_RESERVATION_BYTES).min(self.share_bytes()),
        };
        MemoryPlan { guarded_bytes: guarded.then(|| reach_bytes(settings)), wanted_bytes: round_up(wanted), may_move }
    }

    /// Reserves for a memory of `min_bytes` at first. Says whether it is guarded.
    ///
    /// # Errors
    ///
    /// If there is not so much, with what limits it.
    pub(super) fn reserve(&self, plan: &MemoryPlan, min_bytes: usize) -> anyhow::Result<(Reservation, bool)> {
        if let Some(bytes) = plan.guarded_bytes {
            match Reservation::new(bytes.max(round_up(min_bytes as u64))) {
                Ok(reservation) => return Ok((reservation, true)),
                Err(_) if plan.may_move => {}
                Err(error) => return Err(self.no_room(error, bytes)),
            }
        }
        let needed = round_up(min_bytes as u64).max(page_size());
        let mut wanted = plan.wanted_bytes.max(needed);
        loop {
            match Reservation::new(wanted) {
                Ok(reservation) => return Ok((reservation, false)),
                Err(_) if wanted > needed => wanted = round_up((wanted / 2) as u64).max(needed),
                Err(error) => return Err(self.no_room(error, needed)),
            }
        }
    }

    /// The error of who asked for `bytes` that are not there.
    pub(super) fn no_room(&self, error: std::io::Error, bytes: usize) -> anyhow::Error {
        let short = self.space.available_bytes() < ROOMY_BYTES;
        let advice = if bytes >= 4 << 30 {
            "; with `Config::memory_reservation(0)` memories take no more than they hold"
        } else if short {
            "; raise it, or drop instances"
        } else {
            ", and mappings may be limited by `vm.max_map_count` and `vm.overcommit_memory`"
        };
        let now = AddressSpace::measure();
        anyhow::Error::new(error).context(format!("cannot reserve {bytes:#x} bytes of address space for a memory or table: {now}{advice}"))
    }
}

/// The number that a defined memory has in its module.
fn in_module(module: &LoadedModule, index: DefinedMemoryIndex) -> MemoryIndex {
    MemoryIndex::from_usize(module.module().imported_memories as usize + index.as_usize())
}

/// Bytes of address space that code which relies on a guard can reach.
pub(super) fn reach_bytes(settings: &Settings) -> usize {
    settings.memory_reservation_bytes.max(4 << 30) as usize + round_up(settings.memory_guard_bytes)
}

/// `bytes` rounded up to pages of the host. Callers stay far below the end of the address space.
pub(super) fn round_up(bytes: u64) -> usize {
    (bytes as usize).next_multiple_of(page_size())
}
