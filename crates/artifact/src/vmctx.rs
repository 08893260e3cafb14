//! Memory layouts that compiled code reads and writes. 64-bit targets only, so they are plain `repr(C)` structs.
//!
//! The context of an instance is a [`VmContextHeader`] followed by arrays whose places depend on the module; [`VmLayout`] gives them:
//!
//! ```text
//! header | function imports | table imports | memory imports | global imports | tag imports
//!        | tables | memories | (align 16) globals | function references
//! ```

use peregrine_wasm::{DefinedGlobalIndex, DefinedMemoryIndex, DefinedTableIndex, FuncIndex, GlobalIndex, MemoryIndex, Module, TableIndex};
use std::mem::{offset_of, size_of};

/// A machine pointer as compiled code sees it. Numbers, because this crate dereferences nothing.
pub type Pointer = u64;

/// [`VmContextHeader::magic`] of an instance's context.
pub const INSTANCE_MAGIC: u32 = u32::from_le_bytes(*b"pgni");
/// [`VmContextHeader::magic`] of a host function's context.
pub const HOST_MAGIC: u32 = u32::from_le_bytes(*b"pgnh");

/// The start of every context: of an instance ([`INSTANCE_MAGIC`]) and of a host function ([`HOST_MAGIC`]).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmContextHeader {
    /// Which of the two it is.
    pub magic: u32,
    /// The engine's number of the instance in its store.
    pub instance: u32,
    /// The [`VmStoreContext`]. Never changes.
    pub store: Pointer,
    /// The array of builtins' code pointers. Never changes.
    pub builtins: Pointer,
    /// Instance: the array of the module's types as engine-wide `u32` identities. Host function: the code to call,
    /// a C function `(host context, values)`. Never changes.
    pub type_ids: Pointer,
    /// The engine's data behind the context. Never changes; compiled code does not read it.
    pub owner: Pointer,
    /// Instance: the page that a pending interruption makes inaccessible. Host function: the context of the calling instance, or 0.
    pub interrupt_page: Pointer,
}

/// What compiled code and veneers know of a store. One for each store.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VmStoreContext {
    /// The frame pointer of the last frame on the guest stack, when the host runs; 0 outside of any call.
    pub exit_fp: Pointer,
    /// The stack pointer of the host to return to when the guest leaves.
    pub host_sp: Pointer,
    /// Where a new guest stack begins: its highest address.
    pub guest_stack_top: Pointer,
    /// The lowest usable address of the guest stack. Below is the guard.
    pub guest_stack_limit: Pointer,
    /// Not 0: a trap or error is pending, and the veneer unwinds to the entry when the builtin returns.
    pub pending: u64,
    /// Fuel used so far minus what was given; compiled code adds, and calls `out_of_fuel` when it is above zero.
    ///
    /// On x86-64 compiled code has it in r15 while it runs, and it is here while the host does.
    pub fuel_consumed: i64,
    /// Not 0: fuel is counted.
    pub counts_fuel: u64,
}

/// A function import of an instance.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmFunctionImport {
    /// The code, to be called with `vmctx`.
    pub code: Pointer,
    /// The context that the function runs in.
    pub vmctx: Pointer,
    /// The [`VmFuncRef`] that stands for the function as a value.
    pub func_ref: Pointer,
}

/// A function as a value: what a `funcref` points to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmFuncRef {
    /// The code, to be called with `vmctx`.
    pub code: Pointer,
    /// The context that the function runs in.
    pub vmctx: Pointer,
    /// The engine-wide identity of its type.
    pub type_id: u32,
    /// Always 0.
    pub reserved: u32,
    /// The Enter stub for its type, for calls by the host.
    pub enter: Pointer,
}

/// What an indirect or reference call in code of the baseline counts, where functions count what they do.
///
/// A target is known by the distance of its [`VmFuncRef`] from the context of the caller, in 32 bits, which for functions of the caller's own
/// instance is the same in every instance. 0 is none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub struct VmCallCell {
    /// The first targets that there were, each with the number of calls. Numbers wrap.
    pub targets: [VmCallTarget; CALL_CELL_TARGETS],
    /// Calls of others. From [`CALL_CELL_MAX_OTHERS`] on nothing more is counted: enough is known of a call that goes everywhere.
    pub others: u32,
    /// The distance of the first target from then on, in place of that itself, which is 0.
    pub first_distance: u32,
}

