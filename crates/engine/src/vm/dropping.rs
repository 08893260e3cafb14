//! Dropping one instance of a store that goes on: what may still refer to it, and which function references are good afterwards.
//!
//! Instances are referred to by the imports of others, which are counted, and by function references in tables and globals, which are
//! looked for. Handles of the API are neither: each carries the number of drops that its store had seen when it was made, and is checked when it
//! is older than the last one.

use super::instance::{FuncId, InstanceId, VmInstance};
use super::store::VmStore;
use peregrine_artifact::vmctx::FUNC_ELEMENT_INITIALIZED;
use peregrine_wasm::{DefinedGlobalIndex, Index, Module, ValType};
use std::collections::BTreeMap;
use std::ops::Range;

/// The most instances that one store drops: handles have so many bits to tell.
pub(crate) const MOST_DROPS: u64 = (1 << 24) - 1;

/// Where function references of a store may be: the contexts of its instances and host functions, by their addresses. Made when the first
/// instance is dropped: before that every reference is good.
#[derive(Default)]
pub(super) struct Alive(Option<BTreeMap<usize, Home>>);

/// A piece of memory with references in it.
struct Home {
    len_bytes: usize,
    /// How many drops the store had seen when it became what it is.
    born: u64,
}

impl Alive {
    /// Notes a piece of memory.
    pub(super) fn add(&mut self, range: Range<usize>, born: u64) {
        if let Some(homes) = &mut self.0
            && !range.is_empty()
        {
            homes.insert(range.start, Home { len_bytes: range.len(), born });
        }
    }

    fn remove(&mut self, range: &Range<usize>) {
        if let Some(homes) = &mut self.0 {
            homes.remove(&range.start);
        }
    }

    /// Whether what was at `address` when the store had seen `drops` drops is still there.
    fn contains(&self, address: usize, drops: u64) -> bool {
        let Some(homes) = &self.0 else { return true };
        let home = homes.range(..=address).next_back();
        home.is_some_and(|(start, home)| address - start < home.len_bytes && home.born <= drops)
    }
}

/// What an instance counts for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) tables: usize,
    pub(crate) memories: usize,
    pub(crate) memory_bytes: usize,
    pub(crate) table_elements: usize,
    pub(crate) host_bytes: usize,
}

impl VmStore {
    /// How many instances there are, those that own adopted memories included.
    pub(crate) fn live_instances_count(&self) -> u64 {
        self.instances_made() - self.drops - self.adopted.dropped
    }

    /// How many instances were dropped.
    pub(crate) fn drops(&self) -> u64 {
        self.drops
    }

    /// Whether instance `id` is the one that had this number when `drops` instances were dropped.
    pub(crate) fn is_alive(&self, id: InstanceId, drops: u64) -> bool {
        self.find_instance(id).is_some_and(|instance| instance.born <= drops)
    }

    /// Whether the function that was at `address` when `drops` instances were dropped is still there: a reference to it, or its context.
    pub(crate) fn is_function_alive(&self, address: u64, drops: u64) -> bool {
        self.alive.contains(address as usize, drops)
    }

    /// Drops an instance, unless a guest is running or something refers to the instance.
    ///
    /// # Errors
    ///
    /// Says what refers to it.
    pub(crate) fn drop_instance(&mut self, id: InstanceId) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.context.exit_fp == 0,
            "an instance cannot be dropped while a guest of its store runs: it may be in a call, or referred to"
        );
        anyhow::ensure!(
            self.drops < MOST_DROPS,
            "the store has dropped {MOST_DROPS} instances, and one store drops no more: handles have {} bits to tell; make a new store",
            MOST_DROPS.count_ones()
        );
        self.check_unused(id)?;
        self.remove_instance(id);
        Ok(())
    }

    /// Drops an instance that did not come about, unless something refers to it. Nothing of it is under way.
    pub(crate) fn discard_instance(&mut self, id: InstanceId) -> bool {
        let is_unused = self.drops < MOST_DROPS && self.check_unused(id).is_ok();
        if is_unused {
            self.remove_instance(id);
        }
        is_unused
    }

    /// Checks that nothing in the store refers to an instance.
    fn check_unused(&self, id: InstanceId) -> anyhow::Result<()> {
        let instance = self.instance(id);
        let others = || self.live_instances().filter(|other| other.id() != id);
        if instance.importers != 0
            && let Some((other, what)) = others().find_map(|other| Some((other, other.imports_of(id)?)))
        {
            anyhow::bail!("the instance is in use: {} imports {what} of it; drop that first", described(other));
        }
        // References that were never made are nowhere.
        if !instance.has_references() {
            return Ok(());
        }
        let homes = instance.homes();
        let is_one = |bits: u64| homes.iter().any(|home| home.contains(&((bits & !FUNC_ELEMENT_INITIALIZED) as usize)));
        for other in others().filter(|other| may_hold_references(other.module().module())) {
            if let Some((position, _)) = other.tables.values().enumerate().find(|(_, table)| table.is_func() && table.any_stored(is_one)) {
                anyhow::bail!(
                    "the instance is in use: an element of table {position} of {} is a function of it; overwrite it first",
                    described(other)
                );
            }
            if other.function_globals().any(is_one) {
                anyhow::bail!("the instance is in use: a global of {} is a function of it; overwrite it first", described(other));
            }
        }
        Ok(())
    }

    /// Forgets an instance that nothing refers to, and gives back what it had.
    fn remove_instance(&mut self, id: InstanceId) {
        if self.alive.0.is_none() {
            self.alive.0 = Some(BTreeMap::new());
            let homes: Vec<_> = self.live_instances().flat_map(|instance| instance.homes().map(|home| (home, instance.born))).collect();
            homes.into_iter().for_each(|(home, born)| self.alive.add(home, born));
            let functions: Vec<_> = self.host_func_homes().collect();
            functions.into_iter().for_each(|home| self.alive.add(home, 0));
        }
        self.drops += 1;
        let Some(instance) = self.take_instance(id) else { return };
        self.forget_homes(&instance);
        for owner in instance.owners_of_imports() {
            self.instance_mut(owner).importers -= 1;
            self.release_adopted(owner);
        }
        self.give_back(instance);
    }

    /// Notes that there will be no references where those of an instance were.
    pub(super) fn forget_homes(&mut self, instance: &VmInstance) {
        for home in instance.homes() {
            self.alive.remove(&home);
        }
    }

    /// Counts what a new instance imports of others.
    pub(super) fn count_imports(&mut self, instance: &VmInstance) {
        for owner in instance.owners_of_imports() {
            self.instance_mut(owner).importers += 1;
        }
        let drops = self.drops;
        for home in instance.homes() {
            self.alive.add(home, drops);
        }
    }
}

