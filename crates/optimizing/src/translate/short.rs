//! `memory.copy` and `memory.fill` of a few bytes, as loads and stores: most of what compilers emit them for is shorter than a call of the
//! engine is long. What is longer, out of bounds, or in memories of 64 bits is left to [`super::bulk`].

use super::flags::trap_code;
use super::translator::Translator;
use crate::budget::Mode;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I8X16, I16, I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, Type, Value};
use peregrine_artifact::abi::UNCHECKED_BULK_LEN;
use peregrine_wasm::{MemoryIndex, Trap};
use smallvec::SmallVec;
use target_lexicon::Architecture;

/// The longest operation of a constant length that is done in place.
const MAX_CONSTANT_BYTES: u64 = 64;
/// The longest operation of a length known at run time that is done in place.
const MAX_DYNAMIC_BYTES: u64 = 32;
// The engine looks at the fuel before longer ones.
const _: () = assert!(MAX_CONSTANT_BYTES <= UNCHECKED_BULK_LEN && MAX_DYNAMIC_BYTES <= UNCHECKED_BULK_LEN);
/// How many operations of a length known at run time are done in place in one function: each is a dozen blocks.
const MAX_DYNAMIC_SITES: u32 = 16;

/// Bytes of a memory: its flags, the host address, and the index behind the last byte.
struct Place {
    memory: MemoryIndex,
    flags: MemFlagsData,
    address: Value,
    end: Value,
}

/// What is written: bytes from elsewhere, or one value for each byte.
#[derive(Clone, Copy)]
enum Source {
    Bytes { flags: MemFlagsData, address: Value },
    Byte(Value),
}

/// What is known of the length of an operation that may be short.
#[derive(Clone, Copy)]
enum Length {
    Constant(u64),
    Dynamic,
}

/// What was done of an operation.
pub(super) enum Short {
    /// Nothing.
    No,
    /// Everything.
    Done,
    /// What is short. The first block is to do the rest and to jump to the second one, where the function goes on.
    OrElse((Block, Block)),
}

/// The pieces that cover `len` bytes, as offset and type. Pieces may overlap.
fn pieces(len: u64) -> SmallVec<[(i32, Type); 4]> {
    let mut pieces = SmallVec::new();
    let mut at = 0;
    while at < len {
        let rest = len - at;
        let ty = match rest.min(len) {
            9.. if len >= 16 => I8X16,
            5.. if len >= 8 => I64,
            3.. if len >= 4 => I32,
            2.. => I16,
            _ => I8,
        };
        let size = u64::from(ty.bytes());
        pieces.push((at.min(len - size) as i32, ty));
        at += size;
    }
    pieces
}

impl Translator<'_, '_> {
    /// Does `memory.copy` between two memories in place if it is short.
    pub(super) fn short_copy(&mut self, memories: (u32, u32), operands: (Value, Value, Value)) -> Short {
        let (target, source, len) = operands;
        let Some(length) = self.short_length(&[memories.0, memories.1], len) else { return Short::No };
        let target = self.short_place(memories.0, target, len);
        let source = self.short_place(memories.1, source, len);
        let bytes = Source::Bytes { flags: source.flags, address: source.address };
        self.short_operation(length, len, &[&target, &source], &target, bytes)
    }

    /// As [`Self::short_copy`], for `memory.fill`.
    pub(super) fn short_fill(&mut self, memory: u32, operands: (Value, Value, Value)) -> Short {
        let (target, value, len) = operands;
        let Some(length) = self.short_length(&[memory], len) else { return Short::No };
        let target = self.short_place(memory, target, len);
        self.short_operation(length, len, &[&target], &target, Source::Byte(value))
    }

    /// How long the operation is, if doing it in place is worth it.
    fn short_length(&mut self, memories: &[u32], len: Value) -> Option<Length> {
        let types = memories.iter().map(|&memory| self.module.memories[MemoryIndex::from_u32(memory)]);
        // What has no vectors of 128 bits leaves all of them to the engine.
        let has_vectors = !matches!(self.architecture(), Architecture::Riscv64(_));
        if self.mode != Mode::Optimized || !has_vectors || types.into_iter().any(|ty| ty.memory64 || ty.shared) {
            return None;
        }
        match self.constant(len) {
            Some(bytes) if bytes <= MAX_CONSTANT_BYTES => Some(Length::Constant(bytes)),
            Some(_) => None,
            None if self.short_sites < MAX_DYNAMIC_SITES => {
                self.short_sites += 1;
                Some(Length::Dynamic)
            }
            None => None,
        }
    }

    fn short_place(&mut self, memory: u32, index: Value, len: Value) -> Place {
        let memory = MemoryIndex::from_u32(memory);
        let (index, len) = (self.widen(index), self.widen(len));
        let flags = self.memory_region(memory).guest(self.builder.func);
        let base = self.memory_base(memory);
        let address = self.builder.ins().iadd(base, index);
        // Both are below 2^32.
        let end = self.builder.ins().iadd(index, len);
        Place { memory, flags, address, end }
    }

