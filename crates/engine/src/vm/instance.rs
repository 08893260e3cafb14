//! One instance: the context that compiled code works on, and the memories and tables it owns.

use super::alloc::Backing;
use super::alloc::lease::ModuleRef;
use super::host::BoundHostFunc;
use super::references;
use super::shared_memory::InstanceMemory;
use super::table::Table;
use peregrine_artifact::vmctx::{VmContextHeader, VmFuncRef, VmFunctionImport, VmGlobal};
use peregrine_wasm::{
    DataIndex, DefinedGlobalIndex, DefinedMemoryIndex, DefinedTableIndex, ElementIndex, FuncIndex, GlobalIndex, Index, IndexVec,
    MemoryIndex, TableIndex,
};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// The number of an instance in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InstanceId(u32);

impl InstanceId {
    /// Instance number `number`.
    pub(crate) const fn from_u32(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub(crate) const fn as_u32(self) -> u32 {
        self.0
    }
}

/// A function of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FuncId {
    /// A function defined in the module of an instance.
    Wasm(InstanceId, FuncIndex),
    /// A host function.
    Host(u32),
}

/// What the imports of an instance are, by the instances that own them.
#[derive(Default)]
pub(crate) struct Origins {
    pub(crate) functions: IndexVec<FuncIndex, FuncId>,
    pub(crate) tables: IndexVec<TableIndex, (InstanceId, DefinedTableIndex)>,
    pub(crate) memories: IndexVec<MemoryIndex, (InstanceId, DefinedMemoryIndex)>,
    pub(crate) globals: IndexVec<GlobalIndex, (InstanceId, DefinedGlobalIndex)>,
}

impl Origins {
    fn clear(&mut self) {
        self.functions.clear();
        self.tables.clear();
        self.memories.clear();
        self.globals.clear();
    }
}

/// One instance. Never moves, for its context points to it: an [`OwnedInstance`] has both.
pub(crate) struct VmInstance {
    id: InstanceId,
    module: ModuleRef,
    /// Which of the modules that the store keeps it is.
    kept: u32,
    context: NonNull<VmContextHeader>,
    pub(super) origins: Origins,
    /// Imported host functions with this instance as the caller; the context's imports point here.
    pub(super) host_imports: Vec<BoundHostFunc>,
    pub(crate) memories: IndexVec<DefinedMemoryIndex, InstanceMemory>,
    pub(crate) tables: IndexVec<DefinedTableIndex, Table>,
    dropped_data: Box<[bool]>,
    dropped_elements: Box<[bool]>,
    /// How many things other instances of the store import of this one.
    pub(super) importers: u32,
    /// How many drops the store had seen when this became one of its instances.
    pub(super) born: u64,
    /// Where it was counted as idle last.
    idle_shard: usize,
}

// SAFETY: it owns what it points to, but for imports, which only its store follows; what is spare has none.
unsafe impl Send for VmInstance {}

impl VmInstance {
    /// An instance with the context at `context`, which is all zero.
    ///
    /// # Safety
    ///
    /// 1. The context is as large as the module says, and valid as long as the instance is.
    pub(super) unsafe fn new(id: InstanceId, (kept, module): (u32, ModuleRef), context: NonNull<VmContextHeader>) -> Self {
        let dropped_data = vec![false; module.module().data.len()].into();
        let dropped_elements = vec![false; module.module().elements.len()].into();
        // Exactly what is needed: an instance has one memory and a table mostly, and there are many instances.
        let description = module.module();
        let memories = IndexVec::with_capacity(description.memories.len() - description.imported_memories as usize);
        let tables = IndexVec::with_capacity(description.tables.len() - description.imported_tables as usize);
        Self {
            id,
            module,
            kept,
            context,
            origins: Origins::default(),
            host_imports: Vec::new(),
            memories,
            tables,
            dropped_data,
            dropped_elements,
            importers: 0,
            born: 0,
            idle_shard: 0,
        }
    }

    /// Begins its first life, in its place.
    pub(super) fn begin(&mut self, header: VmContextHeader) {
        self.write_header(header);
        if let Some(contexts) = self.module.contexts() {
            contexts.add(self.context);
        }
    }

    /// Where it was counted as idle last.
    pub(crate) fn idle_shard(&self) -> usize {
        self.idle_shard
    }

    /// Notes where it is counted as idle.
    pub(super) fn set_idle_shard(&mut self, shard: usize) {
        self.idle_shard = shard;
    }

