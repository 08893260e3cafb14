//! What Cranelift may assume of each access to memory: alias regions, and whether it can trap, move or be merged.
//!
//! Accesses in different regions never touch the same bytes. A call is a fence for all of them.

use cranelift_codegen::ir::{AliasRegion, AliasRegionData, Endianness, Function, MemFlagsData, TrapCode};
use peregrine_wasm::Trap;
use std::borrow::Cow;

/// Disjoint parts of memory. Imports of one kind share a region, because two of them may be the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    /// Fields of contexts and imports that never change.
    Constant,
    /// Lengths of memories and tables.
    Lengths,
    /// The bytes of a defined memory.
    Memory(u32),
    /// The bytes of all imported memories.
    ImportedMemories,
    /// The elements of a defined table.
    Table(u32),
    /// The elements of all imported tables.
    ImportedTables,
    /// A defined global.
    Global(u32),
    /// All imported globals.
    ImportedGlobals,
    /// Functions as values.
    FunctionReferences,
    /// The fuel counter.
    Fuel,
    /// Locals and operands in the frame.
    Frame,
    /// Locals and operands in the frame of another tier.
    Homes,
}

/// Regions of one kind beyond this share the last one: Cranelift's set of flags is limited to 2^16.
const MAX_REGIONS_OF_KIND: u32 = 4096;

impl Region {
    fn data(self) -> AliasRegionData {
        let numbered = |kind: u32, index: u32| kind << 16 | index.min(MAX_REGIONS_OF_KIND);
        let (user_id, description) = match self {
            Self::Constant => (1, "constant"),
            Self::Lengths => (2, "lengths"),
            Self::ImportedMemories => (3, "imported memories"),
            Self::ImportedTables => (4, "imported tables"),
            Self::ImportedGlobals => (5, "imported globals"),
            Self::FunctionReferences => (6, "function references"),
            Self::Fuel => (7, "fuel"),
            Self::Frame => (8, "frame"),
            Self::Homes => (9, "homes"),
            Self::Memory(index) => (numbered(1, index), "memory"),
            Self::Table(index) => (numbered(2, index), "table"),
            Self::Global(index) => (numbered(3, index), "global"),
        };
        AliasRegionData { user_id, description: Cow::Borrowed(description) }
    }

    fn declare(self, func: &mut Function) -> AliasRegion {
        func.dfg.alias_regions.insert(self.data())
    }

    /// Flags of an aligned access in the region that cannot trap.
    pub(crate) fn trusted(self, func: &mut Function) -> MemFlagsData {
        MemFlagsData::trusted().with_alias_region(Some(self.declare(func)))
    }

    /// Flags of a load of what never changes while the function runs, from where it can always be loaded.
    pub(crate) fn constant(self, func: &mut Function) -> MemFlagsData {
        self.trusted(func).with_readonly().with_can_move()
    }

    /// Flags of an access of any alignment by the guest: little-endian, out of bounds if it faults.
    pub(crate) fn guest(self, func: &mut Function) -> MemFlagsData {
        MemFlagsData::new().with_endianness(Endianness::Little).with_alias_region(Some(self.declare(func)))
    }
}

/// The code by which Cranelift carries a reason.
pub(crate) fn trap_code(trap: Trap) -> TrapCode {
    TrapCode::unwrap_user(trap.code())
}
