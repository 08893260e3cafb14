//! From a loaded module and its imports to an instance. Core specification, section 4.5.4; the start function is left to the API.

use super::address_space::reach_bytes;
use super::alloc::Counting;
use super::alloc::lease::ModuleSource;
use super::code::LoadedModule;
use super::instance::{FuncId, InstanceId, VmInstance};
use super::memory::{Memory, check_range};
use super::owned_instance::OwnedInstance;
use super::pending::Pending;
use super::references;
use super::shared_memory::{InstanceMemory, SharedMemory};
use super::store::{Kept, VmStore, is_no_room};
use super::store_host::StoreHost;
use super::table::Table;
use anyhow::Context as _;
use peregrine_artifact::settings::MemoryStyle;
use peregrine_artifact::vmctx::{VmFunctionImport, VmGlobal};
use peregrine_wasm::{
    ConstExpr, ConstOp, DataIndex, DefinedGlobalIndex, DefinedMemoryIndex, DefinedTableIndex, ElementIndex, ElementItems, ElementMode,
    EntityIndex, FuncIndex, GlobalIndex, GlobalType, Index, MemoryIndex, MemoryType, Module, TableIndex, TableType, Trap,
};
use std::ptr::NonNull;
use std::sync::Arc;

/// What fills one import. Its type has been checked.
#[derive(Clone, Debug)]
pub(crate) enum VmImport {
    /// A function.
    Func(FuncId),
    /// A table and its owner.
    Table(InstanceId, DefinedTableIndex),
    /// A memory and its owner.
    Memory(InstanceId, DefinedMemoryIndex),
    /// A memory that belongs to no store, or to several. It becomes one of this store when the instance is made.
    Shared(Arc<SharedMemory>),
    /// A global and its owner.
    Global(InstanceId, DefinedGlobalIndex),
}