    fn write_header(&mut self, header: VmContextHeader) {
        let owner = &raw mut *self as u64;
        // SAFETY: a context is large enough for a header and aligned to 16; no code runs in it now.
        unsafe { self.context.write(VmContextHeader { owner, ..header }) };
    }

    /// Forgets everything that the instance was and did: what is left depends on its module alone.
    ///
    /// References to its functions stay as they are: they say where the code and this context are, and neither changes.
    ///
    /// # Errors
    ///
    /// What the system said about one of its memories or tables. The instance must be dropped then.
    pub(super) fn reset(&mut self, guest_ran: bool) -> io::Result<()> {
        self.memories.values_mut().try_for_each(|memory| memory.reset(guest_ran))?;
        self.tables.values_mut().try_for_each(|table| table.reset(guest_ran))?;
        let until = self.module.vm_layout().func_ref(0) as usize;
        // SAFETY: the array of references is the last part of the context, so what is before it is inside of it; no code runs in it.
        unsafe { self.context.cast::<u8>().write_bytes(0, until) };
        self.origins.clear();
        self.host_imports.clear();
        self.dropped_data.fill(false);
        self.dropped_elements.fill(false);
        self.importers = 0;
        Ok(())
    }

    /// Begins a new life as instance `id` of the store that `header` is of, after a reset.
    pub(super) fn renew(&mut self, id: InstanceId, kept: u32, header: VmContextHeader) {
        (self.id, self.kept) = (id, kept);
        self.write_header(header);
        self.memories.values_mut().for_each(InstanceMemory::renew);
        self.tables.values_mut().for_each(Table::renew);
    }

    /// Whether references to functions of it were made, or to host functions as it imports them.
    pub(super) fn has_references(&self) -> bool {
        let count = self.module.module().escaping_functions;
        // SAFETY: places of references are part of the context, which is alive.
        let is_made = |position| unsafe { references::code(self.at(self.module.vm_layout().func_ref(position))) != 0 };
        !self.host_imports.is_empty() || (0..count).any(is_made)
    }

    /// Where references to functions of it, and the contexts of these functions, are.
    pub(super) fn homes(&self) -> [Range<usize>; 2] {
        let start = self.context.as_ptr() as usize;
        let imports = self.host_imports.as_ptr_range();
        [start..start + self.module.vm_layout().size_bytes(), imports.start as usize..imports.end as usize]
    }

    /// What its memories and tables are in.
    pub(crate) fn backings(&self) -> impl Iterator<Item = &Backing> {
        self.memories.values().filter_map(InstanceMemory::backing).chain(self.tables.values().map(Table::backing))
    }

