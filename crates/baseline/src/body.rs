//! Reading a body: opcodes and immediates, one after the other.
//!
//! Bodies are valid, so nothing is checked here; what could not be in a valid body reads as something harmless. Vector instructions are
//! left to wasmparser. Core specification, section 5.4.

use crate::values::Ty;
use peregrine_wasm::TypeIndex;
use wasmparser::{BinaryReader, Operator, OperatorsReader, OperatorsReaderAllocations, WasmFeatures};

/// A place in a body.
#[derive(Clone, Debug)]
pub(crate) struct Body<'a> {
    bytes: &'a [u8],
    position: usize,
}

/// Parameters and results of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockType {
    /// None of either.
    Empty,
    /// One result.
    Result(Ty),
    /// Those of a function type.
    Func(TypeIndex),
}

/// Where an access to memory goes, beside the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemArg {
    /// The index of the memory.
    pub memory: u32,
    /// What is added to the operand.
    pub offset: u64,
}

impl From<&wasmparser::MemArg> for MemArg {
    fn from(memarg: &wasmparser::MemArg) -> Self {
        let (wasmparser::MemArgTarget::Memory(memory) | wasmparser::MemArgTarget::Array(memory)) = memarg.target;
        Self { memory, offset: memarg.offset }
    }
}

/// The labels of a `br_table`.
#[derive(Clone, Debug)]
pub(crate) struct BrTable<'a> {
    targets: Body<'a>,
    count: u32,
    /// The label for all other numbers.
    pub default: u32,
}

impl BrTable<'_> {
    /// The labels but the default, in order.
    pub(crate) fn targets(&self) -> impl Iterator<Item = u32> + '_ {
        let mut targets = self.targets.clone();
        (0..self.count).map(move |_| targets.u32())
    }
}

/// What a vector instruction is read with.
#[derive(Default)]
pub(crate) struct VectorReader {
    allocations: Option<OperatorsReaderAllocations>,
}

impl<'a> Body<'a> {
    /// The beginning of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// How many bytes have been read.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Whether all has been read.
    #[inline]
    pub(crate) fn is_at_end(&self) -> bool {
        self.position >= self.bytes.len()
    }

    /// The byte that comes next, which stays.
    #[inline]
    pub(crate) fn peek(&self) -> u8 {
        self.bytes.get(self.position).copied().unwrap_or(0)
    }

    /// The byte that comes next.
    #[inline]
    pub(crate) fn byte(&mut self) -> u8 {
        let byte = self.peek();
        self.position += 1;
        byte
    }

    /// An unsigned number of up to 32 bits.
    #[inline]
    pub(crate) fn u32(&mut self) -> u32 {
        let first = self.byte();
        if first < 0x80 { first.into() } else { self.long_unsigned(first) as u32 }
    }

    /// An unsigned number of up to 64 bits.
    #[inline]
    pub(crate) fn u64(&mut self) -> u64 {
        let first = self.byte();
        if first < 0x80 { first.into() } else { self.long_unsigned(first) }
    }

    fn long_unsigned(&mut self, first: u8) -> u64 {
        let mut value = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << (shift & 63);
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }

    /// A signed number of up to 64 bits.
    #[inline]
    pub(crate) fn i64(&mut self) -> i64 {
        let mut value = 0i64;
        let mut shift = 0;
        loop {
            let byte = self.byte();
            value |= i64::from(byte & 0x7f) << (shift & 63);
            shift += 7;
            if byte < 0x80 {
                return if shift < 64 { value << (64 - shift) >> (64 - shift) } else { value };
            }
        }
    }

