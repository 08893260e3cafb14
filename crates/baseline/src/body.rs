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
            0xfe => self.skip_atomic_immediates(),
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

    fn skip_atomic_immediates(&mut self) {
        match self.u32() {
            3 => self.position += 1,
            _ => {
                self.memarg();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Instructions with immediates of every kind.
    const EVERY_KIND: &str = r#"(module
        (type $t (func (param i32 i64) (result i64 i32)))
        (memory 1) (memory $other i64 1) (table $funcs 300 funcref) (table $externs 2 externref) (global $g (mut i64) (i64.const 0))
        (func $f (type $t) i64.const 1 i32.const 2) (elem declare func $f) (elem $passive func $f) (data $bytes "abc")
        (func (param i32) (result i32) (local externref v128 (ref null $t))
            (block (br_if 0 (i32.const -2147483648)) (br_table 0 0 0 (local.get 0)))
            (loop (result i32) i32.const 300) drop
            (block (type $t) (param i32 i64) (result i64 i32) unreachable)
            (block (result externref) ref.null extern) drop (block (result (ref null $t)) ref.null $t) drop (block (result funcref) ref.null func) drop
            (if (result f64) (i32.const 1) (then (f64.const 1.5)) (else (f64.const nan))) drop
            f32.const 2.5 drop i64.const -9223372036854775808 drop i64.const 9223372036854775807 drop
            (i32.load offset=4000000000 (i32.const 0)) drop (i64.load8_u $other offset=0xffffffffff (i64.const 7)) drop
            (i32.store16 $other align=1 (i64.const 0) (i32.const 5))
            (v128.load8_lane $other offset=300 3 (i64.const 0) (v128.const i64x2 1 2)) drop
            (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 31 (local.get 2) (local.get 2)) drop
            (i8x16.extract_lane_s 15 (local.get 2)) drop (f32x4.relaxed_madd (local.get 2) (local.get 2) (local.get 2)) drop
            (select (result externref) (local.get 1) (local.get 1) (i32.const 0)) drop
            (call $f (i32.const 0) (i64.const 0)) drop drop
            (call_indirect $funcs (type $t) (i32.const 0) (i64.const 0) (i32.const 299)) drop drop
            (global.set $g (global.get $g)) (table.set $externs (i32.const 0) (table.get $externs (i32.const 1)))
            (ref.is_null (ref.func $f)) drop memory.size memory.size $other drop drop (memory.grow $other (i64.const 0)) drop
            (memory.init $bytes (i32.const 0) (i32.const 0) (i32.const 0)) data.drop $bytes (memory.fill $other (i64.const 0) (i32.const 0) (i64.const 0))
            (memory.copy 0 1 (i32.const 0) (i64.const 0) (i32.const 0)) (table.init $funcs $passive (i32.const 0) (i32.const 0) (i32.const 0))
            elem.drop $passive (table.copy $funcs $funcs (i32.const 0) (i32.const 0) (i32.const 0)) table.size $funcs drop
            atomic.fence (i64.atomic.rmw16.cmpxchg_u $other offset=300 (i64.const 0) (i64.const 1) (i64.const 2)) drop
            (memory.atomic.wait64 (i32.const 0) (i64.const 0) (i64.const 0)) drop
            (i64.trunc_sat_f64_u (f64.const 0)) drop (i64.mul_wide_u (i64.const 1) (i64.const 2)) drop drop
            (return_call_indirect $funcs (param i32) (result i32) (i32.const 0) (i32.const 1)))
        (func (param (ref null $t)) (block (br_on_null 0 (local.get 0)) drop) (call_ref $t (i32.const 0) (i64.const 0) (local.get 0)) drop drop))"#;

    /// Compares where each operator of a module's bodies begins with what wasmparser says; how many there are.
    fn check(wasm: &[u8]) -> usize {
        let mut count = 0;
        for payload in wasmparser::Parser::new(0).parse_all(wasm) {
            let wasmparser::Payload::CodeSectionEntry(body) = payload.expect("the module is well-formed") else { continue };
            let mut operators = body.get_operators_reader().expect("locals");
            let start = operators.original_position() as usize;
            let mut found = Body::new(&wasm[start..body.range().end as usize]);
            while !operators.eof() {
                let (operator, position) = operators.read_with_offset().expect("an operator");
                assert_eq!(start + found.position(), position as usize, "before {operator:?}");
                let opcode = found.byte();
                assert!(found.skip_immediates(opcode), "{operator:?}");
                count += 1;
            }
            assert!(found.is_at_end());
        }
        count
    }

    #[test]
    fn operators_begin_where_wasmparser_says() {
        assert!(check(&wat::parse_str(EVERY_KIND).expect("the text is right")) > 100);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/kernels");
        let kernels = std::fs::read_dir(folder).expect("the kernels are there").filter_map(|entry| Some(entry.ok()?.path()));
        let wasm = kernels.filter(|path| path.extension().is_some_and(|extension| extension == "wasm"));
        let count: usize = wasm.map(|path| check(&std::fs::read(path).expect("a file"))).sum();
        assert!(count > 1000, "{count}");
    }

    #[test]
    fn numbers() {
        let read = |bytes: &'static [u8]| Body::new(bytes);
        assert_eq!(read(&[0xe5, 0x8e, 0x26]).u32(), 624_485);
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]).u32(), u32::MAX);
        assert_eq!(read(&[0x7f]).i64(), -1);
        assert_eq!(read(&[0xc0, 0xbb, 0x78]).i64(), -123_456);
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f]).i64(), i64::MIN);
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).u64(), u64::MAX);
    }
}