/// One target in a [`VmCallCell`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VmCallTarget {
    /// The distance.
    pub distance: u32,
    /// The calls.
    pub calls: u32,
}

/// See [`VmCallCell::others`].
pub const CALL_CELL_MAX_OTHERS: u32 = 1 << 14;

/// How many targets a [`VmCallCell`] tells apart.
pub const CALL_CELL_TARGETS: usize = 3;

/// A table. `base` never moves while the table lives.
///
/// An element of a table of functions is 8 bytes: 0 if it is not initialized yet (builtin `table_element_init`), otherwise a pointer to a
/// [`VmFuncRef`], or 0 for null, with [`FUNC_ELEMENT_INITIALIZED`] set. An element of any other table is 4 bytes: a handle.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmTable {
    /// The first element.
    pub base: Pointer,
    /// How many elements there are.
    pub len: u64,
}

/// Bit in an element of a table of functions that tells an initialized element.
pub const FUNC_ELEMENT_INITIALIZED: u64 = 1;
/// Bytes of an element of a table of functions.
pub const FUNC_ELEMENT_SIZE_BYTES: u32 = 8;
/// Bytes of an element of any other table.
pub const HANDLE_ELEMENT_SIZE_BYTES: u32 = 4;

/// A linear memory. `base` stays the same in calls, unless its [`MemoryStyle`](crate::settings::MemoryStyle) says otherwise.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmMemory {
    /// The first byte.
    pub base: Pointer,
    /// How many bytes are accessible.
    pub len_bytes: u64,
}

/// Where compiled code finds the [`VmMemory`] of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryCell {
    /// In the context, at this offset: the instance has the memory for itself.
    Inside(u32),
    /// Behind the pointer in the context at this offset: the memory is imported or shared, and several contexts point to its one cell.
    Behind(u32),
}

/// The value of a global: its little-endian bytes first.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct VmGlobal {
    /// The bytes.
    pub bytes: [u8; 16],
}

/// Where things are in the context of an instance of one module. Offsets are bytes from the start of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmLayout {
    imported: [u32; 5],
    function_imports: u32,
    table_imports: u32,
    memory_imports: u32,
    global_imports: u32,
    tables: u32,
    memories: u32,
    globals: u32,
    func_refs: u32,
    size_bytes: u32,
}

impl VmLayout {
    /// The layout for `module`.
    pub fn new(module: &Module) -> Self {
        let imported =
            [module.imported_functions, module.imported_tables, module.imported_memories, module.imported_globals, module.imported_tags];
        let defined = |all: usize, imported: u32| all as u32 - imported;
        let mut end = size_of::<VmContextHeader>() as u32;
        let mut array = |count: u32, item_size: usize, align: u32| {
            let start = end.next_multiple_of(align);
            end = start + count * item_size as u32;
            start
        };
        let pointer = size_of::<Pointer>();
        let function_imports = array(imported[0], size_of::<VmFunctionImport>(), 8);
        let table_imports = array(imported[1], pointer, 8);
        let memory_imports = array(imported[2], pointer, 8);
        let global_imports = array(imported[3], pointer, 8);
        // Of tags.
        array(imported[4], pointer, 8);
        let tables = array(defined(module.tables.len(), imported[1]), size_of::<VmTable>(), 8);
        let memories = array(defined(module.memories.len(), imported[2]), size_of::<VmMemory>(), 8);
        let globals = array(defined(module.globals.len(), imported[3]), size_of::<VmGlobal>(), 16);
        let func_refs = array(module.escaping_functions, size_of::<VmFuncRef>(), 8);
        Self {
            imported,
            function_imports,
            table_imports,
            memory_imports,
            global_imports,
            tables,
            memories,
            globals,
            func_refs,
            size_bytes: end.next_multiple_of(16),
        }
    }

    /// Whether a context for `module` is small enough for 31-bit offsets, which compiled code uses. What the frontend accepts is.
    pub fn fits(module: &Module) -> bool {
        let arrays = [
            (module.functions.len(), size_of::<VmFunctionImport>()),
            (module.tables.len(), size_of::<VmTable>()),
            (module.memories.len(), size_of::<VmMemory>()),
            (module.globals.len(), size_of::<VmGlobal>()),
            (module.tags.len(), size_of::<Pointer>()),
            (module.escaping_functions as usize, size_of::<VmFuncRef>()),
        ];
        // Items of either kind are counted as the larger one, and gaps for alignment as a page.
        let bytes = arrays.iter().try_fold(4096usize, |sum, (count, item)| sum.checked_add(count.checked_mul(*item)?));
        bytes.is_some_and(|bytes| bytes <= i32::MAX as usize)
    }