    /// Four bytes.
    pub(crate) fn bits32(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// Eight bytes.
    pub(crate) fn bits64(&mut self) -> u64 {
        u64::from(self.bits32()) | u64::from(self.bits32()) << 32
    }

    /// Alignment, which is skipped, memory and offset of an access.
    #[inline]
    pub(crate) fn memarg(&mut self) -> MemArg {
        let memory = if self.u32() & 0x40 != 0 { self.u32() } else { 0 };
        MemArg { memory, offset: self.u64() }
    }

    /// The type of a value.
    pub(crate) fn value_type(&mut self) -> Ty {
        match self.byte() {
            0x7e => Ty::I64,
            0x7d => Ty::F32,
            0x7c => Ty::F64,
            0x7b => Ty::V128,
            0x70 | 0x73 => Ty::I64,
            0x63 | 0x64 => self.heap_type(),
            _ => Ty::I32,
        }
    }

    /// The type of references to a heap type.
    pub(crate) fn heap_type(&mut self) -> Ty {
        let heap = self.i64();
        // `func`, `nofunc` and types of functions.
        if heap >= 0 || heap == 0x70 - 0x80 || heap == 0x73 - 0x80 { Ty::I64 } else { Ty::I32 }
    }

    /// The type of a block.
    pub(crate) fn block_type(&mut self) -> BlockType {
        match self.peek() {
            0x40 => {
                self.position += 1;
                BlockType::Empty
            }
            0x41..=0x7f => BlockType::Result(self.value_type()),
            _ => BlockType::Func(TypeIndex::from_u32(self.i64() as u32)),
        }
    }

    /// The labels of a `br_table`.
    pub(crate) fn br_table(&mut self) -> BrTable<'a> {
        let count = self.u32();
        let targets = self.clone();
        for _ in 0..count {
            self.u32();
        }
        BrTable { targets, count, default: self.u32() }
    }

    /// A vector instruction, whose first byte has been read.
    pub(crate) fn vector(&mut self, reader: &mut VectorReader) -> Option<Operator<'a>> {
        self.position -= 1;
        let rest = BinaryReader::new_features(&self.bytes[self.position..], 0, WasmFeatures::all());
        let mut operators = OperatorsReader::new_with_allocs(rest, reader.allocations.take().unwrap_or_default());
        let operator = operators.read().ok();
        self.position += operators.original_position() as usize;
        reader.allocations = Some(operators.into_allocations());
        operator
    }

    /// Goes over the immediates of an instruction. False if the instruction is not known.
    #[inline]
    pub(crate) fn skip_immediates(&mut self, opcode: u8) -> bool {
        match opcode {
            0x00 | 0x01 | 0x05 | 0x0b | 0x0f | 0x1a | 0x1b | 0x45..=0xc4 | 0xd1 | 0xd3 | 0xd4 => {}
            0x02..=0x04 => {
                self.block_type();
            }
            0x0c | 0x0d | 0x10 | 0x12 | 0x14 | 0x15 | 0x20..=0x26 | 0x3f | 0x40 | 0xd0 | 0xd2 | 0xd5 | 0xd6 => {
                self.u32();
            }
            0x41 | 0x42 => {
                self.i64();
            }
            0x11 | 0x13 => {
                self.u32();
                self.u32();
            }
            0x0e => {
                for _ in 0..u64::from(self.u32()) + 1 {
                    self.u32();
                }
            }
            0x1c => {
                for _ in 0..self.u32() {
                    self.value_type();
                }
            }
            0x28..=0x3e => {
                self.memarg();
            }
            0x43 => self.position += 4,
            0x44 => self.position += 8,
            0xfc => return self.skip_bulk_immediates(),
            0xfd => self.skip_vector_immediates(),
            _ => return false,
        }
        true
    }

    fn skip_bulk_immediates(&mut self) -> bool {
        let immediates = match self.u32() {
            0..=7 | 19..=22 => 0,
            8 | 10 | 12 | 14 => 2,
            9 | 11 | 13 | 15..=17 => 1,
            _ => return false,
        };
        for _ in 0..immediates {
            self.u32();
        }
        true
    }

    fn skip_vector_immediates(&mut self) {
        match self.u32() {
            0..=11 | 92 | 93 => {
                self.memarg();
            }
            84..=91 => {
                self.memarg();
                self.position += 1;
            }
            12 | 13 => self.position += 16,
            21..=34 => self.position += 1,
            _ => {}
        }
    }
}