impl VmStore {
    /// Makes an instance of `module`: memories, tables, globals and segments, in the order of the specification. The start function is
    /// not called.
    ///
    /// # Errors
    ///
    /// A trap of a segment that does not fit or of an interruption (what was written before stays written), a refusal of the limits, or an error
    /// of the system.
    pub(crate) fn instantiate<'a>(&mut self, module: impl Into<ModuleSource<'a>>, imports: &[VmImport]) -> Result<InstanceId, Pending> {
        let id = self.create(module.into(), imports).map_err(|error| Pending::Error(error, Vec::new()))?;
        let mut pace = Pace::default();
        let initialized = self.initialize_tables(id, &mut pace);
        let initialized =
            initialized.and_then(|()| self.run_element_segments(id, &mut pace)).and_then(|()| self.run_data_segments(id, &mut pace));
        if let Err(trap) = initialized {
            // Functions of it that were written to tables stay, and it with them.
            self.discard_instance(id);
            return Err(Pending::Trap(trap, Vec::new()));
        }
        Ok(id)
    }

    /// Makes a memory that belongs to the host.
    pub(crate) fn new_host_memory(&mut self, ty: MemoryType) -> anyhow::Result<InstanceId> {
        let mut module = Module::default();
        module.memories.push(ty);
        let index = MemoryIndex::from_u32(0);
        (module.exported_memories, module.grown_memories) = (vec![index], vec![index]);
        self.create_for_host(module)
    }

    /// Makes a table that belongs to the host, with all elements `element`.
    pub(crate) fn new_host_table(&mut self, ty: TableType, element: u64) -> anyhow::Result<InstanceId> {
        let mut module = Module::default();
        module.tables.push(peregrine_wasm::Table { ty, init: None });
        let id = self.create_for_host(module)?;
        // Null is what they are already, without a page of physical memory.
        if element != 0 {
            let table = self.instance_mut(id).table_mut(DefinedTableIndex::from_u32(0));
            table.fill(0, element, ty.min).expect("a table holds its minimum");
        }
        Ok(id)
    }

    /// Makes a global that belongs to the host. The value is zero.
    pub(crate) fn new_host_global(&mut self, ty: GlobalType) -> anyhow::Result<InstanceId> {
        let mut module = Module::default();
        module.globals.push(peregrine_wasm::Global { ty, init: None });
        self.create_for_host(module)
    }

    fn create_for_host(&mut self, module: Module) -> anyhow::Result<InstanceId> {
        let module = LoadedModule::without_code(module, &self.shared().types);
        self.create(ModuleSource::Own(&module), &[])
    }

    /// Makes an instance up to its globals.
    fn create(&mut self, source: ModuleSource<'_>, imports: &[VmImport]) -> anyhow::Result<InstanceId> {
        let adopted = self.adopt_imports(imports);
        let created = self.create_importing(source, adopted.as_deref().unwrap_or(imports));
        if created.is_err() && adopted.is_some() {
            self.release_unused();
        }
        created
    }

    /// As [`create`](Self::create), of imports that the store owns.
    fn create_importing(&mut self, source: ModuleSource<'_>, imports: &[VmImport]) -> anyhow::Result<InstanceId> {
        let loaded = source.loaded();
        self.ask_for_minima(loaded.module())?;
        self.prepare_memories(loaded, imports)?;
        let kept = self.keep(source);
        let (number, is_new) = (kept.number, kept.is_new);
        let id = self.next_instance();
        let (mut instance, what) = self.make(id, kept).inspect_err(|_| {
            self.give_nothing(number);
            if is_new {
                self.unkeep(number);
            }
        })?;
        self.fill_imports(&mut instance, imports);
        self.push_instance(instance, what);
        self.initialize_globals(id);
        Ok(id)
    }

    /// An instance with its memories and tables, a warm one if there is one, and what it counts as.
    fn make(&mut self, id: InstanceId, kept: Kept) -> anyhow::Result<(OwnedInstance, Counting)> {
        let number = kept.number;
        let module = self.kept_module(number);
        let header = self.instance_header(id, &module);
        if let Some(mut instance) = kept.warm {
            instance.renew(id, number, header);
            return Ok((instance, Counting::SlotsWarm));
        }
        let instance = self.make_where_room_is(|| OwnedInstance::new(id, (number, module), header))?;
        Ok((instance, self.cold(number)))
    }

    /// Makes memories that are imported what the importing code relies on.
    fn prepare_memories(&mut self, module: &LoadedModule, imports: &[VmImport]) -> anyhow::Result<()> {
        let Some(settings) = module.settings() else { return Ok(()) };
        let description = module.module();
        let may_move = self.memories_may_move();
        for (import, imported) in imports.iter().zip(&description.imports) {
            let (&VmImport::Memory(owner, defined), EntityIndex::Memory(index)) = (import, imported.entity) else { continue };
            let reach_bytes = reach_bytes(settings);
            match settings.memory_style(description, index) {
                MemoryStyle::Guarded => {
                    let mut guarded = self.instance_mut(owner).memory_mut(defined).guard(reach_bytes, may_move);
                    let no_room = guarded.as_ref().err().and_then(|error| error.downcast_ref()).is_some_and(is_no_room);
                    if no_room && self.shared().give_up_warm() {
                        guarded = self.instance_mut(owner).memory_mut(defined).guard(reach_bytes, may_move);
                    }
                    guarded.with_context(|| format!("cannot import the memory `{}` of `{}`", imported.name, imported.module))?;
                }
                MemoryStyle::Exact => self.instance_mut(owner).memory_mut(defined).pin(),
                MemoryStyle::Small => {}
            }
        }
        Ok(())
    }

    /// Asks the limits for the memories and tables of a new instance.
    fn ask_for_minima(&mut self, description: &Module) -> anyhow::Result<()> {
        for ty in description.memories.values().skip(description.imported_memories as usize) {
            let min_bytes = ty.min_bytes().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
            let max_bytes = ty.max_pages.map(|_| ty.max_bytes() as usize);
            self.ask(
                |host| host.memory_growing(0, min_bytes, max_bytes),
                || format!("memory minimum size of {} pages exceeds memory limits", ty.min_pages),
            )?;
        }
        for table in description.tables.values().skip(description.imported_tables as usize) {
            let ty = table.ty;
            let max = ty.max.map(|max| max as usize);
            self.ask(
                |host| host.table_growing(0, ty.min as usize, max),
                || format!("table minimum size of {} elements exceeds table limits", ty.min),
            )?;
        }
        Ok(())
    }

    /// As [`make_cold`](Self::make_cold). Where the system has no room, warm instances make some.
    fn make_where_room_is(&mut self, new: impl Fn() -> OwnedInstance) -> anyhow::Result<OwnedInstance> {
        match self.make_cold(new()) {
            Err(error) if error.downcast_ref().is_some_and(is_no_room) && self.shared().give_up_warm() => self.make_cold(new()),
            made => made,
        }
    }

    /// Maps the memories and tables of a new instance.
    fn make_cold(&mut self, mut instance: OwnedInstance) -> anyhow::Result<OwnedInstance> {
        let module = instance.module();
        let description = module.module();
        let shared = self.shared();
        let settings = module.settings().unwrap_or(&shared.settings);
        for (position, ty) in description.memories.values().skip(description.imported_memories as usize).enumerate() {
            let index = DefinedMemoryIndex::from_usize(position);
            if ty.shared {
                let memory = SharedMemory::new(*ty, (settings, &shared.room), (&module, index))?;
                let charged_bytes = memory.len_bytes();
                instance.add_shared_memory(memory, charged_bytes);
                continue;
            }
            let cell = instance.at(module.vm_layout().memory(index));
            let memory = match shared.memory_creator.get() {
                // SAFETY: the cell is in the context, which lives as long as the instance and its memories.
                None => unsafe { Memory::new(*ty, (settings, &shared.room), (&module, index), cell)? },
                // SAFETY: as above.
                Some(creator) => unsafe { Memory::lent(&**creator, *ty, (settings, &shared.room), (&module, index), cell)? },
            };
            instance.memories.push(InstanceMemory::Own(memory));
        }
        for (position, table) in description.tables.values().skip(description.imported_tables as usize).enumerate() {
            let cell = instance.at(module.vm_layout().table(DefinedTableIndex::from_usize(position)));
            // SAFETY: as for memories.
            let table = unsafe { Table::new(table.ty, &shared.room, cell)? };
            instance.tables.push(table);
        }
        Ok(instance)
    }

    fn ask(
        &mut self,
        question: impl FnOnce(&mut dyn StoreHost) -> anyhow::Result<bool>,
        refusal: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let Some(mut host) = self.host() else { return Ok(()) };
        // SAFETY: the host's part lives as long as the store and is another object; nothing of it is borrowed here.
        let host = unsafe { host.as_mut() };
        if question(host)? { Ok(()) } else { Err(anyhow::anyhow!(host.budget_refusal().unwrap_or_else(refusal))) }
    }

    fn fill_imports(&mut self, instance: &mut VmInstance, imports: &[VmImport]) {
        let module = instance.module();
        let layout = module.vm_layout();
        // Of a warm instance they are empty and have the room that is needed.
        let mut origins = std::mem::take(&mut instance.origins);
        let mut host_imports = std::mem::take(&mut instance.host_imports);
        for (import, description) in imports.iter().zip(&module.module().imports) {
            match (import, description.entity) {
                (&VmImport::Func(function), EntityIndex::Function(index)) => {
                    if let FuncId::Host(number) = function {
                        let exit = module.stubs(module.module().functions[index].ty).1;
                        host_imports.push(self.host_func(number).bind(instance.context(), exit));
                    } else {
                        let func_ref = self.func_ref(function);
                        // SAFETY: the reference was just made or looked up in a live instance.
                        let (code, vmctx) = unsafe { (references::code(func_ref), (*func_ref.as_ptr()).vmctx) };
                        let filled = VmFunctionImport { code, vmctx, func_ref: func_ref.as_ptr() as u64 };
                        // SAFETY: the place is in the new instance's context.
                        unsafe { instance.at(layout.function_import(index)).write(filled) };
                    }
                    origins.functions.push(function);
                }
                (&VmImport::Table(owner, defined), EntityIndex::Table(index)) => {
                    let cell = self.instance(owner).table(defined).cell();
                    // SAFETY: as above.
                    unsafe { instance.at(layout.table_import(index)).write(cell.as_ptr() as u64) };
                    origins.tables.push((owner, defined));
                }
                (&VmImport::Memory(owner, defined), EntityIndex::Memory(index)) => {
                    let cell = self.instance(owner).memory(defined).cell();
                    // SAFETY: as above.
                    unsafe { instance.at(layout.memory_import(index)).write(cell.as_ptr() as u64) };
                    origins.memories.push((owner, defined));
                }
                (&VmImport::Global(owner, defined), EntityIndex::Global(index)) => {
                    let cell = self.instance(owner).global(defined);
                    // SAFETY: as above.
                    unsafe { instance.at(layout.global_import(index)).write(cell.as_ptr() as u64) };
                    origins.globals.push((owner, defined));
                }
                (import, entity) => unreachable!("the API checked that {import:?} is what {entity:?} asks for"),
            }
        }
        debug_assert_eq!(imports.len(), module.module().imports.len());
        instance.origins = origins;
        // From here on the bound functions stay where they are.
        instance.host_imports = host_imports;
        let host_indices = instance.origins.functions.iter().filter(|(_, function)| matches!(function, FuncId::Host(_)));
        let host_indices: Vec<FuncIndex> = host_indices.map(|(index, _)| index).collect();
        for (position, index) in host_indices.into_iter().enumerate() {
            let (context, func_ref) = instance.host_imports[position].settle();
            // SAFETY: a bound function was made with a reference inside of it.
            let code = unsafe { func_ref.as_ref() }.code;
            let filled = VmFunctionImport { code, vmctx: context as u64, func_ref: func_ref.as_ptr() as u64 };
            // SAFETY: as above.
            unsafe { instance.at(layout.function_import(index)).write(filled) };
        }
    }

    fn initialize_globals(&mut self, id: InstanceId) {
        let module = self.instance(id).module();
        let description = module.module();
        for (index, global) in description.globals.iter().skip(description.imported_globals as usize) {
            let Some(init) = &global.init else { continue };
            let value = self.evaluate(id, init);
            let Some(defined) = description.defined_global_index(index) else { continue };
            let place = self.instance(id).global(defined);
            // SAFETY: the place is in the instance's context.
            unsafe { place.write(VmGlobal { bytes: value.to_le_bytes() }) };
        }
    }

    fn initialize_tables(&mut self, id: InstanceId, pace: &mut Pace) -> Result<(), Trap> {
        let module = self.instance(id).module();
        let description = module.module();
        for (index, table) in description.tables.iter().skip(description.imported_tables as usize) {
            let Some(init) = &table.init else { continue };
            let element = self.evaluate(id, init) as u64;
            let Some(defined) = description.defined_table_index(index) else { continue };
            let len = self.instance(id).table(defined).len();
            pace.go(self, len, ELEMENT_BYTES, |store, offset, len| store.instance_mut(id).table_mut(defined).fill(offset, element, len))?;
        }
        Ok(())
    }

    /// The bits of a constant expression's value in an instance.
    pub(super) fn evaluate(&mut self, id: InstanceId, expression: &ConstExpr) -> u128 {
        let mut stack: Vec<u128> = Vec::with_capacity(2);
        for op in expression.ops() {
            let value = match *op {
                ConstOp::I32Const(value) => u128::from(value as u32),
                ConstOp::I64Const(value) => u128::from(value as u64),
                ConstOp::F32Const(bits) => u128::from(bits),
                ConstOp::F64Const(bits) => u128::from(bits),
                ConstOp::V128Const(bits) => bits,
                ConstOp::GlobalGet(index) => self.global_bits(id, index),
                ConstOp::RefNullFunc | ConstOp::RefNullExtern => 0,
                ConstOp::RefFunc(index) => self.instance_mut(id).func_ref(index).as_ptr() as u64 as u128,
                ConstOp::I32Add => binary(&mut stack, |a, b| u128::from((a as u32).wrapping_add(b as u32))),
                ConstOp::I32Sub => binary(&mut stack, |a, b| u128::from((a as u32).wrapping_sub(b as u32))),
                ConstOp::I32Mul => binary(&mut stack, |a, b| u128::from((a as u32).wrapping_mul(b as u32))),
                ConstOp::I64Add => binary(&mut stack, |a, b| u128::from((a as u64).wrapping_add(b as u64))),
                ConstOp::I64Sub => binary(&mut stack, |a, b| u128::from((a as u64).wrapping_sub(b as u64))),
                ConstOp::I64Mul => binary(&mut stack, |a, b| u128::from((a as u64).wrapping_mul(b as u64))),
            };
            stack.push(value);
        }
        stack.pop().unwrap_or(0)
    }

    fn global_bits(&self, id: InstanceId, index: GlobalIndex) -> u128 {
        let (owner, defined) = self.instance(id).global_origin(index);
        // SAFETY: the owner is alive, and its context with it.
        let global = unsafe { self.instance(owner).global(defined).read() };
        u128::from_le_bytes(global.bytes)
    }

    fn run_element_segments(&mut self, id: InstanceId, pace: &mut Pace) -> Result<(), Trap> {
        let module = self.instance(id).module();
        for (index, segment) in module.module().elements.iter() {
            let done = index.as_usize() < module.lazy_segments();
            match &segment.mode {
                ElementMode::Passive => continue,
                ElementMode::Declared => {}
                ElementMode::Active { .. } if done => {}
                ElementMode::Active { table, offset } => {
                    let start = self.evaluate(id, offset) as u64;
                    let len = segment.items.len() as u64;
                    self.check_table_init(id, (*table, start), (index, 0), len)?;
                    pace.go(self, len, ELEMENT_BYTES, |store, at, len| store.table_init(id, *table, index, start + at, at, len))?;
                }
            }
            self.instance_mut(id).drop_element(index);
        }
        Ok(())
    }

    /// Checks that both ranges of a `table.init` are in bounds.
    pub(super) fn check_table_init(
        &self,
        id: InstanceId,
        (table, target): (TableIndex, u64),
        (segment, source): (ElementIndex, u64),
        len: u64,
    ) -> Result<(), Trap> {
        let instance = self.instance(id);
        let (owner, defined) = instance.table_origin(table);
        self.instance(owner).table(defined).check(target, len)?;
        let module = instance.module();
        let items = &module.module().elements[segment].items;
        let available = if instance.is_element_dropped(segment) { 0 } else { items.len() as u64 };
        if source.checked_add(len).is_some_and(|end| end <= available) { Ok(()) } else { Err(Trap::TableOutOfBounds) }
    }

    /// Copies elements of a segment to a table: `table.init`.
    pub(super) fn table_init(
        &mut self,
        id: InstanceId,
        table: TableIndex,
        segment: ElementIndex,
        target: u64,
        source: u64,
        len: u64,
    ) -> Result<(), Trap> {
        self.check_table_init(id, (table, target), (segment, source), len)?;
        let (owner, defined) = self.instance(id).table_origin(table);
        let module = self.instance(id).module();
        let items = &module.module().elements[segment].items;
        for offset in 0..len {
            let position = (source + offset) as usize;
            let element = match items {
                ElementItems::Functions(functions) => self.instance_mut(id).func_ref(functions[position]).as_ptr() as u64,
                ElementItems::Expressions(expressions) => self.evaluate(id, &expressions[position]) as u64,
            };
            self.instance_mut(owner).table_mut(defined).set(target + offset, element);
        }
        Ok(())
    }

    fn run_data_segments(&mut self, id: InstanceId, pace: &mut Pace) -> Result<(), Trap> {
        let module = self.instance(id).module();
        let mapped = module.meta().mapped_data_segments;
        for (position, segment) in module.module().data.iter() {
            let index = DataIndex::from_u32(mapped + position.as_u32());
            if let peregrine_wasm::DataMode::Active { memory, offset } = &segment.mode {
                let target = self.evaluate(id, offset) as u64;
                let (owner, defined) = self.instance(id).memory_origin(*memory);
                check_range(target, segment.len_bytes, self.instance(owner).memory(defined).len_bytes())?;
                self.check_data(id, index, 0, segment.len_bytes)?;
                pace.go(self, segment.len_bytes, 1, |store, at, len| store.memory_init(id, *memory, index, target + at, at, len))?;
                self.instance_mut(id).drop_data(index);
            }
        }
        Ok(())
    }

    /// Checks that a range of a data segment is in bounds.
    pub(super) fn check_data(&self, id: InstanceId, segment: DataIndex, source: u64, len: u64) -> Result<(), Trap> {
        check_range(source, len, self.instance(id).data(segment).len()).map(drop)
    }

    /// Copies bytes of a segment to a memory: `memory.init`.
    pub(super) fn memory_init(
        &mut self,
        id: InstanceId,
        memory: MemoryIndex,
        segment: DataIndex,
        target: u64,
        source: u64,
        len: u64,
    ) -> Result<(), Trap> {
        let (owner, defined) = self.instance(id).memory_origin(memory);
        let memory = self.instance(owner).memory(defined);
        let target = check_range(target, len, memory.len_bytes())?;
        let data = self.instance(id).data(segment);
        let source = check_range(source, len, data.len())?;
        // SAFETY: both ranges were just checked; a segment's bytes are in the image, never in a memory.
        unsafe {
            let target = NonNull::new_unchecked(memory.base().add(target.start));
            std::ptr::copy_nonoverlapping(data[source].as_ptr(), target.as_ptr(), len as usize);
        }
        Ok(())
    }

    /// The reference that `ref.func` gives.
    pub(super) fn ref_func(&mut self, id: InstanceId, index: FuncIndex) -> u64 {
        self.instance_mut(id).func_ref(index).as_ptr() as u64
    }
}

