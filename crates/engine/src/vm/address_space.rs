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
        Self { space: measured_space(), growth_bytes, table_elements, mappings: Arc::default() }
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
        let now = measured_space();
        let advice = if bytes >= 4 << 30 {
            "; with `Config::memory_reservation(0)` memories take no more than they hold"
        } else if self.is_roomy() {
            ", and mappings may be limited by `vm.max_map_count` and `vm.overcommit_memory`"
        } else if now.available_bytes() < now.size_bytes {
            "; raise it, or drop instances"
        } else {
            "; drop instances"
        };
        anyhow::Error::new(error).context(format!("cannot reserve {bytes:#x} bytes of address space for a memory or table: {now}{advice}"))
    }
}

/// The address space of the process, as it is now. In tests, that of another machine, if the thread asks for one.
fn measured_space() -> AddressSpace {
    #[cfg(test)]
    if let Some(space) = tests::SPACE.get() {
        return space;
    }
    AddressSpace::measure()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, Instance, Module, Store};
    use peregrine_artifact::compiler::Compiler;
    use peregrine_compile::ImageCompiler;
    use peregrine_optimizing::Optimizing;
    use std::cell::Cell;
    use std::io::Error;

    thread_local! {
        /// What is measured in place of the machine's address space.
        pub(super) static SPACE: Cell<Option<AddressSpace>> = const { Cell::new(None) };
    }

    /// What programs have where addresses have 39 bits, of which the system keeps one half for itself.
    const SHORT: AddressSpace = AddressSpace { size_bytes: 1 << 38, limit_bytes: None };
    /// What they have on this machine's relatives.
    const ROOMY: AddressSpace = AddressSpace { size_bytes: 1 << 47, limit_bytes: None };

    /// An engine of a machine with so much address space: it, and all that this thread makes from now on.
    fn engine_in(space: AddressSpace, change: impl FnOnce(&mut crate::Config)) -> Engine {
        SPACE.set(Some(space));
        let mut config = crate::Config::new();
        change(&mut config);
        Engine::new(&config).expect("a configuration for every machine")
    }

    /// Compiles for `engine`: no compiler is linked into these tests.
    fn image(engine: &Engine, text: &str) -> Vec<u8> {
        let compiler = ImageCompiler::new(Arc::new(Optimizing));
        let wasm = compiler.to_binary(text.as_bytes()).expect("good text");
        let target = compiler.target(None).expect("this machine is supported");
        compiler.compile(&wasm, &Settings { target, ..engine.whole_settings().clone() }, &()).expect("a valid module")
    }

    fn module(engine: &Engine, text: &str) -> Module {
        // SAFETY: the image was just made.
        unsafe { Module::deserialize(engine, image(engine, text)) }.expect("an image for this engine")
    }

    /// What the only memory of a module needs.
    fn plan(engine: &Engine, text: &str) -> (Option<usize>, usize, bool) {
        let module = module(engine, text);
        let ty = module.loaded().module().memories[MemoryIndex::from_u32(0)];
        let images = (&**module.loaded(), DefinedMemoryIndex::from_u32(0));
        let plan = engine.shared().room.memory_plan(engine.settings(), images, &ty);
        (plan.guarded_bytes, plan.wanted_bytes, plan.may_move)
    }

    #[test]
    fn memories_are_small_where_addresses_have_39_bits() {
        const MIB: usize = 1 << 20;
        let short = engine_in(SHORT, |_| ());
        assert_eq!(short.settings().memory_reservation_bytes, 1 << 20);
        assert_eq!(plan(&short, "(module (memory 1))"), (None, MIB, true));
        assert_eq!(plan(&short, "(module (memory 20) (func (drop (memory.grow (i32.const 1)))))"), (None, MIB, true));
        assert_eq!(plan(&short, "(module (memory 1 3))"), (None, 3 << 16, false));
        assert_eq!(plan(&short, "(module (memory 1 65536 shared))"), (None, 4 << 30, false));
        // What cannot move has all that it may grow to, up to a part of what there is.
        let fixed = engine_in(SHORT, |config| _ = config.memory_may_move(false));
        assert_eq!(plan(&fixed, "(module (memory 1))"), (None, 4 << 30, false));
        assert_eq!(plan(&fixed, "(module (memory i64 1))"), (None, 8 << 30, false));
        let room = &short.shared().room;
        assert_eq!((room.table_bytes(10, None, 8), room.table_bytes(10, Some(20), 8)), (256 << 20, 160));
        assert_eq!((room.table_bytes(10, None, 1 << 20), room.table_bytes(1 << 10, None, 1 << 20)), (256 << 20, 1 << 30));
        assert_eq!(room.idle_bytes(), 64 << 30);

        let roomy = engine_in(ROOMY, |_| ());
        assert_eq!(roomy.settings().memory_reservation_bytes, 4 << 30);
        let guarded = plan(&roomy, "(module (memory 20) (func (drop (memory.grow (i32.const 1)))))");
        assert_eq!((guarded.0.is_some_and(|bytes| bytes > 4 << 30), guarded.2), (true, false));
        assert!(roomy.shared().room.table_bytes(10, None, 1 << 20) >= 1 << 44);
        assert_eq!(roomy.shared().room.idle_bytes(), 1 << 45);
    }

    /// Guests work there, and what they reserve is what they need.
    #[test]
    fn guests_run_where_addresses_have_39_bits() {
        let engine = engine_in(SHORT, |_| ());
        let module = module(
            &engine,
            r#"(module (memory (export "memory") 20) (data (i32.const 60000) "data")
                (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
                (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))"#,
        );
        let mut stores = Vec::new();
        // Guarded, so many would take more than there is.
        for _ in 0..100 {
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[]).expect("an instance");
            stores.push((store, instance));
        }
        let reserved = engine.metrics().reserved_bytes;
        assert!((100 * (20 << 16)..=200 << 20).contains(&reserved), "{reserved:#x}");
        let (store, instance) = &mut stores[50];
        let mut call = |name: &str, argument: i32| {
            let function = instance.get_typed_func::<i32, i32>(&mut *store, name).expect("it is exported");
            function.call(&mut *store, argument).map_err(|error| error.downcast_ref().copied())
        };
        assert_eq!(call("load", 20 << 16), Err(Some(peregrine_wasm::Trap::MemoryOutOfBounds)));
        assert_eq!((call("grow", 980), call("load", 60_000)), (Ok(20), Ok(i32::from_le_bytes(*b"data"))));
        assert_eq!((call("load", (1000 << 16) - 4), call("load", -4)), (Ok(0), Err(Some(peregrine_wasm::Trap::MemoryOutOfBounds))));
    }

    /// The most that is kept warm depends on what there is.
    #[test]
    fn few_large_instances_stay_warm_where_addresses_have_39_bits() {
        let warm_after_fifty = |space| {
            let engine = engine_in(space, |_| ());
            let module = module(&engine, "(module (memory 16384))");
            let mut stores = Vec::new();
            for _ in 0..50 {
                let mut store = Store::new(&engine, ());
                Instance::new(&mut store, &module, &[]).expect("an instance");
                stores.push(store);
            }
            drop(stores);
            let metrics = engine.metrics();
            assert_eq!(metrics.slots_idle + metrics.slots_surplus, 50, "{metrics:?}");
            metrics
        };
        let short = warm_after_fifty(SHORT);
        assert!(short.slots_idle > 0 && short.slots_idle_reserved_bytes <= 64 << 30, "{short:?}");
        assert!(short.slots_surplus > 0, "{short:?}");
        assert_eq!(warm_after_fifty(ROOMY).slots_idle, 50);
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_there_is() {
        let no_room = |engine: &Engine, bytes| {
            let error = engine.shared().room.no_room(Error::from_raw_os_error(libc::ENOMEM), bytes);
            format!("{error:#}")
        };
        let guarded = image(&engine_in(ROOMY, |_| ()), "(module (memory 20) (func (drop (memory.grow (i32.const 1)))))");
        let short = engine_in(SHORT, |_| ());
        assert!(no_room(&short, 1 << 20).contains("processes of this machine have 256 GiB of address space; drop instances"));
        assert!(no_room(&short, 4 << 30).contains("256 GiB of address space; with `Config::memory_reservation(0)`"));
        // SAFETY: the image was just made.
        let refused = unsafe { Module::deserialize(&short, &guarded) }.expect_err("it needs guards").to_string();
        let expected = "reserves 1024 KiB (processes of this machine have 256 GiB of address space)";
        assert!(refused.contains(expected) && refused.contains("memory-reservation=0"), "{refused}");
        let limited = engine_in(AddressSpace { limit_bytes: Some(1 << 34), ..SHORT }, |_| ());
        assert!(no_room(&limited, 1 << 20).contains("`ulimit -v` (RLIMIT_AS) is 16777216 KiB; raise it, or drop instances"));
        let roomy = engine_in(ROOMY, |_| ());
        assert!(
            no_room(&roomy, 1 << 20).contains("131072 GiB of address space, and mappings may be limited"),
            "{}",
            no_room(&roomy, 1 << 20)
        );
    }
}