    /// Bytes of address space that its memories and tables take.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.backings().map(Backing::reserved_bytes).sum()
    }

    /// Whether a reset can make it ready for another life: not if others may use a memory of it, or it is the embedder's.
    pub(super) fn is_reusable(&self) -> bool {
        self.memories.values().all(|memory| memory.backing().is_some_and(Backing::is_restorable))
    }

    /// Which of the modules that the store keeps it is.
    pub(super) fn kept(&self) -> u32 {
        self.kept
    }

    /// Its number in the store.
    pub(crate) fn id(&self) -> InstanceId {
        self.id
    }

    /// Its module.
    pub(crate) fn module(&self) -> ModuleRef {
        self.module
    }

    /// Its context.
    pub(crate) fn context(&self) -> NonNull<VmContextHeader> {
        self.context
    }

    /// The place of a `T` at `offset` bytes in the context.
    pub(super) fn at<T>(&self, offset: u32) -> NonNull<T> {
        debug_assert!(offset as usize + size_of::<T>() <= self.module.vm_layout().size_bytes());
        // SAFETY: offsets come from the layout that the context was allocated by, so the result is inside of it.
        unsafe { self.context.cast::<u8>().add(offset as usize).cast() }
    }

    /// A defined memory.
    pub(crate) fn memory(&self, index: DefinedMemoryIndex) -> &InstanceMemory {
        &self.memories[index]
    }

    /// A defined memory, to change it.
    pub(crate) fn memory_mut(&mut self, index: DefinedMemoryIndex) -> &mut InstanceMemory {
        &mut self.memories[index]
    }

    /// A defined table.
    pub(crate) fn table(&self, index: DefinedTableIndex) -> &Table {
        &self.tables[index]
    }

    /// A defined table, to change it.
    pub(crate) fn table_mut(&mut self, index: DefinedTableIndex) -> &mut Table {
        &mut self.tables[index]
    }

    /// The value of a defined global.
    pub(crate) fn global(&self, index: DefinedGlobalIndex) -> NonNull<VmGlobal> {
        self.at(self.module.vm_layout().global(index))
    }

    /// The owner of any memory of the module.
    pub(crate) fn memory_origin(&self, index: MemoryIndex) -> (InstanceId, DefinedMemoryIndex) {
        match self.module.module().defined_memory_index(index) {
            Some(defined) => (self.id, defined),
            None => self.origins.memories[index],
        }
    }

    /// The owner of any table of the module.
    pub(crate) fn table_origin(&self, index: TableIndex) -> (InstanceId, DefinedTableIndex) {
        match self.module.module().defined_table_index(index) {
            Some(defined) => (self.id, defined),
            None => self.origins.tables[index],
        }
    }

    /// The owner of any global of the module.
    pub(crate) fn global_origin(&self, index: GlobalIndex) -> (InstanceId, DefinedGlobalIndex) {
        match self.module.module().defined_global_index(index) {
            Some(defined) => (self.id, defined),
            None => self.origins.globals[index],
        }
    }

    /// What any function of the module is.
    pub(crate) fn func_origin(&self, index: FuncIndex) -> FuncId {
        match self.module.module().defined_func_index(index) {
            Some(_) => FuncId::Wasm(self.id, index),
            None => self.origins.functions[index],
        }
    }

    /// A reference to an imported or escaping function.
    ///
    /// # Panics
    ///
    /// If the function is neither: validation makes sure that no such reference is asked for.
    pub(crate) fn func_ref(&mut self, index: FuncIndex) -> NonNull<VmFuncRef> {
        let module = self.module.module();
        let Some(defined) = module.defined_func_index(index) else {
            let import = self.at::<VmFunctionImport>(self.module.vm_layout().function_import(index));
            // SAFETY: imports were filled in by instantiation with references that live as long as the store.
            return unsafe { NonNull::new_unchecked(import.as_ref().func_ref as *mut VmFuncRef) };
        };
        let function = module.functions[index];
        let position = function.func_ref.expect("the frontend numbers every function that can be referred to");
        let slot = self.at::<VmFuncRef>(self.module.vm_layout().func_ref(position));
        // SAFETY: the slot is inside the context, zero at first, and whoever has the instance borrowed makes its references.
        unsafe {
            if references::code(slot) == 0 {
                let func_ref = VmFuncRef {
                    code: self.module.function_code(defined) as u64,
                    vmctx: self.context.as_ptr() as u64,
                    type_id: self.module.func_type_id(index),
                    reserved: 0,
                    enter: self.module.stubs(function.ty).0 as u64,
                };
                references::make(slot, func_ref);
            }
        }
        slot
    }

    /// The function that a reference in this instance's context stands for.
    pub(crate) fn func_of_ref(&self, func_ref: NonNull<VmFuncRef>) -> Option<FuncIndex> {
        let start = self.context.as_ptr() as usize + self.module.vm_layout().func_ref(0) as usize;
        let position = (func_ref.as_ptr() as usize).checked_sub(start)? / size_of::<VmFuncRef>();
        self.module.escaping_function(position)
    }

    /// The position of a data segment among those that are not mapped.
    fn data_position(&self, index: DataIndex) -> Option<usize> {
        index.as_usize().checked_sub(self.module.meta().mapped_data_segments as usize)
    }

    /// The bytes of a data segment; none once it is dropped.
    pub(crate) fn data(&self, index: DataIndex) -> &[u8] {
        let Some(position) = self.data_position(index).filter(|position| !self.dropped_data[*position]) else { return &[] };
        let segment = &self.module.module().data[DataIndex::from_usize(position)];
        let data = self.module.section(peregrine_artifact::image::Section::Data);
        &data[segment.start as usize..(segment.start + segment.len_bytes) as usize]
    }

    /// Drops a data segment.
    pub(crate) fn drop_data(&mut self, index: DataIndex) {
        if let Some(position) = self.data_position(index) {
            self.dropped_data[position] = true;
        }
    }

    /// Whether an element segment is dropped.
    pub(crate) fn is_element_dropped(&self, index: ElementIndex) -> bool {
        self.dropped_elements[index.as_usize()]
    }

    /// Drops an element segment.
    pub(crate) fn drop_element(&mut self, index: ElementIndex) {
        self.dropped_elements[index.as_usize()] = true;
    }
}

impl Drop for VmInstance {
    fn drop(&mut self) {
        if let Some(contexts) = self.module.contexts() {
            contexts.remove(self.context);
        }
    }
}