/// What writing an element counts as, in bytes: the function has to be found, too.
const ELEMENT_BYTES: u64 = 4;
/// What a segment counts as before anything of it is written.
const SEGMENT_BYTES: u64 = 64;
/// What is written between two looks, in bytes.
const PACE_BYTES: u64 = 256 << 10;

/// The work of initializing an instance since somebody looked whether it shall stop.
#[derive(Default)]
struct Pace {
    done_bytes: u64,
}

impl Pace {
    /// Does `work(store, offset, len)` for all of `len` items, which count as so many bytes each, and looks in between.
    fn go(
        &mut self,
        store: &mut VmStore,
        len: u64,
        item_bytes: u64,
        mut work: impl FnMut(&mut VmStore, u64, u64) -> Result<(), Trap>,
    ) -> Result<(), Trap> {
        let mut offset = 0;
        self.done_bytes += SEGMENT_BYTES;
        loop {
            if self.done_bytes >= PACE_BYTES {
                store.look()?;
                self.done_bytes = 0;
            }
            let slice = (len - offset).min((PACE_BYTES - self.done_bytes).div_ceil(item_bytes));
            work(store, offset, slice)?;
            offset += slice;
            self.done_bytes += slice * item_bytes;
            if offset == len {
                return Ok(());
            }
        }
    }
}

fn binary(stack: &mut Vec<u128>, operate: impl FnOnce(u128, u128) -> u128) -> u128 {
    let right = stack.pop().unwrap_or(0);
    let left = stack.pop().unwrap_or(0);
    operate(left, right)
}