    /// Bytes of the whole context.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes as usize
    }

    /// The [`VmFunctionImport`] of an imported function.
    pub fn function_import(&self, index: FuncIndex) -> u32 {
        debug_assert!(index.as_u32() < self.imported[0]);
        self.function_imports + index.as_u32() * size_of::<VmFunctionImport>() as u32
    }

    /// The pointer to the [`VmTable`] of an imported table.
    pub fn table_import(&self, index: TableIndex) -> u32 {
        debug_assert!(index.as_u32() < self.imported[1]);
        self.table_imports + index.as_u32() * 8
    }

    /// The pointer to the [`VmMemory`] of an imported memory.
    pub fn memory_import(&self, index: MemoryIndex) -> u32 {
        debug_assert!(index.as_u32() < self.imported[2]);
        self.memory_imports + index.as_u32() * 8
    }

    /// The pointer to the [`VmGlobal`] of an imported global.
    pub fn global_import(&self, index: GlobalIndex) -> u32 {
        debug_assert!(index.as_u32() < self.imported[3]);
        self.global_imports + index.as_u32() * 8
    }

    /// The [`VmTable`] of a defined table.
    pub fn table(&self, index: DefinedTableIndex) -> u32 {
        self.tables + index.as_u32() * size_of::<VmTable>() as u32
    }

    /// Where the [`VmMemory`] of a memory of `module` is.
    pub fn memory_cell(&self, module: &Module, index: MemoryIndex) -> MemoryCell {
        match module.defined_memory_index(index) {
            None => MemoryCell::Behind(self.memory_import(index)),
            Some(defined) if module.memories[index].shared => MemoryCell::Behind(self.memory(defined)),
            Some(defined) => MemoryCell::Inside(self.memory(defined)),
        }
    }

    /// The [`VmMemory`] of a defined memory; of a shared one, the pointer to it, and the rest is unused.
    pub fn memory(&self, index: DefinedMemoryIndex) -> u32 {
        self.memories + index.as_u32() * size_of::<VmMemory>() as u32
    }

    /// The [`VmGlobal`] of a defined global.
    pub fn global(&self, index: DefinedGlobalIndex) -> u32 {
        self.globals + index.as_u32() * size_of::<VmGlobal>() as u32
    }

    /// The [`VmFuncRef`] at a position of [`peregrine_wasm::FunctionDecl::func_ref`].
    pub fn func_ref(&self, position: u32) -> u32 {
        self.func_refs + position * size_of::<VmFuncRef>() as u32
    }
}

// Offsets that hand-written veneers and other processors rely on.
const _: () = {
    assert!(offset_of!(VmContextHeader, store) == 8);
    assert!(offset_of!(VmContextHeader, builtins) == 16);
    assert!(offset_of!(VmContextHeader, type_ids) == 24);
    assert!(offset_of!(VmContextHeader, owner) == 32);
    assert!(offset_of!(VmContextHeader, interrupt_page) == 40);
    assert!(size_of::<VmContextHeader>() == 48);
    assert!(offset_of!(VmStoreContext, exit_fp) == 0);
    assert!(offset_of!(VmStoreContext, host_sp) == 8);
    assert!(offset_of!(VmStoreContext, guest_stack_top) == 16);
    assert!(offset_of!(VmStoreContext, guest_stack_limit) == 24);
    assert!(offset_of!(VmStoreContext, pending) == 32);
    assert!(offset_of!(VmStoreContext, fuel_consumed) == 40);
    assert!(offset_of!(VmStoreContext, counts_fuel) == 48);
    assert!(size_of::<VmFunctionImport>() == 24);
    assert!(size_of::<VmFuncRef>() == 32);
    assert!(offset_of!(VmFuncRef, type_id) == 16);
    assert!(offset_of!(VmFuncRef, enter) == 24);
    assert!(size_of::<VmCallCell>() == 32);
    assert!(size_of::<VmTable>() == 16);
    assert!(size_of::<VmMemory>() == 16);
    assert!(size_of::<VmGlobal>() == 16);
};