    /// Whether any of the places ends beyond its memory, as a truth value.
    fn short_outside(&mut self, places: &[&Place]) -> Value {
        let mut outside = None;
        for place in places {
            let len = self.memory_len(place.memory);
            let one = self.builder.ins().icmp(IntCC::UnsignedGreaterThan, place.end, len);
            outside = Some(match outside {
                Some(other) => self.builder.ins().bor(other, one),
                None => one,
            });
        }
        outside.unwrap_or_else(|| self.builder.ins().iconst(I8, 0))
    }

    fn short_operation(&mut self, length: Length, len: Value, places: &[&Place], target: &Place, source: Source) -> Short {
        let outside = self.short_outside(places);
        match length {
            Length::Constant(bytes) => {
                self.builder.ins().trapnz(outside, trap_code(Trap::MemoryOutOfBounds));
                self.meter_bytes(bytes);
                let pieces: SmallVec<[_; 4]> = pieces(bytes).into_iter().map(|(at, ty)| (None, at, ty)).collect();
                self.write_pieces(&pieces, target, source);
                Short::Done
            }
            Length::Dynamic => Short::OrElse(self.short_dynamic(len, outside, target, source)),
        }
    }

    /// Writes a number of bytes known at run time: two pieces that overlap, of the largest type that fits.
    fn short_dynamic(&mut self, len: Value, outside: Value, target: &Place, source: Source) -> (Block, Block) {
        let [general, done] = [(); 2].map(|()| self.builder.create_block());
        self.builder.set_cold_block(general);
        let ty = self.builder.func.dfg.value_type(len);
        let long = self.builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, len, MAX_DYNAMIC_BYTES as i64);
        let not_short = self.builder.ins().bor(long, outside);
        let short = self.builder.create_block();
        self.builder.ins().brif(not_short, general, &[], short, &[]);
        self.begin_sealed(short);
        let len64 = self.widen(len);
        self.meter_bytes_of(len64);
        for piece in [I8X16, I64, I32] {
            let [fits, less] = [(); 2].map(|()| self.builder.create_block());
            let size = self.builder.ins().iconst(ty, i64::from(piece.bytes()));
            let is_enough = self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, len, size);
            self.builder.ins().brif(is_enough, fits, &[], less, &[]);
            self.begin_sealed(fits);
            let last = self.builder.ins().iadd_imm_s(len64, -i64::from(piece.bytes()));
            self.write_pieces(&[(None, 0, piece), (Some(last), 0, piece)], target, source);
            self.builder.ins().jump(done, &[]);
            self.begin_sealed(less);
        }
        let some = self.builder.create_block();
        self.builder.ins().brif(len, some, &[], done, &[]);
        self.begin_sealed(some);
        // One to three bytes: the first, the one in the middle and the last.
        let middle = self.builder.ins().ushr_imm_u(len64, 1);
        let last = self.builder.ins().iadd_imm_s(len64, -1);
        self.write_pieces(&[(None, 0, I8), (Some(middle), 0, I8), (Some(last), 0, I8)], target, source);
        self.builder.ins().jump(done, &[]);
        (general, done)
    }

    /// Writes pieces at `distance + offset` each. Everything is read before anything is written, as the two may overlap.
    fn write_pieces(&mut self, pieces: &[(Option<Value>, i32, Type)], target: &Place, source: Source) {
        let mut values = SmallVec::<[Value; 4]>::new();
        for &(distance, offset, ty) in pieces {
            values.push(match source {
                Source::Bytes { flags, address } => {
                    let address = distance.map_or(address, |distance| self.builder.ins().iadd(address, distance));
                    self.builder.ins().load(ty, flags, address, offset)
                }
                Source::Byte(value) => self.repeated(value, ty),
            });
        }
        for (&(distance, offset, _), value) in pieces.iter().zip(values) {
            let address = distance.map_or(target.address, |distance| self.builder.ins().iadd(target.address, distance));
            self.builder.ins().store(target.flags, value, address, offset);
        }
    }

    /// The low byte of `value`, in each byte of `ty`.
    fn repeated(&mut self, value: Value, ty: Type) -> Value {
        if ty == I8X16 {
            let byte = self.builder.ins().ireduce(I8, value);
            return self.builder.ins().splat(I8X16, byte);
        }
        if ty == I8 {
            return self.builder.ins().ireduce(I8, value);
        }
        let byte = self.builder.ins().band_imm_u(value, 0xff);
        let byte = self.widen(byte);
        let all = self.builder.ins().imul_imm_u(byte, 0x0101_0101_0101_0101);
        if ty == I64 { all } else { self.builder.ins().ireduce(ty, all) }
    }
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn pieces_cover_every_byte_and_no_other() {
        for len in 0..=64_u64 {
            let mut covered = [false; 64];
            for (at, ty) in pieces(len) {
                let range = at as usize..at as usize + ty.bytes() as usize;
                assert!(range.end as u64 <= len, "{len}: {at} {ty}");
                covered[range].fill(true);
            }
            assert!(covered[..len as usize].iter().all(|&covered| covered), "{len}");
            assert!(pieces(len).len() <= 4, "{len}");
        }
    }
}