impl VmInstance {
    /// What it counts for.
    pub(crate) fn held(&self) -> Held {
        Held {
            tables: self.tables.len(),
            memories: self.memories.len(),
            memory_bytes: self.memories.values().map(|memory| memory.charged_bytes()).sum(),
            table_elements: self.tables.values().map(|table| table.len() as usize).sum(),
            host_bytes: self.module().instance_bytes(),
        }
    }

    /// The instances that own what this one imports, each as often as it is imported from.
    fn owners_of_imports(&self) -> Vec<InstanceId> {
        let origins = &self.origins;
        let functions = origins.functions.values().filter_map(|function| match function {
            FuncId::Wasm(owner, _) => Some(*owner),
            FuncId::Host(_) => None,
        });
        let tables = origins.tables.values().map(|(owner, _)| *owner);
        let memories = origins.memories.values().map(|(owner, _)| *owner);
        let globals = origins.globals.values().map(|(owner, _)| *owner);
        functions.chain(tables).chain(memories).chain(globals).collect()
    }

    /// What it imports of instance `id`, if anything.
    fn imports_of(&self, id: InstanceId) -> Option<&'static str> {
        let origins = &self.origins;
        let function = |function: &FuncId| matches!(function, FuncId::Wasm(owner, _) if *owner == id);
        if origins.functions.values().any(function) {
            return Some("a function");
        }
        if origins.tables.values().any(|(owner, _)| *owner == id) {
            return Some("a table");
        }
        if origins.memories.values().any(|(owner, _)| *owner == id) {
            return Some("a memory");
        }
        origins.globals.values().any(|(owner, _)| *owner == id).then_some("a global")
    }

    /// The bits of its own globals that are functions.
    fn function_globals(&self) -> impl Iterator<Item = u64> {
        let module = self.module();
        let description = module.module();
        let globals = description.globals.values().skip(description.imported_globals as usize).enumerate();
        let functions = globals.filter(|(_, global)| is_function(&global.ty.content)).map(|(position, _)| position);
        let positions: Vec<usize> = functions.collect();
        positions.into_iter().map(|position| {
            // SAFETY: the global is part of this instance's context, and no code of its store runs.
            let global = unsafe { self.global(DefinedGlobalIndex::from_usize(position)).read() };
            u64::from_le_bytes(global.bytes.first_chunk().copied().unwrap_or_default())
        })
    }
}

/// Whether a value of type `ty` may be a function.
fn is_function(ty: &ValType) -> bool {
    matches!(ty, ValType::Ref(reference) if reference.heap.is_func())
}

/// Whether an instance of the module may have references to functions of others: not if nothing that comes from outside is one.
fn may_hold_references(module: &Module) -> bool {
    let has_places = module.tables.values().any(|table| table.ty.element.heap.is_func())
        || module.globals.values().any(|global| is_function(&global.ty.content));
    // Types that are not of functions at the border are counted too, which does no harm.
    let shares = module.types.values().any(|ty| ty.params.iter().chain(ty.results.iter()).any(is_function));
    let is_shown = |entity: &peregrine_wasm::EntityIndex| match entity {
        peregrine_wasm::EntityIndex::Table(index) => module.tables[*index].ty.element.heap.is_func(),
        peregrine_wasm::EntityIndex::Global(index) => is_function(&module.globals[*index].ty.content),
        _ => false,
    };
    let entities = module.imports.iter().map(|import| &import.entity).chain(module.exports.iter().map(|export| &export.entity));
    // What the host makes has neither, and anybody may have it.
    has_places && (shares || entities.into_iter().any(is_shown) || module.exports.is_empty())
}

/// An instance, for an error.
fn described(instance: &VmInstance) -> String {
    let module = instance.module();
    match (module.settings(), &module.module().name) {
        (None, _) => "something of the host's".to_owned(),
        (_, Some(name)) => format!("an instance of `{name}`"),
        (_, None) => "an instance of a module without a name".to_owned(),
    }
}
